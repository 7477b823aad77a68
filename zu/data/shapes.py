"""The shapes in which benchmarks publish facts, recognised by a row's fields, never by its text."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .facts import Fact, FactError
from .fields import HOLDERS, is_none
from .names import closest


@dataclass(frozen=True)
class Shape:
    """A benchmark's name, the fields that its rows must have, and others by which to know it."""

    name: str
    needs: tuple[str, ...]
    others: tuple[str, ...] = ()


#: The shapes, by the names of `schemas.SCHEMAS`.
SHAPES = {
    "own": Shape("zu's own facts", ("prompt", "target"), tuple(Fact.__dataclass_fields__)),
    "flat-counterfact": Shape("CounterFact as a flat table", ("subject", "prompt", "ground_truth"),
                              ("target_new", "rephrase_prompt", "locality_prompt",
                               "locality_ground_truth", "case_id")),
    "multi-counterfact": Shape("multi-counterfact", ("requested_rewrite",),
                               ("paraphrase_prompts", "neighborhood_prompts", "case_id")),
    "zsre": Shape("MEND's zsRE", ("subject", "src", "answers"),
                  ("rephrase", "loc", "loc_ans", "pred", "alt", "cond")),
    "mquake": Shape("MQuAKE", ("requested_rewrite", "questions", "answer", "single_hops"),
                    ("case_id", "new_answer", "new_single_hops")),
    "known": Shape("ROME's known facts", ("subject", "prompt", "attribute"),
                   ("template", "prediction", "known_id")),
    "rwku": Shape("RWKU", ("subject", "query", "answer"), ("level", "type", "neighbor")),
    "rwku-target": Shape("RWKU's forget_target", ("target", "intro")),
    "tofu": Shape("TOFU or MUSE's question sets", ("question", "answer"),
                  ("paraphrased_question", "paraphrased_answer", "perturbed_answer",
                  "para_question", "sub_question")),
    "muse-verbmem": Shape("MUSE's verbmem", ("prompt", "gt")),
    "text": Shape("running text", ("text",)),
    "wmdp": Shape("WMDP or MMLU", ("question", "choices", "answer")),
    "knowedit": Shape("KnowEdit", ("prompt", "ground_truth", "locality"),
                      ("subject", "target_new", "portability", "rephrase", "rephrase_prompt")),
    "wikirecent": Shape("KnowEdit's WikiRecent", ("prompt", "target_new", "locality"),
                        ("subject", "portability", "rephrase")),
    "wikibio": Shape("KnowEdit's WikiBio", ("text", "labels"), ("concept", "locality")),
    "cknowedit": Shape("CKnowEdit", ("prompt", "target_old"),
                       ("target_new", "portability", "locality", "rephrase")),
    "easyedit": Shape("EasyEdit's requests", ("prompts", "ground_truth"),
                      ("subject", "prompt", "target_new", "rephrase_prompts", "locality_inputs",
                       "portability_inputs")),
    "memit": Shape("MEMIT's requests", ("prompt", "subject", "target_true"),
                   ("target_new", "case_id")),
    "wikibigedit": Shape("WikiBigEdit", ("subject", "update", "ans"),
                         ("rephrase", "personas", "loc", "loc_ans", "mhop", "mhop_ans", "tag")),
}
#: Every known field name. Messages repeat no other name, since it may be a fact's text.
KNOWN = frozenset(field for shape in SHAPES.values() for field in shape.needs + shape.others
                  ) | HOLDERS
#: Fields that hold one text or number per row; if one holds a list, the row is a table.
SINGLE = ("subject", "prompt", "prompts", "question", "query", "src", "update", "attribute",
          "concept", "target", "case_id", "known_id")
#: How similar a field's name must be to a known one to count, if no name is the same.
ALIKE = 0.65


def nearest(fields: Iterable[str]) -> tuple[str, list[str]] | None:
    """The shape that shares most of a row's fields; among equals, the one that lacks the fewest.

    Parameters
    ----------
    fields : iterable of str
        The names of a row's fields.

    Returns
    -------
    (str, list of str) or None
        A name of `SHAPES`, and the needed fields that the row lacks; None if no field is known or
        similar to a known one.
    """
    names = [str(field) for field in fields]

    is_known = any(name in {*shape.needs, *shape.others} for shape in SHAPES.values()
                   for name in names)

    def rank(key: str) -> tuple[int, int, int]:
        shape = SHAPES[key]
        known = {*shape.needs, *shape.others}
        same = sum(name in known for name in names)
        alike = sum(closest(name, known, ALIKE) is not None for name in names)
        return same if is_known else alike, -len(set(shape.needs) - set(names)), alike

    best = max(SHAPES, key=rank)
    if not rank(best)[0]:
        return None
    return best, [field for field in SHAPES[best].needs if field not in names]


def is_table(row: dict) -> bool:
    """Whether an object is a table of columns, and not one row.

    Parameters
    ----------
    row : dict
        An object from a file.

    Returns
    -------
    bool
        True if one of the fields in `SINGLE` holds a list or an object.
    """
    held = (row.get(field) for field in SINGLE)
    return any(isinstance(value, list | dict) and bool(value) for value in held)


def rows_of(table: dict) -> Iterator[dict]:
    """The rows of a table of columns.

    Parameters
    ----------
    table : dict
        One list per field, all of the same length; or, as pandas writes it, one object per field
        whose keys are the rows' labels. A null or empty column counts as missing. An object of
        columns (EasyEdit's `locality_inputs`) becomes an object in each row.

    Yields
    ------
    dict
        A row, with the fields of the table.

    Raises
    ------
    FactError
        If columns are not lists, or have different lengths or labels; the message names the fields.
    """
    labels = [list(value) for field, value in table.items() if _is_labelled(field, value)]
    if any(keys != labels[0] for keys in labels):
        raise FactError("a table of columns needs the same rows in each, but here are fields whose "
                        "objects have other keys than the first")
    columns = {field: list(value.values()) if _is_labelled(field, value) else value
               for field, value in table.items()}
    lengths: dict[int, list[str]] = {}
    for number, (field, value) in enumerate(columns.items(), 1):
        for length in _lengths(value):
            called = f"'{field}'" if field in KNOWN else f"number {number}"
            lengths.setdefault(length, []).append(called)
    if len(lengths) > 1:
        told = "; ".join(f"{_size(n)}: {', '.join(dict.fromkeys(who))}"
                         for n, who in sorted(lengths.items()))
        single = ", and a single row one text in each field" if -1 in lengths else ""
        raise FactError("a table of columns needs lists of one length, one value a row"
                        f"{single}, but here are fields with {told}")
    for i in range(next(iter(lengths), 0)):
        yield {field: _cell(value, i) for field, value in columns.items()}


def _size(length: int) -> str:
    """The length of a list in words; -1 means that it is not a list."""
    return "no list" if length < 0 else f"{length} values"


def _is_labelled(field: str, value: object) -> bool:
    """Whether a column is an object whose keys are the rows' labels, as pandas writes it."""
    if not isinstance(value, dict) or not value:
        return False
    return field in SINGLE or all(str(key).isdecimal() for key in value)


def _lengths(value: Any) -> Iterator[int]:
    """The length of a column, or of each column inside it; -1 if it is not a list."""
    if is_none(value):
        return
    if isinstance(value, dict):
        for inner in value.values():
            yield from _lengths(inner)
    else:
        yield len(value) if isinstance(value, list) else -1


def _cell(value: Any, i: int) -> Any:
    """The value of a column in row `i`, or the values of the columns inside it."""
    if is_none(value):
        return None
    if isinstance(value, dict):
        return {key: _cell(inner, i) for key, inner in value.items()}
    return value[i]
