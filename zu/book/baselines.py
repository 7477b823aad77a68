"""Pictures of the methods that ZeroUnlearn is compared with: their losses, and all in one frame."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .figures import PALETTE, SERIES, colour_of, method_of, row_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What each method minimises, and over which changes Δ of W.
FRAME = {
    "ga": ("log p(answer)", "all Δ"),
    "ft": ("− log p(end of text)", "all Δ"),
    "graddiff": ("log p(answer) − log p(text)", "all Δ"),
    "npo": ("(2/β) log(1 + ρᵝ)", "all Δ"),
    "rome": ("tr Δ C₀ Δᵀ, fact met exactly", "all Δ"),
    "memit": ("forget + α tr Δ C₀ Δᵀ", "all Δ"),
    "alphaedit": ("forget + λ‖Δ‖²", "Δ = Δ P₀"),
    "zerounlearn": ("forget + α tr Δ C₀ Δᵀ + λ‖Δ‖²", "W + Δ = P M W"),
    "zerounlearn-gd": ("zero + forget + λ‖Δ‖²", "Δ = Δ P₀"),
    "exact": ("zero + forget + λ‖Δ‖²", "Δ = Δ P₀"),
}
#: Those that take steps of Adam; the others have a closed form.
DESCENDS = {"ga", "ft", "graddiff", "npo", "zerounlearn-gd"}
#: The measures, with the titles of their panels.
PANELS = {"ordinary": "ordinary\nvalues", "p": "p(true\nanswer)", "seconds": "seconds"}
#: No number is drawn below it, since the axes are logarithmic.
LEAST = 1e-15


def npo_weights(betas: Sequence[float], most: float = 60.0, count: int = 61) -> pd.DataFrame:
    """The weight with which NPO still pushes a fact, by how far its answer is forgotten.

    Parameters
    ----------
    betas : sequence of float
        NPO's β.
    most : float
        Up to which fall of log p.
    count : int
        Points per curve.

    Returns
    -------
    pd.DataFrame
        "fall", of log p; "method", "GA" or "NPO, β = ..."; "weight" of ∇ log p.
    """
    fall = np.linspace(0, most, count)
    parts = [pd.DataFrame({"fall": fall, "method": "GA", "weight": 1.0})]
    for beta in betas:
        weight = 2 / (1 + np.exp(beta * fall))
        parts.append(pd.DataFrame({"fall": fall, "method": f"NPO, β = {beta:g}", "weight": weight}))
    return pd.concat(parts, ignore_index=True)


def draw_weights(weights: pd.DataFrame) -> Figure:
    """How hard GA and NPO push.

    Parameters
    ----------
    weights : pd.DataFrame
        The result of `npo_weights`.

    Returns
    -------
    Figure
        A curve per method.
    """
    import matplotlib.pyplot as plt

    from .figures import HALF

    figure, axis = plt.subplots(figsize=HALF)
    styles = iter(["-", "--", ":", "-."])
    for name, some in weights.groupby("method", sort=False):
        ascent = name == "GA"
        axis.plot(some.fall, some.weight, "-" if ascent else next(styles), label=name,
                  color=PALETTE["ga" if ascent else "npo"])
    axis.set(xlabel="how far log p has fallen", ylabel="weight of ∇ log p", ylim=(0, 1.1))
    axis.legend()
    return figure


def scored_positions() -> pd.DataFrame:
    """Which output is compared with which token, teacher forcing and one position off it.

    Returns
    -------
    pd.DataFrame
        One row per token of the answer and way: "way", "right" or "one position"; "at", the
        position whose output is read; "token", the position of the token that is scored there.
    """
    prompt, answer = 4, 3
    rows = []
    for j in range(answer):
        rows += [("right", prompt - 1 + j, prompt + j), ("one position", prompt - 1, prompt + j)]
    return pd.DataFrame(rows, columns=["way", "at", "token"])


def draw_positions(scored: pd.DataFrame) -> Figure:
    """The outputs that predict an answer's tokens, in the right way and in the other.

    Parameters
    ----------
    scored : pd.DataFrame
        The result of `scored_positions`.

    Returns
    -------
    Figure
        Two panels of the same seven tokens, with an arrow from each output to what it is held
        against.
    """
    import matplotlib.pyplot as plt

    words = ["The", "capital", "of Peru", "is", "$y_1$", "$y_2$", "$y_3$"]
    titles = {"right": "teacher forcing", "one position": "all at the prompt's last token"}
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.6))
    for axis, (way, some) in zip(axes, scored.groupby("way", sort=False), strict=True):
        first = some.token.min()
        for x, word in enumerate(words):
            look = {"boxstyle": "round,pad=0.3", "lw": 0.8, "ec": PALETTE["base"],
                    "fc": "#EAF4F1" if x >= first else "#EEEEEE"}
            axis.text(x, 0, word, ha="center", va="center", fontsize=8, bbox=look)
        for row in some.itertuples():
            axis.annotate("", (row.token, 0.34), (row.at, 0.34), arrowprops={
                "arrowstyle": "-|>", "lw": 1.3, "shrinkA": 0, "shrinkB": 0,
                "color": SERIES[0] if way == "right" else SERIES[1],
                "connectionstyle": f"arc3,rad={-0.55 / (row.token - row.at) ** 0.5}"})
        axis.set(xlim=(-0.6, 6.6), ylim=(-0.4, 1.05), title=titles[str(way)])
        axis.axis("off")
    return figure


def frame_of(measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """All methods as rows of one table.

    Parameters
    ----------
    measured : mapping
        By row's label: "ordinary", "p" and "seconds".

    Returns
    -------
    pd.DataFrame
        In the order of `FRAME`: "method", "name", "minimises", "over", "closed form", and what was
        measured. A method that the frame does not know is left out.
    """
    rows = []
    order = [*FRAME]
    labels = [label for label in measured if method_of(label) in FRAME]
    names = row_names(labels)
    for label in sorted(labels, key=lambda label: order.index(method_of(label))):
        method = method_of(label)
        minimises, over = FRAME[method]
        rows.append({"method": label, "name": names[label], "minimises": minimises, "over": over,
                     "closed form": method not in DESCENDS, **measured[label]})
    return pd.DataFrame(rows)


def draw_frame(frame: pd.DataFrame, before: float) -> Figure:
    """What each method minimises over what, and what came of it.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `frame_of`.
    before : float
        The probability of the true answers before any edit.

    Returns
    -------
    Figure
        A table on the left; panels of dots, triangles for those that descend.
    """
    import matplotlib.pyplot as plt

    height = 0.9 + 0.38 * len(frame)
    figure, axes = plt.subplots(1, 1 + len(PANELS), figsize=(8.6, height), sharey=True,
                                width_ratios=[4.9] + [1] * len(PANELS))
    axes[0].axis("off")
    for x, head in ((0, "method"), (0.34, "minimises"), (0.8, "over")):
        axes[0].text(x, len(frame) - 0.3, head, weight="bold")
    for y, row in zip(range(len(frame))[::-1], frame.to_dict("records"), strict=True):
        colour = colour_of(row["method"])
        axes[0].text(0, y, row["name"], va="center", color=colour, weight="bold", fontsize=9.5)
        axes[0].text(0.34, y, row["minimises"], va="center", fontsize=9.5)
        axes[0].text(0.8, y, row["over"], va="center", fontsize=9.5)
        for axis, key in zip(axes[1:], PANELS, strict=True):
            axis.plot(max(row[key], LEAST), y, "o" if row["closed form"] else "^", color=colour)
    for axis, (key, title) in zip(axes[1:], PANELS.items(), strict=True):
        _decades(axis, frame[key])
        axis.set_title(title)
        axis.tick_params(axis="y", left=False, labelleft=False)
    axes[2].axvline(max(before, LEAST), color=PALETTE["base"], linewidth=1)
    axes[0].set(xlim=(0, 1), ylim=(-0.6, len(frame) + 0.1))
    return figure


def _decades(axis: Axes, values: pd.Series) -> None:
    """A logarithmic axis over whole decades, which are its only ticks."""
    low = 10.0 ** math.floor(math.log10(max(values.min(), LEAST)))
    high = 10.0 ** math.ceil(math.log10(max(values.max(), LEAST)))
    axis.set_xscale("log")
    axis.set(xlim=(low / 1.5, high * 1.5), xticks=[low, high])
    axis.minorticks_off()
