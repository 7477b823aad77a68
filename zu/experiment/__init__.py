"""Experiments: parameters, rows, grids and their records; tracing and tasks."""
from ..records import FORMAT, code_hash, provenance, read_record, read_records, write_record
from .grids import Grid, Measure, Texts, earn, fewer, re_earned, run_grid
from .kept import EvidenceError, Kept, Tolerance, differences, verification
from .parameters import ParameterError, check_parameters
from .rows import Row, check_row, most_searched, parse_method, rows_at

__all__ = [
    "EvidenceError",
    "FORMAT",
    "Grid",
    "Kept",
    "Measure",
    "ParameterError",
    "Row",
    "Texts",
    "Tolerance",
    "check_parameters",
    "check_row",
    "code_hash",
    "differences",
    "earn",
    "fewer",
    "most_searched",
    "parse_method",
    "provenance",
    "re_earned",
    "read_record",
    "read_records",
    "rows_at",
    "run_grid",
    "verification",
    "write_record",
]
