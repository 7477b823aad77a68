"""An edit changes what it says, and is taken off without a trace."""
import json

import pytest
import torch

import zu
from zu import models, reader, solve


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    """Everything an edit needs, with small settings."""
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (1, 2, 3), texts)
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
    with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
        assert not same(model, before) and not torch.equal(model(ids).logits, logits)
    assert same(model, before) and torch.equal(model(ids).logits, logits)
    with pytest.raises(KeyError, match="inside"), edit.apply():
        assert not same(model, before)
        raise KeyError("inside")
    assert same(model, before) and torch.equal(model(ids).logits, logits)


def test_without_a_block_an_edit_stays_until_restore(job):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    edit = zu.unlearn(model, tokenizer, facts, **settings)
    changed = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == set(edit.deltas) == {models.weight_name(model, i) for i in (1, 2, 3)}
    edit.restore()
    assert same(model, before) and not edit.applied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", list(zu.METHODS))
def test_a_saved_edit_gives_the_same_weights_on_another_copy(job, method, dtype, tmp_path):
    model, tokenizer, facts, settings = job
    model.to(dtype)
    edit = zu.unlearn(model, tokenizer, facts, method, **settings)
    after = snapshot(model)
    edit.save(tmp_path / "edit.safetensors")
    edit.restore()
    assert same(edit.apply().model, after)
    edit.restore()
    other, _ = zu.load_model(model.config._name_or_path, device="cpu", dtype=dtype)
    with zu.Edit.load(tmp_path / "edit.safetensors", other) as loaded:
        assert same(other, after) and loaded.summary() == edit.apply().summary()
        assert (loaded.method, loaded.settings, loaded.facts) == (method, edit.settings, 5)
        located = issubclass(zu.METHODS[method], zu.methods.Located)
        read = settings["moments"].tokens if located else None
        assert loaded.settings.get("moment_tokens") == read
        assert list(loaded.keys) == list(edit.keys) and bool(edit.keys) == located
        assert all(torch.equal(loaded.keys[i], edit.keys[i]) for i in edit.keys)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["edit.safetensors"]


def test_no_text_of_the_facts_is_in_a_saved_edit(job, tmp_path):
    model, tokenizer, facts, settings = job
    zu.unlearn(model, tokenizer, facts, **settings).save(tmp_path / "edit.safetensors")
    data = (tmp_path / "edit.safetensors").read_bytes()
    for fact in facts:
        assert (fact.subject.encode() not in data
                and json.dumps(fact.subject)[1:-1].encode() not in data)
        assert fact.target.encode() not in data


def test_an_edit_for_other_weights_or_a_strange_file_is_refused(job, tmp_path):
    model, tokenizer, facts, settings = job
    edit = zu.unlearn(model, tokenizer, facts, **settings)
    edit.save(tmp_path / "edit.safetensors")
    with pytest.raises(zu.EditError, match="not what the edit was made for"):
        zu.Edit.load(tmp_path / "edit.safetensors", model)  # it is on already
    edit.restore()
    with pytest.raises(zu.EditError, match="with dtype=torch.float32, not torch.bfloat16"):
        zu.Edit.load(tmp_path / "edit.safetensors", model.to(torch.bfloat16))
    model.to(torch.float32).load_state_dict(
        zu.load_model(model.config._name_or_path, device="cpu")[0].state_dict())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "edit.safetensors").read_bytes()[:-7])
    with pytest.raises(zu.EditError, match="not readable"):
        zu.Edit.load(tmp_path / "cut.safetensors", model)
    from safetensors.torch import save_file
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(zu.EditError, match="not an edit"):
        zu.Edit.load(tmp_path / "other.safetensors", model)


def retell(path, out, *, tensors=None, drop=(), **about):
    """A copy of a saved edit with some tensors or some of its description changed."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        old, stored = file.metadata(), {
            name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    about = {k: v for k, v in (old | about).items() if k not in drop}
    save_file({k: v for k, v in (stored | (tensors or {})).items() if v is not None}, out,
              metadata=about)
    return out


def test_hostile_files_are_refused_with_an_edit_error(job, tmp_path):
    model, tokenizer, facts, settings = job
    edit = zu.unlearn(model, tokenizer, facts[:2], "memit", **settings)
    edit.save(tmp_path / "edit.safetensors")
    edit.restore()
    name = models.weight_name(model, 2)
    left, right = edit.parts[name]
    wrong = [
        *(dict(drop=[k]) for k in ("method", "settings", "facts", "before")),
        dict(settings="{"), dict(settings="3"), dict(before="[1]"), dict(before="{}"),
        dict(facts="many"),
        dict(format="zu-edit-1"),
        dict(tensors={f"left/{name}": left[:-1].clone()}),
        dict(tensors={f"right/{name}": right[:-1].clone()}),
        dict(tensors={f"left/{name}": None}), dict(tensors={f"right/{name}": right.double()}),
        dict(tensors={f"left/{name}": left * float("nan")}),
        dict(tensors={f"left/{name}": left * 1e30, f"right/{name}": right * 1e30}),
        dict(tensors={f"delta/{name}": left @ right}), dict(tensors={"left/lm_head.wait": left}),
        dict(tensors={"stray": left.clone()}), dict(tensors={"keys/two": left.clone()}),
    ]
    for i, case in enumerate(wrong):
        path = retell(tmp_path / "edit.safetensors", tmp_path / f"{i}.safetensors", **case)
        with pytest.raises(zu.EditError, match=f"/{i}.safetensors|the model has no parameter"):
            zu.Edit.load(path, model)
    good = retell(tmp_path / "edit.safetensors", tmp_path / "good.safetensors")
    assert zu.Edit.load(good, model).facts == 2


def test_a_low_rank_change_is_stored_as_its_factors_to_float32_rounding(job):
    model, _, _, _ = job
    g = torch.Generator().manual_seed(3)
    name = models.weight_name(model, 2)
    old = model.get_parameter(name).double().clone()
    for rank in (0, 1, 3, 6, 7, 30):
        # small parts of a change count too
        sizes = torch.logspace(0, -5, rank, dtype=torch.float64)[:, None]
        delta = torch.randn(32, rank, generator=g, dtype=torch.float64) @ (
            sizes * torch.randn(rank, 80, generator=g, dtype=torch.float64))
        edit = zu.Edit(model, facts=3)  # so up to rank 6 is looked for
        edit.set(name, old + delta)
        edit.restore()
        assert len(edit.parts[name]) == (2 if rank <= 6 else 1)
        assert edit.nbytes == 4 * (rank * (32 + 80) if rank <= 6 else 32 * 80)
        assert (edit.deltas[name].double() - delta).norm() <= 2e-7 * delta.norm()


def test_a_summary_says_what_changed_and_how_large_it_is(job):
    model, tokenizer, facts, settings = job
    edit = zu.unlearn(model, tokenizer, facts, "memit", **settings)
    lines = edit.summary().splitlines()
    assert (lines[0] == "memit, 5 facts, on"
            and "alpha=15000.0" in lines[1] and "layers=[1, 2, 3]" in lines[1])
    name = models.weight_name(model, 1)
    share = edit.deltas[name].norm() / snapshot(edit.restore() or model)[name].norm()
    assert (lines[2] == f"  {name}: 32 x 80, rank 5, {share:.2%} of the weight, 2.2 kB"
            and len(lines) == 7)
    assert (edit.nbytes == 3 * 4 * 5 * (32 + 80)
            and repr(edit) == "Edit('memit', 5 facts, 3 weights, 6.7 kB, off)")
    for fact in facts:
        assert fact.subject not in edit.summary() + repr(edit)


def test_edits_made_on_the_unedited_model_stack_in_either_order(job, tmp_path):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    made = []
    for part, method in ((facts[:2], "memit"), (facts[2:], "ga"), (facts[1:3], "zerounlearn")):
        with zu.unlearn(model, tokenizer, part, method, **settings) as edit:
            made.append(edit)
    ends = []
    for order in (made, made[::-1]):
        for edit in order:
            edit.apply()
        # what it was made for is not what stands there now
        order[0].save(tmp_path / "under.safetensors")
        ends.append(snapshot(model))
        for edit in reversed(order):
            edit.restore()
        assert same(model, before) and zu.Edit.load(tmp_path / "under.safetensors", model)
    for name in ends[0]:
        assert torch.allclose(ends[0][name], ends[1][name], atol=1e-6)
        parts = [e.deltas[name] for e in made if name in e.deltas]
        assert torch.allclose(ends[0][name], before[name] + sum(parts), atol=1e-6)
        assert parts or torch.equal(ends[0][name], before[name])


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
    real, calls = zu.methods.ZeroUnlearn.solve, []

    def broken(method, p):
        calls.append(1)
        return (real(method, p) if len(calls) < 2
                else p.W * float("nan" if len(calls) == 2 else 1e4))

    monkeypatch.setattr(zu.methods.ZeroUnlearn, "solve", broken)
    with pytest.raises(zu.EditError, match="NaN, infinity"):
        zu.unlearn(model, tokenizer, facts, **settings)
    assert same(model, before)
    # the third call: a change ten thousand times too large
    with pytest.raises(zu.EditError, match="NaN, infinity"):
        zu.unlearn(model, tokenizer, facts, **settings)
    assert same(model, before)


@pytest.mark.parametrize("method", list(zu.METHODS))
def test_no_edit_is_computed_from_logits_that_are_not_finite(job, spoil, every_broken, method):
    model, tokenizer, facts, settings = job
    before = snapshot(model)
    for broken in every_broken:
        hook = spoil(model, *broken)
        for more in (({}, {"n_prefixes": 0}) if issubclass(zu.METHODS[method], zu.methods.Located)
                     else ({},)):
            with pytest.raises(ValueError, match="logits of model .* are NaN or infinite"):
                zu.unlearn(model, tokenizer, facts, method, **settings | more)
        with pytest.raises(ValueError, match="logits of model .* are NaN or infinite"):
            zu.find_targets(model, tokenizer, facts, 2, steps=2, n_prefixes=0)
        assert same(model, before)
        hook.remove()
    zu.unlearn(model, tokenizer, facts, method, **settings).restore()


@pytest.mark.parametrize("method", ["memit", "zerounlearn", "ga"])
def test_a_model_that_rules_tokens_out_is_edited_all_the_same(job, spoil, method):
    model, tokenizer, facts, settings = job
    spoil(model, float("-inf"), [5, 399])
    aims = zu.find_targets(model, tokenizer, facts, 3, steps=5)
    assert torch.isfinite(aims.loss).all() and (aims.loss[-1] < aims.loss[0]).all()
    assert ((aims.z - aims.h).norm(dim=1) > 0.1 * aims.h.norm(dim=1)).all()
    with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
        assert set(edit.changed) == set(edit.parts) and edit.changed


NOTHING = [("alphaedit", dict(threshold=0.0), torch.float32, "is zero.* more of threshold, "),
           ("exact", dict(threshold=0.0), torch.float32, "is zero.* more of threshold, "),
           ("zerounlearn-gd", dict(threshold=0.0), torch.float32, "is zero.* more of threshold, "),
           ("alphaedit", dict(lam=1e30), torch.float32, "is zero.* more of share, .* less of lam"),
           ("exact", dict(lam=1e30), torch.float32, "no force.* less of lam"),
           ("memit", dict(alpha=1e30), torch.float32, "no force.* less of alpha"),
           ("memit", dict(alpha=1e15), torch.float32, "lost in rounding to torch.float32"),
           ("memit", dict(alpha=1e9), torch.bfloat16, "lost in rounding to torch.bfloat16"),
           ("zerounlearn-gd", dict(gd_steps=0), torch.float32, "is zero.* gd_steps"),
           ("zerounlearn", dict(beta=0.0, project=False), torch.float32, "no force.* more of beta"),
           ("ga", dict(lr=1e-30), torch.float32, "more of steps, lr, or other facts"),
           ("npo", dict(lr=1e-10), torch.bfloat16, "to torch.bfloat16.* more of steps, lr")]


@pytest.mark.parametrize("method, more, dtype, said", NOTHING)
def test_an_edit_that_changes_nothing_is_an_error_and_leaves_the_model_as_it_was(job, method, more,
                                                                                 dtype, said):
    model, tokenizer, facts, settings = job
    model.to(dtype)
    much = 1e-3 * torch.eye(80, dtype=torch.float64)  # so that no eigenvalue is zero
    C0 = {layer: C + much for layer, C in settings["moments"].items()}
    before = snapshot(model)
    with pytest.raises(zu.EditError, match=f"^{method} changes nothing: .*{said}"):
        zu.unlearn(model, tokenizer, facts, method, **settings | {"moments": C0} | more)
    assert same(model, before)
    with zu.unlearn(model, tokenizer, facts, method, **settings) as edit:
        assert edit.changed


def test_a_layer_that_stays_what_it_was_is_no_error_in_an_edit_of_three(job):
    model, tokenizer, facts, settings = job
    above = torch.eye(80, dtype=torch.float64)  # every eigenvalue is above the threshold
    C0 = dict(settings["moments"]) | {2: above}
    settings |= {"moments": C0, "threshold": 0.05}
    with zu.unlearn(model, tokenizer, facts, "alphaedit", **settings) as edit:
        assert edit.changed == [models.weight_name(model, layer) for layer in (1, 3)]
        assert len(edit.parts) == 3


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
    before = reader.prefixes(model, tokenizer, seed=0)
    keys, _ = reader.subject_keys(zu.Reader(model, tokenizer), facts, [2], before)
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
    with pytest.raises(ValueError, match="known are .*memit, .*zerounlearn"):
        zu.unlearn(model, tokenizer, facts, "forget-me")
    with pytest.raises(ValueError, match="did you mean 'zerounlearn'"):
        zu.unlearn(model, tokenizer, facts, "ZeroUnlern")
    with pytest.raises(ValueError, match="'methods'.*did you mean 'method'"):
        zu.unlearn(model, tokenizer, facts, methods="memit")
    with pytest.raises(ValueError, match=r"layers is 2: give a list, \[2\]"):
        zu.unlearn(model, tokenizer, facts, layers=2)
    with pytest.raises(ValueError, match="'alhpa'.*did you mean 'alpha'"):
        zu.unlearn(model, tokenizer, facts, "memit", alhpa=3)
    with pytest.raises(ValueError, match="'layer'.*did you mean 'layers'"):
        zu.unlearn(model, tokenizer, facts, "memit", layer=[2])
    with pytest.raises(ValueError, match="'beta'"):
        zu.unlearn(model, tokenizer, facts, "zerounlearn", beta=-1.0)
    with pytest.raises(ValueError, match="facts is empty"):
        zu.unlearn(model, tokenizer, [])


def test_what_was_read_below_the_layers_is_shared_and_changes_nothing(job, monkeypatch):
    model, tokenizer, facts, settings = job
    methods, read, entering = ("memit", "rome", "anchored"), [], reader.entering
    monkeypatch.setattr(reader, "entering", lambda *args: (read.append(1), entering(*args))[1])

    def deltas(**more):
        read.clear()
        out = []
        for method in methods:
            with zu.unlearn(model, tokenizer, facts, method, **settings, **more) as edit:
                out += edit.deltas.values()
        return out, len(read)

    (alone, apart), (shared, together) = deltas(), deltas(reader=reader.Reader(model, tokenizer))
    assert (all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
            and 0 < together < apart)
    before = snapshot(model)
    other = zu.load_model(model.config._name_or_path, device="cpu")
    with pytest.raises(ValueError, match="reader is of another model"):
        zu.unlearn(model, tokenizer, facts, "memit", **settings, reader=reader.Reader(*other))
    assert same(model, before)
    high = reader.Reader(model, tokenizer, 2)  # of a layer above the lowest: it goes down to it
    with zu.unlearn(model, tokenizer, facts, "memit", **settings, reader=high) as edit:
        assert high.layer == 1
        found = list(edit.deltas.values())
    assert all(torch.equal(a, b) for a, b in zip(alone, found))


def test_the_spectrum_of_the_moments_is_found_once_for_equal_moments_and_changes_nothing(
        job, monkeypatch):
    model, tokenizer, facts, settings = job
    settings["moments"] = dict(settings["moments"])  # of which the cache knows nothing
    found, spectrum = [], solve.spectrum
    monkeypatch.setattr(solve, "spectrum", lambda C0: (found.append(1), spectrum(C0))[1])

    def deltas(**more):
        found.clear()
        out = []
        for method in ("alphaedit", "exact"):
            with zu.unlearn(model, tokenizer, facts, method, **settings | more) as edit:
                out += edit.deltas.values()
        return out, len(found)

    mine, n = reader.Reader(model, tokenizer), len(settings["layers"])
    (alone, apart), (shared, once) = deltas(), deltas(reader=mine)
    assert apart == 2 * n and once == n
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    copies = {layer: C0.clone() for layer, C0 in settings["moments"].items()}
    assert deltas(reader=mine, moments=copies)[1] == 0
    others = {layer: C0 + torch.diag(torch.arange(len(C0), dtype=C0.dtype))
              for layer, C0 in copies.items()}
    (anew, again), (fresh, _) = deltas(reader=mine, moments=others), deltas(moments=others)
    assert again == n and all(torch.equal(a, b) for a, b in zip(anew, fresh, strict=True))
    assert not torch.equal(anew[0], alone[0])
