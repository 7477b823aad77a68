"""A grid of methods and draws that resumes, and writes a record for each."""
from __future__ import annotations

import hashlib
import inspect
import json
import random
import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from ..data.facts import Fact, Facts
from ..edit import Edit
from ..methods import find, source_of, unlearn
from ..models import decoder, fingerprint, resolve_layers, weight_name
from ..reader import Below, prefixes
from ..records import FORMAT, code_hash, provenance, read_record, version_of, write_record
from ..scores import evaluate, perplexity
from ..second_moments import moments
from .rows import Row, check_row


def run_grid(model, tokenizer, facts: Facts, *, methods: Sequence[str], seeds: Sequence[int], n: int,
             records: str | Path, layers: Sequence[int | float] = (), corpus: str = "", moment_tokens: int = 100_000,
             ppl_tokens: int = 8192, ppl_corpus: str = "", experiment: str = "few_shot",
             measure: Callable[..., dict] | None = None, about_measure: dict | None = None,
             anchors: Callable[[Facts, int], Sequence[Fact]] | None = None,
             own: dict[str, Callable[..., Edit]] | None = None, extend: bool = False,
             before: Sequence[str] | None = None, below: Below | None = None) -> list[dict]:
    """Unlearn `n` facts with every method and seed, and write a record for each; return all records, in order.

    A record that exists and was made by the same code and versions from the same model, facts and settings is not made
    again, so that an interrupted grid goes on where it stopped. ``"base"`` as a method is the unedited model.
    corpus, ppl_corpus: of the moments and of perplexity, as `zu.second_moments.corpus` takes them; the embedded
    prose where they are empty.
    measure: what to record in place of Eff, Gen, Spe and perplexity: called with (model, tokenizer, facts, edit) while
    the edit is on (None for "base"), it returns a dict of plain values. Its source and `about_measure`, whatever else
    it depends on as plain values, decide with the rest whether a record still holds. extend: record it beside them.
    anchors: called with the facts to forget and the seed, what rows labelled ``METHOD+anchors`` are told to spare; no
    other row is given any. own: methods that are not zu's, by label: called with (model,
    tokenizer, facts), such a method returns the `Edit` that it has put on; its source decides with the rest.
    before: texts to put before a prompt, by default all of `zu.reader.prefixes`. below: to share between grids of the
    same layers what is read below them, see `zu.reader.Below`.
    """
    layers, own = resolve_layers(model, layers or None), own or {}
    jobs = {label: Row(label, {}, False) if label in own else check_row(label, anchors=anchors is not None)
            for label in methods}
    mark, name_of_model = fingerprint(model), getattr(model, "name", "model")
    versions = {package: version_of(package) for package in ("torch", "transformers")}
    folder, found = Path(records) / experiment / name_of_model / facts.name, []
    base_ppl = C0 = None
    given = {} if before is None else {"n_prefixes": len(before) - 1}
    below = below or Below(min(layers))
    above = {weight_name(model, i) for i in range(min(layers), len(decoder(model).layers))}

    def standard(model, tokenizer, facts, edit):
        nonlocal base_ppl
        kept = below if edit is None or above >= set(edit.parts) else None
        ppl = edit is None and base_ppl or perplexity(model, tokenizer, ppl_corpus or None, tokens=ppl_tokens,
                                                      below=kept)
        base_ppl = ppl if edit is None else base_ppl
        return evaluate(model, tokenizer, facts, below=kept).as_dict() | {"ppl": ppl}

    for seed in seeds:
        forget = facts.sample(n, seed)
        spare = list(anchors(forget, seed)) if any(row.anchors for row in jobs.values()) else []
        for label, (name, settings, spared) in tqdm(jobs.items(), desc=f"{facts.name}, seed {seed}", leave=False):
            about = {"experiment": experiment, "model": name_of_model, "dataset": facts.name,
                     "method": label, "n": n, "seed": seed, "settings": settings, "layers": list(layers),
                     "corpus": corpus, "moment_tokens": moment_tokens, "ppl_corpus": ppl_corpus,
                     "ppl_tokens": ppl_tokens, "dtype": str(model.dtype)}
            about |= {} if name in own else given  # what a method of one's own puts before a prompt is its own affair
            inputs = about | ({"before": list(before)} if given and name not in own else {})
            inputs |= {"weights": mark, "forget_hash": forget.hash, "code": code_hash(), "versions": versions}
            takes = {"anchors": spare} if spared else {}
            kind = None if name in own or name == "base" else find(name)
            if not spared and kind is not None and "anchor" in kind.model_fields:
                takes = {"anchor": 0.0}  # it is asked for without anchors: nothing to warn of
            if kind is not None and (written := source_of(kind)):
                inputs |= {"own": written}
            if spared:
                about |= {"anchors": len(spare)}
                inputs |= about | {"anchors_hash": Facts(spare).hash}
            if name in own:
                inputs |= {"own": inspect.getsource(own[name])}
            if measure is not None:
                about |= {"about_measure": about_measure or {}, "extend": extend}
                inputs |= about | {"measure": inspect.getsource(measure)}
            print_ = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
            path = folder / f"{re.sub('[^a-zA-Z0-9.]+', '-', label)}-n{n}-seed{seed}.json"
            record = read_record(path)
            if record is None or record.get("fingerprint") != print_:
                if record and versions.items() - record.get("versions", {}).items():
                    warnings.warn(f"{path} was made with other versions than {versions}: it is made again",
                                  stacklevel=2)
                seconds: dict[str, float] = {}
                edit = None
                if name in own:
                    with _stage(seconds, "edit"):
                        edit = own[name](model, tokenizer, forget)
                elif name != "base":
                    if C0 is None:
                        with _stage(seconds, "moments"):
                            C0 = moments(model, tokenizer, layers, corpus or None, tokens=moment_tokens)
                    before = before or prefixes(model, tokenizer)
                    with _stage(seconds, "edit"):
                        edit = unlearn(model, tokenizer, forget, name, layers=layers, moments=C0, before=before,
                                       below=below, **takes, **settings)
                with edit or nullcontext(), _stage(seconds, "evaluate"):
                    metrics = {} if measure and not extend else standard(model, tokenizer, forget, edit)
                    metrics |= measure(model, tokenizer, forget, edit) if measure else {}
                if name in own and (told := edit.settings.get("anchors")):
                    about |= {"anchors": told}  # what a method of one's own gave its edits
                record = about | {"format": FORMAT, "metrics": metrics, "seconds": seconds,
                                  "forget_hash": forget.hash, "fingerprint": print_} | provenance(model)
                record = write_record(path, record)
            found.append(record)
    return found


def fewer(facts: Facts, neighbors: int) -> Facts:
    """The facts, each with no more than so many of its neighbours, drawn by its text; 0: with all of them."""
    if not neighbors:
        return facts
    return facts.of(replace(f, neighbors=tuple(random.Random(f.text).sample(f.neighbors, neighbors)))
                    if neighbors < len(f.neighbors) else f for f in facts)


@contextmanager
def _stage(seconds: dict[str, float], name: str):
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)
