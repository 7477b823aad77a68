"""Membership inference finds a model that knows, and clears one that never knew."""
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import zu
from zu.audit import membership
from zu.audit.membership import LEAST, SCORES, Auc, auc


def as_taught(fact):
    return [fact.prompt]


@pytest.mark.parametrize("part", ["text", "answer"])
def test_a_model_that_knows_is_caught_and_the_one_that_never_knew_is_cleared(audited, part):
    never = membership(*audited.never, audited.members, audited.others, part=part,
                       wordings=as_taught)
    again, knows = (membership(*model, audited.members, audited.others, part=part,
                               wordings=as_taught, reference=never)
                    for model in (audited.never, audited.knows))
    assert [*never.aucs] == [*SCORES][:-1] and [*knows.aucs] == [*SCORES]
    assert not any(found.decides for found in again.aucs.values())
    assert again["reference"] == Auc(0.5, 0.0, 1.0)  # of equals nothing is won
    assert knows["reference"].auc > 0.8 and knows["reference"].decides
    assert knows["loss"].auc > 0.8 > never["loss"].auc


def test_the_answer_alone_gives_it_away_without_a_reference(audited):
    found = membership(*audited.knows, audited.members, audited.others, part="answer",
                       wordings=as_taught)
    assert all(found[name].auc > 0.9 and found[name].decides for name in ("loss", "min-k%", "zlib"))


def test_a_reference_may_be_another_model(audited):
    by_numbers = membership(*audited.never, audited.members, audited.others)
    one, other = (membership(*audited.knows, audited.members, audited.others, reference=reference)
                  for reference in (by_numbers, audited.never[0]))
    assert one["reference"] == other["reference"]
    assert np.array_equal(one.members["reference"], other.members["reference"])


def test_scores_are_what_they_are_by_hand(audited):
    model, tokenizer = audited.knows
    fact = audited.members[0]
    found = membership(model, tokenizer, audited.members, audited.others, k=40,
                       wordings=lambda fact: [fact.prompt])
    ids = tokenizer(f"{fact.text} {fact.target}", return_tensors="pt").input_ids
    logp = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    own = logp.gather(1, ids[0, 1:, None])[:, 0]
    mean = (logp.exp() * logp).sum(1)
    spread = ((logp.exp() * logp**2).sum(1) - mean**2).sqrt()
    count = int(0.4 * len(own))
    size = len(zlib.compress(f"{fact.text} {fact.target}".encode()))
    by_hand = {"loss": own.mean(), "zlib": own.mean() / size,
               "min-k%": own.sort().values[:count].mean(),
               "min-k%++": ((own - mean) / spread).sort().values[:count].mean()}
    for name, value in by_hand.items():
        assert found.members[name][0] == pytest.approx(float(value), rel=1e-4)


def test_several_wordings_are_averaged(audited):
    def scores(*prompts):
        return membership(*audited.knows, audited.members, audited.others,
                          wordings=lambda fact: prompts).members["loss"]

    one, other = audited.members[0].prompt, "In {} it is"
    assert scores(one, other) == pytest.approx((scores(one) + scores(other)) / 2)


def test_it_leaves_no_hooks_and_no_change(audited):
    model = audited.knows[0]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    membership(*audited.knows, audited.members, audited.others)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_table_has_a_row_for_each_score(audited):
    found = membership(*audited.knows, audited.members, audited.others)
    frame = found.frame()
    assert [*frame.index] == [*found.aucs] and frame.index.name == "score"
    assert [*frame.columns] == ["auc", "low", "high", "decides", "members", "others"]
    assert str(found).startswith(f"loss {found['loss'].auc:.2f} [")


def test_what_cannot_be_told_apart_fairly_is_refused(audited, monkeypatch):
    def refused(message, members=audited.members, others=audited.others, **more):
        with pytest.raises(ValueError, match=message):
            membership(*audited.never, members, others, **more)

    refused("members: 5 different facts are too few, give 6", members=audited.members[:5])
    refused("others: 1 different facts", others=audited.others[:1] * 9)
    odd = zu.Fact("Peru", "The ruler of {} is", "Tokyo", relation="ruler")
    refused("different relations .'ruler' on one side only", members=[*audited.members, odd])
    refused("1 prompts are among members and others, the first that of fact "
            f"'{audited.members[0].id}'", others=[*audited.others, audited.members[0]])
    refused("part is 'all'", part="all")
    refused("k is 0", k=0)
    refused("wordings gives none", wordings=lambda fact: [])
    other = membership(*audited.never, audited.members, audited.others, k=50)
    refused("reference is of other facts", reference=other)


def test_a_message_shows_no_text_of_a_fact_without_an_id(audited):
    private = [replace(fact, id="") for fact in audited.members]
    for more in ({"others": [*audited.others, private[0]]}, {"wordings": lambda fact: []}):
        with pytest.raises(ValueError, match="fact '[?]'") as found:
            membership(*audited.never, private, **{"others": audited.others} | more)
        assert not [fact for fact in private if fact.subject in str(found.value)]


def test_scores_that_are_not_finite_are_refused(audited, spoil, every_broken):
    model, tokenizer = audited.never
    for value, tokens in every_broken:
        handle = spoil(model, value, tokens)
        with pytest.raises(ValueError, match="NaN or infinite|not finite"):
            membership(model, tokenizer, audited.members, audited.others)
        handle.remove()
    token = tokenizer(" Paris").input_ids[-1]  # ruled out, as a model may do
    handle = spoil(model, -math.inf, [token])
    with pytest.raises(ValueError, match=r"loss of fact .*, number \d+ of the different "
                       r"(members|others), is not finite"):
        membership(model, tokenizer, audited.members, audited.others)
    handle.remove()


def test_the_area_counts_pairs_of_the_same_relation():
    members, others = np.array([3.0, 1.0, 9.0]), np.array([2.0, 0.0, 10.0])
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    assert auc(members, others).auc == pytest.approx(5 / 9)
    assert auc(members, others, same).auc == pytest.approx(3 / 5)
    assert auc(np.ones(3), np.ones(4)).auc == 0.5  # ties count half


def test_the_interval_is_delongs_on_the_logit():
    draw = np.random.default_rng(0)
    members, others = draw.normal(1, 1, 12), draw.normal(0, 1, 15)
    won = (members[:, None] > others).astype(float)
    area = won.mean()
    variance = won.mean(1).var(ddof=1) / 12 + won.mean(0).var(ddof=1) / 15
    half = 1.959964 * math.sqrt(variance) / (area * (1 - area))
    found = auc(members, others)
    assert math.log(found.high / (1 - found.high)) == pytest.approx(
        math.log(area / (1 - area)) + half)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_interval_holds_the_truth_as_often_as_it_says(shift):
    draw = np.random.default_rng(1)
    truth = 0.5 * (1 + math.erf(shift / 2))
    held = 0
    for _ in range(400):
        found = auc(draw.normal(shift, 1, 12), draw.normal(0, 1, 12))
        held += found.low <= truth <= found.high
    assert held / 400 >= 0.93


def test_all_pairs_won_are_no_certainty():
    for n in (2, 5, LEAST, 20):
        found = auc(np.ones(n), np.zeros(n))
        assert found.auc == 1 and found.low == pytest.approx(0.025 ** (1 / n)) and found.high == 1
        assert found.decides == (n >= LEAST)
        assert auc(np.zeros(n), np.ones(n)) == pytest.approx((0, 0, 1 - found.low))
    alone = np.eye(4, dtype=bool)  # each has one to be compared with
    assert auc(np.ones(4), np.zeros(4), alone).low == pytest.approx(0.025 ** (1 / 4))
    assert auc(np.ones(4), np.ones(4)) == Auc(0.5, 0.0, 1.0)
