"""zu: make a language model forget given facts by editing a few MLP output projections (ZeroUnlearn)."""
from . import solve
from .anchors import anchors
from .card import card
from .edits import Edit, EditError
from .evaluate import Scores, evaluate, known, perplexity
from .facts import Fact, FactError, Facts
from .methods import METHODS, find_targets, unlearn
from .models import cache_dir, load_model
from .moments import moments
from .readers import load_facts
from .robust import robustness

__version__ = "0.1.0"
__all__ = [
    "METHODS", "Edit", "EditError", "Fact", "FactError", "Facts", "Scores", "anchors", "cache_dir",
    "card", "evaluate", "find_targets", "known", "load_facts", "load_model", "moments", "perplexity", "robustness",
    "solve", "unlearn",
]
