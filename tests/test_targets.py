"""Targets equal those of the plain loop: one fact at a time, whole sequences, whole model, torch's own Adam."""
import pytest
import torch
import torch.nn.functional as F

from zu import models, targets, trace

BEFORE = ("", "The people. ", "Because 東京 is. ")


def plain_loop(model, tokenizer, fact, layer, *, goal, steps, lr, weight_decay, kl, clamp, tolerance):
    goals = targets.target_ids(tokenizer, fact, goal)
    rows = [trace.encode(tokenizer, fact, p) for p in BEFORE]
    essence, at = trace.encode(tokenizer, fact, prompt=targets.ESSENCE)
    block = models.decoder(model).layers[layer]

    def run(ids, position, delta):
        def add(module, args, output):
            return torch.cat([output[:, :position], output[:, position:position + 1] + delta,
                              output[:, position + 1:]], 1)
        with trace.hooks((block.register_forward_hook, add)):
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)

    ids, position = rows[0]
    seen = {}
    with torch.no_grad(), trace.hooks((block.register_forward_hook, lambda m, a, o: seen.update(h=o))):
        model(input_ids=torch.tensor([ids]))
    h = seen["h"][0, position]
    with torch.no_grad():
        original = run(essence, at, torch.zeros_like(h))[-1]
    scale = h.norm() / len(h) ** 0.5
    u = torch.zeros_like(h, requires_grad=True)
    adam = torch.optim.Adam([u], lr=lr)
    for step in range(steps):
        delta = u * scale
        nll = 0
        for ids, position in rows:
            logp = run(ids + goals[:-1], position, delta)[len(ids) - 1:]
            nll = nll - sum(logp[j, t] for j, t in enumerate(goals)) / len(goals) / len(rows)
        divergence = F.kl_div(run(essence, at, delta)[-1], original, log_target=True, reduction="sum")
        loss = nll + kl * divergence + weight_decay * delta.norm() / h.norm() ** 2
        if loss < tolerance or step == steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            u *= min(1.0, float(clamp * h.norm() / (u * scale).norm()))
    return h + (u * scale).detach()


@pytest.mark.parametrize("goal", ["eos", "truth"])
def test_the_batch_finds_what_the_plain_loop_finds(tiny, facts, goal):
    model, tokenizer = tiny
    model.double()
    settings = dict(goal=goal, steps=12, lr=0.2, weight_decay=0.5, kl=0.0625, clamp=0.75, tolerance=0.05)
    found = targets.optimise(model, tokenizer, facts, 2, BEFORE, **settings)
    for i, fact in enumerate(facts):
        expected = plain_loop(model, tokenizer, fact, 2, **settings)
        error = (found.z[i] - expected).norm() / expected.norm()
        assert error < 1e-5, fact.id
    assert (found.loss[-1] < found.loss[0]).all()


def test_a_fact_does_not_depend_on_the_others_in_its_batch(tiny, facts):
    model, tokenizer = tiny
    together = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=8)
    alone = [targets.optimise(model, tokenizer, [f], 2, BEFORE, steps=8) for f in facts]
    torch.testing.assert_close(together.z, torch.cat([a.z for a in alone]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.loss, torch.cat([a.loss for a in alone], 1), rtol=1e-3, atol=1e-3)
    parts = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=8, batch_tokens=1)
    torch.testing.assert_close(together.z, parts.z, rtol=1e-4, atol=1e-4)


def test_a_converged_fact_leaves_and_the_clamp_holds(tiny, facts):
    model, tokenizer = tiny
    found = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=40, lr=0.3, clamp=0.5)
    assert ((found.z - found.h).norm(dim=1) <= 0.5 * found.h.norm(dim=1) * (1 + 1e-5)).all()
    easy = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=5, tolerance=1e9)
    assert torch.equal(easy.z, easy.h)


def test_the_step_does_not_depend_on_the_models_scale(tiny, facts):
    """Scaling the embeddings and every output projection by 10 scales h by 10 and leaves the normed rest."""
    model, tokenizer = tiny
    first = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=6, weight_decay=0.0)
    head = model.get_output_embeddings().weight.clone()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
        for layer in models.decoder(model).layers:
            layer.mlp.down_proj.weight.mul_(10)
            layer.self_attn.o_proj.weight.mul_(10)
    model.get_output_embeddings().weight = torch.nn.Parameter(head)
    scaled = targets.optimise(model, tokenizer, facts, 2, BEFORE, steps=6, weight_decay=0.0)
    torch.testing.assert_close(scaled.z / 10, first.z, rtol=2e-3, atol=2e-3)
