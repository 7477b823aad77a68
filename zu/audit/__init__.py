"""The audit: is it gone, and a card that says so."""
from .cards import card
from .erasure import TESTS, robustness

__all__ = ["TESTS", "card", "robustness"]
