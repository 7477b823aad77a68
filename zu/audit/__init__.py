"""The audit of an edit: tests of erasure, and a card with their results."""
from .cards import card
from .erasure import TESTS, Audit, Relearning, Robustness, robustness

__all__ = ["TESTS", "Audit", "Relearning", "Robustness", "card", "robustness"]
