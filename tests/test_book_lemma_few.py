"""The chapter on Lemma 4.1: what its pictures are drawn from."""
import pytest
import torch

from zu import solve
from zu.book import lemma_few

pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture
def memory():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g, dtype=torch.float64)
            for shape in ((2, 6), (6, 1), (2, 1), (6, 9))]


def place(frame, stage, what):
    return frame.loc[(frame.stage == stage) & (frame.what == what), ["across", "along"]].to_numpy()


def test_the_last_stage_is_lemma_4_1_turned(memory):
    W, k_f, v_star, K_0 = memory
    frame = lemma_few.steps(*memory, weights=(0.5, 2.0, 0.1))
    assert tuple(frame.stage.unique()) == lemma_few.STAGES and len(frame) == 3 * 11
    lemma = solve.lemma_4_1(W, k_f, v_star, K_0 @ K_0.T / 9, W @ k_f, alpha=0.5, beta=2.0, lam=0.1)
    shown = place(frame, "projection", "general")
    assert abs(shown[:, 1]).max() < 1e-12  # nothing along the old value
    assert (shown**2).sum(1) == pytest.approx(((lemma @ K_0) ** 2).sum(0).numpy())
    (across, along), = place(frame, "before", "the fact")
    assert (across, along) == pytest.approx((0, float((W @ k_f).norm())))
    (now,), (target,) = (place(frame, "ridge", what) for what in ("the fact", "the target"))
    assert (target**2).sum() == pytest.approx(float((v_star**2).sum()))  # as yet unprojected
    (last,) = place(frame, "projection", "the target")
    assert last == pytest.approx([target[0], 0])
    length = float(v_star.norm())
    assert lemma_few.missed(frame) == pytest.approx(100 * ((now - target)**2).sum()**0.5 / length)


def test_a_heavy_weight_on_the_fact_reaches_the_target(memory):
    light, heavy = (lemma_few.missed(lemma_few.steps(*memory, weights=(1.0, beta, 0.0)))
                    for beta in (1.0, 1e8))
    assert heavy < 1e-3 < light


def test_values_that_are_not_in_the_plane_are_refused():
    with pytest.raises(ValueError, match="two rows, not 3"):
        lemma_few.steps(torch.zeros(3, 4), torch.zeros(4, 1), torch.zeros(3, 1), torch.zeros(4, 2))


def test_the_price_lies_between_what_the_worst_and_the_best_directions_cost():
    moment = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    values = torch.eye(4, dtype=torch.float64)[:, [1, 1, 3]]  # the second fact is the first
    table = lemma_few.price(values, moment, [1, 2, 3])
    assert table["rank"].to_list() == [1, 1, 2]
    assert table.removed.to_list() == pytest.approx([0.2, 0.2, 0.6])
    assert table.least.to_list() == pytest.approx([0.1, 0.1, 0.3])
    assert table.most.to_list() == pytest.approx([0.4, 0.4, 0.7])
    axis = lemma_few.draw_price(table).axes[0]
    assert [line.get_label() for line in axis.get_lines()][-1] == "values of facts"
    assert list(axis.get_lines()[-1].get_ydata()) == pytest.approx([0.2, 0.2, 0.6])


def test_the_drawn_factors_fit_each_other():
    frame = lemma_few.factors()
    product = frame.iloc[3:]  # the correction, a chain of matrices
    assert product["columns"].to_list()[:-1] == product["rows"].to_list()[1:]
    result = frame.iloc[0]
    assert (product["rows"].iloc[0], product["columns"].iloc[-1]) == (result["rows"],
                                                                      result["columns"])
    gaps = frame.x.to_numpy()[1:] - (frame.x + frame.width).to_numpy()[:-1]
    assert (gaps > 0).all()
    assert len(lemma_few.draw_factors(frame).axes[0].patches) == len(frame)


def test_the_three_stages_are_drawn(memory):
    figure = lemma_few.draw_steps(lemma_few.steps(*memory))
    assert [axis.get_title()[:2] for axis in figure.axes] == ["be", "1.", "2."]
    dots = [line for line in figure.axes[2].get_lines() if len(line.get_xdata()) == 9]
    assert abs(dots[0].get_ydata()).max() < 1e-12
