"""Pictures of a matrix as a memory: how it is written and read, and what an edit does to it."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Between two parts of the drawing, in cells; a little room for a sign, and for a row of its own.
GAP, SIGN, SHELF = 0.25, 1.1, 2.9


def cells(K: torch.Tensor, V: torch.Tensor, asked: int) -> pd.DataFrame:
    """The numbers of a small memory that recalls V from K, and where a drawing puts them.

    The upper shelf writes the memory, W = Σ v_i a_iᵀ, where the address a_i is row i of the
    inverse of K; the lower one reads it with one of its keys.

    Parameters
    ----------
    K : (n, n)
        Keys in the columns, linearly independent.
    V : (d, n)
        Their values, in the columns.
    asked : int
        The key that is put in, from 0.

    Returns
    -------
    pd.DataFrame
        One row per cell: "part" ("address", "value", "product", "W", "key in", "answer" or
        "value out"), "fact" from 1 (0 for what belongs to none), "row" and "column" from 0,
        "value", and "x" and "y", the cell's lower left corner, in cells.

    Raises
    ------
    ValueError
        If K is not square or has no inverse.
    """
    if K.shape[0] != K.shape[1] or torch.linalg.matrix_rank(K) < len(K):
        raise ValueError("K: the keys must be as many as their entries, and independent")
    d, n = V.shape
    address = torch.linalg.inv(K)
    found: list[dict[str, float | str]] = []

    def put(part: str, fact: int, what: torch.Tensor, x: float, top: float) -> None:
        for row, numbers in enumerate(what.tolist()):
            for column, number in enumerate(numbers):
                found.append({"part": part, "fact": fact, "row": row, "column": column,
                              "value": number + 0.0, "x": x + column, "y": top - row - 1})

    step = 1 + GAP + n + SIGN
    for i in range(n):
        left = i * step
        put("address", i + 1, address[i:i + 1], left + 1 + GAP, 1 + GAP)
        put("value", i + 1, V[:, i:i + 1], left, 0)
        put("product", i + 1, torch.outer(V[:, i], address[i]), left + 1 + GAP, 0)
    put("W", 0, V @ address, n * step, 0)
    top = -d - SHELF
    put("key in", asked + 1, K[:, asked:asked + 1], 0, top)
    for i, answer in enumerate((address @ K[:, asked]).tolist()):
        put("address", i + 1, address[i:i + 1], step, top - i * (1 + GAP))
        put("answer", i + 1, torch.tensor([[answer]]), step + n + SIGN, top - i * (1 + GAP))
        put("value", i + 1, V[:, i:i + 1].T, 2 * step + SIGN, top - i * (1 + GAP))
    out = V @ address @ K[:, asked:asked + 1]
    put("value out", asked + 1, out, n * step + (n - 1) / 2, top - (n - d) / 2)
    return pd.DataFrame(found)


def _cell(axis: Axes, cell: pd.Series, colour: str, strength: float) -> None:
    """One cell with its number in it."""
    from matplotlib.patches import FancyBboxPatch

    x, y = cell.x + 0.05, cell.y + 0.05
    axis.add_patch(FancyBboxPatch((x, y), 0.9, 0.9, boxstyle="round,pad=0,rounding_size=0.12",
                                  lw=0, fc=colour, alpha=strength))
    axis.add_patch(FancyBboxPatch((x, y), 0.9, 0.9, boxstyle="round,pad=0,rounding_size=0.12",
                                  lw=0.8, ec=colour, fc="none"))
    number = f"{cell.value:g}".replace("-", "−")
    axis.text(cell.x + 0.5, cell.y + 0.48, number, ha="center", va="center", fontsize=9)


def draw_memory(table: pd.DataFrame) -> Figure:
    """A layer as a memory: outer products of values and addresses, and how a key reads them.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `cells`.

    Returns
    -------
    Figure
        One colour per fact; the deeper, the larger the number.
    """
    import matplotlib.pyplot as plt

    right, bottom = table.x.max() + 1, table.y.min()
    figure, axis = plt.subplots(figsize=(7.2, 7.2 * (4.1 - bottom) / (right + 1.2)))
    largest = table.value.abs().max()
    for _, cell in table.iterrows():
        colour = PALETTE["base"] if cell.fact == 0 else SERIES[int(cell.fact) - 1]
        _cell(axis, cell, colour, 0.08 + 0.55 * abs(cell.value) / largest)
    _signs(axis, table)
    axis.set(xlim=(-0.6, right + 0.6), ylim=(bottom - 1.2, 2.9), aspect="equal")
    axis.axis("off")
    return figure


def _middle(part: pd.DataFrame) -> tuple[float, float]:
    """The middle of some cells."""
    return (part.x.min() + part.x.max() + 1) / 2, (part.y.min() + part.y.max() + 1) / 2


def _signs(axis: Axes, table: pd.DataFrame) -> None:
    """Draw the signs between the cells of `draw_memory`, and above them."""
    heads: dict[str, Any] = {"size": 9, "ha": "center", "va": "baseline"}
    products = [part for _, part in table[table.part == "product"].groupby("fact")]
    weight = table[table.part == "W"]
    n = len(products)
    for i, (part, sign) in enumerate(zip(products, "+" * (n - 1) + "=")):
        x, y = part.x.max() + 1 + SIGN / 2, _middle(part)[1]
        axis.text(x, y, sign, ha="center", va="center", fontsize=14)
        left, top = part.x.min() - GAP, part.y.max() + 1 + GAP
        axis.text(left - 0.5, top + 0.5, f"fact {i + 1}", ha="center", va="center", fontsize=8,
                  color=SERIES[i])
        axis.text(_middle(part)[0], top + 1.3, f"address $a_{i + 1}^\\top$", **heads)
        axis.text(left - 0.5, part.y.min() - 0.2, f"$v_{i + 1}$", ha="center", va="top",
                  fontsize=9)
    axis.text(_middle(weight)[0], weight.y.max() + 1.3, "memory $W$", **heads)
    lower = table[table.y < weight.y.min()]
    key, answer, out = (lower[lower.part == part] for part in ("key in", "answer", "value out"))
    address, value = (lower[lower.part == part] for part in ("address", "value"))
    top = lower.y.max() + 1.35
    for part, words in ((key, "key $k$ in"), (address, "addresses"),
                        (answer, "answers $a_i^\\top k$"), (value, "values $v_i^\\top$"),
                        (out, "value $v$ out")):
        axis.text(_middle(part)[0], top, words, **heads)
    arrow = {"arrowstyle": "-|>", "color": PALETTE["base"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    middle = _middle(address)[1]
    for a, b in ((key, address), (value, out)):
        axis.annotate("", (b.x.min() - GAP, middle), (a.x.max() + 1 + GAP, middle),
                      arrowprops=arrow)
    for _, one in answer.iterrows():
        for x, sign in ((one.x - SIGN / 2, "→"), (one.x + 1 + SIGN / 2, "×")):
            axis.text(x, one.y + 0.48, sign, ha="center", va="center", fontsize=11,
                      color=PALETTE["base"])
    axis.text((value.x.max() + 1 + out.x.min()) / 2, middle + 0.25, "sum", fontsize=8, ha="center",
              va="bottom", color=PALETTE["base"])
    for part, words, y in ((key, "from the\nhidden state", key.y.min() - 0.25),
                           (out, "added to the\nhidden state", out.y.min() - 0.25)):
        axis.text(_middle(part)[0], y, words, fontsize=8, ha="center", va="top",
                  color=PALETTE["base"])
    for words, y in (("Write", 2.6), ("Read", top + 1.1)):
        axis.text(-0.55, y, words, fontsize=10, fontweight="bold", ha="left", va="center")


def draw_trade(table: pd.DataFrame) -> Figure:
    """The terms of the objective at its minimiser, by the weight on general knowledge.

    Parameters
    ----------
    table : pd.DataFrame
        By weight, one column per term.

    Returns
    -------
    Figure
        On logarithmic axes.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    for name, colour in zip(table, SERIES):
        axis.loglog(table.index, table[name], color=colour, label=name)
    axis.set(xlabel=r"weight of general knowledge, $\alpha$", ylabel="value of the term")
    axis.legend()
    return figure


def in_the_plane(
    weights: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    k_f: torch.Tensor,
    v_star: torch.Tensor,
) -> pd.DataFrame:
    """Values in three dimensions, seen along the fact's old value and in the plane across it.

    Parameters
    ----------
    weights : mapping of str to (3, m)
        The weight by its name; the first is the unedited one.
    keys : (m, N)
        General keys.
    k_f : (m, 1)
        The fact's.
    v_star : (3, 1)
        Its target.

    Returns
    -------
    pd.DataFrame
        One row per value: "edit", "value" ("general", "the fact" or "target"), and the coordinates
        "plane 1", "plane 2" and "old value".
    """
    old = next(iter(weights.values())) @ k_f
    axes = torch.linalg.svd(old)[0]  # the old value's direction first, then two across it
    axes = axes * torch.sign(axes[:, :1].T @ old)  # so that the old value points upwards
    found = []
    for name, weight in weights.items():
        for what, values in (("general", weight @ keys), ("the fact", weight @ k_f),
                             ("target", v_star)):
            for up, one, two in (axes.T @ values).T.tolist():  # (N, 3)
                found.append({"edit": name, "value": what, "plane 1": one, "plane 2": two,
                              "old value": up})
    return pd.DataFrame(found)


def draw_idea(points: pd.DataFrame) -> Figure:
    """An edit of one fact in three dimensions, one panel per weight.

    Parameters
    ----------
    points : pd.DataFrame
        The result of `in_the_plane`.

    Returns
    -------
    Figure
        The plane across the old value is shaded.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    columns = ["plane 1", "plane 2", "old value"]
    edits = list(dict.fromkeys(points["edit"]))
    figure, axes = plt.subplots(1, len(edits), figsize=(3.6 * len(edits), 3.6), squeeze=False,
                                subplot_kw={"projection": "3d"})
    side = np.array([[-4.0, 4.0], [-4.0, 4.0]])
    for axis, name in zip(axes[0], edits):
        some = points[points["edit"] == name].set_index("value")[columns]
        axis.plot_surface(side.T, side, 0 * side, alpha=0.12, color=PALETTE["alphaedit"])
        axis.scatter(*some.loc["general"].T.to_numpy(), s=7, color=PALETTE["base"], alpha=0.55,
                     label="general values")
        axis.quiver(0, 0, 0, *some.loc["the fact"], color=PALETTE["zerounlearn"], linewidth=2,
                    label="the fact's value")
        axis.scatter(*some.loc["target"], marker="*", s=90, color=PALETTE["memit"], label="target")
        axis.set(title=name, xticklabels=[], yticklabels=[], zticklabels=[],
                 xlim=(-4, 4), ylim=(-4, 4), zlim=(-4, 4))
        axis.set_zlabel("along the old value", labelpad=-10)
        axis.view_init(elev=12, azim=-60)
        axis.set_box_aspect(None, zoom=1.25)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  fontsize=8)
    return figure
