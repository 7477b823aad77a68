"""Relations kept apart: facts of other kinds, on which no setting of any method is chosen.

The settings of this package were chosen on relations of the embedded world (`zu.data.world`), about
countries, cities and elements. What is said of a method should be measured on facts of other kinds
as well, and those must stay out of every choice from then on. These are about people, companies,
landmarks, cities of the United States, books, dishes and gods. Each kind is one of which a small
language model knows something.

The facts are in ``files/apart.json``, with their wordings: for each relation the ``templates`` (the
prompt, then its paraphrases; the target is the very next word) and the ``questions``. Some subjects
belong to two relations. None is in the embedded world.
"""
from __future__ import annotations

import json
from functools import cache

from .facts import Fact
from .world import DATA, Pair, as_cloze, reserve_of

#: The part of each relation that only neighbours are drawn from. Specificity is to be asked about
#: neighbours that the model knows, so there must be enough of them.
RESERVED = 0.25


@cache
def _file() -> dict[str, dict]:
    """What ``files/apart.json`` holds."""
    held: dict[str, dict] = json.loads((DATA / "apart.json").read_text(encoding="utf-8"))
    return held


def triples() -> dict[str, list[Pair]]:
    """All facts, those in reserve included.

    Returns
    -------
    dict of str to list of (str, str)
        By relation, every (subject, target), sorted; a subject has one target.
    """
    return {relation: [(subject, target) for subject, target in pairs]
            for relation, pairs in _file()["facts"].items()}


def cloze() -> list[Fact]:
    """All facts outside the reserve as clozes, with neighbours from the reserve.

    Returns
    -------
    list of Fact
        In a fixed order: the same in every process and on every machine. See `zu.data.world.cloze`.
    """
    facts = []
    for relation, pairs in triples().items():
        kept = reserve_of(relation, pairs, RESERVED)
        templates = _file()["wordings"][relation]["templates"]
        facts += [as_cloze(relation, pair, templates, kept) for pair in pairs if pair not in kept]
    return facts
