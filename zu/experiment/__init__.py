"""Experiments: parameters, rows, grids and their records; tracing and tasks."""
from ..records import FORMAT, code_hash, provenance, read_record, read_records, write_record
from .grids import Grid, Measure, Texts, fewer, run_grid
from .parameters import ParameterError, check_parameters
from .rows import Row, check_row, parse_method

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
    "parse_method",
    "provenance",
    "read_record",
    "read_records",
    "run_grid",
    "write_record",
]
