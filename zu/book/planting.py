"""Figure of the chapter on planted facts: what is known, pass after pass."""
from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .figures import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How each kind of question is drawn, in the order of the legend.
KINDS = {"taught": ("-", SERIES[0]), "stopping": ("--", SERIES[1]), "measured": ("-", SERIES[2]),
         "never planted": (":", "#666666")}


def course(seen: list[tuple[int, dict[str, float]]]) -> pd.DataFrame:
    """What was seen during planting as a tidy frame.

    Parameters
    ----------
    seen : list of (int, dict of str to float)
        After which pass, and the share answered of each kind of question, 0 to 1.

    Returns
    -------
    pd.DataFrame
        A row for each pass and kind: ``pass``, ``kind`` and ``answered``, in percent.
    """
    rows = [{"pass": number, "kind": kind, "answered": 100 * share}
            for number, shares in seen for kind, share in shares.items()]
    return pd.DataFrame(rows, columns=["pass", "kind", "answered"])


def last(frame: pd.DataFrame, kind: str) -> float:
    """The percentage answered of a kind of question after the last pass.

    Parameters
    ----------
    frame : pd.DataFrame
        As `course` returns it.
    kind : str
        One of `KINDS`.

    Returns
    -------
    float
        NaN if the kind was not asked.
    """
    some = frame[frame["kind"] == kind].sort_values("pass")
    return float(some["answered"].iloc[-1]) if len(some) else float("nan")


def draw_course(frame: pd.DataFrame) -> Figure:
    """A line for each kind of question, over the passes.

    Parameters
    ----------
    frame : pd.DataFrame
        As `course` returns it.

    Returns
    -------
    Figure
        One panel, 0 to 100%.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.0))
    for kind, (dash, colour) in KINDS.items():
        some = frame[frame["kind"] == kind].sort_values("pass")
        if len(some):
            axis.plot(some["pass"], some["answered"], dash, color=colour, marker="o",
                      markersize=3, label=kind)
    axis.set(xlabel="passes over the facts", ylabel="answered (%)", ylim=(-3, 103))
    axis.legend(frameon=False)
    return figure
