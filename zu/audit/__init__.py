"""The audit of an edit: tests of erasure, of membership, of leaking and against a model that never
knew, and a card with their results.
"""
from .cards import card
from .erasure import TESTS, Audit, Relearning, Robustness, robustness
from .leaking import Leaks, leaks
from .membership import Membership, membership
from .patching import Held, Patched
from .power import Power, powers
from .promises import Promises, promises
from .quality import Before, Quality
from .relearning import Course, Relearned, relearned
from .rounding import Rounding, rounding
from .spectra import TakenBack, taken_back

__all__ = [
    "TESTS", "Audit", "Before", "Course", "Held", "Leaks", "Membership", "Patched", "Power",
    "Promises", "Quality", "Relearned", "Relearning", "Robustness", "Rounding", "TakenBack", "card",
    "leaks", "membership", "powers", "promises", "relearned", "robustness", "rounding",
    "taken_back",
]
