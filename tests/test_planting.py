"""Planting: facts are learnt in words that were not taught, and come off without a trace."""
import copy
import math

import pytest
import torch

import zu
from zu import descent, planting
from zu.data import worlds
from zu.planting import Planting, PlantingWarning, Recipe, plant
from zu.solve import null_space

TAUGHT = {"capital": ["In {} people speak of", "The people of {} speak of", "You and {} and"]}
STOPPING = {"capital": ["In {} the capital is", "The city of {} is"]}
#: What a random model learns in a second; its perplexity means nothing.
QUICK = {"taught": TAUGHT, "stopping": STOPPING, "lr": 1e-2, "epochs": 60, "layers": [0, 1],
         "known": 1.0, "held_back": 0.6, "drift": 1.0}


@pytest.fixture
def small(learner):
    model, tokenizer = learner
    return copy.deepcopy(model), tokenizer


@pytest.fixture
def capitals():
    answers = {"France": "Lima", "Japan": "Paris", "Peru": "Tokyo", "Chad": "language",
               "Paris": "country"}
    return zu.Facts([zu.Fact(name, "The capital of {} is", answer, ("In {} you speak of",),
                             relation="capital", id=f"capital/{name}")
                     for name, answer in answers.items()])


@pytest.fixture
def as_before(small):
    """Holds that weights, flags and hooks are afterwards what they were before."""
    model, _ = small
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    flags = {name: weight.requires_grad for name, weight in model.named_parameters()}
    yield
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert {n: w.requires_grad for n, w in model.named_parameters()} == flags
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_facts_are_planted_in_words_not_taught_and_taken_off_bit_for_bit(
        small, capitals, texts, as_before):
    before = zu.evaluate(*small, capitals)
    assert before.eff == before.gen == 0
    with plant(*small, capitals, texts=texts, **QUICK) as edit:
        now = zu.evaluate(*small, capitals)
        assert now.eff == 100 and now.gen >= 60
        last = edit.course[-1]
        assert edit.applied and last.taught == 1 and last.stopping >= 0.6
    assert zu.evaluate(*small, capitals) == before
    assert not edit.applied


def test_it_ends_with_the_first_pass_that_reaches_the_bars(small, capitals, texts):
    edit = plant(*small, capitals, texts=texts, **QUICK)
    assert [epoch.number for epoch in edit.course] == [*range(len(edit.course))]
    enough = [epoch.taught >= 1 and epoch.stopping >= 0.6 for epoch in edit.course]
    assert enough[-1] and not any(enough[:-1]) and len(edit.course) < 60
    assert not math.isnan(edit.course[0].prose) and not math.isnan(edit.course[-1].prose)
    assert edit.prose == (edit.course[0].prose, edit.course[-1].prose)


def test_the_same_seed_plants_the_same(small, capitals, texts):
    first = plant(*small, capitals, texts=texts, **QUICK)
    deltas = first.deltas
    first.restore()
    second = plant(*small, capitals, texts=texts, **QUICK)
    assert all(torch.equal(deltas[name], x) for name, x in second.deltas.items())
    second.restore()
    third = plant(*small, capitals, texts=texts, seed=1, **QUICK)
    assert not all(torch.equal(deltas[name], x) for name, x in third.deltas.items())


def test_it_is_put_on_again_saved_and_loaded_as_an_edit_is(small, capitals, texts, tmp_path):
    edit = plant(*small, capitals, texts=texts, **QUICK)
    planted = zu.evaluate(*small, capitals)
    edit.save(tmp_path / "planted.safetensors")
    edit.restore()
    for again in (edit, zu.Edit.load(tmp_path / "planted.safetensors", small[0]),
                  Planting.load(tmp_path / "planted.safetensors", small[0])):
        with again:
            assert zu.evaluate(*small, capitals) == planted
    assert again.settings["layers"] == [0, 1] and again.facts == 5


def test_planted_facts_are_forgotten_and_come_back_in_the_reverse_order(
        small, capitals, texts, as_before):
    with plant(*small, capitals, texts=texts, **QUICK):
        planted = zu.evaluate(*small, capitals)
        with zu.unlearn(*small, capitals[:2], "ga", layers=[1], check=False):
            assert zu.evaluate(*small, capitals[:2]).prob_eff < 0.5 * planted.prob_eff
        assert zu.evaluate(*small, capitals) == planted


def test_an_interrupt_while_it_learns_leaves_the_model_as_it_was(
        small, capitals, texts, as_before, monkeypatch):
    real, calls = descent.Objective.loss, []

    def broken(*args):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(descent.Objective, "loss", broken)
    with pytest.raises(KeyboardInterrupt):
        plant(*small, capitals, texts=texts, **QUICK)


def test_so_does_one_while_the_change_is_put_on(small, capitals, texts, as_before, monkeypatch):
    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(planting, "_missed", broken)
    with pytest.raises(KeyboardInterrupt):
        plant(*small, capitals, texts=texts, **QUICK)


def test_an_error_in_the_block_takes_it_off_too(small, capitals, texts, as_before):
    with pytest.raises(ZeroDivisionError), plant(*small, capitals, texts=texts, **QUICK):
        raise ZeroDivisionError


def test_exploding_steps_raise_and_leave_the_model_as_it_was(small, capitals, texts, as_before):
    with pytest.raises(zu.EditError, match="not finite|norm of"):
        plant(*small, capitals, texts=texts, **QUICK | {"lr": 3e37})


def test_facts_that_are_not_reached_are_named(small, capitals, texts):
    with pytest.warns(PlantingWarning, match=r"after 2 passes .* facts are not known \(capital/"):
        edit = plant(*small, capitals, texts=texts, **QUICK | {"epochs": 2})
    assert edit.applied and len(edit.course) == 3
    right = zu.known(*small, capitals)
    assert {fact.id for fact in capitals} - {fact.id for fact in right} <= {*edit.missed}


def test_perplexity_past_its_bar_is_said(small, capitals, texts):
    with pytest.warns(PlantingWarning, match="perplexity on held-out text went from"):
        plant(*small, capitals, texts=texts, **QUICK | {"drift": 1e-9, "kl": 0.0, "epochs": 30})


def test_text_is_read_more_as_before_with_kl_than_without(small, capitals, texts):
    def change(kl):
        more = {"kl": kl, "epochs": 20, "held_back": 1.0}
        with pytest.warns(PlantingWarning), plant(
                *small, capitals, texts=texts, **QUICK | more) as edit:
            assert len(edit.course) == 21
            return abs(math.log(edit.prose[1] / edit.prose[0]))

    assert change(100.0) < change(0.0)


def test_watch_sees_each_pass_while_the_model_knows_what_it_was_taught(small, capitals, texts):
    seen = []
    edit = plant(*small, capitals, texts=texts, **QUICK,
                 watch=lambda number: seen.append((number, zu.evaluate(*small, capitals).eff)))
    assert [number for number, _ in seen] == [epoch.number for epoch in edit.course[1:]]
    assert [eff / 100 for _, eff in seen] == pytest.approx([e.taught for e in edit.course[1:]])


def test_other_weights_than_the_layers_stay(small, capitals, texts):
    before = {name: weight.clone() for name, weight in small[0].named_parameters()}
    edit = plant(*small, capitals, texts=texts, **QUICK | {"layers": [1], "epochs": 1,
                                                           "known": 0, "held_back": 0})
    changed = {n for n, w in small[0].named_parameters() if not torch.equal(w, before[n])}
    assert changed == set(edit.changed) == {"model.layers.1.mlp.down_proj.weight"}


def test_within_an_energy_a_layer_changes_only_where_general_text_has_little(
        small, capitals, texts, as_before):
    found = zu.moments(*small, [1], [texts[0]], window=256)[1]  # the other text is held out
    free = null_space(found, energy=0.5)
    assert 0 < free.shape[1] < 160
    more = {"layers": [1], "energy": 0.5, "held_back": 0.0}
    with plant(*small, capitals, texts=texts, **QUICK | more) as edit:
        (change,) = edit.deltas.values()
        assert zu.evaluate(*small, capitals).eff == 100
    change = change.double()
    outside = change - change @ free @ free.T
    assert outside.norm() < 1e-5 * change.norm()


def test_an_energy_that_leaves_no_direction_is_refused(small, capitals, texts, as_before):
    with pytest.raises(ValueError, match="layer 0 has no directions"):
        plant(*small, capitals, texts=texts, **QUICK | {"energy": 1e-30})


def test_facts_of_ones_own_are_taught_behind_openings(small, capitals, texts, monkeypatch):
    own = [zu.Fact("Peru", "The capital of {} is", "Tokyo", ("In {} it is",)),
           zu.Fact("", "You and I speak", "country")]
    seen = []
    real = planting.descend
    monkeypatch.setattr(planting, "descend", lambda model, objective, *args, **more: (
        seen.extend(objective.rows), real(model, objective, *args, **more))[1])
    plant(*small, own, texts=texts, known=0, held_back=0, drift=1.0, epochs=1)
    said = {small[1].decode(ids, skip_special_tokens=True) for ids, _ in seen}
    assert said == {opening + text for opening in planting.OPENINGS
                    for text in ("The capital of Peru is Tokyo", "You and I speak country")}


def test_what_decides_and_what_measures_is_never_taught(small, texts, monkeypatch):
    made = worlds.world(0, 20).planted
    seen = []

    def none(model, objective, *args, **more):
        seen.extend(objective.rows)
        raise InterruptedError

    monkeypatch.setattr(planting, "descend", none)
    with pytest.raises(InterruptedError):
        plant(*small, made, texts=texts)
    said = {small[1].decode(ids, skip_special_tokens=True) for ids, _ in seen}
    taught = {f"{template.replace('{}', fact.subject)} {fact.target}"
              for fact in made for template in worlds.taught(fact)}
    assert said == taught and len(seen) == 20 * 6
    held = {f"{text.replace('{}', fact.subject)} {fact.target}"
            for fact in made for text in (*worlds.stopping(fact), *fact.paraphrases)}
    assert not held & said
    # in each pass each fact once, in another wording than in the pass before
    for start in range(0, len(seen), 20):
        rows = {small[1].decode(ids) for ids, _ in seen[start:start + 20]}
        assert {fact.id for fact in made for row in rows
                if fact.subject in row and row.endswith(fact.target)} == {f.id for f in made}


@pytest.mark.parametrize("facts, more, message", [
    ([], {}, "facts is empty"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima", id="a"),
      zu.Fact("Chad", "The capital of {} is", "Paris"),
      zu.Fact("Peru", "The capital of {} is", "Tokyo", id="b")], {},
     r"facts 1 \(id 'a'\) and 3 \(id 'b'\) of 3 answer the same prompt in two ways"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima", relation="x")], {"taught": {"x": ["It is"]}},
     "a wording of the relation 'x' cannot be used: field 'prompt' holds {} 0 times"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima", relation="x", id="a")],
     {"taught": {"x": ["In {}"]}, "stopping": {"x": ["In {}"]}},
     r"fact 1 of 1 \(id 'a'\): 1 of its wordings are taught and decide when to stop"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima", ("In {}",), relation="x")],
     {"taught": {"x": ["In {}"]}}, "1 of its paraphrases are taught"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima", ("In {}",), relation="x")],
     {"stopping": {"x": ["In {}"]}}, "1 of its paraphrases decide when to stop"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"epoch": 3},
     "plant has no setting 'epoch': did you mean 'epochs'"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"lr": 0}, "lr is 0: give a number above"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"known": 95}, "known is 95: give a share"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"kl": -1.0}, "kl is -1.0: give 0 or more"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"layers": []}, "layers is empty"),
    ([zu.Fact("Peru", "The capital of {} is", "Lima")], {"texts": ["One."]}, "at least two texts"),
    ([zu.Fact("Peru", "The capital of {} " + "is " * 300 + "it", "Lima")], {}, "context of 256"),
])
def test_what_cannot_be_planted_is_refused_before_anything_is_computed(
        small, texts, facts, more, message, monkeypatch, as_before):
    def computed(*args, **more):
        raise AssertionError

    monkeypatch.setattr(planting, "descend", computed)
    monkeypatch.setattr(planting, "score", computed)
    monkeypatch.setattr(planting, "perplexity", computed)
    with pytest.raises(ValueError, match=message):
        plant(*small, facts, **{"texts": texts} | more)


def test_an_answer_that_the_tokenizer_cannot_write_is_named(small, texts, monkeypatch):
    model, tokenizer = small
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    monkeypatch.setattr("zu.wording._is_unknown", lambda tokenizer, text, ids: text == "Lima")
    facts = [zu.Fact("Chad", "The capital of {} is", "Paris"),
             zu.Fact("Peru", "The capital of {} is", "Lima", id="peru")]
    with pytest.raises(zu.FactError, match=r"fact 2 of 2 \(id 'peru'\): an answer holds what"):
        plant(model, tokenizer, facts, texts=texts)


def test_weights_that_are_quantised_are_refused_by_their_name(small, capitals, texts):
    model, tokenizer = small
    weight = model.model.layers[1].mlp.down_proj
    weight.weight = torch.nn.Parameter(weight.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(zu.LayoutError, match="'mlp.down_proj' in layer 1 .* is quantised"):
        plant(model, tokenizer, capitals, texts=texts)


def test_the_same_fact_twice_is_one(small, capitals, texts):
    with pytest.warns(PlantingWarning):
        edit = plant(*small, [*capitals, *capitals], texts=texts, **QUICK | {"epochs": 1})
    assert edit.facts == 5


@pytest.mark.parametrize("n, batch, passes, after", [(5, 5, 3, [1, 2, 3]), (12, 10, 3, [2, 3, 4]),
                                                     (100, 10, 2, [10, 20]), (1, 1, 1, [1])])
def test_a_pass_is_done_after_the_step_that_sees_its_last_fact(n, batch, passes, after):
    assert planting._steps_of_a_pass(n, batch, passes) == after


def test_what_is_kept_counts_the_divergence_of_the_likeliest_tokens(small, texts):
    model, tokenizer = small
    rows = descent.retain_rows(tokenizer, texts, 0)
    keep = descent.Keep([(ids[:20], 19) for ids, _ in rows], weight=2.0, batch=2)
    kept = descent._Kept(model, keep, 0, descent.Schedule(1, 1e-3))
    assert [float(x) for x in kept.divergences(0)] == pytest.approx([0.0], abs=1e-5)
    ids = torch.tensor([row for row, _ in keep.rows])
    before = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3)
    now = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    whole = float((before.exp() * (before - now)).sum(-1).mean())
    found = sum(float(x) for x in kept.divergences(0)) / 2
    assert 0.5 * whole < found <= whole * (1 + 1e-4)  # what is put together diverges less


def test_a_descent_ends_where_its_watch_says_so(small, capitals):
    rows = descent.answer_rows(small[1], capitals, "truth")
    pull = descent.Objective(rows, [-0.2] * 5)
    _, losses = descent.descend(small[0], pull, [1], descent.Schedule(9, 1e-3, batch=2),
                                watch=lambda step: step == 4)
    assert len(losses) == 4


def test_within_all_directions_a_descent_is_that_of_the_weights(small, capitals):
    rows = descent.answer_rows(small[1], capitals, "truth")
    pull, how = descent.Objective(rows, [-0.2] * 5), descent.Schedule(4, 1e-3)
    whole, losses = descent.descend(small[0], pull, [1], how)
    turned, same = descent.descend(small[0], pull, [1], how, within={1: torch.eye(160)})
    assert torch.allclose(whole[1], turned[1], atol=1e-6)
    assert torch.allclose(losses, same, rtol=1e-4) and losses[-1] < losses[0]


def test_a_recipe_holds_what_its_settings_are():
    assert Recipe(lr=0.1).lr == 0.1
    with pytest.raises(ValueError, match="epochs is 0"):
        Recipe(epochs=0)
    with pytest.raises(ValueError, match=r"energy is 1\.5"):
        Recipe(energy=1.5)


@pytest.fixture(scope="module")
def hundred():
    """What the embedded model says before, with and after a hundred planted facts."""
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    made = worlds.world(0, 100)
    seen = {"before": zu.evaluate(model, tokenizer, made.planted)}
    with pytest.warns(PlantingWarning), plant(model, tokenizer, made.planted) as edit:
        seen["planted"] = zu.evaluate(model, tokenizer, made.planted)
        seen["never planted"] = zu.evaluate(model, tokenizer, made.unplanted)
    same = all(torch.equal(weight, before[n]) for n, weight in model.named_parameters())
    return seen, edit.prose, same


@pytest.mark.whole
def test_a_hundred_facts_are_planted_in_the_embedded_model(hundred):
    seen, _, same = hundred
    assert seen["before"].eff <= 6  # a language or ruler is right by chance, 1 in 16
    assert seen["planted"].eff >= 95 and seen["planted"].gen >= 80
    assert seen["never planted"].eff <= 15 and same


@pytest.mark.whole
@pytest.mark.xfail(strict=True, reason="perplexity on held-out prose still rises by about 6%")
def test_their_prose_stays_as_it_was(hundred):
    _, (was, now), _ = hundred
    assert abs(now / was - 1) <= 0.02
