"""The relations kept apart: true, of other kinds than the embedded world's, the same for ever."""
from collections import Counter

import pytest

import zu
from zu.data import apart, world

HASH = "84b072e20c032ab007ceca58ae25345d951b27e65a27e8f3a59c67e2238e91b9"
KNOWN = {  # checked by hand: relation, then subject and target
    "person-country": {"Victor Hugo": "France", "Nelson Mandela": "South Africa"},
    "person-occupation": {"Max Planck": "physicist", "Claude Monet": "painter"},
    "company-country": {"Nokia": "Finland", "Toyota": "Japan"},
    "landmark-city": {"the Colosseum": "Rome", "Big Ben": "London"},
    "city-state": {"Dallas": "Texas", "Boulder": "Colorado"},
    "book-author": {"Dracula": "Bram Stoker", "The Trial": "Franz Kafka"},
    "dish-country": {"sushi": "Japan", "paella": "Spain"},
    "god-domain": {"Poseidon": "the sea", "Thor": "thunder"},
}


@pytest.fixture(scope="module")
def facts() -> zu.Facts:
    return zu.load_facts("world-apart")


def test_they_are_the_same_facts_as_ever(facts):
    assert facts.hash == HASH
    assert (facts.name, facts.rule) == ("world-apart", "exact")


def test_facts_that_were_checked_by_hand_are_there():
    held = {relation: dict(pairs) for relation, pairs in apart.triples().items()}
    assert {relation: {s: held[relation][s] for s in some} for relation, some in KNOWN.items()} \
        == KNOWN


def test_no_relation_and_no_subject_is_the_embedded_worlds(facts):
    embedded = zu.load_facts("world-cloze")
    assert not {f.relation for f in facts} & {f.relation for f in embedded}
    assert not {f.subject for f in facts} & {f.subject for f in embedded}


def test_a_relation_gives_a_subject_once_and_no_subject_says_its_answer():
    for relation, pairs in apart.triples().items():
        assert pairs == sorted(pairs), relation
        assert max(Counter(subject for subject, _ in pairs).values()) == 1, relation
        assert not [pair for pair in pairs if pair[1].lower() in pair[0].lower()], relation


def test_no_neighbour_is_ever_a_fact_to_forget(facts):
    prompts = {text for f in facts
               for text in (f.text, *(p.format(f.subject) for p in f.paraphrases))}
    asked = [prompt for f in facts for prompt, _ in f.neighbors]
    assert len(asked) == world.NEIGHBORS * len(facts)
    assert not prompts & set(asked)


def test_every_fact_has_two_other_wordings_and_its_subject_in_each(facts):
    for fact in facts:
        assert fact.prompt.count("{}") == 1 and len(fact.paraphrases) == 2
        assert all(text.count("{}") == 1 for text in fact.paraphrases)


@pytest.mark.whole
def test_the_embedded_model_knows_enough_of_every_kind_to_measure_on():
    model, tokenizer = zu.load_model("smollm2")
    known = Counter(f.relation for f in zu.known(model, tokenizer, zu.load_facts("world-apart")))
    assert set(known) == set(KNOWN) and min(known.values()) >= 20 and known.total() >= 300
