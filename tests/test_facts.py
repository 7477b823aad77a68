"""Facts are checked where they enter, and errors name the place and the remedy."""
import pytest

from zu.data.facts import Fact, FactError, Facts


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
])
def test_a_fact_that_cannot_be_used_is_refused_by_field(change, message):
    with pytest.raises(FactError, match=message):
        Fact(**{"subject": "France", "prompt": "The capital of {} is", "target": "Paris"} | change)


def test_a_sample_is_the_same_for_a_seed_and_has_no_fact_twice(facts):
    first, again = facts.sample(3, 5), facts.sample(3, 5)
    assert list(first) == list(again) and len(set(first)) == 3
    assert any(list(facts.sample(3, s)) != list(first) for s in range(5))
    with pytest.raises(ValueError, match="holds 5 facts"):
        facts.sample(6, 1)


def test_the_hash_tells_forget_sets_apart(facts):
    assert facts.hash == Facts(list(facts)).hash != facts[:4].hash
