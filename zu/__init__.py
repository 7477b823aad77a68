"""zu: make a language model forget given facts (ZeroUnlearn).

An edit changes a few MLP output projections and leaves the rest of the model as it is.
"""
from . import solve
from .audit import card, robustness
from .data import Fact, FactError, Facts, cache_dir, load_facts
from .edit import Edit, EditError
from .export import save_model
from .layouts import Layout, LayoutError
from .methods import METHODS, RECOMMENDED, find_targets, register, unlearn
from .models import load_model
from .planting import plant
from .probes import layout
from .reader import Reader
from .scanning import scan_layers
from .scans import Scan
from .scores import Scores, evaluate, known, perplexity
from .second_moments import moments
from .sparing import anchors

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "RECOMMENDED",
    "Edit",
    "EditError",
    "Fact",
    "FactError",
    "Facts",
    "Layout",
    "LayoutError",
    "Reader",
    "Scan",
    "Scores",
    "anchors",
    "cache_dir",
    "card",
    "evaluate",
    "find_targets",
    "known",
    "layout",
    "load_facts",
    "load_model",
    "moments",
    "perplexity",
    "plant",
    "register",
    "robustness",
    "save_model",
    "scan_layers",
    "solve",
    "unlearn",
]
