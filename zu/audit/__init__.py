"""The audit: is it gone, and a card that says so."""
from .cards import card
from .erasure import TESTS, Audit, Relearning, Robustness, robustness

__all__ = ["TESTS", "Audit", "Relearning", "Robustness", "card", "robustness"]
