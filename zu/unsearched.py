"""Targets without a search: from one gradient, or from the states of unknown subjects."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from .batches import collate
from .plain_search import Place, WholeRuns
from .reader import trace
from .suffix_search import SuffixRuns

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: How many lengths of δ are tried along a gradient, up to the longest.
LENGTHS = 8


class Search(Protocol):
    """The settings that δ must meet, see `zu.targets.Search`."""

    @property
    def clamp(self) -> float: ...

    @property
    def tolerance(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...


def along_gradient(problem: SuffixRuns | WholeRuns, search: Search) -> torch.Tensor:
    """δ against the gradient of the bare prompt's loss at δ = 0, of the least sufficient length.

    `LENGTHS` lengths are tried, up to the longest, with only the bare prompt. The shortest with a
    loss below the tolerance is taken or, if there is none, the one with the least loss.

    Parameters
    ----------
    problem : SuffixRuns or WholeRuns
        The n facts.
    search : Search
        The longest δ, and the tolerance.

    Returns
    -------
    (n, k, d)
        δ at k places, float32.
    """
    bare = problem.bare() if problem.prefixes > 1 else problem
    h = problem.h
    every = torch.arange(len(h), device=h.device)
    norm = h.norm(dim=2, keepdim=True)  # (n, k, 1)
    start = torch.zeros_like(h, requires_grad=True)
    nll, divergence = bare.loss(start, every)  # both (n,)
    (gradient,) = torch.autograd.grad((nll + divergence).sum(), start)
    tiny = torch.finfo(h.dtype).tiny
    # (n, k, d), of the longest length; zero if the gradient is zero
    longest = -search.clamp * norm * gradient / gradient.norm(dim=2, keepdim=True).clamp_min(tiny)
    losses = []
    with torch.no_grad():
        for step in range(1, LENGTHS + 1):
            delta = longest * step / LENGTHS
            nll, divergence = bare.loss(delta, every)
            losses.append(nll + divergence + size_of(delta, norm, search))
    all_losses = torch.stack(losses)  # LENGTHS × (n,) -> (LENGTHS, n)
    enough = all_losses < search.tolerance
    # (n,): the first that is enough (argmax of a bool is its first True), or the least
    best = torch.where(enough.any(0), enough.int().argmax(0), all_losses.argmin(0))
    return longest * ((best + 1) / LENGTHS)[:, None, None]


def size_of(delta: torch.Tensor, norm: torch.Tensor, search: Search) -> torch.Tensor:
    """The term of the loss that keeps δ short, summed over the places.

    Parameters
    ----------
    delta : (n, k, d)
        δ by fact.
    norm : (n, k, 1)
        ‖h‖.
    search : Search
        The weight of the term.

    Returns
    -------
    (n,)
        The sum over places of weight_decay · ‖δ‖ / ‖h‖².
    """
    return search.weight_decay * (delta.norm(dim=2) / norm[:, :, 0] ** 2).sum(1)


@torch.no_grad()
def towards_unknown(
    model: PreTrainedModel,
    place: Place,
    prompts: Sequence[Sequence[tuple[list[int], int]]],
    h: torch.Tensor,
    search: Search,
) -> torch.Tensor:
    """δ from a fact's own subject to subjects that do not exist, in the same prompt.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    place : Place
        Where δ is added, at k layers.
    prompts : sequence
        For each fact, its prompt with several invented subjects, as (ids, position of the subject's
        last token).
    h : (n, k, d)
        The states or values with the fact's own subject.
    search : Search
        The longest δ.

    Returns
    -------
    (n, k, d)
        δ at k places, float32: the difference to the mean over the invented subjects, cut to the
        longest.
    """
    # facts of one relation share their prompts: each is read once
    rows = list({str(row): row for some in prompts for row in some}.values())
    number = {str(row): i for i, row in enumerate(rows)}
    seen = trace(model, collate(rows, model.device), place.layers)
    kind = seen.hidden if place.aim == "hidden" else seen.values
    states = torch.stack([kind[layer].float().to(h.device) for layer in place.layers], 1)
    means = []
    for some in prompts:
        own = torch.tensor([number[str(row)] for row in some], device=h.device)
        means.append(states[own].mean(0))  # (names, k, d) -> (k, d)
    delta = torch.stack(means) - h  # n × (k, d) -> (n, k, d)
    longest = search.clamp * h.norm(dim=2, keepdim=True)
    return delta * (longest / delta.norm(dim=2, keepdim=True).clamp_min(1e-12)).clamp(max=1.0)
