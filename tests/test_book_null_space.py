"""The chapter on the null space: what its pictures and its table are made from."""
import pytest
import torch

from zu.book import null_space

pytest.importorskip("matplotlib").use("Agg")
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def turned(seed=0):
    """A random orthonormal basis, and the second moment with VALUES along it."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64)).Q
    return Q, Q @ VALUES.diag() @ Q.T


def test_the_energy_within_directions_is_the_sum_of_their_eigenvalues():
    Q, moment = turned()
    assert null_space.energy_within(Q, moment, [0, 1, 3, 4]) == pytest.approx([0, 0.1, 0.6, 1])
    assert null_space.energy_within(Q, 7 * moment, [2]) == pytest.approx([0.3])
    other = Q[:, :1] @ Q[:, :1].T  # keys along the first direction only
    assert null_space.energy_within(Q, other, [1, 4]) == pytest.approx([1, 1])
    assert null_space.energy_within(Q.flip(1), other, [1, 3, 4]) == pytest.approx([0, 0, 1])


def test_each_kind_of_keys_has_a_row_per_cut():
    Q, moment = turned()
    frame = null_space.held(Q, {"text": moment, "facts": Q @ Q.T}, [2, 4])
    assert frame["keys"].to_list() == ["text", "text", "facts", "facts"]
    assert frame.directions.to_list() == [0.5, 1, 0.5, 1]
    assert frame.energy.to_list() == pytest.approx([0.3, 1, 0.5, 1])


def test_the_table_of_rules_is_in_percent_under_its_layer():
    Q, moment = turned()
    table = null_space.by_rule(5, {"share 0.5": 2, "all": 4}, Q, {"text": moment})
    assert table.columns.to_list() == [("layer 5, %", "directions"), ("layer 5, %", "text")]
    assert table.loc["share 0.5"].to_list() == pytest.approx([50, 30])
    assert table.loc["all"].to_list() == pytest.approx([100, 100])


def test_only_the_quiet_panel_has_ordinary_keys_along_the_quiet_direction():
    frame = null_space.plane(quiet=0.1, count=4000)
    flat, quiet = (rows[rows.what == "ordinary"] for _, rows in frame.groupby("panel", sort=False))
    assert (flat.quiet == 0).all() and len(flat) == 4000
    assert quiet.quiet.std() == pytest.approx(0.1, rel=0.05)
    assert quiet.loud.to_list() == flat.loud.to_list()
    facts = frame[frame.what == "the fact"]
    assert len(facts) == 2 and facts.quiet.nunique() == 1 and facts.quiet.iloc[0] > 0


def test_the_figures_show_each_panel_and_curve():
    plane = null_space.draw_plane(null_space.plane(count=5))
    assert [axis.get_title() for axis in plane.axes] == ["a null space", "a quiet direction"]
    dots = [line for axis in plane.axes for line in axis.get_lines() if len(line.get_xdata()) == 5]
    assert set(dots[0].get_ydata()) == {0.0} and len(set(dots[1].get_ydata())) == 5
    Q, moment = turned()
    curves = null_space.held(Q, {"text": moment, "facts": Q @ Q.T}, [1, 4]).assign(layer=3)
    left, right = null_space.draw_spectra({3: (VALUES, Q)}, (0.5,), curves).axes
    assert list(left.get_lines()[0].get_ydata()) == VALUES.tolist()
    assert left.get_lines()[1].get_ydata()[0] == 0.5
    assert right.get_title() == "layer 3"
    shown = [list(line.get_ydata()) for line in right.get_lines()[:2]]
    assert shown == [pytest.approx([0.1, 1]), pytest.approx([0.25, 1])]
