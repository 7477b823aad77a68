"""Tables and figures of facts that are forgotten one after another."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .figures import PALETTE, SERIES, colour_of, row_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("Eff", "Gen", "Spe", "PPL")
#: What a row's label ends in where its facts were forgotten one by one.
TURNS = ", one by one"


def books(edits: int) -> pd.DataFrame:
    """The boxes of the schematic: a weight, and the keys that are kept, after each edit.

    Parameters
    ----------
    edits : int
        The number of edits.

    Returns
    -------
    pd.DataFrame
        One row per box: "after", the number of edits before it; "what", "weight" or "keys"; "x" and
        "y", its centre; "keys", how many keys are kept.
    """
    rows = []
    for t in range(edits + 1):
        rows += [(t, "weight", 2.0 * t, 1.0, t), (t, "keys", 2.0 * t, 0.0, t)]
    return pd.DataFrame(rows, columns=["after", "what", "x", "y", "keys"])


def draw_books(frame: pd.DataFrame) -> Figure:
    """Draw edits in a row, the keys that each leaves to the next, and one edit of all facts.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `books`.

    Returns
    -------
    Figure
        One panel without axes.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.0, 2.7))
    orange, green, grey = PALETTE["zerounlearn"], SERIES[2], PALETTE["base"]
    for after, x, y, keys in frame[frame.what == "weight"][["after", "x", "y", "keys"]].to_numpy():
        _box(axis, x, y, f"$W_{after:.0f}$", orange)
        _pages(axis, x, int(keys), green)
        if after:
            _arrow(axis, (x - 1.5, y), (x - 0.5, y), orange)
            axis.annotate(f"edit {after:.0f}\n$(k_{after:.0f}, v_{after:.0f})$", (x - 1, y + 0.1),
                          ha="center", va="bottom", fontsize=8)
            if after > 1:
                _arrow(axis, (x - 1.6, 0.22), (x - 1.05, y - 0.12), green)
    last = frame.x.max()
    axis.annotate("", (last, 1.32), (0, 1.32), arrowprops={
        "arrowstyle": "-|>", "color": grey, "ls": "--", "lw": 1.2,
        "connectionstyle": "arc3,rad=-0.22"})
    axis.annotate("one edit of all", (last / 2, 2.1), ha="center", fontsize=9, color=grey)
    axis.annotate("keys of earlier facts", (-0.45, 0), ha="left", va="center", fontsize=8,
                  color=green)
    axis.set(xlim=(-0.6, last + 0.6), ylim=(-0.45, 2.35), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(False)
    return figure


def _box(axis: Axes, x: float, y: float, text: str, colour: str) -> None:
    """A weight."""
    from matplotlib.patches import FancyBboxPatch

    axis.add_patch(FancyBboxPatch((x - 0.36, y - 0.2), 0.72, 0.4, fc="white", ec=colour, lw=1.6,
                                  boxstyle="round,pad=0.04"))
    axis.annotate(text, (x, y), ha="center", va="center", fontsize=11)


def _pages(axis: Axes, x: float, count: int, colour: str) -> None:
    """Kept keys: one thin bar per key."""
    for i in range(count):
        axis.bar(x - 0.15 * (count - 1) / 2 + 0.15 * i, 0.4, 0.08, bottom=-0.2, color=colour)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4,
                                              "shrinkA": 0, "shrinkB": 0})


def in_turn(frame: pd.DataFrame) -> list[str]:
    """The rows that were run both ways.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`.

    Returns
    -------
    list of str
        Their labels, without the text after the comma.
    """
    labels = [*dict.fromkeys(frame.method)]
    return [label for label in labels if label + TURNS in labels]


def draw_turns(frame: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Draw scores against the number of facts, one by one and at once.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`; of one draw.
    methods : sequence of str
        Rows that were run both ways, see `in_turn`.

    Returns
    -------
    Figure
        One panel per score: filled and solid, one by one; open and dashed, at once; grey, Base.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    value = frame.set_index(["method", "metric", "n"]).value.sort_index()
    counts = sorted(frame.n.unique())
    figure, axes = plt.subplots(1, 4, figsize=(7.4, 2.8))
    for axis, metric in zip(axes, PANELS, strict=True):
        drawn: list[tuple[str, str, dict[str, Any]]] = [
            ("base", "-", {"color": PALETTE["base"], "lw": 1, "label": "Base"})]
        for method in methods:
            name, colour = row_name(method), colour_of(method)
            drawn.append((method + TURNS, "o-", {"ms": 4, "color": colour, "label": name + TURNS}))
            drawn.append((method, "o--", {"ms": 4, "color": colour, "lw": 0.9, "mfc": "none",
                                          "label": f"{name}, at once"}))
        for label, form, look in drawn:
            if (label, metric) in value.index.droplevel("n"):
                own = value[label, metric].dropna()
                axis.plot(own.index, own, form, **look)
        axis.set_title("perplexity" if metric == "PPL" else f"{metric}, %")
        axis.set(xscale="log", xlabel="facts")
        if metric != "PPL" and not frame[frame.metric == metric].value.any():
            axis.set_ylim(-1, 20)  # nothing but zeros
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.minorticks_off()
    ppl = frame[frame.metric == "PPL"].value
    if ppl.max() > 3 * ppl.min():
        axes[3].set_yscale("log")
        axes[3].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[3].yaxis.set_major_formatter("{x:g}")
        axes[3].yaxis.set_minor_locator(NullLocator())
    else:
        axes[3].ticklabel_format(axis="y", useOffset=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def turn_table(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The scores of `draw_turns` in numbers.

    Parameters
    ----------
    frame, methods
        As in `draw_turns`.

    Returns
    -------
    pd.DataFrame
        By number of facts and row, Base first and each method at once before one by one; a column
        per score, NaN if it was not measured.
    """
    wide = frame.pivot(index=["n", "method"], columns="metric", values="value")
    wide = wide.reindex(columns=PANELS)
    rows = ["base", *(row for method in methods for row in (method, method + TURNS))]
    order = [(n, row) for n in sorted(frame.n.unique()) for row in rows if (n, row) in wide.index]
    wide = wide.loc[order]
    names = [(n, row_name(row.partition(",")[0]) + TURNS * row.endswith(TURNS))
             for n, row in wide.index]
    wide.index = pd.MultiIndex.from_tuples(names, names=["facts", ""])
    return wide.rename_axis(columns=None)
