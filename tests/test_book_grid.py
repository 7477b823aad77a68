"""Grids on their page: what a call makes of a grid, and how pieces fill machines."""
import numpy as np
import pytest

from zu.book import grid

pd = pytest.importorskip("pandas")


def test_a_call_makes_what_is_not_there_and_of_what_was_cut_off_nothing_is():
    frame = grid.resumed([[1, 2], [2, 3], []], [1, 2, 3], cut=2)
    table = frame.pivot(index="call", columns="run", values="what")
    assert table.loc[1].tolist() == [grid.MADE, grid.CUT, grid.LATER]
    assert table.loc[2].tolist() == [grid.FOUND, grid.MADE, grid.MADE]
    assert table.loc[3].tolist() == [grid.FOUND] * 3


def test_moments_come_first_and_no_piece_starts_without_them():
    moments = {"a": 4.0, "b": 1.0}
    pieces = [("a", 1.0), ("a", 2.0), ("b", 0.5), ("b", 0.5)]
    one = grid.schedule(moments, pieces, 1)
    assert one.end.max() == 9 and len(one) == 4
    two = grid.schedule(moments, pieces, 2)
    assert two.model.tolist() == ["a", "b", "b", "a"]
    first = two[two.model == "a"].iloc[0]
    assert (first.start, first.moments, first.end) == (0, 4, 6)  # the longer piece
    assert two[two.model == "a"].iloc[1].start == 6 and two.end.max() == 7
    assert grid.schedule(moments, pieces, 9).end.max() == 7  # more machines do not help


@pytest.mark.parametrize("machines", [1, 2, 3, 8])
def test_a_schedule_loses_no_piece_uses_no_machine_twice_and_keeps_to_its_bounds(machines):
    draw = np.random.default_rng(machines)
    moments = {name: float(draw.uniform(0.5, 3)) for name in "abc"}
    pieces = [(str(draw.choice([*"abc"])), float(x)) for x in draw.uniform(0.1, 1, 20)]
    pieces += [(name, 0.1) for name in "abc"]
    plan = grid.schedule(moments, pieces, machines)
    total = sum(moments.values()) + sum(hours for _, hours in pieces)
    assert (plan.end - plan.start).sum() == pytest.approx(total)
    assert total / machines - 1e-9 <= plan.end.max() <= total + 1e-9
    for _, own in plan.groupby("machine"):
        own = own.sort_values("start")
        assert (own.start.to_numpy()[1:] >= own.end.to_numpy()[:-1] - 1e-9).all()
    for _, own in plan.groupby("model"):
        assert (own.start[1:] >= own.end.iloc[0] - 1e-9).all()
        assert (own.moments > own.start).sum() == 1


def test_figures_have_a_square_for_each_run_and_a_bar_for_each_machine():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = grid.draw_resumed(grid.resumed([[1, 2], [2]], [1, 2], cut=2))
    assert [text.get_text() for text in figure.axes[0].texts] == [
        grid.MADE, grid.CUT, grid.FOUND, grid.MADE]
    plan = grid.schedule({"a": 1.0}, [("a", 1.0), ("a", 1.0)], 2)
    walls = pd.DataFrame({"machines": [1, 2], "hours": [3.0, 3.0]})
    drawn = grid.draw_schedule(plan, walls)
    assert [x.get_text() for x in drawn.legends[0].get_texts()] == ["a"]
    plt.close("all")
