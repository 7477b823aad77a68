"""Facts to forget: one record type, one collection, and readers that check what they read."""
from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path


class FactError(ValueError):
    """A fact that cannot be used; the message names the file, the row, the field and the remedy."""


@dataclass(frozen=True)
class Fact:
    """One piece of knowledge (subject, relation, object), and the prompts that ask for it.

    subject: the text whose last token holds the key, e.g. ``"France"``.
    prompt: the question as a cloze with exactly one ``{}`` where the subject goes, ``"The capital of {} is"``.
    target: the true answer, without a leading space, ``"Paris"``.
    paraphrases: other wordings of the prompt, with ``{}`` for the subject or already filled in.
    neighbors: ``(prompt, answer)`` pairs about other subjects, which an edit must leave alone.
    hops: ``(prompt, answer)`` pairs of questions whose answer follows from this fact and another one.
    relation, id: labels for grouping and for messages; neither is shown to a model.

    Raises `FactError` for an empty field, or a prompt without exactly one ``{}``.
    """

    subject: str
    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[tuple[str, str], ...] = ()
    relation: str = ""
    id: str = ""
    hops: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for field in ("subject", "prompt", "target"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise FactError(f"field '{field}' is {value!r}: give a text that is not empty")
            if field != "prompt" and value != value.strip():
                raise FactError(f"field '{field}' is {value!r}: take away the space around it")
        if self.prompt.count("{}") != 1:
            raise FactError(f"field 'prompt' is {self.prompt!r}: write {{}} once, where the subject goes")
        if self.prompt != self.prompt.rstrip():
            raise FactError(f"field 'prompt' is {self.prompt!r}: end it with the last word, not with a space")
        object.__setattr__(self, "paraphrases", tuple(self.paraphrases))
        for field in ("neighbors", "hops"):
            object.__setattr__(self, field, tuple((str(p), str(a)) for p, a in getattr(self, field)))

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject)

    @property
    def paraphrase_texts(self) -> tuple[str, ...]:
        """The paraphrases with the subject in its place."""
        return tuple(p.replace("{}", self.subject) for p in self.paraphrases)


class Facts(Sequence[Fact]):
    """An immutable list of facts with a name and the data set's own scoring rule.

    rule: ``"exact"``, a prompt counts when every target token is the most likely one (CounterFact), or
    ``"tokens"``, it counts by the share of target tokens that are (zsRE, MQuAKE).
    """

    def __init__(self, facts: Iterable[Fact], name: str = "own", rule: str = "exact") -> None:
        self._facts, self.name, self.rule = tuple(facts), name, rule
        if rule not in ("exact", "tokens"):
            raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")

    def __len__(self) -> int:
        return len(self._facts)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Facts(self._facts[index], self.name, self.rule)
        return self._facts[index]

    def __repr__(self) -> str:
        return f"Facts({len(self)} of '{self.name}', rule '{self.rule}')"

    def sample(self, n: int, seed: int) -> Facts:
        """`n` different facts drawn at random; the same (n, seed) gives the same facts everywhere."""
        if not 1 <= n <= len(self):
            raise ValueError(f"n is {n}: '{self.name}' holds {len(self)} facts")
        return Facts(random.Random(seed).sample(self._facts, n), self.name, self.rule)

    @property
    def hash(self) -> str:
        """SHA-256 over all fields: tells forget sets apart without holding their text."""
        rows = json.dumps([asdict(f) for f in self], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(rows.encode()).hexdigest()


def load_facts(source: str | Path | Iterable[Fact] = "world-cloze") -> Facts:
    """Load facts by name (``"world-cloze"``, ``"world-qa"``, ``"world-hops"``), from a file, or from `Fact` objects.

    A file is JSON Lines or a JSON list of objects with the fields of `Fact`; a prompt may hold the subject
    itself instead of ``{}``. Raises `FactError` naming file, row and field; `FileNotFoundError` for no file.
    """
    if not isinstance(source, str | Path):
        return Facts(source)
    if str(source).startswith("world-"):
        from . import world

        return Facts(*world.load(str(source)))
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no facts at '{source}': give 'world-cloze', a file, or a list of zu.Fact")
    return Facts([_fact(row, where) for where, row in _rows(path)], path.stem)


def _rows(path: Path) -> Iterable[tuple[str, dict]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    try:
        if text.lstrip().startswith("["):
            yield from ((f"{path}, row {i}", row) for i, row in enumerate(json.loads(text), 1))
        else:
            for i, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    where = f"{path}, line {i}"
                    yield where, json.loads(line)
    except json.JSONDecodeError as error:
        place = where if "where" in locals() else str(path)
        raise FactError(f"{place}: not JSON at column {error.colno} ({error.msg}): "
                        "write a JSON list, or one JSON object a line") from None


def _fact(row: dict, where: str) -> Fact:
    known = set(Fact.__dataclass_fields__)
    if not isinstance(row, dict):
        raise FactError(f"{where}: a {type(row).__name__}, not an object with 'subject', 'prompt', 'target'")
    for field in ("subject", "prompt", "target"):
        if field not in row:
            raise FactError(f"{where}: field '{field}' is missing")
    if unknown := sorted(set(row) - known):
        raise FactError(f"{where}: field '{unknown[0]}' is not one of {', '.join(sorted(known))}")
    try:
        if isinstance(row["prompt"], str) and "{}" not in row["prompt"] and isinstance(row["subject"], str):
            found = row["prompt"].count(row["subject"])
            if found != 1:
                raise FactError(f"field 'prompt' holds the subject {found} times: write {{}} in its place, once")
            row = row | {"prompt": row["prompt"].replace(row["subject"], "{}")}
        return replace(Fact(**row), id=str(row.get("id") or where.rsplit(" ", 1)[-1]))
    except (FactError, TypeError, ValueError) as error:
        raise FactError(f"{where}: {error}") from None
