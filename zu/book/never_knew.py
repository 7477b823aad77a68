"""Table and figure of the chapter that holds edits against the model that never knew."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .figures import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..audit import Leaks, Membership, Quality
    from ..scores import Scores

#: The scores of membership that are drawn, with their colours.
DRAWN = {"loss": SERIES[0], "min-k%": SERIES[2], "zlib": SERIES[3], "reference": SERIES[1]}


def row(
    name: str,
    scores: Scores,
    ppl: float,
    quality: Quality,
    leaks: Leaks,
) -> dict[str, float | str]:
    """A model's row of the table.

    Parameters
    ----------
    name : str
        The model's.
    scores : Scores
        On the facts to forget.
    ppl : float
        Perplexity on prose.
    quality : Quality
        Against the model that never knew.
    leaks : Leaks
        Of the same facts.

    Returns
    -------
    dict
        ``model``; Eff, Gen, Spe in percent; PPL; the mean KL in nats; the median rank of the
        answer; the mean logarithm of the truth ratio; both p; and the share of facts in percent
        that leak in ``leaks.k`` samples, in expectation.
    """
    return {"model": name, "Eff": scores.eff, "Gen": scores.gen, "Spe": scores.spe, "PPL": ppl,
            "KL": float(quality.kl.mean()), "rank": float(np.median(quality.rank)),
            "log truth ratio": float(np.nanmean(quality.ratio)), "p (KS)": quality.ks,
            "p (paired)": quality.paired, "leaks (%)": 100 * leaks.expected}


def areas(name: str, found: Membership) -> list[dict[str, float | str | bool]]:
    """A model's rows of the figure.

    Parameters
    ----------
    name : str
        The model's.
    found : Membership
        What membership inference finds.

    Returns
    -------
    list of dict
        One for each score: ``model``, ``score``, ``auc``, ``low``, ``high``, ``decides``.
    """
    return [{"model": name, "score": score, **one._asdict(), "decides": one.decides}
            for score, one in found.aucs.items()]


def draw(table: pd.DataFrame, found: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Membership and divergence, model by model.

    Parameters
    ----------
    table : pd.DataFrame
        By model, with a column ``KL``.
    found : pd.DataFrame
        A row for each of `areas`.
    models : sequence of str
        The order, from the top.

    Returns
    -------
    Figure
        Left, AUCs with their intervals and a line at chance; right, the divergence, on a scale
        that is linear up to 0.01.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 0.5 * len(models) + 1.2), sharey=True,
                                         gridspec_kw={"width_ratios": [3, 2]})
    left.axvline(0.5, color="#666666", linestyle=":")
    scores = [score for score in DRAWN if score in {*found["score"]}]
    for place, score in enumerate(scores):
        some = found[found["score"] == score].set_index("model").loc[[*models]]
        at = np.arange(len(models)) + 0.16 * (place - (len(scores) - 1) / 2)
        left.hlines(at, some["low"], some["high"], color=DRAWN[score], linewidth=1.5)
        left.plot(some["auc"], at, "o", color=DRAWN[score], markersize=4, label=score)
    left.set(xlim=(0, 1), xlabel="AUC, members against non-members")
    left.set_yticks(range(len(models)), models)
    left.invert_yaxis()
    left.legend(frameon=False, ncols=len(scores), loc="lower center", bbox_to_anchor=(0.5, 1),
                fontsize="small", columnspacing=1, handletextpad=0.2)
    right.barh(range(len(models)), table.loc[[*models], "KL"], color="#666666", height=0.5)
    right.set_xscale("symlog", linthresh=0.01)
    right.set(xlabel="KL from never having known (nats)")
    return figure
