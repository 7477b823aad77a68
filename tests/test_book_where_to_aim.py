"""What the chapter on targets draws is what its frames say, and its frames what was measured."""
import pytest
import torch

from zu.book import where_to_aim as aim
from zu.data.facts import Fact


@pytest.fixture(autouse=True)
def agg():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield
    plt.close("all")


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


FACTS = [Fact("Peru", "The capital of {} is", "Lima"), Fact("Chad", "{} speaks", "French")]


def test_the_text_of_ones_own_facts_stays_out_of_the_page():
    shown, hidden = aim.facts_of(FACTS, False), aim.facts_of(FACTS, True)
    assert shown.loc["Peru"].to_list() == ["The capital of Peru is", "Lima"]
    rows = aim.rows_of(Letters(), [([0, 1, 2], 1), ([1, 2], 0)], [2], True)
    chances = {"fact 1": torch.tensor([0.1, 0.9])}
    tops = aim.likeliest(Letters(), chances, True, count=1)
    said = [*hidden.index, *hidden.to_numpy().ravel(), *rows.text, tops.loc["fact 1", 1]]
    assert said == ["fact 1", "fact 2", *"…" * 6, "… (0.9)"]


def test_the_rows_say_where_delta_goes_and_where_a_goal_is_read():
    rows = aim.rows_of(Letters(), [([0, 1, 2], 1), ([1, 2], 0)], [2], False)
    assert rows.to_numpy().tolist() == [["abc", 3, 1, 2], ["bc", 2, 0, 0]]


def test_the_likeliest_token_comes_first():
    table = aim.likeliest(Letters(), {"x": torch.tensor([0.2, 0.7, 0.1])}, False, count=2)
    assert table.loc["x"].to_list() == ["b (0.7)", "a (0.2)"]


def test_the_three_terms_have_one_subject_a_prompt_and_boxes_that_do_not_overlap():
    boxes = aim.wish_boxes()
    for number, row in boxes.groupby("prompt"):
        assert (row.role == "subject").sum() == 1
        assert (row.role == "goal").sum() == (number < 2)
        assert ((row.x + row.width).iloc[:-1].to_numpy() < row.x.iloc[1:].to_numpy()).all()
    figure = aim.draw_wish(boxes, 0.75)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts.count("+ δ") == 3 and texts.count("say the goal") == 2
    assert texts.count("stay what you are") == 1 and "‖δ‖ ≤ 0.75 ‖h‖" in texts


def test_a_state_is_run_again_only_right_of_the_subject_and_above_the_layer():
    cells = aim.suffix_cells(["a", "b", "c", "d"], subject=2, layers=5, layer=1)
    of = cells.set_index(["token", "layer"]).kind
    for token in range(4):
        for layer in range(5):
            again = token >= 2 and layer > 1
            assert (of[token, layer] == "run again for each δ") == again
            kept = token < 2 and layer > 1
            assert (of[token, layer] == "run once, its keys and values kept") == kept
    assert of[2, 1] == "changed by δ" and (of == "changed by δ").sum() == 1
    assert of[3, 5] == "logits that are read" and (of == "logits that are read").sum() == 1
    figure = aim.draw_suffix(cells)
    boxes = [x for x in figure.axes[0].patches if hasattr(x, "get_boxstyle")]
    assert len(boxes) == len(cells)
    words = [x.get_text() for x in figure.axes[0].get_xticklabels()]
    assert words == ["a", "b", "c", "d"]


def test_each_fact_and_rate_has_its_line():
    losses = {"slow": torch.tensor([[4.0, 5.0], [3.0, 5.0]]),
              "fast": torch.tensor([[4.0, 5.0], [1.0, 2.0]])}
    curves = aim.curves_of(losses)
    assert len(curves) == 8
    row = curves[(curves.rate == "fast") & (curves.fact == 2) & (curves.step == 1)]
    assert row["-log P"].item() == 2.0
    drawn = [[*line.get_ydata()] for line in aim.draw_curves(curves, 0.5).axes[0].lines]
    assert all(ys in drawn for ys in ([4, 3], [5, 5], [4, 1], [5, 2]))
    assert [0.5, 0.5] in drawn


def test_states_that_do_not_change_are_blank():
    change = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.25]])
    changes = aim.changes_of(change)
    assert changes["relative change"].sum() == 0.75 and len(changes) == 6
    (image,) = aim.draw_change(changes, 1, 1).axes[0].images
    assert image.get_array().tolist() == change.tolist()
    assert image.get_alpha().tolist() == [[0, 0, 0], [0, 1, 1]]


def test_the_work_of_a_step_is_counted_by_hand():
    # two questions of 5 and 4 tokens and "subject is a" of 3; the suffixes have 2, 3 and 3
    work = aim.work_of_step([5, 4, 3], [2, 3, 3], (2, 3), (10, 100))
    tokens, right = 3 * 5, 2 * 3 + 1
    assert work.to_list() == [2 * 2 * 10 * tokens, 4 * 3 * 10 * (tokens - right),
                              4 * 3 * 10 * right, 4 * 100 * (tokens - 3), 4 * 100 * 3]
    table = aim.savings_of(work)
    left = table.groupby("stage", sort=False)["operations a step"].sum()
    assert left.iloc[0] == work.sum() and (left.diff().iloc[1:] < 0).all()
    assert left.iloc[-1] == work.iloc[2] + work.iloc[4]
    figure = aim.draw_work(table)
    reach = {}
    for bar in figure.axes[0].patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        reach[row] = max(reach.get(row, 0), bar.get_x() + bar.get_width())
    assert [reach[i] for i in range(4)] == pytest.approx((left / 1e9).to_list())


def test_no_part_of_the_work_is_lost_between_the_stages():
    assert [*aim.SAVINGS["plain loop"]] == [*aim.PARTS]
    sizes = [len(parts) for parts in aim.SAVINGS.values()]
    assert sizes == [5, 4, 3, 2]


def test_answers_have_a_panel_for_each_probability():
    pd = pytest.importorskip("pandas")
    answers = pd.DataFrame([("a", "without", 0.1, 0.9), ("a", "with", 0.8, 1e-3),
                            ("b c", "with", 0.7, 1e-2)],
                           columns=["asked", "delta", "end", "truth"])
    figure = aim.draw_answers(answers, ["a", "b c"])
    assert [axis.get_title() for axis in figure.axes] == ["end", "truth"]
    assert all(axis.get_yscale() == "log" for axis in figure.axes)
    dots = [y for part in figure.axes[1].collections for _, y in part.get_offsets().tolist()]
    assert sorted(dots) == pytest.approx([1e-3, 1e-2, 0.9])


def test_two_ways_are_compared_draw_by_draw():
    rows = [{"method": "memit", "way": way, "seed": seed, "gen": 10 * seed + shift, "spe": 5.0}
            for way, shift in (("adam", 0.0), ("normalised", 2.0)) for seed in (1, 2, 3)]
    rows += [{"method": "base", "way": "base", "seed": 1, "gen": 50.0, "spe": 50.0}]
    table = aim.ways_apart(rows)
    assert table.index.to_list() == [("memit", "gen"), ("memit", "spe")]
    assert table.loc[("memit", "gen")].to_list() == [2.0, 2.0, 2.0]
    assert table.loc[("memit", "spe"), "value"] == 0
