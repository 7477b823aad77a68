"""The kept records that pages rest on."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..experiment import Kept, read_records

RESULTS = "results"


def whole_draws(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each data set, the usual rows of the draws that have all of them.

    Evidence grows record by record. An unfinished draw would enter the means of some rows and not
    of others, and a row that ran on a few draws would have a mean over other facts.

    Parameters
    ----------
    records : list of dict
        Records of grids, of one number of facts.

    Returns
    -------
    list of dict
        The records in the same order. A row is usual if more than half of the data set's draws have
        it.
    """
    kept = []
    for model, dataset in dict.fromkeys((r["model"], r["dataset"]) for r in records):
        own = [r for r in records if (r["model"], r["dataset"]) == (model, dataset)]
        draws = {r["seed"] for r in own}
        counts = Counter(method for method, _ in {(r["method"], r["seed"]) for r in own})
        usual = {method for method, count in counts.items() if 2 * count > len(draws)}
        has = {seed: {r["method"] for r in own if r["seed"] == seed} for seed in draws}
        kept += [r for r in own if r["method"] in usual and usual <= has[r["seed"]]]
    return kept


def common_draws(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model, the draws that all of its data sets have.

    Evidence grows one data set at a time. Without this, pages about the same experiment would rest
    on seven draws here and on eight there.

    Parameters
    ----------
    records : list of dict
        Records of a grid, of one number of facts.

    Returns
    -------
    list of dict
        In the same order.
    """
    seeds: dict[tuple[str, str], set[int]] = {}
    for r in records:
        seeds.setdefault((r["model"], r["dataset"]), set()).add(r["seed"])
    common = {model: set.intersection(*(drawn for (name, _), drawn in seeds.items()
                                        if name == model)) for model, _ in seeds}
    return [r for r in records if r["seed"] in common[r["model"]]]


def kept_records(
    name: str, folder: str | Path = RESULTS, experiment: str = ""
) -> list[dict[str, Any]]:
    """An experiment's kept records, with the most facts that it was run on.

    Parameters
    ----------
    name : str
        The chapter's name.
    folder : str or Path
        The folder with NAME.json, or with a folder NAME of records of older code.
    experiment : str
        Which of the file's experiments; by default the one of the chapter's name.

    Returns
    -------
    list of dict
        Of NAME.json whole draws only (`whole_draws`), and where the file has several experiments,
        such as other layers, those of this one; empty if nothing is kept.
    """
    file = Path(folder, f"{name}.json")
    if not file.exists():
        return read_records(Path(folder, name))
    records = [*Kept.read(file).runs.values()]
    # rows with the same name in another experiment are different edits
    records = [r for r in records if r.get("experiment") == (experiment or name)] or records
    most = max((r["n"] for r in records), default=0)
    return whole_draws([r for r in records if r["n"] == most])
