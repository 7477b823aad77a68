"""What stands around a question that is asked as a turn of a chat."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .data.facts import FactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A question and an answer that no template holds.
_QUESTION, _ANSWER = "Zq7question", "Zq7answer"
_REMEDY = "give chat= a template of your own with {} where the question stands"


@dataclass(frozen=True)
class Turn:
    """What stands around a question, and between it and its answer.

    Attributes
    ----------
    left, right : str
        Before it and behind it, without the spaces at the end.
    join : str, optional
        What stands before the answer; None: what `zu.spacing.separator` says.
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
        Saying what is wrong.
    """
    if isinstance(chat, bool):
        return
    if not isinstance(chat, str):
        raise ValueError(
            f"chat is a {type(chat).__name__}: give True for the tokenizer's own template, or a "
            "text with {} where the question stands"
        )
    if chat.count("{}") != 1:
        raise ValueError(
            f"chat is a template that holds {{}} {chat.count('{}')} times: write it once, where "
            "the question stands"
        )


def _rendered(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None
) -> str:
    """A chat by the tokenizer's own template, up to where the assistant speaks or with an answer.

    A question that the template raises at is refused.
    """
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answer is None
        )
    except Exception as error:  # a template raises what it likes
        reason = type(error).__name__
        raise ValueError(f"the tokenizer's chat template fails ({reason}): {_REMEDY}") from error
    return str(text)


def own_turn(tokenizer: PreTrainedTokenizerBase) -> Turn:
    """What a tokenizer's own chat template puts around a question and before its answer.

    The question is followed by what the template has where the assistant speaks; where it shows an
    assistant's answer behind that, perhaps with more between the two, the answer stands there.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a template.

    Returns
    -------
    Turn
        Whose special tokens are the template's affair.

    Raises
    ------
    ValueError
        Where it has no template, or one that fails or does not show a question as it is.
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
    """What stands before and behind the question that no template holds."""
    if text.count(_QUESTION) != 1:
        raise ValueError(
            f"the tokenizer's chat template does not show a question once, as it is: {_REMEDY}"
        )
    left, _, right = text.partition(_QUESTION)
    return left, right


def check_unaltered(tokenizer: PreTrainedTokenizerBase, question: str) -> None:
    """Refuse a question that the tokenizer's own chat template shows otherwise than it is.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a template.
    question : str
        What is to be asked.

    Raises
    ------
    FactError
        Saying what to do; it shows none of the question.
    """
    # both are rendered now: some templates say the date
    left, right = _sides(_rendered(tokenizer, _QUESTION))
    if _rendered(tokenizer, question) != left + question + right:
        raise FactError(
            "the tokenizer's chat template changes a question, as by taking away the line break at "
            f"its end: take it away in the prompt, or {_REMEDY}"
        )
