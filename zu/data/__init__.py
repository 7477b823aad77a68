"""Facts and their readers, the embedded world and model, and the cache."""
from .cache import cache_dir
from .facts import Fact, FactError, Facts
from .readers import load_facts

__all__ = ["Fact", "FactError", "Facts", "cache_dir", "load_facts"]
