"""The chapter beside the released code draws and tells what its tables hold."""
import math

import numpy as np
import pytest

from zu.book import parity

pd = pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def agg():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_differences_are_ranges_and_are_said_with_powers_of_ten():
    table = parity.agreements()
    assert (table.least <= table.most).all() and table.most.max() <= 1e-4
    said = parity.as_text(table).difference
    assert said["the target's δ without the KL term, at rates of 0.1 and 0.5"] == (
        "1 · 10⁻⁵ to 4 · 10⁻⁵")
    assert said["MEMIT, three layers"] == "1.4 · 10⁻⁶"
    assert said["Eff, Gen and Spe, both rules of scoring"] == "0"


def test_only_what_differs_is_drawn_beside_both_roundings():
    table = parity.agreements()
    (axis,) = parity.draw_agreements(table).axes
    assert len(axis.get_yticks()) == (table.most > 0).sum()
    marks = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
    assert marks == [pytest.approx(np.finfo(kind).eps / 2) for kind in ("float32", "float64")]


def test_each_way_asks_for_its_tokens_one_by_one():
    cells = parity.way_cells()
    asked = {way: some.groupby("step").text.last().to_list()
             for way, some in cells.groupby("way")}
    assert asked == {"as asked": ["Costa", "Rica"], "double space": ["Costa", "Rica"],
                     "behind a BOS": ["<BOS>", "Costa", "Rica"]}
    spaces = cells[cells.kind == "second space"]
    assert spaces.way.to_list() == ["double space"] and spaces.step.to_list() == [1]
    assert len(parity.draw_ways(cells).axes) == 3


def test_shares_are_means_of_their_group_and_differences_are_paired():
    shares = {"asked": np.array([100.0, 50, 0, 0]), "spaced": np.array([100.0, 0, 0, 0])}
    groups = {"all": np.ones(4, bool), "second": np.array([0, 1, 0, 0], bool),
              "none": np.zeros(4, bool)}
    table = parity.shares_table(shares, groups)
    assert table.loc[("all", "asked"), "share"] == 37.5
    assert table.loc[("all", "spaced"), ["share", "against"]].to_list() == [25, -12.5]
    assert parity.difference(table, "second", "spaced").value == -50
    assert table.loc[("none", "spaced"), "facts"] == 0
    assert math.isnan(parity.difference(table, "none", "spaced").low)
    assert math.isnan(parity.difference(table, "all", "asked").value)


def test_the_band_holds_nine_places_in_ten():
    values = np.arange(1.0, 102)
    (axis,) = parity.draw_places(values, 50.0).axes
    ends = axis.patches[0].get_extents().transformed(axis.transData.inverted())
    assert (ends.y0, ends.y1) == pytest.approx((6, 96))
    assert axis.get_yscale() == "log"
