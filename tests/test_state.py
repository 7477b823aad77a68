"""No state of the caller's or of the model's has a silent influence on an edit or a score."""
import copy
import io
import warnings

import pytest
import torch
from torch import nn

import zu
from zu import models
from zu.carried import edits_on
from zu.modes import settled, settles
from zu.wrappers import is_transposed, layer_of, parameter, plain_name, unwrapped

LOCATED, TRAINED = "zerounlearn", "ga"


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    """Everything an edit needs, with small settings."""
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (1, 2, 3), texts)
    return model, tokenizer, facts, dict(layers=(1, 2, 3), moments=C0, steps=5)


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """A function that empties the cache, so that nothing is found there."""
    def empty():
        monkeypatch.setenv("ZU_CACHE", str(tmp_path / f"cache-{len(made)}"))
        made.append(1)

    made = []
    return empty


def dropping(model):
    """The same model in training mode, with dropout in its attention and checkpoints in between."""
    for part in model.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers renames it
        model.gradient_checkpointing_enable()
    return model.train()


def deltas(job, method):
    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
        return list(edit.deltas.values())


@pytest.mark.parametrize("method", [LOCATED, TRAINED])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_around_the_call_change_no_edit(job, afresh, method, mode):
    afresh()
    plain = deltas(job, method)
    afresh()
    with mode():
        assert all(map(torch.equal, plain, deltas(job, method)))
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("method", [LOCATED, TRAINED])
def test_training_mode_dropout_and_checkpoints_change_no_edit_and_stay_as_they_were(
        job, afresh, method):
    model = job[0]
    afresh()
    plain = deltas(job, method)
    afresh()
    dropping(model).model.layers[2].eval()
    before = [part.training for part in model.modules()]
    assert all(map(torch.equal, plain, deltas(job, method)))
    assert [part.training for part in model.modules()] == before and True in before


def test_a_search_called_by_itself_is_as_indifferent_to_modes_as_one_in_an_edit(job, afresh):
    model, tokenizer, facts, _ = job

    def found(layer, aim):
        afresh()
        search = zu.targets.Search(("", "I"), steps=3, aim=aim)
        return zu.targets.optimise(model, tokenizer, facts, layer, search).z

    asked = ((3, "hidden"), ((1, 3), "value"))
    plain = [found(*one) for one in asked]
    dropping(model)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert all(torch.equal(found(*one), z) for one, z in zip(asked, plain, strict=True))
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert model.training


def test_training_mode_and_dropout_change_no_score_and_no_reading(job, afresh):
    model, tokenizer, facts, settings = job
    others = [zu.Fact(name, "The capital of {} is", "Lima") for name in ("Peru", "Chad")]

    def read():
        afresh()
        target = zu.find_targets(model, tokenizer, facts, 3, steps=3, n_prefixes=2)
        C0 = zu.moments(model, tokenizer, (1, 2), tokens=256, window=64)
        return (zu.evaluate(model, tokenizer, facts), list(zu.known(model, tokenizer, facts)),
                zu.perplexity(model, tokenizer, tokens=128, window=64, stride=32),
                target.z.tolist(), {layer: x.tolist() for layer, x in C0.items()},
                zu.robustness(model, tokenizer, facts, others),
                zu.Reader(model, tokenizer).texts(2))

    plain = read()
    dropping(model)
    assert repr(read()) == repr(plain) and model.training
    with torch.inference_mode():
        assert repr(read()) == repr(plain)


def test_a_model_is_in_its_own_mode_again_after_an_error():
    part = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    part[1].eval()
    with pytest.raises(KeyError), settled(part):
        assert not part.training and not part[0].training and torch.is_grad_enabled()
        raise KeyError
    assert part.training and part[0].training and not part[1].training

    @settles
    def mode(model, what=1):
        """Says it."""
        return model.training, what

    assert mode(part, what=2) == (False, 2) and mode(model=part) == (False, 1)
    assert mode.__doc__ == "Says it." and part.training


def test_a_model_loaded_inside_inference_mode_has_ordinary_weights(folders):
    with torch.inference_mode():
        model, _ = zu.load_model(folders["llama"], device="cpu")
    assert not any(weight.is_inference() for weight in model.parameters())


def test_weights_made_inside_inference_mode_are_refused_before_anything_is_computed(folders, facts):
    whole, tokenizer = zu.load_model(folders["llama"], device="cpu")
    with torch.inference_mode():
        model = type(whole)(whole.config).eval()
    for do in (lambda: zu.unlearn(model, tokenizer, facts),
               lambda: zu.find_targets(model, tokenizer, facts, 2)):
        with pytest.raises(zu.EditError, match="inference_mode.*load the model outside of it"):
            do()
    edit = zu.Edit(model)
    with pytest.raises(zu.EditError, match="cannot be edited: .*inference_mode"):
        edit.set(models.weight_name(model, 1), models.down_proj(model, 1).weight.double() * 2)
    assert not edit.parts


# ---- numbers that are none


def test_targets_and_moments_that_are_not_finite_are_refused(job):
    model, tokenizer, facts, settings = job
    z = torch.zeros(len(facts), 32)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for value in (float("nan"), float("inf")):
        for part in ("z", "h"):
            given = {"z": z, "h": z, part: z.clone().index_fill(0, torch.tensor([1]), value)}
            targets = zu.targets.Targets(loss=z, **given)
            with pytest.raises(ValueError, match="targets are NaN or infinite"):
                zu.unlearn(model, tokenizer, facts, **settings, targets=targets)
        C0 = dict(settings["moments"]) | {2: settings["moments"][2] * value}
        with pytest.raises(ValueError, match="moments of layer 2 are NaN or infinite"):
            zu.unlearn(model, tokenizer, facts, **settings | {"moments": C0})
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_weight_that_its_dtype_cannot_hold_is_refused_and_leaves_the_model(folders):
    model, _ = zu.load_model(folders["llama"], device="cpu", dtype=torch.float16)
    low, high = models.weight_name(model, 1), models.weight_name(model, 2)
    before = [parameter(model, name).clone() for name in (low, high)]
    with pytest.raises(zu.EditError, match=f"{high}: .* infinite in torch.float16; nothing was"), \
            zu.Edit(model) as edit:
        edit.set(low, parameter(model, low).double() * 1.5)
        new = parameter(model, high).double()
        new[0] = 7e4  # finite, and above float16's 65,504
        with torch.no_grad():
            parameter(model, high).mul_(1000)  # so that the change is not too large for it
        before[1] = parameter(model, high).clone()
        edit.set(high, new)
    assert all(torch.equal(x, parameter(model, name))
               for x, name in zip(before, (low, high), strict=True))


def test_an_edit_put_on_where_the_sum_overflows_puts_nothing_on(folders, tmp_path):
    model, _ = zu.load_model(folders["llama"], device="cpu", dtype=torch.float16)
    low, high = models.weight_name(model, 1), models.weight_name(model, 2)
    with zu.Edit(model) as edit:
        for name in (low, high):
            edit.set(name, parameter(model, name).double() * 2)
    before = parameter(model, low).clone()
    with torch.no_grad():
        parameter(model, high).fill_(65_000).sub_(parameter(model, high) * 0)
        edit.parts[high] = (torch.full(parameter(model, high).shape, 1000.0),)
    with pytest.raises(zu.EditError, match="infinite in torch.float16"):
        edit.apply()
    assert not edit.applied and torch.equal(before, parameter(model, low)) and not edits_on(model)


def test_an_edit_of_a_float64_model_keeps_the_bits_that_it_does_not_change():
    model = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    before = model[0].weight.detach().clone()
    new = before.clone()
    new[0] += 1
    edit = zu.Edit(model)
    edit.set("0.weight", new)
    assert torch.equal(model[0].weight[1:], before[1:])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_whole_numbers_are_not_overwritten(dtype):
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    model[0].weight = nn.Parameter(torch.ones(4, 6, dtype=dtype), requires_grad=False)
    with pytest.raises(zu.EditError, match="0.weight cannot be edited: .*quantised: load"):
        zu.Edit(model).set("0.weight", torch.zeros(4, 6).double())
    assert (model[0].weight == 1).all()


def test_weights_that_are_not_in_memory_are_refused():
    model = nn.Sequential(nn.Linear(6, 4, bias=False, device="meta"))
    with pytest.raises(zu.EditError, match="0.weight cannot be edited: .*offloaded"):
        zu.Edit(model).set("0.weight", torch.zeros(4, 6).double())


# ---- a second edit


def second(job, **more):
    """What is said of an edit of the last facts, made after one of the first."""
    model, tokenizer, facts, settings = job
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        zu.unlearn(model, tokenizer, facts[2:], **settings | more).restore()
    return [str(x.message) for x in said if "carries an edit" in str(x.message)]


def test_a_second_edit_that_does_not_name_the_first_warns(job):
    model, tokenizer, facts, settings = job
    assert second(job) == []
    first = zu.unlearn(model, tokenizer, facts[:2], **settings)
    (said,) = second(job)
    assert "(zerounlearn, 2 facts)" in said and "restore it first, or name it in earlier=" in said
    assert "earlier= " not in second(job, method=TRAINED, moments=None)[0]
    assert second(job, earlier=[first]) == []
    del first  # as where a cell is run twice
    assert len(second(job)) == 1


def test_a_model_forgets_an_edit_that_is_off_and_one_that_other_weights_replaced(job):
    model, tokenizer, facts, settings = job
    fresh = copy.deepcopy(model.state_dict())
    edit = zu.unlearn(model, tokenizer, facts[:2], **settings)
    twin = copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    edit.restore()
    assert not edits_on(model) and "_zu_edits" not in vars(model) and second(job) == []
    assert list(edits_on(twin).values()) == ["zerounlearn, 2 facts"]  # its weights are the edited
    edit.apply()
    model.load_state_dict(fresh)
    assert second(job) == []
    with pytest.raises(KeyError), zu.Edit(twin):
        raise KeyError


# ---- a cast while the edit is on


def cast(model, *dtypes):
    for dtype in dtypes:
        model.to(dtype)
    return model


@pytest.mark.parametrize("way", [
    (torch.float16,), (torch.bfloat16,), (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32), (torch.float64,)])
def test_restore_survives_a_cast_and_says_so(job, way):
    model, tokenizer, facts, settings = job
    expected = cast(copy.deepcopy(model), *way).state_dict()
    with pytest.warns(UserWarning, match=f"cast to .*{way[-1]} while the edit was on") as said, \
            zu.unlearn(model, tokenizer, facts, **settings) as edit:
        cast(model, *way)
    assert "rounded in the same way" in str(said[-1].message) and not edit.applied
    assert all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())
    assert not edits_on(model)


def test_what_went_wrong_in_a_block_is_not_hidden_by_an_edit_that_cannot_come_off(job):
    model, tokenizer, facts, settings = job
    with pytest.raises(KeyError, match="mine") as caught, \
            zu.unlearn(model, tokenizer, facts, **settings) as edit:
        with torch.no_grad():
            models.down_proj(model, 1).weight.add_(1)
        raise KeyError("mine")
    assert "the edit is still on the model: " in caught.value.__notes__[0] and edit.applied
    with pytest.raises(zu.EditError, match="was changed after this edit was applied"):
        edit.restore()


# ---- names, whatever is around the model


def test_names_lose_what_wrappers_put_into_them():
    bare = "model.layers.1.mlp.down_proj.weight"
    for name in (bare, f"base_model.model.{bare}", f"_orig_mod.{bare}", f"module.{bare}",
                 f"module._orig_mod.base_model.model.{bare}",
                 "base_model.model.model.layers.1.mlp.down_proj.base_layer.weight",
                 "model.layers.1._orig_mod.mlp.down_proj.weight",
                 "model.layers.1._checkpoint_wrapped_module.mlp.down_proj.weight"):
        assert plain_name(name) == bare
    assert plain_name("b/c.weight") == "b/c.weight"
    assert layer_of(bare) == 1 and layer_of("transformer.h.12.mlp.c_proj.weight") == 12
    assert layer_of("0.weight") == 0 and layer_of("lm_head.weight") is None


def wrap(kind, model):
    """A model in a wrapper of this kind."""
    if kind == "compiled":
        return torch.compile(model)
    if kind == "data-parallel":
        return nn.DataParallel(model)
    if kind == "block compiled":
        model.model.layers[2] = torch.compile(model.model.layers[2])
        return model
    return lora(model)


def lora(model, *where):
    """With an adapter of PEFT, which is no longer nought, on these projections."""
    peft = pytest.importorskip("peft")
    where = where or ("q_proj",)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(
        target_modules=list(where), r=2, task_type="CAUSAL_LM"))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return wrapped.eval()


@pytest.mark.parametrize("kind", ["compiled", "data-parallel", "block compiled", "adapters"])
def test_an_edit_of_a_plain_model_fits_a_wrapped_one(job, tmp_path, kind):
    model, tokenizer, facts, settings = job
    twin = copy.deepcopy(model)
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        edit.save(tmp_path / "e")
    wrapped = wrap(kind, twin)
    assert unwrapped(wrapped) is twin
    before = {name: x.clone() for name, x in wrapped.state_dict().items()}
    with zu.Edit.load(tmp_path / "e", wrapped) as loaded:
        assert set(loaded.changed) == set(edit.parts) and edits_on(wrapped) == edits_on(twin) != {}
        for layer in (1, 2, 3):
            name = models.weight_name(model, layer)
            now = parameter(wrapped, name)
            assert torch.equal(now, parameter(model, name) + edit.deltas[name])
        loaded.save(tmp_path / "again")
    assert all(torch.equal(x, before[name]) for name, x in wrapped.state_dict().items())
    assert set(zu.Edit.load(tmp_path / "again", model).parts) == set(edit.parts)


def test_an_edit_of_a_model_with_adapters_warns_has_plain_names_and_fits_the_merged_one(
        job, tmp_path):
    model, tokenizer, facts, settings = job
    wrapped = lora(copy.deepcopy(model))
    settings = settings | {"moments": zu.moments(wrapped, tokenizer, (1, 2, 3), tokens=256,
                                                 window=64)}
    with pytest.warns(UserWarning, match="PEFT adapters.*this edit would be lost.*edit.save"):
        edit = zu.unlearn(wrapped, tokenizer, facts, **settings)
    assert set(edit.parts) == {models.weight_name(model, layer) for layer in (1, 2, 3)}
    edit.save(tmp_path / "e")
    edit.restore()
    merged = wrapped.merge_and_unload()
    with zu.Edit.load(tmp_path / "e", merged) as loaded:
        assert set(loaded.changed) == set(edit.parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        zu.unlearn(merged, tokenizer, facts, **settings, check=False).restore()


def test_an_edit_with_a_wrappers_names_in_its_file_is_read_all_the_same(job, tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        edit.save(tmp_path / "e")
    with safe_open(tmp_path / "e", framework="pt") as file:
        about = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    front = "base_model.model."
    marks = json.loads(about["before"])
    old = {}  # as the format before had it: a sum and a norm
    for name, mark in marks.items():
        old[front + name] = " ".join(mark.split()[:2])
    named = {}
    for key, x in stored.items():
        kind, _, name = key.partition("/")
        named[key if kind == "keys" else f"{kind}/{front}{name}"] = x
    save_file(named, tmp_path / "old",
              metadata=about | {"format": "zu-edit-2", "before": json.dumps(old)})
    loaded = zu.Edit.load(tmp_path / "old", model)
    assert set(loaded.parts) == set(edit.parts)
    loaded.save(tmp_path / "new")
    with safe_open(tmp_path / "new", framework="pt") as file:
        assert json.loads(file.metadata()["before"]) == marks


def test_a_projection_stored_the_other_way_round_is_known_as_such(tiny):
    from transformers.pytorch_utils import Conv1D

    model, _ = tiny
    assert not is_transposed(model, models.weight_name(model, 1))
    assert is_transposed(nn.Sequential(Conv1D(4, 6)), "0.weight")


def test_a_name_of_no_weight_or_of_two_is_an_error():
    inner = nn.ModuleDict({"a": nn.Linear(2, 2)})
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "_orig_mod": inner})
    with pytest.raises(AttributeError, match="2 weights are called 'a.weight'"):
        parameter(model, "module.a.weight")
    with pytest.raises(AttributeError, match="0 weights are called 'b.weight'"):
        parameter(model, "b.weight")


# ---- windows, and what a test of erasure needs


def test_a_window_longer_than_the_models_context_is_cut_with_a_word(tiny, cache):
    model, tokenizer = tiny  # of 256 tokens
    with pytest.warns(UserWarning, match="window of 512 tokens .* cut to .* 256 tokens"):
        cut = zu.perplexity(model, tokenizer, tokens=1024, window=512, stride=256)
    assert cut == zu.perplexity(model, tokenizer, tokens=1024, window=256, stride=128)
    with pytest.warns(UserWarning, match="window of 512 tokens"):
        long = zu.moments(model, tokenizer, (1,), tokens=1024)
    assert torch.equal(long[1], zu.moments(model, tokenizer, (1,), tokens=1024, window=256)[1])


def test_robustness_with_one_other_prompt_is_refused_at_once(tiny, facts, monkeypatch):
    model, tokenizer = tiny
    other = zu.Fact("Peru", "The capital of {} is", "Lima")
    monkeypatch.setattr("zu.audit.erasure.score", None)  # nothing is asked
    for others in ([other], [other, other]):
        with pytest.raises(ValueError, match="others: one prompt is too few, give two or more"):
            zu.robustness(model, tokenizer, facts, others)


def test_a_model_whose_files_lack_a_weight_is_refused(folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["llama"], tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.2.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match="lack 1 weights, model.layers.2.mlp.down_proj.weight"):
        zu.load_model(tmp_path / "m", device="cpu")
