"""Read the fields of a row: texts, lists of wordings, questions with their answers."""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from .facts import Fact, FactError, bare
from .words import places, stands_in

#: Fields that hold what `Fact` calls paraphrases, neighbours and hops: other wordings, questions
#: about other subjects, or questions that follow. A warning names those that are not read.
HOLDERS = frozenset((
    "paraphrases", "paraphrase", "paraphrase_prompts", "paraphrased_question",
    "para_question", "sub_question", "rephrase",
    "rephrase_prompt", "rephrase_prompts", "personas", "question", "questions",
    "generation_prompts", "neighbors", "neighborhood", "neighborhood_prompts",
    "attribute_prompts", "locality", "locality_inputs", "locality_prompt", "locality_prompts",
    "loc", "hops", "single_hops", "mhop", "portability", "portability_inputs",
    "portability_prompt", "portability_prompts"))
#: Parts of other fields' names that suggest that they hold such texts.
STEMS = ("phras", "wording", "neighb", "local", "hops", "_hop", "hop_", "portab")
#: Exceptions: fields of answers, of which a fact has only one.
ANSWERS = ("paraphrased_answer", "perturbed_answer")
#: Fields that may hold a list or an object, written as JSON in a table's cell.
PACKED = ("paraphrases", "neighbors", "hops", "requested_rewrite", "paraphrase_prompts",
          "neighborhood_prompts", "attribute_prompts", "generation_prompts", "single_hops",
          "questions", "answers", "ground_truth", "target_true", "target_new", "rephrase",
          "rephrase_prompt", "rephrase_prompts", "paraphrased_question", "personas", "locality",
          "locality_inputs", "locality_prompt", "locality_ground_truth", "portability",
          "portability_inputs", "choices")
#: Names of a question that stands beside its answer, and names of that answer.
ASKED = ("prompt", "question", "query")
ANSWERED = ("ground_truth", "answer", "answers", "ans", "target")
#: A row's place, for messages, and what was read there.
Placed = tuple[str, "dict | Fact | FactError"]
#: The kind of a question, its text, and its answer if it has one.
Asked = tuple[str, str, "str | None"]


class Missing(FactError):
    """A row lacks a field that it must have."""


class Row(dict[str, Any]):
    """A row while it is being read.

    It records which of its fields were asked for, and the warnings to give in the end.
    """

    def __init__(self, fields: dict) -> None:
        super().__init__(fields)
        self.read: set[str] = set()
        self.notes: set[str] = set()  # keys of `schemas.NOTES`
        self.left: set[str] = set()  # fields that were read only in part

    def get(self, key: str, default: Any = None) -> Any:
        """A field's value, which then counts as read."""
        self.read.add(key)
        return super().get(key, default)

    def unread(self) -> set[str]:
        """The fields that could hold wordings or neighbours and were not read.

        "" stands for unknown names, which are kept back: in a table without a header such a name is
        a fact's text.
        """
        found = set(self.left)
        for field, value in self.items():
            if field in self.read or field in ANSWERS or is_none(value):
                continue
            if field in HOLDERS:
                found.add(field)
            elif any(stem in str(field).casefold() for stem in STEMS):
                found.add("")
        return found


def is_none(value: object) -> bool:
    """Whether a value counts as missing: it is null, NaN or empty."""
    if isinstance(value, str | list | dict):
        return not value
    return value is None or value != value  # NaN is the one number that is not itself


def unpacked(row: dict) -> dict | FactError:
    """A row of a table, with the JSON lists and objects in its cells decoded.

    A cell in brackets that is not valid JSON is an error: read as a text, it would become one
    wording with brackets around it.
    """
    found = dict(row)
    for field in PACKED:
        text = row.get(field)
        if not isinstance(text, str) or text.strip()[:1] not in ("[", "{"):
            continue
        try:
            found[field] = json.loads(text)
        except (ValueError, RecursionError):
            if text.strip()[0] == "[" and text.strip()[-1] == "]":
                return FactError(f"field '{field}' is no JSON list: write lists as JSON, with "
                                 "double quotation marks around each text")
    return found


def text_at(row: dict, path: str, default: str | None = None) -> str:
    """The text at a dotted path of a row, or the first of several.

    Without a default, `Missing` is raised if there is none.
    """
    return bare(_value_at(row, path, default))


def prompt_at(row: dict, path: str) -> str:
    """The prompt at a dotted path of a row, `trimmed` of white space."""
    return trimmed(_value_at(row, path, None))


def _value_at(row: dict, path: str, default: str | None) -> str:
    """The text at a dotted path of a row, unchanged."""
    value: Any = row
    for key in path.split("."):
        if isinstance(value, dict):
            value = value.get(key)
        elif key != "str" or not isinstance(value, str):  # {"str": "Lima"}, and "Lima" itself
            value = None
    if isinstance(value, list):
        value = first(value)
    if value is None or value != value:
        value = default
    if value is None:
        raise Missing(f"field '{path}' is missing")
    if not isinstance(value, str):
        raise FactError(f"field '{path}' is or holds a {type(value).__name__}: give a text")
    if not bare(value) and value != default:
        raise FactError(f"field '{path}' is empty")
    return value


def trimmed(text: str) -> str:
    """A prompt without invisible characters around it, but with the newlines at its end.

    Chat templates end in newlines, and models are trained on them.
    """
    inner = bare(text)
    end = text[text.rfind(inner) + len(inner):]
    return inner + end[:end.rfind("\n") + 1]


def first(value: object) -> object:
    """The first value in nested lists that is not missing; None if all are."""
    while isinstance(value, list):
        value = next((item for item in value if not is_none(item)), None)
    return value


def list_at(row: dict, field: str) -> tuple:
    """The items of a field's list, or its single text; empty if there is neither."""
    value = row.get(field)
    if value in (None, "", []) or value != value:
        return ()
    if not isinstance(value, str | list):
        raise FactError(f"field '{field}' is a {type(value).__name__}: give a list of texts")
    return (value,) if isinstance(value, str) else tuple(value)


def wordings(row: dict, *fields: str) -> tuple[str, ...]:
    """The texts in fields that hold one text or a list, without missing ones."""
    found = []
    for field in fields:
        for text in list_at(row, field):
            if is_none(text):
                continue
            if not isinstance(text, str):
                raise FactError(f"field '{field}' is or holds a {type(text).__name__}: give a "
                                "text")
            found.append(trimmed(text))
    return tuple(found)


def cloze(prompt: str, path: str, subject: str) -> str:
    """A prompt with ``{}`` in the subject's place; unchanged if there is no subject.

    `FactError` if the subject is not in the prompt exactly once, as a word.
    """
    if not subject or "{}" in prompt:
        return prompt
    found = places(prompt, subject)
    if len(found) != 1:
        raise FactError(f"field '{path}' holds the subject {len(found)} times as a word"
                        f"{_otherwise(prompt, subject)}: write {{}} in its place, once")
    return prompt[:found[0]] + "{}" + prompt[found[0] + len(subject):]


def _otherwise(prompt: str, subject: str) -> str:
    """What a message adds if a prompt holds the subject in other letters."""
    if not places(prompt, subject) and stands_in(prompt, subject):
        return " (but in other capitals, or with accents coded otherwise)"
    return ""


def loosely(row: Row, prompt: str, subject: str) -> tuple[str, str]:
    """A subject and a prompt, for rows whose subject may be missing from the question.

    If the prompt does not hold the subject exactly once, the fact gets no subject.
    """
    try:
        return subject, cloze(prompt, "", subject)
    except FactError:
        row.notes.add("subject")
        return "", prompt


def asked_in(value: object, field: str, kind: str = "") -> Iterator[Asked]:
    """The questions in a field, with their answers.

    A field holds a list of objects, such lists by kind, or parallel lists of questions and answers.
    """
    if is_none(value):
        return
    if isinstance(value, list):
        for item in value:
            if is_pair(item):
                yield kind, trimmed(item[0]), bare(item[1])
            else:
                yield from asked_in(item, field, kind)
    elif isinstance(value, dict):
        ask = next((name for name in ASKED if name in value), None)
        if ask is None:
            for name, inner in value.items():
                yield from asked_in(inner, field, str(name))
        else:
            answer = next((value[name] for name in ANSWERED if name in value), None)
            yield from _answered(value[ask], answer, field, kind)
    else:
        raise FactError(f"field '{field}' holds a {type(value).__name__} where a prompt and its "
                        "answer should be: give objects with 'prompt' and 'ground_truth'")


def _answered(prompt: object, answer: object, field: str, kind: str) -> Iterator[Asked]:
    """A question with its answer, or the pairs of two parallel lists."""
    if is_none(prompt):
        return
    if isinstance(prompt, list):
        answers = [None] * len(prompt) if is_none(answer) else answer
        if not isinstance(answers, list) or len(answers) != len(prompt):
            raise FactError(f"field '{field}' holds a list of prompts and no list of as many "
                            "answers: give one for each")
        for one, its in zip(prompt, answers, strict=True):
            yield from _answered(one, its, field, kind)
        return
    found = first(answer)
    for text in (prompt, found):
        if text is not None and not isinstance(text, str):
            raise FactError(f"field '{field}' is or holds a {type(text).__name__}: give a text")
    yield kind, trimmed(str(prompt)), None if is_none(found) else bare(str(found)) or None


def is_pair(value: object) -> TypeGuard[list[str]]:
    """Whether a value is a list of a prompt and its answer."""
    return (isinstance(value, list) and len(value) == 2
            and all(isinstance(item, str) for item in value))


def pairs(row: Row, value: object, field: str) -> tuple[tuple[str, str], ...]:
    """The questions in a field that have answers; adds a note if some have none."""
    return answered(row, list(asked_in(value, field)))


def answered(row: Row, asked: list[Asked]) -> tuple[tuple[str, str], ...]:
    """The questions that have answers; adds a note if some have none."""
    if any(answer is None for _, _, answer in asked):
        row.notes.add("unanswered")
    return tuple((prompt, answer) for _, prompt, answer in asked if answer is not None)


def label(row: dict, field: str) -> str:
    """A label, which may be given as a number; "" if there is none."""
    value = row.get(field)
    return "" if value is None or value != value else str(value)
