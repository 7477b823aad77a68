"""Pictures and tables of the chapter on anchors: what an edit spares, and if that is enough."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..methods import Anchored
from .figures import METRICS, PALETTE, SERIES, colour_of, method_of, row_name, with_interval
from .verdicts import Estimate, Measured, at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
#: What is scored, and what each score should be: Eff in percent, the others as a share of Base's.
SCORES = ("eff", "gen", "spe", "ppl")
MOST_EFF, GEN_SHARE, SPE_SHARE, PPL_SHARE = 2.0, 1 / 3, 0.9, 1.05
#: The meaning of *anchored* without settings when `results/held_out` was made, and the label there
#: that means today's defaults.
THEN = {"weight": 0.1, "rounds": 3, "bare": 3}
THEN_RAN = "anchored+anchors:weight=1,rounds=0,bare=3"
PANELS = ("no anchors", "with anchors")


def idea(weight: float = 3.0, seed: int = 3) -> pd.DataFrame:
    """Keys in a plane, and how far an edit for some of them moves each.

    The edit asks for a change of 1 at the keys to forget, and minimises what it does elsewhere:
    ``u = (K_f K_f^T + 0.02 C_0 + weight K_a K_a^T)^-1 K_f 1`` moves a key by ``u @ k``.

    Parameters
    ----------
    weight : float
        The anchors' weight, in the panel that has them.
    seed : int
        The seed of their draw.

    Returns
    -------
    pd.DataFrame
        One row per key: "panel", one of `PANELS`; "what", "ordinary", "anchor" or "to forget"; "x"
        and "y"; "moved", in percent of what is asked for at the keys to forget.
    """
    draw = np.random.default_rng(seed)
    near = np.array([2.0, 1.0])                                     # where the relation's keys lie
    keys = {"ordinary": draw.standard_normal((2, 90)) * [[0.9], [0.35]],
            "anchor": near[:, None] + draw.standard_normal((2, 12)) * [[0.3], [0.13]],
            "to forget": np.array([[1.1, 1.35, 1.45], [1.45, 1.6, 1.3]])}
    C_0 = keys["ordinary"] @ keys["ordinary"].T                     # (2, 2)
    K_f, K_a = keys["to forget"], keys["anchor"]
    rows = []
    for panel, gamma in zip(PANELS, (0.0, weight), strict=True):
        M = K_f @ K_f.T + 0.02 * C_0 + gamma * K_a @ K_a.T
        u = np.linalg.solve(M, K_f.sum(1))                          # (2,)
        for what, some in keys.items():
            rows += [(panel, what, x, y, 100 * u @ (x, y)) for x, y in some.T]
    return pd.DataFrame(rows, columns=["panel", "what", "x", "y", "moved"])


def draw_idea(frame: pd.DataFrame) -> Figure:
    """Draw where an edit acts, without anchors and with them. Deeper shades mean larger moves.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `idea`.

    Returns
    -------
    Figure
        Two panels; along the dashed line no key moves.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.1), sharex=True, sharey=True)
    for axis, (panel, rows) in zip(axes, frame.groupby("panel", sort=False)):
        _acts(axis, rows)
        axis.set_title(panel)
    for what, x, y in (("keys to forget", 1.0, 1.55), ("anchors", 2.75, 0.6),
                       ("ordinary keys", -1.2, -1.15)):
        axes[0].text(x, y, what, ha="right" if y > 0 else "left", va="center", fontsize=9)
    return figure


_COLOURS = {"ordinary": PALETTE["base"], "anchor": SERIES[2], "to forget": PALETTE["zerounlearn"]}


def _acts(axis: Axes, rows: pd.DataFrame) -> None:
    """One panel of `draw_idea`."""
    u = np.linalg.lstsq(rows[["x", "y"]], rows.moved, rcond=None)[0]  # (2,): what moves a key
    x, y = np.meshgrid(np.linspace(-2.6, 3.1, 200), np.linspace(-1.4, 2.1, 160))
    axis.contourf(x, y, np.abs(u[0] * x + u[1] * y), levels=np.linspace(0, 140, 15),
                  cmap="Purples", alpha=0.6, extend="max", zorder=0)
    still = axis.contour(x, y, u[0] * x + u[1] * y, levels=[0], colors="black", linewidths=1.2,
                         linestyles="--", zorder=1)
    axis.clabel(still, fmt={0: "held still"}, fontsize=8)
    for what, some in rows.groupby("what", sort=False):
        axis.plot(some.x, some.y, "o", ms=3 if what == "ordinary" else 5.5, mew=0.6, mec="white",
                  color=_COLOURS[what], zorder=3)
    axis.set(xlim=(-2.6, 3.1), ylim=(-1.4, 2.1), xticks=[], yticks=[], aspect="equal")
    axis.grid(False)


def tidy(rows: Rows, groups: Sequence[str] = ()) -> pd.DataFrame:
    """Records' scores, and how much of each group of facts is still known.

    Parameters
    ----------
    rows : sequence of dict
        Records.
    groups : sequence of str
        Groups of `metrics["reach"]`.

    Returns
    -------
    pd.DataFrame
        "method", "seed", "metric" and "value"; what was not measured has no row.
    """
    found = []
    for row in rows:
        values = {METRICS[key]: row["metrics"][key] for key in SCORES}
        values |= {group: row["metrics"]["reach"][group] for group in groups}
        found += [(row["method"], row["seed"], name, value) for name, value in values.items()
                  if value is not None]
    return pd.DataFrame(found, columns=["method", "seed", "metric", "value"])


def score_line(metrics: Mapping[str, Any], groups: Sequence[str] = ()) -> dict[str, str]:
    """A record's scores as texts, percentages with their 95% intervals over facts.

    Parameters
    ----------
    metrics : mapping
        The metrics of a record.
    groups : sequence of str
        Groups of `metrics["reach"]`: how much of them is still known, without an interval.

    Returns
    -------
    dict
        Texts by the names of the columns.
    """
    line = {METRICS[key]: with_interval(dict(metrics), key) for key in SCORES[:3]}
    line["PPL"] = f"{metrics['ppl']:.2f}"
    for group in groups:
        value = metrics["reach"][group]
        line[group] = "–" if value is None else f"{value:.0f}"
    return line


def pairs_table(rows: Rows, groups: Sequence[str] = ()) -> pd.DataFrame:
    """Methods without anchors and with.

    Parameters
    ----------
    rows : sequence of dict
        Records of one draw.
    groups : sequence of str
        Groups of `metrics["reach"]`.

    Returns
    -------
    pd.DataFrame
        By method and "without" or "with", in the order of the methods' first rows; texts.
    """
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for method in dict.fromkeys(method_of(row["method"]) for row in rows):
        own = [row for row in rows if method_of(row["method"]) == method]
        for row in sorted(own, key=lambda row: "+anchors" in row["method"]):
            told = "with" if "+anchors" in row["method"] else "without"
            name = row_name(method + "+anchors").removesuffix(" + anchors")
            key = (name, "" if method == "base" else told)
            lines[key] = score_line(row["metrics"], groups)
    table = pd.DataFrame.from_dict(lines, "index")
    table.index = pd.MultiIndex.from_tuples([*lines], names=["", "anchors"])
    return table


def wanted(base: Mapping[str, Any]) -> dict[str, float]:
    """What an edit should reach, by the unedited model's scores.

    Parameters
    ----------
    base : mapping
        "gen", "spe" and "ppl" of the unedited model.

    Returns
    -------
    dict
        The bound of each score: Spe should be at least that, the others at most; NaN if Base was
        not measured.
    """
    shares = {"gen": GEN_SHARE, "spe": SPE_SHARE, "ppl": PPL_SHARE}
    bounds = {key: math.nan if base[key] is None else share * base[key]
              for key, share in shares.items()}
    return {"eff": MOST_EFF} | bounds


def meets(metrics: Mapping[str, Any], bounds: Mapping[str, float]) -> bool:
    """Whether scores reach all that is wanted, by their numbers alone.

    Parameters
    ----------
    metrics : mapping
        The scores.
    bounds : mapping
        The result of `wanted`.

    Returns
    -------
    bool
        Also False if one was not measured.
    """
    if any(metrics[key] is None for key in SCORES):
        return False
    low = all(metrics[key] <= bounds[key] for key in ("eff", "gen", "ppl"))
    return low and metrics["spe"] >= bounds["spe"]


def front(rows: Rows, lines: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Points of methods at several settings.

    Parameters
    ----------
    rows : sequence of dict
        Records of one draw, "base" among them.
    lines : mapping
        By the name of a line, its rows' labels in order.

    Returns
    -------
    pd.DataFrame
        "line", "method" (the label) and the four scores, NaN if one was not measured; Base is
        a separate line.
    """
    by_label = {row["method"]: row["metrics"] for row in rows}
    points = [(name, label, *(by_label[label][key] for key in SCORES))
              for name, labels in ({"Base": ["base"]} | dict(lines)).items() for label in labels]
    columns = ["line", "method", *(METRICS[key] for key in SCORES)]
    return pd.DataFrame(points, columns=columns).astype({METRICS[key]: float for key in SCORES})


def draw_front(points: pd.DataFrame, bounds: Mapping[str, float]) -> Figure:
    """Forgetting against what is spared, a line through each method's settings.

    Parameters
    ----------
    points : pd.DataFrame
        From `front`. Open circles are rows without anchors; a line of one row with settings is a
        square.
    bounds : mapping
        The result of `wanted`: they are shaded.

    Returns
    -------
    Figure
        Eff and Gen against Spe and perplexity.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.8), sharey="row", sharex="col")
    for row, y in zip(axes, ("eff", "gen"), strict=True):
        for axis, x in zip(row, ("spe", "ppl"), strict=True):
            for name, some in points.groupby("line", sort=False):
                _line(axis, name, some, METRICS[x], METRICS[y])
            _goals(axis, bounds, x, y)
        row[0].set_ylabel(f"{METRICS[y]}, % (less is better)")
    if points.PPL.max() > 3 * points.PPL.min():
        axes[0, 1].set_xscale("log")
        for axis in axes[:, 1]:
            axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
    for axis, title in zip(axes[1], ("Spe, %", "perplexity"), strict=True):
        axis.set_xlabel(f"{title} (as Base is best)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  fontsize=8)
    return figure


def _line(axis: Axes, name: str, some: pd.DataFrame, x: str, y: str) -> None:
    """One method's points in a panel of `draw_front`."""
    if name == "Base":
        axis.plot(some[x], some[y], "+", color="black", ms=11, mew=1.8, label=name, zorder=4)
        return
    first = some.method.iloc[0]
    colour, alone = colour_of(first), len(some) == 1 and ":" in first
    axis.plot(some[x], some[y], "-", color=colour, lw=1, alpha=0.6)
    for position, (label, right, up) in enumerate(some[["method", x, y]].itertuples(index=False)):
        told = "+anchors" in label or not _spares(label)
        last = position == len(some) - 1
        axis.plot(right, up, "s" if alone else "o", ms=5, color=colour,
                  mfc=colour if told else "white", label=name if last else None)


def _spares(label: str) -> bool:
    """Whether a row's method can take anchors."""
    from ..methods import find

    return bool(getattr(find(method_of(label)), "spares", False))


def _goals(axis: Axes, bounds: Mapping[str, float], x: str, y: str) -> None:
    """Shade what is wanted in a panel, within the limits that the points ask for."""
    wide, high = axis.get_xlim(), axis.get_ylim()
    spans = []
    if math.isfinite(bounds[x]):
        ends = (bounds[x], wide[1]) if x == "spe" else (wide[0], bounds[x])
        spans.append(axis.axvspan(*ends))
    if math.isfinite(bounds[y]):
        spans.append(axis.axhspan(high[0], bounds[y]))
    for span in spans:
        span.set(color=SERIES[0], alpha=0.12, lw=0, zorder=0)
    axis.set(xlim=wide, ylim=high)


def tried(rows: Rows, meant: Mapping[str, float]) -> pd.DataFrame:
    """Settings of *anchored* that were tried, the most Spe first.

    Parameters
    ----------
    rows : sequence of dict
        Records, "base" among them.
    meant : mapping
        The settings that a label stood for when it ran, unless the label gives them.

    Returns
    -------
    pd.DataFrame
        By setting ("Base" for the unedited model) the means over draws of "Eff", "Gen", "Spe" and
        "PPL".
    """
    same: dict[str, list[list[float]]] = {}
    for row in rows:
        settings = dict(meant) | row["settings"]
        ordered = [key for key in Anchored.model_fields if key in settings]
        name = ", ".join(f"{key} {settings[key]:g}" for key in ordered)
        scores = [row["metrics"][key] for key in SCORES]
        same.setdefault("Base" if row["method"] == "base" else name, []).append(scores)
    means = {name: np.mean(some, 0) for name, some in same.items()}
    table = pd.DataFrame.from_dict(means, "index", columns=[METRICS[key] for key in SCORES])
    return table.rename_axis("setting").sort_values("Spe", ascending=False)


def by_rule(table: pd.DataFrame) -> pd.DataFrame:
    """The settings between which the rule chooses, the chosen one first.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `tried`.

    Returns
    -------
    pd.DataFrame
        The settings with the lowest Eff among those whose Gen is at most a third of Base's, by Spe.
    """
    able = table.drop(index="Base")[lambda some: some.Gen <= GEN_SHARE * table.Gen["Base"]]
    return able[able.Eff == able.Eff.min()]


def names_of(rows: Rows) -> dict[str, str]:
    """What the rows of held-out relations are called, *anchored* with its weights spelt out.

    Parameters
    ----------
    rows : sequence of dict
        Records, of this code or of the kept run of older code, which is known by a label.

    Returns
    -------
    dict
        The name by label, Base first, *anchored* last.
    """
    labels = dict.fromkeys(row["method"] for row in rows)
    now = {name: getattr(Anchored(), name) for name in THEN}
    meant = THEN if THEN_RAN in labels else now
    settings = {row["method"]: row["settings"] for row in rows}
    names = {}
    for label in sorted(labels, key=lambda label: (method_of(label) == "anchored", label)):
        names[label] = row_name(label)
        if label.startswith("anchored+anchors"):
            ran = meant | settings[label]
            names[label] += ": " + ", ".join(f"{name} {value:g}" for name, value in ran.items())
    first = {"base": names.pop("base")} if "base" in names else {}
    return first | names


def lacking(measured: Measured, method: str) -> dict[str, Estimate]:
    """What a method's scores lack of what is wanted, draw by draw against Base.

    Parameters
    ----------
    measured : Measured
        Records of one experiment.
    method : str
        A row's label.

    Returns
    -------
    dict
        By score, in points, of perplexity in percent: met where it is at most 0. The interval is
        over draws; where no draw answers any, Wilson's over all facts. Of one draw's perplexity it
        is without bounds.
    """
    eff = measured.contrast({method: 1}, "eff")
    found = {"eff": Estimate(*(x - MOST_EFF for x in eff)),
             "gen": measured.contrast({method: 1, "base": -GEN_SHARE}, "gen"),
             "spe": measured.contrast({method: -1, "base": SPE_SHARE}, "spe")}
    log = measured.log_ppl(method, math.inf)
    found["ppl"] = Estimate(*(100 * (np.exp(x) / PPL_SHARE - 1) for x in log))
    return found


def goals(rows: Rows, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Whether the rows reach what is wanted.

    Parameters
    ----------
    rows : sequence of dict
        Records of one experiment, "base" among them.
    names : mapping, optional
        What the rows are called, by label, in order; by default `names_of` says it.

    Returns
    -------
    pd.DataFrame
        "row" (its name), "method" (its label), "metric", "mean" over draws, and what it lacks:
        "lacks", with its interval, "low" to "high", and the "verdict", empty and NaN for Base.
    """
    measured, found = Measured(rows), []
    for label, name in (names or names_of(rows)).items():
        lacks = {} if label == "base" else lacking(measured, label)
        for key in SCORES:
            mean = np.mean([row["metrics"][key] for row in rows if row["method"] == label])
            estimate = lacks.get(key, Estimate(math.nan, math.nan, math.nan))
            verdict = at_most(estimate) if key in lacks else ""
            found.append((name, label, METRICS[key], float(mean), *estimate, verdict))
    columns = ["row", "method", "metric", "mean", "lacks", "low", "high", "verdict"]
    return pd.DataFrame(found, columns=columns)


def goal_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means, and whether each goal is met, as texts.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `goals`.

    Returns
    -------
    pd.DataFrame
        By row, a column per score with what is wanted.
    """
    base = frame[frame.method == "base"].set_index("metric")["mean"]
    bounds = wanted({key: base[METRICS[key]] for key in SCORES})
    table: dict[str, dict[str, str]] = {}
    for row in frame.itertuples():
        key = next(key for key, label in METRICS.items() if label == row.metric)
        column = f"{row.metric} ({'≥' if key == 'spe' else '≤'}\u00a0{bounds[key]:.1f})"
        verdict = f": {row.verdict}" if row.verdict else ""
        table.setdefault(row.row, {})[column] = f"{row.mean:.1f}{verdict}"
    return pd.DataFrame.from_dict(table, "index")


def draw_goals(frame: pd.DataFrame) -> Figure:
    """What each row lacks of the goals, with its interval; shaded is where a goal is met.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `goals`.

    Returns
    -------
    Figure
        One panel per score.
    """
    import matplotlib.pyplot as plt

    rows = frame[frame.method != "base"]
    names = [*dict.fromkeys(rows.row)]
    figure, axes = plt.subplots(1, 4, figsize=(7.4, 1.0 + 0.36 * len(names)), sharey=True)
    for axis, (metric, some) in zip(axes, rows.groupby("metric", sort=False)):
        for row in some.itertuples():
            at = names.index(row.row)
            ends = [[row.lacks - row.low], [row.high - row.lacks]]
            fill = colour_of(row.method) if row.verdict == "yes" else "white"
            axis.errorbar(row.lacks, at, xerr=ends, fmt="o", ms=5.5, mfc=fill, capsize=2,
                          color=colour_of(row.method))
        low, high = axis.get_xlim()
        axis.axvspan(min(low, -1), 0, color=SERIES[0], alpha=0.15, lw=0)
        axis.set(xlim=(min(low, -1), max(high, 1)), title=metric,
                 xlabel="%" if metric == "PPL" else "points")
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    return figure
