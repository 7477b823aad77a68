"""An edit changes what it says, and is taken off without a trace."""
import json

import pytest
import torch

import zu
from zu import models, solve, trace


@pytest.fixture
def job(tiny, facts, texts, cache):
    """Everything an edit needs, with small settings."""
    model, tokenizer = tiny
    C0 = zu.moments(model, tokenizer, (1, 2, 3), texts, tokens=640, window=32)
    return model, tokenizer, facts, dict(layers=(1, 2, 3), moments=C0, steps=5)


def snapshot(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", list(zu.METHODS))
def test_after_the_block_all_weights_and_logits_are_bit_identical(job, method, dtype):
    model, tokenizer, facts, settings = job
    model.to(dtype)
    before, ids = snapshot(model), torch.tensor([tokenizer(facts[0].text)["input_ids"]])
    logits = model(ids).logits
    with zu.unlearn(model, tokenizer, facts, method, **settings):
        assert not same(model, before) and not torch.equal(model(ids).logits, logits)
    assert same(model, before) and torch.equal(model(ids).logits, logits)
    with pytest.raises(KeyError), zu.unlearn(model, tokenizer, facts, method, **settings):
        raise KeyError
    assert same(model, before) and torch.equal(model(ids).logits, logits)


def test_without_a_block_an_edit_stays_until_restore(job):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    edit = zu.unlearn(model, tokenizer, facts, **settings)
    changed = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == set(edit.deltas) == {models.weight_name(model, i) for i in (1, 2, 3)}
    edit.restore()
    assert same(model, before) and not edit.applied


def test_a_saved_edit_gives_the_same_weights_on_another_copy(job, folders, tmp_path):
    model, tokenizer, facts, settings = job
    edit = zu.unlearn(model, tokenizer, facts, **settings)
    after = snapshot(model)
    edit.save(tmp_path / "edit.safetensors")
    edit.restore()
    other, _ = zu.load_model(model.config._name_or_path, device="cpu")
    with zu.Edit.load(tmp_path / "edit.safetensors", other) as loaded:
        assert same(other, after) and loaded.method == "zerounlearn" and loaded.settings["layers"] == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["edit.safetensors"]


def test_no_text_of_the_facts_is_in_a_saved_edit(job, tmp_path):
    model, tokenizer, facts, settings = job
    zu.unlearn(model, tokenizer, facts, **settings).save(tmp_path / "edit.safetensors")
    data = (tmp_path / "edit.safetensors").read_bytes()
    for fact in facts:
        assert fact.subject.encode() not in data and json.dumps(fact.subject)[1:-1].encode() not in data
        assert fact.target.encode() not in data


def test_an_edit_for_other_weights_or_a_strange_file_is_refused(job, tmp_path):
    model, tokenizer, facts, settings = job
    edit = zu.unlearn(model, tokenizer, facts, **settings)
    edit.save(tmp_path / "edit.safetensors")
    with pytest.raises(zu.EditError, match="not what the edit was made for"):
        zu.Edit.load(tmp_path / "edit.safetensors", model)  # it is on already
    edit.restore()
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "edit.safetensors").read_bytes()[:-7])
    with pytest.raises(zu.EditError, match="not readable"):
        zu.Edit.load(tmp_path / "cut.safetensors", model)
    from safetensors.torch import save_file
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(zu.EditError, match="not an edit"):
        zu.Edit.load(tmp_path / "other.safetensors", model)


def test_edits_come_off_in_reverse_order_only(job):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    first = zu.unlearn(model, tokenizer, facts[:2], **settings)
    second = zu.unlearn(model, tokenizer, facts[2:], **settings)
    with pytest.raises(zu.EditError, match="restore the later edit first"):
        first.restore()
    second.restore()
    first.restore()
    assert same(model, before)


def test_an_exploding_edit_raises_and_leaves_the_model_as_it_was(job, monkeypatch):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    real, calls = solve.lemma_4_1, []

    def broken(W, *args, **kwargs):
        calls.append(1)
        return real(W, *args, **kwargs) if len(calls) < 2 else W * float("nan" if len(calls) == 2 else 1e4)

    monkeypatch.setattr(solve, "lemma_4_1", broken)
    with pytest.raises(zu.EditError, match="NaN, infinity"):
        zu.unlearn(model, tokenizer, facts, **settings)
    assert same(model, before)
    with pytest.raises(zu.EditError, match="NaN, infinity"):  # the third call: a change ten thousand times too large
        zu.unlearn(model, tokenizer, facts, **settings)
    assert same(model, before)


def test_two_edits_in_either_order_give_what_each_gives_alone(job):
    model, tokenizer, facts, settings = job

    def run(method):
        with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
            return [d.clone() for d in edit.deltas.values()]

    a, b = run("memit"), run("zerounlearn")
    b2, a2 = run("zerounlearn"), run("memit")
    assert all(torch.equal(x, y) for x, y in zip(a + b, a2 + b2, strict=True))


def test_the_forgotten_outputs_are_orthogonal_to_the_old_ones(job):
    """Lemma 4.1's promise, V_fᵀ Ŵ K_f = 0, on the weights of a real edit of one layer."""
    model, tokenizer, facts, settings = job
    before = trace.prefixes(model, tokenizer, seed=0)
    keys, _ = trace.subject_keys(model, tokenizer, facts, [2], before)
    old = models.down_proj(model, 2).weight.double()
    with zu.unlearn(model, tokenizer, facts, **settings | {"layers": (2,)}):
        new = models.down_proj(model, 2).weight.double()
    zero = (old @ keys[2].T).T @ new @ keys[2].T
    assert zero.abs().max() < 1e-4 * ((old @ keys[2].T).T @ old @ keys[2].T).abs().max()


def test_both_choices_of_V_f_work_and_differ(job):
    model, tokenizer, facts, settings = job
    made = []
    for choice in ("outputs", "optimised"):
        with zu.unlearn(model, tokenizer, facts, V_f=choice, **settings) as edit:
            made.append(list(edit.deltas.values()))
    assert not torch.allclose(made[0][0], made[1][0])


def test_unknown_methods_and_settings_are_refused_by_name(job):
    model, tokenizer, facts, settings = job
    with pytest.raises(ValueError, match="known are memit, zerounlearn"):
        zu.unlearn(model, tokenizer, facts, "forget-me")
    with pytest.raises(ValueError, match="'alhpa'.*alpha"):
        zu.unlearn(model, tokenizer, facts, "memit", alhpa=3)
    with pytest.raises(ValueError, match="'beta'"):
        zu.unlearn(model, tokenizer, facts, "zerounlearn", beta=-1.0)
    with pytest.raises(ValueError, match="facts is empty"):
        zu.unlearn(model, tokenizer, [])
