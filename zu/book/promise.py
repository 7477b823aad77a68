"""Tables and figures of the page on promises: bounds by the number of questions, a kept card."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..audit.cards import FORMAT, summary
from ..audit.erasure import TESTS
from ..audit.promises import at_most, questions_needed
from .figures import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_card(records: Iterable[Mapping[str, Any]], method: str) -> dict[str, Any]:
    """A card's content from records of the chapter on erasure: without neighbours and prose.

    Parameters
    ----------
    records : iterable of dict
        Records of `gone`, "base" among them, of one draw.
    method : str
        The label of the row.

    Returns
    -------
    dict
        What `zu.audit.promises` reads.

    Raises
    ------
    ValueError
        If a record is missing.
    """
    rows = {r["method"]: r for r in records if not r["dataset"].endswith("-swapped")}
    if missing := {"base", method} - set(rows):
        raise ValueError(f"no record of {', '.join(sorted(missing))}: run the chapter gone first")
    measured = {}
    for state, name in (("before", "base"), ("after", method)):
        found = {test: summary(rows[name]["metrics"][test]) for test in TESTS}
        measured[state] = {"eff": found["asked"], "gen": found["phrasings"], "robustness": found}
    return {"format": FORMAT, "facts": rows[method]["n"], "measures": measured}


def found_again(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """How many tests still find an answer after each edit.

    Parameters
    ----------
    records : iterable of dict
        Records of `gone`, of one draw.

    Returns
    -------
    pd.DataFrame
        By method, without the unedited model, of the tests other than "asked": "tests that find
        answers" and "tests that find none".
    """
    rows = {}
    for record in records:
        if record["method"] == "base":
            continue
        means = [summary(record["metrics"][test])[0] for test in TESTS if test != "asked"]
        rows[record["method"]] = [sum(x > 0 for x in means), sum(x == 0 for x in means)]
    columns = ["tests that find answers", "tests that find none"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("edit")


def bounds(counts: Sequence[int], hits: Sequence[int]) -> pd.DataFrame:
    """The largest share that so many hits leave possible, by the number of questions.

    Parameters
    ----------
    counts : sequence of int
        Numbers of questions.
    hits : sequence of int
        Numbers of hits; where there are more hits than questions the row is left out.

    Returns
    -------
    pd.DataFrame
        "questions", "hits" and "bound", 0 to 1.
    """
    rows = [(n, k, at_most(k, n)) for k in hits for n in counts if k <= n]
    return pd.DataFrame(rows, columns=["questions", "hits", "bound"])


def draw_bounds(frame: pd.DataFrame, marked: int) -> Figure:
    """The bounds as curves over the number of questions, both on logarithmic axes.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `bounds`.
    marked : int
        The number of questions that is marked.

    Returns
    -------
    Figure
        One panel.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.0, 3.2))
    looks = zip(frame.groupby("hits"), SERIES, ("-", "--", ":", "-."), strict=False)
    for (hits, rows), colour, dash in looks:
        name = "1 answered" if hits == 1 else f"{hits or 'none'} answered"
        axis.plot(rows.questions, 100 * rows.bound, dash, color=colour, label=name)
    axis.axvline(marked, color="#888888", linewidth=0.8)
    axis.annotate(f"{marked} questions", (marked, 1.2), xytext=(4, 0),
                  textcoords="offset points", fontsize=9)
    axis.set(xscale="log", yscale="log", xlabel="questions, drawn at random",
             ylabel="share still possible, %")
    ticks = [1, 2, 5, 10, 20, 50, 100]
    axis.set_yticks(ticks, [str(t) for t in ticks])
    axis.legend()
    return figure


def sizes(shares: Sequence[float], hits: Sequence[int]) -> pd.DataFrame:
    """How many must be asked to promise a share.

    Parameters
    ----------
    shares : sequence of float
        Shares, 0 to 1.
    hits : sequence of int
        Hits that are allowed for.

    Returns
    -------
    pd.DataFrame
        A row per share and a column per number of hits.
    """
    rows = {f"at most {share:.0%}": [questions_needed(share, k) for k in hits] for share in shares}
    columns = ["1 answered" if k == 1 else f"{k or 'none'} answered" for k in hits]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("promise")


def coverage(
    facts: int, wordings: int, share: float, alike: float, *, worlds: int = 20_000, seed: int = 0
) -> dict[str, float]:
    """How often a bound of 95% holds if the wordings of a fact are answered alike.

    Each fact has its own probability of being answered, from a beta distribution with the mean
    `share`, for which two wordings of a fact correlate by `alike`.

    Parameters
    ----------
    facts, wordings : int
        How many facts, and wordings of each.
    share : float
        The true share of questions that are answered, between 0 and 1.
    alike : float
        The correlation between two wordings of a fact, between 0 and 1.
    worlds : int
        How many worlds are drawn.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        The share of the worlds whose bound is at least `share`: "questions", counting each
        question, and "facts", counting the first wording of each fact alone.
    """
    spread = 1 / alike - 1
    g = np.random.default_rng(seed)
    own = g.beta(share * spread, (1 - share) * spread, (worlds, facts))
    answered = g.random((worlds, facts, wordings)) < own[..., None]  # (worlds, facts, wordings)
    counted = {"questions": (answered.sum((1, 2)), facts * wordings),
               "facts": (answered[..., 0].sum(1), facts)}
    found = {}
    for name, (hits, n) in counted.items():
        bound = np.array([at_most(k, n) for k in range(n + 1)])
        found[name] = float((bound[hits] >= share).mean())
    return found
