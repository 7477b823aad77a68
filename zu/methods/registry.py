"""The methods by name, and the way to register others."""
from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..data.names import did_you_mean
from .base import Method
from .descended import Ascent, FineTune, GradDiff, Npo, SimNpo
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
    SimNpo,
)
#: Every method by name. `zu.unlearn` takes these names; `register` adds to them.
METHODS: dict[str, type[Method]] = {method.name: method for method in _OWN}
#: The method that we recommend, given anchors (`zu.anchors`).
RECOMMENDED = "anchored"
#: Arguments of `zu.unlearn` that are no settings of a method.
SHARED = ("anchors", "earlier", "reader")
#: Settings that every method has, and targets that were found already.
COMMON = (*Method.model_fields, "targets")


def register(method: type[Method]) -> type[Method]:
    """Add your own method to `METHODS`, so that its name works like the others.

    `zu.unlearn`, grids, parameters, cards, tables and figures then know the method.

    Parameters
    ----------
    method : type[Method]
        A subclass of `zu.methods.Method` with `name`, `label` and `about`.

    Returns
    -------
    type[Method]
        The class itself, so that `register` can be used as a decorator. Registering a class again
        replaces it.

    Raises
    ------
    TypeError
        If `method` is no such class, or lacks one of these attributes.
    ValueError
        If another class has the name, or a row's label cannot hold it.
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
            f"a method cannot be called '{method.name}': row labels reserve 'base' and the signs "
            "+ : , and space; choose another name"
        )
    known = METHODS.get(method.name)
    if known is not None and known.__qualname__ != method.__qualname__:
        owner = f"{known.__module__}.{known.__qualname__}"
        raise ValueError(f"'{method.name}' is the name of {owner}: choose another")
    METHODS[method.name] = method
    return method


def find(name: str) -> type[Method]:
    """Find a method by its name, or by an import path (``"my_module.MyMethod"``), and register it.

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
        If the name is unknown or the import fails; the message suggests a name or says why.
    TypeError
        If `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"method is a {type(name).__name__}: give one of the names {', '.join(METHODS)}, or an "
            "instance of a method's class; call a function yourself, or give it to a Grid as "
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
        If the method is unknown, or a setting is unknown or has a wrong type or value; the message
        names it.
    TypeError
        If `method` is not a string.
    """
    return _validated(method, find(method), settings)


def with_settings(method: str | Method, settings: dict[str, Any]) -> Method:
    """A method with its settings, given by name or as an instance.

    Parameters
    ----------
    method : str or Method
        A name, an import path, or an instance.
    settings : dict
        The method's own settings; for an instance only those in `COMMON`.

    Returns
    -------
    Method
        An instance of the method's class.

    Raises
    ------
    ValueError, TypeError
        As `settings_for` does, and if an instance is given its own settings again.
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
    """The message about the first wrong setting, with a suggestion."""
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
    """The source of a user's own method, for the fingerprint of its records.

    Parameters
    ----------
    kind : type[Method]
        The method's class.

    Returns
    -------
    str
        The text of the class's file, or only of the class if a notebook cell defines it; "" for a
        method of zu's own.
    """
    if kind.__module__.startswith("zu."):
        return ""
    try:
        return Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    except (OSError, TypeError):  # defined in a notebook's cell: the class alone
        return inspect.getsource(kind)
