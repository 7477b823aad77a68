"""Typed parameters for the chapters, a grid that resumes, and the records that every table is made from."""
from __future__ import annotations

import ast
import difflib
import hashlib
import inspect
import json
import math
import platform
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ConfigDict, ValidationError, create_model
from tqdm.auto import tqdm

import zu
import zudata
from zu.edits import Edit
from zu.evaluate import evaluate, perplexity
from zu.methods import METHODS, settings_for, unlearn
from zu.models import decoder, fingerprint, resolve_layers, weight_name
from zu.moments import moments
from zu.trace import Below, prefixes
from zudata.cache import write_whole
from zudata.facts import Fact, Facts

FORMAT = "zu-record-1"
PACKAGES = ("torch", "transformers", "numpy", "safetensors")
#: Where the code lies that a record depends on.
ROOMS = [Path(file).parent for file in (__file__, zu.__file__, zudata.__file__)]


class ParameterError(ValueError):
    """A chapter's parameter that is unknown or of the wrong type; the message names it and the known ones."""


def check_parameters(namespace: dict) -> dict:
    """Check a chapter's parameters: call it with ``globals()`` in the cell after the parameters cell.

    The parameters cell declares each value with its type (``n: int = 20``). Values that papermill injected must
    have that type, and their names must be declared: papermill itself only warns. Returns the checked values.
    Raises `ParameterError`.
    """
    types = {name: kind for name, kind in namespace.get("__annotations__", {}).items() if name in namespace}
    for name in _injected(namespace.get("In", ())):
        if name not in types:
            close = difflib.get_close_matches(name, types, 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ParameterError(f"parameter '{name}' is unknown: {hint}known are {', '.join(types)}")
    model = create_model("Parameters", __config__=ConfigDict(strict=True, protected_namespaces=()),
                         **{name: (kind, ...) for name, kind in types.items()})
    try:
        return model(**{name: namespace[name] for name in types}).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ParameterError(f"parameter '{name}' is {namespace[name]!r}, of the wrong type: {first['msg']}; the "
                             f"chapter declares it as {getattr(types[name], '__name__', types[name])}") from None


def _injected(cells: Sequence[str]) -> list[str]:
    """Names that papermill's injected cell sets; it marks that cell with a first line "# Parameters"."""
    names = []
    for cell in cells:
        if cell.lstrip().startswith("# Parameters\n"):
            names += [t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign)
                      for t in node.targets if isinstance(t, ast.Name)]
    return names


class Row(NamedTuple):
    """What a row of a table runs: a method, its settings, and whether it is given anchors."""

    method: str
    settings: dict
    anchors: bool


def parse_method(label: str) -> Row:
    """Read a row's label, ``METHOD[+anchors][:SETTING=VALUE,...]``.

    ``"zerounlearn"`` is the method as published, ``"zerounlearn+anchors"`` the same told of other
    subjects to spare, ``"zerounlearn:V_f=optimised,beta=10"`` has settings of its own.
    Raises `ValueError` for anything but ``anchors`` behind a plus sign.
    """
    head, _, rest = label.partition(":")
    name, plus, extra = head.partition("+")
    if plus and extra != "anchors":
        raise ValueError(f"row '{label}': '+{extra}' is unknown; '+anchors' gives a method anchors")
    settings = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            settings[key] = json.loads(value)
        except (ValueError, RecursionError):
            settings[key] = value
    return Row(name, settings, bool(plus))


def check_row(label: str, *, anchors: bool) -> Row:
    """Read a label and refuse what would not run as it says; anchors: whether there are any to give.

    Raises `ValueError` for an unknown method or setting, for anchors that the method cannot take or
    that are not there, and for a weight of anchors in a row that is given none.
    """
    row = parse_method(label)
    if row.method == "base" and (row.settings or row.anchors):
        raise ValueError(f"row '{label}': base is the unedited model; it takes nothing")
    if row.method == "base":
        return row
    settings_for(row.method, **row.settings)
    if row.anchors and not METHODS[row.method].spares:
        raise ValueError(f"row '{label}': {row.method} takes no anchors")
    if row.anchors and not anchors:
        raise ValueError(f"row '{label}' asks for anchors, and none are given: pass anchors=")
    if not row.anchors and "anchor" in row.settings:
        raise ValueError(f"row '{label}' weighs anchors that it is not given: write "
                         f"'{label.replace(row.method, row.method + '+anchors', 1)}', or leave anchor out")
    return row


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
    corpus, ppl_corpus: of the moments and of perplexity, as `zu.moments.corpus` takes them; the embedded prose where
    they are empty.
    measure: what to record in place of Eff, Gen, Spe and perplexity: called with (model, tokenizer, facts, edit) while
    the edit is on (None for "base"), it returns a dict of plain values. Its source and `about_measure`, whatever else
    it depends on as plain values, decide with the rest whether a record still holds. extend: record it beside them.
    anchors: called with the facts to forget and the seed, what rows labelled ``METHOD+anchors`` are told to spare; no
    other row is given any. own: methods that are not zu's, by label: called with (model,
    tokenizer, facts), such a method returns the `Edit` that it has put on; its source decides with the rest.
    before: texts to put before a prompt, by default all of `zu.trace.prefixes`. below: to share between grids of the
    same layers what is read below them, see `zu.trace.Below`.
    """
    layers, own = resolve_layers(model, layers or None), own or {}
    jobs = {label: Row(label, {}, False) if label in own else check_row(label, anchors=anchors is not None)
            for label in methods}
    mark, name_of_model = fingerprint(model), getattr(model, "name", "model")
    versions = {package: _version(package) for package in ("torch", "transformers")}
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
            if not spared and name in METHODS and METHODS[name].spares:
                takes = {"anchor": 0.0}  # it is asked for without anchors: nothing to warn of
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


def provenance(model) -> dict:
    """Where a record comes from: versions, commit, device, threads, peak memory of the process, time (UTC)."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        import resource

        name = platform.machine()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
            "commit": _commit(), "device": f"{device.type} ({name})", "threads": torch.get_num_threads(),
            "peak_memory_bytes": int(peak), "created": datetime.now(UTC).isoformat(timespec="seconds")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of the source tree, "+changes" where it is not clean; "unknown" outside of git."""
    run = [subprocess.run(["git", "-C", str(ROOMS[0]), *args], capture_output=True, text=True, check=False)
           for args in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", *map(str, ROOMS)))]
    if any(r.returncode for r in run):
        return "unknown"
    return run[0].stdout.strip() + ("+changes" if run[1].stdout.strip() else "")


def code_hash() -> str:
    """A hash of the source and data, but for what only draws: a record made by other code is made again."""
    files = sorted(p for room in ROOMS for p in (*room.glob("*.py"), *room.glob("data/*.json")))
    files = [p for p in files if p.name != "figures.py"]
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()[:16]


def write_record(path: str | Path, record: dict) -> dict:
    """Write a record as JSON, whole or not at all; NaN becomes null. Returns it as it will be read."""
    record = _finite(record)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8"))
    return record


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(path: str | Path) -> dict | None:
    """A record, or None where there is none or it is damaged."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def read_records(folder: str | Path) -> list[dict]:
    """All records below a folder, in the order of their paths."""
    found = (read_record(path) for path in sorted(Path(folder).rglob("*.json")))
    return [record for record in found if record is not None]


