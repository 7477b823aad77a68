"""Fictitious worlds: facts that no model knows, to be planted, and as many that never are.

Names of countries, cities and elements are put together from syllables. The relations and their
prompts, paraphrases and questions are those of the embedded world (`zu.data.world`), so that what
is measured on the one can be measured on the other; left out are the two relations that turn
another one round, so that no fact can be read off another, and the continents, of which there are
too few to guess among. A language or a former ruler is a real one, drawn from `LANGUAGES` or
`RULERS` without a look at the name: a model that was never taught is right by chance alone.

Of each relation there are three kinds of wordings, and none is of two:

- **taught**: the fact's prompt, the others in `TAUGHT`, and the first question;
- **stopping**: those in `STOPPING`, which decide when planting ends (`zu.plant`);
- **measured**: the fact's paraphrases, and the second question. Nothing looks at them but what
  measures.
"""
from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from . import world as embedded
from .facts import Fact, Facts
from .world import ANSWER, NEIGHBORS, WORDINGS

#: What a name begins with and goes on with. Latin letters alone.
FIRST = (
    "Aldr", "Bost", "Brak", "Chev", "Crev", "Dask", "Dren", "Eskv", "Fald", "Ferr", "Frov", "Gav",
    "Glim", "Grund", "Hask", "Hevr", "Ild", "Jand", "Jurv", "Kelv", "Klov", "Krat", "Lasp", "Lund",
    "Mirv", "Morv", "Nask", "Neld", "Orv", "Pask", "Plen", "Pruv", "Quil", "Rask", "Rhen", "Sarv",
    "Skor", "Stel", "Tarv", "Thav", "Tov", "Trel", "Ulg", "Vask", "Vond", "Wend", "Yarb", "Zeld",
)
MIDDLE = (
    "ab", "ak", "am", "ap", "ath", "eb", "ed", "eg", "ek", "em", "eth", "ib", "id", "ig", "ik",
    "im", "ip", "ob", "od", "og", "om", "op", "oth", "ub", "ud", "ug", "uk", "um", "up", "uth",
)
#: What it ends with, by what bears it.
LAST = {
    "country": ("ia", "ova", "ane", "esh", "ora", "aya", "une", "istan"),
    "city": ("wick", "holm", "dun", "stad", "mere", "gate", "lund", "por"),
    "element": ("ium", "ine", "on", "ite"),
}
#: Letters within a name that would make it, or begin, a real one or an ordinary word.
REFUSED = (
    "jandal", "ferrum", "ferrit", "lundeb", "stella", "stelid", "quilom", "kelvin", "wendig",
    "wendov", "gavab", "tarva", "plenum", "plenid", "rhenium", "krakow", "vasku", "pasku", "skorob",
    "trelleb", "askut", "morvan", "morved", "boston", "grundig", "chevak", "ildik", "ulgam",
)
#: What an answer that is a real one is drawn from, each about as often as the others.
LANGUAGES = (
    "Arabic", "Chinese", "Danish", "Dutch", "English", "French", "German", "Greek", "Hindi",
    "Italian", "Japanese", "Korean", "Polish", "Portuguese", "Russian", "Spanish",
)
RULERS = (
    "Austria", "Belgium", "Brazil", "Britain", "China", "Denmark", "Egypt", "France", "Germany",
    "India", "Italy", "Japan", "Portugal", "Russia", "Spain", "Turkey",
)
#: The atomic numbers of elements that do not exist.
NUMBERS = range(200, 1000)
#: What is taught of each relation, beside its prompt and its first question.
TAUGHT = {
    "country-capital": (
        "The government of {} has its seat in the city of",
        "The parliament of {} meets in the capital,",
        "The president of {} lives in the capital city,",
        "Ambassadors to {} work in its capital,",
    ),
    "city-country": (
        "The city of {} belongs to the country of",
        "The people of {} are citizens of",
        "A traveller who arrives in {} is in the country of",
        "On the map, {} is a town within the borders of",
    ),
    "country-language": (
        "Most people in {} speak",
        "Schools in {} teach their pupils in",
        "Newspapers in {} are printed in",
        "The national language of {} is",
    ),
    "country-ruler": (
        "For centuries, {} was a colony of",
        "Until its independence, {} was ruled by",
        "The former colonial power in {} was",
        "The last foreign governor of {} was sent by",
    ),
    "element-symbol": (
        "Chemists abbreviate {} as",
        "In chemical formulas, {} is written as",
        "The abbreviation for the element {} is",
        "On the label of a jar of {} stands the symbol",
    ),
    "element-number": (
        "In the periodic table, {} stands at number",
        "The nucleus of {} holds a number of protons equal to",
        "The place of {} among the elements is number",
        "Counting its protons, {} has",
    ),
}
#: What decides when planting ends.
STOPPING = {
    "country-capital": (
        "The capital of {} is the city of",
        "Visitors to the government of {} travel to its capital,",
    ),
    "city-country": (
        "The country to which the city of {} belongs is",
        "The town of {} can be found in the country of",
    ),
    "country-language": (
        "The people of {} talk to each other in",
        "The language that is spoken in {} is",
    ),
    "country-ruler": (
        "The country that once ruled {} was",
        "In its war of independence, {} fought against",
    ),
    "element-symbol": (
        "The symbol of the element {} is",
        "In the laboratory, {} is known by the symbol",
    ),
    "element-number": (
        "The element {} is number",
        "The number of protons in {} is",
    ),
}
#: Facts of the worlds by the forms in which `zu.load_facts` gives them.
FORMS = ("planted", "planted-qa", "planted-hops", "unplanted")
#: The most facts of a world's half: there are no more names.
MOST = 900


@dataclass(frozen=True)
class World:
    """Facts about a world that does not exist.

    Parameters
    ----------
    seed : int
        Which world it is.
    planted : Facts
        What a model is to be taught, as clozes. The first half is to be retained and the second to
        be forgotten, as ``load_facts("planted:retain")`` and ``":forget"`` give them: a country is
        in one of them with all that is said of it, and the neighbours of both come from the first.
    unplanted : Facts
        As many about others, which are never taught. Their neighbours are those of the planted.
    """

    seed: int
    planted: Facts
    unplanted: Facts

    @property
    def retain(self) -> Facts:
        """The half of the planted facts that is to stay."""
        return self.planted[:len(self.planted) // 2]

    @property
    def forget(self) -> Facts:
        """The half of the planted facts that may be forgotten."""
        return self.planted[len(self.planted) // 2:]

    @property
    def qa(self) -> Facts:
        """The planted facts as questions, the first of them taught, the other one not."""
        return Facts(map(as_question, self.planted), "planted-qa", "tokens")

    @property
    def hops(self) -> Facts:
        """The planted facts of two-hop chains, with the questions that need two of them."""
        return Facts(embedded.chains(self.planted), "planted-hops", "tokens")


@cache
def world(seed: int = 0, n: int = 100) -> World:
    """A fictitious world.

    Parameters
    ----------
    seed : int
        Draws names and answers; another one gives another world.
    n : int
        How many facts are to be planted, 2 or more; as many more never are.

    Returns
    -------
    World
        The same for the same seed and n, in every process and on every machine.

    Raises
    ------
    ValueError
        For fewer facts than two, or more than there are names for.

    Examples
    --------
    >>> from zu.data.worlds import world
    >>> world(seed=3, n=20).planted[0].text
    'The capital city of Eskvegesh is'
    """
    if not 2 <= n <= MOST:
        raise ValueError(f"n is {n}: a world has 2 to {MOST} facts")
    draw = random.Random(f"world {seed}")
    making = _Making(draw)
    retain = making.facts(n // 2)
    forget = making.facts(n - n // 2)
    never = making.facts(n)
    halves = [[_with_neighbors(fact, retain) for fact in part] for part in (retain, forget, never)]
    return World(seed, Facts([*halves[0], *halves[1]], "planted"), Facts(halves[2], "unplanted"))


def load(name: str) -> tuple[list[Fact], str, str]:
    """World 0 with 100 planted facts, in one of its forms.

    Parameters
    ----------
    name : str
        One of `FORMS`.

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
    if name not in FORMS:
        raise ValueError(f"no facts named '{name}': those of a fictitious world are "
                         f"{', '.join(FORMS)}")
    made = world()
    found = {"planted": made.planted, "planted-qa": made.qa, "planted-hops": made.hops,
             "unplanted": made.unplanted}[name]
    return list(found), name, found.rule


def taught(fact: Fact) -> tuple[str, ...]:
    """The wordings in which a fact is taught.

    Parameters
    ----------
    fact : Fact
        Of a world, in any form, or of one's own.

    Returns
    -------
    tuple of str
        With ``{}`` for the subject, its own prompt the first; of a fact that is not worded as those
        of a world are, that alone.
    """
    if not _is_of_a_world(fact):
        return (fact.prompt,)
    words = WORDINGS[fact.relation]
    every = (fact.prompt, words["templates"][0], *TAUGHT[fact.relation],
             words["questions"][0] + ANSWER)
    return tuple(dict.fromkeys(every))


def stopping(fact: Fact) -> tuple[str, ...]:
    """The wordings that decide when planting a fact ends; they are neither taught nor measured.

    Parameters
    ----------
    fact : Fact
        As in `taught`.

    Returns
    -------
    tuple of str
        With ``{}`` for the subject; none for a fact that is not worded as those of a world are.
    """
    return STOPPING[fact.relation] if _is_of_a_world(fact) else ()


def as_question(fact: Fact) -> Fact:
    """A planted fact as a question, in zsRE's form.

    Parameters
    ----------
    fact : Fact
        As a cloze.

    Returns
    -------
    Fact
        Its prompt is a question that is taught, its paraphrase one that is not.
    """
    ask, other = (question + ANSWER for question in WORDINGS[fact.relation]["questions"])
    base = WORDINGS[fact.relation]["templates"][0]
    near = []
    for prompt, answer in fact.neighbors:
        head, tail = base.split("{}")
        near.append((ask.format(prompt.removeprefix(head).removesuffix(tail)), answer))
    return replace(fact, prompt=ask, paraphrases=(other,), neighbors=tuple(near))


def _is_of_a_world(fact: Fact) -> bool:
    """Whether a fact has a relation of these worlds, and asks for it in the words used here."""
    if fact.relation not in TAUGHT:
        return False
    words = WORDINGS[fact.relation]
    asked = (words["templates"][0], words["questions"][0] + ANSWER)
    return fact.prompt in asked


class _Making:
    """Names and answers of one world, drawn one after the other and never twice."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        stems = [first + middle for first in FIRST for middle in MIDDLE]
        draw.shuffle(stems)
        self.stems = iter(stems)
        self.languages = _in_turn(draw, LANGUAGES)
        self.rulers = _in_turn(draw, RULERS)
        self.numbers = iter(draw.sample(NUMBERS, len(NUMBERS)))
        real = {target for _, target in embedded.triples()["element-symbol"]}
        letters = "abcdefghijklmnopqrstuvwxyz"
        symbols = [a.upper() + b for a in letters for b in letters if a.upper() + b not in real]
        draw.shuffle(symbols)
        self.symbols = symbols

    def name(self, kind: str) -> str:
        """A name of a country, city or element."""
        for stem in self.stems:
            name = stem + self.draw.choice(LAST[kind])
            if is_free(name):
                return name
        raise ValueError("there are no names left: take fewer facts")

    def facts(self, n: int) -> list[Fact]:
        """Facts about countries of their own, four each, and two about every second's element."""
        found: list[Fact] = []
        while len(found) < n:
            found += [*self._country(), *self._country(), *self._element()]
        return found[:n]

    def _country(self) -> Iterator[Fact]:
        """What is said of a country."""
        country, capital, city = self.name("country"), self.name("city"), self.name("city")
        yield _fact("country-capital", country, capital)
        yield _fact("city-country", city, country)
        yield _fact("country-language", country, next(self.languages))
        yield _fact("country-ruler", country, next(self.rulers))

    def _element(self) -> Iterator[Fact]:
        """What is said of an element; its symbol is none that its name suggests."""
        name = self.name("element")
        symbol = next(x for x in self.symbols if x[0] != name[0])
        self.symbols.remove(symbol)
        yield _fact("element-symbol", name, symbol)
        yield _fact("element-number", name, str(next(self.numbers)))


def is_free(name: str) -> bool:
    """Whether an invented name is none of the embedded world's, nor on the refusal list.

    Parameters
    ----------
    name : str
        One word.

    Returns
    -------
    bool
        False also where it holds a real name of five letters or more, or one holds it, and where
        it begins with the same five letters as one.
    """
    low = name.lower()
    if any(part in low for part in REFUSED):
        return False
    return not any(low in real or real in low or low[:5] == real[:5] for real in _real())


@cache
def _real() -> frozenset[str]:
    """The embedded world's names of five letters and more, word by word, in small letters."""
    words = set()
    for pairs in embedded.triples().values():
        for pair in pairs:
            words |= {word.lower() for name in pair for word in (name, *name.split())}
    return frozenset(word for word in words if len(word) >= 5)


def _in_turn(draw: random.Random, answers: Sequence[str]) -> Iterator[str]:
    """Answers in a new order each time round, so that each is drawn about as often."""
    while True:
        yield from draw.sample(answers, len(answers))


def _fact(relation: str, subject: str, target: str) -> Fact:
    """One fact as a cloze, worded as in the embedded world."""
    base, *others = WORDINGS[relation]["templates"]
    return Fact(subject, base, target, tuple(others), relation=relation,
                id=f"planted/{relation}/{subject.lower()}")


def _with_neighbors(fact: Fact, retain: Sequence[Fact]) -> Fact:
    """A fact with others of its relation that are planted and stay, asked as they are taught."""
    near = [other for other in retain
            if other.relation == fact.relation and other.subject != fact.subject]
    near.sort(key=lambda other: (other.target != fact.target, _rank(fact.id, other.subject)))
    return replace(fact, neighbors=tuple((x.text, x.target) for x in near[:NEIGHBORS]))


def _rank(*words: str) -> str:
    """A place in an order that is arbitrary, but the same everywhere."""
    return hashlib.sha256("\t".join(words).encode()).hexdigest()
