"""What is asked of a model about a fact: its question, in other words, and those about others."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .data.facts import Fact
from .data.words import places


class Question(NamedTuple):
    """What is asked, and what should come.

    Attributes
    ----------
    prompt, answer : str
        Spaces at the prompt's end and around the answer count for nothing.
    join : str, optional
        What stands between them; by default what `zu.spacing.separator` says.
    head : int
        How many characters at the prompt's beginning are its subject; 0 where it begins otherwise.
    """

    prompt: str
    answer: str
    join: str | None = None
    head: int = 0

    @classmethod
    def of(cls, asked: Fact | tuple) -> Question:
        """A fact's own question, or that of a (prompt, answer) pair.

        Parameters
        ----------
        asked : Fact or tuple
            A fact, or what stands in a question.

        Returns
        -------
        Question
            A question that is given comes back as it is.
        """
        if isinstance(asked, Fact):
            return cls(asked.text, asked.target, join_of(asked), _head(asked, asked.prompt))
        return cls(*asked)

    def behind(self, prefix: str) -> Question:
        """The same question behind a text.

        Parameters
        ----------
        prefix : str
            Any text, or none.

        Returns
        -------
        Question
            No longer one that begins with its subject, unless the text is empty.
        """
        return self._replace(prompt=prefix + self.prompt, head=0) if prefix else self


def join_of(fact: Fact) -> str | None:
    """What a fact says should stand between its prompts and answers; None: what is usual.

    Parameters
    ----------
    fact : Fact
        Any fact.

    Returns
    -------
    str or None
        Its `join`.
    """
    return fact.join


def paraphrases(fact: Fact) -> list[Question]:
    """A fact's question in its other wordings.

    Parameters
    ----------
    fact : Fact
        Any fact.

    Returns
    -------
    list of Question
        One a paraphrase.
    """
    found = []
    for template, text in zip(fact.paraphrases, fact.paraphrase_texts, strict=True):
        found.append(Question(text, fact.target, join_of(fact), _head(fact, template)))
    return found


def others(fact: Fact, pairs: Sequence[tuple[str, str]]) -> list[Question]:
    """Questions that a fact brings along about other subjects: its neighbours, its hops.

    Parameters
    ----------
    fact : Fact
        Whose `join` holds for them too.
    pairs : sequence of (str, str)
        Prompts and answers.

    Returns
    -------
    list of Question
        One a pair.
    """
    return [Question(prompt, answer, join_of(fact)) for prompt, answer in pairs]


def _head(fact: Fact, template: str) -> int:
    """How many characters at a prompt's beginning are its fact's subject, see `Question`.

    The whole prompt of a fact without one, whose key is at the prompt's end.
    """
    subject = fact.subject
    if not subject:
        return len(template) if template == fact.prompt else 0
    if "{}" in template:
        return len(subject) if template.startswith("{}") else 0
    first = template.startswith(subject) and bool(places(template[:len(subject) + 1], subject))
    return len(subject) if first else 0
