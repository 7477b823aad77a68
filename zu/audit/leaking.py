"""Does it slip out? A forgotten answer among samples, and behind its own first tokens."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..batches import collate
from ..data.facts import Fact
from ..data.words import places
from ..modes import settles
from ..questions import Question
from ..reader import Reader
from ..wording import Wording
from .asking import Row, answered, distinct, frame, names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Leaks:
    """How answers come out.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places.
    k : int
        How many samples there are of each fact.
    p : array, (n,)
        The probability that one sample begins with the answer's tokens, at the temperature.
    starts, contains : array of int, (n,)
        Of the k samples, how many begin with the answer as a word, and how many hold it.
    tokens : array of int, (n,)
        How many tokens the answer has.
    prefix : array of int, (n,)
        The fewest of the answer's first tokens behind which all the others are the likeliest; 0 if
        none need be given, -1 if not even the last follows. For an answer of one token only 0 and
        -1 can be.
    """

    names: tuple[str, ...]
    k: int
    p: np.ndarray
    starts: np.ndarray
    contains: np.ndarray
    tokens: np.ndarray
    prefix: np.ndarray

    @property
    def chance(self) -> np.ndarray:
        """The probability that at least one of k samples begins with the answer's tokens: (n,)."""
        return -np.expm1(self.k * np.log1p(-np.minimum(self.p, 1 - 1e-16)))

    @property
    def expected(self) -> float:
        """The share of facts that leak in k samples, in expectation; exact, without a draw."""
        return float(self.chance.mean())

    @property
    def sampled(self) -> float:
        """The share of facts of which at least one sample begins with the answer."""
        return float((self.starts > 0).mean())

    @property
    def held(self) -> float:
        """The share of facts of which at least one sample holds the answer anywhere."""
        return float((self.contains > 0).mean())

    @property
    def extracted(self) -> float:
        """Of the facts with an answer of several tokens, the share that follows from its first
        ones: all but the last token may be given. NaN without such facts.
        """
        several = self.tokens > 1
        return float((self.prefix[several] >= 0).mean()) if several.any() else float("nan")

    def __str__(self) -> str:
        return (f"{self.expected:.1%} of {len(self.p)} facts leak in {self.k} samples in "
                f"expectation, {self.sampled:.1%} did; {self.held:.1%} hold the answer somewhere, "
                f"{self.extracted:.1%} of the longer ones follow from their first tokens")

    def frame(self) -> Any:
        """A table with a row for each fact (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "fact": "p", "chance" (in k samples), "starts", "contains", "tokens", "prefix".
        """
        columns = {"fact": self.names, "p": self.p, "chance": self.chance, "starts": self.starts,
                   "contains": self.contains, "tokens": self.tokens, "prefix": self.prefix}
        return frame([dict(zip(columns, row)) for row in zip(*columns.values())], "fact")


@settles
@torch.no_grad()
def leaks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Iterable[Fact],
    *,
    k: int = 20,
    temperature: float = 1.0,
    seed: int = 0,
    length: int = 8,
) -> Leaks:
    """Look for answers where a model is sampled, and behind their own first tokens.

    The number to report is `Leaks.expected`: that a sample begins with the answer's tokens has a
    probability that one pass reads off, and of k samples it is 1 - (1 - p)^k. A draw estimates the
    same with noise, and at p = 0.001 finds nothing most of the time. Samples are drawn all the same
    for what p leaves out: an answer in other tokens, or later in the text (`Leaks.held`).

    Each sample has random numbers of its own, by the seed, the question and its place. The samples
    of a fact are read together and no other fact with them, so that what comes out does not depend
    on the other facts.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : iterable of Fact
        The facts that should be forgotten.
    k : int
        How many samples of each; with 0 none is drawn.
    temperature : float
        By which the logits are divided.
    seed : int
        Of the draws.
    length : int
        How many tokens a sample has.

    Returns
    -------
    Leaks
        Probabilities, counts and the prefixes that suffice.

    Raises
    ------
    FactError
        For no facts, and answers that cannot be written in tokens.
    ValueError
        For settings that cannot be meant, and logits that are not finite.
    """
    for name, value, least in (("k", k, 0), ("length", length, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}: give {least} or more")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: give a number above 0")
    some, wording = distinct(facts, "facts"), Wording.of(tokenizer)
    reader = Reader(model, wording)
    rows = [answered(wording, [Question.of(fact)], fact)[0] for fact in some]
    found = []
    for fact, row in zip(some, rows, strict=True):
        logp, first = _of_answer(reader, row, temperature)
        draws = _uniform(fact, seed, (k, length))
        texts = _samples(reader, row[0][:-row[1]], draws, temperature)
        counts = [sum(is_there(text, fact.target) for text in texts) for is_there in
                  (_starts, lambda text, answer: bool(places(text, answer.strip())))]
        found.append((float(np.exp(logp.sum())), *counts, row[1], _prefix(first)))
    names = names_of(some)
    p, starts, contains, tokens, prefix = (np.array(column) for column in zip(*found))
    return Leaks(names, k, p, starts, contains, tokens, prefix)


def _of_answer(reader: Reader, row: Row, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each token of an answer, log p at a temperature, and whether it is the likeliest."""
    ids, count = row
    says = _logits(reader, [ids], range(len(ids) - count - 1, len(ids) - 1))  # (count, vocabulary)
    gold = torch.tensor(ids[-count:])
    logp = (says / temperature).log_softmax(-1)
    return logp.gather(1, gold[:, None])[:, 0].numpy(), (says.argmax(-1) == gold).numpy()


def _logits(reader: Reader, rows: Sequence[list[int]], at: Iterable[int]) -> torch.Tensor:
    """Logits of rows of one length at some places, row after row: (places, vocabulary) float64."""
    batch = collate([(row, 0) for row in rows], reader.model.device)
    reads = torch.zeros_like(batch.ids, dtype=torch.bool)
    reads[:, [*at]] = True
    return reader.logits_at(batch, reads).double().cpu()


def _prefix(first: np.ndarray) -> int:
    """How many of an answer's tokens must be given for all the others to be first choices."""
    misses = np.flatnonzero(~first)
    given = int(misses[-1]) + 1 if len(misses) else 0
    return given if given < len(first) else -1


def _uniform(fact: Fact, seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Numbers from 0 to 1 for each token of each sample of a fact."""
    sign = int.from_bytes(hashlib.sha256(fact.text.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, sign]).random(shape)


def _samples(
    reader: Reader, prompt: list[int], draws: np.ndarray, temperature: float
) -> list[str]:
    """Texts that a model goes on with, one for each row of draws, each token by its own number."""
    said: list[list[int]] = [[] for _ in draws]
    for step in range(draws.shape[1] if len(draws) else 0):
        distinct_ones = [*dict.fromkeys(map(tuple, said))]  # each is read once
        rows = [[*prompt, *ids] for ids in distinct_ones]
        says = _logits(reader, rows, [len(rows[0]) - 1])
        below = (says / temperature).softmax(-1).cumsum(-1)
        place = {ids: i for i, ids in enumerate(distinct_ones)}
        rank = torch.searchsorted(below[[place[tuple(ids)] for ids in said]],
                                  torch.tensor(draws[:, step, None]), right=True)
        for ids, token in zip(said, rank[:, 0].clamp(max=below.shape[1] - 1).tolist()):
            ids.append(token)
    return reader.tokenizer.batch_decode(said, skip_special_tokens=True) if said else []


def _starts(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, as a word."""
    return places(text.lstrip(), answer.strip())[:1] == [0]
