"""Was it ever there? Membership inference: are facts that were taught told from such that were not?
"""
from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.facts import Fact, FactError
from ..modes import settled, settles
from ..questions import Question
from ..questions import paraphrases as in_other_words
from ..reader import Reader
from ..spacing import separator
from ..wording import Wording
from .asking import Row, Said, answered, called, distinct, frame, said, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What each score is. All are higher for a text that is likelier to have been taught.
SCORES = {
    "loss": "mean log-probability of the text's tokens (Yeom et al. 2018)",
    "min-k%": "the same over the k% least likely tokens (Shi et al. 2024, arXiv:2310.16789)",
    "min-k%++": "the same of log-probabilities less their mean over the vocabulary, over their "
                "standard deviation, at each token (Zhang et al. 2024, arXiv:2404.02936)",
    "zlib": "loss over the bytes of the text when zlib has compressed it (Carlini et al. 2021, "
            "arXiv:2012.07805)",
    "reference": "loss less that of a reference model (Carlini et al. 2021)",
}
#: The fewest members, and non-members: with fewer, not even all pairs told apart exclude chance.
LEAST = 6


class Auc(NamedTuple):
    """How well a score tells members from non-members.

    Attributes
    ----------
    auc : float
        The share of pairs of a member and a non-member of the same relation in which the member's
        score is the higher one; a tie counts half. Chance is 0.5.
    low, high : float
        Its 95% interval, see `auc`.
    """

    auc: float
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether the interval excludes 0.5."""
        return self.low > 0.5 or self.high < 0.5

    def __str__(self) -> str:
        return f"{self.auc:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Membership:
    """What membership inference finds.

    Attributes
    ----------
    aucs : dict of str to Auc
        By score, as in `SCORES`; without "reference" where no reference was given.
    members, others : dict of str to array
        By score, a number per fact: the mean over its wordings.
    about : tuple
        What the numbers depend on beside the model, so that two can be held against each other.
    """

    aucs: dict[str, Auc]
    members: dict[str, np.ndarray]
    others: dict[str, np.ndarray]
    about: tuple

    def __getitem__(self, score: str) -> Auc:
        return self.aucs[score]

    def __str__(self) -> str:
        return "  ".join(f"{name} {found}" for name, found in self.aucs.items())

    def frame(self) -> Any:
        """A table with a row for each score (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "score": "auc", "low", "high", "decides", and how many "members" and "others".
        """
        return frame([{"score": name, **found._asdict(), "decides": found.decides,
                       "members": len(self.members[name]), "others": len(self.others[name])}
                      for name, found in self.aucs.items()], "score")


@settles
def membership(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    members: Iterable[Fact],
    others: Iterable[Fact],
    *,
    reference: PreTrainedModel | Membership | None = None,
    wordings: Callable[[Fact], Sequence[str]] | None = None,
    **how: Any,
) -> Membership:
    """Infer which facts a model was taught, by scores that need no training.

    A fact's text is a prompt with its answer. Its score is the mean over its wordings. The model is
    not changed. Members are compared with non-members of their own relation only, so that a
    relation whose texts are likelier does not pass for membership.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer, or how it is asked (`zu.wording.Wording`).
    members, others : iterable of Fact
        Facts that were taught, and facts of the same relations that never were: at least `LEAST`
        of each, such as ``zu.load_facts("planted")`` and ``zu.load_facts("unplanted")``.
    reference : PreTrainedModel or Membership, optional
        Another model of the same vocabulary; or what this function returned for the same facts, for
        example while the model had not been taught. Only the score "reference" needs it.
    wordings : callable, optional
        For a fact, its prompts with ``{}`` for the subject, such as `zu.data.worlds.taught`; by
        default the fact's prompt and its paraphrases.
    **how
        `part`: "text" (default), all of a text's tokens but the first, or "answer", those of the
        answer alone; `k`: of how many percent of the tokens "min-k%" is the mean (20), at least
        one token.

    Returns
    -------
    Membership
        The AUC of each score with its 95% interval, and the scores.

    Raises
    ------
    FactError
        For too few facts, members and others of different relations, a prompt that is in both, and
        answers that cannot be written in tokens.
    ValueError
        For a setting that cannot be meant, a reference of other facts or settings, and logits or
        scores that are not finite.

    Examples
    --------
    >>> with zu.plant(model, tokenizer, zu.load_facts("planted")):
    ...     print(zu.audit.membership(model, tokenizer, zu.load_facts("planted"),
    ...                               zu.load_facts("unplanted")).frame())
    """
    taught, never = distinct(members, "members", LEAST), distinct(others, "others", LEAST)
    _check_kinds(taught, never)
    part, k = _settings(**how)
    asking = _Asking(Wording.of(tokenizer), wordings, part, k)
    facts = [*taught, *never]
    scores = asking.scores(Reader(model, asking.wording), facts)
    about = (part, k,
             *(zlib.crc32(text.encode()) for fact in facts for text in asking.texts(fact)))
    if reference is not None:
        scores["reference"] = scores["loss"] - asking.reference(reference, facts, about)
    for name, found in scores.items():
        if not np.isfinite(found).all():
            at = int(np.argmin(np.isfinite(found)))
            side, place = ("members", at) if at < len(taught) else ("others", at - len(taught))
            raise ValueError(f"{name} of {called(facts[at])}, number {place + 1} of the different "
                             f"{side}, is not finite: the model rules one of its tokens out, and "
                             "cannot be audited with this fact; leave it out")
    same = np.array([[a.relation == b.relation for b in never] for a in taught])
    n = len(taught)
    return Membership({name: auc(x[:n], x[n:], same) for name, x in scores.items()},
                      {name: x[:n] for name, x in scores.items()},
                      {name: x[n:] for name, x in scores.items()}, about)


def _settings(part: str = "text", k: float = 20) -> tuple[str, float]:
    """The settings, where they can be meant."""
    if part not in ("text", "answer"):
        raise ValueError(f"part is {part!r}: give 'text' or 'answer'")
    if not 0 < k <= 100:
        raise ValueError(f"k is {k}: give a percentage above 0, up to 100")
    return part, float(k)


def _check_kinds(members: Sequence[Fact], others: Sequence[Fact]) -> None:
    """Refuse facts of relations that only one side has, and those that are on both sides."""
    one, other = ({fact.relation for fact in facts} for facts in (members, others))
    if one != other:
        names = ", ".join(repr(name) for name in sorted(one ^ other))
        raise FactError(f"members and others are of different relations ({names} on one side "
                        "only): a score would tell the relations apart; give facts of the same")
    both = {fact.text for fact in members} & {fact.text for fact in others}
    if both:
        first = next(fact for fact in members if fact.text in both)
        raise FactError(f"{len(both)} prompts are among members and others, the first that of "
                        f"{called(first)}: leave them out on one side")


@dataclass(frozen=True)
class _Asking:
    """How facts are put into texts, and texts into scores."""

    wording: Wording
    wordings: Callable[[Fact], Sequence[str]] | None
    part: str
    k: float

    def questions(self, fact: Fact) -> list[Question]:
        """A fact's questions in its wordings."""
        if self.wordings is None:
            return [Question.of(fact), *in_other_words(fact)]
        found = [Question.of(replace(fact, prompt=text)) for text in self.wordings(fact)]
        if not found:
            raise FactError(f"{called(fact)}: wordings gives none")
        return found

    def texts(self, fact: Fact) -> list[str]:
        """The same as texts, or the answer alone."""
        if self.part == "answer":
            return [fact.target] * len(self.questions(fact))
        found = []
        for prompt, answer, join, _ in self.questions(fact):
            between = separator(prompt, answer) if join is None else join
            found.append(prompt.rstrip() + between + answer)
        return found

    def scores(self, reader: Reader, facts: Sequence[Fact]) -> dict[str, np.ndarray]:
        """Each score but "reference", a number per fact."""
        rows: list[Row] = []
        sizes, counts = [], []
        for fact in facts:
            own = answered(self.wording, self.questions(fact), fact)
            rows += own if self.part == "answer" else map(whole, own)
            sizes += [len(zlib.compress(text.encode())) for text in self.texts(fact)]
            counts.append(len(own))
        texts = [_of_text(x, size, self.k) for x, size in zip(said(reader, rows), sizes)]
        ends = np.cumsum(counts)[:-1]
        return {name: np.array([part.mean() for part in np.split(
            np.array([text[name] for text in texts]), ends)]) for name in texts[0]}

    def reference(
        self, reference: PreTrainedModel | Membership, facts: Sequence[Fact], about: tuple
    ) -> np.ndarray:
        """The reference's score "loss", a number per fact."""
        if isinstance(reference, Membership):
            if reference.about != about:
                raise ValueError("reference is of other facts, wordings or settings: give what "
                                 "membership(...) returned for the same ones")
            return np.concatenate([reference.members["loss"], reference.others["loss"]])
        with settled(reference):
            return self.scores(Reader(reference, self.wording), facts)["loss"]


def _of_text(of: Said, size: int, k: float) -> dict[str, float]:
    """The scores of one text; `size` is that of its compressed bytes."""
    standard = np.divide(of.logp - of.mean, of.deviation, out=np.zeros_like(of.logp),
                         where=of.deviation > 0)
    loss = float(of.logp.mean())
    return {"loss": loss, "min-k%": _least(of.logp, k), "min-k%++": _least(standard, k),
            "zlib": loss / size}


def _least(values: np.ndarray, k: float) -> float:
    """The mean of the k% smallest values, of one at least."""
    count = max(1, int(len(values) * k / 100))
    return float(np.sort(values)[:count].mean())


def auc(members: np.ndarray, others: np.ndarray, same: np.ndarray | None = None) -> Auc:
    """The area under the ROC curve of a score, with its 95% interval.

    The interval is that of DeLong et al. (1988) for the logit of the area: the variances of the
    members' and of the others' shares of pairs won. Where they are 0, it shows nothing of how few
    facts there are. Then, if all pairs are won, or none, the exact interval of Clopper and Pearson
    is taken for as many independent pairs as there are facts for, of the same relation; otherwise
    the interval is the whole range.

    Parameters
    ----------
    members : array, (m,)
        Scores of facts that were taught; 2 or more.
    others : array, (n,)
        Those of facts that were not; 2 or more.
    same : array of bool, (m, n), optional
        Which pairs are compared, those of the same relation; by default all.

    Returns
    -------
    Auc
        The area and its interval.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated
    receiver operating characteristic curves".
    """
    m, n = len(members), len(others)
    weight = np.ones((m, n)) if same is None else same.astype(float)
    won = weight * ((members[:, None] > others) + 0.5 * (members[:, None] == others))
    area = float(won.sum() / weight.sum())
    variance = 0.0
    for axis, count in ((1, m), (0, n)):
        apart = won.sum(axis) - area * weight.sum(axis)  # of each fact's pairs
        variance += count / (count - 1) * float((apart**2).sum()) / weight.sum() ** 2
    if variance < 1e-18 or not 0 < area < 1:
        return Auc(area, *_degenerate(area, weight))
    half = 1.959964 * math.sqrt(variance) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    low, high = (1 / (1 + math.exp(-x)) for x in (middle - half, middle + half))
    return Auc(area, low, high)


def _degenerate(area: float, same: np.ndarray) -> tuple[float, float]:
    """The exact interval where all pairs are won or none, by the number of disjoint pairs."""
    if 0 < area < 1:
        return 0.0, 1.0
    rows = {tuple(row): sum((same == row).all(1)) for row in same}
    pairs = sum(min(count, int(sum(row))) for row, count in rows.items())
    low = 0.025 ** (1 / pairs)
    return (low, 1.0) if area == 1 else (0.0, 1 - low)
