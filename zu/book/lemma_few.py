"""Pictures of the chapter on Lemma 4.1: its two steps, its factors, and the projection's price."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from ..solve import lemma_4_1, projector
from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The stages of `steps`, in the order of the panels.
STAGES = ("before", "ridge", "projection")
#: Behind a label, so that dots do not cross it.
WHITE = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}


def steps(
    W: torch.Tensor, k_f: torch.Tensor, v_star: torch.Tensor, K_0: torch.Tensor,
    weights: Sequence[float] = (1.0, 1.0, 0.01),
) -> pd.DataFrame:
    """Values in the plane before Lemma 4.1, after its ridge step and after its projection.

    The plane is turned so that the old value W k_f points upwards.

    Parameters
    ----------
    W : (2, m)
        A memory with values in the plane.
    k_f, v_star : (m, 1), (2, 1)
        The key to forget, and its target.
    K_0 : (m, N)
        General keys.
    weights : alpha, beta, lam
        As in `zu.solve.lemma_4_1`.

    Returns
    -------
    pd.DataFrame
        One row per stage and value: "stage", one of `STAGES`; "what", "general", "the fact" or "the
        target"; "across" and "along", the value's parts across and along the old one.

    Raises
    ------
    ValueError
        If W does not have two rows.
    """
    if len(W) != 2:
        raise ValueError(f"W must have two rows, not {len(W)}")
    v_f, C0 = W @ k_f, K_0 @ K_0.T / K_0.shape[1]
    alpha, beta, lam = weights
    nothing = torch.zeros_like(v_f)  # whose projector is the identity
    ridge = lemma_4_1(W, k_f, v_star, C0, nothing, alpha=alpha, beta=beta, lam=lam)
    P = projector(v_f)
    u = v_f / v_f.norm()
    turn = torch.cat([torch.stack([u[1], -u[0]]), u], 1).T  # rows: across, along
    rows = []
    for stage, weight, target in zip(STAGES, (W, ridge, P @ ridge), (v_star, v_star, P @ v_star)):
        for what, values in (("general", weight @ K_0), ("the fact", weight @ k_f),
                             ("the target", target)):
            rows += [(stage, what, *pair) for pair in (turn @ values).T.tolist()]
    return pd.DataFrame(rows, columns=["stage", "what", "across", "along"])


def missed(frame: pd.DataFrame) -> float:
    """How far from the target the ridge step leaves the fact's value.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `steps`.

    Returns
    -------
    float
        In percent of the target's length.
    """
    (x, y), (to_x, to_y) = (_of(frame[frame.stage == "ridge"], what)
                            for what in ("the fact", "the target"))
    return 100 * math.hypot(x - to_x, y - to_y) / math.hypot(to_x, to_y)


def draw_steps(frame: pd.DataFrame) -> Figure:
    """The two steps of Lemma 4.1 in the plane of values.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `steps`.

    Returns
    -------
    Figure
        One panel per stage; thin lines lead from where a value was one stage before.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.6), sharex=True, sharey=True)
    reach = 1.12 * frame[["across", "along"]].abs().max()
    titles = ("before: $W k$", "1. ridge: towards the target", "2. projection: flat")
    for i, (axis, title) in enumerate(zip(axes, titles)):
        now, last = (frame[frame.stage == STAGES[j]] for j in (i, max(i - 1, 0)))
        axis.plot([-reach.across, reach.across], [0, 0], color=PALETTE["base"], lw=1, alpha=0.6)
        _cloud(axis, last, now)
        _fact(axis, last, now)
        axis.set(title=title, xlim=(-reach.across, reach.across),
                 ylim=(-reach.along, reach.along), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    axes[0].annotate("orthogonal to $v_f$", (reach.across, 0), (0, -4), textcoords="offset points",
                     fontsize=9, ha="right", va="top", color=PALETTE["base"], bbox=WHITE)
    return figure


def _of(frame: pd.DataFrame, what: str) -> tuple[float, float]:
    """Where the one value of a kind stands."""
    (place,) = frame.loc[frame.what == what, ["across", "along"]].to_numpy()
    return tuple(place)


def _cloud(axis: Axes, last: pd.DataFrame, now: pd.DataFrame) -> None:
    """General values, with lines from where they were."""
    old, new = (rows[rows.what == "general"] for rows in (last, now))
    axis.plot([old.across, new.across], [old.along, new.along], color=PALETTE["base"], lw=0.5,
              alpha=0.35)
    axis.plot(new.across, new.along, "o", ms=3, mew=0, color=PALETTE["base"], alpha=0.7)


def _fact(axis: Axes, last: pd.DataFrame, now: pd.DataFrame) -> None:
    """The fact's value, an arrow from where it was, and the target."""
    orange, star = PALETTE["zerounlearn"], PALETTE["memit"]
    first = last is now or last.equals(now)
    start, end = (0, 0) if first else _of(last, "the fact"), _of(now, "the fact")
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": orange, "lw": 2,
                                              "shrinkA": 0, "shrinkB": 0}, zorder=4)
    target, was = _of(now, "the target"), _of(last, "the target")
    axis.plot(*target, "*", ms=13, mec="white", color=star, zorder=3)
    if first:
        axis.annotate("$v_f$", end, (6, 2), textcoords="offset points", color=orange, bbox=WHITE)
        axis.annotate("$v_*$", target, (8, 2), textcoords="offset points", color=star, bbox=WHITE)
    elif target != was:
        axis.plot(*was, "*", ms=13, mfc="none", mec=star, zorder=3)
        axis.annotate("$P v_*$", target, (-4, -16), textcoords="offset points", color=star,
                      bbox=WHITE)


def factors() -> pd.DataFrame:
    """The factors of Lemma 4.1 in rank-n form, as rectangles to be drawn.

    Returns
    -------
    pd.DataFrame
        One row per matrix of Ŵ = P (W + β R K_fᵀ Wᵀ B⁻¹ W): "matrix", its name in LaTeX; "rows" and
        "columns", its shape in letters; "x", "y", "width", "height", where it stands, in units of
        the figure; "role", "result", "projection", "memory" or "correction".
    """
    d, m, n, gap, middle = 1.0, 2.2, 0.3, 0.75, 0.0
    shapes = [(r"\hat W", "d", "m", "result"), ("P", "d", "d", "projection"),
              ("W", "d", "m", "memory"), (r"\beta R", "d", "n", "correction"),
              (r"K_f^\top W^\top", "n", "d", "correction"), ("B^{-1}", "d", "d", "correction"),
              ("W", "d", "m", "memory")]
    sizes = {"d": d, "m": m, "n": n}
    rows, x = [], 0.0
    for i, (name, tall, wide, role) in enumerate(shapes):
        height, width = sizes[tall], sizes[wide]
        rows.append((name, tall, wide, x, middle - height / 2, width, height, role))
        x += width + (gap if i < 3 else 0.28)
    return pd.DataFrame(rows, columns=["matrix", "rows", "columns", "x", "y", "width", "height",
                                       "role"])


def draw_factors(frame: pd.DataFrame) -> Figure:
    """The rank-n form of Lemma 4.1, drawn to the matrices' shapes.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `factors`.

    Returns
    -------
    Figure
        One row of rectangles with the signs between them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    figure, axis = plt.subplots(figsize=(7.4, 1.7))
    colours = {"result": PALETTE["base"], "projection": PALETTE["zerounlearn"],
               "memory": PALETTE["base"], "correction": SERIES[0]}
    for row in frame.itertuples():
        colour = colours[row.role]
        axis.add_patch(FancyBboxPatch((row.x, row.y), row.width, row.height, fc=colour, ec=colour,
                                      alpha=0.25, boxstyle="round,pad=0,rounding_size=0.06"))
        narrow = min(row.width, row.height) < 0.5
        middle = row.x + row.width / 2
        if narrow:  # the name stands above
            axis.text(middle, row.y + row.height + 0.08, f"${row.matrix}$", ha="center",
                      va="bottom", fontsize=11)
        else:
            axis.text(middle, 0, f"${row.matrix}$", ha="center", va="center", fontsize=13)
        axis.text(middle, row.y - 0.08, rf"${row.rows} \times {row.columns}$", ha="center",
                  va="top", fontsize=8, color=PALETTE["base"])
    ends = (frame.x + frame.width).to_list()
    starts = frame.x.to_list()
    for i, sign in enumerate(("$=$", "$($", "$+$")):
        axis.text((ends[i] + starts[i + 1]) / 2, 0, sign, ha="center", va="center", fontsize=16)
    axis.text(ends[-1] + 0.15, 0, "$)$", ha="center", va="center", fontsize=16)
    axis.set(xlim=(-0.1, ends[-1] + 0.35), ylim=(-0.85, 0.85), aspect="equal")
    axis.axis("off")
    return figure


def price(values: torch.Tensor, moment: torch.Tensor, counts: Sequence[int]) -> pd.DataFrame:
    """What projecting away more and more values takes from general ones, and the bounds on that.

    Parameters
    ----------
    values : (d, n)
        Values of facts; the first of them are projected away.
    moment : (d, d)
        Second moment of general values, W C_0 Wᵀ.
    counts : sequence of int
        Numbers of facts.

    Returns
    -------
    pd.DataFrame
        One row per count: "facts"; "rank"; "r / d"; "removed", the share of the general values'
        energy that the projection takes; "least" and "most", what any `rank` directions would.
    """
    d, total = len(values), float(moment.trace())
    ascending = torch.linalg.eigvalsh(moment).cumsum(0)
    sums = [0.0, *(ascending / total).tolist()]  # of the lowest 0, 1, ... eigenvalues
    rows = []
    for count in counts:
        off = torch.eye(d, dtype=values.dtype) - projector(values[:, :count])  # I - P
        r = round(float(off.trace()))
        rows.append((count, r, r / d, float((off * moment).sum()) / total, sums[r],
                     sums[d] - sums[d - r]))
    return pd.DataFrame(rows, columns=["facts", "rank", "r / d", "removed", "least", "most"])


def draw_price(frame: pd.DataFrame) -> Figure:
    """The price of the projection by the rank of what is projected away.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `price`.

    Returns
    -------
    Figure
        One panel, both axes logarithmic: the price, its bounds as a band, and the line r / d.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    x = frame["r / d"]
    axis.fill_between(x, frame.least, frame.most, color=PALETTE["base"], alpha=0.15, lw=0,
                      label="possible for $r$ directions")
    axis.plot(x, x, color=PALETTE["base"], lw=1, label="$r / d$: indifferent directions")
    axis.plot(x, frame.removed, "o-", ms=4, color=PALETTE["zerounlearn"], label="values of facts")
    axis.set(xscale="log", yscale="log", xlabel="rank of $V_f$, as a share of $d$",
             ylim=(1e-4, 1.3), ylabel="general energy removed, share")
    axis.legend()
    return figure
