"""The spectrum of the second moment of ordinary keys, and the energy in its lowest directions.

`python tools/spectrum.py` writes results/spectrum.json, which takes some minutes on a CPU. For a
few layers of the embedded model the file holds, direction by direction with the lowest first, the
eigenvalue of C_0, the energy of prose from which the moments were not read, and that of facts'
keys.
"""
from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

import zu
from zu.data import world
from zu.data.cache import write_whole
from zu.models import resolve_layers
from zu.reader import subject_keys
from zu.records import FORMAT, provenance

OUT = Path("results/spectrum.json")
FACTS, N, SEED = "world-cloze", 300, 1
#: An early layer beside the edited ones; the number of tokens of held-out prose.
EARLY, HELD_OUT = 12, 16_384
#: Digits of a number in the record.
DIGITS = 4


def along(vectors: torch.Tensor, moment: torch.Tensor) -> list[float]:
    """qᵀ C q for each column q of `vectors` (m, m): the energy of C along it."""
    return rounded((vectors * (moment @ vectors)).sum(0))


def rounded(values: torch.Tensor) -> list[float]:
    """Plain numbers with `DIGITS` digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def of_layer(C0: torch.Tensor, fresh: torch.Tensor, keys: torch.Tensor) -> dict[str, list[float]]:
    """A layer's energies by direction.

    Parameters
    ----------
    C0, fresh : (m, m)
        Second moments of ordinary keys, and of those of other prose.
    keys : (n, m)
        Keys of facts.

    Returns
    -------
    dict
        "eigenvalues" of C0, ascending, and along the same directions "held out" and "facts", m
        numbers each; each sums to the trace of its moment.
    """
    values, vectors = torch.linalg.eigh(C0.double())
    own = keys.double()
    return {"eigenvalues": rounded(values), "held out": along(vectors, fresh.double()),
            "facts": along(vectors, own.T @ own / len(own))}


def write(path: Path, record: dict) -> None:
    """Write a record with one row per line, since its lists are long."""
    plain = partial(json.dumps, sort_keys=True, allow_nan=False)
    rows = ",\n".join(map(plain, record["rows"]))
    about = [f"{plain(name)}: {plain(x)}" for name, x in record.items() if name != "rows"]
    text = ",\n".join([*about, f'"rows": [\n{rows}\n]'])
    write_whole(path, lambda part: part.write_text(f"{{\n{text}\n}}\n", encoding="utf-8"))


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    edited = resolve_layers(model)
    layers = [edited[-1] - EARLY, *edited]
    C0 = zu.moments(model, tokenizer, layers)
    fresh = zu.moments(model, tokenizer, layers, world.prose("heldout"), tokens=HELD_OUT)
    facts = zu.load_facts(FACTS).sample(N, SEED)
    keys = subject_keys(zu.Reader(model, tokenizer), facts, layers)[0]
    write(options.out, {
        "format": FORMAT, "experiment": "spectrum", "dataset": FACTS, "n": N, "seed": SEED,
        "edited": list(edited), "tokens": C0.tokens, "held_out_tokens": fresh.tokens,
        "rows": [{"layer": i} | of_layer(C0[i], fresh[i], keys[i]) for i in layers]}
        | provenance(model))


if __name__ == "__main__":
    main()
