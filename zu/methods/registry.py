"""The methods by name, and how others join them."""
from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..data.names import did_you_mean
from .base import Method
from .descended import Ascent, FineTune, GradDiff, Npo
from .located import AlphaEdit, Anchored, Descent, Exact, Memit, Rome, ZeroUnlearn

_OWN = (
    Ascent,
    FineTune,
    Rome,
    Memit,
    AlphaEdit,
    ZeroUnlearn,
    Descent,
    Exact,
    GradDiff,
    Npo,
    Anchored,
)
#: Every method by name. `zu.unlearn` takes these names; `register` adds to them.
METHODS: dict[str, type[Method]] = {method.name: method for method in _OWN}
#: The method that we would use, given anchors (`zu.anchors`).
RECOMMENDED = "anchored"
#: What `zu.unlearn` takes beside the settings of a method.
SHARED = ("anchors", "earlier", "reader")
#: Settings that are not a method's own: where, and what was found already.
COMMON = (*Method.model_fields, "targets")


def register(method: type[Method]) -> type[Method]:
    """Make a method of one's own work by its name: in `zu.unlearn`, grids, parameters and cards.

    Tables and figures know it too.

    Parameters
    ----------
    method : type[Method]
        A subclass of `zu.methods.Method` with a name, a label and a line about it.

    Returns
    -------
    type[Method]
        The class itself, so that this can be a decorator. Registering a class again replaces it.

    Raises
    ------
    TypeError
        For something that is no such class, or lacks one of these.
    ValueError
        For a name that another class has, or that a row's label cannot hold.
    """
    if not (inspect.isclass(method) and issubclass(method, Method)):
        raise TypeError(f"register takes a subclass of zu.methods.Method, not {method!r}")
    lacking = [part for part in ("name", "label", "about") if not getattr(method, part)]
    if lacking:
        raise TypeError(
            f"{method.__name__} needs a class attribute {', '.join(lacking)}, a string"
        )
    if method.name == "base" or any(sign in method.name for sign in "+:, "):
        raise ValueError(
            f"a method cannot be called '{method.name}': a row's label uses these signs, and base"
        )
    known = METHODS.get(method.name)
    if known is not None and known.__qualname__ != method.__qualname__:
        owner = f"{known.__module__}.{known.__qualname__}"
        raise ValueError(f"'{method.name}' is the name of {owner}: choose another")
    METHODS[method.name] = method
    return method


def find(name: str) -> type[Method]:
    """A method by name, or by import path, ``"my_module.MyMethod"``, which registers it.

    Parameters
    ----------
    name : str
        A name of `METHODS`, or an import path.

    Returns
    -------
    type[Method]
        The method's class.

    Raises
    ------
    ValueError
        For an unknown name, with what was meant, or what is wrong with the path.
    TypeError
        For no string.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"method is a {type(name).__name__}: give one of the names {', '.join(METHODS)}, or an "
            "instance of a method's class; a function is called itself, or given to run_grid as "
            "own="
        )
    if name in METHODS:
        return METHODS[name]
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            return register(getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(
                f"method '{name}' looks like an import path, but: {error}"
            ) from None
    hint = did_you_mean(name.lower(), METHODS)
    raise ValueError(f"method is '{name}': {hint}known are {', '.join(METHODS)}")


def settings_for(method: str, **settings: Any) -> Method:
    """A method with these settings, validated.

    Parameters
    ----------
    method : str
        A name or an import path, as `find` takes it.
    **settings
        The method's own settings.

    Returns
    -------
    Method
        An instance of the method's class.

    Raises
    ------
    ValueError
        For an unknown method, and for a setting that is unknown or ill-typed, which is named.
    TypeError
        For a method that is no string.
    """
    return _validated(method, find(method), settings)


def with_settings(method: str | Method, settings: dict[str, Any]) -> Method:
    """A method with its settings, whichever way they are given.

    Parameters
    ----------
    method : str or Method
        A name, an import path, or an instance.
    settings : dict
        The method's own; with an instance only those of `COMMON`.

    Returns
    -------
    Method
        An instance of the method's class.

    Raises
    ------
    ValueError, TypeError
        As `settings_for` does, and for an instance that is given settings of its own again.
    """
    if not isinstance(method, Method):
        return settings_for(method, **settings)
    kind, own = type(method), [name for name in settings if name not in COMMON]
    if own:
        raise ValueError(
            f"{', '.join(own)}: an instance of {kind.__name__} has its settings already; give them "
            "there, or name the method"
        )
    there = {name: getattr(method, name) for name in method.model_fields_set}
    return _validated(method.name, kind, there | settings)


def _validated(name: str, kind: type[Method], settings: dict[str, Any]) -> Method:
    """An instance of a method's class; `ValueError` names the setting that is wrong."""
    try:
        return kind(**settings)
    except ValidationError as error:
        raise ValueError(_unusable(name, kind, error)) from None


def _unusable(method: str, kind: type[Method], error: ValidationError) -> str:
    """The message for the first setting that is wrong, with what it may have been meant for."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    known = [*kind.model_fields, *SHARED, "method"]
    hint = "" if name in known else did_you_mean(name, known, 0.7)
    unknown = first["type"] == "extra_forbidden"
    why = f"{method} has no such setting" if unknown else first["msg"]
    return (
        f"{method}: setting '{name}' is not usable ({why}); {hint}it takes "
        f"{', '.join(kind.model_fields)}"
    )


def source_of(kind: type[Method]) -> str:
    """The source of a method that is not zu's own, for the fingerprint of its records.

    Parameters
    ----------
    kind : type[Method]
        The method's class.

    Returns
    -------
    str
        The text of its file or, for a class of a notebook's cell, of the class alone; "" for a
        method of zu's.
    """
    if kind.__module__.startswith("zu."):
        return ""
    try:
        return Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # of a notebook's cell: the class alone
        return inspect.getsource(kind)
