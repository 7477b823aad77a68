"""Pictures and tables of the chapter on the null space: quiet directions, and what they hold."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A layer's eigenvalues (m,), ascending, and its eigenvectors (m, m), in the columns.
Spectrum = tuple[torch.Tensor, torch.Tensor]


def plane(quiet: float = 0.12, count: int = 80, seed: int = 0) -> pd.DataFrame:
    """Keys in a plane of key space, spanned by a loud and a quiet direction.

    Parameters
    ----------
    quiet : float
        Root mean square of ordinary keys along the quiet direction; along the loud one it is 1.
    count : int
        How many ordinary keys.
    seed : int
        The seed of their draw.

    Returns
    -------
    pd.DataFrame
        One row per key: "panel", "a null space" (where ordinary keys have nothing along the quiet
        direction) or "a quiet direction"; "what", "ordinary" or "the fact"; "loud" and "quiet", the
        key's parts.
    """
    draw = np.random.default_rng(seed)
    loud, other = draw.standard_normal((2, count))
    rows = []
    for panel, size in (("a null space", 0.0), ("a quiet direction", quiet)):
        rows += [(panel, "ordinary", x, y) for x, y in zip(loud, size * other)]
        rows.append((panel, "the fact", 0.9, 0.75))
    return pd.DataFrame(rows, columns=["panel", "what", "loud", "quiet"])


def draw_plane(frame: pd.DataFrame) -> Figure:
    """Which keys an edit within the quiet direction sees: the more the deeper the shade.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `plane`.

    Returns
    -------
    Figure
        Two panels: with a null space, and with a direction that is only quiet.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.0), sharex=True, sharey=True)
    for axis, (panel, rows) in zip(axes, frame.groupby("panel", sort=False)):
        _seen(axis, rows)
        axis.set_title(panel)
    axes[0].text(2.75, -0.08, "loud", ha="right", va="top", fontsize=9)
    axes[0].text(0.07, 1.28, "$q$, quiet", va="top", fontsize=9)
    axes[0].annotate("a fact's key $k$", (0.9, 0.75), (4, 5), textcoords="offset points",
                     fontsize=9)
    axes[1].annotate("what the edit sees of it:\n$q\\,q^\\top k$", (0, 0.62), (-10, 0),
                     textcoords="offset points", ha="right", va="center", fontsize=9)
    return figure


def _seen(axis: Axes, rows: pd.DataFrame) -> None:
    """One panel of `draw_plane`."""
    wide, high, orange = 2.8, 1.3, PALETTE["zerounlearn"]
    edges = np.linspace(-high, high, 27)
    for low, up in zip(edges, edges[1:]):  # the shade of a band is what the edit does there
        axis.axhspan(low, up, fc=SERIES[4], ec="none", alpha=0.45 * abs(low + up) / (2 * high),
                     zorder=0)
    for end in ((wide, 0), (0, high)):
        axis.annotate("", end, (-end[0], -end[1]), zorder=1,
                      arrowprops={"arrowstyle": "-|>", "color": PALETTE["base"], "lw": 0.8})
    ordinary, fact = rows[rows.what == "ordinary"], rows[rows.what == "the fact"].iloc[0]
    axis.plot(ordinary.loud, ordinary.quiet, "o", ms=3.2, mew=0, color=PALETTE["base"], alpha=0.8)
    strong = {"arrowstyle": "-|>", "color": orange, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (fact.loud, fact.quiet), (0, 0), arrowprops=strong, zorder=4)
    axis.plot([0, fact.loud], [fact.quiet] * 2, color=orange, lw=1, ls=(0, (3, 2)), zorder=3)
    axis.plot([0, 0], [0, fact.quiet], color=orange, lw=4, solid_capstyle="round", zorder=3)
    axis.set(xlim=(-wide, wide), ylim=(-high, high), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(False)


def energy_within(vectors: torch.Tensor, moment: torch.Tensor, cuts: Sequence[int]) -> list[float]:
    """The share of some keys' energy that the first directions hold.

    Parameters
    ----------
    vectors : (m, m)
        Orthonormal directions, in the columns.
    moment : (m, m)
        Second moment of the keys.
    cuts : sequence of int
        Numbers of directions.

    Returns
    -------
    list of float
        A share for each cut.
    """
    by_direction = (vectors * (moment @ vectors)).sum(0)  # q_iᵀ M q_i, (m,)
    sums = torch.cat([by_direction.new_zeros(1), by_direction.cumsum(0)]) / moment.trace()
    return [float(sums[cut]) for cut in cuts]


def held(
    vectors: torch.Tensor, moments: Mapping[str, torch.Tensor], cuts: Sequence[int]
) -> pd.DataFrame:
    """`energy_within` for several kinds of keys.

    Parameters
    ----------
    vectors : (m, m)
        Orthonormal directions, in the columns.
    moments : mapping of str to (m, m)
        Second moments by kind of key.
    cuts : sequence of int
        Numbers of directions.

    Returns
    -------
    pd.DataFrame
        One row per cut and kind: "directions" and "energy", shares; "keys", what they are.
    """
    rows = []
    for what, moment in moments.items():
        for cut, share in zip(cuts, energy_within(vectors, moment, cuts)):
            rows.append((cut / len(vectors), what, share))
    return pd.DataFrame(rows, columns=["directions", "keys", "energy"])


def draw_spectra(
    spectra: Mapping[int, Spectrum], thresholds: Sequence[float], curves: pd.DataFrame
) -> Figure:
    """Eigenvalues by layer beside what the lowest directions hold of several kinds of keys.

    Parameters
    ----------
    spectra : mapping of int to (values, vectors)
        By layer.
    thresholds : sequence of float
        Marked on the left.
    curves : pd.DataFrame
        The result of `held`, with a column "layer".

    Returns
    -------
    Figure
        One panel with the spectra, and one per layer of the curves.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, (left, *others) = plt.subplots(1, 1 + curves.layer.nunique(), figsize=(7.8, 2.9))
    colours = (SERIES[0], SERIES[2])
    for (layer, (values, _)), colour in zip(spectra.items(), colours):
        share = (np.arange(len(values)) + 1) / len(values)
        left.semilogy(share, values.cpu().numpy(), color=colour, label=f"layer {layer}")
    for threshold in thresholds:
        left.axhline(threshold, color=PALETTE["base"], lw=0.8, ls="--")
    left.set(title="spectra", xlabel="share of directions", ylabel="eigenvalue of $C_0$")
    left.legend(fontsize=8)
    kinds = curves["keys"].unique()
    palette = dict(zip(kinds, (PALETTE["base"], SERIES[3], SERIES[1])))
    for axis, (layer, rows) in zip(others, curves.groupby("layer", sort=False)):
        sns.lineplot(rows, x="directions", y="energy", hue="keys", palette=palette, ax=axis,
                     legend=axis is others[0])
        axis.set(title=f"layer {layer}", xlabel="share of directions",
                 ylabel="energy held, share" if axis is others[0] else "")
    others[0].legend(title=None, fontsize=8)
    return figure


def by_rule(
    layer: int, cuts: Mapping[str, int], vectors: torch.Tensor, moments: Mapping[str, torch.Tensor]
) -> pd.DataFrame:
    """What each rule for the cut keeps at one layer.

    Parameters
    ----------
    layer : int
        Its number, for the table.
    cuts : mapping of str to int
        How many directions a rule keeps, by the rule in words.
    vectors : (m, m)
        The layer's eigenvectors, lowest first, in the columns.
    moments : mapping of str to (m, m)
        Second moments by kind of key.

    Returns
    -------
    pd.DataFrame
        One row per rule and a column for "directions" and for each kind of keys, in percent; above
        the columns stands the layer.
    """
    rows = {"directions": [100 * cut / len(vectors) for cut in cuts.values()]}
    for what, moment in moments.items():
        rows[what] = [100 * x for x in energy_within(vectors, moment, list(cuts.values()))]
    table = pd.DataFrame(rows, index=pd.Index(list(cuts), name="rule"))
    return pd.concat({f"layer {layer}, %": table}, axis=1)
