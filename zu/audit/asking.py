"""What a model says of each token of some texts, for the rooms of the audit that need more than it.
"""
from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..batches import Batch, answers, collate
from ..data.facts import Fact, FactError, as_facts
from ..models import check_length
from ..questions import Question
from ..reader import Reader
from ..scores import score
from ..wording import Wording

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A sequence's token ids, and how many at its end are looked at.
Row = tuple[list[int], int]


class Said(NamedTuple):
    """What a model says of the last tokens of one sequence.

    Attributes
    ----------
    logp : array, (tokens,)
        The log-probability of each token given those before it, in nats.
    mean, deviation : array, (tokens,)
        Mean and standard deviation of the next token's log-probability, for a token drawn by the
        model itself at that place.
    first : array of bool, (tokens,)
        Whether the token is the likeliest.
    """

    logp: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    first: np.ndarray


@torch.no_grad()
def said(reader: Reader, rows: Sequence[Row], tokens: int = 512) -> list[Said]:
    """What a model says of the last tokens of some sequences.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    rows : sequence of (list of int, int)
        Token ids, and how many at the end are looked at: at most all but the first.
    tokens : int
        About how many tokens a batch holds.

    Returns
    -------
    list of Said
        One for each row.

    Raises
    ------
    ValueError
        If the model's logits are not finite, or a row is longer than the model's context.
    """
    check_length(reader.model, [ids for ids, _ in rows])
    reader.check()
    found: dict[int, Said] = {}
    batch = collate(rows, reader.model.device)
    for numbers, part in batch.split(tokens):
        for number, what in zip(numbers.tolist(), _said_of(reader, part), strict=True):
            found[number] = what
    return [found[number] for number in range(len(rows))]


def _said_of(reader: Reader, part: Batch) -> list[Said]:
    """`said` for one batch padded on the right, whose `position` holds how many tokens count."""
    reads, gold, row = answers(part)  # (rows, length - 1), (tokens,) twice
    logp = reader.logits_at(part, F.pad(reads, (0, 1))).double().log_softmax(-1)
    own = logp.gather(1, gold[:, None])[:, 0]
    p, finite = logp.exp(), logp.clamp(min=torch.finfo(torch.float32).min)  # 0 times -inf is 0
    mean = (p * finite).sum(-1)
    spread = (p * (finite - mean[:, None]).square()).sum(-1).sqrt()
    first = logp.argmax(-1) == gold
    counts = torch.bincount(row, minlength=len(reads)).tolist()
    columns = (x.cpu().split(counts) for x in (own, mean, spread, first))
    return [Said(*(x.numpy() for x in some)) for some in zip(*columns, strict=True)]


def whole(row: Row) -> Row:
    """A sequence of which all tokens but the first are looked at.

    Parameters
    ----------
    row : (list of int, int)
        Token ids, and how many at the end are the answer's.

    Returns
    -------
    (list of int, int)
        The same ids.
    """
    return row[0], len(row[0]) - 1


def distinct(facts: Iterable[Fact], what: str, least: int = 1) -> list[Fact]:
    """Facts without what is there twice.

    Parameters
    ----------
    facts : iterable of Fact
        The facts.
    what : str
        The name of the argument, for messages.
    least : int
        How many different ones there must be.

    Returns
    -------
    list of Fact
        In their order.

    Raises
    ------
    FactError
        For fewer.
    """
    some = [*dict.fromkeys(as_facts(facts))]
    if len(some) < least:
        raise FactError(f"{what}: {len(some)} different facts are too few, give {least} or more")
    return some


def called(fact: Fact) -> str:
    """How a message names a fact: by its id, since its text is private.

    Parameters
    ----------
    fact : Fact
        The fact.

    Returns
    -------
    str
        "fact 'ID'", with a question mark for a fact without an id.
    """
    return f"fact '{fact.id or '?'}'"


def names_of(facts: Sequence[Fact]) -> tuple[str, ...]:
    """What results call facts: their ids or, without one, their places.

    Parameters
    ----------
    facts : sequence of Fact
        The facts.

    Returns
    -------
    tuple of str
        One name for each, which is no part of its text.
    """
    return tuple(fact.id or f"fact {i}" for i, fact in enumerate(facts, 1))


def are_right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | Wording, facts: Sequence[Fact]
) -> np.ndarray:
    """Which facts a model answers as it is now.

    Parameters
    ----------
    model, tokenizer
        The model, and its tokenizer, or how it is asked.
    facts : sequence of Fact
        The n facts.

    Returns
    -------
    array of bool, (n,)
        Whether every token of the answer is the model's first choice.
    """
    if not facts:
        return np.zeros(0, bool)
    reader = Reader(model, tokenizer)
    return score(model, reader.tokenizer, facts, reader=reader)[:, 0] == 1


def answered(wording: Wording, questions: Sequence[Question], fact: Fact) -> list[Row]:
    """A fact's questions and their answers as token ids.

    Parameters
    ----------
    wording : Wording
        How the model is asked.
    questions : sequence of Question
        The fact's.
    fact : Fact
        The fact, for messages.

    Returns
    -------
    list of (list of int, int)
        The ids of prompt and answer, and how many are the answer's.

    Raises
    ------
    FactError
        For an answer that cannot be put into tokens; the message names the fact's id.
    """
    try:
        return [wording.answered(question) for question in questions]
    except FactError as error:
        raise FactError(f"{called(fact)}: {error}") from None


def frame(rows: Sequence[Mapping[str, Any]], index: str) -> Any:
    """Rows as a table of pandas, which only a table needs.

    Parameters
    ----------
    rows : sequence of mapping
        By column.
    index : str
        The column that names the rows.

    Returns
    -------
    pandas.DataFrame
        The table.

    Raises
    ------
    ImportError
        Without pandas.
    """
    return importlib.import_module("pandas").DataFrame(rows).set_index(index)
