"""What an edit's damage predicts about perplexity: many edits of the embedded model, in one file.

The edits have no prefixes, and those of a draw share their targets; perplexity is read on 1,024
tokens of the held-out prose. `python tools/damage.py --out results/damage.json` takes about an hour
on a CPU, most of it for the search for targets, which the cache keeps.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zu
from zu.methods import Located
from zu.records import provenance, write_record

FACTS, LAYERS, TOKENS = "world-cloze", (15, 16, 17), 1024
#: The number of facts and the seed of each draw.
DRAWS = ((10, 1), (50, 1), (100, 1), (200, 1), (50, 2), (500, 1))
#: Methods with settings that do less and more harm than their defaults.
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("memit", {}),
    ("memit", {"alpha": 100.0}),
    ("memit", {"alpha": 0.01}),
    ("zerounlearn", {}),
    ("zerounlearn", {"alpha": 0.0}),
    ("alphaedit", {}),
    ("alphaedit", {"share": 0.8, "lam": 0.1}),
    *(("exact", {"lam": lam}) for lam in (0.1, 1.0, 10.0, 100.0)),
    ("exact", {"lam": 0.1, "share": 1.0}),
    ("rome", {}),
    ("ga", {"lr": 5e-3}),
    ("ga", {"lr": 2e-2}),
    ("ft", {"lr": 5e-3}),
)
#: The most facts for methods whose time grows with each fact.
MOST = {"rome": 100, "ga": 100, "ft": 100}


def edits(reader: zu.Reader) -> Iterator[dict]:
    """Make each edit and read perplexity while it is on; yields one row per edit."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = zu.load_facts(FACTS)
    C0 = zu.moments(model, tokenizer, LAYERS, tokens=16_384)
    for n, seed in DRAWS:
        forget = facts.sample(n, seed)
        targets = zu.find_targets(model, tokenizer, forget, LAYERS[-1], n_prefixes=0)
        for method, settings in CASES:
            if n > MOST.get(method, n):
                continue
            more: dict[str, Any] = {"layers": LAYERS, "moments": C0, "check": False}
            if issubclass(zu.METHODS[method], Located):
                more |= {"targets": targets, "n_prefixes": 0}
            more |= settings
            with zu.unlearn(model, tokenizer, forget, method, reader=reader, **more) as edit:
                ppl = perplexity(reader)
            yield {"method": method, "settings": settings, "n": n, "seed": seed, "ppl": ppl,
                   "damage": {str(layer): share for layer, share in edit.damage.items()}}


def perplexity(reader: zu.Reader) -> float:
    """The present model's perplexity, in one window."""
    return zu.perplexity(reader.model, reader.tokenizer, tokens=TOKENS, window=TOKENS,
                         reader=reader)


def main() -> None:
    """Make all edits, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/damage.json"))
    out = parser.parse_args().out
    model, tokenizer = zu.load_model("smollm2")
    reader = zu.Reader(model, tokenizer, min(LAYERS))
    about = {"format": "zu-record-1", "experiment": "damage", "model": "smollm2",
             "dataset": FACTS, "layers": LAYERS, "ppl_tokens": TOKENS, "base": perplexity(reader)}
    rows = []
    for row in edits(reader):
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        write_record(out, about | {"edits": rows} | provenance(model))


if __name__ == "__main__":
    main()
