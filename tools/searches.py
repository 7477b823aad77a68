"""How scores depend on the way in which targets are found, on draws of the kept protocol.

`python tools/searches.py` edits draws of fifty facts with targets found in several ways, and writes
results/searches.json after each draw; it continues where it stopped. A draw takes some minutes on a
CPU, most of them for the neighbours' questions.
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zu
from zu.records import provenance, write_record

FACTS, N = "world-cloze", 50
METHODS = ("zerounlearn", "alphaedit", "memit")
#: Adam is the former default.
WAYS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "bare_first": False},
    "normalised": {},
    "gradient": {"by": "gradient"},
    "unknown": {"by": "unknown"},
}


def of_draw(reader: zu.Reader, seed: int, ways: list[str], moments: Any) -> Iterator[dict]:
    """A draw's rows: the unedited model, and one per way and method."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = zu.load_facts(FACTS).sample(N, seed)

    def scores() -> dict[str, float]:
        found = zu.evaluate(model, tokenizer, facts, reader=reader)
        return {"eff": found.eff, "gen": found.gen, "spe": found.spe}

    if "base" in ways:
        yield {"seed": seed, "way": "base", "method": "base"} | scores()
    layers = list(moments)
    for way in [way for way in ways if way in WAYS]:
        start = time.process_time()
        found = zu.find_targets(model, tokenizer, facts, layers[-1], reader=reader, **WAYS[way])
        seconds = time.process_time() - start
        length = ((found.z - found.h).norm(dim=1) / found.h.norm(dim=1)).mean()
        for method in METHODS:
            with zu.unlearn(model, tokenizer, facts, method, reader=reader, layers=layers,
                            moments=moments, targets=found, check=False):
                yield {"seed": seed, "way": way, "method": method, "cpu_seconds": seconds,
                       "length": float(length)} | scores()


def main() -> None:
    """Measure, and write the file after each draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10, help="seeds from 1 on (10)")
    parser.add_argument("--ways", default=",".join(WAYS), help="names from WAYS, with commas")
    parser.add_argument("--out", type=Path, default=Path("results/searches.json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    reader = zu.Reader(model, tokenizer)
    moments = zu.moments(model, tokenizer, zu.models.resolve_layers(model))
    for seed in range(1, options.draws + 1):
        there = {row["way"] for row in rows if row["seed"] == seed}
        lacking = [way for way in ["base", *options.ways.split(",")] if way not in there]
        for row in of_draw(reader, seed, lacking, moments):
            rows.append(row)
            print(row, flush=True)
        write_record(options.out, {
            "format": "zu-record-1", "experiment": "searches", "dataset": FACTS, "n": N,
            "rows": rows} | provenance(model))


if __name__ == "__main__":
    main()
