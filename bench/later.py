"""How long a single edit takes after others: `zu.unlearn` with a shared reader or with a new one.

`python bench/later.py` puts 200 single edits on the embedded model, one after another. In one
process it measures, for each method, the first, 10th, 50th and 200th edit with given targets and
moments: with the reader that made the earlier edits, and with a new reader that solves densely for
all keys at once. It prints the ratios and how far the changes agree. `--small` does the first and
the 5th in less than a minute, and proves nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace

import torch

import zu
from zu import solve
from zu.experiment import FORMAT, provenance, write_record

METHODS = ("memit", "zerounlearn", "alphaedit", "exact", "anchored")
PLACES = {"full": (1, 10, 50, 200), "small": (1, 5)}


def single_targets(found: zu.Targets) -> list[zu.Targets]:
    """Each fact's own targets, from a common search."""
    rows = range(len(found.z))
    return [replace(found, z=found.z[i:i + 1], h=found.h[i:i + 1], loss=found.loss[:, i:i + 1])
            for i in rows]


@contextmanager
def densely():
    """Inside the block, each solve takes all keys at once, without factors of what is spared."""
    kept = solve.Spared.of
    solve.Spared.of = classmethod(lambda *given, **named: None)
    try:
        yield
    finally:
        solve.Spared.of = kept


def timed(call) -> tuple[zu.Edit, dict[str, float]]:
    """The call's edit, its wall-clock and its processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    edit = call()
    return edit, {"seconds": time.perf_counter() - wall,
                  "cpu_seconds": time.process_time() - cpu}


def taken_off(edit: zu.Edit) -> dict[str, torch.Tensor]:
    """Take an edit off; returns its changes."""
    changes = edit.deltas
    edit.restore()
    return changes


def measure(reader: zu.Reader, fact: zu.Fact, method: str, **more) -> dict:
    """One edit after `earlier` in both ways; the model is the same afterwards."""
    model, tokenizer = reader.model, reader.tokenizer

    def edit(by: zu.Reader) -> zu.Edit:
        return zu.unlearn(model, tokenizer, [fact], method, reader=by, **more)

    edit(reader).restore()  # so that the reader knows the earlier edits, as in a sequence
    found, later = timed(lambda: edit(reader))
    changes = taken_off(found)
    fresh = zu.Reader(model, tokenizer, prefixes=reader.texts(5))
    with densely():
        found, anew = timed(lambda: edit(fresh))
    others = taken_off(found)
    far = max(float((x - others[name]).norm() / others[name].norm())
              for name, x in changes.items())
    ratio = {f"ratio_{key}": anew[key] / later[key] for key in later}
    return {"later": later, "anew": anew, **ratio, "difference": far}


def run(places: tuple[int, ...], tokens: int) -> dict:
    """All figures by method and place, on the embedded model."""
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    layers = zu.models.resolve_layers(model)
    C0 = zu.moments(model, tokenizer, layers, tokens=tokens)
    facts = zu.load_facts("world-cloze").sample(max(places), 0)
    reader = zu.Reader(model, tokenizer)
    targets = single_targets(
        zu.find_targets(model, tokenizer, facts, layers[-1], reader=reader, steps=5))
    edits: list[zu.Edit] = []
    for fact, found in zip(facts, targets, strict=True):
        edits.append(zu.unlearn(model, tokenizer, [fact], "memit", reader=reader, moments=C0,
                                targets=found, earlier=edits, check=False))
    result: dict = {method: {} for method in METHODS}
    for place in sorted(places, reverse=True):
        for edit in reversed(edits[place - 1:]):
            edit.restore()
        del edits[place - 1:]
        for method in METHODS:
            result[method][str(place)] = measure(
                reader, facts[place - 1], method, moments=C0, targets=targets[place - 1],
                earlier=edits)
    return result | {"layers": list(layers), "moment_tokens": C0.tokens,
                     "model_hash": zu.models.fingerprint(model)} | provenance(model)


def main(argv: list[str] | None = None) -> dict:
    """Measure, print, write; returns what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="five edits instead of 200")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--out", default="build/bench/later.json", help="where the figures go")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "anchored without anchors")
    warnings.filterwarnings("ignore", category=zu.methods.ruin.DamageWarning)
    places = PLACES["small" if options.small else "full"]
    result = {"format": FORMAT, "experiment": "bench-later"} | run(
        places, 4096 if options.small else 16_384)
    for method in METHODS:
        for place in places:
            x = result[method][str(place)]
            print(f"{method}, edit {place}: {x['later']['seconds']:.2f} s, processor "
                  f"{x['later']['cpu_seconds']:.2f} s; anew {x['anew']['seconds']:.2f} s, "
                  f"{x['ratio_seconds']:.1f} times as long ({x['ratio_cpu_seconds']:.1f} in "
                  f"processor time); changes differ by {x['difference']:.1e}")
    return write_record(options.out, result)


if __name__ == "__main__":
    main()
