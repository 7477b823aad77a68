"""Causal tracing on its page: drawings of its three runs and their branches, and mean effects."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from ..experiment.tracing import KINDS, ROLES
from ..scores import bootstrap
from .figures import HEAT, PALETTE, SERIES
from .verdicts import NO, UNDECIDED, YES, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is restored, as a page calls it.
NAMES = {"hidden": "hidden states", "mlp": "MLP outputs", "attention": "attention outputs"}
#: The two tokens that matter, of `ROLES`.
SUBJECT, END = ROLES[2], ROLES[5]
#: The layers that the paper edits, and how many layers each of its models has.
PAPER = {"Llama-3.2-3B": (16, 18, 28), "Llama-3.1-8B": (19, 21, 32), "Qwen3-4B": (9, 11, 36)}
#: What a state in a drawing is, with its colour.
STATES = {"as in the clean run": "#D5EDE9", "noise added": SERIES[1], "corrupted": "#F3D9DD",
          "restored": SERIES[0], "follows from the restored one": "#F0E7C4"}
_CLEAN, _NOISE, _CORRUPTED, _RESTORED, _FOLLOWS = STATES
#: Of fewer facts no interval is made: they say too little of how facts differ.
FEWEST = 5
#: Layers that are chosen together.
TOGETHER = 3


def run_cells(
    tokens: Sequence[str], subject: tuple[int, int], layers: int, at: tuple[int, int]
) -> pd.DataFrame:
    """The states of the three runs of causal tracing, with their kinds.

    Parameters
    ----------
    tokens : sequence of str
        The tokens of a prompt.
    subject : (int, int)
        Where its subject's first and last token stand, from 0.
    layers : int
        The number of layers; the embedding comes below them, as layer 0 of the drawing.
    at : (int, int)
        The token and the layer (of the drawing, from 1) whose state is restored.

    Returns
    -------
    pd.DataFrame
        One row per state: "run" from 0, "token", "text", "layer", and "kind", one of `STATES`.
    """
    first, last = subject
    rows = []
    for run in range(3):
        for token, text in enumerate(tokens):
            for layer in range(layers + 1):
                if run == 0 or token < first or (layer == 0 and token > last):
                    kind = _CLEAN
                elif layer == 0:
                    kind = _NOISE
                elif run == 2 and (token, layer) == at:
                    kind = _RESTORED
                elif run == 2 and token >= at[0] and layer > at[1]:
                    kind = _FOLLOWS
                else:
                    kind = _CORRUPTED
                rows.append((run, token, text, layer, kind))
    return pd.DataFrame(rows, columns=["run", "token", "text", "layer", "kind"])


def draw_runs(cells: pd.DataFrame) -> Figure:
    """The three runs beside each other.

    Parameters
    ----------
    cells : pd.DataFrame
        The result of `run_cells`.

    Returns
    -------
    Figure
        Tokens from left to right, layers from below to above, the answer's probability on top.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.4, 3.5))
    top, last = int(cells.layer.max()), int(cells.token.max())
    step = last + 2.2
    for cell in cells.itertuples():
        _box(axis, cell.token + step * cell.run, cell.layer, STATES[cell.kind])
    for run, (title, says) in enumerate((("1. clean", "$P(o)$"), ("2. corrupted", "$P_*(o)$"),
                                         ("3. restored", "$P_{*,(t,l)}(o)$"))):
        axis.text(step * run + last / 2, top + 2.5, title, ha="center", weight="bold", size=10)
        axis.text(step * run + last, top + 1.45, says, ha="center", size=9)
        _arrow(axis, (step * run + last, top + 0.45), (step * run + last, top + 1.3))
    restored = cells[cells.kind == _RESTORED].iloc[0]
    start = restored.token, restored.layer
    axis.annotate("", (start[0] + 2 * step - 0.1, start[1] + 0.3), (start[0], start[1] + 0.3),
                  arrowprops={"arrowstyle": "-|>", "color": SERIES[0], "lw": 1.4, "shrinkA": 0,
                              "shrinkB": 0, "connectionstyle": "arc3,rad=-0.22"}, zorder=4)
    words = cells[cells.layer == 0]
    axis.set_xticks(words.token + step * words.run, words.text, rotation=60, ha="right",
                    rotation_mode="anchor", size=8)
    axis.set_yticks(range(top + 1), ["embedding", *(f"layer {i}" for i in range(top))], size=8)
    axis.set(xlim=(-0.7, 3 * step - 1.2), ylim=(-0.6, top + 3.1))
    _bare(axis)
    _legend(figure, STATES)
    return figure


def branch_cells(
    tokens: Sequence[str], first: int, layers: int, jobs: Sequence[tuple[int, int]]
) -> pd.DataFrame:
    """A corrupted run and its restorations as one longer sequence.

    Parameters
    ----------
    tokens : sequence of str
        The tokens of a prompt.
    first : int
        Where its subject begins, from 0.
    layers : int
        The number of layers.
    jobs : sequence of (int, int)
        The token, and the layer before which its state is restored; by layer.

    Returns
    -------
    pd.DataFrame
        One row per state that enters a layer: "place" in the long sequence, "layer", "branch" (0 is
        the corrupted run), "token", "text" and "kind", one of `STATES`.
    """
    rows = [(token, layer, 0, token, text, _CLEAN if token < first else _CORRUPTED)
            for token, text in enumerate(tokens) for layer in range(layers)]
    place = len(tokens)
    for branch, (position, start) in enumerate(jobs, 1):
        for token in range(position, len(tokens)):
            for layer in range(start, layers):
                mended = (token, layer) == (position, start)
                kind = _RESTORED if mended else _FOLLOWS if layer > start else _CORRUPTED
                rows.append((place, layer, branch, token, tokens[token], kind))
            place += 1
    return pd.DataFrame(rows, columns=["place", "layer", "branch", "token", "text", "kind"])


def branch_mask(cells: pd.DataFrame) -> np.ndarray:
    """Which places of the long sequence each of them sees, in the last layer.

    Parameters
    ----------
    cells : pd.DataFrame
        The result of `branch_cells`.

    Returns
    -------
    array, (N, N), bool
        Row sees column: what stands left of it or on it in its own branch, and, left of the token
        where its branch begins, the corrupted run.
    """
    places = cells[cells.layer == cells.layer.max()].sort_values("place")
    branch, token = places.branch.to_numpy(), places.token.to_numpy()
    begin = places.groupby("branch").token.transform("min").to_numpy()
    own = (branch == branch[:, None]) & (token <= token[:, None])
    trunk = (branch == 0) & (token < begin[:, None])
    return own | trunk


def draw_branches(cells: pd.DataFrame) -> Figure:
    """Restorations that branch off a corrupted run, and the mask that keeps them apart.

    Parameters
    ----------
    cells : pd.DataFrame
        The result of `branch_cells`.

    Returns
    -------
    Figure
        Left the states, right the mask in the last layer.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.3), width_ratios=[1.55, 1])
    begins = cells.groupby("branch").place.min()
    for cell in cells.itertuples():
        _box(left, cell.place + 0.5 * cell.branch, cell.layer, STATES[cell.kind])
    for branch, some in cells[cells.branch > 0].groupby("branch"):
        low, token = int(some.layer.min()), int(some.token.min())
        start, end = (token, low - 0.38), (begins[branch] + 0.5 * branch, low - 0.38)
        left.annotate("", end, start, arrowprops={
            "arrowstyle": "-|>", "color": PALETTE["base"], "lw": 1.1, "shrinkA": 0, "shrinkB": 0,
            "connectionstyle": "arc3,rad=0.18"}, zorder=1)
    words = cells[cells.layer == cells.layer.max()].sort_values("place")
    left.set_xticks(words.place + 0.5 * words.branch, words.text, rotation=60, ha="right",
                    rotation_mode="anchor", size=8)
    left.set_yticks(range(int(cells.layer.max()) + 1))
    left.set(ylabel="state entering layer", title="one longer sequence",
             xlim=(-0.7, words.place.max() + 0.5 * words.branch.max() + 0.7),
             ylim=(-0.7, cells.layer.max() + 0.7))
    right.imshow(branch_mask(cells), cmap=ListedColormap(["#F4F4F4", SERIES[3]]))
    for begin in begins[1:]:
        right.axhline(begin - 0.5, color="white", lw=2)
        right.axvline(begin - 0.5, color="white", lw=2)
    right.set_xticks(words.place, words.text, rotation=90, size=8)
    right.set_yticks(words.place, words.text, size=8)
    right.set(title="who sees whom")
    _bare(left)
    _bare(right)
    _legend(figure, {kind: STATES[kind] for kind in (_CLEAN, _CORRUPTED, _RESTORED, _FOLLOWS)}, 4)
    return figure


def _box(axis: Axes, x: float, y: float, fill: str) -> None:
    """A state, as a box with round corners around (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    axis.add_patch(FancyBboxPatch(
        (x - 0.4, y - 0.34), 0.8, 0.68, boxstyle="round,pad=0,rounding_size=0.12", fc=fill,
        ec=PALETTE["base"], lw=0.6, zorder=2))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A grey arrow."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": PALETTE["base"],
                                              "lw": 1.1, "shrinkA": 0, "shrinkB": 0})


def _bare(axis: Axes) -> None:
    """An axis of a drawing: words at its edge and no lines."""
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _legend(figure: Figure, colours: Mapping[str, str], columns: int = 3) -> None:
    """What the colours of boxes mean, below a drawing."""
    import matplotlib.pyplot as plt

    shown = [plt.Rectangle((0, 0), 1, 1, fc=fill, ec=PALETTE["base"], lw=0.6)
             for fill in colours.values()]
    figure.legend(shown, [*colours], loc="outside lower center", ncols=columns,
                  fontsize=8)


def computed(lengths: Sequence[tuple[int, int]], depth: int, width: int) -> tuple[int, int]:
    """The numbers of states that all restorations of some prompts need, run by run and as branches.

    A state is one token after one layer. Hidden states are restored one at a time, the outputs of
    MLPs and of attention in windows; the corrupted run that branches share counts once.

    Parameters
    ----------
    lengths : sequence of (int, int)
        Of each prompt, the number of tokens and the position of the subject's first one.
    depth : int
        Layers of the model.
    width : int
        Layers of a window.

    Returns
    -------
    runs, branches : int
        For one draw of the noise.
    """
    starts = []
    for layer in range(depth):
        low = max(0, layer - width // 2)
        starts += [layer + 1, low, low]
    runs = branches = 0
    for length, first in lengths:
        runs += length * depth * len(starts) * (length - first)
        above = sum(depth - start for start in starts)
        branches += length * depth + above * sum(range(1, length - first + 1))
    return runs, branches


class Effects:
    """Indirect effects on average over facts, for the sentences of a page.

    Attributes
    ----------
    by_role : pd.DataFrame
        One row per kind, role, fact and layer: "effect", the mean over the tokens of that role.
    mean : pd.DataFrame
        The average indirect effect by kind and role, with a column per layer; NaN if no fact has
        such a token.
    facts : pd.DataFrame
        By fact: "clean", "corrupted" and "total", the answer's probability and what is lost of it.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `zu.experiment.tracing.indirect_effects`, of all three kinds.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        keys = ["kind", "role", "fact", "layer"]
        self.by_role = table.groupby(keys, as_index=False).effect.mean()
        wanted = pd.MultiIndex.from_product([KINDS, ROLES], names=["kind", "role"])
        mean = self.by_role.groupby(["kind", "role", "layer"]).effect.mean()
        self.mean = mean.unstack().reindex(wanted)
        facts = table.groupby("fact")[["clean", "corrupted"]].first()
        self.facts = facts.assign(total=facts.clean - facts.corrupted)
        self.depth = self.mean.shape[1]

    def matrix(self, kind: str, role: str) -> pd.DataFrame:
        """Effects of one kind and role: facts in the rows, layers in the columns."""
        some = self.by_role[(self.by_role.kind == kind) & (self.by_role.role == role)]
        return some.pivot(index="fact", columns="layer", values="effect")

    def at(self, kind: str, role: str, layers: int | Sequence[int]) -> pd.Series:
        """Each fact's effect of a kind and role, on average over some layers."""
        chosen = [layers] if isinstance(layers, int) else [*layers]
        return self.matrix(kind, role).reindex(columns=chosen).mean(axis=1)

    def peak(self, kind: str, role: str, *, start: int = 0) -> tuple[int, float]:
        """The layer with the largest mean effect, from `start` on, and the effect; or 0 and NaN."""
        line = self.mean.loc[(kind, role)].loc[start:].dropna()
        return (int(line.idxmax()), float(line.max())) if len(line) else (0, math.nan)

    def handover(self) -> int:
        """The layer from which on the last token's hidden state restores more than the subject's.

        The depth of the model if there is no such layer.
        """
        ahead = self.mean.loc[("hidden", END)] > self.mean.loc[("hidden", SUBJECT)]
        behind = ahead.index[~ahead.to_numpy()]
        return int(behind.max()) + 1 if len(behind) else 0

    def others(self) -> tuple[str, int, float]:
        """Of all other tokens, the role, layer and effect of the hidden state that restores most.

        The role is empty if facts have no other tokens.
        """
        rest = [role for role in ROLES if role not in (SUBJECT, END)]
        found = {role: self.peak("hidden", role) for role in rest}
        seen = {role: peak for role, peak in found.items() if not math.isnan(peak[1])}
        if not seen:
            return "", 0, math.nan
        role = max(seen, key=lambda role: seen[role][1])
        return role, *seen[role]


def gap(one: pd.Series, other: pd.Series | float = 0.0, share: float = 1.0) -> Estimate:
    """How much one number per fact exceeds a share of another, on average over facts.

    Parameters
    ----------
    one, other : pd.Series
        By fact, probabilities; facts that lack either are left out.
    share : float
        The share of `other` to compare with.

    Returns
    -------
    Estimate
        In percentage points, with a 95% bootstrap interval over facts; no interval (NaN) for fewer
        than `FEWEST`.
    """
    values = 100 * (one - share * other).dropna().to_numpy()
    if len(values) < FEWEST:
        return Estimate(float(values.mean()) if len(values) else math.nan, math.nan, math.nan)
    return Estimate(float(values.mean()), *bootstrap(values))


def points(estimate: Estimate) -> str:
    """A difference in words, for the flag of a claim.

    Parameters
    ----------
    estimate : Estimate
        The result of `gap`.

    Returns
    -------
    str
        The difference, with its interval if it has one.
    """
    if math.isfinite(estimate.low):
        return f"{estimate} points"
    return f"{estimate.value:.1f} points, of too few facts"


def draw_map(effects: Effects) -> Figure:
    """Average indirect effects, one map per kind of restored state.

    Parameters
    ----------
    effects : Effects
        The indirect effects.

    Returns
    -------
    Figure
        Roles in the rows, with the number of facts that have such a token; layers in the columns.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    have = effects.by_role.groupby("role").fact.nunique()
    rows = [role for role in ROLES if role in have.index]
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.4), sharey=True)
    for axis, kind in zip(axes, KINDS):
        sns.heatmap(effects.mean.loc[kind].reindex(rows), ax=axis, vmin=0,
                    vmax=effects.mean.max().max(), cmap=HEAT, xticklabels=5,
                    cbar=kind == KINDS[-1])
        axis.set(title=NAMES[kind], ylabel="", xlabel="layer")
        axis.tick_params(length=0)
        axis.tick_params(axis="x", rotation=0)
        axis.grid(False)
    axes[0].set_yticklabels([f"{role} ({have[role]})" for role in rows])
    return figure


def bands(effects: Effects) -> pd.DataFrame:
    """The mean effects at the two tokens that matter, with 95% bootstrap intervals over facts.

    Parameters
    ----------
    effects : Effects
        The indirect effects.

    Returns
    -------
    pd.DataFrame
        One row per role, kind and layer: "role", "restored", "layer", "facts", "effect", "low",
        "high".
    """
    some = effects.by_role[effects.by_role.role.isin((SUBJECT, END))]
    rows = [(*cell, len(x), x.mean(), *bootstrap(x.to_numpy()))
            for cell, x in some.groupby(["role", "kind", "layer"]).effect]
    columns = ["role", "restored", "layer", "facts", "effect", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def draw_lines(table: pd.DataFrame, used: Sequence[int]) -> Figure:
    """The effects at the two tokens that matter, by layer.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `bands`.
    used : sequence of int
        The layers that are edited, which are shaded.

    Returns
    -------
    Figure
        One panel per token, one line per kind of restored state.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9), sharey=True)
    for axis, role in zip(axes, (SUBJECT, END)):
        for kind, colour in zip(NAMES, SERIES):
            some = table[(table.role == role) & (table.restored == kind)]
            axis.plot(some.layer, some.effect, color=colour, label=NAMES[kind])
            axis.fill_between(some.layer, some.low, some.high, color=colour, alpha=0.2, lw=0)
        axis.axvspan(used[0] - 0.5, used[-1] + 0.5, color=PALETTE["base"], alpha=0.15, lw=0)
        axis.set(title=f"the {'subject' if role == SUBJECT else 'prompt'}'s last token",
                 xlabel="layer")
    axes[0].set_ylabel("average indirect effect")
    axes[1].legend()
    return figure


def draw_alone(windowed: pd.DataFrame, alone: pd.DataFrame) -> Figure:
    """The MLP's effect at the subject's last token, in windows and layer by layer.

    Parameters
    ----------
    windowed, alone : (facts, layers)
        Effects with a window of layers restored, and with a single layer, of the same facts.

    Returns
    -------
    Figure
        A line for the windows, one bar per single layer, with 95% bootstrap intervals over facts.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 2.8))
    ends = np.array([bootstrap(alone[layer].to_numpy()) for layer in alone]).T  # (2, layers)
    mean = alone.mean().to_numpy()
    axis.bar(alone.columns, mean, color=SERIES[1], alpha=0.7, label="this layer alone",
             yerr=np.abs(ends - mean), error_kw={"lw": 0.8, "ecolor": PALETTE["base"]})
    axis.plot(windowed.columns, windowed.mean(), "o-", ms=3, color=PALETTE["base"],
              label="the window around it")
    axis.axhline(0, color=PALETTE["base"], lw=0.6)
    axis.set(xlabel="layer", ylabel="average indirect effect")
    axis.legend()
    return figure


class Rule(NamedTuple):
    """Three consecutive layers with the largest mean effect.

    Attributes
    ----------
    start : int
        The first of them.
    low, high : float
        The 95% interval of that number when facts are drawn again.
    effect : float
        Their mean effect.
    """

    start: int
    low: float
    high: float
    effect: float

    def layers(self, depth: int) -> list[int]:
        """The layers, of a model of some depth."""
        return [*range(self.start, min(self.start + TOGETHER, depth))]


def choose(matrix: pd.DataFrame, *, draws: int = 1000, seed: int = 0) -> Rule:
    """Choose the three consecutive layers with the largest mean effect.

    Parameters
    ----------
    matrix : (facts, layers)
        Effects; its columns are numbers of consecutive layers.
    draws : int
        How often facts are drawn again, with replacement.
    seed : int
        The seed of these draws.

    Returns
    -------
    Rule
        The choice; all layers, if there are fewer than three.

    Raises
    ------
    ValueError
        If there is no fact or no layer.
    """
    if not matrix.size:
        raise ValueError(f"no effects to choose by: {matrix.shape[0]} facts, {matrix.shape[1]} "
                         "layers")
    values, first = matrix.to_numpy(), int(matrix.columns[0])
    count = min(TOGETHER, values.shape[1])
    sums = np.lib.stride_tricks.sliding_window_view(values, count, axis=1).mean(-1)
    again = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    picked = [first + int(sums[rows].mean(0).argmax()) for rows in again]
    best = int(sums.mean(0).argmax())
    low, high = np.percentile(picked, [2.5, 97.5])
    return Rule(first + best, float(low), float(high), float(sums.mean(0)[best]))


def layer_table(
    rules: Mapping[str, Rule], effects: Effects, used: Sequence[int]
) -> pd.DataFrame:
    """The layers that tracing would choose, those that are edited here, and the paper's.

    Parameters
    ----------
    rules : mapping of str to Rule
        The choices, by the name of their rule.
    effects : Effects
        The indirect effects.
    used : sequence of int
        The layers that are edited.

    Returns
    -------
    pd.DataFrame
        By rule: "layers"; "share of depth", that of their middle; "first, from" and "first, to",
        the interval of a choice; "effect", the mean effect of their MLPs. NaN if there is none.
    """
    rows: dict[str, tuple[object, ...]] = {}
    for name, rule in rules.items():
        layers = rule.layers(effects.depth)
        rows[name] = (_span(layers), np.mean(layers) / effects.depth, rule.low, rule.high,
                      rule.effect)
    for role, token in ((SUBJECT, "subject"), (END, "prompt")):
        value = effects.at("mlp", role, used).mean()
        rows[f"edited here, at the {token}'s last token"] = (
            _span(used), np.mean(used) / effects.depth, math.nan, math.nan, value)
    for name, (first, last, depth) in PAPER.items():
        rows[f"edited in the paper, {name}"] = (
            _span((first, last)), (first + last) / 2 / depth, math.nan, math.nan, math.nan)
    columns = ["layers", "share of depth", "first, from", "first, to", "effect"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("rule")


def _span(layers: Sequence[int]) -> str:
    """The first and last of some layers, in words."""
    return f"{layers[0]} to {layers[-1]}"


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table of layers as a page shows it.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `layer_table`.

    Returns
    -------
    pd.DataFrame
        Texts: the interval in one column, and a dash if there is no value.
    """
    def said(value: float, digits: int) -> str:
        return "–" if math.isnan(value) else f"{value:.{digits}f}"

    ends = [" to ".join(said(x, 0) for x in pair) if not math.isnan(pair[0]) else "–"
            for pair in zip(table["first, from"], table["first, to"])]
    return pd.DataFrame({
        "layers": table.layers,
        "share of depth": [said(x, 2) for x in table["share of depth"]],
        "first layer, interval": ends,
        "effect": [said(x, 3) for x in table.effect],
    }, index=table.index)


def picks(rule: Rule, used: Sequence[int]) -> str:
    """Whether a rule picks any of the layers that are edited, however the facts are drawn.

    Parameters
    ----------
    rule : Rule
        The choice, with the interval of its first layer.
    used : sequence of int
        The layers that are edited.

    Returns
    -------
    str
        "yes" if all choices in the interval share a layer with `used`, "no" if none does, and
        undecided otherwise.
    """
    starts = range(math.floor(rule.low), math.ceil(rule.high) + 1)
    hits = {bool(set(used) & {*range(start, start + TOGETHER)}) for start in starts}
    return UNDECIDED if len(hits) > 1 else YES if hits == {True} else NO
