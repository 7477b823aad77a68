"""What a row of a table runs: its label, read and checked."""
from __future__ import annotations

import json
from typing import NamedTuple

from ..methods import find, settings_for


class Row(NamedTuple):
    """What a row of a table runs: a method, its settings, and whether it is given anchors."""

    method: str
    settings: dict
    anchors: bool


def parse_method(label: str) -> Row:
    """Read a row's label, ``METHOD[+anchors][:SETTING=VALUE,...]``.

    ``"zerounlearn"`` is the method as published, ``"zerounlearn+anchors"`` the same told of other
    subjects to spare, ``"zerounlearn:V_f=optimised,beta=10"`` has settings of its own.
    Raises `ValueError` for anything but ``anchors`` behind a plus sign.
    """
    head, _, rest = label.partition(":")
    name, plus, extra = head.partition("+")
    if plus and extra != "anchors":
        raise ValueError(f"row '{label}': '+{extra}' is unknown; '+anchors' gives a method anchors")
    settings = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            settings[key] = json.loads(value)
        except (ValueError, RecursionError):
            settings[key] = value
    return Row(name, settings, bool(plus))


def check_row(label: str, *, anchors: bool) -> Row:
    """Read a label and refuse what would not run as it says; anchors: whether there are any to give.

    Raises `ValueError` for an unknown method or setting, for anchors that the method cannot take or
    that are not there, and for a weight of anchors in a row that is given none.
    """
    row = parse_method(label)
    if row.method == "base" and (row.settings or row.anchors):
        raise ValueError(f"row '{label}': base is the unedited model; it takes nothing")
    if row.method == "base":
        return row
    settings_for(row.method, **row.settings)
    if row.anchors and not find(row.method).spares:
        raise ValueError(f"row '{label}': {row.method} takes no anchors")
    if row.anchors and not anchors:
        raise ValueError(f"row '{label}' asks for anchors, and none are given: pass anchors=")
    if not row.anchors and "anchor" in row.settings:
        raise ValueError(f"row '{label}' weighs anchors that it is not given: write "
                         f"'{label.replace(row.method, row.method + '+anchors', 1)}', or leave anchor out")
    return row
