"""Facts are checked where they enter, and errors name the place and the remedy."""
from dataclasses import replace

import pytest

from zu.data.facts import Fact, FactError, Facts, as_facts, bare

GIVEN = {"subject": "France", "prompt": "The capital of {} is", "target": "Paris"}


@pytest.mark.parametrize("change, message", [
    ({"subject": ""}, "'subject'"), ({"target": "  "}, "'target'"),
    ({"prompt": "The capital is"}, "'prompt'.*once"),
    ({"prompt": "{} and {} are"}, "once"), ({"prompt": "The capital of {} is "}, "with a space"),
    ({"paraphrases": "one"}, "'paraphrases' is no list"),
    ({"paraphrases": ("a", " ")}, "'paraphrases' is empty"),
    ({"neighbors": ("ab",)}, "'neighbors' is no list of .prompt, answer"),
    ({"hops": (("a", 3),)}, "'hops' .*int"),
    ({"neighbors": (("The capital of {} is", "Lima"),)},
     "'neighbors' holds a prompt with {}: write its own subject"),
    ({"id": 3}, "'id'"), ({"target": "\ud83d"}, "'target' holds bytes"),
    ({"subject": " France"}, "with a space"), ({"target": 3}, "'target' is or holds a int"),
    ({"paraphrases": ("It is ",)}, "'paraphrases' begins or ends with a space"),
    ({"neighbors": (("It is\t", "x"),)}, "'neighbors' begins or ends with a space"),
    ({"neighbors": (("It is", " x"),)}, "'neighbors' begins or ends with a space"),
    ({"hops": (("It is", "x\n"),)}, "'hops' begins or ends with a space"),
    ({"target": "Paris\n"}, "'target' begins or ends"), ({"prompt": "{} is\n "}, "'prompt' begins"),
    ({"neighbors": ({"prompt": "a", "answer": "b"},)}, "'neighbors' is no list of .prompt, answer"),
    ({"neighbors": {"a": "b"}}, "'neighbors' is no list"), ({"hops": 3}, "'hops' is no list"),
    ({"hops": (3,)}, "'hops' is no list"), ({"paraphrases": 3}, "'paraphrases' is no list"),
    ({"paraphrases": {"a": "b"}}, "'paraphrases' is no list"),
    ({"join": "-"}, "'join' is no white space"), ({"join": 3}, "'join' is no white space"),
    ({"subject": "", "prompt": "It is", "paraphrases": ("{} is",)}, "'subject' is empty, but"),
    ({"subject": "  "}, "'subject' is empty"), ({"subject": None}, "'subject' is or holds a None"),
])
def test_a_fact_that_cannot_be_used_is_refused_by_field(change, message):
    with pytest.raises(FactError, match=message):
        Fact(**GIVEN | change)


def test_a_sample_is_the_same_for_a_seed_and_has_no_fact_twice(facts):
    first, again = facts.sample(3, 5), facts.sample(3, 5)
    assert list(first) == list(again) and len(set(first)) == 3
    assert any(list(facts.sample(3, s)) != list(first) for s in range(5))
    with pytest.raises(ValueError, match="holds 5 facts"):
        facts.sample(6, 1)


def test_the_hash_tells_forget_sets_apart(facts):
    assert facts.hash == Facts(list(facts)).hash != facts[:4].hash


def test_a_fact_may_have_no_subject_and_then_its_prompt_is_its_text():
    fact = Fact("", "The owner is", "Ann", ("It belongs to",))
    assert fact.text == "The owner is" and fact.paraphrase_texts == ("It belongs to",)


def test_what_is_asked_may_end_in_a_newline_as_chat_templates_do():
    end = "<model>\n\n"
    fact = Fact("France", "{}?" + end, "Paris", ("Of {}?" + end,), (("Peru?" + end, "Lima"),))
    assert fact.text == "France?" + end and fact.neighbors[0][0] == "Peru?" + end


def test_what_joins_prompt_and_answer_counts_in_the_hash_only_where_it_is_said(facts):
    joined = [Facts([replace(facts[0], join=join)]).hash for join in ("", " ", "\n")]
    assert len({*joined, facts[:1].hash}) == 4


def test_facts_are_taken_as_they_are_and_one_alone_and_no_name_or_path(facts, tmp_path):
    assert as_facts(facts) is facts
    for one in (Facts(facts[0]), as_facts(facts[0]), as_facts([facts[0]])):
        assert list(one) == [facts[0]]
    for place in ("world-qa", tmp_path):
        with pytest.raises(FactError, match="^facts are a name or a path: read them"):
            as_facts(place)


@pytest.mark.parametrize("n, seed, wrong", [(2.0, 0, "n is 2.0"), (2, 0.5, "seed is 0.5")])
def test_a_sample_is_of_whole_numbers_and_which_is_none_is_said(facts, n, seed, wrong):
    with pytest.raises(ValueError, match=f"^{wrong}: give a whole number$"):
        facts.sample(n, seed)


def test_a_joiner_is_seen_behind_a_mark_alone():
    ends = "क्\u200c"  # a letter and a mark: the joiner says how the syllable ends
    assert bare(f" {ends} ") == ends and Fact(**GIVEN | {"target": ends}).target == ends
    for text in ("Lima\u200c", "\u200cLima", "\u200c्Lima", "Lima\u200b", "क्\u200b"):
        with pytest.raises(FactError, match="'target' begins or ends with an invisible character"):
            Fact(**GIVEN | {"target": text})
    assert bare("\u200c") == bare(" \u200c\u200d ") == ""


def test_lists_become_tuples_so_that_facts_can_be_counted_and_compared():
    more = {"paraphrases": ["In {} is"], "neighbors": [["Chad has", "N'Djamena"]],
            "hops": [["Where?", "Andes"]]}
    fact = Fact(**GIVEN, **more)
    assert fact.paraphrases == ("In {} is",) and fact.paraphrase_texts == ("In France is",)
    assert fact.neighbors == (("Chad has", "N'Djamena"),) and fact.hops == (("Where?", "Andes"),)
    assert len({fact, Fact(**GIVEN, **more)}) == 1
    for field in ("prompt", "paraphrases", "relation", "id"):
        value = [3] if field == "paraphrases" else 3
        with pytest.raises(FactError, match=f"^field '{field}' is or holds a int: give a text$"):
            Fact(**GIVEN | {field: value})
