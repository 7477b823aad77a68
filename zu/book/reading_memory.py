"""Pictures of the places where a transformer reads a fact, and of its keys."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of a fact's own place, of a layer that is edited, of all else.
HERE, EDITED = SERIES[1], SERIES[0]
QUARTILES = ("lower quartile", "median", "upper quartile")


def places(words: Sequence[str], at: int, layers: Sequence[int], depth: int) -> pd.DataFrame:
    """Every state of a short text, with the ones at which a fact is read.

    Parameters
    ----------
    words : sequence of str
        The text's tokens.
    at : int
        The position of the subject's last one.
    layers : sequence of int
        The edited layers.
    depth : int
        The number of layers.

    Returns
    -------
    pd.DataFrame
        One row per token and layer: "position", "token", "layer", "edited" (the layer is) and
        "read" (the fact is read there).

    Raises
    ------
    ValueError
        If there is no such position or layer.
    """
    if not 0 <= at < len(words):
        raise ValueError(f"at is {at}: there are {len(words)} tokens")
    if not all(0 <= layer < depth for layer in layers):
        raise ValueError(f"layers are {list(layers)}: there are {depth}, counted from 0")
    rows = []
    for position, word in enumerate(words):
        for layer in range(depth):
            edited = layer in layers
            rows.append({"position": position, "token": word, "layer": layer, "edited": edited,
                         "read": edited and position == at})
    return pd.DataFrame(rows)


def draw_place(table: pd.DataFrame, d: int, m: int) -> Figure:
    """Draw where in the network a fact is read: all tokens and layers, and one layer in detail.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `places`.
    d, m : int
        The lengths of values and of keys.

    Returns
    -------
    Figure
        Two panels.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2), width_ratios=[1.15, 1])
    _all_states(left, table)
    _one_layer(right, d, m)
    return figure


def _all_states(axis: Axes, table: pd.DataFrame) -> None:
    """A square for each token and layer, on the lines of the residual stream."""
    grey = PALETTE["base"]
    depth, last = table.layer.max() + 1, table.position.max()
    size = min(840 / depth, 90)
    for position in range(last + 1):
        axis.plot([position] * 2, [-0.8, depth - 0.4], color=grey, lw=0.8, alpha=0.5, zorder=1)
    kinds = ((~table.edited, grey, 0.25), (table.edited & ~table["read"], EDITED, 0.6),
             (table["read"], HERE, 1))
    for which, colour, strength in kinds:
        some = table[which]
        axis.scatter(some.position, some.layer, s=size, marker="s", color=colour, alpha=strength,
                     lw=0, zorder=2)
    here = table[table["read"]]
    at, middle, top = here.position.iloc[0], here.layer.mean(), here.layer.max()
    if at < last:
        axis.annotate("", (last, depth - 3), (at, min(top + 2, depth - 3)), zorder=3, arrowprops={
            "arrowstyle": "-|>", "color": grey, "lw": 1.2, "connectionstyle": "arc3,rad=-0.25"})
        axis.text((at + last) / 2, depth - 5, "attention", fontsize=8, color=grey, ha="center",
                  bbox={"fc": "white", "ec": "none", "pad": 1})
    axis.text(last, depth + 0.3, "the answer", ha="center", va="bottom", fontsize=8, color=grey)
    axis.text(-0.45, middle, "edited\nlayers", ha="right", va="center", fontsize=8, color=EDITED)
    tokens = table.drop_duplicates("position").token
    axis.set_xticks(range(last + 1), tokens, fontsize=8)
    axis.get_xticklabels()[at].set(color=HERE, fontweight="bold")
    if tokens.str.len().sum() > 34:
        axis.tick_params(axis="x", rotation=35)
    axis.set(ylabel="layer", xlim=(-1.3, last + 0.6), ylim=(-1.2, depth + 2.2))
    axis.set_yticks([0, *sorted({*here.layer}), depth - 1])
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


#: The boxes of one layer: x, y, width, height, and what they are called.
BOXES = {
    "norm, attention": (0.9, 1.1, 2.9, 0.8),
    "norm": (2.9, 2.7, 1.6, 0.8),
    "G": (2.5, 4.2, 1.0, 0.8),
    "U": (3.9, 4.2, 1.0, 0.8),
    "W": (2.2, 7.4, 3.0, 0.9),
}


def _one_layer(axis: Axes, d: int, m: int) -> None:
    """One layer at one token, from below: the stream, attention, and the MLP with its memory."""
    from matplotlib.patches import FancyBboxPatch

    grey, stream, middle = PALETTE["base"], 0.4, 3.7
    arrow = {"arrowstyle": "-|>", "color": grey, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}

    def lead(*points: tuple[float, float]) -> None:
        """A line through the points that ends in an arrow."""
        for (x, y), (to_x, to_y) in zip(points[:-2], points[1:-1]):
            axis.plot([x, to_x], [y, to_y], color=grey, lw=1.1)
        axis.annotate("", points[-1], points[-2], arrowprops=arrow)

    for name, (x, y, width, height) in BOXES.items():
        memory = name == "W"
        axis.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.12", lw=1.1, zorder=3,
            ec=HERE if memory else grey, fc="#f6dfe3" if memory else "white"))
        words = {"W": "$W$, down_proj", "G": "$G$", "U": "$U$"}.get(name, name)
        axis.text(x + width / 2, y + height / 2, words, ha="center", va="center", fontsize=9,
                  zorder=4, color=HERE if memory else "black")
    lead((stream, -0.2), (stream, 10.1))
    lead((stream, 0.5), (2.35, 0.5), (2.35, 1.1))
    lead((2.35, 1.9), (2.35, 2.3), (stream + 0.2, 2.3))
    lead((stream, 3.1), (2.9, 3.1))
    lead((3.3, 3.5), (3.0, 4.2))
    lead((4.1, 3.5), (4.4, 4.2))
    lead((3.0, 5.0), (3.0, 5.4), (middle - 0.2, 5.8))
    lead((4.4, 5.0), (4.4, 5.4), (middle + 0.2, 5.8))
    lead((middle, 6.2), (middle, 7.4))
    lead((middle, 8.3), (middle, 9.0), (stream + 0.2, 9.0))
    for x, y, sign in ((stream, 2.3, "+"), (stream, 9.0, "+"), (middle, 5.9, "⊙")):
        axis.text(x, y, sign, ha="center", va="center", fontsize=10, zorder=5, bbox={
            "boxstyle": "circle,pad=0.1", "fc": "white", "ec": grey, "lw": 1.1})
    axis.text(middle + 0.25, 6.85, f"key $k$: {m:,} numbers", color=HERE, fontsize=9, va="center")
    axis.text(middle - 0.1, 9.45, f"value $v$: {d:,} numbers", color=HERE, ha="center",
              fontsize=9, va="center")
    axis.text(2.35, 5.4, "silu", color=grey, ha="right", fontsize=8, va="center")
    axis.text(stream - 0.25, 6.0, f"hidden state $h$: {d:,} numbers", color=grey, rotation=90,
              ha="right", va="center", fontsize=8)
    axis.set(xlim=(-0.6, 7.7), ylim=(-0.4, 10.3))
    axis.axis("off")


def quartiles(measured: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Median and quartiles at each layer.

    Parameters
    ----------
    measured : mapping of str to (samples, layers)
        Samples by layer, by the name of the measure.

    Returns
    -------
    pd.DataFrame
        One row per measure and layer: "of", "layer", and the three quartiles.
    """
    frames = []
    at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for of, values in measured.items():
        found = torch.quantile(values.double().cpu(), at, dim=0).T  # (layers, 3)
        frame = pd.DataFrame(found.numpy(), columns=[*QUARTILES]).rename_axis("layer")
        frames.append(frame.reset_index().assign(of=of))
    return pd.concat(frames, ignore_index=True)[["of", "layer", *QUARTILES]]


def _bands(axis: Axes, table: pd.DataFrame) -> None:
    """A line with a band for each measure."""
    for (of, some), colour in zip(table.groupby("of", sort=False), SERIES):
        low, middle, high = (some[name] for name in QUARTILES)
        axis.plot(some.layer, middle, color=colour, label=of)
        axis.fill_between(some.layer, low, high, color=colour, alpha=0.2, lw=0)
    axis.set_xlabel("layer")


def draw_lengths(tables: Mapping[str, pd.DataFrame], layer: int) -> Figure:
    """Lengths of vectors by layer, on a logarithmic scale, one panel per kind.

    Parameters
    ----------
    tables : mapping of str to pd.DataFrame
        The results of `quartiles`, by kind of vector.
    layer : int
        The layer that is marked.

    Returns
    -------
    Figure
        The figure.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(7.2, 3.0), squeeze=False)
    for axis, (kind, table) in zip(axes[0], tables.items()):
        _bands(axis, table)
        axis.axvline(layer, color=PALETTE["base"], lw=0.8)
        axis.set(yscale="log", ylabel=f"length of the {kind}")
    axes[0, 0].legend(fontsize=8)
    return figure


def draw_cosines(table: pd.DataFrame, chance: float, layer: int) -> Figure:
    """Cosines of pairs of keys by layer.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `quartiles`.
    chance : float
        The cosine of random vectors, which is dotted.
    layer : int
        The layer that is marked.

    Returns
    -------
    Figure
        The figure.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 3.2))
    _bands(axis, table)
    axis.axhline(chance, color=PALETTE["base"], ls=":", lw=1.2)
    axis.axvline(layer, color=PALETTE["base"], lw=0.8)
    axis.set(ylabel="cosine of two keys", ylim=(-0.05, 1.02))
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure
