"""Pictures of what the baselines' linear problems move, and of their terms."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
import torch

from .figures import LABELS, PALETTE

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What each method holds fast, for the titles of its panel.
HELD = {
    "rome": "this value: exactly there",
    "memit": "a price on all that moves",
    "alphaedit": "no change along loud keys",
    "zerounlearn": "nothing along the old value",
}


def moves(
    W: torch.Tensor, K_0: torch.Tensor, k: torch.Tensor, edits: Mapping[str, torch.Tensor]
) -> pd.DataFrame:
    """Where edits of a layer with two outputs take the values of general keys, and of one fact.

    Parameters
    ----------
    W : (2, m)
        The layer.
    K_0, k : (m, N), (m, 1)
        General keys, and the fact's.
    edits : mapping of str to (2, m)
        Edited layers by method.

    Returns
    -------
    pd.DataFrame
        One row per method and key: "method", "what" ("general" or "fact"), "before 1", "before 2",
        "after 1" and "after 2".
    """
    keys = torch.cat([K_0, k], 1)
    what = ["general"] * K_0.shape[1] + ["fact"]
    before = W @ keys
    parts = []
    for method, edited in edits.items():
        after = edited @ keys
        parts.append(pd.DataFrame({
            "method": method, "what": what, "before 1": before[0], "before 2": before[1],
            "after 1": after[0], "after 2": after[1]}))
    return pd.concat(parts, ignore_index=True)


def share_moved(frame: pd.DataFrame, target: np.ndarray) -> pd.DataFrame:
    """The fact's way to its target, and the change of general values.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `moves`.
    target : (2,)
        The value that the fact should get.

    Returns
    -------
    pd.DataFrame
        By method, in percent: "way", of the distance to the target, and "general", the energy of
        the changes of general values against their own.
    """
    found = {}
    for method, some in frame.groupby("method", sort=False):
        before = some[["before 1", "before 2"]].to_numpy()
        after = some[["after 1", "after 2"]].to_numpy()
        fact = (some.what == "fact").to_numpy()
        left = ((after[fact] - target) ** 2).sum() / ((before[fact] - target) ** 2).sum()
        changed = ((after - before)[~fact] ** 2).sum() / (before[~fact] ** 2).sum()
        found[method] = {"way": 100 * (1 - left**0.5), "general": 100 * changed}
    return pd.DataFrame.from_dict(found, orient="index")


def draw_moves(
    frame: pd.DataFrame,
    target: np.ndarray,
    keys: np.ndarray,
    heard: Mapping[str, np.ndarray],
) -> Figure:
    """Draw what each edit reads in key space, and what it moves in the space of values.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `moves`, with the methods of `HELD`.
    target : (2,)
        The value that the fact should get.
    keys : (2, N + 1)
        General keys, and the fact's in the last column.
    heard : mapping of str to (2,)
        By label, the direction along which an edit reads keys; the line across it, whose keys it
        does not move, is drawn too. The label begins with a method's name or its label.

    Returns
    -------
    Figure
        A panel of keys, and one of values for each method.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["keys", "rome", "memit"], ["keys", "alphaedit", "zerounlearn"]],
        figsize=(7.4, 4.2), width_ratios=[1.25, 1, 1])
    _draw_keys(axes["keys"], keys, heard)
    for method, some in frame.groupby("method", sort=False):
        _draw_values(axes[str(method)], some, str(method), target)
    for axis in axes.values():
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.grid(False)
    return figure


def _draw_keys(axis: Axes, keys: np.ndarray, heard: Mapping[str, np.ndarray]) -> None:
    """The cloud of general keys, the fact's key, and what edits read of a key."""
    axis.plot(*keys[:, :-1], "o", ms=3, color=PALETTE["base"], alpha=0.35)
    axis.plot(*keys[:, -1], "o", ms=7, color="black")
    axis.annotate("$k$", tuple(keys[:, -1]), xytext=(6, 2), textcoords="offset points", fontsize=11)
    for label, direction in heard.items():
        method = next(name for name in HELD if label.startswith((name, LABELS[name])))
        unit = 1.9 * direction / (direction**2).sum() ** 0.5
        axis.annotate("", unit, (0, 0), arrowprops={
            "arrowstyle": "-|>", "color": PALETTE[method], "lw": 2, "shrinkA": 0, "shrinkB": 0})
        axis.axline((0, 0), (-unit[1], unit[0]), color=PALETTE[method], ls="--", lw=1)
        axis.annotate(label, unit, xytext=(0, 4), textcoords="offset points", fontsize=9,
                      color=PALETTE[method], ha="right" if unit[0] < 0 else "left")
    axis.text(0, -2.6, "arrows: what an edit reads of a key\ndashed: keys that it does not move",
              ha="center", fontsize=9)
    axis.set(title="keys", xlim=(-2.6, 2.6), ylim=(-3.1, 3.1))


def _draw_values(axis: Axes, some: pd.DataFrame, method: str, target: np.ndarray) -> None:
    """General values before and after one edit, and the fact's way."""
    colour = PALETTE[method]
    general, fact = (some[some.what == what] for what in ("general", "fact"))
    axis.plot(general[["before 1", "after 1"]].T, general[["before 2", "after 2"]].T, color=colour,
              lw=0.5, alpha=0.5)
    axis.plot(general["before 1"], general["before 2"], "o", ms=2, color=PALETTE["base"], alpha=0.5)
    axis.plot(general["after 1"], general["after 2"], "o", ms=2.5, color=colour)
    (old,) = fact[["before 1", "before 2"]].to_numpy()
    (new,) = fact[["after 1", "after 2"]].to_numpy()
    if method == "zerounlearn":  # the space that is left
        axis.axline((0, 0), (-old[1], old[0]), color=colour, ls="--", lw=0.8)
    axis.annotate("", new, old, arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 1.6,
                                            "shrinkA": 0, "shrinkB": 0})
    axis.plot(*old, "o", ms=6, color="black")
    axis.plot(*target, "P", ms=8, color="black", mfc="white")
    axis.set_title(f"{LABELS[method]}\n{HELD[method]}", fontsize=9, color=colour)
    axis.set(xlim=(-2.9, 2.9), ylim=(-2.2, 2.2))


def draw_terms(frame: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """The three terms after several edits, one panel per term.

    Parameters
    ----------
    frame : pd.DataFrame
        "method", "term" and "percent" of its reference; terms in the order of the panels.
    names : mapping of str to str
        What a bar is called, by method, in the order of the bars.

    Returns
    -------
    Figure
        One panel per term, with the heights written on the bars.
    """
    import matplotlib.pyplot as plt

    terms = list(dict.fromkeys(frame.term))
    figure, axes = plt.subplots(1, len(terms), figsize=(7.2, 2.8), squeeze=False)
    for axis, term in zip(axes[0], terms):
        heights = frame[frame.term == term].set_index("method").percent
        bars = axis.bar([*names.values()], [heights[name] for name in names],
                        color=[PALETTE[name] for name in names])
        axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.set_title(term)
        axis.margins(y=0.12)
        axis.tick_params(axis="x", rotation=60)
        axis.grid(False, axis="x")
    axes[0, 0].set_ylabel("% of the reference")
    return figure
