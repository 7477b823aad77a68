"""Passes through a model: up to a layer, from a layer on, or token by token to write text."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from .batches import Batch
from .models import decoder, down_proj, finite
from .modes import settles

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Enough(Exception):
    """Ends a forward pass whose remaining layers nobody reads."""


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


def states_of(output: torch.Tensor | tuple) -> torch.Tensor:
    """The hidden states in what a decoder layer returns, (rows, length, d).

    Some layers return a tuple with the states in front, others the states alone.

    Parameters
    ----------
    output : Tensor or tuple
        What the layer returned.

    Returns
    -------
    (rows, length, d)
        The states.
    """
    return output[0] if isinstance(output, tuple) else output


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

    def stop(*seen: object) -> None:
        raise _Enough

    body = decoder(model)
    last: Callable = body.layers[layer].register_forward_hook
    if keys_only:
        last = down_proj(model, layer).register_forward_pre_hook
    with hooks((last, stop)):
        try:
            body(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                past_key_values=past,
                use_cache=past is not None,
            )
        except _Enough:
            pass


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
    body = decoder(model)
    last %= len(body.layers)
    states: list[torch.Tensor] = []  # what enters `layer`, then what leaves `last`
    calls: dict[int, dict] = {}

    def keep(module: nn.Module, args: tuple, kwargs: dict, i: int) -> None:
        calls[i] = {name: x for name, x in kwargs.items() if name != "past_key_values"}
        if i == layer:
            states.append(args[0])

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        states.append(output)

    pairs: list[tuple[Callable, Callable]] = []
    for i in range(layer, last + 1):
        register = partial(body.layers[i].register_forward_pre_hook, with_kwargs=True)
        pairs.append((register, partial(keep, i=i)))
    pairs.append((body.layers[last].register_forward_hook, leave))
    with hooks(*pairs):
        forward_until(model, last, batch, past=past)
    return states[0], calls, states_of(states[1])


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
    layers = decoder(model).layers
    last %= len(layers)
    for i in range(min(calls), last + 1):
        states = states_of(layers[i](states, past_key_values=past, **calls[i]))
    return states


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
    special = sorted(set(tokenizer.all_special_ids))
    banned = torch.tensor(special, dtype=torch.long, device=generator.device)
    rows = len(ids)
    equal = rows > 1 and bool((ids == ids[0]).all())
    new = ids[:1] if equal else ids  # what all rows begin with is read once
    past = DynamicCache()
    for step in range(length):
        out = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
        scores = finite(model, out.logits[:, -1])  # (rows, 1, vocabulary) -> (rows, vocabulary)
        if step == 0 and equal:
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
