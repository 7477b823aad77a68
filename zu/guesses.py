"""What a model would guess: its answers about subjects that do not exist.

A right answer need not be knowledge. Asked for the continent of a country that was made up, a model
still names one, and for many real countries that guess is right. What the model answers about
invented subjects of the same kind is its prior for a prompt, and only answers beyond it tell what
it knows of a subject.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .batches import collate
from .data.facts import Fact, FactError, Facts, as_facts
from .data.invented import kind_of, subjects
from .questions import Question, others
from .reader import Reader
from .scores import score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Invented subjects by relation, or for all facts alike.
Names = Mapping[str, Sequence[str]] | Sequence[str]


def guessed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    names: Names | None = None,
    *,
    tokens: int = 1024,
    chat: bool | str | None = None,
) -> np.ndarray:
    """How often the model gives a fact's answer about subjects that do not exist.

    Each fact's prompt is asked with invented subjects of its kind in place of its own.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    facts : sequence of Fact
        The n facts whose answers are looked for.
    names : mapping or sequence of str, optional
        The invented subjects, by relation or for all facts alike; by default twenty of the kind
        that the relation's name says, for the relations of the embedded sets.
    tokens : int
        About how many tokens a batch holds.
    chat : bool or str, optional
        As in `zu.scores.score`.

    Returns
    -------
    array, (n,)
        For each fact, the share of invented subjects, 0 to 1, that are given the fact's answer:
        every token of it is the model's first choice.

    Raises
    ------
    FactError
        For a fact without a subject or with its subject written into the prompt, and for a relation
        whose kind is unknown where no names are given.
    ValueError
        As `zu.scores.score` does.
    """
    facts, reader = as_facts(facts), Reader.of(model, tokenizer, None, chat)
    invented = [_names_of(fact, names) for fact in facts]
    asked = {(fact.prompt, fact.target, fact.join, name): None
             for fact, some in zip(facts, invented, strict=True) for name in some}
    right = _first_choices(reader, [*asked], tokens)
    found = np.zeros(len(facts))
    for i, (fact, some) in enumerate(zip(facts, invented, strict=True)):
        hits = [right[fact.prompt, fact.target, fact.join, name] for name in some]
        found[i] = np.mean(hits)
    return found


def known_beyond_guessing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    names: Names | None = None,
    *,
    most: float = 0.1,
    tokens: int = 1024,
    chat: bool | str | None = None,
) -> Facts:
    """The facts that the model knows and would not have guessed.

    Parameters
    ----------
    model, tokenizer, facts, names, tokens, chat
        As in `guessed`.
    most : float
        Largest share of invented subjects that may be given the fact's answer.

    Returns
    -------
    Facts
        Those of the facts that the model answers right and would guess at most so often, under the
        name of `facts` with "-known-beyond-guessing" appended.

    Raises
    ------
    FactError, ValueError
        As `guessed` does, and for `most` outside 0 to 1.
    """
    if not 0 <= most <= 1:
        raise ValueError(f"most is {most}: give a share from 0 to 1")
    facts = as_facts(facts)
    asked = [Question.of(fact) for fact in facts]
    right = score(model, tokenizer, asked, tokens=tokens, chat=chat)[:, 0] == 1
    candidates = [fact for fact, yes in zip(facts, right, strict=True) if yes]
    share = guessed(model, tokenizer, candidates, names, tokens=tokens, chat=chat)
    kept = (fact for fact, x in zip(candidates, share, strict=True) if x <= most)
    return Facts(kept, f"{facts.name}-known-beyond-guessing", facts.rule)


def with_known_neighbors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    *,
    tokens: int = 1024,
    chat: bool | str | None = None,
) -> Facts:
    """The same facts, each with those of its neighbours alone that the model knows.

    What an edit does to neighbours can be told only from those that are answered without it.

    Parameters
    ----------
    model, tokenizer, facts, tokens, chat
        As in `guessed`.

    Returns
    -------
    Facts
        The facts that have a known neighbour, under the name of `facts` with "-known-neighbors"
        appended. Facts without one are left out.

    Raises
    ------
    ValueError
        As `zu.scores.score` does.
    """
    facts = as_facts(facts)
    asked = different_neighbors(facts)
    scores = score(model, tokenizer, asked, tokens=tokens, chat=chat)[:, 0]
    right = {question for question, x in zip(asked, scores, strict=True) if x == 1}
    found = []
    for fact in facts:
        kept = tuple(pair for pair, question in zip(
            fact.neighbors, others(fact, fact.neighbors), strict=True) if question in right)
        if kept:
            found.append(replace(fact, neighbors=kept))
    return Facts(found, f"{facts.name}-known-neighbors", facts.rule)


def different_neighbors(facts: Sequence[Fact]) -> list[Question]:
    """The questions about the facts' neighbours, each once.

    Facts of a relation share neighbours. A mean over facts of what each keeps counts such a
    neighbour once for every fact that has it; a mean over these questions counts what is known.

    Parameters
    ----------
    facts : sequence of Fact
        The facts.

    Returns
    -------
    list of Question
        The different questions, in the order in which they first come.
    """
    return [*dict.fromkeys(question for fact in facts
                           for question in others(fact, fact.neighbors))]


def _names_of(fact: Fact, names: Names | None) -> Sequence[str]:
    """The invented subjects that a fact's prompt is asked with."""
    if not fact.subject or "{}" not in fact.prompt:
        raise FactError(f"fact {fact.id!r} has no subject that another could replace: give a "
                        "subject, and a prompt with {} in its place")
    if isinstance(names, Mapping):
        found: Sequence[str] = names.get(fact.relation, ())
    elif names is None:
        kind = kind_of(fact.relation)
        found = subjects(kind, 20) if kind else ()
    else:
        found = names
    if not found:
        raise FactError(f"no invented subjects for the relation {fact.relation!r}: give names, "
                        f"such as names={{{fact.relation!r}: [...]}}")
    return found


@torch.no_grad()
def _first_choices(
    reader: Reader, asked: Sequence[tuple[str, str, str | None, str]], tokens: int
) -> dict[tuple[str, str, str | None, str], bool]:
    """Whether each (prompt, answer, join, subject) is answered so.

    Most answers fail at their first token. So each text is read once for that, and only what
    passes is scored as a whole.
    """
    rows = [reader.wording.answered(_question(one)) for one in asked]
    starts = {tuple(ids[:-length]): None for ids, length in rows}
    first = dict(zip(starts, _next_tokens(reader, [*starts], tokens), strict=True))
    passed = [one for one, (ids, length) in zip(asked, rows, strict=True)
              if first[tuple(ids[:-length])] == ids[-length]]
    scores = score(reader.model, reader.tokenizer, [_question(one) for one in passed],
                   tokens=tokens, reader=reader)
    right = {one for one, x in zip(passed, scores[:, 0], strict=True) if x == 1}
    return {one: one in right for one in asked}


def _question(one: tuple[str, str, str | None, str]) -> Question:
    """A prompt with another subject, and the answer that is looked for."""
    prompt, target, join, name = one
    return Question(prompt.format(name), target, join, prompt.index("{}") + len(name))


def _next_tokens(reader: Reader, starts: Sequence[tuple[int, ...]], tokens: int) -> list[int]:
    """The model's first choice after each sequence of token ids."""
    if not starts:
        return []
    reader.check()
    batch = collate([([*ids], len(ids) - 1) for ids in starts], reader.model.device)
    found = torch.zeros(len(starts), dtype=torch.long)
    for index, part in batch.split(tokens):
        at = torch.zeros_like(part.ids, dtype=torch.bool)  # (rows, length)
        at[torch.arange(len(at), device=at.device), part.position] = True
        found[index.cpu()] = reader.logits_at(part, at).argmax(-1).cpu()  # (rows,)
    return [int(x) for x in found]
