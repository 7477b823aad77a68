"""What the model must keep: the figures' numbers, on cases that can be told by hand."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("matplotlib").use("Agg")
from zu.book import tokens, what_to_keep  # noqa: E402

ROOT = Path(__file__).parents[1]


def test_the_ellipses_axes_are_the_moments_and_the_rows_move_the_key_by_one():
    cloud = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # C = diag(4.5, 0.5)
    key = torch.tensor([1.0, 1.0])
    rows = {"along k": torch.tensor([0.5, 0.5]), "best": torch.tensor([0.1, 0.9])}
    figure, drawn = what_to_keep.draw_ellipsoid(cloud, key, rows)
    at = drawn.set_index("what")[["x", "y"]]
    assert np.abs(at.loc["the cheap axis"]).tolist() == pytest.approx([0.0, 1.0], abs=1e-12)
    assert np.abs(at.loc["the dear axis"]).tolist() == pytest.approx([3.0, 0.0], abs=1e-12)
    for line in at.loc["xᵀ k = 1"].to_numpy():
        assert line @ key.numpy() == pytest.approx(1.0)
    said = [text.get_text() for text in figure.axes[1].texts]
    assert "along k: 2.8" in said and "best: 1.0" in said  # 1.25 of 0.45


def test_a_spectrum_is_in_shares_and_its_rest_counts_from_the_end():
    table = what_to_keep.spectra({3: torch.tensor([1.0, 2.0, 5.0]), 4: torch.tensor([1.0, 1.0])})
    own = table[table.layer == 3]
    assert own.share.tolist() == [0.625, 0.25, 0.125]
    assert own.rest.tolist() == [1.0, 0.375, 0.125]
    assert own["left out"].tolist() == pytest.approx([0.0, 100 / 3, 200 / 3])
    figure, drawn = what_to_keep.draw_spectra(table)
    assert [len(axis.lines) for axis in figure.axes] == [2, 2] and len(drawn) == 5


def test_of_a_long_spectrum_both_ends_are_kept():
    table = what_to_keep.spectra({0: torch.arange(1.0, 2001.0)})
    _, drawn = what_to_keep.draw_spectra(table)
    assert 80 < len(drawn) < 130
    assert drawn.number.iloc[0] == 1 and drawn.number.iloc[-1] == 2000


def test_growth_is_drawn_in_percent_with_chance():
    table = pd.DataFrame({"difference": [0.5, 0.25], "largest eighth": [40.0, 60.0],
                          "smallest eighth": [10.0, 20.0]}, index=[512, 1024])
    figure, drawn = what_to_keep.draw_growth(table, 12.5)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [50.0, 25.0]
    assert {line.get_ydata()[0] for line in figure.axes[1].lines} == {40.0, 10.0, 12.5}
    assert len(drawn) == 6 and set(drawn.tokens) == {512, 1024}


def kept():
    return [{"seed": seed, "tokens": count, "how": "read", "method": method, "eff": 10.0 - gap,
             "gen": 5.0, "spe": 5.0, "ppl": ppl * seed}
            for seed in (1, 2)
            for method, count, gap, ppl in (("base", 0, 0, 10.0), ("memit", 4096, 0, 11.0),
                                            ("memit", 512, 4, 22.0))]


def test_needs_are_drawn_against_the_formula_and_no_moment():
    damage = pd.DataFrame({"additive": [np.nan, 2.0, 1.0], "multiplicative": [4.0, 3.0, 2.5]},
                          index=[64, 128, 256])
    figure, drawn = what_to_keep.draw_needs(damage, 5.0, 100, kept())
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    N, y = lines["Gaussian keys"].get_data()
    assert y[-1] == pytest.approx(1.0) and N[-1] == 256
    assert y[0] == pytest.approx((1 - 100 / 256) * 105 / 5)
    assert len(lines["additive"].get_xdata()) == 2
    of = drawn.set_index(["panel", "what", "tokens"]).value
    assert of["damage", "multiplicative", 64] == 4.0
    assert of["perplexity", "memit", 512] == pytest.approx(2.2)
    assert drawn[drawn.what == "no moment"].value.tolist() == [5.0]


def test_changes_are_paired_and_a_refused_draw_is_no_number():
    refused = [row | {"how": "shrunk", "ppl": None} for row in kept() if row["tokens"] == 512]
    found = tokens.changes(kept() + refused)
    few = found.loc["memit", 512, "read"]
    assert few.eff == -4.0 and few["eff low"] == few["eff high"] == -4.0
    assert few.ppl == pytest.approx(100.0) and few["ppl low"] == pytest.approx(100.0)
    assert found.loc["memit", 4096, "read"].ppl == pytest.approx(0.0)
    assert np.isnan(found.loc["memit", 512, "shrunk"].ppl)
    assert "base" not in found.index.get_level_values("method")


def test_the_numbers_in_the_sentences_are_those_of_the_table():
    rows = json.loads((ROOT / "results" / "tokens.json").read_text())["rows"]
    table = tokens.against_most(rows, (512, 12_288))
    number = tokens.changes(rows)
    for (method, label), (count, how) in {("MEMIT", "12,288"): (12_288, "read"),
                                          ("MEMIT", "512, shrunk"): (512, "shrunk")}.items():
        own = number.loc["memit", count, how]
        assert table.loc[(method, label), "Spe"] == (
            f"{own.spe:+.1f} ({own['spe low']:+.1f}\u00a0to\u00a0{own['spe high']:+.1f})")
        assert table.loc[(method, label), "perplexity"].startswith(f"{own.ppl:+.1f}%")
