"""Unlearning by gradient: Adam on a few down_proj weights, with the loss of exactly the answers' tokens."""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .data.facts import Fact
from .edit import EditError
from .models import decoder, down_proj, logits
from .reader import Batch, collate, entering, hooks, run_from
from .scores import split_answer
from .targets import target_ids

#: A sequence's token ids, and how many at its end count: those of the answer.
Row = tuple[list[int], int]
#: Default text to retain: so many paragraphs of the embedded prose, cut to so many tokens each.
RETAIN = 8, 64


def answer_rows(tokenizer, facts: Sequence[Fact], goal: str) -> list[Row]:
    """A row a fact, tokenised as `zu.evaluate` asks it: "truth", its true answer; "eos", end of text instead."""
    if goal == "truth":
        return [split_answer(tokenizer, fact.text, fact.target) for fact in facts]
    ends = [target_ids(tokenizer, fact, goal) for fact in facts]
    return [(tokenizer(fact.text)["input_ids"] + end, len(end)) for fact, end in zip(facts, ends, strict=True)]


def retain_rows(tokenizer, texts: Sequence[str] | None, seed: int) -> list[Row]:
    """A row a text, of which every token but the first counts; by default some of the embedded prose."""
    if texts is None:
        from .data import world

        texts = random.Random(seed).sample(world.prose("moments"), RETAIN[0])
    rows = [tokenizer(text)["input_ids"][:RETAIN[1]] for text in texts]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError("retain: give at least one text, each of two tokens or more")
    return [(ids, len(ids) - 1) for ids in rows]


def objective(logp: torch.Tensor, start: torch.Tensor, count: torch.Tensor, weight: torch.Tensor,
              beta: float | None = None) -> torch.Tensor:
    """The loss of some rows: Σ weight · log p / count or, with beta, Σ weight · (2/β) log(1 + (p / p_start)^β).

    logp, start: the answers' log-probabilities log p now and before the first step. A positive weight pushes an
    answer's probability down, a negative one up. The second form is NPO's (Zhang et al. 2024, Eq. 3).
    """
    each = logp / count if beta is None else 2 / beta * F.softplus(beta * (logp - start))
    return (weight * each).sum()


def descend(model: nn.Module, rows: Sequence[Row], weights: Sequence[float], layers: Sequence[int], *, steps: int,
            lr: float, beta: float | None = None, tokens: int = 4096,
            watch: Callable[[int], object] | None = None) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Adam on `objective` over the `layers`' down_proj: their new weights, float32, and the loss before each step.

    The model's own weights, gradients and flags are never touched: new ones stand in by hooks. What lies below
    the lowest of the layers is computed once; rows go through in parts of about `tokens` tokens, whose gradients
    add up. watch: called after each step with its number, from 1 on, while the model answers with the new weights.
    Raises `ValueError` for a model whose logits are not finite, `EditError` when the loss or a
    gradient is not.
    """
    batch = collate(rows, model.device)  # the "position" of a row is the length of its answer here
    parts = [(index, part, entering(model, part, min(layers))[:2]) for index, part in batch.split(tokens)]
    new = {i: down_proj(model, i).weight.detach().float().clone().requires_grad_() for i in layers}
    adam = torch.optim.Adam(new.values(), lr=lr, fused=True)
    weight = torch.tensor(weights).to(model.device, torch.float32)
    start, losses = torch.zeros_like(weight), torch.zeros(steps, dtype=torch.float32)
    swap = [(down_proj(model, i).register_forward_hook,
             lambda module, args, output, w=w: F.linear(args[0], w.to(output.dtype))) for i, w in new.items()]
    with hooks(*swap), torch.enable_grad():
        for step in range(steps):
            adam.zero_grad()
            for index, part, seen in parts:
                logp = _answers(model, part, seen, check=step == 0)  # later it is the steps' fault
                if step == 0:
                    start[index] = logp.detach()
                loss = objective(logp, start[index], part.position, weight[index], beta)
                for w, slope in zip(new.values(), torch.autograd.grad(loss, list(new.values())), strict=True):
                    w.grad = slope if w.grad is None else w.grad + slope
                losses[step] += loss.detach().cpu()
            if not all(torch.isfinite(x).all() for x in (losses, *(w.grad for w in new.values()))):
                raise EditError(f"step {step}: the loss or its gradient is not finite; nothing was applied. Use a "
                                "smaller lr or fewer steps")
            adam.step()
            if watch:
                watch(step + 1)
    return {i: w.detach() for i, w in new.items()}, losses


def _answers(model, part: Batch, seen, check: bool = True) -> torch.Tensor:
    """Each row's log-probability of its answer, summed over its tokens: (rows,); logits only where it stands."""
    x = run_from(model, *seen)
    at, ends = torch.arange(1, part.ids.shape[1], device=part.ids.device), part.mask.sum(1, keepdim=True)
    reads = (at < ends) & (at >= ends - part.position[:, None])
    logp = logits(model, decoder(model).norm(x[:, :-1][reads.to(x.device)]), check).log_softmax(-1)
    logp = logp.gather(1, part.ids[:, 1:][reads].to(x.device)[:, None])[:, 0].to(part.ids.device)
    return torch.zeros(len(part), dtype=logp.dtype, device=logp.device).index_add(0, reads.nonzero()[:, 0], logp)
