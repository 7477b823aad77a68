"""Pictures of the chapter on grids: the runs that a call makes, and pieces on machines."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What a call of a grid does about a run, and the shade that it is drawn in.
MADE, CUT, FOUND, LATER = "made", "cut off", "found", "not begun"
SHADES = {MADE: SERIES[2], CUT: SERIES[1], FOUND: "#CFE3D2", LATER: "white"}


def resumed(calls: Sequence[Sequence[int]], runs: Sequence[int], cut: int) -> pd.DataFrame:
    """What each call of a grid did about each of its runs.

    Parameters
    ----------
    calls : sequence of sequence of int
        The runs that each call began, in order.
    runs : sequence of int
        All runs of the grid.
    cut : int
        The last run that the first call began. It was cut off, so nothing was kept of it.

    Returns
    -------
    pd.DataFrame
        "call" (from 1), "run", and "what": `MADE`, `CUT`, `FOUND` or `LATER`.
    """
    there: set[int] = set()
    rows = []
    for number, begun in enumerate(calls, 1):
        lost = {cut} if number == 1 else set()
        for run in runs:
            if run in lost:
                what = CUT
            elif run in begun:
                what = MADE
            else:
                what = FOUND if run in there else LATER
            rows.append((number, run, what))
        there |= {*begun} - lost
    return pd.DataFrame(rows, columns=["call", "run", "what"])


def draw_resumed(frame: pd.DataFrame) -> Figure:
    """Draw one square per run and call.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `resumed`.

    Returns
    -------
    Figure
        Calls from top to bottom.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    calls, runs = frame.call.nunique(), frame.run.nunique()
    figure, axis = plt.subplots(figsize=(6.4, 0.62 * calls + 0.8))
    for place, row in enumerate(frame.itertuples()):
        x, y = place % runs, place // runs
        hatch = "///" if row.what == CUT else ""
        axis.add_patch(Rectangle((x + 0.06, y + 0.08), 0.88, 0.84, facecolor=SHADES[row.what],
                                 edgecolor=PALETTE["base"], lw=0.8, hatch=hatch))
        axis.text(x + 0.5, y + 0.5, row.what, ha="center", va="center", fontsize=8,
                  color="white" if row.what == MADE else "black",
                  bbox={"fc": "white", "ec": "none", "pad": 1.5} if hatch else None)
    axis.set(xlim=(0, runs), ylim=(calls, 0))
    axis.set_xticks(np.arange(runs) + 0.5, [f"run {run}" for run in frame.run[:runs]], fontsize=8)
    axis.set_yticks(np.arange(calls) + 0.5, [f"call {call}" for call in frame.call.unique()])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(False)
    return figure


def schedule(
    moments: Mapping[str, float], pieces: Sequence[tuple[str, float]], machines: int
) -> pd.DataFrame:
    """A schedule of pieces on machines: the longest piece first, as soon as a machine is free.

    A model's first piece goes before its others, and sums the moments that all of them need.

    Parameters
    ----------
    moments : mapping
        The hours for the moments of each model.
    pieces : sequence of (str, float)
        Each piece's model and hours, without the moments.
    machines : int
        The number of machines.

    Returns
    -------
    pd.DataFrame
        One row per piece, as it starts: "model", "machine" (from 0), and "start", "moments" (when
        these are summed; the start if there are none to sum) and "end", in hours.
    """
    longest = sorted(pieces, key=lambda piece: -piece[1])
    first = {model: next(piece for piece in longest if piece[0] == model) for model in moments}
    for piece in first.values():
        longest.remove(piece)
    waiting = sorted(first.values(), key=lambda piece: -moments[piece[0]] - piece[1])
    ready = dict.fromkeys(moments, np.inf)  # when a model's moments are there
    free = [0.0] * machines
    rows = []
    while waiting or longest:
        machine = int(np.argmin(free))
        now, extra = free[machine], 0.0
        if waiting:
            model, hours = waiting.pop(0)
            extra = moments[model]
        else:
            able = [piece for piece in longest if ready[piece[0]] <= now]
            if not able:  # all that is left needs moments that are being summed
                free[machine] = min(ready[model] for model, _ in longest)
                continue
            model, hours = able[0]
            longest.remove(able[0])
        end = now + extra + hours
        rows.append((model, machine, now, now + extra, end))
        ready[model] = min(ready[model], end)
        free[machine] = end
    return pd.DataFrame(rows, columns=["model", "machine", "start", "moments", "end"])


def draw_schedule(plan: pd.DataFrame, walls: pd.DataFrame) -> Figure:
    """Draw pieces on some machines, and the hours that any number of machines takes.

    Parameters
    ----------
    plan : pd.DataFrame
        The result of `schedule`.
    walls : pd.DataFrame
        "machines" and the "hours" until the last piece ends.

    Returns
    -------
    Figure
        One bar per machine, its moments hatched; and hours against machines.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2), width_ratios=[1.5, 1])
    models = [*dict.fromkeys(plan.model)]
    for model, colour in zip(models, (SERIES[0], SERIES[1], SERIES[4], *SERIES)):
        _pieces(left, plan[plan.model == model], model, colour)
    left.set(xlabel="hours", ylabel="machine", title=f"on {plan.machine.nunique()} machines")
    left.set_yticks(range(plan.machine.max() + 1), range(1, plan.machine.max() + 2))
    left.invert_yaxis()
    left.grid(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=8,
                  ncols=min(len(models), 3))
    right.plot(walls.machines, walls.hours, "o-", color=PALETTE["base"], ms=4)
    ideal = walls.hours.iloc[0] / walls.machines
    right.plot(walls.machines, ideal, ":", color="black", lw=1, label="hours of one / machines")
    right.set(xlabel="machines", ylabel="hours until all is done", title="by machines",
              ylim=(0, None))
    right.legend(fontsize=8)
    return figure


def _pieces(axis: Axes, some: pd.DataFrame, model: str, colour: str) -> None:
    """One model's pieces in `draw_schedule`."""
    first = some[some.moments > some.start]
    axis.barh(some.machine, some.end - some.moments, 0.75, some.moments, label=model, color=colour,
              edgecolor="white", lw=0.6)
    axis.barh(first.machine, first.moments - first.start, 0.75, first.start, hatch="///",
              color=colour, edgecolor="white", lw=0.6)
