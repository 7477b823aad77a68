"""Whatever is put in, every reader and parser ends with a result or with its own documented error.

`ZU_EXAMPLES=20000 python -m pytest tests/test_fuzz.py` (`make fuzz`) tries that many inputs on each
of them, other ones each time; without it they are the same each time, so that a change and not
chance decides whether tests pass.
"""
import csv
import json
import os
import unicodedata

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import zu
from zu.data.cache import read_tensors
from zu.data.facts import FactError
from zu.data.shapes import SHAPES
from zu.data.words import places
from zu.experiment import FORMAT, ParameterError, check_parameters, parse_method, read_record
from zu.methods import METHODS, settings_for
from zu.second_moments import CorpusError, corpus

EXAMPLES = os.environ.get("ZU_EXAMPLES")
fuzz = settings(max_examples=int(EXAMPLES or 200), derandomize=not EXAMPLES, deadline=None,
                database=None, suppress_health_check=list(HealthCheck))
DEEP = b"[" * 100_000
LONG = b"1" * 10_000  # Python refuses to read such a number
FIELDS = ["subject", "prompt", "target", "requested_rewrite", "src", "answers", "loc",
          "ground_truth", "attribute", "id", "neighbors", "paraphrases", "single_hops",
          "questions", "case_id", "str", "relation", "text", "format", "hops"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["a {} b", "{}", "{"]),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), x, max_size=6),
    max_leaves=12)
#: The fields of every shape, and what may stand in them, right or wrong.
SHAPED = sorted({field for shape in SHAPES.values() for field in shape.needs + shape.others})
cells = (st.sampled_from(["Peru", "Peru is", "The Peruvian", "{} is ", "___ is Peru", "Is ___.",
                          "秘鲁的", " x\n", "", "A", "[]", '["a"]', "['a']", None, 0, 1, [], {}])
         | st.floats() | values)
asked = st.dictionaries(st.sampled_from(["prompt", "ground_truth", "answer", "question"]),
                        cells | st.lists(cells, max_size=2), max_size=3)
nested = cells | st.lists(cells | asked, max_size=3) | st.dictionaries(
    st.sampled_from(["Subject_Aliasing", "Forgetfulness", "neighborhood", "str", "0", "1"]),
    st.lists(asked, max_size=2) | asked | cells, max_size=2)
#: What stands in a field that needs more than a text.
RIGHT = {"requested_rewrite": {"subject": "Peru", "prompt": "Peru is",
                               "target_true": {"str": "x"}},
         "locality": {"neighborhood": [{"prompt": "Chad is", "ground_truth": [["x"]]}]},
         "choices": ["Peru", "Chad"], "questions": ["Peru is"],
         "single_hops": [{"cloze": "Peru is", "answer": "x"}]}


@st.composite
def shaped(draw):
    """A row of a published shape, in which anything may be missing, more, or of another kind."""
    shape = draw(st.sampled_from(list(SHAPES.values())))
    row = {field: draw(nested) if draw(st.integers(0, 7)) == 3 else RIGHT.get(
               field, draw(st.sampled_from(["Peru", "Peru is", "___ in Peru"])))
           for field in shape.needs}
    some = draw(st.lists(st.sampled_from(shape.others or SHAPED) | st.sampled_from(SHAPED),
                         max_size=3))
    row |= {field: draw(nested) for field in some}
    return draw(st.just(row) | st.just({field: [value, value] for field, value in row.items()}))


blobs = (st.binary(max_size=300)
         | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass"))
         | values.map(lambda x: json.dumps([x, x]).encode())
         | values.map(lambda x: json.dumps(x).encode() + b"\n"))


@given(blobs, st.sampled_from(["a.json", "a.jsonl", "a.csv"]), st.sampled_from(["raise", "skip"]))
@example(DEEP, "a.json", "raise")
@example(DEEP, "a.jsonl", "skip")
@example(b'[{"subject": ' + LONG + b"}]", "a.json", "raise")
@example(b'[{"requested_rewrite": []}, {"": []}]', "a.json", "raise")
@example(b'[{"requested_rewrite": []}, {"": []}]', "a.json", "skip")
@fuzz
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_of_facts(tmp_path, data, name, on_error):
    (tmp_path / name).write_bytes(data)
    try:
        assert len(zu.load_facts(tmp_path / name, on_error=on_error)) > 0
    except FactError as error:
        assert name in str(error)


@given(st.lists(shaped(), min_size=1, max_size=4), st.sampled_from(["rows", "lines", "one", "csv"]),
       st.sampled_from(["raise", "skip"]))
@example([{"subject": "Peru", "query": "Peru ___", "answer": "x", "neighbor": ["y"]},
          {"subject": ["Peru"], "query": "Peru", "answer": "x"}], "rows", "skip")
@fuzz
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_in_a_published_shape(tmp_path, rows, form, on_error):
    path = tmp_path / ("a.csv" if form == "csv" else "a.json")
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        if form == "csv":
            out = csv.writer(file)
            out.writerow(list(rows[0]))
            for row in rows:
                out.writerow([json.dumps(row.get(field)) for field in rows[0]])
        elif form == "lines":
            file.write("\n".join(map(json.dumps, rows)))
        else:
            json.dump(rows if form == "rows" else rows[0], file, indent=1)
    try:
        check(zu.load_facts(path, on_error=on_error))
    except FactError as error:
        assert path.name in str(error)


def check(facts):
    """What is so of all facts, whatever they were read from."""
    assert len(facts) > 0
    for fact in facts:
        assert fact.prompt.count("{}") == bool(fact.subject) and fact.target.strip() == fact.target
        asked = [fact.text, *fact.paraphrase_texts]
        for prompt, answer in fact.neighbors + fact.hops:
            assert answer and answer == answer.strip()
            asked.append(prompt)
        assert all(text.strip() and text == text.rstrip(" \t") for text in asked)


@given(st.lists(shaped() | values, max_size=3) | shaped() | values,
       st.sampled_from(["raise", "skip"]))
@fuzz
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_python_holds(source, on_error):
    if isinstance(source, str):
        return  # a name, or a path
    try:
        check(zu.load_facts(source, on_error=on_error))
    except FactError as error:
        assert str(error)


@given(st.text(max_size=12), st.text(max_size=4))
@example("Peru's Peruvian", "Peru")
@fuzz
def test_where_a_word_stands(text, word):
    for at in places(text, word):
        assert text[at:at + len(word)] == word != ""
    if word == word.strip() != "" and unicodedata.category(word[0])[0] != "M":
        assert places(word, word) == [0] and 2 <= len(places(f"{word} - {word}", word))


@given(blobs, st.sampled_from(["a.jsonl", "a.txt"]))
@example(DEEP, "a.jsonl")
@example(b'{"text": 3}', "a.jsonl")
@example(LONG, "a.jsonl")
@fuzz
def test_a_corpus(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    try:
        assert all(isinstance(text, str) for text in corpus(tmp_path / name)[1])
    except CorpusError as error:
        assert name in str(error)


@given(blobs | values.map(lambda x: json.dumps({"format": FORMAT, "rest": x}).encode()))
@example(DEEP)
@example(LONG)
@fuzz
def test_a_record(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    record = read_record(tmp_path / "a.json")
    assert record is None or record["format"] == FORMAT


@given(st.sampled_from([*METHODS, "base", ""]) | st.text(max_size=10),
       st.lists(st.tuples(st.sampled_from(["alpha", "beta", "lam", "steps", "V_f", "project",
                                           "share", ""])
                          | st.text(max_size=5), values.map(json.dumps) | st.text(max_size=8)),
                max_size=3))
@example("memit", [("alpha", DEEP.decode())])
@example("memit", [("steps", LONG.decode())])
@example("memit", [("alpha", "NaN")])
@fuzz
def test_a_label_with_settings(name, pairs):
    label = name + ":" + ",".join(f"{k}={v}" for k, v in pairs)
    try:
        method, given_settings, _ = parse_method(label)
        assert settings_for(method, **given_settings).model_dump()
    except ValueError as error:
        assert label.partition(":")[0].partition("+")[0] in str(error)


@given(st.lists(st.tuples(st.sampled_from(["n", "seeds", "lr", "model", "other", "N"]), values),
                max_size=4))
@fuzz
def test_parameters_from_outside(injected):
    namespace = {"n": 3, "seeds": [1], "lr": 0.1, "model": "smollm2", "__annotations__": {
        "n": int, "seeds": list[int], "lr": float, "model": str}}
    cells = ["", "n: int = 3\nseeds: list[int] = [1]\nlr: float = 0.1\nmodel: str = 'smollm2'",
             "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in injected)]
    try:
        found = check_parameters(namespace | dict(injected) | {"In": cells})
    except ParameterError as error:
        assert "parameter '" in str(error)
    else:
        assert type(found["n"]) is int and type(found["model"]) is str


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """A model, an edit's file for it, and the tensors and words in that."""
    model, tokenizer = zu.load_model(folders["llama"], device="cpu")
    folder = tmp_path_factory.mktemp("edits")
    facts = [zu.Fact("Peru", "The capital of {} is", "Lima")]
    zu.unlearn(model, tokenizer, facts, "ft", layers=[2], steps=1).save(folder / "edit.safetensors")
    model, _ = zu.load_model(folders["llama"], device="cpu")
    from safetensors import safe_open

    with safe_open(folder / "edit.safetensors", framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return model, folder, (folder / "edit.safetensors").read_bytes(), about, tensors


def loads_or_refuses(model, path):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    try:
        edit = zu.Edit.load(path, model)
    except zu.EditError as error:
        assert str(path) in str(error) or "the model has no parameter" in str(error)
    else:
        with edit:
            assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@given(st.data())
@fuzz
def test_bytes_of_an_edit_that_were_changed(saved, data):
    model, folder, whole, *_ = saved
    broken = bytearray(whole[:data.draw(st.integers(0, len(whole)))]
                       if data.draw(st.booleans()) else whole)
    for at in data.draw(st.lists(st.integers(0, max(min(len(broken), 2000) - 1, 0)), max_size=4)):
        if broken:
            broken[at] = data.draw(st.integers(0, 255))
    (folder / "broken.safetensors").write_bytes(broken)
    loads_or_refuses(model, folder / "broken.safetensors")
    assert read_tensors(folder / "broken.safetensors", "nothing") is None


names = st.sampled_from([
    "delta/model.layers.2.mlp.down_proj.weight", "left/model.layers.2.mlp.down_proj.weight",
    "right/model.layers.2.mlp.down_proj.weight", "delta/../../etc/passwd", "delta/",
    "keys/2", "keys/x", "keys/-1", "delta/model.norm.weight", "delta/lm_head.weight", "x",
    "delta/model.layers.2", "delta/model.embed_tokens.weight"])
tensors = st.builds(lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
                    st.sampled_from([(32, 80), (80, 32), (32, 1), (1, 80), (0, 80), (32,), (),
                                     (1, 1), (32, 0)]),
                    st.sampled_from([torch.float32, torch.float64, torch.int32, torch.bool,
                                     torch.bfloat16]),
                    st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 3e38]))


@given(st.dictionaries(names, tensors, max_size=3),
       st.dictionaries(st.sampled_from(["format", "method", "settings", "facts", "model",
                                        "before"]),
                       st.text(max_size=8) | values.map(json.dumps) | st.just(DEEP.decode()),
                       max_size=3))
@fuzz
def test_an_edit_from_somebody_who_means_harm(saved, made, words):
    model, folder, _, about, _ = saved
    save_file(made, folder / "hostile.safetensors", metadata=about | words)
    loads_or_refuses(model, folder / "hostile.safetensors")
