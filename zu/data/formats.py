"""Tell what a file holds before its rows are read: text or not, bare rows or wrapped ones.

Rows may be wrapped as the hub's viewer does it, or be the values of an object's keys.
"""
from __future__ import annotations

import json
from typing import Any

from .facts import Fact, FactError
from .shapes import KNOWN, SHAPES, is_table

_PARQUET = "read it with pandas.read_parquet and give load_facts the DataFrame"
#: How files that are not text begin, what they are, and what to do with them.
_BINARY = (
    (b"\x1f\x8b", "compressed (gzip)", "unpack it with gunzip first"),
    (b"BZh", "compressed (bzip2)", "unpack it with bunzip2 first"),
    (b"\xfd7zXZ", "compressed (xz)", "unpack it with unxz first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it with unzstd first"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet", "save the sheet as CSV"),
    (b"PAR1", "Parquet", _PARQUET),
    (b"ARROW1", "Arrow", "read it with datasets.Dataset.from_file and give load_facts that"),
    (b"\x80\x02", "a pickle, which could run code", "save the facts as JSON"),
    (b"\x80\x03", "a pickle, which could run code", "save the facts as JSON"),
    (b"\x80\x04", "a pickle, which could run code", "save the facts as JSON"),
    (b"\x80\x05", "a pickle, which could run code", "save the facts as JSON"),
    (b"\xff\xfe\x00\x00", "UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    (b"version https://git-lfs", "a pointer of Git LFS to the data", "fetch the file it stands for "
     "with git lfs pull"),
)
#: Names of the parts of a data set; rows of several parts are not read as one set.
_SPLITS = frozenset(("train", "test", "validation", "valid", "val", "dev", "eval", "forget",
                     "retain", "holdout"))
#: The keys of a row's wrapper, as the hub's viewer gives it.
_AROUND = {"row", "row_idx", "truncated_cells"}


def no_text(data: bytes) -> str:
    """Why a file is not a text in UTF-8.

    Parameters
    ----------
    data : bytes
        The file's content.

    Returns
    -------
    str
        The reason and the remedy; "" if the content looks like text.
    """
    for start, kind, remedy in _BINARY:
        if data.startswith(start):
            return f"the file is {kind}: {remedy}"
    if b"\x00" in data[:4096]:
        return ("the file holds zero bytes, which text in UTF-8 never does: save it as UTF-8, or, "
                "if it is not text, as JSON")
    return ""


class Once:
    """A reader of JSON that notices if an object has a field twice.

    Python's own reader would silently keep the last one.
    """

    def __init__(self) -> None:
        self.twice: list[str] = []

    def value_at(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a place, or a `FactError` in its stead; and where it ends."""
        self.twice.clear()
        value, end = json.JSONDecoder(object_pairs_hook=self._object).raw_decode(text, at)
        if self.twice:
            named = f"'{self.twice[0]}'" if self.twice[0] in KNOWN else "of another name"
            value = FactError(f"field {named} stands twice in one object: keep one")
        return value, end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                self.twice.append(name)
            found[name] = value
        return found


def rows_within(value: object, alone: bool = True) -> list | None:
    """The rows inside an object that is a wrapper and not itself a row.

    Parameters
    ----------
    value : object
        The value in a row's place.
    alone : bool
        Whether there is no other value. Only then may the rows be the values of the object's keys,
        several or numbered; an object in a list may be a row of an unknown shape.

    Returns
    -------
    list or None
        The rows of the hub's viewer, ``{"rows": [{"row_idx": 0, "row": {...}}]}``, or one of them;
        or the values of keys, ``{"fact 1": {...}, "fact 2": {...}}``; None for anything else. A row
        with a cell that the viewer cut off is a `FactError`.
    """
    if not isinstance(value, dict) or not value:
        return None
    rows = value.get("rows")
    if isinstance(rows, list) and rows and all(map(_is_viewed, rows)):
        return [_viewed(row) for row in rows]
    if _is_viewed(value):
        return [_viewed(value)]
    if not alone or any(key in KNOWN or str(key).casefold() in _SPLITS for key in value):
        return None
    keyed = all(_is_row(inner) for inner in value.values())
    told = len(value) > 1 or str(next(iter(value))).isdecimal()
    return list(value.values()) if keyed and told else None


def rows_elsewhere(value: object) -> int:
    """How many rows of a data set the hub's viewer did not give.

    Parameters
    ----------
    value : object
        The value in a row's place.

    Returns
    -------
    int
        0 for anything but the viewer's rows.
    """
    if not isinstance(value, dict) or rows_within(value, alone=False) is None:
        return 0
    rows, total = value.get("rows"), value.get("num_rows_total")
    return max(total - len(rows), 0) if isinstance(rows, list) and isinstance(total, int) else 0


def _is_row(value: object) -> bool:
    """Whether a value is a fact, or a row (not a table) with all the fields that a shape needs."""
    if isinstance(value, Fact):
        return True
    if not isinstance(value, dict) or is_table(value):
        return False
    return any({*shape.needs} <= {*value} for shape in SHAPES.values())


def _is_viewed(value: object) -> bool:
    """Whether a value is a row in the wrapper of the hub's viewer."""
    return isinstance(value, dict) and isinstance(value.get("row"), dict) and set(value) <= _AROUND


def _viewed(wrapped: dict) -> dict | FactError:
    """The row in a wrapper; a `FactError` if the viewer has cut off one of its cells."""
    if wrapped.get("truncated_cells"):
        return FactError("field 'truncated_cells' says that the viewer cut this row off: load the "
                         "data set itself")
    row: dict = wrapped["row"]
    return row
