"""Pages rest on whole draws: what is half made decides nothing."""
import json

import pytest

from zu.book.evidence import kept_records, whole_draws
from zu.experiment import FORMAT


def record(method, seed, dataset="a", n=50):
    return {"format": FORMAT, "model": "m", "dataset": dataset, "method": method, "seed": seed,
            "n": n, "question": f"{method}{seed}{dataset}{n}", "metrics": {}}


@pytest.fixture
def half_made():
    """Three whole draws of two rows, one with a row of its own, and one that has only begun."""
    rows = [record(method, seed) for seed in (1, 2, 3) for method in ("base", "memit")]
    return [*rows, record("npo", 1), record("base", 4), record("base", 1, "b")]


def test_a_draw_that_lacks_a_usual_row_is_left_out_and_so_is_an_unusual_row(half_made):
    kept = [(r["dataset"], r["method"], r["seed"]) for r in whole_draws(half_made)]
    assert kept == [("a", method, seed) for seed in (1, 2, 3)
                    for method in ("base", "memit")] + [("b", "base", 1)]
    assert whole_draws([]) == []


def test_what_is_kept_is_read_from_its_file_or_from_an_older_folder(tmp_path, half_made):
    from zu.experiment import Kept

    assert kept_records("few", tmp_path) == []
    (tmp_path / "few").mkdir()
    (tmp_path / "few/a.json").write_text(json.dumps(record("base", 9)))
    assert [r["seed"] for r in kept_records("few", tmp_path)] == [9]
    kept = Kept.read(tmp_path / "few.json")
    kept.add([*half_made, record("base", 1, n=10), record("memit", 1, n=10)])
    kept.write()
    rows = kept_records("few", tmp_path)
    assert {r["n"] for r in rows} == {50} and len(rows) == 7


def test_rows_of_the_same_name_in_another_experiment_are_left_out(tmp_path):
    from zu.experiment import Kept

    kept = Kept.read(tmp_path / "parts.json")
    kept.add(record("memit", seed) | {"experiment": name, "question": f"{name}{seed}"}
             for name in ("parts", "parts-layers-8") for seed in (1, 2))
    kept.write()
    assert {r["experiment"] for r in kept_records("parts", tmp_path)} == {"parts"}
    (tmp_path / "parts.json").rename(tmp_path / "whole.json")  # named after none of them
    assert len(kept_records("whole", tmp_path)) == 4
