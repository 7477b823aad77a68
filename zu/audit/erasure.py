"""Is it gone? Ways to get a forgotten answer back; each gives 0 to 1 for each fact."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..batches import collate
from ..data.facts import Fact
from ..descent import Objective, Schedule, answer_rows, descend
from ..layouts import known
from ..models import finite, logits, resolve_layers
from ..modes import settled, settles
from ..questions import Question, join_of, paraphrases
from ..reader import Reader
from ..scores import Pair, score
from ..spacing import sentence
from ..wording import Wording
from ..wrappers import parameter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What each test asks; all but the first try to get back what the first says is gone.
TESTS = {
    "asked": "the fact's own prompt, as Eff asks it",
    "phrasings": "other wordings of the prompt, mean over them",
    "questions": "the same as a question",
    "context": "the prompt behind three other facts of its relation with their answers",
    "lens": "the answer's first token is among the ten likeliest after some layer, by the logit "
            "lens",
    "probe": "a linear probe, fitted on other facts, picks the answer among those of the relation; "
             "after the layer where it is best on the other facts, each left out in turn",
    "8 bits": "the edited weights rounded to 8 bits",
    "4 bits": "the edited weights rounded to 4 bits",
    "relearn": "after steps of Adam on the forgotten facts themselves (1, 2 and 4 unless named), "
               "mean over these",
    "relearn others": "the same on as many other facts of their relations, which do not say it",
    "reverse": "the question the other way round, from the answer to the subject",
}
#: From `last_states`: hidden states, (layers, facts, d), and the answers' first tokens, (facts,).
States = tuple[torch.Tensor, torch.Tensor]
#: The facts in other forms, with the same ids: "questions" and "reverse", or one of them.
Forms = Mapping[str, Sequence[Fact]]


@dataclass(frozen=True)
class Relearning:
    """How a model is taught again.

    Attributes
    ----------
    layers : sequence of int, optional
        Whose down_proj may change; by default all from the lowest of the model's own layers on.
    steps : sequence of int
        After which steps it is asked.
    lr : float
        Adam's rate.
    """

    layers: Sequence[int] | None = None
    steps: Sequence[int] = (1, 2, 4)
    lr: float = 3e-4


class Robustness(dict[str, Sequence[float | None]]):
    """For each of `TESTS` a number for each fact, None where it cannot be asked.

    Attributes
    ----------
    curves : dict
        The share of the facts that the lens and the probe find after each layer, and that are
        answered after each step of relearning: "lens by layer", "probe by layer", "relearn by
        step", "relearn others by step".
    """

    def __init__(
        self, found: Mapping[str, Sequence[float | None]], curves: Mapping[str, list[float]]
    ) -> None:
        super().__init__({name: found[name] for name in TESTS})
        self.curves = dict(curves)


@settles
def robustness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Sequence[Fact],
    others: Sequence[Fact] = (),
    *,
    weights: Sequence[str] = (),
    forms: Forms | None = None,
    relearn: Relearning = Relearning(),
) -> Robustness:
    """Put a model through `TESTS`. It is unchanged afterwards, bit for bit.

    Parameters
    ----------
    model, tokenizer
        A causal language model, the edit on it, and its tokenizer; a `zu.wording.Wording` of the
        tokenizer's asks as a turn of a chat.
    facts : sequence of Fact
        Those that were to be forgotten.
    others : sequence of Fact
        Facts of the same relations that are not to be forgotten; their targets are read.
    weights : sequence of str
        Names of the edited weights, those that are rounded (``list(edit.parts)``); without any the
        two tests by rounding are None.
    forms : mapping, optional
        The facts as "questions" and in "reverse"; what is not given is None.
    relearn : Relearning
        Which layers learn, for how many steps, at what rate.

    Returns
    -------
    Robustness
        For each test a number for each fact, None where it cannot be asked.

    Raises
    ------
    ValueError
        Without two others or more, and for a model that puts out NaN or infinity.
    """
    audit = Audit(Reader(model, tokenizer), facts, others, forms)
    return audit.run(weights, relearn)


class Audit:
    """The tests of some facts, for one model in several states: what lies below is read once.

    Parameters
    ----------
    reader : Reader
        Of the model.
    facts : sequence of Fact
        Those that were to be forgotten.
    others : sequence of Fact
        Facts of the same relations that are not to be forgotten; their targets are read.
    forms : mapping, optional
        As in `robustness`.

    Raises
    ------
    ValueError
        Without two others or more.
    """

    def __init__(
        self,
        reader: Reader,
        facts: Sequence[Fact],
        others: Sequence[Fact],
        forms: Forms | None = None,
    ) -> None:
        if not others or not all(isinstance(fact, Fact) for fact in (*facts, *others)):
            raise ValueError("others: give facts (zu.Fact) of the same relations that are not to "
                             "be forgotten, as many as you have: the probe is fitted on them, and "
                             "relearning is tried with them")
        if len({fact.text for fact in others}) < 2:
            raise ValueError("others: one prompt is too few, give two or more: the probe is fitted "
                             "on how they differ")
        self.reader = reader
        self.facts = facts
        self.others = others
        self.forms = forms or {}

    def run(
        self, weights: Sequence[str] = (), relearn: Relearning = Relearning()
    ) -> Robustness:
        """Put the model as it is through `TESTS`. It is unchanged afterwards, bit for bit.

        Parameters
        ----------
        weights : sequence of str
            Names of the edited weights, those that are rounded (``list(edit.parts)``); without any
            the two tests by rounding are None.
        relearn : Relearning
            Which layers learn, for how many steps, at what rate.

        Returns
        -------
        Robustness
            For each test a number for each fact, None where it cannot be asked.

        Raises
        ------
        ValueError
            For a model that puts out NaN or infinity.
        """
        with settled(self.reader.model):
            return self._run(weights, relearn)

    def _run(self, weights: Sequence[str], relearn: Relearning) -> Robustness:
        """`run`, of a model in evaluation mode."""
        model = self.reader.model
        self.reader.bind(min(_learning(model, relearn)))
        self.reader.check()
        found = self._in_words()
        curves: dict[str, list[float]] = {}
        self._inside(found, curves)
        for bits in (8, 4):
            found[f"{bits} bits"] = [None] * len(self.facts)  # no weight is named
            if weights:
                with quantised(model, weights, bits):
                    found[f"{bits} bits"] = self.right(self.facts)
        lessons = {"relearn": self.facts, "relearn others": self.others[:len(self.facts)]}
        for name, lesson in lessons.items():
            after = relearning(self.reader, self.facts, lesson, relearn)  # (steps, facts)
            found[name] = after.mean(0).tolist()
            curves[f"{name} by step"] = after.mean(1).tolist()
        return Robustness(found, curves)

    def right(self, pairs: Sequence[Pair]) -> list[float]:
        """Which pairs are answered.

        Parameters
        ----------
        pairs : sequence of (str, str), Question or Fact
            Prompts and answers, as `zu.scores.score` takes them.

        Returns
        -------
        list of float
            For each pair 1 where the model gives the whole answer, else 0.
        """
        return _right(self.reader, pairs)

    def _in_words(self) -> dict[str, Sequence[float | None]]:
        """The tests that ask the facts in one form or another."""
        behind = []
        for fact in self.facts:
            behind.append(Question(in_context(fact, self.others), fact.target, join_of(fact)))
        return {
            "asked": self.right(self.facts),
            "phrasings": self._in_other_words(),
            "questions": self._in_other_form(self.forms.get("questions", ())),
            "reverse": self._in_other_form(self.forms.get("reverse", ())),
            "context": self.right(behind),
        }

    def _in_other_words(self) -> Sequence[float | None]:
        """For each fact the share of its paraphrases that get the answer; all asked at once."""
        pairs = []
        for fact in self.facts:
            pairs += paraphrases(fact)
        hits = iter(self.right(pairs))
        shares: list[float | None] = []
        for fact in self.facts:
            own = [next(hits) for _ in fact.paraphrases]
            shares.append(float(np.mean(own)) if own else None)
        return shares

    def _in_other_form(self, forms: Sequence[Fact]) -> Sequence[float | None]:
        """For each fact whether it is answered in another form, the one of `forms` with its id."""
        by_id = {form.id: form for form in forms}
        some = [by_id[fact.id] for fact in self.facts if fact.id in by_id]
        answers = self.right(some)
        hits = dict(zip([form.id for form in some], answers))
        return [hits.get(fact.id) for fact in self.facts]

    def _inside(
        self, found: dict[str, Sequence[float | None]], curves: dict[str, list[float]]
    ) -> None:
        """Add what the lens and the probe see in the hidden states."""
        model, facts, others = self.reader.model, self.facts, self.others
        states = last_states(self.reader, [*others, *facts])
        seen = lens(model, states, len(facts)) < 10  # (layers, facts)
        picked, left_out = probe(model, states, facts, others)  # (layers, facts), (layers, others)
        best = left_out.mean(1).argmax()
        found["lens"] = seen.any(0).astype(float).tolist()
        found["probe"] = picked[best].tolist()
        curves["lens by layer"] = seen.mean(1).tolist()
        curves["probe by layer"] = picked.mean(1).tolist()


def _right(reader: Reader, pairs: Sequence[Pair]) -> list[float]:
    """For each pair 1 where the model gives the whole answer, else 0."""
    return score(reader.model, reader.tokenizer, pairs, reader=reader)[:, 0].tolist()


def in_context(fact: Fact, others: Sequence[Fact], count: int = 3) -> str:
    """The fact's prompt behind other facts of its relation with their answers.

    Parameters
    ----------
    fact : Fact
        Whose prompt is asked.
    others : sequence of Fact
        Where the ones in front come from: those of its relation, or all where there are none.
    count : int
        How many stand in front.

    Returns
    -------
    str
        The text, without the fact's own answer.
    """
    near = [f for f in others if f.relation == fact.relation and f.subject != fact.subject]
    shown = (near or list(others))[:count]
    return "".join(sentence(f.text, f.target, join_of(f)) for f in shown) + fact.text


def last_states(reader: Reader, facts: Sequence[Fact]) -> States:
    """Hidden states at the prompts' last tokens.

    Parameters
    ----------
    reader : Reader
        Of the model.
    facts : sequence of Fact
        Whose prompts are read, the subjects in their places.

    Returns
    -------
    states : Tensor
        (layers, facts, d).
    gold : Tensor
        (facts,): the answers' first tokens.

    Raises
    ------
    ValueError
        Where a state is not finite.
    """
    rows, gold = [], []
    for fact in facts:
        ids, count = reader.wording.answered(Question.of(fact))
        prompt = ids[:-count]
        rows.append((prompt, len(prompt) - 1))
        gold.append(ids[-count])
    model = reader.model
    batch = collate(rows, model.device)
    every = range(len(known(model).layers))
    seen = reader.hidden(batch) | reader.trace(batch, every[reader.layer or 0:]).hidden
    states = torch.stack([seen[layer].to(model.device) for layer in every])  # (layers, facts, d)
    finite(model, states.abs(), "hidden states")  # a probe would read an answer even out of NaN
    return states, torch.tensor(gold)


@torch.no_grad()
def lens(model: PreTrainedModel, states: States, count: int) -> np.ndarray:
    """How many tokens are likelier than the answer's first one after each layer, by the logit lens.

    The hidden state at the prompt's last token is read as if it were the last layer's.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (Tensor, Tensor)
        From `last_states`.
    count : int
        The last `count` facts of the states are asked for.

    Returns
    -------
    array, (layers, count)
        0 where the answer's first token is the likeliest.

    Raises
    ------
    ValueError
        As `zu.models.logits` does.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens".
    """
    hidden, gold = states
    gold = gold[-count:, None]  # (count, 1)
    ranks = []
    for state in hidden[:, -count:]:  # (count, d), layer after layer
        z = logits(model, known(model).finish(state)).cpu()  # (count, vocabulary)
        ranks.append((z > z.gather(1, gold)).sum(1))
    return torch.stack(ranks).numpy()


@torch.no_grad()
def probe(
    model: PreTrainedModel,
    states: States,
    facts: Sequence[Fact],
    others: Sequence[Fact],
    ridge: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether a linear probe finds each fact's answer among the answers of its relation.

    Per layer a ridge regression from hidden states at the prompts' last tokens to the output
    embeddings of the answers' first tokens, fitted on `others`; the nearest candidate by cosine is
    its answer.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (Tensor, Tensor)
        From `last_states` for [*others, *facts].
    facts, others : sequence of Fact
        Those that are asked for, and those that the probe is fitted on.
    ridge : float
        As a share of the mean squared length of a state.

    Returns
    -------
    found : array, (layers, facts)
        1 or 0.
    left_out : array, (layers, others)
        The same for the others, each left out in turn, which tells how good a layer's probe is
        without a look at the facts.
    """
    hidden, gold = states  # (layers, others + facts, d), (others + facts,)
    n = len(others)
    weight = model.get_output_embeddings().weight.detach()  # (vocabulary, d)
    table = weight[gold.to(model.device)].double().cpu()  # (others + facts, d), the answers'
    middle = table[:n].mean(0)
    relations = [fact.relation for fact in [*others, *facts]]
    candidates, allowed = _candidates(gold.tolist(), relations)
    rows = [gold.tolist().index(token) for token in candidates]
    places = torch.stack([table[row] for row in rows]) - middle  # (candidates, d)
    places = nn.functional.normalize(places, dim=1)
    tokens = torch.tensor(candidates)
    found = np.zeros((len(hidden), len(relations)))
    for layer, x in enumerate(hidden.double().cpu()):  # (others + facts, d)
        guess = _predictions(x - x[:n].mean(0), table[:n] - middle, ridge)
        near = (guess @ places.T).masked_fill(~allowed, -torch.inf)  # (others + facts, candidates)
        found[layer] = (tokens[near.argmax(1)] == gold).numpy()
    return found[:, n:], found[:, :n]


def _candidates(gold: list[int], relations: list[str]) -> tuple[list[int], torch.Tensor]:
    """The answers' tokens, and which of them are answers of each fact's relation.

    The second is (facts, candidates), bool.
    """
    candidates = sorted(set(gold))
    answers = set(zip(relations, gold))
    rows = []
    for relation in relations:
        rows.append([(relation, token) in answers for token in candidates])
    return candidates, torch.tensor(rows)


def _predictions(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """Ridge regression from x to y, by its dual: for the first n rows each left out, then the rest.

    x : (n + k, d) and y : (n, d), both about the means of their first n rows; (n + k, d) comes
    back, float64.
    """
    n = len(y)
    gram = x[:n] @ x[:n].T  # (n, n)
    penalty = ridge * gram.trace() / n * torch.eye(n, dtype=gram.dtype)
    inverse = torch.linalg.inv(gram + penalty)
    # each predicted by all the others, without fitting n times
    left_out = y - (inverse @ y) / inverse.diagonal()[:, None]
    return torch.cat([left_out, x[n:] @ x[:n].T @ inverse @ y])


@contextmanager
def quantised(model: PreTrainedModel, names: Sequence[str], bits: int) -> Iterator[None]:
    """Inside the block the named weights are rounded: symmetric, to nearest, one scale a row.

    Parameters
    ----------
    model : PreTrainedModel
        Whose weights are rounded, and bit for bit as they were after the block.
    names : sequence of str
        As in ``model.named_parameters()``; each weight is (d, m).
    bits : int
        How many a value has.
    """
    weights = {name: parameter(model, name) for name in names}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    levels = 2 ** (bits - 1) - 1  # on either side of 0
    try:
        with torch.no_grad():
            for name, weight in kept.items():
                largest = weight.float().abs().amax(1, keepdim=True)  # (d, m) -> (d, 1)
                scale = largest.clamp_min(1e-12) / levels
                rounded = (weight.float() / scale).round() * scale
                weights[name].copy_(rounded.to(weight.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                weights[name].copy_(weight)


def relearning(
    reader: Reader, facts: Sequence[Fact], lesson: Sequence[Fact], how: Relearning
) -> np.ndarray:
    """Which facts are answered after so many steps of Adam on a lesson.

    Parameters
    ----------
    reader : Reader
        Of the model.
    facts : sequence of Fact
        What it is asked.
    lesson : sequence of Fact
        What it learns, its true answers.
    how : Relearning
        Whose down_proj learns, and after which steps the model is asked.

    Returns
    -------
    array, (steps, facts)
        1 or 0.

    Raises
    ------
    ValueError, EditError
        As `zu.descent.descend` does.
    """
    rows = answer_rows(reader.wording, lesson, "truth")
    found = {}

    @torch.no_grad()
    def watch(step: int) -> None:
        if step in how.steps:
            found[step] = _right(reader, facts)

    pull = Objective(rows, [-1 / len(rows)] * len(rows))  # negative: towards the answer
    layers = _learning(reader.model, how)
    descend(reader.model, pull, layers, Schedule(max(how.steps), how.lr), watch=watch)
    return np.array([found[step] for step in how.steps])


def _learning(model: PreTrainedModel, how: Relearning) -> Sequence[int]:
    """Whose down_proj may change."""
    if how.layers is not None:
        return how.layers
    return range(min(resolve_layers(model)), len(known(model).layers))
