"""Measure three things that the formulas imply and the paper does not say.

`python tools/discoveries.py` writes results/discoveries.json after each draw and continues where it
stopped; it takes about two hours on one core. `--part` names one of the parts, and `--model` a
folder with another model, for which only the directions are measured:

zero        The zero term of Lemma 5.1 with several weights, ten draws of fifty facts: how much it
            leaves of the old values, how it changes the edit, and the scores.
directions  How much of a layer's output about other subjects, and for ordinary text, lies in the
            space that a few facts' values span; by layer, by number of facts, by relation.
ruin        In which directions of the forgotten keys the exact minimum of Lemma 5.1 spends the
            length of its change, and how far Adam has come after some numbers of steps.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import exact_lambda
import numpy as np
import torch

import zu
from zu import solve
from zu.edit import Edit
from zu.experiment import fewer
from zu.methods import Exact
from zu.methods.base import Problem
from zu.models import down_proj, resolve_layers
from zu.reader import Reader, collate, encode, trace
from zu.records import current_commit, provenance, read_record, write_record
from zu.second_moments import pack

OUT = Path("results/discoveries.json")
FACTS, NEIGHBOURS, PERPLEXITY = "world-cloze", 2, 2048
#: Weights of the zero term, beside 100 for the targets and 0.1 for the size; draws, and their size.
ZEROS, DRAWS, FEW = (0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0), range(1, 11), 50
#: How many facts span the space, the number of draws, and of ordinary tokens to read.
SPANS, TIMES, TOKENS = (1, 3, 10, 30, 100), 5, 4096
#: Sizes of the draws, and the steps of Adam after which results are recorded.
SIZES, STEPS = (10, 50, 200, 500), (10, 30, 100, 200, 500, 1000)
#: Edges of the bins of γ², as shares of the largest.
EDGES = np.logspace(-8, 0, 17)


# ---- the zero term


def of_zero(reader: Reader, seed: int) -> Iterator[dict]:
    """A draw's rows: the unedited model, and the exact solution by the zero term's weight."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = fewer(zu.load_facts(FACTS), NEIGHBOURS).sample(FEW, seed)
    layers = resolve_layers(model)
    targets = zu.find_targets(model, tokenizer, facts, layers[-1], reader=reader)
    old = {layer: down_proj(model, layer).weight.detach().double().clone() for layer in layers}

    def scores() -> dict[str, float]:
        found = zu.evaluate(model, tokenizer, facts, reader=reader)
        ppl = zu.perplexity(model, tokenizer, tokens=PERPLEXITY, reader=reader)
        return {"eff": found.eff, "gen": found.gen, "spe": found.spe, "ppl": ppl}

    yield {"seed": seed, "zero": None} | scores()
    without: dict[int, torch.Tensor] = {}
    for zero in ZEROS:
        edit = zu.unlearn(model, tokenizer, facts, "exact", zero=zero, lam=0.1, reader=reader,
                          targets=targets, check=False)
        with edit:
            change = {layer: down_proj(model, layer).weight.detach().double() - old[layer]
                      for layer in layers}
            without = without or change
            moved = [float((change[layer] - without[layer]).norm() / without[layer].norm())
                     for layer in layers]
            yield {"seed": seed, "zero": zero, "change": max(moved),
                   "left": _left(edit, change, old)} | scores()


def _left(edit: Edit, change: dict, old: dict) -> list[float]:
    """By layer, the energy of the new values in the old values' space, as a share of theirs."""
    found = []
    for layer, keys in (edit.keys or {}).items():
        values = old[layer] @ keys.T.double()  # (d, m) @ (m, n) -> (d, n)
        space = solve.column_space(values, torch.float32)[0]  # (d, k)
        now = space.T @ (values + change[layer] @ keys.T.double())
        found.append(float(now.pow(2).sum() / values.pow(2).sum()))
    return found


# ---- the few directions


@dataclass(frozen=True)
class Values:
    """A layer's outputs at each fact's subject (n, d), and at ordinary tokens (t, d)."""

    subjects: torch.Tensor
    ordinary: torch.Tensor


def values(reader: Reader, facts: zu.Facts) -> dict[int, Values]:
    """The outputs of all layers, by layer."""
    from zu.data import world

    model = reader.model
    layers = range(len(zu.models.decoder(model).layers))
    rows = [encode(reader.wording, fact) for fact in facts]
    seen = trace(model, collate([(ids[:at + 1], at) for ids, at in rows], model.device), layers)
    windows = pack(reader.tokenizer, world.prose("heldout"), TOKENS, 64)  # (windows, 64)
    places = [(row.tolist(), place) for row in windows for place in (20, 41, 62)]
    text = trace(model, collate([(ids[:at + 1], at) for ids, at in places], model.device), layers)
    return {layer: Values(seen.values[layer].double(), text.values[layer].double())
            for layer in layers}


def captured(some: torch.Tensor, others: torch.Tensor) -> float:
    """The share of the energy of `others` (n, d) that lies in the span of `some` (k, d)."""
    space = solve.column_space(some.T, torch.float32)[0]  # (d, r)
    return float((others @ space).pow(2).sum() / others.pow(2).sum())


def of_directions(reader: Reader) -> Iterator[dict]:
    """Rows by layer, number of facts and draw, and by relation."""
    facts = zu.load_facts(FACTS)
    subjects = [fact.subject for fact in facts]
    relations = [fact.relation for fact in facts]
    for layer, found in values(reader, facts).items():
        mean = found.subjects.mean(0)
        yield {"layer": layer, "kind": "whole", "d": len(mean), "rank": _dimensions(found.subjects),
               "mean": float(mean.pow(2).sum() * len(facts) / found.subjects.pow(2).sum())}
        for count in SPANS:
            for draw in range(TIMES):
                chosen = np.random.default_rng(draw).permutation(len(facts))[:count]
                named = {subjects[i] for i in chosen}
                rest = [i for i, name in enumerate(subjects) if name not in named]
                some, others = found.subjects[chosen], found.subjects[rest]
                yield {"layer": layer, "kind": "any", "count": count, "draw": draw,
                       "others": captured(some, others),
                       "ordinary": captured(some, found.ordinary),
                       "others without mean": captured(some - mean, others - mean)}
        yield from _by_relation(layer, found, subjects, relations)


def _by_relation(
    layer: int, found: Values, subjects: list[str], relations: list[str]
) -> Iterator[dict]:
    """Ten facts of one relation, against the rest of it and against the others."""
    for relation in sorted(set(relations)):
        own = [i for i, name in enumerate(relations) if name == relation]
        chosen = np.random.default_rng(0).permutation(own)[:10]
        named = {subjects[i] for i in chosen}
        same = [i for i in own if subjects[i] not in named]
        other = [i for i, name in enumerate(relations)
                 if name != relation and subjects[i] not in named]
        if len(same) >= 10:
            some = found.subjects[chosen]
            yield {"layer": layer, "kind": "relation", "relation": relation, "count": len(chosen),
                   "same": captured(some, found.subjects[same]),
                   "other": captured(some, found.subjects[other])}


def _dimensions(rows: torch.Tensor) -> float:
    """The effective number of directions of rows (n, d): (Σσ²)² / Σσ⁴."""
    energy = torch.linalg.svdvals(rows).pow(2)
    return float(energy.sum() ** 2 / energy.pow(2).sum())


# ---- the ruin


class Caught(Exact):
    """The exact solution, which leaves the first layer's problem in `problems`."""

    problems: ClassVar[list[Problem]] = []  # the caller empties it

    def solve(self, p: Problem) -> torch.Tensor:
        """As `Exact` does."""
        self.problems.append(p)
        return super().solve(p)


def of_ruin(reader: Reader, seed: int, n: int) -> Iterator[dict]:
    """A draw's rows: each change's energy by direction, and perplexity after three edits."""
    model, tokenizer = reader.model, reader.tokenizer
    facts = exact_lambda.pool().sample(n, seed)
    targets = zu.find_targets(model, tokenizer, facts, resolve_layers(model)[-1], reader=reader)

    def perplexity() -> float:
        return zu.perplexity(model, tokenizer, tokens=PERPLEXITY, reader=reader)

    yield {"seed": seed, "n": n, "what": "base", "ppl": perplexity()}
    Caught.problems.clear()
    method = Caught(lam=0.1, check=False)
    for name, how in (("exact:lam=0.1", method), ("exact:lam=1000", "exact"),
                      ("zerounlearn-gd", "zerounlearn-gd")):
        more = {"lam": 1000.0} if name.endswith("1000") else {}
        more = more if how is method else more | {"check": False}
        edit = zu.unlearn(model, tokenizer, facts, how, reader=reader, targets=targets, **more)
        with edit:
            yield {"seed": seed, "n": n, "what": name, "ppl": perplexity(),
                   "damage": max(edit.damage.values())}
    p = Caught.problems[0]
    terms = method.terms(p)
    for name, change in _changes(p, terms):
        yield {"seed": seed, "n": n, "what": name, "layer": True} | _spent(p, terms, change)


def _changes(p: Problem, terms: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Changes of one layer's weight: the minimum for three λ, and Adam's after some steps."""
    for lam in (0.1, 10.0, 1000.0):
        yield f"minimum, λ {lam:g}", solve.lemma_5_1(W=p.W, **terms | {"lam": lam})
    for steps in STEPS:
        yield f"Adam, {steps} steps", solve.lemma_5_1_gd(
            W=p.W.float(), steps=steps, **terms).double()


def _spent(p: Problem, terms: dict[str, Any], change: torch.Tensor) -> dict[str, Any]:
    """A change's energy and its cost to ordinary text, by γ² of the keys, and how much it fulfils.

    Directions are binned by γ², their energy in the keys inside the null space, as a share of the
    largest γ²; the largest and the smallest are recorded. ``energy`` is ‖X a‖², and ``cost`` is
    ‖X a‖² aᵀ C_0 a as a share of tr(W C_0 Wᵀ), both summed by bin.
    """
    inside = terms["basis"] @ (terms["basis"].T @ p.K_f)  # P_0 K_f, (m, n)
    a, gamma, _ = torch.linalg.svd(inside, full_matrices=False)  # (m, r), (r,)
    along = (change @ a).pow(2).sum(0)  # (r,): ‖X a_j‖²
    price = along * torch.einsum("mr,mk,kr->r", a, p.C0, a)
    share = (gamma / gamma[0]).pow(2).clamp(EDGES[0] * 1.001, 0.999).numpy()
    bins = np.digitize(share, EDGES) - 1
    total = float((p.W @ p.C0 @ p.W.T).trace())
    wish = p.V_star - p.W @ p.K_f  # (d, n)
    lacking = p.V_star - (p.W + change) @ p.K_f
    whole = float(((change @ p.C0) * change).sum()) / total

    def sums(x: torch.Tensor) -> list[float]:
        return np.bincount(bins, x.numpy(), len(EDGES) - 1).tolist()

    return {"largest": float(gamma[0] ** 2), "smallest": float(gamma[-1] ** 2),
            "energy": sums(along), "cost": sums(price / total), "damage": whole,
            "directions": np.bincount(bins, minlength=len(EDGES) - 1).tolist(),
            "fulfilled": 1 - float(lacking.pow(2).sum() / wish.pow(2).sum())}


# ---- all of them


def parts(reader: Reader) -> Iterator[tuple[str, Callable[[], Iterator[dict]]]]:
    """The parts and their draws, each under its own name."""
    own = getattr(reader.model, "name", "") == "smollm2"
    name = "smollm2" if own else type(reader.model).__name__
    yield f"directions, {name}", lambda: of_directions(reader)
    if not own:
        return
    for seed in DRAWS:
        yield f"zero, draw {seed}", lambda seed=seed: of_zero(reader, seed)
    for seed in (901, 902, 903):
        for n in SIZES:
            yield f"ruin, draw {seed} of {n}", lambda seed=seed, n=n: of_ruin(reader, seed, n)


def main() -> None:
    """Measure what is missing, and write the file after each draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="", help="only parts whose name begins like this")
    parser.add_argument("--model", default="smollm2", help="as zu.load_model takes it")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = (read_record(options.out) or {"rows": {}})["rows"]
    model, tokenizer = zu.load_model(options.model, device="cpu")
    reader = Reader(model, tokenizer)
    for name, measure in parts(reader):
        if name in rows or not name.startswith(options.part):
            continue
        rows[name] = [row | {"commit": current_commit()} for row in measure()]
        write_record(options.out, {
            "format": "zu-record-1", "experiment": "discoveries", "dataset": FACTS,
            "ppl_tokens": PERPLEXITY, "edges": EDGES.tolist(), "rows": rows} | provenance(model))
        print(name, len(rows[name]), flush=True)


if __name__ == "__main__":
    main()
