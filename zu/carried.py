"""Which edits a model carries, as the model itself says, whether or not they are still held."""
from __future__ import annotations

import torch
from torch import nn

from .models import sums
from .wrappers import parameter, unwrapped

#: The attribute of a model that lists the edits on it, in plain values: copies and pickles keep it.
ATTRIBUTE = "_zu_edits"

#: The one that says what a model's perplexity on held-out prose was before the first of them.
PROSE = "_zu_prose"


def mark(weight: torch.Tensor) -> str:
    """A short text that tells one weight from another.

    Parameters
    ----------
    weight : Tensor
        Of any shape.

    Returns
    -------
    str
        Its sum, its norm and its sum by place, to ten digits.
    """
    return " ".join(f"{x:.9e}" for x in sums(weight))


def enlist(
    model: nn.Module, ticket: str, about: str, marks: dict[str, str], content: str = ""
) -> None:
    """Have a model say that an edit is on it.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    ticket : str
        The edit's own.
    about : str
        What it is.
    marks : dict of str to str
        By name, what its weights were without it.
    content : str
        What tells its changes from those of others.
    """
    inner = unwrapped(model)
    there = getattr(inner, ATTRIBUTE, {})
    setattr(inner, ATTRIBUTE, there | {ticket: (about, dict(marks), content)})


def delist(model: nn.Module, ticket: str) -> None:
    """Have a model no longer say that an edit is on it.

    Parameters
    ----------
    model, ticket
        As in `enlist`.
    """
    inner = unwrapped(model)
    there = {key: x for key, x in getattr(inner, ATTRIBUTE, {}).items() if key != ticket}
    if there:
        setattr(inner, ATTRIBUTE, there)
    elif hasattr(inner, ATTRIBUTE):
        delattr(inner, ATTRIBUTE)


def edits_on(model: nn.Module) -> dict[str, str]:
    """The edits that a model carries.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not, or a copy of one.

    Returns
    -------
    dict of str to str
        What each is, by its ticket. An edit is left out whose weights are what they were without
        it: other weights were loaded into the model.
    """
    now: dict[str, str] = {}  # each weight's mark is made once, however many edits changed it

    def changed(name: str, before: str) -> bool:
        if name not in now:
            now[name] = mark(parameter(model, name))
        return now[name] != before

    found = {}
    for ticket, (about, marks, *_) in getattr(unwrapped(model), ATTRIBUTE, {}).items():
        if any(changed(name, before) for name, before in marks.items()):
            found[ticket] = about
    return found


def twin_on(model: nn.Module, ticket: str, content: str) -> str:
    """An edit with the very same changes that a model carries.

    Parameters
    ----------
    model, ticket, content
        As in `enlist`: of the edit that is about to be put on.

    Returns
    -------
    str
        What it is; "" where there is none.
    """
    listed = getattr(unwrapped(model), ATTRIBUTE, {})
    for other, about in edits_on(model).items():
        if other != ticket and content in listed[other][2:]:
            return about
    return ""


def at_first(model: nn.Module, perplexity: float) -> float:
    """What a model's perplexity was before the first of the edits that it carries.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    perplexity : float
        What it is now; noted where the model carries no edit.

    Returns
    -------
    float
        What was noted, or what is given where nothing was.
    """
    inner = unwrapped(model)
    if not edits_on(inner):
        setattr(inner, PROSE, perplexity)
    return float(getattr(inner, PROSE, perplexity))
