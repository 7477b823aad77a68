"""The methods with their defaults on two models, for facts that each of them knows.

`python tools/second_model.py FOLDER` unlearns twenty known facts with each method, on the embedded
model and on the one in the folder, and writes results/second_model.json after each row. A model
takes half an hour on a CPU, most of it for the moments of general text.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zu
from zu.experiment import parse_method
from zu.records import provenance, write_record

FACTS, N, SEED, TOKENS = "world-cloze", 20, 1, 4096
METHODS = ("memit", "zerounlearn", "anchored", "rome", "ga", "alphaedit", "exact:lam=0.1")


def measured(name: str) -> Iterator[dict[str, Any]]:
    """One model's rows: unedited, and with each method's edit on."""
    model, tokenizer = zu.load_model(name)
    pool = zu.load_facts(FACTS)
    known = zu.known(model, tokenizer, pool)
    forget = known.sample(N, SEED)
    anchors = zu.anchors(forget, pool, per_prompt=N)
    reader = zu.Reader(model, tokenizer)
    layers = zu.models.resolve_layers(model)
    about = {"model": type(model).__name__, "layers": layers, "known": len(known), "of": len(pool)}

    def scores() -> dict[str, float]:
        found = zu.evaluate(model, tokenizer, forget)
        perplexity = zu.perplexity(model, tokenizer, tokens=TOKENS)
        return {"eff": found.eff, "gen": found.gen, "spe": found.spe, "ppl": perplexity}

    yield about | {"method": "base", "damage": {}} | scores() | provenance(model)
    for label in METHODS:
        method, more, _ = parse_method(label)
        more |= {"anchors": anchors} if method == "anchored" else {}
        edit = zu.unlearn(model, tokenizer, forget, method, reader=reader, check=False, **more)
        with edit:
            damage = {str(layer): share for layer, share in edit.damage.items()}
            yield about | {"method": label, "damage": damage} | scores() | provenance(model)


def main() -> None:
    """Measure both models, and write the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="the second model, as zu.load_model takes it")
    parser.add_argument("--out", type=Path, default=Path("results/second_model.json"))
    options = parser.parse_args()
    rows = []
    for name in ("smollm2", options.folder):
        for row in measured(name):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
            write_record(options.out, {
                "format": "zu-record-1", "experiment": "second_model", "dataset": FACTS, "n": N,
                "seed": SEED, "ppl_tokens": TOKENS, "rows": rows})


if __name__ == "__main__":
    main()
