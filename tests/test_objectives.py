"""Each edit is the minimum of the objective its docstring states, read and built the plain way."""
import pytest
import torch

import zu
from zu import models, reader

LAYERS = [1, 2, 3]


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    model, tokenizer = tiny
    moments = general(model, tokenizer, LAYERS, texts)
    targets = zu.find_targets(model, tokenizer, facts, 3, steps=5)
    return model, tokenizer, facts, moments, targets


@torch.no_grad()
def read(model, tokenizer, fact, prefix, layer, prompt=None):
    """Of one prompt by itself: one layer's key (m,), and the state (d,) after the last edited."""
    ids, at = reader.encode(tokenizer, fact, prefix, prompt)
    kept = {}
    hooks = [models.down_proj(model, layer).register_forward_pre_hook(
                 lambda _, args: kept.update(key=args[0][0, at])),
             models.decoder(model).layers[3].register_forward_hook(
                 lambda _, args, out: kept.update(
                     state=(out[0] if isinstance(out, tuple) else out)[0, at]))]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return kept["key"].double(), kept["state"].double()


def slopes(loss, delta):
    """The gradient's norm at an edit, and where nothing is changed."""
    found = []
    for point in (delta, torch.zeros_like(delta)):
        x = point.clone().requires_grad_()
        found.append(float(torch.autograd.grad(loss(x), x)[0].norm()))
    return found


def stepwise(job, edit):
    """Layer after layer, with the edits below it on and its own not yet:
    (layer, what is still missing, delta)."""
    model, tokenizer, facts, _, targets = job
    deltas = {models.weight_name(model, layer): edit.deltas[models.weight_name(model, layer)]
              for layer in LAYERS}
    edit.restore()
    on = zu.Edit(model, method="part", facts=len(facts))
    for left, layer in zip((3, 2, 1), LAYERS):
        states = torch.stack([read(model, tokenizer, f, "", layer)[1] for f in facts])
        missing = (targets.z.double() - states) / left  # (n, d): the share of this layer
        name = models.weight_name(model, layer)
        yield layer, missing, deltas[name].double()
        on.set(name, model.get_parameter(name).double() + deltas[name].double())
    on.restore()


def test_memit_spreads_what_is_missing_over_the_layers_that_are_left(job):
    model, tokenizer, facts, moments, targets = job
    before, seen = reader.prefixes(model, tokenizer), []
    edit = zu.unlearn(model, tokenizer, facts, "memit", layers=LAYERS, moments=moments,
                      targets=targets, alpha=2.0)
    for layer, missing, delta in stepwise(job, edit):
        mean = []
        for fact in facts:
            each = [read(model, tokenizer, fact, prefix, layer)[0] for prefix in before]
            mean.append(0.5 * each[0] + 0.1 * sum(each[1:]))
        keys = torch.stack(mean).T  # (m, n)

        def loss(x, keys=keys, missing=missing, layer=layer):
            return (x @ keys - missing.T).square().sum() + 2 * torch.trace(x @ moments[layer] @ x.T)

        at, start = slopes(loss, delta)
        assert at < 1e-4 * start
        seen.append(layer)
    assert seen == LAYERS


@pytest.mark.parametrize("settings", [
    {}, {"bare": 0.5, "weight": 0.3, "anchor": 4.0, "zero": 0.7}, {"bare": 0.0}])
def test_anchored_minimises_what_its_docstring_states(job, settings):
    model, tokenizer, facts, moments, targets = job
    before, share = reader.prefixes(model, tokenizer), [0.5] + [0.1] * 5
    spare = [zu.Fact(name, "The capital of {} is", "-") for name in ("Chad", "Gabon", "Togo")]
    s = zu.methods.Anchored(alpha=2.0, lam=0.5, **settings)
    edit = zu.unlearn(model, tokenizer, facts, s, layers=LAYERS, moments=moments, targets=targets,
                      anchors=spare)
    seen = []
    for layer, missing, delta in stepwise(job, edit):
        W = models.down_proj(model, layer).weight.detach().double()
        shown = (None, "{}") if s.bare else (None,)  # with its prompt, and without
        keys = {form: [[read(model, tokenizer, f, p, layer, form)[0] for p in before]
                       for f in facts] for form in shown}
        kept = [read(model, tokenizer, a, "", layer, form)[0] for a in spare for form in shown]
        mean = torch.stack([sum(w * k for w, k in zip(share, row)) for row in keys[None]])  # (n, m)
        U = torch.linalg.qr(W @ mean.T).Q  # (d, n): what the layer says of the facts now

        def loss(x, keys=keys, kept=kept, missing=missing, U=U, W=W, layer=layer):
            total = s.alpha * torch.trace(x @ moments[layer] @ x.T) + s.lam * x.square().sum()
            total = total + s.anchor * sum((x @ k).square().sum() for k in kept)
            for form, rows in keys.items():
                weight = s.weight * (1.0 if form is None else s.bare)
                for row, r in zip(rows, missing):
                    for w, k in zip(share, row):
                        total = total + weight * w * ((x @ k - r).square().sum()
                                                      + s.zero * (U.T @ (W + x) @ k).square().sum())
            return total

        at, start = slopes(loss, delta)
        assert at < 1e-4 * start
        seen.append(layer)
    assert seen == LAYERS
