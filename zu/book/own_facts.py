"""Tables and figures of the chapter on own facts: what is forgotten, and what can be guessed."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from .figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..data.facts import Fact

#: How an attacker ranks subjects, and the names of the axes.
MEASURES = {"cosine": "largest cosine with a stored key",
            "change": r"$\Vert\Delta k\Vert\,/\,\Vert k\Vert$"}


def probabilities(
    facts: Sequence[Fact], before: Sequence[float], after: Sequence[float]
) -> pd.DataFrame:
    """The probability of each fact's answer before an edit and while it is on.

    Parameters
    ----------
    facts : sequence of Fact
        The facts that were asked for.
    before, after : sequence of float
        Probabilities, one per fact.

    Returns
    -------
    pd.DataFrame
        By prompt: "answer", "before" and "after".
    """
    rows = [(fact.text, fact.target, float(old), float(new))
            for fact, old, new in zip(facts, before, after, strict=True)]
    return pd.DataFrame(rows, columns=["asked", "answer", "before", "after"]).set_index("asked")


def guesses(
    keys: torch.Tensor, stored: torch.Tensor, change: torch.Tensor, forgotten: int
) -> pd.DataFrame:
    """How much each subject stands out to an attacker who has an edit and the model.

    Parameters
    ----------
    keys : (subjects, m)
        The subjects' keys at one layer, the forgotten subjects first.
    stored : (facts, m)
        The keys that the edit holds for this layer.
    change : (d, m)
        The edit's change of the layer's weight.
    forgotten : int
        How many of the subjects were forgotten.

    Returns
    -------
    pd.DataFrame
        One row per subject, without its name: "forgotten"; "cosine", the largest with a stored key;
        and "change", the length of the change of the output as a share of the key's.
    """
    unit = torch.nn.functional.normalize
    cosine = (unit(keys) @ unit(stored).T).max(1).values
    moved = (keys @ change.T).norm(dim=1) / keys.norm(dim=1)
    return pd.DataFrame({"forgotten": [i < forgotten for i in range(len(keys))],
                         "cosine": cosine.tolist(), "change": moved.tolist()})


def hits(found: pd.DataFrame, measure: str) -> int:
    """How many of the subjects that stand out most were forgotten.

    Parameters
    ----------
    found : pd.DataFrame
        The result of `guesses`.
    measure : str
        "cosine" or "change".

    Returns
    -------
    int
        The number of hits among as many picks as there are forgotten subjects.
    """
    top = found.nlargest(int(found.forgotten.sum()), measure)
    return int(top.forgotten.sum())


def by_luck(found: pd.DataFrame, hit: int) -> float:
    """The probability that blind picks hit at least as many of the forgotten subjects.

    Parameters
    ----------
    found : pd.DataFrame
        The result of `guesses`.
    hit : int
        How many were hit.

    Returns
    -------
    float
        The probability.
    """
    from scipy.stats import hypergeom

    count = int(found.forgotten.sum())
    return float(hypergeom.sf(hit - 1, len(found), count, count))


def draw_guesses(found: pd.DataFrame) -> Figure:
    """Draw one dot per subject, by how much it stands out.

    Parameters
    ----------
    found : pd.DataFrame
        The result of `guesses`.

    Returns
    -------
    Figure
        One row per measure; the forgotten subjects have the colour of ZeroUnlearn. Heights have no
        meaning.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(7.0, 2.8))
    height = np.random.default_rng(0).uniform(-1, 1, len(found))
    for axis, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for kind, colour, size in ((False, PALETTE["base"], 4), (True, PALETTE["zerounlearn"], 6)):
            own = (found.forgotten == kind).to_numpy()
            name = "forgotten" if kind else "other subjects"
            axis.plot(found[measure][own], height[own], "o", ms=size, mew=0, color=colour,
                      alpha=1.0 if kind else 0.6, label=name)
        axis.set(xlabel=label, yticks=[], ylim=(-1.6, 1.6))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2,
                  fontsize=8)
    return figure
