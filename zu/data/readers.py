"""Load facts by name, from files, addresses and the hub; every row is checked.

Rows have the fields of `Fact`, or those of one of these benchmarks:

- multi-counterfact, flat CounterFact, MEND's zsRE, MQuAKE (chains are split into single hops, each
  read once) and ROME's known facts (`zu.data.schemas`);
- requests for edits: EasyEdit's, MEMIT's, KnowEdit (ZsRE, counterfact, WikiRecent, WikiBio),
  CKnowEdit and WikiBigEdit, with their rephrasings and locality (`zu.data.editing`). The fact is
  the true answer, not the new one. Portability, which follows from the new answer, is not read;
- questions: RWKU's levels 1 to 3 and its neighbours, TOFU and its perturbed form, UnKE, MUSE's
  knowmem and verbmem, and the right choices of WMDP and MMLU (`zu.data.questions`).

The docstring of each reader says what becomes of each field. Any row may also have `join`, see
`Fact`.
"""
from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .cache import cache_dir, user_path
from .collecting import Told, collect
from .facts import RULES, Fact, FactError, Facts, bare
from .fields import Missing, Placed, Row, is_none, unpacked
from .formats import Once, no_text, rows_elsewhere, rows_within
from .memory import plain, rows_in
from .schemas import SCHEMAS, schema_of_all, together
from .shapes import KNOWN, SHAPES, is_table, rows_of

#: Addresses of the paper's three data sets, and of two more of their kind.
PUBLISHED = {
    "mcf": "https://memit.baulab.info/data/dsets/multi_counterfact.json",
    "zsre": "https://memit.baulab.info/data/dsets/zsre_mend_eval.json",
    "mquake": "https://raw.githubusercontent.com/princeton-nlp/MQuAKE/main/datasets/"
              "MQuAKE-CF-3k-v2.json",
    "counterfact": "https://rome.baulab.info/data/dsets/counterfact.json",
    "known": "https://rome.baulab.info/data/dsets/known_1000.json",
}
#: The facts of a fictitious world (`zu.data.worlds`).
FICTITIOUS = ("planted", "planted-qa", "planted-hops", "unplanted")
#: The longest row in characters.
ROW = 10**6
#: The largest file in bytes.
FILE = 2**29
#: The message about a row that is nested too deeply.
DEEP = "lists within lists, too many of them: this is no row of facts"
#: The warning about a data set of which the hub's viewer gave only a part.
ELSEWHERE = "{} of the data set are not here: the hub's viewer gives a part of them at a time"


class BrokenFile(FactError):
    """A file that cannot be read, or not beyond some place."""


def load_facts(
    source: Any = "world-cloze",
    *,
    on_error: str | None = None,
    rule: str | None = None,
) -> Facts:
    """Load facts by name, from a file, an address or the hub, or from Python objects.

    A row has the fields of `Fact` or those of a published benchmark, which is recognised by its
    fields; ``help(zu.data.readers)`` lists the benchmarks. In place of ``{}`` a prompt may hold the
    subject itself, which is found as a whole word, not as part of one. A row without an id gets its
    number. Empty values, null and NaN count as missing. A table of columns, one object with a list
    per field, is read as rows. In CSV, lists are written as JSON.

    Parameters
    ----------
    source : str, Path, Fact, dict, DataFrame or iterable of Fact or dict
        An embedded set (``"world-cloze"``, ``"world-qa"``, ``"world-hops"``, and ``"world-apart"``
        of other relations, on which no setting was chosen); facts that no model knows, to be
        planted (``"planted"``, ``"planted-qa"``, ``"planted-hops"``) or never to be
        (``"unplanted"``), see `zu.data.worlds`; a published one (``"mcf"``,
        ``"zsre"``, ``"mquake"``, ``"counterfact"``, ``"known"``), downloaded once; a path or https
        address of JSON, JSON Lines or CSV; or ``"hub:DATASET"`` or
        ``"hub:DATASET:CONFIG"``, of which the split "train" is read, or else the first. Add
        ``":forget"`` for the second half of the set or ``":retain"`` for the first, which is the
        paper's split. Or give facts, rows, a table of columns, a DataFrame, or one split of a data
        set.
    on_error : str, optional
        ``"raise"`` stops at the first row that cannot be used, or that repeats or contradicts
        another one; ``"skip"`` leaves it out, warns with the count, and keeps the reasons in
        `Facts.skipped`. By default published sets skip and everything else raises.
    rule : str, optional
        The scoring rule, "exact" or "tokens"; by default the schema's.

    Returns
    -------
    Facts
        At least one fact.

    Warns
    -----
    UserWarning
        How many rows were left out or read in an unexpected way, and which fields that could hold
        wordings or neighbours were not read.

    Raises
    ------
    FactError
        If a row cannot be used. The message names file, row, field and remedy, but shows none of
        the text, which is private.
    FileNotFoundError, OSError
        If there is no such file, or a download fails.
    ValueError
        If `on_error` or `rule` is another word, or there is no such embedded set.
    """
    if on_error not in (None, "raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}: use 'raise' or 'skip'")
    if rule not in (None, *RULES):
        raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")
    if not isinstance(source, str | Path):
        known = source if isinstance(source, Facts) else None
        read = Rows(list(rows_in(source)), known.name if known else "own")
        facts, told = _facts(read, on_error == "skip", rule or (known.rule if known else None))
        return _warned(facts, told)
    facts, told, half = _named(str(source), on_error, rule)
    _warned(facts, told)
    return _half(facts, half) if half else facts


def _named(
    whole: str, on_error: str | None, rule: str | None
) -> tuple[Facts, list[str], str]:
    """Facts by the name of a set, a path or an address; warnings to give; which half is wanted."""
    half = next((end for end in (":forget", ":retain") if whole.endswith(end)), "")
    name = whole.removesuffix(half)
    told: list[str] = []
    if name == "world-apart":
        from . import apart

        facts = Facts(apart.cloze(), name, "exact")
    elif name.startswith("world-"):
        from . import world

        facts = Facts(*world.load(name))
    elif name in FICTITIOUS:
        from . import worlds

        facts = Facts(*worlds.load(name))
    else:
        skip = (on_error or ("skip" if name in PUBLISHED else "raise")) == "skip"
        facts, told = _facts(_read(name), skip, rule)
    return Facts(facts, facts.name, rule or facts.rule, facts.skipped), told, half


def _warned(facts: Facts, told: list[str]) -> Facts:
    """The facts, after giving the caller of `load_facts` these warnings."""
    for text in told:
        warnings.warn(f"'{facts.name}': {text}", stacklevel=3)
    return facts


def _half(facts: Facts, half: str) -> Facts:
    """The second half of the facts (":forget") or the first (":retain")."""
    middle = len(facts) // 2
    chosen = facts[middle:] if half == ":forget" else facts[:middle]
    if not chosen:
        raise FactError(f"'{facts.name}' holds {len(facts)} fact, and its half '{half}' none: give "
                        "at least two")
    name = facts.name + half.replace(":", "-")
    return Facts(chosen, name=name, rule=facts.rule, skipped=facts.skipped)


@dataclass(frozen=True)
class Rows:
    """The rows of a source, and the name of its facts."""

    rows: list[Placed]
    name: str


def _read(name: str) -> Rows:
    """The rows of a file, an address or the hub."""
    address = PUBLISHED.get(name, name)
    fetched = address.startswith("https://")
    if address.startswith("hub:"):
        dataset = address[4:]
        rows = list(_hub(*dataset.split(":", 1)))
        stem = dataset.replace("/", "-").replace(":", "-")
    else:
        path = _download(address) if fetched else user_path(name)
        if not _is_file(path):
            raise FileNotFoundError(
                f"no facts at {_called(name)}: give world-cloze, world-qa, world-hops, "
                f"world-apart, {', '.join([*FICTITIOUS, *PUBLISHED])}, a file, "
                "hub:DATASET, or a list of zu.Fact")
        rows = list(_rows(path))
        stem = name if name in PUBLISHED else path.stem
    if not rows:
        raise FactError(f"{name} holds no facts: give at least one")
    broken = next((row for _, row in rows if isinstance(row, BrokenFile)), None)
    if fetched and broken:
        path.unlink()  # so that the next call downloads it again
        raise FactError(f"{address}: {broken}; the download was not kept")
    return Rows(rows, stem)


def _called(name: str) -> str:
    """How a message names a source that leads nowhere; without its text if it may be a fact."""
    if name.lstrip()[:1] in ("[", "{"):
        return f"a text of {len(name)} characters (JSON goes through json.loads first)"
    is_path = len(name.split()) < 2 or "/" in name or "\\" in name or bool(Path(name).suffix)
    if len(name) < 200 and is_path and "\n" not in name:
        return f"'{name}'"
    return f"a text of {len(name)} characters"


def _is_file(path: Path) -> bool:
    """Whether there is such a file; False for a text that cannot be a path."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _facts(source: Rows, skip: bool, rule: str | None) -> tuple[Facts, list[str]]:
    """The facts in rows, by the schema of the first row that shows one, and warnings to give."""
    rows = list(_spread(source.rows))
    kind = schema_of_all(rows)
    own_rule = SCHEMAS[kind][0]
    rows, notes = together(kind, rows)
    elsewhere = sum(rows_elsewhere(row) for _, row in source.rows)
    if elsewhere:
        notes[ELSEWHERE] = elsewhere
    told = Told(notes)
    makings = [(where, _reader(kind, told, where, row)) for where, row in rows]
    # one hop of MQuAKE is part of several chains
    facts, said = collect(makings, source.name, rule or own_rule, skip, merge=kind == "mquake")
    return facts, said + told.messages()


def _spread(rows: list[Placed]) -> Iterator[Placed]:
    """The rows, with every table of columns and every wrapper replaced by its own rows."""
    for where, row in rows:
        try:
            found = rows_within(row, alone=len(rows) == 1)
            if found is None and isinstance(row, dict) and is_table(row):
                found = list(rows_of(row))
        except (FactError, RecursionError) as error:
            yield where, error if isinstance(error, FactError) else FactError(DEEP)
            continue
        if found is None:
            yield where, row
            continue
        front, _, last = where.rpartition(", ")
        for i, inner in enumerate(found, 1):
            # rows of several tables: "line 3-2" is the second of the third line
            place = f"{last}-{i}" if len(rows) > 1 else f"row {i}"
            yield f"{front}, {place}" if front else place, inner


def _reader(kind: str, told: Told, where: str, row: object) -> Callable[[], list[Fact]]:
    """A function that makes a row's facts later, so that errors are raised only when it is called.
    """

    def make() -> list[Fact]:
        if isinstance(row, FactError):
            raise row
        if isinstance(row, Fact):
            return [row]
        if not isinstance(row, dict):
            raise FactError(f"a {type(row).__name__}, not an object with fields: see "
                            "zu.load_facts for what is read")
        number = where.rsplit(" ", 1)[-1]
        fields = Row(row)
        facts = _made(kind, fields)
        told.add(fields)
        return [fact if fact.id else replace(fact, id=number) for fact in facts]

    return make


def _made(kind: str, row: Row) -> list[Fact]:
    """The facts in a row of a schema, with the row's `join`."""
    try:
        facts = SCHEMAS[kind][1](row)
    except Missing as error:
        if kind == "own":
            raise
        raise Missing(f"{error} (it is read as a row of {SHAPES[kind].name})") from None
    except RecursionError:
        raise FactError(DEEP) from None
    join = row.get("join")
    return facts if is_none(join) and join != "" else [replace(f, join=join) for f in facts]


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


def _hub(name: str, config: str | None = None) -> Iterator[Placed]:
    """The rows of a data set on the hub."""
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
    return ((f"hub:{name}, row {i}", plain(dict(row))) for i, row in enumerate(rows, 1))


def _rows(path: Path) -> Iterator[Placed]:
    """The rows of a file, each with its place.

    If the rest of the file cannot be read, the last row is a `BrokenFile`.
    """

    def broken(why: str) -> Iterator[Placed]:
        return iter([(str(path), BrokenFile(why))])

    if path.stat().st_size > FILE:
        return broken(f"the file is larger than {FILE >> 20} MiB: split it")
    data = path.read_bytes()
    if why := no_text(data):
        return broken(why)
    # bytes that are not UTF-8 become lone surrogates, which Fact refuses: one bad row leaves the
    # others readable
    text = data.decode("utf-8-sig", errors="surrogateescape")
    start = text.lstrip()[:1]
    if start not in ("[", "{") and (path.suffix.lower() in (".csv", ".tsv") or _is_table(text)):
        return _csv(text, str(path))
    if start == "<":
        return broken("this is a web page or XML, not JSON: the download or the address is wrong; "
                      "fetch the file again")
    if not start:
        return broken("the file is empty: fetch or save it again")
    if start == "[":
        return _list(text, str(path))
    return _object(text, str(path)) or _lines(text, str(path))


def _json(text: str, at: int = 0) -> tuple[Any, int]:
    """One JSON value that begins at `at`, and where it ends; `FactError` for anything else."""
    try:
        return Once().value_at(text, at)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise FactError(f"not JSON at column {column} ({error.msg}): write a JSON list, or one "
                        "JSON object a line; if the file was cut off, fetch it again") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise FactError(f"not JSON that can be read ({type(error).__name__})") from None


def _list(text: str, path: str) -> Iterator[Placed]:
    """The rows of a JSON list, one at a time, so that the rows before a fault are read."""
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
    if text[at + 1:].strip():
        yield path, BrokenFile("there is more text after the list: put all rows into one list")


def _object(text: str, path: str) -> Iterator[Placed] | None:
    """The single row of a file that is one JSON object over several lines or a table of columns.

    None for any other file.
    """
    try:
        value, end = _json(text, _after_blanks(text, 0))
    except FactError:
        return None
    if text[end:].strip() or not isinstance(value, dict | FactError):
        return None
    if isinstance(value, dict) and rows_within(value) is not None:
        return iter([(f"{path}, row 1", value)])
    is_columns = isinstance(value, dict) and is_table(value)
    if end > ROW and not is_columns:
        value = _too_long(end)
    several = "\n" in text[:end].strip() or is_columns
    return iter([(f"{path}, row 1", value)]) if several else None


def _after_blanks(text: str, at: int) -> int:
    """The place of the first character at or after `at` that is not white space."""
    return next(re.compile(r"\s*").finditer(text, at)).end()


def _lines(text: str, path: str) -> Iterator[Placed]:
    """The rows of JSON Lines; a line that cannot be read leaves the others readable."""
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if len(line) > ROW:
            yield where, _too_long(len(line))
        elif text_in := bare(line):  # concatenated files have byte-order marks in between
            yield where, _line(text_in)


def _line(text: str) -> dict | FactError:
    """The JSON value on a line, or a `FactError` that says why there is none."""
    try:
        row, end = _json(text)
    except FactError as error:
        return error
    if text[end:].strip() == ",":
        return FactError("there is a comma after the object: take it away, or put all into a list")
    return row if end == len(text) else FactError("more than one JSON value: one a line")


def _is_table(text: str) -> bool:
    """Whether a text is a table: its first line names several fields."""
    names = re.split("[,;\t|]", text.lstrip().split("\n", 1)[0])
    return len(KNOWN & {name.strip(' \r"') for name in names}) > 1


def _csv(text: str, path: str) -> Iterator[Placed]:
    """The rows of a table with a header.

    Cells are separated by the sign that the header has most of, or by the one that a first line
    ``sep=;`` names, as spreadsheets write it.
    """
    table = text.lstrip("\r\n")  # there may be empty lines above the header
    said = re.match(r"sep=(.)\r?\n", table)
    table = table[said.end():] if said else table
    above = text[:len(text) - len(table)].count("\n")
    head = table.split("\n", 1)[0]
    delimiter = said[1] if said else max(",;\t|", key=head.count)
    rows = csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter, strict=True,
                          skipinitialspace=True)
    names = _header(rows)
    named = [name for name in names if name]
    if len({*named}) < len(named):
        yield f"{path}, line {above + 1}", BrokenFile(
            "two columns have one name: give each its own, and one column to each field")
        return
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


def _header(rows: csv.DictReader) -> list[str]:
    """The names of a table's columns without spaces around them; empty if they cannot be read.

    The reader uses these names from then on.
    """
    try:
        names = [name.strip() for name in rows.fieldnames or ()]
    except csv.Error:
        return []
    rows.fieldnames = names
    return names


def _cells(row: dict) -> dict | FactError:
    """A table's row without its empty cells, with lists read; or why it cannot be read."""
    if None in row:  # DictReader puts cells without a column there
        return FactError("more cells than the header has columns: put texts with commas into "
                         "quotation marks")
    found: dict[str, Any] = {field: text for field, text in row.items() if text}
    try:
        for field in ("paraphrases", "neighbors", "hops"):
            if field in found:
                found[field] = _cell(field, found[field].strip())
    except FactError as error:
        return error
    return unpacked(found)


def _cell(field: str, text: str) -> list:
    """The JSON list in a CSV cell; `FactError` naming the field if the cell holds anything else."""
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
    """The error in place of a row that is too long to be a fact."""
    return FactError(f"{length} characters in one row, more than {ROW}: this is no list of facts, "
                     "or it broke")
