"""Does rounding bring it back? The whole model at 8 bits and in the 4-bit normal float NF4."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..data.facts import Fact
from ..modes import settles
from ..scores import mcnemar, wilson
from ..wording import Wording
from .asking import are_right, distinct, frame, names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The ways to round a model: as it is, to whole numbers by row, and to NF4 by block.
WAYS = ("as it is", "8 bits", "NF4")
#: Values that share a scale in NF4.
BLOCK = 64


def nf4_levels() -> torch.Tensor:
    """The sixteen levels of NF4: quantiles of the normal distribution, between −1 and 1.

    There are eight levels above zero, seven below it, and zero itself. Either side's outermost
    quantile lies at half the mean of 1 − 1/32 and 1 − 1/30 from the middle, so that no level is
    infinite, and everything is divided by the largest.

    Returns
    -------
    torch.Tensor
        (16,), float64, ascending.

    References
    ----------
    Dettmers et al. 2023, arXiv 2305.14314, Eq. 4 and Appendix E.
    """
    from scipy.stats import norm  # here, as it takes a second to import

    edge = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))  # the outermost quantile, 0.9677
    above = norm.ppf(np.linspace(0.5, edge, 9)[1:])
    below = -norm.ppf(np.linspace(0.5, edge, 8)[1:])[::-1]
    levels = np.concatenate([below, [0.0], above])
    return torch.from_numpy(levels / levels.max())


def to_8_bits(weight: torch.Tensor) -> torch.Tensor:
    """A weight rounded to 255 evenly spaced values per output, the largest of its own at the end.

    Parameters
    ----------
    weight : torch.Tensor
        (..., d, m), with the m inputs of an output in a row.

    Returns
    -------
    torch.Tensor
        The same shape, float32.
    """
    exact = weight.float()
    scale = exact.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (exact / scale).round() * scale


def to_nf4(weight: torch.Tensor) -> torch.Tensor:
    """A weight with each value replaced by the nearest level of NF4, scaled by block.

    Parameters
    ----------
    weight : torch.Tensor
        Any shape; `BLOCK` successive values share the scale of the largest.

    Returns
    -------
    torch.Tensor
        The same shape, float32.
    """
    levels = nf4_levels().to(weight.device, torch.float32)
    flat = weight.float().flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)  # (blocks, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    # which of the fifteen middles between two levels are below: the nearest level
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).flatten()[:len(flat)].view(weight.shape)


@contextmanager
def rounded(model: PreTrainedModel, way: str) -> Iterator[int]:
    """Inside the block all matrices of the model's layers are rounded; afterwards they are back.

    Embeddings and the output matrix stay as they are, as in the libraries that load models so. The
    rounding is simulated: the values are those of the rounded model, the arithmetic is the model's
    own.

    Parameters
    ----------
    model : PreTrainedModel
        The model. A copy of its matrices is kept in memory for as long as the block lasts.
    way : str
        One of `WAYS`.

    Yields
    ------
    int
        How many matrices are rounded.

    Raises
    ------
    ValueError
        For another way.
    """
    if way not in WAYS:
        raise ValueError(f"way is {way!r}: use one of {', '.join(WAYS)}")
    weights = [] if way == WAYS[0] else list(_matrices(model))
    kept = [weight.detach().cpu().clone() for weight, _ in weights]
    try:
        with torch.no_grad():
            for weight, turned in weights:
                exact = weight.detach().mT if turned else weight.detach()
                coarse = (to_8_bits if way == WAYS[1] else to_nf4)(exact)
                weight.copy_((coarse.mT if turned else coarse).to(weight.dtype))
        yield len(weights)
    finally:
        with torch.no_grad():
            for (weight, _), old in zip(weights, kept, strict=True):
                weight.copy_(old)


def _matrices(model: PreTrainedModel) -> Iterator[tuple[nn.Parameter, bool]]:
    """Each matrix of the layers once, and whether it is stored with its inputs first."""
    ends = {id(module.weight) for module in (model.get_input_embeddings(),
                                             model.get_output_embeddings())
            if module is not None and hasattr(module, "weight")}
    seen = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim < 2 or id(weight) in ends or id(weight) in seen:
                continue
            if not weight.is_floating_point():
                continue
            seen.add(id(weight))
            yield weight, type(module).__name__ == "Conv1D"  # of GPT-2: (m, d)


@dataclass(frozen=True)
class Rounding:
    """Which facts a model answers when all of it is rounded.

    Attributes
    ----------
    names : tuple of str
        The forgotten facts' ids, or their places.
    right : dict of str to array, (n,)
        By way of `WAYS`, whether each forgotten fact is answered.
    others : dict of str to array, (k,)
        The same of facts that were not forgotten; empty if none were given.
    """

    names: tuple[str, ...]
    right: dict[str, np.ndarray]
    others: dict[str, np.ndarray]

    def back(self, way: str) -> float:
        """p of McNemar's exact test that as many answers come back by rounding as are lost.

        Parameters
        ----------
        way : str
            One of `WAYS`.

        Returns
        -------
        float
            Two-sided; 1 if no answer changes.
        """
        exact, coarse = self.right[WAYS[0]], self.right[way]
        return mcnemar(int((exact & ~coarse).sum()), int((~exact & coarse).sum()))

    def frame(self) -> Any:
        """A table with a row for each way (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "way": "right", "low" and "high" in percent of the forgotten facts, "back" and
            "lost", how many came and went by rounding, "p" of both, and "others right" in percent.
        """
        rows = []
        for way, right in self.right.items():
            exact = self.right[WAYS[0]]
            low, high = wilson(int(right.sum()), len(right))
            others = self.others.get(way)
            rows.append({
                "way": way, "right": 100 * right.mean(), "low": low, "high": high,
                "back": int((~exact & right).sum()), "lost": int((exact & ~right).sum()),
                "p": self.back(way),
                "others right": float("nan") if others is None else 100 * others.mean()})
        return frame(rows, "way")

    def __str__(self) -> str:
        return ", ".join(f"{way}: {int(right.sum())} of {len(right)}"
                         for way, right in self.right.items())


@settles
def rounding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Iterable[Fact],
    others: Iterable[Fact] = (),
) -> Rounding:
    """Ask a model that has forgotten some facts while all of its layers are rounded.

    An edit that is small beside the step of a coarser grid can be rounded away, and then the answer
    is back. `zu.robustness` rounds the edited weights alone; this rounds every matrix, as who loads
    a model in 8 or 4 bits does. Afterwards the model is what it was, bit for bit.

    A model that never knew the facts is the control: where rounding brings answers back, it should
    bring none to that one.

    Parameters
    ----------
    model, tokenizer
        The model with the edit on it, and its tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : iterable of Fact
        The facts that should be forgotten.
    others : iterable of Fact, optional
        Facts that should not be: they say what rounding costs by itself.

    Returns
    -------
    Rounding
        Which of them are answered, for each of `WAYS`.

    Raises
    ------
    FactError
        For no facts, and answers that cannot be put into tokens.
    ValueError
        If what the model says is not finite.

    References
    ----------
    Zhang et al. 2024, arXiv 2410.16454; 8 bits by row as in Dettmers et al. 2022, arXiv 2208.07339,
    without its outliers.
    """
    some, rest = distinct(facts, "facts"), [*dict.fromkeys(others)]
    found, kept = {}, {}
    for way in WAYS:
        with rounded(model, way):
            found[way] = are_right(model, tokenizer, some)
            if rest:
                kept[way] = are_right(model, tokenizer, rest)
    return Rounding(names_of(some), found, kept)
