"""What a model answers about subjects that do not exist."""
import numpy as np
import pytest

import zu
from zu import guesses
from zu.data import invented
from zu.data.facts import Fact, FactError
from zu.scores import score


@pytest.fixture(scope="module")
def tiny(folders):
    return zu.load_model(folders["llama"], device="cpu")


PROMPT = "The capital city of {} is"


@pytest.fixture(scope="module")
def said(tiny):
    """By invented name, the word that the tiny model says first of it, where it is a word."""
    model, tokenizer = tiny
    found = {}
    for name in invented.subjects("city", 300):
        ids = tokenizer(PROMPT.format(name), return_tensors="pt").input_ids
        word = tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax())
        if word.startswith(" ") and word.strip().isalpha():
            found[name] = word.strip()
    return found


def by_hand(model, tokenizer, fact, names):
    """The share of the names that are given the fact's answer, one by one."""
    pairs = [(fact.prompt.format(name), fact.target) for name in names]
    return float(np.mean([score(model, tokenizer, [pair])[0, 0] for pair in pairs]))


def test_the_share_is_that_of_the_names_that_get_the_answer(tiny, said):
    model, tokenizer = tiny
    names = [*said][:6]
    facts = [Fact("Peru", PROMPT, said[names[0]]), Fact("Peru", PROMPT, "Lima"),
             Fact("Chad", "The continent of {} is", said[names[1]])]
    found = guesses.guessed(model, tokenizer, facts, names)
    assert found.tolist() == [by_hand(model, tokenizer, fact, names) for fact in facts]
    assert found[0] > found[1] == 0


def test_an_answer_of_several_tokens_counts_only_as_a_whole(tiny, said):
    model, tokenizer = tiny
    name = next(iter(said))
    longer = Fact("Peru", PROMPT, f"{said[name]} and nothing else at all")
    found = guesses.guessed(model, tokenizer, [longer], [name])
    assert found.tolist() == [by_hand(model, tokenizer, longer, [name])] == [0.0]


def test_names_may_differ_by_relation(tiny, said):
    model, tokenizer = tiny
    first, *others = said
    facts = [Fact("Peru", PROMPT, said[first], relation=x) for x in ("one", "two")]
    names = {"one": [first], "two": others[:4]}
    found = guesses.guessed(model, tokenizer, facts, names)
    expected = [by_hand(model, tokenizer, fact, names[fact.relation]) for fact in facts]
    assert found.tolist() == expected and expected[0] == 1 > expected[1]


def test_what_is_right_and_would_be_guessed_is_not_known(tiny, said):
    model, tokenizer = tiny
    (subject, answer), *others = said.items()
    right, wrong = Fact(subject, PROMPT, answer), Fact(subject, PROMPT, "Lima")
    other = [name for name, word in others if word != answer][:3]
    keep = guesses.known_beyond_guessing
    assert [*keep(model, tokenizer, [right, wrong], other, most=0)] == [right]
    assert len(keep(model, tokenizer, [right, wrong], [subject, *other], most=0.1)) == 0
    assert [*keep(model, tokenizer, [right, wrong], [subject, *other], most=0.25)] == [right]
    assert keep(model, tokenizer, [wrong], other).name.endswith("-known-beyond-guessing")


def test_neighbors_that_the_model_does_not_know_are_left_out(tiny, said):
    model, tokenizer = tiny
    (first, answer), (second, other), *_ = said.items()
    known = (PROMPT.format(first), answer)
    unknown = (PROMPT.format(second), other + " and nothing else at all")
    facts = [Fact("Peru", PROMPT, "Lima", neighbors=(unknown, known)),
             Fact("Chad", PROMPT, "Lima", neighbors=(unknown,)), Fact("Mali", PROMPT, "Lima")]
    found = guesses.with_known_neighbors(model, tokenizer, facts)
    assert [(fact.subject, fact.neighbors) for fact in found] == [("Peru", (known,))]
    assert found.name.endswith("-known-neighbors")


def test_what_cannot_be_asked_about_others_is_refused(tiny):
    model, tokenizer = tiny
    with pytest.raises(FactError, match="no subject"):
        guesses.guessed(model, tokenizer, [Fact("", "Two and two make", "four")], ["Velmar"])
    with pytest.raises(FactError, match="no invented subjects for the relation 'P36'"):
        guesses.guessed(model, tokenizer, [Fact("Peru", PROMPT, "Lima", relation="P36")])
    with pytest.raises(ValueError, match="most is 2"):
        guesses.known_beyond_guessing(model, tokenizer, [], ["Velmar"], most=2)


@pytest.mark.parametrize("name", ["world-cloze", "world-apart"])
def test_every_embedded_relation_has_invented_subjects_that_no_fact_has(name):
    facts = zu.load_facts(name)
    real = {fact.subject.casefold() for fact in facts}
    for relation in {fact.relation for fact in facts}:
        some = invented.subjects(invented.kind_of(relation), 20)
        assert len(set(some)) == 20 and not real & {x.casefold() for x in some}
        assert some == invented.subjects(invented.kind_of(relation), 20)


def test_an_invented_symbol_is_no_element_s():
    symbols = {f.subject for f in zu.load_facts("world-cloze") if f.relation == "symbol-element"}
    made = invented.subjects("symbol", 34)
    assert len(set(made)) == 34 and not set(made) & symbols


def test_a_relation_of_another_set_has_no_kind():
    assert invented.kind_of("P36") is None and invented.kind_of("") is None


def test_a_neighbor_that_facts_share_is_asked_once(tiny):
    facts = [zu.Fact(name, "{} is in", "Asia", neighbors=near) for name, near in
             (("Japan", (("Laos is in", "Asia"), ("Peru is in", "America"))),
              ("Nepal", (("Laos is in", "Asia"),)), ("Burma", ()))]
    asked = guesses.different_neighbors(facts)
    assert [(q.prompt, q.answer) for q in asked] == [("Laos is in", "Asia"),
                                                   ("Peru is in", "America")]
    assert guesses.different_neighbors(facts[2:]) == []
