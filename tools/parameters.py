"""The parameters of a chapter and their defaults, before anything is run: from papermill.

It is papermill that puts a profile's values behind the cell tagged `parameters`.
"""
from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: Where the chapters are.
BOOK = Path(__file__).resolve().parents[1] / "book"


def defaults(page: str, book: Path = BOOK) -> dict[str, Any]:
    """The parameters that a chapter declares, with their values.

    Papermill takes every line with an equals sign for the beginning of a parameter. Of a list with
    settings in it (``"zerounlearn:eps=0.01"``) it gives the first line alone; then the value is
    read as Python. A parameter with a setting on its first line it would not find at all: such a
    list begins on the next one.

    Parameters
    ----------
    page : str
        The chapter's name.
    book : Path
        The folder with its source, ``PAGE.md``.

    Returns
    -------
    dict[str, Any]
        The defaults by name, in the cell's order; empty for a chapter without parameters.

    Raises
    ------
    ValueError
        For a default that is no literal; it names the chapter and the parameter.
    """
    import jupytext  # with papermill it takes a second; not everyone who imports this asks

    notebook = jupytext.read(book / f"{page}.md")
    values = {}
    for name, source in _inferred(notebook).items():
        try:
            values[name] = _value(source, notebook, name)
        except (SyntaxError, ValueError):
            raise ValueError(
                f"{page}.md: the default of '{name}' is no literal; write a number, a string, or a "
                "list of these"
            ) from None
    return values


def _inferred(notebook: NotebookNode) -> dict[str, str]:
    """What papermill takes for the parameters' values, as source, by name."""
    import papermill

    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of each line with more than one equals sign
    try:
        found = papermill.inspect_notebook(notebook)
    finally:
        log.setLevel(level)
    return {name: parameter["default"] for name, parameter in found.items()}


def _value(source: str, notebook: NotebookNode, name: str) -> Any:
    """A parameter's value: what was inferred, or what the cell says where that is cut off."""
    try:
        return ast.literal_eval(source)
    except SyntaxError:
        pass
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    for node in ast.parse(cell.source).body:
        if isinstance(node, ast.AnnAssign) and node.target.id == name:
            return ast.literal_eval(node.value)
    raise ValueError(name)
