"""zubook: what the book's experiments share: grids and their records, figures, tests of what is left, cards, tasks."""
from .card import card
from .experiment import check_parameters, read_records, run_grid
from .robust import robustness

__all__ = ["card", "check_parameters", "read_records", "robustness", "run_grid"]
