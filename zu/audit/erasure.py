"""Is it gone? Ways to get a forgotten answer back; each gives a number from 0 to 1 per fact."""
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

#: What each test asks. All but the first try to recover answers that the first finds gone.
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
#: The result of `last_states`: hidden states (layers, facts, d) and the answers' first tokens
#: (facts,).
States = tuple[torch.Tensor, torch.Tensor]
#: The facts in other forms with the same ids, under "questions", "reverse" or both.
Forms = Mapping[str, Sequence[Fact]]


@dataclass(frozen=True)
class Relearning:
    """How a model is taught again.

    Attributes
    ----------
    layers : sequence of int, optional
        The layers whose down_proj may change; by default all from the lowest of the model's default
        layers on (`zu.models.resolve_layers`).
    steps : sequence of int
        The steps after which the model is asked.
    lr : float
        Adam's learning rate.
    """

    layers: Sequence[int] | None = None
    steps: Sequence[int] = (1, 2, 4)
    lr: float = 3e-4


class Robustness(dict[str, Sequence[float | None]]):
    """For each of `TESTS`, a number per fact; None for a fact that the test cannot ask.

    Attributes
    ----------
    curves : dict
        Shares of the facts: those that the lens and the probe find after each layer ("lens by
        layer", "probe by layer"), and those that are answered after each step of relearning
        ("relearn by step", "relearn others by step").
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
    """Put a model through `TESTS`. Afterwards the model is unchanged, bit for bit.

    Parameters
    ----------
    model, tokenizer
        A causal language model with the edit on it, and its tokenizer. Give a `zu.wording.Wording`
        instead of the tokenizer to ask as a turn of a chat.
    facts : sequence of Fact
        The facts that should be forgotten.
    others : sequence of Fact
        At least two facts of the same relations that should not be forgotten; the probe is fitted
        on them, and relearning is tried with them.
    weights : sequence of str
        The names of the edited weights, which are rounded (``list(edit.parts)``). Without them the
        two tests by rounding give None.
    forms : mapping, optional
        The facts as "questions" and in "reverse"; a test whose form is missing gives None.
    relearn : Relearning
        Which layers learn, for how many steps, at what rate.

    Returns
    -------
    Robustness
        For each test, a number per fact; None for a fact that the test cannot ask.

    Raises
    ------
    ValueError
        If `others` has fewer than two different prompts, or the model returns NaN or infinity.
    """
    audit = Audit(Reader(model, tokenizer), facts, others, forms)
    return audit.run(weights, relearn)


class Audit:
    """The tests of some facts, for one model in several states; lower layers are run only once.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    facts : sequence of Fact
        The facts that should be forgotten.
    others, forms
        As in `robustness`.

    Raises
    ------
    ValueError
        If `others` has fewer than two different prompts.
    """

    def __init__(
        self,
        reader: Reader,
        facts: Sequence[Fact],
        others: Sequence[Fact],
        forms: Forms | None = None,
    ) -> None:
        if not others or not all(isinstance(fact, Fact) for fact in (*facts, *others)):
            raise ValueError("others: give facts (zu.Fact) of the same relations that should not "
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
        """Put the model in its present state through `TESTS`; it is unchanged afterwards.

        Parameters
        ----------
        weights, relearn
            As in `robustness`.

        Returns
        -------
        Robustness
            For each test, a number per fact; None for a fact that the test cannot ask.

        Raises
        ------
        ValueError
            If the model returns NaN or infinity.
        """
        with settled(self.reader.model):
            return self._run(weights, relearn)

    def _run(self, weights: Sequence[str], relearn: Relearning) -> Robustness:
        """`run` for a model in evaluation mode."""
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
        """Which pairs the model answers.

        Parameters
        ----------
        pairs : sequence of (str, str), Question or Fact
            Prompts and answers, as `zu.scores.score` takes them.

        Returns
        -------
        list of float
            For each pair, 1 if the model gives the whole answer, else 0.
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
        """For each fact, the share of its paraphrases that get the answer."""
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
        """For each fact, whether it is answered in the other form that has the same id."""
        by_id = {form.id: form for form in forms}
        some = [by_id[fact.id] for fact in self.facts if fact.id in by_id]
        answers = self.right(some)
        hits = dict(zip([form.id for form in some], answers))
        return [hits.get(fact.id) for fact in self.facts]

    def _inside(
        self, found: dict[str, Sequence[float | None]], curves: dict[str, list[float]]
    ) -> None:
        """Add the results of the lens and the probe, which read the hidden states."""
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
    """For each pair, 1 if the model gives the whole answer, else 0."""
    return score(reader.model, reader.tokenizer, pairs, reader=reader)[:, 0].tolist()


def in_context(fact: Fact, others: Sequence[Fact], count: int = 3) -> str:
    """A fact's prompt behind other facts of its relation with their answers.

    Parameters
    ----------
    fact : Fact
        The fact to ask for.
    others : sequence of Fact
        The facts to choose from: those of the same relation or, if there are none, all.
    count : int
        How many facts to put in front.

    Returns
    -------
    str
        The text, without the fact's own answer.
    """
    near = [f for f in others if f.relation == fact.relation and f.subject != fact.subject]
    shown = (near or list(others))[:count]
    return "".join(sentence(f.text, f.target, join_of(f)) for f in shown) + fact.text


def last_states(reader: Reader, facts: Sequence[Fact]) -> States:
    """Hidden states at the prompts' last tokens, after every layer.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    facts : sequence of Fact
        The facts whose prompts are read.

    Returns
    -------
    states : Tensor
        (layers, facts, d).
    gold : Tensor
        (facts,): the answers' first tokens.

    Raises
    ------
    NonFiniteError
        If a state is not finite.
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
    finite(model, states.abs(), "hidden states")  # a probe would find an answer even in NaN
    return states, torch.tensor(gold)


@torch.no_grad()
def lens(model: PreTrainedModel, states: States, count: int) -> np.ndarray:
    """The rank of the answer's first token after each layer, by the logit lens.

    The hidden state at the prompt's last token is treated as if it were the last layer's.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (Tensor, Tensor)
        The result of `last_states`.
    count : int
        Only the last `count` facts of the states are used.

    Returns
    -------
    array, (layers, count)
        How many tokens are likelier than the answer's first one; 0 if it is the likeliest.

    Raises
    ------
    NonFiniteError
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

    For each layer, a ridge regression maps hidden states at the prompts' last tokens to the output
    embeddings of the answers' first tokens. It is fitted on `others`. Its answer is the candidate
    nearest by cosine.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : (Tensor, Tensor)
        The result of `last_states` for [*others, *facts].
    facts, others : sequence of Fact
        The facts to find, and those on which the probe is fitted.
    ridge : float
        The ridge penalty, as a share of the mean squared length of a state.

    Returns
    -------
    found : array, (layers, facts)
        1 if the probe finds the answer, else 0.
    left_out : array, (layers, others)
        The same for the others, each left out of the fit in turn. It shows how good a layer's
        probe is without looking at the facts.
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
    """The answers' tokens, and a bool matrix (facts, candidates): answers of each fact's relation.
    """
    candidates = sorted(set(gold))
    answers = set(zip(relations, gold))
    rows = []
    for relation in relations:
        rows.append([(relation, token) in answers for token in candidates])
    return candidates, torch.tensor(rows)


def _predictions(x: torch.Tensor, y: torch.Tensor, ridge: float) -> torch.Tensor:
    """Predictions of a ridge regression from x to y, solved in its dual form.

    The fit uses the first n rows, each of which is predicted with that row left out; then come the
    other k rows. x (n + k, d) and y (n, d) are centred on the means of their first n rows. Returns
    (n + k, d), float64.
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
    """Inside the block the named weights are rounded: symmetrically, to nearest, one scale per row.

    Parameters
    ----------
    model : PreTrainedModel
        The model; after the block its weights are restored, bit for bit.
    names : sequence of str
        Names as in ``model.named_parameters()``; each weight is (d, m).
    bits : int
        The number of bits per value.
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
    """Which facts the model answers after some steps of Adam on a lesson.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    facts : sequence of Fact
        The facts to ask for.
    lesson : sequence of Fact
        The facts whose true answers the model learns.
    how : Relearning
        The layers whose down_proj learns, and the steps after which the model is asked.

    Returns
    -------
    array, (steps, facts)
        1 if the fact is answered, else 0.

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
    """The layers whose down_proj may change."""
    if how.layers is not None:
        return how.layers
    return range(min(resolve_layers(model)), len(known(model).layers))
