"""A grid of methods and draws that resumes, and writes a record for each."""
from __future__ import annotations

import hashlib
import inspect
import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
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

#: A method of one's own, (model, tokenizer, facts) -> the `Edit` that it has put on; what to
#: measure, (model, tokenizer, facts, edit) -> plain values; anchors, (facts, seed) -> facts.
Own = Callable[..., Edit]
Measure = Callable[..., dict]
Anchors = Callable[[Facts, int], Sequence[Fact]]


@dataclass(frozen=True)
class RunSpec:
    """One run, by all that decides what it finds: the same fingerprint, the same result.

    Attributes
    ----------
    about : plain values that stand in the record.
    hidden : what decides as well, and stands in no record: hashes, sources, texts.
    """

    about: dict
    hidden: dict

    @property
    def fingerprint(self) -> str:
        """A hash of both."""
        text = json.dumps(self.about | self.hidden, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def file(self) -> str:
        """The name of its record's file."""
        label = re.sub("[^a-zA-Z0-9.]+", "-", self.about["method"])
        return f"{label}-n{self.about['n']}-seed{self.about['seed']}.json"


def run_grid(model: nn.Module, tokenizer, facts: Facts, *, methods: Sequence[str],
             seeds: Sequence[int], n: int, records: str | Path,
             layers: Sequence[int | float] = (), corpus: str = "", moment_tokens: int = 100_000,
             ppl_tokens: int = 8192, ppl_corpus: str = "", experiment: str = "few_shot",
             measure: Measure | None = None, about_measure: dict | None = None,
             anchors: Anchors | None = None, own: dict[str, Own] | None = None,
             extend: bool = False, before: Sequence[str] | None = None,
             below: Below | None = None) -> list[dict]:
    """Unlearn `n` facts with every method and seed, and write a record for each.

    A record that exists and was made by the same code and versions from the same model, facts and
    settings is not made again, so that an interrupted grid goes on where it stopped.

    Parameters
    ----------
    methods : labels of rows, see `zu.experiment.parse_method`; ``"base"`` is the unedited model.
    seeds, n : each seed draws n of the facts.
    records : the folder below which the records go.
    layers : to edit; none: the model's own.
    corpus, moment_tokens, ppl_corpus, ppl_tokens : text of the moments and of perplexity, as
        `zu.second_moments.corpus` takes it, and how many tokens of it; empty: the embedded prose.
    experiment : the name of the records' folder.
    measure : what to record in place of Eff, Gen, Spe and perplexity: called with (model,
        tokenizer, facts, edit) while the edit is on (None for "base"), it returns a dict of plain
        values. Its source and `about_measure`, whatever else it depends on as plain values,
        decide with the rest whether a record still holds.
    extend : record it beside the scores.
    anchors : called with the facts to forget and the seed: what rows labelled ``METHOD+anchors``
        are told to spare. No other row is given any.
    own : methods that are no class, by label: called with (model, tokenizer, facts), such a method
        returns the `Edit` that it has put on; its source decides with the rest.
    before : texts to put before a prompt, by default all of `zu.reader.prefixes`.
    below : to share between grids of the same layers what is read below them.

    Returns
    -------
    All records, in the order of seeds and methods.

    Raises
    ------
    ValueError : a label that would not run as it says, before anything is computed.
    """
    own, chosen = own or {}, resolve_layers(model, layers or None)
    rows = {}
    for label in methods:
        theirs = label in own
        rows[label] = Row(label, {}, False) if theirs else check_row(label, anchors=bool(anchors))
    text = {"corpus": corpus, "moment_tokens": moment_tokens,
            "ppl_corpus": ppl_corpus, "ppl_tokens": ppl_tokens}
    grid = _Grid(model, tokenizer, chosen, text, own, before, below or Below(min(chosen)))
    extra = None if measure is None else _Extra(measure, about_measure or {}, extend)
    folder, found = Path(records) / experiment / grid.name / facts.name, []
    for seed in seeds:
        forget = facts.sample(n, seed)
        spare = list(anchors(forget, seed)) if any(row.anchors for row in rows.values()) else []
        for label, row in tqdm(rows.items(), desc=f"{facts.name}, seed {seed}", leave=False):
            draw = {"experiment": experiment, "dataset": facts.name, "method": label,
                    "n": n, "seed": seed}
            job = _Draw(row, forget, spare if row.anchors else [])
            spec = grid.spec(job, draw, extra)
            record = read_record(folder / spec.file)
            if record is None or record.get("fingerprint") != spec.fingerprint:
                _warn_of_versions(record, folder / spec.file)
                record = write_record(folder / spec.file, grid.run(job, spec, extra))
            found.append(record)
    return found


@dataclass(frozen=True)
class _Draw:
    """A row, the facts that it should forget, and what it is told to spare."""

    row: Row
    forget: Facts
    spare: list[Fact]


@dataclass(frozen=True)
class _Extra:
    """What to measure in place of the scores, or beside them."""

    measure: Measure
    about: dict
    beside: bool


@dataclass
class _Grid:
    """A model with what its runs share: moments, prefixes, Base's perplexity, what lies below."""

    model: nn.Module
    tokenizer: object
    layers: tuple[int, ...]
    text: dict
    own: dict[str, Own]
    before: Sequence[str] | None
    below: Below
    C0: dict[int, torch.Tensor] | None = None
    base_ppl: float | None = None
    mark: str = field(init=False)

    def __post_init__(self) -> None:
        self.mark, self.name = fingerprint(self.model), getattr(self.model, "name", "model")
        self.given = self.before is not None  # prefixes of the caller's: a record says how many
        depth = len(decoder(self.model).layers)
        self.above = {weight_name(self.model, i) for i in range(min(self.layers), depth)}

    def spec(self, job: _Draw, draw: dict, extra: _Extra | None) -> RunSpec:
        """What decides the result of a run."""
        row = job.row
        about = draw | self.text
        about |= {"model": self.name, "settings": row.settings, "layers": list(self.layers),
                  "dtype": str(self.model.dtype)}
        hidden = {"weights": self.mark, "forget_hash": job.forget.hash,
                  "code": code_hash(), "versions": _versions()}
        theirs = row.method in self.own
        if theirs:  # what it puts before a prompt is its own affair
            hidden["own"] = inspect.getsource(self.own[row.method])
        elif self.given:
            about["n_prefixes"], hidden["before"] = len(self.before) - 1, list(self.before)
        if not theirs and row.method != "base" and (source := source_of(find(row.method))):
            hidden["own"] = source
        if job.spare:
            about["anchors"], hidden["anchors_hash"] = len(job.spare), Facts(job.spare).hash
        if extra is not None:
            about |= {"about_measure": extra.about, "extend": extra.beside}
            hidden["measure"] = inspect.getsource(extra.measure)
        return RunSpec(about, hidden)

    def run(self, job: _Draw, spec: RunSpec, extra: _Extra | None) -> dict:
        """Make the edit, measure while it is on, take it off; returns the record."""
        seconds: dict[str, float] = {}
        edit = self.edit(job, seconds)
        with edit or nullcontext(), _stage(seconds, "evaluate"):
            metrics = {} if extra and not extra.beside else self.scores(job.forget, edit)
            metrics |= extra.measure(self.model, self.tokenizer, job.forget, edit) if extra else {}
        found = {"format": FORMAT, "metrics": metrics, "seconds": seconds,
                 "forget_hash": job.forget.hash, "fingerprint": spec.fingerprint}
        if job.row.method in self.own and (spared := edit.settings.get("anchors")):
            found["anchors"] = spared  # what a method of one's own gave its edits
        return spec.about | found | provenance(self.model)

    def edit(self, job: _Draw, seconds: dict[str, float]) -> Edit | None:
        """The edit of a row, put on; None for "base"."""
        method, settings = job.row.method, dict(job.row.settings)
        if method == "base":
            return None
        if method in self.own:
            with _stage(seconds, "edit"):
                return self.own[method](self.model, self.tokenizer, job.forget)
        if self.C0 is None:
            with _stage(seconds, "moments"):
                self.C0 = moments(self.model, self.tokenizer, self.layers,
                                  self.text["corpus"] or None, tokens=self.text["moment_tokens"])
        if job.row.anchors:
            settings["anchors"] = job.spare
        elif "anchor" in find(method).model_fields:
            settings["anchor"] = 0.0  # it is asked for without anchors: nothing to warn of
        self.before = self.before or prefixes(self.model, self.tokenizer)
        with _stage(seconds, "edit"):
            return unlearn(self.model, self.tokenizer, job.forget, method, layers=self.layers,
                           moments=self.C0, before=self.before, below=self.below, **settings)

    def scores(self, forget: Facts, edit: Edit | None) -> dict:
        """Eff, Gen, Spe and perplexity of the model as it is; Base's perplexity is read once."""
        shared = self.below if edit is None or self.above >= set(edit.parts) else None
        ppl = self.base_ppl if edit is None else None
        if ppl is None:
            ppl = perplexity(self.model, self.tokenizer, self.text["ppl_corpus"] or None,
                             tokens=self.text["ppl_tokens"], below=shared)
        if edit is None:
            self.base_ppl = ppl
        scores = evaluate(self.model, self.tokenizer, forget, below=shared)
        return scores.as_dict() | {"ppl": ppl}


def _versions() -> dict[str, str]:
    return {package: version_of(package) for package in ("torch", "transformers")}


def _warn_of_versions(record: dict | None, path: Path) -> None:
    now = _versions()
    if record and now.items() - record.get("versions", {}).items():
        warnings.warn(f"{path} was made with other versions than {now}: it is made again",
                      stacklevel=3)


def fewer(facts: Facts, neighbors: int) -> Facts:
    """The facts, each with at most so many of its neighbours, drawn by its text; 0: with all."""
    if not neighbors:
        return facts

    def cut(fact: Fact) -> Fact:
        some = random.Random(fact.text).sample(fact.neighbors, neighbors)
        return replace(fact, neighbors=tuple(some))

    return facts.of(cut(f) if neighbors < len(f.neighbors) else f for f in facts)


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)
