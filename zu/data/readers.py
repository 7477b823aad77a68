"""Facts by name, from files, addresses and the hub: rows are checked, errors name the place."""
from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .cache import cache_dir
from .facts import Fact, FactError, Facts
from .schemas import SCHEMAS, schema

#: Where the paper's three data sets, and two more of their kind, are published.
PUBLISHED = {
    "mcf": "https://memit.baulab.info/data/dsets/multi_counterfact.json",
    "zsre": "https://memit.baulab.info/data/dsets/zsre_mend_eval.json",
    "mquake": "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/main/datasets/"
              "MQuAKE-CF-3k-v2.json",
    "counterfact": "https://rome.baulab.info/data/dsets/counterfact.json",
    "known": "https://rome.baulab.info/data/dsets/known_1000.json",
}
#: The longest row in characters.
ROW = 10**6
#: The largest file in bytes.
FILE = 2**29
#: How many chains a hop is asked through.
CHAINS = 3
#: A row's place, for messages, and what stands there.
Row = tuple[str, "dict | FactError"]
#: A row's place, and what makes its facts or raises `FactError`.
Making = tuple[str, Callable[[], list[Fact]]]


class BrokenFile(FactError):
    """A file that cannot be read, from some place on or at all."""


def load_facts(
    source: str | Path | Iterable[Fact] = "world-cloze",
    *,
    on_error: str | None = None,
    rule: str | None = None,
) -> Facts:
    """Load facts by name, from a file, an address or the hub, or from `Fact` objects.

    Rows are in the schema of multi-counterfact, flat CounterFact, MEND's zsRE, MQuAKE (chains split
    into single hops, each hop once) or ROME's known facts, or have the fields of `Fact`, where the
    prompt may hold the subject itself instead of ``{}``; in CSV, lists are written as JSON.

    Parameters
    ----------
    source : str, Path or iterable of Fact
        An embedded set (``"world-cloze"``, ``"world-qa"``, ``"world-hops"``); a published one
        (``"mcf"``, ``"zsre"``, ``"mquake"``, ``"counterfact"``, ``"known"``), downloaded once; a
        path or https address of JSON, JSON Lines or CSV; ``"hub:DATASET"`` or
        ``"hub:DATASET:CONFIG"``, its split "train" or else its first. With ``":forget"`` behind it,
        the second half of the set, with ``":retain"`` the first: the paper's split.
    on_error : str, optional
        ``"raise"`` stops at the first row that cannot be used, or that repeats or contradicts
        another one; ``"skip"`` leaves it out, warns with the count, and keeps the reasons in
        `Facts.skipped`. By default published names skip and everything else raises.
    rule : str, optional
        Of scoring, "exact" or "tokens"; by default the schema's.

    Returns
    -------
    Facts
        At least one.

    Raises
    ------
    FactError
        With file, row, field and remedy, but none of the text, which is private.
    FileNotFoundError
        For no file.
    OSError
        For a failed download.
    ValueError
        For another `on_error`, and for an embedded set that there is not.
    """
    if on_error not in (None, "raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}: use 'raise' or 'skip'")
    if not isinstance(source, str | Path):
        makings = [(f"fact {i}", [fact].copy) for i, fact in enumerate(source, 1)]
        return _collect(makings, "own", rule or "exact", on_error == "skip")
    whole = str(source)
    half = next((end for end in (":forget", ":retain") if whole.endswith(end)), "")
    name = whole.removesuffix(half)
    if name.startswith("world-"):
        from . import world

        facts = Facts(*world.load(name))
    else:
        facts = _read(name, on_error or ("skip" if name in PUBLISHED else "raise"), rule)
    facts.rule = rule or facts.rule
    return _half(facts, half) if half else facts


def _half(facts: Facts, half: str) -> Facts:
    """The second half of the facts, ":forget", or the first, ":retain"."""
    middle = len(facts) // 2
    chosen = facts[middle:] if half == ":forget" else facts[:middle]
    name = facts.name + half.replace(":", "-")
    return Facts(chosen, name=name, rule=facts.rule, skipped=facts.skipped)


def _read(name: str, on_error: str, rule: str | None) -> Facts:
    """Facts that are read from a file, an address or the hub."""
    address = PUBLISHED.get(name, name)
    fetched = address.startswith("https://")
    if address.startswith("hub:"):
        dataset = address[4:]
        rows = list(_hub(*dataset.split(":", 1)))
        stem = dataset.replace("/", "-").replace(":", "-")
    else:
        path = _download(address) if fetched else Path(name)
        if not path.is_file():
            raise FileNotFoundError(
                f"no facts at '{name}': give world-cloze, world-qa, world-hops, "
                f"{', '.join(PUBLISHED)}, a file, hub:DATASET, or a list of zu.Fact")
        rows = list(_rows(path))
        stem = name if name in PUBLISHED else path.stem
    if not rows:
        raise FactError(f"{name} holds no facts: give at least one")
    broken = next((row for _, row in rows if isinstance(row, BrokenFile)), None)
    if fetched and broken:
        path.unlink()  # so that the next call downloads it again
        raise FactError(f"{address}: {broken}; what came was not kept")
    kind = _schema_of_all(rows)
    own_rule, read = SCHEMAS[kind]
    makings = [(where, _reader(read, where, row)) for where, row in rows]
    # MQuAKE's hops stand in several chains
    return _collect(makings, stem, rule or own_rule, on_error == "skip", merge=kind == "mquake")


def _schema_of_all(rows: list[Row]) -> str:
    """The schema of the first row that shows one; "own" where none does."""
    for _, row in rows:
        kind = schema(row) if isinstance(row, dict) else "own"
        if kind != "own":
            return kind
    return "own"


def _reader(
    read: Callable[[dict], list[Fact]], where: str, row: dict | FactError
) -> Callable[[], list[Fact]]:
    """What makes a row's facts, later, so that whoever asks for them meets the error."""

    def make() -> list[Fact]:
        if isinstance(row, FactError):
            raise row
        if not isinstance(row, dict):
            raise FactError(f"a {type(row).__name__}, not an object with fields: see "
                            "zu.load_facts for what is read")
        number = where.rsplit(" ", 1)[-1]
        return [fact if fact.id else replace(fact, id=number) for fact in read(row)]

    return make


class _Collection:
    """Facts as they come, none of which repeats or contradicts an earlier one.

    With `merge` those that repeat one add their hops to it.
    """

    def __init__(self, merge: bool) -> None:
        self.merge = merge
        self.found: dict[tuple[str, str], Fact] = {}  # by subject and prompt
        self.places: dict[tuple[str, str], str] = {}  # of these
        self.ids: dict[str, str] = {}  # with the places of their facts

    def add(self, where: str, fact: Fact) -> None:
        """Take a fact from a place in, or raise `FactError`."""
        key = fact.subject, fact.prompt
        if key in self.found:
            self._meet(key, fact)
            return
        if fact.id and fact.id in self.ids:
            there = _short(self.ids[fact.id])
            raise FactError(f"field 'id' is that of {there}: give each fact its own")
        self.found[key] = fact
        self.places[key] = self.ids[fact.id] = where

    def _meet(self, key: tuple[str, str], fact: Fact) -> None:
        """What happens where a subject and prompt are there already."""
        old, there = self.found[key], _short(self.places[key])
        if old.target != fact.target:
            raise FactError(f"field 'target' contradicts {there}, which has the same subject and "
                            "prompt: keep one")
        if not self.merge:
            raise FactError(f"the same fact as {there}: keep one")
        hops = tuple(dict.fromkeys(old.hops + fact.hops))[:CHAINS]
        self.found[key] = replace(old, hops=hops)


def _short(where: str) -> str:
    """A place without the file: "row 3"."""
    return where.rsplit(", ", 1)[-1]


def _collect(
    rows: Iterable[Making], name: str, rule: str, skip: bool, merge: bool = False
) -> Facts:
    """The facts that the rows make, without those that are unusable or repeat or contradict one."""
    collection = _Collection(merge)
    skipped, number = [], 0
    for number, (where, make) in enumerate(rows, 1):  # noqa: B007
        try:
            for fact in make():
                collection.add(where, fact)
        except FactError as error:
            if not skip:
                raise type(error)(f"{where}: {error}") from None
            skipped.append(f"{where}: {error}")
    found = collection.found.values()
    if skipped and not found:
        raise FactError(f"none of the {number} rows can be used; the first: {skipped[0]}")
    if not found:
        raise FactError(f"'{name}' holds no facts: give at least one")
    # stacklevel=4: the caller of load_facts, above _read and this
    if skipped:
        warnings.warn(f"'{name}': {len(skipped)} of {number} rows left out; Facts.skipped says why",
                      stacklevel=4)
    facts = Facts(found, name, rule, skipped)
    odd = sum(map(_has_odd_paraphrase, facts))
    if odd:
        warnings.warn(f"'{name}': {odd} of {len(facts)} facts have a paraphrase in which the "
                      "subject does not stand, nor {} for it: it is asked as it is", stacklevel=4)
    return facts


def _has_odd_paraphrase(fact: Fact) -> bool:
    """Whether the subject does not stand in one of the fact's paraphrases."""
    subject = fact.subject.casefold()
    return any(subject not in text.casefold() for text in fact.paraphrase_texts)


def _download(address: str) -> Path:
    """The file behind an address, from the cache or fetched into it, whole or not at all."""
    import pooch

    name = re.sub(r"[^A-Za-z0-9._-]", "-", address.split("://")[1])
    folder = cache_dir() / "data"
    try:
        downloader = pooch.HTTPDownloader(progressbar=True)
        path = pooch.retrieve(address, None, fname=name, path=folder, downloader=downloader)
    except (OSError, ValueError) as error:
        raise OSError(f"{address} is not in {folder} and could not be downloaded "
                      f"({type(error).__name__}): connect to the network once, or give a path to "
                      "the file") from error
    return Path(path)


def _hub(name: str, config: str | None = None) -> Iterator[Row]:
    """The rows of a data set of the hub."""
    try:
        from datasets import load_dataset

        splits = load_dataset(name, config)
    except ImportError as error:
        raise OSError(f'"hub:{name}" needs the datasets package: in the clone, '
                      'pip install -e ".[hub]"') from error
    except (OSError, ValueError) as error:
        raise OSError(f'"hub:{name}" could not be read ({str(error).splitlines()[0]}): is the '
                      "network up, and is the name right? A path needs no network") from error
    rows = splits["train"] if "train" in splits else next(iter(splits.values()))
    return ((f"hub:{name}, row {i}", dict(row)) for i, row in enumerate(rows, 1))


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file, each with its place.

    Where the rest cannot be read, a `BrokenFile` is the last one.
    """

    def broken(why: str) -> Iterator[Row]:
        return iter([(str(path), BrokenFile(why))])

    if path.stat().st_size > FILE:
        return broken(f"the file is larger than {FILE >> 20} MiB: split it")
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return broken("the file is UTF-16: save it as UTF-8")
    # what is not UTF-8 becomes lone surrogates, which Fact refuses: so one bad row leaves the
    # others readable
    text = data.decode("utf-8-sig", errors="surrogateescape")
    start = text.lstrip()[:1]
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(text, str(path))
    if start == "<":
        return broken("this is a web page or XML, not JSON: the download or the address is wrong; "
                      "fetch the file again")
    if not start:
        return broken("the file is empty: fetch or save it again")
    return _list(text, str(path)) if start == "[" else _lines(text, str(path))


def _json(text: str, at: int = 0) -> tuple[Any, int]:
    """One JSON value that begins at `at`, and where it ends; `FactError` for anything else."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise FactError(f"not JSON at column {column} ({error.msg}): write a JSON list, or one "
                        "JSON object a line; if the file was cut off, fetch it again") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise FactError(f"not JSON that can be read ({type(error).__name__})") from None


def _list(text: str, path: str) -> Iterator[Row]:
    """The rows of a JSON list, one at a time, so that those before a fault are read."""
    at = _after_blanks(text, text.index("[") + 1)
    number = 0
    while text[at:at + 1] != "]":
        number += 1
        where = f"{path}, row {number}"
        try:
            row, end = _json(text, at)
        except FactError as error:
            yield where, BrokenFile(str(error))
            return
        yield where, row if end - at <= ROW else _too_long(end - at)
        at = _after_blanks(text, end)
        following = text[at:at + 1]
        if following == ",":
            at = _after_blanks(text, at + 1)
        elif following != "]":
            yield where, BrokenFile("after this row the list breaks off: fetch or save the file "
                                    "again")
            return


def _after_blanks(text: str, at: int) -> int:
    """Where the white space of a text ends that begins at `at`; `at` itself for none."""
    return next(re.compile(r"\s*").finditer(text, at)).end()


def _lines(text: str, path: str) -> Iterator[Row]:
    """The rows of JSON Lines; one that cannot be read leaves the others readable."""
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if len(line) > ROW:
            yield where, _too_long(len(line))
        elif line.strip():
            yield where, _line(line.strip())


def _line(text: str) -> dict | FactError:
    """The value that is all of a line, or why there is none."""
    try:
        row, end = _json(text)
    except FactError as error:
        return error
    return row if end == len(text) else FactError("more than one JSON value: one a line")


def _csv(text: str, path: str) -> Iterator[Row]:
    """The rows of a table with a header, parted by whichever sign the header has most of."""
    table = text.lstrip("\r\n")  # of empty lines above its header
    above = text[:len(text) - len(table)].count("\n")
    head = table.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            row: dict | FactError = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row = FactError(f"not CSV ({error}): is a quotation mark missing?")
        if isinstance(row, dict):
            row = _cells(row)
        yield f"{path}, line {above + rows.reader.line_num}", row


def _cells(row: dict) -> dict | FactError:
    """A row of a table without its empty cells, lists read, or why it cannot be read."""
    if None in row:  # where DictReader puts what has no column
        return FactError("more cells than the header has columns: put texts with commas into "
                         "quotation marks")
    found: dict[str, Any] = {field: text for field, text in row.items() if text}
    try:
        for field in ("paraphrases", "neighbors", "hops"):
            if field in found:
                found[field] = _cell(field, found[field].strip())
    except FactError as error:
        return error
    return found


def _cell(field: str, text: str) -> list:
    """The JSON list that is all of a cell of a CSV; else `FactError` that names the field."""
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
    """What stands in place of a row that is no fact."""
    return FactError(f"{length} characters in one row, more than {ROW}: this is no list of facts, "
                     "or it broke")
