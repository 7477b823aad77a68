"""Readers of the benchmarks of unlearning that ask questions, most of them without a subject.

A fact without a subject has its key at the prompt's last token.
"""
from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeGuard

from .facts import Fact, FactError
from .fields import (
    Missing,
    Placed,
    Row,
    is_none,
    label,
    loosely,
    pairs,
    prompt_at,
    text_at,
    wordings,
)

#: A gap to fill.
BLANK = re.compile(r"_{2,}")
#: How a text is asked for whose gap has words behind it.
FILL = "Fill in the blank: {}\nAnswer:"
#: What may stand before a gap and belongs to what fills it.
OPENING = " \t\n'\"“‘«([{"


def read_rwku(row: Row) -> list[Fact]:
    """RWKU's levels 1 to 3, and its questions about neighbours.

    Level 1 leaves a gap: at the end it is what the model goes on with; before the end, the model is
    asked to fill it in, and a note says so. `subject` is what the set of questions is about. Where
    it is not asked for by name, once, as often in level 3, the fact has none. A row with a
    `neighbor` is about that one; beside rows without it is a neighbour of those: see
    `with_neighbors`.
    """
    is_near = not is_none(row.get("neighbor"))
    about = text_at(row, "neighbor" if is_near else "subject")
    subject, prompt = loosely(row, continued(row, prompt_at(row, "query")), about)
    fact = _asked(row, subject, prompt, text_at(row, "answer"))
    near = [(continued(row, asked), answer) for asked, answer in fact.neighbors]
    return [replace(fact, neighbors=tuple(near))]


def read_question(row: Row) -> list[Fact]:
    """TOFU and its perturbed form, MUSE's question sets, UnKE: a question and its answer.

    `paraphrased_question` and UnKE's `para_question` are wordings; its `sub_question`, about parts
    of the answer, is not read. `paraphrased_answer`, `perturbed_answer` and `option1` to
    `option4` are answers, true and false ones, and hold neither wordings nor neighbours.
    """
    prompt = continued(row, prompt_at(row, "question"))
    subject, prompt = loosely(row, prompt, text_at(row, "subject", ""))
    return [_asked(row, subject, prompt, text_at(row, "answer"))]


def read_verbatim(row: Row) -> list[Fact]:
    """MUSE's verbmem: the beginning of a passage, and how it goes on."""
    return [_asked(row, "", prompt_at(row, "prompt"), text_at(row, "gt"))]


def read_choices(row: Row) -> list[Fact]:
    """WMDP and MMLU: the question, and the text of the choice that is right.

    The other choices are not shown to the model. `subject`, in MMLU, is the field of knowledge:
    the fact's relation, not its subject.
    """
    choices = row.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Missing("field 'choices' is missing, or no list: give the answers to choose from")
    target = text_at({"choices": choices[_chosen(row.get("answer"), choices)]}, "choices")
    prompt = continued(row, prompt_at(row, "question"))
    return [Fact("", prompt, target, relation=label(row, "subject"), id=label(row, "id"))]


def _chosen(answer: object, choices: list) -> int:
    """The place of the right choice, which is given as a number, a letter or a text."""
    if isinstance(answer, str):
        answer = _meant(answer.strip(), choices)
    if is_none(answer):
        raise Missing("field 'answer' is missing")
    if isinstance(answer, bool) or not (
            isinstance(answer, int) and 0 <= answer < len(choices)):
        raise FactError(f"field 'answer' is no place among the {len(choices)} choices: count from "
                        "0, or give its letter or its text")
    return answer


def _meant(answer: str, choices: list) -> int | None:
    """The place that a number, a letter or a text means: -1 for none there is, None for no text."""
    named = choices.index(answer) if answer in choices else None
    place = None
    if answer.isdecimal() and len(answer) < 4:
        place = int(answer)
    elif len(answer) == 1 and answer.isascii() and answer.isalpha():
        place = ord(answer.upper()) - ord("A")
    if named is None:
        return -1 if answer and place is None else place
    if place is not None and place != named and place < len(choices):
        raise FactError("field 'answer' is the place of one choice and the text of another: write "
                        "the place as a number")
    return named


def refuse_target(row: Row) -> list[Fact]:
    """RWKU's forget_target: whom to forget, and no question."""
    raise FactError("fields 'query' and 'answer' are missing: RWKU's forget_target names what to "
                    "forget, and asks nothing; give its forget_level1, forget_level2 or "
                    "forget_level3")


def refuse_text(row: Row) -> list[Fact]:
    """Running text, such as MUSE's raw and RWKU's passages: no question."""
    raise FactError("fields 'question' and 'answer' are missing: this is running text, as MUSE's "
                    "raw sets and RWKU's passages are; give question sets, such as MUSE's knowmem")


def _asked(row: Row, subject: str, prompt: str, target: str) -> Fact:
    """The fact of a row of questions, with what stands beside it under the names of `Fact`."""
    return Fact(
        subject, prompt, target,
        paraphrases=wordings(row, "paraphrased_question", "para_question", "paraphrases"),
        neighbors=pairs(row, row.get("neighbors"), "neighbors"),
        relation=label(row, "relation"),
        id=label(row, "id"),
        hops=pairs(row, row.get("hops"), "hops"),
    )


def continued(row: Row, text: str) -> str:
    """What the model goes on from: a text up to its gap, or the request to fill the gap in."""
    gap = BLANK.search(text)
    if gap is None:
        return text
    before, behind = text[:gap.start()].rstrip(OPENING), BLANK.sub("", text[gap.end():])
    if before and not any(char.isalnum() for char in behind):
        return before
    row.notes.add("blank")
    return FILL.format(text)


def with_neighbors(rows: list[Placed]) -> tuple[list[Placed], int]:
    """RWKU's rows, those about neighbours put into those with the same subject.

    Parameters
    ----------
    rows : list of (str, dict, Fact or FactError)
        Rows with their places. Some have a `neighbor`, some have none.

    Returns
    -------
    rows : list of (str, dict, Fact or FactError)
        Those without one, each with its neighbours' questions and answers, and what cannot be read.
        Where all have one: these.
    left : int
        How many are about neighbours of subjects that no row asks for.
    """
    near = [row for _, row in rows if _is_near(row)]
    others = [(where, row) for where, row in rows if not _is_near(row)]
    by_subject: dict[str, list[dict]] = {str(row["subject"]): [] for _, row in others
                                         if isinstance(row, dict) and "subject" in row}
    if not by_subject:
        return rows, 0
    left = 0
    for about in near:
        found = by_subject.get(about["subject"])
        left += found is None
        if found is not None:
            found.append({"query": about["query"], "answer": about["answer"]})
    filled: list[Placed] = []
    for where, row in others:
        if isinstance(row, dict) and "subject" in row:
            more = by_subject[str(row["subject"])]
            row = {**row, "neighbors": more} if more else row
        filled.append((where, row))
    return filled, left


def _is_near(row: object) -> TypeGuard[dict]:
    """Whether a row asks about a neighbour, and can be read."""
    return isinstance(row, dict) and all(
        isinstance(row.get(field), str) for field in ("subject", "neighbor", "query", "answer"))
