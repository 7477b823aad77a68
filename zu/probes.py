"""Test on the model itself, before any edit, that it is read and written as its layout says.

`layout` runs a few random tokens through a model. Each layer's output must be the next layer's
input; the logits of the last states must be the model's own; the projection's output must be
W k + b; and a change of it must arrive in the state after the layer, only at its own token. The
factor by which it arrives is measured.
"""
from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import transformers
from torch import nn

from .batches import Batch
from .built import altered
from .data.cache import cache_file, read_tensors, write_tensors
from .layouts import Layout, LayoutError, hooked, known
from .models import NonFiniteError, finite, logits
from .modes import settled
from .passes import call_layer, entering, hooks, run_from, whole_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Rows and columns of the random tokens; the second row is shorter by two.
SHAPE = 2, 7
#: Part of the cache's names; to be changed when the probes change.
VERSION = 2


def layout(model: PreTrainedModel) -> Layout:
    """How a model is read and written, tested on the model itself.

    The result is cached under `zu.cache_dir`, by architecture, `altered` modules, dtype and kind of
    device. Whether the weights can be edited is checked each time. A model with hooks on it is
    tested each time, and nothing is cached.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.

    Returns
    -------
    Layout
        The layout, with the scale of each layer that has a projection.

    Raises
    ------
    LayoutError
        If a probe fails; the message says which one, and what works nevertheless.
    """
    found = known(model)
    editable = found.editable
    for i in editable:
        found.projection(i)  # for its errors
    about: tuple = (VERSION, type(model).__name__, _configuration(model), str(model.dtype),
                    model.device.type, torch.__version__, transformers.__version__)
    about += tuple(altered(model))
    path = cache_file("layouts", repr(about))
    own = hooked(*model.modules())
    kept = None if own else read_tensors(path, "scales")
    if kept is None or len(kept["scales"]) != len(editable):
        with settled(model):  # dropout would make every run differ
            scales = _probed(found, editable)
            kept = {"scales": torch.tensor(scales, dtype=torch.float64)}
        if not own:
            write_tensors(path, kept)
    return replace(found, scales=dict(zip(editable, kept["scales"].tolist(), strict=True)))


def _configuration(model: PreTrainedModel) -> str:
    """A model's configuration and kind of attention as text."""
    about = model.config.to_dict()
    for idle in ("_name_or_path", "transformers_version"):
        about.pop(idle, None)
    attention = getattr(model.config, "_attn_implementation", "")
    return json.dumps(about, sort_keys=True, default=str) + str(attention)


@torch.no_grad()
def _probed(found: Layout, editable: list[int]) -> list[float]:
    """The scales of some layers; `LayoutError` if the layout is wrong."""
    model, batch = found.model, _tokens(found.model)
    try:
        states, calls = _chained(found, batch)
        _same_logits(model, found, batch, states[-1])
        return [_scale(found, i, states[i], calls[i], batch) for i in editable]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, LayoutError | NonFiniteError) or "allocate memory" in str(error):
            raise
        raise LayoutError(_refusal(model, f"{type(error).__name__}: {error}")) from error


def _tokens(model: PreTrainedModel) -> Batch:
    """Two rows of random tokens, padded on the right."""
    rows, length = SHAPE
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(vocabulary, 5), min(vocabulary, 20_000), (rows, length),
                        generator=generator)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    position = torch.tensor([3, 2])
    device = model.device
    return Batch(ids.to(device), mask.to(device), position.to(device))


def _refusal(model: PreTrainedModel, why: str) -> str:
    """The message about a model whose layout is wrong."""
    return (f"{type(model).__name__} cannot be edited layer by layer: {why}. zu.evaluate and "
            "zu.perplexity work nevertheless, and so do methods that train (ga, ft)")


def _close(model: PreTrainedModel, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of the model's numbers."""
    return _apart(found, expected) <= _rounding(model)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far two tensors differ, as a share of the expected one's length.

    A token that the model rules out must be −∞ in both.
    """
    found, expected = found.float(), expected.float()
    if not torch.equal(found.isneginf(), expected.isneginf()):
        return math.inf
    ruled_out = expected.isneginf()
    found, expected = found.masked_fill(ruled_out, 0), expected.masked_fill(ruled_out, 0)
    error, size = float((found - expected).norm()), float(expected.norm())
    if error == 0:
        return 0.0
    return error / size if size else math.inf


def _rounding(model: PreTrainedModel) -> float:
    """How far two ways to compute the same values may differ, as a share of them."""
    return max(1e-5, 8 * torch.finfo(model.dtype).eps)


def _chained(found: Layout, batch: Batch) -> tuple[list[torch.Tensor], dict[int, dict]]:
    """The states that enter each layer and leave the last, (rows, length, d), and the calls.

    Each layer, called alone with the same arguments, must return the next layer's input.
    """
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    pairs = [(partial(block.register_forward_pre_hook, with_kwargs=True), keep)
             for block in found.layers]
    with hooks(*pairs):
        _, calls, out = entering(found.model, batch, 0)
    states = [*seen, out]
    if len(seen) != len(found.layers):
        why = f"{len(found.layers)} layers are called {len(seen)} times"
        raise LayoutError(_refusal(found.model, why))
    if any(x.dim() != 3 for x in states):
        why = "its layers pass on more than one state for each token"
        raise LayoutError(_refusal(found.model, why))
    for x in states:
        finite(found.model, x[batch.real.bool()], "states")
    real = batch.real.bool()
    for i, block in enumerate(found.layers):
        alone = call_layer(block, states[i], calls[i])
        if not _close(found.model, alone[real], states[i + 1][real]):
            why = f"the input of layer {i + 1} is not the output of layer {i}"
            raise LayoutError(_refusal(found.model, why))
    middle = len(found.layers) // 2
    above = {i: call for i, call in calls.items() if i >= middle}
    rest = run_from(found.model, states[middle], above)
    if not _close(found.model, rest[real], out[real]):
        raise LayoutError(_refusal(found.model, "its upper layers alone compute something else"))
    return states, calls


def _same_logits(
    model: PreTrainedModel, found: Layout, batch: Batch, last: torch.Tensor
) -> None:
    """Raise `LayoutError` unless the last states (rows, length, d) give the model's own logits."""
    real = batch.real.bool()
    own = whole_logits(model, batch, real)  # (real tokens, vocabulary)
    ours = logits(model, found.finish(last)[real])
    error = _apart(ours, own)
    if not error <= _rounding(model):
        why = f"its logits differ from those of its last states, by {error:.2g} of their size"
        raise LayoutError(_refusal(model, why))


def _scale(
    found: Layout, layer: int, states: torch.Tensor, call: dict, batch: Batch
) -> float:
    """The factor by which a random change of a projection's output arrives after its layer.

    NaN if there is no single factor. `states` (rows, length, d) enter the layer.
    """
    model, block, linear = found.model, found.layers[layer], found.projection(layer)
    rows = torch.arange(len(states), device=states.device)
    at = batch.position.to(states.device)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        seen.append((args[0].clone(), output.clone()))  # some models add to it in place

    with hooks((linear.register_forward_hook, keep)):
        plain = call_layer(block, states, call)
    if len(seen) != 1:
        why = f"the projection of layer {layer} is used {len(seen)} times in one pass"
        raise LayoutError(_refusal(model, why))
    key, value = seen[0]
    _check_linear(found, layer, key, value, states)
    generator = torch.Generator().manual_seed(layer)
    change = torch.randn(len(states), value.shape[-1], generator=generator).to(value.device)
    size = plain[rows, at].float().norm(dim=1, keepdim=True).to(change.device)
    change = change / change.norm(dim=1, keepdim=True) * size  # (rows, d), as long as the state is

    def moved(by: torch.Tensor) -> torch.Tensor:
        """The effect after the layer of a change (rows, d) of the projection's output."""

        def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            shifted = output.clone().view(*states.shape[:2], -1)  # some flatten rows and length
            shifted[rows, at] = (shifted[rows, at].float() + by).to(output.dtype)
            return shifted.view_as(output)

        with hooks((linear.register_forward_hook, add)):
            return call_layer(block, states, call).float() - plain.float()

    once = _arrives(found, layer, moved(change), at)
    twice = _arrives(found, layer, moved(-2 * change), at)
    return _multiple(model, once, twice, change.to(once.device))


def _check_linear(
    found: Layout, layer: int, key: torch.Tensor, value: torch.Tensor, states: torch.Tensor
) -> None:
    """Raise `LayoutError` unless a projection's output is W k + b, one value per state."""
    linear = found.projection(layer)
    W, bias = found.matrix(layer), linear._parameters.get("bias")
    expected = F.linear(key, W, bias)
    if not _close(found.model, value, expected):
        why = f"the output of layer {layer}'s projection is not W k + b"
        raise LayoutError(_refusal(found.model, why))
    if value.numel() != states.numel():
        shapes = f"{tuple(value.shape)} for {tuple(states.shape)}"
        raise LayoutError(_refusal(found.model, f"the projection of layer {layer} gives {shapes}"))


def _arrives(found: Layout, layer: int, moved: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The change after a layer (rows, length, d) at the changed tokens, (rows, d).

    `LayoutError` if nothing changed there, or anything changed elsewhere.
    """
    rows = torch.arange(len(moved), device=moved.device)
    there = moved[rows, at]  # (rows, d)
    elsewhere = moved.clone()
    elsewhere[rows, at] = 0
    size = float(there.norm())
    if not math.isfinite(size) or size == 0:
        raise LayoutError(_refusal(found.model, "a change of the projection's output does not "
                                   f"arrive after layer {layer}"))
    if float(elsewhere.norm()) > _rounding(found.model) * size:
        raise LayoutError(_refusal(found.model, "a change of the projection's output at one "
                                   f"token reaches others within layer {layer}"))
    return there


def _multiple(
    model: PreTrainedModel, once: torch.Tensor, twice: torch.Tensor, change: torch.Tensor
) -> float:
    """The factor by which a change arrives, from its effect and that of −2 times it, (rows, d).

    NaN if there is no single factor. A factor of 1 up to rounding counts as 1.
    """
    times = float((once * change).sum() / change.square().sum())
    small = max(1e-3, 4 * torch.finfo(model.dtype).eps)
    straight = float((once - times * change).norm()) <= small * float(once.norm())
    linear = float((twice + 2 * once).norm()) <= small * float(twice.norm())
    if not straight or not linear:
        return math.nan
    return 1.0 if abs(times - 1) < small else times
