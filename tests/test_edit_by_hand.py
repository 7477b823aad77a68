"""Edits of a model of two small matrices: every number of theirs can be checked by hand."""
import json
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from zu import Edit, EditError
from zu.edit import _cut, _place

ROUNDING = 2.0**-24


class Two(nn.Module):
    """A (4, 6) and a (3, 3) matrix; the second has a slash in its name."""

    name = "two"

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Linear(6, 4, bias=False)
        self.add_module("b/c", nn.Linear(3, 3, bias=False))
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator).to(dtype)

    @property
    def dtype(self):
        return self.a.weight.dtype

    @property
    def device(self):
        return self.a.weight.device


A, B = "a.weight", "b/c.weight"


@pytest.fixture
def model():
    return Two()


def matrix(*singular, d=4, m=6):
    """A (d, m) matrix with these singular values, float64."""
    generator = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64)).Q
    n = len(singular)
    return left[:, :n] @ torch.diag(torch.tensor(singular, dtype=torch.float64)) @ right[:, :n].T


def changed(model, delta, name=A, **about):
    """An edit that adds delta to a weight."""
    edit = Edit(model, **about)
    edit.set(name, model.get_parameter(name).double() + delta)
    return edit


# ---- on and off


def test_a_new_edit_is_of_nothing_and_off(model):
    edit = Edit(model)
    assert (edit.method, edit.settings, edit.facts) == ("", {}, 0)
    assert edit.parts == edit.keys == edit.deltas == {}
    assert not edit.applied and edit.changed == [] and edit.nbytes == 0


def test_settings_are_copied(model):
    settings = {"lam": 1.0}
    edit = Edit(model, settings=settings)
    settings["lam"] = 2.0
    assert edit.settings == {"lam": 1.0}


def test_setting_a_weight_twice_counts_from_the_first_value(model):
    before = model.a.weight.detach().clone()
    edit = changed(model, matrix(1.0))
    edit.set(A, before.double() + matrix(0.5))
    assert torch.allclose(edit.deltas[A].double(), matrix(0.5), atol=1e-6)
    assert torch.equal(model.a.weight, before + edit.deltas[A])
    edit.restore()
    assert torch.equal(model.a.weight, before)


def test_applying_twice_adds_the_change_once(model):
    edit = changed(model, matrix(1.0))
    on = model.a.weight.detach().clone()
    assert edit.apply() is edit and torch.equal(model.a.weight, on) and edit.applied
    edit.restore()
    assert not edit.applied and not edit.changed
    assert edit.apply() is edit and torch.equal(model.a.weight, on) and edit.changed == [A]


def test_a_change_below_the_weights_precision_changes_nothing():
    model = Two(torch.bfloat16)
    edit = Edit(model, facts=1)
    edit.set(A, model.a.weight.double() * (1 + 1e-6))
    edit.set(B, model.get_parameter(B).double() + matrix(1.0, d=3, m=3))
    assert edit.changed == [B]


def test_a_later_change_must_come_off_first(model):
    first = changed(model, matrix(1.0))
    second = changed(model, matrix(0.0, 2.0))
    with pytest.raises(EditError, match=f"^{A} was changed after this edit"):
        first.restore()
    assert first.applied
    second.restore()
    first.restore()
    first.restore()  # of what is off nothing is asked


@pytest.fixture
def single():
    """A weight with one entry that is not zero: 4, at row 1 and column 2."""
    model = Two()
    with torch.no_grad():
        model.a.weight.zero_()[1, 2] = 4.0
    return model


def test_a_change_may_be_a_hundred_times_as_large_as_its_weight(single):
    edit, before = Edit(single), single.a.weight.detach().clone()
    edit.set(A, before.double() * 101)
    assert edit.applied and torch.equal(single.a.weight, before * 101)


def test_a_change_that_is_larger_still_is_refused_and_leaves_the_weight(single):
    edit, before = Edit(single), single.a.weight.detach().clone()
    with pytest.raises(EditError, match="^a.weight: .* norm of 402 against 4 of the weight"):
        edit.set(A, before.double() * 101.5)
    assert not edit.parts and not edit.applied and torch.equal(single.a.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_change_that_is_not_finite_is_refused(model, value):
    edit, before = Edit(model), model.a.weight.detach().clone()
    new = before.double()
    new[0, 0] = value
    with pytest.raises(EditError, match="^a.weight: the edit has NaN"):
        edit.set(A, new)
    assert not edit.parts and torch.equal(model.a.weight, before)


def test_a_weight_of_another_shape_or_name_is_refused(model):
    with pytest.raises(EditError, match=r"^a.weight: new weight \(6, 4\), expected \(4, 6\)$"):
        Edit(model).set(A, torch.zeros(6, 4).double())
    with pytest.raises(EditError, match="^the model has no parameter 'z'$"):
        Edit(model).set("z", torch.zeros(6, 4).double())


# ---- what is stored


def kinds(edit, name=A):
    return [tuple(x.shape) for x in edit.parts[name]]


@pytest.mark.parametrize("singular, facts, shapes", [
    ((1.0,), 1, [(4, 1), (1, 6)]),
    ((1.0, 0.5), 1, [(4, 2), (2, 6)]),
    ((1.0, 0.5), 5, [(4, 2), (2, 6)]),  # looked for up to where factors are no smaller
    ((1.0, 0.5, 0.2), 1, [(4, 6)]),
    ((1.0, 0.5, 0.2), 5, [(4, 6)]),
    ((1.0,), 0, [(4, 6)]),
    # what is left out of the whole: a little more than its part, and two roundings at most
    ((1.0, 0.5, 1.6 * ROUNDING), 1, [(4, 2), (2, 6)]),
    ((1.0, 0.5, 2.2 * ROUNDING), 1, [(4, 6)]),
    ((1.0, 0.6 * ROUNDING), 1, [(4, 1), (1, 6)]),
    ((1.0, 0.8 * ROUNDING), 1, [(4, 2), (2, 6)]),
    ((8.0, 8 * 0.6 * ROUNDING), 1, [(4, 1), (1, 6)]),
    ((8.0, 8 * 0.8 * ROUNDING), 1, [(4, 2), (2, 6)]),
])
def test_a_change_is_stored_in_factors_where_its_rank_is_twice_the_facts_at_most(
        model, singular, facts, shapes):
    with torch.no_grad():
        model.a.weight.zero_()[0, 0] = 1.0  # so that W + Δ − W is Δ to the last digits
    delta = matrix(*singular)
    edit = changed(model, delta, facts=facts)
    assert kinds(edit) == shapes
    assert all(x.dtype == torch.float32 for x in edit.parts[A])
    assert (edit.deltas[A].double() - delta).norm() <= 4 * ROUNDING * delta.norm()
    assert edit.nbytes == 4 * sum(d * m for d, m in shapes)


@pytest.mark.parametrize("rank, whole", [(2, False), (3, True)])
def test_two_ranks_a_fact_are_looked_for_where_more_would_still_be_smaller(rank, whole):
    wide = nn.Module()
    wide.a = nn.Linear(12, 12, bias=False)
    with torch.no_grad():
        wide.a.weight.zero_()[0, 0] = 1.0
    edit = changed(wide, matrix(*[1.0] * rank, d=12, m=12), facts=1)
    assert kinds(edit) == ([(12, 12)] if whole else [(12, 2), (2, 12)])


def test_the_same_change_is_stored_alike_bit_for_bit_whatever_was_drawn_before():
    delta, stored = matrix(2.0, 0.5), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        stored.append(changed(Two(), delta, facts=1).parts[A])
    assert all(map(torch.equal, *stored))


def test_the_halves_of_a_change_are_of_one_size(model):
    with torch.no_grad():
        model.a.weight.zero_()[0, 0] = 1.0
    left, right = changed(model, matrix(4.0, 0.25), facts=1).parts[A]
    assert left.norm(dim=0).tolist() == pytest.approx([2.0, 0.5], rel=1e-6)
    assert right.norm(dim=1).tolist() == pytest.approx([2.0, 0.5], rel=1e-6)


def test_the_size_of_a_change_is_its_share_of_the_weight_whether_on_or_off(model):
    weight = model.a.weight.detach().clone()
    edit = changed(model, matrix(3.0))
    expected = 3 / float(weight.norm())
    assert edit.relative_size(A) == pytest.approx(expected, rel=1e-5)
    edit.restore()
    assert edit.relative_size(A) == pytest.approx(expected, rel=1e-5)


def test_an_edit_says_in_a_line_and_in_words_what_it_is(model):
    with torch.no_grad():
        model.a.weight.zero_()[0, 0] = 2.0
        model.get_parameter(B).zero_()[0, 0] = 1.0
    edit = changed(model, matrix(0.5), method="memit", settings={"lam": 0.5, "alpha": 2}, facts=1)
    edit.set(B, model.get_parameter(B).double() + matrix(1.0, 0.5, 0.1, d=3, m=3))
    assert repr(edit) == "Edit('memit', 1 facts, 2 weights, 0.1 kB, on)"
    with_words = [
        "memit, 1 facts, on",
        "  settings: lam=0.5, alpha=2",
        "  a.weight: 4 x 6, rank 1, 25.00% of the weight, 0.0 kB",
        "  b/c.weight: 3 x 3, full, 112.25% of the weight, 0.0 kB",
        "  damage, general energy moved: not measured (edit.measure(zu.moments(...)) does)",
    ]
    assert edit.summary().split("\n") == with_words
    edit.restore()
    edit.keys = {3: torch.zeros(100, 6), 4: torch.zeros(25, 6)}
    assert repr(edit).endswith("0.1 kB, off)")
    assert edit.summary().split("\n")[0] == "memit, 1 facts, off"
    assert edit.summary().split("\n")[-1] == "  keys for later edits: 3.0 kB"


@pytest.mark.parametrize("numbers, said", [
    (249_999, "1000.0 kB"), (250_000, "1.0 MB"), (262_500, "1.1 MB")])
def test_bytes_are_in_megabytes_from_a_million_on(model, numbers, said):
    edit = Edit(model)
    edit.parts["a"] = (torch.zeros(1, numbers),)
    assert f", {said}, " in repr(edit)


# ---- files


def saved(edit, path):
    """What a file of an edit says about itself, and its tensors."""
    edit.save(path)
    with safe_open(path, framework="pt") as file:
        return file.metadata(), load_file(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_says_what_its_edit_is_and_which_weights_it_was_made_for(dtype, tmp_path):
    model = Two(dtype)
    weight = model.a.weight.detach().double()
    places = 1 + torch.arange(24, dtype=torch.float64) * 0.6180339887498949 % 1
    placed = weight.flatten() @ places
    edit = changed(model, matrix(1.0), method="rome", settings={"lam": 1}, facts=1)
    edit.keys[7] = torch.arange(12.0).reshape(6, 2).T  # not contiguous
    about, tensors = saved(edit, tmp_path / "new" / "edit.safetensors")
    mark = f"{weight.sum():.9e} {weight.norm():.9e} {placed:.9e}"
    assert json.loads(about.pop("before")) == {A: mark}
    assert json.loads(about.pop("settings")) == {"lam": 1}
    content = about.pop("content")
    edit.parts[A] = tuple(2 * part for part in edit.parts[A])
    assert content and saved(edit, tmp_path / "other.safetensors")[0]["content"] != content
    edit.parts[A] = tuple(part / 2 for part in edit.parts[A])
    assert saved(edit, tmp_path / "again.safetensors")[0]["content"] == content
    assert about == {"format": "zu-edit-3", "method": "rome", "facts": "1", "model": "two",
                     "dtype": str(dtype), "damage": "{}"}
    assert set(tensors) == {"keys/7", f"left/{A}", f"right/{A}"}
    assert torch.equal(tensors["keys/7"], edit.keys[7])


def test_a_model_without_a_name_has_none_in_the_file(model, tmp_path):
    bare = nn.Module()
    bare.a, bare.dtype = model.a, torch.float32
    about, _ = saved(changed(bare, matrix(1.0)), tmp_path / "e")
    assert about["model"] == ""


def test_a_loaded_edit_is_the_saved_one_and_off(model, tmp_path):
    edit = changed(model, matrix(1.0), method="rome", settings={"lam": 1}, facts=1)
    edit.set(B, model.get_parameter(B).double() + matrix(1.0, 0.5, 0.1, d=3, m=3))
    edit.keys[12] = torch.ones(2, 6)
    edit.save(tmp_path / "e")
    there = Two()
    loaded = Edit.load(tmp_path / "e", there)
    assert (loaded.method, loaded.settings, loaded.facts) == ("rome", {"lam": 1}, 1)
    assert not loaded.applied and torch.equal(there.a.weight, Two().a.weight)
    assert torch.equal(loaded.keys[12], torch.ones(2, 6)) and list(loaded.keys) == [12]
    assert kinds(loaded) == kinds(edit) and kinds(loaded, B) == [(3, 3)]
    for name in (A, B):
        assert torch.equal(loaded.deltas[name], edit.deltas[name])
    loaded.apply()
    assert torch.equal(there.a.weight, model.a.weight)
    again, before = saved(loaded, tmp_path / "again"), saved(edit, tmp_path / "e")
    assert again[0] == before[0] and again[1].keys() == before[1].keys()


MADE_FOR = "it was made for the model 'two'; load that one afresh, unedited"


def test_an_edit_is_refused_for_other_weights_and_says_for_which_it_was_made(model, tmp_path):
    changed(model, matrix(1.0), facts=1).save(tmp_path / "e")
    edited, renamed = Two(), nn.Module()
    with torch.no_grad():
        edited.a.weight[0, 0] += 1e-3
    renamed.dtype = torch.float32
    for other, said in ((edited, f"{A} of this model is not what the edit was made for"),
                        (renamed, f"the model has no parameter '{A}'")):
        with pytest.raises(EditError) as caught:
            Edit.load(tmp_path / "e", other)
        assert str(caught.value) == f"{tmp_path / 'e'}: {said}; {MADE_FOR}"
    with pytest.raises(EditError) as caught:
        Edit.load(tmp_path / "e", Two(torch.bfloat16))
    assert str(caught.value).endswith(
        f"; {MADE_FOR}, and with dtype=torch.float32, not torch.bfloat16")


def test_weights_that_differ_in_their_sum_norm_or_order_alone_are_told_apart(model, tmp_path):
    changed(model, matrix(1.0), facts=1).save(tmp_path / "e")
    negative, wider, turned = Two(), Two(), Two()
    with torch.no_grad():
        turned.a.weight.copy_(turned.a.weight.flip(0))
        negative.a.weight.neg_()
        mean = wider.a.weight.mean()
        wider.a.weight.sub_(mean).mul_(2).add_(mean)
    for other in (negative, wider, turned):
        with pytest.raises(EditError, match="is not what the edit was made for"):
            Edit.load(tmp_path / "e", other)


ABOUT = {"format": "zu-edit-3", "method": "m", "settings": "{}", "facts": "1", "before": "{}"}
LEFT, RIGHT = f"left/{A}", f"right/{A}"


@pytest.mark.parametrize("tensors", [
    {LEFT: torch.zeros(4, 0)},
    {f"delta/{A}": torch.zeros(6, 4)},
    {f"delta/{A}": torch.zeros(4, 6).double()},
    {f"delta/{A}": torch.zeros(4, 6, 1)},
    {f"delta/{A}": torch.zeros(4, 6) / 0},
    {LEFT: torch.zeros(4, 2), RIGHT: torch.zeros(3, 6)},
    {LEFT: torch.zeros(4, 2), RIGHT: torch.zeros(2, 5)},
    {LEFT: torch.zeros(3, 2), RIGHT: torch.zeros(2, 6)},
    {LEFT: torch.zeros(4, 2), RIGHT: torch.zeros(2, 6).bfloat16()},
    {LEFT: torch.full((4, 1), 1e30), RIGHT: torch.full((1, 6), 1e30)},  # finite, their product not
    {f"delta/{A}": torch.zeros(4, 6), LEFT: torch.zeros(4, 2), RIGHT: torch.zeros(2, 6)},
    {f"other/{A}": torch.zeros(4, 6)},
])
def test_only_a_finite_float32_change_of_the_weights_shape_is_taken(model, tensors, tmp_path):
    weight = model.a.weight.detach().double()
    marks = json.dumps({A: f"{weight.sum():.9e} {weight.norm():.9e}"})
    save_file(tensors, tmp_path / "e", metadata=ABOUT | {"model": "two", "before": marks})
    with pytest.raises(EditError) as caught:
        Edit.load(tmp_path / "e", model)
    assert str(caught.value) == (
        f"{tmp_path / 'e'}: {A} is not a finite float32 change of a weight (4, 6), whole or in "
        f"two factors; {MADE_FOR}")


@pytest.mark.parametrize("about, said", [
    (None, "not an edit written by this zu (format None, not 'zu-edit-3')"),
    ({"format": "zu-edit-1"},
     "not an edit written by this zu (format 'zu-edit-1', not 'zu-edit-3')"),
    ({"format": "zu-edit-3"}, "what it says about itself is damaged (KeyError('method')); make the "
                              "edit again"),
])
def test_a_file_that_is_no_edit_is_said_to_be_none(model, about, said, tmp_path):
    save_file({f"delta/{A}": torch.zeros(4, 6)}, tmp_path / "e", metadata=about)
    with pytest.raises(EditError) as caught:
        Edit.load(tmp_path / "e", model)
    assert str(caught.value) == f"{tmp_path / 'e'}: {said}"


@pytest.mark.parametrize("change", [
    {"facts": "many"}, {"settings": "{"}, {"before": "3"}, {"settings": None}])
def test_a_file_that_is_damaged_in_what_it_says_is_refused(model, change, tmp_path):
    about = {name: text for name, text in (ABOUT | change).items() if text is not None}
    save_file({f"delta/{A}": torch.zeros(4, 6)}, tmp_path / "e", metadata=about)
    with pytest.raises(EditError, match="what it says about itself is damaged"):
        Edit.load(tmp_path / "e", model)


def test_keys_of_a_layer_that_is_no_number_are_damage(model, tmp_path):
    save_file({"keys/x": torch.zeros(1, 6)}, tmp_path / "e", metadata=ABOUT)
    with pytest.raises(EditError, match="damaged"):
        Edit.load(tmp_path / "e", model)


def test_what_is_no_safetensors_is_refused(model, tmp_path):
    (tmp_path / "e").write_text("no")
    for path in (tmp_path / "e", tmp_path / "nowhere"):
        with pytest.raises(EditError, match="not readable as safetensors"):
            Edit.load(path, model)


@pytest.mark.parametrize("change", [{}, {A: "0.0 0.0"}])
def test_a_file_of_the_format_before_is_told_by_its_own_mark(model, change, tmp_path):
    weight = model.a.weight.detach().double()
    before = {A: f"{weight.sum():.9e} {weight.norm():.9e}"} | change
    about = ABOUT | {"format": "zu-edit-2", "model": "two", "before": json.dumps(before)}
    save_file({f"delta/{A}": matrix(1.0).float()}, tmp_path / "e", metadata=about)
    with pytest.raises(EditError, match="is not what") if change else nullcontext():
        loaded = Edit.load(tmp_path / "e", model)
        assert torch.equal(loaded.deltas[A], matrix(1.0).float())


def test_an_edit_of_nothing_is_saved_and_loaded(model, tmp_path):
    about, tensors = saved(Edit(model, method="m"), tmp_path / "e")
    assert (about["dtype"], about["before"], tensors) == ("", "{}", {})
    loaded = Edit.load(tmp_path / "e", model)
    assert loaded.method == "m" and loaded.parts == loaded.keys == {}


def test_a_file_holds_an_edit_bit_for_bit_or_it_is_another_or_damaged(model, tmp_path):
    edit, path = changed(model, matrix(1.0), facts=1), tmp_path / "e"
    about, tensors = saved(edit, path)
    assert edit.is_in(path) and not changed(Two(), matrix(1.0, 0.5), facts=1).is_in(path)
    with pytest.raises(EditError) as caught:
        Edit.load(path, model)
    assert str(caught.value).endswith(
        "it was made for the model 'two'; if this is that model, restore() the edit that is on it "
        "first")
    tensors[f"left/{A}"][0, 0] += 1e-6
    save_file(tensors, path, metadata=about)
    for use in (edit.is_in, lambda path: Edit.load(path, Two())):
        with pytest.raises(EditError, match="the file is damaged, its numbers"):
            use(path)


# ---- what becomes of the model meanwhile


@pytest.mark.parametrize("casts", [
    [torch.bfloat16], [torch.float16], [torch.bfloat16, torch.float32],
    [torch.float16, torch.float32]], ids=str)
def test_a_weight_that_was_cast_is_what_it_was_cast_in_the_same_way_and_it_is_said(model, casts):
    expected = model.a.weight.detach().clone()
    edit = changed(model, matrix(1.0))
    for dtype in casts:
        model.to(dtype)
        expected = expected.to(dtype)
    way = " to ".join(map(str, casts))
    with pytest.warns(UserWarning, match=f"^the model was cast to {way} while the edit was on: "):
        edit.restore()
    assert torch.equal(model.a.weight, expected) and not edit.applied


def test_a_weight_that_was_loaded_anew_is_left_and_the_edit_goes_on_again(model):
    before = model.a.weight.detach().clone()
    edit = changed(model, matrix(1.0))
    on = model.a.weight.detach().clone()
    model.a.weight.data.copy_(before)
    assert torch.equal(edit.apply().model.a.weight, on)
    model.a.weight.data.copy_(before)
    edit.restore()
    assert not edit.applied and torch.equal(model.a.weight, before)
    edit.apply()
    model.a.weight.data = before[:3].clone()
    with pytest.raises(EditError, match=f"^{A} was changed after this edit was applied"):
        edit.restore()


def test_what_went_wrong_in_a_block_is_told_with_the_edit_that_could_not_come_off(model):
    edit = changed(model, matrix(1.0))
    edit.restore()
    with pytest.raises(KeyError, match="inside") as caught, edit:
        model.a.weight.data.add_(1)
        raise KeyError("inside")
    (note,) = caught.value.__notes__
    assert note.startswith(f"the edit is still on the model: {A} was changed after this edit")
    with pytest.raises(EditError, match="was changed after this edit"), edit:
        pass


# ---- damage


def layered(*parts):
    model = nn.Module()
    model.layers, model.top = nn.ModuleList(parts), nn.Linear(6, 4, bias=False)
    model.dtype = torch.float32
    return model


def test_damage_is_the_share_of_general_energy_that_moves_in_the_layers_whose_moments_are_given(
        tmp_path):
    half = torch.randn(6, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    C0, delta = half @ half.T, matrix(1.0, 0.5)
    for turned in (False, True):  # as GPT-2 stores its weights
        made = [Conv1D(4, 6) if turned else nn.Linear(6, 4, bias=False) for _ in range(3)]
        model, change = layered(*made), delta.T if turned else delta
        weights = {f"layers.{i}.weight": part.weight for i, part in enumerate(made)}
        W = made[1].weight.detach().double()
        W = W.T if turned else W
        edit = Edit(model, facts=1)
        for name in ("layers.1.weight", "layers.2.weight"):
            edit.set(name, weights[name].double() + change)
        edit.set("top.weight", model.top.weight.double() + delta)
        expected = torch.trace(delta @ C0 @ delta.T) / torch.trace(W @ C0 @ W.T)
        moments = {0: C0, 1: C0, 2: torch.eye(5)}
        for _ in range(2):  # on, and off
            found = edit.measure(moments)
            assert found == {1: pytest.approx(float(expected), rel=1e-4)} and found is edit.damage
            edit.restore()
        edit.save(tmp_path / "e")
        assert Edit.load(tmp_path / "e", model).damage == edit.damage
        edit.set("layers.1.weight", weights["layers.1.weight"].double() + 2 * change)
        assert edit.damage == {}  # it was of the change before


# ---- as an adapter


def test_a_change_is_cut_to_a_rank_by_its_largest_parts():
    whole = (matrix(4.0, 2.0, 1.0).float(),)
    left, right, lost = _cut("a", whole, 2)
    assert left.dtype == right.dtype == torch.float32 and lost == pytest.approx(21 ** -0.5)
    torch.testing.assert_close(left @ right, matrix(4.0, 2.0).float())
    assert left.norm(dim=0).tolist() == pytest.approx([2, 2 ** 0.5])
    assert right.norm(dim=1).tolist() == pytest.approx([2, 2 ** 0.5])
    left, right, lost = _cut("a", whole, 9)
    assert left.shape == (4, 3) and lost < 1e-6
    with pytest.raises(EditError, match="^a is changed at rank 3 of 4: as an adapter"):
        _cut("a", whole, None)
    left, right, lost = _cut("a", (matrix(4.0, 2.0).float(),), None)
    assert (left.shape, right.shape) == ((4, 2), (2, 6)) and lost < 1e-6
    for rank in (None, 2, 3):  # of factors that fit nothing is made anew
        assert _cut("a", (left, right), rank) == (left, right, 0.0)
    assert _cut("a", (left, right), 1)[2] == pytest.approx(5 ** -0.5)


@pytest.mark.parametrize("small, rank", [(0.6, 2), (0.4, 1), (0.0, 1)])
def test_a_part_below_rounding_is_none(small, rank):
    delta = torch.zeros(4, 6)
    delta[0, 0], delta[1, 1] = 1.0, small * ROUNDING
    assert _cut("a", (delta,), None)[0].shape == (4, rank)
    left, right, lost = _cut("a", (0 * delta,), None)
    assert (left.shape, right.shape, lost) == ((4, 0), (0, 6), 0.0)


def test_an_adapter_of_nothing_or_of_no_whole_rank_is_refused(model, tmp_path):
    edit = changed(model, matrix(1.0), facts=1)
    for rank in (0, -1, 1.5, "2"):
        with pytest.raises(EditError, match=f"^rank is {rank}: give a whole number, 1 or more$"):
            edit.save_pretrained(tmp_path / "adapter", rank=rank)
    with pytest.raises(EditError, match="^the edit changes nothing: there is no adapter to write$"):
        changed(model, matrix(0.0)).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_adapters_readme_has_its_code_the_edits_words_and_what_is_left_out(model):
    edit = changed(model, matrix(1.0), method="memit", settings={"lam": 1}, facts=1)
    text = edit._readme({A: 0.125, B: ROUNDING})
    front, code, rest = text.split("```")
    assert front.endswith("whatever had been merged into it.\n\n") and "- memit\n" in front
    assert code == ("python\nfrom peft import PeftModel\n\n"
                    "model = PeftModel.from_pretrained(model, folder)\n")
    said = [f"- {line.strip()}" for line in edit.summary().split("\n")[1:]]
    assert rest.splitlines()[-4:] == [*said, f"- {A}: 12.50% of the change is left out here"]


def test_a_place_in_a_file_has_the_plain_name_of_its_weight():
    assert _place("keys/7") == "keys/7"
    for front in ("_orig_mod.", "module.", "base_model.model."):
        assert _place(f"left/{front}{A}") == f"left/{A}"
