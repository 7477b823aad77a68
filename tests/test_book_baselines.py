"""Pictures of the baselines, on numbers that are made up."""
import math

import pytest

from zu.book import baselines
from zu.methods import METHODS


@pytest.fixture(autouse=True)
def no_window():
    pytest.importorskip("matplotlib").use("Agg")


MEASURED = {"exact:lam=0.1": {"ordinary": 0.2, "p": 0.01, "seconds": 1.0},
            "ga": {"ordinary": 0.5, "p": 0.0, "seconds": 2.0},
            "mine": {"ordinary": 0.1, "p": 0.1, "seconds": 1.0}}


def test_npo_lets_go_where_ga_pushes_on():
    weights = baselines.npo_weights([0.5], most=40, count=5)
    ga, npo = (some.set_index("fall").weight for _, some in weights.groupby("method", sort=False))
    assert (ga == 1).all() and npo[0] == 1 and npo.is_monotonic_decreasing
    assert npo[20] == pytest.approx(2 * math.exp(-10) / (1 + math.exp(-10)))
    axis = baselines.draw_weights(weights).axes[0]
    assert [line.get_label() for line in axis.lines] == ["GA", "NPO, β = 0.5"]


def test_teacher_forcing_reads_each_token_from_the_one_before_and_the_other_way_does_not():
    scored = baselines.scored_positions()
    right = scored[scored.way == "right"]
    assert (right.token - right["at"] == 1).all() and len(right) == 3
    other = scored[scored.way != "right"]
    assert other.token.to_list() == right.token.to_list() and other["at"].nunique() == 1
    assert other["at"].iloc[0] == right["at"].iloc[0]  # the first token's place is right in both
    titles = [axis.get_title() for axis in baselines.draw_positions(scored).axes]
    assert titles == ["teacher forcing", "all at the prompt's last token"]


def test_the_frame_has_its_own_order_and_leaves_out_what_it_does_not_know():
    frame = baselines.frame_of(MEASURED)
    assert frame.method.to_list() == ["ga", "exact:lam=0.1"]
    assert frame.name.to_list() == ["GA", "exact Lemma 5.1"]
    assert frame["closed form"].to_list() == [False, True]
    assert {*baselines.FRAME} <= {*METHODS} and baselines.DESCENDS < {*baselines.FRAME}


def test_each_row_is_drawn_at_what_was_measured_even_at_zero():
    figure = baselines.draw_frame(baselines.frame_of(MEASURED), before=0.3)
    table, ordinary, p, _ = figure.axes
    assert [*ordinary.lines[0].get_xdata()] == [0.5] and ordinary.lines[0].get_marker() == "^"
    assert [*ordinary.lines[1].get_xdata()] == [0.2] and ordinary.lines[1].get_marker() == "o"
    assert [*p.lines[0].get_xdata()] == [baselines.LEAST] and [*p.lines[2].get_xdata()] == [0.3] * 2
    assert "zero + forget + λ‖Δ‖²" in [text.get_text() for text in table.texts]
