"""Facts to forget: one record type, and one collection."""
from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


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

    Raises `FactError` for an empty field, a prompt without exactly one ``{}``, or text that is no Unicode. Its
    message shows none of the text, which is private.
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
            value = _text(getattr(self, field), field)
            if value != value.strip() if field != "prompt" else value[-1].isspace():
                raise FactError(f"field '{field}' begins or ends with a space: take it away")
        if (found := self.prompt.count("{}")) != 1:
            raise FactError(f"field 'prompt' holds {{}} {found} times: write it once, where the subject goes")
        for field in ("relation", "id"):
            if getattr(self, field) != "":
                _text(getattr(self, field), field)
        for field, pairs in (("paraphrases", False), ("neighbors", True), ("hops", True)):
            rows = getattr(self, field)
            if isinstance(rows, str) or pairs and any(isinstance(r, str) or len(r) != 2 for r in rows):
                raise FactError(f"field '{field}' is no list of {'(prompt, answer) pairs' if pairs else 'texts'}")
            rows = tuple(tuple(_text(x, field) for x in r) if pairs else _text(r, field) for r in rows)
            if pairs and any("{}" in prompt for prompt, _ in rows):
                raise FactError(f"field '{field}' holds a prompt with {{}}: write its own subject out")
            object.__setattr__(self, field, rows)

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject)

    @property
    def paraphrase_texts(self) -> tuple[str, ...]:
        """The paraphrases with the subject in its place."""
        return tuple(p.replace("{}", self.subject) for p in self.paraphrases)


def _text(value, field: str) -> str:
    """A text that a tokenizer can read."""
    if not isinstance(value, str):
        raise FactError(f"field '{field}' is or holds a {type(value).__name__}: give a text")
    if not value.strip():
        raise FactError(f"field '{field}' is empty, or holds an empty text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FactError(f"field '{field}' holds bytes that are not UTF-8: save the file as UTF-8") from None
    return value


class Facts(Sequence[Fact]):
    """An immutable list of facts with a name and the data set's own scoring rule.

    rule: ``"exact"``, a prompt counts when every target token is the most likely one (CounterFact), or
    ``"tokens"``, it counts by the share of target tokens that are (zsRE, MQuAKE).
    skipped: of what was left out in reading, one message each, with file, row and field.
    """

    def __init__(self, facts: Iterable[Fact], name: str = "own", rule: str = "exact",
                 skipped: Iterable[str] = ()) -> None:
        self._facts, self.name, self.rule, self.skipped = tuple(facts), name, rule, tuple(skipped)
        if rule not in ("exact", "tokens"):
            raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")

    def __len__(self) -> int:
        return len(self._facts)

    def __getitem__(self, index):
        return self.of(self._facts[index]) if isinstance(index, slice) else self._facts[index]

    def __repr__(self) -> str:
        left = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Facts({len(self)} of '{self.name}', rule '{self.rule}'{left})"

    def of(self, facts: Iterable[Fact]) -> Facts:
        """Other facts, or some of these, under the same name and rule."""
        return Facts(facts, self.name, self.rule)

    def sample(self, n: int, seed: int) -> Facts:
        """`n` different facts drawn at random; the same (n, seed) gives the same facts everywhere."""
        if not 1 <= n <= len(self):
            known = ": that many are known of those that were asked" if self.name.endswith("-known") else ""
            raise ValueError(f"n is {n}: '{self.name}' holds {len(self)} facts{known}")
        return self.of(random.Random(seed).sample(self._facts, n))

    @property
    def hash(self) -> str:
        """SHA-256 over all fields: tells forget sets apart without holding their text."""
        rows = json.dumps([asdict(f) for f in self], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(rows.encode()).hexdigest()
