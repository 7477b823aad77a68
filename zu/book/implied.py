"""Tables and figures of what the formulas imply, from the record of tools/discoveries.py."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .figures import PALETTE, SERIES
from .verdicts import over_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
SCORES = {"eff": "Eff", "gen": "Gen", "spe": "Spe"}


def rows_of(record: Mapping[str, Any] | None, part: str) -> list[dict[str, Any]]:
    """The rows of a part of the record, all draws in a row.

    Parameters
    ----------
    record : mapping or None
        The record of tools/discoveries.py.
    part : str
        The beginning of the names of its draws.

    Returns
    -------
    list of dict
        None if there is no record.
    """
    draws = (record or {"rows": {}})["rows"]
    return [row for name, rows in draws.items() if name.startswith(part) for row in rows]


def zero_term(rows: Rows) -> pd.DataFrame:
    """The effect of the zero term's weight, on average over draws.

    Parameters
    ----------
    rows : sequence of dict
        The part "zero".

    Returns
    -------
    pd.DataFrame
        By weight: "left", the largest share over layers that the new values keep in the old ones'
        space, and "change", how far the edit is from that without the term, both in percent; Eff,
        Gen, Spe in points and perplexity in percent against the edit without, each with "±", half
        the 95% interval over draws.
    """
    frame = pd.DataFrame([row for row in rows if row["zero"] is not None])
    found = []
    for zero, some in frame.groupby("zero"):
        own = some.set_index("seed")
        none = frame[frame.zero == 0].set_index("seed").loc[own.index]
        row = {"zero": zero, "draws": len(own), "left": 100 * own.left.map(max).mean(),
               "change": 100 * own.change.mean()}
        for key, name in SCORES.items():
            row |= _paired(name, own[key] - none[key])
        row |= _paired("PPL", 100 * (own.ppl / none.ppl - 1))
        found.append(row)
    return pd.DataFrame(found).set_index("zero")


def _paired(name: str, gaps: pd.Series) -> dict[str, float]:
    """A mean of paired differences, and half its 95% interval over draws."""
    value, low, high = over_draws(gaps.to_numpy())
    return {name: value, f"{name} ±": (high - low) / 2}


def draw_zero(table: pd.DataFrame, forget: float) -> Figure:
    """The zero term by its weight: what is left of the old values, and what the scores do.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `zero_term`.
    forget : float
        The weight on the targets, which is marked.

    Returns
    -------
    Figure
        Two panels.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    some = table[table.index > 0]
    left.plot(some.index, some.left, "o-", color=SERIES[0], label="old values left")
    left.plot(some.index, some.change, "s--", color=SERIES[1], label="change of the edit")
    left.set(ylabel="%", ylim=(0, 105))
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for i, (name, colour) in enumerate(zip([*SCORES.values(), "PPL"], SERIES)):
        beside = some.index * 1.12 ** (i - 1.5)  # so that bars do not hide each other
        right.errorbar(beside, some[name], some[f"{name} ±"], marker="o", ms=4, lw=1.2,
                       color=colour, label=f"{name}, {'%' if name == 'PPL' else 'points'}")
    right.axhline(0, color=PALETTE["base"], lw=0.8)
    right.set(ylabel="against no zero term")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in (left, right):
        axis.set(xscale="log", xlabel="weight of the zero term")
        axis.axvline(forget, color=PALETTE["base"], ls=":", lw=1)
    return figure


def spans(rows: Rows) -> pd.DataFrame:
    """How much of others' values some facts' values span, on average over draws.

    Parameters
    ----------
    rows : sequence of dict
        The part "directions" of one model.

    Returns
    -------
    pd.DataFrame
        By layer and number of facts: "others", "ordinary" and "others without mean", in percent.
    """
    frame = pd.DataFrame([row for row in rows if row["kind"] == "any"])
    columns = ["others", "ordinary", "others without mean"]
    return 100 * frame.groupby(["layer", "count"])[columns].mean()


def dimensions(rows: Rows) -> pd.DataFrame:
    """The number of directions over which a layer's values for subjects are spread.

    Parameters
    ----------
    rows : sequence of dict
        The part "directions" of one model.

    Returns
    -------
    pd.DataFrame
        By layer: "rank", the effective number of directions; "mean", the share of the energy that
        lies along the mean, in percent; "d", the length of a value.
    """
    frame = pd.DataFrame([row for row in rows if row["kind"] == "whole"]).set_index("layer")
    return frame.assign(mean=100 * frame["mean"])[["rank", "mean", "d"]]


def by_relation(rows: Rows, layer: int) -> pd.DataFrame:
    """The shares that ten facts of one relation span of its other facts, and of other relations.

    Parameters
    ----------
    rows : sequence of dict
        The part "directions" of one model.
    layer : int
        The layer.

    Returns
    -------
    pd.DataFrame
        By relation: "the same relation" and "other relations", in percent.
    """
    some = [row for row in rows if row["kind"] == "relation" and row["layer"] == layer]
    frame = pd.DataFrame(some).set_index("relation")[["same", "other"]]
    return 100 * frame.rename(columns={"same": "the same relation", "other": "other relations"})


def draw_spans(
    models: Mapping[str, Rows], count: int, used: Mapping[str, Sequence[int]]
) -> Figure:
    """The span of some facts' values by layer, one panel per model.

    Parameters
    ----------
    models : mapping
        The rows of the part "directions", by the name of the model.
    count : int
        The number of facts.
    used : mapping
        The edited layers of each model, which are shaded.

    Returns
    -------
    Figure
        The level of chance, count / d, is dotted.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(models), figsize=(7.2, 2.9), sharey=True, squeeze=False)
    styles = {"others": "-", "others without mean": "--", "ordinary": "-"}
    for axis, (name, rows) in zip(axes[0], models.items()):
        table = spans(rows).xs(count, level="count")
        for (column, style), colour in zip(styles.items(), SERIES):
            axis.plot(table.index, table[column], style, color=colour, label=column)
        axis.axhline(100 * count / dimensions(rows).d.iloc[0], color=PALETTE["base"], ls=":",
                     label="chance")
        axis.axvspan(min(used[name]) - 0.5, max(used[name]) + 0.5, color=PALETTE["base"],
                     alpha=0.15, lw=0)
        axis.set(title=name, xlabel="layer", ylim=(0, 100))
    axes[0, 0].set(ylabel=f"in the span of {count} facts, %")
    axes[0, -1].legend(fontsize=8)
    return figure


def spent(rows: Rows, n: int, edges: Sequence[float]) -> pd.DataFrame:
    """The cost of changes to ordinary text, by direction of the forgotten keys.

    Parameters
    ----------
    rows : sequence of dict
        The part "ruin".
    n : int
        The number of facts of the draws.
    edges : sequence of float
        The edges of the bins of γ².

    Returns
    -------
    pd.DataFrame
        By bin, the middle of it: the cost of each change, as a share of the energy of what the
        layer puts out at ordinary tokens, and "directions", how many there are; means over draws.
    """
    some = [row for row in rows if row["n"] == n and row.get("layer")]
    middle = np.sqrt(np.asarray(edges[:-1]) * np.asarray(edges[1:]))
    found: dict[str, pd.Series] = {}
    for what in dict.fromkeys(row["what"] for row in some):
        costs = [row["cost"] for row in some if row["what"] == what]
        found[what] = pd.Series(np.mean(costs, 0), middle)
    counted = [row["directions"] for row in some]
    found["directions"] = pd.Series(np.mean(counted, 0), middle)
    return pd.DataFrame(found).rename_axis("γ² against the largest")


def draw_spent(table: pd.DataFrame, changes: Iterable[str]) -> Figure:
    """Draw the cost of changes on a logarithmic scale, and the number of directions.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `spent`.
    changes : iterable of str
        The columns to draw.

    Returns
    -------
    Figure
        Two panels, one below the other.
    """
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(7.2, 4), sharex=True,
                                          height_ratios=[3, 1])
    for what, colour in zip(changes, SERIES):
        some = table[what][table[what] > 0]
        above.plot(some.index, some, "o-", ms=4, color=colour, label=what)
    there = table.index[table.directions > 0]
    above.set_xlim(there.min() / 2, 1)
    above.axhline(1, color=PALETTE["base"], ls=":")
    above.set(yscale="log", ylabel="cost to ordinary text")
    above.legend(fontsize=8)
    below.bar(table.index, table.directions, width=table.index * 0.8, color=PALETTE["base"])
    below.set(xscale="log", ylabel="directions", xlabel="γ² against the largest")
    return figure


def path(rows: Rows) -> pd.DataFrame:
    """How much of the targets a change of one layer fulfils, and at what damage.

    Parameters
    ----------
    rows : sequence of dict
        The part "ruin".

    Returns
    -------
    pd.DataFrame
        By number of facts and change: "fulfilled" in percent, and "damage", the energy that the
        change adds at ordinary tokens against the layer's own; means over draws.
    """
    frame = pd.DataFrame([row for row in rows if row.get("layer")])
    means = frame.groupby(["n", "what"], sort=False)[["fulfilled", "damage"]].mean()
    return means.assign(fulfilled=100 * means.fulfilled)


def perplexities(rows: Rows) -> pd.DataFrame:
    """Perplexity after an edit of all layers, as a multiple of the unedited model's.

    Parameters
    ----------
    rows : sequence of dict
        The part "ruin".

    Returns
    -------
    pd.DataFrame
        By number of facts, one column per edit; means over draws.
    """
    frame = pd.DataFrame([row for row in rows if "ppl" in row])
    wide = frame.pivot_table(index=["n", "seed"], columns="what", values="ppl", sort=False)
    return wide.drop(columns="base").div(wide["base"], axis=0).groupby("n").mean()
