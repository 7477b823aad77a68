"""Which records decide a claim of the paper: this build's, or kept ones of more facts."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..experiment import Kept, read_records
from ..experiment.rows import parse_method
from ..methods import settings_for
from .evidence import RESULTS, common_draws, kept_records
from .figures import LABELS, method_of, row_name
from .verdicts import Estimate, Measured, ppl_spread

Records = Sequence[dict[str, Any]]
#: Of as many facts as the largest run that was given all of these.
COMPARED = frozenset({
    "base", "ga", "ft", "memit", "alphaedit", "exact:lam=0.1", "zerounlearn-gd"})

#: The paper's tables of few-shot unlearning, and of many facts.
FEW_TABLES, MANY_TABLES = "table1|F1", "table2|F2|F3|F4"
#: How the code released with the paper trains GA and FT, in the names of our settings.
RELEASED = {"ga": {"steps": 25, "lr": 5e-3, "batch": 64, "which": "last", "stop": 0.0},
            "ft": {"steps": 25, "lr": 5e-4, "batch": 64, "which": "last", "stop": 0.01}}


class Printed(NamedTuple):
    """The meanings of the paper's words according to its own tables, in percent.

    Attributes
    ----------
    rise : float
        The largest rise of perplexity that it calls comparable, on few facts.
    kept : float
        The smallest share of Base's Spe that it calls high.
    rise_many : float
        The largest rise of perplexity with ZeroUnlearn-GD, on 1,000 facts.
    """

    rise: float
    kept: float
    rise_many: float


def wide_table(printed: pd.DataFrame, tables: str) -> pd.DataFrame:
    """Some of the paper's tables as one table.

    Parameters
    ----------
    printed : pd.DataFrame
        The paper's numbers, `book/paper/tables.csv`.
    tables : str
        A pattern of their names: `FEW_TABLES` or `MANY_TABLES`.

    Returns
    -------
    pd.DataFrame
        One row per model, data set and method, one column per metric.
    """
    own = printed[printed.table.str.match(tables)]
    return own.pivot_table(index=["model", "dataset", "method"], columns="metric", values="mean")


def bounds_of(printed: pd.DataFrame) -> Printed:
    """The paper's own worst cases for ZeroUnlearn, as the meaning of "comparable" and "high".

    Parameters
    ----------
    printed : pd.DataFrame
        The paper's numbers.

    Returns
    -------
    Printed
        In percent.
    """
    few, many = wide_table(printed, FEW_TABLES), wide_table(printed, MANY_TABLES)
    zero, base = (few.xs(x, level="method") for x in ("ZeroUnlearn", "Base"))
    descent, plain = (many.xs(x, level="method").PPL for x in ("ZeroUnlearn-GD", "Base"))
    return Printed(100 * (float((zero.PPL / base.PPL).max()) - 1),
                   100 * float((zero.Spe / base.Spe).min()),
                   100 * (float((descent / plain).max()) - 1))


class Evidence(Measured):
    """The results of methods in the deciding records, with the source of the records.

    Parameters
    ----------
    records : sequence of dict
        Records of one experiment and number of facts.
    spread : float
        Half the width of the interval of log perplexity that a single draw borrows
        (`zu.book.verdicts.ppl_spread`).

    Attributes
    ----------
    of : str
        The number of facts and draws, and whether the records are kept ones; see `source`.
    unlike : dict of str
        Why a method's rows decide nothing: how its training differs from the released code's, by
        the method's name. A row that is trained as there replaces the others.
    """

    def __init__(self, records: Records, spread: float = 0.0) -> None:
        records, self.unlike = trained_alike(records)
        super().__init__(records)
        self.of = source(records)
        self.spread = spread

    def has(self, *methods: str) -> bool:
        """Whether all of these methods, and the unedited model, were run."""
        return {"base", *methods} <= self.methods

    def lacks(self, metric: str) -> bool:
        """Whether there are records, and none has the metric, as no Spe without neighbours."""
        values = [record["metrics"].get(metric) for record in self.by.values()]
        return bool(values) and all(value is None for value in values)

    def beyond(self, method: str, metric: str, part: float) -> Estimate:
        """A method's percentage less a part of Base's.

        Parameters
        ----------
        method : str
            A row's label.
        metric : str
            "eff", "gen" or "spe".
        part : float
            The part of Base's percentage, in percent.

        Returns
        -------
        Estimate
            In points; at most 0 if the method has at most that part.
        """
        return self.contrast({method: 1, "base": -part / 100}, metric)

    def less(self, method: str, other: str, metric: str) -> Estimate:
        """A method's percentage less another's, in points."""
        return self.contrast({method: 1, other: -1}, metric)

    def mean(self, method: str, metric: str) -> float:
        """A method's mean percentage."""
        return self.contrast({method: 1}, metric).value

    def rise(self, method: str) -> Estimate:
        """The rise of perplexity, in percent of Base's."""
        return Estimate(*(100 * np.expm1(x) for x in self.log_ppl(method, self.spread)))

    def base_ppl(self) -> float:
        """The unedited model's mean perplexity."""
        own = [r["metrics"]["ppl"] for (method, *_), r in self.by.items() if method == "base"]
        return float(np.mean(own))

    def said(self, method: str, metric: str, part: float) -> str:
        """For people: a percentage, Base's, and `beyond` with its interval."""
        mine, base = self.mean(method, metric), self.mean("base", metric)
        return (f"{row_name(method)} {mine:.1f} of {base:.1f}, less {part:.0f}% of Base's: "
                f"{self.beyond(method, metric, part)}")


def training_differs(label: str, n: int) -> str:
    """How a row's training of GA or FT differs from that of the code released with the paper.

    The paper itself names no steps and no rate. That code takes 25 epochs in batches of 64 facts,
    in the last of the edited layers, and stops FT when its loss falls below 0.01.

    Parameters
    ----------
    label : str
        The row's label.
    n : int
        The number of facts to forget.

    Returns
    -------
    str
        Our settings, with theirs in brackets; empty if nothing differs.
    """
    row = parse_method(label)
    ours = settings_for(row.method, **row.settings).model_dump()
    theirs: dict[str, Any] = RELEASED[row.method]

    def said(x: dict[str, Any]) -> list[str]:
        stop = f"a stop under a loss of {x['stop']:g}" if x["stop"] else "no stop"
        steps = x["steps"] * math.ceil(n / (x["batch"] or n))
        return [f"{steps} steps", f"a rate of {x['lr']:g}", f"the {x['which']} layer", stop]

    return ", ".join(f"{mine} ({released})" for mine, released
                     in zip(said(ours), said(theirs), strict=True) if mine != released)


def trained_alike(records: Records) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Records in which a row "ga" or "ft" is the one that is trained as in the released code.

    Parameters
    ----------
    records : sequence of dict
        Records of one experiment and number of facts.

    Returns
    -------
    records : list of dict
        A row of this kind under a longer label replaces the plain one.
    unlike : dict of str
        By method, how it was trained if no row is alike; see `training_differs`.
    """
    kept, unlike = list(records), {}
    for method in RELEASED:
        how = {r["method"]: training_differs(r["method"], r["n"]) for r in kept
               if method_of(r["method"]) == method}
        alike = [label for label, differs in how.items() if not differs]
        if alike:
            kept = [r | {"method": method} if r["method"] == alike[0] else r for r in kept
                    if r["method"] == alike[0] or r["method"] not in how]
        elif method in how:
            unlike[method] = f"{LABELS[method]} with {how[method]}"
    return kept, unlike


def largest(rows: Records) -> list[dict[str, Any]]:
    """Only the records with the most facts.

    Parameters
    ----------
    rows : sequence of dict
        Records of an experiment.

    Returns
    -------
    list of dict
        In the same order.
    """
    most = max((r["n"] for r in rows), default=0)
    return [r for r in rows if r["n"] == most]


def facts_of(rows: Records) -> int:
    """How many facts were forgotten in all, over draws and data sets.

    Parameters
    ----------
    rows : sequence of dict
        Records of an experiment.

    Returns
    -------
    int
        Facts.
    """
    return sum(n for n, *_ in {(r["n"], r["dataset"], r["seed"]) for r in rows})


def deciding(experiment: str, records: str | Path) -> list[dict[str, Any]]:
    """The records of an experiment that decide.

    Parameters
    ----------
    experiment : str
        Its name.
    records : str or Path
        The folder of this build's records.

    Returns
    -------
    list of dict
        Those with the most facts: this build's or, where these forgot more facts of the same model
        and data sets, the kept ones; only kept ones if the build has none.
    """
    run, kept = largest(read_records(Path(records, experiment))), largest(kept_records(experiment))
    same = {(r["model"], r["dataset"]) for r in run}
    kept = [r for r in kept if not run or (r["model"], r["dataset"]) in same]
    return max(run, kept, key=facts_of)


def source(rows: Records) -> str:
    """Facts and draws of some records, and whether they are kept ones.

    Parameters
    ----------
    rows : sequence of dict
        Records of one experiment.

    Returns
    -------
    str
        For example "50 facts, 7 draws, kept". "older code" is added for kept records that cannot be
        compared with the present code. Empty if there are no records.
    """
    if not rows:
        return ""
    drawn = {(r["n"], r["seed"]) for r in rows}
    draws = len({seed for _, seed in drawn})
    made = {r.get("fingerprint") for kept in kept_of_any_size(rows[0]["experiment"])
            for r in kept}
    kept = rows[0].get("fingerprint") in made  # a chapter's record may be a kept one
    older = kept and "question" not in rows[0]  # made before kept ones were held against the code
    text = f"{max(n for n, _ in drawn)} facts, {draws} draw{'s' * (draws > 1)}"
    return text + ", kept" * kept + ", older code" * older


def borrowed_spread() -> float:
    """The spread that one draw's log perplexity borrows: the largest of kept draws of few facts.

    Returns
    -------
    float
        Half the width of the interval; 0 if nothing is kept.
    """
    return ppl_spread([r for r in kept_records("few_shot") if "cloze" in r["dataset"]])


def few_facts(records: str | Path) -> dict[str, Evidence]:
    """Few-shot records by data set, since each form has its own rule of scoring.

    The draws are those that all data sets have, as on the page of {doc}`few_shot`.

    Parameters
    ----------
    records : str or Path
        The folder of this build's records.

    Returns
    -------
    dict of Evidence
        By the data set's name, with the model's if there are several; if there are no records,
        "few facts" with no records.
    """
    rows = common_draws(deciding("few_shot", records))
    sets = [*dict.fromkeys((r["model"], r["dataset"]) for r in rows)]
    several, found = len({model for model, _ in sets}) > 1, {}
    for model, dataset in sets:
        own = [r for r in rows if (r["model"], r["dataset"]) == (model, dataset)]
        name = f"{model}, {dataset}" if several else dataset
        found[name] = Evidence(own, borrowed_spread())
    return found or {"few facts": Evidence([])}


def of_form(experiment: str, records: str | Path, form: str) -> Evidence:
    """An experiment's records on data sets of one form.

    Parameters
    ----------
    experiment : str
        Its name.
    records : str or Path
        The folder of this build's records.
    form : str
        A pattern that the data sets' names contain, such as "cloze|mcf".

    Returns
    -------
    Evidence
        The evidence; it may have no records.
    """
    rows = [r for r in deciding(experiment, records) if re.search(form, r["dataset"])]
    return Evidence(rows, borrowed_spread())


def most(rows: Records, methods: frozenset[str] = COMPARED) -> list[dict[str, Any]]:
    """The records of the most facts that all of some methods were given.

    Parameters
    ----------
    rows : sequence of dict
        Records of several numbers of facts.
    methods : frozenset of str
        Labels.

    Returns
    -------
    list of dict
        Empty if no number of facts was given to all.
    """
    given: dict[int, set[str]] = {}
    for r in rows:
        given.setdefault(r["n"], set()).add(r["method"])
    n = max((n for n, labels in given.items() if methods <= labels), default=0)
    return [r for r in rows if r["n"] == n]


def kept_of_any_size(experiment: str) -> list[list[dict[str, Any]]]:
    """An experiment's kept records of all numbers of facts.

    Parameters
    ----------
    experiment : str
        Its name.

    Returns
    -------
    list of list of dict
        Those in NAME.json, then those of older code in a folder NAME.
    """
    file = Path(RESULTS, f"{experiment}.json")
    packed = [*Kept.read(file).runs.values()] if file.exists() else []
    own = [r for r in packed if r.get("experiment") == experiment]
    return [own, read_records(Path(RESULTS, experiment))]


def many_facts(records: str | Path) -> Evidence:
    """The run of the most facts that all compared methods were given.

    Searches and descent on hundreds of facts take too long for a page, so kept records of this
    build's models count beside its own.

    Parameters
    ----------
    records : str or Path
        The folder of this build's records.

    Returns
    -------
    Evidence
        The evidence; it may have no records.
    """
    run = read_records(Path(records, "many_facts"))
    models = {r["model"] for r in run}
    sources = [run]
    for kept in kept_of_any_size("many_facts"):
        sources.append([r for r in kept if not run or r["model"] in models])
    found = max((most(rows) for rows in sources), key=lambda rows: largest_n(rows))
    return Evidence(found, borrowed_spread())


def largest_n(rows: Records) -> int:
    """The largest number of facts in some records; 0 if there are none."""
    return max((r["n"] for r in rows), default=0)


def low_layers(records: str | Path, edited: Sequence[int]) -> list[tuple[dict, dict]]:
    """Edits of layers below the usual ones, each beside the usual edit of the same facts.

    Parameters
    ----------
    records : str or Path
        The folder of this build's records.
    edited : sequence of int
        The layers that are usually edited.

    Returns
    -------
    list of tuple
        (lower, usual), one pair per draw, of the first set of lower layers; empty if the build
        has no such run.
    """
    others = [r for r in read_records(records) if r["experiment"].startswith("ablation-layers")
              and max(r["layers"]) < min(edited)]
    usual = [r for r in largest(read_records(Path(records, "ablation")))
             if r["method"] == "zerounlearn"]
    pairs, same = [], ("dataset", "seed", "n")
    for low in others:
        if low["layers"] != others[0]["layers"] or low["dataset"] != others[0]["dataset"]:
            continue
        pairs += [(low, r) for r in usual if all(r[key] == low[key] for key in same)][:1]
    return pairs


def peaks() -> dict[str, dict[int, int]]:
    """The peak GPU memory of an edit, by model and number of facts.

    It comes from the GPU's allocator. On a CPU only the process's peak is known.

    Returns
    -------
    dict of dict
        Bytes; models with at least two numbers of facts.
    """
    found: dict[str, dict[int, int]] = {}
    for r in read_records(Path(RESULTS, "cost-gpu")):
        found.setdefault(r["model"], {})[r["n"]] = r["peak_memory_bytes"]
    return {model: peak for model, peak in found.items() if len(peak) > 1}


def costs() -> list[dict[str, Any]]:
    """The kept records of the cost of edits, by the number of facts.

    Returns
    -------
    list of dict
        Ascending.
    """
    return sorted(read_records(Path(RESULTS, "cost")), key=lambda r: r["n"])
