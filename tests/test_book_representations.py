"""What moved, on its page: the hash of its measures, its tables and its pictures."""
import importlib.util
import math

import pytest

from zu.book import representations

PLAIN = "def f(x):\n    return x + 1\n\ndef g(x):\n    return f(x) * 2\n"
SAID = ('def f(x):\n    """Add one."""\n    # to what is given\n    return x + 1  # one\n\n'
        'def g(x):\n    return (\n        f(x) * 2)\n')


def functions(text, tmp_path, name):
    """The functions f and g of a module with a source of its own."""
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module.f, module.g]


def test_a_hash_of_measures_sees_what_they_do_and_not_what_is_said_of_them(tmp_path):
    plain, said, other = (functions(text, tmp_path, name) for name, text in (
        ("plain", PLAIN), ("said", SAID), ("other", PLAIN.replace("x + 1", "x + 2"))))
    assert representations.digest(plain) == representations.digest(said)
    assert representations.digest(plain) == representations.digest(plain[::-1])
    assert representations.digest(plain) != representations.digest(other)
    assert representations.digest(plain) != representations.digest(plain[:1])


def record(method, seed, size=0.5, mixing=0.1):
    place = {"size": [size, size - 0.1, size + 0.1], "mixing": [mixing, 0.0, 0.3],
             "common": [None, None, None], "apart": [0.9, 0.8, 1.0],
             "left": [0.02, 0.01, 0.03], "mixing_plane": [0.4, 0.3, 0.5],
             "cosine": [-0.2, -0.3, -0.1],
             "old": [[0, 0], [1, 0], [0, 1]], "new": [[2, 2], [3, 2], [2, 3]],
             "own_old": [[0, 1], [1, 1], [0, 2]], "own_new": [[5, 2], [6, 2], [5, 3]]}
    metrics = {group: {"7": place, "hidden": place} for group in ("forget", "others")}
    return {"model": "smollm2", "dataset": "world-cloze", "n": 3, "method": method, "seed": seed,
            "metrics": metrics}


@pytest.fixture
def run():
    return [record("base", 1, 0.0), record("memit", 1), record("exact:lam=0.1", 1, 0.8),
            record("base", 2, 0.0), record("memit", 2, 0.7), record("exact:lam=0.1", 2, 0.8)]


def test_measures_are_in_percent_and_coordinates_are_none(run):
    frame = representations.tidy(run)
    assert set(frame.measure) == {"size", "mixing", "common", "apart", "left", "mixing_plane",
                                  "cosine"}
    row = frame[(frame.method == "memit") & (frame.seed == 1) & (frame.place == "7")
                & (frame.facts == "others") & (frame.measure == "size")].iloc[0]
    assert (row.value, row.low, row.high) == pytest.approx((50, 40, 60))
    assert frame[frame.measure == "common"].value.isna().all()
    assert len(frame) == 6 * 2 * 2 * 7


def test_a_sentence_rests_on_draws_or_on_the_facts_of_one(run):
    moves = representations.Moves(representations.tidy(run), "7")
    value, low, high = moves.estimate("memit", "size")
    assert value == pytest.approx(60) and low == pytest.approx(60 - 12.7062 * 10, abs=0.01)
    one = representations.Moves(representations.tidy(run[:3]), "7")
    assert one.estimate("memit", "size") == pytest.approx((50, 40, 60))
    assert one.estimate("exact", "size", "others", "hidden").value == pytest.approx(80)
    assert one.least(["memit", "exact"], "size", 40)[0] == "yes"
    assert one.least(["memit", "exact"], "size", 65)[0] == "no"
    assert one.most(["memit"], "size", 50)[0] == "undecided"
    assert one.most(["rome"], "size", 50)[0] == "undecided"
    assert math.isnan(one.mean("memit", "common"))


def test_of_two_rows_of_a_method_the_first_counts(run):
    two = [*run[:3], record("memit:lam=2", 1, 0.9)]
    assert representations.Moves(representations.tidy(two), "7").mean("memit", "size") == 50


def test_the_table_has_an_interval_or_a_range(run):
    names = {"base": "Base", "memit": "MEMIT"}
    frame = representations.tidy(run)
    table = representations.table_of(frame, names, "7")
    assert table.loc[("MEMIT", "others"), "Size, %"] == "60 [50,\u00a070]"
    assert table.loc[("MEMIT", "to forget"), "Common, %"] == "–"
    one = representations.table_of(frame[frame.seed == 1], names, "7")
    assert one.loc[("MEMIT", "to forget"), "Size, %"] == "50 [40,\u00a060]"
    assert one.loc[("MEMIT", "to forget"), "Cosine, %"] == "−20 [−30,\u00a0−10]"


def test_pictures_have_the_points_of_one_draw(run):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    points = representations.points(run, 1)
    assert len(points) == 3 * 2 * 2 * 2 * 2 * 3 and set(points.method) == {
        "base", "memit", "exact:lam=0.1"}
    names = {"memit": "MEMIT", "exact:lam=0.1": "exact Lemma"}
    fixed = points[(points.plane == "of the old outputs") & (points.place == "7")]
    figure = representations.draw_clouds(fixed, names, (0.5, -0.5), (60.0, 20.0))
    assert [axis.get_title() for axis in figure.axes] == ["MEMIT", "exact\nLemma", "", ""]
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "+"]
    assert [line.get_xdata()[0] for line in crosses] == [0.5]
    new = figure.axes[0].collections[1].get_offsets().tolist()
    assert new == [[2, 2], [3, 2], [2, 3]]
    own = representations.draw_own(points[points.plane == "its own"], names, ["7"])
    assert len(own.axes) == 2
    layers = representations.draw_layers(representations.tidy(run), names, ["7", "hidden"])
    assert len(layers.axes) == 2 * len(representations.PANELS)
    assert [axis.get_title() for axis in layers.axes[:2]] == ["layer 7", "state after it"]
    plt.close("all")


def test_a_projection_is_drawn_before_and_after():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import torch

    clouds = {"to forget": torch.tensor([[1.0, 2.0, 0.0]]), "others": torch.tensor([[0.0, 0.0, 1]])}
    figure = representations.draw_projection(clouds, clouds)
    left = [line for line in figure.axes[0].lines if line.get_label() == "to forget"]
    assert left[0].get_xydata().tolist() == [[2.0, pytest.approx(0.7)]]
    plt.close("all")
