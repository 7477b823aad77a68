"""How a fact is put to a model: prompt and answer as token ids, alone or as a turn of a chat.

`Wording` decides it for all that asks, aims or trains.
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

#: What is put before a text that goes on from another, so that it is cut as it is there.
_BEFORE = (".", "\n", "0", "a")


class Tokens(NamedTuple):
    """A text as token ids.

    Attributes
    ----------
    ids : list of int
        Those of the text, behind the special tokens that the tokenizer puts in front of it.
    spans : list of (int, int)
        The characters that each stands for, from, to; equal for a special token of the tokenizer's.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

    def over(self, start: int, stop: int) -> list[int]:
        """Which tokens cover some of the characters from `start` to `stop` − 1."""
        found = []
        for i, (first, end) in enumerate(self.spans):
            if first < stop and end > start and end > first:
                found.append(i)
        return found


def tokens(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> Tokens:
    """A text as token ids, without the special tokens that a tokenizer puts behind it.

    What it puts in front stays; a beginning-of-text token that the text writes out itself is not
    doubled.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast one, which knows character offsets.
    text : str
        What is cut into tokens.
    special : bool
        Whether the tokenizer puts its own special tokens in front.

    Returns
    -------
    Tokens
        Ids, and the characters that they stand for.

    Raises
    ------
    ValueError
        For a tokenizer that does not know offsets.
    """
    if getattr(tokenizer, "is_fast", True) is False:
        raise ValueError("the tokenizer does not say which characters a token stands for: load a "
                         "fast one, from a tokenizer.json")
    coded = tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ids, spans = list(coded["input_ids"]), list(coded["offset_mapping"])
    added = coded.get("special_tokens_mask") or [0] * len(ids)
    if special and len(ids) and all(added):  # no token of the text's: what stands in front?
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
        None for most.
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
    """A tokenizer, and how facts are put to its model.

    Prompt and answer are cut into tokens together, as they would stand in a text. Where a token of
    that text would hold the end of the one and the beginning of the other, or the prompt would be
    cut otherwise than alone, they are cut apart: the prompt is always what a model goes on from
    when it is asked to write. Special tokens that the tokenizer puts behind a text are left away.

    Where the last token of a subject would be a sequence's very first one, the end-of-text token
    is put in front (`sink`), in reading, aiming, training and scoring alike: a first token is an
    attention sink, whose key says nothing about the subject. Such are subjects of one
    token that begin a prompt, with tokenizers that put nothing in front. The released code puts
    nothing in front; where it adds none, generation from the prompt sees none either.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast one, which knows character offsets.
    chat : bool or str
        Ask facts as a turn of a chat: True for the tokenizer's own template, whose default system
        prompt stays, with the answer where the assistant's begins; or a template of one's own, with
        ``{}`` where the question stands, such as ``"Q: {}\\nA:"``. What a fact says of its `join`
        is then the template's affair.

    Raises
    ------
    ValueError
        For a template without exactly one ``{}``, and for True where the tokenizer has no template
        or one that does not show a question as it is.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool | str = False

    def __post_init__(self) -> None:
        check_chat(self.chat)
        if self.chat is True:
            _ = self._turn  # what cannot be asked is refused here

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase | Wording, chat: bool | str | None = None
    ) -> Wording:
        """A tokenizer's wording.

        Parameters
        ----------
        tokenizer : PreTrainedTokenizerBase or Wording
            A tokenizer asks plainly, unless `chat` says otherwise.
        chat : bool or str, optional
            As in `Wording`; None: not said.

        Returns
        -------
        Wording
            One that is given comes back as it is.

        Raises
        ------
        ValueError
            Where `chat` is not what a given wording has.
        """
        if not isinstance(tokenizer, Wording):
            return cls(tokenizer, False if chat is None else chat)
        if chat is not None and chat != tokenizer.chat:
            raise ValueError("chat is said twice, differently: give it with the wording alone")
        return tokenizer

    def subject(
        self, fact: Fact, prefix: str = "", prompt: str | None = None
    ) -> tuple[list[int], int, int]:
        """A prompt as token ids, and where its subject stands, see `encode`.

        Parameters
        ----------
        fact, prefix, prompt
            As in `encode`.

        Returns
        -------
        ids : list of int
            The whole sequence.
        first, last : int
            Indices into it of the subject's first and last token; of a fact without a subject both
            are its prompt's last token.

        Raises
        ------
        FactError
            Naming the fact, when no token covers the subject, or its last one stands for anything
            that the tokenizer does not know.
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
            What is asked.

        Returns
        -------
        list of int
            What the model goes on from.
        """
        _, alone, turn = self._prompt(question)
        return [*self._ahead(question, alone, turn), *alone.ids]

    def answered(self, question: Question) -> tuple[list[int], int]:
        """A question and its answer as token ids.

        Parameters
        ----------
        question : Question
            What is asked, and what should come.

        Returns
        -------
        ids : list of int
            The whole sequence.
        count : int
            How many at the end belong to the answer.

        Raises
        ------
        FactError
            For an answer that has no token, or one of which the tokenizer does not know a part.
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
        """A fact's question with what the model should say to it as token ids.

        Parameters
        ----------
        fact : Fact
            What is asked.
        goal : str
            "eos", the tokenizer's end-of-sequence token; "truth", the fact's true answer; or any
            other text, joined as an answer is. The text of a special token of the tokenizer's is
            that token.

        Returns
        -------
        ids : list of int
            The whole sequence.
        count : int
            How many at the end belong to the goal.

        Raises
        ------
        ValueError
            For an empty text, or "eos" where the tokenizer has no such token.
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
        """What a question stands in, with ``{}`` in its place: what decides beside the tokenizer.

        Returns
        -------
        str
            ``"{}"`` where it is asked plainly.
        """
        return f"{self._turn.left}{{}}{self._turn.right}{self._turn.join or ''}"

    @cached_property
    def _turn(self) -> Turn:
        """What stands around every question."""
        if self.chat is False:
            return Turn()
        if isinstance(self.chat, str):
            left, right = self.chat.split("{}")
            return Turn(left, trimmed(right))
        return own_turn(self.tokenizer)

    @cached_property
    def _unaltered(self) -> set[str]:
        """Questions that the tokenizer's template was seen to show as they are."""
        return set()

    def _around(self, question: str, join: str | None) -> Turn:
        """What stands around one question; `join` is what its fact says."""
        if self.chat is True and question not in self._unaltered:
            check_unaltered(self.tokenizer, question)
            self._unaltered.add(question)
        if self.chat is False and join is not None:
            bare = join.rstrip(" ")  # what is no space at its end belongs to what is asked
            return Turn("", bare, join[len(bare):])
        return self._turn

    def _prompt(self, question: Question) -> tuple[str, Tokens, Turn]:
        """The text that is asked, as tokens too, and what stands around the question."""
        asked = trimmed(question.prompt)
        turn = self._around(asked, question.join)
        text = turn.left + asked + turn.right
        return text, tokens(self.tokenizer, text, turn.special), turn

    def _ahead(self, question: Question, alone: Tokens, turn: Turn) -> list[int]:
        """The token that is put in front of a question, where one is."""
        if not question.head:
            return []
        inside = alone.over(len(turn.left), len(turn.left) + question.head)
        return [sink(self.tokenizer)] if inside[-1:] == [0] else []


def _is_unknown(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> bool:
    """Whether a token of a text stands for anything that the tokenizer does not know.

    Not where the text writes that token out itself, as one that ends texts may be the same.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown is not None and unknown in ids and str(tokenizer.unk_token) not in text


def check_goal(goal: str) -> None:
    """Refuse a goal that says nothing.

    Parameters
    ----------
    goal : str
        As in `Wording.towards`.

    Raises
    ------
    ValueError
        For an empty text, or no text.
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
        Whose special tokens count.

    Returns
    -------
    int
        End of text, where there is none beginning of text, where there is none either 0.
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

    The position comes from character offsets: the last token that covers a character of the
    subject, where the prompt has it, and of a fact without a subject the prompt's last one. In
    front there may be a token more, see `Wording`, which `zu.evaluate` puts there too; the released
    code puts nothing in front.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A fast one, which knows character offsets; or how it is asked.
    fact : Fact
        Gives the subject, and the prompt where none is given.
    prefix : str
        Text to put before the prompt.
    prompt : str, optional
        Another prompt than the fact's own, with ``{}`` where the subject stands.

    Returns
    -------
    ids : list of int
        The whole sequence.
    position : int
        Index into it of the subject's last token.

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
        A fast one, which knows offsets; or how it is asked.
    prompt, answer : str
        Joined as `Wording` says.

    Returns
    -------
    ids : list of int
        Token ids of both.
    count : int
        How many at the end belong to the answer.

    Raises
    ------
    FactError
        For an answer that has no token.
    """
    return Wording.of(tokenizer).answered(Question(prompt, answer))


def beside(wording: Wording, fact: Fact, prompt: str) -> tuple[list[int], int]:
    """What should stay as it is while a fact's key changes: a prompt about its subject.

    A fact without a subject has no such prompt. Of it the next document should stay: its own prompt
    and the end-of-text token.

    Parameters
    ----------
    wording : Wording
        How it is asked.
    fact : Fact
        Whose key changes.
    prompt : str
        With ``{}`` where the subject stands.

    Returns
    -------
    ids : list of int
        The whole sequence; what follows its last token should stay.
    position : int
        Index into it of the key's token.
    """
    if fact.subject:
        return encode(wording, fact, prompt=prompt)
    ids, position = encode(wording, fact)
    return [*ids, sink(wording.tokenizer)], position


def _going_on(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text as token ids as it is cut inside of another one, with no space put before it."""
    for before in _BEFORE:
        alone = tokens(tokenizer, before, special=False)
        whole = tokens(tokenizer, before + text, special=False)
        n = len(alone.ids)
        apart = all(first >= len(before) for first, _ in whole.spans[n:])
        if n and apart and whole.ids[:n] == alone.ids:
            return whole.ids[n:]
    return tokens(tokenizer, text, special=False).ids
