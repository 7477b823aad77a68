"""A card for an edit, in JSON and Markdown: what it should do, what it did, whether it holds."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..data.cache import write_whole
from ..data.facts import Fact
from ..edit import Edit
from ..export import front_matter
from ..models import fingerprint, resolve_layers
from ..reader import Reader
from ..records import provenance, write_record
from ..scores import evaluate, percent_interval, perplexity
from .erasure import TESTS, Audit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = "zu-card-1"
MEASURES = {
    "eff": "Eff: still says what it was to forget (less is better)",
    "gen": "Gen: says it when asked in other words (less is better)",
    "spe": "Spe: right about neighbours (as before is best)",
}


def card(
    edit: Edit,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    path: str | Path,
    *,
    others: Sequence[Fact] = (),
    ppl_tokens: int = 8192,
    show_facts: bool = False,
) -> dict:
    """Compare the model with and without an edit, and write a card beside the saved edit.

    The edit is on or off afterwards as it was before. Facts are asked in the way in which they were
    edited, as plain text or as a turn of a chat.

    Parameters
    ----------
    edit : Edit
        The edit to measure, on its own model.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    facts : sequence of Fact
        The facts that the edit removes.
    path : str or Path
        The path of the saved edit. ``NAME.safetensors`` gets ``NAME.card.json`` and
        ``NAME.card.md``. A folder that `Edit.save_pretrained` or `zu.save_model` wrote gets
        ``card.json``, and its ``README.md``, which the hub shows, becomes the card.
    others : sequence of Fact
        Facts of the same relations that should not be forgotten. With them the card includes the
        tests of `zu.robustness`.
    ppl_tokens : int
        The number of tokens on which perplexity is measured.
    show_facts : bool
        Whether to list the facts in the card. By default it holds none of their text, only their
        number and one hash of them all.

    Returns
    -------
    dict
        The content of ``NAME.card.json``. Accuracies are in percent, with 95% intervals over facts.

    Raises
    ------
    FileNotFoundError
        If the edit is not saved yet.
    ValueError
        If there are more or fewer facts than the edit has, or the file holds another edit.
    """
    path = Path(path).expanduser()
    _check(edit, facts, path)
    measured, model_hash = _before_and_after(edit, tokenizer, facts, others, ppl_tokens)
    model = edit.model
    about = {"format": FORMAT} | _about(edit, facts)
    about |= {"model_hash": model_hash, "ppl_tokens": ppl_tokens, "measures": measured}
    about |= provenance(model)
    if show_facts:
        about["forgotten"] = [{"prompt": fact.text, "answer": fact.target} for fact in facts]
    library = _library(path)
    head = front_matter(model, library, [edit.method] if edit.method else [])
    return _write(path, about, head)


def _about(edit: Edit, facts: Sequence[Fact]) -> dict:
    """The part of a card that needs no measurement."""
    return {
        "method": edit.method,
        "settings": edit.settings,
        "facts": len(facts),
        "forget_hash": getattr(facts, "hash", None),
        "model": str(getattr(edit.model, "name", "")),
        "dtype": str(edit.model.dtype),
        "weights": {name: edit.relative_size(name) for name in edit.parts},
        "damage": {str(layer): share for layer, share in edit.damage.items()},
    }


def _check(edit: Edit, facts: Sequence[Fact], path: Path) -> None:
    """Refuse an edit that is not saved yet, another edit's file, and a wrong number of facts."""
    if not _library(path):
        raise FileNotFoundError(f"no edit at '{path}': save it first, edit.save(path); the card is "
                                "written beside it")
    if edit.facts and edit.facts != len(facts):
        raise ValueError(f"the edit is of {edit.facts} facts, but {len(facts)} are given: give "
                         "the facts that it was made for")
    if path.is_file() and not edit.is_in(path):
        raise ValueError(f"'{path}' holds another edit than the one to measure: give its own "
                         "file, or save it again (edit.save)")


def _library(path: Path) -> str:
    """The library that loads a saved edit: zu, PEFT or transformers; "" if there is none."""
    if path.is_file():
        return "zu"
    if (path / "adapter_config.json").is_file():
        return "peft"
    return "transformers" if (path / "config.json").is_file() else ""


def _write(path: Path, about: dict, head: str) -> dict:
    """Write a card's two files beside the edit or into its folder; returns what a reader finds."""
    if path.is_dir():
        data, page = path / "card.json", path / "README.md"
    else:
        data, page = path.with_suffix(".card.json"), path.with_suffix(".card.md")
    about = write_record(data, about)
    text = head + "\n" + _markdown(about)
    write_whole(page, lambda part: part.write_text(text, encoding="utf-8"))
    return about


def _before_and_after(
    edit: Edit,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    others: Sequence[Fact],
    ppl_tokens: int,
) -> tuple[dict[str, dict], str]:
    """The measures without and with the edit, and the hash of the model without it.

    The edit is on or off afterwards as it was before.
    """
    model, was_on = edit.model, edit.applied
    weights = list(edit.parts)
    chat = edit.settings.get("chat")  # asked as it was edited
    reader = Reader(model, tokenizer, min(resolve_layers(model)), chat=chat)
    audit = Audit(reader, facts, others) if others else None
    measured = {}
    try:
        for state in tqdm(("before", "after"), desc="card", leave=False):
            if state == "before":
                edit.restore()
                model_hash = fingerprint(model)
            else:
                edit.apply()
            measured[state] = _measure(reader, facts, ppl_tokens)
            if audit:
                tests = {name: summary(x) for name, x in audit.run(weights).items()}
                measured[state]["robustness"] = tests
    finally:
        if was_on:
            edit.apply()
        else:
            edit.restore()
    return measured, model_hash


def _measure(
    reader: Reader, facts: Sequence[Fact], ppl_tokens: int
) -> dict[str, Any]:
    """The model's present measures: mean, low and high of each accuracy, and perplexity."""
    scores = evaluate(reader.model, reader.tokenizer, facts, reader=reader)
    found: dict[str, Any] = {}
    for key in MEASURES:
        found[key] = [getattr(scores, key), *getattr(scores, f"interval_{key}")]
    found["ppl"] = perplexity(reader.model, reader.tokenizer, tokens=ppl_tokens, reader=reader)
    return found


def summary(hits: Sequence[float | None]) -> list[float]:
    """The mean of a test's results with its 95% interval over facts.

    Parameters
    ----------
    hits : sequence of float or None
        A number from 0 to 1 per fact; None for a fact that could not be asked.

    Returns
    -------
    list of float
        Mean, low and high, in percent; NaN if no fact could be asked.
    """
    values = 100 * np.array([x for x in hits if x is not None], float)
    mean = float(values.mean()) if len(values) else float("nan")
    return [mean, *percent_interval(values)]


def _cell(measure: Sequence[float | None] | None) -> str:
    """Mean, low and high as a cell of the table."""
    if measure is None or measure[0] is None:
        return "–"
    mean, low, high = measure
    return f"{mean:.1f} [{low:.0f}, {high:.0f}]"


def _rows(about: dict) -> list[tuple[str, str, str]]:
    """The table's rows: a measure, its value without the edit, and its value with it."""
    before, after = about["measures"]["before"], about["measures"]["after"]
    rows = []
    for key, words in MEASURES.items():
        rows.append((words, _cell(before[key]), _cell(after[key])))
    words = f"Perplexity on {about['ppl_tokens']:,} tokens of held-out prose"
    rows.append((words, f"{before['ppl']:.2f}", f"{after['ppl']:.2f}"))
    for name, found in after.get("robustness", {}).items():
        rows.append((f"{name}: {TESTS[name]}", _cell(before["robustness"][name]), _cell(found)))
    return rows


def _in_line(value: Any) -> str:
    """A setting on one line, even if its text has line breaks, as a chat's template has."""
    return repr(value) if isinstance(value, str) and len(value.splitlines()) > 1 else str(value)


def _markdown(about: dict) -> str:
    """The card as Markdown."""
    settings = ", ".join(f"{key} {_in_line(value)}" for key, value in about["settings"].items())
    sizes = ", ".join(f"`{name}` {size:.2%}" for name, size in about["weights"].items())
    moved = ", ".join(f"layer {layer} {x:.2%}" for layer, x in about["damage"].items())
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"# {about['method']}: {about['facts']} facts to forget, {about['model']}",
        "",
        f"- Settings: {settings}",
        f"- Changed weights, ‖Δ‖ / ‖W‖: {sizes}",
        f"- Damage, general energy moved, tr(Δ C_0 Δᵀ) / tr(W C_0 Wᵀ): {moved or 'not measured'}",
        f"- Model hash `{about['model_hash']}`, {about['dtype']}; "
        f"forget set's hash `{about['forget_hash']}`",
        f"- Made {about['created']} on {about['device']}, zu {about['commit']}, {versions}",
        "",
        "Percent of prompts that get the answer, with 95% intervals over facts:",
        "",
        "| | without the edit | with it |",
        "|---|---|---|",
    ]
    for words, before, after in _rows(about):
        lines.append(f"| {words} | {before} | {after} |")
    if "forgotten" in about:
        lines += ["", "To forget:", ""]
        for fact in about["forgotten"]:
            lines.append(f"- {fact['prompt']} … {fact['answer']}")
    return "\n".join(lines) + "\n"
