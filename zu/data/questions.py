"""Readers for unlearning benchmarks that ask questions, most of them without a subject.

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
#: How the model is asked about a text with words behind its gap.
FILL = "Fill in the blank: {}\nAnswer:"
#: Characters before a gap that belong to what fills it.
OPENING = " \t\n'\"“‘«([{"


def read_rwku(row: Row) -> list[Fact]:
    """RWKU's levels 1 to 3, and its questions about neighbours.

    Level 1 leaves a gap. If the gap is at the end, the model continues the text; otherwise the
    model is asked to fill the gap in, and a note says so. `subject` is the topic of the whole set
    of questions; if a question does not name it exactly once, as often in level 3, the fact has no
    subject. A row with a `neighbor` is about that neighbour. If a file also holds rows without one,
    it becomes a neighbour of those, see `with_neighbors`.
    """
    is_near = not is_none(row.get("neighbor"))
    about = text_at(row, "neighbor" if is_near else "subject")
    subject, prompt = loosely(row, continued(row, prompt_at(row, "query")), about)
    fact = _asked(row, subject, prompt, text_at(row, "answer"))
    near = [(continued(row, asked), answer) for asked, answer in fact.neighbors]
    return [replace(fact, neighbors=tuple(near))]


def read_question(row: Row) -> list[Fact]:
    """TOFU and its perturbed form, MUSE's question sets, UnKE: a question and its answer.

    `paraphrased_question` and UnKE's `para_question` are read as wordings. UnKE's `sub_question`,
    which asks for parts of the answer, is not read, nor are the true and false answers in
    `paraphrased_answer`, `perturbed_answer` and `option1` to `option4`.
    """
    prompt = continued(row, prompt_at(row, "question"))
    subject, prompt = loosely(row, prompt, text_at(row, "subject", ""))
    return [_asked(row, subject, prompt, text_at(row, "answer"))]


def read_verbatim(row: Row) -> list[Fact]:
    """MUSE's verbmem: the beginning of a passage, and how it goes on."""
    return [_asked(row, "", prompt_at(row, "prompt"), text_at(row, "gt"))]


def read_choices(row: Row) -> list[Fact]:
    """WMDP and MMLU: the question, and the text of the right choice.

    The model does not see the other choices. MMLU's `subject` is a field of knowledge: it becomes
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
        raise FactError(f"field 'answer' is none of the {len(choices)} choices: give its number, "
                        "counted from 0, its letter or its text")
    return answer


def _meant(answer: str, choices: list) -> int | None:
    """The place of the choice that a number, a letter or a text names.

    -1 if the text is no choice's, None if there is no text.
    """
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
    """Refuse RWKU's forget_target, which names whom to forget and asks no question."""
    raise FactError("fields 'query' and 'answer' are missing: RWKU's forget_target names what to "
                    "forget, and asks nothing; give its forget_level1, forget_level2 or "
                    "forget_level3")


def refuse_text(row: Row) -> list[Fact]:
    """Refuse running text, such as MUSE's raw sets and RWKU's passages: it asks no question."""
    raise FactError("fields 'question' and 'answer' are missing: this is running text, as MUSE's "
                    "raw sets and RWKU's passages are; give question sets, such as MUSE's knowmem")


def _asked(row: Row, subject: str, prompt: str, target: str) -> Fact:
    """The fact in a row of questions, with the row's fields that `Fact` has too."""
    return Fact(
        subject, prompt, target,
        paraphrases=wordings(row, "paraphrased_question", "para_question", "paraphrases"),
        neighbors=pairs(row, row.get("neighbors"), "neighbors"),
        relation=label(row, "relation"),
        id=label(row, "id"),
        hops=pairs(row, row.get("hops"), "hops"),
    )


def continued(row: Row, text: str) -> str:
    """The prompt for a text with a gap: the text up to the gap, or a request to fill it in."""
    gap = BLANK.search(text)
    if gap is None:
        return text
    before, behind = text[:gap.start()].rstrip(OPENING), BLANK.sub("", text[gap.end():])
    if before and not any(char.isalnum() for char in behind):
        return before
    row.notes.add("blank")
    return FILL.format(text)


def with_neighbors(rows: list[Placed]) -> tuple[list[Placed], int]:
    """Move RWKU's rows about neighbours into the rows with the same subject.

    Parameters
    ----------
    rows : list of (str, dict or Fact or FactError)
        Rows with their places. Some have a `neighbor`, some have none.

    Returns
    -------
    rows : list of (str, dict or Fact or FactError)
        The rows without a neighbour, each with its neighbours' questions and answers, and what
        cannot be read. If all rows have a neighbour, all of them, unchanged.
    left : int
        How many rows are about neighbours of subjects that no row asks for.
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
