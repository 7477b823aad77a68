"""Every test of erasure finds what is there, misses what is not, and leaves the model as it was."""
import json
from dataclasses import replace

import pytest
import torch

import zu
from zu import models
from zu.audit import erasure
from zu.audit.cards import card
from zu.audit.erasure import (
    TESTS,
    Audit,
    Relearning,
    last_states,
    lens,
    probe,
    quantised,
    relearning,
    robustness,
)
from zu.descent import Objective, Schedule, answer_rows, descend
from zu.wording import split_answer


def weights_of(model):
    return {name: w.clone() for name, w in model.named_parameters()}


def same(model, before):
    return all(torch.equal(w, before[name]) for name, w in model.named_parameters())


@pytest.fixture
def said(tiny, facts):
    """A model that has been taught some facts, and these."""
    model, tokenizer = tiny
    words = ["Paris", "Tokyo", "Lima", "Peru", "Japan"]
    known = [replace(f, target=word, paraphrases=(f.prompt,), neighbors=(), relation="r",
                     id=f.subject)
             for f, word in zip(facts, words, strict=True)]
    rows = answer_rows(tokenizer, known, "truth")
    with zu.Edit(model, method="taught") as edit:
        new, _ = descend(model, Objective(rows, [-1 / len(rows)] * len(rows)), [2, 3, 4],
                         Schedule(40, 0.02))
        for layer, weight in new.items():
            edit.set(models.weight_name(model, layer), weight.double())
        assert zu.evaluate(model, tokenizer, known).eff == 100
        yield model, tokenizer, known


def test_every_test_is_asked_and_leaves_the_model_bit_for_bit(said):
    model, tokenizer, known = said
    before = weights_of(model)
    names = [models.weight_name(model, 2)]
    found = robustness(model, tokenizer, known[:3], known[3:], weights=names,
                       forms={"questions": known}, relearn=Relearning([2, 3], steps=[2]))
    assert list(found) == list(TESTS) and all(len(x) == 3 for x in found.values())
    taught = Relearning([2, 3], steps=[1, 2])
    more = robustness(model, tokenizer, known[:3], known[3:], weights=names, relearn=taught)
    assert list(more) == list(TESTS)
    assert set(more.curves) == {"lens by layer", "probe by layer", "relearn by step",
                                "relearn others by step"}
    assert sum(more.curves["relearn by step"]) / 2 == pytest.approx(sum(more["relearn"]) / 3)
    assert len(more.curves["lens by layer"]) == len(more.curves["probe by layer"]) == 5
    assert found["reverse"] == [None] * 3
    assert found["questions"] == found["phrasings"] == found["asked"]
    values = [v for name, x in found.items() if name != "reverse" for v in x]
    assert values and set(values) <= {0.0, 1.0}
    assert same(model, before)
    audit = Audit(zu.Reader(model, tokenizer, 2), known[:3], known[3:])
    for _ in range(2):  # read, then remembered
        again = audit.run(names, taught)
        assert again == more and again.curves == more.curves
    assert audit.reader.seen and same(model, before)


def test_facts_of_the_same_relations_are_asked_for_where_there_are_none(said):
    model, tokenizer, known = said
    for others in ((), ["Peru"]):
        with pytest.raises(ValueError, match="others: give facts .* of the same relations"):
            robustness(model, tokenizer, known[:3], others)


def test_the_lens_at_the_last_layer_is_the_models_own_answer(said):
    model, tokenizer, known = said
    ranks = lens(model, last_states(zu.Reader(model, tokenizer), [*known[:2], *known]), len(known))
    for i, f in enumerate(known):
        ids = tokenizer(f.text + " " + f.target)["input_ids"]
        n = split_answer(tokenizer, f.text, f.target)[1]
        z = model(torch.tensor([ids[:-n]])).logits[0, -1]
        assert ranks[-1, i] == int((z > z[ids[-n]]).sum())
    assert ranks.shape == (5, len(known))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_probe_reads_what_is_linearly_there_and_nothing_else(said):
    model, tokenizer, _ = said
    names = [f"{a}{b}" for a in "bcdfgh" for b in "aeiou"]
    answers = ["Paris", "Tokyo", "Lima"]
    facts = [zu.Fact(name, "The capital of {} is", answers[i % 3], relation="r")
             for i, name in enumerate(names)]
    g = torch.Generator().manual_seed(0)
    table = model.get_output_embeddings().weight

    def fake(readable):
        def states(model, tokenizer, some):
            gold = torch.tensor([tokenizer(" " + f.target)["input_ids"][-1] for f in some])
            noise = torch.randn(2, len(some), 32, generator=g)
            return (torch.stack([noise[0], table[gold] * 5 + 0.1 * noise[1]]) if readable
                    else noise), gold
        return states

    for readable, low, high in ((True, 1.0, 1.0), (False, 0.0, 0.8)):
        states = fake(readable)(model, tokenizer, [*facts[9:], *facts[:9]])
        right, left_out = probe(model, states, facts[:9], facts[9:])
        assert right.shape == (2, 9) and left_out.shape == (2, 21)
        assert (low <= right[left_out.mean(1).argmax()].mean() <= high
                and low <= left_out.mean(1).max() <= high)
        assert right[0].mean() < 1  # the first layer is noise


def test_rounded_weights_have_few_values_a_row_and_come_back(tiny):
    model, _ = tiny
    before, name = weights_of(model), models.weight_name(model, 2)
    for bits in (8, 4):
        with quantised(model, [name], bits):
            weight = model.get_parameter(name)
            assert max(len(row.unique()) for row in weight) <= 2 ** bits - 1
            step = before[name].abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert (((weight - before[name]).abs() <= 0.501 * step).all()
                    and not torch.equal(weight, before[name]))
        assert same(model, before)
    with pytest.raises(RuntimeError, match="inside"), quantised(model, [name], 4):
        raise RuntimeError("inside")
    assert same(model, before)


def test_relearning_teaches_step_by_step_on_top_of_an_edit_and_changes_nothing(
        tiny, facts, texts, cache):
    model, tokenizer = tiny
    before, pairs = weights_of(model), [(f.text, f.target) for f in facts]
    with zu.unlearn(model, tokenizer, facts, "ga", layers=[2], steps=3, lr=0.05):
        edited = weights_of(model)
        found = relearning(zu.Reader(model, tokenizer), facts, facts,
                           Relearning([2, 3], steps=[1, 10, 40], lr=0.02))
        assert found.shape == (3, len(facts)) and found[0].mean() < found[2].mean() == 1
        for count, right in zip((1, 10), found):  # the same as so many steps and then an edit
            rows = answer_rows(tokenizer, facts, "truth")
            new, _ = descend(model, Objective(rows, [-1 / len(rows)] * len(rows)), [2, 3],
                             Schedule(count, 0.02))
            with zu.Edit(model, method="taught") as taught:
                for layer, weight in new.items():
                    taught.set(models.weight_name(model, layer), weight.double())
                assert erasure.score(model, tokenizer, pairs)[:, 0].tolist() == right.tolist()
        assert same(model, edited)
    assert same(model, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_context_never_holds_the_fact_itself(said):
    _, _, known = said
    text = erasure.in_context(known[0], known)
    assert (text.endswith(". " + known[0].text)
            and text.count(known[0].subject) == 1 and text.count(". ") == 3)


def test_a_card_measures_both_states_and_holds_no_text_unless_asked(
        said, tmp_path, cache, texts, monkeypatch):
    model, tokenizer, known = said
    monkeypatch.setattr("zu.data.world.prose", lambda part: texts)
    before = weights_of(model)
    edit = zu.unlearn(model, tokenizer, known[:3], "ga", layers=[2], steps=10, lr=0.05)
    edited = weights_of(model)
    with pytest.raises(FileNotFoundError, match="save it first"):
        card(edit, tokenizer, known[:3], tmp_path / "new" / "e.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert [path.name for path in cache.iterdir()] == ["layouts"]  # how the model is read
    edit.save(tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match="the edit is of 3 facts, but 2 are given"):
        card(edit, tokenizer, known[:2], tmp_path / "e.safetensors")
    about = card(edit, tokenizer, known[:3], tmp_path / "e.safetensors", others=known[3:],
                 ppl_tokens=64)
    assert edit.applied and same(model, edited)
    measures = about["measures"]
    assert measures["before"]["eff"][0] == 100 and measures["after"]["eff"][0] < 100
    assert (measures["before"]["ppl"] != measures["after"]["ppl"]
            and set(measures["after"]["robustness"]) == set(TESTS))
    assert measures["after"]["robustness"]["asked"][0] == measures["after"]["eff"][0]
    files = [tmp_path / "e.card.json", tmp_path / "e.card.md"]
    assert json.loads(files[0].read_text()) == about and sorted(tmp_path.glob("*.card.*")) == files
    for file in files:
        assert not any(f.subject in file.read_text() or f.prompt in file.read_text() for f in known)
    edit.restore()
    assert same(model, before) and about["model_hash"] == models.fingerprint(model)
    shown = card(edit, tokenizer, known[:3], tmp_path / "e.safetensors", ppl_tokens=64,
                 show_facts=True)
    assert not edit.applied and same(model, before) and known[0].text in files[1].read_text()
    assert shown["forgotten"][0] == {"prompt": known[0].text, "answer": known[0].target}


def test_nothing_is_found_in_what_is_not_finite(said, spoil, broken):
    model, tokenizer, known = said
    states = last_states(zu.Reader(model, tokenizer), known)
    hook = spoil(model, *broken)
    for ask in (lambda: lens(model, states, 3),
                lambda: robustness(model, tokenizer, known[:3], known[3:])):
        with pytest.raises(ValueError, match="logits of model .* are NaN or infinite"):
            ask()
    hook.remove()
    assert lens(model, states, 3).shape == (5, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_probe_is_fitted_on_states_that_are_not_finite(said, value):
    model, tokenizer, known = said
    mlp, one = models.decoder(model).layers[3].mlp, torch.tensor([5])
    mlp.register_forward_hook(lambda module, args, out: out.index_fill(-1, one, value))
    with pytest.raises(ValueError, match="hidden states of model .* are NaN or infinite"):
        last_states(zu.Reader(model, tokenizer), known)


def test_without_a_named_weight_nothing_is_said_of_rounding(said):
    model, tokenizer, known = said
    found = robustness(model, tokenizer, known[:3], known[3:], relearn=Relearning([2, 3], [1]))
    assert found["8 bits"] == found["4 bits"] == [None] * 3 and None not in found["asked"]
