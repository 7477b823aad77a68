"""Many facts on their page: the room that they need, and scores by their number."""
import math

import pytest
import torch

from zu.book import figures, many_facts

pd = pytest.importorskip("pandas")


def record(method, seed, n, dataset="world-cloze", **metrics):
    scores = {"eff": 10.0, "gen": 5.0, "spe": 20.0, "hop": None, "ppl": 20.0} | metrics
    return {"model": "smollm2", "dataset": dataset, "method": method, "seed": seed, "n": n,
            "metrics": scores}


@pytest.fixture
def records():
    rows = []
    for n, eff in ((10, 20.0), (200, 4.0)):
        rows += [record("base", seed, n, eff=40.0, ppl=10.0) for seed in (1, 2, 3)]
        rows += [record("memit", seed, n, eff=eff + seed, ppl=10.0 + seed) for seed in (1, 2, 3)]
    return rows


@pytest.fixture
def paper():
    columns = ["table", "model", "dataset", "method", "metric", "mean", "std"]
    rows = [("table2", model, "MCF", label, "Eff", value, 0.0)
            for model in ("Llama-3.2", "Qwen-3")
            for label, value in (("Base", 22.1), ("MEMIT", 13.8), ("GA", 0.0))]
    return pd.DataFrame(rows, columns=columns)


def test_each_lemma_has_its_room_and_no_fact_takes_more_than_there_is():
    table = many_facts.room(200, 576, 768, 1536).set_index(["space", "what"]).directions
    assert table["values"].to_dict() == {"taken": 200, "left": 376}
    assert table["keys"].to_dict() == {"used": 200, "free": 568, "protected": 768}
    full = many_facts.room(1000, 576, 768, 1536).set_index("what").directions
    assert full["left"] == full["free"] == 0 and full["taken"] == 576


def test_the_schematic_fills_as_much_as_is_taken():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_hex

    figure = many_facts.draw_room(many_facts.room(144, 576, 768, 1536))
    left, right = ([to_hex(bar.get_facecolor()).upper() for bar in axis.patches]
                   for axis in figure.axes)
    assert len(left) == 400 and left.count(figures.PALETTE["zerounlearn"].upper()) == 100
    assert len(right) == 20 * round(1536 / 576 * 20)  # squares of the same size
    assert right.count("#FFFFFF") > right.count(figures.PALETTE["exact"].upper()) > 0
    plt.close("all")


def test_directions_are_counted_in_either_space_until_it_is_full():
    random = torch.Generator().manual_seed(0)
    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    W, K, Q = draw(6, 20), draw(20, 15), torch.linalg.qr(draw(20, 10)).Q
    K[:, 2] = K[:, 1]  # two facts with one key
    table = many_facts.directions(K, W, Q, [2, 3, 15, 99])
    assert table.index.tolist() == [2, 3, 15]
    assert table["values"].tolist() == [2, 2, 6] and table["keys"].tolist() == [2, 2, 10]
    K[:, 0] *= 1000  # nearly all of the energy
    assert (many_facts.directions(K, W, Q, [15]).most == 1).all()


def test_a_rise_of_perplexity_is_taken_draw_by_draw(records):
    many = [row for row in records if row["n"] == 200]
    found = many_facts.rise(many, "memit")
    mean = 100 * ((1.1 * 1.2 * 1.3) ** (1 / 3) - 1)
    assert found.value == pytest.approx(mean) and found.low < found.value < found.high
    other = many_facts.rise([*many, record("ga", 1, 200, ppl=22.0)], "ga", "memit")
    assert other.value == pytest.approx(100) and math.isnan(other.low)  # one draw in common
    assert all(map(math.isnan, many_facts.rise(many, "rome")))
    borrowed = many_facts.rise([*many, record("ga", 1, 200, ppl=22.0)], "ga", "memit", 0.1)
    assert borrowed.low == pytest.approx(100 * (2 * math.exp(-0.1) - 1))
    assert borrowed.low < 100 < borrowed.high


def test_a_share_of_base_changes_in_each_draw(records):
    few, many = ([row for row in records if row["n"] == n] for n in (10, 200))
    change = many_facts.changes(few, many, "memit", "eff")
    assert change == {seed: pytest.approx(-40) for seed in (1, 2, 3)}  # 16 points of 40
    assert many_facts.changes(few, many, "rome", "eff") == {}
    assert many_facts.changes(few, many[:0], "memit", "eff") == {}


def test_those_that_forget_are_held_against_base():
    rows = [record("base", 1, 50, eff=40.0, gen=30.0, spe=40.0, ppl=10.0),
            record("ga", 1, 50, eff=0.0, spe=0.0), record("ft", 1, 50, eff=4.0, spe=10.0),
            record("memit", 1, 50, eff=4.1)]
    silent = many_facts.forgetting(figures.metrics_frame(rows))
    assert silent.index.tolist() == ["ft", "ga"]
    assert silent.loc["ft", ["Eff", "Spe", "PPL"]].tolist() == pytest.approx([10, 25, 2])
    assert many_facts.forgetting(figures.metrics_frame(rows[1:])).empty


def test_the_paper_stands_beside_the_most_facts(records, paper):
    names = {"base": "Base", "memit": "MEMIT"}
    frame = figures.metrics_frame(records)
    table = many_facts.score_tables(frame, names, paper)
    assert table.index.tolist() == [("10 facts", "Base"), ("10 facts", "MEMIT"),
                                    ("200 facts", "Base"), ("200 facts", "MEMIT")]
    assert table["the paper", "Eff"].tolist() == ["–", "–", "22.1", "13.8"]
    assert table["here", "Eff"].tolist()[3].startswith("6.0 ±")
    wide = many_facts.beside_the_paper(frame, names, paper)
    assert wide.index.tolist() == ["Base", "MEMIT", "GA"]
    assert wide["Qwen-3", "Eff"].tolist() == ["22.10", "13.80", "0.00"]
    assert wide["here", "Eff"]["GA"] == "–"
    assert many_facts.beside_the_paper(frame[:0], names, paper).empty


def test_two_data_sets_keep_apart(records, paper):
    frame = figures.metrics_frame([*records, record("base", 1, 10, "world-hops", spe=None)])
    table = many_facts.score_tables(frame, {"base": "Base", "memit": "MEMIT"}, paper)
    assert table.index.nlevels == 3 and ("10 facts", "world-hops (paper: MQuAKE)",
                                         "Base") in table.index


def test_curves_have_a_row_per_data_set_and_no_panel_without_numbers(records):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    frame = figures.metrics_frame([*records, record("base", 1, 10, "world-hops", spe=None)])
    figure = many_facts.draw_curves(frame, {"base": "Base", "memit": "MEMIT"})
    titles = [axis.get_title("left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["Eff, world-cloze", "Gen", "Spe", "PPL", "Eff, world-hops", "Gen", "PPL"]
    line = figure.axes[0].lines[2]  # behind Base's line and dots
    assert line.get_ydata().tolist() == [22, 6]
    assert [text.get_text() for text in figure.legends[0].texts] == ["Base", "MEMIT"]
    table = pd.DataFrame({"values": [2, 6], "most": [1, 3], "keys": [2, 9]}, [2, 9])
    drawn = many_facts.draw_directions(table, 6, 10)
    assert len(drawn.axes[0].lines) == 5
    plt.close("all")
