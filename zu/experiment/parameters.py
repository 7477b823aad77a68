"""Typed parameters for the chapters: check what papermill injects before anything runs."""
from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from ..data.names import did_you_mean


class ParameterError(ValueError):
    """A chapter's parameter is unknown or of the wrong type.

    The message names it and the known parameters.
    """


def check_parameters(namespace: dict[str, Any]) -> dict[str, Any]:
    """Check a chapter's parameters.

    Call it with ``globals()`` in the cell after the parameters cell, which declares each value with
    its type (``n: int = 20``). Values that papermill injected must have that type, and their names
    must be declared: papermill itself only warns.

    Parameters
    ----------
    namespace : dict[str, Any]
        The notebook's globals.

    Returns
    -------
    dict[str, Any]
        The checked values, by name.

    Raises
    ------
    ParameterError
        If a name is not declared, or a value does not have the declared type.
    """
    annotations = namespace.get("__annotations__", {})
    types = {name: kind for name, kind in annotations.items() if name in namespace}
    _refuse_undeclared(_injected(namespace.get("In", ())), types)
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in types.items()}
    config = ConfigDict(strict=True, protected_namespaces=())
    model = create_model("Parameters", __config__=config, **fields)
    try:
        return model(**{name: namespace[name] for name in types}).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        declared = getattr(types[name], "__name__", types[name])
        raise ParameterError(
            f"parameter '{name}' is {namespace[name]!r}, of the wrong type: {first['msg']}; the "
            f"chapter declares it as {declared}"
        ) from None


def _refuse_undeclared(names: Sequence[str], types: Mapping[str, Any]) -> None:
    """Raise `ParameterError` for the first name that the parameters cell does not declare."""
    for name in names:
        if name in types:
            continue
        hint = did_you_mean(name, types)
        raise ParameterError(
            f"parameter '{name}' is unknown: {hint}known are {', '.join(types)}"
        )


def _injected(cells: Sequence[str]) -> list[str]:
    """The names that papermill's injected cell sets; its first line is "# Parameters"."""
    names = []
    for cell in cells:
        if not cell.lstrip().startswith("# Parameters\n"):
            continue
        for node in ast.parse(cell).body:
            if isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return names
