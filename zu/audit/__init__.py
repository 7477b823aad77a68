"""The audit of an edit: tests of erasure, of membership, of leaking and against a model that never
knew, and a card with their results.
"""
from .cards import card
from .erasure import TESTS, Audit, Relearning, Robustness, robustness
from .membership import Membership, membership

__all__ = ["TESTS", "Audit", "Membership", "Relearning", "Robustness", "card", "membership",
           "robustness"]
