"""The protocol's rule of choice, on tables made for it."""
from __future__ import annotations

import pandas as pd
import pytest
import torch

from zu.book import early_layers
from zu.data.facts import Fact

BASE = {"eff": 100.0, "gen": 60.0, "spe": 100.0, "ppl": 20.0}


def row(method, seed=1, **metrics):
    """A record of one draw, Base's scores unless told otherwise."""
    return {"method": method, "seed": seed, "metrics": BASE | metrics}


def test_reserves_are_distances_in_units_of_their_goals():
    rows = [row("base"), row("a", eff=0.0, gen=10.0, spe=95.0, ppl=20.5)]
    found = early_layers.reserves(rows).loc["a"]
    assert found["of Gen"] == pytest.approx(0.5)   # 10 is half of a third of 60
    assert found["of Spe"] == pytest.approx(0.5)   # 95 is half a tenth above 90
    assert found.smaller == pytest.approx(0.5)
    assert found.Gen == pytest.approx(100 / 6) and found.PPL == pytest.approx(2.5)
    assert found.admitted


def test_means_over_draws_come_before_shares():
    rows = [row("base", 1, gen=20.0), row("base", 2, gen=100.0),
            row("a", 1, eff=0.0, gen=20.0), row("a", 2, eff=0.0, gen=0.0)]
    assert early_layers.reserves(rows).Gen["a"] == pytest.approx(100 * 10 / 60)


@pytest.mark.parametrize("metrics", [{"eff": 2.1}, {"ppl": 21.01}])
def test_a_setting_beyond_eff_or_perplexity_is_not_admitted(metrics):
    best = {"eff": 0.0, "gen": 0.0, "spe": 100.0, "ppl": 20.0}
    rows = [row("base"), row("best", **best | metrics),
            row("worse", eff=2.0, gen=30.0, spe=80.0, ppl=20.9)]
    table = early_layers.reserves(rows)
    assert not table.admitted["best"]
    assert early_layers.chosen(table) == "worse"


def test_the_smaller_reserve_decides():
    rows = [row("base"), row("gen", eff=0.0, gen=0.0, spe=91.0),
            row("both", eff=0.0, gen=12.0, spe=94.0)]
    assert early_layers.chosen(early_layers.reserves(rows)) == "both"


def test_no_setting_is_chosen_where_none_is_admitted():
    with pytest.raises(ValueError, match="takes none; give others"):
        early_layers.chosen(early_layers.reserves([row("base"), row("a", eff=50.0)]))


def test_a_lacking_draw_is_refused():
    rows = [row("base"), row("base", 2), row("a")]
    with pytest.raises(ValueError, match="a has 1 of 2 draws"):
        early_layers.reserves(rows)


def test_base_without_other_wordings_is_refused():
    with pytest.raises(ValueError, match="nothing can be reserved"):
        early_layers.reserves([row("base", gen=0.0), row("a", gen=0.0)])


def test_names_tell_settings_apart():
    label = "anchored+anchors:layers=[2,3,4],weight=0.1,rounds=3"
    rows = [{"method": "anchored+anchors", "layers": [15, 16, 17], "settings": {}},
            {"method": label, "layers": [2, 3, 4], "settings": {"weight": 0.1, "rounds": 3}},
            {"method": "base", "layers": [15, 16, 17], "settings": {}}]
    assert early_layers.names_of(rows) == {
        "base": "Base", "anchored+anchors": "layers 15 to 17",
        label: "layers 2 to 4, weight 0.1, rounds 3"}


def test_no_name_stands_on_another():
    rows = [row("base"), *(row(f"anchored:{i}", eff=0.0, gen=20.0 + i / 100) for i in range(3))]
    table = early_layers.reserves(rows)
    axis = early_layers.draw_choice(table, {label: label for label in table.index}, "").axes[0]
    heights = sorted(text.xy[1] for text in axis.texts if hasattr(text, "xy"))
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 2.5


def test_the_choice_is_drawn_full_and_what_is_ruled_out_as_a_cross():
    rows = [row("base"), row("anchored", eff=0.0, gen=10.0, spe=95.0),
            row("memit", eff=50.0, gen=40.0, spe=99.0)]
    table = early_layers.reserves(rows)
    figure = early_layers.draw_choice(table, {"anchored": "ours", "memit": "MEMIT"}, "anchored")
    by_marker = {line.get_marker(): line for line in figure.axes[0].lines}
    assert by_marker["x"].get_xdata()[0] == pytest.approx(99)
    assert by_marker["o"].get_markerfacecolor() != "white"
    assert by_marker["o"].get_ydata()[0] == pytest.approx(100 / 6)


def test_outside_is_the_squared_sine_of_the_angle_to_the_span():
    kept = torch.tensor([[1.0, 0, 0], [2.0, 0, 0]])  # a line, given twice
    assert early_layers.outside(torch.tensor([1.0, 0, 3.0]), kept) == pytest.approx(0.9)
    assert early_layers.outside(torch.tensor([5.0, 0, 0]), kept) == pytest.approx(0, abs=1e-12)
    assert early_layers.outside(torch.tensor([0, 1.0, 0]), kept) == pytest.approx(1)


def test_anchors_of_another_prompt_do_not_count(monkeypatch):
    facts = [Fact("a", "x {}", "1"), Fact("b", "y {}", "1")]
    spare = [Fact("c", "x {}", "-"), Fact("d", "y {}", "-")]
    keys = {id(facts): [[1.0, 0], [1.0, 0]], id(spare): [[1.0, 0], [0, 1.0]]}
    monkeypatch.setattr(early_layers, "subject_keys", lambda reader, some, layers: (
        {layer: torch.tensor(keys[id(some)]) for layer in layers}, None))
    found = early_layers.apartness(None, facts, spare, [2])
    assert found.outside.tolist() == pytest.approx([0, 100], abs=1e-9)


def test_the_default_layers_are_shaded():
    frame = pd.DataFrame({"layer": [0, 0, 1, 1], "fact": [0, 1, 0, 1],
                          "outside": [80.0, 60.0, 20.0, 10.0]})
    axis = early_layers.draw_apartness(frame, [1]).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [70, 15]
    assert axis.patches[0].get_x() == pytest.approx(0.5)


def test_rows_are_compared_draw_by_draw():
    rows = [row("a", 1, gen=10.0, ppl=20.0), row("a", 2, gen=20.0, ppl=20.0),
            row("b", 1, gen=13.0, ppl=25.0), row("b", 2, gen=23.0, ppl=25.0)]
    found = early_layers.contrasts(rows, "a", "b")
    assert tuple(found["Gen"]) == pytest.approx((-3, -3, -3))
    assert tuple(found["PPL"]) == pytest.approx((-20, -20, -20))
    with pytest.raises(ValueError, match="at least 2"):
        early_layers.contrasts(rows[:1] + rows[2:3], "a", "b")
