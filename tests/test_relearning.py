"""Taught again by three lessons in two ways: what comes back, and what a fresh model learns."""
import copy

import numpy as np
import pytest
import torch

from zu.audit import Course, Relearned, relearned
from zu.audit.relearning import taught
from zu.batches import collate
from zu.data.facts import FactError
from zu.questions import Question
from zu.reader import Reader
from zu.scores import score

TEXTS = ["The people of Peru speak a language and the city is in the country. "] * 4
COURSE = Course(steps=(1, 2, 4, 8), lr={"all weights": 3e-4, "low rank": 3e-3})


@pytest.fixture(scope="module")
def suppressed(audited, said_alike):
    """The model that knows, with all answers pushed down alike in its last layer: a fake."""
    model, tokenizer = copy.deepcopy(audited.knows[0]), audited.knows[1]
    key, towards = said_alike
    weight = model.model.layers[1].mlp.down_proj.weight
    old = weight.detach().clone()
    for size in np.geomspace(0.01, 100, 60):
        with torch.no_grad():
            weight.copy_(old - float(size) * torch.outer(towards, key))
        if not score(model, tokenizer, audited.members)[:, 0].any():
            break
    return model, tokenizer


@pytest.fixture(scope="module")
def runs(audited, suppressed):
    return [relearned(*asked, audited.members, audited.others, TEXTS, course=COURSE)
            for asked in (suppressed, audited.never)]


def test_a_fake_that_only_pushes_answers_down_is_caught_and_a_fresh_model_is_cleared(runs):
    fake, never = runs
    p = fake.against(never)
    for way in ("all weights", "low rank"):
        assert not fake.right["others", way][0].any()  # silent before any lesson
        assert np.nansum(fake.right["half", way][-1]) >= 2 > np.nansum(never.right["half", way])
        assert np.nansum(fake.right["others", way][-1]) >= 4
        assert p["others", way] <= 2 / 2**4  # four facts or more, and none the other way
    assert p["others", "all weights"] < 0.1
    assert set(never.against(never).values()) == {1.0}


def test_what_is_taught_is_not_asked(runs, audited):
    for found in runs:
        asked = ~np.isnan(found.right["half", "low rank"])
        assert asked.sum(1).tolist() == [4] * 5
        assert not np.isnan(found.right["unrelated", "all weights"]).any()
    assert runs[0].names == tuple(fact.id for fact in audited.members)


def test_the_table_has_a_row_for_each_step_with_its_interval(runs):
    table = runs[0].frame()
    assert len(table) == 3 * 2 * 5
    row = table[(table.way == "low rank") & (table.step == 8)].loc["half"]
    assert row.asked == 4 and row.low < row.right < row.high


@pytest.mark.parametrize("way", ["all weights", "low rank"])
def test_afterwards_the_model_is_what_it_was_also_after_an_error(tiny, facts, way):
    model, tokenizer = tiny
    rows = [Reader(model, tokenizer).wording.answered(Question.of(fact)) for fact in facts[:2]]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    flags = [weight.requires_grad for weight in model.parameters()]
    with pytest.raises(KeyError), taught(model, rows, way, COURSE) as steps:
        says = [model(torch.tensor([rows[0][0]])).logits.clone() for _ in steps]
        assert not any(torch.equal(a, b) for a, b in zip(says, says[1:]))
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())


def test_the_loss_is_that_of_the_answers_by_hand(tiny, facts):
    from zu.audit.relearning import _loss

    model, tokenizer = tiny
    rows = [Reader(model, tokenizer).wording.answered(Question.of(fact)) for fact in facts[:3]]
    by_hand = 0.0
    for ids, count in rows:
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        by_hand -= sum(logp[i - 1, ids[i]] for i in range(len(ids) - count, len(ids))) / count / 3
    assert torch.allclose(_loss(model, collate(rows)), by_hand, rtol=1e-4)


def test_low_rank_additions_start_at_nothing_and_keep_to_their_rank(tiny, facts):
    model, tokenizer = tiny
    rows = [Reader(model, tokenizer).wording.answered(Question.of(fact)) for fact in facts[:2]]
    ids = torch.tensor([rows[0][0]])
    plain = model(ids).logits.clone()
    with taught(model, rows, "low rank", Course(steps=(1,), rank=2)) as steps:
        next(steps)
        assert torch.equal(model(ids).logits, plain)


def test_the_seed_decides(audited):
    first, second = (relearned(*audited.knows, audited.members[:4], ways=["low rank"],
                               course=Course(steps=(1,), seed=3)) for _ in range(2))
    assert np.array_equal(first.right["half", "low rank"], second.right["half", "low rank"],
                          equal_nan=True)
    assert [*first.right] == [("half", "low rank")]  # no others and no texts were given


def test_the_sign_test_compares_fact_by_fact():
    def made(*columns):
        return Relearned(tuple("abcdef"), (0, 1, 2), {
            ("half", "low rank"): np.array([[0] * 6, *columns], float)})

    mine, never = made([0] * 6, [1] * 6), made([0] * 6, [0] * 6)
    assert mine.against(never)["half", "low rank"] == pytest.approx(2 / 2**6)
    assert mine.against(made([1] * 6, [0] * 6))["half", "low rank"] == 1
    with pytest.raises(ValueError, match="differ in facts, steps, lessons or ways"):
        mine.against(Relearned(tuple("abcdef"), (0, 1, 4), never.right))


@pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0, 1)}, {"rank": 0}, {"batch": 0},
                                   {"lr": {"low rank": 1e-3}},
                                   {"lr": {"all weights": 0.0, "low rank": 1.0}}])
def test_a_course_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="a course needs"):
        Course(**wrong)


def test_weights_in_which_steps_are_rounded_away_are_refused_and_low_rank_is_not(audited):
    model, tokenizer = copy.deepcopy(audited.never[0]).bfloat16(), audited.never[1]
    with pytest.raises(ValueError, match="are torch.bfloat16.*or give ways=\\['low rank'\\]"):
        relearned(model, tokenizer, audited.members, course=COURSE)
    found = relearned(model, tokenizer, audited.members, ways=["low rank"], course=COURSE)
    assert found.right["half", "low rank"].shape == (5, 8)


def test_what_cannot_be_taught_is_refused_before_anything_runs(audited):
    with pytest.raises(ValueError, match="way is 'prompts': use all weights or low rank"):
        relearned(*audited.never, audited.members, ways=["prompts"])
    with pytest.raises(FactError, match="facts: 1 different facts are too few"):
        relearned(*audited.never, audited.members[:1])
    with pytest.raises(FactError, match="others: 2 of them are about a forgotten subject"):
        relearned(*audited.never, audited.members, audited.members[:2])
    with pytest.raises(ValueError, match="texts: none has two tokens"):
        relearned(*audited.never, audited.members, texts=["", ""])
    with pytest.raises(ValueError, match="the loss of step . is not finite: give a smaller rate"):
        relearned(*audited.never, audited.members, ways=["all weights"],
                  course=Course(steps=(8,), lr={"all weights": 1e30, "low rank": 1.0}))
