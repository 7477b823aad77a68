"""An edit after others costs what the first one costs, and is the edit that it was before."""
import pytest
import torch

import zu
from zu import carried, damage, models, solve
from zu.scores import perplexity

SPARING = ("memit", "zerounlearn", "alphaedit", "exact", "anchored")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def far(one, other):
    """How far one is from the other, as a share of the other."""
    return float((one - other).norm() / other.norm())


# ---- the factors of what is spared


@pytest.fixture
def layer():
    """W, K_f, V_star, V_f, C0 of condition 1e4, and 12 keys to spare, one of them twice."""
    d, m = 10, 24
    turn = torch.linalg.qr(numbers(m, m)).Q
    C0 = turn @ torch.diag(torch.logspace(0, -4, m, dtype=torch.float64)) @ turn.T
    K_p = numbers(m, 12, seed=1)
    K_p[:, 7] = K_p[:, 3]
    W, K_f = numbers(d, m, seed=2), numbers(m, 3, seed=3)
    return W, K_f, numbers(d, 3, seed=4), torch.linalg.qr(W @ K_f).Q, (C0 + C0.T) / 2, K_p


def solved(spared, W, K_f, V_star, V_f):
    """Lemma 5.1 with and without its zero term, and Lemma 4.1, by the factors."""
    return (spared.lemma_5_1(W, K_f, V_star),
            spared.lemma_5_1(W, K_f, V_star, V_f, zero=2.0, forget=3.0),
            spared.lemma_4_1(W, K_f, V_star, V_f, beta=5.0, eps=0.1) - W)


def dense(general, W, K_f, V_star, V_f):
    """The same by one factorisation of all that is spared."""
    change = solve.lemma_5_1(W, K_f, V_star, V_f, zero=2, forget=3, lam=0, general=general)
    new = solve.lemma_4_1(W, K_f, V_star, general, V_f, alpha=1, beta=5, lam=0, eps=0.1)
    return solve.memit(W, K_f, V_star, general, alpha=1), change, new - W


def agree(spared, general, *problem):
    pairs = list(zip(solved(spared, *problem), dense(general, *problem), strict=True))
    return max(far(one, other) for one, other in pairs) < 1e-10


def test_keys_that_come_one_by_one_give_what_all_at_once_give(layer):
    *problem, C0, K_p = layer
    spared = solve.Spared.of(2 * C0, lam=0.5)
    base = 2 * C0 + 0.5 * torch.eye(len(C0), dtype=C0.dtype)
    assert agree(spared, base, *problem)  # of no keys at all
    for count in range(1, 13):
        spared.spare(K_p[:, :count])
        assert agree(spared, base + K_p[:, :count] @ K_p[:, :count].T, *problem)
    assert agree(spared.spare(None), base, *problem)


@pytest.mark.parametrize("chosen", [
    [0, 1, 2, 3], [0, 1, 4, 5, 6, 7, 8], [11, 2, 0, 1], [3, 7, 3], [0, 1, 2, 3, 4, 5, 9, 7]],
    ids=["the first", "some left out", "another order", "repeated", "one exchanged"])
def test_keys_left_out_or_in_another_order_are_not_taken_for_those_before(layer, chosen):
    *problem, C0, K_p = layer
    spared = solve.Spared.of(C0, lam=0.1).spare(K_p)
    kept = K_p[:, chosen]
    general = C0 + 0.1 * torch.eye(len(C0), dtype=C0.dtype) + kept @ kept.T
    assert agree(spared.spare(kept), general, *problem)
    assert torch.equal(spared.keys, kept)


def test_a_key_that_changed_a_little_is_made_anew(layer):
    *problem, C0, K_p = layer
    spared = solve.Spared.of(C0, lam=0.1).spare(K_p)
    other = K_p.clone()
    other[5, 4] += 1e-9
    fresh = solve.Spared.of(C0, lam=0.1).spare(other)
    for one, two in zip(solved(spared.spare(other), *problem), solved(fresh, *problem),
                        strict=True):
        assert far(one, two) < 1e-12 and not torch.equal(
            one, solved(solve.Spared.of(C0, lam=0.1).spare(K_p), *problem)[0])


def test_inside_a_basis_the_factors_give_alphaedit_and_the_exact_lemma(layer):
    W, K_f, V_star, V_f, C0, K_p = layer
    half = solve.null_space(C0, share=0.5)
    spared = solve.Spared.of(None, lam=0.3, basis=half)
    of_zeros = solve.Spared.of(torch.zeros_like(C0), lam=0.3, basis=half)
    for count in (1, 5, 12):
        spared.spare(K_p[:, :count])
        found = of_zeros.spare(K_p[:, :count]).lemma_5_1(W, K_f, V_star)
        assert far(found, spared.lemma_5_1(W, K_f, V_star)) < 1e-12
        expected = solve.alphaedit(W, K_f, V_star, half, lam=0.3, K_p=K_p[:, :count])
        assert far(spared.lemma_5_1(W, K_f, V_star), expected) < 1e-10
        general = K_p[:, :count] @ K_p[:, :count].T
        expected = solve.lemma_5_1(W, K_f, V_star, V_f, half, zero=2, forget=3, lam=0.3,
                                   general=general)
        found = spared.lemma_5_1(W, K_f, V_star, V_f, zero=2, forget=3)
        assert far(found, expected) < 1e-10
    with pytest.raises(ValueError, match="^basis: Lemma 4.1 changes W in all directions"):
        spared.lemma_4_1(W, K_f, V_star, V_f, beta=1.0)


def test_where_nothing_may_change_nothing_does(layer):
    W, K_f, V_star, V_f, C0, K_p = layer
    spared = solve.Spared.of(None, lam=0.3, basis=C0[:, :0]).spare(K_p)
    assert not spared.lemma_5_1(W, K_f, V_star).any()
    assert not spared.lemma_5_1(W, K_f, V_star, V_f, zero=1.0).any()


def test_one_key_by_hand():
    """(4 + k²)⁻¹ of k = 3: the change of W = 1 that takes 3 to 9 at that price."""
    one = torch.ones(1, 1, dtype=torch.float64)
    spared = solve.Spared.of(3 * one, lam=1.0).spare(3 * one)  # 4 + 9 = 13
    assert spared.back(spared.whiten(one)).item() == pytest.approx(1 / 13)
    # (W + X) k = 9 with k = 2 and W = 1: X = (9 - 2) 2 / (13 + 4)
    assert spared.lemma_5_1(one, 2 * one, 9 * one).item() == pytest.approx(14 / 17)


@pytest.mark.parametrize("smallest, there", [(0.0, False), (1e-12, False), (1e-3, True)])
def test_what_is_singular_or_nearly_so_has_no_factors(smallest, there):
    values = torch.linspace(1, 2, 9, dtype=torch.float64)
    values[0] = smallest
    turn = torch.linalg.qr(numbers(9, 9)).Q
    assert (solve.Spared.of(turn @ torch.diag(values) @ turn.T, lam=0.0) is not None) == there
    assert (solve.Spared.of(None, lam=smallest, basis=turn) is not None) == (smallest > 0)


def test_factors_refuse_what_is_no_matrix_of_their_size(layer):
    W, K_f, V_star, V_f, C0, K_p = layer
    spared = solve.Spared.of(C0, lam=0.1)
    with pytest.raises(ValueError, match="^K_p must have shape"):
        spared.spare(K_p[:-1])
    with pytest.raises(ValueError, match="^K_p holds NaN"):
        spared.spare(K_p * float("nan"))
    with pytest.raises(ValueError, match="^give general, a basis or both"):
        solve.Spared.of(None, lam=1.0)
    with pytest.raises(ValueError, match="^lam must be"):
        solve.Spared.of(C0, lam=-1.0)
    with pytest.raises(ValueError, match="orthonormal"):
        solve.Spared.of(C0, lam=1.0, basis=2 * C0)
    with pytest.raises(ValueError, match="^basis must have shape"):
        solve.Spared.of(C0[:-1, :-1], lam=1.0, basis=torch.eye(len(C0)).double())
    with pytest.raises(ValueError, match="^beta must be"):
        spared.lemma_4_1(W, K_f, V_star, V_f, beta=-1.0)


def test_a_key_of_zeros_spares_nothing_and_counts_as_a_key(layer):
    *problem, C0, K_p = layer
    spared = solve.Spared.of(C0, lam=0.1)
    without = solved(spared, *problem)
    none = torch.zeros_like(K_p[:, :1])
    still = solved(spared.spare(none), *problem)
    assert all(far(x, y) < 1e-10 for x, y in zip(still, without, strict=True))
    one = solved(spared.spare(torch.cat([none, K_p], 1)), *problem)
    other = solved(solve.Spared.of(C0, lam=0.1).spare(K_p), *problem)
    assert all(far(x, y) < 1e-10 for x, y in zip(one, other, strict=True))


def test_a_change_has_the_weights_precision(layer):
    W, K_f, V_star, V_f, C0, K_p = layer
    for K in (None, K_p):
        spared = solve.Spared.of(C0, lam=0.1).spare(K)
        found = solved(spared, W.float(), K_f, V_star, V_f)
        assert {x.dtype for x in found} == {torch.float32}


def test_all_directions_need_no_identity(layer, monkeypatch):
    W, K_f, V_star, V_f, C0, K_p = layer
    eye = torch.eye(len(C0), dtype=C0.dtype)
    weights = dict(zero=1.0, forget=2.0, lam=0.1)
    expected = [solve.lemma_5_1(W, K_f, V_star, V_f, eye, **weights, **more)
                for more in ({}, {"general": C0})]

    def refuse(*size, **more):
        raise AssertionError("an identity is made")

    monkeypatch.setattr(torch, "eye", refuse)
    for more, other in zip(({}, {"general": C0}), expected, strict=True):
        assert far(solve.lemma_5_1(W, K_f, V_star, V_f, **weights, **more), other) < 1e-12


def test_a_direction_that_rounding_leaves_of_a_weight_does_not_decide_on_its_edit():
    """W's rows lie in a plane less, but for float32's rounding: its turned copies have one edit."""
    W = numbers(30, 60)
    gone = torch.linalg.qr(numbers(30, 2, seed=1)).Q
    W = (W - gone @ (gone.T @ W)).float().double()
    K_f, V_star, C0 = numbers(60, 1, seed=2), numbers(30, 1, seed=3), numbers(60, 200, seed=4)
    C0 = C0 @ C0.T / 200
    weights = dict(alpha=15_000, beta=50, lam=1)
    expected = solve.lemma_4_1(W, K_f, V_star, C0, W @ K_f, **weights) - W
    for seed in range(5, 9):
        turn = torch.linalg.qr(numbers(30, 30, seed=seed)).Q
        new = solve.lemma_4_1(turn @ W, K_f, turn @ V_star, C0, turn @ W @ K_f, **weights)
        assert far(turn.T @ new - W, expected) < 1e-7


# ---- edits one after another


@pytest.fixture
def job(tiny, facts, texts, cache):
    model, tokenizer = tiny
    C0 = zu.moments(model, tokenizer, (1, 2, 3), texts, tokens=640, window=32)
    return model, tokenizer, facts, dict(layers=(1, 2, 3), moments=C0, steps=3, check=False)


@pytest.fixture
def put(monkeypatch):
    """The weights that edits put on, float64, before they are rounded to the model's dtype."""
    found, real = [], zu.Edit.set

    def set_(edit, name, weight):
        found.append(weight.clone())
        return real(edit, name, weight)

    monkeypatch.setattr(zu.Edit, "set", set_)
    return found


def snapshot(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def anew(reader, fact, method, monkeypatch, **more):
    """The edit as it is made without anything that earlier ones have left but prefixes."""
    fresh = zu.Reader(reader.model, reader.tokenizer, prefixes=reader.texts(5))
    with monkeypatch.context() as patch:
        patch.setattr(solve.Spared, "of", classmethod(lambda *given, **named: None))
        return zu.unlearn(fresh.model, fresh.tokenizer, [fact], method, reader=fresh, **more)


@pytest.mark.filterwarnings("ignore:anchored without anchors")
@pytest.mark.parametrize("method", SPARING)
def test_a_later_edit_is_what_it_is_from_scratch_and_comes_off_bit_for_bit(
        job, method, put, monkeypatch):
    """To 1e-9 of the change, in float64: of each layer, with all edits before and with some."""
    model, tokenizer, facts, settings = job
    reader, edits, used = zu.Reader(model, tokenizer), [], []
    real = solve.Spared.spare
    monkeypatch.setattr(solve.Spared, "spare", lambda self, K: (used.append(K), real(self, K))[1])
    names = [models.weight_name(model, layer) for layer in (1, 2, 3)]
    for fact in facts:
        before = snapshot(model)
        # some are left out, and some come in another order
        for earlier in (edits, edits[1:], edits[::-1]):
            put.clear()
            anew(reader, fact, method, monkeypatch, earlier=earlier, **settings).restore()
            assert same(model, before) and not used
            with zu.unlearn(model, tokenizer, [fact], method, earlier=earlier, reader=reader,
                            **settings):
                assert len(used) == 3 * bool(earlier or method in SPARING[:2] + SPARING[4:])
            assert same(model, before)
            used.clear()
            for name, slow, fast in zip(names, put[:3], put[3:], strict=True):
                W = before[name].double()
                # a layer's keys may differ in the last bits that the layer below was rounded to
                assert far(fast - W, slow - W) < (1e-9 if name == names[0] else 1e-4)
        edits.append(zu.unlearn(model, tokenizer, [fact], method, earlier=edits, reader=reader,
                                **settings))
        used.clear()
    for edit in reversed(edits):
        edit.restore()


@pytest.mark.parametrize("check", [True, False])
def test_every_weight_is_looked_at_in_full_once_an_edit(job, check, monkeypatch):
    model, tokenizer, facts, settings = job
    reader, settings = zu.Reader(model, tokenizer), settings | {"check": check}
    first = zu.unlearn(model, tokenizer, facts[:1], "memit", reader=reader, **settings)
    settings["targets"] = zu.find_targets(model, tokenizer, facts[1:2], 3, reader=reader, steps=2)
    looked, real = [], models.sums
    monkeypatch.setattr(models, "sums", lambda weight: (looked.append(id(weight)), real(weight))[1])
    zu.unlearn(model, tokenizer, facts[1:2], "memit", reader=reader, earlier=[first], **settings)
    edited = {id(models.down_proj(model, layer).weight) for layer in (1, 2, 3)}
    for weight in [*model.parameters(), *model.buffers()]:
        # once before and, where it was edited, once after
        assert looked.count(id(weight)) <= 1 + (id(weight) in edited)
    if check:
        assert {id(weight) for weight in model.parameters()} <= set(looked)


def test_what_the_check_found_after_an_edit_is_not_read_again_before_the_next(job, monkeypatch):
    model, tokenizer, facts, settings = job
    settings, read = settings | {"check": True}, []
    monkeypatch.setattr(zu.methods.ruin, "NOISE", 100.0)  # as a trained model reads
    monkeypatch.setattr(zu.methods.ruin, "SUSPECT", 100.0)
    monkeypatch.setattr(zu.methods.ruin, "perplexity", lambda *given, **more: (
        read.append(perplexity(*given, **more)), read[-1])[1])
    reader = zu.Reader(model, tokenizer)
    first = zu.unlearn(model, tokenizer, facts[:1], "memit", reader=reader, **settings)
    assert len(read) == 2
    zu.unlearn(model, tokenizer, facts[1:2], "memit", reader=reader, earlier=[first], **settings)
    assert len(read) == 3 and read[2] == reader.prose[reader.fingerprint(), 128]
    with torch.no_grad():
        model.get_input_embeddings().weight.data[5] += 0.5  # which nobody counts
    zu.unlearn(model, tokenizer, facts[2:3], "memit", reader=reader, **settings)
    assert len(read) == 5  # the model is another one


def test_a_readers_fingerprint_is_the_models(tiny):
    model, tokenizer = tiny
    reader = zu.Reader(model, tokenizer)
    with reader.checked():
        assert reader.fingerprint() == models.fingerprint(model)
        with torch.no_grad():
            models.down_proj(model, 2).weight.mul_(1.5)  # a write that is counted
        assert reader.fingerprint() == models.fingerprint(model)
    models.down_proj(model, 3).weight.data[3, 4] += 1  # one that is not
    with reader.checked():
        assert reader.fingerprint() == models.fingerprint(model)


def test_sums_that_are_known_are_those_of_the_weight_and_not_of_its_place():
    known = models.KnownSums()
    weights = [numbers(5, 7), numbers(3).float(), torch.tensor(2.0), torch.zeros(0)]
    assert known(weights) == [models.sums(x) for x in weights]
    weights[0][0, 0] += 1
    weights[1] = numbers(3, seed=1).float()
    assert known(weights) == [models.sums(x) for x in weights]
    with torch.inference_mode():
        uncounted = numbers(4, 50)
        known([uncounted])
        uncounted[1, 1] += 1  # neither counted nor among the few values looked at
        assert known([uncounted]) == [models.sums(uncounted)]


def test_a_weights_mark_is_made_once_however_many_edits_changed_it(monkeypatch):
    model = torch.nn.Linear(3, 2)
    for number in range(200):
        carried.enlist(model, str(number), f"edit {number}", {"weight": "another"})
    made, real = [], carried.mark
    monkeypatch.setattr(carried, "mark", lambda weight: (made.append(1), real(weight))[1])
    assert len(carried.edits_on(model)) == 200 and len(made) == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_the_damage_of_later_edits_is_that_of_the_weights(transposed, monkeypatch):
    W, C0 = numbers(6, 9).float(), numbers(9, 20, seed=1)
    C0, energies, full = C0 @ C0.T / 20, damage.Energies(), []
    real = damage._energy
    monkeypatch.setattr(damage, "_energy", lambda x, C: (full.append(x.shape), real(x, C))[1])
    for seed in range(2, 8):
        left, right = numbers(6, 2, seed=seed).float(), numbers(2, 9, seed=seed + 20).float()
        parts, stored = (left, right), W
        if transposed:
            parts, stored = (right.T, left.T), W.T
        new = W + left @ right
        edited = new.T if transposed else new
        found = energies.moved(4, stored, parts, C0, edited, transposed=transposed)
        assert full.count((6, 9)) == 1  # of the first weight alone
        full = [shape for shape in full if shape == (6, 9)]
        delta = (left @ right).double()
        expected = (delta @ C0 * delta).sum() / (W.double() @ C0 * W.double()).sum()
        assert found == pytest.approx(float(expected), rel=1e-5)
        W = new
    other = W + 1  # not the weight that the last edit left
    found = energies.moved(4, other.T if transposed else other, parts, C0, stored,
                           transposed=transposed)
    expected = (delta @ C0 * delta).sum() / (other.double() @ C0 * other.double()).sum()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_what_is_made_of_a_tensor_is_made_again_where_it_was_written_to(tiny):
    reader, of = zu.Reader(*tiny), numbers(4, 4)
    made = []

    def make(x):
        made.append(1)
        return float(x.sum())

    assert reader.once("sum", of, make) == reader.once("sum", of, make) == float(of.sum())
    assert reader.once("sum", of.clone(), make) == float(of.sum()) and len(made) == 1
    of[2, 2] += 1
    assert reader.once("sum", of, make) == float(of.sum()) and len(made) == 2
    old = of.clone()
    of[1, 1] += 1
    assert reader.once("sum", old, make) == float(old.sum()) and len(made) == 3
    reader.once("sum", old, make, about="another")
    assert len(made) == 4
    reader.once("sum", old.float(), make, about="another")
    assert len(made) == 5


@pytest.mark.parametrize("method", ["alphaedit", "exact"])
def test_a_spectrum_is_kept_with_its_moments_and_found_by_the_next_process(
        job, method, cache, monkeypatch):
    model, tokenizer, facts, settings = job
    found, spectrum = [], solve.spectrum
    monkeypatch.setattr(solve, "spectrum", lambda C0: (found.append(1), spectrum(C0))[1])

    def edit(**more):
        found.clear()
        with zu.unlearn(model, tokenizer, facts, method, **settings | more) as made:
            return list(made.deltas.values()), len(found)

    def kept():
        return {path for path in (cache / "moments").iterdir() if path not in before}

    before = set((cache / "moments").iterdir())
    (first, n), files = edit(), kept()
    again, none = edit()
    assert n == len(files) == 3 and none == 0
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    next(iter(files)).write_bytes(b"damaged")
    again, one = edit()
    assert one == 1 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    settings["moments"][2][:] *= 2  # other moments have another spectrum
    assert edit()[1] == 1 and len(kept()) == 4
    mine = zu.moments(model, tokenizer, (1, 2, 3), ["name58 is name59 " * 100], tokens=320,
                      window=32, cache=False)
    assert edit(moments=mine)[1] == 3 and len(kept()) == 4  # of which nothing is to be kept
