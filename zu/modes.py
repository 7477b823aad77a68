"""The modes in which a model is read: none of those that the caller has set have any influence."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation mode, and gradients are as torch has them.

    So dropout and gradient checkpointing, which act in training mode, have no influence, nor have
    `torch.no_grad` and `torch.inference_mode` around the call. Afterwards, whatever happens, each
    module is in the mode that it was in.

    Parameters
    ----------
    model : nn.Module
        What is about to be read.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def settles(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function read its model `settled`.

    Parameters
    ----------
    function : callable
        Its first argument is a model, or something that has one as ``model``.

    Returns
    -------
    callable
        The same function with the block around it.
    """

    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        with settled(_model(args, kwargs)):
            return function(*args, **kwargs)

    return within


def _model(args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The model among a function's arguments."""
    first = args[0] if args else kwargs["model"]
    return first if isinstance(first, nn.Module) else first.model
