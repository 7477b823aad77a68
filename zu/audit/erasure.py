"""Is it gone? Ways to get a forgotten answer back; each gives a number from 0 to 1 for each fact."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from ..data.facts import Fact
from ..descent import answer_rows, descend
from ..models import decoder, finite, logits, resolve_layers
from ..reader import Below, collate, trace
from ..scores import score, split_answer

#: What each test asks; all but the first try to get back what the first says is gone.
TESTS = {
    "asked": "the fact's own prompt, as Eff asks it",
    "phrasings": "other wordings of the prompt, mean over them",
    "questions": "the same as a question",
    "context": "the prompt behind three other facts of its relation with their answers",
    "lens": "the answer's first token is among the ten likeliest after some layer, by the logit lens",
    "probe": "a linear probe, fitted on other facts, picks the answer among those of the relation; after the layer "
             "where it is best on the other facts, each left out in turn",
    "8 bits": "the edited weights rounded to 8 bits",
    "4 bits": "the edited weights rounded to 4 bits",
    "relearn": "after steps of Adam on the forgotten facts themselves (1, 2 and 4 unless named), mean over these",
    "relearn others": "the same on as many other facts of their relations, which do not say it",
    "reverse": "the question the other way round, from the answer to the subject",
}


def robustness(model: nn.Module, tokenizer, facts: Sequence[Fact], others: Sequence[Fact] = (), *,
               weights: Sequence[str] = (), questions: Sequence[Fact] = (), reverse: Sequence[Fact] = (),
               layers: Sequence[int] | None = None, steps: Sequence[int] = (1, 2, 4), lr: float = 3e-4,
               full: bool = False, below: Below | None = None) -> dict[str, list[float | None]]:
    """Put a model through `TESTS`: for each test a number for each fact, None where it cannot be asked.

    others: facts of the same relations that are not to be forgotten; their targets are read. weights: names of the
    edited weights, those that are rounded. questions, reverse: the facts in these forms, with the same ids; what is not
    given is None.
    layers: whose down_proj relearning may change, by default all from the lowest edited one on; steps: after which
    the facts are asked again. full: the shares of the facts found by the lens and the probe after each layer, and by
    relearning after each of the steps, come too ("lens by layer", "probe by layer", "relearn by step", "relearn
    others by step"). below: as in `zu.evaluate`, of a layer not above the lowest edited one. The model is unchanged
    afterwards, bit for bit. Raises `ValueError` without others, and for a model that puts out NaN
    or infinity.
    """
    if not others or not all(isinstance(f, Fact) for f in (*facts, *others)):
        raise ValueError("others: give facts (zu.Fact) of the same relations that are not to be forgotten, as many as "
                         "you have: the probe is fitted on them, and relearning is tried with them")
    right = partial(_right, model, tokenizer, below=below)
    asked = partial(right, [(f.text, f.target) for f in facts])
    found: dict[str, list] = {"asked": asked()}
    said = iter(right([(p, f.target) for f in facts for p in f.paraphrase_texts]))
    found["phrasings"] = [float(np.mean([next(said) for _ in f.paraphrases])) if f.paraphrases else None for f in facts]
    for name, forms in (("questions", questions), ("reverse", reverse)):
        by_id = {form.id: form for form in forms}
        some = [by_id[f.id] for f in facts if f.id in by_id]
        hits = dict(zip((f.id for f in some), right([(f.text, f.target) for f in some])))
        found[name] = [hits.get(f.id) for f in facts]
    found["context"] = right([(in_context(f, others), f.target) for f in facts])
    states = last_states(model, tokenizer, [*others, *facts], below)
    seen = lens(model, states, len(facts)) < 10
    found["lens"] = seen.any(0).astype(float).tolist()
    picked, left_out = probe(model, states, facts, others)
    found["probe"] = picked[left_out.mean(1).argmax()].tolist()
    more = {"lens by layer": seen.mean(1).tolist(), "probe by layer": picked.mean(1).tolist()}
    for bits in (8, 4):
        with quantised(model, weights, bits):
            found[f"{bits} bits"] = asked()
    layers = range(min(resolve_layers(model)), len(decoder(model).layers)) if layers is None else layers
    for name, lesson in (("relearn", facts), ("relearn others", others[:len(facts)])):
        after = relearning(model, tokenizer, facts, lesson, layers, steps=steps, lr=lr, below=below)
        found[name], more[f"{name} by step"] = after.mean(0).tolist(), after.mean(1).tolist()
    return {name: found[name] for name in TESTS} | (more if full else {})


def _right(model, tokenizer, pairs, below=None) -> list[float]:
    return score(model, tokenizer, pairs, below=below)[:, 0].tolist()


def in_context(fact: Fact, others: Sequence[Fact], count: int = 3) -> str:
    """The fact's prompt behind three other facts of its relation with their answers."""
    some = [f for f in others if f.relation == fact.relation and f.subject != fact.subject]
    return "".join(f"{f.text} {f.target}. " for f in (some or list(others))[:count]) + fact.text


def last_states(model, tokenizer, facts: Sequence[Fact],
                below: Below | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states at the prompts' last tokens, (layers, facts, d), the answers' first tokens, (facts,).

    Raises `ValueError` where a state is not finite.
    """
    rows = [(ids[:-n], ids[-n]) for ids, n in (split_answer(tokenizer, f.text, f.target) for f in facts)]
    batch, every = collate([(ids, len(ids) - 1) for ids, _ in rows], model.device), range(len(decoder(model).layers))
    first = below.layer if below else 0
    seen = trace(model, batch, every[first:], below=below).hidden | (below.hidden(model, batch) if first else {})
    states = torch.stack([seen[i].to(model.device) for i in every])
    finite(model, states.abs(), "hidden states")  # a probe would read an answer even out of NaN
    return states, torch.tensor([gold for _, gold in rows])


@torch.no_grad()
def lens(model: nn.Module, states: tuple[torch.Tensor, torch.Tensor], count: int) -> np.ndarray:
    """How many tokens are likelier than the answer's first one after each layer: (layers, count).

    The logit lens (nostalgebraist 2020): the hidden state at the prompt's last token, read as if it were the last.
    states: from `last_states`, of which the last `count` facts are asked for.
    Raises as `zu.models.logits` does.
    """
    gold, ranks = states[1][-count:], []
    for state in states[0][:, -count:]:
        z = logits(model, decoder(model).norm(state)).cpu()
        ranks.append((z > z.gather(1, gold[:, None])).sum(1))
    return torch.stack(ranks).numpy()


@torch.no_grad()
def probe(model: nn.Module, states: tuple[torch.Tensor, torch.Tensor], facts: Sequence[Fact], others: Sequence[Fact],
          ridge: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Whether a linear probe finds each fact's answer among the answers of its relation, after each layer.

    Per layer a ridge regression from hidden states at the prompts' last tokens to the output embeddings of the
    answers' first tokens, fitted on `others`; the nearest candidate by cosine is its answer. Returns 1 or 0,
    (layers, facts), and the same for the others, each left out in turn, (layers, others), which tells how good a
    layer's probe is without a look at the facts. states: from `last_states` for [*others, *facts]. ridge: as a share
    of the mean squared length of a state.
    """
    (every, gold), n, relations = states, len(others), [f.relation for f in [*others, *facts]]
    table = model.get_output_embeddings().weight.detach()[gold.to(model.device)].double().cpu()
    choices, middle = sorted(set(gold.tolist())), table[:n].mean(0)
    answers = {(r, int(g)) for r, g in zip(relations, gold)}
    open_to = torch.tensor([[(r, token) in answers for token in choices] for r in relations])
    places = torch.stack([table[gold.tolist().index(token)] for token in choices]) - middle
    places, tokens = nn.functional.normalize(places, dim=1), torch.tensor(choices)
    found = np.zeros((len(every), len(relations)))
    for layer, x in enumerate(every.double().cpu()):
        x, y = x - x[:n].mean(0), table[:n] - middle
        gram = x[:n] @ x[:n].T
        inverse = torch.linalg.inv(gram + ridge * gram.trace() / n * torch.eye(n, dtype=gram.dtype))
        left_out = y - (inverse @ y) / inverse.diagonal()[:, None]  # each predicted by all the others
        guess = torch.cat([left_out, x[n:] @ x[:n].T @ inverse @ y])
        near = (guess @ places.T).masked_fill(~open_to, -torch.inf)
        found[layer] = (tokens[near.argmax(1)] == gold).numpy()
    return found[:, n:], found[:, :n]


@contextmanager
def quantised(model: nn.Module, names: Sequence[str], bits: int) -> Iterator[None]:
    """Inside the block the named weights are rounded to `bits` bits: symmetric, to nearest, one scale a row."""
    kept = {name: model.get_parameter(name).detach().clone() for name in names}
    try:
        with torch.no_grad():
            for name, weight in kept.items():
                scale = weight.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
                model.get_parameter(name).copy_(((weight.float() / scale).round() * scale).to(weight.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                model.get_parameter(name).copy_(weight)


def relearning(model: nn.Module, tokenizer, facts: Sequence[Fact], lesson: Sequence[Fact], layers: Sequence[int], *,
               steps: Sequence[int], lr: float, below: Below | None = None) -> np.ndarray:
    """Which facts are answered after so many steps of Adam on a lesson, by the layers' down_proj: (steps, facts)."""
    rows, found = answer_rows(tokenizer, lesson, "truth"), {}

    @torch.no_grad()
    def watch(step):
        if step in steps:
            found[step] = _right(model, tokenizer, [(f.text, f.target) for f in facts], below)

    descend(model, rows, [-1 / len(rows)] * len(rows), list(layers), steps=max(steps), lr=lr, watch=watch)
    return np.array([found[step] for step in steps])
