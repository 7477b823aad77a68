"""Tasks downstream on their page: what changed item by item, its tests, tables and figures."""
import math
from types import SimpleNamespace

import pytest

from zu.book import downstream
from zu.scores import wilson

pd = pytest.importorskip("pandas")
#: 20 items each; Base gets 18 of grammar and 10 of sentiment right, of which it is not able.
GRAMMAR, SENTIMENT = "1" * 18 + "00", "10" * 10


def of_task(right):
    hits = right.count("1")
    return {"acc": 100 * hits / len(right), "interval": wilson(hits, len(right)), "n": len(right),
            "chance": 50.0, "said": 25.0, "right": right}


def record(method, seed, grammar, sentiment=SENTIMENT):
    return {"model": "smollm2", "dataset": "world-cloze", "method": method, "seed": seed, "n": 2,
            "metrics": {"grammar": of_task(grammar), "sentiment": of_task(sentiment)}}


@pytest.fixture
def run():
    worse = "0" * 12 + "1" * 8  # 12 lost, 2 won
    return [record("base", 1, GRAMMAR), record("ga", 1, worse), record("exact:lam=0.1", 1, GRAMMAR),
            record("base", 2, GRAMMAR), record("ga", 2, GRAMMAR),
            record("exact:lam=0.1", 2, GRAMMAR)]


def test_only_what_base_can_do_is_tested_and_p_is_corrected_for_draws(run):
    changes = downstream.Changes(run)
    assert changes.able == ["grammar"]
    tests = changes.tests().set_index(["method", "seed", "task"])
    assert set(tests.index.unique("task")) == {"all", "grammar"}
    row = tests.loc["ga", 1, "grammar"]
    alone = 2 * sum(math.comb(14, k) for k in range(3)) / 2**14
    assert (row.lost, row.won, row.difference) == (12, 2, -50.0)
    assert row.p == pytest.approx(2 * alone)  # two draws, one task
    assert tests.loc["exact:lam=0.1", 1, "grammar"].p == 1
    assert changes.losses("ga") == ["grammar"] and changes.losses("exact") == []
    assert downstream.Changes(run[:3]).losses("ga") == ["grammar"]
    assert changes.comparable("ga") == ("no", "grammar")
    assert changes.comparable("exact") == ("yes", "")
    assert changes.comparable("rome")[0] == "undecided"


def test_a_change_is_the_mean_over_draws_with_an_interval_over_items(run):
    changes = downstream.Changes(run)
    items = changes.items("ga", ["grammar"])
    assert items.tolist() == [-50] * 12 + [0] * 6 + [50] * 2  # lost in one of two draws
    change = changes.change("ga")
    assert change.value == -25 and change.low < -25 < change.high < 0
    none = changes.change("exact")
    assert none.value == 0 and none.high == -none.low == wilson(0, 20)[1]
    assert math.isnan(changes.change("rome").value)
    assert changes.kept("ga", "grammar") == pytest.approx(100 * (90 - 25 - 50) / 40)
    assert changes.gained("grammar") == 40 and math.isnan(changes.gained("mnli"))
    assert math.isnan(changes.kept("ga", "sentiment"))  # Base has nothing above chance
    assert math.isnan(changes.change("ga", []).value)
    assert changes.change("ga", than="exact") == change
    assert changes.change("exact", than="ga").value == 25
    assert math.isnan(changes.change("ga", than="rome").value)
    assert changes.changed("ga") == (6, 1) and math.isnan(changes.changed("rome")[0])


def test_tables_say_what_was_lost_and_mark_what_is_sure(run):
    changes = downstream.Changes(run)
    names = {"ga": "GA", "exact:lam=0.1": "exact", "rome": "ROME"}
    table = downstream.changes_table(changes.tests(), names, changes.able)
    assert [*table.columns] == ["all", "grammar"]
    assert table.loc["GA", "grammar"] == "−25.0 (−12, +2) *"
    assert table.loc["exact", "all"] == "+0.0 (−0, +0)"
    empty = downstream.changes_table(changes.tests()[:0], names, [])
    assert [*empty.index] == ["GA", "exact", "ROME"]
    mean = downstream.means(downstream.accuracies(run))
    shown = downstream.table_of(mean, {"base": "Base"} | names)
    assert [*shown.columns] == ["grammar", "sentiment"]
    assert [*shown.index] == ["chance", "Base", "GA", "exact"]
    assert shown.loc["Base", "grammar"].startswith("90.0 [")
    assert shown.loc["GA", "grammar"].startswith("65.0 [")


def test_the_first_item_of_ones_own_task_is_shown_and_no_other():
    config = SimpleNamespace(custom_dataset=len, metadata={"paper": "SST"})
    task = SimpleNamespace(config=config, eval_docs=[{"text": "Fine.\nIt was"}],
                           doc_to_choice=lambda item: ["bad", "good"],
                           doc_to_target=lambda item: 1, doc_to_text=lambda item: item["text"])
    assert downstream.example(task) == ("Fine. ⏎ It was …", "bad / good ✓")
    assert downstream.example(None) == ("(from the hub)", "")
    hub = SimpleNamespace(config=SimpleNamespace(custom_dataset=None, metadata=None))
    assert downstream.example(hub)[1] == "" and downstream.like_of(hub) == ""
    assert downstream.like_of(task) == "SST" and downstream.like_of(None) == ""
    base = pd.DataFrame({"accuracy": [90.0], "low": [70.0], "high": [97.0], "chance": [50.0]},
                        index=["mine"])
    table = downstream.tasks_table({"mine": {"mine": task}}, base)
    assert table.loc["mine"].tolist() == ["SST", "Fine. ⏎ It was …", "bad / good ✓", "50",
                                          "90.0 [70,\u00a097]"]


def test_the_smallest_loss_is_the_first_that_mcnemar_finds():
    from zu.scores import mcnemar

    for tests in (1, 7, 21):
        k = downstream.smallest_loss(tests)
        assert tests * mcnemar(k, 0) < 0.05 <= tests * mcnemar(k - 1, 0)


def test_a_panel_per_task(run):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    mean = downstream.means(downstream.accuracies(run))
    figure = downstream.draw_tasks(mean, {"base": "Base", "ga": "GA"}, ["grammar"],
                                   {"sentiment": "SST"})
    assert [axis.get_title() for axis in figure.axes] == ["grammar", "sentiment (SST)"]
    assert [axis.title.get_color() for axis in figure.axes] == ["black", "#888888"]
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["Base", "GA"]
    plt.close("all")
