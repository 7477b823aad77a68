"""The audit of an edit: tests of erasure, of membership, of leaking and against a model that never
knew, and a card with their results.
"""
from .cards import card
from .erasure import TESTS, Audit, Relearning, Robustness, robustness
from .leaking import Leaks, leaks
from .membership import Membership, membership
from .promises import Promises, promises
from .quality import Before, Quality
from .rounding import Rounding, rounding

__all__ = ["TESTS", "Audit", "Before", "Leaks", "Membership", "Promises", "Quality", "Relearning",
           "Robustness", "Rounding", "card", "leaks", "membership", "promises", "robustness",
           "rounding"]
