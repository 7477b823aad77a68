"""A drawing of a layout, and tables of the page on model families."""
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..data.facts import Facts
from ..scores import known
from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.facts import Fact

#: Fills by what becomes of a part: see `layer_parts`.
ROLES = {"found by the record": SERIES[3], "read and written": SERIES[1], "may be there": "#FFFFFF",
         "passed by": "#E6E6E6"}


def layer_parts() -> pd.DataFrame:
    """The parts of a decoder layer, and what follows the last one, as boxes.

    Returns
    -------
    pd.DataFrame
        One row per box: "part"; "x" and "y", its middle, and "width", in a unit of the drawing;
        "field", the record's field that says where it is, or ""; "role", one of `ROLES`.
    """
    found, edited, maybe, passed = ROLES
    rows = [("norm", 1.0, 1.0, 0.8, "", passed),
            ("attention", 2.2, 1.0, 1.2, "", passed),
            ("o_proj", 3.5, 1.0, 1.0, "attention", found),
            ("norm", 5.7, 1.0, 0.8, "", passed),
            ("gate, up", 6.95, 1.0, 1.2, "", passed),
            ("down_proj\nW", 8.75, 1.0, 1.4, "projection", edited),
            ("scale or\nnorm", 10.6, 1.0, 1.2, "", maybe),
            ("norm", 13.2, 0.0, 0.9, "last", found),
            ("head", 14.45, 0.0, 0.9, "", passed)]
    return pd.DataFrame(rows, columns=["part", "x", "y", "width", "field", "role"])


def draw_layer(parts: pd.DataFrame) -> Figure:
    """A decoder layer with the places that are read and written.

    Parameters
    ----------
    parts : pd.DataFrame
        The result of `layer_parts`.

    Returns
    -------
    Figure
        The residual stream from left to right; attention and the MLP leave it and come back.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    figure, axis = plt.subplots(figsize=(7.2, 2.7))
    stream = [(0.0, 4.2), (4.5, 11.4), (11.7, 12.75), (13.65, 14.0), (14.9, 15.6)]
    for start, end in stream:
        _arrow(axis, (start, 0), (end, 0))
    for row, plus in ((parts.iloc[:3], 4.35), (parts.iloc[3:7], 11.55)):
        ends = (row.x + row.width / 2).tolist()
        starts = (row.x - row.width / 2).tolist()
        axis.plot([starts[0] - 0.35, starts[0] - 0.35], [0, 1], color=PALETTE["base"], lw=1.2)
        _arrow(axis, (starts[0] - 0.35, 1), (starts[0], 1))
        for end, start in zip(ends, starts[1:]):
            _arrow(axis, (end, 1), (start, 1))
        axis.plot([ends[-1], plus], [1, 1], color=PALETTE["base"], lw=1.2)
        _arrow(axis, (plus, 1), (plus, 0.17))
        axis.text(plus, 0, "+", ha="center", va="center", size=10,
                  bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": PALETTE["base"]})
    for part in parts.itertuples():
        x, y, width = (float(str(v)) for v in (part.x, part.y, part.width))
        dashed = part.role == "may be there"
        axis.add_patch(FancyBboxPatch(
            (x - width / 2, y - 0.27), width, 0.54, boxstyle="round,pad=0,rounding_size=0.08",
            fc=ROLES[str(part.role)], ec=PALETTE["base"], lw=0.9, ls=":" if dashed else "-"))
        edited = part.role == "read and written"
        axis.text(x, y, str(part.part), ha="center", va="center", size=8,
                  color="white" if edited else "black")
        if part.field:
            axis.text(x, y + 0.36, f"record.{part.field}", ha="center", size=7, style="italic",
                      color=PALETTE["base"])
    _notes(axis)
    axis.set(xlim=(-0.2, 15.8), ylim=(-0.75, 1.6))
    axis.axis("off")
    return figure


def _notes(axis: Axes) -> None:
    """The names of what is read, at their places, and δ at its own."""
    notes = [(7.8, 1.12, "k", PALETTE["base"]), (9.72, 1.12, "v", PALETTE["base"]),
             (9.72, 0.52, "+ δ\n(value)", SERIES[1]), (12.2, 0.14, "h", PALETTE["base"]),
             (12.2, -0.38, "+ δ\n(hidden)", SERIES[1]), (0.0, 0.14, "h", PALETTE["base"]),
             (15.25, 0.14, "logits", PALETTE["base"]),
             (5.8, -0.58, "one of record.layers", PALETTE["base"])]
    for x, y, text, colour in notes:
        axis.text(x, y, text, ha="center", va="center" if "\n" in text else "baseline", size=8,
                  color=colour, style="italic" if "record" in text else "normal")
    axis.plot([0.55, 0.55, 11.75, 11.75], [-0.2, -0.3, -0.3, -0.2], color=PALETTE["base"], lw=0.8)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A thin arrow between two points."""
    axis.annotate("", end, start, arrowprops={
        "arrowstyle": "-|>", "color": PALETTE["base"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0,
        "mutation_scale": 7})


def tried(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Counts from the record of all families.

    Parameters
    ----------
    rows : sequence of mapping
        The families of the record that tools/families.py writes.

    Returns
    -------
    dict of str to float
        "all", "bound" and "refused", how many families; of the edited ones "some", how many
        have a projection in some layers only, "less" and "undone", in how many gradient ascent
        makes the answer less likely and all edits could be taken back; "off", the furthest that an
        edit ends from its targets, as a share of the way; of all, "error", the largest relative
        error of a probability.
    """
    edited = [row for row in rows if row["bound"]]
    return {
        "all": len(rows), "bound": len(edited), "refused": len(rows) - len(edited),
        "some": sum(len(row["editable"]) < row["depth"] for row in edited),
        "less": sum(row["descent"][1] < row["descent"][0] for row in edited),
        "undone": sum(row["undone"] for row in edited),
        "off": max(off for row in edited for _, off in row["reach"].values()),
        "error": max(row["error"] for row in rows)}


def second_scores(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Scores of two models after each method, with perplexity as a multiple of the unedited one's.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of the record that tools/second_model.py writes.

    Returns
    -------
    pd.DataFrame
        By model, "gemma" or "own", and method: "known", "of", "eff", "spe", "ppl", "times", and
        "damage", that of the layer where it is largest.
    """
    names = {"Gemma3ForCausalLM": "gemma", "LlamaForCausalLM": "own"}
    frame = pd.DataFrame([
        {"model": names[row["model"]], "method": row["method"], "known": row["known"],
         "of": row["of"], "eff": row["eff"], "spe": row["spe"], "ppl": row["ppl"],
         "damage": max(row["damage"].values(), default=0.0)} for row in rows])
    base = frame[frame.method == "base"].set_index("model").ppl
    frame["times"] = frame.ppl / frame.model.map(base)
    return frame.set_index(["model", "method"])


def to_scan(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts, n: int, seed: int
) -> Facts:
    """Facts on which a model's layers can be scanned.

    Parameters
    ----------
    model, tokenizer
        The model and its tokenizer.
    facts : Facts
        Where to draw them from.
    n : int
        How many.
    seed : int
        The seed of the draw.

    Returns
    -------
    Facts
        `n` that the model knows. A model that knows fewer, such as a random one, is asked what it
        says itself: its own first word is then the answer, of the first facts for which it has one.

    Raises
    ------
    ValueError
        If there are too few of either.
    """
    drawn = facts.sample(len(facts), seed)
    for answered in (list, lambda some: _as_said(model, tokenizer, some)):
        found: list[Fact] = []
        for start in range(0, len(drawn), 4 * n):  # no more than it takes
            found += known(model, tokenizer, facts.of(answered(drawn[start:start + 4 * n])))
            if len(found) >= n:
                return facts.of(found[:n])
    raise ValueError(f"of {len(facts)} facts the model knows or answers in a word fewer than {n}: "
                     "give more facts")


@torch.no_grad()
def _as_said(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]
) -> list[Fact]:
    """The facts with what the model says first as their answer, where that is a word."""
    found = []
    for fact in facts:
        ids = tokenizer(fact.text, return_tensors="pt").input_ids.to(model.device)
        word = str(tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()))
        if word.startswith(" ") and word.strip().isalpha():
            found.append(replace(fact, target=word.strip()))
    return found
