"""A sentence that a run contradicts is flagged, on the page and in the summary, and no other."""
import json
import re
from pathlib import Path

import pytest

from zu.book.claims import CONTRADICTED, UNDECIDED, claim, flags, summary

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "book").glob("*.md"))


@pytest.fixture
def glued(monkeypatch):
    """What a cell glues, by name."""
    found = {}
    myst_nb = pytest.importorskip("myst_nb")
    monkeypatch.setattr(myst_nb, "glue", lambda name, x, display: found.update({name: x.data}))
    return found


def test_a_claim_that_holds_shows_nothing_and_others_say_what_was_measured(glued):
    claim("fine", True, "12%")
    claim("wrong", False, "12%")
    claim("open", None)
    assert glued["claim-fine"] == "\u2060"
    assert glued["claim-wrong"] == f"**[{CONTRADICTED} (12%)]**"
    assert glued["claim-open"] == f"**[{UNDECIDED}]**"


def notebook(path, **claims):
    outputs = [{"output_type": "display_data", "metadata": {"scrapbook": {"name": name}},
                "data": {"application/papermill.record/text/markdown": text}}
               for name, text in claims.items()]
    path.write_text(json.dumps({"cells": [
        {"cell_type": "markdown", "source": CONTRADICTED},
        {"cell_type": "code", "outputs": outputs}]}))
    return path


def test_the_summary_names_page_and_claim(tmp_path):
    fine = notebook(tmp_path / "a.ipynb", **{"claim-x": "\u2060", "other": CONTRADICTED})
    assert list(flags(fine)) == []
    assert summary([fine]) == "  no sentence is contradicted by this run"
    wrong = notebook(tmp_path / "b.ipynb", **{"claim-y": f"**[{CONTRADICTED} (3%)]**",
                                              "claim-z": f"**[{UNDECIDED}]**"})
    assert summary([wrong, fine]).splitlines() == [
        "  1 sentence is contradicted by this run",
        f"    b, y: {CONTRADICTED} (3%)", f"    b, z: {UNDECIDED}"]


@pytest.mark.parametrize("page", [p for p in PAGES if "claim(" in p.read_text()],
                         ids=lambda p: p.stem)
def test_each_claim_of_a_page_marks_one_sentence(page):
    text = page.read_text()
    made = re.findall(r'^\s*claim\("([\w-]+)"', text, re.M)
    used = re.findall(r"\{glue:\}`claim-([\w-]+)`", text)
    assert made and sorted(made) == sorted(used) and len({*made}) == len(made)


@pytest.mark.whole
@pytest.mark.parametrize("page", ["few_shot", "implied", "intro", "play"])
def test_no_claim_is_contradicted_by_the_kept_evidence(page, tmp_path):
    import jupytext
    import papermill

    source = tmp_path / f"{page}.ipynb"
    jupytext.write(jupytext.read(ROOT / f"book/{page}.md"), source)
    done = tmp_path / "done" / f"{page}.ipynb"
    done.parent.mkdir()
    own = "records: str" in source.read_text()  # where it puts or looks for records
    values = {"records": str(tmp_path / "records")} if own else {}
    papermill.execute_notebook(str(source), str(done), values, progress_bar=False, cwd=str(ROOT),
                               kernel_name="python3")
    made = re.findall(r'claim\("([\w-]+)"', source.read_text().replace('\\"', '"'))
    shown = re.findall(r'"name": "claim-([\w-]+)"', done.read_text())
    assert sorted(made) == sorted(shown) and list(flags(done)) == []
