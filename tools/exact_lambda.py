"""How much weight the size of the change needs in Lemma 5.1, for 10 to 500 facts at once.

`python tools/exact_lambda.py` draws facts that are in none of the ten draws of fifty, edits them
with the exact solution at several weights and with AlphaEdit, and writes results/exact_lambda.json
after each row; it continues where it stopped. A draw takes about twenty minutes on a CPU.

The rule that chooses the default was stated before the run: the smallest of the weights in LAMBDAS
with which the mean perplexity over draws is at most `MOST` times the unedited model's at every
size. A smaller weight forgets no less.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import zu
from zu.edit import EditError
from zu.experiment import fewer
from zu.records import current_commit, provenance, write_record

FACTS, SIZES, NEIGHBOURS, PERPLEXITY = "world-cloze", (10, 50, 200, 500), 1, 2048
#: With a weight of 100 for the targets; AlphaEdit's 10 to 1 corresponds to 1,000 to 100.
LAMBDAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
MOST = 1.25


def pool() -> zu.Facts:
    """The facts that are in none of the ten draws of fifty."""
    facts = zu.load_facts(FACTS)
    drawn = {fact.id for seed in range(1, 11) for fact in facts.sample(50, seed)}
    return fewer(facts.of(fact for fact in facts if fact.id not in drawn), NEIGHBOURS)


def of_draw(reader: zu.Reader, seed: int, n: int, done: set[str]) -> Iterator[dict]:
    """A draw's missing rows: unedited, AlphaEdit, and Lemma 5.1 by weight."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = pool().sample(n, seed)

    def scores() -> dict[str, float]:
        found = zu.evaluate(model, tokenizer, facts, reader=reader)
        ppl = zu.perplexity(model, tokenizer, tokens=PERPLEXITY, reader=reader)
        return {"eff": found.eff, "gen": found.gen, "spe": found.spe, "ppl": ppl}

    rows = {"base": None, "alphaedit": ("alphaedit", {})}
    rows |= {f"exact:lam={lam:g}": ("exact", {"lam": lam}) for lam in LAMBDAS}
    lacking = [label for label in rows if label not in done]
    if not lacking:
        return
    layers = zu.models.resolve_layers(model)
    targets = zu.find_targets(model, tokenizer, facts, layers[-1], reader=reader)
    for label in lacking:
        about = {"seed": seed, "n": n, "method": label, "commit": current_commit()}
        if rows[label] is None:
            yield about | scores()
            continue
        method, settings = rows[label]
        try:
            edit = zu.unlearn(model, tokenizer, facts, method, reader=reader, targets=targets,
                              check=False, **settings)
        except EditError as error:
            yield about | {"refused": str(error)}
            continue
        with edit:
            yield about | scores() | {"damage": max(edit.damage.values())}


def main() -> None:
    """Measure, and write the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[901, 902])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=Path("results/exact_lambda.json"))
    options = parser.parse_args()
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    reader = zu.Reader(model, tokenizer)
    for seed in options.seeds:
        for n in options.sizes:
            done = {row["method"] for row in rows if (row["seed"], row["n"]) == (seed, n)}
            for row in of_draw(reader, seed, n, done):
                rows.append(row)
                print(row, flush=True)
                write_record(options.out, {
                    "format": "zu-record-1", "experiment": "exact_lambda", "dataset": FACTS,
                    "neighbors": NEIGHBOURS, "ppl_tokens": PERPLEXITY, "most": MOST, "rows": rows}
                    | provenance(model))


if __name__ == "__main__":
    main()
