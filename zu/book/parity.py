"""Comparison with the released code: where both agree, and how its way of asking affects scores."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..scores import difference_interval, percent_interval
from .figures import PALETTE, SERIES
from .verdicts import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Relative differences between `zu` and repaired parts of the released code: what is compared, the
#: smallest and the largest difference, and its cause. Typed from runs outside this project.
FOUND = (
    ("keys of three layers, six texts before each prompt", 4e-8, 4e-8, "rounding"),
    ("the target's δ without the KL term, at rates of 0.1 and 0.5", 1e-5, 4e-5,
     "25 steps of Adam in float32"),
    ("Lemma 4.1 on the same matrices, float64", 3e-14, 3e-14, "rounding"),
    ("Lemma 4.1 over three layers, V_f = W K_f, ε = 0.01", 2e-5, 2e-5, "its B is in float32"),
    ("a whole edit by ZeroUnlearn, five choices as released", 3e-5, 3e-5, "its B is in float32"),
    ("gradient descent on Lemma 5.1, same projector, 1 to 20 steps", 2e-15, 3e-14, "rounding"),
    ("MEMIT, three layers", 1.4e-6, 1.4e-6, "its float32 solves"),
    ("AlphaEdit, three layers", 1e-5, 5e-5, "its float32 solves"),
    ("ROME, same key and target", 2.5e-6, 2.5e-6, "its float32 solves"),
    ("gradient ascent and fine-tuning, five steps, answers of one token", 6e-5, 1e-4,
     "rounding, under Adam"),
    ("Eff, Gen and Spe, both rules of scoring", 0.0, 0.0, "none: 18 numbers of 18"),
    ("perplexity of the same 100 tokens, with its exponent put right", 2e-7, 2e-7, "rounding"),
)
#: Rounding errors of one number, relative: half a unit in the last place.
ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53}
#: The roles of a prompt's tokens in a drawing, with their colours.
ROLES = {"question": "#E4E4E4", "asked for": SERIES[0], "second space": SERIES[1],
         "asked for by mistake": SERIES[4]}


def agreements() -> pd.DataFrame:
    """Relative differences between this code and the released one.

    Returns
    -------
    pd.DataFrame
        By "what": the "least" and the "most" difference, and "what is left", its cause.
    """
    columns = ["what", "least", "most", "what is left"]
    return pd.DataFrame(FOUND, columns=columns).set_index("what")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table of differences as a page shows it.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `agreements`.

    Returns
    -------
    pd.DataFrame
        "difference", a text such as "1 · 10⁻⁵ to 4 · 10⁻⁵", and "what is left".
    """
    said = [_power(least) if least == most else f"{_power(least)} to {_power(most)}"
            for least, most in zip(table.least, table.most)]
    return pd.DataFrame({"difference": said, "what is left": table["what is left"]}, table.index)


def _power(value: float) -> str:
    """A number as a text with a power of ten."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.removesuffix('.0')} · 10{raised}"


def draw_agreements(table: pd.DataFrame) -> Figure:
    """Relative differences beside the rounding of one number.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `agreements`; differences of 0 are left out.

    Returns
    -------
    Figure
        One row per comparison, the smallest on top, on a logarithmic axis.
    """
    import matplotlib.pyplot as plt

    some = table[table.most > 0].sort_values("most")
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    rows = range(len(some))
    axis.hlines(rows, some.least, some.most, color=SERIES[0], lw=3)
    axis.plot(some.least, rows, "o", ms=5, color=SERIES[0])
    axis.plot(some.most, rows, "o", ms=5, color=SERIES[0])
    for name, size in ROUNDING.items():
        axis.axvline(size, color=PALETTE["base"], lw=1, ls=":")
        axis.text(size, -0.9, f" {name}", fontsize=8, color=PALETTE["base"], va="bottom")
    names = [name.partition(",")[0].partition(" of the same")[0] for name in some.index]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xscale="log", xlabel="relative difference", xlim=(3e-17, 1), ylim=(-1, len(some)))
    axis.invert_yaxis()
    return figure


def way_cells() -> pd.DataFrame:
    """Three ways to ask for an answer of two tokens.

    Returns
    -------
    pd.DataFrame
        One row per token that is fed or asked for: "way", "step" (one per token asked for), "place"
        from 0, "text", and "kind", one of `ROLES`; the token asked for is the last of its step.
    """
    question, answer = "…state is it?", ("Costa", "Rica")
    ways = {
        "as asked": [[], [answer[0]]],
        "double space": [[], ["␣", answer[0]]],
        "behind a BOS": [[], ["<BOS>"], ["<BOS>", answer[0]]],
    }
    rows = []
    for way, steps in ways.items():
        wanted = ("<BOS>", *answer) if way == "behind a BOS" else answer
        for step, fed in enumerate(steps):
            tokens = [(question, "question")]
            tokens += [(text, "second space" if text == "␣" else "question") for text in fed]
            kind = "asked for by mistake" if wanted[step] == "<BOS>" else "asked for"
            tokens.append((wanted[step], kind))
            rows += [(way, step, place, *token) for place, token in enumerate(tokens)]
    return pd.DataFrame(rows, columns=["way", "step", "place", "text", "kind"])


def draw_ways(cells: pd.DataFrame) -> Figure:
    """Draw how an answer is asked for, token by token.

    Parameters
    ----------
    cells : pd.DataFrame
        The result of `way_cells`.

    Returns
    -------
    Figure
        A column per way, a line of tokens for each that is asked for.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    ways = [*cells.way.unique()]
    figure, axes = plt.subplots(1, len(ways), figsize=(7.4, 1.9), sharey=True)
    for axis, way in zip(axes, ways):
        for _, line in cells[cells.way == way].groupby("step"):
            x = 0.0
            for cell in line.sort_values("place").itertuples():
                width = 0.35 + 0.115 * len(cell.text)
                axis.add_patch(FancyBboxPatch(
                    (x, -cell.step - 0.32), width, 0.64, boxstyle="round,pad=0,rounding_size=0.1",
                    fc=ROLES[cell.kind], ec=PALETTE["base"], lw=0.6,
                    alpha=0.45 if cell.kind != "question" else 1))
                axis.text(x + width / 2, -cell.step, cell.text, ha="center", va="center", size=7)
                x += width + 0.1
        axis.set(title=way, xlim=(-0.1, 5.2), ylim=(-2.5, 0.6))
        axis.axis("off")
    shown = [plt.Rectangle((0, 0), 1, 1, fc=fill, ec=PALETTE["base"], lw=0.6, alpha=0.6)
             for fill in ROLES.values()]
    figure.legend(shown, [*ROLES], loc="outside lower center", ncols=4, fontsize=8)
    return figure


def shares_table(
    shares: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """The share of right tokens, by the way of asking and by group of facts.

    Parameters
    ----------
    shares : mapping of str to (n,)
        Percentages, one per fact, by the way of asking; the first is what others are compared with.
    groups : mapping of str to (n,) bool
        Which facts count, by their names.

    Returns
    -------
    pd.DataFrame
        One row per group and way: "facts", "share", and "low" and "high", its 95% interval, in
        percent; "against", "against low" and "against high", the paired difference, in points.
        NaN if a group has no facts, and against itself.
    """
    first = next(iter(shares.values()))
    rows = {}
    for group, chosen in groups.items():
        for way, values in shares.items():
            some, gap = values[chosen], (values - first)[chosen]
            mean = some.mean() if len(some) else np.nan
            apart = gap.mean() if len(some) else np.nan
            against = (apart, *difference_interval(gap))
            if values is first:
                against = (np.nan,) * 3
            rows[group, way] = (len(some), mean, *percent_interval(some), *against)
    columns = ["facts", "share", "low", "high", "against", "against low", "against high"]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["of", "asked"])
    return table


def difference(table: pd.DataFrame, group: str, way: str) -> Estimate:
    """A row's difference from the first way, from `shares_table`.

    Parameters
    ----------
    table : pd.DataFrame
        The table.
    group, way : str
        Its row.

    Returns
    -------
    Estimate
        In points.
    """
    row = table.loc[(group, way)]
    return Estimate(row["against"], row["against low"], row["against high"])


def draw_places(values: Sequence[float], whole: float) -> Figure:
    """Perplexity of a hundred tokens at several places of one text.

    Parameters
    ----------
    values : sequence of float
        By place.
    whole : float
        The perplexity of all of these tokens together, which is dotted.

    Returns
    -------
    Figure
        On a logarithmic axis, with the range of nine places in ten shaded.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 2.6))
    low, high = np.quantile(values, [0.05, 0.95])
    axis.axhspan(low, high, color=SERIES[3], alpha=0.25, lw=0)
    axis.axhline(whole, color=PALETTE["base"], lw=1, ls=":")
    axis.plot(range(1, len(values) + 1), values, "o", ms=4, color=SERIES[2])
    axis.set(yscale="log", xlabel="place in the text", ylabel="perplexity of 100 tokens")
    ticks = [tick for tick in (5, 10, 20, 50, 100, 200)
             if min(values) / 1.5 < tick < max(values) * 1.5]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    return figure
