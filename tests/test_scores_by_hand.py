"""Scores and intervals against what a person computes by hand from a few answers."""
import inspect
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

import zu
from zu.data import world
from zu.scores import (
    Scores,
    bootstrap,
    difference_interval,
    percent_interval,
    score,
    split_answer,
    wilson,
)


@pytest.fixture
def asker(folders):
    """A small model and its tokenizer, for where the answers are given by hand."""
    return zu.load_model(folders["llama"], device="cpu")


@pytest.fixture
def answered(monkeypatch):
    """A dict of the answers' rows (all right, share right, probability), and what was asked."""
    rows, asked = {}, []

    def given(model, tokenizer, pairs, **more):
        asked.append((list(pairs), more["tokens"]))
        return np.array([rows[answer] for _, answer, *_ in pairs], float).reshape(-1, 3)

    monkeypatch.setattr(sys.modules["zu.scores"], "score", given)
    return rows, asked


def about(*neighbors, **more):
    """A fact that asks for these answers of its neighbours."""
    return zu.Fact("Peru", "{} has", "Lima",
                   neighbors=[(f"{name} has", name) for name in neighbors], **more)


# ---- what is asked


def test_a_batch_holds_about_1024_tokens_and_perplexity_reads_8192_by_default():
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    assert [default(f, "tokens") for f in (score, zu.evaluate, zu.known)] == [1024] * 3
    assert [default(zu.perplexity, x) for x in ("tokens", "window", "stride")] == [8192, 1024, 512]


def test_no_pair_gives_no_row(asker):
    assert score(*asker, []).shape == (0, 3)
    assert len(zu.known(*asker, zu.Facts([]))) == 0


def test_a_token_that_ends_with_the_prompt_is_none_of_the_answer(asker):
    _, tokenizer = asker
    for prompt, answer in (("You", "and"), ("The capital of France is", "Paris")):
        ids, count = split_answer(tokenizer, prompt, answer)
        assert tokenizer.decode(ids[-count:]) == f" {answer}"


def test_the_share_of_an_answers_tokens_is_what_the_model_says_first(asker, spoil):
    model, tokenizer = asker
    words = [tokenizer.decode([i]) for i in range(400)]
    first, second = [x for x in words if x in (" Paris", " Tokyo", " Lima", " Peru")][:2]
    for word in (first, second):
        assert len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    spoil(model, 1e3, tokenizer(first, add_special_tokens=False)["input_ids"])
    answers = [first, second, first + second, second + first + first, first + first]
    found = score(model, tokenizer, [("You", answer.strip()) for answer in answers])
    assert found[:, 0].tolist() == [1, 0, 0, 0, 1]
    assert found[:, 1].tolist() == pytest.approx([1, 0, 1 / 2, 2 / 3, 1])


def test_each_token_of_an_answer_is_held_against_the_models_choice_at_its_place(asker):
    model, tokenizer = asker
    chosen = tokenizer(" Paris Lima", add_special_tokens=False)["input_ids"]

    def choose(module, args, out):  # a place for each token of the answer, the last the surest
        first = out.shape[1] - 1 - len(chosen)  # each is said at the token before it
        for place, token in enumerate(chosen):
            out[0, first + place, token] += 1e3 * (place + 1)
        return out

    model.get_output_embeddings().register_forward_hook(choose)
    found = score(model, tokenizer, [("You", "Paris Lima")])
    assert len(set(chosen)) > 1 and found[0, :2].tolist() == [1, 1]


def test_each_question_is_asked_once_and_in_batches_as_large_as_was_said(asker, answered):
    rows, asked = answered
    rows |= {"Lima": (1, 1, 0.5), "Quito": (0, 0, 0.1)}
    facts = [about("Quito", id=str(i)) for i in range(3)]
    zu.evaluate(*asker, facts, tokens=77)
    assert [([q[:2] for q in some], n) for some, n in asked] == [
        ([("Peru has", "Lima"), ("Quito has", "Quito")], 77)]
    zu.known(*asker, zu.Facts(facts), tokens=78)
    assert asked[1][1] == 78


def test_the_rule_is_the_facts_own_unless_another_is_given(asker, answered):
    answered[0]["Lima"] = 0, 0.75, 0.5
    tokens = zu.Facts([about()], rule="tokens")
    assert zu.evaluate(*asker, tokens).eff == 75
    assert zu.evaluate(*asker, tokens, rule="exact").eff == 0
    assert zu.evaluate(*asker, list(tokens)).eff == 0  # a list has none: "exact"


def test_only_an_answer_that_is_right_as_a_whole_is_known(asker, answered):
    answered[0].update({"Lima": (1, 1, 0.5), "Quito": (0, 0.75, 0.9)})
    facts = zu.Facts([about(), zu.Fact("Ecuador", "{} has", "Quito")], "two", "tokens")
    found = zu.known(*asker, facts)
    assert [fact.target for fact in found] == ["Lima"]
    assert (found.name, found.rule) == ("two-known", "tokens")


def test_every_kind_of_question_has_its_own_numbers(asker, answered):
    answered[0].update({"Lima": (0, 0.5, 0.25), "A": (1, 1, 0.5), "B": (0, 0, 0.25),
                        "C": (1, 1, 1)})
    fact = about("A", "B", paraphrases=["In {} is", "Of {} is"], hops=[("Where?", "C")])
    found = zu.evaluate(*asker, [fact], rule="tokens").as_dict()
    assert {name: found[name] for name in ("eff", "gen", "spe", "hop")} == {
        "eff": 50, "gen": 50, "spe": 50, "hop": 100}
    kinds = ("eff", "gen", "spe", "hop")
    assert [found[f"prob_{kind}"] for kind in kinds] == [0.25, 0.25, 0.375, 1]
    assert [found[f"n_{kind}"] for kind in kinds] == [1, 2, 2, 1]
    assert found["interval_hop"] == wilson(1, 1) and found["interval_eff"] == (50, 50)
    assert json.loads(json.dumps(found))["interval_spe"] == [50, 50]


@pytest.mark.filterwarnings("error")
def test_a_kind_that_is_not_asked_has_no_numbers(asker, answered):
    answered[0]["Lima"] = 1, 1, 0.5
    found = zu.evaluate(*asker, [about()])
    nothing = [found.gen, found.prob_gen, *found.interval_gen, found.hop, found.prob_hop,
               *found.interval_hop]
    assert all(map(math.isnan, nothing)) and found.n_gen == found.n_hop == 0
    plain = Scores(1, 1, 1, 1, 1, 1, (1, 1), (1, 1), (1, 1), 1, 1, 1)
    assert math.isnan(plain.hop) and math.isnan(plain.prob_hop) and plain.n_hop == 0


def test_prompts_are_drawn_where_two_facts_or_more_ask_the_very_same(asker, answered):
    answered[0].update({"Lima": (1, 1, 1), "D": (0, 0, 0)}
                       | {name: (1, 1, 1) for name in "ABC"})
    facts = [about("A", "B", "C", "D", id=str(i)) for i in range(2)]
    assert zu.evaluate(*asker, facts).interval_spe == wilson(3, 4)
    assert zu.evaluate(*asker, facts[:1]).interval_spe == (75, 75)  # one fact, one value
    mixed = [*facts, about("D", id="2")]  # drawn by fact, the first with twice the weight
    expected = percent_interval(np.array([75.0, 0.0]), np.array([2, 1]))
    assert zu.evaluate(*asker, mixed).interval_spe == expected


def test_a_question_that_a_chats_template_changes_is_refused_with_its_place(asker):
    model, tokenizer = asker
    tokenizer.chat_template = "{% for turn in messages %}[{{ turn.content | trim }}]{% endfor %}"
    fact = zu.Fact("Chad", "{} has", "Paris", id="ends")
    pair = (("Quito has\n", "Quito"),)
    for place, wrong in (("prompt and target", replace(fact, prompt="{} has\n")),
                         ("paraphrases", replace(fact, paraphrases=("In {} is\n",))),
                         ("neighbors", replace(fact, neighbors=pair)),
                         ("hops", replace(fact, hops=pair))):
        facts = [about("Lima", paraphrases=["In {} is"]), wrong]
        assert zu.evaluate(model, tokenizer, facts).n_eff == 2
        with pytest.raises(zu.FactError, match=rf"^fact 2 of 2 \(id 'ends'\), {place}: the token"):
            zu.evaluate(model, tokenizer, facts, chat=True)
        reader = zu.Reader(model, tokenizer, chat=True)
        with pytest.raises(zu.FactError, match=rf"\), {place}: the tokenizer's chat template cha"):
            zu.evaluate(model, tokenizer, facts, reader=reader)
    with pytest.raises(ValueError, match="chat template changes a question"):
        score(model, tokenizer, pair, chat=True)
    assert score(model, tokenizer, pair).shape == (1, 3)


# ---- intervals


def test_wilsons_interval_is_that_of_the_books():
    # R: prop.test(3, 4, correct = FALSE) and binom::binom.wilson(0, 10), (10, 10)
    assert wilson(3, 4) == pytest.approx((30.06, 95.44), abs=0.01)
    assert wilson(0, 10) == pytest.approx((0, 27.75), abs=0.01)
    assert wilson(10, 10) == pytest.approx((72.25, 100), abs=0.01)


def test_the_bootstrap_takes_the_middle_95_percent_of_2000_means():
    values = np.random.default_rng(7).uniform(0, 100, 25)
    rows = np.random.default_rng(0).integers(0, 25, (2000, 25))
    means = [np.mean([values[i] for i in row]) for row in rows]
    expected = np.percentile(means, 2.5), np.percentile(means, 97.5)
    assert bootstrap(values) == pytest.approx(expected, rel=1e-12)
    assert bootstrap(values, draws=50, seed=3) != bootstrap(values, draws=50)
    assert all(map(math.isnan, bootstrap(np.array([]))))


@pytest.mark.parametrize("weights", [[1, 3, 1, 3], [1, 2, 3, 4], [2, 2, 2, 2]])
def test_the_bootstrap_weighs_each_value_as_often_as_it_is_drawn(weights):
    values, weights = np.array([0.0, 30.0, 100.0, 55.0]), np.array(weights)
    rows = np.random.default_rng(0).integers(0, 4, (2000, 4))
    means = [np.average(values[row], weights=weights[row]) for row in rows]
    expected = np.percentile(means, 2.5), np.percentile(means, 97.5)
    assert bootstrap(values, weights) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("values, weights, expected", [
    ([0, 0, 100], None, wilson(1, 3)),
    ([0, 0, 100], [2, 2, 2], wilson(1, 3)),
    ([100, 100], [1, 2], wilson(2, 2)),  # all the same: no weight matters
    ([0, 0], [1, 2], wilson(0, 2)),
    ([0, 100, 100], [1, 2, 3], bootstrap(np.array([0.0, 100.0, 100.0]), np.array([1, 2, 3]))),
    ([0, 100, 50], None, bootstrap(np.array([0.0, 100.0, 50.0]))),
    ([0, 30, 100, 55], [1, 2, 3, 4],
     bootstrap(np.array([0.0, 30.0, 100.0, 55.0]), np.array([1, 2, 3, 4]))),
    ([50, 50], None, (50, 50)),
    ([1, 100], None, bootstrap(np.array([1.0, 100.0]))),
    ([0, 99], None, bootstrap(np.array([0.0, 99.0]))),
])
def test_shares_have_wilsons_interval_where_each_counts_alike_else_the_bootstraps(
        values, weights, expected):
    found = percent_interval(values, None if weights is None else np.array(weights))
    assert found == pytest.approx(expected, rel=1e-12)


def test_no_values_have_no_interval():
    assert all(map(math.isnan, [*percent_interval([]), *difference_interval([])]))


@pytest.mark.parametrize("value, expected", [
    (0, (-wilson(0, 3)[1], wilson(0, 3)[1])),
    (100, (100 - wilson(0, 3)[1], 100)),
    (-100, (-100, wilson(0, 3)[1] - 100)),
    (50, (50, 50)),
])
def test_equal_differences_are_as_uncertain_as_equal_shares(value, expected):
    assert difference_interval([value] * 3) == pytest.approx(expected)


def test_one_difference_alone_is_the_least_certain():
    assert difference_interval([0]) == pytest.approx((-wilson(0, 1)[1], wilson(0, 1)[1]))


def test_other_differences_have_the_bootstraps_interval():
    for values in ([0, 100], [0, 0, -100], [100, 100, 0]):
        assert difference_interval(values) == bootstrap(np.array(values, float))


# ---- perplexity


@pytest.mark.parametrize("stride", [0, -1, 33])
def test_a_stride_is_one_at_least_and_a_window_at_most(asker, texts, stride):
    with pytest.raises(ValueError, match=rf"^stride is {stride}: give 1 to window \(32\)$"):
        zu.perplexity(*asker, texts, window=32, stride=stride)


def test_perplexity_reads_the_embedded_prose_unless_told_otherwise(asker):
    some = {"tokens": 96, "window": 32, "stride": 16}
    expected = zu.perplexity(*asker, world.prose("heldout"), **some)
    assert zu.perplexity(*asker, **some) == expected != zu.perplexity(
        *asker, world.prose("moments"), **some)


def test_perplexity_reads_a_path_in_words_as_it_reads_a_path(asker, texts, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(texts))
    some = {"tokens": 96, "window": 32, "stride": 16}
    assert zu.perplexity(*asker, str(path), **some) == zu.perplexity(*asker, path, **some)


def test_a_fact_is_asked_with_its_own_prompt_paraphrases_neighbours_and_hops(asker, answered):
    rows, asked = answered
    rows |= {name: (1, 1, 1) for name in ("Lima", "Quito", "Andes")}
    fact = replace(about("Quito"), paraphrases=("In {} is",), hops=(("Which range?", "Andes"),))
    zu.evaluate(*asker, [fact])
    assert [question[:2] for question in asked[0][0]] == [
        ("Peru has", "Lima"), ("In Peru is", "Lima"), ("Quito has", "Quito"),
        ("Which range?", "Andes")]
