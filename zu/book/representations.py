"""Pictures of the moves of a layer's outputs in an edit, and the measures as tables."""
from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .figures import PALETTE, colour_of, method_of
from .verdicts import Estimate, at_least, at_most, every, over_draws

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
#: What a record calls the two groups of facts, and what a page does.
GROUPS = {"forget": "to forget", "others": "others"}
#: The hidden state after the last edited layer, among the places that a record names.
HIDDEN = "hidden"
#: The table's columns by measure.
COLUMNS = {"size": "Size, %", "cosine": "Cosine, %", "left": "Left, %", "common": "Common, %",
           "mixing_plane": "Mixing in the plane, %", "mixing": "Mixing in d dimensions, %",
           "apart": "Told apart, %"}
#: The rows of the figure of all layers by measure, and where nothing has moved.
PANELS = {"size": ("size, %", 0), "left": ("left, %", 100),
          "mixing_plane": ("mixing in\nthe plane, %", 50),
          "mixing": ("mixing in d\ndimensions, %", 50), "apart": ("told apart, %", 50)}


def digest(functions: Iterable[Callable]) -> str:
    """A hash of the code of functions, without comments and docstrings.

    Parameters
    ----------
    functions : iterable of callable
        Functions whose source is available.

    Returns
    -------
    str
        16 hexadecimal digits, the same for two lists that differ only in comments, docstrings,
        line breaks and the functions' order.
    """
    codes = []
    for function in functions:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for part in ast.walk(tree):
            if isinstance(part, ast.FunctionDef) and ast.get_docstring(part) is not None:
                del part.body[0]
        codes.append(ast.unparse(tree))
    return hashlib.sha256("\n".join(sorted(codes)).encode()).hexdigest()[:16]


def tidy(records: Rows) -> pd.DataFrame:
    """The measures of some records, one per row.

    Parameters
    ----------
    records : sequence of dict
        Records of the chapter.

    Returns
    -------
    pd.DataFrame
        "model", "dataset", "n", "method", "seed", "facts" ("to forget" or "others"), "place" (a
        layer's number or "hidden", as text), "measure", and in percent "value" with the ends of
        its interval over facts, "low" and "high"; NaN if nothing moved.
    """
    rows = []
    for record in records:
        about = {name: record[name] for name in ("model", "dataset", "n", "method", "seed")}
        for group, places in record["metrics"].items():
            for place, measures in places.items():
                same = about | {"facts": GROUPS[group], "place": place}
                rows += [same | {"measure": name, "value": x[0], "low": x[1], "high": x[2]}
                         for name, x in measures.items() if _is_measure(x)]
    frame = pd.DataFrame(rows)
    ends = ["value", "low", "high"]
    frame[ends] = 100 * frame[ends].astype(float)
    return frame


def _is_measure(values: Sequence[Any]) -> bool:
    """Whether these are a number and its interval, and no coordinates."""
    return len(values) == 3 and not isinstance(values[0], list)


def points(records: Rows, seed: int) -> pd.DataFrame:
    """The coordinates that the records of one draw hold.

    Parameters
    ----------
    records : sequence of dict
        Records of the chapter.
    seed : int
        The seed of the draw.

    Returns
    -------
    pd.DataFrame
        "method", "facts", "place", "plane" ("of the old outputs" or "its own"), "fact" (a number),
        "when" ("old" or "new"), "x" and "y", in units of the root mean square length of the old
        outputs to forget.
    """
    rows = []
    for record in records:
        if record["seed"] != seed:
            continue
        for group, places in record["metrics"].items():
            for place, measures in places.items():
                for plane, head in (("of the old outputs", ""), ("its own", "own_")):
                    for when in ("old", "new"):
                        same = {"method": record["method"], "facts": GROUPS[group], "place": place,
                                "plane": plane, "when": when}
                        rows += [same | {"fact": i, "x": x, "y": y}
                                 for i, (x, y) in enumerate(measures[head + when])]
    return pd.DataFrame(rows)


class Moves:
    """The measures of some records, for the sentences of a page.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `tidy`.
    place : str
        The default place.
    """

    def __init__(self, table: pd.DataFrame, place: str) -> None:
        self.place = place
        kinds = table.method.map(method_of)
        first = table.assign(kind=kinds).groupby("kind").method.transform("first")
        # of two rows of one method the first one counts
        self.table = table.assign(kind=kinds)[table.method == first]

    def estimate(
        self, method: str, measure: str, facts: str = "to forget", place: str = ""
    ) -> Estimate:
        """A measure in percent with its 95% interval: over draws, or over one draw's facts.

        Parameters
        ----------
        method : str
            Its name, without settings.
        measure : str
            Its name in a record.
        facts : str
            "to forget" or "others".
        place : str
            A layer's number or "hidden"; the default place if empty.

        Returns
        -------
        Estimate
            NaN if it was not measured.
        """
        some = self.table
        some = some[(some.kind == method) & (some.measure == measure) & (some.facts == facts)
                    & (some.place == (place or self.place))].dropna(subset="value")
        if not len(some):
            return Estimate(np.nan, np.nan, np.nan)
        if len(some) > 1:
            return over_draws(some.value.to_numpy())
        return Estimate(*map(float, some[["value", "low", "high"]].iloc[0]))

    def mean(self, method: str, measure: str, facts: str = "to forget", place: str = "") -> float:
        """A measure in percent, on average over draws; see `estimate`."""
        return self.estimate(method, measure, facts, place).value

    def least(
        self, methods: Iterable[str], measure: str, bound: float, facts: str = "to forget",
        place: str = "",
    ) -> tuple[str, str]:
        """Whether a measure of every one of some methods is at least a bound.

        Parameters
        ----------
        methods : iterable of str
            Their names.
        measure, facts, place : str
            See `estimate`.
        bound : float
            In percent.

        Returns
        -------
        verdict, measured : str
            As `zu.book.claims.claim` takes them.
        """
        found = [self.estimate(method, measure, facts, place) for method in methods]
        return every(*(at_least(one, bound) for one in found)), "; ".join(map(str, found))

    def most(
        self, methods: Iterable[str], measure: str, bound: float, facts: str = "to forget",
        place: str = "",
    ) -> tuple[str, str]:
        """Whether a measure of every one of some methods is at most a bound; see `least`."""
        found = [self.estimate(method, measure, facts, place) for method in methods]
        return every(*(at_most(one, bound) for one in found)), "; ".join(map(str, found))


def table_of(frame: pd.DataFrame, names: Mapping[str, str], place: str) -> pd.DataFrame:
    """The measures at one place, with intervals.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `tidy`.
    names : mapping
        The names of rows by their labels, in the order of the rows.
    place : str
        A layer's number or "hidden".

    Returns
    -------
    pd.DataFrame
        By name and group of facts, with one column per measure. Texts: the mean and its range over
        draws, or the value and its interval over facts; a dash if there is none.
    """
    here = frame[frame.place == place]
    rows = {}
    for label, name in names.items():
        for facts in GROUPS.values():
            some = here[(here.method == label) & (here.facts == facts)]
            rows[name, facts] = {title: _cell(some[some.measure == measure])
                                 for measure, title in COLUMNS.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _ends(some: pd.DataFrame) -> tuple[float, float, float]:
    """A value with its interval over facts; for several draws, the mean and the range."""
    some = some.dropna(subset="value")
    if not len(some):
        return np.nan, np.nan, np.nan
    if len(some) > 1:
        return some.value.mean(), some.value.min(), some.value.max()
    return some.value.iloc[0], some.low.iloc[0], some.high.iloc[0]


def _cell(some: pd.DataFrame) -> str:
    """A value with what `_ends` gives beside it; a dash for none."""
    value, low, high = _ends(some)
    if np.isnan(value):
        return "–"
    return f"{value:.0f} [{low:.0f},\u00a0{high:.0f}]".replace("-", "−")


def draw_projection(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> Figure:
    """Draw what a projection does to two clouds in space, with the span that it removes.

    Parameters
    ----------
    before, after : mapping of str to (n, 3)
        The outputs "to forget" and those of "others". The first two coordinates are the span of
        the old outputs to forget.

    Returns
    -------
    Figure
        Two panels.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.3), sharex=True, sharey=True)
    for axis, clouds, title in zip(axes, (before, after), ("before", "after"), strict=True):
        _draw_space(axis)
        axis.set_title(title)
        for facts, cloud in clouds.items():
            mine = facts == GROUPS["forget"]
            colour = PALETTE["zerounlearn"] if mine else PALETTE["base"]
            high, low = _oblique(cloud), _oblique(cloud * cloud.new_tensor([1.0, 1.0, 0.0]))
            for top, foot in zip(high, low, strict=True):
                axis.plot(*zip(top, foot, strict=True), ":", color=colour, lw=0.8, zorder=2)
            axis.plot(*low.T, ".", ms=3, color=colour, zorder=2)
            axis.plot(*high.T, "o", ms=6, color=colour, mfc=colour if mine else "white", zorder=3,
                      label=facts)
    axes[1].plot(0, 0, "+", ms=13, mew=1.6, color="black", zorder=5)
    axes[1].annotate("all of them,\nseen from above", (0.05, -0.05), (0.9, -1.15), fontsize=9,
                     arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.8})
    axes[0].legend(loc="upper left", fontsize=9)
    return figure


def _oblique(cloud: torch.Tensor) -> np.ndarray:
    """Points in space (n, 3) as they are drawn, (n, 2): the second axis leads to the back."""
    x, y, z = cloud.double().numpy().T
    return np.stack([x + 0.5 * y, 0.35 * y + z], 1)


def _draw_space(axis: Axes) -> None:
    """The floor, which is the span to be removed, and the axis of all other directions."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 1.9
    floor = np.stack([corners[:, 0] + 0.5 * corners[:, 1], 0.35 * corners[:, 1]], 1)
    axis.fill(*floor.T, color=PALETTE["base"], alpha=0.13, lw=0, zorder=0)
    axis.annotate("", (0, 2.25), (0, 0), arrowprops={"arrowstyle": "-|>", "color": "#777777"})
    axis.annotate("all other directions", (0.08, 2.2), fontsize=8.5, color="#777777")
    axis.annotate("span of the old outputs to forget", (-2.75, -0.95), fontsize=8.5,
                  color="#777777")
    axis.set(xlim=(-3, 3), ylim=(-1.35, 2.5), aspect="equal")
    axis.set_axis_off()


def draw_clouds(
    some: pd.DataFrame, names: Mapping[str, str], cross: Sequence[float] | None,
    shares: Sequence[float],
) -> Figure:
    """Outputs before and after every edit, all in one plane.

    Parameters
    ----------
    some : pd.DataFrame
        The result of `points`, of one place and the plane of the old outputs.
    names : mapping
        The names of edits by their labels, in the order of the columns.
    cross : (2,), optional
        The place of an output that is orthogonal to all old ones.
    shares : (2,)
        The axes' shares of the variance, in percent.

    Returns
    -------
    Figure
        One column per edit, the facts to forget above the others.
    """
    import matplotlib.pyplot as plt

    width = max(3.5, 1.22 * len(names))
    figure, axes = plt.subplots(2, len(names), figsize=(width, 3.7), sharex=True, sharey=True,
                                squeeze=False)
    for j, (label, name) in enumerate(names.items()):
        for axis, facts in zip(axes[:, j], GROUPS.values(), strict=True):
            _scatter(axis, some[(some.method == label) & (some.facts == facts)], colour_of(label))
            if cross is not None:
                axis.plot(*cross, marker="+", color="black", ms=9, mew=1, zorder=4)
        axes[0, j].set_title(name.replace(" ", "\n", 1), fontsize=9)
        axes[1, j].set_xlabel(f"PC 1 ({shares[0]:.0f}%)", fontsize=8)
    for axis, facts in zip(axes[:, 0], GROUPS.values(), strict=True):
        axis.set_ylabel(f"{facts}\nPC 2 ({shares[1]:.0f}%)", fontsize=8)
    _legend(figure, cross is not None)
    return figure


def draw_own(some: pd.DataFrame, names: Mapping[str, str], layers: Sequence[str]) -> Figure:
    """The facts to forget before and after some edits, each panel in a separate plane.

    Parameters
    ----------
    some : pd.DataFrame
        The result of `points`, of the planes that are "its own".
    names : mapping
        The names of edits by their labels, in the order of the columns.
    layers : sequence of str
        The rows.

    Returns
    -------
    Figure
        One panel per layer and edit.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(layers), len(names), squeeze=False,
                                figsize=(7.0, 1.6 * len(layers) + 0.5))
    for i, layer in enumerate(layers):
        for j, (label, name) in enumerate(names.items()):
            _scatter(axes[i, j], some[(some.method == label) & (some.place == layer)],
                     colour_of(label))
            axes[0, j].set_title(name)
        axes[i, 0].set_ylabel(f"layer {layer}")
    _legend(figure, False)
    return figure


def _scatter(axis: Axes, some: pd.DataFrame, colour: str) -> None:
    """Old and new outputs of one method and group of facts, joined by one line per fact."""
    old, new = (some[some.when == when][["x", "y"]].to_numpy() for when in ("old", "new"))
    axis.plot(*np.stack([old, new], 1).transpose(2, 1, 0), color=colour, lw=0.4, alpha=0.45,
              zorder=1)
    axis.scatter(old[:, 0], old[:, 1], s=7, color=PALETTE["base"], lw=0, alpha=0.8, zorder=2)
    axis.scatter(new[:, 0], new[:, 1], s=9, color=colour, lw=0, marker="D", zorder=3)
    axis.tick_params(labelsize=7, length=2)


def _legend(figure: Figure, cross: bool) -> None:
    """The legend of the marks, below the panels."""
    from matplotlib.lines import Line2D

    marks = [("o", 3.5, PALETTE["base"], "before"),
             ("D", 3.5, "black", "after, in the method's colour")]
    if cross:
        marks.append(("+", 8, "black", "orthogonal to all old outputs"))
    handles = [Line2D([], [], ls="", marker=marker, ms=size, color=colour, label=text)
               for marker, size, colour, text in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(marks), fontsize=8)


def draw_layers(frame: pd.DataFrame, names: Mapping[str, str], places: Sequence[str]) -> Figure:
    """The measures at every edited layer and in the hidden state after the last.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `tidy`.
    names : mapping
        The names of edits by their labels, in the order of the rows.
    places : sequence of str
        The columns.

    Returns
    -------
    Figure
        One panel per measure and place.
    """
    import matplotlib.pyplot as plt

    height = 0.6 + len(PANELS) * (0.5 + 0.17 * len(names))
    figure, axes = plt.subplots(len(PANELS), len(places), figsize=(7.4, height), sharex="row",
                                sharey=True, squeeze=False)
    for row, (measure, (title, still)) in zip(axes, PANELS.items(), strict=True):
        for axis, place in zip(row, places, strict=True):
            here = frame[(frame.measure == measure) & (frame.place == place)]
            _dots(axis, here, [*names])
            axis.axvline(still, color=PALETTE["base"], ls="--", lw=0.8, zorder=0)
            axis.tick_params(labelsize=7.5)
        row[0].set_ylabel(title, fontsize=8.5)
    for axis, place in zip(axes[0], places, strict=True):
        axis.set_title("state after it" if place == HIDDEN else f"layer {place}", fontsize=9)
    axes[0, 0].set_yticks(range(len(names)), [*names.values()])
    axes[0, 0].invert_yaxis()
    return figure


def _dots(axis: Axes, here: pd.DataFrame, labels: Sequence[str]) -> None:
    """One panel: a dot and its interval for each method and group of facts."""
    for y, label in enumerate(labels):
        for facts, step in zip(GROUPS.values(), (-0.16, 0.16), strict=True):
            value, low, high = _ends(here[(here.method == label) & (here.facts == facts)])
            colour = colour_of(label)
            axis.plot([low, high], [y + step] * 2, color=colour, lw=1)
            axis.plot(value, y + step, "o", ms=4, color=colour,
                      mfc=colour if facts == GROUPS["forget"] else "white")
