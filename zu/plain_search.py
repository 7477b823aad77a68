"""The loss of the search for targets in its plainest form: whole sequences, the whole model.

`WholeRuns` computes the loss of `zu.targets.optimise` literally, fact by fact, without knowing what
a layer does inside: δ is added to the output of the layer, or of its MLP's output projection. This
is slow. It serves to check the fast search, and to search in models whose layers the fast search
does not know.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .layouts import known
from .models import finite
from .passes import check_ids
from .reader import collate, hooks, states_of, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CodedFact(Protocol):
    """A fact as token ids, see `zu.targets`.

    `rows` holds (ids, position of the subject's last token) by prefix, `goal` the tokens to aim at,
    and `essence` (ids, position) of the essence prompt.
    """

    @property
    def rows(self) -> list[tuple[list[int], int]]: ...

    @property
    def goal(self) -> list[int]: ...

    @property
    def essence(self) -> tuple[list[int], int]: ...


class _Bare(NamedTuple):
    """A fact behind no prefix, see `CodedFact`."""

    rows: list[tuple[list[int], int]]
    goal: list[int]
    essence: tuple[list[int], int]


class Place(Protocol):
    """Where δ goes, see `zu.targets.Place`."""

    @property
    def aim(self) -> str: ...

    @property
    def layers(self) -> tuple[int, ...]: ...


class Search(Protocol):
    """The settings of the divergence, see `zu.targets.Search`."""

    @property
    def kl(self) -> float: ...

    @property
    def kl_at(self) -> str: ...


class WholeRuns:
    """The loss of n facts, each with its own δ, computed with whole runs of the model.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    place : Place
        Where δ is added, at k layers.
    coded : sequence of CodedFact
        The n facts.
    search : Search
        The kind and the weight of the divergence.

    Attributes
    ----------
    n : int
        How many facts there are.
    prefixes : int
        How many texts are put before each prompt, including the empty one.
    h : (n, k, d)
        The states or values to which δ is added, at the subject's last token, float32.
    original : (n, vocabulary)
        Log-probabilities at the end of the essence prompts without δ, float32.

    Raises
    ------
    ValueError
        If the model's logits are not finite.

    References
    ----------
    Meng et al. 2022 (ROME), Eq. 4; `zu.targets.optimise` says how this loss differs.
    """

    def __init__(
        self, model: PreTrainedModel, place: Place, coded: Sequence[CodedFact], search: Search
    ) -> None:
        self.model, self.place, self.coded, self.search = model, place, coded, search
        self.n, self.prefixes = len(coded), len(coded[0].rows)
        bare = [fact.rows[0] for fact in coded]
        if place.aim == "value":
            self.h = values_at(model, bare, place.layers)  # (n, k, d)
        else:
            (layer,) = place.layers
            seen = trace(model, collate(bare, model.device), [layer])
            self.h = seen.hidden[layer].float()[:, None]  # (n, d) -> (n, 1, d)
        nothing = torch.zeros_like(self.h[0])  # (k, d)
        with torch.no_grad():
            said = [self._after_essence(fact, nothing) for fact in coded]
        self.original = torch.stack(said)  # n × (vocabulary,) -> (n, vocabulary)

    def loss(
        self, delta: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean target negative log-likelihood and weighted divergence of some facts.

        Parameters
        ----------
        delta : (active, k, d)
            The δ of each fact, float32.
        active : (active,)
            The facts' numbers.

        Returns
        -------
        nll : (active,)
            Means over the prefixes and the target's tokens, float32.
        divergence : (active,)
            kl · KL at the essence prompt's end, see `divergence`, float32.

        Raises
        ------
        ValueError
            For a model whose logits are not finite.
        """
        nll, apart = [], []
        for i, change in zip(active.tolist(), delta, strict=True):
            fact = self.coded[i]
            nll.append(self._target_nll(fact, change))
            changed = self._after_essence(fact, change)
            apart.append(divergence(self.original[i], changed, self.search.kl_at))
        return torch.stack(nll), self.search.kl * torch.stack(apart)  # both (active,)

    def bare(self) -> WholeRuns:
        """The same problem with only the bare prompts.

        Returns
        -------
        WholeRuns
            The problem with the facts' first rows.
        """
        found = copy(self)
        found.prefixes = 1
        found.coded = [_Bare(fact.rows[:1], fact.goal, fact.essence) for fact in self.coded]
        return found

    def _target_nll(self, fact: CodedFact, delta: torch.Tensor) -> torch.Tensor:
        """The target's negative log-likelihood with δ (k, d), a mean over tokens and prefixes."""
        goal = torch.tensor(fact.goal, device=delta.device)
        # one run for the whole target: each of its tokens is predicted at the token before it
        rows = [(ids + fact.goal[:-1], position) for ids, position in fact.rows]
        logits = self._logits(rows, delta)  # (prefixes, length, vocabulary)
        by_prefix = []
        for row, (ids, _) in zip(logits, fact.rows, strict=True):
            start = len(ids) - 1  # the prompt's last token predicts the target's first
            said = row[start:start + len(goal)]  # (length, vocabulary) -> (target, vocabulary)
            by_prefix.append(F.cross_entropy(said, goal))
        return torch.stack(by_prefix).mean()

    def _after_essence(self, fact: CodedFact, delta: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the token after the essence prompt with δ (k, d): (vocabulary,)."""
        (logits,) = self._logits([fact.essence], delta)  # (1, length, vocabulary)
        return logits[-1].log_softmax(-1)

    def _logits(self, rows: Sequence[tuple[list[int], int]], delta: torch.Tensor) -> torch.Tensor:
        """The logits at every token of some (ids, position) rows, with δ (k, d) at the positions.

        Returns (rows, length, vocabulary), float32.
        """
        batch = collate(rows, self.model.device)
        head = self.model.get_output_embeddings()

        def check(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            # before a soft cap, which would turn +∞ into a number
            finite(self.model, output)

        pairs: list[tuple[Callable, Callable]] = [(head.register_forward_hook, check)]
        for layer, change in zip(self.place.layers, delta, strict=True):
            add = partial(_add, position=batch.position, delta=change, shape=batch.ids.shape)
            pairs.append((self._changed(layer).register_forward_hook, add))
        check_ids(self.model, batch.ids)
        with hooks(*pairs):
            output = self.model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            )
        return output.logits.float().to(delta.device)

    def _changed(self, layer: int) -> nn.Module:
        """The module to whose output δ is added: a layer, or its projection."""
        layout = known(self.model)
        return layout.layers[layer] if self.place.aim == "hidden" else layout.projection(layer)


def _add(
    module: nn.Module,
    args: tuple,
    output: torch.Tensor | tuple | list,
    *,
    position: torch.Tensor,
    delta: torch.Tensor,
    shape: torch.Size,
) -> torch.Tensor | tuple | list:
    """A forward hook that adds δ (d,) to the output at each row's position (rows,).

    `shape` is (rows, length), which some families flatten.
    """
    whole = states_of(output)
    changed = whole.clone().view(*shape, -1)  # (rows, length, d)
    rows = torch.arange(len(changed), device=changed.device)
    at = position.to(changed.device)
    shifted = changed[rows, at].float() + delta.to(changed.device)  # (rows, d)
    changed[rows, at] = shifted.to(changed.dtype)
    changed = changed.view_as(whole)
    if not isinstance(output, tuple | list):
        return changed
    return type(output)([changed, *output[1:]])


def values_at(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], int]], layers: Sequence[int]
) -> torch.Tensor:
    """The outputs of some layers' projections, at one position of each row.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    rows : sequence of (ids, position)
        The n rows.
    layers : sequence of int
        The k layers.

    Returns
    -------
    (n, k, d)
        The values, float32.
    """
    seen = trace(model, collate(rows, model.device), layers).values
    return torch.stack([seen[layer].float().to(model.device) for layer in layers], 1)


def divergence(original: torch.Tensor, changed: torch.Tensor, kl_at: str) -> torch.Tensor:
    """The divergence of the prediction with δ from the one without.

    Parameters
    ----------
    original, changed : (..., vocabulary)
        Log-probabilities without and with δ.
    kl_at : {"subject", "next"}
        "subject" takes KL(changed ‖ original), as the released code does; "next" takes
        KL(original ‖ changed).

    Returns
    -------
    (...)
        The divergence.
    """
    least = torch.finfo(changed.dtype).min  # a token at −∞, which is ruled out, would give NaN
    original, changed = original.clamp(min=least), changed.clamp(min=least)
    away, true = (original, changed) if kl_at == "subject" else (changed, original)
    return F.kl_div(away, true, reduction="none", log_target=True).sum(-1)
