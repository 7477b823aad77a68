"""A kept record is altered so that one sentence of a chapter is false: it is flagged, and no other.

The chapter is `play`, which asks no model: its own cells are run on a copy of the kept records.
"""
import html
import json
import re
import shutil
from pathlib import Path

import jupytext
import pytest

from zu.book.claims import CONTRADICTED, UNDECIDED, flags, summary

ROOT = Path(__file__).parents[1]
CLAIM = re.compile(r"\{glue:\}`claim-([\w-]+)`")

pytest.importorskip("myst_nb")
v4 = pytest.importorskip("nbformat").v4


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A project whose records may be altered; what a cell reads it reads there."""
    (tmp_path / "book").symlink_to(ROOT / "book")
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(room):
    """The chapter with what its cells put out, as a file that `make book` would have executed."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    no_history = Config({"HistoryManager": {"enabled": False}})  # it would keep a thread and a file
    page, shell = jupytext.read(ROOT / "book/play.md"), InteractiveShell(config=no_history)
    for cell in page.cells:
        if cell.cell_type == "code":
            with capture_output() as caught:
                shell.run_cell(cell.source).raise_error()
            cell.outputs = [v4.new_output("display_data", x.data or {}, metadata=x.metadata or {})
                            for x in caught.outputs]
    path = room / "play.ipynb"
    path.write_text(v4.writes(page), encoding="utf-8")
    return path


def rendered(path, room):
    """The chapter's page, as text: each claim's mark is followed by what is shown there."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    site = room / "site"
    site.mkdir()
    shutil.copy(path, site / "play.ipynb")
    settings = {"extensions": ["myst_nb"], "nb_execution_mode": "off", "root_doc": "play",
                "myst_enable_extensions": ["dollarmath", "amsmath"]}
    with patch_docutils(str(site)), docutils_namespace():
        Sphinx(site, None, room / "out", room / "trees", "html", confoverrides=settings,
               status=None, warning=None).build()
    text = re.sub(r"<[^>]+>", "", (room / "out/play.html").read_text(encoding="utf-8"))
    return " ".join(html.unescape(text).split())


def no_neighbour_is_lost(room):
    """As if ZeroUnlearn had left every neighbour at rank 1: the page says that it keeps fewer."""
    file = room / "results/ranks.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    for row in record["rows"]:
        if (row["method"], row["kind"]) == ("zerounlearn", "a neighbour"):
            row["ranks"][-1] = 1
    file.write_text(json.dumps(record), encoding="utf-8")


def test_on_the_kept_records_no_sentence_is_flagged(room):
    path = evaluated(room)
    assert list(flags(path)) == []
    assert summary([path]) == "  no sentence is contradicted by this run"
    page = rendered(path, room)
    assert CONTRADICTED not in page and UNDECIDED not in page


def test_exactly_the_sentence_that_a_record_contradicts_is_flagged_on_page_and_in_summary(room):
    no_neighbour_is_lost(room)
    path = evaluated(room)
    said = f"{CONTRADICTED} (8 and 8)"
    assert [(flag.name, flag.said) for flag in flags(path)] == [("near", said)]
    assert len(CLAIM.findall((ROOT / "book/play.md").read_text(encoding="utf-8"))) > 5  # of many
    assert summary([path]) == (
        f"  1 sentence is contradicted by this run\n    play, near: {said}")
    page = rendered(path, room)
    assert page.count("⚑") == 1 and UNDECIDED not in page
    assert re.search(r"8 stay at rank 1 after ZeroUnlearn, \d after AlphaEdit and 8 after MEMIT\."
                     rf"[\s\u2060]*\[{re.escape(said)}\]", page)
