"""Each method solves the problem its paper states, on the weights of real edits of tiny models."""
from dataclasses import replace

import pytest
import torch

import zu
from zu import models, reader

SEARCH = zu.targets.Search(steps=3)
LAYER = 2


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    """A model, its facts, moments, and what one layer's edit needs."""
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (1, 2, 3), texts)
    return model, tokenizer, facts, dict(moments=C0, steps=5)


def matrices(job, facts=None, aim="hidden"):
    """W, K_f and R = V_star − W K_f of one layer, float64, each read on its own."""
    model, tokenizer, all_facts, settings = job
    facts = all_facts if facts is None else facts
    prefixes, read = reader.prefixes(model, tokenizer, seed=0), zu.Reader(model, tokenizer)
    rows = []
    for fact in facts:
        rows.append([reader.subject_keys(read, [fact], [LAYER], [p])[0][LAYER][0]
                     for p in prefixes])
    # half the bare prompt, half the five others
    keys = torch.stack([0.5 * r[0] + 0.1 * sum(r[1:]) for r in rows])
    targets = zu.find_targets(model, tokenizer, facts, LAYER, steps=settings["steps"], aim=aim)
    return (models.down_proj(model, LAYER).weight.double(), keys.T,
            (targets.z - targets.h).double().T)


def change(job, method, facts=None, **more):
    model, tokenizer, all_facts, settings = job
    with zu.unlearn(model, tokenizer, all_facts if facts is None else facts, method,
                    **{"layers": [LAYER]} | settings | more) as edit:
        new = models.down_proj(model, edit.settings["layers"][0]).weight.double().clone()
        return (edit.deltas[models.weight_name(model, edit.settings["layers"][0])].double(),
                new, edit)


@pytest.mark.parametrize("aim", ["value", "hidden"])
def test_rome_maps_its_key_to_its_value_and_moves_general_keys_least(job, aim):
    W, K, R = matrices(job, job[2][:1], aim)
    delta, new, edit = change(job, "rome", job[2][:1], aim=aim)
    assert edit.settings["aim"] == aim
    assert (new @ K - (W @ K + R)).norm() < 1e-5 * R.norm()
    C0, g = job[3]["moments"][LAYER], torch.Generator().manual_seed(0)
    # any other change with the same answer differs by Y, Y k = 0
    off = torch.eye(len(K)) - K @ K.T / (K.T @ K)
    for _ in range(20):
        Y = (torch.randn(delta.shape, generator=g, dtype=torch.float64) @ off.double()
             * delta.abs().mean())
        assert torch.trace((delta + Y) @ C0 @ (delta + Y).T) > torch.trace(delta @ C0 @ delta.T)


def test_rome_aims_at_what_its_projection_puts_out_unless_told_otherwise(job):
    plain, value, hidden = (change(job, "rome", **aim)[0]
                            for aim in ({}, {"aim": "value"}, {"aim": "hidden"}))
    assert torch.equal(plain, value) and not torch.allclose(plain, hidden, rtol=0.1)


def test_rome_edits_fact_after_fact_or_the_first_only(job):
    W, K, R = matrices(job, aim="value")
    C0, hand = job[3]["moments"][LAYER], W.clone()
    for k, v in zip(K.T, (W @ K + R).T, strict=True):
        u = torch.linalg.solve(C0, k)
        hand = hand + torch.outer(v - hand @ k, u) / (u @ k)
    delta, new, edit = change(job, "rome")
    assert (delta - (hand - W)).norm() < 1e-5 * delta.norm()
    assert (new @ K[:, -1] - (W @ K + R)[:, -1]).norm() < 1e-4 * R[:, -1].norm()
    only, _, first = change(job, "rome", first_only=True)
    alone, _, _ = change(job, "rome", job[2][:1])
    # keys read beside others or alone are the same up to float32's rounding:
    # its kernels differ by size
    assert (only - alone).norm() < 1e-5 * alone.norm() < 1e-2 * (only - delta).norm()
    assert len(first.parts[models.weight_name(job[0], LAYER)][1]) == 1


@pytest.mark.parametrize("aim", ["value", "hidden"])
def test_rome_aims_at_the_middle_layer_whatever_the_targets_are_for(job, aim):
    wrong = zu.find_targets(*job[:3], 3, steps=5)
    with pytest.warns(UserWarning, match="rome edits layer 2 only, and the given targets are "
                                         "hidden states of layer 3: it searches for its own"):
        delta, _, edit = change(job, "rome", layers=[1, 2, 3], targets=wrong, aim=aim)
    assert edit.settings["layers"] == [2] and "targets" not in edit.settings
    own, _, alone = change(job, "rome", aim=aim)
    assert torch.equal(delta, own)
    right = zu.find_targets(*job[:3], 2, steps=5, aim=aim)
    for layers in ([2], [1, 2, 3]):
        given, _, edit = change(job, "rome", layers=layers, targets=right, aim=aim)
        assert edit.settings["targets"] == "given" and torch.equal(given, own)
        half = replace(right, z=(right.z + right.h) / 2)  # taken, and not searched for
        short, _, _ = change(job, "rome", layers=layers, targets=half, aim=aim)
        assert (2 * short - own).norm() < 1e-4 * own.norm()
    aside = zu.find_targets(*job[:3], 1, steps=5, aim=aim)
    with pytest.raises(ValueError, match="targets are .* layer"):
        change(job, "rome", layers=[1, 2, 3], targets=aside, aim=aim)
    few = zu.find_targets(*job[:2], job[2][:1], 2, steps=5, aim=aim)
    with pytest.raises(ValueError, match="targets are of 1 facts, but 5 are to be forgotten"):
        change(job, "rome", targets=few, aim=aim)


def test_memit_satisfies_its_normal_equations(job):
    W, K, R = matrices(job)
    delta, _, _ = change(job, "memit", alpha=2.0)
    C0 = job[3]["moments"][LAYER]
    assert (delta @ (2 * C0 + K @ K.T) - R @ K.T).norm() < 1e-5 * (R @ K.T).norm()
    past = change(job, "memit", job[2][:2])[2]
    K_p = past.keys[LAYER].double().T
    W, K, R = matrices(job, job[2][2:])
    delta, _, _ = change(job, "memit", job[2][2:], alpha=2.0, earlier=[past])
    assert (delta @ (2 * C0 + K @ K.T + K_p @ K_p.T) - R @ K.T).norm() < 1e-5 * (R @ K.T).norm()


@pytest.mark.parametrize("method", ["alphaedit", "exact", "zerounlearn-gd"])
@pytest.mark.parametrize("cut", [{"share": 0.5}, {"threshold": 0.05}])
def test_every_vector_of_the_kept_subspace_is_left_unchanged(job, method, cut):
    delta, _, _ = change(job, method, **cut)
    values, vectors = torch.linalg.eigh(job[3]["moments"][LAYER])
    kept = vectors[:, 40:] if "share" in cut else vectors[:, values >= 0.05]
    assert (0 < kept.shape[1] < 80 and (delta @ kept).norm(dim=0).max() < 1e-6 * delta.norm()
            and delta.any())


def test_alphaedit_solves_its_problem_and_spares_earlier_edits(job, tmp_path):
    model, _, facts, _ = job
    past = change(job, "alphaedit", facts[:2])[2]
    K_p = past.keys[LAYER].double().T
    W, K, R = matrices(job, facts[2:])
    delta, _, edit = change(job, "alphaedit", facts[2:], earlier=[past], lam=0.1)
    vectors = torch.linalg.eigh(job[3]["moments"][LAYER]).eigenvectors[:, :40]
    P = vectors @ vectors.T
    whole = delta @ (K @ K.T + K_p @ K_p.T + 0.1 * torch.eye(80)) @ P
    assert (whole - R @ K.T @ P).norm() < 1e-5 * (R @ K.T @ P).norm()
    alone = change(job, "alphaedit", facts[2:], lam=0.1)[0]
    assert (delta @ K_p).norm() < 0.8 * (alone @ K_p).norm()
    past.save(tmp_path / "past.safetensors")
    loaded = zu.Edit.load(tmp_path / "past.safetensors", model)
    assert torch.equal(change(job, "alphaedit", facts[2:], earlier=[loaded], lam=0.1)[0], delta)
    with pytest.raises(ValueError, match="rome takes no earlier edits"):
        change(job, "rome", earlier=[past])
    with pytest.raises(ValueError, match="layer 1 .* lack it"):
        change(job, "alphaedit", layers=[1], earlier=[past])


def test_exact_is_the_minimum_that_gradient_descent_goes_for(job):
    W, K, R = matrices(job)
    U = torch.linalg.qr(W @ K).Q

    def loss(delta):
        out = (W + delta) @ K
        return ((U.T @ out).square().sum() + 100 * (out - W @ K - R).square().sum()
                + 0.1 * delta.square().sum())

    best, _, _ = change(job, "exact", lam=0.1)
    near, _, _ = change(job, "zerounlearn-gd", gd_steps=100)
    assert loss(best) < loss(near) < loss(torch.zeros_like(W))
    vectors = torch.linalg.eigh(job[3]["moments"][LAYER]).eigenvectors[:, :40]
    slopes = [torch.autograd.grad(loss(y.requires_grad_() @ vectors.T), y)[0]
              for y in (best @ vectors, torch.zeros(len(W), 40, dtype=torch.float64))]
    assert slopes[0].norm() < 1e-5 * slopes[1].norm()


def test_zerounlearn_with_eps_keeps_a_share_of_the_ridge_edit(job):
    W, _, _ = matrices(job)
    plain, soft = change(job, "zerounlearn")[1], change(job, "zerounlearn", eps=0.01)[1]
    ridge = (soft - plain) / 0.01  # eps adds its share of the edit before the projection
    assert (ridge - W).norm() < 0.5 * W.norm() and not torch.allclose(plain, soft)


def test_each_part_of_lemma_4_1_switched_off_leaves_the_minimum_of_the_others(job):
    model, _, facts, settings = job
    W, K, R = matrices(job)
    C0 = settings["moments"][LAYER]

    def slope(new, alpha=15_000.0, beta=50.0, lam=1.0):
        return (beta * ((new - W) @ K - R) @ K.T
                + (new - W) @ (alpha * C0 + lam * torch.eye(len(C0))))

    _, free, _ = change(job, "zerounlearn", project=False)
    assert (slope(free) @ W.T).norm() < 1e-5 * (slope(W) @ W.T).norm()
    assert torch.linalg.matrix_rank((free - W) @ K, rtol=1e-4) == len(facts)
    _, only, _ = change(job, "zerounlearn", beta=0.0)  # nothing to steer to: the projection alone
    torch.testing.assert_close(only, zu.solve.projector(W @ K) @ W, rtol=1e-4, atol=1e-5)
    _, bare, _ = change(job, "zerounlearn", project=False, alpha=0.0)
    assert (slope(bare, alpha=0.0) @ W.T).norm() < 1e-5 * (slope(W, alpha=0.0) @ W.T).norm()


@pytest.mark.parametrize("method", list(zu.METHODS))
def test_every_method_runs_with_its_defaults(job, method):
    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, method, layers=[1, 2, 3],
                    moments=settings["moments"]) as edit:
        assert edit.deltas and all(
            torch.isfinite(x).all() and x.any() for x in edit.deltas.values())
        assert torch.isfinite(
            model(torch.tensor([tokenizer(facts[0].text)["input_ids"]])).logits).all()


def test_every_method_refuses_what_it_does_not_know(job):
    for name, method in zu.METHODS.items():
        known = ", ".join(method.model_fields)
        with pytest.raises(ValueError, match=f"{name}: setting 'typo'.*takes {known}"):
            zu.unlearn(*job[:3], name, typo=1)
        with pytest.raises(ValueError, match="setting 'lr' is not usable"):
            zu.unlearn(*job[:3], name, lr=float("inf"))


def test_a_function_in_place_of_a_name_is_told_where_it_belongs():
    with pytest.raises(TypeError, match="method is a function: give one of the names ga, ft.*own="):
        zu.methods.settings_for(lambda model, tokenizer, facts: None)


def test_what_is_no_moments_is_refused_and_anchored_without_anchors_says_so(job):
    model, tokenizer, facts, settings = job
    with pytest.raises(ValueError, match="'moments' is not usable .*instance of dict"):
        zu.unlearn(model, tokenizer, facts, moments=1)
    with pytest.warns(UserWarning, match="anchored without anchors spares no other subjects"):
        zu.unlearn(model, tokenizer, facts, "anchored", layers=[LAYER], **settings).restore()


def test_methods_in_one_process_give_what_each_gives_alone(job):
    forth = {name: change(job, name)[0] for name in zu.METHODS}
    back = {name: change(job, name)[0] for name in reversed(zu.METHODS)}
    assert all(torch.equal(forth[name], back[name]) for name in zu.METHODS)



def test_the_callers_default_dtype_changes_nothing(tiny, facts, cache, texts):
    model, tokenizer = tiny
    found = {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            C0 = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32, cache=False)
            aims = zu.targets.optimise(model, tokenizer, facts, 2, SEARCH, cache=False)
            found[dtype] = [*C0.values(), aims.z, aims.loss]
            for method in ("ga", "npo", "ft"):
                with zu.unlearn(model, tokenizer, facts, method, layers=(1, 2), steps=2) as edit:
                    found[dtype] += edit.deltas.values()
        finally:
            torch.set_default_dtype(torch.float32)
    for one, other in zip(*found.values(), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_targets_of_other_facts_or_of_another_layer_are_refused(job):
    model, tokenizer, facts, settings = job
    targets = zu.find_targets(model, tokenizer, facts[:1], LAYER, steps=2)
    with pytest.raises(ValueError, match="targets are of 1 facts, but 5 are to be forgotten"):
        zu.unlearn(model, tokenizer, facts, "memit", layers=[LAYER], targets=targets, **settings)
    with pytest.raises(ValueError, match="targets are of layer 2, but layer 3 is the last"):
        zu.unlearn(model, tokenizer, facts[:1], "memit", layers=[1, 3], targets=targets, **settings)
    with pytest.raises(ValueError, match="targets have aim='hidden', but the edit has 'value'"):
        zu.unlearn(model, tokenizer, facts[:1], "memit", layers=[LAYER], targets=targets,
                   aim="value", **settings)
    both = zu.find_targets(model, tokenizer, facts, (1, LAYER), steps=2, aim="value")
    with pytest.raises(ValueError, match=r"values of the layers \[1, 2\], but \[2\] are to be"):
        zu.unlearn(model, tokenizer, facts, "memit", layers=[LAYER], targets=both, aim="value",
                   **settings)
    with pytest.raises(ValueError, match="find_targets takes no layers, moments"):
        zu.find_targets(model, tokenizer, facts, LAYER, layers=[1], moments={})


def test_a_reader_remembers_the_moments_of_the_model_before_earlier_edits_and_of_no_other(
        job, texts, monkeypatch):
    model, tokenizer, facts, _ = job
    monkeypatch.setattr("zu.data.world.prose", lambda part: texts)
    mine, how = zu.Reader(model, tokenizer), dict(layers=[1, LAYER], steps=2, n_prefixes=0)
    first = zu.unlearn(model, tokenizer, facts[:2], "memit", reader=mine, **how)
    kept = mine.moments
    with zu.unlearn(model, tokenizer, facts[2:], "memit", reader=mine, earlier=[first], **how):
        assert mine.moments is kept
    with pytest.warns(UserWarning, match="read from a model with earlier edits on") as seen:
        zu.unlearn(model, tokenizer, facts[2:], "memit", earlier=[first], **how).restore()
    assert [w.filename for w in seen if "earlier edits" in str(w.message)] == [__file__]
    first.restore()
    with torch.no_grad():
        models.down_proj(model, 0).weight.mul_(2)
    with zu.unlearn(model, tokenizer, facts[:2], "memit", reader=mine, **how):
        assert not torch.equal(mine.moments[1], kept[1])


def test_an_edit_says_what_it_used(job):
    model, tokenizer, facts, settings = job
    bare = zu.Reader(model, tokenizer, prefixes=[""])
    targets = zu.find_targets(model, tokenizer, facts, LAYER, reader=bare, steps=2)
    with zu.unlearn(model, tokenizer, facts, "memit", layers=[LAYER], reader=bare, targets=targets,
                    **settings) as edit:
        assert edit.settings["n_prefixes"] == 0 and edit.settings["targets"] == "given"
