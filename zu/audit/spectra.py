"""Can it be taken back from the weights alone? Directions that stand out in an edited spectrum."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.facts import Fact
from ..layouts import known
from ..modes import settles
from ..scores import mcnemar, wilson
from ..wording import Wording
from .asking import are_right, distinct, frame, names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: So many of the nearest layers say what a layer's spectrum should be.
NEAREST = 6


def expected(spectra: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What each layer's singular values should be, judged by the layers around it.

    Parameters
    ----------
    spectra : sequence of (q,) tensors
        The singular values of each layer's matrix, descending, all of one length.

    Returns
    -------
    list of (q,) tensors
        For each layer, rank by rank the median over its `NEAREST` nearest layers, itself left out.
        An edit of fewer than half of them does not move it.

    Raises
    ------
    ValueError
        If there are fewer than two layers.
    """
    if len(spectra) < 2:
        raise ValueError("a spectrum is judged by those of other layers: the model has one layer")
    found = []
    for layer in range(len(spectra)):
        others = sorted((abs(other - layer), other) for other in range(len(spectra)))[1:]
        near = torch.stack([spectra[other] for _, other in others[:NEAREST]])  # (layers, q)
        found.append(near.double().quantile(0.5, 0))
    return found


@dataclass(frozen=True)
class TakenBack:
    """Which facts a model answers when what stands out in its spectra is cut back.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places.
    out : dict of int to int
        By layer, how many singular values stand out.
    before, after : array, (n,)
        Whether each fact is answered, with the weights as they are and cut back.
    others : tuple of float
        The share of other facts that are answered before and after, 0 to 1; NaN without any.
    """

    names: tuple[str, ...]
    out: Mapping[int, int]
    before: np.ndarray
    after: np.ndarray
    others: tuple[float, float]

    @property
    def p(self) -> float:
        """McNemar's exact p that as many answers come back as are lost."""
        return mcnemar(int((self.before & ~self.after).sum()),
                       int((~self.before & self.after).sum()))

    def frame(self) -> Any:
        """A table with the weights as they are and cut back (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "weights": "right", "low" and "high" in percent, and "others right".
        """
        rows = []
        for name, right, rest in (("as they are", self.before, self.others[0]),
                                  ("cut back", self.after, self.others[1])):
            low, high = wilson(int(right.sum()), len(right))
            rows.append({"weights": name, "right": 100 * right.mean(), "low": low, "high": high,
                         "others right": 100 * rest})
        return frame(rows, "weights")

    def __str__(self) -> str:
        where = ", ".join(f"{count} in layer {layer}" for layer, count in self.out.items() if count)
        return (f"{where or 'none'} stand out; {int(self.before.sum())} of {len(self.names)} "
                f"answered before, {int(self.after.sum())} when they are cut back")


@contextmanager
def cut_back(model: PreTrainedModel, factor: float = 1.25) -> Iterator[dict[int, int]]:
    """Inside the block no singular value of an MLP's output projection stands out.

    One that exceeds `factor` times what the layers around it let expect (`expected`) is set to
    that. Afterwards the weights are back, bit for bit.

    Parameters
    ----------
    model : PreTrainedModel
        The model; who cuts back needs no other copy of it.
    factor : float
        From which ratio on a value stands out; above 1.

    Yields
    ------
    dict
        By layer, how many values stand out.

    Raises
    ------
    ValueError
        For a factor that is not above 1, and models of one layer or with layers of several widths.
    """
    if not factor > 1:
        raise ValueError(f"factor is {factor:g}: give one above 1")
    layout = known(model)
    matrices = [layout.matrix(layer) for layer in range(len(layout.layers))]
    if len({matrix.shape for matrix in matrices}) > 1:
        raise ValueError("the layers' projections differ in size: their spectra cannot be compared")
    parts = [torch.linalg.svd(matrix.detach().double().cpu(), full_matrices=False)
             for matrix in matrices]
    should = expected([part.S for part in parts])
    kept = [matrix.detach().cpu().clone() for matrix in matrices]
    found = {}
    try:
        with torch.no_grad():
            for layer, (part, bound) in enumerate(zip(parts, should, strict=True)):
                out = part.S > factor * bound
                found[layer] = int(out.sum())
                if found[layer]:
                    less = (part.U[:, out] * (part.S - bound)[out]) @ part.Vh[out]  # (d, m)
                    matrices[layer].sub_(less.to(matrices[layer]))
        yield found
    finally:
        with torch.no_grad():
            for matrix, old in zip(matrices, kept, strict=True):
                matrix.copy_(old)


@settles
def taken_back(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Iterable[Fact],
    others: Iterable[Fact] = (),
    *,
    factor: float = 1.25,
) -> TakenBack:
    """Try to take an edit back without knowing the model before it.

    Edits add a few directions to a few matrices. Where these are large, they stand out among the
    singular values of the layers around, and cutting them back undoes some of the edit. Afterwards
    the model is what it was, bit for bit. The control is a model that never knew: cutting it back
    should bring no answer.

    Parameters
    ----------
    model, tokenizer
        The model with the edit on it, and its tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : iterable of Fact
        The facts that should be forgotten.
    others : iterable of Fact, optional
        Facts that should not be: they say what cutting back costs.
    factor : float
        From which ratio on a singular value stands out; above 1.

    Returns
    -------
    TakenBack
        What stands out, and which facts are answered before and after.

    Raises
    ------
    FactError
        For no facts, and answers that cannot be put into tokens.
    ValueError
        As `cut_back` does, and if what the model says is not finite.
    """
    some, rest = distinct(facts, "facts"), [*dict.fromkeys(others)]

    def ask() -> tuple[np.ndarray, float]:
        others_right = are_right(model, tokenizer, rest)
        return are_right(model, tokenizer, some), float(others_right.mean()) if rest else math.nan

    with cut_back(model, factor) as out:
        after, kept_after = ask()
    before, kept_before = ask()
    return TakenBack(names_of(some), out, before, after, (kept_before, kept_after))
