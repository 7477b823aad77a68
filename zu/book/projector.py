"""Pictures of the chapter on the projector: a flattened cloud, and ranks against facts."""
from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from ..solve import projector
from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The edits of `cloud`, in the order of the panels.
EDITS = ("before", "the projector", "the smallest change")
#: Behind a label, so that dots do not cross it.
WHITE = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}


def cloud(W: torch.Tensor, k_f: torch.Tensor, K_0: torch.Tensor) -> pd.DataFrame:
    """Values in the plane before an edit, after P W, and after the smallest change that does.

    The plane is turned so that the old value W k_f points upwards.

    Parameters
    ----------
    W : (2, m)
        A memory with values in the plane.
    k_f : (m, 1)
        The key to forget.
    K_0 : (m, N)
        General keys.

    Returns
    -------
    pd.DataFrame
        One row per edit and value: "edit", one of `EDITS`; "what", "the fact" or "general";
        "across" and "along", the value's parts across and along the old one.

    Raises
    ------
    ValueError
        If W does not have two rows.
    """
    if len(W) != 2:
        raise ValueError(f"W must have two rows, not {len(W)}")
    v_f = W @ k_f
    u = v_f / v_f.norm()  # (2, 1)
    turn = torch.cat([torch.stack([u[1], -u[0]]), u], 1).T  # rows: across, along
    minimal = W - v_f @ torch.linalg.pinv(k_f)
    rows = []
    for edit, weight in zip(EDITS, (W, projector(v_f) @ W, minimal)):
        for what, keys in (("general", K_0), ("the fact", k_f)):
            for across, along in (turn @ weight @ keys).T.tolist():
                rows.append((edit, what, across, along))
    return pd.DataFrame(rows, columns=["edit", "what", "across", "along"])


def moved(frame: pd.DataFrame) -> pd.Series:
    """How much of the general values' energy each edit of `cloud` changes.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `cloud`.

    Returns
    -------
    pd.Series
        By edit, in percent.
    """
    general = frame[frame.what == "general"]
    by_edit = {edit: rows[["across", "along"]].to_numpy()
               for edit, rows in general.groupby("edit", sort=False)}
    before = by_edit[EDITS[0]]
    return pd.Series({edit: 100 * ((now - before) ** 2).sum() / (before**2).sum()
                      for edit, now in by_edit.items()})


def draw_cloud(frame: pd.DataFrame) -> Figure:
    """Draw what two edits do to values: dots for general ones, an arrow for the fact's.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `cloud`.

    Returns
    -------
    Figure
        One panel per edit; thin lines lead from where a value was.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.6), sharex=True, sharey=True)
    before = frame[frame.edit == EDITS[0]]
    reach = 1.12 * frame[["across", "along"]].abs().max()
    titles = ("the values $W k$", "$P W$: all values lose that part", "the smallest change")
    for axis, edit, title in zip(axes, EDITS, titles):
        after = frame[frame.edit == edit]
        _panel(axis, before, after, reach)
        axis.set_title(title)
    axes[0].annotate("orthogonal to $v_f$", (reach.across, 0), (0, -4), textcoords="offset points",
                     fontsize=9, ha="right", va="top", color=PALETTE["base"], bbox=WHITE)
    return figure


def _panel(axis: Axes, before: pd.DataFrame, after: pd.DataFrame, reach: pd.Series) -> None:
    """One panel of `draw_cloud`; `reach` says where it ends, across and along."""
    orange = PALETTE["zerounlearn"]
    axis.plot([-reach.across, reach.across], [0, 0], color=PALETTE["base"], lw=1, alpha=0.6)
    old, new = (rows[rows.what == "general"] for rows in (before, after))
    axis.plot([old.across, new.across], [old.along, new.along], color=PALETTE["base"], lw=0.5,
              alpha=0.35)
    axis.plot(new.across, new.along, "o", ms=3.2, mew=0, color=PALETTE["base"], alpha=0.8)
    (was,), (now,) = (rows.loc[rows.what == "the fact", ["across", "along"]].to_numpy()
                      for rows in (before, after))
    stays = bool(abs(was - now).max() < 1e-9)
    style = {"arrowstyle": "-|>", "color": orange, "lw": 2 if stays else 1,
             "ls": "-" if stays else (0, (3, 2)), "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", was, (0, 0), arrowprops=style)
    if stays:
        axis.annotate("the old value $v_f$", was, (6, 2), textcoords="offset points", fontsize=10,
                      color=orange, bbox=WHITE)
    else:
        axis.plot(*now, "o", ms=8, mfc="white", mew=2, color=orange)
    axis.set(xlim=(-reach.across, reach.across), ylim=(-reach.along, reach.along),
             aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.grid(False)


def draw_ranks(frame: pd.DataFrame) -> Figure:
    """The projector's rank by number of facts, and the energy it removes by rank.

    Parameters
    ----------
    frame : pd.DataFrame
        One row per projector: "facts", which series it is of; "n", how many; "rank of P"; "r / d";
        "energy removed", a share.

    Returns
    -------
    Figure
        Two panels; on the right the line of equality.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, (left, right) = plt.subplots(1, 2)
    shared = {"data": frame, "hue": "facts", "style": "facts", "palette": list(SERIES[:2]),
              "markers": ["o", "s"]}
    sns.lineplot(x="n", y="rank of P", dashes=False, markersize=4, ax=left, **shared)
    left.set(xlabel="number of facts $n$", ylabel="rank of $P$")
    left.legend(title=None)
    right.plot([0, 1], [0, 1], color=PALETTE["base"], lw=1, zorder=0)
    sns.scatterplot(x="r / d", y="energy removed", s=16, legend=False, ax=right, **shared)
    right.set(xlabel="$r / d$", ylabel="general energy removed, share")
    return figure
