"""Tables and figures of few-shot unlearning: one edit drawn, and the scores of many draws."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..scores import wilson
from .figures import LABELS, METRICS, PALETTE, colour_of, like, printed
from .significance import Order, holm, order
from .verdicts import UNDECIDED, Estimate, Measured, at_most, over_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.facts import Fact

Rows = Sequence[dict[str, Any]]
#: Likeliest tokens and their probabilities.
Choices = tuple[list[str], list[float]]
#: The paper prints no perplexity beyond it (`book/paper/tables.csv` notes which).
CAP = 1000
STEPS = ("before", "ridge", "projection")


def shown_fact(fact: Fact, dataset: str) -> str:
    """A fact for a page: facts of the embedded world are quoted, your own are not.

    Parameters
    ----------
    fact : Fact
        The fact to show.
    dataset : str
        As `zu.load_facts` takes it.

    Returns
    -------
    str
        Its text and target, or a word in their place.
    """
    if dataset.startswith("world-"):
        return f"“{fact.text} … {fact.target}”"
    return "(a fact of your own)"


def first_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int],
    count: int = 5, *, hide: bool = False,
) -> Choices:
    """The likeliest next tokens after a prompt.

    Parameters
    ----------
    model, tokenizer
        The model to ask, with its tokenizer.
    ids : sequence of int
        The prompt's tokens.
    count : int
        The number of tokens.
    hide : bool
        Whether to number the tokens in place of showing them: a forget set of your own is private.

    Returns
    -------
    tokens, probabilities : list of str, list of float
        The likeliest first.
    """
    with torch.no_grad():
        logits = model(torch.tensor([[*ids]], device=model.device)).logits[0, -1]  # (vocabulary,)
    top = logits.float().softmax(-1).topk(count)
    tokens = [repr(tokenizer.decode(int(i)))[1:-1] for i in top.indices]
    if hide:
        tokens = [f"token {i + 1}" for i in range(count)]
    return tokens, top.values.tolist()


def plane(values: Sequence[torch.Tensor]) -> pd.DataFrame:
    """A layer's outputs for subjects, step by step, in the plane that the edit moves.

    The first axis is the layer's output for the first subject; the second, what the ridge step
    adds to it that is orthogonal. The unit is the length of the first subject's old value.

    Parameters
    ----------
    values : sequence of Tensor
        Three of shape (d, subjects): as it was, after the ridge step, after the projection too.

    Returns
    -------
    pd.DataFrame
        One row per step and subject: "step", "subject" (0 is the one that is edited), "old" and
        "new", the coordinates.
    """
    before, ridge = values[0][:, :1], values[1][:, :1]         # (d, 1)
    pair = torch.cat([before, ridge], 1)                       # (d, 2)
    axes = torch.linalg.qr(pair)[0]
    axes = axes * (axes.T @ pair).diagonal().sign()            # so that both point forward
    rows = []
    for step, some in zip(STEPS, values, strict=True):
        at = (axes.T @ some / before.norm()).cpu()             # (2, subjects)
        rows += [{"step": step, "subject": i, "old": float(old), "new": float(new)}
                 for i, (old, new) in enumerate(at.T)]
    return pd.DataFrame(rows)


def moved(steps: pd.DataFrame) -> dict[str, float]:
    """How far an edit moves the subjects of `plane`.

    Parameters
    ----------
    steps : pd.DataFrame
        The result of `plane`.

    Returns
    -------
    dict
        "left", what the edited subject keeps along its old value; "others" and "others_moved", the
        medians of what other subjects have along it, and of how far they move.
    """
    by = steps.set_index(["step", "subject"])[["old", "new"]]
    before, after = by.loc["before"], by.loc["projection"]
    way = np.hypot(*(after - before).to_numpy().T)             # (subjects,)
    return {"left": abs(float(after.old[0])), "others": float(before.old[1:].median()),
            "others_moved": float(np.median(way[1:]))}


def draw_edit(says: Sequence[Choices], steps: pd.DataFrame, layer: int) -> Figure:
    """One edit, after the paper's Figure 1: the answers before and after, and the way between.

    Parameters
    ----------
    says : sequence of tuple
        The result of `first_choices`, before and after.
    steps : pd.DataFrame
        The result of `plane`.
    layer : int
        The layer of these outputs.

    Returns
    -------
    Figure
        Three panels.
    """
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.4, 2.9), width_ratios=[1, 1.5, 1])
    _bars(left, says[0], "before", PALETTE["base"])
    _bars(right, says[1], "after", PALETTE["zerounlearn"])
    at = {step: some.set_index("subject")[["old", "new"]] for step, some in steps.groupby("step")}
    grey = {"arrowstyle": "->", "color": "#999999", "lw": 0.8}
    for subject in at["before"].index[1:]:
        middle.annotate("", at["projection"].loc[subject], at["before"].loc[subject],
                        arrowprops=grey)
    ways = (("before", "ridge", "memit"), ("ridge", "projection", "zerounlearn"))
    for start, end, colour in ways:
        thick = {"arrowstyle": "-|>", "color": PALETTE[colour], "lw": 1.8, "shrinkA": 0,
                 "shrinkB": 0}
        middle.annotate("", at[end].loc[0], at[start].loc[0], arrowprops=thick)
        between = (at[end].loc[0] + at[start].loc[0]) / 2
        middle.annotate(end, between, (5, 3), textcoords="offset points", color=PALETTE[colour])
    middle.plot(*at["before"].loc[0], "o", color="black", ms=5)
    middle.axvline(0, color="black", lw=0.8, ls=":")
    seen = pd.concat([at["before"], at["projection"], at["ridge"].loc[[0]]])
    middle.set(xlabel="along the old output", ylabel="along the new part", title=f"layer {layer}",
               xlim=_around(seen.old), ylim=_around(seen.new))
    return figure


def _bars(axis: Axes, choices: Choices, title: str, colour: str) -> None:
    """The likeliest tokens as bars, the first on top."""
    tokens, chances = choices
    axis.barh(range(len(chances)), chances, color=colour)
    axis.set_yticks(range(len(chances)), [token.replace("$", r"\$") for token in tokens])
    axis.set(xlim=(0, 1), title=title, xlabel="probability")
    axis.invert_yaxis()


def _around(values: pd.Series) -> tuple[float, float]:
    """Limits of an axis with an eighth of the range on either side."""
    pad = (values.max() - values.min()) / 8
    return values.min() - pad, values.max() + pad


def averages(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over draws with 95% intervals, by data set, never over two scoring rules.

    The interval is Student's; if all draws answer none, or all, it is Wilson's over their facts.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`.

    Returns
    -------
    pd.DataFrame
        By model, data set, method and metric: "value", "half", half the interval (of none, or all,
        the whole of it; NaN for one draw), and "draws". What was not measured has no row.
    """
    rows = {}
    keys = ["model", "dataset", "method", "metric"]
    for key, some in frame.dropna(subset="value").groupby(keys, sort=False):
        values, asked = some.value.to_numpy(), int(some.n.sum())
        if (values == 0).all() or (values == 100).all():
            estimate = Estimate(values[0], *wilson(round(asked * values[0] / 100), asked))
        elif len(values) > 1:
            estimate = over_draws(values)
        else:
            estimate = Estimate(values[0], np.nan, np.nan)
        rows[key] = (estimate.value, _half(estimate), len(values))
    index = pd.MultiIndex.from_tuples([*rows], names=keys)
    return pd.DataFrame([*rows.values()], index, ["value", "half", "draws"])


def _half(estimate: Estimate) -> float:
    """Half an interval's length; all of it if the number is at one end."""
    length = estimate.high - estimate.low
    return length if estimate.value in (estimate.low, estimate.high) else length / 2


def score_table(
    means: pd.DataFrame, names: Mapping[str, str], tables: pd.DataFrame
) -> pd.DataFrame:
    """Our scores with intervals, beside the paper's for the data set of the same form.

    Parameters
    ----------
    means : pd.DataFrame
        The result of `averages`.
    names : mapping
        The names of rows by their labels, in the order of the rows.
    tables : pd.DataFrame
        The paper's numbers (``book/paper/tables.csv``).

    Returns
    -------
    pd.DataFrame
        By data set and method, ("here" or "the paper", metric) as columns; texts.
    """
    parts = {}
    models = means.index.unique("model")
    for model, dataset in means.index.droplevel(["method", "metric"]).unique():
        own = means.loc[model, dataset]
        theirs = printed(tables, model, dataset).set_index(["method", "metric"])["mean"]
        rows = {}
        for method, name in names.items():
            if method not in own.index.unique("method"):
                continue
            row = {("here", metric): _number(own, method, metric) for metric in METRICS.values()}
            for metric in ("Eff", "Gen", "Spe", "PPL"):
                value = theirs.get((LABELS.get(method.partition(":")[0], ""), metric))
                capped = value is not None and value >= CAP
                row["the paper", metric] = ("–" if value is None else f">{CAP}" if capped
                                            else f"{value:.1f}")
            rows[name] = row
        title = dataset if len(models) == 1 else f"{model}, {dataset}"
        title += f" (paper: {like(dataset)})" if like(dataset) else ""
        parts[title] = pd.DataFrame.from_dict(rows, "index")
    table = pd.concat(parts)
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table.loc[:, (table != "–").any()]


def _number(own: pd.DataFrame, method: str, metric: str) -> str:
    """A mean with half its interval; a dash where it was not measured."""
    if (method, metric) not in own.index:
        return "–"
    value, half, _ = own.loc[method, metric]
    if value == 0:
        return f"0 (≤\u00a0{half:.1f})"
    return f"{value:.1f}" if half != half else f"{value:.1f} ±\u00a0{half:.1f}"  # NaN is not itself


def draw_scores(frame: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """One row of panels per model and data set: one dot per draw, and the mean with its interval.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `zu.book.figures.metrics_frame`.
    names : mapping
        The names of rows by their labels, in the order of the rows.

    Returns
    -------
    Figure
        Panels for Eff, Gen, Spe and PPL; of hops, Hop in place of Gen and no Spe.
    """
    import matplotlib.pyplot as plt

    means = averages(frame)
    sets = [*dict.fromkeys(zip(frame.model, frame.dataset, strict=True))]
    order_ = [method for method in names if method in {*frame.method}]
    height = 0.5 + (0.6 + 0.24 * len(order_)) * len(sets)
    figure, axes = plt.subplots(len(sets), 4, figsize=(7.4, height), squeeze=False, sharey=True)
    for (model, dataset), row in zip(sets, axes, strict=True):
        own, rows = means.loc[model, dataset], frame[frame.model == model]
        measured = own.index.unique("metric")
        title = dataset if frame.model.nunique() == 1 else f"{dataset}, {model}"
        for axis, metric in zip(row, ("Eff", "Gen", "Spe", "PPL"), strict=True):
            metric = "Hop" if metric == "Gen" and "Hop" in measured else metric
            if metric not in measured:
                axis.set_visible(False)
                continue
            some = rows[(rows.dataset == dataset) & (rows.metric == metric)]
            _dots(axis, some, own.xs(metric, level="metric"), order_)
            axis.set_title(f"{metric}, {title}" if metric == "Eff" else metric, loc="left")
            axis.set_xlabel("%" if metric != "PPL" else "perplexity")
        row[0].set_yticks(range(len(order_)), [names[method] for method in order_])
    axes[0, 0].invert_yaxis()  # of all: they share it
    return figure


def _dots(axis: Axes, some: pd.DataFrame, own: pd.DataFrame, order_: Sequence[str]) -> None:
    """One panel: dots of the draws, faint, and means with their intervals."""
    for at, method in enumerate(order_):
        if method not in own.index:
            continue
        colour, values = colour_of(method), some[some.method == method].value
        axis.plot(values, [at] * len(values), "o", ms=3, color=colour, alpha=0.35)
        mean, half, _ = own.loc[method]
        ends = None if half != half else [[half if mean > 0 else 0], [half]]
        axis.errorbar(mean, at, xerr=ends, fmt="o", ms=6, color=colour, capsize=2,
                      mfc=colour if ":" not in method else "white")
    axis.margins(x=0.12)


def orders(means: pd.DataFrame, tables: pd.DataFrame) -> pd.DataFrame:
    """Whether we rank the paper's methods as the paper does, by data set and metric.

    Parameters
    ----------
    means : pd.DataFrame
        The result of `averages`.
    tables : pd.DataFrame
        The paper's numbers.

    Returns
    -------
    pd.DataFrame
        By data set and metric: "τ", "p", "p (Holm)" over all that are looked at, and "methods", how
        many are ranked. Empty if the paper prints nothing that is like it.
    """
    found: dict[tuple[str, str], Order] = {}
    for model, dataset in means.index.droplevel(["method", "metric"]).unique():
        theirs = printed(tables, model, dataset).set_index(["method", "metric"])["mean"]
        own = means.loc[model, dataset].value
        for metric in ("Eff", "Spe", "PPL"):
            pairs = []
            for method in own.index.unique("method"):
                label = LABELS.get(method.partition(":")[0], "")
                both = own.get((method, metric)), theirs.get((label, metric))
                if method != "base" and None not in both and np.isfinite(both).all():
                    pairs.append(both)
            if pairs and (ranked := order(*zip(*pairs, strict=True))):
                found[dataset, metric] = ranked
    together = holm({key: one.p for key, one in found.items()})
    rows = [{"data set": key[0], "metric": key[1], "τ": one.tau, "p": one.p,
             "p (Holm)": together[key], "methods": one.n} for key, one in found.items()]
    columns = ["data set", "metric", "τ", "p", "p (Holm)", "methods"]
    return pd.DataFrame(rows, columns=columns).set_index(["data set", "metric"])


class Scores:
    """The scores of one data set, for the sentences of a page.

    Parameters
    ----------
    records : sequence of dict
        Records of one model and data set.
    """

    def __init__(self, records: Rows) -> None:
        self.records = records
        self.measured = Measured(records)

    def mean(self, method: str, metric: str) -> float:
        """A metric's mean over draws.

        Parameters
        ----------
        method : str
            A row's label.
        metric : str
            "eff", "gen", "spe", "hop" or "ppl".

        Returns
        -------
        float
            NaN if the row was not run, or the metric not measured.
        """
        values = [r["metrics"][metric] for r in self.records if r["method"] == method]
        measured = [value for value in values if value is not None]
        return float(np.mean(measured)) if measured else float("nan")

    def share(self, method: str, metric: str) -> float:
        """A mean in percent of Base's, NaN if that is 0; see `mean`."""
        base = self.mean("base", metric)
        return 100 * self.mean(method, metric) / base if base else float("nan")

    def answered(self, method: str) -> tuple[int, int]:
        """How many facts are still answered after a method, over all draws, and of how many."""
        rows = [r["metrics"] for r in self.records if r["method"] == method]
        right = sum(round(row["eff"] * row["n_eff"] / 100) for row in rows)
        return right, sum(row["n_eff"] for row in rows)

    def below(
        self, method: str, other: str, metric: str, *, share: float = 1.0, by: float = 0.0
    ) -> tuple[str, object]:
        """Whether a method's percentage is below another's, draw by draw.

        Parameters
        ----------
        method, other : str
            Rows' labels.
        metric : str
            "eff", "gen", "spe" or "hop".
        share : float
            Whether it is below this share of the other's.
        by : float
            Whether it is also this many points lower.

        Returns
        -------
        verdict, difference : str, Estimate or str
            As `zu.book.claims.claim` takes them; undecided if a row was not run.
        """
        try:
            gap = self.measured.contrast({method: 1, other: -share}, metric)
        except ValueError:
            return UNDECIDED, "not run"
        return at_most(gap, -by), gap
