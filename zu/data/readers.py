"""Facts by name, from files, addresses and the hub: what is read is checked, and errors name the place."""
from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from .cache import cache_dir
from .facts import Fact, FactError, Facts
from .schemas import SCHEMAS, schema

#: Where the paper's three data sets, and two more of their kind, are published.
PUBLISHED = {
    "mcf": "https://memit.baulab.info/data/dsets/multi_counterfact.json",
    "zsre": "https://memit.baulab.info/data/dsets/zsre_mend_eval.json",
    "mquake": "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/main/datasets/MQuAKE-CF-3k-v2.json",
    "counterfact": "https://rome.baulab.info/data/dsets/counterfact.json",
    "known": "https://rome.baulab.info/data/dsets/known_1000.json",
}
#: The longest row in characters, the largest file in bytes, and how many chains a hop is asked through.
ROW, FILE, CHAINS = 10**6, 2**29, 3
#: A row's place, for messages, and what stands there.
Row = tuple[str, "dict | FactError"]


class BrokenFile(FactError):
    """A file that cannot be read, from some place on or at all."""


def load_facts(source: str | Path | Iterable[Fact] = "world-cloze", *, on_error: str | None = None,
               rule: str | None = None) -> Facts:
    """Load facts by name, from a file, an address or the hub, or from `Fact` objects.

    source: an embedded set (``"world-cloze"``, ``"world-qa"``, ``"world-hops"``); a published one (``"mcf"``,
    ``"zsre"``, ``"mquake"``, ``"counterfact"``, ``"known"``), downloaded once; a path or https address of JSON, JSON
    Lines or CSV; ``"hub:DATASET"`` or ``"hub:DATASET:CONFIG"``, its split "train" or else its first. With
    ``":forget"`` behind it, the second half of the set, with ``":retain"`` the first: the paper's split.
    Rows are in the schema of multi-counterfact, flat CounterFact, MEND's zsRE, MQuAKE (chains split into single hops,
    each hop once) or ROME's known facts, or have the fields of `Fact`, where the prompt may hold the subject itself
    instead of ``{}``; in CSV, lists are written as JSON.
    on_error: ``"raise"`` stops at the first row that cannot be used, or that repeats or contradicts another one;
    ``"skip"`` leaves it out, warns with the count, and keeps the reasons in `Facts.skipped`. By default published
    names skip and everything else raises. rule: of scoring, "exact" or "tokens"; by default the schema's.

    Raises `FactError` with file, row, field and remedy, but none of the text, which is private; `FileNotFoundError`
    for no file; `OSError` for a failed download.
    """
    if on_error not in (None, "raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}: use 'raise' or 'skip'")
    if not isinstance(source, str | Path):
        return _collect([(f"fact {i}", (lambda f=f: [f])) for i, f in enumerate(source, 1)], "own", rule or "exact",
                        on_error == "skip")
    name, half = re.fullmatch(r"(.*?)(:forget|:retain)?", str(source), re.S).groups()
    if name.startswith("world-"):
        from . import world

        facts = Facts(*world.load(name))
    else:
        facts = _read(name, on_error or ("skip" if name in PUBLISHED else "raise"), rule)
    facts.rule = rule or facts.rule
    if half:
        middle = len(facts) // 2
        chosen = facts[middle:] if half == ":forget" else facts[:middle]
        facts = Facts(chosen, name=facts.name + half.replace(":", "-"), rule=facts.rule, skipped=facts.skipped)
    return facts


def _read(name: str, on_error: str, rule: str | None) -> Facts:
    address = PUBLISHED.get(name, name)
    fetched = address.startswith("https://")
    if address.startswith("hub:"):
        rows, stem = _hub(*address[4:].split(":", 1)), address[4:].replace("/", "-").replace(":", "-")
    else:
        path = _download(address) if fetched else Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"no facts at '{name}': give world-cloze, world-qa, world-hops, "
                                    f"{', '.join(PUBLISHED)}, a file, hub:DATASET, or a list of zu.Fact")
        rows, stem = _rows(path), name if name in PUBLISHED else path.stem
    rows = list(rows)
    if not rows:
        raise FactError(f"{name} holds no facts: give at least one")
    if fetched and (broken := next((row for _, row in rows if isinstance(row, BrokenFile)), None)):
        path.unlink()  # so that the next call downloads it again
        raise FactError(f"{address}: {broken}; what came was not kept")
    kinds = (schema(row) for _, row in rows if isinstance(row, dict))
    kind = next((k for k in kinds if k != "own"), "own")
    own_rule, read = SCHEMAS[kind]
    return _collect([(where, _reader(read, where, row)) for where, row in rows], stem, rule or own_rule,
                    on_error == "skip", merge=kind == "mquake")


def _reader(read: Callable[[dict], list[Fact]], where: str, row: dict | FactError) -> Callable[[], list[Fact]]:
    def make() -> list[Fact]:
        if isinstance(row, FactError):
            raise row
        if not isinstance(row, dict):
            raise FactError(f"a {type(row).__name__}, not an object with fields: see zu.load_facts for what is read")
        number = where.rsplit(" ", 1)[-1]
        return [fact if fact.id else replace(fact, id=number) for fact in read(row)]

    return make


def _collect(rows: Iterable[tuple[str, Callable[[], list[Fact]]]], name: str, rule: str, skip: bool,
             merge: bool = False) -> Facts:
    """The facts that the rows make, without those that are unusable or repeat or contradict another one."""
    found: dict[tuple[str, str], tuple[str, Fact]] = {}
    ids: dict[str, str] = {}
    skipped, number = [], 0
    for number, (where, make) in enumerate(rows, 1):  # noqa: B007
        try:
            for fact in make():
                key = fact.subject, fact.prompt
                there, old = found.get(key, ("", None))
                there = there.rsplit(", ", 1)[-1]
                if old and old.target != fact.target:
                    raise FactError(f"field 'target' contradicts {there}, which has the same subject and prompt: "
                                    "keep one")
                if old and not merge:
                    raise FactError(f"the same fact as {there}: keep one")
                if old:
                    hops = tuple(dict.fromkeys(old.hops + fact.hops))[:CHAINS]
                    found[key] = found[key][0], replace(old, hops=hops)
                    continue
                if fact.id and fact.id in ids:
                    raise FactError(f"field 'id' is that of {ids[fact.id].rsplit(', ', 1)[-1]}: give each fact its own")
                found[key], ids[fact.id] = (where, fact), where
        except FactError as error:
            if not skip:
                raise type(error)(f"{where}: {error}") from None
            skipped.append(f"{where}: {error}")
    if skipped and not found:
        raise FactError(f"none of the {number} rows can be used; the first: {skipped[0]}")
    if not found:
        raise FactError(f"'{name}' holds no facts: give at least one")
    if skipped:
        warnings.warn(f"'{name}': {len(skipped)} of {number} rows left out; Facts.skipped says why", stacklevel=4)
    facts = Facts((fact for _, fact in found.values()), name, rule, skipped)
    odd = sum(any(f.subject.casefold() not in text.casefold() for text in f.paraphrase_texts) for f in facts)
    if odd:
        warnings.warn(f"'{name}': {odd} of {len(facts)} facts have a paraphrase in which the subject does not stand, "
                      "nor {} for it: it is asked as it is", stacklevel=4)
    return facts


def _download(address: str) -> Path:
    """The file behind an address, from the cache or fetched into it, whole or not at all."""
    import pooch

    name = re.sub(r"[^A-Za-z0-9._-]", "-", address.split("://")[1])
    try:
        return Path(pooch.retrieve(address, None, fname=name, path=cache_dir() / "data",
                                   downloader=pooch.HTTPDownloader(progressbar=True)))
    except (OSError, ValueError) as error:
        raise OSError(f"{address} is not in {cache_dir() / 'data'} and could not be downloaded "
                      f"({type(error).__name__}): connect to the network once, or give a path to the file") from error


def _hub(name: str, config: str | None = None) -> Iterator[Row]:
    try:
        from datasets import load_dataset

        splits = load_dataset(name, config)
    except ImportError as error:
        raise OSError(f'"hub:{name}" needs the datasets package: in the clone, pip install -e ".[hub]"') from error
    except (OSError, ValueError) as error:
        raise OSError(f'"hub:{name}" could not be read ({str(error).splitlines()[0]}): is the network up, and is the '
                      "name right? A path needs no network") from error
    rows = splits["train"] if "train" in splits else next(iter(splits.values()))
    return ((f"hub:{name}, row {i}", dict(row)) for i, row in enumerate(rows, 1))


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file, each with its place; a `BrokenFile` as the last one where the rest cannot be read."""
    if path.stat().st_size > FILE:
        return iter([(str(path), BrokenFile(f"the file is larger than {FILE >> 20} MiB: split it"))])
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return iter([(str(path), BrokenFile("the file is UTF-16: save it as UTF-8"))])
    # what is not UTF-8 becomes lone surrogates, which Fact refuses: so one bad row leaves the others readable
    text = data.decode("utf-8-sig", errors="surrogateescape")
    start = text.lstrip()[:1]
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(text, str(path))
    if start == "<":
        return iter([(str(path), BrokenFile("this is a web page or XML, not JSON: the download or the address is "
                                            "wrong; fetch the file again"))])
    if not start:
        return iter([(str(path), BrokenFile("the file is empty: fetch or save it again"))])
    return _list(text, str(path)) if start == "[" else _lines(text, str(path))


def _json(text: str, at: int = 0):
    """One JSON value that begins at `at`, and where it ends; `FactError` for anything else."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise FactError(f"not JSON at column {column} ({error.msg}): write a JSON list, or one JSON object a line; "
                        "if the file was cut off, fetch it again") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise FactError(f"not JSON that can be read ({type(error).__name__})") from None


def _list(text: str, path: str) -> Iterator[Row]:
    blank = re.compile(r"\s*")
    at, number = blank.match(text, text.index("[") + 1).end(), 0
    while text[at:at + 1] != "]":
        number += 1
        where = f"{path}, row {number}"
        try:
            row, end = _json(text, at)
        except FactError as error:
            yield where, BrokenFile(str(error))
            return
        yield where, row if end - at <= ROW else _too_long(end - at)
        at = blank.match(text, end).end()
        if text[at:at + 1] == ",":
            at = blank.match(text, at + 1).end()
        elif text[at:at + 1] != "]":
            yield where, BrokenFile("after this row the list breaks off: fetch or save the file again")
            return


def _lines(text: str, path: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if len(line) > ROW:
            yield where, _too_long(len(line))
        elif line.strip():
            try:
                row, end = _json(line.strip())
                yield where, row if end == len(line.strip()) else FactError("more than one JSON value: one a line")
            except FactError as error:
                yield where, error


def _csv(text: str, path: str) -> Iterator[Row]:
    head = text.lstrip().split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path}, line {rows.reader.line_num}", FactError(f"not CSV ({error}): is a quotation mark missing?")
            continue
        where = f"{path}, line {rows.reader.line_num}"
        if None in row:
            yield where, FactError("more cells than the header has columns: put texts with commas into quotation marks")
            continue
        try:
            lists = {k: _cell(k, row[k].strip()) for k in ("paraphrases", "neighbors", "hops") if row.get(k)}
            yield where, {k: lists.get(k, v) for k, v in row.items() if v}
        except FactError as error:
            yield where, error


def _cell(field: str, text: str) -> list:
    """The list that is all of a cell of a CSV, as JSON; `FactError` that names the field for anything else."""
    try:
        value, end = _json(text)
    except FactError:
        value, end = None, 0
    if not isinstance(value, list) or end != len(text):
        like = '["{} lies in", "..."]' if field == "paraphrases" else '[["Peru lies in", "..."]]'
        raise FactError(f"field '{field}' is no JSON list: write {like} into the cell, with "
                        "quotation marks around the whole and those within it doubled")
    return value


def _too_long(length: int) -> FactError:
    return FactError(f"{length} characters in one row, more than {ROW}: this is no list of facts, or it broke")
