"""Against the model that never knew: nothing differs from itself, and a model that knows does."""
import copy

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, wilcoxon

import zu
from zu.audit import Before
from zu.audit.quality import PERTURBED, p_values


@pytest.fixture(scope="module")
def before(audited):
    return Before.of(*audited.never, audited.members)


def test_the_model_that_never_knew_is_cleared(audited, before):
    found = before.compare(audited.never[0])
    assert (found.kl == 0).all() and (found.distance == 0).all()
    assert (found.rank == found.rank_before).all() and (found.ratio == found.ratio_before).all()
    assert found.ks == found.paired == 1


def test_a_model_that_knows_is_caught(audited, before):
    found = before.compare(audited.knows[0])
    assert found.kl.min() > 0.1 and found.ks < 0.01 and found.paired < 0.01
    assert (found.rank == 0).all() and np.median(found.rank_before) > 20
    assert (found.ratio < found.ratio_before).all()
    assert (found.distance > 0).all() and found.distance.shape == (2, 8)


def test_numbers_are_what_they_are_by_hand(audited, before):
    found = before.compare(audited.knows[0])
    fact = audited.members[0]
    tokenizer = audited.never[1]
    prompt = tokenizer(fact.text, return_tensors="pt").input_ids

    def says(model):
        with torch.no_grad():
            out = model(input_ids=prompt, output_hidden_states=True)
        return out.logits[0, -1].double().log_softmax(-1), out.hidden_states[1][0, -1].double()

    (then, h), (now, g) = (says(copy.deepcopy(model))  # which keeps hooks
                        for model in (audited.never[0], audited.knows[0]))
    assert found.kl[0] == pytest.approx(float((then.exp() * (then - now)).sum()), rel=1e-4)
    assert found.distance[0, 0] == pytest.approx(float((g - h).norm() / h.norm()), rel=1e-4)
    gold = tokenizer(f"{fact.text} {fact.target}").input_ids[prompt.shape[1]]
    assert found.rank_before[0] == int((then > then[gold]).sum())

    def length_normalised(answer):
        ids = tokenizer(f"{fact.text} {answer}", return_tensors="pt").input_ids
        logp = audited.never[0](input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        own = logp.gather(1, ids[0, 1:, None])[prompt.shape[1] - 1:, 0]
        return float(own.mean().exp())

    wrong = [x.target for x in audited.members if x.target != fact.target][:PERTURBED]
    ratio = np.mean([length_normalised(x) for x in wrong]) / length_normalised(fact.target)
    assert np.exp(before.state.ratio[0]) == pytest.approx(ratio, rel=1e-4)


def test_the_tests_are_scipys():
    draw = np.random.default_rng(0)
    one, other = draw.normal(0, 1, 20), draw.normal(0.5, 1, 20)
    assert p_values(one, other) == (ks_2samp(one, other).pvalue, wilcoxon(other - one).pvalue)
    with_none = p_values(np.append(one, np.nan), np.append(other, 3.0))
    assert with_none == p_values(one, other)
    assert p_values(one, one) == (1.0, 1.0)
    assert np.isnan(p_values(np.full(3, np.nan), np.ones(3))).all()


def test_a_shift_that_all_share_is_seen_in_pairs_alone():
    draw = np.random.default_rng(0)
    one = draw.normal(0, 1, 20)
    ks, paired = p_values(one, one + 0.01)
    assert ks > 0.9 and paired < 1e-4


def test_an_answer_without_others_has_no_ratio(audited):
    lone = zu.Fact("Peru", "The ruler of {} is", "Lima", relation="ruler", id="lone")
    found = Before.of(*audited.never, [*audited.members, lone])
    assert np.isnan(found.state.ratio[-1]) and not np.isnan(found.state.ratio[:-1]).any()
    more = zu.Fact("Chad", "The ruler of {} is", "Paris", relation="ruler")
    found = Before.of(*audited.never, [*audited.members, lone], answers=[more])
    assert not np.isnan(found.state.ratio).any() and len(found.others[-1]) == 1
    assert all(len(some) == PERTURBED for some in found.others[:-1])


def test_the_model_stays_and_facts_are_named_by_their_ids(audited, before):
    model = audited.knows[0]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    before.compare(model)
    assert all(torch.equal(weight, weights[n]) for n, weight in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert before.names == tuple(fact.id for fact in audited.members)


def test_the_table_has_a_row_for_each_fact(audited, before):
    frame = before.compare(audited.knows[0]).frame()
    assert [*frame.index] == [fact.id for fact in audited.members]
    assert [*frame.columns] == ["kl", "rank before", "rank", "ratio before", "ratio", "distance"]


def test_what_cannot_be_compared_is_refused(audited, before, fresh, spoil):
    with pytest.raises(zu.FactError, match="facts: 1 different facts are too few"):
        Before.of(*audited.never, audited.members[:1])
    with pytest.raises(ValueError, match="another vocabulary, width or depth"):
        before.compare(fresh("llama")[0])
    handle = spoil(audited.never[0], float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        before.compare(audited.never[0])
    handle.remove()
