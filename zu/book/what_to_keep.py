"""Figures of what the model must keep: the second moment of ordinary keys, and what it costs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from .figures import PALETTE, SERIES
from .tokens import draw_perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours of the two kinds of directions, and of what is given.
CHEAP, DEAR, GIVEN = SERIES[0], SERIES[1], "#333333"


def draw_ellipsoid(
    cloud: torch.Tensor, key: torch.Tensor, rows: Mapping[str, torch.Tensor]
) -> tuple[Figure, pd.DataFrame]:
    """A cloud of keys in the plane with the ellipse of its second moment, and the price of edits.

    Parameters
    ----------
    cloud : (N, 2)
        Ordinary keys.
    key : (2,)
        The key at which an edit adds 1.
    rows : mapping of str to (2,)
        Rows x of edits r xᵀ, by their names; the first is the dearer one.

    Returns
    -------
    Figure
        Left the cloud, the ellipse kᵀ C_0⁻¹ k = 2 and its axes; right the plane of rows x, with
        contours of the damage xᵀ C_0 x and the line of all x with xᵀ k = 1.
    pd.DataFrame
        One row per point, with the columns panel, what, x and y.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.5))
    second = (cloud.T @ cloud / len(cloud)).double().numpy()  # (2, 2)
    points = {"keys": _draw_cloud(left, cloud.double().numpy(), second, key.double().numpy()),
              "rows": _draw_prices(right, second, key.double().numpy(),
                                   {name: x.double().numpy() for name, x in rows.items()})}
    far = 0.85 * float(cloud.abs().max())  # some keys may lie beyond
    left.set(xlim=(-far, far), ylim=(-far, far))
    for axis in (left, right):
        axis.set_aspect("equal")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_position("zero")
            axis.spines[side].set_color("#bbbbbb")
    drawn = [(panel, what, float(x), float(y)) for panel, some in points.items()
             for what, (x, y) in some]
    return figure, pd.DataFrame(drawn, columns=["panel", "what", "x", "y"])


def _draw_cloud(
    axis: Axes, cloud: np.ndarray, second: np.ndarray, key: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """The keys, their ellipse with its axes, and one key that is to be edited."""
    values, vectors = np.linalg.eigh(second)
    around = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(around), np.sin(around)])
    # √2: in two dimensions the mean of kᵀ C_0⁻¹ k is 2
    ellipse = vectors @ (np.sqrt(2 * values)[:, None] * circle)
    axis.plot(*cloud.T, ".", ms=3, color=PALETTE["base"], alpha=0.5)
    axis.plot(*ellipse, color=GIVEN, lw=1.2)
    found = [("a key of ordinary text", point) for point in cloud]
    for i, (name, colour) in enumerate((("cheap", CHEAP), ("dear", DEAR))):
        tip = vectors[:, i] * np.sqrt(2 * values[i])
        tip = tip if tip[1] > 0 else -tip
        end = (float(tip[0]), float(tip[1]))
        axis.annotate("", end, (0, 0),
                      arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
        axis.annotate(name, end, (20 * np.sign(tip[0]), 14), textcoords="offset points",
                      color=colour, fontsize=11, fontweight="bold", ha="center",
                      bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1})
        found.append((f"the {name} axis", tip))
    axis.plot(*key, "*", ms=13, color=GIVEN)
    axis.annotate("$k$", (float(key[0]), float(key[1])), (7, 5), textcoords="offset points",
                  fontsize=12)
    axis.set_title("keys of ordinary text")
    return [*found, ("the key", key)]


def _draw_prices(
    axis: Axes, second: np.ndarray, key: np.ndarray, rows: Mapping[str, np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Contours of the damage over the plane of rows, and the rows that move the key by 1."""
    prices = {name: float(x @ second @ x) for name, x in rows.items()}
    reach = 1.7 * max(np.abs(x).max() for x in rows.values())
    side = np.linspace(-reach, reach, 241)
    at = np.stack(np.meshgrid(side, side))  # (2, side, side)
    price = np.einsum("iab,ij,jab->ab", at, second, at)
    least = min(prices.values())
    axis.contour(*at, price, levels=[least * f for f in (0.25, 1, 3, 6)], colors=[GIVEN],
                 linewidths=[0.6, 1.2, 0.6, 0.6], alpha=0.7)
    along = np.array([-key[1], key[0]]) / np.linalg.norm(key)  # xᵀ k stays as it is
    ends = key / (key @ key) + np.outer([-3 * reach, 3 * reach], along)
    axis.plot(*ends.T, color=PALETTE["base"], ls="--", lw=1.2)
    tip = key / np.linalg.norm(key) * 0.55 * reach
    axis.annotate("", (tip[0], tip[1]), (0, 0),
                  arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.8, "ls": ":"})
    for (name, x), colour in zip(rows.items(), (DEAR, CHEAP), strict=True):
        axis.plot(*x, "o", ms=8, color=colour)
        axis.annotate(f"{name}: {prices[name] / least:.1f}", (float(x[0]), float(x[1])), (9, 3),
                      color=colour, textcoords="offset points", fontsize=9, fontweight="bold")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    beside = ends.mean(0) - along * 0.8 * reach
    axis.annotate("xᵀk = 1", (beside[0], beside[1]), ha="center",
                  fontsize=9, color=PALETTE["base"], rotation=np.degrees(
                      np.arctan(along[1] / along[0])), rotation_mode="anchor", va="top",
                  bbox={"fc": "white", "ec": "none", "pad": 0.5})
    axis.set_title("rows $x$ of an edit, and their damage")
    return [*rows.items(), *(("xᵀ k = 1", end) for end in ends)]


def spectra(values: Mapping[int, torch.Tensor]) -> pd.DataFrame:
    """Spectra of second moments, as shares of their energy.

    Parameters
    ----------
    values : mapping of int to (m,)
        Eigenvalues by layer, in any order.

    Returns
    -------
    pd.DataFrame
        One row per layer and eigenvalue, largest first: "layer", "number" from 1 on, "share" of the
        energy, "left out" (how many percent of the directions are larger), and "rest", the share of
        the energy in this direction and all smaller ones.
    """
    frames = []
    for layer, some in values.items():
        share = np.sort(some.double().numpy())[::-1] / float(some.sum())
        rest = np.cumsum(share[::-1])[::-1]  # from the smallest on: no digits are lost
        number = np.arange(1, len(share) + 1)
        frames.append(pd.DataFrame({"layer": layer, "number": number, "share": share,
                                    "left out": 100 * (number - 1) / len(share), "rest": rest}))
    return pd.concat(frames, ignore_index=True)


def draw_spectra(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """The spectra on logarithmic axes, and how much energy is left beyond the first directions.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `spectra`.

    Returns
    -------
    Figure
        Two panels, one colour per layer.
    pd.DataFrame
        Some 120 rows per layer of the table: enough to redraw it.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    for (layer, some), colour in zip(table.groupby("layer"), SERIES):
        left.loglog(some["number"], some["share"], color=colour, label=f"layer {layer}")
        right.semilogy(some["left out"], some["rest"], color=colour)
    left.set(xlabel="number of the eigenvalue", ylabel="share of the energy")
    right.set(xlabel="directions left out, %", ylabel="energy in the rest")
    left.legend()
    last = int(table["number"].max())
    kept = {*np.geomspace(1, last, 60).astype(int), *np.linspace(1, last, 60).astype(int)}
    return figure, table[table["number"].isin(kept)].reset_index(drop=True)


def draw_growth(table: pd.DataFrame, chance: float) -> tuple[Figure, pd.DataFrame]:
    """How a growing text's moment comes to agree with another text's.

    Parameters
    ----------
    table : pd.DataFrame
        By tokens: "difference", relative, in norm; "largest eighth" and "smallest eighth", overlaps
        in percent.
    chance : float
        The overlap of unrelated spaces, in percent.

    Returns
    -------
    Figure
        Two panels.
    pd.DataFrame
        One row per measure and number of tokens.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    left.plot(table.index, 100 * table["difference"], "o-", color=SERIES[2])
    left.set(xlabel="tokens", ylabel="relative difference, %")
    for name, colour in zip(("largest eighth", "smallest eighth"), SERIES):
        right.plot(table.index, table[name], "o-", color=colour, label=name)
    right.axhline(chance, color=PALETTE["base"], ls=":", label="chance")
    right.set(xlabel="tokens", ylabel="overlap, %", ylim=(0, 102))
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xscale("log")
        _name_ticks(axis, table.index)
    long = table.rename_axis("tokens").reset_index().melt("tokens", var_name="measure")
    return figure, long


def draw_needs(
    damage: pd.DataFrame, none: float, m: int, rows: Sequence[dict[str, Any]]
) -> tuple[Figure, pd.DataFrame]:
    """What few tokens cost: damage on other text, and perplexity after edits.

    Parameters
    ----------
    damage : pd.DataFrame
        By tokens: the damage of the "additive" and the "multiplicative" edit, against that of the
        additive one with the most tokens; NaN if there are too few tokens to have one.
    none : float
        The same for the additive edit without a moment.
    m : int
        The length of a key.
    rows : sequence of dict
        Rows of the record that tools/tokens.py writes.

    Returns
    -------
    Figure
        Two panels.
    pd.DataFrame
        One row per point of both: "panel", "what", "tokens" and "value".
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2)
    for name, colour in zip(("additive", "multiplicative"), SERIES):
        some = damage[name].dropna()
        left.plot(some.index, some, "o-", color=colour, label=name)
    most = int(damage.index.max())
    N = np.linspace(1.05 * m, most, 200)
    left.plot(N, (1 - m / most) * N / (N - m), ":", color=SERIES[0], label="Gaussian keys")
    left.axhline(none, color=PALETTE["base"], ls="--", lw=1.2, label="no moment")
    left.set(xscale="log", yscale="log", xlabel="tokens", ylabel="damage on other text")
    left.set_ylim(0.9, 1.3 * max(none, float(damage.max().max())))
    left.legend(fontsize=8)
    drawn = draw_perplexity(right, rows)
    right.set_ylim(0.95, 3)
    right.legend(fontsize=8)
    for axis, ticks, marks in ((left, damage.index, (1, 2, 4, 8)),
                               (right, (512, 4096, 32_768), (1, 1.5, 2, 3))):
        _name_ticks(axis, ticks)
        low, high = axis.get_ylim()
        shown = [mark for mark in marks if low <= mark <= high]
        axis.set_yticks(shown, [f"{mark:g}" for mark in shown])
    return figure, _of_needs(damage, none, drawn)


def _of_needs(damage: pd.DataFrame, none: float, drawn: pd.DataFrame) -> pd.DataFrame:
    """The tidy data of both panels."""
    long = damage.rename_axis("tokens").reset_index().melt("tokens", var_name="what").dropna()
    long.loc[len(long)] = [float("nan"), "no moment", none]
    name = drawn["method"] + drawn["how"].map({"read": "", "shrunk": ", shrunk"})
    after = pd.DataFrame({"tokens": drawn["tokens"], "what": name, "value": drawn.iloc[:, -1]})
    both = pd.concat({"damage": long, "perplexity": after}, names=["panel"])
    return both.reset_index("panel").reset_index(drop=True)


def _name_ticks(axis: Axes, at: Sequence[float] | pd.Index) -> None:
    """Ticks of a logarithmic axis at these numbers of tokens, and no others."""
    axis.minorticks_off()
    axis.set_xticks([*at], [f"{tick:,}" for tick in at], fontsize=8)
