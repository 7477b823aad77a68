"""Passes through a model: up to a layer, from a layer on, or token by token to write a text."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from .batches import Batch
from .layouts import Layout, heard, known
from .models import finite
from .modes import settles

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Enough(Exception):
    """Ends a forward pass whose remaining layers are not read."""


@contextmanager
def hooks(*pairs: tuple[Callable, Callable]) -> Iterator[None]:
    """Register hooks for the duration of a block, and always remove them.

    Parameters
    ----------
    *pairs : (register, function)
        Pairs such as ``(module.register_forward_hook, f)``.
    """
    handles = [register(function) for register, function in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def ended(register: Callable) -> Iterator[None]:
    """Stop the block's pass at a hook; whatever comes after it is not run.

    Parameters
    ----------
    register : callable
        For example ``module.register_forward_hook``.
    """

    def stop(*seen: object) -> None:
        raise _Enough

    with hooks((register, stop)), suppress(_Enough):
        yield


def check_ids(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Refuse tokens for which a model has no embedding, before a GPU fails at them.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    ids : Tensor
        Token ids, of any shape.

    Raises
    ------
    ValueError
        If there is such a token; the message gives the remedy.
    """
    weight = getattr(model.get_input_embeddings(), "weight", None)
    highest = int(ids.max()) if ids.numel() else 0
    if isinstance(weight, torch.Tensor) and highest >= len(weight):
        raise ValueError(f"the tokenizer gives token {highest}, but the model has {len(weight)}: "
                         "give the model's own tokenizer, or resize its embeddings "
                         "(model.resize_token_embeddings)")


def states_of(output: torch.Tensor | tuple | list) -> torch.Tensor:
    """The hidden states in what a decoder layer returns, (rows, length, d).

    Some layers return a tuple or list that begins with the states, others only the states.

    Parameters
    ----------
    output : Tensor, tuple or list
        The layer's return value.

    Returns
    -------
    (rows, length, d)
        The states.
    """
    return output[0] if isinstance(output, tuple | list) else output


def forward_until(
    model: PreTrainedModel,
    layer: int,
    batch: Batch,
    *,
    keys_only: bool = False,
    past: DynamicCache | None = None,
) -> None:
    """Run the decoder on a batch and stop once `layer` is done.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    layer : int
        The last layer to run.
    batch : Batch
        The rows to run the model on.
    keys_only : bool
        Whether to stop before the layer's output projection.
    past : DynamicCache, optional
        The cache of the text before the batch; the batch's mask must then cover that text too.
    """
    check_ids(model, batch.ids)
    layout = known(model)
    last: Callable = layout.layers[layer].register_forward_hook
    if keys_only:
        last = layout.projection(layer).register_forward_pre_hook
    cache = {} if past is None else {"past_key_values": past}
    with ended(last):
        layout.body(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            use_cache=past is not None,
            **cache,
        )


@torch.no_grad()
def entering(
    model: PreTrainedModel,
    batch: Batch,
    layer: int,
    last: int = -1,
    past: DynamicCache | None = None,
) -> tuple[torch.Tensor, dict[int, dict], torch.Tensor]:
    """The states that enter a layer, the calls of the layers from there on, and the final states.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    batch : Batch
        The rows to run the model on.
    layer : int
        The layer whose input is wanted.
    last : int
        The last layer to run; negative numbers count from the end.
    past : DynamicCache, optional
        As in `forward_until`.

    Returns
    -------
    states : (rows, length, d)
        The states that enter `layer`.
    calls : dict
        By layer, from `layer` to `last`, the keyword arguments of its call, without the cache.
    out : (rows, length, d)
        The states that leave `last`.
    """
    layers = known(model).layers
    last %= len(layers)
    states: list[torch.Tensor] = []  # what enters `layer`, then what leaves `last`
    calls: dict[int, dict] = {}

    def keep(module: nn.Module, args: tuple, kwargs: dict, i: int) -> None:
        first, calls[i] = called_with(module, args, kwargs)
        if i == layer:
            states.append(first)

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        states.append(output)

    pairs: list[tuple[Callable, Callable]] = []
    for i in range(layer, last + 1):
        register = partial(layers[i].register_forward_pre_hook, with_kwargs=True)
        pairs.append((register, partial(keep, i=i)))
    pairs.append((layers[last].register_forward_hook, leave))
    with hooks(*pairs):
        forward_until(model, last, batch, past=past)
    return states[0], calls, states_of(states[1])


@contextmanager
def entering_first(layout: Layout, layer: int) -> Iterator[list[torch.Tensor]]:
    """Inside the block, keep the states that enter a layer.

    Parameters
    ----------
    layout : Layout
        The model's layout.
    layer : int
        From 0 to the number of layers, which stands for the states that leave the last layer.

    Yields
    ------
    list of (rows, length, d)
        The states, one entry per pass.
    """
    found: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append(called_with(module, args, kwargs)[0])

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        found.append(states_of(output))

    if layer < len(layout.layers):
        register = partial(layout.layers[layer].register_forward_pre_hook, with_kwargs=True)
        pair: tuple[Callable, Callable] = (register, enter)
    else:
        pair = (layout.layers[-1].register_forward_hook, leave)
    with hooks(pair):
        yield found


#: The names of layers' arguments for the cache.
CACHES = ("past_key_values", "layer_past", "past_key_value", "cache_params")


def called_with(module: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, dict]:
    """The arguments of a layer's call, as a pre-hook sees them.

    Parameters
    ----------
    module : nn.Module
        The layer.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    states : (rows, length, d)
        The first argument.
    call : dict
        The others by name, with None under the layer's own name for the cache.
    """
    if not args:
        kwargs = dict(kwargs)
        return kwargs.pop("hidden_states"), _without_cache(kwargs)
    names = [*inspect.signature(module.forward).parameters]
    given = dict(zip(names[1:], args[1:], strict=False)) | kwargs
    return args[0], _without_cache(given)


def _without_cache(given: dict) -> dict:
    """The arguments of a call with None in the cache's place."""
    return {name: None if name in CACHES else x for name, x in given.items()}


def call_layer(
    block: nn.Module, states: torch.Tensor, call: dict, past: Any = None
) -> torch.Tensor:
    """Run a layer on some states.

    Parameters
    ----------
    block : nn.Module
        The layer.
    states : (rows, length, d)
        The states that enter it.
    call : dict
        The other arguments by name, as `entering` returns them.
    past : optional
        A cache, if the layer should use one.

    Returns
    -------
    (rows, length, d)
        The states that leave it.
    """
    if past is not None:
        call = {name: past if name in CACHES else x for name, x in call.items()}
    return states_of(block(states, **call))


def run_from(
    model: PreTrainedModel,
    states: torch.Tensor,
    calls: dict[int, dict],
    last: int = -1,
    past: DynamicCache | None = None,
) -> torch.Tensor:
    """The states that leave layer `last`, from the result of `entering`.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (rows, length, d)
        The states that enter the lowest layer of `calls`.
    calls : dict
        Keyword arguments by layer.
    last : int
        The last layer to run; negative numbers count from the end.
    past : DynamicCache, optional
        As in `forward_until`.

    Returns
    -------
    (rows, length, d)
        The states that leave `last`.
    """
    layers = known(model).layers
    last %= len(layers)
    for i in range(min(calls), last + 1):
        states = call_layer(layers[i], states, calls[i], past)
    return states


@contextmanager
def _only(positions: torch.Tensor, head: nn.Module) -> Iterator[None]:
    """Inside the block the output head receives only the states at some positions, in one row."""

    def cut(module: nn.Module, args: tuple) -> tuple:
        return (args[0][positions.to(args[0].device)][None],)  # (rows, length, d) -> (1, places, d)

    with hooks((head.register_forward_pre_hook, cut)):
        yield


def whole_logits(
    model: PreTrainedModel, batch: Batch, positions: torch.Tensor, check: bool = True
) -> torch.Tensor:
    """The logits at some positions, from a run of the whole model; for any causal language model.

    The head receives only those positions, unless a user's hooks are on it or on the model, see
    `zu.layouts.heard`.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    batch : Batch
        The rows to run the model on, padded on the right.
    positions : (rows, length)
        True where logits are wanted.
    check : bool
        Whether to check the logits with `zu.models.finite`.

    Returns
    -------
    (places, vocabulary)
        Row after row, float32, as the model itself computes them.

    Raises
    ------
    ValueError
        If the logits are not finite, or the model has no embedding of a token.
    """
    check_ids(model, batch.ids)
    head, every = model.get_output_embeddings(), heard(model)

    def look(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if check:  # before a soft cap, which would turn +∞ into a number
            finite(model, output)

    cut = nullcontext() if every else _only(positions, head)
    with cut, hooks((head.register_forward_hook, look)):
        output = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    if every:  # (rows, length, vocabulary) -> (places, vocabulary)
        return output.logits[positions.to(output.logits.device)].float()
    return output.logits[0].float()  # (1, places, vocabulary) -> (places, vocabulary)


@torch.no_grad()
def takes_cache(model: PreTrainedModel, ids: torch.Tensor) -> bool:
    """Whether a model gives the same logits with a cache of keys and values, tested on the model.

    State-space layers and the like need another cache.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    ids : (rows, t)
        Some tokens.

    Returns
    -------
    bool
        True if the logits are the same up to rounding.
    """
    some = ids[:1].repeat(1, 3)[:, :3]  # (rows, t) -> (1, 3)
    past = DynamicCache()
    try:
        model(input_ids=some[:, :2], past_key_values=past, use_cache=True)
        found = model(input_ids=some[:, 2:], past_key_values=past, use_cache=True).logits[:, -1]
        if past.get_seq_length() != 3:
            return False
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    expected = model(input_ids=some, use_cache=False).logits[:, -1]  # (1, vocabulary)
    error = (found.float() - expected.float()).norm()
    small = max(1e-3, 16 * torch.finfo(model.dtype).eps)
    return not bool(error > small * expected.float().norm())  # others check for NaN


@settles
@torch.no_grad()
def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: torch.Tensor,
    length: int,
    generator: torch.Generator,
    *,
    top_k: int | None = None,
) -> torch.Tensor:
    """Continue each row of ids by `length` sampled tokens, none of them special.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokenizer : PreTrainedTokenizerBase
        The model's own, which names the special tokens.
    ids : (rows, t)
        The beginning of each row.
    length : int
        How many tokens to add.
    generator : torch.Generator
        The generator that draws them, at temperature 1, on its own device.
    top_k : int, optional
        Draw only from this many likeliest tokens; by default from all.

    Returns
    -------
    (rows, t + length)
        The given tokens and their continuation.

    Raises
    ------
    ValueError
        If the model's logits are not finite.
    """
    check_ids(model, ids)
    special = sorted(set(tokenizer.all_special_ids))
    banned = torch.tensor(special, dtype=torch.long, device=generator.device)
    rows = len(ids)
    equal = rows > 1 and bool((ids == ids[0]).all())
    past = DynamicCache() if takes_cache(model, ids) else None
    new = ids[:1] if equal and past is not None else ids  # a common beginning is read once
    for step in range(length):
        if past is None:
            out = model(input_ids=ids, use_cache=False)
        else:
            out = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
        scores = finite(model, out.logits[:, -1])  # (rows, 1, vocabulary) -> (rows, vocabulary)
        if step == 0 and equal and past is not None:
            past.batch_repeat_interleave(rows)
            scores = scores.expand(rows, -1)  # (1, vocabulary) -> (rows, vocabulary)
        new = _draw(scores, banned, top_k, generator).to(ids.device)
        ids = torch.cat([ids, new], 1)  # (rows, t) and (rows, 1) -> (rows, t + 1)
    return ids


def _draw(
    scores: torch.Tensor, banned: torch.Tensor, top_k: int | None, generator: torch.Generator
) -> torch.Tensor:
    """One token per row of scores (rows, vocabulary), none of them banned: (rows, 1)."""
    allowed = scores.float().to(generator.device).index_fill(1, banned, -torch.inf)
    if not top_k:
        return torch.multinomial(allowed.softmax(1), 1, generator=generator)
    likely = allowed.topk(top_k)
    drawn = torch.multinomial(likely.values.softmax(1), 1, generator=generator)
    return likely.indices.gather(1, drawn)  # from a place among the k to a token id
