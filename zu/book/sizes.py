"""The effect of the weight on the size of the change in Lemma 5.1, for the chapter on many facts.
"""
from __future__ import annotations

from typing import Any

import pandas as pd

#: Scores in the order of the table.
SCORES = ("eff", "gen", "spe")


def by_weight(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Means over draws, from a run of `tools/exact_lambda.py`.

    Parameters
    ----------
    rows : list of dict
        The run's rows. A draw that lacks a method at some size, because it was interrupted, is left
        out there.

    Returns
    -------
    pd.DataFrame
        One row per number of facts and method, in the order in which they ran: "eff", "gen" and
        "spe" in percent, "ppl" as a multiple of the unedited model's in the same draw, and "draws".
        Empty if there are no rows.
    """
    if not rows:
        nothing = pd.MultiIndex.from_arrays([[], []], names=["n", "method"])
        return pd.DataFrame(columns=[*SCORES, "ppl", "draws"], index=nothing, dtype=float)
    methods = {row["method"] for row in rows}
    there: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        there.setdefault((row["seed"], row["n"]), set()).add(row["method"])
    frame = pd.DataFrame([row for row in rows if "refused" not in row
                          and there[row["seed"], row["n"]] == methods])
    base = frame[frame.method == "base"].set_index(["seed", "n"]).ppl
    alone = pd.MultiIndex.from_frame(frame[["seed", "n"]])
    frame = frame.assign(ppl=frame.ppl.to_numpy() / base.reindex(alone).to_numpy())
    groups = frame.groupby(["n", "method"], sort=False)
    return groups[[*SCORES, "ppl"]].mean().join(groups.seed.nunique().rename("draws"))


def chosen(rows: list[dict[str, Any]], most: float) -> float | None:
    """The weight that the stated rule chooses.

    Parameters
    ----------
    rows : list of dict
        As in `by_weight`.
    most : float
        The largest allowed perplexity, as a multiple of the unedited model's.

    Returns
    -------
    float or None
        The smallest weight with which perplexity is at most so large at every number of facts, in
        the mean over draws; None if there is none. A run that was refused counts as larger.
    """
    means = by_weight(rows).ppl.unstack("n")
    refused = {row["method"] for row in rows if "refused" in row}
    held = [float(method.partition("=")[2]) for method, ppl in means.iterrows()
            if str(method).startswith("exact:lam=") and method not in refused
            and (ppl <= most).all()]
    return min(held, default=None)
