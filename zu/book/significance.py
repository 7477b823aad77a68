"""Exact tests: of paired counts, of ranks, and of many at once."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from ..scores import mcnemar
from .verdicts import NO, UNDECIDED, YES

__all__ = ["LEVEL", "Order", "decided", "holm", "mcnemar", "order"]

Name = TypeVar("Name")
#: A p below this level decides.
LEVEL = 0.05


class Order(NamedTuple):
    """How far two rankings agree.

    Attributes
    ----------
    tau : float
        Kendall's τ_b: 1 for the same order, −1 for the reverse.
    p : float
        The two-sided probability of a τ at least as far from 0 if one order were random.
    n : int
        The number of ranked things.
    """

    tau: float
    p: float
    n: int

    def __str__(self) -> str:
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.2g}"
        return f"{self.tau:.2f} ({p}, n = {self.n})".replace("-", "−")


def order(ours: Sequence[float], theirs: Sequence[float]) -> Order | None:
    """Kendall's τ of two rankings of the same things, with its p.

    Parameters
    ----------
    ours, theirs : sequence of float
        One number per thing.

    Returns
    -------
    Order or None
        None if there are fewer than three things, or one side ranks them all equal. p is exact
        without ties, and from the normal approximation with ties.

    Raises
    ------
    ValueError
        If the sequences differ in length, or a number is not finite.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} numbers are ranked against {len(theirs)}: give as many")
    if not all(map(math.isfinite, [*ours, *theirs])):
        raise ValueError("a number that is not finite has no rank: leave its pair out, and say so")
    if len(ours) < 3 or len({*ours}) == 1 or len({*theirs}) == 1:
        return None
    from scipy.stats import kendalltau

    found = kendalltau(ours, theirs)
    return Order(float(found.statistic), float(found.pvalue), len(ours))


def holm(ps: Mapping[Name, float]) -> dict[Name, float]:
    """Adjust the p of many tests that are read together, by Holm's step-down rule.

    The probability that any true hypothesis gets an adjusted p below a bound is at most that bound.

    Parameters
    ----------
    ps : mapping
        p by test.

    Returns
    -------
    dict
        The adjusted p by test, in the same order; never smaller than the given p.

    Raises
    ------
    ValueError
        If a p is not between 0 and 1.

    References
    ----------
    Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    if wrong := [name for name, p in ps.items() if not 0 <= p <= 1]:
        raise ValueError(f"p of {wrong[0]} is {ps[wrong[0]]}: give a p between 0 and 1")
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in ps}


def decided(p: float, holds: bool, level: float = LEVEL) -> str:
    """A verdict on a measured difference, by its p.

    Parameters
    ----------
    p : float
        The p of the difference.
    holds : bool
        Whether the difference has the claimed direction.
    level : float
        A p below this level decides.

    Returns
    -------
    str
        Yes or no; undecided if p is not below the level.
    """
    if not p < level:
        return UNDECIDED
    return YES if holds else NO
