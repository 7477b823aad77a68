"""What the way in which targets are found costs, as the book tells it."""
import json
from pathlib import Path

from zu.book import searches

ROOT = Path(__file__).resolve().parents[1]


def rows(way, method, spe):
    return [{"seed": i, "way": way, "method": method, "eff": 0.0, "gen": 10.0, "spe": x}
            for i, x in enumerate(spe, 1)]


def test_a_way_is_held_against_the_reference_draw_by_draw():
    found = searches.beside([
        *rows("base", "base", [40.0, 41.0, 42.0]), *rows("adam", "memit", [20.0, 30.0, 25.0]),
        *rows("normalised", "memit", [22.0, 31.0, 28.0]), *rows("unknown", "memit", [9.0])])
    assert list(found.index) == [("MEMIT", "Adam"), ("MEMIT", "along the gradient"),
                                 ("MEMIT", "as unknown ones")]
    assert found["Spe"].tolist() == ["25.0", "27.0 (+2.0: -0.5 to +4.5)", "9.0"]
    assert found["Gen"].tolist() == ["10.0", "10.0 (+0.0: +0.0 to +0.0)", "10.0"]
    assert found["draws"].tolist() == [3, 3, 1]


def test_the_kept_draws_are_told_whole():
    record = json.loads((ROOT / "results" / "searches.json").read_text())
    found = searches.beside(record["rows"])
    ways = {row["way"] for row in record["rows"]} - {"base"}
    assert {"adam", "normalised"} <= ways <= set(searches.WAYS)
    for way in ways:
        seeds = {row["seed"] for row in record["rows"] if row["way"] == way}
        assert set(found.xs(searches.WAYS[way], level="targets")["draws"]) == {len(seeds)}
