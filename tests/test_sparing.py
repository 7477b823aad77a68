"""Anchors: which subjects stand in for those that must be spared; every method spares them."""
from dataclasses import replace

import pytest
import torch

import zu
from zu import methods, reader
from zu.scores import score
from zu.sparing import propose

LAYER = 2
PROMPT = "The capital of {} is"
FORGET = [zu.Fact("France", PROMPT, "Paris", neighbors=(("The capital of Peru is", "Lima"),),
                  relation="capital"),
          zu.Fact("Japan", PROMPT, "Tokyo", neighbors=(("In Chad, the capital is", "N'Djamena"),),
                  relation="capital")]
OTHERS = [replace(FORGET[0], subject=name, neighbors=())
          for name in ("Peru", "Chad", "France", "Italy", "Spain")]


def test_no_anchor_is_to_be_forgotten_or_what_specificity_is_measured_on():
    found = zu.anchors(FORGET, [*OTHERS, replace(OTHERS[0], subject="Gold", relation="symbol")])
    assert ({f.subject for f in found} == {"Italy", "Spain"}
            and {f.prompt for f in found} == {PROMPT})
    names = ["peru", "PERU", "Per", "Chad", "japan", "Côte d'Ivoire", "Italy"]
    with pytest.warns(UserWarning, match="4 of the 7 names are left out") as told:
        assert {f.subject for f in zu.anchors(FORGET, names)} == {"Per", "Côte d'Ivoire", "Italy"}
    # a forget set is private
    assert not any(name.casefold() in str(told[0].message).casefold() for name in names)
    names = [f"Town {i}" for i in range(50)]  # all that are named, or as many as are asked for
    assert [len(zu.anchors(FORGET, names, **more)) for more in ({}, {"per_prompt": 3})] == [50, 3]
    with pytest.warns(UserWarning, match="2 of the 2"), pytest.raises(
            ValueError, match="no anchor for the prompt of the fact with id 'f' .*"
                              "give other facts or names"):
        zu.anchors([replace(f, id="f") for f in FORGET[:1]], ["Peru", "France"])
    with pytest.raises(ValueError, match="anchors need a source"):
        zu.anchors(FORGET)


def test_a_name_is_a_neighbours_where_it_stands_as_a_word():
    near = (("The Peruvian coast of Chad is", "x"), ("秘鲁的首都是", "利马"))
    fact = replace(FORGET[0], neighbors=near)
    with pytest.warns(UserWarning, match="2 of the 4 names are left out"):
        found = zu.anchors([fact], ["Peru", "CHAD", "秘鲁", "智利"])
    assert {anchor.subject for anchor in found} == {"Peru", "智利"}


def test_a_fact_without_a_subject_has_no_anchors_and_is_none():
    bare = zu.Fact("", "The capital is", "Paris", relation="capital", id="b")
    with pytest.raises(ValueError, match="the fact with id 'b' has no subject.*method without"):
        zu.anchors([*FORGET, bare], OTHERS)
    assert {f.subject for f in zu.anchors(FORGET, [bare, *OTHERS])} == {"Italy", "Spain"}


def test_anchors_of_the_embedded_facts_are_never_what_specificity_is_measured_on():
    pool = zu.load_facts("world-cloze")
    for seed in range(5):
        forget = pool.sample(30, seed)
        found = zu.anchors(forget, pool, seed=seed)
        measured = {(fact.relation, prompt) for fact in pool for prompt, _ in fact.neighbors}
        named = {fact.subject for fact in forget}
        wordings = {(fact.relation, p) for fact in pool for p in (fact.prompt, *fact.paraphrases)}
        asked = {(r, w.replace("{}", a.subject))
                 for a in found for r, w in wordings if r == a.relation}
        assert len(asked) > len(found) and not asked & measured
        assert not named & {a.subject for a in found}
        assert (found == zu.anchors(forget, pool, seed=seed)
                != zu.anchors(forget, pool, seed=seed + 1))
        assert max(len([a for a in found if a.prompt == p])
                   for p in {f.prompt for f in forget}) == 20


def test_a_model_proposes_names_and_leaves_no_trace(tiny, spoil):
    model, tokenizer = tiny
    said = tokenizer(" Peru Chad Japan, 7", add_special_tokens=False)["input_ids"]
    # of itself a random model writes no list: this one says nothing but these words, "," and "7"
    spoil(model, float("-inf"), [i for i in range(400) if i not in said])
    state = torch.random.get_rng_state()
    names = propose(model, tokenizer, ["France", "Japan"])
    assert len(names) == len(set(names)) > 3
    assert names == propose(model, tokenizer, ["France", "Japan"])
    assert torch.equal(state, torch.random.get_rng_state())
    for name in names:
        assert name == name.strip() and 2 <= len(name) <= 41 and len(name.split()) <= 4
        assert name[0].isalpha() and "," not in name


@pytest.fixture
def job(tiny, facts, texts, cache, general):
    model, tokenizer = tiny
    C0 = general(model, tokenizer, (LAYER,), texts)
    return model, tokenizer, facts, dict(moments=C0, steps=5, layers=[LAYER])


@pytest.mark.parametrize("method", [name for name, m in zu.METHODS.items() if m.spares])
def test_every_method_moves_anchors_less_the_more_they_weigh(job, method):
    model, tokenizer, facts, settings = job
    spare = zu.anchors(facts[:1], ["Chad", "Gabon", "Nepal", "Togo"])
    K_a = reader.subject_keys(zu.Reader(model, tokenizer), spare, [LAYER])[0][LAYER].T
    moved = []
    more = {"alpha": 1.0} if "alpha" in zu.METHODS[method].model_fields else {}
    # no weight is spared a projection
    more |= {"project": False} if method == "zerounlearn" else {}
    for anchors, weight in (((), 1.0), (spare, 1.0), (spare, 1e4)):
        with zu.unlearn(model, tokenizer, facts[:1], method, anchors=anchors, anchor=weight, **more,
                        **settings) as edit:
            (delta,) = edit.deltas.values()
            moved.append(float((delta.double() @ K_a).norm() / delta.norm()))
    assert moved[1] < 0.95 * moved[0] and moved[2] < 0.5 * moved[1]


def test_methods_without_room_for_anchors_refuse_them(job):
    model, tokenizer, facts, _ = job
    for method in ("ga", "rome", "zerounlearn-gd"):
        with pytest.raises(ValueError, match=f"{method} takes no anchors"):
            zu.unlearn(model, tokenizer, facts, method, anchors=facts[:1])


def test_in_rounds_a_fact_weighs_more_only_while_it_is_still_answered(job, monkeypatch):
    model, tokenizer, facts, settings = job
    before = {name: x.clone() for name, x in model.state_dict().items()}
    weights, flags, columns = [], [], methods.Anchored.columns
    monkeypatch.setattr(methods.Anchored, "columns", lambda self, job, layer: (
        weights.append(job.weights.tolist()), columns(self, job, layer))[1])
    monkeypatch.setattr("zu.methods.located.answered", lambda job: flags.pop(0))
    first, none = (torch.zeros(len(facts), dtype=torch.bool),
                   torch.zeros(len(facts), dtype=torch.bool))
    first[0] = True

    def edited(answered, **more):
        flags[:], weights[:] = answered, []
        with zu.unlearn(model, tokenizer, facts, "anchored", weight=0.5, **more,
                        **settings) as edit:
            return edit.deltas.popitem()[1]

    once, twice = edited([], rounds=0), edited([first, none], rounds=3)
    rest = [0.5] * (len(facts) - 1)
    assert weights == [[0.5, *rest], [1.5, *rest]] and not flags and not torch.equal(once, twice)
    edited([first, first], rounds=2)
    assert [w[0] for w in weights] == [0.5, 1.5, 4.5] and not flags
    assert torch.equal(edited([none], rounds=3), once)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_fact_is_still_answered_if_it_is_behind_any_prefix(job):
    model, tokenizer, facts, _ = job

    def answered(fact, prefix=""):
        return score(model, tokenizer, [(prefix + fact.text, fact.target)])[0, 0] == 1

    # a prefix behind which the model says a word that it does not say without
    for number in range(200):
        prefix = f"It was in the year {number} that all of it was said. "
        ids = torch.tensor([tokenizer(prefix + facts[0].text)["input_ids"]])
        word = tokenizer.decode(model(ids).logits[0, -1].argmax()).strip()
        if (word and answered(known := replace(facts[0], target=word), prefix)
                and not answered(known)):
            break
    other = replace(facts[0], target="zzz")
    for prefixes, found in ((("", prefix), [True, False]), (("",), [False, False])):
        job = methods.Job(zu.Reader(model, tokenizer), [known, other], (LAYER,), prefixes=prefixes)
        assert methods.answered(job).tolist() == found


def test_proposed_names_come_in_the_order_written_where_they_are_equally_frequent(
        tiny, monkeypatch):
    model, tokenizer = tiny
    names = ["Kenya", "Ghana", "Peru", "Chile", "Mali", "Togo", "Oman"]
    monkeypatch.setattr(type(tokenizer), "batch_decode",
                        lambda *a, **k: [", ".join([*names, "Cu"])] * 2)
    assert propose(model, tokenizer, ["France", "Japan"]) == names


@pytest.mark.parametrize("comma", [", ", "、", "，", "، "])
def test_names_of_every_script_are_proposed(tiny, monkeypatch, comma):
    model, tokenizer = tiny
    names = ["दिल्ली", "กรุงเทพ", "ភ្នំពេញ", "နေပြည်တော်", "东京", "서울", "القاهرة", "Côte d'Ivoire"]
    monkeypatch.setattr(type(tokenizer), "batch_decode",
                        lambda *a, **k: [comma.join([*names, "12", "Cu"])])
    assert propose(model, tokenizer, ["France", "Japan"]) == names
