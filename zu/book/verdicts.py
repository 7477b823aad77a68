"""Verdicts: yes, no or undecided, by an interval and never by a number alone."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..scores import wilson

YES, NO, UNDECIDED = "yes", "no", "undecided"


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f},\u00a0{self.high:.1f}]".replace("-", "−")


def over_draws(values: Sequence[float]) -> Estimate:
    """Mean of a number measured in each of several draws, with Student's 95% interval.

    Raises `ValueError` for fewer than two draws: one says nothing of how much draws differ.
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        raise ValueError(f"{len(x)} draws: an interval over draws needs at least 2")
    from scipy.stats import t

    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def combine(*terms: tuple[float, Estimate]) -> Estimate:
    """A weighted sum of estimates that were made apart, with its 95% interval.

    The squared distances from each value to the end of its interval that counts add up (MOVER; Zou
    and Donner, Statistics in Medicine 27, 2008); for two shares this is Newcombe's interval of their
    difference. Pairing is not used: where the two rest on the same facts, the interval is too wide.
    """
    value = sum(weight * e.value for weight, e in terms)
    ends = {"low": 0.0, "high": 0.0}
    for weight, e in terms:
        down, up = (e.value - e.low, e.high - e.value) if weight >= 0 else (e.high - e.value, e.value - e.low)
        ends["low"] += (weight * down) ** 2
        ends["high"] += (weight * up) ** 2
    return Estimate(value, value - math.sqrt(ends["low"]), value + math.sqrt(ends["high"]))


def at_most(estimate: Estimate, bound: float = 0.0) -> str:
    """Yes where the whole interval is at most `bound`, no where all of it is above."""
    if not all(map(math.isfinite, estimate)):
        return UNDECIDED
    return YES if estimate.high <= bound else NO if estimate.low > bound else UNDECIDED


def at_least(estimate: Estimate, bound: float = 0.0) -> str:
    """Yes where the whole interval is at least `bound`, no where all of it is below."""
    return at_most(Estimate(-estimate.value, -estimate.high, -estimate.low), -bound)


def every(*verdicts: str) -> str:
    """Yes where all are; no where one is; undecided otherwise."""
    return NO if NO in verdicts else UNDECIDED if UNDECIDED in verdicts else YES


def some(*verdicts: str) -> str:
    """Yes where one is; no where all are no; undecided otherwise."""
    return YES if YES in verdicts else UNDECIDED if UNDECIDED in verdicts else NO


def opposite(verdict: str) -> str:
    """No for yes, yes for no."""
    return {YES: NO, NO: YES}.get(verdict, UNDECIDED)


class Measured:
    """Records of one experiment and number of facts, for estimates of what its methods do.

    With two draws or more a contrast of methods is taken draw by draw, in the mean over the data sets,
    and its interval is over the draws. With one, intervals over the facts are combined, which is wider.
    """

    def __init__(self, records: Sequence[dict]) -> None:
        self.by: dict[tuple[str, int, str], dict] = {
            (r["method"], r["seed"], r["dataset"]): r for r in records}

    @property
    def methods(self) -> set[str]:
        return {method for method, *_ in self.by}

    def _keys(self, methods: Sequence[str], holds: Callable[[dict], bool]) -> dict[int, list[str]]:
        """The data sets of each draw in which all of these methods were measured."""
        found: dict[int, list[str]] = {}
        for _, seed, dataset in sorted({(0, s, d) for _, s, d in self.by}):
            rows = [self.by.get((m, seed, dataset)) for m in methods]
            if all(row is not None and holds(row) for row in rows):
                found.setdefault(seed, []).append(dataset)
        return found

    def contrast(self, weights: dict[str, float], metric: str) -> Estimate:
        """The weighted sum of methods' means of a percentage ("eff", "gen", "spe"), in points.

        Raises `ValueError` where no draw has all of the methods.
        """
        draws = self._keys([*weights], lambda r: r["metrics"].get(metric) is not None)
        if not draws:
            raise ValueError(f"no draw has {metric} of {', '.join(weights)}")
        if len(draws) == 1:
            (seed, sets), = draws.items()
            return combine(*((w / len(sets), of_facts(self.by[m, seed, d], metric))
                             for m, w in weights.items() for d in sets))
        by_method = {m: np.array([np.mean([self.by[m, seed, d]["metrics"][metric] for d in sets])
                                  for seed, sets in draws.items()]) for m in weights}
        asked = sum(self.by[m, seed, d]["n"] for m in [*weights][:1] for seed, sets in draws.items() for d in sets)
        fixed = {m: x[0] for m, x in by_method.items() if x[0] in (0.0, 100.0) and (x == x[0]).all()}
        moving = [m for m in weights if m not in fixed]
        # none, or all, in every draw: the draws do not differ, but they are still only so many facts
        terms = [(weights[m], Estimate(x, *wilson(asked * int(x == 100), asked))) for m, x in fixed.items()]
        if moving:
            terms.append((1.0, over_draws(sum(weights[m] * by_method[m] for m in moving))))
        return combine(*terms)

    def kept(self, method: str, metric: str = "spe") -> Estimate:
        """What a method leaves of Base's percentage, in percent of it, over at least two draws.

        Raises `ValueError` for fewer draws.
        """
        draws = self._keys([method, "base"], lambda r: r["metrics"].get(metric) is not None)
        mean = {m: np.array([np.mean([self.by[m, seed, d]["metrics"][metric] for d in sets])
                             for seed, sets in draws.items()]) for m in (method, "base")}
        return over_draws(100 * mean[method] / mean["base"])

    def ppl(self, method: str) -> Estimate:
        """Mean perplexity over at least two draws; `ValueError` for fewer."""
        draws = self._keys([method], lambda r: r["metrics"].get("ppl") is not None)
        return over_draws([np.mean([self.by[method, seed, d]["metrics"]["ppl"] for d in sets])
                           for seed, sets in draws.items()])

    def log_ppls(self, method: str) -> dict[int, list[float]]:
        """The logarithm of a method's perplexity against Base's, by draw, for each data set."""
        draws = self._keys([method, "base"], lambda r: r["metrics"].get("ppl") is not None)
        read = lambda m, seed, d: self.by[m, seed, d]["metrics"]["ppl"]  # noqa: E731
        return {seed: [math.log(read(method, seed, d) / read("base", seed, d)) for d in sets]
                for seed, sets in draws.items()}

    def log_ppl(self, method: str, spread: float) -> Estimate:
        """The logarithm of a method's perplexity against Base's.

        spread: half the width of the interval where there is only one draw, see `ppl_spread`.
        """
        logs = [np.mean(some) for some in self.log_ppls(method).values()]
        if len(logs) > 1:
            return over_draws(logs)
        return Estimate(float(logs[0]), float(logs[0]) - spread, float(logs[0]) + spread)


def of_facts(record: dict, metric: str) -> Estimate:
    """A record's percentage with its interval over facts; Wilson's where all facts, or none, are right."""
    value, (low, high) = record["metrics"][metric], record["metrics"][f"interval_{metric}"]
    if low == high and value in (0.0, 100.0):
        low, high = wilson(record["n"] * int(value == 100), record["n"])
    return Estimate(value, low, high)


def ppl_spread(records: Sequence[dict]) -> float:
    """How far log perplexity against Base, of another draw, may lie from that of one (95%).

    One draw has no interval of its own, so it borrows one: from records of several draws of one data
    set, the largest standard deviation of any method, as a prediction interval.
    """
    from scipy.stats import t

    measured, widest = Measured(records), 0.0
    for method in measured.methods - {"base"}:
        logs = [x for some in measured.log_ppls(method).values() for x in some]
        k = len(logs)
        if k > 1:
            widest = max(widest, t.ppf(0.975, k - 1) * float(np.std(logs, ddof=1)) * math.sqrt(1 + 1 / k))
    return widest
