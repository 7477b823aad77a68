"""Records into tables and figures: one palette and one style for the whole book."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..methods import METHODS, Method, find
from ..scores import wilson

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import HTML, Markdown
    from matplotlib.figure import Figure


class _OfMethods(Mapping[str, str]):
    """An attribute of the methods' classes by name, including registered methods.

    "base" stands for the unedited model.
    """

    def __init__(self, attribute: str, base: str) -> None:
        self.attribute = attribute
        self.base = base

    def __getitem__(self, name: str) -> str:
        if name == "base":
            return self.base
        return getattr(METHODS[name], self.attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(["base", *METHODS])

    def __len__(self) -> int:
        return 1 + len(METHODS)


#: One colour per method, through the whole book (Okabe and Ito's colour-blind-safe set, as far as
#: it goes).
PALETTE = _OfMethods("colour", base="#666666")
#: Colours of series that are not methods, in this order (from Tol's muted set, also colour-blind
#: safe); the reference of a comparison is drawn in base's grey.
SERIES = ("#44AA99", "#CC6677", "#117733", "#88CCEE", "#DDCC77")
#: All maps of a quantity use this colour scale.
HEAT = "magma_r"
#: A record's metrics, and their names in tables.
METRICS = {"eff": "Eff", "gen": "Gen", "spe": "Spe", "hop": "Hop", "ppl": "PPL"}
#: Methods' names in tables.
LABELS = _OfMethods("label", base="Base")
#: The paper's names for a model.
MODELS = {"llama-3.2-3b": "Llama-3.2", "llama-3.1-8b": "Llama-3.1", "qwen3-4b": "Qwen-3"}
#: The paper's names for the data sets that ours resemble.
DATASETS = {
    "world-cloze": "MCF",
    "world-qa": "ZsRE",
    "world-hops": "MQuAKE",
    "mcf": "MCF",
    "zsre": "ZsRE",
    "mquake": "MQuAKE",
}
#: Figure sizes in inches: the width of a text column, and half of it.
WIDE, HALF = (7.0, 3.2), (3.5, 2.8)


def use_style() -> None:
    """Set matplotlib to the book's style: vector output, light grid, no frame on top and right."""
    import matplotlib
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    matplotlib.rcParams.update({
        "figure.figsize": WIDE,
        "figure.constrained_layout.use": True,
        "savefig.bbox": "tight",
        "svg.hashsalt": "zu",
        "svg.fonttype": "path",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
    })
    set_matplotlib_formats("svg", metadata={"Date": None})  # the same figure is the same file


def metrics_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a tidy pandas frame.

    Parameters
    ----------
    records : list[dict[str, Any]]
        Records of a grid.

    Returns
    -------
    pd.DataFrame
        One row per (method, seed, metric), with the columns dataset, model, method, seed, n, metric
        and value; values as the tables print them, NaN if a record has none.
    """
    import pandas as pd

    about = ["dataset", "model", "method", "seed", "n"]
    rows = []
    for record in records:
        same = {name: record[name] for name in about}
        for key, label in METRICS.items():
            rows.append(same | {"metric": label, "value": record["metrics"].get(key)})
    frame = pd.DataFrame(rows, columns=[*about, "metric", "value"])
    return frame.astype({"value": float})


def method_of(label: str) -> str:
    """The method of a row.

    Parameters
    ----------
    label : str
        ``METHOD[+anchors][:SETTINGS]``, or ``METHOD, WORDS``.

    Returns
    -------
    str
        The method's name.
    """
    return re.split("[+:,]", label)[0]


def colour_of(label: str) -> str:
    """The colour of a row's method, which is the same through the whole book.

    Parameters
    ----------
    label : str
        A row's label.

    Returns
    -------
    str
        A colour, "#RRGGBB"; grey if the label names no method.
    """
    kind = _kind(label)
    return PALETTE["base"] if kind is None else kind.colour


def _kind(label: str) -> type[Method] | None:
    """The class of a row's method; None for a row without one, such as "base" or a fake."""
    try:
        return find(method_of(label))
    except ValueError:
        return None


def row_name(label: str) -> str:
    """A row's name in tables without its settings: "ZeroUnlearn", "ZeroUnlearn + anchors".

    The method *anchored* is named after its anchors, so its row without them says so: "anchored",
    "anchored, no anchors".

    Parameters
    ----------
    label : str
        A row's label.

    Returns
    -------
    str
        The row's name.
    """
    method = method_of(label)
    has_anchors = "+anchors" in label.partition(":")[0]
    kind = _kind(label)
    if kind is not None:
        return kind.row_name(has_anchors)
    name = LABELS.get(method, method)
    return f"{name} + anchors" if has_anchors else name


def row_names(methods: Sequence[str]) -> dict[str, str]:
    """The names of rows in a table.

    Settings are shown only if rows would otherwise have the same name.

    Parameters
    ----------
    methods : Sequence[str]
        The rows' labels.

    Returns
    -------
    dict[str, str]
        The name by label, in order.
    """
    short = [row_name(method) for method in methods]
    names = {}
    for method, name in zip(methods, short, strict=True):
        unique = ":" not in method or short.count(name) == 1
        names[method] = name if unique else method
    return names


def like(dataset: str) -> str:
    """The paper's name for the data set of the same form as ours, or for its own data set.

    Parameters
    ----------
    dataset : str
        A data set's name, perhaps with "-known" or "-forget" at its end.

    Returns
    -------
    str
        The paper's name; empty if it has none.
    """
    return DATASETS.get(dataset.removesuffix("-known").removesuffix("-forget"), "")


def printed(tables: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    """Rows of the paper's tables for a model, and for the data set that resembles ours.

    Parameters
    ----------
    tables : pd.DataFrame
        The paper's numbers, with the columns model and dataset.
    model : str
        A model's name; Llama-3.2 replaces models that the paper does not have.
    dataset : str
        A data set's name.

    Returns
    -------
    pd.DataFrame
        The rows found, perhaps none.
    """
    its = next((name for part, name in MODELS.items() if part in model.lower()), "Llama-3.2")
    return tables[(tables.model == its) & (tables.dataset == like(dataset))]


def all_printed(tables: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The paper's means for a data set like ours, of all its models.

    Parameters
    ----------
    tables : pd.DataFrame
        The paper's numbers.
    dataset : str
        A data set's name.

    Returns
    -------
    pd.DataFrame
        One row per method, (model, metric) as columns, numbers as text with two decimals.
    """
    rows = tables[tables.dataset == like(dataset)]
    wide = rows.pivot_table("mean", index="method", columns=["model", "metric"])
    order = [(model, metric) for model in MODELS.values() for metric in METRICS.values()]
    return wide[[column for column in order if column in wide.columns]].map(_two_decimals)


def _two_decimals(value: float) -> str:
    """A number as the paper prints it; a dash for NaN."""
    return "–" if value != value else f"{value:.2f}"


def data_link(frame: pd.DataFrame, name: str) -> HTML:
    """A link that downloads the tidy data behind a table or figure; the page itself holds the data.

    Parameters
    ----------
    frame : pd.DataFrame
        The data.
    name : str
        The table's or figure's name, which the file gets.

    Returns
    -------
    HTML
        The link, to a CSV file.
    """
    from base64 import b64encode

    from IPython.display import HTML

    data = b64encode(frame.to_csv(index=False).encode()).decode()
    return HTML(
        f'<p class="zu-data"><a download="{name}.csv" href="data:text/csv;base64,{data}">'
        f"The data of {name} (CSV, {len(frame)} rows)</a></p>"
    )


def said(text: str) -> Markdown:
    """Computed text for a page or a caption.

    For an empty text a page would show the object's name, so it becomes an invisible character.
    (Not the zero-width space: a browser drops the line break behind it, and with it the space.)

    Parameters
    ----------
    text : str
        Markdown.

    Returns
    -------
    Markdown
        The text, to be shown or glued.
    """
    from IPython.display import Markdown

    return Markdown(text if text.strip() else "\u2060")


def listed(words: Iterable[str]) -> str:
    """A list in words: "a, b and c".

    Parameters
    ----------
    words : Iterable[str]
        The words to list.

    Returns
    -------
    str
        The list; "none" if there are no words.
    """
    *others, last = [*words] or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


def extremes(frame: pd.DataFrame, names: dict[str, str]) -> str:
    """A sentence for captions: the methods with the lowest mean Eff and the highest mean Spe.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `metrics_frame`.
    names : dict[str, str]
        Names by row's label; only these rows count, and "base" does not.

    Returns
    -------
    str
        A sentence, with Base's value if the frame has it; empty if there is nothing to compare.
    """
    mean = frame.groupby(["method", "metric"]).value.mean().unstack()
    edits = [method for method in names if method != "base"]
    parts = []
    for metric, word, pick in (("Eff", "lowest", min), ("Spe", "highest", max)):
        # a chapter leaves out a metric that says nothing
        if metric not in mean:
            continue
        values = mean[metric].reindex(edits).dropna()
        if values.empty:
            continue
        end = pick(values)
        best = listed(names[method] for method in values.index[values == end])
        base = f" (Base {mean[metric]['base']:.1f})" if "base" in mean.index else ""
        parts.append(f"{metric} is {word} with {best}, {end:.1f}{base}")
    return "; ".join(parts) + "." if parts else ""


def mean_std(values: pd.Series, metric: str) -> str:
    """"mean ± std" over seeds.

    Parameters
    ----------
    values : pd.Series
        One value per seed.
    metric : str
        What tables call the metric.

    Returns
    -------
    str
        The mean and the sample's standard deviation (n − 1); for one seed only the value, with
        percentages to a tenth; a dash if there are no values.
    """
    values = values.dropna()
    if len(values) > 1:
        return f"{values.mean():.2f} ±\u00a0{values.std(ddof=1):.2f}"
    if not len(values):
        return "–"
    decimals = 2 if metric == "PPL" else 1
    return f"{values.mean():.{decimals}f}"


def with_interval(metrics: dict[str, Any], key: str) -> str:
    """A record's percentage with its 95% interval over facts: "20.0 [0, 50]".

    Parameters
    ----------
    metrics : dict[str, Any]
        A record's metrics.
    key : str
        "eff", "gen", "spe" or "hop".

    Returns
    -------
    str
        The number and the interval, which can wrap only before the bracket; a dash for None.
    """
    low, high = metrics[f"interval_{key}"]
    value = metrics[key]
    if low == high and value in (0.0, 100.0):  # older records, if none or all of the facts count
        n = metrics["n_eff"]
        low, high = wilson(n * int(value == 100), n)
    return "–" if value is None else f"{value:.1f} [{low:.0f},\u00a0{high:.0f}]"


def table(frame: pd.DataFrame, paper: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """A table like the paper's, with our mean ± std beside the paper's numbers.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `metrics_frame`.
    paper : pd.DataFrame
        Rows of ``book/paper/tables.csv`` for one table, model and data set.
    names : dict[str, str]
        A row's label by method, in the order of the rows; the paper's row is found by that label.

    Returns
    -------
    pd.DataFrame
        One row per method that the frame has, ("this run" or "the paper", metric) as columns.
    """
    import pandas as pd

    metrics = [metric for metric in METRICS.values() if _shown(frame, metric)]
    rows = {}
    for method, label in names.items():
        ours = frame[frame.method == method]
        if not len(ours):
            continue
        theirs = paper[paper.method == label].set_index("metric")
        row = {}
        for metric in metrics:
            row["this run", metric] = mean_std(ours[ours.metric == metric].value, metric)
        for metric in metrics:
            if metric != "Hop":
                row["the paper", metric] = _printed(theirs, metric)
        rows[label] = row
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.columns = pd.MultiIndex.from_tuples(out.columns)
    return out


def _shown(frame: pd.DataFrame, metric: str) -> bool:
    """Whether a table has a column for a metric: Hop only if it was measured."""
    return metric != "Hop" or frame[frame.metric == metric].value.notna().any()


def _printed(rows: pd.DataFrame, metric: str) -> str:
    """The paper's text for a metric, from its rows by metric; a dash if there is none."""
    if metric not in rows.index:
        return "–"
    mean, std = rows.loc[metric, "mean"], rows.loc[metric, "std"]
    deviation = f" ±\u00a0{std:.2f}" if std == std and std else ""  # NaN is not itself
    return f"{mean:.2f}{deviation}"


def dots(frame: pd.DataFrame, names: dict[str, str]) -> Figure:
    """One panel per metric, one row per method, one dot per seed; a bar marks the mean.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `metrics_frame`.
    names : dict[str, str]
        Names by row's label, in the order of the rows. Rows with settings are drawn hollow.

    Returns
    -------
    Figure
        The figure, with panels for Eff, Gen, Spe and PPL.
    """
    import matplotlib.pyplot as plt

    height = 0.8 + 0.32 * len(names)
    figure, axes = plt.subplots(1, 4, figsize=(7.0, height), sharey=True)
    measured = set(frame.method)
    order = [method for method in names if method in measured]
    for axis, metric in zip(axes, ["Eff", "Gen", "Spe", "PPL"], strict=True):
        for row, method in enumerate(order):
            values = frame[(frame.method == method) & (frame.metric == metric)].value
            colour = colour_of(method)
            fill = colour if ":" not in method else "none"
            at = [row] * len(values)
            axis.plot(values, at, "o", ms=5, color=colour, alpha=0.8, mfc=fill)
            axis.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=colour, lw=2)
        better = "less is better" if metric in ("Eff", "Gen") else "as Base is best"
        axis.set_title(f"{metric}\n({better})")
        axis.set_xlabel("%" if metric != "PPL" else "perplexity")
        axis.margins(x=0.12)
    axes[0].set_yticks(range(len(order)), [names[method] for method in order])
    axes[0].invert_yaxis()
    return figure
