"""What the formulas imply: the tables from rows, and what the tool measures, on small cases."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zu
from zu.book import implied

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import discoveries  # noqa: E402

KEPT = Path(__file__).parents[1] / "results" / "discoveries.json"


def zero_rows():
    """Two draws; the edit's scores rise with the weight by as much in both, from other levels."""
    rows = []
    for seed, level in ((1, 10.0), (2, 30.0)):
        rows.append({"seed": seed, "zero": None, "eff": 50.0, "gen": 50.0, "spe": 50.0,
                     "ppl": 20.0})
        for zero, more in ((0.0, 0.0), (100.0, 2.0)):
            rows.append({"seed": seed, "zero": zero, "left": [0.1, 0.5 - more / 10],
                         "change": more / 4, "eff": level + more, "gen": level, "spe": level - more,
                         "ppl": 2 * level * (1 + more / 100)})
    return rows


def test_the_zero_term_is_held_against_the_same_draw_without_it():
    table = implied.zero_term(zero_rows())
    assert table.loc[100.0, ["Eff", "Gen", "Spe"]].to_list() == [2.0, 0.0, -2.0]
    assert table.loc[100.0, "PPL"] == pytest.approx(2.0)
    assert table.loc[100.0, "Eff ±"] == pytest.approx(0.0)  # both draws say the same
    assert table.left.to_list() == pytest.approx([50.0, 30.0])  # the largest over layers
    assert table.change.to_list() == [0.0, 50.0] and table.draws.to_list() == [2, 2]


def direction_rows():
    rows = [{"layer": 0, "kind": "whole", "d": 4, "rank": 2.0, "mean": 0.25}]
    rows += [{"layer": 0, "kind": "any", "count": 1, "draw": draw, "others": 0.2 * (draw + 1),
              "ordinary": 0.1, "others without mean": 0.0} for draw in range(2)]
    return [*rows, {"layer": 0, "kind": "relation", "relation": "a-b", "count": 1, "same": 0.5,
                    "other": 0.125}]


def test_spans_are_means_over_draws_in_percent():
    rows = direction_rows()
    assert implied.spans(rows).loc[(0, 1)].to_list() == pytest.approx([30.0, 10.0, 0.0])
    assert implied.dimensions(rows).loc[0].to_list() == [2.0, 25.0, 4.0]
    assert implied.by_relation(rows, 0).loc["a-b"].to_list() == [50.0, 12.5]


def ruin_rows():
    edges, rows = [1e-4, 1e-2, 1.0], []
    for seed, ppl in ((1, 10.0), (2, 20.0)):
        rows.append({"seed": seed, "n": 5, "what": "base", "ppl": ppl})
        rows.append({"seed": seed, "n": 5, "what": "exact", "ppl": 3 * ppl, "damage": 1.0})
        rows.append({"seed": seed, "n": 5, "what": "minimum", "layer": True, "cost": [seed, 0.5],
                     "energy": [1.0, 1.0], "directions": [3, 2], "damage": seed,
                     "fulfilled": 0.5})
    return edges, rows


def test_costs_are_summed_by_direction_and_perplexity_is_a_multiple():
    edges, rows = ruin_rows()
    table = implied.spent(rows, 5, edges)
    assert table.minimum.to_list() == [1.5, 0.5] and table.directions.to_list() == [3, 2]
    assert np.allclose(table.index, [1e-3, 1e-1])
    assert implied.path(rows).loc[(5, "minimum")].to_list() == [50.0, 1.5]
    assert implied.perplexities(rows).loc[5].to_list() == [3.0]


def test_the_figures_are_drawn_from_the_tables():
    pytest.importorskip("matplotlib").use("Agg")
    edges, rows = ruin_rows()
    zero = implied.draw_zero(implied.zero_term(zero_rows()), 100.0)
    assert [axis.get_xscale() for axis in zero.axes] == ["log", "log"]
    spans = implied.draw_spans({"a": direction_rows(), "b": direction_rows()}, 1,
                               {"a": [0], "b": [0]})
    assert [axis.get_title() for axis in spans.axes] == ["a", "b"]
    chance = next(x for x in spans.axes[0].get_lines() if x.get_label() == "chance")
    assert chance.get_ydata()[0] == 25.0
    spent = implied.draw_spent(implied.spent(rows, 5, edges), ["minimum"])
    assert [len(axis.patches) for axis in spent.axes] == [0, 2]


def test_a_span_holds_all_of_itself_and_its_share_of_anything():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 20, generator=generator, dtype=torch.float64)
    assert discoveries.captured(rows[:5], rows[:5].flip(0) * 3) == pytest.approx(1.0)
    assert discoveries.captured(rows[:5], rows[5:]) == pytest.approx(0.25, abs=0.02)
    assert discoveries._dimensions(rows) == pytest.approx(20, rel=0.02)


def test_what_a_change_spends_adds_up_to_its_damage_where_it_stays_with_the_keys(tiny, facts):
    model, tokenizer = tiny
    discoveries.Caught.problems.clear()
    method = discoveries.Caught(lam=0.1, check=False, steps=2, n_prefixes=0, layers=[1])
    with zu.unlearn(model, tokenizer, facts[:3], method):
        pass
    (p,) = discoveries.Caught.problems
    terms = method.terms(p)
    change = zu.solve.lemma_5_1(W=p.W, **terms)
    found = discoveries._spent(p, terms, change)
    total = float((p.W @ p.C0 @ p.W.T).trace())
    assert found["damage"] == pytest.approx(float((change @ p.C0 @ change.T).trace()) / total)
    assert sum(found["energy"]) == pytest.approx(float(change.pow(2).sum()), rel=1e-6)
    assert sum(found["directions"]) == 3 and 0 < found["fulfilled"] <= 1


def test_the_kept_record_has_what_the_chapter_shows():
    record = json.loads(KEPT.read_text())
    zero = implied.zero_term(implied.rows_of(record, "zero"))
    assert zero.draws.min() >= 3 and set(zero.index) == set(discoveries.ZEROS)
    for name, d in (("smollm2", 576), ("Gemma3ForCausalLM", 640)):
        rows = implied.rows_of(record, f"directions, {name}")
        assert (implied.dimensions(rows).d == d).all()
    ruin = implied.rows_of(record, "ruin")
    assert {row["n"] for row in ruin} == set(discoveries.SIZES)
    assert implied.rows_of(None, "zero") == []
