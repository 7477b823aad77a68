"""The front page's figure, and the records that it rests on."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..experiment import read_records
from ..methods import Anchored
from ..scores import wilson
from .evidence import RESULTS, kept_records, whole_draws
from .figures import METRICS, PALETTE, colour_of, row_name
from .verdicts import Estimate, Measured, combine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
SWAPPED = "answers swapped"


def enough(
    name: str, records: str | Path, *, draws: int, n: int, folder: str = ""
) -> Rows:
    """An experiment's records: this build's if it has enough, else the kept ones.

    Kept records in NAME.json take precedence over those of older code in a folder NAME.

    Parameters
    ----------
    name : str
        The name of the kept records.
    records : str or Path
        The folder of this build's records.
    draws, n : int
        The least number of draws, and of facts in each.
    folder : str
        The name of the experiment, and of this build's records, if it differs.

    Returns
    -------
    list of dict
        Whole draws only.

    Raises
    ------
    FileNotFoundError
        If neither has enough.
    """
    sources = (read_records(Path(records, folder or name)),
               kept_records(name, experiment=folder),
               read_records(Path(RESULTS, name)))
    for rows in sources:
        large = whole_draws([r for r in rows if r["n"] >= n])
        if len({r["seed"] for r in large}) >= draws:
            return large
    raise FileNotFoundError(f"results/ has no run of {name} with {draws} draws of {n} facts")


def anchored_label(rows: Rows) -> str:
    """The label under which *anchored* ran with anchors and today's defaults.

    Parameters
    ----------
    rows : list of dict
        Records of held-out relations.

    Returns
    -------
    str
        The label.

    Raises
    ------
    LookupError
        If it did not run so.
    """
    now = Anchored()
    for row in rows:
        if row["method"].startswith("anchored+anchors"):
            if all(getattr(now, name) == value for name, value in row["settings"].items()):
                return row["method"]
    raise LookupError("anchored did not run with today's defaults on the held-out relations")


def relearnt(rows: Rows) -> dict[str, Estimate]:
    """Answers given again after the last step of training on the forgotten facts, in percent.

    Parameters
    ----------
    rows : list of dict
        Records of the chapter `gone`.

    Returns
    -------
    dict
        By method, with Wilson's interval. "answers swapped" is the unedited model that learns wrong
        answers to the same questions.
    """
    found = {}
    for row in rows:
        swapped = row["dataset"].endswith("-swapped")
        share = row["metrics"]["relearn by step"][-1]
        ends = wilson(round(row["n"] * share), row["n"])
        found[SWAPPED if swapped else row["method"]] = Estimate(100 * share, *ends)
    return found


def returns_faster(found: Mapping[str, Estimate], method: str) -> Estimate:
    """How many more answers return after a method than wrong answers are learnt without it.

    Parameters
    ----------
    found : mapping
        The result of `relearnt`.
    method : str
        The row's label.

    Returns
    -------
    Estimate
        In points.
    """
    return combine((1, found[method]), (-1, found[SWAPPED]))


def score(measured: Measured, method: str, metric: str) -> Estimate:
    """A score of a method, over draws.

    Parameters
    ----------
    measured : Measured
        Its records.
    method, metric : str
        "eff", "gen", "spe" or "ppl" of a row.

    Returns
    -------
    Estimate
        With its 95% interval.
    """
    if metric == "ppl":
        return measured.ppl(method)
    return measured.contrast({method: 1}, metric)


def kept(measured: Measured, method: str) -> float:
    """The share of Base's Spe that a method leaves, in percent: the ratio of means over draws.

    Parameters
    ----------
    measured : Measured
        Its records.
    method : str
        A row's label.

    Returns
    -------
    float
        100 if nothing is lost.
    """
    mine, base = (score(measured, row, "spe").value for row in (method, "base"))
    return 100 * mine / base


def scores(parts: Mapping[str, tuple[Measured, Sequence[str]]]) -> pd.DataFrame:
    """The scores that the front page draws.

    Parameters
    ----------
    parts : mapping
        By what the facts are called: their records, and the rows in order.

    Returns
    -------
    pd.DataFrame
        "facts", "method", "metric", "mean", "from" and "to"; "base" is among the methods.
    """
    rows = []
    for facts, (measured, methods) in parts.items():
        for method in ("base", *methods):
            for metric in ("eff", "gen", "spe", "ppl"):
                estimate = score(measured, method, metric)
                rows.append((facts, method, METRICS[metric], *estimate))
    return pd.DataFrame(rows, columns=["facts", "method", "metric", "mean", "from", "to"])


def draw_front(table: pd.DataFrame) -> Figure:
    """Draw what each method forgets, and what else is lost.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `scores`.

    Returns
    -------
    Figure
        A row of panels for each kind of facts; the unedited model is dashed.
    """
    import matplotlib.pyplot as plt

    kinds = [*dict.fromkeys(table.facts)]
    rows = {facts: [m for m in dict.fromkeys(table[table.facts == facts].method) if m != "base"]
            for facts in kinds}
    heights = [len(methods) + 0.6 for methods in rows.values()]
    figure, axes = plt.subplots(len(kinds), 4, figsize=(7.2, 0.7 + 0.28 * sum(heights)),
                                sharey="row", sharex="col", height_ratios=heights, squeeze=False)
    for facts, line in zip(kinds, axes, strict=True):
        for axis, metric in zip(line, ("Eff", "Gen", "Spe", "PPL"), strict=True):
            own = table[(table.facts == facts) & (table.metric == metric)].set_index("method")
            axis.axvline(own["mean"]["base"], color=PALETTE["base"], ls="--", lw=1.2)
            for at, method in enumerate(rows[facts]):
                mean, low, high = own.loc[method, ["mean", "from", "to"]]
                colour = colour_of(method)
                axis.plot([low, high], [at, at], color=colour, lw=2, alpha=0.7)
                axis.plot(mean, at, "o", color=colour, ms=5)
            axis.margins(0.12)
        line[0].set_yticks(range(len(rows[facts])), [row_name(m) for m in rows[facts]])
        line[0].set_ylim(len(rows[facts]) - 0.5, -0.5)
        line[0].set_ylabel(facts, fontsize=9)
    for axis, metric in zip(axes[0], ("Eff ↓", "Gen ↓", "Spe ↑", "PPL"), strict=True):
        axis.set_title(metric)
    for axis in axes[-1]:
        axis.set_xlabel("perplexity" if axis is axes[-1][-1] else "%")
    return figure
