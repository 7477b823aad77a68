"""Causal tracing: the batched sweep gives what one restoration at a time gives, and leaves the
model alone."""
import numpy as np
import pytest
import torch

from zu import models
from zu.data.facts import Fact, FactError
from zu.experiment.tracing import KINDS, ROLES, Corruption, indirect_effects, prompt

CELL = ["fact", "kind", "layer", "position"]


def one_at_a_time(model, tokenizer, facts, index, *, draws, window, seed, noise=3.0, restore=()):
    """P(answer's first token) by draw, in whole passes. restore: (kind, layer, position) triples,
    all in one pass."""
    body = models.decoder(model)
    prompts = [prompt(tokenizer, fact) for fact in facts]

    def run(ids, *pairs):
        handles = [module.register_forward_hook(function) if after
                   else module.register_forward_pre_hook(function)
                   for module, after, function in pairs]
        try:
            with torch.no_grad():
                return model(input_ids=torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    def inputs(p):
        seen = []
        run(p.ids, (body.layers[0], False, lambda m, a: seen.append(a[0].clone())))
        return seen[0]

    sigma = noise * torch.cat([inputs(p)[0, p.first:p.last + 1] for p in prompts]).std()
    p = prompts[index]
    modules = {(kind, i): module for i, x in enumerate(body.layers)
               for kind, module in (("hidden", x), ("mlp", x.mlp), ("attention", x.self_attn))}
    clean = {}
    run(p.ids, *((m, True, lambda m, a, o, key=key: clean.update(
                     {key: (o[0] if isinstance(o, tuple) else o).clone()}))
                 for key, m in modules.items()))
    draw = np.random.default_rng([seed, index]).standard_normal(
        (draws, p.last + 1 - p.first, inputs(p).shape[-1]), np.float32)
    depth, width, out = len(body.layers), max(1, round(window * len(body.layers))), []
    for d in range(draws):
        def corrupt(module, args, d=d):
            states = args[0].clone()
            states[:, p.first:p.last + 1] += torch.from_numpy(draw[d]) * sigma
            return (states, *args[1:])

        pairs = [(body.layers[0], False, corrupt)]
        for kind, layer, position in restore:
            around = range(layer - width // 2, layer - width // 2 + width)
            for i in [layer] if kind == "hidden" else [i for i in around if 0 <= i < depth]:
                def put(module, args, output, key=(kind, i), position=position):
                    states = (output[0] if isinstance(output, tuple) else output).clone()
                    states[:, position] = clean[key][:, position]
                    return (states, *output[1:]) if isinstance(output, tuple) else states

                pairs.append((modules[kind, i], True, put))
        out.append(float(run(p.ids, *pairs)[p.gold]))
    return np.array(out)


def check(model, tokenizer, facts):
    settings = dict(draws=2, window=0.5, seed=3)
    frame = indirect_effects(model, tokenizer, facts, corruption=Corruption(draws=2, seed=3),
                             window=0.5, tokens=100)
    assert len(frame) == sum(
        5 * 3 * (len(p.ids) - p.first) for p in (prompt(tokenizer, f) for f in facts))
    close = min(1e-5, 1e-3 * frame.effect.abs().max())
    assert frame.effect.abs().max() > 1e-4  # there is something to agree about
    for i in range(len(facts)):
        own = frame[frame.fact == i]
        corrupted = one_at_a_time(model, tokenizer, facts, i, **settings).mean()
        np.testing.assert_allclose(own.corrupted, corrupted, rtol=0, atol=1e-5)
        for row in own.itertuples():
            plain = one_at_a_time(model, tokenizer, facts, i, **settings,
                                  restore=[(row.kind, row.layer, row.position)]).mean()
            assert abs(row.effect - (plain - corrupted)) < close, (
                row.kind, row.layer, row.position)


def test_the_batch_gives_what_one_restoration_at_a_time_gives(tiny, facts):
    check(*tiny, facts[:3])


def test_it_does_so_with_the_norms_and_masks_of_gemma(gemma, facts):
    check(*gemma, facts[1:2])


def test_a_sliding_window_is_kept(folders, facts):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(folders["gemma3"], sliding_window=3)
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(
            folders["gemma3"], config=config, attn_implementation=attention)
        check(model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folders["gemma3"]),
              facts[:1])


def test_restoring_all_gives_the_clean_probability_and_restoring_nothing_the_corrupted_one(
        tiny, facts):
    frame = indirect_effects(*tiny, facts, corruption=Corruption(draws=3))
    assert (abs(frame.clean - frame.corrupted).groupby(frame.fact).max() > 1e-5).all()
    end = frame[(frame.kind == "hidden") & (frame.layer == 4)]
    last = end.groupby("fact").position.transform("max")
    all_ = end[end.position == last]  # after it nothing is left but the output
    np.testing.assert_allclose(all_.corrupted + all_.effect, all_.clean, rtol=0, atol=1e-5)
    # nobody reads these any more
    np.testing.assert_allclose(end[end.position < last].effect, 0, atol=1e-6)


def test_without_noise_there_is_no_effect(tiny, facts):
    frame = indirect_effects(*tiny, facts[:2], corruption=Corruption(0.0, 1))
    np.testing.assert_allclose(frame.corrupted, frame.clean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(frame.effect, 0, atol=1e-6)


def test_the_seed_decides_and_the_size_of_batches_does_not(tiny, facts):
    first, same, other = (indirect_effects(*tiny, facts[:3], corruption=Corruption(seed=seed),
                                           tokens=tokens)
                          for seed, tokens in ((1, 4096), (1, 1), (2, 4096)))
    assert first[CELL].equals(same[CELL])
    np.testing.assert_allclose(first.effect, same.effect, rtol=0, atol=1e-6)
    assert abs(first.effect - other.effect).max() > 1e-4


def test_some_kinds_alone_give_what_they_give_together(tiny, facts):
    whole, part = (indirect_effects(*tiny, facts[:2], kinds=kinds) for kinds in (KINDS, ("mlp",)))
    np.testing.assert_allclose(whole[whole.kind == "mlp"].effect, part.effect, rtol=0, atol=1e-6)


def handles(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_model_is_left_as_it_was_also_when_a_layer_fails(tiny, facts, monkeypatch):
    model, tokenizer = tiny
    before = {name: x.clone() for name, x in model.state_dict().items()}
    indirect_effects(model, tokenizer, facts[:1])

    calls = []

    def fail(x, *args, **kwargs):
        calls.append(x)
        if len(calls) > 3:  # two clean passes, then within the sweep
            raise RuntimeError("no more")
        return type(module).forward(module, x, *args, **kwargs)

    module = models.decoder(model).layers[2].mlp
    monkeypatch.setattr(module, "forward", fail)
    with pytest.raises(RuntimeError, match="no more"):
        indirect_effects(model, tokenizer, facts[:1], tokens=1)
    monkeypatch.undo()
    assert handles(model) == 0
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_subject_that_begins_the_prompt_gets_a_token_in_front(folders):
    import zu

    model, tokenizer = zu.load_model(folders["qwen3"], device="cpu")
    for subject in ("Peru", "Côte d'Ivoire", "東京"):
        p = prompt(tokenizer, Fact(subject, "{} is a city in", "Japan"))
        assert p.first == 1 and p.ids[0] == tokenizer.eos_token_id
        assert tokenizer.decode(p.ids[p.first:p.last + 1]) == subject
        assert tokenizer.decode(p.ids[1:]) == subject + " is a city in"
    p = prompt(tokenizer, Fact("Peru", "The capital of {} is", "Lima"))
    assert tokenizer.decode(p.ids) == "The capital of Peru is"  # nothing in front
    assert tokenizer.decode(p.ids[p.first:p.last + 1]).strip() == "Peru"


def test_a_fact_without_a_subject_is_not_traced(folders):
    import zu

    _, tokenizer = zu.load_model(folders["qwen3"], device="cpu")
    with pytest.raises(FactError, match="fact 'a' has no subject, and tracing needs its tokens"):
        prompt(tokenizer, Fact("", "The capital is", "Lima", id="a"))


def test_every_token_has_the_place_that_its_name_says():
    from zu.experiment.tracing import Prompt

    assert [Prompt(list(range(9)), 2, 5, 0).role(t) for t in range(2, 9)] == [
        ROLES[i] for i in (0, 1, 1, 2, 3, 4, 5)]
    assert [Prompt(list(range(4)), 2, 2, 0).role(t) for t in (2, 3)] == [ROLES[2], ROLES[5]]


def test_what_cannot_be_traced_is_an_error_that_names_it(tiny, facts):
    model, tokenizer = tiny
    for wrong in (dict(corruption=Corruption(draws=0)), dict(kinds=("mlp", "neurons"))):
        with pytest.raises(ValueError, match="draws is"):
            indirect_effects(model, tokenizer, facts[:1], **wrong)

    class Blind:  # no token covers anything
        bos_token_id, eos_token_id = 0, 0

        def __call__(self, text, **kwargs):
            return {"input_ids": [5], "offset_mapping": [(0, 0)]}

    with pytest.raises(FactError, match="fact 'x'"):
        prompt(Blind(), Fact("Paris", "The {}", "Lima", id="x"))


def test_no_effect_is_told_of_logits_that_are_not_finite(tiny, facts, spoil, broken):
    model, tokenizer = tiny
    spoil(model, *broken)
    with pytest.raises(ValueError, match="logits of model .* are NaN or infinite"):
        indirect_effects(model, tokenizer, facts[:1], corruption=Corruption(draws=1))
