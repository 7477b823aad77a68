"""Was it forgotten, and what else changed? Efficacy, generality, specificity, perplexity."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from .batches import Batch, answers, collate
from .data.facts import Fact, FactError, Facts, as_facts
from .models import check_length, fitting, logits
from .modes import settles
from .passes import whole_logits
from .questions import Question, others, paraphrases
from .reader import Reader
from .second_moments import corpus, pack
from .wording import Wording, split_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Pair",
    "Scores",
    "bootstrap",
    "difference_interval",
    "evaluate",
    "known",
    "mcnemar",
    "percent_interval",
    "perplexity",
    "score",
    "split_answer",
    "wilson",
]

#: A prompt with its true answer; a `zu.questions.Question`, which says more about them; or a fact,
#: which stands for its own prompt.
Pair = tuple[str, str] | Question | Fact


@dataclass(frozen=True)
class Scores:
    """Accuracies by the data set's rule, as in the paper's tables, with intervals and counts.

    Attributes
    ----------
    eff, gen, spe, hop : float
        Accuracy in percent on the prompts, their paraphrases, their neighbours, and the questions
        that need the fact as one of two steps; NaN if there are none.
    prob_eff, prob_gen, prob_spe, prob_hop : float
        Mean probability of the true answer (Eq. 16), from 0 to 1.
    interval_eff, interval_gen, interval_spe, interval_hop : tuple of float
        95% interval over facts, in percent, see `percent_interval`. Facts that ask exactly the same
        prompts are drawn together; if all facts do, the prompts are drawn instead.
    n_eff, n_gen, n_spe, n_hop : int
        How many prompts were asked.
    """

    eff: float
    gen: float
    spe: float
    prob_eff: float
    prob_gen: float
    prob_spe: float
    interval_eff: tuple[float, float]
    interval_gen: tuple[float, float]
    interval_spe: tuple[float, float]
    n_eff: int
    n_gen: int
    n_spe: int
    hop: float = math.nan
    prob_hop: float = math.nan
    interval_hop: tuple[float, float] = (math.nan, math.nan)
    n_hop: int = 0

    def __str__(self) -> str:
        kinds = ["eff", "gen", "spe"]
        if self.n_hop:
            kinds.append("hop")
        return "  ".join(self._words(kind) for kind in kinds)

    def _words(self, kind: str) -> str:
        """One kind's accuracy, probability and count in words."""
        accuracy = getattr(self, kind)
        probability = getattr(self, f"prob_{kind}")
        count = getattr(self, f"n_{kind}")
        return f"{kind.title()} {accuracy:.1f}% (p {probability:.2g}, {count} asked)"

    def as_dict(self) -> dict:
        """The fields as plain numbers and tuples, for a record."""
        return asdict(self)


@settles
@torch.no_grad()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    tokens: int = 1024,
    reader: Reader | None = None,
    chat: bool | str | None = None,
) -> np.ndarray:
    """Score answers to prompts under teacher forcing.

    Logits are computed only at the answers' positions.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    pairs : sequence of (str, str), Question or Fact
        Prompts and their answers; a fact stands for its own prompt and answer.
    tokens : int
        About how many tokens a batch holds.
    reader : Reader, optional
        A reader of this model; it does not read again what it remembers.
    chat : bool or str, optional
        Whether to ask as a turn of a chat, see `zu.wording.Wording`; by default as the reader does,
        or else as plain text.

    Returns
    -------
    array, (pairs, 3)
        Whether all answer tokens are the most likely ones (0 or 1), the share of them that are,
        and the probability of the whole answer.

    Raises
    ------
    ValueError
        If the model's logits are not finite, an answer has no token, a question is longer than the
        model's context, or the tokenizer cannot ask in this chat.
    """
    if not len(pairs):
        return np.zeros((0, 3))
    reader = Reader.of(model, tokenizer, reader, chat)
    rows = [reader.wording.answered(Question.of(pair)) for pair in pairs]
    check_length(model, [ids for ids, _ in rows])
    reader.check()
    # here the "position" of a row is the length of its answer
    batch = collate(rows, model.device)
    out = np.zeros((len(rows), 3))
    for index, part in batch.split(tokens):
        out[index.cpu().numpy()] = _score_part(reader, part)
    return out


def _score_part(reader: Reader, part: Batch) -> np.ndarray:
    """`score` for one batch padded on the right, whose `position` holds the answers' lengths."""
    reads, gold, row = answers(part)  # (rows, length - 1), (answer tokens,) twice
    says = F.pad(reads, (0, 1))  # -> (rows, length): nothing is read at a row's last token
    logp = reader.logits_at(part, says).log_softmax(-1)  # (answer tokens, vocabulary)
    right = (logp.argmax(-1) == gold).double().cpu()
    value = logp.gather(1, gold[:, None])[:, 0].double().cpu()  # log p of each answer token
    # back from answer tokens to rows: (answer tokens,) -> (rows,)
    row = row.cpu()
    n = reads.sum(1).double().cpu()
    hits = torch.zeros(len(n), dtype=torch.double).index_add(0, row, right)
    total = torch.zeros(len(n), dtype=torch.double).index_add(0, row, value)
    columns = [(hits == n).double(), hits / n, total.exp()]
    return torch.stack(columns, 1).numpy()  # (rows, 3)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    *,
    rule: str | None = None,
    tokens: int = 1024,
    reader: Reader | None = None,
    chat: bool | str | None = None,
) -> Scores:
    """Measure efficacy, generality and specificity on facts; the model is not changed.

    Scores are averaged over the prompts of a fact first, then over facts.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    facts : sequence of Fact
        The facts to ask for.
    rule : str, optional
        "exact" or "tokens"; by default the facts' own rule (`Facts.rule`).
    tokens : int
        About how many tokens a batch holds.
    reader : Reader, optional
        A reader of this model, for prompts that are asked several times: it does not read again
        what it remembers.
    chat : bool or str, optional
        As in `score`.

    Returns
    -------
    Scores
        Accuracies, probabilities, intervals and counts.

    Raises
    ------
    FactError
        If a question cannot be asked; the message names the fact and the field.
    ValueError
        If there is no such rule, and as `score` does.

    References
    ----------
    The paper's Section 6.1.
    """
    facts = as_facts(facts)
    column = _column(rule or facts.rule)
    kinds = _by_kind(facts)
    # the same question is often a neighbour of several facts: ask it once
    unique = list(dict.fromkeys(_flat(kinds)))
    try:
        found = score(model, tokenizer, unique, tokens=tokens, reader=reader, chat=chat)
    except FactError as error:
        where = _unaskable(facts, kinds, Reader.of(model, tokenizer, reader, chat).wording)
        raise FactError(f"{where}: {error}") from None
    asked = dict(zip(unique, found, strict=True))
    out: dict[str, Any] = {}
    for kind, groups in kinds.items():
        out |= _summary(kind, groups, asked, column)
    return Scores(**out)


def _column(rule: str) -> int:
    """The column of `score` that a rule reads."""
    if rule not in ("exact", "tokens"):
        raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")
    return 0 if rule == "exact" else 1


def _by_kind(facts: Sequence[Fact]) -> dict[str, list[list[Question]]]:
    """The questions by kind, as one list per fact, which may be empty."""
    kinds: dict[str, list[list[Question]]] = {"eff": [], "gen": [], "spe": [], "hop": []}
    for fact in facts:
        kinds["eff"].append([Question.of(fact)])
        kinds["gen"].append(paraphrases(fact))
        kinds["spe"].append(others(fact, fact.neighbors))
        kinds["hop"].append(others(fact, fact.hops))
    return kinds


def _flat(kinds: Mapping[str, list[list[Question]]]) -> Iterator[Question]:
    """All questions, kind after kind and fact after fact."""
    for groups in kinds.values():
        for group in groups:
            yield from group


def _unaskable(
    facts: Sequence[Fact], kinds: Mapping[str, list[list[Question]]], wording: Wording
) -> str:
    """The place of the first question that cannot be put into tokens, for messages."""
    fields = dict(eff="prompt and target", gen="paraphrases", spe="neighbors", hop="hops")
    for kind, groups in kinds.items():
        for number, (fact, group) in enumerate(zip(facts, groups, strict=True), 1):
            for question in group:
                try:
                    wording.answered(question)
                except FactError:
                    return f"fact {number} of {len(facts)} (id '{fact.id or '?'}'), {fields[kind]}"
    return "a question"


def _summary(
    kind: str, groups: list[list[Question]], asked: Mapping[Question, np.ndarray], column: int
) -> dict[str, float | int | tuple[float, float]]:
    """The fields of `Scores` for one kind of question; `column` is the rule's in `score`."""
    some = [group for group in groups if group]
    means = _means(some, asked)  # (facts, 3)
    accuracies = means[:, column] * 100
    sets = Counter(tuple(group) for group in some)
    units: list[tuple[Question, ...]]
    if len(sets) == 1 < len(accuracies):  # all facts ask the same: the prompts are drawn
        units = [(pair,) for group in sets for pair in group]
        weights = None
    else:
        units = list(sets)
        weights = np.array([*sets.values()])
    values = _means(units, asked)[:, column] * 100
    return {
        kind: float(accuracies.mean()) if some else math.nan,
        f"prob_{kind}": float(means[:, 2].mean()) if some else math.nan,
        f"interval_{kind}": percent_interval(values, weights),
        f"n_{kind}": sum(map(len, groups)),
    }


def _means(
    units: Sequence[Sequence[Question]], asked: Mapping[Question, np.ndarray]
) -> np.ndarray:
    """The scores, averaged over the pairs of each unit: (units, 3), where units may be 0."""
    rows = []
    for unit in units:
        rows.append(np.mean([asked[pair] for pair in unit], 0))  # (pairs, 3) -> (3,)
    return np.array(rows).reshape(-1, 3)


def known(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    *,
    tokens: int = 1024,
    chat: bool | str | None = None,
) -> Facts:
    """The facts that the model knows.

    The model knows a fact if every token of the answer is its first choice after the fact's own
    prompt. The paper draws the facts to forget without this test.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    facts : sequence of Fact
        The facts to ask for.
    tokens : int
        About how many tokens a batch holds.
    chat : bool or str, optional
        As in `score`.

    Returns
    -------
    Facts
        The known facts, possibly none, under the name of `facts` with "-known" appended.

    Raises
    ------
    ValueError
        As `score` does.
    """
    facts = as_facts(facts)
    asked = [Question.of(fact) for fact in facts]
    right = score(model, tokenizer, asked, tokens=tokens, chat=chat)[:, 0]
    kept = (fact for fact, r in zip(facts, right, strict=True) if r)
    return Facts(kept, f"{facts.name}-known", facts.rule)


def bootstrap(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95% percentile interval of a mean, by resampling.

    Parameters
    ----------
    values : array, (n,)
        The values to resample.
    weights : array, (n,), optional
        The values' weights; by default all are equal.
    draws : int
        How many samples of size n to draw.
    seed : int
        The generator's seed.

    Returns
    -------
    low, high : float
        In the values' unit; NaN if there are no values.
    """
    if not len(values):
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, len(values), (draws, len(values)))  # (draws, n) indices
    if weights is None or len(set(weights)) == 1:
        means = values[rows].mean(1)  # (draws, n) -> (draws,)
    else:
        means = (values * weights)[rows].sum(1) / weights[rows].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share.

    Parameters
    ----------
    hits, n : int
        The share is `hits` of `n`.

    Returns
    -------
    low, high : float
        In percent; the interval has a positive width even if all or none are hits.

    References
    ----------
    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest  # here, as it takes a second to import

    found = binomtest(hits, n).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact p for paired answers: were as many lost as won?

    Parameters
    ----------
    lost, won : int
        Of the questions asked twice, how many were right only before, and only after. Questions
        with the same result both times do not count.

    Returns
    -------
    float
        The two-sided p; 1 if no answer changed.
    """
    from scipy.stats import binomtest  # here, as it takes a second to import

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def percent_interval(
    values: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """The 95% interval of a mean of percentages.

    If every value is 0 or 100 and has the same weight, this is Wilson's interval of a share;
    otherwise it is that of `bootstrap`. Resampling only zeros would give only zeros, however few
    there are.

    Parameters
    ----------
    values : array, (n,)
        Percentages, 0 to 100.
    weights : array, (n,), optional
        The values' weights; by default all are equal.

    Returns
    -------
    low, high : float
        In percent; NaN if there are no values.
    """
    values = np.asarray(values, float)
    n, plain = len(values), bool(np.isin(values, (0.0, 100.0)).all())
    even = weights is None or len(set(weights)) == 1
    same = n > 0 and bool((values == values[0]).all())
    if n and plain and (even or same):
        return wilson(int((values == 100).sum()), n)
    return bootstrap(values, weights)


def difference_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean of paired differences of percentages.

    It is that of `bootstrap`. If all differences are 0, all 100 or all −100, it extends from them
    by the width of Wilson's interval for no hits in n.

    Parameters
    ----------
    values : array, (n,)
        Differences, −100 to 100.

    Returns
    -------
    low, high : float
        In percentage points; NaN if there are no values.
    """
    values = np.asarray(values, float)
    n = len(values)
    if not n or (values != values[0]).any() or values[0] not in (0.0, 100.0, -100.0):
        return bootstrap(values)
    width = wilson(0, n)[1]
    return max(values[0] - width, -100.0), min(values[0] + width, 100.0)


@settles
@torch.no_grad()
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | str | Path | None = None,
    *,
    tokens: int = 8192,
    window: int = 1024,
    stride: int = 512,
    reader: Reader | None = None,
) -> float:
    """Perplexity on held-out prose, in overlapping windows; every token but the first counts once.

    Each window of `window` tokens scores its last `stride` tokens. The first window scores all but
    its first token, and the last window scores what is left. A token sees at least window − stride
    tokens before it, and always at least one, so a stride of `window` counts as window − 1. The
    released code reads the first 100 tokens of the Wikipedia dump that C_0 comes from, and uses the
    exponent 1/N although N − 1 tokens are predicted.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    texts : sequence of str, str or Path, optional
        Texts, or a file or hub data set as `zu.second_moments.corpus` takes it, such as
        ``"hub:Salesforce/wikitext:wikitext-2-raw-v1:test"``; by default the embedded held-out
        prose.
    tokens : int
        How many tokens to read from the beginning, rounded down to whole windows.
    window, stride : int
        The length of a window and the distance between windows, in tokens. A window longer than the
        model's context is cut to it, with a warning.
    reader : Reader, optional
        As in `evaluate`.

    Returns
    -------
    float
        The exponential of the mean of −log p over the scored tokens.

    Raises
    ------
    ValueError
        If `stride` is not between 1 and `window`, there are fewer than two tokens, or the model's
        logits are not finite.
    """
    prose, reader = _heldout(texts), Reader.of(model, tokenizer, reader)
    _check_windows(tokens, window, stride)
    window, stride = _fitting(model, min(tokens, window), stride)
    ids = pack(reader.tokenizer, prose, tokens, window).flatten()  # (windows, window) -> (n,)
    # where the overlapping windows end; the last one ends with the text
    ends = [*range(window, len(ids), min(stride, window - 1)), len(ids)]
    total, scored = 0.0, 1
    reader.check()
    for batch in tqdm(torch.tensor(ends).split(8), desc="perplexity", leave=False):
        stops = batch.tolist()
        rows = torch.stack([ids[stop - window:stop] for stop in stops])  # (8, window)
        rows = rows.to(model.device)  # nothing is padded, and no position is read
        says = _speaker(reader, rows)
        for i, stop in enumerate(stops):
            first = scored - (stop - window)  # the first token of this row not yet scored
            scored = stop
            logp = says(i, first).log_softmax(-1)  # (scored tokens, vocabulary)
            total -= logp.gather(1, rows[i, first:, None]).double().sum().item()
    return float(np.exp(total / (len(ids) - 1)))


def _fitting(model: PreTrainedModel, window: int, stride: int) -> tuple[int, int]:
    """A window cut to the model's context, and its stride in proportion."""
    cut = fitting(model, window)
    return cut, max(stride * cut // window, 1)


def _speaker(reader: Reader, rows: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
    """A function of a row and `first` that returns the logits for its tokens from `first` on.

    It works row by row, since the logits of all rows (rows, window) together would take gigabytes.
    """
    if reader.readable:
        states = reader.last_states(Batch(rows, None, rows[:, 0]))  # (rows, window, d)
        return lambda i, first: logits(reader.model, states[i, first - 1:-1])

    def whole(i: int, first: int) -> torch.Tensor:
        row = rows[i:i + 1]
        says = torch.zeros_like(row, dtype=torch.bool)  # (1, window)
        says[:, first - 1:-1] = True
        return whole_logits(reader.model, Batch(row, None, row[:, 0]), says)

    return whole


def _check_windows(tokens: int, window: int, stride: int) -> None:
    """Raise `ValueError` for windows that score nothing, or leave tokens out."""
    if not 0 < stride <= window:
        raise ValueError(f"stride is {stride}: give 1 to window ({window})")
    if min(tokens, window) < 2:
        raise ValueError(f"tokens is {tokens}, window {window}: give 2 or more, since the first "
                         "token is not scored")


def _heldout(texts: Sequence[str] | str | Path | None) -> Iterable[str]:
    """The texts that `perplexity` reads."""
    if texts is None:
        from .data import world  # here, so that it is read only where it is wanted

        return world.prose("heldout")
    if isinstance(texts, str | Path):
        return corpus(texts)[1]
    return texts
