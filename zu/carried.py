"""The list of edits that a model carries, kept on the model even if the edits are not."""
from __future__ import annotations

import torch
from torch import nn

from .models import sums
from .wrappers import parameter, unwrapped

#: The attribute of a model that lists the edits on it in plain values, which copies and pickles
#: keep.
ATTRIBUTE = "_zu_edits"

#: The attribute that holds a model's perplexity on held-out prose before the first of them.
PROSE = "_zu_prose"


def mark(weight: torch.Tensor) -> str:
    """A short text that tells weights with different values apart.

    Parameters
    ----------
    weight : Tensor
        A weight of any shape.

    Returns
    -------
    str
        The weight's sum, norm and place-weighted sum, to ten digits.
    """
    return " ".join(f"{x:.9e}" for x in sums(weight))


def enlist(
    model: nn.Module, ticket: str, about: str, marks: dict[str, str], content: str = ""
) -> None:
    """Add an edit to the model's list.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    ticket : str
        The edit's ticket.
    about : str
        A description of the edit.
    marks : dict of str to str
        By name, the marks of its weights without the edit.
    content : str
        A text that differs between edits with different changes.
    """
    inner = unwrapped(model)
    there = getattr(inner, ATTRIBUTE, {})
    setattr(inner, ATTRIBUTE, there | {ticket: (about, dict(marks), content)})


def delist(model: nn.Module, ticket: str) -> None:
    """Remove an edit from the model's list.

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
        The description of each edit, by its ticket. An edit is left out if all its weights have
        their original values, because other weights were loaded into the model.
    """
    now: dict[str, str] = {}  # each weight's mark is computed once, however many edits changed it

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
    """An edit on the model with the very same changes as another one.

    Parameters
    ----------
    model, ticket, content
        As in `enlist`, for the edit that is about to be put on.

    Returns
    -------
    str
        The description of the edit on the model; "" if there is none.
    """
    listed = getattr(unwrapped(model), ATTRIBUTE, {})
    for other, about in edits_on(model).items():
        if other != ticket and content in listed[other][2:]:
            return about
    return ""


def at_first(model: nn.Module, perplexity: float) -> float:
    """A model's perplexity before the first of the edits that it carries.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    perplexity : float
        The present perplexity, which is remembered if the model carries no edit.

    Returns
    -------
    float
        The remembered perplexity; if there is none, the given one.
    """
    inner = unwrapped(model)
    if not edits_on(inner):
        setattr(inner, PROSE, perplexity)
    return float(getattr(inner, PROSE, perplexity))
