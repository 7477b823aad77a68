"""Rows out of what Python holds: facts, dictionaries, tables of columns, data frames."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .facts import Fact, FactError
from .fields import Placed, is_none, unpacked


def rows_in(source: object) -> Iterator[Placed]:
    """The facts and rows in an object, with their places.

    Parameters
    ----------
    source : Fact, mapping, DataFrame or iterable of Fact or mapping
        One fact; a row or a table of columns; anything whose ``to_dict(orient="records")`` gives
        rows, as that of pandas' DataFrame; or facts and rows, one after the other.

    Yields
    ------
    (str, dict or Fact or FactError)
        What is neither a fact nor a row is a `FactError` in its place.

    Raises
    ------
    FactError
        For an object that holds no rows.
    """
    if isinstance(source, Fact | Mapping):
        _refuse_splits(source)
        source = [source]
    records = _records(source)
    if isinstance(source, bytes) or not isinstance(source, Iterable):
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
    """A row as JSON has it; out of a data frame, as out of a CSV, with lists for their JSON."""
    try:
        row = plain(item)
    except RecursionError:
        return FactError("lists within lists, too many of them: this is no row of facts")
    return unpacked(row) if is_record else row


def _refuse_splits(source: Fact | Mapping) -> None:
    """Refuse several tables in one: which of them holds the facts is not known."""
    if isinstance(source, Mapping) and any(hasattr(value, "column_names")
                                           or hasattr(value, "columns")
                                           for value in source.values()):
        raise FactError("several tables or splits in one dictionary: give one of them")


def _records(source: Any) -> list[dict] | None:
    """The rows of a data frame; None for what is none.

    An index that has names holds columns too.
    """
    if not hasattr(source, "to_dict"):
        return None
    if any(name is not None for name in getattr(getattr(source, "index", None), "names", [])):
        source = source.reset_index()
    try:
        return source.to_dict(orient="records")
    except TypeError:  # of another kind, such as polars', or it gives its rows one by one
        return source.to_dicts() if hasattr(source, "to_dicts") else None


def plain(value: Any) -> Any:
    """A value with lists for arrays and None for NaN, whatever library it comes from.

    Parameters
    ----------
    value : object
        A row, or what it holds.

    Returns
    -------
    object
        Of dict, list, str, numbers and None, as JSON is.
    """
    if isinstance(value, str | bytes | bool | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    # pandas' marks for what is missing are neither true nor false
    if type(value).__name__ in ("NAType", "NaTType") or is_none(value):
        return None
    return value
