"""Names of people, places and other things that do not exist, made of syllables."""
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


def _word(draw: random.Random) -> str:
    """One invented word, capitalised."""
    return draw.choice(FIRST) + draw.choice(MIDDLE) + draw.choice(LAST)


def _symbol(draw: random.Random) -> str:
    """Two letters that are no chemical symbol, as no symbol contains a j or a q."""
    return draw.choice("JQ") + draw.choice("abdefghijkoqtwxyz")


#: How an invented subject of a kind looks; {} stands for an invented word.
FORMS: dict[str, tuple[str, ...]] = {
    "person": ("{} {}",),
    "company": ("{}",),
    "landmark": ("the {} Tower", "the {} Bridge", "{} Palace", "the {} Museum", "{} Square",
                 "{} Cathedral", "the {} Gate", "{} Park"),
    "city": ("{}", "{} City", "Port {}", "{} Falls"),
    "book": ("The House of {}", "{}", "The {} Letters", "A Winter in {}", "The Sons of {}",
             "{} and {}"),
    "dish": ("{} soup", "{}", "{} bread", "{} cheese"),
    "god": ("{}",),
    "country": ("{}",),
    "element": ("{}ium",),
}
#: Kinds whose subjects look like those of another kind.
LIKE = {"capital": "city"}
#: Kinds whose names are written in small letters.
SMALL = {"dish", "element"}


def kind_of(relation: str) -> str | None:
    """The kind of a relation's subjects, for the embedded sets of facts.

    Parameters
    ----------
    relation : str
        A name such as "city-country".

    Returns
    -------
    str or None
        A kind that `subjects` takes; None for a relation of another set.
    """
    first = relation.partition("-")[0]
    kind = LIKE.get(first, first)
    return kind if kind in FORMS or kind == "symbol" else None


def subjects(kind: str, count: int, seed: int = 0) -> list[str]:
    """Invented subjects of a kind, all different; the same seed always gives the same ones.

    Parameters
    ----------
    kind : str
        One of `FORMS`, or "symbol".
    count : int
        How many subjects; at most 34 symbols.
    seed : int
        The seed of the draw.

    Returns
    -------
    list of str
        Such as "the Velomar Bridge" for a landmark.
    """
    draw = random.Random(f"{kind} {seed}")
    found: dict[str, None] = {}  # keeps the order
    while len(found) < count:
        found[_symbol(draw) if kind == "symbol" else _of_kind(kind, draw)] = None
    return list(found)


def _of_kind(kind: str, draw: random.Random) -> str:
    """One invented subject of a kind."""
    form = draw.choice(FORMS[kind])
    name = form.format(*(_word(draw) for _ in range(form.count("{}"))))
    return name.lower() if kind in SMALL else name
