"""Check what a caller gives beside the facts, before anything is computed."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..edit import Edit
from ..reader import Reader
from ..wrappers import unwrapped
from .base import Job, Located, Method


def check_kinds(earlier: Any, reader: Any) -> None:
    """Refuse an `earlier` that is no list of edits, and a `reader` that is no reader.

    Parameters
    ----------
    earlier, reader
        The arguments of `zu.unlearn`.

    Raises
    ------
    TypeError
        If one of them has a wrong type; the message names it.
    ValueError
        If an edit is named twice.
    """
    if reader is not None and not isinstance(reader, Reader):
        raise TypeError(f"reader is a {type(reader).__name__}: give zu.Reader(model, tokenizer)")
    if isinstance(earlier, Edit):
        raise TypeError("earlier is one edit: give a list, [edit]")
    if not isinstance(earlier, Sequence) or not all(isinstance(x, Edit) for x in earlier):
        raise TypeError("earlier must be a list of edits, as zu.unlearn returns them")
    if len({id(edit) for edit in earlier}) < len(earlier):
        raise ValueError("earlier names an edit twice: its facts would count twice")


def of_earlier(job: Job) -> list[str]:
    """Warnings about the earlier edits of a job.

    Parameters
    ----------
    job : Job
        A job with its earlier edits.

    Returns
    -------
    list of str
        One warning per earlier edit that is off, or on another model.
    """
    said = []
    for number, edit in enumerate(job.earlier):
        if unwrapped(edit.model) is not unwrapped(job.model):
            said.append(f"earlier[{number}] is an edit of another model: its keys are used as if "
                        "they were this model's")
        elif not edit.applied:
            said.append(f"earlier[{number}] is off: this edit spares what the model says of its "
                        "facts without it; put it on first (edit.apply())")
    return said


def check_moments(s: Method, job: Job) -> None:
    """Refuse moments that cannot be those of the layers, and earlier edits without their keys.

    Parameters
    ----------
    s : Method
        A method, with or without moments.
    job : Job
        The job that it is about to do.

    Raises
    ------
    ValueError
        If moments or keys are missing or cannot be right; the message names the layer.
    """
    own = s.edited(job.layers)
    for layer in own if isinstance(s, Located) else ():
        lacking = s.moments is not None and layer not in s.moments
        if lacking or any(layer not in edit.keys for edit in job.earlier):
            raise ValueError(
                f"layer {layer} is to be edited, but moments or an earlier edit's keys lack it"
            )
    for layer, C0 in (s.moments or {}).items():
        size = job.layout.matrix(layer).shape[1] if layer in own else None
        if fault := _fault_once(job.reader, layer, C0, size):
            raise ValueError(f"moments of layer {layer} {fault}: read them again with zu.moments")


def of_moments(s: Method, job: Job) -> list[str]:
    """Warnings about the moments that a job is given.

    Parameters
    ----------
    s : Method
        A method, with or without moments.
    job : Job
        The job that it is about to do.

    Returns
    -------
    list of str
        A warning if they were read from fewer tokens than the method needs.
    """
    tokens = getattr(s.moments, "tokens", None)  # a plain dictionary does not say
    if tokens is None or not isinstance(s, Located):
        return []
    if getattr(s.moments, "shrunk", False):
        return []
    for layer in s.edited(job.layers):
        d, m = job.layout.matrix(layer).shape
        needed = s.tokens_needed(d, m)
        if tokens < needed:
            return [
                f"the moments are of {tokens:,} tokens, and {s.name} needs at least {needed:,} in "
                f"layer {layer}: directions in which no token points count as free to "
                "change, which can ruin the model. Read twice as many (zu.moments(..., tokens="
                f"{2 * needed:,})), or shrink what there is (zu.moments(...).shrink())"
            ]
    return []


def _fault_once(reader: Reader, layer: int, C0: Any, size: int | None) -> str:
    """`_fault`, computed once for moments that a shared reader is given repeatedly."""
    if not isinstance(C0, torch.Tensor) or not C0.numel():
        return _fault(C0, size)
    found: str = reader.once(("fault", layer), C0, lambda x: _fault(x, size), size)
    return found


def _fault(C0: Any, size: int | None) -> str:
    """What is wrong with a second moment of keys of this size; "" if nothing is."""
    if not isinstance(C0, torch.Tensor) or not C0.is_floating_point():
        kind = C0.dtype if isinstance(C0, torch.Tensor) else type(C0).__name__
        return f"are a {kind}, not a tensor of floating-point numbers"
    if C0.dim() != 2 or C0.shape[0] != C0.shape[1] or size not in (None, len(C0)):
        return f"have shape {tuple(C0.shape)}, not ({size or 'm'}, {size or 'm'})"
    if not bool(C0.isfinite().all()):
        return "are NaN or infinite"
    largest = C0.abs().max()
    if not largest > 0:
        return "are all zero"
    # a second moment has no negative diagonal, and is symmetric
    if bool((C0.diagonal() < -1e-6 * largest).any()):
        return "have negative numbers on the diagonal"
    if bool((C0 - C0.T).abs().max() > 1e-4 * largest):
        return "are not symmetric"
    return ""
