"""How many tokens of text a method needs: its scores by the number of tokens of its moments.

`python tools/tokens.py` edits draws of fifty facts with moments of more and more tokens. Each draw
has other facts, and reads the embedded prose from another place on. The tool writes
results/tokens.json after each row and continues where it stopped. A draw takes about ten minutes on
a CPU.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zu
from zu.data import world
from zu.edit import EditError
from zu.experiment import fewer, parse_method
from zu.records import provenance, write_record

FACTS, N, NEIGHBOURS, PERPLEXITY = "world-cloze", 50, 3, 1024
METHODS = ("zerounlearn", "memit", "alphaedit", "exact:lam=0.1")
#: Numbers of tokens, in whole windows of 512; the last one is the reference for the others.
TOKENS = (512, 1024, 2048, 4096, 8192, 12_288, 16_384, 32_768, 98_304)
#: Moments of at most this many tokens are also shrunk.
FEW = 4096
#: Places in the prose at which draws begin to read; their texts overlap.
STRETCHES = 10


def stretch(number: int) -> list[str]:
    """The prose from another place on, with its beginning moved to the end."""
    texts = world.prose("moments")
    start = (number - 1) % STRETCHES * len(texts) // STRETCHES
    return texts[start:] + texts[:start]


def ways(reader: zu.Reader, seed: int) -> Iterator[tuple[int, str, zu.second_moments.Moments]]:
    """Yields the number of tokens, "read" or "shrunk", and the moments."""
    layers = zu.models.resolve_layers(reader.model)
    for tokens in TOKENS:
        read = zu.moments(reader.model, reader.tokenizer, layers, stretch(seed), tokens=tokens)
        yield tokens, "read", read
        if tokens <= FEW:
            yield tokens, "shrunk", read.shrink()


def of_draw(reader: zu.Reader, seed: int, done: set[tuple[int, str, str]]) -> Iterator[dict]:
    """A draw's missing rows: unedited, and by tokens, shrinkage and method."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = fewer(zu.load_facts(FACTS).sample(N, seed), NEIGHBOURS)

    def scores() -> dict[str, float]:
        found = zu.evaluate(model, tokenizer, facts, reader=reader)
        ppl = zu.perplexity(model, tokenizer, tokens=PERPLEXITY, reader=reader)
        return {"eff": found.eff, "gen": found.gen, "spe": found.spe, "ppl": ppl}

    if (0, "read", "base") not in done:
        yield {"seed": seed, "tokens": 0, "how": "read", "method": "base"} | scores()
    targets = zu.find_targets(model, tokenizer, facts, zu.models.resolve_layers(model)[-1],
                              reader=reader)
    for tokens, how, moments in ways(reader, seed):
        for label in METHODS:
            if (tokens, how, label) in done:
                continue
            row: dict[str, Any] = {"seed": seed, "tokens": tokens, "how": how, "method": label}
            method, settings, _ = parse_method(label)
            try:
                edit = zu.unlearn(model, tokenizer, facts, method, reader=reader,
                                  layers=list(moments), moments=moments, targets=targets,
                                  check=False, **settings)
            except EditError as error:  # the change is too large to be put on
                yield row | {"refused": str(error)}
                continue
            with edit:
                yield row | scores()


def main() -> None:
    """Measure, and write the file after each row of a draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(1, 1 + STRETCHES),
                        help="of the draws (1 to 10)")
    parser.add_argument("--out", type=Path, default=Path("results/tokens.json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    reader = zu.Reader(model, tokenizer)
    for seed in options.seeds:
        done = {(x["tokens"], x["how"], x["method"]) for x in rows if x["seed"] == seed}
        if len(done) == 1 + len(METHODS) * sum(1 + (t <= FEW) for t in TOKENS):
            continue
        for row in of_draw(reader, seed, done):
            rows.append(row)
            print(row, flush=True)
            write_record(options.out, {
                "format": "zu-record-1", "experiment": "tokens", "dataset": FACTS, "n": N,
                "neighbours": NEIGHBOURS, "ppl_tokens": PERPLEXITY,
                "rows": rows} | provenance(model))


if __name__ == "__main__":
    main()
