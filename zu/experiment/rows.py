"""Read and check a row's label, which says what the row of a table runs."""
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
        ``"zerounlearn"`` is the method with its default settings, and ``"zerounlearn+anchors"`` the
        same with anchors, that is, other subjects to spare. ``"zerounlearn:V_f=optimised,beta=10"``
        changes settings, and ``"memit:layers=[6,7,8]"`` the layers.

    Returns
    -------
    Row
        The label's parts. A value is read as JSON or, if that fails, as a string.

    Raises
    ------
    ValueError
        If anything but ``anchors`` follows a plus sign.
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
    """Read a label, and refuse it if the row would not run as the label says.

    Parameters
    ----------
    label : str
        A row's label, as `parse_method` reads it.
    anchors : bool
        Whether there are anchors to give.

    Returns
    -------
    Row
        The label's parts.

    Raises
    ------
    ValueError
        If the method or a setting is unknown, if anchors are asked for that the method cannot take
        or that are not given, or if a row without anchors weighs them.
    """
    row = parse_method(label)
    if row.method == "base":
        if row.settings or row.anchors:
            raise ValueError(f"row '{label}': base is the unedited model; it takes nothing")
        return row
    if "chat" in row.settings:
        raise ValueError(f"row '{label}': chat is a setting of the grid, give its reader chat=")
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
    """The largest number of facts on which slow methods run.

    Parameters
    ----------
    counts : Sequence[int]
        The experiment's numbers of facts.
    most : int
        The most facts on which slow methods should run.

    Returns
    -------
    int
        The largest count up to `most`; if there is none, the largest of all.
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
    """The rows that an experiment runs on `n` facts, without those that would take too long.

    Parameters
    ----------
    n : int
        The number of facts, one of the counts.
    labels : Sequence[str]
        The rows' labels, as `parse_method` reads them.
    counts : Sequence[int]
        All of the experiment's numbers of facts.
    most : int
        The most facts on which slow methods should run.
    searching : Collection[str]
        Methods that take longer with each fact; they run on at most `most` facts.
    once : Collection[str]
        Methods that take long even on few facts; they run only on `most_searched` facts.

    Returns
    -------
    list[str]
        The labels that run, in their order.
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
