"""How a model is asked about a fact: prompt and answer as token ids, alone or in a chat.

`Wording` does this for everything that asks, aims or trains.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from .chats import Turn, check_chat, check_unaltered, own_turn
from .data.facts import Fact, FactError
from .questions import Question, join_of
from .spacing import separator, trimmed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Texts to put before a continuation, so that it is cut into tokens as inside a text.
_BEFORE = (".", "\n", "0", "a")


class Tokens(NamedTuple):
    """A text as token ids.

    Attributes
    ----------
    ids : list of int
        The text's tokens, behind the special tokens that the tokenizer puts in front.
    spans : list of (int, int)
        The first character of each token and the one after its last; equal for special tokens.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

    def over(self, start: int, stop: int) -> list[int]:
        """The tokens that cover any of the characters from `start` to `stop` − 1."""
        found = []
        for i, (first, end) in enumerate(self.spans):
            if first < stop and end > start and end > first:
                found.append(i)
        return found


def tokens(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> Tokens:
    """A text as token ids, without the special tokens that a tokenizer puts behind it.

    Special tokens in front stay, but a beginning-of-text token that the text itself spells out is
    not doubled.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer, which knows character offsets.
    text : str
        The text to cut into tokens.
    special : bool
        Whether the tokenizer puts its own special tokens in front.

    Returns
    -------
    Tokens
        The ids, and the characters for which they stand.

    Raises
    ------
    ValueError
        If the tokenizer does not know offsets.
    """
    if getattr(tokenizer, "is_fast", True) is False:
        raise ValueError("the tokenizer does not say which characters a token stands for: load a "
                         "fast tokenizer, from a tokenizer.json")
    coded = tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ids, spans = list(coded["input_ids"]), list(coded["offset_mapping"])
    added = coded.get("special_tokens_mask") or [0] * len(ids)
    if special and len(ids) and all(added):  # no token of the text itself: how many are in front?
        stop = _leading(tokenizer)
    else:
        stop = len(ids)
        while stop and added[stop - 1]:
            stop -= 1
    lead = next((i for i in range(stop) if not added[i]), stop)
    ids, spans = ids[:stop], spans[:stop]
    if 0 < lead < stop and ids[lead] == ids[lead - 1] == tokenizer.bos_token_id:
        del ids[lead - 1], spans[lead - 1]
    return Tokens(ids, spans)


def trailing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that a tokenizer puts behind a text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast one.

    Returns
    -------
    list of int
        The tokens; most tokenizers have none.
    """
    coded = tokenizer("a", return_special_tokens_mask=True)
    text = [i for i, added in enumerate(coded["special_tokens_mask"]) if not added]
    return list(coded["input_ids"][text[-1] + 1:])


def _leading(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens a tokenizer puts in front of a text."""
    added = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return added.index(0)


@dataclass(frozen=True)
class Wording:
    """A tokenizer, and how its model is asked about facts.

    Prompt and answer are cut into tokens together, as in a running text. They are cut separately if
    one token would hold the end of the prompt and the beginning of the answer, or if the prompt
    would be cut differently than alone, so that the prompt is always the text that a model would
    continue. Special tokens that the tokenizer puts behind a text are dropped.

    If the last token of a subject would be the first of the sequence, the end-of-text token is put
    in front (`sink`), in reading, aiming, training and scoring alike, because the first token is an
    attention sink, whose key says nothing about the subject. This concerns one-token subjects that
    begin a prompt, with tokenizers that put nothing in front. The released code does not do this.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer, which knows character offsets.
    chat : bool or str
        Whether to ask as a turn of a chat: True for the tokenizer's own template, with its default
        system prompt, and with the answer as the assistant's; or a template of your own with ``{}``
        in the question's place, such as ``"Q: {}\\nA:"``. In a chat a fact's `join` is ignored.

    Raises
    ------
    ValueError
        If a template does not hold exactly one ``{}``, or `chat` is True and the tokenizer has no
        template, or one that changes questions.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool | str = False

    def __post_init__(self) -> None:
        check_chat(self.chat)
        if self.chat is True:
            _ = self._turn  # refuses a template that cannot be used

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase | Wording, chat: bool | str | None = None
    ) -> Wording:
        """A tokenizer's wording.

        Parameters
        ----------
        tokenizer : PreTrainedTokenizerBase or Wording
            A tokenizer, which asks in plain text unless `chat` says otherwise; or a wording.
        chat : bool or str, optional
            As in `Wording`; None for the tokenizer's default or the given wording's chat.

        Returns
        -------
        Wording
            A new wording, or the given one unchanged.

        Raises
        ------
        ValueError
            If `chat` differs from that of a given wording.
        """
        if not isinstance(tokenizer, Wording):
            return cls(tokenizer, False if chat is None else chat)
        if chat is not None and chat != tokenizer.chat:
            raise ValueError("chat is given twice, differently: give it only with the wording")
        return tokenizer

    def subject(
        self, fact: Fact, prefix: str = "", prompt: str | None = None
    ) -> tuple[list[int], int, int]:
        """A prompt as token ids, and its subject's place, see `encode`.

        Parameters
        ----------
        fact, prefix, prompt
            As in `encode`.

        Returns
        -------
        ids : list of int
            The whole sequence.
        first, last : int
            The indices of the subject's first and last token; for a fact without a subject, twice
            the index of the prompt's last token.

        Raises
        ------
        FactError
            If no token covers the subject, or its last token is the one for unknown text. The
            message names the fact.
        """
        template = trimmed(fact.prompt if prompt is None else prompt)
        before, _, after = template.partition("{}")
        text = before + fact.subject + after if "{}" in template else template
        start, stop = len(prefix + before), len(prefix + before + fact.subject)
        if not fact.subject:
            start, stop = len(prefix + text) - 1, len(prefix + text)
        turn = self._around(prefix + text, join_of(fact) if prompt is None else None)
        asked = tokens(self.tokenizer, turn.left + prefix + text + turn.right, turn.special)
        inside = asked.over(len(turn.left) + start, len(turn.left) + stop)
        if not inside:
            what = "subject" if fact.subject else "prompt's end"
            raise FactError(f"fact '{fact.id or '?'}': no token of the prompt covers the {what}")
        first, last = inside[0], inside[-1]
        if not fact.subject:
            first = last
        if _is_unknown(self.tokenizer, text, asked.ids[last:last + 1]):
            what = "subject" if fact.subject else "prompt"
            raise FactError(f"fact '{fact.id or '?'}': the {what} ends in what the tokenizer does "
                            f"not know ({self.tokenizer.unk_token}), where nothing of it is held: "
                            "use a model that knows this script, or leave the fact out")
        if last == 0:
            return [sink(self.tokenizer), *asked.ids], 1, 1
        return asked.ids, first, last

    def asked(self, question: Question) -> list[int]:
        """A question as token ids, without its answer.

        Parameters
        ----------
        question : Question
            The question.

        Returns
        -------
        list of int
            The tokens that the model continues.
        """
        _, alone, turn = self._prompt(question)
        return [*self._ahead(question, alone, turn), *alone.ids]

    def answered(self, question: Question) -> tuple[list[int], int]:
        """A question and its answer as token ids.

        Parameters
        ----------
        question : Question
            The question and its answer.

        Returns
        -------
        ids : list of int
            The whole sequence.
        count : int
            How many tokens at the end belong to the answer.

        Raises
        ------
        FactError
            If the answer has no token, or a part of it is unknown to the tokenizer.
        """
        text, alone, turn = self._prompt(question)
        answer = question.answer.strip()
        join = separator(text, answer) if turn.join is None else turn.join
        whole = tokens(self.tokenizer, text + join + answer, turn.special)
        count = sum(stop > len(text) for _, stop in whole.spans)
        if count and whole.ids[:-count] == alone.ids:
            ids = whole.ids
        else:
            said = _going_on(self.tokenizer, join + answer)
            ids, count = alone.ids + said, len(said)
        if not answer or not count:
            raise FactError("an answer is empty, or holds nothing that the tokenizer knows")
        if _is_unknown(self.tokenizer, answer, ids[-count:]):
            raise FactError("an answer holds what the tokenizer does not know, and would be scored "
                            f"as {self.tokenizer.unk_token}, like any other: use a model that "
                            "knows this script, or leave it out")
        return [*self._ahead(question, alone, turn), *ids], count

    def towards(self, fact: Fact, goal: str) -> tuple[list[int], int]:
        """A fact's question, followed by what the model should say, as token ids.

        Parameters
        ----------
        fact : Fact
            The fact to ask for.
        goal : str
            "eos", the tokenizer's end-of-sequence token; "truth", the fact's true answer; or any
            other text, joined like an answer. The text of one of the tokenizer's special tokens
            stands for that token.

        Returns
        -------
        ids : list of int
            The whole sequence.
        count : int
            How many tokens at the end belong to the goal.

        Raises
        ------
        ValueError
            If the text is empty, or the goal is "eos" and the tokenizer has no such token.
        """
        check_goal(goal)
        question, tokenizer = Question.of(fact), self.tokenizer
        if goal == "truth":
            return self.answered(question)
        if goal == "eos":
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    "the tokenizer has no end-of-sequence token to aim at: set tokenizer.eos_token"
                )
            return [*self.asked(question), tokenizer.eos_token_id], 1
        if goal in tokenizer.all_special_tokens:
            token: int = tokenizer.convert_tokens_to_ids(goal)  # type: ignore[assignment]
            return [*self.asked(question), token], 1
        return self.answered(question._replace(answer=goal))

    @property
    def template(self) -> str:
        """The text around a question, with ``{}`` in the question's place.

        Returns
        -------
        str
            The template; ``"{}"`` if questions are asked in plain text.
        """
        return f"{self._turn.left}{{}}{self._turn.right}{self._turn.join or ''}"

    @cached_property
    def _turn(self) -> Turn:
        """The text around every question."""
        if self.chat is False:
            return Turn()
        if isinstance(self.chat, str):
            left, right = self.chat.split("{}")
            return Turn(left, trimmed(right))
        return own_turn(self.tokenizer)

    @cached_property
    def _unaltered(self) -> set[str]:
        """Questions for which the tokenizer's template was checked and does not change them."""
        return set()

    def _around(self, question: str, join: str | None) -> Turn:
        """The text around one question; `join` is that of its fact."""
        if self.chat is True and question not in self._unaltered:
            check_unaltered(self.tokenizer, question)
            self._unaltered.add(question)
        if self.chat is False and join is not None:
            bare = join.rstrip(" ")  # all but spaces at its end belongs to the prompt
            return Turn("", bare, join[len(bare):])
        return self._turn

    def _prompt(self, question: Question) -> tuple[str, Tokens, Turn]:
        """The text that is asked, the same as tokens, and the text around the question."""
        asked = trimmed(question.prompt)
        turn = self._around(asked, question.join)
        text = turn.left + asked + turn.right
        return text, tokens(self.tokenizer, text, turn.special), turn

    def _ahead(self, question: Question, alone: Tokens, turn: Turn) -> list[int]:
        """The token that is put in front of a question, if there is one."""
        if not question.head:
            return []
        inside = alone.over(len(turn.left), len(turn.left) + question.head)
        return [sink(self.tokenizer)] if inside[-1:] == [0] else []


def _is_unknown(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> bool:
    """Whether a text's tokens include the one for unknown text.

    A text that itself spells out that token does not count; the same token may end texts.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown is not None and unknown in ids and str(tokenizer.unk_token) not in text


def check_goal(goal: str) -> None:
    """Refuse an empty goal.

    Parameters
    ----------
    goal : str
        As in `Wording.towards`.

    Raises
    ------
    ValueError
        If `goal` is empty or not a text.
    """
    if not isinstance(goal, str) or not goal.strip():
        raise ValueError(
            f"goal is {goal!r}: give 'eos', 'truth' or a text that the model should say instead"
        )


def sink(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that is put in front of a sequence.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.

    Returns
    -------
    int
        The end-of-text token; without one, the beginning-of-text token; without either, 0.
    """
    candidates = (tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    return next(token for token in candidates if token is not None)


def encode(
    tokenizer: PreTrainedTokenizerBase | Wording,
    fact: Fact,
    prefix: str = "",
    prompt: str | None = None,
) -> tuple[list[int], int]:
    """Token ids of ``prefix + prompt`` and the position of the subject's last token.

    The position comes from character offsets: it is that of the last token that covers a character
    of the subject in the prompt or, for a fact without a subject, of the prompt's last token. There
    may be one more token in front, as in `zu.evaluate`, see `Wording`; the released code adds none.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A fast tokenizer, which knows character offsets; or a wording with one.
    fact : Fact
        The fact.
    prefix : str
        Text to put before the prompt.
    prompt : str, optional
        A prompt with ``{}`` in the subject's place; by default the fact's own.

    Returns
    -------
    ids : list of int
        The whole sequence.
    position : int
        The index of the subject's last token.

    Raises
    ------
    FactError
        As `Wording.subject` does.
    """
    ids, _, position = Wording.of(tokenizer).subject(fact, prefix, prompt)
    return ids, position


def split_answer(
    tokenizer: PreTrainedTokenizerBase | Wording, prompt: str, answer: str
) -> tuple[list[int], int]:
    """Tokenise a prompt together with its answer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A fast tokenizer, which knows character offsets; or a wording with one.
    prompt, answer : str
        The texts, which are joined as in `Wording`.

    Returns
    -------
    ids : list of int
        The token ids of both.
    count : int
        How many tokens at the end belong to the answer.

    Raises
    ------
    FactError
        As `Wording.answered` does.
    """
    return Wording.of(tokenizer).answered(Question(prompt, answer))


def beside(wording: Wording, fact: Fact, prompt: str) -> tuple[list[int], int]:
    """A prompt about a fact's subject, after which the prediction should not change.

    For a fact without a subject it is the beginning of the next document, behind the fact's own
    prompt and the end-of-text token, that should not change.

    Parameters
    ----------
    wording : Wording
        How the fact is asked.
    fact : Fact
        The fact whose value changes.
    prompt : str
        A prompt with ``{}`` in the subject's place.

    Returns
    -------
    ids : list of int
        The whole sequence; the prediction after its last token should stay.
    position : int
        The index of the key's token.
    """
    if fact.subject:
        return encode(wording, fact, prompt=prompt)
    ids, position = encode(wording, fact)
    return [*ids, sink(wording.tokenizer)], position


def _going_on(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's token ids as inside another text, without a space before it."""
    for before in _BEFORE:
        alone = tokens(tokenizer, before, special=False)
        whole = tokens(tokenizer, before + text, special=False)
        n = len(alone.ids)
        apart = all(first >= len(before) for first, _ in whole.spans[n:])
        if n and apart and whole.ids[:n] == alone.ids:
            return whole.ids[n:]
    return tokens(tokenizer, text, special=False).ids
