"""What an edit costs: shapes to count from, tables of clocked runs, and their pictures."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd

from ..models import decoder, down_proj
from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Rows = Sequence[dict[str, Any]]
#: The stages of an edit, each with its colour.
COLOURS = dict(zip(("moments", "targets", "traces", "solve"), SERIES, strict=False))
#: What the paper prints for a whole edit, hours, by the number of facts (its section 6.7).
PRINTED = {10: "about 0.04", 1000: "3.35 to 3.82"}
#: Of the schematic, per stage: where its box lies, what it does, and how often.
BOXES = {"moments": (1.0, 2.0, "moments\n$C_0$ of ordinary keys", "once per model"),
         "targets": (1.0, 1.0, "targets\nsearch for $z$", "once per fact"),
         "traces": (1.0, 0.0, "traces\nkeys $K_f$, states $h$", "once per layer"),
         "solve": (3.0, 1.0, "solve\nSVD of $V_f$, Lemma 4.1", "once per layer")}


class Shape(NamedTuple):
    """The sizes of a model's matrices, from which the cost of an edit is counted.

    Attributes
    ----------
    d, m : int
        Length of a value and of a key.
    layer, head : int
        Entries of the matrices of one layer, and of the head.
    low, above : int
        The numbers of layers up to the last edited one, and above it.
    edited : int
        The number of edited layers.
    """

    d: int
    m: int
    layer: int
    head: int
    low: int
    above: int
    edited: int


#: Llama-3.2-3B (28 layers, 24 heads of 128, 8 for keys and values), layers 16 to 18 edited.
LLAMA_3B = Shape(
    d=3072, m=8192, layer=2 * 3072 * 3072 + 2 * 3072 * 1024 + 3 * 3072 * 8192,
    head=128_256 * 3072, low=19, above=9, edited=3)


def shape_of(model: PreTrainedModel, layers: Sequence[int]) -> Shape:
    """The shape of a model whose layers are all alike.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    layers : sequence of int
        The edited layers.

    Returns
    -------
    Shape
        The model's shape.
    """
    blocks = cast("list[nn.Module]", decoder(model).layers)
    d, m = cast("Tensor", down_proj(model, layers[-1]).weight).shape
    matrices = [w for w in blocks[0].parameters() if w.dim() == 2]
    vocabulary = model.config.get_text_config().vocab_size
    low = layers[-1] + 1
    return Shape(d, m, sum(w.numel() for w in matrices), vocabulary * d, low,
                 len(blocks) - low, len(layers))


def exponent(x: Iterable[float], y: Iterable[float]) -> float:
    """The power with which y grows in x: the slope of a line through their logarithms.

    Parameters
    ----------
    x, y : iterable of float
        Positive numbers.

    Returns
    -------
    float
        The slope; NaN if fewer than two x differ.
    """
    a, b = np.log(np.array([*x], float)), np.log(np.array([*y], float))
    if len({*a.tolist()}) < 2:
        return float("nan")
    return float(np.polyfit(a, b, 1)[0])


def decided(holds: pd.Series) -> bool | None:
    """Whether a condition holds in every run.

    Parameters
    ----------
    holds : Series of bool
        By run.

    Returns
    -------
    bool or None
        None if there are no runs.
    """
    return bool(holds.all()) if len(holds) else None


def by_machine(records: Rows) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Records of each model on each kind of machine, by the number of facts.

    Parameters
    ----------
    records : sequence of dict
        Records of this chapter.

    Returns
    -------
    dict
        By model and "CPU" or "GPU".
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(records, key=lambda row: (row["model"], row["device"], row["n"])):
        kind = "CPU" if row["device"].startswith("cpu") else "GPU"
        found.setdefault((row["model"], kind), []).append(row)
    return found


def clocked_frame(records: Rows) -> pd.DataFrame:
    """Runs with their parts.

    Parameters
    ----------
    records : sequence of dict
        Records of this chapter.

    Returns
    -------
    pd.DataFrame
        One row per run: "model", "device", "facts", seconds by stage, "SVD" (a part of "solve",
        timed separately), "edit" (targets, traces and solves), "end to end" (with moments), and
        "memory, GB".
    """
    columns = ["model", "device", "facts", *COLOURS, "SVD", "edit", "end to end", "memory, GB"]
    rows = []
    for record in records:
        row = {"model": record["model"], "device": record["device"], "facts": record["n"]}
        row |= {name: record["seconds"][name] for name in (*COLOURS, "SVD")}
        row["edit"] = row["targets"] + row["traces"] + row["solve"]
        row["end to end"] = row["edit"] + row["moments"]
        row["memory, GB"] = record["peak_memory_bytes"] / 1e9
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def cost_table(runs: pd.DataFrame, *, paper: bool = False) -> pd.DataFrame:
    """Runs as a page shows them.

    Parameters
    ----------
    runs : pd.DataFrame
        The result of `clocked_frame`.
    paper : bool
        Whether to add the paper's number for as many facts.

    Returns
    -------
    pd.DataFrame
        By model, device and number of facts, rounded.
    """
    places = dict.fromkeys((*COLOURS, "SVD"), 3)
    places |= {"edit": 1, "end to end": 1, "memory, GB": 2}
    table = runs.round(places)
    if paper:
        table["the paper, hours"] = [PRINTED.get(n, "–") for n in table.facts]
    return table.set_index(["model", "device", "facts"])


def roof_frame(
    needs: Mapping[int, pd.DataFrame], runs: pd.DataFrame, rate: Mapping[str, float],
    bandwidth: float,
) -> pd.DataFrame:
    """Each stage of each run beside its floor, the least time that the machine allows.

    Parameters
    ----------
    needs : mapping of int to DataFrame
        By number of facts: "operations" and "bytes" by stage.
    runs : pd.DataFrame
        The result of `clocked_frame`.
    rate : mapping
        Operations per second: "own", of the model's type, and "float64", of the solves.
    bandwidth : float
        Bytes per second.

    Returns
    -------
    pd.DataFrame
        One row per run and stage: "facts", "stage", "operations", "bytes", "seconds", "floor" and
        "floor / seconds".
    """
    rows = []
    for run in runs.itertuples():
        for stage, need in needs[cast(int, run.facts)].iterrows():
            speed = rate["float64" if stage == "solve" else "own"]
            floor = max(need.operations / speed, need.bytes / bandwidth)
            took = getattr(run, str(stage))
            rows.append({"facts": run.facts, "stage": stage, "operations": need.operations,
                         "bytes": need.bytes, "seconds": took, "floor": floor,
                         "floor / seconds": floor / took})
    return pd.DataFrame(rows)


def stage_boxes(operations: Mapping[str, float]) -> pd.DataFrame:
    """The boxes of the schematic of an edit.

    Parameters
    ----------
    operations : mapping
        By stage.

    Returns
    -------
    pd.DataFrame
        One row per stage: "stage", "x" and "y" of its box, "text", "how often", "operations".
    """
    rows = [(name, *BOXES[name], operations[name]) for name in BOXES]
    return pd.DataFrame(rows, columns=["stage", "x", "y", "text", "how often", "operations"])


def draw_stages(boxes: pd.DataFrame, facts: int) -> Figure:
    """Draw the stages of an edit, how often each runs, and its operations.

    Parameters
    ----------
    boxes : pd.DataFrame
        The result of `stage_boxes`.
    facts : int
        The number of facts for which the operations are counted.

    Returns
    -------
    Figure
        The schematic on the left, bars on the right.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.9), width_ratios=[2.3, 1])
    for box in boxes.itertuples(name=None):
        _, name, x, y, text, often, _ = box
        look = {"boxstyle": "round,pad=0.45", "fc": "white", "ec": COLOURS[name], "lw": 1.6}
        left.text(x, y, text, ha="center", va="center", fontsize=9, bbox=look, zorder=3)
        left.text(x, y - 0.38, often, ha="center", va="top", fontsize=8, color="#666666")
    for y in (0.0, 1.0, 2.0):
        _arrow(left, (1.72, y), (2.2, 1 + 0.22 * (y - 1)))
    _arrow(left, (-0.25, 2.0), (0.28, 2.0))
    _arrow(left, (-0.25, 1.0), (0.28, 1.0))
    _arrow(left, (-0.25, 0.9), (0.28, 0.1))
    left.text(-0.3, 2.0, "text", ha="right", va="center", fontsize=9)
    left.text(-0.3, 1.0, "facts", ha="right", va="center", fontsize=9)
    _arrow(left, (3.0, 0.42), (1.72, -0.16), bend=-0.35)
    left.text(2.85, -0.12, "new $W$: on to\nthe next layer", ha="center", va="top", fontsize=8)
    left.set(xlim=(-0.85, 3.95), ylim=(-0.75, 2.45))
    left.axis("off")
    right.barh(boxes.stage, boxes.operations, color=[COLOURS[name] for name in boxes.stage])
    right.set(xscale="log", xlabel=f"operations, {facts:,} facts")
    right.invert_yaxis()
    return figure


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0
) -> None:
    """A grey arrow between two points."""
    axis.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": PALETTE["base"], "lw": 1.1, "shrinkA": 0, "shrinkB": 0,
        "connectionstyle": f"arc3,rad={bend}"})


def draw_roof(roof: pd.DataFrame, rate: Mapping[str, float], bandwidth: float) -> Figure:
    """Stages under a machine's roof.

    Parameters
    ----------
    roof : pd.DataFrame
        The result of `roof_frame`.
    rate : mapping
        Operations per second, "own" and "float64" (dashed).
    bandwidth : float
        Bytes per second.

    Returns
    -------
    Figure
        Operations a second against operations per byte; a dot per stage and number of facts, larger
        for more facts.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 3.4))
    x = np.logspace(-1, 4, 200)
    for kind, style in (("own", "-"), ("float64", "--")):
        axis.plot(x, np.minimum(x * bandwidth, rate[kind]) / 1e9, style, color=PALETTE["base"],
                  lw=1)
    size = {n: 18 + 26 * i for i, n in enumerate(sorted({*roof.facts}))}
    for name, part in roof.groupby("stage", sort=False):
        axis.scatter(part.operations / part.bytes, part.operations / part.seconds / 1e9,
                     s=[size[n] for n in part.facts], color=COLOURS[str(name)], label=name,
                     alpha=0.8, zorder=3)
    axis.set(xscale="log", yscale="log", xlabel="operations per byte",
             ylabel="10⁹ operations a second")
    axis.legend(loc="lower right")
    return figure


def draw_growth(
    kept: Mapping[str, pd.DataFrame], widths: pd.DataFrame, layers: pd.DataFrame
) -> Figure:
    """Draw how the time of an edit grows.

    Parameters
    ----------
    kept : mapping of str to DataFrame
        The results of `clocked_frame` by name of a machine, for the panel of facts.
    widths : pd.DataFrame
        "width" and "seconds" of one solve, and "count", what the operations make of the last.
    layers : pd.DataFrame
        "layers" and "seconds" of traces and solves, and "count", as many times the first.

    Returns
    -------
    Figure
        Three panels: seconds against facts, width, and edited layers; counts are dotted.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.4, 2.9))
    for (name, runs), marker, colour in zip(kept.items(), "os^D", SERIES, strict=False):
        left.plot(runs.facts, runs.edit, f"{marker}-", ms=4, label=name, color=colour)
    ticks = sorted({int(n) for runs in kept.values() for n in runs.facts})
    if ticks:
        least = min(runs.edit.iloc[0] / runs.facts.iloc[0] for runs in kept.values())
        left.plot(ticks, [0.5 * least * n for n in ticks], ":", color=PALETTE["base"],
                  label="in proportion")
        left.legend(fontsize=6.5)
    left.set(xscale="log", yscale="log", xlabel="facts", ylabel="seconds")
    middle.plot(widths.width, widths.seconds, "o-", ms=4, color=COLOURS["solve"])
    middle.plot(widths.width, widths["count"], ":", color=PALETTE["base"])
    middle.set(xscale="log", yscale="log", xlabel="width d")
    middle.yaxis.set_minor_formatter(NullFormatter())
    middle.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    middle.yaxis.set_major_formatter("{x:g}")
    right.plot(layers.layers, layers.seconds, "o-", ms=4, color=COLOURS["traces"])
    right.plot(layers.layers, layers["count"], ":", color=PALETTE["base"])
    right.set(xlabel="edited layers", ylim=(0, None), xticks=[*layers.layers])
    decades = [n for n in ticks if n in (1, 10, 100, 1000, 10_000)]
    for axis, at in ((left, decades or ticks), (middle, [*widths.width])):
        axis.set_xticks(at, [str(tick) for tick in at], fontsize=8)
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    return figure


def bench_table(records: Rows) -> pd.DataFrame:
    """The records of `bench/targets.py` as a table.

    Parameters
    ----------
    records : sequence of dict
        Its records.

    Returns
    -------
    pd.DataFrame
        One row per record; empty if there are none.
    """
    rows = {}
    for record in records:
        name = record["model"] + " (random weights)" * bool(record["random"])
        rows[name, record["device"], record["dtype"]] = {
            "facts": record["targets"]["facts"], "steps": record["targets"]["steps"],
            "targets, s": round(record["targets"]["seconds"], 1),
            "the plain loop takes times as long": round(record["targets"]["ratio"], 1),
            "moments, s": round(record["moments"]["seconds"], 1),
            "traces and solves, s": round(record["edit"]["seconds"], 1)}
    return pd.DataFrame.from_dict(rows, "index")
