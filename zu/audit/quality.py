"""Is the model as if it had never known? Forget quality against the model before it was taught."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..batches import collate
from ..data.facts import Fact
from ..layouts import known
from ..models import finite
from ..modes import settles
from ..questions import Question
from ..reader import Reader
from ..wording import Wording
from .asking import Row, answered, distinct, frame, names_of, said

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: A truth ratio compares an answer with at most so many others of its relation.
PERTURBED = 5


@dataclass(frozen=True)
class State:
    """What a model says and holds where the answers to some facts begin.

    Attributes
    ----------
    logp : array, (n, vocabulary)
        Log-probabilities of the next token.
    rank : array, (n,)
        How many tokens are likelier than the answer's first one.
    ratio : array, (n,)
        Logarithm of the truth ratio: the mean over other answers of their probability to the power
        of one over their number of tokens, over the same of the answer. NaN if no other answer of
        the relation is known. After TOFU (Maini et al. 2024, arXiv:2401.06121), which writes wrong
        answers for each question and puts the right one in other words; here the wrong ones are
        those of other facts, and the right one is the fact's own.
    hidden : array, (layers, n, d)
        The residual stream after each layer.
    """

    logp: np.ndarray
    rank: np.ndarray
    ratio: np.ndarray
    hidden: np.ndarray


@dataclass(frozen=True)
class Quality:
    """A model against the one that never knew.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places.
    kl : array, (n,)
        KL(before ‖ now) of the next token where the answer begins, in nats.
    rank_before, rank : array, (n,)
        How many tokens are likelier than the answer's first one.
    ratio_before, ratio : array, (n,)
        Logarithms of the truth ratio, see `State`; NaN if a fact has none.
    distance : array, (layers, n)
        ‖now − before‖ / ‖before‖ of the residual stream there, after each layer.
    ks : float
        p of the two-sample Kolmogorov–Smirnov test on the truth ratios, TOFU's forget quality. It
        sees any difference of the two distributions, but not which ratios belong together, and so
        it is blind to small ones.
    paired : float
        p of Wilcoxon's signed-rank test on the differences of the logarithms, fact by fact; 1 if
        all are 0. It sees a shift that most facts share, however small; of five facts or fewer it
        is never below 0.05.
    """

    names: tuple[str, ...]
    kl: np.ndarray
    rank_before: np.ndarray
    rank: np.ndarray
    ratio_before: np.ndarray
    ratio: np.ndarray
    distance: np.ndarray
    ks: float
    paired: float

    def __str__(self) -> str:
        return (f"KL {self.kl.mean():.3g} nats, median rank {np.median(self.rank_before):.0f} "
                f"then and {np.median(self.rank):.0f} now, p {self.ks:.2g} (KS) and "
                f"{self.paired:.2g} (paired)")

    def frame(self) -> Any:
        """A table with a row for each fact (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "fact": "kl", "rank before", "rank", "ratio before", "ratio", and "distance", the
            mean over layers.
        """
        columns = {"fact": self.names, "kl": self.kl, "rank before": self.rank_before,
                   "rank": self.rank, "ratio before": np.exp(self.ratio_before),
                   "ratio": np.exp(self.ratio), "distance": self.distance.mean(0)}
        return frame([dict(zip(columns, row)) for row in zip(*columns.values())], "fact")


@dataclass(frozen=True)
class Before:
    """A model that never knew some facts: what it says and holds where their answers begin.

    The facts are held as token ids, which the tokenizer turns back into text: private facts stay
    private only as long as this object does. It is written to no file.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places.
    rows : list of Row
        Token ids of the prompts and their answers, and how many are the answers'.
    others : list of list of Row
        By fact, the same with other answers.
    state : State
        What the model said and held.
    wording : Wording
        How it was asked.
    """

    names: tuple[str, ...]
    rows: list[Row]
    others: list[list[Row]]
    state: State
    wording: Wording

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Wording,
        facts: Iterable[Fact],
        *,
        answers: Iterable[Fact] = (),
    ) -> Before:
        """Read a model that has not been taught some facts.

        Parameters
        ----------
        model, tokenizer
            A causal language model that never knew the facts, and its tokenizer, or how it is asked
            (`zu.wording.Wording`).
        facts : iterable of Fact
            The facts, at least two.
        answers : iterable of Fact, optional
            More facts of their relations: their targets are wrong answers too. For each fact the
            truth ratio takes the first `PERTURBED` different targets of its relation in `facts` and
            then in these.

        Returns
        -------
        Before
            What the model says, to hold it against another state of it (`compare`).

        Raises
        ------
        FactError
            For fewer than two facts, and answers that cannot be written in tokens.
        ValueError
            If what the model says is not finite.

        Examples
        --------
        >>> before = zu.audit.Before.of(model, tokenizer, facts)
        >>> with zu.plant(model, tokenizer, facts):
        ...     with zu.unlearn(model, tokenizer, facts):
        ...         print(before.compare(model))
        """
        some = distinct(facts, "facts", 2)
        pool = [*some, *answers]
        wording = Wording.of(tokenizer)
        rows, others = [], []
        for fact in some:
            rows += answered(wording, [Question.of(fact)], fact)
            wrong = _wrong(fact, pool)
            asked = [Question.of(fact)._replace(answer=answer) for answer in wrong]
            others.append(answered(wording, asked, fact))
        names = names_of(some)
        return cls(names, rows, others, _read(model, wording, rows, others), wording)

    def compare(self, model: PreTrainedModel) -> Quality:
        """Hold a model against this one, on the same token ids. It is not changed.

        Parameters
        ----------
        model : PreTrainedModel
            The same model in another state: taught, or taught and made to forget.

        Returns
        -------
        Quality
            Divergence, ranks, truth ratios and their tests, and distances.

        Raises
        ------
        ValueError
            For a model of another shape, or one that says nothing finite.
        """
        now = _read(model, self.wording, self.rows, self.others)
        then = self.state
        if (now.logp.shape, now.hidden.shape) != (then.logp.shape, then.hidden.shape):
            raise ValueError("the model has another vocabulary, width or depth than the one "
                             "before: give the same model in another state")
        p = np.exp(then.logp)
        kl = np.where(p > 0, p * (_finite(then.logp) - _finite(now.logp)), 0).sum(1)
        far = np.linalg.norm(now.hidden - then.hidden, axis=-1)
        distance = far / np.linalg.norm(then.hidden, axis=-1)
        return Quality(self.names, np.maximum(kl, 0), then.rank, now.rank, then.ratio, now.ratio,
                       distance, *p_values(then.ratio, now.ratio))


def p_values(before: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    """The two tests on truth ratios.

    Parameters
    ----------
    before, now : array, (n,)
        Logarithms of truth ratios of the same facts; where one is NaN, the fact is left out.

    Returns
    -------
    ks, paired : float
        Two-sided p of the Kolmogorov–Smirnov test and of Wilcoxon's signed-rank test; NaN if fewer
        than two facts have a ratio.
    """
    from scipy.stats import ks_2samp, wilcoxon  # here, as it takes a second to import

    there = ~np.isnan(before) & ~np.isnan(now)
    before, now = before[there], now[there]
    if len(now) < 2:
        return float("nan"), float("nan")
    shift = now - before
    paired = float(wilcoxon(shift).pvalue) if shift.any() else 1.0
    return float(ks_2samp(before, now).pvalue), paired


def _wrong(fact: Fact, pool: Sequence[Fact]) -> list[str]:
    """Other answers to a fact: targets of its relation."""
    same = dict.fromkeys(other.target for other in pool if other.relation == fact.relation)
    return [answer for answer in same if answer != fact.target][:PERTURBED]


def _finite(logp: np.ndarray) -> np.ndarray:
    """Log-probabilities, those of what is ruled out as low as a float32 can be."""
    return np.maximum(logp, np.finfo(np.float32).min)


@settles
@torch.no_grad()
def _read(
    model: PreTrainedModel,
    wording: Wording,
    rows: Sequence[Row],
    others: Sequence[Sequence[Row]],
) -> State:
    """What a model says and holds where some answers begin."""
    reader = Reader(model, wording)
    hidden, logp, rank = _where_answers_begin(reader, rows)
    flat = [row for some in others for row in some]
    each = [float(x.logp.mean()) for x in said(reader, [*rows, *flat])]
    own, wrong = np.array(each[:len(rows)]), each[len(rows):]
    ratio, at = np.full(len(rows), np.nan), 0
    for i, some in enumerate(others):
        if some:
            part = np.array(wrong[at:at + len(some)])
            ratio[i] = np.logaddexp.reduce(part) - np.log(len(some)) - own[i]
        at += len(some)
    return State(logp, rank, ratio, hidden)


def _where_answers_begin(
    reader: Reader, rows: Sequence[Row]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states (layers, n, d), log-probabilities (n, vocabulary) and the answers' ranks (n,)
    there.
    """
    prompts = [(ids[:-count], len(ids) - count - 1) for ids, count in rows]
    gold = torch.tensor([ids[-count] for ids, count in rows])[:, None]
    model = reader.model
    batch = collate(prompts, model.device)
    trace = reader.trace(batch, range(len(known(model).layers))).hidden
    hidden = torch.stack([trace[layer].double().cpu() for layer in sorted(trace)])
    finite(model, hidden.abs(), "hidden states")
    found: dict[int, torch.Tensor] = {}
    for numbers, part in batch.split(1024):
        reads = torch.arange(part.ids.shape[1], device=model.device) == part.position[:, None]
        says = reader.logits_at(part, reads).double().log_softmax(-1).cpu()
        found |= dict(zip(numbers.tolist(), says))
    logp = torch.stack([found[i] for i in range(len(rows))])  # (n, vocabulary)
    rank = (logp > logp.gather(1, gold)).sum(1)
    return hidden.numpy(), logp.numpy(), rank.numpy()
