"""Every decoder family that transformers has is edited as it computes, or refused by name; what
the book says of each is kept, and found again."""
import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

import zu

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import families  # noqa: E402
import tiny_families  # noqa: E402

#: One family for each way in which a layout can differ: quick ones.
SOME = ["llama", "gpt2", "gptj", "opt", "bloom", "falcon", "granite", "cohere", "gemma2", "glm4",
        "gemma3", "gemma4"]
#: Families that must be bound, whatever others are.
BOUND = set(SOME) | set(
    "gpt_neox phi starcoder2 olmo2 exaone4 mpt apertus arcee biogpt bitnet codegen cohere2 cwm "
    "diffllama dots3_note ernie4_5 falcon_h1 gemma gemma3_text gemma4_text glm gpt_bigcode gpt_neo "
    "gpt_neox_japanese granite_swa granitemoehybrid helium hunyuan_v1_dense hyperclovax jais2 "
    "kimi_linear lfm2 lfm2_moe llama4 llava mamba mamba2 minicpm3 ministral3 mistral mistral3 "
    "modernbert-decoder nanochat nemotron nemotron_h olmo olmo3 persimmon phi3 qwen2 qwen2_5_vl "
    "qwen3 qwen3_5_text recurrent_gemma seed_oss smollm3 stablelm vaultgemma xglm xlstm".split())
KEPT = {row["kind"]: row for row in
        json.loads((ROOT / "results" / "families.json").read_text())["families"]}
#: Of the record, those that are earned again in each test run.
AGAIN = ["llama", "gpt2", "granite", "gemma2", "gemma4", "gemma3n", "lfm2_moe", "mixtral"]


@pytest.fixture(scope="module")
def tokenizer(folders):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folders["llama"])


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ZU_CACHE", str(tmp_path_factory.mktemp("cache")))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "targets of .* are searched by whole runs")
        yield


def check(model, tokenizer):
    """Evaluated and edited as it computes; taken off again bit for bit."""
    right(families.edited(model, tokenizer))


def right(row):
    """Assert that what was found of an edited family is as it should be."""
    assert row["error"] < 1e-5 and set(row["reach"]) == set(families.WHOLE_WAY)
    for method, (part, off) in row["reach"].items():
        assert part == pytest.approx(1, abs=0.01) and off < 0.01, method
    before, after = row["descent"]
    assert after < before and row["undone"] is True


@pytest.mark.parametrize("kind", SOME)
def test_a_family_is_edited_and_evaluated_as_it_computes(kind, tokenizer):
    check(tiny_families.build(kind), tokenizer)


@pytest.mark.whole
@pytest.mark.parametrize("kind", sorted(BOUND - set(SOME)))
def test_more_families_are_edited_and_evaluated_as_they_compute(kind, tokenizer):
    check(tiny_families.build(kind), tokenizer)


@pytest.mark.whole
def test_no_family_is_edited_in_another_way_than_it_computes(tokenizer):
    bound, refused = [], []
    for kind in tiny_families.kinds():
        if kind in BOUND:
            bound.append(kind)
            continue
        model = tiny_families.build(kind)
        try:
            zu.layout(model)
        except zu.LayoutError as error:
            assert "zu.evaluate" in str(error)  # what works all the same
            assert families.logits_error(model, tokenizer) < 1e-5, kind
            refused.append(kind)
            continue
        check(model, tokenizer)
        bound.append(kind)
    assert len(bound) >= 100 and len(refused) >= 20


@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text", "gemma3n_text", "gemma4", "mamba",
                                  "mamba2", "rwkv", "falcon_h1", "lfm3"])
def test_what_is_written_is_what_the_model_says_whatever_it_remembers(kind, tokenizer):
    model, ids = tiny_families.build(kind), torch.tensor([[5, 6, 7], [8, 9, 10]])
    banned = torch.tensor(sorted(set(tokenizer.all_special_ids)))
    expected = ids
    for _ in range(5):
        said = model(input_ids=expected, use_cache=False).logits[:, -1]
        likeliest = said.index_fill(1, banned, -torch.inf).argmax(1, keepdim=True)
        expected = torch.cat([expected, likeliest], 1)
    generator = torch.Generator().manual_seed(0)
    written = zu.passes.write(model, tokenizer, ids, 5, generator, top_k=1)
    assert written.tolist() == expected.tolist()
    alike = zu.passes.write(model, tokenizer, ids[:1].expand(3, -1), 5, generator, top_k=1)
    assert alike.tolist() == expected[:1].expand(3, -1).tolist()


# ---- how single families compute


@pytest.mark.parametrize("more", [
    {}, {"use_double_wide_mlp": True},
    {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}],
    ids=["small", "wide", "without inputs by layer", "with experts beside"])
def test_every_layer_of_gemma_4_is_edited_whatever_its_size(more, tokenizer, monkeypatch):
    """Those that take keys and values from others too, and where a layer's output is scaled."""
    own = tiny_families.OWN["gemma4_text"]
    monkeypatch.setitem(tiny_families.OWN, "gemma4_text", own | more)
    model = tiny_families.build("gemma4_text")
    for layer in model.model.layers:
        layer.layer_scalar.fill_(0.7)
    assert zu.layout(model).editable == [0, 1, 2, 3, 4]
    for layer in range(5):
        part, off = families.reach(model, tokenizer, layer, "memit", alpha=1e-6)
        assert part == pytest.approx(1, abs=0.01) and off < 0.01, layer


def test_of_an_mlp_and_experts_side_by_side_the_mlp_is_edited(tokenizer, monkeypatch):
    own = tiny_families.OWN["granitemoehybrid"] | {"num_local_experts": 4}
    monkeypatch.setitem(tiny_families.OWN, "granitemoehybrid", own)
    model = tiny_families.build("granitemoehybrid")
    assert model.model.layers[0].block_sparse_moe is not None
    check(model, tokenizer)


def test_in_a_model_of_states_and_mlps_the_mlps_are_edited():
    """Nemotron-H has layers that are nothing but an MLP, and others whose output ends alike."""
    model = tiny_families.build("nemotron_h")
    assert zu.layout(model).editable == [1, 3]
    assert zu.layout(model).record.projection == "mixer.down_proj"
    assert "'mixer.down_proj' in 2 of them; probed" in repr(zu.layout(model))


def test_a_model_of_several_states_a_token_is_refused_as_such_and_trained_all_the_same(tokenizer):
    model = tiny_families.build("gemma3n_text")
    said = "Gemma3nForCausalLM cannot be edited layer by layer: .*more than one state for each"
    with pytest.raises(zu.LayoutError, match=said + ".*zu.evaluate .* methods that train"):
        zu.unlearn(model, tokenizer, families.FACTS, "memit", layers=[2])
    before, after = families.descent(model, tokenizer, 2)
    assert after < before


# ---- models of images and text, from folders


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A tiny model of a family in a folder, as a hub has it."""

    def save(kind, model=None):
        (model or tiny_families.build(kind)).save_pretrained(tmp_path / kind)
        tokenizer.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return save


@pytest.mark.parametrize("kind", sorted(tiny_families.WHOLE))
def test_a_model_of_images_and_text_is_loaded_whole_edited_as_text_and_saved(
        kind, saved, tmp_path):
    model, tokenizer = zu.load_model(saved(kind), device="cpu")
    built = tiny_families.build(kind)
    assert type(model) is type(built) and model.state_dict().keys() == built.state_dict().keys()
    check(model, tokenizer)
    layer = zu.layout(model).editable[-2]
    with zu.unlearn(model, tokenizer, families.FACTS[:1], "ga", layers=[layer], steps=3):
        changed = families.probability(model, tokenizer)
        zu.save_model(model, tokenizer, tmp_path / "edited")
    again, tokenizer = zu.load_model(tmp_path / "edited", device="cpu")
    assert families.probability(again, tokenizer) == pytest.approx(changed, rel=1e-5)


def test_what_is_left_out_of_a_model_of_images_and_text_is_said(saved):
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    text = tiny_families.build("qwen3_5_text").config.to_dict()
    seen = dict(depth=2, hidden_size=32, intermediate_size=32, num_heads=4, out_hidden_size=32)
    whole = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=seen))
    folder = saved("qwen3_5", whole)
    with pytest.warns(UserWarning, match="only the text part of a Qwen3_5Config is loaded"):
        model, _ = zu.load_model(folder, device="cpu")
    assert type(model).__name__ == "Qwen3_5ForCausalLM"


def test_a_model_that_needs_an_image_is_refused_by_name(saved):
    from transformers import BlipConfig, BlipForConditionalGeneration

    small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
    blip = BlipForConditionalGeneration(BlipConfig(
        text_config=small | dict(vocab_size=400, encoder_hidden_size=32),
        vision_config=small | dict(image_size=28, patch_size=14)))
    with pytest.raises(OSError, match="BlipForConditionalGeneration does not read text alone"):
        zu.load_model(saved("blip", blip), device="cpu")


# ---- what is kept


def test_the_record_has_every_family_and_none_that_is_wrong():
    assert set(KEPT) == set(tiny_families.kinds())
    bound = [row for row in KEPT.values() if row["bound"]]
    assert {row["kind"] for row in bound} >= BOUND and len(bound) < len(KEPT)
    for row in bound:
        right(row)
    for row in KEPT.values():
        assert row["error"] < 1e-5 and (row["bound"] or row["reason"].startswith(row["class"]))


def test_every_family_of_the_record_is_in_a_table_of_the_page():
    from zu.book import families as tables

    rows = list(KEPT.values())
    shown = [name.split(" (")[0] for table in (tables.bound(rows), tables.refused(rows))
             for names in table["families"] for name in names.split(", ")]
    assert sorted(shown) == sorted(KEPT) == sorted(tables.flat(rows)["kind"])
    page = (ROOT / "book" / "models.md").read_text()
    assert "families.bound(rows)" in page and "families.refused(rows)" in page


def test_the_tables_say_how_a_family_is_read_and_the_worst_of_each_group():
    from zu.book import families as tables

    table = tables.bound([
        KEPT["granite"] | {"error": 3e-6, "reach": {"memit": [1.0, 0.0], "rome": [0.98, 0.02]}},
        KEPT["granite_swa"], KEPT["gpt2"], KEPT["lfm2_moe"]])
    granite = table.loc["mlp.down_proj"]
    assert granite["families"] == "granite, granite_swa" and granite["reach"] == "0.9800"
    assert granite["its output arrives"] == "0.22 times" and granite["error"] == "3e-06"
    assert table.loc["mlp.c_proj"]["stored"] == "transposed, with a bias"
    assert table.loc["feed_forward.w2"]["families"] == "lfm2_moe (1 of 5 layers)"
    assert tables.arrives([1.0, None]) == "as it is, or normalised"


@pytest.mark.parametrize("kind", AGAIN)
def test_what_the_record_says_of_a_family_is_found_again(kind):
    found, kept = families.rounded(families.row(kind, families.words())), KEPT[kind]
    near = {"error", "reach", "descent"}  # the rest is equal
    assert {k: v for k, v in found.items() if k not in near} == {
        k: v for k, v in kept.items() if k not in near}
    assert found["error"] < 1e-5 and kept["error"] < 1e-5
    for method, (part, off) in found.get("reach", {}).items():
        assert [part, off] == pytest.approx(kept["reach"][method], abs=0.01)
    assert found["descent"] == (kept["descent"] and pytest.approx(kept["descent"], rel=0.05))
