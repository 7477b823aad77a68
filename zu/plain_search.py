"""The loss of the search for targets in its plainest form: whole sequences, the whole model.

`WholeRuns` computes what `zu.targets.optimise` minimises as its text has it, fact by fact, and
knows nothing of what a layer does inside: δ is added to what the layer puts out. It takes long. The
fast search is held against it, and models whose layers that one does not know are searched with it.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .models import decoder, finite
from .reader import collate, hooks, states_of, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CodedFact(Protocol):
    """A fact as token ids, see `zu.targets`.

    rows: (ids, position of the subject's last token) by prefix. goal: the tokens to aim at.
    essence: (ids, position) of the essence prompt.
    """

    rows: list[tuple[list[int], int]]
    goal: list[int]
    essence: tuple[list[int], int]


class WholeRuns:
    """The targets of n facts: what the model says to their prompts with a δ each, and should say.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    layer : int
        After which δ is added to the residual stream.
    coded : sequence of CodedFact
        The n facts.
    kl : float
        Weight of the divergence.

    Attributes
    ----------
    n : int
        How many facts.
    h : (n, d)
        Their hidden states after `layer` at the subject's last token, float32.
    original : (n, vocabulary)
        Log-probabilities of what follows their essence prompts with no δ, float32.

    Raises
    ------
    ValueError
        For a model whose logits are not finite.

    References
    ----------
    Meng et al. 2022 (ROME), Eq. 4; what differs from it is said in `zu.targets.optimise`.
    """

    def __init__(
        self, model: PreTrainedModel, layer: int, coded: Sequence[CodedFact], kl: float
    ) -> None:
        self.model, self.layer, self.coded, self.kl = model, layer, coded, kl
        self.n = len(coded)
        bare = collate([fact.rows[0] for fact in coded], model.device)
        self.h = trace(model, bare, [layer]).hidden[layer].float()  # (n, d)
        nothing = torch.zeros_like(self.h[0])  # (d,)
        with torch.no_grad():
            said = [self._after_essence(fact, nothing) for fact in coded]
        self.original = torch.stack(said)  # n × (vocabulary,) -> (n, vocabulary)

    def loss(
        self, delta: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean target negative log-likelihood and weighted divergence of some facts.

        Parameters
        ----------
        delta : (active, d)
            What is added for each of them, float32.
        active : (active,)
            Their numbers.

        Returns
        -------
        nll : (active,)
            Means over the prefixes and the target's tokens, float32.
        divergence : (active,)
            kl · KL(original ‖ changed) after the essence prompt, float32.

        Raises
        ------
        ValueError
            For a model whose logits are not finite.
        """
        nll, divergence = [], []
        for i, change in zip(active.tolist(), delta, strict=True):
            fact = self.coded[i]
            nll.append(self._target_nll(fact, change))
            changed = self._after_essence(fact, change)
            divergence.append(self.kl * _divergence(self.original[i], changed))
        return torch.stack(nll), torch.stack(divergence)  # both (active,)

    def _target_nll(self, fact: CodedFact, delta: torch.Tensor) -> torch.Tensor:
        """The target's negative log-likelihood with δ (d,), a mean over its tokens and prefixes."""
        goal = torch.tensor(fact.goal, device=delta.device)
        # The whole target is read at once: each of its tokens is said at the one before it.
        rows = [(ids + fact.goal[:-1], position) for ids, position in fact.rows]
        logits = self._logits(rows, delta)  # (prefixes, length, vocabulary)
        by_prefix = []
        for row, (ids, _) in zip(logits, fact.rows, strict=True):
            start = len(ids) - 1  # the prompt's last token says the target's first
            said = row[start:start + len(goal)]  # (length, vocabulary) -> (target, vocabulary)
            by_prefix.append(F.cross_entropy(said, goal))
        return torch.stack(by_prefix).mean()

    def _after_essence(self, fact: CodedFact, delta: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the token after the essence prompt with δ (d,): (vocabulary,)."""
        (logits,) = self._logits([fact.essence], delta)  # (1, length, vocabulary)
        return logits[-1].log_softmax(-1)

    def _logits(self, rows: Sequence[tuple[list[int], int]], delta: torch.Tensor) -> torch.Tensor:
        """What the model says at every token of some rows with δ (d,) added at their positions.

        rows: (ids, position). Returns (rows, length, vocabulary), float32.
        """
        batch = collate(rows, self.model.device)
        block = decoder(self.model).layers[self.layer]
        head = self.model.get_output_embeddings()

        def check(module, args, output):  # before a soft cap, which would make of +∞ a number
            finite(self.model, output)

        add = partial(_add, position=batch.position, delta=delta)
        with hooks((block.register_forward_hook, add), (head.register_forward_hook, check)):
            output = self.model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            )
        return output.logits.float().to(delta.device)


def _add(
    module: nn.Module,
    args: tuple,
    output: torch.Tensor | tuple,
    *,
    position: torch.Tensor,
    delta: torch.Tensor,
) -> torch.Tensor | tuple:
    """A layer's forward hook: its output with δ (d,) added at each row's position (rows,)."""
    states = states_of(output)  # (rows, length, d)
    rows = torch.arange(len(states), device=states.device)
    at = position.to(states.device)
    shifted = states[rows, at].float() + delta.to(states.device)  # (rows, d)
    changed = states.clone()
    changed[rows, at] = shifted.to(states.dtype)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def _divergence(original: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """KL(original ‖ changed) of two log-probabilities (vocabulary,)."""
    least = torch.finfo(changed.dtype).min  # a token that is ruled out, at −∞, would make it NaN
    original, changed = original.clamp(min=least), changed.clamp(min=least)
    return F.kl_div(changed, original, reduction="sum", log_target=True)
