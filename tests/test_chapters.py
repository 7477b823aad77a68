"""A chapter can be copied from, taught with and read without its plumbing."""
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
#: Pages without a cell of their own, or made of others' records.
NO_CHAPTERS = {"intro", "exhibits", "glossary", "references", "manual", "concordance", "ledger"}
CHAPTERS = [path for path in sorted((ROOT / "book").glob("*.md"))
            if path.stem not in NO_CHAPTERS]
PAGES = sorted((ROOT / "book").glob("*.md"))
HIDDEN = {"remove-input", "remove-cell"}

chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def cells_of(chapter):
    """The cells of code, each with its tags."""
    return [(cell.source, {*cell.metadata.get("tags", [])})
            for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]


@pages
def test_no_code_is_hidden_so_that_the_build_runs_what_a_reader_may_copy(page):
    """Every visible cell runs in order in each build: nothing else runs."""
    hidden = [source for source, tags in cells_of(page) if tags & HIDDEN]
    assert all("parameters" in tags for source, tags in cells_of(page) if tags & HIDDEN), hidden


@chapters
def test_who_copies_all_that_is_visible_meets_no_name_error(chapter, tmp_path):
    """Also where a name is used in a branch that the build does not take."""
    code = tmp_path / "visible.py"
    code.write_text("\n\n".join(source for source, _ in cells_of(chapter)), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821",
                          "--output-format", "concise", str(code)],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@chapters
def test_code_fits_its_column(chapter):
    long = [line for source, tags in cells_of(chapter) if "parameters" not in tags
            for line in source.splitlines() if len(line) > 88]
    assert not long


@chapters
def test_no_sentence_is_put_together_by_conditions(chapter):
    for source, _ in cells_of(chapter):
        assert not re.search(r"said\(|Markdown\(", source), source


@chapters
def test_a_chapter_opens_with_prose_and_ends_with_what_to_take_along(chapter):
    text = chapter.read_text(encoding="utf-8")
    opening = text.partition("\n# ")[2].partition("\n## ")[0]
    assert len(opening.partition("\n")[2].split()) > 40
    assert "Which question does this chapter answer" not in opening
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert heads[-1] == "Copy this" and heads[-2] == "Exercises"


@chapters
def test_exercises_have_solutions_that_the_build_runs(chapter):
    exercises = chapter.read_text(encoding="utf-8").partition("\n## Exercises")[2]
    exercises = exercises.partition("\n## Copy this")[0]
    asked = re.split(r"^\*\*\d+\.\*\*", exercises, flags=re.M)[1:]
    assert len(asked) >= 3
    for text in asked:
        solutions = re.findall(r"```\{code-cell\} ipython3\n:tags: \[hide-cell\]\n(.*?)```", text,
                               re.S)
        assert solutions and any("assert" in solution for solution in solutions), text


@chapters
def test_each_table_and_figure_offers_its_data(chapter):
    for cell in jupytext.read(chapter).cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
        if name:
            last = cell.source.rstrip().rstrip(";").rpartition("\n\n")[2]
            assert "with_data(" in last, f"{name}: its cell should end with with_data(...)"


@pages
def test_prose_refers_to_pages_by_their_names_which_the_build_checks(page):
    prose = [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "markdown"]
    assert not re.findall(r"\]\(\w+\.html[#)]", "\n".join(prose))


@pages
def test_prose_fits_its_column(page):
    """But for tables and formulas, which Markdown holds in one line."""
    prose = [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "markdown"]
    lines = [line for line in "\n".join(prose).splitlines() if len(line) > 120]
    assert [line for line in lines if not re.search(r"^\s*\||[$`\\]", line)] == []
