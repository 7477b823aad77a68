"""Names of people and places that do not exist, made of syllables."""
from __future__ import annotations

import random

#: Beginnings, middles and endings of names, in Latin letters only.
FIRST = ("Va", "Mo", "Tel", "Bra", "Ki", "Os", "Du", "Lem", "Zan", "Rhe", "Por", "Ish", "Gul", "Fe")
MIDDLE = ("ri", "lo", "ven", "da", "mu", "sta", "ne", "go", "bel", "tha", "ki", "ro")
LAST = ("mar", "dun", "lia", "sk", "tor", "ven", "ra", "lin", "bo", "nex", "wick", "oth", "sel")


def names(count: int, seed: int = 0) -> list[str]:
    """Invented names of two words, all different; the same seed always gives the same names.

    Parameters
    ----------
    count : int
        How many names; at most about a million.
    seed : int
        The seed of the draw.

    Returns
    -------
    list of str
        Names such as "Telvenmar Oslodun". Probably, but not certainly, nobody bears one of them.
    """
    draw = random.Random(seed)
    found: dict[str, None] = {}  # keeps the order
    while len(found) < count:
        words = [draw.choice(FIRST) + draw.choice(MIDDLE) + draw.choice(LAST) for _ in range(2)]
        found[" ".join(words)] = None
    return list(found)
