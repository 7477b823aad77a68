"""Typed parameters for the chapters: what papermill injects is checked before anything runs."""
from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence

from pydantic import ConfigDict, ValidationError, create_model


class ParameterError(ValueError):
    """A chapter's parameter that is unknown or of the wrong type; the message names it and the known ones."""


def check_parameters(namespace: dict) -> dict:
    """Check a chapter's parameters: call it with ``globals()`` in the cell after the parameters cell.

    The parameters cell declares each value with its type (``n: int = 20``). Values that papermill injected must
    have that type, and their names must be declared: papermill itself only warns. Returns the checked values.
    Raises `ParameterError`.
    """
    types = {name: kind for name, kind in namespace.get("__annotations__", {}).items() if name in namespace}
    for name in _injected(namespace.get("In", ())):
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ParameterError(f"parameter '{name}' is unknown: {hint}known are {', '.join(types)}")
    model = create_model("Parameters", __config__=ConfigDict(strict=True, protected_namespaces=()),
                         **{name: (kind, ...) for name, kind in types.items()})
    try:
        return model(**{name: namespace[name] for name in types}).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ParameterError(f"parameter '{name}' is {namespace[name]!r}, of the wrong type: {first['msg']}; the "
                             f"chapter declares it as {getattr(types[name], '__name__', types[name])}") from None


def _injected(cells: Sequence[str]) -> list[str]:
    """Names that papermill's injected cell sets; it marks that cell with a first line "# Parameters"."""
    names = []
    for cell in cells:
        if cell.lstrip().startswith("# Parameters\n"):
            names += [t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign)
                      for t in node.targets if isinstance(t, ast.Name)]
    return names
