"""The methods, one class each, and `unlearn`, which makes an edit with one of them."""
from .base import Columns, Descended, Job, Located, Method, Problem, Settings, Sparing, Truthful
from .descended import Ascent, FineTune, GradDiff, Npo, SimNpo
from .located import AlphaEdit, Anchored, Descent, Exact, Memit, Rome, ZeroUnlearn, answered
from .registry import METHODS, RECOMMENDED, SHARED, find, register, settings_for, source_of
from .ruin import DamageWarning
from .unlearning import DEFAULT, find_targets, unlearn

__all__ = [
    "DEFAULT",
    "METHODS",
    "RECOMMENDED",
    "SHARED",
    "AlphaEdit",
    "Anchored",
    "Ascent",
    "Columns",
    "DamageWarning",
    "Descended",
    "Descent",
    "Exact",
    "FineTune",
    "GradDiff",
    "Job",
    "Located",
    "Memit",
    "Method",
    "Npo",
    "Problem",
    "Rome",
    "Settings",
    "SimNpo",
    "Sparing",
    "Truthful",
    "ZeroUnlearn",
    "answered",
    "find",
    "find_targets",
    "register",
    "settings_for",
    "source_of",
    "unlearn",
]
