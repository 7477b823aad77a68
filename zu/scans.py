"""What a scan of a model's layers found: a row per window, the rule that picks one, a picture.

`zu.scan_layers` makes it; here are its numbers alone, with no model and no text.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .data.cache import user_path
from .methods import METHODS
from .records import write_record
from .scores import difference_interval, percent_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = "zu-scan-1"
#: The goals: the most Eff in percent; Gen, Spe and perplexity as multiples of the unedited model's.
MOST_EFF, GEN_SHARE, SPE_SHARE, PPL_SHARE = 2.0, 1 / 3, 0.9, 1.05
#: What is asked of each fact, and what a picture calls it.
KINDS = {"eff": "Eff", "gen": "Gen", "spe": "Spe"}
#: How often the facts are drawn anew to see what they decide, and how often a rule that is sure
#: may err.
DRAWS, ERROR = 4000, 0.05
_BASE, _GOAL, _PLAIN = "#666666", "#44AA99", "#444444"


class ScanError(ValueError):
    """Layers cannot be scanned, or a saved scan cannot be read; the message says what to do."""


class ScanWarning(UserWarning):
    """A scan's facts do not tell its windows apart, or no window reaches what is wanted."""


@dataclass(frozen=True)
class Window:
    """What an edit of some layers did, fact by fact.

    Attributes
    ----------
    layers : tuple of int
        The edited layers, ascending; empty for the unedited model.
    eff, gen, spe : tuple of float
        By fact, accuracy in percent on its prompt, its paraphrases and its neighbours; NaN for a
        fact that has none.
    ppl : float
        Perplexity on held-out prose.
    damage : float
        The share of general energy that the edit moved, in the layer where it is largest; NaN if it
        was not measured.
    seconds : float
        How long the edit and its evaluation took.
    failed : str
        Why there is no edit of these layers; the scores are then NaN.
    """

    layers: tuple[int, ...]
    eff: tuple[float, ...] = ()
    gen: tuple[float, ...] = ()
    spe: tuple[float, ...] = ()
    ppl: float = np.nan
    damage: float = np.nan
    seconds: float = np.nan
    failed: str = ""

    @property
    def name(self) -> str:
        """The layers in short: "15–17", "3", "1, 3, 5"."""
        first, last = self.layers[0], self.layers[-1]
        if last - first + 1 > len(self.layers):
            return ", ".join(map(str, self.layers))
        return f"{first}–{last}" if last > first else str(first)

    def mean(self, kind: str) -> float:
        """The mean over facts of "eff", "gen" or "spe", in percent; NaN if no fact has any."""
        values = np.array(getattr(self, kind), float)
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else np.nan


class Means(NamedTuple):
    """Scores of some windows, each of any shape that fits the others; NaN is not judged.

    Attributes
    ----------
    eff, gen, spe, ppl : array
        Means in percent, and perplexity.
    """

    eff: np.ndarray
    gen: np.ndarray
    spe: np.ndarray
    ppl: np.ndarray


class Judged(NamedTuple):
    """What the rule makes of some windows.

    Attributes
    ----------
    able : array of bool
        Whether Eff and perplexity are within their bounds.
    reserve : array
        The smaller of two reserves: Gen's distance below a third of Base, in thirds of Base, and
        Spe's above 90% of Base, in tenths of Base. Not negative where both goals are met.
    short : array
        By how much the four goals are missed, added up: for each 0 where it is met, and 1 where
        nothing is forgotten (Eff, Gen), no neighbour is left (Spe) or perplexity is twice its
        bound.
    key : array
        What the rule maximises: windows that are able come first, by reserve, and the others after
        them, by −short. −∞ for a window without an edit.
    """

    able: np.ndarray
    reserve: np.ndarray
    short: np.ndarray
    key: np.ndarray


def judge(scores: Means, base: Means) -> Judged:
    """Apply the rule by which layers are chosen.

    Of the windows whose Eff and perplexity are within their bounds, the best has the largest
    smaller reserve; where there are none, the least shortfall. Gen or Spe is not judged where the
    unedited model has none.

    Parameters
    ----------
    scores : Means
        Of the windows.
    base : Means
        Of the unedited model, of shapes that can be broadcast to the windows'.

    Returns
    -------
    Judged
        Of the windows' shape.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        times = scores.ppl / base.ppl
        able = (scores.eff <= MOST_EFF + 1e-9) & (times <= PPL_SHARE * (1 + 1e-12))
        gen = 1 - scores.gen / (GEN_SHARE * base.gen)
        spe = (scores.spe / base.spe - SPE_SHARE) / (1 - SPE_SHARE)
        lacks = [(scores.eff - MOST_EFF) / (100 - MOST_EFF),
                 -gen * GEN_SHARE / (1 - GEN_SHARE),
                 -spe * (1 - SPE_SHARE) / SPE_SHARE,
                 np.log2(times / PPL_SHARE)]
    gen, spe = (_judged(x) for x in (gen, spe))
    reserve = np.minimum(*np.broadcast_arrays(gen, spe))
    short = sum(np.maximum(_judged(x, -1.0), 0.0) for x in lacks)
    key = np.where(able, 1e3 + np.minimum(reserve, 1e2), -short)
    return Judged(able, reserve, short, np.where(np.isnan(scores.ppl), -np.inf, key))


def _judged(values: np.ndarray, otherwise: float = np.inf) -> np.ndarray:
    """Reserves, where what cannot be judged decides nothing."""
    return np.where(np.isfinite(values), values, otherwise)


@dataclass(frozen=True)
class Scan:
    """A scan of a model's layers: what an edit of each window did, and which one the rule picks.

    `print` it for a summary. It holds numbers alone, no text of a fact.

    Attributes
    ----------
    about : dict
        How it was made: "model", "depth" (the number of layers), "method", "settings", "given",
        "known" and "used" (how many facts), "plan" and where it comes from.
    base : Window
        The unedited model.
    windows : tuple of Window
        One per window of layers, ascending.
    """

    about: Mapping[str, Any]
    base: Window
    windows: tuple[Window, ...]

    @cached_property
    def best(self) -> Window:
        """The window that the rule picks; of equal ones that with less perplexity, then the lower.
        """
        judged = self._judged
        order = sorted(range(len(self.windows)), key=lambda i: (
            -round(float(judged.key[i]), 9), self.windows[i].ppl, self.windows[i].layers))
        return self.windows[order[0]]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers to edit, ready for ``zu.unlearn(..., layers=scan.layers)``."""
        return self.best.layers

    @property
    def qualifies(self) -> bool:
        """Whether the Eff and perplexity of the recommended layers are within their bounds."""
        return bool(self._judged.able[self.windows.index(self.best)])

    @property
    def missed(self) -> tuple[str, ...]:
        """The goals that the recommended layers miss, of "eff", "gen", "spe" and "ppl"."""
        return tuple(name for name, (value, bound) in self.goals(self.best).items()
                     if (value < bound if name == "spe" else value > bound))

    @cached_property
    def as_good(self) -> tuple[Window, ...]:
        """Other windows that these facts do not tell from the recommended one.

        The facts are drawn anew, with replacement, 4000 times, and the rule is applied to each
        draw, to the same facts for every window and for Base. A window is worse if it ranks below
        the recommended one in all but a few draws: in 5% of them at most, divided by the number of
        windows it could have been. A text's perplexity is not drawn.
        """
        here = self.windows.index(self.best)
        there = [i for i, window in enumerate(self.windows) if i != here and not window.failed]
        if not there:
            return ()
        key = self._drawn().key
        share = (key >= key[:, [here]] - 1e-9).mean(0)  # (windows,)
        return tuple(self.windows[i] for i in there if share[i] > ERROR / len(there))

    @property
    def decided(self) -> bool:
        """Whether the facts tell any window from the recommended one."""
        whole = [window for window in self.windows if not window.failed]
        return len(self.as_good) < len(whole) - 1

    def goals(self, window: Window) -> dict[str, tuple[float, float]]:
        """What a window reaches and what is wanted.

        Parameters
        ----------
        window : Window
            One of the scan's.

        Returns
        -------
        dict
            By "eff", "gen", "spe" and "ppl": the value and its bound, a ceiling but for Spe.
            Without those that Base has none of, which are not judged.
        """
        base = {kind: self.base.mean(kind) for kind in KINDS}
        bounds = {"eff": MOST_EFF, "gen": GEN_SHARE * base["gen"], "spe": SPE_SHARE * base["spe"],
                  "ppl": PPL_SHARE * self.base.ppl}
        found = {kind: window.mean(kind) for kind in KINDS} | {"ppl": window.ppl}
        return {name: (found[name], bound) for name, bound in bounds.items()
                if name in ("eff", "ppl") or base[name] > 0}

    @cached_property
    def _judged(self) -> Judged:
        """What the rule makes of the windows, (windows,)."""
        return judge(self._means(self.windows), self._means([self.base]))

    def _means(self, windows: Sequence[Window]) -> Means:
        """The scores of some windows, (windows,) each."""
        eff, gen, spe = (np.array([w.mean(kind) for w in windows]) for kind in KINDS)
        return Means(eff, gen, spe, np.array([w.ppl for w in windows]))

    def _drawn(self) -> Judged:
        """What the rule makes of the windows where the facts are drawn anew, (draws, windows)."""
        n = len(self.base.eff)
        count = np.random.default_rng(0).multinomial(n, [1 / n] * n, DRAWS)  # (draws, n)
        ppl = np.array([w.ppl for w in self.windows])
        eff, gen, spe = (_over(count, self.windows, kind, n) for kind in KINDS)
        base = [_over(count, [self.base], kind, n) for kind in KINDS]
        return judge(Means(eff, gen, spe, ppl[None]),
                     Means(base[0], base[1], base[2], np.array([[self.base.ppl]])))

    def frame(self) -> pd.DataFrame:
        """The windows as a table.

        Returns
        -------
        pd.DataFrame
            One row per window and one for Base, the first: "layers" (a name), "first", "last",
            "depth" (the middle, as a share of the model's), "eff", "gen", "spe" in percent, "ppl"
            and "times" (of Base's), "reserve" and "short" as in `Judged`, "damage", "seconds", and
            "verdict": "recommended", "as good", "worse", or why there is no edit.
        """
        import pandas as pd

        rows, judged = [self._row(self.base, "Base")], self._judged
        for i, window in enumerate(self.windows):
            row = self._row(window, self.verdict(window))
            if not window.failed:
                row |= {"short": float(judged.short[i]), "reserve": float(judged.reserve[i])}
            rows.append(row)
        columns = ["layers", "first", "last", "depth", "eff", "gen", "spe", "ppl", "times",
                   "reserve", "short", "damage", "seconds", "verdict"]
        return pd.DataFrame(rows, columns=columns)

    def _row(self, window: Window, verdict: str) -> dict[str, Any]:
        """The part of a row of `frame` that needs no rule."""
        row = {kind: window.mean(kind) for kind in KINDS} | {
            "layers": "Base", "ppl": window.ppl, "times": window.ppl / self.base.ppl,
            "damage": window.damage, "seconds": window.seconds, "verdict": verdict}
        if window.layers:
            middle = (window.layers[0] + window.layers[-1]) / 2
            row |= {"layers": window.name, "first": window.layers[0], "last": window.layers[-1],
                    "depth": middle / max(self.about["depth"] - 1, 1)}
        return row

    def verdict(self, window: Window) -> str:
        """What the facts say of a window.

        Parameters
        ----------
        window : Window
            One of the scan's.

        Returns
        -------
        str
            "recommended", "as good", "worse", or why there is no edit of these layers.
        """
        if window is self.best:
            return "recommended"
        return window.failed or ("as good" if window in self.as_good else "worse")

    def against(self, layers: Sequence[int] | None = None) -> pd.DataFrame:
        """The other windows against one, with paired intervals over facts.

        Parameters
        ----------
        layers : sequence of int, optional
            The window to compare with; by default the recommended one.

        Returns
        -------
        pd.DataFrame
            One row per other window and score: "layers", "score" ("Eff", "Gen" or "Spe"), "facts"
            (how many have that question), "difference" in percentage points, the other minus this
            one, its 95% interval "low" to "high" over facts (`zu.scores.difference_interval`), and
            whether it is "decided": 0 is outside.

        Raises
        ------
        ScanError
            If the scan has no such window.
        """
        import pandas as pd

        here = self.window(layers) if layers is not None else self.best
        rows = []
        for other in self.windows:
            if other is here or other.failed:
                continue
            for kind, label in KINDS.items():
                values = np.subtract(getattr(other, kind), getattr(here, kind))
                values = values[~np.isnan(values)]
                low, high = difference_interval(values)
                mean = float(values.mean()) if len(values) else np.nan
                rows.append((other.name, label, len(values), mean, low, high,
                             bool(low > 0 or high < 0)))
        return pd.DataFrame(rows, columns=["layers", "score", "facts", "difference", "low", "high",
                                           "decided"])

    def window(self, layers: Sequence[int]) -> Window:
        """The scan's window of these layers.

        Parameters
        ----------
        layers : sequence of int
            Its layers.

        Returns
        -------
        Window
            One of `windows`.

        Raises
        ------
        ScanError
            If there is none.
        """
        for window in self.windows:
            if window.layers == tuple(layers):
                return window
        names = ", ".join(window.name for window in self.windows)
        raise ScanError(f"the scan has no window {list(layers)}: it has {names}")

    def __str__(self) -> str:
        about = self.about
        lines = [f"layers {list(self.layers)} of {about['depth']} for {about['method']}, by "
                 f"{about['used']} facts ({about['given']} given, {about['known']} known)"]
        lines += [f"  {text}" for text in (self.in_words(), self.undecided_in_words()) if text]
        return "\n".join(lines)

    def in_words(self) -> str:
        """What the recommended layers reach and miss.

        Returns
        -------
        str
            A sentence without a full stop.
        """
        goals = self.goals(self.best)
        missed = [_in_words(name, *goals[name]) for name in self.missed]
        if not missed:
            return "all goals are met: " + _listed(_in_words(n, *x) for n, x in goals.items())
        one = len(self.layers) == 1
        tail = f"{'layer' if one else 'layers'} {self.best.name} {'misses' if one else 'miss'} "
        tail += _listed(missed)
        if self.qualifies:
            return "Eff and perplexity are within their bounds; " + tail
        return ("no window qualifies, that is, keeps Eff and perplexity within their bounds; by "
                f"least shortfall, {tail}")

    def undecided_in_words(self) -> str:
        """Which windows are as good, for all that the facts can tell.

        Returns
        -------
        str
            A sentence without a full stop; empty if every other window is worse.
        """
        if not self.as_good:
            return ""
        names = _listed(window.name for window in self.as_good)
        few = " by these facts; more facts may tell them apart"
        if not self.decided:
            return f"undecided: all windows are as good as {self.best.name}{few}"
        return f"undecided: {names} {'are' if len(self.as_good) > 1 else 'is'} as good{few}"

    def picture(self) -> Figure:
        """Eff, Gen, Spe and perplexity over the depth, with the recommended layers marked.

        Returns
        -------
        Figure
            Four panels. Each window is a point at its middle, with its 95% interval over facts:
            filled if it is recommended or as good, hollow if it is worse; a cross on the axis if
            there is no edit. The grey line is Base, and the shaded part is where a goal is met. The
            recommended layers are a vertical band.
        """
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(2, 2, figsize=(7.0, 4.6), sharex=True,
                                    layout="constrained")
        for axis, name in zip(axes.flat, (*KINDS, "ppl"), strict=True):
            self._panel(axis, name)
        for axis in axes[1]:
            axis.set_xlabel("layer (middle of the window)")
        axes[0, 0].set_xlim(-0.5, self.about["depth"] - 0.5)
        plt.close(figure)  # so that a notebook shows it once
        return figure

    def _panel(self, axis: Axes, name: str) -> None:
        """One panel of `picture`."""
        method = METHODS.get(str(self.about["method"]))
        colour = method.colour if method else _PLAIN
        axis.axvspan(self.layers[0] - 0.45, self.layers[-1] + 0.45, color=colour, alpha=0.15,
                     lw=0, zorder=0)
        base = 1.0 if name == "ppl" else self.base.mean(name)
        axis.axhline(base, color=_BASE, lw=1.2, zorder=1)
        good = (self.best, *self.as_good)
        for window in self.windows:
            x = (window.layers[0] + window.layers[-1]) / 2
            if window.failed:
                axis.plot(x, 0.03, "x", color=_BASE, transform=axis.get_xaxis_transform())
                continue
            y = window.ppl / self.base.ppl if name == "ppl" else window.mean(name)
            if name != "ppl":
                values = np.array(getattr(window, name))
                axis.plot([x, x], percent_interval(values[~np.isnan(values)]), color=colour,
                          lw=0.9, zorder=2)
            axis.plot(x, y, "o", ms=5.5, color=colour, mfc=colour if window in good else "white",
                      zorder=3)
        _limits(axis, name, self.goals(self.best), self.base.ppl)

    def save(self, path: str | Path) -> None:
        """Write the scan as JSON: numbers, names of the model and method, and no text of a fact.

        Parameters
        ----------
        path : str or Path
            The file.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        rows = [_plain(window) for window in self.windows]
        write_record(path, {"format": FORMAT, "about": dict(self.about),
                            "base": _plain(self.base), "windows": rows})

    @classmethod
    def load(cls, path: str | Path) -> Scan:
        """Read a scan that `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        Scan
            The same scan.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ScanError
            If the file holds something else.
        """
        try:
            found = json.loads(user_path(path).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError
            windows = tuple(map(_window, found["windows"]))
            return cls(found["about"], _window(found["base"]), windows)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise ScanError(f"'{path}' is no scan of this version: give a file that Scan.save "
                            "wrote, or scan again (zu.scan_layers)") from None


def _over(count: np.ndarray, windows: Sequence[Window], kind: str, n: int) -> np.ndarray:
    """Means of windows over facts that were drawn anew: counts (draws, n) -> (draws, windows)."""
    values = np.array([getattr(w, kind) or [np.nan] * n for w in windows], float)  # (windows, n)
    there = (~np.isnan(values)).astype(float)
    with np.errstate(invalid="ignore"):
        return (count @ np.nan_to_num(values).T) / (count @ there.T)


def _in_words(name: str, value: float, bound: float) -> str:
    """A score and its bound: "Spe (61.0, wanted ≥ 90.0)"."""
    label = KINDS.get(name, "perplexity")
    return f"{label} ({value:.1f}, wanted {'≥' if name == 'spe' else '≤'} {bound:.1f})"


def _listed(words: Any) -> str:
    """A list in words: "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _limits(
    axis: Axes, name: str, goals: Mapping[str, tuple[float, float]], base_ppl: float
) -> None:
    """A panel's limits, its title, and the shade where its goal is met."""
    axis.set_title(KINDS.get(name, "perplexity, times Base"))
    if name != "ppl":
        axis.set_ylim(-4, 104)
    elif axis.get_ylim()[1] > 3:
        axis.set_yscale("log")
    low, high = axis.get_ylim()
    if name in goals:
        bound = goals[name][1] / (base_ppl if name == "ppl" else 1)
        high = max(high, bound * 1.02) if name == "ppl" else high
        ends = (bound, high) if name == "spe" else (low, bound)
        axis.axhspan(*ends, color=_GOAL, alpha=0.15, lw=0, zorder=0)
        axis.set_ylim(low, high)


def _plain(window: Window) -> dict[str, Any]:
    """A window as values that JSON can hold."""
    return {"layers": list(window.layers), "ppl": window.ppl, "damage": window.damage,
            "seconds": window.seconds, "failed": window.failed,
            **{kind: list(getattr(window, kind)) for kind in KINDS}}


def _window(row: Mapping[str, Any]) -> Window:
    """A window as `_plain` made it."""
    def number(value: Any) -> float:
        return float("nan") if value is None else float(value)

    eff, gen, spe = (tuple(map(number, row[kind])) for kind in KINDS)
    return Window(tuple(int(x) for x in row["layers"]), eff, gen, spe, number(row["ppl"]),
                  number(row["damage"]), number(row["seconds"]), str(row["failed"]))
