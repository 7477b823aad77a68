"""Tables and figures of many facts at once: the room that they need, and their cost."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..solve import column_space
from .few_shot import averages, score_table
from .figures import PALETTE, all_printed, colour_of
from .verdicts import Estimate, over_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
#: What becomes of a direction, by the lemma, and its colour.
FATES = {"taken": PALETTE["zerounlearn"], "used": PALETTE["exact"], "free": "#FFFFFF",
         "left": "#D9D9D9", "protected": "#D9D9D9"}
#: The height of the schematic's two fields, in squares.
HIGH = 20
PANELS = ("Eff", "Gen", "Spe", "PPL")


def room(n: int, d: int, q: int, m: int) -> pd.DataFrame:
    """The number of directions that n facts take by either lemma, if they share none.

    Parameters
    ----------
    n : int
        The number of facts.
    d, m : int
        The number of directions of a layer's values, and of its keys.
    q : int
        The number of directions of keys that count as the null space.

    Returns
    -------
    pd.DataFrame
        One row per part: "space", "values" or "keys"; "what", one of `FATES`; "directions".
    """
    taken, used = min(n, d), min(n, q)
    rows = [("values", "taken", taken), ("values", "left", d - taken),
            ("keys", "used", used), ("keys", "free", q - used), ("keys", "protected", m - q)]
    return pd.DataFrame(rows, columns=["space", "what", "directions"])


def draw_room(frame: pd.DataFrame) -> Figure:
    """The room that either lemma has for facts: two fields of squares, with equal areas per square.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `room`.

    Returns
    -------
    Figure
        Two panels, as wide as their spaces are large.
    """
    import matplotlib.pyplot as plt

    sizes = frame.groupby("space", sort=False).directions.sum()
    per_square = sizes["values"] / HIGH**2
    columns = {space: max(1, round(size / per_square / HIGH)) for space, size in sizes.items()}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.7), width_ratios=[*columns.values()])
    titles = {"values": "Lemma 4.1: directions of values",
              "keys": "Lemma 5.1: directions of keys"}
    for axis, (space, wide) in zip(axes, columns.items(), strict=True):
        _squares(axis, frame[frame.space == space], wide)
        axis.set_title(titles[space], loc="left")
    return figure


def _squares(axis: Axes, parts: pd.DataFrame, wide: int) -> None:
    """A field of squares, filled column by column, and its legend below."""
    from matplotlib.patches import Patch

    ends = (parts.directions.cumsum() / parts.directions.sum() * HIGH * wide).round()
    edge: dict[str, Any] = {"ec": "#999999", "lw": 0.3}
    for square in range(HIGH * wide):
        what = parts.what.iloc[int((ends <= square).sum())]
        column, row = divmod(square, HIGH)
        axis.bar(column + 0.5, -0.86, 0.86, bottom=-row, color=FATES[what], **edge)
    words = {"taken": "taken from every text", "left": "left", "used": "used by the facts",
             "free": "free", "protected": "ordinary text's"}
    drawn = parts[parts.directions > 0]
    axis.legend(handles=[Patch(fc=FATES[what], label=f"{words[what]}, {count:,}", **edge)
                         for what, count in zip(drawn.what, drawn.directions, strict=True)],
                loc="upper left", bbox_to_anchor=(-0.02, 0.02), fontsize=8, handlelength=1,
                ncols=len(drawn), columnspacing=1, borderaxespad=0.2)
    axis.set(xlim=(0, wide), ylim=(-HIGH, 0), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(False)


def directions(
    K: torch.Tensor, W: torch.Tensor, Q: torch.Tensor, counts: Iterable[int]
) -> pd.DataFrame:
    """The ranks of the first of some facts, as values and as keys in the null space.

    Parameters
    ----------
    K : (m, N)
        Keys of facts.
    W : (d, m)
        The layer's weight.
    Q : (m, q)
        A basis of what counts as the null space.
    counts : iterable of int
        Numbers of facts; those above N are left out.

    Returns
    -------
    pd.DataFrame
        By number of facts "n": "values" and "keys", the ranks of W K and QᵀK at float32's
        precision; "most", how many directions of the values hold nine tenths of their energy.
    """
    rows = {}
    for n in sorted({n for n in counts if n <= K.shape[1]}):
        values = W @ K[:, :n]                                     # (d, n)
        U, sizes = column_space(values, torch.float32)            # (d, r), (r,)
        inside = column_space(Q.T @ K[:, :n], torch.float32)[0]   # (q, r)
        energy = (sizes**2).cumsum(0) / (sizes**2).sum()
        rows[n] = {"values": U.shape[1], "most": int((energy < 0.9).sum()) + 1,
                   "keys": inside.shape[1]}
    return pd.DataFrame.from_dict(rows, "index").rename_axis("n")


def draw_directions(table: pd.DataFrame, d: int, q: int) -> Figure:
    """Draw the number of directions that facts span, by the number of facts.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `directions`.
    d, q : int
        The number of directions of the values, and of the keys in the null space.

    Returns
    -------
    Figure
        One panel, both axes logarithmic.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.0, 3.0))
    lines = {"keys": ("keys, in the null space", PALETTE["exact"], "s-"),
             "values": ("values", PALETTE["zerounlearn"], "o-"),
             "most": ("values, nine tenths of their energy", PALETTE["zerounlearn"], "o:")}
    for column, (label, colour, form) in lines.items():
        axis.plot(table.index, table[column], form, ms=5, color=colour, label=label)
    for height, name, colour in ((q, "$q$", "exact"), (d, "$d$", "zerounlearn")):
        above = height == max(q, d)  # the two lines may be close
        axis.axhline(height, color=PALETTE[colour], ls="--", lw=0.9)
        axis.annotate(f"{name} = {height:,}", (table.index[0], height), (0, 2 if above else -2),
                      fontsize=8, textcoords="offset points", color=PALETTE[colour],
                      va="bottom" if above else "top")
    axis.set(xscale="log", yscale="log", xlabel="facts", ylabel="directions")
    axis.set_xticks(table.index, [f"{n:,}" for n in table.index])
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="lower right")
    return figure


def draw_curves(frame: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Each score against the number of facts: lines through means, one faint dot per draw.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`.
    names : mapping
        The names of rows by their labels, in the order of the legend.

    Returns
    -------
    Figure
        One row of panels per model and data set; a score that was not measured has none.
    """
    import matplotlib.pyplot as plt

    sets = [*dict.fromkeys(zip(frame.model, frame.dataset, strict=True))]
    rows = max(len(sets), 1)  # of no records an empty figure
    figure, axes = plt.subplots(rows, 4, figsize=(7.4, 0.7 + 2.1 * rows), squeeze=False)
    for (model, dataset), row in zip(sets, axes, strict=bool(sets)):
        own = frame[(frame.model == model) & (frame.dataset == dataset)].dropna(subset="value")
        title = f", {dataset}" if frame.model.nunique() == 1 else f", {dataset}, {model}"
        for axis, metric in zip(row, PANELS, strict=True):
            some = own[own.metric == metric]
            if some.empty:
                axis.set_visible(False)
                continue
            _curves(axis, some, names)
            axis.set_title(metric + title * (metric == "Eff" and len(sets) > 1), loc="left")
            axis.set_ylabel("perplexity" if metric == "PPL" else "%" * (metric == "Eff"))
            axis.set_xlabel("facts")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def _curves(axis: Axes, some: pd.DataFrame, names: Mapping[str, str]) -> None:
    """One panel: one line per method."""
    for method in names:
        own = some[some.method == method]
        if own.empty:
            continue
        means, colour = own.groupby("n").value.mean(), colour_of(method)
        axis.plot(means.index, means, "--" if method == "base" else "-", marker="o", ms=4,
                  color=colour, label=names[method])
        axis.plot(own.n, own.value, "o", ms=2.5, mew=0, color=colour, alpha=0.4)
    counts = sorted(some.n.unique())
    axis.set_xscale("log")
    last = counts[-1]
    axis.set_xticks(counts, [str(n) if n == last or last > 3 * n else "" for n in counts])
    axis.minorticks_off()
    if some.metric.iloc[0] == "PPL":
        axis.set_yscale("log" if some.value.max() > 100 else "linear")
    else:
        axis.set_ylim(bottom=0)


def score_tables(
    frame: pd.DataFrame, names: Mapping[str, str], tables: pd.DataFrame
) -> pd.DataFrame:
    """Scores by number of facts, beside the paper's at the largest one.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`.
    names : mapping
        The names of rows by their labels.
    tables : pd.DataFrame
        The paper's numbers (``book/paper/tables.csv``).

    Returns
    -------
    pd.DataFrame
        By number of facts, data set if there are several, and method; texts as
        `zu.book.few_shot.score_table` has them.
    """
    last = frame.n.max()
    parts = {f"{n:,} facts": score_table(averages(some), names, tables if n == last else tables[:0])
             for n, some in frame.groupby("n")}
    table = pd.concat(parts).fillna("–")
    return table.droplevel(1) if table.index.get_level_values(1).nunique() == 1 else table


def beside_the_paper(
    frame: pd.DataFrame, names: Mapping[str, str], tables: pd.DataFrame
) -> pd.DataFrame:
    """Scores at the most facts, beside the paper's means for all of its models.

    Parameters
    ----------
    frame, names, tables
        As in `score_tables`, of one data set.

    Returns
    -------
    pd.DataFrame
        By method; ("here" or one of the paper's models, metric) as columns; texts. Without records
        it has no rows.
    """
    if frame.empty:
        return pd.DataFrame()
    some = frame[frame.n == frame.n.max()]
    own = score_table(averages(some), names, tables[:0]).droplevel(0)
    theirs = all_printed(tables, some.dataset.iloc[0])
    order = [*own.index, *(name for name in theirs.index if name not in own.index)]
    return pd.concat([own.reindex(order), theirs.reindex(order)], axis=1).fillna("–")


def rise(records: Rows, method: str, other: str = "base", spread: float = math.nan) -> Estimate:
    """How much a method's perplexity exceeds another's, draw by draw.

    Parameters
    ----------
    records : sequence of dict
        Records of one model, data set and number of facts.
    method, other : str
        Rows' labels.
    spread : float
        Half the width of the logarithm's interval if there is only one draw.
        `zu.book.verdicts.ppl_spread` estimates it from other runs; NaN gives no interval.

    Returns
    -------
    Estimate
        In percent of the other's, as the geometric mean over the draws that have both; NaN for
        none.
    """
    by = {(r["method"], r["seed"]): r["metrics"]["ppl"] for r in records}
    logs = [math.log(ppl / by[other, seed]) for (label, seed), ppl in by.items()
            if label == method and (other, seed) in by]
    one = logs[0] if logs else math.nan
    found = over_draws(logs) if len(logs) > 1 else Estimate(one, one - spread, one + spread)
    return Estimate(*(100 * math.expm1(x) for x in found))


def changes(few: Rows, many: Rows, method: str, metric: str) -> dict[int, float]:
    """How a method's share of Base's percentage changes from few facts to many, in each draw.

    Parameters
    ----------
    few, many : sequence of dict
        Records of one model and data set, each of one number of facts.
    method : str
        A row's label.
    metric : str
        "eff", "gen" or "spe".

    Returns
    -------
    dict
        By seed, the share at many less that at few, in points of Base's percentage; without draws
        in which either was not measured, or Base answers none.
    """
    shares = []
    for records in (few, many):
        by = {(r["method"], r["seed"]): r["metrics"][metric] for r in records}
        shares.append({seed: 100 * by[method, seed] / base for (label, seed), base in by.items()
                       if label == "base" and base and by.get((method, seed)) is not None})
    return {seed: shares[1][seed] - shares[0][seed] for seed in shares[0] if seed in shares[1]}


def forgetting(frame: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """The methods that leave at most a share of Base's Eff, and what else they leave.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`, of one model, data set and number of facts.
    share : float
        The largest share of Base's Eff.

    Returns
    -------
    pd.DataFrame
        By method: "Eff", "Gen", "Spe" in percent of Base's, "PPL" as a multiple of it; means over
        draws. Empty if there is no Base.
    """
    means = frame.groupby(["method", "metric"]).value.mean().unstack()
    if "base" not in means.index:
        return pd.DataFrame(columns=PANELS, dtype=float)
    shares = means.reindex(columns=PANELS).div(means.loc["base"].reindex(PANELS))
    shares = shares.drop(index="base")
    shares[["Eff", "Gen", "Spe"]] *= 100
    return shares[shares.Eff.le(100 * share) | np.isclose(shares.Eff, 100 * share)]
