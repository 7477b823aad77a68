"""How a model is read and written is tried on the model itself, and what cannot be is refused by
name, with what still works."""
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import zu
from zu import layouts, models, probes, reader

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import families  # noqa: E402

FACTS = families.FACTS


@pytest.fixture
def tokenizer(folders, cache):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folders["llama"])


@pytest.fixture
def llama(folders, cache):
    return zu.load_model(folders["llama"], device="cpu")[0]


def replaced(model, layer, linear):
    """The same model with another module in a projection's place."""
    models.decoder(model).layers[layer].mlp.down_proj = linear
    return model


# ---- what is found


def test_a_layout_says_where_the_memory_is_and_how_its_output_arrives(llama):
    found = zu.layout(llama)
    assert repr(found) == ("Layout(LlamaForCausalLM: 'layers' of 5, 'mlp.down_proj' in each; "
                           "probed: its output is added as it is)")
    assert found.body is llama.model and found.layers is llama.model.layers
    assert found.scales == {i: 1.0 for i in range(5)} and not found.transposed
    assert found.projection(2) is llama.model.layers[2].mlp.down_proj
    assert found.attention(2) is llama.model.layers[2].self_attn.o_proj
    assert layouts.known(llama).scales == {} and "not tried" in repr(layouts.known(llama))
    for layer in (-1, 5):
        with pytest.raises(IndexError, match=f"layer {layer}: the model has layers 0 to 4"):
            found.projection(layer)


def test_a_model_in_training_mode_is_tried_without_its_dropout(cache):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=400))
    assert model.training and model.config.resid_pdrop > 0
    assert zu.layout(model).scales == {0: 1.0, 1: 1.0}
    assert model.training


def test_a_residual_multiplier_is_measured_as_a_scale(cache):
    granite = families.build("granite")
    found = zu.layout(granite)
    assert granite.config.residual_multiplier == 0.22
    assert found.scales == pytest.approx({i: 0.22 for i in range(5)}, rel=1e-3)


def test_what_is_normalised_has_no_scale(folders, cache):
    model, _ = zu.load_model(folders["gemma2"], device="cpu")
    assert all(x != x for x in zu.layout(model).scales.values())
    assert "normalised in 5 layers" in repr(zu.layout(model))


def test_what_was_found_is_kept_but_the_weights_are_looked_at_each_time(llama, cache, monkeypatch):
    first = zu.layout(llama)
    assert len(list((cache / "layouts").rglob("*.safetensors"))) == 1
    monkeypatch.setattr(probes, "_probed", lambda *about: pytest.fail("it is known already"))
    assert zu.layout(llama).scales == first.scales
    replaced(llama, 1, nn.Linear(80, 32, bias=False, device="meta"))
    with pytest.raises(zu.LayoutError, match="is not in memory, but offloaded"):
        zu.layout(llama)


# ---- edits by what was found


def test_an_edit_of_two_layers_reaches_its_targets_through_a_residual_multiplier(tokenizer):
    """Granite adds 0.22 of what a layer puts out: the edit is made that much larger."""
    granite = families.build("granite")
    layers, how = [1, 3], dict(steps=6, n_prefixes=0)
    targets = zu.find_targets(granite, tokenizer, FACTS, 3, **how)
    moments = {layer: torch.eye(80).double() for layer in layers}
    with zu.unlearn(granite, tokenizer, FACTS, "memit", layers=layers, alpha=1e-6,
                    moments=moments, targets=targets, n_prefixes=0) as edit:
        assert edit.settings["aim"] == "hidden" and len(edit.deltas) == 2
        for fact, z, h in zip(FACTS, targets.z, targets.h, strict=True):
            ids, position = reader.encode(tokenizer, fact)
            states = granite(input_ids=torch.tensor([ids]), output_hidden_states=True)
            got = states.hidden_states[4][0, position]
            assert (got - z).norm() < 0.01 * (z - h).norm()


def test_a_weight_that_is_stored_transposed_is_edited_as_it_is_stored(tokenizer):
    """GPT-2's: the change k ↦ Δ k of the paper is Δᵀ in the model's own weight."""
    gpt2 = families.build("gpt2")
    found, conv = zu.layout(gpt2), gpt2.transformer.h[2].mlp.c_proj
    assert found.transposed and "stored transposed" in repr(found)
    assert conv.weight.shape == (80, 32) and torch.equal(found.matrix(2), conv.weight.T)
    old, name = conv.weight.detach().clone(), "transformer.h.2.mlp.c_proj.weight"
    targets = zu.find_targets(gpt2, tokenizer, FACTS, 2, steps=6, n_prefixes=0)
    moments = {2: torch.eye(80).double()}
    with zu.unlearn(gpt2, tokenizer, FACTS, "memit", layers=[2], targets=targets,
                    moments=moments, n_prefixes=0, alpha=2.0) as edit:
        assert list(edit.deltas) == [name] and edit.deltas[name].shape == (80, 32)
        torch.testing.assert_close(conv.weight - old, edit.deltas[name], rtol=1e-3, atol=1e-5)
        K = edit.keys[2].double().T  # (m, n)
        R = (targets.z - targets.h).double().T  # (d, n)
        change = edit.deltas[name].double().T  # (d, m), which MEMIT's normal equations hold for
        left, right = change @ (2 * torch.eye(80) + K @ K.T), R @ K.T
        assert (left - right).norm() < 1e-4 * right.norm()
    assert torch.equal(conv.weight, old)


# ---- what is as good


def test_a_models_own_hooks_are_part_of_what_it_computes(llama, tokenizer, tmp_path):
    """One that adds to a layer's states changes neither the layout nor how far an edit goes."""
    llama.model.layers[3].register_forward_hook(lambda module, args, out: out + 0.1)
    llama.model.layers[1].mlp.register_forward_hook(lambda module, args, out: 2 * out)
    assert zu.layout(llama).scales == pytest.approx({0: 1, 1: 2, 2: 1, 3: 1, 4: 1}, rel=1e-3)
    assert families.logits_error(llama, tokenizer) < 1e-5
    for layer in (1, 3):
        part, off = families.reach(llama, tokenizer, layer, "memit", alpha=1e-6)
        assert part == pytest.approx(1, abs=0.01) and off < 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2", "granite", "gemma2", "opt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_of_another_dtype_is_bound_alike(kind, dtype, cache):
    model = families.build(kind)
    full, half = zu.layout(model).scales, zu.layout(model.to(dtype)).scales
    assert half == pytest.approx(full, rel=0.05, nan_ok=True)


# ---- what cannot be edited as it is


class Adapted(nn.Module):
    """As adapters wrap a linear map."""

    def __init__(self, linear):
        super().__init__()
        self.base_layer = linear
        self.weight = linear.weight

    def forward(self, x):
        return self.base_layer(x)


def offloaded(linear):
    return nn.Linear(80, 32, bias=False, device="meta")


def eight_bits(linear):
    quantised = nn.Linear(80, 32, bias=False)
    quantised.weight = nn.Parameter(torch.zeros(32, 80, dtype=torch.int8), requires_grad=False)
    return quantised


def float_eight(linear):
    quantised = nn.Linear(80, 32, bias=False)
    quantised.weight = nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
    return quantised


class Packed(nn.Parameter):
    """A parameter of another type, as libraries that quantise have."""


def packed(linear):
    quantised = nn.Linear(80, 32, bias=False)
    quantised.weight = Packed(torch.zeros(1280, 1), requires_grad=False)
    return quantised


def parametrised(linear):
    return nn.utils.parametrizations.weight_norm(nn.Linear(80, 32, bias=False))


class Other(nn.Module):
    """No linear map that is known."""

    def __init__(self, linear):
        super().__init__()
        self.weight = linear.weight

    def forward(self, x):
        return x @ self.weight.T


@pytest.mark.parametrize("kind, said", [
    (Adapted, r"is wrapped by an adapter: merge it .*model\.merge_and_unload\(\)"),
    (offloaded, "is not in memory, but offloaded: load the model with a device_map that keeps"),
    (eight_bits, r"is quantised \(Tensor of torch\.int8\): load the model without"),
    (float_eight, r"is quantised \(Tensor of torch\.float8_e4m3fn\): load"),
    (packed, r"is quantised \(Packed of torch\.float32\): load"),
    (parametrised, "has a weight that is computed from others .*remove the parametrisation first"),
    (Other, "is a Other, not a plain linear map: load the model")],
    ids=lambda x: getattr(x, "__name__", ""))
def test_a_projection_that_cannot_be_edited_is_refused_by_name_with_the_way_out(
        llama, tokenizer, kind, said):
    replaced(llama, 2, kind(llama.model.layers[2].mlp.down_proj))
    said = f"^'mlp.down_proj' in layer 2 of LlamaForCausalLM .*{said}"
    for refused in (lambda: models.down_proj(llama, 2), lambda: zu.layout(llama),
                    lambda: zu.unlearn(llama, tokenizer, FACTS, "memit", layers=[2]),
                    lambda: zu.unlearn(llama, tokenizer, FACTS, "ga", layers=[2])):
        with pytest.raises(zu.LayoutError, match=said):
            refused()


def test_a_mixture_of_experts_is_evaluated_and_its_edit_refused_by_name(tokenizer, texts):
    mixtral = families.build("mixtral")
    for method in ("memit", "ga", "zerounlearn"):
        with pytest.raises(zu.LayoutError, match="Mixtral.*zu.evaluate and zu.perplexity work "
                                                 "nevertheless"):
            zu.unlearn(mixtral, tokenizer, FACTS, method, layers=[2])
    assert families.logits_error(mixtral, tokenizer) < 1e-5
    assert 0 <= zu.evaluate(mixtral, tokenizer, FACTS).eff <= 100
    ids = zu.second_moments.pack(tokenizer, texts[:1], 33, 33).flatten()
    logp = mixtral(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    expected = torch.nn.functional.nll_loss(logp, ids[1:]).exp().item()
    found = zu.perplexity(mixtral, tokenizer, texts[:1], tokens=33, window=33, stride=33)
    assert found == pytest.approx(expected, rel=1e-3)


def test_of_layers_with_and_without_a_projection_those_with_one_are_edited(tokenizer):
    """DeepSeek's first layers are dense, the others mixtures."""
    model = families.build("deepseek_v3")
    dense = model.config.first_k_dense_replace
    assert 0 < dense < 5 and set(zu.layout(model).scales) == set(range(dense))
    with pytest.raises(zu.LayoutError, match=f"^layer {dense} of DeepseekV3ForCausalLM has no "
                                             "'mlp.down_proj': it may be a mixture of experts"):
        zu.unlearn(model, tokenizer, FACTS, "memit", layers=[0, dense])
    part, off = families.reach(model, tokenizer, 0, "memit", alpha=1e-6)
    assert part == pytest.approx(1, abs=0.01) and off < 0.01


@pytest.mark.parametrize("wrap, inside", [(torch.compile, "_orig_mod"),
                                          (nn.DataParallel, "module")])
def test_a_wrapper_of_a_whole_model_is_refused_with_the_way_out(llama, tokenizer, wrap, inside):
    wrapped = wrap(llama)
    for refused in (lambda: zu.layout(wrapped), lambda: zu.evaluate(wrapped, tokenizer, FACTS),
                    lambda: zu.perplexity(wrapped, tokenizer),
                    lambda: zu.known(wrapped, tokenizer, FACTS),
                    lambda: zu.unlearn(wrapped, tokenizer, FACTS, "ga", layers=[2]),
                    lambda: zu.find_targets(wrapped, tokenizer, FACTS, 2),
                    lambda: zu.moments(wrapped, tokenizer, [2], tokens=64)):
        with pytest.raises(zu.LayoutError, match=f"give zu the one inside .model.{inside}."):
            refused()
    assert getattr(wrapped, inside) is llama


class Aside(nn.Module):
    """A decoder layer that leaves something aside for the next one."""

    def __init__(self, block, box, first):
        super().__init__()
        self.block, self.box, self.first = [block], box, first
        self.mlp, self.self_attn = block.mlp, block.self_attn

    def forward(self, states, **call):
        out = self.block[0](states, **call)
        states = out[0] if isinstance(out, tuple) else out
        if not self.first:  # what the layer before has left
            states = states + self.box.pop()
        self.box.append(0.1 * states.detach().mean(1, keepdim=True))
        return states


@pytest.fixture
def aside(llama):
    """A model whose layers pass something on beside the states."""
    box = []
    blocks = llama.model.layers
    for i in range(len(blocks)):
        blocks[i] = Aside(blocks[i], box, first=i == 0)
    return llama


def test_a_model_whose_layers_cannot_be_run_alone_is_evaluated_and_descended_as_a_whole(
        aside, tokenizer, texts):
    said = "LlamaForCausalLM cannot be edited layer by layer: .*zu.evaluate and zu.perplexity work"
    for method in ("memit", "rome"):
        with pytest.raises(zu.LayoutError, match=said):
            zu.unlearn(aside, tokenizer, FACTS, method, layers=[2])
    assert families.logits_error(aside, tokenizer) < 1e-5
    assert zu.perplexity(aside, tokenizer, texts[:1], tokens=33, window=33, stride=33) > 1
    asked = [(FACTS[0].text, FACTS[0].target)]
    before, W = zu.scores.score(aside, tokenizer, asked)[0, 2], models.down_proj(aside, 2).weight
    old = W.detach().clone()
    with warnings.catch_warnings(action="error"):
        with zu.unlearn(aside, tokenizer, FACTS[:1], "ga", layers=[2], steps=5,
                        check=False) as edit:
            assert zu.scores.score(aside, tokenizer, asked)[0, 2] < before
            assert edit.changed and not torch.equal(W, old)
    assert torch.equal(W, old)
