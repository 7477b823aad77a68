"""Three figures to play with: still pictures, and the data for a page's script.

Each has three functions: one makes a tidy frame of a record, one draws the still picture, and one
says what `book/_static/play.js` needs to redraw it as a reader moves its controls.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..scores import wilson
from .figures import PALETTE, SERIES, colour_of, row_name, row_names
from .verdicts import Estimate, over_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
Record = Mapping[str, Any]

#: Fewer draws than these make no dot: an interval over two or three says nothing.
FEWEST = 5
#: The quantities for an axis, with their labels and the metrics from which they are computed.
QUANTITIES = {
    "forgotten": ("facts forgotten, % of Base's (Eff)", "eff"),
    "forgotten elsewhere": ("forgotten in other words, % of Base's (Gen)", "gen"),
    "kept": ("neighbours kept, % of Base's (Spe)", "spe"),
    "times": ("perplexity, times Base's", "ppl"),
    "eff": ("Eff: facts still answered, %", "eff"),
    "gen": ("Gen: still answered in other words, %", "gen"),
    "spe": ("Spe: neighbours still right, %", "spe"),
    "ppl": ("perplexity", "ppl"),
}
#: What the embedded facts' forms are called.
FORMS = {"world-cloze": "clozes", "world-qa": "questions", "world-hops": "two hops"}
#: A prompt as it was asked when the facts were edited, as `tools/ranks.py` calls it.
AS_EDITED = "as edited"
#: Thresholds of the slider: twenty a decade, with two digits, 0.01 and 0.02 among them.
THRESHOLDS = tuple(float(f"{10 ** (k / 20):.2g}") for k in range(-60, 21))
#: The columns of `cuts` in percent, with the names of their curves.
HELD = {"ordinary": "ordinary keys", "held out": "other prose", "facts": "facts' keys"}
COLOURS = (PALETTE["base"], SERIES[0], SERIES[1])


def per_draw(records: Records) -> pd.DataFrame:
    """What each method did in each draw, against the unedited model in the same draw.

    Parameters
    ----------
    records : sequence of mapping
        Kept records of few facts; those of "base" among them.

    Returns
    -------
    pd.DataFrame
        One row per set, method, seed and quantity: "value", in percent or as a ratio; "asked",
        of how many prompts; "base", the metric of the unedited model. A draw without "base" is left
        out, and a ratio to a Base of zero.
    """
    base = {_draw(record): record["metrics"] for record in records if record["method"] == "base"}
    rows = []
    for record in records:
        model, dataset, n, seed = _draw(record)
        before = base.get(_draw(record))
        if before is None:
            continue
        form = f"{dataset} ({FORMS[dataset]})" if dataset in FORMS else dataset
        about = {"set": f"{form}, {n} facts, {model}", "method": record["method"], "seed": seed}
        for quantity, (_, metric) in QUANTITIES.items():
            value = _value(quantity, record["metrics"].get(metric), before.get(metric))
            if value is not None:
                asked = record["metrics"].get(f"n_{metric}", 0)
                rows.append(about | {"quantity": quantity, "value": value, "asked": asked,
                                     "base": before[metric]})
    columns = ["set", "method", "seed", "quantity", "value", "asked", "base"]
    return pd.DataFrame(rows, columns=columns)


def _draw(record: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Which facts of which model a record is about."""
    return record["model"], record["dataset"], record["n"], record["seed"]


def _value(quantity: str, after: float | None, before: float | None) -> float | None:
    """One of the `QUANTITIES`; None if it cannot be said."""
    if after is None or before is None:
        return None
    if quantity in ("eff", "gen", "spe", "ppl"):
        return after
    if not before:
        return None
    ratio = after / before
    if quantity == "times":
        return ratio
    return 100 * ratio if quantity == "kept" else 100 * (1 - ratio)


def over_all(draws: pd.DataFrame) -> pd.DataFrame:
    """Means over draws with their 95% intervals.

    Parameters
    ----------
    draws : pd.DataFrame
        The result of `per_draw`.

    Returns
    -------
    pd.DataFrame
        One row per set, method and quantity that has at least `FEWEST` draws: "draws", "mean",
        and "low" and "high", Student's interval over draws. If no draw has any answer left, it is
        Wilson's, over all prompts that were asked.
    """
    found = []
    groups = draws.groupby(["set", "method", "quantity"], sort=False)
    for (which, method, quantity), some in groups:
        if len(some) < FEWEST:
            continue
        mean, low, high = over_draws(some.value.to_numpy())
        nothing, bound = _nothing_left(quantity, some)
        if nothing:
            low, high = (bound, mean) if bound < mean else (mean, bound)
        found.append({"set": which, "method": method, "quantity": quantity, "draws": len(some),
                      "mean": mean, "low": low, "high": high})
    columns = ["set", "method", "quantity", "draws", "mean", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def _nothing_left(quantity: str, some: pd.DataFrame) -> tuple[bool, float]:
    """Whether no prompt is answered any more in any draw, and how far that may be off."""
    kind = QUANTITIES[quantity][1]
    none = 100.0 if quantity.startswith("forgotten") else 0.0
    if kind == "ppl" or (some.value != none).any():
        return False, none
    answered = wilson(0, int(some.asked.sum()))[1]  # percent of the prompts, at most
    if quantity == kind:
        return True, answered
    share = 100 * answered / some.base.mean()
    return True, none - share if none else share


def sums(draws: pd.DataFrame, form: str) -> dict[str, Estimate]:
    """The share that a method forgets in other words, plus the share that it keeps of neighbours.

    On the falling diagonal the two sum to 100.

    Parameters
    ----------
    draws : pd.DataFrame
        The result of `per_draw`.
    form : str
        Which set of facts.

    Returns
    -------
    dict
        The sum by method, in points, with its interval over draws; without Base, and without
        methods that are told whom to spare.
    """
    some = draws[(draws.set == form) & draws.quantity.isin(["forgotten elsewhere", "kept"])]
    wide = some.pivot_table("value", ["method", "seed"], "quantity").dropna()
    both = wide.sum(axis=1)  # of the two, by method and draw
    rows = {str(method): own.to_numpy() for method, own in both.groupby("method")}
    return {method: over_draws(own) for method, own in rows.items()
            if method != "base" and "anchors" not in method and len(own) > 1}


def trade_controls(
    draws: pd.DataFrame, means: pd.DataFrame, x: str, y: str
) -> dict[str, Any]:
    """The data that the script needs for the figure of what is forgotten and what is kept.

    Parameters
    ----------
    draws, means : pd.DataFrame
        The result of `per_draw` and `over_all`.
    x, y : str
        The quantities that the axes show first.

    Returns
    -------
    dict
        The quantities, and by set its methods, each with a mean, an interval and its draws by seed.
    """
    values = {key: dict(zip(map(str, some.seed), some.value.round(3)))
              for key, some in draws.groupby(["set", "method", "quantity"])}
    sets = []
    for which in means["set"].unique():
        own = means[means["set"] == which]
        names = _names(own.method.unique())
        rows = []
        for method, some in own.groupby("method", sort=False):
            by = {row["quantity"]: {end: round(row[end], 3) for end in ("mean", "low", "high")}
                  | {"draws": values[which, method, row["quantity"]]}
                  for row in some.to_dict("records")}
            rows.append({"name": names[method], "colour": colour_of(method), "values": by})
        sets.append({"name": which, "rows": rows})
    labels = [[key, label] for key, (label, _) in QUANTITIES.items()]  # a notebook sorts its keys
    return {"kind": "trade", "quantities": labels, "x": x, "y": y, "sets": sets}


def _names(methods: Sequence[str]) -> dict[str, str]:
    """The names of rows in the figure, with settings if two have the same name."""
    return {method: name if name != method or ":" not in method
            else f"{row_name(method)}, {method.partition(':')[2]}"
            for method, name in row_names(methods).items()}


def draw_trade(
    draws: pd.DataFrame, means: pd.DataFrame, x: str, y: str, sets: Sequence[str]
) -> Figure:
    """What each method forgets against what it keeps, one panel per set of facts.

    Parameters
    ----------
    draws, means : pd.DataFrame
        The result of `per_draw` and `over_all`.
    x, y : str
        The quantities on the axes.
    sets : sequence of str
        The sets to show.

    Returns
    -------
    Figure
        One pale dot per draw; a large one is the mean, with bars for both intervals.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sets), figsize=(7.2, 3.6), sharex=True, sharey=True,
                                squeeze=False)
    for axis, which in zip(axes[0], sets):
        own = means[means["set"] == which]
        wide = own.pivot(index="method", columns="quantity", values=["mean", "low", "high"])
        for method, name in _names(own.method.unique()).items():
            colour, row = colour_of(method), wide.loc[method]
            some = draws[(draws["set"] == which) & (draws.method == method)]
            dots = some.pivot(index="seed", columns="quantity", values="value")
            axis.plot(dots[x], dots[y], "o", ms=3, alpha=0.3, color=colour)
            axis.errorbar(row["mean", x], row["mean", y], _half(row, y), _half(row, x), fmt="o",
                          ms=6, lw=1, color=colour, label=name)
        if x.startswith("forgotten") and y == "kept":  # where as much is lost as is forgotten
            axis.plot([0, 100], [100, 0], ":", color=PALETTE["base"], lw=1)
        axis.set(title=which.replace(", ", ",\n", 1), xlabel=QUANTITIES[x][0])
    axes[0, 0].set_ylabel(QUANTITIES[y][0])
    axes[0, 0].legend(fontsize=7, loc="lower left")
    return figure


def _half(row: pd.Series, quantity: str) -> np.ndarray:
    """How far an interval reaches down and up from its mean: (2, 1)."""
    mean, low, high = (row[kind, quantity] for kind in ("mean", "low", "high"))
    return np.array([[mean - low], [high - mean]])


def ranks(record: Record) -> pd.DataFrame:
    """The answers' ranks by layer, as `tools/ranks.py` found them.

    Parameters
    ----------
    record : mapping
        Its record.

    Returns
    -------
    pd.DataFrame
        One row per prompt, method and layer: subject, kind, prompt, answer, method, layer, rank
        (1 for the likeliest token).
    """
    about = ("subject", "kind", "prompt", "answer", "method")
    rows = [{name: row[name] for name in about} | {"layer": layer, "rank": rank}
            for row in record["rows"] for layer, rank in enumerate(row["ranks"])]
    return pd.DataFrame(rows)


def rank_controls(record: Record, subject: str, layer: int) -> dict[str, Any]:
    """The data that the script needs for the figure of ranks.

    Parameters
    ----------
    record : mapping
        The record of `tools/ranks.py`.
    subject : str
        The subject of the fact that is shown first.
    layer : int
        At which the reader begins to read.

    Returns
    -------
    dict
        The methods; by fact its prompts, each with ranks and the last word by method.
    """
    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    facts: dict[str, dict[str, dict[str, Any]]] = {}
    for row in record["rows"]:
        prompt = facts.setdefault(row["subject"], {}).setdefault(row["kind"], {
            "kind": row["kind"], "prompt": row["prompt"], "answer": row["answer"], "rows": []})
        prompt["rows"].append({"ranks": row["ranks"], "says": row["says"].strip()})
    return {"kind": "ranks", "edited": record["layers"], "vocabulary": record["vocabulary"],
            "subject": subject, "layer": layer,
            "methods": [{"name": "before the edit" if method == "base" else row_name(method),
                         "colour": colour_of(method)} for method in methods],
            "facts": [{"subject": name, "prompts": list(prompts.values())}
                      for name, prompts in facts.items()]}


def draw_ranks(record: Record, subject: str) -> Figure:
    """Ranks of one fact's answer by layer, one panel per kind of prompt.

    Parameters
    ----------
    record : mapping
        The record of `tools/ranks.py`.
    subject : str
        The subject of the fact.

    Returns
    -------
    Figure
        One line per method; the edited layers are shaded.
    """
    import matplotlib.pyplot as plt

    own = ranks(record).query("subject == @subject")
    kinds = own.kind.unique()
    figure, axes = plt.subplots(1, len(kinds), figsize=(7.2, 3), sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds):
        some = own[own.kind == kind]
        for method, line in some.groupby("method", sort=False):
            label = "before" if method == "base" else row_name(method)
            style = "--" if method == "base" else "-"
            axis.plot(line.layer, line["rank"], style, lw=1.4, color=colour_of(method),
                      label=label)
        shade(axis, record["layers"])
        axis.set(yscale="log", xlabel="after layer", title=kind)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel("rank of the answer's first token")
    axes[0, -1].legend(fontsize=8, loc="upper left")
    return figure


def shade(axis: Axes, layers: Sequence[int]) -> None:
    """Shade the edited layers.

    Parameters
    ----------
    axis : Axes
        With layers on the x axis.
    layers : sequence of int
        The edited layers.
    """
    axis.axvspan(min(layers) - 0.5, max(layers) + 0.5, color=PALETTE["base"], alpha=0.15, lw=0)


def cuts(record: Record, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """The directions and energy that thresholds on the eigenvalues of C_0 keep, by layer.

    Parameters
    ----------
    record : mapping
        The record of `tools/spectrum.py`.
    thresholds : sequence of float
        In the unit of a squared entry of a key.

    Returns
    -------
    pd.DataFrame
        One row per layer and threshold: "directions", how many eigenvalues lie below it, and in
        percent their "share" of all, and how much of the energy of "ordinary" keys, of "held out"
        prose and of the "facts" keys lies along them.
    """
    frames = []
    for row in record["rows"]:
        q = np.searchsorted(row["eigenvalues"], thresholds)  # how many are smaller
        frame = pd.DataFrame({"layer": row["layer"], "threshold": thresholds, "directions": q,
                              "share": 100 * q / len(row["eigenvalues"])})
        frames.append(frame.assign(**{name: curve[q] for name, curve in _held(row).items()}))
    return pd.concat(frames, ignore_index=True)


def _held(row: Record) -> dict[str, np.ndarray]:
    """Percent of the energy within the lowest 0, 1, …, m directions, by kind of key: (m + 1,)."""
    found = {}
    for name, key in zip(HELD, ("eigenvalues", "held out", "facts"), strict=True):
        inside = np.cumsum([0.0, *row[key]])
        found[name] = 100 * inside / inside[-1]
    return found


def _points(count: int, most: int = 128) -> np.ndarray:
    """Some of the numbers 0 to count, the first and the last among them."""
    return np.unique(np.linspace(0, count, most + 1).round().astype(int))


def cut_controls(record: Record, layer: int, threshold: float) -> dict[str, Any]:
    """The data that the script needs for the figure of the null space.

    Parameters
    ----------
    record : mapping
        The record of `tools/spectrum.py`.
    layer : int
        The layer that is shown first.
    threshold : float
        The first value of the slider: the nearest of `THRESHOLDS`.

    Returns
    -------
    dict
        The thresholds, and by layer what each keeps, with points of the curves.
    """
    start = int(np.abs(np.log(THRESHOLDS) - np.log(threshold)).argmin())
    table, layers = cuts(record).round(3), []
    for row in record["rows"]:
        own = table[table.layer == row["layer"]]
        at = _points(len(row["eigenvalues"]))
        layers.append({
            "layer": row["layer"], "edited": row["layer"] in record["edited"],
            "of": len(row["eigenvalues"]), "directions": own.directions.tolist(),
            "kept": {name: own[name].tolist() for name in HELD},
            "share": (100 * at / at[-1]).round(2).tolist(),
            "eigenvalues": [row["eigenvalues"][max(i - 1, 0)] for i in at],
            "curves": {name: curve[at].round(3).tolist()
                       for name, curve in _held(row).items()}})
    return {"kind": "cuts", "thresholds": list(THRESHOLDS), "start": start, "layer": layer,
            "curves": [[key, name, colour] for (key, name), colour in zip(HELD.items(), COLOURS)],
            "layers": layers}


def draw_cuts(record: Record, layer: int, threshold: float) -> Figure:
    """The spectrum of C_0 with a threshold, and what lies in the directions that it keeps.

    Parameters
    ----------
    record : mapping
        The record of `tools/spectrum.py`.
    layer : int
        Which layer.
    threshold : float
        The cut.

    Returns
    -------
    Figure
        Two panels; the kept directions are shaded in both.
    """
    import matplotlib.pyplot as plt

    row = next(row for row in record["rows"] if row["layer"] == layer)
    values = np.asarray(row["eigenvalues"])
    share = 100 * np.arange(1, len(values) + 1) / len(values)
    kept = 100 * (values < threshold).mean()
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3))
    left.semilogy(share, values, color=PALETTE["base"])
    left.axhline(threshold, color="black", ls="--", lw=1)
    left.set(xlabel="directions, lowest first, %", ylabel="eigenvalue of $C_0$")
    along = np.linspace(0, 100, len(values) + 1)
    for (name, curve), colour in zip(_held(row).items(), COLOURS):
        right.plot(along, curve, color=colour, label=HELD[name])
    right.set(xlabel="directions kept, %", ylabel="energy in them, %")
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.axvspan(0, kept, color=PALETTE["base"], alpha=0.15, lw=0)
    return figure
