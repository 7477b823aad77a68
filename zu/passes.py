"""Passes through a model: up to a layer, from a layer on, or token by token to write text."""
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
    """Register hooks for the time of a block; always remove them.

    Parameters
    ----------
    *pairs : (register, function)
        E.g. ``(module.register_forward_hook, f)``.
    """
    handles = [register(function) for register, function in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def ended(register: Callable) -> Iterator[None]:
    """End the passes of a block where a hook is called: what comes after it is not run.

    Parameters
    ----------
    register : callable
        E.g. ``module.register_forward_hook``.
    """

    def stop(*seen: object) -> None:
        raise _Enough

    with hooks((register, stop)), suppress(_Enough):
        yield


def check_ids(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Refuse tokens that a model has no embedding of, before a GPU fails at them.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    ids : Tensor
        Token ids, of any shape.

    Raises
    ------
    ValueError
        With the way out.
    """
    weight = getattr(model.get_input_embeddings(), "weight", None)
    highest = int(ids.max()) if ids.numel() else 0
    if isinstance(weight, torch.Tensor) and highest >= len(weight):
        raise ValueError(f"the tokenizer gives token {highest}, but the model has {len(weight)}: "
                         "give the model's own tokenizer, or resize its embeddings "
                         "(model.resize_token_embeddings)")


def states_of(output: torch.Tensor | tuple | list) -> torch.Tensor:
    """The hidden states in what a decoder layer returns, (rows, length, d).

    Some layers return a tuple or list with the states in front, others the states alone.

    Parameters
    ----------
    output : Tensor, tuple or list
        What the layer returned.

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
        The last layer that is run.
    batch : Batch
        What it is run on.
    keys_only : bool
        Stop already before the layer's output projection.
    past : DynamicCache, optional
        The cache of what stands before the batch, whose mask then covers it too.
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
    """What enters a layer, what the layers from there on are called with, and what leaves the last.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    batch : Batch
        What it is run on.
    layer : int
        Whose input is wanted.
    last : int
        The last layer that is run; negative numbers count from the end.
    past : DynamicCache, optional
        As in `forward_until`.

    Returns
    -------
    states : (rows, length, d)
        The states that enter `layer`.
    calls : dict
        By layer, from `layer` to `last`: the keyword arguments that it is called with, without the
        cache.
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
    """For a block, keep the states that enter a layer, or leave the last where there is none.

    Parameters
    ----------
    layout : Layout
        The model's.
    layer : int
        From 0 to the number of layers.

    Yields
    ------
    list of (rows, length, d)
        One for each pass.
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


#: How layers call the cache that they are given.
CACHES = ("past_key_values", "layer_past", "past_key_value", "cache_params")


def called_with(module: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, dict]:
    """What a layer is called with, as a pre-hook sees it.

    Parameters
    ----------
    module : nn.Module
        The layer.
    args, kwargs : tuple, dict
        Its arguments.

    Returns
    -------
    states : (rows, length, d)
        The first of them.
    call : dict
        The others by name; the layer's own name for the cache is there, with None.
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
    """What a layer makes of states.

    Parameters
    ----------
    block : nn.Module
        The layer.
    states : (rows, length, d)
        What enters it.
    call : dict
        The other arguments by name, as `entering` found them.
    past : optional
        A cache, in the place where the layer takes one.

    Returns
    -------
    (rows, length, d)
        What leaves it.
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
    """The states that leave layer `last`, given what `entering` found.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (rows, length, d)
        The states that enter the lowest layer of `calls`.
    calls : dict
        Keyword arguments by layer.
    last : int
        The last layer that is run; negative numbers count from the end.
    past : DynamicCache, optional
        As in `forward_until`.

    Returns
    -------
    (rows, length, d)
        The states that leave it.
    """
    layers = known(model).layers
    last %= len(layers)
    for i in range(min(calls), last + 1):
        states = call_layer(layers[i], states, calls[i], past)
    return states


@contextmanager
def _only(positions: torch.Tensor, head: nn.Module) -> Iterator[None]:
    """For a block, have the output head see some positions' states alone, in one row."""

    def cut(module: nn.Module, args: tuple) -> tuple:
        return (args[0][positions.to(args[0].device)][None],)  # (rows, length, d) -> (1, places, d)

    with hooks((head.register_forward_pre_hook, cut)):
        yield


def whole_logits(
    model: PreTrainedModel, batch: Batch, positions: torch.Tensor, check: bool = True
) -> torch.Tensor:
    """What a model says at some positions, by a whole pass; for any causal language model.

    Its head sees those positions alone, unless the user's hooks are on it or on the model, see
    `zu.layouts.heard`.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    batch : Batch
        What it is run on, padded on the right.
    positions : (rows, length)
        True where logits are wanted.
    check : bool
        Whether to look at them with `zu.models.finite`.

    Returns
    -------
    (places, vocabulary)
        Row after row, float32, finished by the model itself.

    Raises
    ------
    ValueError
        For a model whose logits are not finite.
    """
    check_ids(model, batch.ids)
    head, every = model.get_output_embeddings(), heard(model)

    def look(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if check:  # before a soft cap, which would make of +∞ a number
            finite(model, output)

    cut = nullcontext() if every else _only(positions, head)
    with cut, hooks((head.register_forward_hook, look)):
        output = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    if every:  # (rows, length, vocabulary) -> (places, vocabulary)
        return output.logits[positions.to(output.logits.device)].float()
    return output.logits[0].float()  # (1, places, vocabulary) -> (places, vocabulary)


@torch.no_grad()
def takes_cache(model: PreTrainedModel, ids: torch.Tensor) -> bool:
    """Whether a model says with a cache of keys and values what it says without: tried on it.

    State-space layers and their like keep something else.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    ids : (rows, t)
        Some tokens.

    Returns
    -------
    bool
        Whether the logits are the same up to rounding.
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
    return not bool(error > small * expected.float().norm())  # NaN is another one's to find


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
    """Continue each row of ids by `length` sampled tokens, no special ones.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokenizer : PreTrainedTokenizerBase
        Names the special tokens.
    ids : (rows, t)
        What each row begins with.
    length : int
        How many tokens to add.
    generator : torch.Generator
        Draws them, at temperature 1, on its own device.
    top_k : int, optional
        Draw from so many likeliest tokens; by default from the whole distribution.

    Returns
    -------
    (rows, t + length)
        What was given, and its continuation.

    Raises
    ------
    ValueError
        For a model whose logits are not finite.
    """
    check_ids(model, ids)
    special = sorted(set(tokenizer.all_special_ids))
    banned = torch.tensor(special, dtype=torch.long, device=generator.device)
    rows = len(ids)
    equal = rows > 1 and bool((ids == ids[0]).all())
    past = DynamicCache() if takes_cache(model, ids) else None
    new = ids[:1] if equal and past is not None else ids  # what all begin with is read once
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
    """A token for each row of scores (rows, vocabulary), none of the banned ones: (rows, 1)."""
    allowed = scores.float().to(generator.device).index_fill(1, banned, -torch.inf)
    if not top_k:
        return torch.multinomial(allowed.softmax(1), 1, generator=generator)
    likely = allowed.topk(top_k)
    drawn = torch.multinomial(likely.values.softmax(1), 1, generator=generator)
    return likely.indices.gather(1, drawn)  # from a place among the k to a token id
