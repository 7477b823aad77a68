"""What a row of a table runs: its label, read and checked."""
from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ..methods import find, settings_for


class Row(NamedTuple):
    """What a row of a table runs.

    Attributes
    ----------
    method : str
        The method's name; "base" is the unedited model.
    settings : dict[str, Any]
        Settings that differ from the method's own.
    anchors : bool
        Whether it is given anchors.
    """

    method: str
    settings: dict[str, Any]
    anchors: bool


def parse_method(label: str) -> Row:
    """Read a row's label, ``METHOD[+anchors][:SETTING=VALUE,...]``.

    Parameters
    ----------
    label : str
        ``"zerounlearn"`` is the method as published, ``"zerounlearn+anchors"`` the same with
        anchors, other subjects to spare; ``"zerounlearn:V_f=optimised,beta=10"`` has settings of
        its own, and ``"memit:layers=[6,7,8]"`` layers of its own.

    Returns
    -------
    Row
        Its parts. A value is read as JSON and, where it is none, taken as a string.

    Raises
    ------
    ValueError
        For anything but ``anchors`` behind a plus sign.
    """
    head, _, rest = label.partition(":")
    name, plus, extra = head.partition("+")
    if plus and extra != "anchors":
        raise ValueError(f"row '{label}': '+{extra}' is unknown; '+anchors' gives a method anchors")
    settings = {}
    for part in filter(None, re.split(r",(?![^\[]*\])", rest)):  # at commas outside brackets
        key, _, value = part.partition("=")
        try:
            settings[key] = json.loads(value)
        except (ValueError, RecursionError):
            settings[key] = value
    return Row(name, settings, bool(plus))


def check_row(label: str, *, anchors: bool) -> Row:
    """Read a label and refuse what would not run as it says.

    Parameters
    ----------
    label : str
        A row's label, as `parse_method` reads it.
    anchors : bool
        Whether there are any anchors to give.

    Returns
    -------
    Row
        The label's parts.

    Raises
    ------
    ValueError
        For an unknown method or setting, for anchors that the method cannot take or that are not
        there, and for a weight of anchors in a row that is given none.
    """
    row = parse_method(label)
    if row.method == "base":
        if row.settings or row.anchors:
            raise ValueError(f"row '{label}': base is the unedited model; it takes nothing")
        return row
    if "chat" in row.settings:
        raise ValueError(f"row '{label}': how facts are asked is the grid's, give its reader chat=")
    settings_for(row.method, **row.settings)
    if row.anchors and not find(row.method).spares:
        raise ValueError(f"row '{label}': {row.method} takes no anchors")
    if row.anchors and not anchors:
        raise ValueError(f"row '{label}' asks for anchors, and none are given: pass anchors=")
    if not row.anchors and "anchor" in row.settings:
        with_anchors = label.replace(row.method, row.method + "+anchors", 1)
        raise ValueError(
            f"row '{label}' weighs anchors that it is not given: write '{with_anchors}', or leave "
            "anchor out"
        )
    return row


def most_searched(counts: Sequence[int], most: int) -> int:
    """The largest number of facts of an experiment for which anyone waits.

    Parameters
    ----------
    counts : Sequence[int]
        The numbers of facts of the experiment.
    most : int
        The most facts for which anyone waits.

    Returns
    -------
    int
        The largest of the counts up to `most`; where there is none, the largest of all.
    """
    return max((n for n in counts if n <= most), default=max(counts))


def rows_at(
    n: int,
    labels: Sequence[str],
    *,
    counts: Sequence[int],
    most: int,
    searching: Collection[str] = (),
    once: Collection[str] = (),
) -> list[str]:
    """The rows that an experiment runs on so many facts, where some would take too long.

    Parameters
    ----------
    n : int
        The number of facts, one of the counts.
    labels : Sequence[str]
        The rows' labels, as `parse_method` reads them.
    counts : Sequence[int]
        All numbers of facts of the experiment.
    most : int
        The most facts for which anyone waits.
    searching : Collection[str]
        Methods that take longer with each fact: they run on no more than `most`.
    once : Collection[str]
        Methods that take long even on few facts: they run at one count, `most_searched`.

    Returns
    -------
    list[str]
        Those of the labels that run, in their order.
    """
    rows = []
    for label in labels:
        method = parse_method(label).method
        if method in searching and n > most:
            continue
        if method in once and n != most_searched(counts, most):
            continue
        rows.append(label)
    return rows
