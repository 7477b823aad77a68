"""A model inside its wrappers: plain names of weights, and how a weight is stored.

PEFT, `torch.compile`, data parallelism and checkpointing put their own names in front of a weight's
name or into it. zu stores the plain name, and finds a weight under either.
"""
from __future__ import annotations

import re
from typing import cast

import torch
from torch import nn

#: What wrappers of a whole model put in front of names.
_FRONT = ("base_model.model.", "_orig_mod.", "module.", "_fsdp_wrapped_module.")
#: What wrappers of one module put between the module's name and its weight's.
_INSIDE = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "base_layer"}


def plain_name(name: str) -> str:
    """A weight's name in the model without wrappers.

    Parameters
    ----------
    name : str
        A name from ``model.named_parameters()`` of a model in any wrappers.

    Returns
    -------
    str
        The name without the parts that PEFT, `torch.compile` and data parallelism have added.
    """
    found = True
    while found:
        found = False
        for front in _FRONT:
            if name.startswith(front):
                name, found = name.removeprefix(front), True
    return ".".join(part for part in name.split(".") if part not in _INSIDE)


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    """A weight by name, whatever wrappers are around the model now or were around it before.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    name : str
        A weight's name, plain or with the names of wrappers in it.

    Returns
    -------
    nn.Parameter
        The weight.

    Raises
    ------
    AttributeError
        If the model has no such weight, or several.
    """
    try:
        return model.get_parameter(name)
    except AttributeError:
        wanted = plain_name(name)
    found = {id(x): x for full, x in model.named_parameters() if plain_name(full) == wanted}
    if len(found) != 1:
        raise AttributeError(f"{len(found)} weights are called '{wanted}'")
    return next(iter(found.values()))


def owner(model: nn.Module, name: str) -> nn.Module:
    """The module that owns a weight, which may itself be inside a wrapper of one module.

    Parameters
    ----------
    model, name
        As in `parameter`.

    Returns
    -------
    nn.Module
        The module whose direct parameter the weight is.

    Raises
    ------
    AttributeError
        As in `parameter`.
    """
    weight = parameter(model, name)
    for module in model.modules():
        if any(x is weight for x in module._parameters.values()):
            return module
    raise AttributeError(f"no module has '{name}'")


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a weight is stored as (m, d), as in transformers' Conv1D, which GPT-2 uses.

    Parameters
    ----------
    model, name
        As in `parameter`.

    Returns
    -------
    bool
        False for (d, m), as in torch's Linear.
    """
    return type(owner(model, name)).__name__ == "Conv1D"


def layer_of(name: str) -> int | None:
    """The number of a weight's layer.

    Parameters
    ----------
    name : str
        A name such as ``"model.layers.16.mlp.down_proj.weight"``.

    Returns
    -------
    int or None
        The first number among the parts of the name; None if there is none.
    """
    found = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(found[1]) if found else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of whole models.

    Parameters
    ----------
    model : nn.Module
        A model: compiled, data-parallel, with PEFT adapters, or plain.

    Returns
    -------
    nn.Module
        The innermost model; adapters in its layers stay there.
    """
    while True:
        inside = model._modules
        if "_orig_mod" in inside:  # torch.compile
            model = cast(nn.Module, inside["_orig_mod"])
        elif list(inside) == ["module"]:  # data parallelism
            model = cast(nn.Module, inside["module"])
        elif "base_model" in inside and _is_of_peft(model):
            tuner = cast(nn.Module, inside["base_model"])
            model = tuner._modules.get("model") or tuner
        else:
            return model


def has_adapters(model: nn.Module) -> bool:
    """Whether PEFT has put adapters into a model.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.

    Returns
    -------
    bool
        True for adapters that are not merged, and for merged ones that are not unloaded.
    """
    return any(_is_of_peft(module) for module in model.modules())


def _is_of_peft(module: nn.Module) -> bool:
    """Whether a module's class is PEFT's."""
    return type(module).__module__.partition(".")[0] == "peft"


def why_not_editable(weight: torch.Tensor) -> str:
    """Why a weight cannot be changed by adding to its numbers.

    Parameters
    ----------
    weight : Tensor
        A weight of a model.

    Returns
    -------
    str
        The reason and the remedy, as the end of a sentence; "" for an ordinary weight.
    """
    if weight.is_meta:
        return ("its numbers are not in memory (offloaded): load the model whole, without "
                "device_map, or with one that puts no layer on 'cpu' or 'disk' beside a GPU")
    if type(weight) not in (torch.Tensor, nn.Parameter):
        kind = type(weight).__name__
        return (f"it is a {kind}, quantised or in pieces: load the model in float32, float16 or "
                "bfloat16, edit it, then quantise or share it out")
    if not weight.is_floating_point() or weight.element_size() < 2:
        return (f"it is of {weight.dtype}, quantised: load the model in float32, float16 or "
                "bfloat16, edit it, then quantise it")
    if weight.is_inference():
        return ("it was loaded inside torch.inference_mode(), which forbids changes: load the "
                "model outside of it")
    return ""


def why_not_alone(model: nn.Module, weight: torch.Tensor) -> str:
    """What else would change with a weight because it shares the same memory.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    weight : Tensor
        One of its weights, which is in memory.

    Returns
    -------
    str
        The reason and the remedy, as the end of a sentence; "" for a weight that shares nothing.
    """
    steps = zip(weight.stride(), weight.shape, strict=True)
    if any(step == 0 and size > 1 for step, size in steps):
        return "its rows or columns share memory (expanded): give it a contiguous copy first"
    names = sharers(model, weight)
    if len(names) < 2:
        return ""
    return (f"it is shared ({' and '.join(names)}), and an edit would change each of these: give "
            "each a copy of its own first")


def sharers(model: nn.Module, weight: torch.Tensor) -> list[str]:
    """The names of all weights that share memory with a weight, including its own.

    Parameters
    ----------
    model, weight
        As in `why_not_alone`.

    Returns
    -------
    list of str
        One name if nothing is shared.
    """
    own, names = _place(weight), []
    for name, other in model.named_parameters(remove_duplicate=False):
        if other.is_meta or type(other) not in (torch.Tensor, nn.Parameter):
            continue
        place = _place(other)
        if place[0] == own[0] and place[1] < own[2] and own[1] < place[2]:
            names.append(name)
    return names


def _place(weight: torch.Tensor) -> tuple[torch.device, int, int]:
    """A weight's place in memory: device, begin and end."""
    steps = zip(weight.shape, weight.stride(), strict=True)
    span = 1 + sum((size - 1) * step for size, step in steps) if weight.numel() else 0
    start = weight.data_ptr()
    return weight.device, start, start + span * weight.element_size()


def absent(model: nn.Module) -> str:
    """A weight of a model that is not loaded, but on the meta device.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.

    Returns
    -------
    str
        The weight's name; "" if there is none. Weights that accelerate has offloaded do not count.
    """
    for name, module in model.named_modules():
        if any(x is not None and x.is_meta for x in module._parameters.values()):
            if not hasattr(module, "_hf_hook"):
                return f"{name}.weight" if module._parameters.get("weight") is not None else name
    return ""


def prompted(model: nn.Module) -> bool:
    """Whether PEFT puts learnt tokens in front of everything that a model reads.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.

    Returns
    -------
    bool
        True for prompt tuning, prefix tuning and their like.
    """
    configs = getattr(model, "peft_config", None) if _is_of_peft(model) else None
    return any(getattr(x, "is_prompt_learning", False) for x in (configs or {}).values())
