"""How many tokens of text a method's moments need, as a figure and a table."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .figures import PALETTE, method_of, row_name
from .verdicts import over_draws

SCORES = {"eff": "Eff", "gen": "Gen", "spe": "Spe"}
#: The names of moments on pages, by their names in tools/tokens.py.
HOW = {"read": "", "shrunk": ", shrunk"}


def against_most(rows: Sequence[dict[str, Any]], tokens: Sequence[int]) -> pd.DataFrame:
    """Scores by method and tokens, and their differences from those with the most tokens.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the record that tools/tokens.py writes.
    tokens : sequence of int
        Which numbers of tokens to show.

    Returns
    -------
    pd.DataFrame
        By method and moments: with the most tokens, Eff, Gen and Spe as means over the draws that
        have all rows; with fewer tokens, the mean of the paired differences, in points, and its 95%
        interval. Perplexity likewise, as ratios in percent. If an edit was refused in some draws,
        the cell says in how many.
    """
    frame = _whole(rows)
    most = frame["tokens"].max()
    found = []
    for method in [name for name in dict.fromkeys(frame["method"]) if name != "base"]:
        own = frame[frame["method"] == method].set_index("seed")
        reference = own[own["tokens"] == most]
        for count, how in _moments(own, tokens, int(most)):
            these = own[(own["tokens"] == count) & (own["how"] == how)]
            row = {"method": row_name(method), "moments": f"{count:,}{HOW[how]}"}
            found.append(row | _cells(these, reference, own=count == most))
    return pd.DataFrame(found).set_index(["method", "moments"])


def _whole(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows of the finished draws."""
    frame = pd.DataFrame(rows)
    counts = frame["seed"].value_counts()
    return frame[frame["seed"].isin(counts[counts == counts.max()].index)]


def draws(rows: Sequence[dict[str, Any]]) -> int:
    """How many draws have all rows.

    Parameters
    ----------
    rows : sequence of dict
        Of the record.

    Returns
    -------
    int
        The number.
    """
    return int(_whole(rows)["seed"].nunique())


def _moments(
    own: pd.DataFrame, tokens: Sequence[int], most: int
) -> list[tuple[int, str]]:
    """The moments of a method to show, those with the most tokens first."""
    there = set(zip(own["tokens"], own["how"], strict=True))
    asked = [(count, how) for count in sorted(tokens, reverse=True) for how in HOW]
    return [(most, "read")] + [pair for pair in asked if pair in there and pair[0] != most]


def _cells(these: pd.DataFrame, reference: pd.DataFrame, own: bool) -> dict[str, str]:
    """A row of the table."""
    if own:
        means = {name: f"{these[key].mean():.1f}" for key, name in SCORES.items()}
        return means | {"perplexity": f"{these['ppl'].mean():.2f}"}
    if refused := int(these["ppl"].isna().sum()):
        said = f"refused in {refused} of {len(these)}"
        return dict.fromkeys([*SCORES.values(), "perplexity"], said)
    cells = {}
    for key, name in SCORES.items():
        apart = over_draws((these[key] - reference[key]).to_numpy())
        cells[name] = f"{apart.value:+.1f} ({apart.low:+.1f}\u00a0to\u00a0{apart.high:+.1f})"
    apart = over_draws(np.log(these["ppl"] / reference["ppl"]).to_numpy())
    value, low, high = (100 * (np.exp(x) - 1) for x in (apart.value, apart.low, apart.high))
    cells["perplexity"] = f"{value:+.1f}% ({low:+.1f}%\u00a0to\u00a0{high:+.1f}%)"
    return cells


def draw_perplexity(ax: Axes, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Draw perplexity after an edit against the number of tokens of its moments, by method.

    The lines are geometric means over draws, relative to the unedited model; they are dashed for
    shrunk moments.

    Parameters
    ----------
    ax : Axes
        The axes to draw on.
    rows : sequence of dict
        Rows of the record.

    Returns
    -------
    pd.DataFrame
        The drawn data.
    """
    frame = _whole(rows)
    base = frame[frame["method"] == "base"].set_index("seed")["ppl"]
    frame = frame[frame["method"] != "base"].dropna(subset="ppl")
    frame = frame.assign(ratio=frame["ppl"] / frame["seed"].map(base))
    log = frame.assign(log=np.log(frame["ratio"]))
    means = np.exp(log.groupby(["method", "how", "tokens"], sort=False)["log"].mean())
    drawn = means.rename("perplexity, times the unedited model's").reset_index()
    drawn = drawn.sort_values("tokens", kind="stable", ignore_index=True)
    for (method, how), part in drawn.groupby(["method", "how"], sort=False):
        ax.plot(part["tokens"], part.iloc[:, -1], "o-" if how == "read" else "o--",
                color=PALETTE[method_of(method)], markersize=3,
                label=row_name(method) if how == "read" else None)
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel="perplexity, ratio")
    return drawn


def changes(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The effect of fewer tokens as numbers, which `against_most` gives as texts.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the record that tools/tokens.py writes.

    Returns
    -------
    pd.DataFrame
        By method, number of tokens and "read" or "shrunk": the mean over draws of the paired
        difference from the most tokens, in points for eff, gen and spe and in percent for ppl, and
        the ends of its 95% interval as "eff low", "eff high" and so on. NaN if a draw was
        refused.
    """
    frame = _whole(rows)
    frame = frame[frame["method"] != "base"].assign(ppl=lambda x: np.log(x["ppl"].astype(float)))
    most = frame[frame["tokens"] == frame["tokens"].max()].set_index(["method", "seed"])
    found = {}
    for group, some in frame.groupby(["method", "tokens", "how"], sort=False):
        own = some.set_index(["method", "seed"])
        row: dict[str, float] = {}
        for key in [*SCORES, "ppl"]:
            apart = over_draws((own[key] - most[key].reindex(own.index)).to_numpy(dtype=float))
            row |= {key: apart.value, f"{key} low": apart.low, f"{key} high": apart.high}
        for key in ("ppl", "ppl low", "ppl high"):
            row[key] = 100 * float(np.expm1(row[key]))
        found[group] = row
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(["method", "tokens", "how"])
