"""Unlearning by gradient: Adam on a few down_proj weights, with the loss of the answers' tokens."""
from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .batches import Batch, answers, collate, split_answer
from .data.facts import Fact
from .edit import EditError
from .models import decoder, down_proj, logits
from .modes import settles
from .passes import entering, hooks, run_from
from .targets import target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A sequence's token ids, and how many at its end count: those of the answer.
Row = tuple[list[int], int]
#: Default text to retain: so many paragraphs of the embedded prose, cut to so many tokens each.
RETAIN = 8, 64


def answer_rows(
    tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], goal: str
) -> list[Row]:
    """A row a fact, tokenised as `zu.evaluate` asks it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    facts : sequence of Fact
        The n facts.
    goal : str
        "truth", the fact's true answer; "eos", end of text instead.

    Returns
    -------
    list of Row
        Token ids of prompt and answer, and how many are the answer's.

    Raises
    ------
    ValueError
        For another goal, or "eos" where the tokenizer has no such token.
    """
    if goal == "truth":
        return [split_answer(tokenizer, fact.text, fact.target) for fact in facts]
    ends = [target_ids(tokenizer, fact, goal) for fact in facts]
    rows = []
    for fact, end in zip(facts, ends, strict=True):
        rows.append((tokenizer(fact.text)["input_ids"] + end, len(end)))
    return rows


def retain_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None, seed: int
) -> list[Row]:
    """A row a text, of which every token but the first counts.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : sequence of str, optional
        What to retain; by default some of the embedded prose.
    seed : int
        Of the choice among that prose.

    Returns
    -------
    list of Row
        Token ids, `RETAIN` of them at most, and how many count.

    Raises
    ------
    ValueError
        For no text, or one of fewer than two tokens.
    """
    paragraphs, longest = RETAIN
    if texts is None:
        from .data import world

        texts = random.Random(seed).sample(world.prose("moments"), paragraphs)
    rows = [tokenizer(text)["input_ids"][:longest] for text in texts]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError("retain: give at least one text, each of two tokens or more")
    return [(ids, len(ids) - 1) for ids in rows]


@dataclass(frozen=True)
class Objective:
    """What a descent makes small: Σ weight · log p / count over some rows.

    With beta it is Σ weight · (2/β) log(1 + (p / p_start)^β): a preference against the model as it
    was before the first step.

    Parameters
    ----------
    rows : sequence of Row
        Whose answers count.
    weights : sequence of float
        A weight a row: a positive one pushes its answer's probability down, a negative one up.
    beta : float, optional
        Of the second form.

    References
    ----------
    The second form is NPO's (Zhang et al. 2024, Eq. 3).
    """

    rows: Sequence[Row]
    weights: Sequence[float]
    beta: float | None = None

    def loss(
        self, logp: torch.Tensor, start: torch.Tensor, count: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The sum over some of the rows.

        Parameters
        ----------
        logp, start : (rows,)
            The answers' log-probabilities log p now and before the first step.
        count : (rows,)
            How many tokens each answer has.
        weight : (rows,)
            Their weights, of those of the objective.

        Returns
        -------
        ()
            The sum.
        """
        if self.beta is None:
            each = logp / count
        else:
            each = 2 / self.beta * F.softplus(self.beta * (logp - start))
        return (weight * each).sum()


#: Called after each step of a descent with its number, from 1 on, while the model answers with the
#: new weights.
Watch = Callable[[int], object]


@settles
def descend(
    model: PreTrainedModel,
    objective: Objective,
    layers: Sequence[int],
    *,
    steps: int,
    lr: float,
    tokens: int = 4096,
    watch: Watch | None = None,
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Adam on an objective over the `layers`' down_proj.

    The model's own weights, gradients and flags are never touched: new ones stand in by hooks.

    Parameters
    ----------
    model, objective
        A causal language model, and what becomes small.
    layers : sequence of int
        Whose weights change.
    steps, lr : int, float
        How many steps to take, and their size.
    tokens : int
        Rows go through in parts of about so many tokens, whose gradients add up.
    watch : Watch, optional
        Called after each step.

    Returns
    -------
    new, losses : dict, (steps,)
        By layer, the new weights (d, m); the loss before each step; float32.

    Raises
    ------
    ValueError
        For a model whose logits are not finite.
    EditError
        When the loss or a gradient is not finite.
    """
    parts = _read_below(model, objective.rows, min(layers), tokens)
    new = {layer: _free_copy(model, layer) for layer in layers}
    adam = torch.optim.Adam(new.values(), lr=lr, fused=True)
    weight = torch.tensor(objective.weights).to(model.device, torch.float32)
    start = torch.zeros_like(weight)
    losses = torch.zeros(steps, dtype=torch.float32)
    with hooks(*_stand_ins(model, new)), torch.enable_grad():
        for step in range(steps):
            adam.zero_grad()
            for index, part, seen in parts:
                logp = _answers(model, part, seen, check=step == 0)  # later it is the steps' fault
                if step == 0:
                    start[index] = logp.detach()
                loss = objective.loss(logp, start[index], part.position, weight[index])
                _add_gradients(new.values(), loss)
                losses[step] += loss.detach().cpu()
            _check_finite(step, losses, new.values())
            adam.step()
            if watch:
                watch(step + 1)
    return {layer: w.detach() for layer, w in new.items()}, losses


def _free_copy(model: PreTrainedModel, layer: int) -> torch.Tensor:
    """A layer's weight (d, m), float32, to be trained in its place."""
    return down_proj(model, layer).weight.detach().float().clone().requires_grad_()


#: Row numbers of a part, the part, and the states and calls that `entering` found.
_Part = tuple[torch.Tensor, Batch, tuple[torch.Tensor, dict[int, dict]]]


def _read_below(
    model: PreTrainedModel, rows: Sequence[Row], layer: int, tokens: int
) -> list[_Part]:
    """The rows in parts of about `tokens` tokens, each with what enters a layer."""
    batch = collate(rows, model.device)  # the "position" of a row is the length of its answer here
    parts = []
    for index, part in batch.split(tokens):
        seen = entering(model, part, layer)[:2]  # states and calls; what leaves the last is unused
        parts.append((index, part, seen))
    return parts


def _stand_ins(
    model: PreTrainedModel, new: dict[int, torch.Tensor]
) -> list[tuple[Callable, Callable]]:
    """Hooks that make each layer's down_proj put out what it would with its new weight."""

    def project(
        w: torch.Tensor, module: nn.Module, args: tuple, output: torch.Tensor
    ) -> torch.Tensor:
        return F.linear(args[0], w.to(output.dtype))  # (rows, length, m) -> (rows, length, d)

    pairs: list[tuple[Callable, Callable]] = []
    for layer, w in new.items():
        pairs.append((down_proj(model, layer).register_forward_hook, partial(project, w)))
    return pairs


def _add_gradients(weights: Iterable[torch.Tensor], loss: torch.Tensor) -> None:
    """Add the loss's gradients to those that the weights have already."""
    every = list(weights)
    for w, slope in zip(every, torch.autograd.grad(loss, every), strict=True):
        w.grad = slope if w.grad is None else w.grad + slope


def _check_finite(step: int, losses: torch.Tensor, weights: Iterable[torch.Tensor]) -> None:
    """Raise `EditError` where a loss or a gradient is NaN or infinite."""
    numbers = (losses, *(w.grad for w in weights if w.grad is not None))
    if not all(torch.isfinite(x).all() for x in numbers):
        raise EditError(
            f"step {step}: the loss or its gradient is not finite; nothing was applied. Use a "
            "smaller lr or fewer steps"
        )


def _answers(
    model: PreTrainedModel,
    part: Batch,
    seen: tuple[torch.Tensor, dict[int, dict]],
    check: bool = True,
) -> torch.Tensor:
    """Each row's log-probability of its answer, summed over its tokens: (rows,).

    Logits are taken only where the answer stands. seen: the states and calls that `entering` found.
    """
    states, calls = seen
    x = run_from(model, states, calls)  # (rows, length, d)
    reads, tokens, row = answers(part)  # (rows, length − 1), (answer tokens,) twice
    saying = x[:, :-1][reads.to(x.device)]  # (answer tokens, d): the state that says each token
    logp = logits(model, decoder(model).norm(saying), check).log_softmax(-1)
    tokens = tokens.to(x.device)
    # (answer tokens, vocabulary) -> (answer tokens,): each token's own log-probability
    logp = logp.gather(1, tokens[:, None])[:, 0].to(part.ids.device)
    # (answer tokens,) -> (rows,): summed over each row's
    total = torch.zeros(len(part), dtype=logp.dtype, device=logp.device)
    return total.index_add(0, row, logp)
