"""The modes in which a model is read, on which the caller's own settings have no influence."""
from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
T = TypeVar("T")

#: One lock per model that is read, so that hooks of two simultaneous readings cannot mix.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKING = threading.Lock()


def _forget_locks() -> None:
    """Start afresh in a forked process, where no thread is left to release a lock."""
    global _LOCKING
    _LOCKING = threading.Lock()
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside the block torch computes as it does by default.

    A default device, automatic mixed precision, `torch.no_grad` and `torch.inference_mode` around
    the block have no influence in it.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "xpu", "mps"):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation mode, and torch is in its default modes.

    Dropout and gradient checkpointing, which act in training mode, have no influence, nor has
    anything that a caller has set (`undisturbed`). Modules that `torch.compile` has compiled are
    run uncompiled. Another thread that wants to read the same model waits. Afterwards, even if an
    error occurs, each module is back in its earlier mode.

    Parameters
    ----------
    model : nn.Module
        The model to read.
    """
    with _lock(model), undisturbed(), _uncompiled(model):
        training = [module for module in model.modules() if module.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def _lock(model: nn.Module) -> threading.RLock:
    """A model's lock, which the thread that holds it can take again."""
    with _LOCKING:
        return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Inside the block, run modules that torch.compile has compiled without their compilation."""
    compiled = any("_orig_mod" in x._modules or x._compiled_call_impl for x in model.modules())
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def settles(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function read its model `settled`.

    Parameters
    ----------
    function : callable
        A function whose first argument is a model, or an object with an attribute ``model``.

    Returns
    -------
    callable
        The same function inside that block.
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
