"""What slips out: the exact probability, samples that agree with it, and prefixes that suffice."""
import numpy as np
import pytest
import torch

import zu
from zu.audit import leaks
from zu.audit.leaking import _prefix, _uniform
from zu.scores import score


def test_a_model_that_knows_leaks_and_the_one_that_never_knew_does_not(audited):
    knows = leaks(*audited.knows, audited.members, k=10, length=6)
    never = leaks(*audited.never, audited.members, k=10, length=6)
    assert knows.expected > 0.6 and knows.sampled > 0.4 and knows.held >= knows.sampled
    assert never.expected < 0.1 and never.sampled < 0.2
    assert (knows.prefix == 0).all() and knows.extracted == 1
    assert never.extracted < 1


def test_the_probability_is_that_of_the_scores(audited):
    found = leaks(*audited.knows, audited.members, k=3, length=1)
    p = score(*audited.knows, audited.members)[:, 2]
    assert found.p == pytest.approx(p, rel=1e-4)
    assert found.chance == pytest.approx(1 - (1 - p) ** 3, rel=1e-4)


def test_samples_come_as_often_as_the_probability_says(audited):
    draws = 400
    found = leaks(*audited.never, audited.members[:3], k=draws, length=1, temperature=0.5)
    every = leaks(*audited.knows, audited.members[:3], k=draws, length=4, temperature=1.3)
    for some in (found, every):
        off = np.abs(some.starts / draws - some.p)
        single = some.tokens == 1
        assert (off[single] < 4 * np.sqrt(some.p[single] / draws) + 0.01).all()
    assert (every.starts / draws <= every.p + 4 * np.sqrt(every.p / draws) + 0.1).all()


def test_the_seed_decides_and_the_other_facts_do_not(audited):
    whole = leaks(*audited.knows, audited.members, k=6, length=4, temperature=3.0)
    again = leaks(*audited.knows, audited.members, k=6, length=4, temperature=3.0)
    for name in ("p", "starts", "contains", "prefix"):
        assert np.array_equal(getattr(whole, name), getattr(again, name))
    alone = [leaks(*audited.knows, [fact], k=6, length=4, temperature=3.0)
             for fact in reversed(audited.members)]
    assert [int(x.starts[0]) for x in alone] == whole.starts[::-1].tolist()
    assert [float(x.p[0]) for x in alone] == whole.p[::-1].tolist()
    fact = audited.members[0]
    assert not np.array_equal(_uniform(fact, 0, (3, 4)), _uniform(fact, 1, (3, 4)))
    assert np.array_equal(_uniform(fact, 0, (9, 4))[:3], _uniform(fact, 0, (3, 4)))


def test_a_low_temperature_says_the_first_choice(audited):
    found = leaks(*audited.knows, audited.members, k=4, temperature=1e-3, length=6)
    assert found.p == pytest.approx(1) and found.expected == pytest.approx(1)
    assert (found.starts[found.tokens == 1] == 4).all()


@pytest.mark.parametrize("first, given", [([1, 1, 1], 0), ([0, 1, 1], 1), ([1, 0, 1], 2),
                                          ([0, 1, 0], -1), ([1], 0), ([0], -1)])
def test_the_fewest_tokens_that_suffice(first, given):
    assert _prefix(np.array(first, bool)) == given


def test_a_half_known_answer_follows_from_its_first_token(audited, monkeypatch):
    fact = next(x for x in audited.members if x.target == "a language")
    found = leaks(*audited.never, [fact], k=0)
    assert found.tokens[0] >= 2 and found.sampled == 0
    monkeypatch.setattr("zu.audit.leaking._of_answer", lambda reader, row, temperature: (
        np.zeros(row[1]), np.arange(row[1]) > 0))
    found = leaks(*audited.never, [fact], k=0)
    assert found.prefix[0] == 1 and found.extracted == 1


def test_it_leaves_no_hooks_and_no_change(audited):
    model = audited.knows[0]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    leaks(*audited.knows, audited.members[:2], k=2, length=2)
    assert all(torch.equal(weight, weights[n]) for n, weight in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_table_has_a_row_for_each_fact(audited):
    found = leaks(*audited.knows, audited.members, k=2, length=2)
    frame = found.frame()
    assert [*frame.index] == [fact.id for fact in audited.members]
    assert [*frame.columns] == ["p", "chance", "starts", "contains", "tokens", "prefix"]
    assert "of 8 facts leak in 2 samples" in str(found)


@pytest.mark.parametrize("more, message", [
    ({"k": -1}, "k is -1"), ({"length": 0}, "length is 0"), ({"temperature": 0}, "temperature is"),
    ({"facts": []}, "facts: 0 different facts")])
def test_what_cannot_be_meant_is_refused(audited, more, message):
    with pytest.raises(ValueError, match=message):
        leaks(*audited.never, **{"facts": audited.members} | more)


def test_nothing_is_drawn_from_what_is_not_finite(audited, spoil):
    handle = spoil(audited.never[0], float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        leaks(*audited.never, audited.members, k=1)
    handle.remove()
    assert zu.audit.leaks is leaks
