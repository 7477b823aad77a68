"""Tables and figures of tasks downstream: the items that an edited model gets right."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..experiment.tasks import compare
from ..scores import wilson
from .figures import PALETTE, colour_of, method_of
from .verdicts import NO, UNDECIDED, YES, Estimate, over_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
#: Tasks of sentiment and of inference, ours and the paper's, on which it says that GA collapses.
COLLAPSING = ("sentiment", "sst2", "entailment", "rte", "inference", "mnli")
#: Together, of the tasks that Base can do.
ALL = "all"


def accuracies(records: Rows) -> pd.DataFrame:
    """The results of each task, one per row.

    Parameters
    ----------
    records : sequence of dict
        Records of the chapter.

    Returns
    -------
    pd.DataFrame
        "dataset", "model", "method", "seed", "n", "task", "accuracy" with the ends of its interval
        over items "low" and "high", "items", "chance", "said" (how often the right answer is what
        the model would write), all in percent; and "right", one digit per item.
    """
    about = ("dataset", "model", "method", "seed", "n")
    return pd.DataFrame([
        {name: record[name] for name in about}
        | {"task": task, "accuracy": m["acc"], "low": m["interval"][0], "high": m["interval"][1],
           "items": m["n"], "chance": m["chance"], "said": m["said"], "right": m["right"]}
        for record in records for task, m in record["metrics"].items()])


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """By method and task: the numbers of `accuracies`, on average over draws."""
    columns = ["accuracy", "low", "high", "items", "said", "chance"]
    return frame.groupby(["method", "task"], sort=False)[columns].mean()


def example(task: Any) -> tuple[str, str]:
    """The first item of a task as the model reads it, without the solved ones, and its answers.

    Parameters
    ----------
    task : object of the harness, or None
        A task from your own file; for others nothing is shown.

    Returns
    -------
    item, answers : str
        With ⏎ for a new line, and ✓ after the right answer.
    """
    if task is None or getattr(task.config, "custom_dataset", None) is None:
        return "(from the hub)", ""
    item = task.eval_docs[0]
    answers = [*task.doc_to_choice(item)]
    answers[task.doc_to_target(item)] += " ✓"
    text = task.doc_to_text(item).replace("\n", " ⏎ ")
    return f"{text} …" if text else "(no prompt)", " / ".join(answers)


def like_of(task: Any) -> str:
    """The paper's task that one of ours stands in for; empty if there is none."""
    return (getattr(task.config, "metadata", None) or {}).get("paper") or "" if task else ""


def tasks_table(
    loaded: Mapping[str, Mapping[str, Any]], base: pd.DataFrame
) -> pd.DataFrame:
    """The tasks: one item of each, the paper's task like it, and the unedited model's score.

    Parameters
    ----------
    loaded : mapping
        The result of `zu.experiment.tasks.load_tasks`.
    base : pd.DataFrame
        By task, Base's rows of `means`.

    Returns
    -------
    pd.DataFrame
        One row per task; texts.
    """
    rows = {}
    for task, parts in loaded.items():
        item, answers = example(parts.get(task))
        own = base.loc[task]
        rows[task] = {"the paper's": like_of(parts.get(task)) or "–", "first item": item,
                      "answers": answers, "chance": f"{own.chance:.0f}", "Base": _cell(own)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _cell(row: pd.Series) -> str:
    """An accuracy with its interval."""
    return f"{row.accuracy:.1f} [{row.low:.0f},\u00a0{row.high:.0f}]"


def table_of(mean: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Accuracies with intervals over items.

    Parameters
    ----------
    mean : pd.DataFrame
        The result of `means`.
    names : mapping
        The names of rows by their labels.

    Returns
    -------
    pd.DataFrame
        A row for chance and one per method, one column per task; texts.
    """
    found = {}
    for task, some in mean.groupby(level="task", sort=False):
        own = some.droplevel("task")
        found[task] = {"chance": f"{own.chance.iloc[0]:.0f}"} | {
            name: _cell(own.loc[label]) for label, name in names.items() if label in own.index}
    return pd.DataFrame(found)


def draw_tasks(
    mean: pd.DataFrame, names: Mapping[str, str], able: Sequence[str], likes: Mapping[str, str]
) -> Figure:
    """Accuracy of the edited models on each task.

    Parameters
    ----------
    mean : pd.DataFrame
        The result of `means`.
    names : mapping
        The names of rows by their labels, in the order of the rows.
    able : sequence of str
        The tasks on which Base is above chance; titles of others are grey.
    likes : mapping
        The paper's task by ours.

    Returns
    -------
    Figure
        One panel per task.
    """
    import matplotlib.pyplot as plt

    tasks = [*mean.index.unique("task")]
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(lines, columns, sharey=True, squeeze=False,
                                figsize=(7.4, lines * (0.75 + 0.2 * len(names))))
    for axis, task in zip(axes.flat, tasks, strict=False):
        _panel(axis, mean.xs(task, level="task"), [*names])
        like = f" ({likes[task]})" if likes.get(task) else ""
        axis.set_title(task + like, color="black" if task in able else "#888888")
    for axis in [*axes.flat][max(len(tasks) - columns, 0):len(tasks)]:
        axis.set_xlabel("accuracy, %")
    for axis in [*axes.flat][len(tasks):]:
        axis.set_axis_off()
    axes[0, 0].set_yticks(range(len(names)), [*names.values()])
    axes[0, 0].invert_yaxis()
    return figure


def _panel(axis: Axes, own: pd.DataFrame, labels: Sequence[str]) -> None:
    """One task: a dot with its interval per method, chance and Base as lines."""
    for at, label in enumerate(labels):
        row, colour = own.loc[label], colour_of(label)
        axis.plot([row.low, row.high], [at, at], color=colour, lw=2, alpha=0.7,
                  solid_capstyle="butt")
        axis.plot(row.accuracy, at, "o", ms=5, color=colour)
    axis.axvline(own.chance.iloc[0], ls="--", lw=1, color="#999999", zorder=0)
    axis.axvline(own.accuracy["base"], ls=":", lw=1.2, color=PALETTE["base"], zorder=0)
    axis.set(xlim=(-5, 108), xticks=[0, 50, 100])


class Changes:
    """How the answers of edited models differ from Base's, item by item.

    Only tasks on which Base is above chance can show a loss; those are `able`.

    Parameters
    ----------
    records : sequence of dict
        Records of one model, with "base" in every draw.
    """

    def __init__(self, records: Rows) -> None:
        self.by = {(record["method"], record["seed"]): record["metrics"] for record in records}
        self.seeds = sorted({seed for _, seed in self.by})
        # of two rows of one method the first one counts
        self.labels = {method_of(label): label for label, _ in reversed([*self.by])}
        base = self.by["base", self.seeds[0]]
        self.able = [task for task, m in base.items() if m["interval"][0] > m["chance"]]

    def _label(self, method: str) -> str:
        """The label of a method's first row; the name if there is none."""
        return self.labels.get(method, method)

    def tests(self) -> pd.DataFrame:
        """McNemar's test of every method, draw and task that Base can do.

        Returns
        -------
        pd.DataFrame
            "method" (a label), "seed", "task" ("all" for the items of all together), items "lost"
            and "won", the "difference" in points, and "p", of single tasks times the number of
            tasks (`zu.experiment.tasks.compare`), and times the number of draws.
        """
        rows = []
        for (label, seed), metrics in self.by.items():
            if label == "base":
                continue
            asked = {task: metrics[task]["n"] for task in self.able}
            asked[ALL] = sum(asked.values())
            for task, (lost, won, p) in compare(self.by["base", seed], metrics).items():
                gap = 100 * (won - lost) / max(asked[task], 1)
                rows.append({"method": label, "seed": seed, "task": task, "lost": lost, "won": won,
                             "difference": gap, "p": min(1.0, p * len(self.seeds))})
        columns = ["method", "seed", "task", "lost", "won", "difference", "p"]
        return pd.DataFrame(rows, columns=columns)

    def losses(self, method: str) -> list[str]:
        """The single tasks on which the rule finds a loss of a method, in any draw."""
        tests = self.tests()
        own = tests[(tests.method == self._label(method)) & (tests.task != ALL)]
        return [*dict.fromkeys(own[(own.p < 0.05) & (own.difference < 0)].task)]

    def comparable(self, method: str) -> tuple[str, str]:
        """Whether the rule finds no loss of a method.

        Parameters
        ----------
        method : str
            Its name, without settings.

        Returns
        -------
        verdict, measured : str
            As `zu.book.claims.claim` takes them; undecided if it was not run, or Base can do
            no task.
        """
        if method not in self.labels or not self.able:
            return UNDECIDED, "nothing to compare"
        lost = self.losses(method)
        return NO if lost else YES, ", ".join(lost)

    def items(self, method: str, tasks: Sequence[str]) -> np.ndarray:
        """Each item's change in points, on average over draws.

        Parameters
        ----------
        method : str
            Its name, without settings.
        tasks : sequence of str
            The tasks whose items count.

        Returns
        -------
        (items,) array
            −100 for an item that is lost in every draw, 100 for one won; empty if the method
            was not run.
        """
        rows = []
        for seed in self.seeds:
            if (self._label(method), seed) not in self.by:
                return np.empty(0)
            pair = self.by["base", seed], self.by[self._label(method), seed]
            before, after = (np.array([int(x) for task in tasks for x in metrics[task]["right"]])
                             for metrics in pair)
            rows.append(100.0 * (after - before))
        return np.mean(rows, 0)

    def change(
        self, method: str, tasks: Sequence[str] | None = None, than: str = ""
    ) -> Estimate:
        """The change of accuracy in points, with a 95% interval over items.

        Parameters
        ----------
        method : str
            Its name, without settings.
        tasks : sequence of str, optional
            The tasks whose items count; by default all that Base can do.
        than : str
            A method whose change is subtracted, item by item.

        Returns
        -------
        Estimate
            The mean over draws with Student's interval over items; if no item changed, Wilson's
            of none. NaN if a method was not run, or there is no task.
        """
        asked = self.able if tasks is None else tasks
        items = self.items(method, asked)
        other = self.items(than, asked) if than else np.zeros(len(items))
        if len(items) < 2 or len(other) != len(items):
            return Estimate(np.nan, np.nan, np.nan)
        if not (items - other).any():
            most = wilson(0, len(items))[1]
            return Estimate(0.0, -most, most)
        return over_draws(items - other)

    def gained(self, task: str) -> float:
        """Base's accuracy above chance on a task, in points; NaN if the task was not run."""
        found = self.by["base", self.seeds[0]].get(task)
        return found["acc"] - found["chance"] if found else np.nan

    def kept(self, method: str, task: str) -> float:
        """The share of Base's accuracy above chance that is left, in percent; NaN if not run."""
        gained = self.gained(task)
        if not gained > 0:
            return np.nan
        return 100 * (1 + self.change(method, [task]).value / gained)

    def changed(self, method: str) -> tuple[float, float]:
        """Items lost and items won of all tasks that Base can do, per draw; NaN if not run."""
        tests = self.tests()
        own = tests[(tests.method == self._label(method)) & (tests.task == ALL)]
        return float(own.lost.mean()), float(own.won.mean())


def changes_table(
    tests: pd.DataFrame, names: Mapping[str, str], able: Sequence[str]
) -> pd.DataFrame:
    """Changes of accuracy with the items lost and won, and a star if a test finds a change.

    Parameters
    ----------
    tests : pd.DataFrame
        The result of `Changes.tests`.
    names : mapping
        The names of rows by their labels.
    able : sequence of str
        The tasks that Base can do.

    Returns
    -------
    pd.DataFrame
        One row per method, one column per task and one for all; texts. Items are summed over draws,
        and the star is for any of them.
    """
    if not len(tests):
        return pd.DataFrame(index=[*names.values()])
    sums = tests.groupby(["method", "task"], sort=False).agg(
        lost=("lost", "sum"), won=("won", "sum"), difference=("difference", "mean"),
        p=("p", "min")).reset_index()
    sums["text"] = [_signed(x) for x in sums.itertuples()]
    wide = sums.pivot(index="method", columns="task", values="text")
    wide = wide.reindex(index=[*names], columns=[ALL, *able]).rename(index=dict(names))
    return wide.rename_axis(index=None, columns=None)


def _signed(row: Any) -> str:
    """For example "−3.1 (−4, +2) *"."""
    star = " *" if row.p < 0.05 else ""
    gap = f"{row.difference:+.1f}".replace("-", "−")
    return f"{gap} (−{row.lost}, +{row.won}){star}"


def smallest_loss(tests: int, level: float = 0.05) -> int:
    """The least number of items lost, with none won, that McNemar's test finds.

    Parameters
    ----------
    tests : int
        The number by which p is multiplied.
    level : float
        The level of the test.

    Returns
    -------
    int
        The first k with 2 · 0.5ᵏ · tests below it.
    """
    k = 1
    while 2 * 0.5**k * tests >= level:
        k += 1
    return k
