"""What a score is the mean of, how wide its interval is, and which facts count as known."""
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import zu
from zu.scores import bootstrap, score


def test_a_score_is_the_mean_over_facts_of_the_mean_over_each_ones_prompts(tiny, facts):
    model, tokenizer = tiny
    one = replace(facts[0], paraphrases=("{} is the",), neighbors=facts[0].neighbors[:1])
    many = replace(facts[1], paraphrases=("The {}", "In {} the", "You and {}", "{} people"),
                   neighbors=(("The capital of Chad is", "Paris"),
                              ("The city of Peru is", "Tokyo"), ("I and Peru is", "Lima")))
    means = {}
    for kind, pairs in (("gen", lambda f: [(p, f.target) for p in f.paraphrase_texts]),
                        ("spe", lambda f: f.neighbors)):
        by_fact = [score(model, tokenizer, list(pairs(f)))[:, 2] for f in (one, many)]
        means[kind] = np.mean([x.mean() for x in by_fact])
        # unequal numbers of prompts
        assert means[kind] != pytest.approx(np.concatenate(by_fact).mean(), rel=1e-3)
    found = zu.evaluate(model, tokenizer, [one, many])
    assert (found.prob_gen, found.prob_spe) == pytest.approx((means["gen"], means["spe"]))


def test_an_accuracy_is_the_mean_over_facts_too(tiny, facts, monkeypatch):
    model, tokenizer = tiny
    right = {"In France": 1.0}

    def fixed(model, tokenizer, pairs, **_):
        return np.array([[right.get(prompt, 0.0)] * 3 for prompt, *_ in pairs])

    monkeypatch.setattr(sys.modules["zu.scores"], "score", fixed)
    one = replace(facts[0], paraphrases=("In {}",))
    many = replace(facts[1], paraphrases=("In {}", "The {}", "You and {}"))
    assert zu.evaluate(model, tokenizer, [one, many]).gen == 50.0


def test_a_95_percent_interval_is_that_wide():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap(values, draws=20_000)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.04)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)
    weights = np.random.default_rng(1).integers(1, 3, 400)
    low, high = bootstrap(values, weights, draws=20_000)
    centre = (values * weights).sum() / weights.sum()
    spread = np.sqrt((weights ** 2 * (values - centre) ** 2).sum()) / weights.sum()
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.04)


@torch.no_grad()
def own_answers(model, tokenizer):
    """Facts whose answer is the word that the model itself says next."""
    found = []
    subjects = "France Japan Peru Chad Lima Tokyo Paris city country language people capital"
    prompts = "The capital of {} is", "I and {}", "{} in the", "In which {}", "You {}", "{} people"
    for subject in subjects.split():
        for prompt in prompts:
            text = prompt.replace("{}", subject)
            asked = tokenizer(text)["input_ids"]
            said = tokenizer.decode([int(model(torch.tensor([asked])).logits[0, -1].argmax())])
            word = said.strip()
            whole = tokenizer(text + " " + word)["input_ids"]
            if said.startswith(" ") and word and len(whole) == len(asked) + 1:
                found.append(zu.Fact(subject, prompt, word))
    return found


def test_known_are_the_facts_whose_answer_the_model_says_itself_and_no_others(tiny):
    model, tokenizer = tiny
    says = own_answers(model, tokenizer)
    assert says
    wrong = [replace(f, target="which" if f.target != "which" else "people") for f in says]
    mixed = zu.Facts([f for pair in zip(wrong, says) for f in pair], "mixed", "exact")
    found = zu.known(model, tokenizer, mixed)
    assert list(found) == says and found.name == "mixed-known" and found.rule == "exact"
