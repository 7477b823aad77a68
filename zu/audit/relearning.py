"""How soon is it back? A model taught again, by all weights or low rank, on three kinds of lesson.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ..batches import Batch, answers, collate
from ..data.facts import Fact, FactError
from ..layouts import known
from ..modes import settles
from ..passes import hooks, whole_logits
from ..questions import Question
from ..scores import mcnemar, wilson
from ..wording import Wording
from .asking import Row, answered, are_right, distinct, frame, names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What a model can be taught, before it is asked for facts that the lesson does not hold.
LESSONS = {
    "half": "half of the forgotten facts; the other half is asked",
    "others": "other facts of the kind, which do not say the forgotten ones",
    "unrelated": "ordinary text, as in any further training",
}
#: How it is taught: all weights move, or a low-rank addition to each MLP's output projection.
WAYS = ("all weights", "low rank")


@dataclass(frozen=True)
class Course:
    """How a model is taught.

    Attributes
    ----------
    steps : sequence of int
        The steps of Adam after which the model is asked.
    lr : dict of str to float
        Adam's rate by way.
    rank : int
        The rank of the additions.
    batch : int
        Rows per step; each step takes the next ones of a lesson, in turn.
    seed : int
        Of the halves and of the low-rank additions' first values.
    """

    steps: Sequence[int] = (1, 2, 4, 8, 16)
    lr: Mapping[str, float] = field(
        default_factory=lambda: {"all weights": 1e-4, "low rank": 1e-3})
    rank: int = 8
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or self.rank < 1 or self.batch < 1:
            raise ValueError("a course needs steps from 1 on, a rank and a batch of at least 1")
        if missing := [way for way in WAYS if not self.lr.get(way, 0) > 0]:
            raise ValueError(f"a course needs a positive rate for '{missing[0]}'")


@dataclass(frozen=True)
class Relearned:
    """Which forgotten facts are answered while a model is taught something.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places.
    steps : tuple of int
        Steps of training, 0 first.
    right : dict of (str, str) to array, (steps, n)
        By lesson and way, 1 or 0; NaN for facts of which the lesson itself consists.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    right: dict[tuple[str, str], np.ndarray]

    def against(self, never: Relearned) -> dict[tuple[str, str], float]:
        """p of the exact sign test against a model that never knew.

        A model that learns the answers as fast without having known them shows nothing. For each
        fact the two models are compared by the number of steps after which it is answered, step 0
        left out; the test counts the facts for which one model has more.

        Parameters
        ----------
        never : Relearned
            The same facts, lessons, ways and steps with the model that never knew.

        Returns
        -------
        dict
            By lesson and way, the two-sided p; 1 if the models differ in no fact.

        Raises
        ------
        ValueError
            If the two were not asked the same.
        """
        if (self.names, self.steps, [*self.right]) != (never.names, never.steps, [*never.right]):
            raise ValueError("the two runs differ in facts, steps, lessons or ways: teach both "
                             "models the same")
        found = {}
        for key, mine in self.right.items():
            more = np.nan_to_num(mine[1:] - never.right[key][1:]).sum(0)  # (n,)
            found[key] = mcnemar(int((more < 0).sum()), int((more > 0).sum()))
        return found

    def frame(self) -> Any:
        """A table with a row for each lesson, way and step (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "lesson": "way", "step", "asked", how many facts, and "right", "low" and "high", in
            percent with Wilson's interval.
        """
        rows = []
        for (lesson, way), right in self.right.items():
            for step, hits in zip(self.steps, right, strict=True):
                hits = hits[~np.isnan(hits)]
                low, high = wilson(int(hits.sum()), len(hits))
                rows.append({"lesson": lesson, "way": way, "step": step, "asked": len(hits),
                             "right": 100 * hits.mean(), "low": low, "high": high})
        return frame(rows, "lesson")


@settles
def relearned(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Iterable[Fact],
    others: Iterable[Fact] = (),
    texts: Sequence[str] = (),
    *,
    ways: Sequence[str] = WAYS,
    course: Course = Course(),
) -> Relearned:
    """Teach a model that has forgotten some facts, and watch whether they come back.

    Three lessons, each in two ways, and never the facts that are then asked: half of the forgotten
    facts, facts of the kind that were never forgotten, and ordinary text. Where an answer was only
    covered up, any of them may uncover it. Afterwards the model is what it was, bit for bit.

    Run it on a model that never knew the facts too, with the same arguments, and compare
    (`Relearned.against`): what that one learns by the same lesson shows nothing.

    Parameters
    ----------
    model, tokenizer
        The model with the edit on it, and its tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : iterable of Fact
        The facts that should be forgotten, at least two.
    others : iterable of Fact, optional
        Facts of the same relations with other subjects; without them that lesson is left out.
    texts : sequence of str, optional
        Ordinary texts; without them that lesson is left out.
    ways : sequence of str
        Which of `WAYS`.
    course : Course
        Steps, rates, rank, batch and seed.

    Returns
    -------
    Relearned
        Which facts are answered after which step.

    Raises
    ------
    FactError
        For fewer than two facts, and answers that cannot be put into tokens.
    ValueError
        For an unknown way, all weights of a model that is not in float32, texts without a token to
        predict, and losses that are not finite.

    Examples
    --------
    >>> after = zu.audit.relearned(edited, tokenizer, facts, others, texts)
    >>> never = zu.audit.relearned(fresh, tokenizer, facts, others, texts)
    >>> print(after.frame(), after.against(never))
    """
    if wrong := [way for way in ways if way not in WAYS]:
        raise ValueError(f"way is {wrong[0]!r}: use {' or '.join(WAYS)}")
    some, wording = distinct(facts, "facts", 2), Wording.of(tokenizer)
    if WAYS[0] in ways and model.dtype != torch.float32:
        raise ValueError(f"the model's weights are {model.dtype}, in which small steps are rounded "
                         "away: load it in float32, or give ways=['low rank']")
    lessons = _lessons(wording, some, [*dict.fromkeys(others)], texts, course)
    found = {}
    bar = tqdm([(lesson, way) for lesson in lessons for way in ways], "relearning", leave=False)
    for lesson, way in bar:
        rows, asked = lessons[lesson]
        hits = np.full((len(course.steps) + 1, len(some)), np.nan)
        with taught(model, rows, way, course) as after:
            for number, _ in enumerate(after):
                hits[number, asked] = are_right(model, wording, [some[i] for i in asked])
        found[lesson, way] = hits
    return Relearned(names_of(some), (0, *course.steps), found)


def _lessons(
    wording: Wording,
    facts: Sequence[Fact],
    others: Sequence[Fact],
    texts: Sequence[str],
    course: Course,
) -> dict[str, tuple[list[Row], list[int]]]:
    """Each lesson's rows, and the places of the facts that are asked after it."""
    every = [*range(len(facts))]
    shuffled = np.random.default_rng(course.seed).permutation(len(facts)).tolist()
    half = sorted(shuffled[:len(facts) // 2])
    said = {subject.subject for subject in facts}
    if shared := [fact for fact in others if fact.subject in said]:
        raise FactError(f"others: {len(shared)} of them are about a forgotten subject: give facts "
                        "about others alone")
    found = {"half": (_rows(wording, [facts[i] for i in half]),
                      [i for i in every if i not in half])}
    if others:
        found["others"] = _rows(wording, others), every
    if texts:
        ids = [wording.tokenizer(text)["input_ids"][:512] for text in texts]
        rows = [(row, len(row) - 1) for row in ids if len(row) > 1]
        if not rows:
            raise ValueError("texts: none has two tokens: give texts to learn from")
        found["unrelated"] = rows, every
    return found


def _rows(wording: Wording, facts: Sequence[Fact]) -> list[Row]:
    """The facts' prompts with their answers as token ids."""
    return [row for fact in facts for row in answered(wording, [Question.of(fact)], fact)]


@contextmanager
def taught(
    model: PreTrainedModel, rows: Sequence[Row], way: str, course: Course
) -> Iterator[Iterator[int]]:
    """Inside the block, and its loop, the model is taught; afterwards it is what it was.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    rows : sequence of Row
        Token ids, and how many at the end are learned.
    way : str
        One of `WAYS`.
    course : Course
        Steps, rates, rank, batch and seed.

    Yields
    ------
    iterator of int
        0 and then each of the course's steps, when so many steps have been made.

    Raises
    ------
    ValueError
        If a loss is not finite.
    """
    flags = {weight: weight.requires_grad for weight in model.parameters()}
    for weight in flags:
        weight.requires_grad_(False)
    try:
        with (_all_weights(model) if way == WAYS[0] else _low_rank(model, course)) as moved:
            yield _steps(model, rows, moved, course.lr[way], course)
    finally:
        for weight, flag in flags.items():
            weight.requires_grad_(flag)
            weight.grad = None


def _steps(
    model: PreTrainedModel,
    rows: Sequence[Row],
    moved: Sequence[torch.Tensor],
    lr: float,
    course: Course,
) -> Iterator[int]:
    """Steps of Adam on the mean loss over the next rows; stops at each step of the course."""
    adam = torch.optim.Adam(moved, lr=lr)
    yield 0
    for step in range(1, max(course.steps) + 1):
        first = (step - 1) * course.batch
        some = [rows[(first + i) % len(rows)] for i in range(min(course.batch, len(rows)))]
        with torch.enable_grad():
            loss = _loss(model, collate(some, model.device))
            if not torch.isfinite(loss):
                raise ValueError(f"the loss of step {step} is not finite: give a smaller rate")
            adam.zero_grad()
            loss.backward()
        adam.step()
        if step in course.steps:
            yield step


def _loss(model: PreTrainedModel, part: Batch) -> torch.Tensor:
    """The mean over rows of the mean loss of the learned tokens, in nats."""
    reads, gold, row = answers(part)  # (rows, length - 1), (tokens,) twice
    says = whole_logits(model, part, F.pad(reads, (0, 1)), check=False)  # (tokens, vocabulary)
    each = F.cross_entropy(says, gold, reduction="none")
    count = torch.bincount(row, minlength=len(reads))
    return (each / count[row]).sum() / len(reads)


@contextmanager
def _all_weights(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Every weight may move; afterwards each is back."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    kept = [weight.detach().cpu().clone() for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield list(weights)
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.requires_grad_(False)
                weight.copy_(old)


@contextmanager
def _low_rank(model: PreTrainedModel, course: Course) -> Iterator[list[torch.Tensor]]:
    """Each MLP's output projection has a low-rank addition B A, with B = 0 at first.

    References
    ----------
    Hu et al. 2022, arXiv 2106.09685.
    """
    layout, g = known(model), torch.Generator().manual_seed(course.seed)
    added, pairs = [], []
    for layer in range(len(layout.layers)):
        d, m = layout.matrix(layer).shape
        A = torch.randn(course.rank, m, generator=g) / m**0.5
        A = A.to(model.device).requires_grad_()
        B = torch.zeros(d, course.rank, device=model.device, requires_grad=True)
        added += [A, B]
        pairs.append((layout.projection(layer).register_forward_hook, _adding(A, B)))
    with hooks(*pairs):
        yield added


def _adding(A: torch.Tensor, B: torch.Tensor) -> Any:
    """A forward hook that adds B A x to what a projection says of x."""
    def add(module: nn.Module, given: tuple, out: torch.Tensor) -> torch.Tensor:
        x = given[0].to(A.dtype)  # (..., m)
        return out + (x @ A.T @ B.T).to(out.dtype)  # (..., rank) -> (..., d)
    return add
