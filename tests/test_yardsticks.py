"""SimNPO and the other methods that a reviewer asks for, each against its formula by hand."""
import math

import pytest
import torch

import zu
from zu import descent, methods

# ---- SimNPO


def test_simnpo_is_its_formula_in_double_precision():
    """Two answers of 3 and 1 tokens, and a text to retain, whose loss falls in the plain way."""
    logp = torch.tensor([-6.0, -0.25, -40.0], dtype=torch.float64)
    count = torch.tensor([3.0, 1.0, 20.0], dtype=torch.float64)
    weight = torch.tensor([0.5, 0.5, -1.5], dtype=torch.float64)
    for beta, gamma in ((2.5, 0.0), (0.7, 1.5)):
        by_hand = 1.5 * 40 / 20
        for size, tokens in ((-6.0, 3), (-0.25, 1)):
            sigmoid = 1 / (1 + math.exp(beta / tokens * size + gamma))
            by_hand += 0.5 * -2 / beta * math.log(sigmoid)
        objective = descent.Objective([], [], beta=beta, margin=gamma)
        found = objective.loss(logp, torch.full_like(logp, -9.0), count, weight)
        assert torch.allclose(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12)


def test_simnpo_refers_to_no_earlier_model_and_npo_does(tiny, facts, monkeypatch):
    asked, real = [], descent._said
    monkeypatch.setattr(descent, "_said", lambda *args: asked.append(1) or real(*args))
    zu.unlearn(*tiny, facts, "simnpo", layers=[2], steps=2).restore()
    assert not asked
    zu.unlearn(*tiny, facts, "npo", layers=[2], steps=2).restore()
    assert asked == [1]


def test_simnpo_has_the_rows_of_gradient_difference(tiny, facts, texts):
    job = methods.Job(zu.Reader(None, tiny[1]), list(facts), (2,))
    mine = methods.SimNpo(retain=texts, retain_weight=0.5, gamma=0.25).objective(job)
    theirs = methods.GradDiff(retain=texts, retain_weight=0.5).objective(job)
    assert (mine.rows, mine.weights) == (theirs.rows, theirs.weights)
    assert (mine.beta, mine.margin, theirs.margin) == (2.5, 0.25, None)


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"gamma": -1}, {"retain_weight": -1}])
def test_simnpo_refuses_settings_without_meaning(wrong):
    with pytest.raises(ValueError, match=f"simnpo: setting '{[*wrong][0]}' is not usable"):
        methods.settings_for("simnpo", **wrong)
