"""Collect facts, each once, and the warnings about a file's rows."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from .facts import Fact, FactError, Facts
from .fields import Row
from .schemas import NOTES
from .words import stands_in

#: How many chains a hop is asked through.
CHAINS = 3
#: A row's place, and a function that makes its facts or raises `FactError`.
Making = tuple[str, Callable[[], list[Fact]]]


@dataclass
class Told:
    """The warnings about rows that were read, with the number of rows of each kind."""

    notes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Count a row that was read."""
        self.notes.update(NOTES[key] for key in row.notes)
        self.unread.update(row.unread())

    def messages(self) -> list[str]:
        """One sentence per kind of warning, and one about all fields that are not read."""
        found = [text.format(_rows(count)) for text, count in sorted(self.notes.items())]
        named = sorted(item for item in self.unread.items() if item[0])
        fields = [f"'{name}' in {_rows(count)}" for name, count in named]
        if self.unread[""]:
            fields.append(f"others, with names that zu does not know, in {_rows(self.unread[''])}")
        if fields:
            found.append("fields that may hold wordings, neighbours or questions that follow from "
                         f"the facts are not read: {', '.join(fields)}; see zu.load_facts")
        return found


def _rows(count: int) -> str:
    """A number of rows, in words."""
    return "1 row" if count == 1 else f"{count} rows"


class Collection:
    """A collection of facts that do not repeat or contradict each other.

    With `merge`, a fact that repeats an earlier one adds its hops to that one.
    """

    def __init__(self, merge: bool) -> None:
        self.merge = merge
        self.found: dict[tuple[str, str], Fact] = {}  # by subject and prompt
        self.places: dict[tuple[str, str], str] = {}  # of these
        self.ids: dict[str, str] = {}  # with the places of their facts

    def add(self, where: str, fact: Fact) -> None:
        """Add a fact from a place, or raise `FactError`."""
        key = fact.subject, fact.prompt
        if key in self.found:
            self._meet(key, fact)
            return
        if fact.id and fact.id in self.ids:
            there = short(self.ids[fact.id])
            raise FactError(f"field 'id' is that of {there}: give each fact its own")
        self.found[key] = fact
        self.places[key] = self.ids[fact.id] = where

    def _meet(self, key: tuple[str, str], fact: Fact) -> None:
        """Merge a fact with the earlier one of the same subject and prompt, or raise `FactError`.
        """
        old, there = self.found[key], short(self.places[key])
        if old.target != fact.target:
            raise FactError(f"field 'target' contradicts {there}, which has the same subject and "
                            "prompt: keep one")
        if not self.merge:
            raise FactError(f"the same fact as {there}: keep one")
        hops = tuple(dict.fromkeys(old.hops + fact.hops))[:CHAINS]
        self.found[key] = replace(old, hops=hops)


def short(where: str) -> str:
    """A place without its file, such as "row 3"."""
    return where.rsplit(", ", 1)[-1]


def collect(
    rows: Iterable[Making], name: str, rule: str, skip: bool, merge: bool
) -> tuple[Facts, list[str]]:
    """Collect the facts of some rows, refusing repeated, contradictory and unusable ones.

    Parameters
    ----------
    rows : iterable of Making
        Each row's place, and a function that makes its facts.
    name, rule : str
        The name and the scoring rule of the facts.
    skip : bool
        Whether to leave out a row that cannot be used; otherwise it is an error.
    merge : bool
        Whether a fact that repeats another adds its hops to that one.

    Returns
    -------
    facts : Facts
        At least one fact.
    warnings : list of str
        Warnings about rows that were left out and about odd paraphrases.

    Raises
    ------
    FactError
        If a row cannot be used and `skip` is off, or if no row can be used. The message begins with
        the row's place.
    """
    collection = Collection(merge)
    skipped, number = [], 0
    for number, (where, make) in enumerate(rows, 1):  # noqa: B007
        try:
            for fact in make():
                collection.add(where, fact)
        except FactError as error:
            if not skip:
                raise type(error)(f"{where}: {error}") from None
            skipped.append(f"{where}: {error}")
    found = collection.found.values()
    if skipped and not found:
        raise FactError(f"none of the {number} rows can be used; the first: {skipped[0]}")
    if not found:
        raise FactError(f"'{name}' holds no facts: give at least one")
    told = []
    if skipped:
        told.append(f"{len(skipped)} of {number} rows left out; Facts.skipped says why")
    facts = Facts(found, name, rule, skipped)
    odd = sum(map(_has_odd_paraphrase, facts))
    if odd:
        told.append(f"{odd} of {len(facts)} facts have a paraphrase that holds neither the subject "
                    "nor {}: it is asked as it is")
    return facts, told


def _has_odd_paraphrase(fact: Fact) -> bool:
    """Whether a fact has a subject that is missing from one of its paraphrases."""
    return bool(fact.subject) and not all(
        "{}" in text or stands_in(text, fact.subject) for text in fact.paraphrases)
