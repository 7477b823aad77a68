"""Are there enough facts? The exact power of a test of erasure, by how many facts it asks."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The shares of the facts that a test should find if they are recovered, in `powers`.
RECOVERED = (0.2, 0.5)
#: With this probability or more a test is said to have power.
ENOUGH = 0.8


@dataclass(frozen=True)
class Power:
    """What a test with so many facts can find.

    Attributes
    ----------
    asked : int
        How many facts the test asks.
    least : int, optional
        How many of them must be found for the share to be above the control's; None if not even
        all of them suffice.
    by_share : dict of float to float
        By a share that is truly recovered, the probability that so many are found, 0 to 1.
    """

    asked: int
    least: int | None
    by_share: dict[float, float]

    @property
    def enough(self) -> tuple[float, ...]:
        """The shares that are noticed with a probability of 80% or more."""
        return tuple(share for share, power in self.by_share.items() if power >= ENOUGH)

    def __str__(self) -> str:
        if self.least is None:
            return f"of {self.asked}, not even all decide"
        noticed = ", ".join(f"{100 * share:.0f}% with {100 * power:.0f}%"
                            for share, power in self.by_share.items())
        return f"of {self.asked}, {self.least} or more decide; noticed: {noticed}"


def least_found(n: int, control: float, alpha: float = 0.05) -> int | None:
    """The least number of n facts found that lies above a control, by an exact binomial test.

    Parameters
    ----------
    n : int
        How many facts are asked.
    control : float
        The share that the test finds where nothing can be recovered, 0 to 1.
    alpha : float
        The level of the one-sided test, above 0 and below 1.

    Returns
    -------
    int or None
        The least k, 1 or more, with P(X ≥ k) ≤ alpha for X binomial with n and `control`; None if
        there is none.

    Raises
    ------
    ValueError
        If n is no whole number from 0, or a share or level lies outside its bounds.
    """
    _check(n, {"control": control})
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}: give a level above 0 and below 1, such as 0.05")
    low, high = 1, n + 1  # the tail falls with k
    while low < high:
        k = (low + high) // 2
        low, high = (low, k) if _tail(n, k, control) <= alpha else (k + 1, high)
    return low if low <= n else None


def power(
    n: int, control: float, shares: Sequence[float] = RECOVERED, alpha: float = 0.05
) -> Power:
    """The exact power of a test that asks n facts and finds each or does not.

    Facts are taken as independent, and the control's share as known. If it was measured on few
    facts, the power is less.

    Parameters
    ----------
    n : int
        How many facts are asked.
    control : float
        The share that the test finds where nothing can be recovered, 0 to 1.
    shares : sequence of float
        Shares that are truly recovered, 0 to 1 each.
    alpha : float
        The level of the one-sided test.

    Returns
    -------
    Power
        For each share, P(X ≥ k) for X binomial with n and the share, and k of `least_found`.

    Raises
    ------
    ValueError
        If n is no whole number from 0, or a share or level lies outside its bounds.
    """
    for share in shares:
        _check(n, {"a share": share})
    least = least_found(n, control, alpha)
    by_share = {share: 0.0 if least is None else _tail(n, least, share) for share in shares}
    return Power(n, least, by_share)


def powers(
    found: Mapping[str, Sequence[float | None]],
    control: float | Mapping[str, float],
    alpha: float = 0.05,
) -> dict[str, Power]:
    """Which tests of an audit have power with the facts that they could ask.

    A test that gives a mean over wordings or steps is taken as one yes or no per fact.

    Parameters
    ----------
    found : mapping
        The result of `zu.robustness`: by test a number per fact, None where it could not ask.
    control : float or mapping
        The share that a test finds where nothing can be recovered, 0 to 1: one for all tests, or
        one by test. For the probe it is at least one over the number of candidates.
    alpha : float
        The level of each one-sided test. It is not shared out among the tests.

    Returns
    -------
    dict of str to Power
        By test, the power to notice that 20% or 50% are recovered.

    Raises
    ------
    ValueError
        If a test lacks its control, or a number lies outside its bounds.

    Examples
    --------
    >>> found = zu.robustness(model, tokenizer, facts, others)
    >>> for test, its in zu.audit.powers(found, control=0.05).items():
    ...     print(test, its)
    """
    if isinstance(control, Mapping):
        if lacking := [test for test in found if test not in control]:
            raise ValueError(f"control lacks {', '.join(lacking)}: give a share for each test, or "
                             "one number for all")
        by_test = dict(control)
    else:
        by_test = dict.fromkeys(found, control)
    return {test: power(sum(x is not None for x in hits), by_test[test], alpha=alpha)
            for test, hits in found.items()}


def _check(n: int, shares: Mapping[str, float]) -> None:
    """Refuse a number of facts or a share that cannot be meant."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"n is {n!r}: give the number of facts, a whole number from 0")
    for name, share in shares.items():
        if not 0 <= share <= 1:  # so too for NaN
            raise ValueError(f"{name} is {share!r}: give a number from 0 to 1, not percent")


def _tail(n: int, k: int, share: float) -> float:
    """P(X ≥ k) for X binomial with n and a share."""
    from scipy.stats import binom  # here, as it takes a second to import

    return float(binom.sf(k - 1, n, share))
