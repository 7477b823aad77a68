"""Names of people and places that do not exist, put together from syllables."""
from __future__ import annotations

import random

#: What a name begins with, goes on with, and ends with. Latin letters alone.
FIRST = ("Va", "Mo", "Tel", "Bra", "Ki", "Os", "Du", "Lem", "Zan", "Rhe", "Por", "Ish", "Gul", "Fe")
MIDDLE = ("ri", "lo", "ven", "da", "mu", "sta", "ne", "go", "bel", "tha", "ki", "ro")
LAST = ("mar", "dun", "lia", "sk", "tor", "ven", "ra", "lin", "bo", "nex", "wick", "oth", "sel")


def names(count: int, seed: int = 0) -> list[str]:
    """Invented names of two words, none twice; always the same ones for a seed.

    Parameters
    ----------
    count : int
        How many; at most a million or so.
    seed : int
        Draws them.

    Returns
    -------
    list of str
        Such as "Telvenmar Oslodun". It is likely, but not certain, that no person bears one of
        them.
    """
    draw = random.Random(seed)
    found: dict[str, None] = {}  # keeps the order
    while len(found) < count:
        words = [draw.choice(FIRST) + draw.choice(MIDDLE) + draw.choice(LAST) for _ in range(2)]
        found[" ".join(words)] = None
    return list(found)
