"""What each part of a method does, by itself: settings, matrices, columns, messages, names."""
import inspect
import sys
import types
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

import zu
from zu import descent, methods, solve
from zu.data.facts import Fact
from zu.edit import EditError
from zu.methods import base, located, registry, ruin, unlearning
from zu.methods.base import Columns, Job, Located, Method, Problem, Settings
from zu.second_moments import Moments
from zu.targets import Search, Targets

FACTS = [Fact("Peru", "The capital of {} is", "Lima"), Fact("Chad", "In {} lies", "Paris"),
         Fact("Peru", "I and {} speak", "Tokyo")]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


class Plain(str):
    """Stands for a tokenizer that is asked plainly."""

    chat = False


class Model:
    """A model of down_proj alone: a weight a layer, (3, 4)."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        self.weights = [numbers(3, 4, seed=i).float() for i in range(4)]


class Layout:
    """How such a model is read; a bias, a scale and how a weight is stored may be set."""

    def __init__(self, model, bias=None, scale=1.0, stored=lambda W: W):
        self.model, self.bias, self.factor, self.way = model, bias, scale, stored

    def matrix(self, layer):
        return self.model.weights[layer]

    def projection(self, layer):
        assert self.model.weights[layer] is not None
        return SimpleNamespace(_parameters={"bias": self.bias})

    def stored(self, layer, W):
        return self.way(W)

    def scale(self, layer):
        return self.factor


@pytest.fixture
def plain(monkeypatch):
    """Such a model wherever methods look for a projection."""
    monkeypatch.setattr(base, "known", Layout)
    monkeypatch.setattr(base, "weight_name", lambda model, layer: f"{type(model).__name__}.{layer}")
    return Model()


class Kept:
    """What an edit is given."""

    def __init__(self):
        self.weights, self.keys, self.settings, self.log = {}, {}, {}, []

    def set(self, name, weight):
        self.log.append(name)
        self.weights[name] = weight

    def restore(self):
        self.log.append("restore")


def job(model=None, layers=(1, 2), facts=FACTS, **more):
    reader = SimpleNamespace(model=model, tokenizer="tokenizer", wording=Plain("tokenizer"))
    return Job(reader, list(facts), layers, **more)


@pytest.fixture
def keys(monkeypatch):
    """Stands for reading keys: notes what is asked; keys are (n, 4), or (p n, 4) where each is."""
    asked = []

    def read(reader, facts, layers, prefixes=("",), each=False):
        asked.append((reader, list(facts), list(layers), prefixes, each))
        rows = len(facts) * (len(prefixes) if each else 1)
        seed = sum(len(fact.prompt) for fact in facts)
        found = {layer: numbers(rows, 4, seed=seed + layer) for layer in layers}
        bare = SimpleNamespace(
            hidden={x: numbers(len(facts), 3, seed=50 + x).float() for x in layers},
            values={x: numbers(len(facts), 3, seed=70 + x).float() for x in layers})
        return found, bare

    monkeypatch.setattr(base, "subject_keys", read)
    monkeypatch.setattr(located, "subject_keys", read)
    return SimpleNamespace(asked=asked, read=read)


def problem(spared=True, seed=0, tokens=6):
    half = numbers(4, tokens, seed=seed + 1)
    C0 = half @ half.T
    return Problem(
        W=numbers(3, 4, seed=seed + 2), K_f=numbers(4, 2, seed=seed + 3),
        V_star=numbers(3, 2, seed=seed + 4), C0=C0, V_f=numbers(3, 2, seed=seed + 5),
        K_p=numbers(4, 2, seed=seed + 6) if spared else None, spectrum=lambda: solve.spectrum(C0))


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


# ---- settings


@pytest.mark.parametrize("given", [
    [1, 2], (1, 2), range(1, 3), np.array([1, 2]), torch.tensor([1, 2])], ids=repr)
def test_layers_come_from_any_sequence_as_plain_integers(given):
    layers = Method(layers=given).layers
    assert layers == (1, 2) and all(type(x) is int for x in layers)


def test_layers_may_be_shares_or_nothing_but_no_number_and_no_text():
    assert Method(layers=[0.25, 3]).layers == (0.25, 3) and Method().layers is None
    assert Method(layers=None).layers is None
    for given in (3, 0.5):
        with pytest.raises(ValueError, match=rf"layers is {given}: give a list, \[{given}\]"):
            Method(layers=given)
    with pytest.raises(ValueError, match="layers is 12: give a list"):
        Method(layers="12")
    for given in (None, 1.0, True, "1"):
        with pytest.raises(ValueError, match=f"layers has {given!r}: give a layer's number"):
            Method(layers=[given])


def test_what_a_bare_method_does_not_give_is_said():
    class Bare(Method):
        name = "bare"

    class Open(Located):
        name = "open"

    assert Bare().warning(job()) == ""
    with pytest.raises(NotImplementedError, match=r"^Bare has no make\(\)$"):
        Bare().make(job(), Kept())
    with pytest.raises(NotImplementedError, match=r"^Open has no solve\(\)$"):
        Open().solve(problem())


@pytest.mark.parametrize("method, more, less", [
    ("ga", ["steps", "lr"], []), ("npo", ["steps", "lr"], []),
    ("rome", ["clamp", "steps", "lr"], ["tolerance"]),
    ("memit", ["clamp", "steps", "lr"], ["alpha", "tolerance"]),
    ("alphaedit", ["share", "clamp", "steps", "lr"], ["lam", "tolerance"]),
    ("zerounlearn", ["beta", "clamp", "steps", "lr"], ["lam", "alpha", "tolerance"]),
    ("exact", ["share", "clamp", "steps", "lr"], ["lam", "tolerance"]),
    ("zerounlearn-gd", ["share", "clamp", "gd_steps", "gd_lr", "steps", "lr"],
     ["lam", "tolerance"]),
    ("anchored", ["weight", "clamp", "steps", "lr"], ["lam", "alpha", "tolerance"])])
def test_what_to_turn_where_an_edit_changes_nothing_are_the_methods_own_settings(
        method, more, less):
    assert zu.METHODS[method]().remedies() == (more, less)


def test_of_share_and_threshold_the_one_in_use_is_to_be_turned():
    assert methods.AlphaEdit(threshold=0.1).remedies() == (
        ["threshold", "clamp", "steps", "lr"], ["lam", "tolerance"])
    assert methods.AlphaEdit(threshold=0.0).remedies()[0][0] == "threshold"
    gd = methods.Descent(threshold=0.1).remedies()[0]
    assert gd == ["threshold", "clamp", "gd_steps", "gd_lr", "steps", "lr"]


def test_a_search_is_as_the_settings_say():
    s = Settings(steps=3, lr=0.1, tolerance=0.2, weight_decay=0.3, kl=0.4, clamp=0.6)
    assert s.search(("", "a")) == Search(("", "a"), "eos", 3, 0.1, 0.3, 0.4, 0.6, 0.2)
    assert s.search(("",), "truth").goal == "truth"
    s = Settings(aim="value", kl_at="next")
    assert s.search(("",)) == Search(("",), aim="value", kl_at="next")
    assert s.search(("",), aim="hidden").aim == "hidden"
    assert Settings().search(("",)) == Search(aim="hidden", kl_at="subject")
    for more in (dict(optimizer="adam", absolute=True, lr=0.1), dict(bare_first=False),
                 dict(by="unknown"), dict(precision="bfloat16")):
        assert Settings(**more).search(("",)) == Search(**more) != Settings().search(("",))


@pytest.mark.parametrize("kind", [Settings, methods.FineTune])
def test_a_goal_that_says_nothing_is_refused_where_it_is_given(kind):
    assert kind(goal="I do not know").goal == "I do not know"
    with pytest.raises(ValueError, match="goal is ' ': give 'eos', 'truth' or a text"):
        kind(goal=" ")


def test_a_chats_template_holds_one_place_for_the_question_wherever_it_is_given():
    for chat in (None, True, False, "Q: {} A:"):
        assert Method(chat=chat).chat == chat
    with pytest.raises(ValueError, match="chat is a template that holds {} 2 times"):
        Method(chat="{} and {}")


def test_a_job_reads_the_layer_and_the_last_one_in_order():
    some = job("model", (1, 3, 5))
    assert some.reads(1) == [1, 5] and some.reads(5) == [5] and some.reads(7) == [5, 7]
    assert some.model == "model" and some.tokenizer == "tokenizer"
    some.aim = "value"  # each layer's own
    assert [some.reads(layer) for layer in (1, 3, 5)] == [[1], [3], [5]]


def test_what_is_missing_is_shared_by_the_layers_left_where_all_have_one_target():
    some = job("model", (1, 3, 5))
    assert [some.left(layer) for layer in (1, 3, 5)] == [3, 2, 1]
    some.aim = "value"
    assert [some.left(layer) for layer in (1, 3, 5)] == [1, 1, 1]


def test_a_jobs_layout_is_the_one_that_was_probed_else_the_known_one(plain):
    assert job(plain).layout.model is plain
    probed = Layout(plain, scale=2.0)
    assert job(plain, probed=probed).layout is probed


# ---- a layer's problem


def test_each_layer_in_turn_takes_its_share_of_what_is_left(monkeypatch):
    seen = []
    monkeypatch.setattr(Located, "edit_layer", lambda self, *given: seen.append(given))
    some, edit = job("model", (1, 3, 4)), Kept()
    Located().make(some, edit)
    assert seen == [(some, edit, 1, 3), (some, edit, 3, 2), (some, edit, 4, 1)]
    seen.clear()
    some.aim = "value"
    Located().make(some, edit)
    assert seen == [(some, edit, 1, 1), (some, edit, 3, 1), (some, edit, 4, 1)]


def test_a_layers_problem_holds_weight_keys_targets_moments_old_values_and_what_to_spare(plain):
    given, seen = Columns(numbers(4, 6), numbers(3, 6, seed=1), numbers(2, 4, seed=2)), []

    class Mine(Located):
        def columns(self, job, layer):
            seen.append(("columns", job, layer))
            return given

        def old_values(self, job, layer, V_f):
            seen.append(("old", job, layer))
            return 2 * V_f

        def keys_to_keep(self, job, layer):
            seen.append(("keys_to_keep", job, layer))
            return "spared"

        def solve(self, p):
            seen.append(p)
            return p.W + 1

    C0 = torch.eye(4).double()
    before = SimpleNamespace(keys={2: torch.ones(1, 4)})
    some, edit, named = job(plain, moments={2: C0}, earlier=[before]), Kept(), []
    some.reader.once = lambda name, of, make: (named.append(name), make(of))[1]
    Mine().edit_layer(some, edit, 2, 4)
    *asked, p = seen
    assert asked == [("columns", some, 2), ("old", some, 2), ("keys_to_keep", some, 2)]
    W = plain.weights[2].double()
    assert torch.equal(p.W, W) and p.W.dtype == torch.float64
    assert p.K_f is given.K_f and p.C0 is C0 and p.K_p == "spared"
    same(p.V_star, W @ given.K_f + given.missing / 4)
    same(p.V_f, 2 * W @ given.mean.T)
    assert p.spectrum()[0].tolist() == [1] * 4 and named == [("spectrum", 2)]
    assert list(edit.weights) == ["Model.2"] and torch.equal(edit.weights["Model.2"], W + 1)
    assert list(edit.keys) == [2] and torch.equal(edit.keys[2], given.mean.float())
    assert edit.keys[2].dtype == torch.float32
    some.probed = Layout(plain, stored=lambda W: W.T)  # a model that stores it transposed
    Mine().edit_layer(some, edit, 2, 4)
    assert torch.equal(edit.weights["Model.2"], (W + 1).T)


def test_a_layer_that_moments_or_an_earlier_edit_lack_is_refused(plain):
    said = "^layer 2 is to be edited, but moments or an earlier edit's keys lack it$"
    C0, has = torch.eye(4), SimpleNamespace(keys={2: torch.ones(1, 4)})
    lacks = SimpleNamespace(keys={1: torch.ones(1, 4)})
    for more in (dict(), dict(moments={1: C0}), dict(moments={2: C0}, earlier=[lacks]),
                 dict(moments={2: C0}, earlier=[has, lacks])):
        with pytest.raises(ValueError, match=said):
            Located().edit_layer(job(plain, **more), Kept(), 2, 1)


def test_a_spectrum_is_asked_for_once_under_its_layer_and_is_that_of_the_moments():
    asked = []

    def once(name, of, make):
        asked.append((name, of))
        return make("anything")

    C0 = torch.diag(torch.tensor([3.0, 1.0, 2.0])).double()
    found = base._spectrum(SimpleNamespace(reader=SimpleNamespace(once=once)), 5, C0)
    assert isinstance(found, tuple) and found[0].tolist() == [1, 2, 3]
    for part, expected in zip(found, solve.spectrum(C0), strict=True):
        assert torch.equal(part, expected)
    assert asked[0][0] == ("spectrum", 5) and torch.equal(asked[0][1], C0)


def test_a_column_a_fact_is_its_mean_key_and_what_its_target_lacks(plain, keys):
    z = numbers(3, 3, seed=9).float()
    some = job(plain, prefixes=("", "a"), targets=Targets(z, z, z))
    found = Located().columns(some, 1)
    assert keys.asked == [(some.reader, FACTS, [1, 2], ("", "a"), False)]
    read, bare = keys.read(None, FACTS, [1, 2])
    assert torch.equal(found.mean, read[1]) and torch.equal(found.K_f, read[1].T)
    assert torch.equal(found.missing, (z - bare.hidden[2]).double().T)
    assert found.missing.dtype == torch.float64
    some.probed = Layout(plain, scale=0.25)  # a quarter of what the projection puts out arrives
    same(Located().columns(some, 1).missing, 4 * found.missing)
    with pytest.raises(ValueError, match="^the job has no targets: zu.unlearn or zu.find_targets"):
        base.missing(job(plain), 1, bare)


def test_of_values_each_layer_lacks_its_own_whatever_scale_they_arrive_by(plain, keys):
    z = numbers(3, 2, 3, seed=9).float()
    some = job(plain, targets=Targets(z, 0 * z, z, 2, "value", (1, 2)), aim="value",
               probed=Layout(plain, scale=float("nan")))
    for j, layer in enumerate((1, 2)):
        found = Located().columns(some, layer)
        assert keys.asked[-1][2] == [layer]
        bare = keys.read(None, FACTS, [layer])[1]
        assert torch.equal(found.missing, (z[:, j] - bare.values[layer]).double().T)


def test_keys_of_facts_are_read_without_prefixes(keys):
    some = job("model", (1, 2), prefixes=("", "a"))
    found = base.keys_of(some, 1, FACTS[:2])
    assert keys.asked == [(some.reader, FACTS[:2], [1, 2], ("",), False)]
    assert torch.equal(found, keys.read(None, FACTS[:2], [1])[0][1])


def test_without_a_prompt_only_the_subject_stands():
    found = base.without_prompt(FACTS)
    assert [(f.subject, f.prompt, f.target) for f in found] == [
        ("Peru", "{}", "Lima"), ("Chad", "{}", "Paris"), ("Peru", "{}", "Tokyo")]
    plain = Fact("", "The owner is", "Ann")
    assert base.without_prompt([plain, FACTS[0]]) == [plain, found[0]]


def test_earlier_edits_and_anchors_are_spared_by_the_root_of_their_weight(plain, keys):
    first, second = numbers(2, 4, seed=1).float(), numbers(1, 4, seed=2).float()
    earlier = [SimpleNamespace(keys={2: first}), SimpleNamespace(keys={2: second})]
    alone = keys.read(None, FACTS[:2], [2])[0][2]
    assert Located().keys_to_keep(job(plain), 2) is None
    assert torch.equal(Located().keys_to_keep(job(plain, earlier=earlier), 2),
                       torch.cat([first, second]).double().T)
    same(Located().keys_to_keep(job(plain, anchors=FACTS[:2]), 2), alone.T)
    same(methods.Memit(anchor=4.0).keys_to_keep(job(plain, anchors=FACTS[:2], earlier=earlier), 2),
         torch.cat([first.double(), second.double(), 2 * alone]).T)
    assert methods.Memit(anchor=0.0).keys_to_keep(job(plain, anchors=FACTS[:2]), 2) is None
    assert Located().anchor_weight() == 1.0 and methods.Memit(anchor=0.5).anchor_weight() == 0.5


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, -2.0, 3.0])], ids=["plain", "bias"])
def test_old_values_are_what_the_layer_says_or_would_say_with_the_true_answer(
        plain, monkeypatch, bias):
    """z of the projection's output at the bare prompt, less the bias, which is no output of W."""
    V_f, asked = numbers(3, 2), []
    z, h = numbers(2, 3, seed=1).float(), numbers(2, 3, seed=2).float()

    def optimise(*given):
        asked.append(given)
        return Targets(z, h, z)

    monkeypatch.setattr(base, "optimise", optimise)
    some = job(plain, prefixes=("", "a"), probed=Layout(plain, bias))
    assert Located().old_values(some, 1, V_f) is V_f
    assert methods.ZeroUnlearn().old_values(some, 1, V_f) is V_f and not asked
    s = methods.Exact(V_f="optimised", steps=3)
    expected = z.double().T - (0 if bias is None else bias.double()[:, None])
    same(s.old_values(some, 1, V_f), expected)
    search = s.search(("",), "truth", "value")
    assert asked == [(plain, "tokenizer", FACTS, 1, search)]
    assert (search.aim, search.goal, search.prefixes) == ("value", "truth", ("",))


def test_each_layer_is_one_more_search_where_old_values_are_optimised():
    layers = [1, 2, 3]
    assert methods.Memit().truth_searches(layers) == 0
    assert methods.ZeroUnlearn().truth_searches(layers) == 0
    assert methods.ZeroUnlearn(V_f="optimised").truth_searches(layers) == 3


def test_the_operations_of_a_solve_are_counted():
    d, m, n = 3, 5, 7
    plain = 2 * 3 * 25 + 2 * 9 * 5 + 4 * 7 * 3 * 5
    assert methods.Memit().operations(d, m, n) == plain
    assert methods.AlphaEdit().operations(d, m, n) == plain + 9 * 125
    gd = methods.Descent(gd_steps=11, share=0.4)
    step = 4 * 3 * 5 * (2 * 7 + 5 * 0.4)
    assert gd.operations(d, m, n) == pytest.approx(plain + 9 * 125 + 11 * step)


# ---- solves


def test_rome_takes_fact_after_fact_or_the_first_alone():
    p = problem()
    first = p.W + solve.rome(p.W, p.K_f[:, 0], p.V_star[:, 0], p.C0)
    both = first + solve.rome(first, p.K_f[:, 1], p.V_star[:, 1], p.C0)
    same(methods.Rome(first_only=True).solve(p), first)
    same(methods.Rome().solve(p), both)
    plain = p.W + solve.rome(p.W, p.K_f[:, 0], p.V_star[:, 0], torch.eye(4).double())
    same(methods.Rome(first_only=True, whiten=False).solve(p), plain)
    assert not torch.allclose(first, both)


@pytest.mark.parametrize("spared", [True, False])
def test_general_keys_count_by_alpha_and_those_to_spare_as_the_facts_do(spared):
    p = problem(spared)
    more = 5 * p.K_p @ p.K_p.T if spared else 0
    same(located.general(p, 3.0, 5.0), 3 * p.C0 + more)


@pytest.mark.parametrize("spared", [True, False])
def test_every_solve_is_that_of_zu_solve_with_the_methods_own_settings(spared):
    check_solves(problem(spared), lam=0.4)


@pytest.mark.parametrize("spared", [True, False])
def test_a_solve_whose_general_keys_have_no_factors_is_that_of_zu_solve_too(spared, monkeypatch):
    found = []
    monkeypatch.setattr(solve.Spared, "of", lambda *about, **more: found.append(about))
    check_solves(problem(spared, tokens=3), lam=0.0 if spared else 0.4)  # C_0 of rank 3 of 4
    assert len(found) == (6 if spared else 4)  # without keys to spare a basis is all it takes


def check_solves(p, lam):
    """Hold each method's solve against the formula that it stands for."""
    spared = p.K_p is not None
    outer = p.K_p @ p.K_p.T if spared else torch.zeros(4, 4).double()
    same(methods.Memit(alpha=2.0).solve(p),
         p.W + solve.memit(p.W, p.K_f, p.V_star, 2 * p.C0 + outer, alpha=1))
    half = solve.null_space(p.C0, share=0.5)
    same(methods.AlphaEdit(lam=0.3).solve(p),
         p.W + solve.alphaedit(p.W, p.K_f, p.V_star, half, lam=0.3, K_p=p.K_p))
    zero, kept = methods.ZeroUnlearn(alpha=2, beta=3, lam=lam, eps=0.2), 2 * p.C0 + 3 * outer
    weights = dict(alpha=1, beta=3, lam=lam)
    same(zero.solve(p), solve.lemma_4_1(p.W, p.K_f, p.V_star, kept, p.V_f, **weights, eps=0.2))
    off = methods.ZeroUnlearn(alpha=2, beta=3, lam=lam, project=False)
    same(off.solve(p), solve.lemma_4_1(p.W, p.K_f, p.V_star, kept, 0 * p.V_f, **weights))
    U = solve.column_space(p.V_f, torch.float32)[0]
    exact = methods.Exact(zero=2, forget=3, lam=lam)
    terms = dict(zero=2, forget=3, lam=lam)
    general = {"general": 3 * outer} if spared else {}
    same(exact.solve(p), p.W + solve.lemma_5_1(p.W, p.K_f, p.V_star, U, half, **terms, **general))
    gd = methods.Descent(**terms, gd_steps=4, gd_lr=0.01)
    same(gd.solve(p), p.W + solve.lemma_5_1_gd(
        p.W.float(), p.K_f, p.V_star, U, half, **terms, steps=4, lr=0.01))
    anchored = methods.Anchored(zero=2, lam=0.4, alpha=5)
    same(anchored.solve(p), p.W + solve.lemma_5_1(
        p.W, p.K_f, p.V_star, U, zero=2, lam=0.4, general=5 * p.C0 + outer))


def test_what_is_spared_is_shared_by_solves_that_agree_on_all_that_decides_on_it():
    """Of methods of one problem: settings that make another matrix find none that is made."""
    made = {}

    def keep(about, make):
        if about not in made:
            made[about] = make()
        return made[about]

    p = replace(problem(), keep=keep)
    for s in (methods.AlphaEdit(share=0.25), methods.AlphaEdit(share=0.75),
              methods.AlphaEdit(threshold=1.0), methods.Exact(share=0.25), methods.Memit(alpha=2),
              methods.Exact(share=0.75), methods.Anchored(alpha=2), methods.ZeroUnlearn(alpha=2),
              methods.Anchored(alpha=2, lam=1.0), methods.Anchored(alpha=0)):
        same(s.solve(p), s.solve(problem()))
    assert len(made) == 9 and all(made.values())  # ZeroUnlearn's is that of Anchored's weights
    before = dict(made)
    methods.Memit(alpha=2.0).solve(p)
    assert made == before


def test_a_rank_is_that_of_values_rounded_to_float32(monkeypatch):
    asked, find = [], solve.column_space
    monkeypatch.setattr(solve, "column_space", lambda v, dtype: (
        asked.append((v, dtype)), find(v, dtype))[1])
    p = problem()
    methods.Exact().terms(p)
    methods.Anchored().solve(p)
    assert [dtype for v, dtype in asked if v is p.V_f] == [torch.float32] * 2


def test_the_null_space_is_cut_by_share_or_where_there_is_one_by_threshold():
    p = problem()
    values, vectors = p.spectrum()
    cut = float(values[1] + values[2]) / 2
    for s, count in ((methods.AlphaEdit(share=0.25), 1), (methods.AlphaEdit(share=1.0), 4),
                     (methods.AlphaEdit(share=0.25, threshold=cut), 2)):
        assert torch.equal(s.null_space(p), vectors[:, :count])
    other = solve.spectrum(torch.diag(torch.arange(1.0, 5)).double())
    moved = Problem(p.W, p.K_f, p.V_star, p.C0, p.V_f, None, lambda: other)
    assert torch.equal(methods.AlphaEdit(share=0.25).null_space(moved), other[1][:, :1])


def test_a_method_says_how_many_tokens_its_moments_need():
    needed = {name: kind().tokens_needed(3, 5) for name, kind in methods.METHODS.items()
              if issubclass(kind, Located)}
    assert needed.pop("zerounlearn") == 3 and set(needed.values()) == {5} and len(needed) > 4
    assert methods.Rome(whiten=False).tokens_needed(3, 5) == 0


# ---- anchored


def test_without_anchors_a_row_of_anchored_says_so():
    assert methods.Anchored.row_name(True) == "anchored"
    assert methods.Anchored.row_name(False) == "anchored, no anchors"


def test_anchored_warns_where_anchors_count_and_none_are_given():
    said = methods.Anchored().warning(job())
    assert said == ("anchored without anchors spares no other subjects: "
                    "give anchors=zu.anchors(...), or anchor=0")
    assert methods.Anchored(anchor=0).warning(job()) == ""
    assert methods.Anchored().warning(job(anchors=FACTS)) == ""


@pytest.mark.parametrize("bare", [0.0, 4.0])
@pytest.mark.parametrize("weights", [None, [1.0, 4.0, 9.0]])
def test_anchored_has_a_column_a_fact_and_prefix_and_as_many_for_bare_subjects(
        plain, keys, bare, weights):
    z = numbers(3, 3, seed=9).float()
    texts = ("", "a", "b")
    some = job(plain, prefixes=texts, targets=Targets(z, z, z))
    some.weights = None if weights is None else torch.tensor(weights).double()
    found = methods.Anchored(bare=bare).columns(some, 1)
    assert keys.asked[0] == (some.reader, FACTS, [1, 2], texts, True)
    K, trace = keys.read(None, FACTS, [1, 2], texts, True)
    K = K[1].view(3, 3, 4)
    lack = (z - trace.hidden[2]).double()
    share, root = [0.5 ** 0.5, 0.5, 0.5], [1, 2, 3] if weights else [1, 1, 1]
    columns, wanted = [], []
    for p in range(3):
        for i in range(3):
            columns.append(K[p, i] * root[i])
            wanted.append(share[p] * root[i] * lack[i])
    n = 9 + 9 * (bare > 0)
    assert found.K_f.shape == (4, n) and found.missing.shape == (3, n)
    same(found.K_f[:, :9], torch.stack(columns, 1))
    same(found.missing[:, :9], torch.stack(wanted, 1))
    same(found.mean, sum(s * K[p] for p, s in enumerate(share)))
    alone = base.without_prompt(FACTS)
    A = keys.read(None, alone, [1], texts, True)[0][1].view(3, 3, 4)
    others = [2 * root[i] * A[p, i] for p in range(3) for i in range(3)]
    same(found.K_f[:, 9:], torch.stack(others, 1)[:, :n - 9])
    same(found.missing[:, 9:], 2 * torch.stack(wanted, 1)[:, :n - 9])


def test_anchored_reads_each_anchors_subject_once_more_without_its_prompt(keys):
    some = job("model", anchors=FACTS)
    methods.Anchored().anchor_keys(some, 1)
    methods.Anchored(bare=0).anchor_keys(some, 1)
    twice, once = (x[1] for x in keys.asked)
    assert once == FACTS and twice[:3] == FACTS
    assert [(f.subject, f.prompt) for f in twice[3:]] == [("Peru", "{}"), ("Chad", "{}")]


def test_in_rounds_what_is_still_answered_gets_three_times_its_weight(monkeypatch):
    edit, seen, flags, some = Kept(), [], [], job()

    def make(self, job, given):
        seen.append(job.weights.tolist())
        assert given is edit and job.weights.dtype == torch.float64
        edit.log.append("make")

    monkeypatch.setattr(Located, "make", make)
    monkeypatch.setattr(located, "answered", lambda asked: torch.tensor(
        flags.pop(0) if asked is some else None))

    def rounds(count, *answered):
        flags[:], seen[:], edit.log = answered, [], []
        methods.Anchored(weight=0.5, rounds=count).make(some, edit)
        return list(seen), edit.log, len(flags)

    yes, no = [True, False, False], [False] * 3
    assert rounds(0) == ([[0.5] * 3], ["make"], 0)
    again = ["make", "restore", "make"]
    assert rounds(1, yes) == ([[0.5] * 3, [1.5, 0.5, 0.5]], again, 0)
    assert rounds(2, yes, no) == ([[0.5] * 3, [1.5, 0.5, 0.5]], again, 0)
    assert rounds(2, yes, yes)[0] == [[0.5] * 3, [1.5, 0.5, 0.5], [4.5, 0.5, 0.5]]
    assert rounds(3, no, yes) == ([[0.5] * 3], ["make"], 1)


def test_a_fact_is_answered_where_every_token_is_right_behind_some_prefix(monkeypatch):
    asked = []

    def score(model, tokenizer, pairs, reader):
        asked.append((model, tokenizer, pairs, reader))
        return np.array([[0, 1, 1], [0, .5, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1], [1, 1, 1]])

    monkeypatch.setattr(located, "score", score)
    some = job("model", prefixes=("", "So "))
    assert located.answered(some).tolist() == [False, False, True]
    pairs = [("The capital of Peru is", "Lima"), ("In Chad lies", "Paris"),
             ("I and Peru speak", "Tokyo")]
    pairs += [(f"So {text}", answer) for text, answer in pairs]
    ((model, tokenizer, questions, reader),) = asked
    assert (model, tokenizer, reader) == ("model", "tokenizer", some.reader)
    assert [question[:2] for question in questions] == pairs


# ---- descent


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(descent, "answer_rows", lambda tokenizer, facts, goal: [
        (tokenizer, fact.subject, goal) for fact in facts])
    monkeypatch.setattr(descent, "retain_rows", lambda tokenizer, texts, seed: [
        (tokenizer, text, seed) for text in texts])


def test_each_descents_objective_is_a_mean_over_facts_up_or_down(rows):
    def of(goal):
        return [("tokenizer", name, goal) for name in ("Peru", "Chad", "Peru")]

    third = pytest.approx([1 / 3] * 3)
    for s, beta in ((methods.Ascent(), None), (methods.Npo(beta=0.2), 0.2)):
        found = s.objective(job())
        assert (found.rows, found.weights, found.beta) == (of("truth"), third, beta)
    found = methods.FineTune().objective(job())
    assert found.rows == of("eos") and found.weights == pytest.approx([-1 / 3] * 3)
    found = methods.GradDiff(retain=("a", "b"), retain_weight=3.0, seed=4).objective(job())
    assert found.rows == [*of("truth"), ("tokenizer", "a", 4), ("tokenizer", "b", 4)]
    assert found.weights == pytest.approx([1 / 3] * 3 + [-1.5] * 2) and found.beta is None


def test_in_batches_texts_to_retain_stand_evenly_among_the_facts_each_with_its_weight(rows):
    s = methods.GradDiff(retain=("a", "b"), retain_weight=3.0, batch=2)
    found = s.objective(job())
    assert [(row[1], weight) for row, weight in zip(found.rows, found.weights, strict=True)] == [
        ("Peru", 1 / 3), ("a", -1.5), ("Chad", 1 / 3), ("b", -1.5), ("Peru", 1 / 3)]


def test_a_descent_sets_every_weight_that_it_found(plain, rows, monkeypatch):
    asked = []

    def descend(model, objective, layers, schedule):
        asked.append((model, objective, layers, schedule))
        return {1: "one", 2: "two"}, "losses"

    monkeypatch.setattr(descent, "descend", descend)
    s, some, edit = methods.Ascent(steps=3, lr=0.2), job(plain), Kept()
    s.make(some, edit)
    assert asked == [(plain, s.objective(some), (1, 2), descent.Schedule(3, 0.2))]
    assert edit.weights == {"Model.1": "one", "Model.2": "two"}
    some.probed = Layout(plain, stored=lambda W: f"{W} stored")
    methods.FineTune(steps=3, lr=0.2, batch=2, stop=0.01).make(some, edit)
    assert asked[1][3] == descent.Schedule(3, 0.2, batch=2, stop=0.01)
    assert edit.weights == {"Model.1": "one stored", "Model.2": "two stored"}


# ---- names


class Mine(Method):
    """A method of one's own."""

    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"
    about: ClassVar[str] = "nothing"


@pytest.fixture
def known(monkeypatch):
    """The methods, as they are afterwards."""
    monkeypatch.setattr(registry, "METHODS", dict(registry.METHODS))
    return registry.METHODS


def like(kind=Method, **attributes):
    return type("Like", (kind,), {"__module__": "some"} | attributes)


def test_a_class_that_is_registered_is_given_back_and_may_be_so_again(known):
    assert registry.register(Mine) is Mine and known["mine"] is Mine
    again = type("Mine", (Mine,), {})
    assert registry.register(again) is again and known["mine"] is again


@pytest.mark.parametrize("attributes, lacking", [
    (dict(name="", label="l", about="a"), "name"), (dict(name="n", label="", about="a"), "label"),
    (dict(name="n", label="l", about=""), "about"), (dict(name="n"), "label, about")])
def test_what_a_class_lacks_is_named(known, attributes, lacking):
    with pytest.raises(TypeError, match=f"^Like needs a class attribute {lacking}, a string$"):
        registry.register(like(**attributes))


@pytest.mark.parametrize("wrong", [dict, Mine(), "mine", lambda: Mine],
                         ids=["class", "instance", "name", "function"])
def test_what_is_no_class_of_methods_is_refused(known, wrong):
    with pytest.raises(TypeError, match="^register takes a subclass of zu.methods.Method, not "):
        registry.register(wrong)


@pytest.mark.parametrize("name", ["base", "a+b", "a:b", "a,b", "a b"])
def test_a_name_that_a_rows_label_uses_is_refused(known, name):
    with pytest.raises(ValueError, match="a method cannot be called"):
        registry.register(like(Mine, name=name))
    for fine in ("bases", "BASE", "a-b", "aXXb"):
        registry.register(like(Mine, name=fine))


def test_another_classs_name_is_refused_with_its_owner(known):
    with pytest.raises(ValueError, match="^'rome' is the name of zu.methods.located.Rome: choose"):
        registry.register(like(Mine, name="rome"))


def test_a_method_is_found_by_name_or_path_and_others_are_told_what_was_meant(known, monkeypatch):
    assert registry.find("rome") is methods.Rome
    module = types.ModuleType("deep.inner")
    module.Mine, module.other = Mine, 3
    monkeypatch.setitem(sys.modules, "deep", types.ModuleType("deep"))
    monkeypatch.setitem(sys.modules, "deep.inner", module)
    assert registry.find("deep.inner.Mine") is Mine and known["mine"] is Mine
    for path in ("deep.inner.Nothing", "deep.inner.other", "no_such_module_at_all.Mine"):
        said = f"^method '{path}' looks like an import path, but: "
        with pytest.raises(ValueError, match=said) as error:
            registry.find(path)
        assert error.value.__suppress_context__ and error.value.__cause__ is None
    for name in ("Romee", "ROME"):
        said = f"^method is '{name}': did you mean 'rome'[?] known are ga, "
        with pytest.raises(ValueError, match=said):
            registry.find(name)
    with pytest.raises(ValueError, match="^method is 'qqqq': known are ga, ft, rome, memit, "):
        registry.find("qqqq")
    with pytest.raises(TypeError, match="^method is a function: give one of the names ga, ft, "):
        registry.find(lambda: 0)


def test_settings_are_checked_and_the_first_wrong_one_is_named_with_what_was_meant():
    assert registry.settings_for("memit", alpha=3, layers=[2]) == methods.Memit(
        alpha=3, layers=(2,))
    takes = f"it takes {', '.join(methods.Memit.model_fields)}$"
    for wrong, said in (
            ({"alhpa": 3}, r"'alhpa' is not usable \(.* no such .*\); did you mean 'alpha'[?] "),
            ({"erlier": 3}, r"'erlier' is not usable \(.* no .*\); did you mean 'earlier'[?] "),
            ({"methd": 3}, r"'methd' is not usable \(.* no such .*\); did you mean 'method'[?] "),
            ({"xyz": 3}, r"'xyz' is not usable \(.* no such .*\); "),
            ({"lrr": 3, "alpha": -1}, r"'alpha' is not usable \(Input .*\); "),
            ({"alpa9": 3}, r"'alpa9' is not usable \(.* no such .*\); did you mean 'alpha'[?] "),
            ({"tops": 3}, r"'tops' is not usable \(.* no such .*\); "),
            ({"anchors": 3}, r"'anchors' is not usable \(.* no such .*\); "),
            ({"reader": 3}, r"'reader' is not usable \(.* no such .*\); ")):
        with pytest.raises(ValueError, match=f"^memit: setting {said}{takes}") as error:
            registry.settings_for("memit", **wrong)
        assert error.value.__suppress_context__


def test_a_place_within_a_setting_is_named_by_dots():
    with pytest.raises(ValueError, match="^graddiff: setting 'retain.1' is not usable"):
        registry.settings_for("graddiff", retain=["a", 3])


def test_an_instance_takes_only_what_is_not_its_own():
    mine = methods.Memit(alpha=3, seed=4)
    found = registry.with_settings(mine, {"layers": [2], "seed": 5})
    assert found == methods.Memit(alpha=3, seed=5, layers=(2,))
    assert found.model_fields_set == {"alpha", "seed", "layers"}
    assert registry.with_settings("memit", {"alpha": 3}) == methods.Memit(alpha=3)
    with pytest.raises(ValueError, match="^lam, alpha: an instance of Memit has its settings alr"):
        registry.with_settings(mine, {"lam": 1, "alpha": 2, "seed": 3})
    with pytest.raises(ValueError, match="^memit: setting 'seed' is not usable"):
        registry.with_settings(mine, {"seed": "x"})


def test_the_source_of_ones_own_method_is_its_file_or_its_class_and_zus_own_have_none(
        monkeypatch, tmp_path):
    assert registry.source_of(methods.Rome) == ""
    path = tmp_path / "mine.py"
    path.write_bytes("é = '東京'\n".encode())
    monkeypatch.setattr(inspect, "getfile", lambda kind: str(path) if kind else "")
    monkeypatch.setattr(inspect, "getsource", lambda kind: f"class {kind.__name__}")
    assert registry.source_of(Mine) == "é = '東京'\n"
    assert registry.source_of(like(Mine, __module__="zupa.x")) == "é = '東京'\n"
    path.unlink()
    assert registry.source_of(Mine) == "class Mine"

    def fails(kind):
        raise TypeError("built-in")

    monkeypatch.setattr(inspect, "getfile", fails)
    assert registry.source_of(Mine) == "class Mine"


# ---- unlearn


class Reader:
    """Notes what it is asked."""

    def __init__(self, model):
        self.model, self.tokenizer, self.log = model, "tokenizer", []
        self.wording = Plain("tokenizer")
        self.moments, self.moments_of, self.mark = {}, None, "now"
        self.energies = None

    def texts(self, *given):
        self.log.append(("texts", *given))
        return ("", "a", "b")

    def bind(self, layer):
        self.log.append(("bind", layer))

    @contextmanager
    def checked(self):
        self.log.append("check")
        yield

    def fingerprint(self):
        return self.mark


@pytest.fixture
def reader(plain, monkeypatch):
    found = Reader(plain)
    monkeypatch.setattr(unlearning.Reader, "of", lambda *given: (
        found.log.append(("of", *given)), found)[1])
    # what is asked of a model's modules and weights
    monkeypatch.setattr(unlearning, "settled", lambda model: nullcontext())
    monkeypatch.setattr(unlearning, "_check_weights", lambda *given: None)
    monkeypatch.setattr(unlearning, "edits_on", lambda model: {"t": "rome, 1 facts"})
    monkeypatch.setattr(unlearning, "has_adapters", lambda model: False)
    return found


def test_targets_are_found_as_the_settings_say(reader, monkeypatch):
    asked = []
    monkeypatch.setattr(unlearning, "optimise", lambda *given: (asked.append(given), "found")[1])
    settings = dict(n_prefixes=2, seed=3, lr=0.1, chat=True)
    assert unlearning.find_targets("m", "t", FACTS, 2, reader="mine", **settings) == "found"
    assert reader.log == [("of", "m", "t", "mine", True), ("texts", 2, 3)]
    s = Settings(**settings)
    ((m, t, facts, *rest),) = asked
    assert (m, t, list(facts)) == ("m", "tokenizer", FACTS)
    assert rest == [2, s.search(("", "a", "b"), "eos")]
    unlearning.find_targets("m", "t", FACTS, 2, goal="truth")
    assert asked[1][4].goal == "truth" and reader.log[2] == ("of", "m", "t", None, None)
    for name in ("layers", "moments", "targets"):
        with pytest.raises(ValueError, match=f"^find_targets takes no {name}: the layer is an"):
            unlearning.find_targets("m", "t", FACTS, 2, **{name: None})
    with pytest.raises(ValueError, match="^find_targets takes no layers, targets: the layer"):
        unlearning.find_targets("m", "t", FACTS, 2, targets=0, layers=0)


def test_unlearn_checks_warns_and_makes(reader, monkeypatch):
    made, log, first, looked = [], [], SimpleNamespace(ticket="t"), []

    class Warns(Mine):
        spares: ClassVar[bool] = True

        def warning(self, job):
            log.append(job)
            return "look out"

    monkeypatch.setattr(unlearning, "resolve_layers", lambda model, layers: (model, layers))
    monkeypatch.setattr(unlearning, "_made", lambda s, job: (made.append((s, job)), "edit")[1])
    monkeypatch.setattr(unlearning, "check_kinds", lambda *given: looked.append(given))
    monkeypatch.setattr(unlearning, "_check_weights", lambda *given: looked.append(given))
    monkeypatch.setattr(unlearning, "of_earlier", lambda job: [])
    monkeypatch.setattr(unlearning, "check_moments", lambda s, job: None)
    with pytest.warns(UserWarning, match="^look out$") as said:
        found = unlearning.unlearn("m", "t", tuple(FACTS), Warns(), anchors=FACTS[:1],
                                   earlier=[first], reader="r", layers=[2], seed=5, chat=True)
    assert found == "edit" and said[0].filename == __file__
    ((s, some),) = made
    assert log == [some] and s == Warns(layers=(2,), seed=5, chat=True)
    assert looked == [([first], "r"), (reader.model, ("m", (2,)))]
    # the weights are looked at before anything is made
    assert reader.log == [("of", "m", "t", "r", True), "check"] and some.reader is reader
    assert some.facts == FACTS and some.layers == ("m", (2,))
    assert some.anchors == FACTS[:1] and some.earlier == [first]
    assert some.probed is None  # nothing is located
    monkeypatch.setattr(unlearning, "layout", Layout)
    with pytest.warns(UserWarning, match=r"already carries an edit \(rome, 1 facts\)") as said:
        unlearning.unlearn("m", "t", FACTS)
    assert said[0].filename == __file__
    monkeypatch.setattr(unlearning, "edits_on", lambda model: {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearning.unlearn("m", "t", FACTS)
    assert made[2][0] == methods.ZeroUnlearn() and not made[2][1].anchors
    assert made[2][1].probed.model is reader.model and made[2][1].aim == "hidden"


def test_what_to_know_beforehand_is_of_targets_for_others_edits_on_and_adapters(
        reader, monkeypatch):
    some, z = job(reader.model, (1, 2, 3)), torch.zeros(3, 2)
    monkeypatch.setattr(unlearning, "of_earlier", lambda job: [f"{len(job.earlier)} earlier"])
    on = {}
    monkeypatch.setattr(unlearning, "edits_on", lambda model: on if model is some.model else None)
    assert unlearning._to_know(methods.Memit(), some) == ["0 earlier"]
    assert unlearning._to_know(methods.Rome(targets=Targets(z, z, z, 2)), some) == ["0 earlier"]
    for some.aim in ("hidden", "value"):
        given = Targets(z, z, z, 3, some.aim)
        first, *rest = unlearning._to_know(methods.Rome(targets=given), some)
        assert first == (
            f"rome edits layer 2 only, and the given targets are {given.described()}: it searches "
            f"for its own (zu.find_targets for that layer with aim='{some.aim}' finds them)")
        assert rest == ["0 earlier"]
    on |= {"t": "rome, 1 facts", "u": "ga, 2 facts", "v": "ft, 3 facts"}
    some.earlier = [SimpleNamespace(ticket="u")]
    anew = ("If a cell ran twice, the first edit can no longer be taken off: load the model afresh")
    for s, way in ((methods.Memit(), ", or name it in earlier="), (Mine(), "")):
        assert unlearning._to_know(s, some) == ["1 earlier", (
            "the model already carries an edit (rome, 1 facts; ft, 3 facts) that is not named in "
            "earlier: this one is made on top of it, and does not spare it; restore it first"
            f"{way}. {anew}")]
    on.clear()
    monkeypatch.setattr(unlearning, "has_adapters", lambda model: model is some.model)
    told, said = unlearning._to_know(methods.Ascent(), some)
    assert told == "1 earlier" and "its own save_pretrained saves only these" in said


class Made:
    """Stands for an edit that says what becomes of it."""

    def __init__(self, model, **about):
        self.model, self.about, self.log, self.changed = model, about, [], ["weight"]
        self.parts, self.settings, self.relative_size = {}, about.get("settings"), None
        self.damage = {}

    def measure(self, moments, energies):
        self.damage = dict(moments)

    def restore(self):
        self.log.append("restore")


@pytest.fixture
def making(reader, monkeypatch):
    prepared = []
    monkeypatch.setattr(unlearning, "Edit", Made)
    monkeypatch.setattr(unlearning, "_prepare", lambda *given: prepared.append(given))
    monkeypatch.setattr(ruin, "before", lambda job: None)
    return SimpleNamespace(reader=reader, prepared=prepared, model=reader.model)


def made_job(reader, layers=(1, 2, 3)):
    return Job(reader, list(FACTS), layers)


@pytest.mark.parametrize("middle, layers, edited", [
    (False, (1, 2, 3), (1, 2, 3)), (True, (1, 2, 3), (2,)), (True, (1, 2), (2,)),
    (True, (4,), (4,)), (True, (1, 2, 3, 4, 5), (3,))])
def test_an_edit_is_of_all_layers_or_the_middle_one_and_says_so(making, middle, layers, edited):
    made = []
    kind = like(Mine, middle=middle, make=lambda self, *given: made.append(given))
    some = made_job(making.reader, layers)
    s = kind(seed=3, layers=layers)
    edit = unlearning._made(s, some)
    assert made == [(some, edit)] and some.layers == edited and not making.prepared
    assert making.reader.log == [("bind", edited[0])]
    assert edit.model is making.model and not edit.log
    assert edit.about == {"method": "mine", "facts": 3, "settings": {
        "layers": list(edited), "seed": 3, "chat": False}}


def test_a_method_with_a_search_is_prepared_for_the_layers_that_it_edits(making):
    kind = like(methods.Rome, make=lambda self, job, edit: None)
    s, some = kind(), made_job(making.reader)
    edit = unlearning._made(s, some)
    assert making.prepared == [(s, some, edit)] and some.layers == (2,)


def test_prose_is_read_before_and_after_an_edit_unless_it_is_not_to_be_checked(
        making, monkeypatch):
    log = []
    monkeypatch.setattr(ruin, "before", lambda job: (log.append(("before", job)), "was")[1])
    monkeypatch.setattr(ruin, "judge", lambda *given: (log.append(("judge", *given)), "now")[1])
    monkeypatch.setattr(ruin, "warn", lambda *given: log.append(("warn", *given)))
    kind, some = like(Mine, make=lambda self, *given: log.append("make")), made_job(making.reader)
    s = kind()
    edit = unlearning._made(s, some)
    assert log == [("before", some), "make", ("judge", s, some, edit, "was"), ("warn", edit, "now")]
    log.clear()
    edit = unlearning._made(kind(check=False), some)
    assert log == ["make", ("warn", edit, None)]


def test_damage_is_measured_with_the_moments_given_or_those_remembered_of_the_model(
        making, monkeypatch):
    reader = making.reader
    reader.fingerprint = lambda: "unedited"
    kind, given = like(Mine, make=lambda self, *given: None), {2: 0.25}

    def measured(s, **more):
        return unlearning._made(s, Job(reader, list(FACTS), (2,), **more)).damage

    reader.moments_of = "unedited"
    assert measured(kind()) == {}
    reader.moments = {1: 0.5}
    assert measured(kind()) == {1: 0.5} and measured(kind(moments=given)) == given
    reader.moments_of = "another"
    assert measured(kind()) == {}
    assert measured(kind(), earlier=[SimpleNamespace()]) == {1: 0.5}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_ends_an_edit_takes_it_off(making, error):
    edits = []

    def make(self, job, edit):
        edits.append(edit)
        raise error("x")

    with pytest.raises(error):
        unlearning._made(like(Mine, make=make)(), made_job(making.reader))
    assert edits[0].log == ["restore"]


def test_an_edit_of_nothing_is_an_error_and_taken_off(making):
    edits = []

    def make(self, job, edit):
        edits.append(edit)
        edit.changed = []

    with pytest.raises(EditError, match="^mine changes nothing: its change is zero, as its sett"):
        unlearning._made(like(Mine, make=make)(), made_job(making.reader))
    assert edits[0].log == ["restore"]


def test_what_to_try_depends_on_whether_the_change_was_lost_in_rounding():
    edit = SimpleNamespace(parts={}, model=Model(), relative_size={"a": 2e-9, "b": 3e-9}.get)
    zero = "its change is zero, as its settings leave it no direction, no target or no force"
    end = "; the model is as it was. Try more of {}, or other facts"
    ga, rome = "steps, lr", "clamp, steps, lr, less of tolerance"
    assert unlearning._in_vain(methods.Ascent(), edit) == (
        f"ga changes nothing: {zero}" + end.format(ga))
    edit.parts = {"a": 0, "b": 0}
    assert unlearning._in_vain(methods.Rome(), edit) == (
        "rome changes nothing: its change, at most 3e-09 of a weight, is lost in rounding to "
        "torch.float32" + end.format(rome))


def test_what_cannot_be_done_is_refused_before_anything_is_computed():
    check, z = unlearning._check, torch.zeros(3, 2)
    kept = SimpleNamespace(keys={1: z, 2: z})
    with pytest.raises(ValueError, match="^facts is empty: give at least one fact to forget$"):
        check(Mine(), job(facts=[]))
    for more, what in ((dict(anchors=FACTS), "anchors"), (dict(earlier=[kept]), "earlier edits")):
        with pytest.raises(ValueError, match=f"^mine takes no {what}$"):
            check(Mine(), job(**more))
        check(methods.Memit(), job(**more))
    check(Mine(), job())
    check(methods.Memit(targets=Targets(z, z, z, 2)), job())
    with pytest.raises(ValueError, match="targets have aim='value', but the edit has 'hidden'"):
        check(methods.Memit(targets=Targets(z, z, z, 2, "value")), job())
    both = Targets(torch.zeros(3, 2, 2), z, z, 2, "value", (1, 2))
    check(methods.Memit(targets=both), job(aim="value"))
    with pytest.raises(ValueError, match=r"values of the layers \[1, 2\], but \[0, 2\] are"):
        check(methods.Memit(targets=both), job(layers=(0, 2), aim="value"))
    # a method of the middle layer may be given what is meant for others, of the same facts
    for targets in (both, Targets(z, z, z, 2), Targets(z, z, z, 2, "value", (2,))):
        check(methods.Rome(targets=targets), job(aim="value"))
        with pytest.raises(ValueError, match="targets are of 3 facts, but 2 are"):
            check(methods.Rome(targets=targets), job(facts=FACTS[:2], aim="value"))
    for targets in (Targets(z, z, z, 1), Targets(z, z, z, 1, "hidden", (1,))):
        with pytest.raises(ValueError, match="targets are of layer 1, but layer 2 is the last"):
            check(methods.Rome(targets=targets), job(aim="value"))
    with pytest.raises(ValueError, match="targets are of layer 1, but layer 2 is the last"):
        check(methods.Memit(targets=Targets(z, z, z, 1)), job())
    with pytest.raises(ValueError, match="targets are of 3 facts, but 2 are"):
        check(methods.Memit(targets=Targets(z, z, z, 2)), job(facts=FACTS[:2]))


@pytest.fixture
def preparing(reader, monkeypatch):
    asked, moments, checked = [], Moments({1: torch.eye(2), 2: torch.eye(2)}, 77), []
    monkeypatch.setattr(unlearning, "_check_finite", checked.append)
    monkeypatch.setattr(unlearning, "optimise", lambda *given: (asked.append(given), "found")[1])
    monkeypatch.setattr(unlearning, "_moments", lambda job: moments if job.facts else None)
    return SimpleNamespace(reader=reader, asked=asked, moments=moments, checked=checked)


def test_a_job_gets_prefixes_targets_and_moments_and_the_edit_says_of_which(preparing):
    some, edit = made_job(preparing.reader, (1, 2, 4)), Kept()
    s = methods.Memit(n_prefixes=4, seed=3, lr=0.1)
    unlearning._prepare(s, some, edit)
    texts = ("", "a", "b")
    assert preparing.reader.log == [("texts", 4, 3)] and some.prefixes == texts
    model = preparing.reader.model
    assert preparing.asked == [(model, "tokenizer", FACTS, 4, s.search(texts))]
    assert some.targets == "found" and some.moments is preparing.moments
    assert preparing.checked == ["found"]
    assert edit.settings == {"aim": "hidden", "n_prefixes": 2, "moment_tokens": 77}
    some.aim = "value"  # as where a model norms it, whatever the settings say
    unlearning._prepare(s, some, edit)
    search = s.search(texts, aim="value")
    assert preparing.asked[1] == (model, "tokenizer", FACTS, (1, 2, 4), search)
    assert search.aim == "value" and edit.settings["aim"] == "value"


def test_given_targets_and_moments_are_taken_where_they_are_of_the_last_layer(preparing):
    z = torch.zeros(3, 2)
    given, moments = Targets(z, z, z, 2), {2: torch.eye(2)}
    s, edit = methods.Memit(targets=given, moments=moments), Kept()
    some = Job(preparing.reader, list(FACTS), (1, 2), anchors=FACTS[:2])
    unlearning._prepare(s, some, edit)
    assert some.targets is given and some.moments is moments and not preparing.asked
    assert edit.settings == {
        "aim": "hidden", "targets": "given", "n_prefixes": 2, "anchors": 2}
    edit = Kept()
    some.layers = (1,)  # those given are of layer 2
    unlearning._prepare(s, some, edit)
    assert some.targets == "found" and "targets" not in edit.settings


@pytest.mark.parametrize("aim, layers, layer, of, serve", [
    ("value", (1, 2), 2, (1, 2), True), ("value", (2,), 2, (2,), True),
    ("value", (2,), 2, (), True),
    ("value", (1, 2), 2, (2,), False), ("value", (2,), 2, (1, 2), False),
    ("value", (2,), 3, (3,), False), ("hidden", (1, 2), 2, (2,), True),
    ("hidden", (2,), 2, (), True),
    ("hidden", (2,), 3, (3,), False), ("hidden", (2,), None, (), True)], ids=str)
def test_given_targets_serve_the_layers_and_the_aim_that_they_are_of(
        aim, layers, layer, of, serve):
    z = torch.zeros(3, 2)
    given = Targets(z, z, z, layer, aim, of)
    for job_aim in ("hidden", "value"):
        assert unlearning._serve(given, layers, job_aim) == (serve and job_aim == aim)


def test_targets_that_do_not_say_their_layer_are_refused_where_it_may_be_another_one():
    z = torch.zeros(3, 2)
    for aim in ("hidden", "value"):
        for more, layers in (({}, (1, 2)), ({"which": "last"}, (1, 2, 3))):
            unlearning._check(methods.Rome(targets=Targets(z, z, z, None, aim), **more),
                              job(layers=layers, aim=aim))
        with pytest.raises(ValueError, match=r"their layer, and rome edits layer 2 of \[1, 2, 3\]"):
            unlearning._check(methods.Rome(targets=Targets(z, z, z, None, aim)),
                              job(layers=(1, 2, 3), aim=aim))


class Normed(Layout):
    """A layout of which one layer's output is normalised."""

    def scale(self, layer):
        return float("nan") if layer == 2 else 1.0


def test_a_model_that_norms_what_a_layer_puts_out_is_aimed_at_by_values(plain, monkeypatch):
    monkeypatch.setattr(unlearning, "layout", Normed)
    for layers, s, aim in (((1, 2), methods.Memit(), "value"), ((1, 3), methods.Memit(), "hidden"),
                           ((1, 3), methods.Memit(aim="value"), "value"),
                           ((1, 3), methods.Rome(), "value")):
        some = job(plain, layers)
        unlearning._probe(s, some)
        assert some.aim == aim and type(some.probed) is Normed
    some = job(plain, (1, 2))
    unlearning._probe(methods.Ascent(), some)  # which aims at nothing, and reads no layer
    assert some.aim == "hidden" and some.probed is None


@pytest.fixture
def reading(reader, monkeypatch):
    asked = []

    def read(model, tokenizer, layers):
        asked.append((model, tokenizer, layers))
        return Moments({layer: f"{layer} of {reader.mark}" for layer in layers}, 99)

    monkeypatch.setattr(unlearning, "read_moments", read)

    def ask(*layers, earlier=()):
        return unlearning._moments(Job(reader, list(FACTS), layers, earlier=earlier))

    return SimpleNamespace(ask=ask, asked=asked, reader=reader)


def test_moments_are_read_once_a_model_and_layer(reading):
    reader = reading.reader
    found = reading.ask(1, 2)
    assert found == {1: "1 of now", 2: "2 of now"} and found.tokens == 99
    assert reader.moments is found and reader.moments_of == "now"
    assert reading.ask(2, 1) is found and len(reading.asked) == 1
    assert reading.ask(2, 3) == {1: "1 of now", 2: "2 of now", 3: "3 of now"}
    assert reading.asked == [(reader.model, "tokenizer", [1, 2]), (reader.model, "tokenizer", [3])]
    reader.mark = "then"
    assert reading.ask(2) == {2: "2 of then"} and reader.moments_of == "then"


def test_moments_under_earlier_edits_are_those_remembered_or_read_with_a_warning(reading):
    found = reading.ask(1)
    reading.reader.mark = "edited"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reading.ask(1, earlier=["edit"]) is found
    with pytest.warns(UserWarning, match="^the moments are read from a model with earlier edits"):
        more = reading.ask(1, 2, earlier=["edit"])
    assert more == {1: "1 of now", 2: "2 of edited"} and reading.reader.moments_of == "edited"
