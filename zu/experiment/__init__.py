"""Experiments: parameters, rows, grids and their records; tracing and tasks."""
from ..records import FORMAT, code_hash, provenance, read_record, read_records, write_record
from .grids import Grid, Measure, Texts, fewer, run_grid
from .parameters import ParameterError, check_parameters
from .rows import Row, check_row, most_searched, parse_method, rows_at

__all__ = [
    "FORMAT",
    "Grid",
    "Measure",
    "ParameterError",
    "Row",
    "Texts",
    "check_parameters",
    "check_row",
    "code_hash",
    "fewer",
    "most_searched",
    "parse_method",
    "provenance",
    "read_record",
    "read_records",
    "rows_at",
    "run_grid",
    "write_record",
]
