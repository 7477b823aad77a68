"""Tables and figures of moments from the model's own text: how close they are, and their effect."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from .figures import METRICS, PALETTE, SERIES, WIDE
from .verdicts import Estimate, combine, of_facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A text and a number of its tokens, which identify a moment or records.
Source = tuple[str, int]
Found = Mapping[Source, Sequence[dict[str, Any]]]
#: One in this many eigenvalues is drawn.
EVERY = 8
NOTHING = Estimate(math.nan, math.nan, math.nan)


def effective_rank(eigenvalues: torch.Tensor) -> float:
    """The effective number of directions of a moment, (Σλ)² / Σλ².

    Parameters
    ----------
    eigenvalues : Tensor
        (m,), none negative.

    Returns
    -------
    float
        Between 1 and m.
    """
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def spectra(moments: Mapping[Source, torch.Tensor]) -> tuple[pd.DataFrame, dict[Source, float]]:
    """The eigenvalues of some moments, and their effective ranks.

    Parameters
    ----------
    moments : mapping
        By text and number of tokens, (m, m).

    Returns
    -------
    frame, ranks : pd.DataFrame, dict
        One row per text, tokens and direction ("eigenvalue", the largest first, one of `EVERY`);
        the effective rank by text and tokens.
    """
    rows, ranks = [], {}
    for (text, tokens), C in moments.items():
        values = torch.linalg.eigvalsh(C.double()).flip(0).clamp_min(0)  # (m,)
        ranks[text, tokens] = effective_rank(values)
        rows += [(text, tokens, 1 + EVERY * i, float(x)) for i, x in enumerate(values[::EVERY])]
    return pd.DataFrame(rows, columns=["text", "tokens", "direction", "eigenvalue"]), ranks


def draw_spectra(frame: pd.DataFrame, reference: int) -> Figure:
    """Spectra on logarithmic axes; the largest size of a text solid, others dashed.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `spectra`.
    reference : int
        The tokens of the moment that the others are compared with; it is grey.

    Returns
    -------
    Figure
        One panel.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=WIDE)
    texts = [*dict.fromkeys(frame.text)]
    others = frame.tokens[frame.tokens != reference]
    for (text, tokens), some in frame.groupby(["text", "tokens"], sort=False):
        colour = PALETTE["base"] if tokens == reference else SERIES[texts.index(text)]
        whole = tokens in (reference, others.max())
        axis.plot(some.direction, some.eigenvalue.clip(lower=1e-9), color=colour,
                  lw=1.6 if whole else 0.9, ls="-" if whole else "--",
                  label=f"{text}, {tokens:,} tokens")
    axis.set(xscale="log", yscale="log", xlabel="direction", ylabel="eigenvalue")
    axis.set_ylim(bottom=max(frame.eigenvalue.max() * 1e-8, 1e-9))
    axis.legend(fontsize=8)
    return figure


def scores(found: Found) -> pd.DataFrame:
    """The scores of each method with each text's moment.

    Parameters
    ----------
    found : mapping
        Records by text and number of tokens.

    Returns
    -------
    pd.DataFrame
        "method", "text", "tokens", "Eff", "Gen", "Spe" and "PPL"; Base first, then by method.
    """
    rows = [{"method": r["method"], "text": text, "tokens": tokens}
            | {METRICS[x]: r["metrics"][x] for x in ("eff", "gen", "spe", "ppl")}
            for (text, tokens), run in found.items() for r in run]
    frame = pd.DataFrame(rows)
    place = {method: i for i, method in enumerate(dict.fromkeys(["base", *frame.method]))}
    order = frame.method.map(place).to_frame("place").assign(tokens=frame.tokens)
    return frame.loc[order.sort_values(["place", "tokens"], kind="stable").index].reset_index(
        drop=True)


def moved(found: Found, method: str, to: Source, of: Source, metric: str) -> Estimate:
    """How another text's moment changes a method's percentage, with an interval over facts.

    Parameters
    ----------
    found : mapping
        Records by text and number of tokens.
    method : str
        A row's label.
    to, of : tuple
        The text and tokens that replace others, and those that are replaced.
    metric : str
        "eff", "gen" or "spe".

    Returns
    -------
    Estimate
        The change in points. The comparison is unpaired, so the interval is too wide. NaN if it was
        not measured.
    """
    rows = [next((r for r in found.get(source, ()) if r["method"] == method), None)
            for source in (to, of)]
    if any(row is None or row["metrics"].get(metric) is None for row in rows):
        return NOTHING
    mine, theirs = (of_facts(row, metric) for row in rows if row is not None)
    return combine((1.0, mine), (-1.0, theirs))
