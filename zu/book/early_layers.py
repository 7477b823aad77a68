"""The goals, all at once: which layers tell subjects apart, what is chosen, what it leaves."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..data.facts import Fact
from ..reader import Reader, subject_keys
from .anchors import GEN_SHARE, MOST_EFF, PPL_SHARE, SPE_SHARE
from .figures import METRICS, PALETTE, colour_of
from .verdicts import Estimate, over_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def outside(key: torch.Tensor, kept: torch.Tensor) -> float:
    """The share of a key that lies outside the span of other keys.

    An edit that leaves those keys alone can act on this share only.

    Parameters
    ----------
    key : torch.Tensor
        (m,), the key to move.
    kept : torch.Tensor
        (a, m), the keys to leave alone.

    Returns
    -------
    float
        ‖(I − QQᵀ)k‖² / ‖k‖², 0 to 1, with Q an orthonormal basis of the kept keys.
    """
    _, s, Vt = torch.linalg.svd(kept.double(), full_matrices=False)
    Q = Vt[s > s.max() * 1e-10].T  # (m, r)
    rest = key.double() - Q @ (Q.T @ key.double())
    return float(rest.square().sum() / key.double().square().sum())


def apartness(
    reader: Reader, facts: Sequence[Fact], spare: Sequence[Fact], layers: Sequence[int]
) -> pd.DataFrame:
    """How far each layer tells subjects apart: what of a fact's key lies outside its anchors' span.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    facts : sequence of Fact
        The n facts to forget.
    spare : sequence of Fact
        Their anchors; those with a fact's own prompt count for it.
    layers : sequence of int
        The layers to look at.

    Returns
    -------
    pd.DataFrame
        A row for each layer and fact: "layer", "fact" (its number) and "outside", in percent.
    """
    keys, around = (subject_keys(reader, some, layers)[0] for some in (facts, spare))
    same = {prompt: torch.tensor([a.prompt == prompt for a in spare])
            for prompt in dict.fromkeys(fact.prompt for fact in facts)}  # (a,) each
    rows = [(layer, i, 100 * outside(keys[layer][i].cpu(),
                                     around[layer].cpu()[same[fact.prompt]]))
            for layer in layers for i, fact in enumerate(facts)]
    return pd.DataFrame(rows, columns=["layer", "fact", "outside"])


def draw_apartness(frame: pd.DataFrame, edited: Sequence[int]) -> Figure:
    """The share of a key that an edit can act on, layer by layer.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `apartness`.
    edited : sequence of int
        The model's default layers, which are shaded.

    Returns
    -------
    Figure
        One panel: the mean over facts, with a band that holds half of them.
    """
    import matplotlib.pyplot as plt

    by = frame.groupby("layer").outside
    low, high = by.quantile(0.25), by.quantile(0.75)
    figure, axis = plt.subplots(figsize=(7.2, 2.8))
    axis.axvspan(min(edited) - 0.5, max(edited) + 0.5, color=PALETTE["base"], alpha=0.2, lw=0)
    axis.text(max(edited) + 0.7, 96, "the default layers", fontsize=8, va="top")
    axis.fill_between(low.index, low, high, color=PALETTE["anchored"], alpha=0.2, lw=0)
    axis.plot(low.index, by.mean(), "o-", ms=4, color=PALETTE["anchored"])
    axis.set(xlabel="layer", ylim=(0, 100), ylabel="outside the span\nof the anchors, %")
    return figure


def reserves(rows: Rows) -> pd.DataFrame:
    """How far settings stay within the goals, by their means over draws.

    The reserve of Gen is its distance below a third of Base, in thirds of Base; that of Spe is its
    distance above 90% of Base, in tenths of Base.

    Parameters
    ----------
    rows : sequence of dict
        Records of the same draws for each label, "base" among them.

    Returns
    -------
    pd.DataFrame
        By label: "Eff" in percent, "Gen" and "Spe" in percent of Base, "PPL" as its rise in
        percent, the reserves "of Gen" and "of Spe", the "smaller" of them, and whether the setting
        is "admitted": its Eff and perplexity lie within their goals. Best first, those that are
        admitted before the others.

    Raises
    ------
    ValueError
        If a label lacks a draw, or Base is right about nothing.
    """
    base = _means(rows, "base")
    if not (base["gen"] > 0 and base["spe"] > 0):
        raise ValueError("Base answers no other wording or no neighbour: nothing can be reserved")
    found = {}
    for label in dict.fromkeys(row["method"] for row in rows):
        if label == "base":
            continue
        mean = _means(rows, label)
        gen, spe = mean["gen"] / base["gen"], mean["spe"] / base["spe"]
        rise = math.exp(mean["log_ppl"] - base["log_ppl"])
        of_gen = (GEN_SHARE - gen) / GEN_SHARE
        of_spe = (spe - SPE_SHARE) / (1 - SPE_SHARE)
        found[label] = {
            "Eff": mean["eff"], "Gen": 100 * gen, "Spe": 100 * spe, "PPL": 100 * (rise - 1),
            "of Gen": of_gen, "of Spe": of_spe, "smaller": min(of_gen, of_spe),
            "admitted": mean["eff"] <= MOST_EFF and rise <= PPL_SHARE,
        }
    table = pd.DataFrame.from_dict(found, "index")
    return table.sort_values(["admitted", "smaller"], ascending=False, kind="stable")


def _means(rows: Rows, label: str) -> dict[str, float]:
    """A row's mean scores over all draws; of perplexity the mean logarithm."""
    draws = {row["seed"] for row in rows}
    mine = [row["metrics"] for row in rows if row["method"] == label]
    if len(mine) != len(draws):
        raise ValueError(f"{label} has {len(mine)} of {len(draws)} draws")
    means = {key: float(np.mean([m[key] for m in mine])) for key in ("eff", "gen", "spe")}
    return means | {"log_ppl": float(np.mean([math.log(m["ppl"]) for m in mine]))}


def chosen(table: pd.DataFrame) -> str:
    """The setting that the protocol's rule takes.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `reserves`.

    Returns
    -------
    str
        Its label: the first that is admitted.

    Raises
    ------
    ValueError
        If none is admitted.
    """
    if not table.admitted.any():
        raise ValueError("no setting keeps Eff and perplexity within their goals: the rule takes "
                         "none; give others")
    return str(table.index[table.admitted][0])


def contrasts(rows: Rows, mine: str, other: str) -> dict[str, Estimate]:
    """How the scores of one row differ from another's, draw by draw.

    Parameters
    ----------
    rows : sequence of dict
        Records of two draws or more.
    mine, other : str
        The two rows' labels.

    Returns
    -------
    dict
        "Eff", "Gen" and "Spe" in points, "PPL" as the ratio's distance from 1 in percent; with
        Student's 95% interval.

    Raises
    ------
    ValueError
        If there are fewer than two draws.
    """
    by = {(row["method"], row["seed"]): row["metrics"] for row in rows}
    pairs = [(by[mine, seed], by[other, seed])
             for seed in dict.fromkeys(row["seed"] for row in rows)]
    found = {METRICS[key]: over_draws([a[key] - b[key] for a, b in pairs])
             for key in ("eff", "gen", "spe")}
    log = over_draws([math.log(a["ppl"] / b["ppl"]) for a, b in pairs])
    return found | {"PPL": Estimate(*(100 * math.expm1(x) for x in log))}


def names_of(rows: Rows) -> dict[str, str]:
    """What rows of *anchored* are called, by layers, weight and rounds.

    Parameters
    ----------
    rows : sequence of dict
        Records, with the layers that were edited.

    Returns
    -------
    dict
        The name by label, Base first.
    """
    names = {}
    for row in rows:
        names[row["method"]] = f"layers {row['layers'][0]} to {row['layers'][-1]}" + "".join(
            f", {key} {row['settings'][key]:g}" for key in ("weight", "rounds")
            if key in row["settings"])
    return {"base": "Base"} | {label: name for label, name in names.items() if label != "base"}


def draw_choice(table: pd.DataFrame, names: Mapping[str, str], taken: str) -> Figure:
    """Settings by what they leave of Gen and keep of Spe; the goals are shaded.

    Parameters
    ----------
    table : pd.DataFrame
        The result of `reserves`.
    names : mapping
        What each setting is called, by label.
    taken : str
        The label of the setting that is chosen, which is drawn full.

    Returns
    -------
    Figure
        One panel. A setting that Eff or perplexity rules out is a cross.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    left = min(80.0, float(table.Spe.min()) - 2)
    top = max(50.0, float(table.Gen.max()) + 5)
    beside = -math.inf  # where the last name stands
    for label, row in table.sort_values("Gen").iterrows():
        face = colour_of(str(label)) if label == taken else "white"
        axis.plot(row.Spe, row.Gen, "o" if row.admitted else "x", ms=8, mfc=face,
                  color=colour_of(str(label)), zorder=3)
        beside = max(row.Gen, beside + top / 20)  # no name on another
        axis.annotate(names[str(label)], (row.Spe, beside), xytext=(14, 0), va="center",
                      fontsize=9, textcoords="offset points")
    axis.set(xlim=(left, 114), ylim=(0, top), xlabel="Spe, % of Base (more is better)",
             ylabel="Gen, % of Base\n(less is better)",
             xticks=range(10 * math.ceil(left / 10), 101, 10))
    axis.fill_between([100 * SPE_SHARE, 100], 0, 100 * GEN_SHARE, color="#117733", alpha=0.12,
                      lw=0, zorder=0)
    axis.text(99.5, 1, "the goals", ha="right", va="bottom", fontsize=8, color="#117733")
    return figure
