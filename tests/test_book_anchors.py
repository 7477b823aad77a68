"""Anchors on their page: what a picture shows, which settings a rule takes, which goals are met."""
import math

import pytest

from zu.book import anchors
from zu.book.verdicts import Measured

pd = pytest.importorskip("pandas")


def record(method, seed=1, settings=None, reach=None, **metrics):
    scores = {"eff": 0.0, "gen": 10.0, "spe": 30.0, "ppl": 18.0} | metrics
    scores |= {f"interval_{key}": [0.0, 50.0] for key in ("eff", "gen", "spe")} | {"n_eff": 10}
    if reach is not None:
        scores["reach"] = reach
    return {"model": "smollm2", "dataset": "world-cloze", "method": method, "seed": seed, "n": 10,
            "settings": settings or {}, "metrics": scores}


def base(seed=1, **metrics):
    return record("base", seed, **({"eff": 40.0, "gen": 30.0, "spe": 40.0} | metrics))


def test_anchors_turn_the_line_that_is_held_still_towards_themselves():
    frame = anchors.idea()
    frame["moved"] = frame.moved.abs()
    median = frame.groupby(["panel", "what"]).moved.median().unstack()
    before, after = median.loc[anchors.PANELS[0]], median.loc[anchors.PANELS[1]]
    assert before["anchor"] > 5 * after["anchor"]
    assert min(before["to forget"], after["to forget"]) > 50
    none = anchors.idea(weight=0.0)  # anchors of no weight are none
    left, right = (some for _, some in none.groupby("panel", sort=False))
    assert left.moved.tolist() == right.moved.tolist()


def test_rows_stand_in_pairs_and_what_was_not_measured_is_a_dash():
    reach = {"near": 50.0, "far": None}
    rows = [base(reach=reach), record("memit", reach=reach),
            record("exact:lam=0.1", reach=reach, gen=None),
            record("memit+anchors", reach=reach, spe=35.0),
            record("exact+anchors:lam=0.1", reach=reach)]
    table = anchors.pairs_table(rows, ("near", "far"))
    assert [told for _, told in table.index] == ["", "without", "with", "without", "with"]
    assert table.near.tolist() == ["50"] * 5 and table.far.tolist() == ["–"] * 5
    assert table.Spe.tolist()[1:3] == ["30.0 [0,\u00a050]", "35.0 [0,\u00a050]"]
    flat = anchors.tidy(rows, ("near", "far"))
    assert len(flat) == 5 * 5 - 1  # Gen of one row was not measured, "far" of none
    assert flat[flat.metric == "Spe"].value.tolist() == [40, 30, 30, 35, 30]


def test_goals_follow_base_and_an_unmeasured_score_reaches_none():
    bounds = anchors.wanted(base()["metrics"])
    assert bounds == {"eff": 2.0, "gen": pytest.approx(10), "spe": 36.0, "ppl": pytest.approx(18.9)}
    good = {"eff": 2.0, "gen": 9.0, "spe": 36.0, "ppl": 18.0}
    assert anchors.meets(good, bounds)
    for worse in ({"eff": 2.1}, {"gen": 11.0}, {"spe": 35.0}, {"ppl": 19.0}, {"gen": None}):
        assert not anchors.meets(good | worse, bounds)
    assert math.isnan(anchors.wanted(base(gen=None)["metrics"])["gen"])


def test_the_rule_takes_the_most_spe_among_the_lowest_eff_and_a_third_of_gen():
    rows = [base(seed) for seed in (1, 2)]
    for seed, more in ((1, 1.0), (2, -1.0)):
        rows += [record("a", seed, {"weight": 1, "bare": 3}, spe=31 + more, gen=9.0),
                 record("b", seed, {"bare": 1}, spe=30 + more, gen=10.0),
                 record("c", seed, {"bare": 0}, spe=39 + more, gen=11.0),       # too much Gen
                 record("d", seed, {"bare": 6}, spe=38 + more, gen=9.0, eff=5.0)]  # and Eff
    table = anchors.tried(rows, {"weight": 0.5})
    assert table.index[0] == "Base" and table.Spe["weight 1, bare 3"] == 31
    able = anchors.by_rule(table)
    assert [*able.index] == ["weight 1, bare 3", "weight 0.5, bare 1"]


def test_the_kept_run_is_known_by_a_label_and_says_what_its_names_meant():
    then = [base(), record("anchored+anchors"), record("zerounlearn"),
            record("anchored+anchors:weight=1,rounds=0,bare=3",
                   settings={"weight": 1, "rounds": 0, "bare": 3})]
    names = anchors.names_of(then)
    assert [*names] == ["base", "zerounlearn", "anchored+anchors",
                        "anchored+anchors:weight=1,rounds=0,bare=3"]
    assert names["anchored+anchors"] == "anchored: weight 0.1, rounds 3, bare 3"
    now = anchors.names_of(then[:3])
    assert now["anchored+anchors"] == "anchored: weight 1, rounds 0, bare 3"


@pytest.fixture
def draws():
    rows = []
    for seed in range(1, 6):
        rows += [base(seed),
                 record("zerounlearn", seed, spe=10.0 + seed, ppl=20.0 + seed / 10, gen=7.0 + seed),
                 record("anchored+anchors", seed, spe=38 + seed / 10, gen=10.0 + seed - 3)]
    return rows


def test_a_goal_is_met_or_missed_only_by_the_whole_interval(draws):
    lacks = anchors.lacking(Measured(draws), "anchored+anchors")
    assert lacks["spe"].value == pytest.approx(36 - 38.3) and lacks["spe"].high < 0
    assert lacks["gen"].low < 0 < lacks["gen"].high
    assert lacks["eff"].low == pytest.approx(-2) and lacks["eff"].high > 0  # of 50 facts
    assert lacks["ppl"].value == pytest.approx(100 * (1 / 1.05 - 1))
    frame = anchors.goals(draws)
    verdicts = frame.set_index(["method", "metric"]).verdict
    assert verdicts["anchored+anchors"].tolist() == ["undecided", "undecided", "yes", "yes"]
    assert verdicts["zerounlearn"].tolist() == ["undecided", "undecided", "no", "no"]
    assert verdicts["base"].tolist() == [""] * 4
    table = anchors.goal_table(frame)
    assert [*table.columns] == ["Eff (≤\u00a02.0)", "Gen (≤\u00a010.0)", "Spe (≥\u00a036.0)",
                                "PPL (≤\u00a018.9)"]
    assert table.loc["ZeroUnlearn"].iloc[2] == "13.0: no" and table.loc["Base"].iloc[2] == "40.0"


def test_one_draws_perplexity_decides_nothing():
    lacks = anchors.lacking(Measured([base(), record("zerounlearn", ppl=30.0)]), "zerounlearn")
    assert lacks["ppl"].low == -100 and math.isinf(lacks["ppl"].high)


def test_figures_have_a_panel_for_each_score_and_a_row_for_each_method(draws):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    assert [axis.get_title() for axis in anchors.draw_idea(anchors.idea()).axes] == [
        *anchors.PANELS]
    figure = anchors.draw_goals(anchors.goals(draws))
    assert [axis.get_title() for axis in figure.axes] == ["Eff", "Gen", "Spe", "PPL"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["ZeroUnlearn", "anchored: weight 1, rounds 0, bare 3"]
    rows = [base(), record("ga", ppl=90.0), record("memit"), record("memit+anchors")]
    points = anchors.front(rows, {"GA": ["ga"], "MEMIT": ["memit", "memit+anchors"]})
    assert points.line.tolist() == ["Base", "GA", "MEMIT", "MEMIT"]
    drawn = anchors.draw_front(points, anchors.wanted(rows[0]["metrics"]))
    assert drawn.axes[1].get_xscale() == "log"
    hollow = [line for line in drawn.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1  # MEMIT without anchors; GA takes none
    plt.close("all")


def test_scores_that_were_not_measured_are_no_reason_to_fail():
    import matplotlib.pyplot as plt

    rows = [base(gen=None), record("ga", gen=None)]
    points = anchors.front(rows, {"GA": ["ga"]})
    assert points.Gen.isna().all()
    anchors.draw_front(points, anchors.wanted(rows[0]["metrics"]))
    plt.close("all")
