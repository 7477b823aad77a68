"""The methods by name, and how others join them."""
from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path

from pydantic import ValidationError

from .base import Method
from .descended import Ascent, FineTune, GradDiff, Npo
from .located import AlphaEdit, Anchored, Descent, Exact, Memit, Rome, ZeroUnlearn

#: Every method by name. `zu.unlearn` takes these names; `register` adds to them.
METHODS: dict[str, type[Method]] = {method.name: method for method in (
    Ascent, FineTune, Rome, Memit, AlphaEdit, ZeroUnlearn, Descent, Exact, GradDiff, Npo, Anchored)}
#: The method that we would use, given anchors (`zu.anchors`).
RECOMMENDED = "anchored"
#: What `zu.unlearn` takes whatever the method.
SHARED = ("layers", "seed", "targets", "moments", "earlier", "anchors", "retain", "before", "below")


def register(method: type[Method]) -> type[Method]:
    """Make a method of one's own work by its name: in `zu.unlearn`, grids, parameters, tables and cards.

    Parameters
    ----------
    method : a subclass of `zu.methods.Method` with a name, a label and a line about it.

    Returns
    -------
    The class itself, so that this can be a decorator. Registering a class again replaces it.

    Raises
    ------
    TypeError : for something that is no such class, or lacks one of these.
    ValueError : for a name that another class has, or that a row's label cannot hold.
    """
    if not (inspect.isclass(method) and issubclass(method, Method)):
        raise TypeError(f"register takes a subclass of zu.methods.Method, not {method!r}")
    if lacking := [part for part in ("name", "label", "about") if not getattr(method, part)]:
        raise TypeError(f"{method.__name__} needs a class attribute {', '.join(lacking)}, a string")
    if method.name == "base" or any(c in method.name for c in "+:, "):
        raise ValueError(f"a method cannot be called '{method.name}': a row's label uses these signs, and base")
    known = METHODS.get(method.name)
    if known is not None and known.__qualname__ != method.__qualname__:
        raise ValueError(f"'{method.name}' is the name of {known.__module__}.{known.__qualname__}: choose another")
    METHODS[method.name] = method
    return method


def find(name: str) -> type[Method]:
    """A method by name, or by import path, ``"my_module.MyMethod"``, which registers it.

    Raises `ValueError` with what was meant, or what is wrong with the path; `TypeError` for no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"method is a {type(name).__name__}: give one of the names {', '.join(METHODS)}, or an "
                        "instance of a method's class; a function is called itself, or given to run_grid as own=")
    if name in METHODS:
        return METHODS[name]
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            return register(getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"method '{name}' looks like an import path, but: {error}") from None
    close = difflib.get_close_matches(name.lower(), METHODS, 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise ValueError(f"method is '{name}': {hint}known are {', '.join(METHODS)}")


def settings_for(method: str, **settings) -> Method:
    """A method with these settings, validated.

    Raises `ValueError` naming what is unknown or ill-typed, `TypeError` for no string.
    """
    kind = find(method)
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        close = difflib.get_close_matches(name, [*kind.model_fields, *SHARED, "method"], 1, 0.7)
        hint = f"did you mean '{close[0]}'? " if close and close[0] != name else ""
        raise ValueError(f"{method}: setting '{name}' is not usable ({first['msg']}); {hint}it takes "
                         f"{', '.join(kind.model_fields)}") from None


def source_of(kind: type[Method]) -> str:
    """The source of a method that is not zu's own, for the fingerprint of its records; "" for zu's."""
    if kind.__module__.startswith("zu."):
        return ""
    try:
        return Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # of a notebook's cell: the class alone
        return inspect.getsource(kind)
