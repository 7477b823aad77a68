"""Pictures and measurements of the chapter on Lemma 5.1, on cases small enough to know."""
import numpy as np
import pandas as pd
import pytest
import torch

from zu.book import lemma_many

OLD, TARGET, WEIGHTS = np.array([2.0, 0.0]), np.array([0.0, 1.0]), (3.0, 1.0, 0.5)


@pytest.fixture(autouse=True)
def no_window():
    pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture(scope="module")
def paths():
    return lemma_many.ways_down(OLD, TARGET, WEIGHTS, [0, 1, 2], lr=0.25)


def test_each_wish_is_zero_where_it_is_content():
    at = np.stack([OLD, TARGET, np.array([0.0, 7.0])])
    zero, targets, small = lemma_many.wishes(at, OLD, TARGET, WEIGHTS)
    assert zero.tolist() == [12.0, 0.0, 0.0]  # 3 · 2², and all of the line across the old value
    assert targets.tolist() == [5.0, 0.0, 36.0] and small.tolist() == [0.0, 2.5, 26.5]
    with pytest.raises(ValueError, match="old must not be zero"):
        lemma_many.wishes(at, 0 * OLD, TARGET, WEIGHTS)


def test_the_minimum_is_where_the_wishes_sum_is_smallest(paths):
    (best,) = paths[paths.method == "minimum"][["value 1", "value 2"]].to_numpy()
    # by hand: (φ 0 + λ 2) / (ζ + φ + λ) along the old value, φ / (φ + λ) across
    assert best == pytest.approx([1 / 4.5, 1 / 1.5])
    nearby = best + 1e-3 * np.random.default_rng(0).normal(size=(50, 2))
    sums = lemma_many.wishes(np.vstack([best, nearby]), OLD, TARGET, WEIGHTS).sum(0)
    assert sums.argmin() == 0


def test_adam_starts_at_the_old_value_and_goes_along_a_diagonal(paths):
    adam = paths[paths.method == "Adam"]
    assert adam.step.to_list() == [0.0, 1.0, 2.0]
    first, second, _ = adam[["value 1", "value 2"]].to_numpy()
    assert first == pytest.approx(OLD) and second == pytest.approx(OLD + [-0.25, 0.25], rel=1e-5)
    flow = paths[paths.method == "gradient flow"][["value 1", "value 2"]].to_numpy()
    (best,) = paths[paths.method == "minimum"][["value 1", "value 2"]].to_numpy()
    assert flow[0] == pytest.approx(OLD) and flow[-1] == pytest.approx(best, abs=1e-3)


def test_the_picture_of_the_wishes_has_the_minimum_in_its_second_panel_only(paths):
    figure = lemma_many.draw_wishes(OLD, TARGET, WEIGHTS, paths)
    stars = [[line.get_xydata()[0] for line in axis.lines if line.get_marker() == "*"]
             for axis in figure.axes]
    assert stars[0] == [] and stars[1][0] == pytest.approx([1 / 4.5, 1 / 1.5])
    labels = {text.get_text() for text in figure.axes[1].get_legend().get_texts()}
    assert labels == {"Adam", "gradient flow", "minimum"}


def test_what_is_zero_in_a_matrix_is_left_white():
    figure = lemma_many.draw_systems({"a": np.array([[1.0, -100.0], [1e-9, 0.0]]), "b": np.eye(2)})
    one, other, bar = figure.axes
    shown = one.images[0].get_array()
    assert np.ma.getmaskarray(shown).tolist() == [[False, False], [True, True]]
    assert shown[0, 1] == 100.0 and one.images[0].norm is other.images[0].norm
    assert [one.get_title(), other.get_title()] == ["a", "b"] and bar.get_ylabel()


def test_what_is_under_the_floor_is_drawn_there():
    rows = [("Adam, fast", 0, 50.0), ("Adam, fast", 10, 1.0), ("other", 0, 50.0),
            ("other", 10, -1e-14)]
    figure = lemma_many.draw_excess(pd.DataFrame(
        rows, columns=["method", "steps", "above the minimum, %"]))
    adam, other = figure.axes[0].lines
    assert adam.get_ydata().tolist() == [50.0, 1.0] and other.get_ydata().tolist() == [50.0, 1e-9]
    assert adam.get_color() != other.get_color()


def test_the_largest_array_that_a_way_builds_is_seen_even_if_it_is_not_returned():
    def wasteful(x):
        return (x @ x.T).sum()  # (m, m), 8 m² bytes; x itself is (m, 1)

    frame = lemma_many.costs({"wasteful": (wasteful, [8, 16, 32])},
                             lambda m: (torch.ones(m, 1, dtype=torch.float64),), repeats=1)
    assert frame.bytes.to_list() == [8 * m * m for m in (8, 16, 32)]
    assert (frame.seconds >= 0).all()
    assert lemma_many.exponents(frame).loc["wasteful", "bytes"] == pytest.approx(2.0)


def test_of_several_runs_the_shortest_counts(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(lemma_many.time, "process_time", lambda: next(clock))
    frame = lemma_many.costs({"way": (torch.neg, [1])}, lambda m: (torch.ones(m),), repeats=3)
    assert frame.seconds.to_list() == [2.0]


def test_powers_are_fitted_to_the_largest_sizes():
    sizes = np.array([1, 2, 4, 8])
    seconds = np.where(sizes == 1, 1e3, sizes**3.0)
    frame = pd.DataFrame({"method": "a", "m": sizes, "seconds": seconds, "bytes": 8 * sizes**2})
    assert lemma_many.exponents(frame).loc["a"].to_list() == pytest.approx([3.0, 2.0])
    left, right = lemma_many.draw_costs(frame).axes
    assert left.get_legend().get_texts()[0].get_text() == "a: $m^{3.0}$"
    assert right.lines[0].get_ydata().tolist() == (8 * sizes**2).tolist()
