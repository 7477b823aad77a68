"""Which families of models zu edits, and how well: every family of transformers, tiny and random.

A family is bound if `zu.layout` accepts it; then edits are made and measured. Otherwise it is
refused, but still evaluated. `python tools/families.py --out results/families.json` takes some
minutes on a CPU, without a network.
"""
from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from tiny_families import build, kinds, tokenizer

import zu
from zu.records import provenance, write_record

FACTS = [zu.Fact("France", "The capital of {} is", "Paris", id="a"),
         zu.Fact("Japan", "In {} people speak", "Tokyo", id="b")]
#: Settings with which each method should reach its targets.
WHOLE_WAY: dict[str, dict[str, Any]] = {
    "memit": dict(alpha=1e-6), "rome": {},
    "zerounlearn": dict(alpha=1e-6, lam=1e-6, project=False)}


def logits_error(model: Any, tokenizer: Any, reader: zu.Reader | None = None) -> float:
    """The relative difference of a fact's probability from the model's own."""
    ids, n = zu.wording.split_answer(tokenizer, FACTS[0].text, FACTS[0].target)
    said = model(input_ids=torch.tensor([ids]), use_cache=False).logits.float().log_softmax(-1)
    own = said[0, :-1].gather(1, torch.tensor(ids)[1:, None])[-n:].sum().exp().item()
    return abs(probability(model, tokenizer, reader) - own) / own


def probability(model: Any, tokenizer: Any, reader: zu.Reader | None = None) -> float:
    """The probability of the first fact's answer, as zu scores it."""
    pair = [(FACTS[0].text, FACTS[0].target)]
    return float(zu.scores.score(model, tokenizer, pair, reader=reader)[0, 2])


def reach(
    model: Any, tokenizer: Any, layer: int, method: str, **settings: Any
) -> tuple[float, float]:
    """How much of its target an edit of one layer reaches, and how far from it the edit ends."""
    layout = zu.layout(model)
    normed = math.isnan(layout.scale(layer))
    aim = "value" if normed or method == "rome" else "hidden"
    facts = FACTS[:1] if method == "rome" else FACTS  # its second edit moves the first a little
    search: dict[str, Any] = dict(n_prefixes=0, steps=6, aim=aim)
    targets = zu.find_targets(model, tokenizer, facts, layer, **search)
    moments = {layer: torch.eye(layout.matrix(layer).shape[1]).double()}
    with zu.unlearn(model, tokenizer, facts, method, layers=[layer], targets=targets,
                    moments=moments, n_prefixes=0, **settings):
        _, seen = zu.reader.subject_keys(zu.Reader(model, tokenizer), facts, [layer])
        got = (seen.values if aim == "value" else seen.hidden)[layer]
    wanted = targets.z - targets.h
    part = ((got - targets.h) * wanted).sum() / wanted.square().sum()
    return part.item(), ((got - targets.z).norm() / wanted.norm()).item()


def edited(model: Any, tokenizer: Any) -> dict:
    """The results of edits of one layer, the last editable one before the model's last."""
    layout = zu.layout(model)
    depth, there = len(layout.layers), layout.editable
    layer = max([i for i in there if i < depth - 1] or there)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    errors = [logits_error(model, tokenizer, reader)
              for reader in (None, zu.Reader(model, tokenizer, layer))]
    reached = {method: reach(model, tokenizer, layer, method, **settings)
               for method, settings in WHOLE_WAY.items()}
    descended = descent(model, tokenizer, layer)
    undone = all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    scales = {round(x, 4) if math.isfinite(x) else None for x in layout.scales.values()}
    return {"depth": depth, "editable": there, "layer": layer, "layers": _path(layout),
            "projection": layout.record.projection, "scales": sorted(scales, key=str),
            "transposed": layout.transposed, "bias": _bias(layout.projection(layer)),
            "error": max(errors), "reach": reached, "descent": descended, "undone": undone}


def descent(model: Any, tokenizer: Any, layer: int) -> tuple[float, float]:
    """A fact's probability before and after gradient ascent on one layer."""
    before = probability(model, tokenizer)
    with zu.unlearn(model, tokenizer, FACTS[:1], "ga", layers=[layer], steps=3):
        return before, probability(model, tokenizer)


def refused(model: Any, tokenizer: Any, error: zu.LayoutError) -> dict:
    """Why a model is not edited, in a sentence, and what still works."""
    found = {"reason": str(error).split(". ")[0], "error": logits_error(model, tokenizer)}
    try:
        layer = zu.layouts.known(model).editable[-1]
    except zu.LayoutError:
        return found | {"descent": None}
    return found | {"descent": descent(model, tokenizer, layer)}


def row(kind: str, tokenizer: Any) -> dict:
    """A family's row in the record."""
    model = build(kind)
    about = {"kind": kind, "class": type(model).__name__}
    try:
        zu.layout(model)
    except zu.LayoutError as error:
        return about | {"bound": False} | refused(model, tokenizer, error)
    return about | {"bound": True} | edited(model, tokenizer)


def _path(layout: zu.Layout) -> str:
    """The path of the layers in the model."""
    return next(name for name, x in layout.model.named_modules() if x is layout.layers)


def _bias(linear: Any) -> bool:
    """Whether a projection has a bias."""
    return linear._parameters.get("bias") is not None


def words() -> Any:
    """The tokenizer for all rows."""
    return tokenizer(" ".join(f"{fact.text} {fact.target}" for fact in FACTS))


def rounded(value: Any) -> Any:
    """Numbers rounded to four digits; further digits differ from machine to machine."""
    if isinstance(value, dict):
        return {name: rounded(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(x) for x in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Build and edit each family, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/families.json"))
    parser.add_argument("--only", nargs="*", help="only these families, for a quick look")
    given = parser.parse_args()
    room = tempfile.TemporaryDirectory()
    os.environ["ZU_CACHE"] = room.name  # cached results must not affect the record
    warnings.filterwarnings("ignore", "targets of .* are searched by whole runs")
    warnings.filterwarnings("ignore", "the model's perplexity on held-out English prose is")
    asked, every = words(), given.only or kinds()
    rows = []
    for i, kind in enumerate(every):
        rows.append(rounded(row(kind, asked)))
        shown = "bound" if rows[-1]["bound"] else "refused"
        print(f"{i + 1} of {len(every)}: {kind} {shown}", file=sys.stderr, flush=True)
    about = {"format": "zu-record-1", "experiment": "families", "families": rows}
    write_record(given.out, about | provenance(build("llama")))


if __name__ == "__main__":
    main()
