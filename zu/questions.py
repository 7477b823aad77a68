"""The questions about a fact: its own, the same in other words, and those about other subjects."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .data.facts import Fact, FactError
from .data.words import places


class Question(NamedTuple):
    """A question and its answer.

    Attributes
    ----------
    prompt, answer : str
        The texts; spaces at the prompt's end and around the answer are ignored.
    join : str, optional
        The text between them; by default that of `zu.spacing.separator`.
    head : int
        The subject's end, in characters from the prompt's beginning; 0 if unknown.
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
            A fact, a (prompt, answer) pair, or a question.

        Returns
        -------
        Question
            The question; a given question is returned unchanged.

        Raises
        ------
        FactError
            If `asked` is anything else.
        """
        if isinstance(asked, Fact):
            return cls(asked.text, asked.target, join_of(asked), _head(asked, asked.prompt))
        if not isinstance(asked, tuple):
            raise FactError(f"a question is a {type(asked).__name__}: give a zu.Fact, as "
                            "zu.load_facts reads them, or a (prompt, answer) pair")
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
            The new question, in which the subject's end is unknown unless the text is empty.
        """
        return self._replace(prompt=prefix + self.prompt, head=0) if prefix else self


def join_of(fact: Fact) -> str | None:
    """The text that a fact puts between its prompts and answers; None for the usual one.

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
        One question per paraphrase.
    """
    found = []
    for template, text in zip(fact.paraphrases, fact.paraphrase_texts, strict=True):
        found.append(Question(text, fact.target, join_of(fact), _head(fact, template)))
    return found


def others(fact: Fact, pairs: Sequence[tuple[str, str]]) -> list[Question]:
    """A fact's questions about other subjects: its neighbours, its hops.

    Parameters
    ----------
    fact : Fact
        The fact, whose `join` applies to them too.
    pairs : sequence of (str, str)
        Prompts and answers.

    Returns
    -------
    list of Question
        One question per pair.
    """
    return [Question(prompt, answer, join_of(fact)) for prompt, answer in pairs]


def _head(fact: Fact, template: str) -> int:
    """Where a prompt's subject ends, see `Question`.

    For a fact without a subject this is the prompt's end. In a paraphrase with its subject written
    out it is known only if the subject comes first.
    """
    subject = fact.subject
    if not subject:
        return len(template) if template == fact.prompt else 0
    if "{}" in template:
        return template.index("{}") + len(subject)
    first = template.startswith(subject) and bool(places(template[:len(subject) + 1], subject))
    return len(subject) if first else 0
