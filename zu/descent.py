"""Adam on a few down_proj weights, with the loss of the answers' tokens: to forget, or to learn."""
from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .batches import Batch, answers, collate
from .data.facts import Fact
from .edit import EditError
from .layouts import LayoutError, heard, known
from .models import logits
from .modes import settles
from .passes import entering, hooks, run_from, whole_logits
from .probes import layout
from .wording import Wording, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A sequence's token ids, and how many at its end count: those of the answer.
Row = tuple[list[int], int]
#: Default text to retain: so many paragraphs of the embedded prose, cut to so many tokens each.
RETAIN = 8, 64
#: The number of likeliest tokens that are told apart at each place of kept text.
LIKELIEST = 256


def answer_rows(
    tokenizer: PreTrainedTokenizerBase | Wording, facts: Sequence[Fact], goal: str
) -> list[Row]:
    """One row per fact, tokenised as `zu.evaluate` asks it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        The model's own, or how it is asked.
    facts : sequence of Fact
        The n facts.
    goal : str
        "truth", the fact's true answer; "eos", end of text instead; or any other text instead.

    Returns
    -------
    list of Row
        Token ids of prompt and answer, and how many are the answer's.

    Raises
    ------
    ValueError
        If the text is empty, or is "eos" and the tokenizer has no such token.
    """
    wording = Wording.of(tokenizer)
    return [wording.towards(fact, goal) for fact in facts]


def retain_rows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None, seed: int
) -> list[Row]:
    """One row per text. Every token but the first counts.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : sequence of str, optional
        The texts to retain; by default some of the embedded prose.
    seed : int
        The seed of the choice among that prose.

    Returns
    -------
    list of Row
        Token ids, cut to the first 64 of each text (`RETAIN`), and how many count.

    Raises
    ------
    ValueError
        If there is no text, or one has fewer than two tokens.

    Warns
    -----
    UserWarning
        Once, if given texts are cut, with how many.
    """
    paragraphs, longest = RETAIN
    own = texts is not None
    if texts is None:
        from .data import world

        texts = random.Random(seed).sample(world.prose("moments"), paragraphs)
    rows = [tokens(tokenizer, text).ids for text in texts]
    if not rows or min(map(len, rows)) < 2:
        raise ValueError("retain: give at least one text, each of two tokens or more")
    cut = sum(len(ids) > longest for ids in rows)
    if own and cut:
        warnings.warn(f"retain: {cut} of {len(rows)} texts are longer than {longest} tokens, and "
                      "only their beginnings are retained: split them to retain all", stacklevel=2)
    return [(ids[:longest], len(ids[:longest]) - 1) for ids in rows]


@dataclass(frozen=True)
class Keep:
    """Text for which a descent keeps the model's next-token probabilities as they were.

    The term weight · KL(p_start ‖ p), a mean over tokens, is added to the objective. Each of the
    `LIKELIEST` likeliest tokens before the first step counts by itself, all others together.

    Parameters
    ----------
    rows : sequence of Row
        The text, with the number of tokens that count in each row.
    weight : float
        The weight of the divergence.
    batch : int
        The number of rows per step. Steps take the batches in turn.
    """

    rows: Sequence[Row]
    weight: float = 1.0
    batch: int = 2


@dataclass(frozen=True)
class Objective:
    """The objective that a descent minimises: Σ weight · log p / count over some rows.

    With beta it is Σ weight · (2/β) log(1 + (p / p_start)^β): a preference against the model as it
    was before the first step. With margin too, a row of positive weight has the term weight · (2/β)
    log(1 + e^γ p^(β / count)) instead, which refers to no earlier model; rows of negative weight
    keep the first form.

    Parameters
    ----------
    rows : sequence of Row
        The rows whose answers count.
    weights : sequence of float
        One weight per row: a positive one lowers its answer's probability, a negative one raises
        it.
    beta : float, optional
        The β of the second and third form.
    keep : Keep, optional
        Text for which the model's probabilities should stay.
    margin : float, optional
        The γ of the third form, which needs beta.

    References
    ----------
    The second form is NPO's (Zhang et al. 2024, Eq. 3), the third SimNPO's (Fan et al. 2024, arXiv
    2410.07163).
    """

    rows: Sequence[Row]
    weights: Sequence[float]
    beta: float | None = None
    keep: Keep | None = None
    margin: float | None = None

    @property
    def refers(self) -> bool:
        """Whether the loss depends on the probabilities before the first step."""
        return self.beta is not None and self.margin is None

    def loss(
        self, logp: torch.Tensor, start: torch.Tensor, count: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The sum over some of the rows.

        Parameters
        ----------
        logp, start : (rows,)
            The answers' log-probabilities log p now and before the first step.
        count : (rows,)
            The number of tokens of each answer.
        weight : (rows,)
            Their weights, of those of the objective.

        Returns
        -------
        ()
            The sum.
        """
        each = logp / count
        if self.beta is not None:
            # log odds against staying: (rows,)
            odds = self.beta * (logp - start if self.margin is None else each)
            preference = 2 / self.beta * F.softplus(odds + (self.margin or 0.0))
            each = preference if self.refers else torch.where(weight > 0, preference, each)
        return (weight * each).sum()


#: Called after each step of a descent with its number, from 1 on, while the model answers with the
#: new weights. If it returns True, the descent ends there.
Watch = Callable[[int], object]


@dataclass(frozen=True)
class Schedule:
    """Steps, rate and batches of a descent.

    Parameters
    ----------
    steps : int
        The number of passes over the rows.
    lr : float
        Size of a step.
    batch : int, optional
        The largest number of rows in a step, in order; by default all of them.
    stop : float
        If all weights are negative, the descent ends after the first pass in which the mean loss
        per token is below this; 0 means never.
    tokens : int
        About how many tokens run at once: a step's rows run in such parts, whose gradients add up.
    """

    steps: int
    lr: float
    batch: int | None = None
    stop: float = 0.0
    tokens: int = 4096


@settles
def descend(
    model: PreTrainedModel,
    objective: Objective,
    layers: Sequence[int],
    schedule: Schedule,
    *,
    watch: Watch | None = None,
    within: Mapping[int, torch.Tensor] | None = None,
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Adam on an objective over the `layers`' output projections.

    The model's own weights, gradients and flags are never touched: new ones stand in by hooks.

    Parameters
    ----------
    model, objective, layers
        The model, the objective to minimise, and the layers whose weights change.
    schedule : Schedule
        Steps, rate and batches.
    watch : Watch, optional
        Called after each step; the descent ends if it returns True.
    within : mapping of int to (q, m), optional
        By layer, a basis R of the changes: the weights are W + B R, and Adam's steps are B's.

    Returns
    -------
    new, losses : dict, (steps,)
        By layer, the new weights (d, m); and the objective before each step, estimated from the
        step's rows, without the divergence of kept text; float32.

    Raises
    ------
    ValueError
        If the model's logits are not finite.
    EditError
        If the loss or a gradient is not finite.
    """
    batches = _read_below(model, objective.rows, min(layers), schedule)
    new = {layer: _free_copy(model, layer) for layer in layers}
    adam = _Adam(new, schedule.lr, within)
    weight = torch.tensor(objective.weights).to(model.device, torch.float32)
    start = _said(model, batches, len(weight)) if objective.refers else torch.zeros_like(weight)
    losses: list[torch.Tensor] = []
    kept = _Kept(model, objective.keep, min(layers), schedule)
    with hooks(*_stand_ins(model, new)), torch.enable_grad():
        for _ in range(schedule.steps):
            now = torch.zeros_like(weight)
            for batch in batches:
                adam.zero_grad()
                losses.append(torch.zeros((), dtype=torch.float32))
                for index, part, seen in batch.parts:
                    # in later steps it would be the steps' fault
                    logp = _answers(model, part, seen, check=len(losses) == 1)
                    now[index] = logp.detach() / part.position
                    value = objective.loss(logp, start[index], part.position, weight[index])
                    _add_gradients(new.values(), value / batch.share)
                    losses[-1] += value.detach().cpu() / batch.share
                for divergence in kept.divergences(len(losses) - 1):
                    _add_gradients(new.values(), divergence)
                _check_finite(losses, new.values())
                adam.step()
                if watch and watch(len(losses)) is True:
                    return _taken(new), torch.stack(losses)
            if bool((weight < 0).all()) and float(-now.mean()) < schedule.stop:
                break
    return _taken(new), torch.stack(losses)


class _Adam:
    """Adam on weights, or on the coordinates B of their changes B R."""

    def __init__(
        self, new: dict[int, torch.Tensor], lr: float, within: Mapping[int, torch.Tensor] | None
    ) -> None:
        self.new = new
        self.bases: dict[int, torch.Tensor] = {}  # (q, m)
        self.start: dict[int, torch.Tensor] = {}  # (d, m)
        self.moved = dict(new)  # what Adam moves: (d, m), or (d, q) of a basis
        for layer, basis in (within or {}).items():
            w = new[layer].detach()
            self.bases[layer], self.start[layer] = basis.to(w), w.clone()
            self.moved[layer] = w.new_zeros(len(w), len(basis))
        self.adam = torch.optim.Adam(self.moved.values(), lr=lr, fused=True)

    def zero_grad(self) -> None:
        """Forget the weights' gradients."""
        for w in self.new.values():
            w.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights against their gradients."""
        for layer, basis in self.bases.items():
            slope = self.new[layer].grad
            self.moved[layer].grad = None if slope is None else slope @ basis.T
        self.adam.step()
        for layer, basis in self.bases.items():
            self.new[layer].copy_(torch.addmm(self.start[layer], self.moved[layer], basis))


def _taken(new: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """The new weights without what is needed for gradients."""
    return {layer: w.detach() for layer, w in new.items()}


class _Kept:
    """A model's probabilities on kept text before the first step, and the divergence from them."""

    def __init__(
        self, model: PreTrainedModel, keep: Keep | None, layer: int, schedule: Schedule
    ) -> None:
        self.model = model
        self.weight = keep.weight if keep else 0.0
        self.batches: list[list[tuple[Batch, _Seen, torch.Tensor, torch.Tensor]]] = []
        if keep is None or not keep.weight or not keep.rows:
            return
        each = replace(schedule, batch=keep.batch)
        with torch.no_grad():
            for rows in _read_below(model, keep.rows, layer, each):
                self.batches.append([(part, seen, *self._likeliest(part, seen))
                                     for _, part, seen in rows.parts])

    def _likeliest(self, part: Batch, seen: _Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens at each place, (places, k), and the log-probabilities of these.

        The latter, (places, k + 1), end with that of all others together.
        """
        logp = _says(self.model, part, seen).log_softmax(-1)  # (places, vocabulary)
        best = logp.topk(min(LIKELIEST, logp.shape[1] - 1))
        return best.indices, _with_others(best.values)

    def divergences(self, step: int) -> Iterator[torch.Tensor]:
        """The terms that a step adds to the objective for one batch of the text, part by part."""
        if not self.batches:
            return
        batch = self.batches[step % len(self.batches)]
        places = sum(len(then) for *_, then in batch)
        for part, seen, best, then in batch:
            logp = _says(self.model, part, seen, check=False).log_softmax(-1)
            now = _with_others(logp.gather(1, best))  # (places, k + 1)
            yield self.weight * (then.exp() * (then - now)).sum() / places


def _with_others(logp: torch.Tensor) -> torch.Tensor:
    """Append the log-probability of all other tokens: (places, k) -> (places, k + 1)."""
    others = (1 - logp.exp().sum(1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([logp, others], 1)


@torch.no_grad()
def _said(model: PreTrainedModel, batches: Sequence[_Rows], n: int) -> torch.Tensor:
    """The log-probability of each row's answer before the first step, (n,) float32."""
    start = torch.zeros(n, dtype=torch.float32, device=model.device)
    for batch in batches:
        for index, part, seen in batch.parts:
            start[index] = _answers(model, part, seen)
    return start


def _free_copy(model: PreTrainedModel, layer: int) -> torch.Tensor:
    """A layer's weight (d, m), float32, to be trained in its place."""
    W = known(model).matrix(layer).detach().float()
    return W.clone(memory_format=torch.contiguous_format).requires_grad_()


#: The states and calls that `entering` found; None if the model is run as a whole.
_Seen = tuple[torch.Tensor, dict[int, dict]] | None
#: Row numbers of a part, the part, and what was seen below the layers that are trained.
_Part = tuple[torch.Tensor, Batch, _Seen]


@dataclass(frozen=True)
class _Rows:
    """The rows of a step, in parts; `share` is their share of all rows."""

    parts: list[_Part]
    share: float


def _read_below(
    model: PreTrainedModel, rows: Sequence[Row], layer: int, schedule: Schedule
) -> list[_Rows]:
    """The rows step by step, in parts of about `schedule.tokens` tokens, with what enters a layer.

    If a model's layers cannot be run one by one, nothing is read: it is run as a whole.
    """
    in_layers = _runs_in_layers(model)
    size = schedule.batch or len(rows)
    batches = []
    for first in range(0, len(rows), size):
        some = rows[first:first + size]
        batch = collate(some, model.device)  # a row's "position" is the length of its answer here
        parts: list[_Part] = []
        for index, part in batch.split(schedule.tokens):
            # states and calls; what leaves the last is unused
            seen = entering(model, part, layer)[:2] if in_layers else None
            parts.append((first + index, part, seen))
        batches.append(_Rows(parts, len(some) / len(rows)))
    return batches


def _runs_in_layers(model: PreTrainedModel) -> bool:
    """Whether a model's upper layers can be run separately, with the same result as the model."""
    if heard(model):
        return False
    try:
        layout(model)
    except LayoutError:
        return False
    return True


def _stand_ins(
    model: PreTrainedModel, new: dict[int, torch.Tensor]
) -> list[tuple[Callable, Callable]]:
    """Hooks that make each layer's down_proj put out what it would with its new weight.

    They raise `LayoutError` on the first pass, before a step, if a projection does not put out W k
    + b with its own weight.
    """
    seen: set[int] = set()

    def project(
        w: torch.Tensor, module: nn.Module, args: tuple, output: torch.Tensor
    ) -> torch.Tensor:
        # (rows, length, m) -> (rows, length, d)
        ours = F.linear(args[0], w.to(output.dtype), module._parameters.get("bias"))
        if id(w) not in seen:
            seen.add(id(w))
            _same(ours, output)
        return ours

    pairs: list[tuple[Callable, Callable]] = []
    for layer, w in new.items():
        linear = known(model).projection(layer)
        pairs.append((linear.register_forward_hook, partial(project, w)))
    return pairs


@torch.no_grad()
def _same(ours: torch.Tensor, output: torch.Tensor) -> None:
    """Raise `LayoutError` unless a projection puts out W k + b, up to rounding."""
    small = max(1e-3, 16 * torch.finfo(output.dtype).eps)
    error, size = (ours - output).float().norm(), output.float().norm()
    if error > small * size:  # NaN is another one's to find
        raise LayoutError("a projection to be trained does not put out W k + b: remove its hooks, "
                          "or replace it by torch.nn.Linear")


def _add_gradients(weights: Iterable[torch.Tensor], loss: torch.Tensor) -> None:
    """Add the loss's gradients to those that the weights have already."""
    every = list(weights)
    for w, slope in zip(every, torch.autograd.grad(loss, every), strict=True):
        w.grad = slope if w.grad is None else w.grad + slope


def _check_finite(losses: Sequence[torch.Tensor], weights: Iterable[torch.Tensor]) -> None:
    """Raise `EditError` if the last loss or a gradient is NaN or infinite."""
    numbers = (losses[-1], *(w.grad for w in weights if w.grad is not None))
    if not all(torch.isfinite(x).all() for x in numbers):
        raise EditError(
            f"step {len(losses) - 1}: the loss or its gradient is not finite; nothing was applied. "
            "Use a smaller lr or fewer steps"
        )


def _answers(
    model: PreTrainedModel,
    part: Batch,
    seen: _Seen,
    check: bool = True,
) -> torch.Tensor:
    """Each row's log-probability of its answer, summed over its tokens: (rows,).

    Logits are taken only where the answer stands. seen: the states and calls that `entering` found.
    """
    _, tokens, row = answers(part)  # (answer tokens,) twice
    said = _says(model, part, seen, check)
    logp = said.log_softmax(-1)  # (answer tokens, vocabulary)
    tokens = tokens.to(logp.device)
    # (answer tokens, vocabulary) -> (answer tokens,): each token's own log-probability
    logp = logp.gather(1, tokens[:, None])[:, 0].to(part.ids.device)
    # (answer tokens,) -> (rows,): summed over each row's
    total = torch.zeros(len(part), dtype=logp.dtype, device=logp.device)
    return total.index_add(0, row, logp)


def _says(
    model: PreTrainedModel, part: Batch, seen: _Seen, check: bool = True
) -> torch.Tensor:
    """The logits that predict the answers' tokens, (answer tokens, vocabulary), row after row."""
    reads = answers(part)[0]  # (rows, length − 1)
    if seen is None:
        return whole_logits(model, part, F.pad(reads, (0, 1)), check)
    x = run_from(model, *seen)  # (rows, length, d)
    saying = x[:, :-1][reads.to(x.device)]  # (answer tokens, d): the states that say them
    return logits(model, known(model).finish(saying), check)
