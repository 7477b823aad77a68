"""Where each table and figure comes from: its chapter, its run and its records."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..experiment import Kept, read_records
from .evidence import RESULTS

#: The book's counterparts of the paper's tables and figures.
PAPER = {
    "Fig. 1": ("fig-method",),
    "Fig. 2, 5, 6, 7": ("fig-tracing", "fig-tracing-lines"),
    "Fig. 3, 8, 9, 10": ("fig-representations",),
    "Fig. 4": ("fig-downstream",),
    "Table 1, F.1": ("tab-few-shot", "fig-few-shot"),
    "Table 2, F.2, F.3, F.4": ("tab-many", "tab-thousand", "fig-many", "fig-thousand"),
    "Table 4": ("tab-ablation-paper", "tab-ablation", "fig-ablation-changes", "fig-ablation"),
    "Section 6.7": ("tab-cost", "tab-cost-recorded"),
}
#: Tables and figures of runs that were made once, with the names of their records in results/.
KEPT = {
    "fig-thousand": "many_facts", "tab-thousand": "many_facts", "tab-tuning": "tuning",
    "tab-rounds": "tuning-rounds", "tab-gone-hundred": "gone",
    "tab-one-by-one-kept": "one_by_one", "tab-cost-recorded": "cost",
}
NONE = "–"


class Chapters(NamedTuple):
    """What the executed chapters show, and how they ran.

    Attributes
    ----------
    shown : dict of str
        The page of each table or figure, by its name, in the order of the pages.
    runs : dict of dict
        By page: "profile", "minutes", "run" (the day), and the result of `made_by` for its records.
    """

    shown: dict[str, str]
    runs: dict[str, dict[str, Any]]


def made_by(records: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """How many records, their seeds and commits, and the age of the oldest.

    Parameters
    ----------
    records : sequence of dict
        Records, possibly none.
    now : datetime
        The time, with its zone.

    Returns
    -------
    dict
        "records", "seeds", "commit" and "oldest record, days".
    """
    seeds = sorted({r["seed"] for r in records if "seed" in r})
    ages = [(now - datetime.fromisoformat(r["created"])).days for r in records]
    return {"records": len(records), "seeds": ", ".join(map(str, seeds)) or NONE,
            "commit": ", ".join(sorted({r["commit"] for r in records})) or NONE,
            "oldest record, days": max(ages, default=NONE)}


def chapters(
    executed: str | Path, records: str | Path, profile: str, now: datetime
) -> Chapters:
    """What the executed chapters show, and when and how they ran.

    Parameters
    ----------
    executed : str or Path
        The folder of executed notebooks.
    records : str or Path
        The folder of their records, with one folder per chapter.
    profile : str
        The build's profile.
    now : datetime
        With its zone.

    Returns
    -------
    Chapters
        Empty if nothing was executed.
    """
    shown, runs = {}, {}
    for path in sorted(Path(executed).glob("[!.]*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        mill = book["metadata"]["papermill"]
        own = read_records(Path(records, path.stem))
        runs[path.stem] = {"profile": profile, "minutes": round(mill["duration"] / 60, 1),
                           "run": mill["start_time"][:10], **made_by(own, now)}
        for cell in book["cells"]:
            figure = cell["metadata"].get("mystnb", {}).get("figure")
            if figure:
                shown[figure["name"]] = path.stem
    return Chapters(shown, runs)


def kept_runs(now: datetime, kept: Mapping[str, str] = KEPT) -> dict[str, dict[str, Any]]:
    """When and how the kept runs were made.

    Parameters
    ----------
    now : datetime
        With its zone.
    kept : mapping
        As `KEPT`.

    Returns
    -------
    dict of dict
        By a table's or figure's name, as `Chapters.runs`; only where there are records.
    """
    found = {}
    for name, experiment in kept.items():
        folder, file = Path(RESULTS, experiment), Path(RESULTS, f"{experiment}.json")
        rows = read_records(folder)
        if not rows and file.exists():
            rows = [*Kept.read(file).runs.values()]
        if rows:
            found[name] = {"profile": "kept", "minutes": NONE,
                           "run": max(r["created"] for r in rows)[:10], **made_by(rows, now)}
    return found


def link(page: str, name: str = "") -> str:
    """A link to a chapter, or to a table or figure of it.

    Parameters
    ----------
    page : str
        The chapter.
    name : str
        The table or figure to point at.

    Returns
    -------
    str
        HTML.
    """
    at = f"#{name}" if name else ""
    return f'<a href="{page}.html{at}">{name or page}</a>'


def of_the_paper(
    found: Chapters, kept: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, Iterable[str]] = PAPER,
) -> pd.DataFrame:
    """Each table and figure of the paper, and its counterpart in the book.

    Parameters
    ----------
    found : Chapters
        What was executed.
    kept : mapping
        The result of `kept_runs`.
    paper : mapping
        As `PAPER`.

    Returns
    -------
    pd.DataFrame
        "the paper", "here", "chapter" (links) and the run's columns; "none yet" if the book has no
        counterpart.
    """
    lines = []
    for theirs, ours in paper.items():
        for name in ours:
            line = {"the paper": theirs, "here": "none yet", "chapter": NONE}
            if name in found.shown:
                page = found.shown[name]
                line |= {"here": link(page, name), "chapter": link(page)}
                line |= kept.get(name) or found.runs[page]
            lines.append(line)
    return pd.DataFrame(lines, dtype=object).fillna(NONE)


def of_the_book(found: Chapters) -> pd.DataFrame:
    """Each chapter with its tables and figures.

    Parameters
    ----------
    found : Chapters
        What was executed.

    Returns
    -------
    pd.DataFrame
        "chapter", "tables and figures" (links), and the run's columns but seeds and commits.
    """
    lines = []
    for page, run in found.runs.items():
        own = [link(page, name) for name, its in found.shown.items() if its == page]
        brief = {name: value for name, value in run.items() if name not in ("seeds", "commit")}
        lines.append({"chapter": link(page), "tables and figures": ", ".join(own) or NONE, **brief})
    return pd.DataFrame(lines)


def of_kept_runs(found: Chapters, kept: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Tables and figures of kept runs.

    Parameters
    ----------
    found : Chapters
        What was executed.
    kept : mapping
        The result of `kept_runs`.

    Returns
    -------
    pd.DataFrame
        "here" (a link), the day, and the result of `made_by` for the records; only for tables and
        figures that the book shows.
    """
    lines = []
    for name, run in kept.items():
        if name in found.shown:
            brief = {key: value for key, value in run.items() if key not in ("profile", "minutes")}
            lines.append({"here": link(found.shown[name], name), **brief})
    return pd.DataFrame(lines)


def as_html(frame: pd.DataFrame) -> str:
    """A table whose cells hold links.

    Parameters
    ----------
    frame : pd.DataFrame
        The table.

    Returns
    -------
    str
        HTML, without an index.
    """
    return frame.to_html(escape=False, index=False, border=0)
