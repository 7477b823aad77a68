"""Tables and pictures of what an edit costs, on shapes and times that are made up."""
import math

import pandas as pd
import pytest

import zu
from zu.book import cost


@pytest.fixture(autouse=True)
def no_window():
    pytest.importorskip("matplotlib").use("Agg")


def record(n, scale=1.0, model="small", device="cpu (x)"):
    seconds = {"moments": 7.0, "targets": 3 * n * scale, "traces": n * scale, "solve": 1.0,
               "SVD": 0.5}
    return {"model": model, "device": device, "n": n, "seconds": seconds,
            "peak_memory_bytes": n * 10**9}


def test_the_shape_is_that_of_the_models_matrices(tiny):
    shape = cost.shape_of(tiny[0], (1, 2))
    body, config = zu.models.decoder(tiny[0]), tiny[0].config
    assert (shape.d, shape.m) == (config.hidden_size, config.intermediate_size)
    assert shape.low == 3 and shape.low + shape.above == len(body.layers) and shape.edited == 2
    assert shape.head == config.vocab_size * config.hidden_size
    linear = [x for x in body.layers[0].modules() if hasattr(x, "in_features")]
    assert shape.layer == sum(x.in_features * x.out_features for x in linear)


def test_llama_has_3_2_billion_weights():
    one = cost.LLAMA_3B
    assert (one.low + one.above) * one.layer + one.head == pytest.approx(3.21e9, rel=2e-3)


def test_the_exponent_is_that_of_a_power_and_unknown_for_one_point():
    assert cost.exponent([1, 2, 4], [3, 24, 192]) == pytest.approx(3)
    assert math.isnan(cost.exponent([5], [1])) and math.isnan(cost.exponent([5, 5], [1, 2]))


def test_no_runs_decide_nothing():
    assert cost.decided(pd.Series([], dtype=bool)) is None
    assert cost.decided(pd.Series([True, True])) and not cost.decided(pd.Series([True, False]))


def test_machines_are_told_apart_and_runs_are_in_order_of_their_facts():
    found = cost.by_machine([record(50), record(10), record(10, device="cuda (y)")])
    assert {key: [row["n"] for row in rows] for key, rows in found.items()} == {
        ("small", "CPU"): [10, 50], ("small", "GPU"): [10]}


def test_an_edit_is_its_targets_traces_and_solves_and_the_svd_counts_once():
    runs = cost.clocked_frame([record(10), record(1000)])
    assert runs.edit.to_list() == [41.0, 4001.0] and runs["end to end"].to_list() == [48.0, 4008.0]
    assert runs["memory, GB"].to_list() == [10.0, 1000.0]
    table = cost.cost_table(runs, paper=True)
    assert table["the paper, hours"].to_list() == ["about 0.04", "3.35 to 3.82"]
    assert cost.cost_table(cost.clocked_frame([])).empty


def test_the_floor_is_the_larger_of_the_two_times():
    runs = cost.clocked_frame([record(2)])
    need = pd.DataFrame({"operations": [70.0, 60.0, 10.0, 50.0], "bytes": [1.0, 900.0, 1.0, 1.0]},
                        index=["moments", "targets", "traces", "solve"])
    roof = cost.roof_frame({2: need}, runs, {"own": 10.0, "float64": 5.0}, 100.0)
    by = roof.set_index("stage")
    assert by.floor.to_dict() == {"moments": 7.0, "targets": 9.0, "traces": 1.0, "solve": 10.0}
    assert by["floor / seconds"].to_dict() == {"moments": 1.0, "targets": 1.5, "traces": 0.5,
                                               "solve": 10.0}
    axis = cost.draw_roof(roof, {"own": 10.0, "float64": 5.0}, 100.0).axes[0]
    assert max(axis.lines[0].get_ydata()) == pytest.approx(10 / 1e9)
    assert max(axis.lines[1].get_ydata()) == pytest.approx(5 / 1e9)
    (dot,) = axis.collections[1].get_offsets().tolist()
    assert dot == pytest.approx([60 / 900, 60 / 6 / 1e9])


def test_the_schematic_has_a_box_and_a_bar_per_stage():
    counted = {"moments": 1e9, "targets": 1e12, "traces": 1e11, "solve": 1e8}
    boxes = cost.stage_boxes(counted)
    assert boxes.operations.to_list() == [*counted.values()]
    left, right = cost.draw_stages(boxes, 1000).axes
    texts = " ".join(text.get_text() for text in left.texts)
    assert all(name in texts for name in counted) and texts.count("once per layer") == 2
    assert [bar.get_width() for bar in right.patches] == [*counted.values()]


def test_growth_is_drawn_for_each_machine_and_for_none():
    widths = pd.DataFrame({"width": [2, 4], "seconds": [1.0, 6.0], "count": [0.75, 6.0]})
    layers = pd.DataFrame({"layers": [1, 2], "seconds": [1.0, 2.1], "count": [1.0, 2.0]})
    kept = {"small": cost.clocked_frame([record(10), record(100)])}
    left, middle, right = cost.draw_growth(kept, widths, layers).axes
    assert [*left.lines[0].get_ydata()] == [41.0, 401.0] and len(left.lines) == 2
    assert [*middle.lines[1].get_ydata()] == [0.75, 6.0] and [*right.get_xticks()] == [1, 2]
    assert not cost.draw_growth({}, widths, layers).axes[0].lines


def test_the_bench_has_a_row_per_record():
    row = {"model": "m", "random": True, "device": "cpu", "dtype": "float32",
           "targets": {"facts": 5, "steps": 2, "seconds": 1.24, "ratio": 3.55},
           "moments": {"seconds": 1.0}, "edit": {"seconds": 2.0}}
    table = cost.bench_table([row])
    assert table.index.to_list() == [("m (random weights)", "cpu", "float32")]
    assert table["the plain loop takes times as long"].to_list() == [3.5]
    assert cost.bench_table([]).empty
