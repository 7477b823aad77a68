"""The defaults that the plan and the Snakefile read are those that a chapter runs with."""
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from parameters import defaults  # noqa: E402

CHAPTERS = sorted(
    path.stem for path in (ROOT / "book").glob("*.md") if "\nkernelspec:" in path.read_text()[:1000]
)
HEAD = "---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"


def written(folder, cell, options=":tags: [parameters]"):
    """A chapter with this cell in it, and its folder."""
    text = f"{HEAD}\n```{{code-cell}} ipython3\n{options}\n\n{cell}\n```\n"
    (folder / "page.md").write_text(text)
    return "page", folder


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_chapters_defaults_are_what_its_cell_sets(page, capfd):
    cells = [
        cell
        for cell in jupytext.read(ROOT / "book" / f"{page}.md").cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(cells) <= 1
    sets = {}
    for cell in cells:
        exec(cell.source, sets)
    names = sets.get("__annotations__", {})
    assert defaults(page) == {name: sets[name] for name in names}
    assert capfd.readouterr().err == ""


def test_every_way_of_tagging_a_cell_and_of_writing_a_value_is_read(tmp_path):
    cell = '# a comment\nn: int = 3  # (theirs: 5)\nbare = "x"\nmore: list[str] = [  # rows\n'
    cell += '    "a:eps=0.1,b=2",\n    "c"]\nlast: dict[str, int] = {"a": 1,\n  "b": 2}'
    expected = {"n": 3, "bare": "x", "more": ["a:eps=0.1,b=2", "c"], "last": {"a": 1, "b": 2}}
    for options in (":tags: [remove-input, parameters]", "---\ntags: [parameters]\n---"):
        assert defaults(*written(tmp_path, cell, options)) == expected
    assert defaults(*written(tmp_path, cell, ":tags: [remove-input]")) == {}


def test_a_default_that_is_no_literal_is_named_with_its_chapter(tmp_path):
    with pytest.raises(ValueError, match=r"^page\.md: the default of 'n' is no literal"):
        defaults(*written(tmp_path, "n: int = 3 * len('abc')"))
