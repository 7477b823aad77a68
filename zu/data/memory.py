"""Rows from Python objects: facts, dictionaries, tables of columns, data frames."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .facts import Fact, FactError
from .fields import Placed, is_none, unpacked
from .shapes import KNOWN


def rows_in(source: Any) -> Iterator[Placed]:
    """The facts and rows in an object, with their places.

    Parameters
    ----------
    source : Fact, mapping, DataFrame or iterable of Fact or mapping
        One fact; a row or a table of columns; anything whose ``to_dict(orient="records")`` gives
        rows, such as a pandas DataFrame; or a sequence of facts and rows.

    Yields
    ------
    (str, dict or Fact or FactError)
        Each place, with its fact or row; a `FactError` in place of anything else.

    Raises
    ------
    FactError
        If the object holds no rows.
    """
    if isinstance(source, Fact | Mapping):
        _refuse_splits(source)
        source = [source]
    records = _records(source)
    if records is None and (isinstance(source, bytes) or not isinstance(source, Iterable)):
        raise FactError(f"facts in a {type(source).__name__}: give a name, a path, a list of "
                        "zu.Fact or of rows, a dictionary of columns, or a DataFrame")
    for i, item in enumerate(source if records is None else records, 1):
        where = f"fact {i}"
        if isinstance(item, Mapping):
            yield where, _row(item, records is not None)
        elif isinstance(item, Fact):
            yield where, item
        else:
            yield where, FactError(f"a {type(item).__name__}, neither a zu.Fact nor a row with "
                                   "fields: see zu.load_facts for what is read")


def _row(item: Mapping, is_record: bool) -> dict | FactError:
    """A row as JSON would hold it; in a data frame's row, JSON lists are decoded as in a CSV."""
    try:
        row = plain(item)
    except RecursionError:
        return FactError("lists within lists, too many of them: this is no row of facts")
    return unpacked(row) if is_record else row


def _refuse_splits(source: Fact | Mapping) -> None:
    """Refuse a dictionary of several tables, since any of them might hold the facts."""
    if isinstance(source, Mapping) and any(hasattr(value, "column_names")
                                           or hasattr(value, "columns")
                                           for value in source.values()):
        raise FactError("several tables or splits in one dictionary: give one of them")


def _records(source: Any) -> list[dict] | None:
    """The rows of a data frame or an Arrow table; None for anything else.

    An index with the name of a known field counts as a column.
    """
    if hasattr(source, "to_pylist") and hasattr(source, "column_names"):
        _refuse_doubled(source.column_names)
        rows: list[dict] = source.to_pylist()
        return rows
    if not hasattr(source, "to_dict"):
        return None
    _refuse_doubled(getattr(source, "columns", ()))
    held = [name for name in getattr(getattr(source, "index", None), "names", [])
            if isinstance(name, str) and name in KNOWN]
    if held:
        source = source.reset_index(level=held)
    try:
        return source.to_dict(orient="records")
    except TypeError:  # of another kind, such as polars', or it gives its rows one by one
        return source.to_dicts() if hasattr(source, "to_dicts") else None


def _refuse_doubled(columns: Iterable) -> None:
    """Refuse a table with two columns of the same name, since either might be meant."""
    names = list(columns)
    if len({*names}) < len(names):
        raise FactError("two columns of the table have one name: give each its own")


def plain(value: Any) -> Any:
    """A value with lists in place of arrays and None in place of NaN, from any library.

    Parameters
    ----------
    value : object
        A row, or a value in it.

    Returns
    -------
    object
        Made of dict, list, str, numbers and None, as JSON is.
    """
    if isinstance(value, str | bytes | bool | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    # pandas' mark for missing values is neither true nor false
    if type(value).__name__ == "NAType" or is_none(value):
        return None
    return value
