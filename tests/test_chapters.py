"""A chapter can be copied from, taught with and read without its plumbing.

A chapter is held to this from the day it has exercises; those that have none yet are counted, and
may only become fewer.
"""
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
WRITTEN = [path for path in CHAPTERS if "\n## Exercises" in path.read_text(encoding="utf-8")]
#: Chapters without exercises, at most, and those whose visible cells still need a hidden one.
TO_WRITE = 15
FROM_HIDDEN: set[str] = set()
HIDDEN = {"remove-input", "remove-cell"}

written = pytest.mark.parametrize("chapter", WRITTEN, ids=lambda path: path.stem)


def cells_of(chapter):
    """The cells of code, each with its tags."""
    return [(cell.source, {*cell.metadata.get("tags", [])})
            for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]


def test_no_chapter_loses_its_exercises():
    assert len(CHAPTERS) - len(WRITTEN) <= TO_WRITE


@pytest.mark.parametrize("chapter", [path for path in CHAPTERS if path in WRITTEN
                                     or path.stem not in FROM_HIDDEN], ids=lambda path: path.stem)
def test_who_copies_all_that_is_visible_meets_no_name_error(chapter, tmp_path):
    seen = [source for source, tags in cells_of(chapter) if not tags & HIDDEN]
    code = tmp_path / "visible.py"
    code.write_text("\n\n".join(seen), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821",
                          "--output-format", "concise", str(code)],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@written
def test_what_is_hidden_only_brings_in_names(chapter):
    hidden = [line for source, tags in cells_of(chapter) if tags & HIDDEN
              for line in source.splitlines() if line.strip()]
    assert all(line.startswith(("from myst_nb", "from IPython")) for line in hidden), hidden


@written
def test_code_fits_its_column(chapter):
    long = [line for source, tags in cells_of(chapter) if "parameters" not in tags
            for line in source.splitlines() if len(line) > 88]
    assert not long


@written
def test_no_sentence_is_put_together_by_conditions(chapter):
    for source, _ in cells_of(chapter):
        assert not re.search(r"said\(|Markdown\(", source), source


@written
def test_a_chapter_opens_with_prose_and_ends_with_what_to_take_along(chapter):
    text = chapter.read_text(encoding="utf-8")
    opening = text.partition("\n# ")[2].partition("\n## ")[0]
    assert len(opening.partition("\n")[2].split()) > 40
    assert "Which question does this chapter answer" not in opening
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert heads[-1] == "Copy this" and heads[-2] == "Exercises"


@written
def test_exercises_have_solutions_that_the_build_runs(chapter):
    exercises = chapter.read_text(encoding="utf-8").partition("\n## Exercises")[2]
    exercises = exercises.partition("\n## Copy this")[0]
    asked = re.split(r"^\*\*\d+\.\*\*", exercises, flags=re.M)[1:]
    assert len(asked) >= 3
    for text in asked:
        solutions = re.findall(r"```\{code-cell\} ipython3\n:tags: \[hide-cell\]\n(.*?)```", text,
                               re.S)
        assert solutions and any("assert" in solution for solution in solutions), text


@written
def test_each_table_and_figure_offers_its_data(chapter):
    for cell in jupytext.read(chapter).cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
        if name:
            last = cell.source.rstrip().rstrip(";").rpartition("\n\n")[2]
            assert "with_data(" in last, f"{name}: its cell should end with with_data(...)"


@pytest.mark.parametrize("page", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.stem)
def test_prose_refers_to_pages_by_their_names_which_the_build_checks(page):
    prose = [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "markdown"]
    assert not re.findall(r"\]\(\w+\.html[#)]", "\n".join(prose))
