"""What stands out in a spectrum, and what comes back when it is cut back."""
import copy

import numpy as np
import pytest
import torch

from zu.audit import taken_back
from zu.audit.spectra import TakenBack, cut_back, expected
from zu.data.facts import FactError
from zu.scores import score


@pytest.fixture(scope="module")
def loud(audited, said_alike):
    """The model that knows, silenced by one large direction in its last layer: a fake."""
    model, tokenizer = copy.deepcopy(audited.knows[0]), audited.knows[1]
    key, towards = (x / x.norm() for x in said_alike)
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        largest = torch.linalg.svdvals(weight)[0]
        weight.sub_(8 * largest * torch.outer(towards, key))
    return model, tokenizer


def test_a_loud_fake_is_taken_back_and_a_model_that_never_knew_stays_silent(loud, audited):
    found = taken_back(*loud, audited.members)
    assert not found.before.any() and found.after.sum() >= 4 and found.p <= 2 / 2**4
    assert found.out[1] >= 1
    never = taken_back(*audited.never, audited.members, audited.others)
    assert not never.before.any() and not never.after.any()


def test_the_median_of_the_nearest_layers_is_expected_and_an_edit_does_not_move_it():
    spectra = [torch.tensor([5.0 + i, 1.0]) for i in range(9)]
    plain = expected(spectra)
    assert plain[4].tolist() == [9.0, 1.0]  # of 6, 7, 8, 10, 11 and 12
    spectra[3] = spectra[4] = torch.tensor([100.0, 50.0])
    assert expected(spectra)[4].tolist() == [10.5, 1.0]
    with pytest.raises(ValueError, match="the model has one layer"):
        expected(spectra[:1])


def test_what_stands_out_is_set_to_what_is_expected_and_the_rest_stays(audited):
    model = copy.deepcopy(audited.never[0])
    weights = [layer.mlp.down_proj.weight for layer in model.model.layers]
    should = torch.linalg.svdvals(weights[0].double())
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(weights[1].double(), full_matrices=False)
        s[0] = 3 * should[0]
        weights[1].copy_(u * s @ vh)
    before = [weight.clone() for weight in weights]
    with pytest.raises(KeyError), cut_back(model, 1.5) as out:
        assert out == {0: 0, 1: 1} and torch.equal(weights[0], before[0])
        now = torch.linalg.svdvals(weights[1].double())
        assert torch.allclose(now.sort().values,
                              torch.cat([s[1:], should[:1]]).sort().values, atol=1e-5)
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(weights, before))


def test_the_model_stays_what_it_was(tiny, facts):
    model, tokenizer = tiny
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = taken_back(model, tokenizer, facts[:3], facts[3:5], factor=1.01)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    right = score(model, tokenizer, facts[:3])[:, 0] == 1
    assert np.array_equal(found.before, right) and np.isfinite(found.others).all()


def test_what_came_back_is_told_with_its_interval():
    found = TakenBack(("a", "b"), {0: 0, 1: 2}, np.array([False, False]), np.array([True, False]),
                      (1.0, 0.5))
    assert str(found) == ("2 in layer 1 stand out; 0 of 2 answered before, 1 when they are cut "
                          "back")
    table = found.frame()
    assert table.loc["cut back", "right"] == 50 and table.loc["as they are", "high"] > 50
    assert table["others right"].tolist() == [100, 50]
    assert "none stand out" in str(TakenBack((), {0: 0}, np.array([]), np.array([]), (1.0, 1.0)))


def test_what_cannot_be_done_is_refused(audited):
    with pytest.raises(ValueError, match="factor is 1: give one above 1"):
        taken_back(*audited.never, audited.members, factor=1)
    with pytest.raises(FactError, match="facts: 0 different facts are too few"):
        taken_back(*audited.never, [])
