"""The text around a question that is asked as a turn of a chat."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .data.facts import FactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A question and an answer that no template holds.
_QUESTION, _ANSWER = "Zq7question", "Zq7answer"
_REMEDY = "give chat= a template of your own with {} in the question's place"


@dataclass(frozen=True)
class Turn:
    """The text around a question, and between it and its answer.

    Attributes
    ----------
    left, right : str
        The text before and behind the question, without spaces at the end.
    join : str, optional
        The text before the answer; by default that of `zu.spacing.separator`.
    special : bool
        Whether the tokenizer puts its own special tokens in front.
    """

    left: str = ""
    right: str = ""
    join: str | None = None
    special: bool = True


def check_chat(chat: bool | str) -> None:
    """Refuse a template without exactly one place for a question.

    Parameters
    ----------
    chat : bool or str
        As in `Wording`.

    Raises
    ------
    ValueError
        If `chat` is neither a bool nor a text with exactly one ``{}``.
    """
    if isinstance(chat, bool):
        return
    if not isinstance(chat, str):
        raise ValueError(
            f"chat is a {type(chat).__name__}: give True for the tokenizer's own template, or a "
            "text with {} in the question's place"
        )
    if chat.count("{}") != 1:
        raise ValueError(
            f"chat is a template that holds {{}} {chat.count('{}')} times: write it once, in "
            "the question's place"
        )


def _rendered(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None
) -> str:
    """A chat in the tokenizer's own template, up to the assistant's turn or with its answer.

    `ValueError` if the template fails.
    """
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answer is None
        )
    except Exception as error:  # a template may raise anything
        reason = type(error).__name__
        raise ValueError(f"the tokenizer's chat template fails ({reason}): {_REMEDY}") from error
    return str(text)


def own_turn(tokenizer: PreTrainedTokenizerBase) -> Turn:
    """The text that a tokenizer's own chat template puts around a question and before its answer.

    Behind the question comes the template's beginning of the assistant's turn. If the template
    renders an assistant's answer behind that, perhaps with more text in between, the answer goes
    there.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer with a chat template.

    Returns
    -------
    Turn
        The text around a question; the template itself writes the special tokens.

    Raises
    ------
    ValueError
        If the tokenizer has no template, or the template fails or changes questions.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer has no chat template: {_REMEDY}")
    left, right = _sides(_rendered(tokenizer, _QUESTION))
    join = None
    try:
        whole = _rendered(tokenizer, _QUESTION, _ANSWER)
    except ValueError:
        whole = ""  # it takes no answers
    bare, start = right.rstrip(" "), left + _QUESTION
    if whole.count(_ANSWER) == 1 and whole.startswith(start + bare):
        between = whole[len(start):whole.index(_ANSWER)]
        if between.startswith(bare):
            bare = between.rstrip(" ")
            join = between[len(bare):]
    return Turn(left, bare, join, special=False)


def _sides(text: str) -> tuple[str, str]:
    """The text before and behind the placeholder question."""
    if text.count(_QUESTION) != 1:
        raise ValueError(
            f"the tokenizer's chat template does not show a question once, as it is: {_REMEDY}"
        )
    left, _, right = text.partition(_QUESTION)
    return left, right


def check_unaltered(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    """Refuse a question that the tokenizer's own chat template changes.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer with a chat template.
    question : str
        The question to ask.

    Raises
    ------
    FactError
        If the template changes the question. The message says what to do, and shows none of the
        question.
    """
    # both are rendered now, since some templates write the date
    left, right = _sides(_rendered(tokenizer, _QUESTION))
    if _rendered(tokenizer, question) != left + question + right:
        raise FactError(
            "the tokenizer's chat template changes a question, for example by dropping the line "
            f"break at its end: take it away in the prompt, or {_REMEDY}"
        )
