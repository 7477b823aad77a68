"""The ablation on its page: differences draw by draw, weights along their range, and Table 4."""
import math

import pytest
import torch

from zu.book import ablation
from zu.book.verdicts import NO, UNDECIDED, YES

pd = pytest.importorskip("pandas")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

FULL, OFF = "zerounlearn", "zerounlearn:project=false"


def record(method, seed, n=50, **metrics):
    scores = {"eff": 10.0, "gen": None, "spe": None, "hop": None, "ppl": 20.0, "prob_eff": 0.1}
    scores |= metrics
    for name in ("eff", "gen", "spe"):
        value = scores[name]
        scores[f"interval_{name}"] = [None, None] if value is None else [value - 4, value + 4]
    return {"model": "smollm2", "dataset": "world-cloze", "method": method, "seed": seed, "n": n,
            "metrics": scores}


def draws(seeds, spread=math.nan):
    rows = []
    for seed in seeds:
        rows += [record("base", seed, eff=40.0, spe=40.0, ppl=17.0),
                 record(FULL, seed, eff=2.0 + seed, spe=10.0, ppl=22.0),
                 record(OFF, seed, eff=22.0 + 2 * seed, spe=15.0, ppl=18.0)]
    return ablation.Parts(rows, spread)


def test_three_draws_are_paired_and_fewer_rest_on_their_facts():
    value, low, high = draws([1, 2, 3]).change(OFF, FULL, "eff")
    assert value == pytest.approx(22) and high - low == pytest.approx(2 * 4.302653 / math.sqrt(3))
    value, low, high = draws([1]).change(OFF, FULL, "eff")
    assert (value, high - value) == (pytest.approx(21), pytest.approx(4 * math.sqrt(2)))
    value, low, high = draws([1, 2]).change(OFF, FULL, "eff")
    assert (value, high - value) == (pytest.approx(21.5), pytest.approx(4))


def test_perplexity_borrows_its_interval_from_more_draws_and_decides_nothing_without():
    lent = ablation.borrowed(
        [record("base", s, ppl=10.0) for s in (1, 2)]
        + [record("memit", s, ppl=10 * math.exp(0.01 * s)) for s in (1, 2)], ["memit"])
    assert lent == pytest.approx(math.sqrt(2) * 12.706 * 0.01 / math.sqrt(2) * math.sqrt(1.5),
                                 rel=1e-3)
    assert math.isnan(ablation.borrowed([record("base", 1)], ["memit"]))
    value, low, high = draws([1], lent).change(OFF, FULL, "ppl")
    assert value == pytest.approx(100 * (18 / 22 - 1)) and low < value < high
    assert draws([1], 0.1).less(OFF, FULL, "ppl")[0] == YES
    assert draws([1], 0.3).less(OFF, FULL, "ppl")[0] == UNDECIDED
    assert draws([1]).less(OFF, FULL, "ppl")[0] == UNDECIDED


def test_verdicts_are_by_interval_and_a_row_that_was_not_run_decides_nothing():
    parts = draws([1, 2, 3])
    assert parts.more(OFF, FULL, "eff", by=15)[0] == YES
    assert parts.more(OFF, FULL, "eff", by=30)[0] == NO
    assert parts.within(OFF, FULL, "spe", by=6)[0] == YES
    assert parts.within(OFF, FULL, "spe", by=4)[0] == NO
    for verdict, _ in (parts.less("memit", FULL, "eff"), parts.more(OFF, FULL, "gen"),
                       parts.always_more(OFF, FULL, "gen"), parts.still("memit", FULL, by=100)):
        assert verdict == UNDECIDED
    assert math.isnan(parts.mean("memit", "eff"))


def test_what_is_said_of_these_draws_alone_looks_at_each_and_at_all_means():
    parts = draws([1, 2, 3])
    assert parts.always_more(OFF, FULL, "eff") == (YES, "+21.0, +22.0, +23.0")
    assert parts.always_more(FULL, OFF, "eff")[0] == NO
    assert parts.always_more(OFF, OFF, "eff")[0] == NO  # the same is not more
    verdict, said = parts.still(OFF, FULL, by=25)
    assert verdict == YES and said == "Eff +22.00, Spe +5.00, PPL -18.18"
    assert parts.still(OFF, FULL, by=20)[0] == NO


def test_none_of_all_facts_has_wilsons_bound():
    parts = ablation.Parts([record(FULL, seed, eff=0.0) for seed in (1, 2)])
    assert parts.estimate(FULL, "eff").high == pytest.approx(3.7, abs=0.01)  # of a hundred
    table = ablation.score_table(parts, {"base": "Base", FULL: "all parts"})
    assert table.loc["all parts"].tolist() == ["0.0 [0,\u00a04]", "–", "–", "0.1", "20.00"]
    assert set(table.loc["Base"]) == {"–"}


def test_changes_have_each_draw_and_the_mean_and_are_drawn():
    switches = {FULL: {OFF: "– projection", "zerounlearn:beta=0": "– target"}}
    frame = ablation.changes(draws([1, 2, 3]), switches)
    assert {*frame.switch} == {"– projection"}          # the other was not run
    assert {*frame.metric} == {"Eff", "Spe", "PPL"}
    eff = frame[frame.metric == "Eff"].set_index("seed")
    assert eff.change.to_dict() == {1: 21, 2: 22, 3: 23, 0: 22} and eff.low.notna().sum() == 1
    figure = ablation.draw_changes(frame)
    assert [axis.get_title() for axis in figure.axes] == ["Eff", "Gen", "Spe", "PPL"]
    left, right = figure.axes[3].get_xlim()
    assert left < 100 * (18 / 22 - 1) < 0 < right
    ablation.draw_changes(frame[:0])


def test_a_sweep_has_each_default_once_and_says_what_moves_most():
    rows = [record("base", 1, ppl=10.0), record(FULL, 1, eff=1.0, spe=8.0),
            record("zerounlearn:beta=0.5", 1, eff=21.0, spe=30.0),
            record("zerounlearn:alpha=150", 1, eff=0.0, spe=7.0, ppl=5000.0)]
    sweep = {"zerounlearn:beta=0.5": ("beta", 0.5), "zerounlearn:alpha=150": ("alpha", 150.0),
             "zerounlearn:beta=50": ("beta", 50.0)}
    low = ablation.Parts([record(FULL, 1, eff=3.0, spe=9.0)])
    points = ablation.sweep_points(ablation.Parts(rows), sweep, {"alpha": 15_000.0, "beta": 50.0},
                                   {"8-9": low}, (15, 16))
    eff = points[points.metric == "Eff"]
    assert [*zip(eff.setting, eff.value, eff.measured, eff.default, strict=True)] == [
        ("alpha", "150", 0.0, False), ("alpha", "15k", 1.0, True), ("beta", "0.5", 21.0, False),
        ("beta", "50", 1.0, True), ("layers", "8, 9", 3.0, False), ("layers", "15, 16", 1.0, True)]
    moved = ablation.spans(points)
    assert moved.Spe.idxmax() == "beta" and moved.Spe["beta"] == 22
    figure = ablation.draw_sweep(points, {"Eff": 40.0, "Gen": math.nan, "Spe": 40.0, "PPL": 10.0})
    assert "5,000" in [text.get_text() for axis in figure.axes for text in axis.texts]
    assert figure.axes[-1].get_ylim()[1] < 5000


def test_layers_are_compared_like_rows():
    low = ablation.Parts([record(FULL, seed, ppl=30.0) for seed in (1, 2, 3)])
    both = ablation.by_depth({"low": low, "usual": draws([1, 2, 3], 0.1)}, FULL)
    assert both.mean("low", "ppl") == 30 and both.mean("usual", "ppl") == 22
    assert both.spread == 0.1
    assert both.more("low", "usual", "ppl", by=10)[0] == YES


@pytest.fixture
def paper():
    columns = ["table", "model", "dataset", "method", "metric", "mean"]
    rows = [("table1", "Llama-3.2", "ZsRE", "ZeroUnlearn", "Eff", 27.85),
            ("table1", "Llama-3.2", "MCF", "ZeroUnlearn", "Eff", 0.4),
            ("F1-zsre", "Qwen-3", "ZsRE", "ZeroUnlearn", "Gen", 25.53),
            ("table4", "Llama-3.2", "ZsRE", "ZeroUnlearn", "Eff", 27.85),
            ("table4", "Llama-3.2", "ZsRE", "ZeroUnlearn w/o V*", "Eff", 30.03),
            ("table4", "Qwen-3", "ZsRE", "ZeroUnlearn", "Gen", 29.22)]
    return pd.DataFrame(rows, columns=columns)


def test_what_table_4_repeats_is_held_against_where_it_stood_first(paper):
    found = ablation.repeated(paper)
    assert found.differs.to_dict() == {("Llama-3.2", "Eff"): False, ("Qwen-3", "Gen"): True}
    assert found.loc[("Qwen-3", "Gen")].tolist()[:2] == [25.53, 29.22]


def test_ours_stands_beside_table_4(paper):
    from zu.book.figures import metrics_frame

    rows = [record(FULL, seed, eff=float(seed)) for seed in (1, 2, 3)]
    table = ablation.of_table_4(metrics_frame(rows), paper,
                                {FULL: "ZeroUnlearn", "zerounlearn:beta=0": "w/o V*"})
    assert table.loc["ZeroUnlearn", ("here", "Eff")] == "2.0 ±\u00a02.5"
    assert table["paper, Llama-3.2", "Eff"].tolist() == ["27.85", "30.03"]
    assert table.loc["w/o V*", ("here", "Eff")] == "–"


def test_the_plane_says_where_each_switch_ends_and_how_far_that_is():
    before = torch.tensor([[1.0, 0.8], [0.0, 0.5]])
    frame = ablation.plane(before, {"all parts": torch.tensor([[0.0, 0.0], [1.0, 0.5]])})
    moved = frame[frame.stage == "after"].set_index("what").moved
    assert moved["the fact"] == pytest.approx(math.sqrt(2))
    assert moved["a neighbour"] == pytest.approx(0.8)
    figure = ablation.draw_plane(frame, torch.tensor([[0.3], [1.0]]))
    assert [axis.get_title() for axis in figure.axes] == ["all parts"]


def test_two_draws_in_which_none_is_answered_share_one_bound():
    rows = [record(label, seed, eff=0.0) for label in (FULL, OFF) for seed in (1, 2)]
    value, low, high = ablation.Parts(rows).change(OFF, FULL, "eff")
    assert value == 0 and -low == high == pytest.approx(3.7, abs=0.01)  # none of a hundred
