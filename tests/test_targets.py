"""Targets equal those of the plain loop: one fact at a time, whole sequences, whole model, torch's
own Adam."""
import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import zu
from zu import models, reader, suffix_search, targets
from zu.plain_search import WholeRuns

BEFORE = ("", "The people. ", "Because 東京 is. ")


def search(*prefixes, **settings):
    return targets.Search(prefixes or BEFORE, **settings)


def plain_loop(model, tokenizer, fact, layers, *, goal, steps, lr, weight_decay, kl, clamp,
               tolerance, aim="hidden", kl_at="subject"):
    """z of each layer (k, d), with a δ after the one layer or in what each layer's MLP puts out."""
    goals = targets.target_ids(tokenizer, fact, goal)
    rows = [reader.encode(tokenizer, fact, p) for p in BEFORE]
    essence, at = reader.encode(tokenizer, fact, prompt=targets.ESSENCE)
    if kl_at == "next":
        read = len(essence) - 1
    else:
        read = at
    if aim == "hidden":
        blocks = [models.decoder(model).layers[layer] for layer in layers]
    else:
        blocks = [models.down_proj(model, layer) for layer in layers]

    def run(ids, position, deltas):
        def adder(delta):
            def add(module, args, output):
                return torch.cat([output[:, :position], output[:, position:position + 1] + delta,
                                  output[:, position + 1:]], 1)
            return add
        pairs = [(block.register_forward_hook, adder(delta))
                 for block, delta in zip(blocks, deltas, strict=True)]
        with reader.hooks(*pairs):
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)

    ids, position = rows[0]
    seen = []
    with torch.no_grad(), reader.hooks(*(
            (block.register_forward_hook, lambda m, a, o: seen.append(o)) for block in blocks)):
        model(input_ids=torch.tensor([ids]))
    h = [states[0, position] for states in seen]
    with torch.no_grad():
        original = run(essence, at, [torch.zeros_like(x) for x in h])[read]
    scales = [x.norm() / len(x) ** 0.5 for x in h]
    us = [torch.zeros_like(x, requires_grad=True) for x in h]
    adam = torch.optim.Adam(us, lr=lr)
    for step in range(steps):
        deltas = [u * scale for u, scale in zip(us, scales, strict=True)]
        nll = 0
        for ids, position in rows:
            logp = run(ids + goals[:-1], position, deltas)[len(ids) - 1:]
            nll = nll - sum(logp[j, t] for j, t in enumerate(goals)) / len(goals) / len(rows)
        changed = run(essence, at, deltas)[read]
        p, q = (original, changed) if kl_at == "next" else (changed, original)
        divergence = (p.exp() * (p - q)).sum()
        size = sum(delta.norm() / x.norm() ** 2 for delta, x in zip(deltas, h, strict=True))
        loss = nll + kl * divergence + weight_decay * size
        if loss < tolerance or step == steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for u, x, scale in zip(us, h, scales, strict=True):
                u *= min(1.0, float(clamp * x.norm() / (u * scale).norm()))
    return torch.stack([x + (u * s).detach() for x, u, s in zip(h, us, scales, strict=True)])


SETTINGS = dict(steps=8, lr=0.2, weight_decay=0.5, kl=0.0625, clamp=0.75, tolerance=0.05)
ADAM = dict(optimizer="adam", bare_first=False)


def finds_what_the_plain_loop_finds(model, tokenizer, facts, layers, **settings):
    """In double precision; returns what was found."""
    model.double()
    settings = SETTINGS | settings
    found = targets.optimise(model, tokenizer, facts, layers, search(**settings, **ADAM))
    z = found.z if found.z.dim() == 3 else found.z[:, None]
    for i, fact in enumerate(facts):
        expected = plain_loop(model, tokenizer, fact, layers, **settings)
        error = (z[i] - expected).norm() / expected.norm()
        assert error < 1e-5, fact.id
    assert (found.loss[-1] < found.loss[0]).all()
    return found


@pytest.mark.parametrize("kl_at", ["subject", "next"])
@pytest.mark.parametrize("goal", ["eos", "truth"])
def test_the_batch_finds_what_the_plain_loop_finds(tiny, facts, goal, kl_at):
    model, tokenizer = tiny
    found = finds_what_the_plain_loop_finds(
        model, tokenizer, facts, [2], goal=goal, kl_at=kl_at, kl=0.5)
    assert (found.aim, found.layer, found.layers) == ("hidden", 2, (2,))


@pytest.mark.parametrize("layers", [[2], [1, 3]], ids=str)
def test_values_are_found_as_the_plain_loop_finds_them(tiny, facts, layers):
    model, tokenizer = tiny
    found = finds_what_the_plain_loop_finds(
        model, tokenizer, facts, layers, goal="truth", aim="value")
    assert (found.aim, found.layer, found.layers) == ("value", layers[-1], tuple(layers))


def test_gemmas_find_what_the_plain_loop_finds(gemma, facts):
    finds_what_the_plain_loop_finds(*gemma, facts, [2], goal="truth")


def test_gemmas_values_are_found_as_the_plain_loop_finds_them(gemma, facts):
    """Two of them norm what a projection puts out: δ goes in before that."""
    finds_what_the_plain_loop_finds(*gemma, facts, [1, 3], goal="truth", aim="value")


def test_a_joint_search_of_values_is_that_of_whole_runs_and_each_layers_clamp_holds(tiny, facts):
    """δ are as long as they may be in both layers, though the layers' values differ in length."""
    model, tokenizer = tiny
    models.down_proj(model.double(), 1).weight.mul_(3)
    how = search(aim="value", goal="truth", steps=8, lr=0.4, clamp=0.3, tolerance=0.0)
    place = targets.Place.of("value", (1, 3))
    coded = [targets._Coded.of(tokenizer, fact, how) for fact in facts]
    z, h, losses = targets._minimise(WholeRuns(model, place, coded, how), how)
    found = targets.optimise(model, tokenizer, facts, (1, 3), how)
    for ours, theirs in ((found.z, z), (found.h, h), (found.loss.T, losses)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    longest = 0.3 * found.h.norm(dim=2)  # (n, 2)
    lengths = (found.z - found.h).norm(dim=2)
    assert (lengths <= longest * (1 + 1e-5)).all()
    assert torch.isclose(lengths, longest, rtol=1e-4).any(0).all()
    assert (longest[:, 0] > 1.5 * longest[:, 1]).all()


def test_values_of_several_layers_are_found_once_and_kept_apart_from_others(
        tiny, facts, cache, monkeypatch):
    model, tokenizer = tiny
    solve, solved = targets._minimise, []
    monkeypatch.setattr(targets, "_minimise", lambda problem, *a: (
        solved.append(problem.n), solve(problem, *a))[1])
    first = targets.optimise(model, tokenizer, facts, (1, 3), search(steps=2, aim="value"))
    assert sum(solved) == 5
    again = targets.optimise(model, tokenizer, facts, [3, 1], search(steps=2, aim="value"))
    assert sum(solved) == 5 and torch.equal(again.z, first.z) and torch.equal(again.h, first.h)
    for layers, changed in ((3, dict(aim="value")), (3, {}), (3, dict(kl_at="next"))):
        solved.clear()
        targets.optimise(model, tokenizer, facts, layers, search(steps=2, **changed))
        assert sum(solved) == 5


def test_a_bfloat16_model_has_float32_targets_near_those_of_its_float32_twin(tiny, facts):
    """The same weights, rounded to bfloat16, run in either precision: δ and loss stay float32."""
    model, tokenizer = tiny
    twin = copy.deepcopy(model.bfloat16()).float()
    settings = dict(steps=3, lr=0.05)
    half, full = (targets.optimise(m, tokenizer, facts, 2, search(**settings))
                  for m in (model, twin))
    assert half.z.dtype == half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss[0], full.loss[0], rtol=0.02, atol=0.02)
    ours, theirs = half.z - half.h, full.z - full.h
    assert (F.cosine_similarity(ours, theirs) > 0.9).all()


def test_a_fact_does_not_depend_on_the_others_in_its_batch(tiny, facts):
    model, tokenizer = tiny
    together = targets.optimise(model, tokenizer, facts, 2, search(steps=8))
    alone = [targets.optimise(model, tokenizer, [f], 2, search(steps=8)) for f in facts]
    torch.testing.assert_close(together.z, torch.cat([a.z for a in alone]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.loss, torch.cat([a.loss for a in alone], 1),
                               rtol=1e-3, atol=1e-3)
    parts = targets.optimise(model, tokenizer, facts, 2, search(steps=8), batch=1)
    torch.testing.assert_close(together.z, parts.z, rtol=1e-4, atol=1e-4)


def test_a_converged_fact_leaves_and_the_clamp_holds(tiny, facts):
    model, tokenizer = tiny
    found = targets.optimise(model, tokenizer, facts, 2, search(steps=40, lr=0.3, clamp=0.5))
    assert ((found.z - found.h).norm(dim=1) <= 0.5 * found.h.norm(dim=1) * (1 + 1e-5)).all()
    easy = targets.optimise(model, tokenizer, facts, 2, search(steps=5, tolerance=1e9))
    assert torch.equal(easy.z, easy.h)


def test_the_step_does_not_depend_on_the_models_scale(tiny, facts):
    """Scaling the embeddings and every output projection by 10 scales h by 10 and leaves the normed
    rest."""
    model, tokenizer = tiny
    first = targets.optimise(model, tokenizer, facts, 2, search(steps=6, weight_decay=0.0))
    head = model.get_output_embeddings().weight.clone()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
        for layer in models.decoder(model).layers:
            layer.mlp.down_proj.weight.mul_(10)
            layer.self_attn.o_proj.weight.mul_(10)
    model.get_output_embeddings().weight = torch.nn.Parameter(head)
    scaled = targets.optimise(model, tokenizer, facts, 2, search(steps=6, weight_decay=0.0))
    torch.testing.assert_close(scaled.z / 10, first.z, rtol=2e-3, atol=2e-3)


def test_a_target_is_found_once_and_only_for_the_same_question(tiny, facts, cache, monkeypatch):
    model, tokenizer = tiny
    solve, solved = targets._minimise, []
    monkeypatch.setattr(targets, "_minimise", lambda problem, *a: (
        solved.append(problem.n), solve(problem, *a))[1])
    monkeypatch.setattr(targets, "TOGETHER", 4)

    def facts_solved(some, layer, prefixes, cache=True, **changed):
        solved.clear()
        how = search(*prefixes, **{"steps": 4} | changed)
        found = targets.optimise(model, tokenizer, some, layer, how, batch=2, cache=cache)
        return found, sum(solved)

    first, count = facts_solved(facts[:4], 2, BEFORE)
    assert count == 4
    again, count = facts_solved(facts, 2, BEFORE)
    assert (count == 1 and torch.equal(again.z[:4], first.z)
            and torch.equal(again.loss[:, :4], first.loss))
    # another set: what is kept must not decide on the last bits
    assert facts_solved(facts[:3], 2, BEFORE)[1] == 3
    for args, changed in (((facts, 3, BEFORE), {}), ((facts, 2, BEFORE[:2]), {}),
                          ((facts, 2, BEFORE), {"lr": 0.2}),
                          ((facts, 2, BEFORE), {"goal": "truth"}),
                          ((facts, 2, BEFORE), {"cache": False})):
        assert facts_solved(*args, **changed)[1] == 5
    with torch.no_grad():
        models.down_proj(model, 0).weight[0, 0] += 1
    assert facts_solved(facts, 2, BEFORE)[1] == 5
    files = list((cache / "targets").rglob("*.safetensors"))
    assert len(files) == 5 * 6 + 3 and not any(b"France" in f.read_bytes() for f in files)
    for f in files:
        f.write_bytes(b"damaged")
    assert facts_solved(facts, 2, BEFORE)[1] == 5
    # pieces of 1, 1, 2 and 1 facts; the last was a piece of its own before
    monkeypatch.setattr(targets, "TOGETHER", 1)
    assert [facts_solved(facts[:n], 2, BEFORE)[1] for n in (4, 2, 5, 3)] == [4, 0, 0, 1]


def test_a_batch_of_which_a_part_is_kept_is_searched_again_as_a_whole(
        tiny, facts, cache, monkeypatch):
    """Which facts share a batch decides on the last bits: what was written before a kill must not
    change them."""
    model, tokenizer = tiny
    first = targets.optimise(model, tokenizer, facts, 2, search(steps=4))
    solve, solved = targets._minimise, []
    monkeypatch.setattr(targets, "_minimise", lambda problem, *a: (
        solved.append(problem.n), solve(problem, *a))[1])
    sizes = sorted(len(part) for part in targets._parts(
        model, targets.Place.of("hidden", 2),
        [targets._Coded.of(tokenizer, f, search()) for f in facts], range(len(facts)), None))
    lost = {}
    for path in (cache / "targets").rglob("*.safetensors"):
        kept = path.read_bytes()
        path.unlink()
        solved.clear()
        again = targets.optimise(model, tokenizer, facts, 2, search(steps=4))
        assert torch.equal(again.z, first.z) and path.read_bytes() == kept and len(solved) == 1
        lost[solved[0]] = lost.get(solved[0], 0) + 1
    assert lost == {size: size * sizes.count(size) for size in sizes} and max(sizes) > 1


def test_an_interrupted_search_keeps_the_facts_that_are_done(tiny, facts, cache, monkeypatch):
    model, tokenizer = tiny
    solve, solved = targets._minimise, []

    def dies(problem, *args):
        if len(solved) == 3:
            raise KeyboardInterrupt
        solved.append(problem.n)
        return solve(problem, *args)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "_minimise", dies)
        with pytest.raises(KeyboardInterrupt):
            targets.optimise(model, tokenizer, facts, 2, search(steps=3), batch=1)
    monkeypatch.setattr(targets, "_minimise", lambda problem, *a: (
        solved.append(problem.n), solve(problem, *a))[1])
    targets.optimise(model, tokenizer, facts, 2, search(steps=3), batch=1)
    assert len(solved) == len(facts)


@pytest.mark.filterwarnings("ignore:out of memory:UserWarning")
def test_out_of_memory_halves_the_batch_and_says_so(tiny, cache, monkeypatch):
    model, tokenizer = tiny
    facts = [zu.Fact(name, "The capital of {} is", "Lima")
             for name in ("Peru", "Chad", "Japan", "France")]
    expected = targets.optimise(model, tokenizer, facts, 2, search(steps=3), cache=False)
    solve = targets._minimise

    def scarce(problem, *args):
        if problem.n > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return solve(problem, *args)

    monkeypatch.setattr(targets, "_minimise", scarce)
    with pytest.warns(UserWarning, match="out of memory with 4 facts"):
        found = targets.optimise(model, tokenizer, facts, 2, search(steps=3), batch=4)
    torch.testing.assert_close(found.z, expected.z, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(targets, "_minimise", lambda *a: (_ for _ in ()).throw(
        torch.OutOfMemoryError("too big")))
    with pytest.raises(torch.OutOfMemoryError):
        targets.optimise(model, tokenizer, facts, 2, search(steps=3), cache=False)
    monkeypatch.setattr(targets, "_minimise", lambda *a: (_ for _ in ()).throw(
        RuntimeError("another error")))
    with pytest.raises(RuntimeError, match="another"):
        targets.optimise(model, tokenizer, facts, 2, search(steps=3), cache=False)


@pytest.mark.parametrize("aim, layers, start", [
    ("hidden", 1, 2), ("value", 1, 1), ("value", (1, 3), 1)], ids=str)
def test_the_memory_estimate_covers_what_autograd_keeps(tiny, facts, aim, layers, start):
    """Bytes of all tensors saved for one backward pass, weights left out, against the estimate."""
    model, tokenizer = tiny
    coded = [targets._Coded.of(tokenizer, facts[0], search())] * 6
    problem = targets.SuffixRuns(model, targets.Place.of(aim, layers), coded, search())
    weights, kept = {w.data_ptr() for w in model.parameters()}, {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        delta = torch.zeros_like(problem.h, requires_grad=True)
        sum(x.sum() for x in problem.loss(delta, torch.arange(6))).backward()
    c = coded[0]
    estimate = 6 * targets.bytes_per_fact(model, start, len(c.rows) + 1, c.width, c.length)
    past = sum(x.nbytes for pair in problem.every.prompts.past.values() for x in pair)
    assert sum(kept.values()) + past < estimate < 6 * sum(kept.values())


# ---- in bfloat16


@pytest.mark.parametrize("aim, layers", [("hidden", 2), ("value", (1, 3))], ids=str)
def test_a_search_in_bfloat16_ends_in_float32_about_where_one_in_float32_does(
        tiny, facts, aim, layers):
    model, tokenizer = tiny
    before = {name: x.clone() for name, x in model.state_dict().items()}
    how = search(aim=aim, goal="truth", steps=5, clamp=9.0, kl=0.0, precision="bfloat16")
    found = targets.optimise(model, tokenizer, facts, layers, how, cache=False)
    plain = targets.optimise(
        model, tokenizer, facts, layers, replace(how, precision="model"), cache=False)
    assert found.z.dtype == torch.float32 and torch.equal(found.h, plain.h)
    assert not torch.equal(found.z, plain.z)
    z, h = (x if x.dim() == 3 else x[:, None] for x in (found.z, found.h))
    coded = [targets._Coded.of(tokenizer, fact, how) for fact in facts]
    whole = WholeRuns(model, targets.Place.of(aim, layers), coded, how)
    nll, _ = whole.loss(z - h, torch.arange(len(facts)))
    assert torch.allclose(nll, found.loss[-1], rtol=1e-4)
    first, _ = whole.loss(0 * h, torch.arange(len(facts)))
    fell, plainly = (first - x.loss[-1] for x in (found, plain))
    assert bool((plainly > 0).all()) and float(fell.sum()) > 0.8 * float(plainly.sum())
    after = model.state_dict()
    assert all(torch.equal(after[name], x) and after[name].dtype == x.dtype
               for name, x in before.items())


def test_a_twin_shares_what_lies_below_and_has_all_above_in_bfloat16(tiny):
    model, _ = tiny
    twin = suffix_search.lowered(model, 3)
    for i, (own, its) in enumerate(zip(model.model.layers, twin.model.layers, strict=True)):
        kinds = {x.dtype for x in its.parameters()}
        assert (own is its) == (i < 3) and kinds == {torch.float32 if i < 3 else torch.bfloat16}
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert twin.lm_head.weight.dtype == twin.model.norm.weight.dtype == torch.bfloat16


def test_no_twin_is_made_of_what_is_in_bfloat16_already_or_has_hooks(tiny):
    model, _ = tiny
    place, how = targets.Place.of("hidden", 2), search(precision="bfloat16")
    assert targets._twin(model, place, search()) is None
    handle = model.model.layers[4].register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="hooks are on the model: .* not bfloat16"):
        assert targets._twin(model, place, how) is None
    handle.remove()
    assert targets._twin(model, place, how) is not None
    assert targets._twin(model.bfloat16(), place, how) is None


def test_a_search_of_one_step_is_kept_too(tiny, facts, cache):
    """Each fact's one loss is a number out of a row of several: one that is not read in place."""
    model, tokenizer = tiny
    first = targets.optimise(model, tokenizer, facts, 2, search("", steps=1))
    again = targets.optimise(model, tokenizer, facts, 2, search("", steps=1))
    assert torch.equal(first.loss, again.loss) and first.loss.shape == (1, len(facts))
    assert len(list((cache / "targets").rglob("*.safetensors"))) == len(facts)
