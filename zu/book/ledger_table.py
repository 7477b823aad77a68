"""The ledger's rows: the paper's claims, each with the verdict of its rule."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from .deciding import FEW_TABLES, MANY_TABLES, Evidence, wide_table
from .ledger import Change, Finding
from .verdicts import NO, UNDECIDED, YES, moves, opposite

UNTESTABLE = "untestable"
WORDS = {YES: "reproduced", NO: "not reproduced", UNDECIDED: "undecided"}
COLUMNS = ["paper", "claim", "holds if", "verdict", "measured", "of", "with other bounds"]


class Words(pd.DataFrame):
    """A table of words, shown without its index and aligned to the left."""

    def _repr_html_(self) -> str:
        html = self.to_html(index=False, justify="left", border=0)
        return html.replace("<td>", '<td style="text-align: left">')


class Claim(NamedTuple):
    """A claim of the paper, with the rule that decides it.

    Attributes
    ----------
    paper : str
        The place in the paper.
    says : str
        The claim in words.
    holds_if : str
        The rule in words.
    rule : callable
        The rule: from what was measured, and a bound if it has one, to a `Finding`.
    needs : sequence of str
        Labels of the rows that the rule compares, if it takes an `Evidence`; Base's is added.
    bound : float, optional
        The rule's bound, if not its default.
    other : tuple of (sequence of float, str)
        Other bounds, ascending, and their unit.
    told : mapping, optional
        The rule's other arguments by name: the method, for example, if several claims share a rule.
    """

    paper: str
    says: str
    holds_if: str
    rule: Callable[..., Finding]
    needs: Sequence[str] = ()
    bound: float | None = None
    other: tuple[Sequence[float], str] = ((), "")
    told: Mapping[str, Any] | None = None


class Row(NamedTuple):
    """A row of the ledger.

    Attributes
    ----------
    claim : Claim
        The claim.
    verdict, measured : str
        In words.
    of : str
        The facts on which it was decided.
    moves : str
        How the verdict changes with the bound.
    """

    claim: Claim
    verdict: str
    measured: str
    of: str
    moves: str


def decide(claim: Claim, given: Any, of: str = "", unlike: str = "") -> Row:
    """Decide a claim.

    Parameters
    ----------
    claim : Claim
        The claim.
    given : Evidence or any
        The rule's argument. Nothing is decided if it is empty, None, or lacks a needed row.
    of : str
        The facts on which it was decided.
    unlike : str
        In what the run is not the paper's, so that it decides nothing; an `Evidence` says it of its
        own methods.

    Returns
    -------
    Row
        "untestable" if there is nothing to decide it by.
    """
    if isinstance(given, Evidence) and not given.has(*claim.needs) or not given:
        return Row(claim, UNTESTABLE, "no records in this profile", of, "–")
    told = claim.told or {}
    at = () if claim.bound is None else (claim.bound,)
    verdict, measured = claim.rule(given, *at, **told)
    if isinstance(given, Evidence):
        unlike = "; ".join(given.unlike[x] for x in claim.needs if x in given.unlike)
    if unlike:
        why = f"not trained as in the released code, which is in brackets: {unlike}. "
        return Row(claim, UNTESTABLE, why + f"So trained: {measured}", of, "–")
    bounds, unit = claim.other
    moved = moves(lambda bound: claim.rule(given, bound, **told)[0], bounds, unit) \
        if bounds else "–"
    return Row(claim, WORDS[verdict], measured, of, moved)


def on_each(claim: Claim, by_set: Mapping[str, Evidence], metric: str = "eff") -> list[Row]:
    """Decide a claim on each data set, since their rules of scoring differ.

    Parameters
    ----------
    claim : Claim
        The claim.
    by_set : mapping of Evidence
        By the data set's name.
    metric : str
        The claim's metric; a data set that lacks it has no row.

    Returns
    -------
    list of Row
        In the order of the data sets.
    """
    return [decide(claim, evidence, f"{name}: {evidence.of}") for name, evidence in by_set.items()
            if not evidence.lacks(metric)]


def ledger(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table.

    Parameters
    ----------
    rows : iterable of Row
        In order.

    Returns
    -------
    pd.DataFrame
        A table with the columns `COLUMNS`.
    """
    lines = [(row.claim.paper, row.claim.says, row.claim.holds_if, *row[1:]) for row in rows]
    return Words(lines, columns=COLUMNS)


def rules(rows: Iterable[Row]) -> pd.DataFrame:
    """Each claim once, with its rule in words, the function that is the rule, and its verdicts.

    Parameters
    ----------
    rows : iterable of Row
        In order.

    Returns
    -------
    pd.DataFrame
        "paper", "claim", "holds if", "function" and "verdicts"; these are in the order of the rows,
        each with its data set if there are several.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.claim.paper, row.claim.says), []).append(row)
    lines = []
    for (paper, says), own in found.items():
        sets = [row.of.partition(": ")[0] + ": " if ": " in row.of else "" for row in own]
        said = [f"{name}{row.verdict}" for name, row in zip(sets, own, strict=True)]
        claim = own[0].claim
        lines.append((paper, says, claim.holds_if, claim.rule.__name__, "; ".join(said)))
    columns = ["paper", "claim", "holds if", "function", "verdicts"]
    return Words(lines, columns=columns)


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """The number of rows by verdict.

    Parameters
    ----------
    rows : sequence of Row
        All of them.

    Returns
    -------
    dict of int
        "all", "reproduced", "not_reproduced", "undecided" and "untestable".
    """
    words = [*WORDS.values(), UNTESTABLE]
    by = {word.replace(" ", "_"): sum(row.verdict == word for row in rows) for word in words}
    return {"all": len(rows)} | by


def by_section(sections: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The number of rows by section and verdict.

    Parameters
    ----------
    sections : mapping
        The rows, by the section's name.

    Returns
    -------
    pd.DataFrame
        One row per section and one for all together, with the columns of `counts`.
    """
    every_row = [row for rows in sections.values() for row in rows]
    found = {name: counts(rows) for name, rows in sections.items()}
    frame = pd.DataFrame.from_dict(found | {"together": counts(every_row)}, orient="index")
    names = {"all": "rows", "not_reproduced": "not reproduced"}
    return frame.rename(columns=names).rename_axis("section")


def made(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The code that made the records of a build.

    Parameters
    ----------
    records : iterable of dict
        All of them.

    Returns
    -------
    pd.DataFrame
        One row per experiment, one column per commit: how many records.
    """
    pairs = [(r["commit"], r["experiment"]) for r in records]
    frame = pd.DataFrame(pairs, columns=["commit", "experiment"])
    return pd.crosstab(frame.experiment, frame.commit)


def found(rows: Iterable[Row], says: str, of: str = "") -> tuple[str, str]:
    """The joint verdict of the rows of a claim, for a sentence about them.

    Parameters
    ----------
    rows : iterable of Row
        All of them.
    says : str
        The claim's words.
    of : str
        A pattern's plain part: only rows on data sets whose name holds it.

    Returns
    -------
    verdict, measured : str
        Yes or no if all the rows that can be tested agree, undecided otherwise.

    Raises
    ------
    LookupError
        If no row claims it.
    """
    own = [row for row in rows if row.claim.says == says and of in row.of]
    if not own and not of:
        raise LookupError(f"the ledger has no claim “{says}”")
    tested = {row.verdict for row in own} - {UNTESTABLE}
    words = {word: verdict for verdict, word in WORDS.items()}
    verdict = words[tested.pop()] if len(tested) == 1 else UNDECIDED
    return verdict, "; ".join(row.measured for row in own)


def fails(rows: Iterable[Row], says: str, of: str = "") -> tuple[str, str]:
    """The joint verdict of the rows of a claim, for a sentence that says the contrary.

    Parameters
    ----------
    rows, says, of
        As in `found`.

    Returns
    -------
    verdict, measured : str
        Yes if all the rows that can be tested fail.

    Raises
    ------
    LookupError
        If no row claims it.
    """
    verdict, measured = found(rows, says, of)
    return opposite(verdict), measured


def changes(rows: Iterable[Row], changed: Iterable[Change]) -> pd.DataFrame:
    """The rows whose verdict was different, with the old and the new verdict.

    Parameters
    ----------
    rows : iterable of Row
        All of them.
    changed : iterable of Change
        Old verdicts, with the reason.

    Returns
    -------
    pd.DataFrame
        "paper", "claim", "on", "verdict then", "verdict now", which is the rows' own, and "why".

    Raises
    ------
    LookupError
        If a claim has not exactly one such row.
    """
    rows, lines = [*rows], []
    for old in changed:
        own = [row for row in rows if row.claim.says == old.says and old.on in row.of]
        if len(own) != 1:
            raise LookupError(f"{len(own)} rows claim “{old.says}” on “{old.on}”")
        now = own[0]
        lines.append((now.claim.paper, old.says, now.of, old.old, now.verdict, old.why))
    return Words(lines, columns=["paper", "claim", "on", "verdict then", "verdict now", "why"])


def against_itself(printed: pd.DataFrame) -> pd.DataFrame:
    """The paper's statements that its own tables contradict.

    Parameters
    ----------
    printed : pd.DataFrame
        The paper's numbers.

    Returns
    -------
    pd.DataFrame
        "statement", "where" and "the tables say".
    """
    rows = [*_few_against(wide_table(printed, FEW_TABLES)), *_repeated(printed),
            *_many_against(wide_table(printed, MANY_TABLES))]
    return Words(rows, columns=["statement", "where", "the tables say"])


def _few_against(wide: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """Where ZeroUnlearn does not forget, or does not keep the most of those that do."""
    for place, some_rows in wide.groupby(level=["model", "dataset"]):
        own = some_rows.droplevel(["model", "dataset"])
        gone = own[own.Eff <= 0.1 * own.Eff["Base"]]
        if "ZeroUnlearn" not in gone.index:
            yield ("§6.3: ZeroUnlearn erases the target knowledge (Eff at most a tenth of Base)",
                   " on ".join(place), f"Eff {own.Eff['ZeroUnlearn']:.2f} of {own.Eff['Base']:.2f}")
        elif (best := gone.Spe.idxmax()) != "ZeroUnlearn":
            yield ("§6.3: among methods that forget, ZeroUnlearn best preserves other knowledge",
                   " on ".join(place), f"Spe {gone.Spe['ZeroUnlearn']:.2f}; "
                   f"{best} {gone.Spe[best]:.2f} with Eff {gone.Eff[best]:.2f}")


def _repeated(printed: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """The numbers of Tables 1 and F.1 that Table 4 repeats differently."""
    four = printed[(printed.table == "table4") & ~printed.method.str.contains("w/o")]
    first = printed[printed.table.str.match(FEW_TABLES)]
    once = first[(first.method == "ZeroUnlearn") & (first.dataset == "ZsRE")]
    for x in once.merge(four, on=["model", "metric"]).itertuples():
        if abs(x.mean_x - x.mean_y) > 0.005:
            yield ("Table 4 repeats ZeroUnlearn's row of Tables 1 and F.1",
                   f"{x.model} on ZsRE, {x.metric}",
                   f"{x.mean_x:.2f} there, {x.mean_y:.2f} in Table 4")


def _many_against(large: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """Where ZeroUnlearn-GD erases no more than MEMIT or AlphaEdit."""
    for place, some_rows in large.groupby(level=["model", "dataset"]):
        eff = some_rows.Eff.droplevel(["model", "dataset"])
        best = eff[["MEMIT", "AlphaEdit"]].min()
        if eff["ZeroUnlearn-GD"] >= best:
            yield ("§6.4: ZeroUnlearn-GD outperforms MEMIT and AlphaEdit in erasing",
                   " on ".join(place),
                   f"Eff {eff['ZeroUnlearn-GD']:.2f}, theirs down to {best:.2f}")
