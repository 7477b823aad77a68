"""The search by whole runs says what the fast one says, and is taken where the fast one's view of
a layer fails."""
import warnings
from dataclasses import replace

import pytest
import torch
import transformers

import zu
from zu import models, reader, suffix_search, targets
from zu.plain_search import WholeRuns, _add
from zu.targets import Place, Search

BEFORE = ("", "The people. ", "Because 東京 is. ")
HIDDEN = Place.of("hidden", 2)
#: Where δ may go: after a layer, into what a projection puts out, into what several do.
PLACES = [pytest.param(Place.of(aim, layers), id=f"{aim} {layers}") for aim, layers in (
    ("hidden", 2), ("hidden", 4), ("value", 2), ("value", 4), ("value", (1, 3)))]
SHAPE = dict(vocab_size=400, hidden_size=32, intermediate_size=80, num_hidden_layers=5,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             pad_token_id=0, bos_token_id=1, eos_token_id=0)
MLA = dict(num_key_value_heads=4, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4,
           qk_nope_head_dim=4, v_head_dim=8)


def coded_facts(tokenizer, facts, goal="truth", kl_at="subject"):
    how = Search(BEFORE, goal, kl_at=kl_at)
    return [targets._Coded.of(tokenizer, fact, how) for fact in facts]


def random_delta(h, seed=3):
    """A change half as long as each of h (n, k, d)."""
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(seed))
    return 0.5 * h.norm(dim=2, keepdim=True) * noise / noise.norm(dim=2, keepdim=True)


def losses_and_gradient(problem, delta, active):
    delta = delta[active].requires_grad_(True)
    nll, divergence = problem.loss(delta, active)
    weights = torch.arange(1.0, 1 + len(active))
    (gradient,) = torch.autograd.grad(weights @ nll + weights @ divergence, delta)
    return nll.detach(), divergence.detach(), gradient


def both_agree(model, coded, place=HIDDEN, kl_at="subject", **near):
    """Every fact with no δ, every fact with one, some facts with another: losses and gradients."""
    how = Search(kl=3.0, kl_at=kl_at)
    plain, fast = (kind(model, place, coded, how) for kind in (WholeRuns, targets.SuffixRuns))
    torch.testing.assert_close(plain.h, fast.h, **near)
    every, some = torch.arange(len(coded)), torch.tensor([1, 3, 4])
    cases = ((torch.zeros_like(plain.h), every), (random_delta(plain.h), every),
             (random_delta(plain.h, 4), some))
    for delta, active in cases:
        expected, found = (losses_and_gradient(problem, delta, active) for problem in (plain, fast))
        torch.testing.assert_close(found, expected, **near)
    nll, divergence, gradient = expected
    # there was something to compare
    assert (divergence > 1e-3).all() and (gradient.norm(dim=2) > 1e-3).all()
    expected, found = (losses_and_gradient(problem.bare(), delta, active)
                       for problem in (plain, fast))
    torch.testing.assert_close(found, expected, **near)
    alone = WholeRuns(model, place, [replace(c, rows=c.rows[:1]) for c in coded], how)
    torch.testing.assert_close(losses_and_gradient(alone, delta, active), expected, **near)
    assert plain.bare().prefixes == fast.bare().prefixes == 1
    assert plain.prefixes == fast.prefixes == len(coded[0].rows) > 1


@pytest.mark.parametrize("place, kl_at", [
    *(pytest.param(*place.values, "subject", id=f"{place.id}-subject") for place in PLACES),
    # from after the last layer on, what is said of the subject later does not depend on δ
    pytest.param(HIDDEN, "next", id="hidden 2-next"),
    pytest.param(Place.of("value", (1, 3)), "next", id="value (1, 3)-next")])
@pytest.mark.parametrize("goal", ["eos", "truth"])
def test_losses_and_gradients_are_those_of_the_fast_search(tiny, facts, goal, place, kl_at):
    model, tokenizer = tiny
    coded = coded_facts(tokenizer, facts, goal, kl_at)
    assert len({c.length for c in coded}) > 1 and len({c.width for c in coded}) > 1
    both_agree(model.double(), coded, place, kl_at, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_gemmas_losses_and_gradients_are_those_of_the_fast_search(gemma, facts, place):
    model, tokenizer = gemma
    both_agree(model.double(), coded_facts(tokenizer, facts), place, rtol=1e-4, atol=1e-6)


def test_a_bfloat16_model_has_float32_losses_and_gradients_near_the_fast_ones(tiny, facts):
    model, tokenizer = tiny
    coded, every = coded_facts(tokenizer, facts), torch.arange(5)
    plain, fast = (kind(model.bfloat16(), HIDDEN, coded, Search(kl=1.0))
                   for kind in (WholeRuns, targets.SuffixRuns))
    fast.loss(torch.zeros_like(fast.h), every)
    found, expected = (losses_and_gradient(problem, random_delta(plain.h), every)
                       for problem in (plain, fast))
    assert plain.h.dtype == torch.float32 and {x.dtype for x in found} == {torch.float32}
    torch.testing.assert_close(found[:2], expected[:2], rtol=0.02, atol=0.002)
    assert (torch.cosine_similarity(found[2], expected[2], dim=2) > 0.99).all()


def test_a_change_is_added_in_float32_whatever_the_models_dtype(tiny, facts):
    """At the subject's last token alone; δ rounded to bfloat16 first would give other sums."""
    model, tokenizer = tiny
    block, seen = models.decoder(model.bfloat16()).layers[2], []
    plain = WholeRuns(model, HIDDEN, coded_facts(tokenizer, facts[:1]), Search())
    delta = random_delta(plain.h)  # (1, 1, d)
    keep = (block.register_forward_hook,
            lambda module, args, output: seen.append(reader.states_of(output)))
    with reader.hooks(keep):  # before the hook that adds δ
        plain.loss(delta, torch.tensor([0]))
    states = seen[0]  # the target's rows: (prefixes, length, d)
    at = torch.tensor([position for _, position in plain.coded[0].rows])
    added = _add(block, (), states, position=at, delta=delta[0, 0], shape=states.shape[:2])
    rows = torch.arange(len(at))
    assert torch.equal(added[rows, at], (states[rows, at].float() + delta[0]).bfloat16())
    assert not torch.equal(added[rows, at], states[rows, at] + delta[0].bfloat16())
    changed = (added != states).any(-1)  # (prefixes, length)
    assert torch.equal(changed.nonzero()[:, 1], at)
    flat = _add(block, (), states.flatten(0, 1), position=at, delta=delta[0, 0],
                shape=states.shape[:2])  # as some families pass their states
    assert torch.equal(flat, added.flatten(0, 1))
    first, second = _add(block, (), (states, "more"), position=at, delta=delta[0, 0],
                         shape=states.shape[:2])
    assert torch.equal(first, added) and second == "more"


def test_with_no_change_the_losses_are_the_models_own(tiny, facts):
    """Each prompt by itself, no hook, no padding, the target's tokens one by one."""
    model, tokenizer = tiny
    plain = WholeRuns(model, HIDDEN, coded_facts(tokenizer, facts), Search(kl=1.0))
    nll, divergence = plain.loss(torch.zeros_like(plain.h), torch.arange(5))
    for i, fact in enumerate(facts):
        goal, said = targets.target_ids(tokenizer, fact, "truth"), []
        for prefix in BEFORE:
            ids, _ = reader.encode(tokenizer, fact, prefix)
            for token in goal:
                said.append(
                    model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
                ids = [*ids, token]
        torch.testing.assert_close(nll[i], -torch.stack(said).mean(), rtol=1e-4, atol=1e-4)
        ids, position = reader.encode(tokenizer, fact)
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[3]
        torch.testing.assert_close(plain.h[i, 0], states[0, position], rtol=1e-4, atol=1e-5)
    assert torch.equal(divergence, torch.zeros(5))


def test_values_are_what_each_projection_puts_out_at_the_subjects_last_token(tiny, facts):
    """By hand: W k of each layer, of each bare prompt by itself."""
    model, tokenizer = tiny
    plain = WholeRuns(model, Place.of("value", [3, 1]), coded_facts(tokenizer, facts), Search())
    assert plain.h.shape == (5, 2, 32)
    for i, fact in enumerate(facts):
        ids, position = reader.encode(tokenizer, fact)
        for j, layer in enumerate((1, 3)):
            linear, seen = models.down_proj(model, layer), []
            with reader.hooks((linear.register_forward_pre_hook,
                               lambda module, args, seen=seen: seen.append(args[0]))):
                model(input_ids=torch.tensor([ids]))
            expected = linear.weight @ seen[0][0, position]
            torch.testing.assert_close(plain.h[i, j], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kl_at", ["subject", "next"])
def test_the_divergence_is_taken_where_it_says_in_its_direction_and_weighs_kl(
        tiny, facts, kl_at):
    """From what is said with δ at the subject's last token; or to it, at the text's end."""
    model, tokenizer = tiny
    coded = coded_facts(tokenizer, facts[:1], kl_at=kl_at)
    plain, double = (WholeRuns(model, HIDDEN, coded, Search(kl=kl, kl_at=kl_at))
                     for kl in (1.0, 2.0))
    delta, one = random_delta(plain.h), torch.tensor([0])
    ids, position = reader.encode(tokenizer, facts[0], prompt=targets.ESSENCE)
    read = {"subject": position, "next": -1}[kl_at]

    def add(module, args, output):
        return output.index_add(1, torch.tensor([position]), delta[:, 0][None])

    before = model(input_ids=torch.tensor([ids])).logits[0, read].softmax(-1)
    with reader.hooks((models.decoder(model).layers[2].register_forward_hook, add)):
        after = model(input_ids=torch.tensor([ids])).logits[0, read].softmax(-1)
    expected = {"subject": (after * (after / before).log()).sum(),
                "next": (before * (before / after).log()).sum()}[kl_at]
    torch.testing.assert_close(plain.loss(delta, one)[1][0], expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(double.loss(delta, one)[1][0], 2 * expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("place", [HIDDEN, Place.of("value", (1, 3))], ids=lambda x: x.aim)
@pytest.mark.parametrize("goal", ["eos", "truth"])
def test_the_whole_search_finds_the_same_and_lets_go_of_the_same_facts(tiny, facts, goal, place):
    model, tokenizer = tiny
    coded = coded_facts(tokenizer, facts, goal)
    how = Search(BEFORE, goal, steps=8, lr=0.2, tolerance=0.0)
    *_, losses = targets._minimise(WholeRuns(model.double(), place, coded, how), how)
    # which some facts reach, at different steps
    how = replace(how, tolerance=float(losses[:, 4].median()))
    found, going = [], []
    for kind in (WholeRuns, targets.SuffixRuns):
        seen = []

        class Watched(kind):
            def loss(self, delta, active, seen=seen):
                seen.append(active.tolist())
                return super().loss(delta, active)

        found.append(targets._minimise(Watched(model, place, coded, how), how))
        going.append(seen)
    assert going[0] == going[1] and len(going[0][0]) == 5 and len(going[0][-1]) < 5
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_a_soft_cap_hides_no_infinity_from_whole_runs(gemma, facts, spoil, broken):
    model, tokenizer = gemma
    spoil(model, *broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        WholeRuns(model, HIDDEN, coded_facts(tokenizer, facts[:1]), Search())


def test_a_token_that_is_ruled_out_makes_no_nan(tiny, facts, spoil):
    model, tokenizer = tiny
    coded = coded_facts(tokenizer, facts)
    spoil(model, float("-inf"), [set(range(400)).difference(*(c.goal for c in coded)).pop()])
    both_agree(model, coded, rtol=1e-3, atol=1e-4)


@pytest.fixture
def family(folders):
    """A function that makes a small random model of a family, with the tokenizer of "llama"."""
    def make(name, **changed):
        torch.manual_seed(7)
        config = getattr(transformers, f"{name}Config")(**(SHAPE | changed))
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
        return (model.eval().requires_grad_(False),
                transformers.AutoTokenizer.from_pretrained(folders["llama"]))

    return make


@pytest.fixture
def searched(monkeypatch):
    """What `_minimise` is given from here on: (kind of problem, how many facts)."""
    solve, seen = targets._minimise, []

    def watch(problem, *args):
        seen.append((type(problem).__name__, problem.n))
        return solve(problem, *args)

    monkeypatch.setattr(targets, "_minimise", watch)
    return seen


def search(model, tokenizer, facts, batch=None, **changed):
    how = Search(BEFORE, "truth", **({"steps": 4} | changed))
    return targets.optimise(model, tokenizer, facts, 2, how, batch=batch, cache=False)


def by_whole_runs(model, tokenizer, facts, steps=4):
    how = Search(BEFORE, "truth", steps=steps)
    problem = WholeRuns(model, HIDDEN, coded_facts(tokenizer, facts), how)
    z, h, losses = targets._minimise(problem, how)
    return z[:, 0], h[:, 0], losses  # (n, 1, d) -> (n, d)


def is_near(found, expected):
    z, h, losses = expected
    for ours, theirs in ((found.z, z), (found.h, h), (found.loss.T, losses)):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name, changed", [
    pytest.param(name, changed, id=name) for name, changed in {
        "Mistral": {}, "Phi3": {}, "Olmo2": {}, "Olmo3": dict(sliding_window=64),
        "StableLm": {}, "SmolLM3": {}, "Glm4": dict(head_dim=8),
        # its branches are scaled, and its logits behind the head
        "Granite": dict(residual_multiplier=0.3, logits_scaling=4.0),
        "Cohere": dict(logit_scale=0.3), "MiniCPM3": dict(scale_depth=1.4, **MLA),
        "Ministral3": {},  # its layers ask for position_ids
        "DeepseekV3": dict(first_k_dense_replace=5, **MLA)}.items()])
def test_families_that_the_fast_search_knows_are_searched_by_it(
        family, facts, searched, name, changed):
    model, tokenizer = family(name, **changed)
    expected = by_whole_runs(model, tokenizer, facts)
    searched.clear()
    with warnings.catch_warnings(action="error"):
        found = search(model, tokenizer, facts)
    assert {kind for kind, _ in searched} == {"SuffixRuns"} and sum(n for _, n in searched) == 5
    is_near(found, expected)


def test_the_models_that_zu_is_made_for_are_searched_fast(tiny, gemma, facts, searched):
    """Without this test a fault in the fast search would cost its speed alone, and no other test
    would fail."""
    for model, tokenizer in (tiny, gemma):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with warnings.catch_warnings(action="error"):
                search(model.to(dtype), tokenizer, facts, steps=1)
    assert {kind for kind, _ in searched} == {"SuffixRuns"} and sum(n for _, n in searched) == 5 * 6


UNKNOWN = {
    "OlmoHybrid": ({}, "IndexError"),  # layers with linear attention
    # rotations of another shape
    "DeepseekV2": (dict(first_k_dense_replace=5, **MLA), "RuntimeError"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_families_that_the_fast_search_does_not_know_are_searched_by_whole_runs(
        family, facts, searched, name):
    changed, reason = UNKNOWN[name]
    model, tokenizer = family(name, **changed)
    expected = by_whole_runs(model, tokenizer, facts)
    searched.clear()
    with pytest.warns(UserWarning, match=f"{name}ForCausalLM.*whole runs.*"
                                         f"does not know its layers.*{reason}") as seen:
        found = search(model, tokenizer, facts, batch=2)
    # one by one: a batch is measured for the fast search's memory
    assert searched == [("WholeRuns", 1)] * 5
    assert sum("whole runs" in str(w.message) for w in seen) == 1 and seen[0].filename == __file__
    is_near(found, expected)
    assert (found.loss[-1] < found.loss[0]).all()


def test_prompts_too_long_for_the_sliding_window_are_searched_by_whole_runs_the_others_fast(
        family, facts, searched):
    long = zu.Fact("Peru", "The people of the country and the people of the city and you and I "
                   "in the capital of Japan and the people in the city of Paris and the people "
                   "in Chad and {} speak the language of", "Lima")
    facts = [*facts, long]
    coded = coded_facts(family("Mistral")[1], facts)
    *_, most, longest = sorted(max(c.length, len(c.essence[0])) for c in coded)
    assert 2 * most < longest  # the window cuts tokens off the long prompt
    model, tokenizer = family("Mistral", sliding_window=2 * most)
    expected = by_whole_runs(model, tokenizer, facts)
    searched.clear()
    with pytest.warns(UserWarning, match="MistralForCausalLM.*whole runs.*"
                                         "too long for the attention's sliding window"):
        found = search(model, tokenizer, facts, batch=1)
    assert sorted(searched) == 5 * [("SuffixRuns", 1)] + [("WholeRuns", 1)]
    is_near(found, expected)
    wide = search(*family("Mistral", sliding_window=2 * longest), facts)
    torch.testing.assert_close(wide.z[:5], found.z[:5], rtol=2e-3, atol=2e-3)
    assert not torch.allclose(wide.h[5], found.h[5], atol=0.1)


@pytest.mark.filterwarnings("ignore:targets of:UserWarning")
@pytest.mark.parametrize("window", [3, 9, 12, 14, 16, 22, 28, 40])
def test_no_sliding_window_makes_a_difference_to_whole_runs(family, facts, window):
    """Padding between the heads and tails of a batch once made the window narrower than it is."""
    model, tokenizer = family("Mistral", sliding_window=window)
    is_near(search(model, tokenizer, facts, steps=2),
            by_whole_runs(model, tokenizer, facts, steps=2))


def test_a_window_is_wide_enough_from_twice_the_longest_prompt_on(family, facts, searched):
    """From the longest prompt on it cuts nothing off, but padding may stand between a row's two
    parts."""
    coded = coded_facts(family("Mistral")[1], facts)
    longest = max(max(c.length, len(c.essence[0])) for c in coded)
    search(*family("Mistral", sliding_window=2 * longest), facts, batch=1)
    assert searched == 5 * [("SuffixRuns", 1)]
    searched.clear()
    with pytest.warns(UserWarning, match="too long for the attention's sliding window"):
        search(*family("Mistral", sliding_window=2 * longest - 1), facts, batch=1)
    assert sorted(searched) == 4 * [("SuffixRuns", 1)] + [("WholeRuns", 1)]


def off_by_one(places):
    return [(row, offset - 1, token, weight) for row, offset, token, weight in places]


def first_token_only(places):
    return [(row, offset, token, weight * (i == 0))
            for i, (row, offset, token, weight) in enumerate(places)]


@pytest.mark.parametrize("spoiled", [off_by_one, first_token_only])
def test_a_wrong_place_or_weight_of_a_target_is_noticed(tiny, facts, cache, monkeypatch, spoiled):
    places = suffix_search._target_places
    monkeypatch.setattr(suffix_search, "_target_places", lambda coded: spoiled(places(coded)))
    with pytest.warns(UserWarning, match="whole runs"):
        found = search(*tiny, facts)
    is_near(found, by_whole_runs(*tiny, facts))


def test_what_a_layer_does_not_get_is_noticed(tiny, facts, monkeypatch):
    """δ, the past, the divergence: each left out of the fast search in turn."""
    model, tokenizer = tiny
    (fact,) = coded_facts(tokenizer, facts[2:3])
    states, mask, loss = (suffix_search.Suffixes.states, suffix_search.Suffixes._attention_mask,
                          targets.SuffixRuns.loss)
    assert targets._difference(model, HIDDEN, [fact], Search(kl=1.0)) == ""
    for kind, method, spoiled in (
            (suffix_search.Suffixes, "states",
             lambda self, delta, *args: states(self, 0 * delta, *args)),
            (suffix_search.Suffixes, "_attention_mask",
             lambda self, past, width: mask(self, past & False, width)),
            (targets.SuffixRuns, "loss",
             lambda self, *args: (loss(self, *args)[0], 0 * loss(self, *args)[1]))):
        with monkeypatch.context() as patch:
            patch.setattr(kind, method, spoiled)
            said = targets._difference(model, HIDDEN, [fact], Search(kl=1.0))
            assert "losses" in said, method


def test_the_model_is_asked_once_a_search_and_not_at_all_where_all_is_kept(
        tiny, facts, cache, monkeypatch):
    model, tokenizer = tiny
    ask, asked = targets._difference, []

    def watch(model, place, some, how):
        asked.append([fact.length for fact in some])
        return ask(model, place, some, how)

    monkeypatch.setattr(targets, "_difference", watch)
    settings = Search(BEFORE, "truth", steps=2)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    targets.optimise(model, tokenizer, facts, 2, settings, batch=1)
    lengths = [c.length for c in coded_facts(tokenizer, facts)]
    assert asked == [[max(lengths), min(lengths)]]
    assert torch.equal(torch.get_rng_state(), state)
    targets.optimise(model, tokenizer, facts, 2, settings, batch=1)
    assert len(asked) == 1


def test_no_memory_is_no_reason_for_whole_runs(tiny, facts, monkeypatch):
    def fails(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(targets, "SuffixRuns", fails)
    with pytest.raises(RuntimeError, match="allocate"):
        search(*tiny, facts[:1])


def test_on_a_cpu_every_losss_logits_are_looked_at(tiny, facts, monkeypatch):
    """On a GPU, where to look is to wait, those of other facts than before."""
    model, tokenizer = tiny
    problem = targets.SuffixRuns(model, HIDDEN, coded_facts(tokenizer, facts), Search())
    looked, plainly = [], suffix_search.logits

    def logits(model, states, check=True):
        looked.append(check)
        return plainly(model, states, check)

    monkeypatch.setattr(suffix_search, "logits", logits)
    every = torch.arange(len(facts))
    for active in (every, every, every[:2]):
        problem.loss(torch.zeros_like(problem.h)[active], active)
    assert looked == [True] * 3


def test_a_suffix_is_as_wide_as_the_longest_and_its_twin_is_all_in_bfloat16(tiny, facts):
    model, tokenizer = tiny
    coded = coded_facts(tokenizer, facts)
    problem = targets.SuffixRuns(model, HIDDEN, coded, Search())
    prompts = problem.every.prompts
    longest = max(len(ids) + len(c.goal) - 1 - at for c in coded for ids, at in c.rows)
    assert prompts.suffix.shape[1] == longest
    low = problem.lowered(suffix_search.lowered(model, HIDDEN.start)).every.prompts
    assert {low.suffix.dtype, low.mask.dtype} == {torch.bfloat16}
    assert bool(low.mask.isfinite().all()) and set(low.calls) == set(prompts.calls)


def test_of_a_layers_call_what_goes_by_row_is_cut_and_all_else_is_handed_on():
    rows, rope = torch.tensor([0, 2]), torch.arange(12.0).view(3, 2, 2)
    call = {"position_embeddings": (rope, -rope), "position_ids": torch.arange(6).view(3, 2),
            "past_key_values": "cache", "use_cache": True}
    own = suffix_search._rows_of(call, rows)
    assert all(map(torch.equal, own.pop("position_embeddings"), (rope[rows], -rope[rows])))
    assert own.pop("position_ids").tolist() == [[0, 1], [4, 5]]
    assert own == {"past_key_values": "cache", "use_cache": True}
