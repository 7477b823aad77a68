"""Sentences that claim something, each compared with the run beside it, and numbers in them.

A chapter's prose is written by hand for the kept evidence. A cell calls `claim("idle", change < 2,
f"{change:.1f}%")`, and the sentence ends with ``{glue:}`claim-idle` ``. If the run agrees, the page
shows nothing there; otherwise it shows a flag.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .figures import said
from .verdicts import NO, YES
from .verdicts import UNDECIDED as UNDECIDED_VERDICT

#: The flags behind a sentence that the run contradicts or does not decide.
CONTRADICTED, UNDECIDED = "⚑ contradicted by this run", "⚐ not decided by this run"


class Flag(NamedTuple):
    """A sentence that a run does not confirm.

    Attributes
    ----------
    page, name : str
        The chapter, and the claim's name.
    said : str
        The text on the page.
    """

    page: str
    name: str
    said: str


def numbers(prefix: str, **values: float | int | str) -> None:
    """Glue numbers: after `numbers("few", base=39.4)`, ``{glue:text}`few-base:.1f` `` shows 39.4.

    Parameters
    ----------
    prefix : str
        The beginning of the names on this page.
    **values : float, int or str
        The values by name, also from numpy or torch. An underscore in a name becomes a hyphen. A
        text is shown as Markdown.
    """
    from myst_nb import glue

    for name, value in values.items():
        plain = getattr(value, "item", lambda value=value: value)()
        shown = said(plain) if isinstance(plain, str) else plain
        glue(f"{prefix}-{name.replace('_', '-')}", shown, display=False)


def claim(name: str, holds: bool | str | None, measured: object = "") -> None:
    """Check a sentence of the page against the run.

    Parameters
    ----------
    name : str
        The name of the sentence's mark, without "claim-".
    holds : bool, str or None
        Whether the run confirms the sentence, None if it does not decide; or a verdict of
        `zu.book.verdicts`.
    measured : object
        The result of the run, for the flag; for example an `Estimate`.
    """
    from myst_nb import glue

    holds = {YES: True, NO: False, UNDECIDED_VERDICT: None}.get(str(holds), holds)
    flag = "" if holds else UNDECIDED if holds is None else CONTRADICTED
    beside = f" ({measured})" if flag and measured != "" else ""
    glue(f"claim-{name}", said(f"**[{flag}{beside}]**" if flag else ""), display=False)


def flags(notebook: Path) -> Iterator[Flag]:
    """The flags of an executed chapter.

    Parameters
    ----------
    notebook : Path
        The chapter's file.

    Yields
    ------
    Flag
        One flag per sentence that the run does not confirm.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for output in (x for cell in cells for x in cell.get("outputs", [])):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
        if not name.startswith("claim-"):
            continue
        texts = [text if isinstance(text, str) else "".join(text)
                 for kind, text in output["data"].items() if kind.endswith("text/markdown")]
        for text in texts:
            if CONTRADICTED in text or UNDECIDED in text:
                yield Flag(notebook.stem, name.removeprefix("claim-"), text.strip("*[]"))


def summary(notebooks: list[Path]) -> str:
    """How many sentences a build contradicts, in one line or more.

    Parameters
    ----------
    notebooks : list of Path
        The executed chapters.

    Returns
    -------
    str
        One line for all, and one per flag.
    """
    found = [flag for path in sorted(notebooks) for flag in flags(path)]
    against = sum(CONTRADICTED in flag.said for flag in found)
    count = {0: "no sentence is", 1: "1 sentence is"}.get(against, f"{against} sentences are")
    lines = [f"  {count} contradicted by this run"]
    lines += [f"    {flag.page}, {flag.name}: {flag.said}" for flag in found]
    return "\n".join(lines)
