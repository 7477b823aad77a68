"""Tables of the families of models that are edited, from the record of tools/families.py."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from .figures import row_name


def arrives(scales: Sequence[float | None]) -> str:
    """How a projection's output arrives after its layer, in words.

    Parameters
    ----------
    scales : sequence of float or None
        The factors that occur among the layers; None for a layer without a single factor.

    Returns
    -------
    str
        For example "0.22 times".
    """
    words = {1.0: "as it is", None: "normalised"}
    return ", or ".join(words.get(x) or f"{x:.3g} times" for x in scales)


def bound(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The families that are edited, grouped by how they are read and written.

    Parameters
    ----------
    rows : sequence of dict
        The record's families.

    Returns
    -------
    pd.DataFrame
        One row per group, the largest first: the projection's path, how its output arrives, how it
        is stored, the families, the largest error of the logits, and the reach that is furthest
        from 1.
    """
    found = [row for row in rows if row["bound"]]
    frame = pd.DataFrame({
        "projection": [row["projection"] for row in found],
        "its output arrives": [arrives(row["scales"]) for row in found],
        "stored": [_stored(row) for row in found],
        "families": [_family(row) for row in found],
        "error": [row["error"] for row in found],
        "reach": [_furthest(row) for row in found]})
    groups = frame.groupby(["projection", "its output arrives", "stored"], sort=False)
    table = groups.agg(
        families=("families", ", ".join), count=("families", "size"), error=("error", "max"),
        reach=("reach", lambda parts: max(parts, key=lambda part: abs(part - 1)))).reset_index()
    table = table.sort_values("count", ascending=False, kind="stable").drop(columns="count")
    table["error"] = table["error"].map("{:.0e}".format)
    table["reach"] = table["reach"].map("{:.4f}".format)
    return table.set_index("projection")


def refused(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The families that are not edited, by reason.

    Parameters
    ----------
    rows : sequence of dict
        The record's families.

    Returns
    -------
    pd.DataFrame
        One row per reason: the families, the largest error of the evaluation, and whether methods
        that train work.
    """
    found = [row for row in rows if not row["bound"]]
    frame = pd.DataFrame({
        "reason": [row["reason"].partition(": ")[2] for row in found],
        "families": [row["kind"] for row in found],
        "error": [row["error"] for row in found],
        "trained": ["yes" if row["descent"] else "no" for row in found]})
    table = frame.groupby(["reason", "trained"], sort=False).agg(
        families=("families", ", ".join), error=("error", "max")).reset_index()
    table["error"] = table["error"].map("{:.0e}".format)
    return table.set_index("reason")[["families", "error", "trained"]]


def beside(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The effects of methods on several models, side by side.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the record that tools/second_model.py writes.

    Returns
    -------
    pd.DataFrame
        By method, and by class of model: Eff, Gen and Spe in percent, perplexity, and the largest
        damage of a layer.
    """
    found = []
    for row in rows:
        damage = max(row["damage"].values(), default=None)
        found.append({
            "method": row_name(row["method"]),
            "model": row["model"].removesuffix("ForCausalLM"),
            "Eff": f"{row['eff']:.0f}", "Gen": f"{row['gen']:.1f}", "Spe": f"{row['spe']:.1f}",
            "PPL": f"{row['ppl']:,.1f}", "damage": "" if damage is None else f"{damage:.2f}"})
    table = pd.DataFrame(found).set_index(["model", "method"]).unstack("model")
    table = table.swaplevel(axis=1)
    models = list(dict.fromkeys(row["model"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    names = ["Eff", "Gen", "Spe", "PPL", "damage"]
    columns = pd.MultiIndex.from_product([models, names], names=[None, None])
    return table.loc[methods, columns].fillna("")


def flat(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The whole record with one row per family, for download.

    Parameters
    ----------
    rows : sequence of dict
        The record's families.

    Returns
    -------
    pd.DataFrame
        The record, with lists written as texts and numbers.
    """
    found = []
    for row in rows:
        plain = {k: v for k, v in row.items() if k not in ("reach", "descent", "scales")}
        for method, (part, off) in row.get("reach", {}).items():
            plain |= {f"{method}, reach": part, f"{method}, distance": off}
        before, after = row["descent"] or (None, None)
        plain |= {"arrives": arrives(row["scales"]) if row["bound"] else None,
                  "P before ga": before, "P under ga": after}
        found.append(plain)
    return pd.DataFrame(found)


def _family(row: dict[str, Any]) -> str:
    """A family's name, with the number of editable layers if that is not all."""
    there, depth = len(row["editable"]), row["depth"]
    return row["kind"] if there == depth else f"{row['kind']} ({there} of {depth} layers)"


def _stored(row: dict[str, Any]) -> str:
    """How a family stores its projections."""
    words = ["transposed"] * row["transposed"] + ["with a bias"] * row["bias"]
    return ", ".join(words) or "plainly"


def _furthest(row: dict[str, Any]) -> float:
    """The methods' reach that is furthest from 1."""
    return max((part for part, _ in row["reach"].values()), key=lambda part: abs(part - 1))
