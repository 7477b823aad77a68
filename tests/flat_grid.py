"""A grid in one call, for tests: what it is made of stands flat beside what it runs."""
from pathlib import Path

import zu
from zu.experiment import Grid, Measure, Texts


def run_grid(model, tokenizer, facts, *, methods, seeds, n, records, experiment="few_shot",
             prefixes=None, layers=(), measure=None, anchors=None, own=None, **texts):
    """The records of a grid; `measure` is a function or a `Measure`."""
    if measure is not None and not isinstance(measure, Measure):
        measure = Measure(measure)
    grid = Grid(zu.Reader(model, tokenizer, prefixes=prefixes), Path(records) / experiment,
                layers, Texts(**texts), measure, anchors, own or {})
    return grid.run(facts, methods, seeds=seeds, n=n)
