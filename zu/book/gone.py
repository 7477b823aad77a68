"""Tables and figures of the chapter on erasure: answers that tests get back, and how fast."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..audit.cards import summary
from ..audit.erasure import TESTS
from ..scores import wilson
from .figures import PALETTE, SERIES, colour_of
from .verdicts import UNDECIDED, YES, Estimate, at_least, combine, every

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The unedited model, asked and taught other facts' answers.
SWAPPED = "swapped"
#: Nothing is concluded from fewer facts.
FEW = 5
#: What the model is trained on before it is asked again, by the test's name.
LESSONS = {"relearn": "trained on the forgotten facts",
           "relearn others": "trained on other facts"}
READINGS = {"lens": "logit lens", "probe": "linear probe"}
#: What each test is held against. Swapped facts can score where a wrong answer may be found or
#: taught. Where the model is only asked it says the true ones, so that asking after the same edit
#: is all there is. Facts that were never known are behind no test.
CONTROLS = {test: "swapped, asking" if test in ("lens", "probe", "relearn") else "asking"
            for test in TESTS if test != "asked"} | {"asked": "none"}
#: The looks of fakes, in their order.
DASHES = ("--", ":", "-.")
#: Tokens from the left, and how many layers are drawn; those of the edit.
PROMPT, DEPTH, EDITED = ("The capital of", "France", "is"), 7, (2, 3)
#: Where along the way each test looks and each fake hides, and where its label stands: kind, name,
#: label, token from the left and layer upwards, of the place and of the label.
WAYS = (
    ("test", "asked", "asked:\nthe answer itself", 2.0, 7.6, 2.75, 7.6),
    ("test", "lens, probe", "lens, probe:\neach layer", 2.0, 4.5, 2.75, 4.5),
    ("test", "8 bits, 4 bits", "8 bits, 4 bits:\nedited weights,\nrounded", 1.0, 2.5, -0.62, 2.5),
    ("test", "relearn, relearn others",
     "relearn,\nrelearn others:\nweights from\nhere on, trained", 0.0, 5.5, -0.62, 5.5),
    ("test", "phrasings, questions, context, reverse",
     "phrasings, questions, context, reverse:\nanother text", 1.0, -0.75, 1.0, -2.0),
    ("fake", "last layer", "last layer:\nblocks here", 2.0, 6.0, 2.75, 6.6),
    ("fake", "one wording", "one wording:\nblocks here,\nfor this text", 2.0, 6.0, 2.75, 4.4),
    ("fake", "in the cracks", "in the cracks:\na little in each\nweight, less than\nrounding takes",
     0.0, 4.0, -0.62, 4.0),
)


class Answers:
    """The answers that each test gets back after each method, by fact, over all draws.

    Parameters
    ----------
    records : sequence of dict
        Records of the chapter. Those of a data set "…-swapped" are the row "swapped".

    Attributes
    ----------
    rows : dict
        By method, the metrics of its draws, by seed.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for record in sorted(records, key=lambda record: record["seed"]):
            control = record["dataset"].endswith("-swapped")
            method = SWAPPED if control else record["method"]
            self.rows.setdefault(method, []).append(record["metrics"])

    def values(self, method: str, test: str) -> list[float]:
        """A test's results, 0 to 1 per fact.

        Parameters
        ----------
        method : str
            A row's label.
        test : str
            One of `zu.audit.erasure.TESTS`.

        Returns
        -------
        list of float
            Of the facts that it can be asked of; none if the row was not run.
        """
        return [hit for draw in self.rows.get(method, ()) for hit in draw[test] if hit is not None]

    def share(self, method: str, test: str) -> Estimate:
        """The share of the answers that a test gets back.

        Parameters
        ----------
        method, test : str
            As in `values`.

        Returns
        -------
        Estimate
            In percent, its interval over the facts; NaN if it was not asked.
        """
        return Estimate(*summary(self.values(method, test)))

    def more(self, method: str, test: str, than: str = SWAPPED, other: str = "") -> Estimate:
        """The share of the answers that a test gets back for one row, less that for another.

        Parameters
        ----------
        method, test : str
            As in `values`.
        than : str
            The other row.
        other : str
            The test of the other row; by default the same.

        Returns
        -------
        Estimate
            In points; the interval ignores that the facts are the same, so it is too wide.
        """
        floor = self.share(than, other or test)
        if than == SWAPPED and floor.value != floor.value:  # NaN: a test that it cannot be asked
            floor = Estimate(0.0, 0.0, 0.0)
        return combine((1, self.share(method, test)), (-1, floor))

    def returned(self, methods: Sequence[str], test: str) -> Estimate:
        """The share of the answers lost to asking that a test gets back.

        Parameters
        ----------
        methods : sequence of str
            Rows' labels, whose facts are counted together.
        test : str
            One that asks every fact.

        Returns
        -------
        Estimate
            In percent, with Wilson's interval; NaN if no answer was lost.
        """
        pairs = [pair for method in methods for pair in zip(
            self.values(method, "asked"), self.values(method, test), strict=True)]
        silent = [again for asked, again in pairs if asked == 0]
        if not silent:
            return Estimate(np.nan, np.nan, np.nan)
        found = sum(again > 0 for again in silent)
        return Estimate(100 * found / len(silent), *wilson(found, len(silent)))

    def brings(self, method: str, test: str) -> str:
        """Whether a test gets answers back: more than for swapped facts, and more than asking gets.

        Parameters
        ----------
        method, test : str
            As in `values`.

        Returns
        -------
        str
            A verdict, by 95% intervals; undecided if there are fewer than five facts. The unedited
            model, and asking itself, are compared with swapped facts only.
        """
        if len(self.values(method, test)) < FEW:
            return UNDECIDED
        verdicts = [at_least(self.more(method, test), 1e-9)]
        if method != "base" and test != "asked":
            verdicts.append(at_least(self.more(method, test, method, "asked"), 1e-9))
        return every(*verdicts)

    def back(self, method: str) -> list[str]:
        """The tests, *asked* not among them, that get answers back after a method."""
        return [test for test in TESTS if test != "asked" and self.brings(method, test) == YES]

    def curve(self, method: str, name: str) -> np.ndarray:
        """A share that is measured by layer or by step, over all draws.

        Parameters
        ----------
        method : str
            A row's label.
        name : str
            "lens by layer", "probe by layer", "relearn by step" or "relearn others by step".

        Returns
        -------
        array, (layers,) or (steps,)
            0 to 1; empty if the row was not run.
        """
        draws = [draw[name] for draw in self.rows.get(method, ()) if name in draw]
        return np.mean(draws, 0) if draws else np.array([])


def frame(answers: Answers, names: Mapping[str, str]) -> pd.DataFrame:
    """The answers that each test gets back after each method.

    Parameters
    ----------
    answers : Answers
        The results.
    names : mapping
        The names of rows by their labels, in the order of the rows.

    Returns
    -------
    pd.DataFrame
        One row per method and test that was asked: "method", "test", "%", "from, %", "to, %",
        "facts", and "back", whether it gets answers back ("yes", "no" or "undecided"; of swapped
        facts "").
    """
    rows = []
    for method in names:
        for test in TESTS:
            share, asked = answers.share(method, test), answers.values(method, test)
            if asked:
                back = "" if method == SWAPPED else answers.brings(method, test)
                rows.append((method, test, *share, len(asked), back))
    columns = ["method", "test", "%", "from, %", "to, %", "facts", "back"]
    return pd.DataFrame(rows, columns=columns)


def table(found: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The percentages of `frame`, marked if a test gets answers back.

    Parameters
    ----------
    found : pd.DataFrame
        The result of `frame`.
    names : mapping
        As in `frame`.

    Returns
    -------
    pd.DataFrame
        One row per test; "control", from `CONTROLS`, and one column per method; texts, "▲" before
        a number that is more than swapped facts give and than asking gets.
    """
    most = found.facts.max() if len(found) else 0
    texts: dict[str, dict[str, str]] = {}
    for row in found.to_dict("records"):
        few = f" ({row['facts']} facts)" if row["facts"] < most else ""
        mark = "▲\u00a0" if row["back"] == YES else ""
        texts.setdefault(names[row["method"]], {})[row["test"] + few] = f"{mark}{row['%']:.0f}"
    wide = pd.DataFrame(texts).rename_axis("percent back").fillna("–")
    wide.insert(0, "control", [CONTROLS[label.partition(" (")[0]] for label in wide.index])
    return wide


def _look(method: str, fakes: Sequence[str]) -> dict[str, Any]:
    """The look of a method's line: colour, dashes and order."""
    if method == SWAPPED:
        return {"color": "black", "ls": (0, (1, 1)), "zorder": 1}
    if method in fakes:
        at = list(fakes).index(method) % len(DASHES)
        return {"color": SERIES[at], "ls": DASHES[at], "zorder": 2}
    return {"color": colour_of(method), "ls": "-", "zorder": 3}


def draw_tests(
    found: pd.DataFrame, names: Mapping[str, str], fakes: Sequence[str] = ()
) -> Figure:
    """One panel per test, one row per method, with 95% intervals.

    Parameters
    ----------
    found : pd.DataFrame
        The result of `frame`.
    names : mapping
        As in `frame`.
    fakes : sequence of str
        The rows that are fakes.

    Returns
    -------
    Figure
        Full dots are tests that get answers back; the dashed line is the result of swapped facts.
    """
    import matplotlib.pyplot as plt

    tests, rows, columns = [*dict.fromkeys(found.test)], [*dict.fromkeys(found.method)], 4
    lines = -(-len(tests) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(7.4, lines * (0.6 + 0.17 * len(rows))),
                                sharey=True, sharex=True, squeeze=False)
    for axis, test in zip(axes.flat, tests, strict=False):
        own = found[found.test == test].set_index("method")
        for at, method in enumerate(rows):
            if method not in own.index:
                continue
            mean, low, high = own.loc[method, ["%", "from, %", "to, %"]]
            colour = _look(method, fakes)["color"]
            full = colour if own.back[method] == YES else "white"
            axis.plot([low, high], [at, at], color=colour, lw=1.6, solid_capstyle="butt")
            axis.plot(mean, at, "o", ms=4.5, color=colour, mfc=full)
        if SWAPPED in own.index:
            axis.axvline(own["%"][SWAPPED], ls="--", lw=0.9, color=PALETTE["base"], zorder=0)
        axis.set_title(test, fontsize=9)
        axis.set(xlim=(-6, 106), xticks=[0, 50, 100])
    for at, axis in enumerate(axes.flat):
        axis.set_axis_off() if at >= len(tests) else None
        if len(tests) - columns <= at < len(tests):
            axis.set_xlabel("answers back, %")
            axis.tick_params(labelbottom=True)
    axes[0, 0].set_yticks(range(len(rows)), [names[method] for method in rows])
    axes[0, 0].invert_yaxis()
    return figure


def inside(answers: Answers, names: Mapping[str, str]) -> pd.DataFrame:
    """The answers that the lens and the probe find after each layer.

    Parameters
    ----------
    answers : Answers
        The results.
    names : mapping
        As in `frame`.

    Returns
    -------
    pd.DataFrame
        "method", "reading", "layer" and "%".
    """
    rows = [(method, reading, layer, 100 * share) for method in names for reading in READINGS
            for layer, share in enumerate(answers.curve(method, f"{reading} by layer"))]
    return pd.DataFrame(rows, columns=["method", "reading", "layer", "%"])


def draw_inside(
    seen: pd.DataFrame, names: Mapping[str, str], layers: Sequence[int], fakes: Sequence[str] = ()
) -> Figure:
    """The answers that the lens and the probe find, layer by layer.

    Parameters
    ----------
    seen : pd.DataFrame
        The result of `inside`.
    names : mapping
        As in `frame`.
    layers : sequence of int
        The edited layers, which are shaded.
    fakes : sequence of str
        The rows that are fakes.

    Returns
    -------
    Figure
        Two panels, one line per method.
    """
    figure, axes = _two_panels(READINGS.values(), "layer", "answers found, %")
    for axis, reading in zip(axes, READINGS, strict=True):
        for method, name in names.items():
            own = seen[(seen.method == method) & (seen.reading == reading)]
            axis.plot(own.layer, own["%"], lw=1.3, label=name, **_look(method, fakes))
        axis.axvspan(min(layers) - 0.5, max(layers) + 0.5, color=PALETTE["base"], alpha=0.12, lw=0)
    _name_lines(figure)
    return figure


def _two_panels(titles: Iterable[str], across: str, up: str) -> tuple[Figure, Sequence[Axes]]:
    """A figure of two panels with one vertical axis, and these."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.6), sharey=True)
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel=across)
    axes[0].set_ylabel(up)
    return figure, axes


def _name_lines(figure: Figure) -> None:
    """A legend below, of the first panel's lines."""
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  fontsize=8)


def by_step(answers: Answers, names: Mapping[str, str], steps: Sequence[int]) -> pd.DataFrame:
    """The share of answers given after each step of training, from before the first one on.

    Parameters
    ----------
    answers : Answers
        The results.
    names : mapping
        As in `frame`.
    steps : sequence of int
        The steps after which the model was asked.

    Returns
    -------
    pd.DataFrame
        "method", "lesson" (a test's name), "step", "%", "from, %" and "to, %", with Wilson's
        interval.
    """
    rows = []
    for method in names:
        asked = len(answers.values(method, "asked"))
        for lesson in LESSONS:
            start = answers.share(method, "asked")
            curve = answers.curve(method, f"{lesson} by step")
            if len(curve) != len(steps):
                continue
            rows.append((method, lesson, 0, *start))
            for step, share in zip(steps, curve, strict=True):
                ends = wilson(round(asked * share), asked)
                rows.append((method, lesson, step, 100 * share, *ends))
    columns = ["method", "lesson", "step", "%", "from, %", "to, %"]
    return pd.DataFrame(rows, columns=columns)


def last(taught: pd.DataFrame, method: str, lesson: str = "relearn") -> Estimate:
    """The share of answers given after the last step of training.

    Parameters
    ----------
    taught : pd.DataFrame
        The result of `by_step`.
    method, lesson : str
        The method and lesson of a row.

    Returns
    -------
    Estimate
        In percent; NaN if the row was not run.
    """
    own = taught[(taught.method == method) & (taught.lesson == lesson)]
    if not len(own):
        return Estimate(np.nan, np.nan, np.nan)
    return Estimate(*own.iloc[-1][["%", "from, %", "to, %"]].astype(float))


def draw_speed(
    taught: pd.DataFrame, names: Mapping[str, str], fakes: Sequence[str] = ()
) -> Figure:
    """How fast training brings the answers back.

    Parameters
    ----------
    taught : pd.DataFrame
        The result of `by_step`.
    names : mapping
        As in `frame`.
    fakes : sequence of str
        The rows that are fakes.

    Returns
    -------
    Figure
        Two panels, one line with intervals per method; steps are set at equal distances.
    """
    steps = sorted({*taught.step})
    figure, axes = _two_panels(LESSONS.values(), "steps of Adam", "answers given, %")
    for axis, lesson in zip(axes, LESSONS, strict=True):
        for at, (method, name) in enumerate(names.items()):
            own = taught[(taught.method == method) & (taught.lesson == lesson)]
            mean, low, high = own[["%", "from, %", "to, %"]].to_numpy(float).T
            places = [steps.index(step) for step in own.step]
            shifted = np.array(places) + 0.05 * (at - len(names) / 2)
            axis.errorbar(shifted, mean, [mean - low, high - mean], elinewidth=0.7, marker="o",
                          ms=3, lw=1.3, label=name, **_look(method, fakes))
        axis.set_xticks(range(len(steps)), steps)
    _name_lines(figure)
    return figure


def made(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings of a run, for its caption.

    Parameters
    ----------
    records : sequence of dict
        Records of one run.

    Returns
    -------
    dict
        "facts", "draws", "model", "commit", "prefixes" and "tokens", those of the moments, and
        "steps", a list; a dash for each, and no steps, if there are no records.
    """
    if not records:
        names = ("facts", "draws", "model", "commit", "prefixes", "tokens")
        nothing = dict.fromkeys(names, "–")
        return nothing | {"steps": []}
    one = records[0]
    return {"facts": one["n"], "draws": len({record["seed"] for record in records}),
            "model": one["model"], "commit": one["commit"], "prefixes": one.get("n_prefixes", "–"),
            "tokens": one["moment_tokens"], "steps": one["about_measure"]["steps"]}


def beside(runs: Mapping[str, Sequence[dict[str, Any]]], method: str) -> pd.DataFrame:
    """The answers that some tests get back after one method, in several runs, with their settings.

    Parameters
    ----------
    runs : mapping
        The records of each run, by its name.
    method : str
        A row's label.

    Returns
    -------
    pd.DataFrame
        One row per run: "facts at once", "draws", "tokens of C_0", "steps of relearning", and
        "asked", "context", "relearn" and "relearn others", in percent with 95% intervals.
    """
    tests, rows = ("asked", "context", "relearn", "relearn others"), {}
    for name, records in runs.items():
        about, answers = made(records), Answers(records)
        rows[name] = {"facts at once": about["facts"], "draws": about["draws"],
                      "tokens of C_0": about["tokens"], "steps of relearning": about["steps"]}
        rows[name] |= {test: str(answers.share(method, test)) for test in tests}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def ways() -> pd.DataFrame:
    """Where each test looks and each fake hides, for `draw_ways`.

    Returns
    -------
    pd.DataFrame
        "kind", "test" or "fake"; "name"; "label"; "token", from the left, and "layer", upwards, of
        the place, the prompt below 0 and the answer on top; "label token" and "label layer".
    """
    columns = ["kind", "name", "label", "token", "layer", "label token", "label layer"]
    return pd.DataFrame(WAYS, columns=columns)


def draw_ways(places: pd.DataFrame) -> Figure:
    """The way from a prompt to its answer, where tests look along it and where fakes hide.

    Parameters
    ----------
    places : pd.DataFrame
        The result of `ways`.

    Returns
    -------
    Figure
        Left the tests, right the fakes.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.1))
    titles = {"test": "where the tests look", "fake": "where the fakes hide"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        _draw_way(axis)
        for place in places[places.kind == kind].to_dict("records"):
            _label(axis, place)
        axis.set(xlim=(-2.0, 4.1), ylim=(-2.7, 8.2), title=title)
        axis.set_axis_off()
    bracket = {"color": PALETTE["memit"], "lw": 1.2}
    axes[0].plot([2.32, 2.42, 2.42, 2.32], [-0.3, -0.3, 6.3, 6.3], **bracket)
    axes[0].plot([-0.32, -0.42, -0.42, -0.32], [EDITED[0] - 0.3] * 2 + [6.3] * 2, **bracket)
    for token in range(len(PROMPT)):
        axes[1].plot([token] * 5, range(EDITED[0], DEPTH), ".", color=SERIES[2], ms=5)
    axes[1].plot(2, 6, "x", color=SERIES[1], ms=13, mew=2.5)
    return figure


def _draw_way(axis: Axes) -> None:
    """Layers over tokens, the edited ones filled; what the answer takes is drawn as a line."""
    from matplotlib.patches import FancyBboxPatch

    grey, orange = PALETTE["base"], PALETTE["zerounlearn"]
    for token, text in enumerate(PROMPT):
        axis.plot([token, token], [-0.4, DEPTH - 0.6], color=grey, lw=0.8, alpha=0.5, zorder=1)
        for layer in range(DEPTH):
            edited = token == 1 and layer in EDITED
            axis.add_patch(FancyBboxPatch(
                (token - 0.2, layer - 0.22), 0.4, 0.44, boxstyle="round,pad=0.02,rounding_size=0.1",
                fc=orange if edited else "white", ec=grey, lw=0.8, alpha=1, zorder=2))
        right = token == 0  # it would run into the next one
        axis.text(token + 0.25 * right, -0.55, text, ha="right" if right else "center", va="top",
                  fontsize=9)
    axis.text(2, 7.6, "Paris", ha="center", va="center", fontsize=10, weight="bold")
    for start, end in (((1, 3.3), (1.78, 4.4)), ((2, 6.3), (2, 7.25))):
        axis.annotate("", end, start, zorder=3,
                      arrowprops={"arrowstyle": "-|>", "color": orange, "lw": 1.6})


def _label(axis: Axes, place: Mapping[str, Any]) -> None:
    """A test's or fake's label, with a line to its place if it is not beside it."""
    colour = PALETTE["memit"] if place["kind"] == "test" else SERIES[1]
    colour = SERIES[2] if place["name"] == "in the cracks" else colour
    left = place["label token"] < 0
    middle = place["label token"] == place["token"]
    axis.text(place["label token"], place["label layer"], place["label"], color=colour,
              fontsize=8.5, va="center", ha="center" if middle else "right" if left else "left")
    if place["name"] in ("8 bits, 4 bits", "last layer", "one wording"):
        end = place["token"] + (-0.26 if left else 0.26), place["layer"]
        start = place["label token"] + (0.06 if left else -0.06), place["label layer"]
        axis.plot([start[0], end[0]], [start[1], end[1]], color=colour, lw=0.8, zorder=1)
