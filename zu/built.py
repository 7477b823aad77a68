"""What a model has that its class does not build from its configuration.

Examples are adapters, a pruning mask, a parametrisation, a bias or module of the user's own, or a
number that was changed afterwards. Weights and configuration do not show these, so loading the
model by its configuration loses them.
"""
from __future__ import annotations

import copy
import json
from typing import Any, NamedTuple

import torch
from torch import nn

from .wrappers import unwrapped

#: Attributes of modules that do not affect what a model computes.
_IDLE = {"training", "gradient_checkpointing", "name", "name_or_path", "max_seq_len_cached"}
#: The types of values that count as a module's settings.
_PLAIN = (bool, int, float, str, type(None))


class _Parts(NamedTuple):
    """A model's modules by name, in words, and the names and shapes of everything it would save."""

    modules: dict[str, str]
    saved: dict[str, tuple[int, ...]]


#: What classes build from configurations, by both; kept because it is needed repeatedly.
_MADE: dict[tuple[type, str], _Parts | None] = {}


def altered(model: nn.Module) -> list[str]:
    """The modules of a model that differ from those its class builds from its configuration.

    Parameters
    ----------
    model : nn.Module
        A model of transformers, wrapped or not.

    Returns
    -------
    list of str
        Their names in order, each with its class and settings; empty if nothing differs. All
        modules if this cannot be determined.
    """
    inner = unwrapped(model)
    made, there = _made(inner), _parts(inner)
    plain = {} if made is None else made.modules
    return [f"{name}: {about}" for name, about in sorted(there.modules.items())
            if plain.get(name) != about]


def unsaid(model: nn.Module) -> list[str]:
    """The weights that would be lost or missing if a model were loaded by its configuration.

    Parameters
    ----------
    model : nn.Module
        As in `altered`.

    Returns
    -------
    list of str
        Names of weights that the class does not build from the configuration, builds in another
        shape, or builds although the model lacks them; empty if this cannot be determined.
    """
    inner = unwrapped(model)
    made = _made(inner)
    if made is None:
        return []
    there = _parts(inner).saved
    return sorted(name for name in there.keys() | made.saved.keys()
                  if there.get(name) != made.saved.get(name))


def _made(model: nn.Module) -> _Parts | None:
    """What a model's class builds from its configuration, without numbers; None if it fails."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return None
    about = json.dumps(config.to_dict(), sort_keys=True, default=str)
    key = type(model), about
    if key not in _MADE:
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                _MADE[key] = _parts(type(model)(copy.deepcopy(config)))
        except Exception:  # a class may do anything when it is built: then nothing is known
            _MADE[key] = None
    return _MADE[key]


def _parts(model: nn.Module) -> _Parts:
    """The parts of a model, without the settings of the whole, which are its configuration."""
    modules = {name: _words(x) for name, x in model.named_modules() if name}
    saved = {name: tuple(getattr(x, "shape", ())) for name, x in model.state_dict().items()}
    return _Parts(modules, saved)


def _words(module: nn.Module) -> str:
    """A module's class and its settings."""
    kind = type(module)
    said = {name: _said(x) for name, x in vars(module).items() if _counts(name)}
    settings = {name: x for name, x in said.items() if x is not None}
    about = json.dumps(settings, sort_keys=True, default=str)
    return f"{kind.__module__}.{kind.__qualname__} {about}"


def _counts(name: str) -> bool:
    """Whether an attribute may be a setting; of private ones only those of adapters."""
    return name not in _IDLE and (not name.startswith("_") or "adapter" in name)


def _said(value: Any) -> Any:
    """A setting as plain values; None if the value is not a setting."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple | set):
        return [x for x in map(_said, value) if x is not None]
    if isinstance(value, dict) and not isinstance(value, nn.Module):
        return {str(name): _said(x) for name, x in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return None
