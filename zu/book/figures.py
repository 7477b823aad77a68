"""Records into tables and figures: one palette and one style for the whole book."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ..methods import METHODS, find


class _OfMethods(Mapping):
    """What the methods' classes say of themselves, by name; those that were registered too. "base" is the model."""

    def __init__(self, attribute: str, base: str) -> None:
        self.attribute, self.base = attribute, base

    def __getitem__(self, name: str) -> str:
        return self.base if name == "base" else getattr(METHODS[name], self.attribute)

    def __iter__(self):
        return iter(["base", *METHODS])

    def __len__(self) -> int:
        return 1 + len(METHODS)


#: One colour per method, through the whole book (Okabe and Ito's colour-blind-safe set, as far as it goes).
PALETTE = _OfMethods("colour", base="#666666")
#: Series that are no methods, in this order (from Tol's muted set, colour-blind safe too); what they are held against
#: is drawn in base's grey, and maps of a quantity in one scale.
SERIES = ("#44AA99", "#CC6677", "#117733", "#88CCEE", "#DDCC77")
HEAT = "magma_r"
#: A record's metrics, and what the tables call them.
METRICS = {"eff": "Eff", "gen": "Gen", "spe": "Spe", "hop": "Hop", "ppl": "PPL"}
#: What tables call a method.
LABELS = _OfMethods("label", base="Base")
#: The paper's names for a model, and for the data set that one of ours is the like of.
MODELS = {"llama-3.2-3b": "Llama-3.2", "llama-3.1-8b": "Llama-3.1", "qwen3-4b": "Qwen-3"}
DATASETS = {"world-cloze": "MCF", "world-qa": "ZsRE", "world-hops": "MQuAKE", "mcf": "MCF", "zsre": "ZsRE",
            "mquake": "MQuAKE"}
#: Figure sizes in inches: the width of a text column, and half of it.
WIDE, HALF = (7.0, 3.2), (3.5, 2.8)


def use_style() -> None:
    """Set matplotlib to the book's style: vector output, light grid, no frame on top and right."""
    import matplotlib
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    matplotlib.rcParams.update({
        "figure.figsize": WIDE, "figure.constrained_layout.use": True, "savefig.bbox": "tight",
        "svg.hashsalt": "zu", "svg.fonttype": "path", "font.size": 10, "axes.titlesize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "grid.linewidth": 0.6, "lines.linewidth": 1.6, "legend.frameon": False,
    })
    set_matplotlib_formats("svg", metadata={"Date": None})  # the same figure is the same file


def metrics_frame(records: list[dict]):
    """Records as a tidy pandas frame: one row per (method, seed, metric), values as the tables print them."""
    import pandas as pd

    rows = [{"dataset": r["dataset"], "model": r["model"], "method": r["method"], "seed": r["seed"], "n": r["n"],
             "metric": label, "value": r["metrics"].get(key)}
            for r in records for key, label in METRICS.items()]
    columns = ["dataset", "model", "method", "seed", "n", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})


def method_of(label: str) -> str:
    """The method of a row's label, ``METHOD[+anchors][:SETTINGS]``, or of one ``METHOD, WORDS``."""
    return re.split("[+:,]", label)[0]


def colour_of(label: str) -> str:
    """The colour that a row's method has through the whole book; grey for what is no method."""
    kind = _kind(label)
    return PALETTE["base"] if kind is None else kind.colour


def _kind(label: str):
    """The class of a row's method; None for what is none, such as "base" or a fake."""
    try:
        return find(method_of(label))
    except ValueError:
        return None


def row_name(label: str) -> str:
    """What a table calls a row without its settings: "ZeroUnlearn", "ZeroUnlearn + anchors", "anchored".

    The method *anchored* is named after its anchors, so that the row without them says so instead.
    """
    method, told = method_of(label), "+anchors" in label.partition(":")[0]
    kind = _kind(label)
    name = LABELS.get(method, method) if kind is None else kind.label
    if method == "anchored":
        return name if told else f"{name}, no anchors"
    return f"{name} + anchors" if told else name


def row_names(methods: Sequence[str]) -> dict[str, str]:
    """What a table calls each row: settings are shown only where rows would have the same name without."""
    short = [row_name(method) for method in methods]
    return {m: name if ":" not in m or short.count(name) == 1 else m
            for m, name in zip(methods, short, strict=True)}


def like(dataset: str) -> str:
    """The paper's data set of the same form, or its own name for it; empty where it has none."""
    return DATASETS.get(dataset.removesuffix("-known").removesuffix("-forget"), "")


def printed(tables, model: str, dataset: str):
    """Rows of the paper's `tables` for a model and the like of a data set; Llama-3.2 stands in for other models."""
    its = next((name for part, name in MODELS.items() if part in model.lower()), "Llama-3.2")
    return tables[(tables.model == its) & (tables.dataset == like(dataset))]


def all_printed(tables, dataset: str):
    """The paper's means for a data set like ours, of all its models: a row per method, (model, metric) as columns."""
    wide = tables[tables.dataset == like(dataset)].pivot_table("mean", index="method", columns=["model", "metric"])
    order = [(model, metric) for model in MODELS.values() for metric in METRICS.values()]
    return wide[[x for x in order if x in wide.columns]].map(lambda x: "–" if x != x else f"{x:.2f}")


def data_link(frame, name: str):
    """A link that downloads the tidy data behind a table or figure as CSV; the page itself holds the data."""
    from base64 import b64encode

    from IPython.display import HTML

    data = b64encode(frame.to_csv(index=False).encode()).decode()
    return HTML(f'<p class="zu-data"><a download="{name}.csv" href="data:text/csv;base64,{data}">'
                f'The data of {name} (CSV, {len(frame)} rows)</a></p>')


def said(text: str):
    """Computed text for a page or a caption, as Markdown.

    For an empty one a page shows the object's name: it becomes a character that takes no room.
    """
    from IPython.display import Markdown

    return Markdown(text if text.strip() else "\u200b")


def listed(words: Iterable[str]) -> str:
    """a, b and c; of nothing, "none"."""
    *others, last = [*words] or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


def extremes(frame, names: dict[str, str]) -> str:
    """For captions: which methods have the lowest Eff and the highest Spe, in the mean of a `metrics_frame`."""
    mean, said = frame.groupby(["method", "metric"]).value.mean().unstack(), []
    for metric, word, pick in (("Eff", "lowest", min), ("Spe", "highest", max)):
        edits = mean[metric].reindex([m for m in names if m != "base"]).dropna()
        if len(edits):
            end = pick(edits)
            base = f" (Base {mean[metric]['base']:.1f})" if "base" in mean.index else ""
            best = listed(names[m] for m in edits.index[edits == end])
            said.append(f"{metric} is {word} with {best}, {end:.1f}{base}")
    return "; ".join(said) + "." if said else ""


def mean_std(values, metric: str) -> str:
    """"mean ± std" over seeds with the sample's n − 1; of one seed the value alone, percentages to a tenth."""
    values = values.dropna()
    if len(values) > 1:
        return f"{values.mean():.2f} ±\u00a0{values.std(ddof=1):.2f}"
    return "–" if not len(values) else f"{values.mean():.{2 if metric == 'PPL' else 1}f}"


def with_interval(metrics: dict, key: str) -> str:
    """A record's percentage with its 95% interval over facts: "20.0 [0, 50]", which breaks only before the bracket."""
    low, high = metrics[f"interval_{key}"]
    return "–" if metrics[key] is None else f"{metrics[key]:.1f} [{low:.0f},\u00a0{high:.0f}]"


def table(frame, paper, names: dict[str, str]):
    """The paper's kind of table: a row per method, our mean ± std beside what the paper prints.

    frame: from `metrics_frame`. paper: rows of ``book/paper/tables.csv`` for one table, model and data set.
    names: a row's label by method, in the order of the rows; the paper's row is found by that label.
    """
    import pandas as pd

    metrics, rows = [m for m in METRICS.values() if m != "Hop" or frame[frame.metric == m].value.notna().any()], {}
    for method, label in names.items():
        ours = frame[frame.method == method]
        if not len(ours):
            continue
        theirs = paper[paper.method == label].set_index("metric")
        rows[label] = {("this run", k): mean_std(ours[ours.metric == k].value, k) for k in metrics}
        rows[label] |= {("the paper", k): _printed(theirs, k) for k in metrics if k != "Hop"}
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.columns = pd.MultiIndex.from_tuples(out.columns)
    return out


def _printed(rows, metric: str) -> str:
    if metric not in rows.index:
        return "–"
    mean, std = rows.loc[metric, "mean"], rows.loc[metric, "std"]
    return f"{mean:.2f}" + (f" ±\u00a0{std:.2f}" if std == std and std else "")


def dots(frame, names: dict[str, str]):
    """One panel per metric, one row per method, one dot per seed; a bar marks the mean. Returns the figure."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(7.0, 0.8 + 0.32 * len(names)), sharey=True)
    order = [m for m in names if m in set(frame.method)]
    for axis, metric in zip(axes, ["Eff", "Gen", "Spe", "PPL"], strict=True):
        for row, method in enumerate(order):
            values = frame[(frame.method == method) & (frame.metric == metric)].value
            colour = colour_of(method)
            axis.plot(values, [row] * len(values), "o", ms=5, color=colour, alpha=0.8,
                      mfc=colour if ":" not in method else "none")
            axis.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=colour, lw=2)
        better = "less is better" if metric in ("Eff", "Gen") else "as Base is best"
        axis.set_title(f"{metric}\n({better})")
        axis.set_xlabel("%" if metric != "PPL" else "perplexity")
        axis.margins(x=0.12)
    axes[0].set_yticks(range(len(order)), [names[m] for m in order])
    axes[0].invert_yaxis()
    return figure
