"""What is saved for others gives the edited model: as an adapter of PEFT, and whole."""
import copy
import json
import os
import warnings

import pytest
import torch
import yaml
from torch import nn

import zu
from zu import models
from zu.wrappers import parameter

peft = pytest.importorskip("peft")


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    """Everything an edit needs, with small settings."""
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (1, 2, 3), texts)
    return model, tokenizer, facts, dict(layers=(1, 2, 3), moments=C0, steps=5)


def logits(model, tokenizer):
    ids = torch.tensor([tokenizer("The capital of France is Paris. I and you")["input_ids"]])
    with torch.no_grad():
        return model(ids).logits


def trained(model, tokenizer):
    """A model with an adapter on attention and projections that some steps have taught, merged."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(
        target_modules=["q_proj", "down_proj"], r=2, task_type="CAUSAL_LM"))
    adam = torch.optim.Adam([x for x in wrapped.parameters() if x.requires_grad], lr=0.02)
    ids = torch.tensor([tokenizer("In Peru people speak the language of Lima")["input_ids"]])
    for _ in range(5):
        adam.zero_grad()
        wrapped(input_ids=ids, labels=ids).loss.backward()
        adam.step()
    return wrapped.merge_and_unload().eval().requires_grad_(False)


def differs(x, y):
    """The largest difference of two tensors, against the largest value."""
    return float((x - y).abs().max() / y.abs().max())


# ---- as an adapter


@pytest.mark.parametrize("method", ["zerounlearn", "memit", "rome"])
def test_an_adapter_gives_the_edited_models_logits_loaded_and_merged(job, tmp_path, method):
    model, tokenizer, facts, settings = job
    base = logits(model, tokenizer)
    with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
        edited = logits(model, tokenizer)
        edit.save_pretrained(tmp_path / "adapter")
    assert differs(edited, base) > 1e-2
    for merge in (False, True):
        twin, _ = zu.load_model(model.config._name_or_path, device="cpu")
        loaded = peft.PeftModel.from_pretrained(twin, tmp_path / "adapter")
        assert len([n for n, _ in loaded.named_modules() if n.endswith("lora_A.default")]) == len(
            edit.parts)
        if merge:
            loaded = loaded.merge_and_unload()
            for name, delta in edit.deltas.items():
                off = parameter(model, name)
                assert differs(parameter(loaded, name), off + delta) < 1e-6
        assert differs(logits(loaded, tokenizer), edited) < 1e-5


def test_a_trained_and_merged_model_edited_and_exported_is_got_back_from_peft_and_whole(
        folders, facts, cache, tmp_path):
    model, tokenizer = zu.load_model(folders["llama"], device="cpu")
    before = logits(model, tokenizer)
    merged = trained(model, tokenizer)
    assert differs(logits(merged, tokenizer), before) > 1e-2
    zu.save_model(merged, tokenizer, tmp_path / "merged")
    edit = zu.unlearn(merged, tokenizer, facts, layers=(1, 2), steps=5)
    edited = logits(merged, tokenizer)
    with pytest.warns(UserWarning, match="is not the one stored in .*an adapter was merged"):
        edit.save_pretrained(tmp_path / "adapter")  # it was loaded from the folder of the base
    zu.save_model(merged, tokenizer, tmp_path / "whole")
    base, its = zu.load_model(tmp_path / "merged", device="cpu")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert differs(logits(loaded, its), edited) < 1e-5
    whole, its = zu.load_model(tmp_path / "whole", device="cpu")
    assert torch.equal(logits(whole, its), edited)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None


def test_an_adapter_says_its_base_its_ranks_and_a_scale_of_one(job, tmp_path):
    model, tokenizer, facts, settings = job
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with zu.unlearn(model, tokenizer, facts, "memit", **settings, check=False) as edit:
            edit.save_pretrained(tmp_path / "on")
        edit.save_pretrained(tmp_path / "off")
    for folder in (tmp_path / "on", tmp_path / "off"):
        assert sorted(os.listdir(folder)) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors"]
        config = json.loads((folder / "adapter_config.json").read_text())
        modules = [name.removesuffix(".weight") for name in edit.parts]
        assert config["target_modules"] == modules
        assert config["rank_pattern"] == config["alpha_pattern"] == dict.fromkeys(modules, 5)
        assert config["base_model_name_or_path"] == model.config._name_or_path
        assert not config["fan_in_fan_out"]


def test_each_weight_of_an_adapter_has_its_own_rank_and_one_that_stays_has_none(job, tmp_path):
    model, tokenizer, _, _ = job
    generator = torch.Generator().manual_seed(0)
    edit = zu.Edit(model, facts=3)
    for layer, rank in ((1, 1), (2, 4), (3, 0)):
        name = models.weight_name(model, layer)
        delta = torch.randn(32, rank, generator=generator) @ torch.randn(
            rank, 80, generator=generator)
        edit.set(name, parameter(model, name).double() + delta)
    edited = logits(model, tokenizer)
    edit.save_pretrained(tmp_path / "a")
    edit.restore()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert list(config["rank_pattern"].values()) == [1, 4] and config["r"] == 4
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "a")
    assert differs(logits(loaded, tokenizer), edited) < 1e-5


def test_a_projection_stored_the_other_way_round_is_exported_the_right_way(folders, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    _, tokenizer = zu.load_model(folders["qwen3"], device="cpu")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4,
                                       n_positions=64, initializer_range=0.2)).eval()
    twin = copy.deepcopy(model)
    edit = zu.Edit(model, facts=2)
    for layer in (0, 2):
        name = f"transformer.h.{layer}.mlp.c_proj.weight"
        weight = parameter(model, name)
        assert weight.shape == (128, 32)  # (m, d)
        edit.set(name, weight.double() + torch.randn(128, 2).double() @ torch.randn(2, 32).double())
    edited = logits(model, tokenizer)
    assert differs(edited, logits(twin, tokenizer)) > 1e-2
    edit.save_pretrained(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of a wrong fan_in_fan_out
        loaded = peft.PeftModel.from_pretrained(twin, tmp_path / "a")
    assert differs(logits(loaded, tokenizer), edited) < 1e-5
    assert differs(logits(loaded.merge_and_unload(), tokenizer), edited) < 1e-5


def test_a_change_of_full_rank_is_refused_as_an_adapter_and_says_the_ways_out(job, tmp_path):
    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, "ga", **settings) as edit:
        (name,) = edit.parts
        ways = "zu.save_model.*edit.save.*rank= for an approximation"
        with pytest.raises(zu.EditError, match=f"{name} is changed at rank 32 of 32: .*{ways}"):
            edit.save_pretrained(tmp_path / "a")
        with pytest.raises(zu.EditError, match="rank is 0"):
            edit.save_pretrained(tmp_path / "a", rank=0)
        assert os.listdir(tmp_path) == ["cache"]
        sizes = torch.linalg.svdvals(edit.deltas[name].double())
        lost = float(sizes[8:].norm() / sizes.norm())
        with pytest.warns(UserWarning, match=f"rank 8 leaves out up to {lost:.1%} of a weight's"):
            edit.save_pretrained(tmp_path / "a", rank=8)
    assert f"{name}: {lost:.2%} of the change is left out" in (tmp_path / "a/README.md").read_text()
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "a").merge_and_unload()
    off = zu.load_model(model.config._name_or_path, device="cpu")[0]
    kept = parameter(loaded, name) - parameter(off, name)
    assert float((kept - edit.deltas[name]).norm() / edit.deltas[name].norm()) == pytest.approx(
        lost, rel=1e-3)


def test_a_low_rank_change_that_is_stored_whole_is_an_adapter_too(job, tmp_path):
    model, tokenizer, _, _ = job
    name = models.weight_name(model, 1)
    edit = zu.Edit(model)  # of no number of facts: no rank is looked for
    edit.set(name, parameter(model, name).double() + torch.outer(torch.ones(32), torch.ones(80)))
    edited = logits(model, tokenizer)
    assert len(edit.parts[name]) == 1
    edit.save_pretrained(tmp_path / "a")
    edit.restore()
    assert differs(logits(peft.PeftModel.from_pretrained(model, tmp_path / "a"), tokenizer),
                   edited) < 1e-5


def test_an_edit_of_nothing_is_no_adapter(tiny, tmp_path):
    model, _ = tiny
    edit, name = zu.Edit(model, facts=1), models.weight_name(model, 1)
    for weight in (None, parameter(model, name).double()):
        if weight is not None:
            edit.set(name, weight)
        with pytest.raises(zu.EditError, match="changes nothing: there is no adapter"):
            edit.save_pretrained(tmp_path / "a")


def test_an_adapter_fits_the_model_in_bfloat16_to_its_rounding(job, tmp_path):
    model, tokenizer, facts, settings = job
    model.to(torch.bfloat16)
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        edit.save_pretrained(tmp_path / "a")
        on = {name: parameter(model, name).float().clone() for name in edit.parts}
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "a").merge_and_unload()
    for name, weight in on.items():
        assert differs(parameter(merged, name).float(), weight) < 2**-7


# ---- whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_is_the_edited_one_with_its_tokenizer_and_settings(
        job, tmp_path, dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer, facts, settings = job
    model.to(dtype)
    model.generation_config.max_new_tokens = 17
    with zu.unlearn(model, tokenizer, facts, **settings):
        zu.save_model(model, tokenizer, tmp_path / "new" / "m")
        edited = {name: x.clone() for name, x in model.state_dict().items()}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "m")  # in the dtype it says
    assert loaded.dtype == dtype and loaded.generation_config.max_new_tokens == 17
    assert loaded.state_dict().keys() == edited.keys()
    assert all(torch.equal(x, edited[name]) for name, x in loaded.state_dict().items())
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    its = AutoTokenizer.from_pretrained(tmp_path / "new" / "m")
    assert its("In Peru 東京")["input_ids"] == tokenizer("In Peru 東京")["input_ids"]
    files = os.listdir(tmp_path / "new" / "m")
    assert "model.safetensors" in files and not [f for f in files if f.endswith((".bin", ".pt"))]
    assert os.listdir(tmp_path / "new") == ["m"]


def test_a_compiled_model_is_saved_under_its_own_names(job, tmp_path):
    model, tokenizer, _, _ = job
    zu.save_model(torch.compile(model), tokenizer, tmp_path / "m")
    loaded, _ = zu.load_model(tmp_path / "m", device="cpu")
    assert all(torch.equal(x, y) for x, y in zip(loaded.parameters(), model.parameters(),
                                                 strict=True))


def test_a_folder_with_something_in_it_is_left_alone(job, tmp_path):
    model, tokenizer, facts, settings = job
    (tmp_path / "m").mkdir()
    zu.save_model(model, tokenizer, tmp_path / "m")  # an empty one is taken
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    (tmp_path / "file").write_text("mine")
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        for there in (tmp_path / "m", tmp_path / "file"):
            for save in (lambda at: zu.save_model(model, tokenizer, at), edit.save_pretrained):
                with pytest.raises(FileExistsError, match="exists already.*name another"):
                    save(there)
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()} == before
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3


def test_what_fails_half_way_leaves_no_folder(job, tmp_path, monkeypatch):
    model, tokenizer, facts, settings = job

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="m is not written .*No space left.*make room"):
        zu.save_model(model, tokenizer, tmp_path / "m")
    assert not list(tmp_path.glob("m")) and not list(tmp_path.glob(".m*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is not written"):
        zu.save_model(model, tokenizer, tmp_path / "file" / "m")


def test_the_users_own_folder_is_expanded(job, tmp_path, monkeypatch):
    model, tokenizer, facts, settings = job
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        edit.save("~/e.safetensors")
        edit.save_pretrained("~/a")
        zu.save_model(model, tokenizer, "~/m")
        zu.card(edit, tokenizer, facts, "~/e.safetensors", ppl_tokens=32)
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == [
        "a", "e.card.json", "e.card.md", "e.safetensors", "m"]
    assert zu.Edit.load("~/e.safetensors", model).facts == 5 and not (tmp_path / "~").exists()


def test_models_that_would_be_saved_wrongly_are_refused(job, tmp_path):
    model, tokenizer, _, _ = job
    save = tmp_path / "m"
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        models.down_proj(spoilt, 2).weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layers.2.*down_proj.weight cannot be saved: .* NaN"):
        zu.save_model(spoilt, tokenizer, save)
    quantised = copy.deepcopy(model)
    quantised.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="quantised: load it in float32"):
        zu.save_model(quantised, tokenizer, save)
    away = copy.deepcopy(model)
    away.model.layers[1].to("meta")
    with pytest.raises(ValueError, match="cannot be saved: .*offloaded"):
        zu.save_model(away, tokenizer, save)
    with pytest.raises(ValueError, match="takes a model of transformers, not a Linear"):
        zu.save_model(nn.Linear(2, 2), tokenizer, save)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    for adapted in (wrapped, model):
        with pytest.raises(ValueError, match="merge them first"):
            zu.save_model(adapted, tokenizer, save)
    assert not save.exists()


# ---- what the hub reads


def front(path):
    """A README's front matter."""
    _, head, rest = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), rest


def test_every_readme_has_the_hubs_front_matter_and_no_path_or_text_of_a_fact(job, tmp_path):
    model, tokenizer, facts, settings = job
    folder = model.config._name_or_path
    with zu.unlearn(model, tokenizer, facts, **settings) as edit:
        edit.save(tmp_path / "e.safetensors")
        edit.save_pretrained(tmp_path / "a")
        zu.save_model(model, tokenizer, tmp_path / "m")
        zu.card(edit, tokenizer, facts, tmp_path / "e.safetensors", ppl_tokens=32)
        about = zu.card(edit, tokenizer, facts, tmp_path / "m", ppl_tokens=32)
        zu.card(edit, tokenizer, facts, tmp_path / "a", ppl_tokens=32)
    assert about["method"] == "zerounlearn" and (tmp_path / "m" / "card.json").is_file()
    for path, library in (("e.card.md", "zu"), ("a/README.md", "peft"),
                          ("m/README.md", "transformers")):
        head, rest = front(tmp_path / path)
        assert head["base_model"] == model.name and head["library_name"] == library
        assert {"unlearning", "zu", "zerounlearn"} <= set(head["tags"])
        assert folder not in path and folder not in rest and "Eff:" in rest
        assert not [fact for fact in facts if fact.subject in rest]


def test_a_saved_models_readme_says_which_edits_are_in_it(job, tmp_path):
    model, tokenizer, facts, settings = job
    zu.save_model(model, tokenizer, tmp_path / "none")
    with zu.unlearn(model, tokenizer, facts, **settings):
        zu.save_model(model, tokenizer, tmp_path / "one")
    assert "on it: none." in front(tmp_path / "none" / "README.md")[1]
    assert "on it: zerounlearn, 5 facts." in front(tmp_path / "one" / "README.md")[1]


@pytest.mark.parametrize("source, name, base", [
    ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
    ("/home/someone/models/mine", "mine", "mine"), ("./mine", "", "mine"),
    ("", "", "model"), ("", "yes", "yes"), ("", "12: a", "12: a")])
def test_a_base_is_its_hub_id_or_the_name_of_its_folder(tiny, source, name, base):
    from zu.export import front_matter

    model, _ = tiny
    model.config._name_or_path, model.name = source, name
    assert yaml.safe_load(front_matter(model, "peft", []).split("---\n")[1])["base_model"] == base
