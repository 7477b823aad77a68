"""Facts one after another on their page: the schematic, and scores both ways."""
import pytest

from zu.book import figures, one_by_one

pd = pytest.importorskip("pandas")


@pytest.fixture
def frame():
    rows = []
    for n in (1, 10):
        for method, eff in (("base", 40.0), ("memit", 20.0), ("memit, one by one", 30.0),
                            ("ga", 0.0)):
            scores = {"eff": eff + n, "gen": 1.0, "spe": None, "hop": None, "ppl": 5.0 * n}
            rows.append({"model": "smollm2", "dataset": "world-hops", "method": method, "seed": 1,
                         "n": n, "metrics": scores})
    return figures.metrics_frame(rows)


@pytest.fixture
def plt():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_the_books_have_one_more_key_after_each_edit(plt):
    boxes = one_by_one.books(3)
    assert boxes[boxes.what == "keys"]["keys"].tolist() == [0, 1, 2, 3]
    assert boxes[boxes.what == "weight"].x.is_monotonic_increasing
    axis = one_by_one.draw_books(boxes).axes[0]
    keys = [patch for patch in axis.patches if patch.get_width() == pytest.approx(0.08)]
    assert len(keys) == 6
    said = [text.get_text() for text in axis.texts]
    assert {"$W_0$", "$W_3$", "one edit of all", "edit 3\n$(k_3, v_3)$"} <= {*said}


def test_only_what_was_run_both_ways_is_compared(frame):
    assert one_by_one.in_turn(frame) == ["memit"]


def test_the_table_has_base_first_and_what_was_not_measured_is_none(frame):
    table = one_by_one.turn_table(frame, ["memit"])
    assert table.index.tolist() == [(n, row) for n in (1, 10)
                                    for row in ("Base", "MEMIT", "MEMIT, one by one")]
    assert table.loc[(10, "MEMIT, one by one"), "Eff"] == 40 and table.Spe.isna().all()
    assert [*table.columns] == ["Eff", "Gen", "Spe", "PPL"]
    assert len(one_by_one.turn_table(frame, ["memit", "rome"])) == 6  # a row that is not there


def test_the_figure_has_both_ways_of_each_method(frame, plt):
    figure = one_by_one.draw_turns(frame, ["memit"])
    eff, _, spe, ppl = figure.axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in eff.lines}
    assert lines == {"Base": [41, 50], "MEMIT, one by one": [31, 40], "MEMIT, at once": [21, 30]}
    assert ppl.get_yscale() == "log"  # from 5 to 50
    assert all(len(line.get_ydata()) == 0 for line in spe.lines)
