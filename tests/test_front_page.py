"""The front page says what enough facts say, and no more."""
import json
import re
from pathlib import Path

import jupytext
import pytest

from zu.experiment import FORMAT, read_records


def cells(page):
    """The code cells of a chapter."""
    notebook = jupytext.read(Path("book", f"{page}.md"))
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def front_page(records):
    """Run the landing page over a folder of records: what it read, its table, and its glue."""
    from unittest.mock import patch

    import matplotlib

    matplotlib.use("agg")
    glued, namespace = {}, {"__annotations__": {}}  # as a notebook's, without one
    with patch("myst_nb.glue", lambda name, value, display=True: glued.update({name: value})):
        for source in cells("intro"):
            exec(source, namespace)
            if "records: str" in source:
                namespace["records"] = str(records)
    matplotlib.pyplot.close("all")
    rows = namespace["few_rows"] + namespace["held_rows"] + namespace["gone_rows"]
    return namespace["table"], rows, glued


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Records of a page's own run: one draw of six facts, on which everything went well."""
    folder = tmp_path_factory.mktemp("records")
    for name in ("few_shot", "held-out", "gone"):
        for method in ("base", "zerounlearn", "memit", "anchored+anchors"):
            path = folder / name / "smollm2" / f"{method}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            metrics = {"eff": 0.0, "gen": 0.0, "spe": 100.0, "ppl": 1.0, "relearn by step": [0.0]}
            path.write_text(json.dumps({
                "format": FORMAT, "method": method, "model": "smollm2", "dataset": "world-cloze",
                "seed": 1, "n": 6, "settings": {}, "commit": "none", "metrics": metrics,
                "about_measure": {"steps": [1]}}))
    assert len(read_records(folder)) == 12
    return folder


def test_the_front_page_rests_on_ten_draws_and_a_hundred_facts_whatever_a_small_run_says(
        small, tmp_path):
    table, rows, glued = front_page(small)
    assert table.equals(front_page(tmp_path)[0]) and "none" not in {r["commit"] for r in rows}
    drawn = {}
    for r in rows:
        drawn.setdefault(r["experiment"], set()).add((r["seed"], r["n"]))
    assert len(drawn["few_shot"]) >= 7 and {n for _, n in drawn["few_shot"]} == {50}
    assert len(drawn["held-out"]) == 10 and drawn["gone"] == {(1, 100)}
    assert glued["intro-few"] == len(drawn["few_shot"]) and glued["intro-draws-held"] == 10
    marks = {name: shown.data for name, shown in glued.items() if name.startswith("claim-")}
    assert len(marks) == 5
    assert not "".join(marks.values()).strip("\u2060")  # the kept evidence bears all out


def test_every_method_of_the_front_page_is_under_the_label_that_it_ran_with(tmp_path):
    rows = front_page(tmp_path)[1]
    assert {r["method"] for r in rows if r.get("anchors")} == {
        r["method"] for r in rows if "+anchors" in r["method"]} != set()


@pytest.mark.parametrize("page", sorted(p.stem for p in Path("book").glob("*.md")))
def test_no_claim_has_a_verdict_that_its_test_does_not_compute(page):
    constant = re.findall(r"lambda: \(\s*(?:True|False|YES|NO|UNDECIDED)\b",
                          Path("book", f"{page}.md").read_text())
    assert not constant
