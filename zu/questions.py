"""What is asked of a model about a fact: its question, in other words, and those about others."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .data.facts import Fact, FactError
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
        Where the subject ends, in characters from the prompt's beginning; 0 where it is not known.
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

        Raises
        ------
        FactError
            For anything else.
        """
        if isinstance(asked, Fact):
            return cls(asked.text, asked.target, join_of(asked), _head(asked, asked.prompt))
        if not isinstance(asked, tuple):
            raise FactError(f"what is asked is a {type(asked).__name__}: give a zu.Fact, as "
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
            Of which it is not known any longer where the subject ends, unless the text is empty.
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
    """Where a prompt's subject ends, see `Question`.

    At the prompt's end for a fact without one; not known where a paraphrase does not say it, except
    at its very beginning.
    """
    subject = fact.subject
    if not subject:
        return len(template) if template == fact.prompt else 0
    if "{}" in template:
        return template.index("{}") + len(subject)
    first = template.startswith(subject) and bool(places(template[:len(subject) + 1], subject))
    return len(subject) if first else 0
