"""Exact tests: of paired counts, of ranks, and of many at once."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from ..scores import mcnemar
from .verdicts import NO, UNDECIDED, YES

__all__ = ["LEVEL", "Order", "decided", "holm", "mcnemar", "order"]

Name = TypeVar("Name")
#: Below it a p decides.
LEVEL = 0.05


class Order(NamedTuple):
    """How far two rankings agree.

    Attributes
    ----------
    tau : float
        Kendall's τ_b: 1 for the same order, −1 for the reverse.
    p : float
        The chance of a τ as far from 0 if one of the orders were drawn by lot, two-sided.
    n : int
        How many were ranked.
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
        A number for each thing.

    Returns
    -------
    Order or None
        None where there are less than three things, or one side ranks them all alike. p is exact
        without ties, and by the normal approximation with them.

    Raises
    ------
    ValueError
        For sequences of different lengths, and for what is not finite.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} numbers are ranked against {len(theirs)}: give a pair each")
    if not all(map(math.isfinite, [*ours, *theirs])):
        raise ValueError("what is not finite has no rank: leave its pair out, and say so")
    if len(ours) < 3 or len({*ours}) == 1 or len({*theirs}) == 1:
        return None
    from scipy.stats import kendalltau

    found = kendalltau(ours, theirs)
    return Order(float(found.statistic), float(found.pvalue), len(ours))


def holm(ps: Mapping[Name, float]) -> dict[Name, float]:
    """The p of many tests that are looked at together, by Holm's step-down rule.

    The chance that any test of a true hypothesis ends under a bound is at most that bound.

    Parameters
    ----------
    ps : mapping
        p by test.

    Returns
    -------
    dict
        The adjusted p by test, in the same order; never less than what was given.

    Raises
    ------
    ValueError
        For a p that is none.

    References
    ----------
    Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    if wrong := [name for name, p in ps.items() if not 0 <= p <= 1]:
        raise ValueError(f"p of {wrong[0]} is {ps[wrong[0]]}: a p lies between 0 and 1")
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in ps}


def decided(p: float, holds: bool, level: float = LEVEL) -> str:
    """A verdict on a difference that was measured, by its p.

    Parameters
    ----------
    p : float
        Of the difference.
    holds : bool
        Whether it is in the direction that is asked about.
    level : float
        Below it p decides.

    Returns
    -------
    str
        Yes or no, and undecided where p is not under the level.
    """
    if not p < level:
        return UNDECIDED
    return YES if holds else NO
