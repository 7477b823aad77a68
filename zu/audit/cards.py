"""A card for an edit: what it was told to do, what it did, and whether it holds, as JSON and Markdown beside it."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..data.cache import write_whole
from ..data.facts import Fact
from ..edit import Edit
from ..models import decoder, fingerprint, resolve_layers, weight_name
from ..reader import Below
from ..records import provenance, write_record
from ..scores import evaluate, percent_interval, perplexity
from .erasure import TESTS, robustness

FORMAT = "zu-card-1"
MEASURES = {"eff": "Eff: still says what it was to forget (less is better)",
            "gen": "Gen: says it when asked in other words (less is better)",
            "spe": "Spe: right about neighbours (as before is best)"}


def card(edit: Edit, tokenizer, facts: Sequence[Fact], path: str | Path, *, others: Sequence[Fact] = (),
         ppl_tokens: int = 8192, show_facts: bool = False) -> dict:
    """Measure an edit against the model without it; write PATH's card beside it and return it.

    path: of the saved edit; ``NAME.safetensors`` gets ``NAME.card.json`` and ``NAME.card.md``. others: facts of the
    same relations that are not to be forgotten; with them the card has `zu.robustness`'s tests. show_facts: name
    the facts in the card; by default none of their text is in it, only their number and a hash of them all.
    The edit is left on or off, as it was. Accuracies are in percent, with 95% intervals over facts.
    Raises `FileNotFoundError` for an edit that is not saved yet, `ValueError` for another number of facts than its
    own.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no edit at '{path}': save it first, edit.save(path); its card is written beside it")
    if edit.facts and edit.facts != len(facts):
        raise ValueError(f"the edit is of {edit.facts} facts, but {len(facts)} are given: give those that it is of")
    model, was_on = edit.model, edit.applied
    measured, first = {}, min(resolve_layers(model))
    above = {weight_name(model, i) for i in range(first, len(decoder(model).layers))}
    below = Below(first) if above >= set(edit.parts) else None  # read once, for before and after
    try:
        for state in tqdm(("before", "after"), desc="card", leave=False):
            edit.restore() if state == "before" else edit.apply()
            if state == "before":
                mark = fingerprint(model)
            scores = evaluate(model, tokenizer, facts, below=below)
            measured[state] = {key: [getattr(scores, key), *getattr(scores, f"interval_{key}")] for key in MEASURES}
            measured[state]["ppl"] = perplexity(model, tokenizer, tokens=ppl_tokens, below=below)
            if others:
                hits = robustness(model, tokenizer, facts, others, weights=list(edit.parts), below=below)
                measured[state]["robustness"] = {name: summary(x) for name, x in hits.items()}
    finally:
        edit.apply() if was_on else edit.restore()
    about = {"format": FORMAT, "method": edit.method, "settings": edit.settings, "facts": len(facts),
             "forget_hash": getattr(facts, "hash", None), "model": str(getattr(model, "name", "")), "model_hash": mark,
             "dtype": str(model.dtype), "weights": {name: edit.relative_size(name) for name in edit.parts},
             "ppl_tokens": ppl_tokens, "measures": measured} | provenance(model)
    if show_facts:
        about["forgotten"] = [{"prompt": f.text, "answer": f.target} for f in facts]
    path = Path(path)
    about = write_record(path.with_suffix(".card.json"), about)
    write_whole(path.with_suffix(".card.md"), lambda part: part.write_text(_markdown(about), encoding="utf-8"))
    return about


def summary(hits: Sequence[float | None]) -> list[float]:
    """Mean in percent with its 95% interval over facts; NaN where a test could not be asked."""
    values = 100 * np.array([x for x in hits if x is not None], float)
    return [float(values.mean()) if len(values) else float("nan"), *percent_interval(values)]


def _markdown(about: dict) -> str:
    def cell(x):
        return "–" if x is None or x[0] is None else f"{x[0]:.1f} [{x[1]:.0f}, {x[2]:.0f}]"

    before, after = (about["measures"][state] for state in ("before", "after"))
    rows = [(words, cell(before[key]), cell(after[key])) for key, words in MEASURES.items()]
    rows.append((f"Perplexity on {about['ppl_tokens']:,} tokens of held-out prose", f"{before['ppl']:.2f}",
                 f"{after['ppl']:.2f}"))
    rows += [(f"{name}: {TESTS[name]}", cell(before["robustness"][name]), cell(x))
             for name, x in after.get("robustness", {}).items()]
    settings = ", ".join(f"{key} {value}" for key, value in about["settings"].items())
    sizes = ", ".join(f"`{name}` {size:.2%}" for name, size in about["weights"].items())
    lines = [f"# {about['method']}: {about['facts']} facts to forget, {about['model']}", "",
             f"- Settings: {settings}", f"- Changed weights, ‖Δ‖ / ‖W‖: {sizes}",
             f"- Model hash `{about['model_hash']}`, {about['dtype']}; forget set's hash `{about['forget_hash']}`",
             f"- Made {about['created']} on {about['device']}, zu {about['commit']}, "
             + ", ".join(f"{name} {version}" for name, version in about["versions"].items()), "",
             "Percent of prompts that get the answer, with 95% intervals over facts:", "",
             "| | without the edit | with it |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    if "forgotten" in about:
        lines += ["", "To forget:", "", *(f"- {x['prompt']} … {x['answer']}" for x in about["forgotten"])]
    return "\n".join(lines) + "\n"
