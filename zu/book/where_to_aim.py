"""Schematics, tables and figures of the search for targets."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .figures import HEAT, PALETTE, SERIES
from .verdicts import over_draws

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

    from ..data.facts import Fact

#: What a page shows of a text that stays out of it.
UNSAID = "…"
#: What happens to a state in a step of the search, and its colour: see `suffix_cells`.
KINDS = {
    "run once": "#E6E6E6",
    "run once, its keys and values kept": "#BFD9EA",
    "changed by δ": SERIES[1],
    "run again for each δ": SERIES[0],
    "logits that no term reads": "#FFFFFF",
    "logits that are read": SERIES[4],
}
#: The parts of the work of a step, from the bottom of the model to its top, and their colours.
PARTS = {
    "layers up to L": PALETTE["base"],
    "above L, left of the subject, or padding": SERIES[4],
    "above L, from the subject on": SERIES[0],
    "logits nobody reads": SERIES[1],
    "logits that are read": SERIES[2],
}
#: Which parts are left after each saving.
SAVINGS = {
    "plain loop": tuple(PARTS),
    "1: only above L": tuple(PARTS)[1:],
    "2: from the subject on": tuple(PARTS)[2:],
    "3: logits that are read": (tuple(PARTS)[2], tuple(PARTS)[4]),
}


def facts_of(facts: Sequence[Fact], hide: bool) -> pd.DataFrame:
    """The facts that a page follows.

    Parameters
    ----------
    facts : sequence of Fact
        Any facts.
    hide : bool
        Whether their text stays out of the page.

    Returns
    -------
    pd.DataFrame
        By subject, or by number if it is hidden: "prompt" and "answer".
    """
    names = names_of(facts, hide)
    rows = [(UNSAID, UNSAID) if hide else (fact.text, fact.target) for fact in facts]
    return pd.DataFrame(rows, columns=["prompt", "answer"], index=pd.Index(names, name="fact"))


def names_of(facts: Sequence[Fact], hide: bool) -> list[str]:
    """The names of facts on a page.

    Parameters
    ----------
    facts : sequence of Fact
        Any facts.
    hide : bool
        Whether their text stays out of the page.

    Returns
    -------
    list of str
        Their subjects, or "fact 1", "fact 2", and so on.
    """
    return [f"fact {i + 1}" if hide else fact.subject for i, fact in enumerate(facts)]


def rows_of(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[Sequence[int], int]],
    reads: Sequence[int],
    hide: bool,
) -> pd.DataFrame:
    """The prompts of one fact, as the search gives them to the model.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    rows : sequence of (ids, position)
        Token numbers, and where the subject's last token is; the last row is "subject is a".
    reads : sequence of int
        After which token the goal's first token is asked for, of all rows but the last.
    hide : bool
        Whether their text stays out of the page.

    Returns
    -------
    pd.DataFrame
        One row per prompt: "text"; "tokens", how many; "δ at" and "read at", the numbers of tokens,
        counted from 0. The last row is read where δ is.
    """
    found = []
    for (ids, position), read in zip(rows, [*reads, rows[-1][1]], strict=True):
        text = UNSAID if hide else tokenizer.decode(list(ids))
        found.append((text, len(ids), position, read))
    return pd.DataFrame(found, columns=["text", "tokens", "δ at", "read at"])


def likeliest(
    tokenizer: PreTrainedTokenizerBase,
    chances: Mapping[str, torch.Tensor],
    hide: bool,
    count: int = 3,
) -> pd.DataFrame:
    """The likeliest next tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    chances : mapping of str to (vocabulary,)
        Next-token probabilities, by their names in the table.
    hide : bool
        Whether the tokens stay out of the page.
    count : int
        The number of tokens to show.

    Returns
    -------
    pd.DataFrame
        One row each, its cells "token (probability)", the likeliest first.
    """
    rows = {}
    for name, probabilities in chances.items():
        best = probabilities.topk(count)
        cells = []
        for p, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            said = UNSAID if hide else str(tokenizer.decode([token])).replace("\n", "↵")
            cells.append(f"{said} ({p:.2g})")
        rows[name] = cells
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(1, count + 1))


def wish_boxes() -> pd.DataFrame:
    """The tokens of the schematic of the three terms.

    Returns
    -------
    pd.DataFrame
        One row per token: "prompt", its number from the top; "x", its left end, and "width", both
        in inches; "text"; "role": "prompt", "subject" (where δ is added) or "goal".
    """
    prompts = [["The", "capital", "of", "France*", "is", "‹end›+"],
               ["Because it …", "The", "capital", "of", "France*", "is", "‹end›+"],
               ["France*", "is", "a"]]
    found = []
    for number, words in enumerate(prompts):
        x = 0.0
        for word in words:
            role = {"*": "subject", "+": "goal"}.get(word[-1], "prompt")
            text = word.rstrip("*+")
            width = 0.18 + 0.074 * len(text)
            found.append((number, x, width, text, role))
            x += width + 0.06
    return pd.DataFrame(found, columns=["prompt", "x", "width", "text", "role"])


def draw_wish(boxes: pd.DataFrame, bound: float) -> Figure:
    """The three terms of the loss: what is read at which token, and how long δ may be.

    Parameters
    ----------
    boxes : pd.DataFrame
        The result of `wish_boxes`.
    bound : float
        The longest δ, in lengths of h.

    Returns
    -------
    Figure
        The prompts on the left, the bound on the right.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), width_ratios=[2.6, 1])
    fills = {"prompt": "#E6E6E6", "subject": SERIES[3], "goal": "#FFFFFF"}
    for box in boxes.itertuples():
        y = -1.05 * box.prompt
        _rounded(left, (box.x, y, box.width, 0.34), fills[box.role], dashed=box.role == "goal")
        left.text(box.x + box.width / 2, y + 0.16, box.text, ha="center", va="center", size=8)
        if box.role == "subject":
            middle = box.x + box.width / 2
            _arrow(left, (middle, y - 0.32), (middle, y - 0.02), SERIES[1])
            left.text(middle + 0.07, y - 0.22, "+ δ", color=SERIES[1], size=9, va="center")
    for number, what in enumerate(("say the goal", "say the goal", "stay what you are")):
        role = "subject" if number == 2 else "prompt"
        row = boxes[(boxes.prompt == number) & (boxes.role == role)].iloc[-1]
        middle, y = row.x + row.width / 2, 0.34 - 1.05 * number
        _arrow(left, (middle, y + 0.02), (middle, y + 0.24), SERIES[2])
        left.text(middle + 0.07, y + 0.17, what, color=SERIES[2], size=8, va="center")
    left.set(xlim=(-0.1, boxes.eval("x + width").max() + 0.1), ylim=(-2.55, 0.75))
    _ball(right, bound)
    for axis in (left, right):
        axis.axis("off")
    return figure


def _ball(axis: Axes, bound: float) -> None:
    """The third term: h from the origin, the ball of the longest δ around it, and δ in there."""
    from matplotlib.patches import Circle

    (x, y), (a, b) = (0.62, 0.75), (0.42, -0.38)  # h, and δ
    axis.add_patch(Circle((x, y), bound * math.hypot(x, y), fill=False, ls="--", lw=1,
                          ec=PALETTE["base"]))
    _arrow(axis, (0, 0), (x, y), PALETTE["base"])
    _arrow(axis, (x, y), (x + a, y + b), SERIES[1])
    axis.plot(x + a, y + b, "o", ms=5, color=SERIES[1])
    axis.text(0.2, 0.42, "h", size=10, ha="right", color=PALETTE["base"])
    axis.text(x + a / 2 + 0.06, y + b / 2 + 0.05, "δ", size=10, color=SERIES[1])
    axis.text(x + a + 0.07, y + b - 0.05, "z", size=10, color=SERIES[1])
    axis.text(x, y + 0.38, "stay near", size=8, ha="center", color=SERIES[2])
    axis.text(x, -0.22, f"‖δ‖ ≤ {bound:g} ‖h‖", size=8, ha="center", color=PALETTE["base"])
    axis.set(xlim=(-0.25, 1.5), ylim=(-0.3, 1.55), aspect="equal")


def suffix_cells(tokens: Sequence[str], subject: int, layers: int, layer: int) -> pd.DataFrame:
    """What a step of the search does with each state of a model.

    Parameters
    ----------
    tokens : sequence of str
        The tokens of a prompt.
    subject : int
        Where the subject's last token is, counted from 0.
    layers : int
        The number of layers.
    layer : int
        After which δ is added, counted from 0.

    Returns
    -------
    pd.DataFrame
        One row per token and layer, and one per token for the logits, as layer `layers`: "token",
        "text", "layer" and "kind", one of `KINDS`.
    """
    once, kept, changed, again, unread, read = KINDS
    found = []
    for column, text in enumerate(tokens):
        for row in range(layers):
            left = column < subject
            kind = once if row <= layer else kept if left else again
            if (column, row) == (subject, layer):
                kind = changed
            found.append((column, text, row, kind))
        found.append((column, text, layers, read if column == len(tokens) - 1 else unread))
    return pd.DataFrame(found, columns=["token", "text", "layer", "kind"])


def draw_suffix(cells: pd.DataFrame) -> Figure:
    """The suffix search: which part of a model is run once, and which for each δ.

    Parameters
    ----------
    cells : pd.DataFrame
        The result of `suffix_cells`.

    Returns
    -------
    Figure
        Tokens from left to right, layers from below to above.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 4.3))
    top, last = int(cells.layer.max()), int(cells.token.max())
    for cell in cells.itertuples():
        gap = 0.35 * (cell.layer == top)
        _rounded(axis, (cell.token - 0.42, cell.layer - 0.34 + gap, 0.84, 0.68), KINDS[cell.kind],
                 dashed=cell.layer == top and cell.token < last)
    changed = cells[cells.kind == tuple(KINDS)[2]].iloc[0]
    subject, layer = int(changed.token), int(changed.layer)
    for x, y, text, colour in ((subject, layer, "h + δ", "white"),
                               (last, top + 0.35, "loss", "black")):
        axis.text(x, y, text, ha="center", va="center", color=colour, size=9, weight="bold")
    for row in range(layer + 1, top):  # attention looks back at what is kept
        _arrow(axis, (subject - 0.62, row), (subject - 0.2, row), "#3B6E8F")
    low, right = layer - 0.5, last + 0.72  # back between two rows of boxes, and up to δ
    axis.plot([last + 0.44, right, right, subject, subject],
              [top + 0.35, top + 0.35, low, low, layer - 0.42], "--", lw=1.4, color=SERIES[1])
    _arrow(axis, (subject, low), (subject, layer - 0.33), SERIES[1])
    axis.text(right + 0.12, layer + 1.5, "gradient", color=SERIES[1], size=9)
    words = cells[cells.layer == 0].sort_values("token")
    axis.set_xticks(words.token, words.text)
    rows = range(top)
    axis.set_yticks([*rows, top + 0.35], [f"layer {'L' if i == layer else 'L + 1'}"
                    if i in (layer, layer + 1) else "" for i in rows] + ["logits"])
    axis.set(xlim=(-0.7, last + 1.7), ylim=(-0.6, top + 0.9))
    axis.grid(False)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    shown = [plt.Rectangle((0, 0), 1, 1, fc=fill, ec=PALETTE["base"]) for fill in KINDS.values()]
    figure.legend(shown, list(KINDS), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _rounded(
    axis: Axes, where: tuple[float, float, float, float], fill: str, *, dashed: bool = False
) -> None:
    """A box with round corners at (left, bottom, width, height), in data coordinates."""
    from matplotlib.patches import FancyBboxPatch

    x, y, width, height = where
    axis.add_patch(FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=fill,
        ec="#AAAAAA" if dashed else PALETTE["base"], lw=0.8, ls=":" if dashed else "-"))


def _arrow(
    axis: Axes, start: tuple[Any, ...], end: tuple[Any, ...], colour: str, *, bend: float = 0.0,
    dashed: bool = False,
) -> None:
    """An arrow between two points, bent to one side by `bend`."""
    axis.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0,
        "ls": "--" if dashed else "-", "connectionstyle": f"arc3,rad={bend}"})


def curves_of(losses: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Losses by step as a tidy frame.

    Parameters
    ----------
    losses : mapping of str to (steps, n)
        Negative log-likelihoods of the goal, by the name of the rate.

    Returns
    -------
    pd.DataFrame
        One row per rate, fact and step: "rate", "fact" (from 1), "step" and "-log P".
    """
    rows = [(rate, i + 1, step, value) for rate, table in losses.items()
            for step, row in enumerate(table.tolist()) for i, value in enumerate(row)]
    return pd.DataFrame(rows, columns=["rate", "fact", "step", "-log P"])


def draw_curves(curves: pd.DataFrame, tolerance: float) -> Figure:
    """The goal's negative log-likelihood by step, one line per fact.

    Parameters
    ----------
    curves : pd.DataFrame
        The result of `curves_of`; the first rate is drawn in grey.
    tolerance : float
        The loss under which a fact is done, which is dotted.

    Returns
    -------
    Figure
        One panel.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, axis = plt.subplots(figsize=(5, 3))
    colours = dict(zip(curves.rate.unique(), (PALETTE["base"], *SERIES)))
    sns.lineplot(curves, x="step", y="-log P", hue="rate", palette=colours, units="fact",
                 estimator=None, ax=axis)
    axis.axhline(tolerance, color=PALETTE["base"], lw=0.8, ls=":")
    axis.set(ylabel="−log P(end of text)", ylim=(0, None))
    axis.legend(title="step size")
    return figure


def changes_of(change: torch.Tensor) -> pd.DataFrame:
    """A map of changes as a tidy frame.

    Parameters
    ----------
    change : (layers, tokens)
        How far each state moved, relative to its length.

    Returns
    -------
    pd.DataFrame
        One row per state: "layer", "token" and "relative change".
    """
    rows = [(layer, token, value) for layer, row in enumerate(change.tolist())
            for token, value in enumerate(row)]
    return pd.DataFrame(rows, columns=["layer", "token", "relative change"])


def draw_change(changes: pd.DataFrame, layer: int, position: int) -> Figure:
    """Which states a δ changes, and by how much.

    Parameters
    ----------
    changes : pd.DataFrame
        The result of `changes_of`.
    layer, position : int
        Where δ is added.

    Returns
    -------
    Figure
        A map; states that do not change are left blank.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3))
    seen = changes.pivot(index="layer", columns="token", values="relative change").to_numpy()
    shown = axis.imshow(seen, origin="lower", aspect="auto", cmap=HEAT, vmin=0,
                        alpha=(seen > 0).astype(float))
    axis.set(xlabel="token", ylabel="layer")
    axis.locator_params(integer=True)
    axis.axhline(layer - 0.5, color=PALETTE["base"], lw=0.8, ls=":")
    axis.axvline(position - 0.5, color=PALETTE["base"], lw=0.8, ls=":")
    axis.grid(False)
    figure.colorbar(shown, label="relative change")
    return figure


def work_of_step(
    lengths: Sequence[int], after: Sequence[int], layers: tuple[int, int], sizes: tuple[int, int]
) -> pd.Series:
    """Operations of one step for one fact, by the part of the model that does them.

    A matrix with N entries costs 2 N operations per token on the way forward, and 2 N more on the
    way back above the layer that δ is added after. Attention's own products are left out.

    Parameters
    ----------
    lengths, after : sequence of int
        Tokens of each prompt, and those of them from the subject's last one on; last the prompt
        "subject is a", of which the subject's last token is enough.
    layers : (int, int)
        How many layers lie up to and including L, and how many above it.
    sizes : (int, int)
        Entries of the matrices of one layer, and of the head.

    Returns
    -------
    pd.Series
        Operations by part, as `PARTS` names them. The plain loop does all of them.
    """
    prompts, (below, above), (layer, head) = len(lengths), layers, sizes
    tokens = prompts * max(lengths)  # padding included
    right = (prompts - 1) * max(after[:-1]) + 1
    counted = [2 * below * layer * tokens, 4 * above * layer * (tokens - right),
               4 * above * layer * right, 4 * head * (tokens - prompts), 4 * head * prompts]
    return pd.Series(counted, index=list(PARTS), name="operations a step")


def savings_of(work: pd.Series) -> pd.DataFrame:
    """The work left after each saving, as a tidy frame.

    Parameters
    ----------
    work : pd.Series
        The result of `work_of_step`.

    Returns
    -------
    pd.DataFrame
        One row per stage and part that it still does: "stage", "part", "operations a step".
    """
    rows = [(stage, part, work[part]) for stage, parts in SAVINGS.items() for part in parts]
    return pd.DataFrame(rows, columns=["stage", "part", "operations a step"])


def draw_work(table: pd.DataFrame) -> Figure:
    """The work of a step after each saving.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `savings_of`.

    Returns
    -------
    Figure
        A stacked bar per stage, in billions of operations.
    """
    import matplotlib.pyplot as plt

    wide = table.pivot(index="stage", columns="part", values="operations a step")
    wide = wide.reindex(index=list(SAVINGS), columns=list(PARTS)).fillna(0) / 1e9
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    wide.plot.barh(stacked=True, ax=axis, color=PARTS, width=0.75)
    axis.invert_yaxis()
    axis.set(xlabel="billion operations per step", ylabel="")
    axis.legend(fontsize=8, loc="lower right")
    return figure


def draw_answers(answers: pd.DataFrame, groups: Sequence[str]) -> Figure:
    """What is said before and after δ, by how the question is asked.

    Parameters
    ----------
    answers : pd.DataFrame
        One row per fact and prompt: "asked", one of the groups; "delta", "without" or "with"; and a
        column for each probability to draw, which names its panel.
    groups : sequence of str
        In the order of the axis.

    Returns
    -------
    Figure
        One panel per probability, on a logarithmic scale.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    panels = [column for column in answers.columns if column not in ("asked", "delta")]
    figure, axes = plt.subplots(1, len(panels), figsize=(7, 3), sharey=True, squeeze=False)
    colours = {"without": PALETTE["base"], "with": SERIES[0]}
    for axis, panel in zip(axes[0], panels, strict=True):
        sns.stripplot(answers, x="asked", y=panel, hue="delta", order=groups, palette=colours,
                      dodge=True, jitter=False, size=4.5, alpha=0.7, ax=axis,
                      legend=axis is axes[0, 0])
        axis.set_xticks(range(len(groups)), [group.replace(" ", "\n") for group in groups], size=8)
        axis.set(title=panel, xlabel="", ylabel="probability", yscale="log")
    axes[0, 0].legend(title="δ", loc="center left", fontsize=8)
    return figure


def ways_apart(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How scores differ between targets found along the gradient and by Adam, draw by draw.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the record that tools/searches.py writes.

    Returns
    -------
    pd.DataFrame
        By method and score, "gen" and "spe": "value", "low" and "high", the mean of the paired
        differences and its 95% interval over draws, in percentage points.
    """
    frame = pd.DataFrame(rows)
    found = {}
    for method in frame[frame.way == "adam"].method.unique():
        some = frame[frame.method == method].set_index(["way", "seed"])
        for score in ("gen", "spe"):
            gaps = some.loc["normalised"][score] - some.loc["adam"][score]
            found[method, score] = over_draws(gaps.dropna().to_numpy())._asdict()
    table = pd.DataFrame.from_dict(found, orient="index")
    return table.rename_axis(["method", "score"])
