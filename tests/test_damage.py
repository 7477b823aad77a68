"""What an edit does to ordinary text is known at once, and one that ruins the model is refused."""
import json
import math
import warnings
from types import SimpleNamespace

import pytest
import torch

import zu
from zu import models
from zu.damage import moved
from zu.experiment import Grid, Texts, grids
from zu.methods import DamageWarning, ruin


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    """Everything an edit needs, with small settings."""
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (1, 2, 3), texts)
    return model, tokenizer, facts, dict(layers=(1, 2, 3), moments=C0, steps=5)


def by_hand(W, delta, C0):
    """tr(Δ C_0 Δᵀ) / tr(W C_0 Wᵀ), as it is written."""
    W, delta = W.double(), delta.double()
    return float(torch.trace(delta @ C0 @ delta.T) / torch.trace(W @ C0 @ W.T))


def originals(model):
    return {layer: models.down_proj(model, layer).weight.clone() for layer in (1, 2, 3)}


# ---- the number


def test_damage_is_the_share_of_general_energy_that_moves():
    generator = torch.Generator().manual_seed(0)
    W, left, right, keys = (torch.randn(*shape, generator=generator).double()
                            for shape in ((3, 5), (3, 2), (2, 5), (5, 40)))
    C0 = keys @ keys.T / 40
    expected = by_hand(W, left @ right, C0)
    mean = ((left @ right @ keys) ** 2).sum() / ((W @ keys) ** 2).sum()
    assert expected == pytest.approx(float(mean))
    assert moved(W, (left @ right,), C0) == pytest.approx(expected, rel=1e-5)
    assert moved(W, (left, right), C0) == pytest.approx(expected, rel=1e-5)
    assert moved(W.T, (right.T, left.T), C0, transposed=True) == pytest.approx(expected, rel=1e-5)
    assert moved(W.T, ((left @ right).T,), C0, transposed=True) == pytest.approx(expected, rel=1e-5)
    assert moved(W, (W,), C0) == pytest.approx(1) and moved(W, (0 * W,), C0) == 0


@pytest.mark.parametrize("method", ["memit", "zerounlearn", "exact", "rome", "anchored"])
def test_an_edit_by_a_method_that_reads_moments_says_its_damage_by_layer(job, method):
    model, tokenizer, facts, settings = job
    W, C0 = originals(model), settings["moments"]
    if method == "anchored":
        settings = settings | {"rounds": 2}  # each round sets the weights anew
    edit = zu.unlearn(model, tokenizer, facts, method, **settings, check=False)
    assert list(edit.damage) == ([2] if method == "rome" else [1, 2, 3])
    for layer, share in edit.damage.items():
        delta = models.down_proj(model, layer).weight.double() - W[layer].double()
        assert share == pytest.approx(by_hand(W[layer], delta, C0[layer]), rel=1e-3) and share > 0
    first = next(iter(edit.damage.items()))
    said = f"damage, general energy moved: layer {first[0]} {first[1]:.2%}"
    assert said in edit.summary()


def test_a_method_without_moments_says_damage_where_they_are_at_hand(job):
    model, tokenizer, facts, settings = job
    C0, few = settings["moments"], {"layers": (1, 2, 3), "steps": 5, "check": False}
    W = originals(model)[2]
    with zu.unlearn(model, tokenizer, facts, "ga", **few) as edit:
        assert edit.damage == {} and "not measured" in edit.summary()
        expected = by_hand(W, edit.deltas[models.weight_name(model, 2)], C0[2])
        assert edit.measure(C0) == edit.damage == {2: pytest.approx(expected, rel=1e-3)}
    reader = zu.Reader(model, tokenizer)
    reader.moments, reader.moments_of = C0, models.fingerprint(model)
    for more in ({"moments": C0}, {"reader": reader}):
        with zu.unlearn(model, tokenizer, facts, "ga", **few, **more) as edit:
            assert edit.damage == {2: pytest.approx(expected, rel=1e-3)}
    reader.moments_of = "another model"
    with zu.unlearn(model, tokenizer, facts, "ga", **few, reader=reader) as edit:
        assert edit.damage == {}


def test_damage_is_saved_with_the_edit_and_stands_in_its_card_and_record(job, tmp_path):
    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, "memit", **settings, check=False) as edit:
        edit.save(tmp_path / "e.safetensors")
        about = zu.card(edit, tokenizer, facts, tmp_path / "e.safetensors", ppl_tokens=32)
    assert zu.Edit.load(tmp_path / "e.safetensors", model).damage == edit.damage
    assert about["damage"] == {str(layer): share for layer, share in edit.damage.items()}
    page = (tmp_path / "e.card.md").read_text()
    assert f"layer 1 {edit.damage[1]:.2%}, layer 2 {edit.damage[2]:.2%}" in page
    reader = zu.Reader(model, tokenizer, prefixes=("",))
    grid = Grid(reader, tmp_path / "few_shot", layers=(1, 2, 3), texts=Texts(
        moment_tokens=256, ppl_tokens=32))
    records = grid.run(facts, ["base", "memit:steps=2", "ga:steps=2"], seeds=[1], n=2)
    assert [list(record["damage"]) for record in records] == [[], ["1", "2", "3"], ["2"]]
    assert min(records[1]["damage"].values()) > 0


def test_a_record_says_the_same_damage_whatever_rows_stand_beside_it(job, tmp_path, monkeypatch):
    model, tokenizer, facts, _ = job
    read, real = [], grids.moments

    def noted(*args, **kwargs):
        read.append(args[2])
        return real(*args, **kwargs)

    monkeypatch.setattr(grids, "moments", noted)
    (tmp_path / "text").write_text("The people of Peru speak a language in the country. " * 80)

    def damage(*methods, folder="x", corpus="", reader=None):
        reader = reader or zu.Reader(model, tokenizer, prefixes=("",))
        texts = Texts(corpus=corpus, moment_tokens=512, ppl_tokens=32)
        grid = Grid(reader, tmp_path / folder, (1, 2, 3), texts)
        records = grid.run(facts, methods, seeds=[1], n=2)
        return {record["method"]: record["damage"] for record in records}

    alone, few = damage("base", "ga:steps=2", "ft:steps=2", folder="alone"), "memit:steps=2"
    assert alone == {"base": {}, "ga:steps=2": None, "ft:steps=2": None} and not read
    all_of = damage("ga:steps=2", few, "ft:steps=2", "rome:steps=2")
    assert list(map(list, all_of.values())) == [["2"], ["1", "2", "3"], ["2"], ["2"]]
    beside = damage("rome:steps=2", "ga:steps=2", "ga:steps=2,layers=[1]", folder="beside")
    assert beside["ga:steps=2"] == all_of["ga:steps=2"] and list(beside.values())[2].keys() == {"1"}
    # what its reader remembers is of other text
    reader = zu.Reader(model, tokenizer, prefixes=("",))
    reader.moments = {2: torch.eye(80).double()}
    reader.moments_of = models.fingerprint(model)
    assert damage("ga:steps=2", folder="other", reader=reader) == {"ga:steps=2": None}
    # a text that is named is read for a row alone, with the same number as beside others
    named = damage("ga:steps=2", folder="named", corpus=str(tmp_path / "text"))
    both = damage("ga:steps=2", few, folder="both", corpus=str(tmp_path / "text"))
    assert named["ga:steps=2"] == both["ga:steps=2"] != all_of["ga:steps=2"]


def test_a_record_without_damage_is_made_again_only_where_its_grid_says_damage(
        job, tmp_path, monkeypatch):
    model, tokenizer, facts, _ = job
    made, real = [], grids.unlearn

    def noted(*args, **kwargs):
        made.append(args[3])
        return real(*args, **kwargs)

    monkeypatch.setattr(grids, "unlearn", noted)

    def run(*methods):
        made.clear()
        grid = Grid(zu.Reader(model, tokenizer, prefixes=("",)), tmp_path / "x", (1, 2, 3),
                    Texts(moment_tokens=512, ppl_tokens=32))
        records = grid.run(facts, methods, seeds=[1], n=2)
        return [record["damage"] is not None for record in records], list(made)

    assert run("base", "ga:steps=2") == ([True, False], ["ga"])
    assert run("base", "ga:steps=2") == ([True, False], [])
    assert run("ga:steps=2", "memit:steps=2") == ([True, True], ["ga", "memit"])
    assert run("ga:steps=2", "memit:steps=2") == run("base", "ga:steps=2") == ([True, True], [])


@pytest.mark.parametrize("said", ['{"x": 1}', '[1]', '{"1": []}', "nothing"])
def test_a_damage_that_is_no_number_by_layer_is_a_damaged_file(job, tmp_path, said):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, "memit", **settings, check=False) as edit:
        edit.save(tmp_path / "e")
    with safe_open(tmp_path / "e", framework="pt") as file:
        about = file.metadata()
    save_file(load_file(tmp_path / "e"), tmp_path / "f", metadata=about | {"damage": said})
    with pytest.raises(zu.EditError, match="damaged"):
        zu.Edit.load(tmp_path / "f", model)


# ---- the warning, and the check


@pytest.fixture
def reads(monkeypatch):
    """Has perplexity be what it is told, one number after the other; notes how much was read."""
    told = SimpleNamespace(numbers=[], read=[])

    def perplexity(model, tokenizer, *, tokens, window, stride, reader):
        told.read.append((tokens, window, stride))
        number = told.numbers.pop(0)
        if isinstance(number, Exception):
            raise number
        return number

    monkeypatch.setattr(ruin, "perplexity", perplexity)
    return told


def same(model, before):
    return all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def copied(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_an_edit_that_more_than_doubles_perplexity_is_refused_and_leaves_the_model(job, reads):
    model, tokenizer, facts, settings = job
    before = copied(model)
    reads.numbers = [20.0, 90.0, 18.0, 36.1]
    with pytest.raises(zu.EditError) as caught:
        zu.unlearn(model, tokenizer, facts, "exact", **settings)
    said = str(caught.value)
    assert "goes from 18.0 to 36.1, more than 2 times; damage by layer: layer 1 " in said
    assert "Try fewer facts, more of lam, tolerance, less of share, clamp, steps, lr" in said
    assert "check=False takes the edit" in said and same(model, before)
    assert [tokens for tokens, _, _ in reads.read] == [128, 128, 256, 256]  # the model's context


def test_an_edit_that_does_less_stays_as_it_was_made(job, reads):
    model, tokenizer, facts, settings = job
    with zu.unlearn(model, tokenizer, facts, "memit", **settings, check=False):
        made = copied(model)
    assert not reads.read
    for numbers in ([20.0, 30.0], [20.0, 30.1, 18.0, 36.0]):
        reads.numbers = list(numbers)
        with zu.unlearn(model, tokenizer, facts, "memit", **settings):
            assert same(model, made) and not reads.numbers


def test_a_reader_remembers_the_perplexity_of_the_model_as_it_was(job, reads):
    model, tokenizer, facts, settings = job
    reader = zu.Reader(model, tokenizer)
    reads.numbers = [20.0, 21.0, 22.0]
    for _ in range(2):
        zu.unlearn(model, tokenizer, facts, "memit", **settings, reader=reader).restore()
    assert not reads.numbers


def test_logits_that_an_edit_makes_infinite_are_an_error_and_leave_the_model(job, reads):
    model, tokenizer, facts, settings = job
    before = copied(model)
    reads.numbers = [20.0, ValueError("the logits of model 'x' are NaN or infinite")]
    with pytest.raises(zu.EditError, match="ruins the model: with it, the logits .* are NaN"):
        zu.unlearn(model, tokenizer, facts, "memit", **settings)
    assert same(model, before)
    reads.numbers = [20.0, math.inf, 20.0, math.inf]
    with pytest.raises(zu.EditError, match="from 20.0 to inf"):
        zu.unlearn(model, tokenizer, facts, "memit", **settings)
    assert same(model, before)


def test_a_model_that_reads_prose_as_noise_is_edited_with_a_word(job, reads):
    model, tokenizer, facts, settings = job
    reads.numbers = [100.0]  # of a vocabulary of 400
    with pytest.warns(UserWarning, match="is 100 even before the edit, with a vocabulary of 400"
                                         ".*cannot show.*check=False") as said:
        zu.unlearn(model, tokenizer, facts, "memit", **settings).restore()
    assert said[0].filename == __file__
    reads.numbers = [99.9, 99.9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zu.unlearn(model, tokenizer, facts, "memit", **settings).restore()


def test_edits_that_ruin_a_model_together_are_said_to_though_none_does_alone(job, reads):
    model, tokenizer, facts, settings = job
    edits = []
    for fact, numbers in ((facts[0], [10.0, 14.0]), (facts[1], [14.0, 19.0])):
        reads.numbers = numbers
        with warnings.catch_warnings():
            warnings.simplefilter("error", DamageWarning)
            edits.append(zu.unlearn(model, tokenizer, [fact], "memit", **settings, earlier=edits))
    reads.numbers = [19.0, 21.0]
    with pytest.warns(DamageWarning, match="3 edits .* is 21.0, .* the 10.0 before the first"):
        edits.append(zu.unlearn(model, tokenizer, [facts[2]], "memit", **settings, earlier=edits))
    for edit in reversed(edits):
        edit.restore()
    reads.numbers = [21.0, 22.0]  # of the model without any: what was noted is of before
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamageWarning)
        zu.unlearn(model, tokenizer, facts, "memit", **settings).restore()


def test_an_edit_that_moves_more_than_the_layer_puts_out_warns_whether_it_is_checked_or_not(
        job, reads, monkeypatch):
    model, tokenizer, facts, settings = job
    monkeypatch.setattr(ruin, "DOUBLES", 0.0)
    for check, numbers in ((False, []), (True, [20.0, 21.0])):
        reads.numbers = numbers
        with pytest.warns(DamageWarning, match="perplexity doubles in most runs") as said:
            edit = zu.unlearn(model, tokenizer, facts, "memit", **settings, check=check)
        assert max(edit.damage.values()) > 0 and said[0].filename == __file__
        edit.restore()


def test_a_grid_measures_ruined_models_too_and_says_nothing_aloud(
        job, reads, tmp_path, monkeypatch):
    model, tokenizer, facts, _ = job
    grid = Grid(zu.Reader(model, tokenizer, prefixes=("",)), tmp_path / "few_shot",
                layers=(1, 2, 3), texts=Texts(moment_tokens=256, ppl_tokens=32))
    monkeypatch.setattr(ruin, "DOUBLES", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DamageWarning)
        (record,) = grid.run(facts, ["memit:steps=2"], seeds=[1], n=5)
    assert max(record["damage"].values()) > 0 and not reads.read


def test_what_is_known_of_damage_holds_in_the_kept_runs():
    from pathlib import Path

    kept = json.loads((Path(__file__).parents[1] / "results" / "damage.json").read_text())
    base, doubled = kept["base"], {True: [], False: []}
    for edit in kept["edits"]:
        past = max(edit["damage"].values()) > ruin.DOUBLES
        doubled[past].append(edit["ppl"] > ruin.WORST * base)
    assert len(doubled[True]) >= 5 and sum(doubled[True]) > 0.8 * len(doubled[True])
    assert len(doubled[False]) >= 40 and sum(doubled[False]) < 0.1 * len(doubled[False])


@pytest.mark.whole
def test_lemma_5_1_at_500_facts_does_not_return_quietly():
    model, tokenizer = zu.load_model("smollm2")
    facts = zu.load_facts("world-cloze").sample(500, seed=1)
    before = models.fingerprint(model)
    with pytest.raises(zu.EditError, match="ruins the model: perplexity .* more than 2 times"):
        zu.unlearn(model, tokenizer, facts, "exact", lam=0.1, n_prefixes=0)
    assert models.fingerprint(model) == before
