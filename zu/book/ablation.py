"""Tables and figures of the ablation: the changes from a switch, and the limits of a weight."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..scores import wilson
from .few_shot import averages
from .figures import METRICS, PALETTE, colour_of
from .verdicts import (
    NO,
    UNDECIDED,
    YES,
    Estimate,
    Measured,
    at_least,
    at_most,
    combine,
    every,
    of_facts,
    over_draws,
    ppl_spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
#: From so many draws on a difference is taken draw by draw; of fewer, from intervals over facts.
ENOUGH = 3
#: The measures of the figures, and the unit of a change in each.
UNITS = {"eff": "points", "gen": "points", "spe": "points", "ppl": "%"}
#: The names of the varied settings.
GREEK = {"alpha": "α", "beta": "β", "lam": "λ", "eps": "ε", "n_prefixes": "texts",
         "layers": "layers"}
#: A perplexity above this multiple of Base's is written at the edge of its panel.
TOO_FAR = 10


def plane(before: torch.Tensor, after: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Two values in the plane, before an edit and after it with each of some switches.

    Parameters
    ----------
    before : Tensor
        (2, 2), a column for the fact and one for its neighbour; the fact's lies on the first axis.
    after : mapping
        The same after the edit, by the name of the switch.

    Returns
    -------
    pd.DataFrame
        One row per switch, value and stage: "switch", "what", "stage", "along" and "across", the
        coordinates along and across the fact's old value, and "moved", the length of the way.
    """
    rows = []
    for switch, values in after.items():
        way = (values - before).norm(dim=0)                       # (2,)
        for stage, some in (("before", before), ("after", values)):
            for i, what in enumerate(("the fact", "a neighbour")):
                along, across = some[:, i].tolist()
                rows.append((switch, what, stage, along, across, float(way[i])))
    return pd.DataFrame(rows, columns=["switch", "what", "stage", "along", "across", "moved"])


def draw_plane(frame: pd.DataFrame, target: torch.Tensor) -> Figure:
    """One panel per switch, with an arrow for the fact and one for its neighbour.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `plane`.
    target : Tensor
        (2, 1), where the fact should go.

    Returns
    -------
    Figure
        The panels, in one row.
    """
    import matplotlib.pyplot as plt

    switches = [*dict.fromkeys(frame.switch)]
    figure, axes = plt.subplots(1, len(switches), figsize=(7.4, 2.3), sharex=True, sharey=True,
                                squeeze=False)
    colours = {"the fact": PALETTE["zerounlearn"], "a neighbour": PALETTE["base"]}
    for axis, switch in zip(axes[0], switches, strict=True):
        axis.axvline(0, color="black", lw=0.8, ls=":")
        axis.plot(*target.flatten().tolist(), "*", ms=11, color="black", mfc="white")
        for what, colour in colours.items():
            some = frame[(frame.switch == switch) & (frame.what == what)].set_index("stage")
            start, end = (some.loc[x, ["along", "across"]].tolist() for x in ("before", "after"))
            axis.plot(*start, "o", ms=5, color=colour)
            axis.annotate("", end, start, arrowprops={
                "arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0})
        axis.set_title(switch)
        axis.set_aspect("equal")
    for what, colour in colours.items():
        first = frame[(frame.switch == switches[0]) & (frame.what == what)].iloc[0]
        axes[0, 0].annotate(what, (first.along, first.across), (0, -12), color=colour,
                            textcoords="offset points", fontsize=8, ha="center")
    axes[0, 0].annotate("target", target.flatten().tolist(), (7, 2), fontsize=8,
                        textcoords="offset points")
    axes[0, 0].set(xlim=(-0.15, 1.3), ylim=(-0.3, 1.35), ylabel="across it")
    figure.supxlabel("along the fact's old value", fontsize=9)
    return figure


def borrowed(records: Rows, methods: Sequence[str]) -> float:
    """How far two rows' difference of log perplexities, of one draw, may be from that of many.

    Parameters
    ----------
    records : sequence of dict
        Records of several draws, Base's among them.
    methods : sequence of str
        Rows like those that borrow it.

    Returns
    -------
    float
        √2 times `zu.book.verdicts.ppl_spread`, as two rows differ; NaN without several draws.
    """
    spread = ppl_spread([r for r in records if r["method"] in ("base", *methods)])
    return math.sqrt(2) * spread if spread else math.nan


class Parts:
    """Records of one data set, and the differences of its rows.

    Parameters
    ----------
    records : sequence of dict
        Records of one model, data set and choice of layers.
    spread : float
        Half the interval of a difference of log perplexities if there are fewer than three draws,
        see `borrowed`; NaN decides nothing.
    """

    def __init__(self, records: Rows, spread: float = math.nan) -> None:
        self.by = {(r["method"], r["seed"]): r for r in records}
        self.spread = spread

    def rows(self, label: str, metric: str) -> dict[int, dict[str, Any]]:
        """The records of a row in which a metric was measured, by draw."""
        return {seed: record for (method, seed), record in sorted(self.by.items())
                if method == label and record["metrics"].get(metric) is not None}

    def mean(self, label: str, metric: str) -> float:
        """A metric's mean over draws.

        Parameters
        ----------
        label : str
            The row.
        metric : str
            "eff", "gen", "spe", "ppl" or "prob_eff".

        Returns
        -------
        float
            NaN if it was not measured.
        """
        values = [r["metrics"][metric] for r in self.rows(label, metric).values()]
        return float(np.mean(values)) if values else math.nan

    def estimate(
        self, label: str, metric: str, draws: Sequence[int] | None = None
    ) -> Estimate:
        """A percentage on average over draws, with its interval over all their facts.

        Parameters
        ----------
        label : str
            The row.
        metric : str
            "eff", "gen" or "spe".
        draws : sequence of int, optional
            The draws to use; by default all.

        Returns
        -------
        Estimate
            NaN if it was not measured; Wilson's interval if all facts, or none, are right.
        """
        rows = [row for seed, row in self.rows(label, metric).items()
                if draws is None or seed in draws]
        if not rows:
            return Estimate(math.nan, math.nan, math.nan)
        values = {r["metrics"][metric] for r in rows}
        if len(values) == 1 and values <= {0.0, 100.0}:
            value, asked = values.pop(), sum(r["n"] for r in rows)
            return Estimate(value, *wilson(round(asked * value / 100), asked))
        return combine(*((1 / len(rows), of_facts(row, metric)) for row in rows))

    def per_draw(self, label: str, of: str, metric: str) -> dict[int, float]:
        """The change from a switch, draw by draw.

        Parameters
        ----------
        label, of : str
            The row with the part off, and the one with all parts.
        metric : str
            "eff", "gen", "spe" or "ppl".

        Returns
        -------
        dict
            By draw, in points; for perplexity, the logarithm of the ratio.
        """
        off, full = self.rows(label, metric), self.rows(of, metric)
        both = [seed for seed in off if seed in full]
        pairs = {seed: (off[seed]["metrics"][metric], full[seed]["metrics"][metric])
                 for seed in both}
        if metric == "ppl":
            return {seed: math.log(a / b) for seed, (a, b) in pairs.items()}
        return {seed: a - b for seed, (a, b) in pairs.items()}

    def change(self, label: str, of: str, metric: str) -> Estimate:
        """The change from a switch, with its 95% interval.

        From three draws on, differences are paired draw by draw. Of one or two, the interval is
        combined from those over the facts, unpaired and so too wide. Perplexity has none over
        facts: for one or two draws it borrows `spread`.

        Parameters
        ----------
        label, of : str
            The row with the part off, and the one with all parts.
        metric : str
            "eff", "gen", "spe" or "ppl".

        Returns
        -------
        Estimate
            In points; for perplexity, in percent. NaN if it was not measured.
        """
        draws = self.per_draw(label, of, metric)
        if not draws:
            return Estimate(math.nan, math.nan, math.nan)
        if metric == "ppl":
            return Estimate(*(100 * float(np.expm1(x)) for x in self._log(draws)))
        if len(draws) >= ENOUGH:
            pairs = [self.by[row, seed] for seed in draws for row in (label, of)]
            return Measured(pairs).contrast({label: 1.0, of: -1.0}, metric)
        return combine((1.0, self.estimate(label, metric, [*draws])),
                       (-1.0, self.estimate(of, metric, [*draws])))

    def _log(self, draws: Mapping[int, float]) -> Estimate:
        """The mean of logarithms, by draw, with its interval."""
        values = [*draws.values()]
        if len(values) >= ENOUGH:
            return over_draws(values)
        mean = float(np.mean(values))
        return Estimate(mean, mean - self.spread, mean + self.spread)

    def less(self, label: str, of: str, metric: str, by: float = 0.0) -> tuple[str, Estimate]:
        """Whether a row has less than another by at least `by`, as `claims.claim` takes it."""
        found = self.change(label, of, metric)
        return at_most(found, -by), found

    def more(self, label: str, of: str, metric: str, by: float = 0.0) -> tuple[str, Estimate]:
        """Whether a row has more than another by at least `by`, as `claims.claim` takes it."""
        found = self.change(label, of, metric)
        return at_least(found, by), found

    def within(self, label: str, of: str, metric: str, by: float) -> tuple[str, Estimate]:
        """Whether two rows differ by at most `by`, as `claims.claim` takes it."""
        found = self.change(label, of, metric)
        return every(at_most(found, by), at_least(found, -by)), found

    def always_more(self, label: str, of: str, metric: str) -> tuple[str, str]:
        """Whether a row has more than another in each draw; it says nothing about other draws."""
        draws = self.per_draw(label, of, metric)
        if not draws:
            return UNDECIDED, "not run"
        verdict = YES if min(draws.values()) > 0 else NO
        return verdict, ", ".join(f"{value:+.1f}" for value in draws.values())

    def still(self, label: str, of: str, by: float) -> tuple[str, str]:
        """Whether no mean of two rows differs by more than `by`, in these draws only.

        Parameters
        ----------
        label, of : str
            The rows.
        by : float
            In points, and in percent of perplexity.

        Returns
        -------
        verdict, differences : str
            As `claims.claim` takes them.
        """
        found = {METRICS[x]: self.change(label, of, x).value for x in UNITS}
        moved = {metric: value for metric, value in found.items() if math.isfinite(value)}
        if not moved:
            return UNDECIDED, "not run"
        verdict = YES if all(abs(value) <= by for value in moved.values()) else NO
        return verdict, ", ".join(f"{metric} {value:+.2f}" for metric, value in moved.items())


def by_depth(choices: Mapping[str, Parts], label: str) -> Parts:
    """One row of several choices of layers, to be compared like the rows of one.

    Parameters
    ----------
    choices : mapping
        The records of each choice, by its name.
    label : str
        The row.

    Returns
    -------
    Parts
        With the choices' names for labels, and the largest spread of them.
    """
    rows = [record | {"method": name} for name, parts in choices.items()
            for (method, _), record in parts.by.items() if method == label]
    spreads = [parts.spread for parts in choices.values() if math.isfinite(parts.spread)]
    return Parts(rows, max(spreads, default=math.nan))


def score_table(parts: Parts, names: Mapping[str, str]) -> pd.DataFrame:
    """One row per switch: percentages with intervals over facts, the answer's probability, PPL.

    Parameters
    ----------
    parts : Parts
        The records.
    names : mapping
        The names of rows by their labels, in order.

    Returns
    -------
    pd.DataFrame
        Texts.
    """
    rows = {}
    for label, name in names.items():
        row = {METRICS[x]: _with_interval(parts.estimate(label, x)) for x in ("eff", "gen", "spe")}
        row["P(answer)"] = _number(parts.mean(label, "prob_eff"), ".1g")
        row["PPL"] = _number(parts.mean(label, "ppl"), ".2f")
        rows[name] = row
    return pd.DataFrame.from_dict(rows, "index")


def _number(value: float, form: str) -> str:
    """A number; a dash for NaN."""
    return format(value, form) if math.isfinite(value) else "–"


def _with_interval(estimate: Estimate) -> str:
    """A percentage and its interval, which breaks only before the bracket."""
    value, low, high = estimate
    return f"{value:.1f} [{low:.0f},\u00a0{high:.0f}]" if math.isfinite(value) else "–"


def changes(parts: Parts, switches: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The change from every switch, in every draw and in the mean.

    Parameters
    ----------
    parts : Parts
        The records.
    switches : mapping
        By the label of the row with all parts, the names of its switches by their labels.

    Returns
    -------
    pd.DataFrame
        "of", "method", "switch", "metric", "seed" (0 for the mean), "change", and for the mean
        "low" and "high"; points, and percent for PPL. What was not run has no row.
    """
    rows: list[tuple] = []
    for of, some in switches.items():
        for label, name in some.items():
            for metric in UNITS:
                draws = parts.per_draw(label, of, metric)
                if not draws:
                    continue
                about = (of, label, name, METRICS[metric])
                for seed, value in draws.items():
                    shown = 100 * math.expm1(value) if metric == "ppl" else value
                    rows.append((*about, seed, shown, math.nan, math.nan))
                rows.append((*about, 0, *parts.change(label, of, metric)))
    return pd.DataFrame(rows, columns=["of", "method", "switch", "metric", "seed", "change",
                                       "low", "high"])


def draw_changes(frame: pd.DataFrame) -> Figure:
    """One panel per measure, one row per switch: faint dots for draws, the mean with its interval.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `changes`.

    Returns
    -------
    Figure
        The panels share their rows; a line between the methods.
    """
    import matplotlib.pyplot as plt

    order = [*dict.fromkeys(zip(frame.of, frame.method, frame.switch, strict=True))]
    figure, axes = plt.subplots(1, 4, figsize=(7.4, 0.9 + 0.26 * len(order)), sharey=True)
    for axis, (metric, unit) in zip(axes, UNITS.items(), strict=True):
        axis.axvline(0, color="black", lw=0.8)
        for at, (_, label, _) in enumerate(order):
            some = frame[(frame.method == label) & (frame.metric == METRICS[metric])]
            mean, draws, colour = some[some.seed == 0], some[some.seed != 0], colour_of(label)
            axis.plot(draws.change, [at] * len(draws), "o", ms=3, color=colour, alpha=0.35)
            if len(mean):
                _, value, low, high = mean.iloc[0][["seed", "change", "low", "high"]]
                ends = [[value - low], [high - value]] if math.isfinite(low) else None
                axis.errorbar(value, at, xerr=ends, fmt="o", ms=5, color=colour, capsize=2)
        _clip(axis, frame[frame.metric == METRICS[metric]])
        axis.set_title(METRICS[metric])
        axis.set_xlabel(f"change, {unit}")
    for at, (one, other) in enumerate(zip(order, order[1:], strict=False)):
        if one[0] != other[0]:
            for axis in axes:
                axis.axhline(at + 0.5, color="black", lw=0.6, ls=":")
    axes[0].set_yticks(range(len(order)), [name for *_, name in order])
    axes[0].invert_yaxis()
    return figure


def _clip(axis: Axes, some: pd.DataFrame) -> None:
    """Limits that hold all dots; an interval of few draws may leave the panel."""
    if len(some):
        low, high = min(some.change.min(), 0), max(some.change.max(), 0)
        pad = 0.25 * (high - low) or 1
        axis.set_xlim(low - pad, high + pad)


def sweep_points(
    parts: Parts, sweep: Mapping[str, tuple[str, float]], standing: Mapping[str, float],
    elsewhere: Mapping[str, Parts], layers: Sequence[int],
) -> pd.DataFrame:
    """The scores along each setting, on average over draws.

    Parameters
    ----------
    parts : Parts
        The records of the switches and weights.
    sweep : mapping
        By label, the setting and its value.
    standing : mapping
        The settings' defaults.
    elsewhere : mapping
        Records of other layers, by their numbers joined by "-".
    layers : sequence of int
        The default ones.

    Returns
    -------
    pd.DataFrame
        "setting", "value" (a text), "order", "metric", "measured", "default" (whether it is).
    """
    usual = "-".join(map(str, layers))
    places: list[tuple] = [(name, value, float(value), parts, label, False)
                           for label, (name, value) in sweep.items()
                           if value != standing[name]]
    places += [(name, value, float(value), parts, "zerounlearn", True)
               for name, value in standing.items()]
    others = {**dict.fromkeys(elsewhere, False), usual: True}
    places += [("layers", name.replace("-", ", "), float(name.split("-")[0]),
                parts if default else elsewhere[name], "zerounlearn", default)
               for name, default in others.items()]
    rows = [(setting, _short(value), order, METRICS[x], some.mean(label, x), default)
            for setting, value, order, some, label, default in places for x in UNITS]
    frame = pd.DataFrame(rows, columns=["setting", "value", "order", "metric", "measured",
                                        "default"])
    return frame.dropna(subset="measured").sort_values(["setting", "order"], ignore_index=True)


def _short(value: float | str) -> str:
    """A value for an axis."""
    if isinstance(value, str):
        return value
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def spans(points: pd.DataFrame) -> pd.DataFrame:
    """How far each score moves along each setting.

    Parameters
    ----------
    points : pd.DataFrame
        The result of `sweep_points`.

    Returns
    -------
    pd.DataFrame
        One row per setting, one column per metric: the largest less the smallest.
    """
    grouped = points.groupby(["setting", "metric"]).measured
    found = (grouped.max() - grouped.min()).unstack()
    columns = [METRICS[x] for x in UNITS if METRICS[x] in found.columns]
    return found.loc[[x for x in GREEK if x in found.index], columns]


def draw_sweep(points: pd.DataFrame, base: Mapping[str, float]) -> Figure:
    """Small multiples: one column per setting, one row per score.

    Parameters
    ----------
    points : pd.DataFrame
        The result of `sweep_points`.
    base : mapping
        Base's scores, by the metric's name in tables; drawn dashed.

    Returns
    -------
    Figure
        If a perplexity is far above all others, its number is at the panel's edge.
    """
    import matplotlib.pyplot as plt

    columns = [x for x in GREEK if x in {*points.setting}]
    metrics = [METRICS[x] for x in UNITS]
    figure, axes = plt.subplots(4, len(columns), figsize=(7.4, 6), sharey="row", squeeze=False)
    for j, name in enumerate(columns):
        axes[0, j].set_title(GREEK[name])
        for axis, metric in zip(axes[:, j], metrics, strict=True):
            some = points[(points.setting == name) & (points.metric == metric)]
            at = range(len(some))
            axis.plot(at, some.measured, "o-", ms=4, color=PALETTE["zerounlearn"])
            ring = [*some.default].index(True) if some.default.any() else None
            if ring is not None:
                axis.plot(ring, some.measured.iloc[ring], "o", ms=9, mfc="none",
                          color=PALETTE["zerounlearn"])
            axis.axhline(base[metric], ls="--", lw=1, color=PALETTE["base"])
            texts = [text.replace(", ", ",\n") for text in some.value]
            axis.set_xticks(at, texts if metric == "PPL" else [""] * len(some), fontsize=8)
            axis.margins(x=0.15)
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(metric + (", %" if metric != "PPL" else ""))
        if metric != "PPL":
            row[0].set_ylim(bottom=-3)
    _leave_out(axes[3], columns, points[points.metric == "PPL"], base["PPL"])
    return figure


def _leave_out(
    row: Sequence[Axes], columns: Sequence[str], ppl: pd.DataFrame, base: float
) -> None:
    """Let a perplexity far above all others leave its panel; its number is at the edge."""
    bearable = ppl.measured[ppl.measured <= TOO_FAR * base].max()
    if not ppl.measured.max() > TOO_FAR * base:
        return
    top = 1.05 * np.nanmax([bearable, base])
    row[0].set_ylim(min(ppl.measured.min(), base) - 0.5, top)
    for axis, name in zip(row, columns, strict=True):
        for at, value in enumerate(ppl[ppl.setting == name].measured):
            if value > top:
                axis.annotate(f"{value:,.0f}", (at, top), (2, -8), textcoords="offset points",
                              fontsize=7)


def of_table_4(
    frame: pd.DataFrame, tables: pd.DataFrame, names: Mapping[str, str]
) -> pd.DataFrame:
    """Our scores beside those of the paper's Table 4 for its three models.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`; of one model and data set.
    tables : pd.DataFrame
        The paper's numbers.
    names : mapping
        The names of rows by their labels.

    Returns
    -------
    pd.DataFrame
        ("here" or the paper's model, metric) as columns; texts. Means over draws with half of their
        95% intervals, and the paper's Eff and Gen.
    """
    ours = averages(frame).droplevel(["model", "dataset"])
    paper = tables[tables.table == "table4"].set_index(["model", "method", "metric"])["mean"]
    theirs = {label: "ZeroUnlearn" + (" w/o V*" if "beta=0" in label else "") for label in names}
    rows: dict[str, dict] = {}
    for label, name in names.items():
        row = rows[name] = {}
        for metric in ("Eff", "Gen", "Spe", "PPL"):
            found = (label, metric) in ours.index
            value, half, _ = ours.loc[label, metric] if found else (math.nan, math.nan, 0)
            text = _number(value, ".1f")
            row["here", metric] = text if half != half else f"{text} ±\u00a0{half:.1f}"
        for model in paper.index.unique("model"):
            for metric in ("Eff", "Gen"):
                printed = paper.get((model, theirs[label], metric), math.nan)
                row[f"paper, {model}", metric] = _number(printed, ".2f")
    table = pd.DataFrame.from_dict(rows, "index")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def repeated(tables: pd.DataFrame) -> pd.DataFrame:
    """The numbers that the paper's Table 4 repeats from its Tables 1 and F.1.

    Parameters
    ----------
    tables : pd.DataFrame
        The paper's numbers.

    Returns
    -------
    pd.DataFrame
        By model and metric: "Table 1 or F.1", "Table 4", and "differs", whether they do by more
        than rounding.
    """
    of_all = tables[tables.table.isin(["table1", "F1-zsre"]) & (tables.dataset == "ZsRE")]
    keys = ["model", "metric"]
    first = of_all[of_all.method == "ZeroUnlearn"].set_index(keys)["mean"]
    fourth = tables[(tables.table == "table4") & (tables.method == "ZeroUnlearn")]
    both = pd.DataFrame({"Table 1 or F.1": first, "Table 4": fourth.set_index(keys)["mean"]})
    both = both.dropna()
    apart = (both["Table 1 or F.1"] - both["Table 4"]).abs()
    return both.assign(differs=apart > 0.005)
