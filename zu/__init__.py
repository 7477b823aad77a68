"""zu: make a language model forget given facts by editing a few MLP output projections (ZeroUnlearn)."""
from zudata import Fact, FactError, Facts, cache_dir, load_facts

from . import solve
from .anchors import anchors
from .edits import Edit, EditError
from .evaluate import Scores, evaluate, known, perplexity
from .methods import METHODS, find_targets, unlearn
from .models import load_model
from .moments import moments

__version__ = "0.1.0"
__all__ = [
    "METHODS", "Edit", "EditError", "Fact", "FactError", "Facts", "Scores", "anchors", "cache_dir", "evaluate",
    "find_targets", "known", "load_facts", "load_model", "moments", "perplexity", "solve", "unlearn",
]
