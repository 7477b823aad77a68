"""Tables and figures of the protocol: what is known and not guessed, and what draws decide."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.facts import Fact
from ..experiment import Measure
from ..guesses import different_neighbors
from ..scores import score
from .anchors import GEN_SHARE, MOST_EFF, PPL_SHARE, SPE_SHARE
from .figures import PALETTE, SERIES
from .verdicts import NO, YES, every

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..edit import Edit

Rows = Sequence[Mapping[str, Any]]


def by_relation(
    facts: Sequence[Fact], right: Sequence[bool], guess: Mapping[Fact, float], most: float
) -> pd.DataFrame:
    """How many facts of each relation are known, and how many of these are no guess.

    Parameters
    ----------
    facts : sequence of Fact
        The facts that were asked.
    right : sequence of bool
        For each, whether the model is right.
    guess : mapping
        For each fact that the model is right about, the share of invented subjects, 0 to 1, that
        are given its answer.
    most : float
        The largest such share that still counts as no guess.

    Returns
    -------
    pd.DataFrame
        "relation", "asked", "right", "guessed" (right, but given to more invented subjects than
        `most`) and "known" (the rest of the right ones), in the order of the facts.
    """
    rows: dict[str, list[int]] = {}
    for fact, yes in zip(facts, right, strict=True):
        row = rows.setdefault(fact.relation or fact.prompt, [0, 0, 0])
        row[0] += 1
        if yes:
            row[1] += 1
            row[2] += guess[fact] > most
    frame = pd.DataFrame.from_dict(rows, "index", columns=["asked", "right", "guessed"])
    frame["known"] = frame.right - frame.guessed
    return frame.rename_axis("relation").reset_index()


def draw_relations(frame: pd.DataFrame) -> Figure:
    """A bar per relation: known, right by a likely guess, and not right.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `by_relation`.

    Returns
    -------
    Figure
        One panel, the first relation on top.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.0, 0.6 + 0.32 * len(frame)))
    parts = (("known", frame.known, SERIES[2], ""),
             ("a likely guess", frame.guessed, SERIES[1], "//"),
             ("not right", frame.asked - frame.right, "#dddddd", ""))
    left = np.zeros(len(frame))
    for name, width, colour, hatch in parts:
        axis.barh(frame.relation, width, left=left, color=colour, hatch=hatch, label=name,
                  edgecolor="white")
        left = left + width.to_numpy()
    for y, (known, asked) in enumerate(zip(frame.known, frame.asked, strict=True)):
        axis.annotate(f"{known} of {asked}", (asked, y), xytext=(4, 0), va="center", fontsize=9,
                      textcoords="offset points")
    axis.invert_yaxis()
    axis.set(xlabel="facts", xlim=(0, 1.18 * frame.asked.max()))
    axis.grid(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def spared(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forget: Sequence[Fact],
    edit: Edit | None,
) -> dict[str, list[float]]:
    """Which of the different neighbours are still answered: a measure of a grid.

    Parameters
    ----------
    model, tokenizer
        The model as it is, with the edit on it, and its tokenizer.
    forget : sequence of Fact
        The facts of the draw, with the neighbours that are asked.
    edit : Edit, optional
        Not used.

    Returns
    -------
    dict
        "spared": 1 or 0 for each question of `zu.guesses.different_neighbors`.
    """
    asked = different_neighbors(forget)
    right = score(model, tokenizer, asked)[:, 0].tolist() if asked else []
    return {"spared": right}


#: Records of the protocol hold the scores, and each different neighbour beside them.
SPARED = Measure(spared, beside=True)


def by_neighbor(rows: Rows) -> list[dict[str, Any]]:
    """Records with Spe as the protocol takes it: the share of different neighbours.

    Parameters
    ----------
    rows : sequence of dict
        Records of a grid with the measure `SPARED`.

    Returns
    -------
    list of dict
        The same with another Spe, in percent; NaN where a draw has no neighbour.
    """
    found = []
    for row in rows:
        kept = row["metrics"]["spared"]
        spe = 100 * float(np.mean(kept)) if kept else math.nan
        found.append({**row, "metrics": row["metrics"] | {"spe": spe}})
    return found


def reached(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether all four goals are met at once, by means and by intervals.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.anchors.goals`.

    Returns
    -------
    pd.DataFrame
        By row, without Base: "means within", how many of the four, and the verdicts "means" (yes or
        no) and "intervals" (yes, no or undecided).
    """
    table = {}
    for name, some in frame[frame.method != "base"].groupby("row", sort=False):
        within = int((some.lacks <= 0).sum())
        table[name] = {"means within": f"{within} of {len(some)}",
                       "means": YES if within == len(some) else NO,
                       "intervals": every(*some.verdict)}
    return pd.DataFrame.from_dict(table, "index")


def levels() -> pd.DataFrame:
    """What has to be reached, level by level.

    Returns
    -------
    pd.DataFrame
        By level: "facts" at once, and what of each score has to lie within its goal.
    """
    rows = [(1, "20", "the means"), (2, "20", "the 95% intervals"), (3, "50", "the 95% intervals"),
            (4, "100, and 1,000 one by one", "the means")]
    return pd.DataFrame(rows, columns=["level", "facts", "within the goals"]).set_index("level")


def goal_texts() -> pd.DataFrame:
    """The four goals in words.

    Returns
    -------
    pd.DataFrame
        By score, what is asked, and its bound.
    """
    rows = {
        "Eff": ("the forgotten facts, as they were given", f"at most {MOST_EFF:g}%"),
        "Gen": ("the same in wordings that no edit sees", f"at most {GEN_SHARE:.0%} of Base"),
        "Spe": ("known neighbours, each once", f"at least {SPE_SHARE:.0%} of Base"),
        "PPL": ("held-out prose", f"at most {PPL_SHARE - 1:+.0%} against Base"),
    }
    return pd.DataFrame.from_dict(rows, "index", columns=["asked", "goal"])


def half_widths(rows: Rows, method: str, draws: int) -> pd.DataFrame:
    """How far from a goal a mean must lie to be decided, judged by the spread of kept draws.

    Parameters
    ----------
    rows : sequence of dict
        Records of several draws, "base" among them.
    method : str
        The label of the row whose spread counts.
    draws : int
        How many draws there will be.

    Returns
    -------
    pd.DataFrame
        By score: "spread", the standard deviation over draws of what is compared with the goal, in
        points and of perplexity in percent, and "half", half of Student's 95% interval of the mean.

    Raises
    ------
    ValueError
        If fewer than two draws have both rows.
    """
    from scipy.stats import t

    by = {(row["method"], row["seed"]): row["metrics"] for row in rows}
    seeds = [seed for label, seed in by if label == method and ("base", seed) in by]
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} draws of {method} and base: a spread needs at least 2")
    mine, base = ([by[label, seed] for seed in seeds] for label in (method, "base"))
    pairs = [*zip(mine, base, strict=True)]
    compared = {
        "Eff": [a["eff"] for a in mine],
        "Gen": [a["gen"] - GEN_SHARE * b["gen"] for a, b in pairs],
        "Spe": [a["spe"] - SPE_SHARE * b["spe"] for a, b in pairs],
        "PPL": [100 * math.log(a["ppl"] / b["ppl"]) for a, b in pairs],
    }
    spread = pd.Series({name: float(np.std(x, ddof=1)) for name, x in compared.items()})
    half = t.ppf(0.975, draws - 1) * spread / math.sqrt(draws)
    return pd.DataFrame({"spread": spread, "half": half})


def draw_decided(frame: pd.DataFrame, draws: int) -> Figure:
    """Where a mean is decided: for each score, the band about its goal in which it is not.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `half_widths`.
    draws : int
        How many draws it was made for.

    Returns
    -------
    Figure
        One panel: a band per score, from half an interval below the goal to half above.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.0, 2.2))
    names = [*frame.index]
    axis.barh(names, 2 * frame.half, left=-frame.half, color=PALETTE["base"], alpha=0.35,
              height=0.5)
    for y, half in enumerate(frame.half):
        axis.annotate(f"±{half:.1f}", (half, y), xytext=(4, 0), va="center", fontsize=9,
                      textcoords="offset points")
    axis.axvline(0, color="black", lw=1)
    axis.invert_yaxis()
    most = 1.5 * frame.half.max()
    axis.set(xlabel=f"points (perplexity: percent) from the goal, mean of {draws} draws",
             xlim=(-most, most))
    axis.grid(False, axis="y")
    return figure
