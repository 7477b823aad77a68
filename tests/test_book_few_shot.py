"""Few-shot unlearning on its page: means of draws, by data set, and a picture of one edit."""
import math

import pytest
import torch

from zu.book import few_shot, figures
from zu.data.facts import Fact

pd = pytest.importorskip("pandas")


def record(method, seed, dataset="world-cloze", **metrics):
    scores = {"eff": 10.0, "gen": None, "spe": None, "hop": None, "ppl": 20.0} | metrics
    return {"model": "smollm2", "dataset": dataset, "method": method, "seed": seed, "n": 2,
            "metrics": scores}


@pytest.fixture
def frame():
    rows = [record("base", seed, eff=40.0, ppl=10.0) for seed in (1, 2, 3)]
    rows += [record("memit", seed, eff=eff) for seed, eff in ((1, 1.0), (2, 2.0), (3, 6.0))]
    rows += [record("base", 1, "world-hops", eff=50.0, hop=30.0)]
    return figures.metrics_frame(rows)


@pytest.fixture
def paper():
    columns = ["table", "model", "dataset", "method", "metric", "mean", "std"]
    rows = [("table1", "Llama-3.2", "MCF", label, "Eff", value, 0.0)
            for label, value in (("Base", 18.2), ("MEMIT", 17.0), ("GA", 2.0), ("FT", 0.5))]
    return pd.DataFrame(rows, columns=columns)


def test_a_mean_has_the_interval_of_its_draws_and_never_mixes_data_sets(frame):
    means = few_shot.averages(frame)
    value, half, draws = means.loc["smollm2", "world-cloze", "memit", "Eff"]
    assert (value, draws) == (3.0, 3)
    assert half == pytest.approx(4.3027 * math.sqrt(7) / math.sqrt(3), rel=1e-4)  # t(0.975; 2)
    hops = means.loc["smollm2", "world-hops", "base"]
    assert hops.loc["Hop", "value"] == 30 and math.isnan(hops.loc["Hop", "half"])
    assert ("smollm2", "world-cloze", "memit", "Gen") not in means.index  # not measured


def test_the_table_stands_beside_the_papers_and_shows_only_what_was_measured(frame, paper):
    names = {"base": "Base", "memit": "MEMIT", "rome": "ROME"}
    table = few_shot.score_table(few_shot.averages(frame), names, paper)
    assert [*table.index] == [("world-cloze (paper: MCF)", "Base"),
                              ("world-cloze (paper: MCF)", "MEMIT"),
                              ("world-hops (paper: MQuAKE)", "Base")]
    assert [*table.columns] == [("here", "Eff"), ("here", "Hop"), ("here", "PPL"),
                                ("the paper", "Eff")]
    assert table.loc[("world-cloze (paper: MCF)", "MEMIT"), ("here", "Eff")] == "3.0 ±\u00a06.6"
    assert table.iloc[2, 0] == "50.0" and table.iloc[2, 3] == "–"
    assert table.iloc[1, 3] == "17.0"


def test_none_of_all_draws_has_wilsons_bound_and_a_cap_is_printed_as_one(paper):
    rows = [record("ga", seed, eff=0.0) for seed in (1, 2, 3)]
    means = few_shot.averages(figures.metrics_frame(rows))
    assert means.loc["smollm2", "world-cloze", "ga", "Eff"].half == pytest.approx(39.0, abs=0.1)
    capped = paper.assign(**{"mean": 1000.0})
    table = few_shot.score_table(means, {"ga": "GA"}, capped)
    assert table.iloc[0].tolist() == ["0 (≤\u00a039.0)", "20.0 ±\u00a00.0", ">1000"]


def test_orders_leave_base_out_and_correct_for_many(paper):
    effs = {"base": 40.0, "memit": 20.0, "ga": 1.0, "ft": 0.5}
    rows = [record(method, seed, eff=eff + seed) for method, eff in effs.items()
            for seed in (1, 2)]
    found = few_shot.orders(few_shot.averages(figures.metrics_frame(rows)), paper)
    assert found.loc[("world-cloze", "Eff"), "τ"] == 1 and found.methods.tolist() == [3]
    assert found["p (Holm)"].tolist() == found.p.tolist()  # of one
    nothing = few_shot.orders(few_shot.averages(figures.metrics_frame(rows)), paper[:0])
    assert len(nothing) == 0 and "p (Holm)" in nothing


def test_the_plane_of_an_edit_has_the_old_value_and_what_is_new():
    before = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    ridge = before + torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    after = ridge.clone()
    after[0] = 0  # the old direction is projected away, of both subjects
    steps = few_shot.plane([before, ridge, after]).set_index(["step", "subject"])
    assert steps.loc["before"].to_numpy().tolist() == [[1, 0], [0.5, 0]]
    assert steps.loc["ridge"].loc[0].tolist() == [1, 1.5]
    assert steps.loc["projection"].to_numpy().tolist() == [[0, 1.5], [0, 1.5]]
    way = few_shot.moved(steps.reset_index())
    assert way["left"] == 0 and way["others"] == 0.5
    assert way["others_moved"] == pytest.approx(math.hypot(0.5, 1.5))


def test_a_fact_of_ones_own_stays_out_of_the_page():
    fact = Fact(prompt="{} lies in", subject="Lima", target="Peru")
    assert few_shot.shown_fact(fact, "world-cloze") == "“Lima lies in … Peru”"
    assert "Lima" not in few_shot.shown_fact(fact, "facts.jsonl")


def test_first_choices_can_be_hidden(tiny):
    model, tokenizer = tiny
    shown = few_shot.first_choices(model, tokenizer, [1, 2, 3])
    hidden = few_shot.first_choices(model, tokenizer, [1, 2, 3], hide=True)
    assert shown[1] == hidden[1] == sorted(shown[1], reverse=True) and len(shown[0]) == 5
    assert hidden[0] == [f"token {i}" for i in range(1, 6)]


def test_figures_draw_each_method_and_data_set(frame):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = few_shot.draw_scores(frame, {"base": "Base", "memit": "MEMIT"})
    titles = [axis.get_title("left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["Eff, world-cloze", "PPL", "Eff, world-hops", "Hop", "PPL"]
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["Base", "MEMIT"]
    two = few_shot.draw_scores(pd.concat([frame, frame.assign(model="other")]), {"base": "Base"})
    titles = [axis.get_title("left") for axis in two.axes if "Eff" in axis.get_title("left")]
    assert titles == ["Eff, world-cloze, smollm2", "Eff, world-hops, smollm2",
                      "Eff, world-cloze, other", "Eff, world-hops, other"]
    before = torch.eye(3, dtype=torch.float64)[:, :2]
    steps = few_shot.plane([before, before + 1, before + 2])
    says = [(["a", "$"], [0.6, 0.2]), (["b", "c"], [0.9, 0.1])]
    drawn = few_shot.draw_edit(says, steps, 7)
    assert [axis.get_title() for axis in drawn.axes] == ["before", "layer 7", "after"]
    assert [x.get_text() for x in drawn.axes[0].get_yticklabels()] == ["a", r"\$"]
    plt.close("all")


def test_a_sentence_is_decided_draw_by_draw():
    rows = [record(m, seed, eff=eff + 10 * seed, n_eff=2, interval_eff=[0, 50])
            for seed in (1, 2, 3) for m, eff in (("base", 50.0), ("memit", 30.0), ("ga", 50.1))]
    scores = few_shot.Scores(rows)
    assert scores.mean("memit", "eff") == 50 and math.isnan(scores.mean("rome", "eff"))
    assert math.isnan(scores.mean("memit", "gen"))
    assert scores.share("memit", "eff") == pytest.approx(100 * 50 / 70)
    assert scores.answered("memit") == (3, 6)  # 40, 50 and 60% of two each
    assert scores.below("memit", "base", "eff")[0] == "yes"
    assert scores.below("memit", "base", "eff", by=21)[0] == "no"
    assert scores.below("memit", "base", "eff", share=0.5)[0] == "no"
    assert scores.below("ga", "base", "eff")[0] == "no"  # by a tenth of a point, in each draw
    assert scores.below("rome", "base", "eff") == ("undecided", "not run")
