"""Verdicts: yes, no or undecided, by an interval and never by a number alone."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ..scores import wilson

YES, NO, UNDECIDED = "yes", "no", "undecided"


class Estimate(NamedTuple):
    """A number and its 95% interval.

    Attributes
    ----------
    value : float
        The number.
    low, high : float
        The interval's ends.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        text = f"{self.value:.1f} [{self.low:.1f},\u00a0{self.high:.1f}]"
        return text.replace("-", "−")


def over_draws(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of a number measured in each of several draws, with Student's 95% interval.

    Parameters
    ----------
    values : Sequence[float] or np.ndarray
        One number per draw.

    Returns
    -------
    Estimate
        The mean and its interval, in the numbers' unit.

    Raises
    ------
    ValueError
        If there are fewer than two draws, since one does not show how much draws differ.
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        raise ValueError(f"{len(x)} draws: an interval over draws needs at least 2")
    from scipy.stats import t

    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    mean = x.mean()
    return Estimate(float(mean), float(mean - half), float(mean + half))


def combine(*terms: tuple[float, Estimate]) -> Estimate:
    """A weighted sum of separate estimates, with its 95% interval.

    The squared distances from each value to the relevant end of its interval add up; for two shares
    this is Newcombe's interval of their difference. Pairing is not used, so the interval is too
    wide if the estimates rest on the same facts.

    Parameters
    ----------
    *terms : tuple[float, Estimate]
        Pairs of a weight and an estimate.

    Returns
    -------
    Estimate
        The sum and its interval.

    References
    ----------
    MOVER: Zou and Donner, Statistics in Medicine 27, 2008.
    """
    value = sum(weight * e.value for weight, e in terms)
    low = high = 0.0
    for weight, e in terms:
        down, up = e.value - e.low, e.high - e.value
        if weight < 0:
            down, up = up, down
        low += (weight * down) ** 2
        high += (weight * up) ** 2
    return Estimate(value, value - math.sqrt(low), value + math.sqrt(high))


def at_most(estimate: Estimate, bound: float = 0.0) -> str:
    """Whether a number is at most a bound, by its interval.

    Parameters
    ----------
    estimate : Estimate
        The number.
    bound : float
        In the same unit.

    Returns
    -------
    str
        Yes if the whole interval is at most `bound`, no if all of it is above; undecided otherwise,
        and if a number is not finite.
    """
    if not all(map(math.isfinite, estimate)):
        return UNDECIDED
    if estimate.high <= bound:
        return YES
    if estimate.low > bound:
        return NO
    return UNDECIDED


def at_least(estimate: Estimate, bound: float = 0.0) -> str:
    """Whether a number is at least a bound, by its interval.

    Parameters
    ----------
    estimate : Estimate
        The number.
    bound : float
        In the same unit.

    Returns
    -------
    str
        Yes if the whole interval is at least `bound`, no if all of it is below; undecided
        otherwise, and if a number is not finite.
    """
    negated = Estimate(-estimate.value, -estimate.high, -estimate.low)
    return at_most(negated, -bound)


def every(*verdicts: str) -> str:
    """Whether all of some verdicts are yes.

    Parameters
    ----------
    *verdicts : str
        Yes, no or undecided, each.

    Returns
    -------
    str
        Yes if all are yes; no if one is no; undecided otherwise.
    """
    if NO in verdicts:
        return NO
    return UNDECIDED if UNDECIDED in verdicts else YES


def some(*verdicts: str) -> str:
    """Whether one of some verdicts is yes.

    Parameters
    ----------
    *verdicts : str
        Yes, no or undecided, each.

    Returns
    -------
    str
        Yes if one is yes; no if all are no; undecided otherwise.
    """
    if YES in verdicts:
        return YES
    return UNDECIDED if UNDECIDED in verdicts else NO


def opposite(verdict: str) -> str:
    """The verdict on the opposite claim.

    Parameters
    ----------
    verdict : str
        Yes, no or undecided.

    Returns
    -------
    str
        No for yes, yes for no, and undecided for undecided.
    """
    return {YES: NO, NO: YES}.get(verdict, UNDECIDED)


class Measured:
    """Records of one experiment and number of facts, for estimates of its methods' effects.

    With two draws or more a contrast of methods is taken draw by draw, on average over the data
    sets, and its interval is over the draws. With one, intervals over the facts are combined, which
    is wider.

    Parameters
    ----------
    records : Sequence[dict[str, Any]]
        The records; if two have the same method, seed and data set, the later one counts.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.by: dict[tuple[str, int, str], dict[str, Any]] = {
            (record["method"], record["seed"], record["dataset"]): record for record in records
        }

    @property
    def methods(self) -> set[str]:
        """The methods that were measured, including "base" if it was."""
        return {method for method, *_ in self.by}

    def _value(self, method: str, seed: int, dataset: str, metric: str) -> float:
        """A metric of one record, in which it was measured."""
        return self.by[method, seed, dataset]["metrics"][metric]

    def _draws(self, methods: Sequence[str], metric: str) -> dict[int, list[str]]:
        """The data sets of each draw in which all of these methods have the metric."""
        found: dict[int, list[str]] = {}
        for seed, dataset in sorted({(seed, dataset) for _, seed, dataset in self.by}):
            rows = [self.by.get((method, seed, dataset)) for method in methods]
            if all(row is not None and row["metrics"].get(metric) is not None for row in rows):
                found.setdefault(seed, []).append(dataset)
        return found

    def _means(self, method: str, metric: str, draws: Mapping[int, list[str]]) -> np.ndarray:
        """A method's mean over the data sets, by draw: (draws,)."""
        means = []
        for seed, datasets in draws.items():
            values = [self._value(method, seed, dataset, metric) for dataset in datasets]
            means.append(np.mean(values))
        return np.array(means)

    def contrast(self, weights: dict[str, float], metric: str) -> Estimate:
        """The weighted sum of methods' means of a percentage.

        Parameters
        ----------
        weights : dict[str, float]
            The weight of each method.
        metric : str
            "eff", "gen" or "spe".

        Returns
        -------
        Estimate
            The sum and its interval, in points.

        Raises
        ------
        ValueError
            If no draw has all of the methods.
        """
        draws = self._draws([*weights], metric)
        if not draws:
            raise ValueError(f"no draw has {metric} of {', '.join(weights)}")
        if len(draws) == 1:
            return self._contrast_of_facts(weights, metric, draws)
        return self._contrast_of_draws(weights, metric, draws)

    def _contrast_of_facts(
        self, weights: Mapping[str, float], metric: str, draws: Mapping[int, list[str]]
    ) -> Estimate:
        """The contrast in the one draw that there is, from intervals over the facts."""
        ((seed, datasets),) = draws.items()
        terms = []
        for method, weight in weights.items():
            for dataset in datasets:
                estimate = of_facts(self.by[method, seed, dataset], metric)
                terms.append((weight / len(datasets), estimate))
        return combine(*terms)

    def _contrast_of_draws(
        self, weights: Mapping[str, float], metric: str, draws: Mapping[int, list[str]]
    ) -> Estimate:
        """The contrast draw by draw."""
        by_method = {method: self._means(method, metric, draws) for method in weights}
        asked = self._asked([*weights], draws)
        terms = []
        moving = []
        for method, means in by_method.items():
            first = means[0]
            if first in (0.0, 100.0) and (means == first).all():
                # none, or all, in every draw: the draws do not differ, but the number of facts is
                # still limited
                interval = wilson(asked * int(first == 100), asked)
                terms.append((weights[method], Estimate(first, *interval)))
            else:
                moving.append(method)
        if moving:
            parts = (weights[method] * by_method[method] for method in moving)  # (draws,) each
            terms.append((1.0, over_draws(sum(parts, np.zeros(len(draws))))))
        return combine(*terms)

    def _asked(self, methods: Sequence[str], draws: Mapping[int, list[str]]) -> int:
        """How many facts there are in all draws and data sets, by the first method's records."""
        asked = 0
        for method in methods[:1]:
            for seed, datasets in draws.items():
                asked += sum(self.by[method, seed, dataset]["n"] for dataset in datasets)
        return asked

    def kept(self, method: str, metric: str = "spe") -> Estimate:
        """The share of Base's percentage that a method leaves, over at least two draws.

        Parameters
        ----------
        method : str
            A row's label.
        metric : str
            "eff", "gen" or "spe".

        Returns
        -------
        Estimate
            In percent of Base's.

        Raises
        ------
        ValueError
            For fewer draws.
        """
        draws = self._draws([method, "base"], metric)
        mine = self._means(method, metric, draws)
        base = self._means("base", metric, draws)
        return over_draws(100 * mine / base)

    def ppl(self, method: str) -> Estimate:
        """Mean perplexity over at least two draws.

        Parameters
        ----------
        method : str
            A row's label.

        Returns
        -------
        Estimate
            The mean and its interval.

        Raises
        ------
        ValueError
            For fewer draws.
        """
        draws = self._draws([method], "ppl")
        return over_draws(self._means(method, "ppl", draws))

    def log_ppls(self, method: str) -> dict[int, list[float]]:
        """The logarithm of the ratio of a method's perplexity to Base's.

        Parameters
        ----------
        method : str
            A row's label.

        Returns
        -------
        dict[int, list[float]]
            By draw, one number per data set.
        """
        logs: dict[int, list[float]] = {}
        for seed, datasets in self._draws([method, "base"], "ppl").items():
            logs[seed] = []
            for dataset in datasets:
                mine = self._value(method, seed, dataset, "ppl")
                base = self._value("base", seed, dataset, "ppl")
                logs[seed].append(math.log(mine / base))
        return logs

    def log_ppl(self, method: str, spread: float) -> Estimate:
        """The mean logarithm of a method's perplexity relative to Base's.

        Parameters
        ----------
        method : str
            A row's label.
        spread : float
            Half the width of the interval if there is only one draw, see `ppl_spread`.

        Returns
        -------
        Estimate
            The mean over draws and its interval.
        """
        logs = [float(np.mean(by_dataset)) for by_dataset in self.log_ppls(method).values()]
        if len(logs) > 1:
            return over_draws(logs)
        only = logs[0]
        return Estimate(only, only - spread, only + spread)


def of_facts(record: dict[str, Any], metric: str) -> Estimate:
    """A record's percentage with its interval over facts.

    Parameters
    ----------
    record : dict[str, Any]
        One record.
    metric : str
        "eff", "gen" or "spe".

    Returns
    -------
    Estimate
        In percent; the interval is Wilson's if all facts, or none, are right.
    """
    value = record["metrics"][metric]
    low, high = record["metrics"][f"interval_{metric}"]
    if low == high and value in (0.0, 100.0):
        low, high = wilson(record["n"] * int(value == 100), record["n"])
    return Estimate(value, low, high)


def ppl_spread(records: Sequence[dict[str, Any]]) -> float:
    """How far another draw's log perplexity ratio to Base may be from that of one draw (95%).

    A single draw has no interval of its own, so it borrows a prediction interval from records of
    several draws of one data set, with the largest standard deviation of any method.

    Parameters
    ----------
    records : Sequence[dict[str, Any]]
        Records of several draws.

    Returns
    -------
    float
        Half the width of that interval; 0 if no method has two draws.
    """
    from scipy.stats import t

    measured = Measured(records)
    widest = 0.0
    for method in measured.methods - {"base"}:
        logs = []
        for by_dataset in measured.log_ppls(method).values():
            logs += by_dataset
        k = len(logs)
        if k > 1:
            deviation = float(np.std(logs, ddof=1))
            half = t.ppf(0.975, k - 1) * deviation * math.sqrt(1 + 1 / k)
            widest = max(widest, half)
    return widest


def moves(verdict_at: Callable[[float], str], bounds: Sequence[float], unit: str = "") -> str:
    """How a verdict depends on its bound.

    Parameters
    ----------
    verdict_at : callable
        The verdict at a bound.
    bounds : Sequence[float]
        Bounds, ascending.
    unit : str
        The unit to write behind each bound, such as "%".

    Returns
    -------
    str
        For example "no up to 5%, undecided at 10%, yes from 20% on".
    """
    runs = [(verdict, [bound for bound, _ in some]) for verdict, some in groupby(
        ((bound, verdict_at(bound)) for bound in bounds), key=lambda pair: pair[1])]
    if len(runs) == 1:
        return f"{runs[0][0]} from {bounds[0]:g}{unit} to {bounds[-1]:g}{unit}"
    said = []
    for place, (verdict, some) in enumerate(runs):
        if place == 0:
            said.append(f"{verdict} up to {some[-1]:g}{unit}")
        elif place == len(runs) - 1:
            said.append(f"{verdict} from {some[0]:g}{unit} on")
        elif len(some) == 1:
            said.append(f"{verdict} at {some[0]:g}{unit}")
        else:
            said.append(f"{verdict} from {some[0]:g}{unit} to {some[-1]:g}{unit}")
    return ", ".join(said)
