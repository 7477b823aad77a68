"""Facts to forget: one record type, and one collection."""
from __future__ import annotations

import hashlib
import json
import operator
import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

#: Characters of zero width that affect only how the letters beside them are joined.
_JOINERS = "\u200c\u200d"
#: Characters that are invisible at the end of a text: zero-width ones, soft hyphens, marks of
#: direction and of byte order.
_UNSEEN = frozenset("\u00ad\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066"
                    "\u2067\u2068\u2069\ufeff" + _JOINERS)
#: The scoring rules, see `Facts`.
RULES = ("exact", "tokens")


class FactError(ValueError):
    """A fact cannot be used; the message names the file, the row, the field and the remedy."""


@dataclass(frozen=True)
class Fact:
    """One piece of knowledge (subject, relation, object), and the prompts that ask for it.

    Parameters
    ----------
    subject : str
        The text whose last token holds the key, such as ``"France"``. It is ``""`` for a fact
        without a subject, whose key is at the prompt's last token.
    prompt : str
        The question as a cloze, such as ``"The capital of {} is"``: with exactly one ``{}`` in the
        subject's place, or none if there is no subject. It may end in a newline, as chat templates
        do, but in no other white space.
    target : str
        The true answer without a leading space, such as ``"Paris"``.
    paraphrases : tuple of str
        Other wordings of the prompt, with ``{}`` for the subject or with the subject written out.
        The rules for a prompt's end hold for them and for the prompts of neighbours and hops, and
        the rules for a target hold for those prompts' answers.
    neighbors : tuple of (str, str)
        ``(prompt, answer)`` pairs about other subjects, which an edit must leave alone.
    relation, id : str
        Labels for grouping and for messages; neither is shown to a model.
    hops : tuple of (str, str)
        ``(prompt, answer)`` pairs of questions whose answer follows from this fact and another
        one.
    join : str, optional
        The text between a prompt and its answer, in all the fields above: ``""`` or white space. By
        default their language decides, see `zu.spacing.separator`.

    Raises
    ------
    FactError
        If a field is empty or is not valid Unicode, if the prompt does not hold exactly one ``{}``
        (or holds any although there is no subject), or if there is white space where none is
        allowed. The message shows none of the text, which is private.
    """

    subject: str
    prompt: str
    target: str
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[tuple[str, str], ...] = ()
    relation: str = ""
    id: str = ""
    hops: tuple[tuple[str, str], ...] = ()
    join: str | None = None

    def __post_init__(self) -> None:
        if self.subject != "":
            _no_space_around(_text(self.subject, "subject"), "subject")
        _no_space_behind(_text(self.prompt, "prompt"), "prompt")
        _no_space_around(_text(self.target, "target"), "target")
        for field in ("relation", "id"):
            if getattr(self, field) != "":
                _text(getattr(self, field), field)
        # lists become tuples; a frozen dataclass allows this assignment only
        object.__setattr__(self, "paraphrases", _texts(self.paraphrases, "paraphrases"))
        for field in ("neighbors", "hops"):
            object.__setattr__(self, field, _pairs(getattr(self, field), field))
        self._check_places()
        if self.join is not None and (not isinstance(self.join, str) or self.join.strip()):
            raise FactError("field 'join' is no white space: give \"\", \" \" or \"\\n\", or leave "
                            "it out")

    def _check_places(self) -> None:
        """Refuse a prompt without exactly one ``{}``, and any ``{}`` if there is no subject."""
        found = self.prompt.count("{}")
        if self.subject and found != 1:
            raise FactError(f"field 'prompt' holds {{}} {found} times: write it once, where the "
                            "subject goes")
        if not self.subject and found:
            raise FactError("field 'subject' is empty, but field 'prompt' holds {}: give the "
                            "subject, or a prompt without {}")
        if not self.subject and any("{}" in text for text in self.paraphrases):
            raise FactError("field 'subject' is empty, but field 'paraphrases' holds {}: give the "
                            "subject, or paraphrases without {}")

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject)

    @property
    def paraphrase_texts(self) -> tuple[str, ...]:
        """The paraphrases with the subject in its place."""
        return tuple(p.replace("{}", self.subject) for p in self.paraphrases)


def _text(value: object, field: str) -> str:
    """A value as it is, if it is a text that a tokenizer can read; else `FactError`."""
    if not isinstance(value, str):
        raise FactError(f"field '{field}' is or holds a {type(value).__name__}: give a text")
    if not bare(value):
        raise FactError(f"field '{field}' is empty, or holds an empty text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FactError(f"field '{field}' holds bytes that are not UTF-8: save the file as "
                        "UTF-8") from None
    return value


def bare(text: str) -> str:
    """A text without white space and invisible characters at its ends.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        "" if the text holds nothing else.
    """
    start, stop = 0, len(text)
    while start < stop and _is_unseen(text, start):
        start += 1
    while stop > start and _is_unseen(text, stop - 1):
        stop -= 1
    return text[start:stop]


def _is_unseen(text: str, at: int) -> bool:
    """Whether the character at a place is white space or invisible.

    A joiner behind a mark counts as visible: it decides how a syllable of an Indic script ends.
    """
    char = text[at]
    if char in _JOINERS and at and unicodedata.category(text[at - 1])[0] == "M":
        return False
    return char.isspace() or char in _UNSEEN


def _no_space_around(text: str, field: str) -> str:
    """A text as it is; `FactError` if it begins or ends with white space or an invisible one."""
    if text != text.strip():
        raise FactError(f"field '{field}' begins or ends with a space: take it away")
    if text != bare(text):
        raise FactError(f"field '{field}' begins or ends with an invisible character, such as a "
                        "zero-width space: take it away")
    return text


def _no_space_behind(text: str, field: str) -> str:
    """A prompt as it is; `FactError` if it ends with white space other than a newline."""
    if text[-1].isspace() and text[-1] != "\n":
        raise FactError(f"field '{field}' begins or ends with a space: take it away")
    if text[-1] != "\n" and _is_unseen(text, len(text) - 1):
        raise FactError(f"field '{field}' ends with an invisible character, such as a zero-width "
                        "space: take it away")
    return text


def _is_list(value: object) -> bool:
    """Whether a value is an iterable other than a text or a dictionary."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _texts(rows: Iterable[object], field: str) -> tuple[str, ...]:
    """The wordings in a field as a tuple; `FactError` if one cannot be used."""
    if not _is_list(rows):
        raise FactError(f"field '{field}' is no list of texts")
    return tuple(_no_space_behind(_text(row, field), field) for row in rows)


def _pairs(rows: Iterable[Sequence[object]], field: str) -> tuple[tuple[str, str], ...]:
    """The (prompt, answer) pairs in a field, with subjects written out; `FactError` otherwise."""
    wrong = FactError(f"field '{field}' is no list of (prompt, answer) pairs")
    if not _is_list(rows):
        raise wrong
    pairs = []
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2:
            raise wrong
        prompt, answer = (_text(text, field) for text in row)
        pairs.append((_no_space_behind(prompt, field), _no_space_around(answer, field)))
    if any("{}" in prompt for prompt, _ in pairs):
        raise FactError(f"field '{field}' holds a prompt with {{}}: write its own subject out")
    return tuple(pairs)


class Facts(Sequence[Fact]):
    """An immutable list of facts with a name and the data set's own scoring rule.

    Parameters
    ----------
    facts : iterable of Fact
        The facts to hold.
    name : str
        The name for messages and records.
    rule : str
        The scoring rule. Under ``"exact"`` a prompt counts if every target token is the most likely
        one (CounterFact); under ``"tokens"`` it counts by the share of target tokens that are
        (zsRE, MQuAKE).
    skipped : iterable of str
        One message per row that was left out in reading, with file, row and field.

    Raises
    ------
    FactError
        If `facts` holds something other than a `Fact`.
    ValueError
        If `rule` is neither "exact" nor "tokens".
    """

    def __init__(
        self,
        facts: Iterable[Fact],
        name: str = "own",
        rule: str = "exact",
        skipped: Iterable[str] = (),
    ) -> None:
        self._facts = (facts,) if isinstance(facts, Fact) else tuple(facts)
        for held in self._facts:
            if not isinstance(held, Fact):
                raise FactError(f"facts hold a {type(held).__name__}, no zu.Fact: read rows and "
                                "files with zu.load_facts")
        self.name = name
        self.rule = rule
        self.skipped = tuple(skipped)
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")

    def __len__(self) -> int:
        return len(self._facts)

    @overload
    def __getitem__(self, index: int) -> Fact: ...

    @overload
    def __getitem__(self, index: slice) -> Facts: ...

    def __getitem__(self, index: int | slice) -> Fact | Facts:
        if isinstance(index, slice):
            return self.of(self._facts[index])
        return self._facts[index]

    def __repr__(self) -> str:
        left = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Facts({len(self)} of '{self.name}', rule '{self.rule}'{left})"

    def of(self, facts: Iterable[Fact]) -> Facts:
        """Other facts, or some of these, under the same name and rule.

        Parameters
        ----------
        facts : iterable of Fact
            The facts to hold.

        Returns
        -------
        Facts
            A new list, with `skipped` empty.
        """
        return Facts(facts, self.name, self.rule)

    def sample(self, n: int, seed: int) -> Facts:
        """Draw facts at random, without replacement.

        Parameters
        ----------
        n : int
            How many facts.
        seed : int
            The same (n, seed) gives the same facts on every machine.

        Returns
        -------
        Facts
            The facts in the order in which they were drawn.

        Raises
        ------
        ValueError
            If `n` is less than 1 or more than there are facts, or if `n` or `seed` is not a whole
            number.
        """
        for name, value in (("n", n), ("seed", seed)):
            try:
                operator.index(value)
            except TypeError:
                raise ValueError(f"{name} is {value!r}: give a whole number") from None
        if not 1 <= n <= len(self):
            known = ""
            if self.name.endswith("-known"):
                known = ": the model knows that many of those that were asked"
            raise ValueError(f"n is {n}: '{self.name}' holds {len(self)} facts{known}")
        return self.of(random.Random(seed).sample(self._facts, n))

    @property
    def hash(self) -> str:
        """A SHA-256 over all fields, which tells forget sets apart without holding their text."""
        rows = [asdict(fact) for fact in self]
        for row in rows:
            if row["join"] is None:
                del row["join"]  # so that the hash equals that from before this field existed
        text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def as_facts(facts: Iterable[Fact]) -> Facts:
    """Turn a list of facts into `Facts`.

    Parameters
    ----------
    facts : iterable of Fact
        A `Facts`, a list of facts, or one fact.

    Returns
    -------
    Facts
        `facts` itself if it is a `Facts` already.

    Raises
    ------
    FactError
        If `facts` is a name or path, or holds anything but facts.
    """
    if isinstance(facts, Facts):
        return facts
    if isinstance(facts, str | Path):
        raise FactError("facts are a name or a path: read them with zu.load_facts first")
    return Facts(facts)
