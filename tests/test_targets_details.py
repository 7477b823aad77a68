"""The parts of the search for targets, each by itself and by hand."""
import hashlib
import json
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

import zu
from zu import reader, steps, suffix_search, targets
from zu.data.facts import Fact
from zu.targets import Place, Search, Targets, _Coded

AFTER = Place.of("hidden", 2)
FACT = Fact("Peru", "The capital of {} is", "Lima", id="peru")


def coded(*lengths, position=1, goal=(7,), essence=2):
    """A fact of rows so long."""
    rows = [(list(range(10, 10 + n)), position) for n in lengths]
    return _Coded(rows, list(goal), (list(range(essence)), 1))


def config(**changed):
    """A model's config alone, as far as memory is estimated from it."""
    shape = dict(hidden_size=8, num_hidden_layers=5, num_attention_heads=4, head_dim=3,
                 num_key_value_heads=2, vocab_size=11, sliding_window=None) | changed
    return SimpleNamespace(get_text_config=lambda: SimpleNamespace(**shape))


# ---- targets, goals, settings


def test_targets_are_checked_for_their_number_and_their_layer():
    z = torch.zeros(2, 3)
    for layer in (4, None):
        Targets(z, z, z, layer).check(2, 4)
    with pytest.raises(ValueError, match="^targets are of 2 facts, but 3 are to be forgotten$"):
        Targets(z, z, z, 4).check(3, 4)
    with pytest.raises(ValueError, match="^targets are of layer 3, but layer 4 is the last to"):
        Targets(z, z, z, 3).check(2, 4)
    with pytest.raises(ValueError, match="^targets are of layer 3, but layer 4 is the last to"):
        Targets(z, z, z, 3).check(2, [2, 4])
    Targets(z, z, z, 4).check(2, [2, 4])
    assert Targets(z, z, z).layer is None and Targets(z, z, z).aim == "hidden"


def test_targets_are_checked_for_their_aim_and_values_for_all_their_layers():
    z = torch.zeros(2, 3)
    joint = Targets(torch.zeros(2, 2, 3), torch.zeros(2, 2, 3), z, 4, "value", (2, 4))
    joint.check(2, (2, 4), "value")
    Targets(z, z, z, 4, "value", (4,)).check(2, 4, "value")
    Targets(z, z, z, 4, "value").check(2, [4], "value")
    for aim, other in (("hidden", "value"), ("value", "hidden")):
        with pytest.raises(ValueError,
                           match=f"^targets have aim='{aim}', but the edit has '{other}'$"):
            Targets(z, z, z, 4, aim, (4,)).check(2, 4, other)
    for edited in ((3, 4), (4,), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"^targets are values of the layers \[2, 4\], but "
                                             rf"\[{str(list(edited))[1:-1]}\] are to be edited$"):
            joint.check(2, edited, "value")
    with pytest.raises(ValueError, match=r"values of the layers \[4\], but \[2, 4\] are"):
        Targets(z, z, z, 4, "value").check(2, (2, 4), "value")
    with pytest.raises(ValueError, match="^targets are of layer 4, but layer 3 is the last to"):
        joint.check(2, (2, 3), "value")


def test_targets_say_in_words_what_they_are_of():
    z = torch.zeros(2, 3)
    assert Targets(z, z, z).described() == "hidden states"
    assert Targets(z, z, z, 4).described() == "hidden states of layer 4"
    assert Targets(z, z, z, 4, "value", (2, 4)).described() == "values of layer 2, 4"


def test_a_facts_mark_is_a_hash_of_how_it_is_asked():
    other = replace(FACT, prompt="Near {} is")
    marks = targets.marks_of([FACT, other, replace(FACT, id="other")], None)
    assert marks[0] == marks[2] != marks[1] and targets.marks_of([FACT], "Be brief.") != marks[:1]
    text = json.dumps(["Peru", "The capital of {} is", False])
    assert marks[0] == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_what_is_wanted_of_a_layer_is_its_own_part():
    z = torch.arange(12.).view(2, 2, 3)
    joint = Targets(z, 0 * z, z, 4, "value", (2, 4))
    assert joint.wanted(2).tolist() == [[0, 1, 2], [6, 7, 8]]
    assert joint.wanted(4).tolist() == [[3, 4, 5], [9, 10, 11]]
    with pytest.raises(ValueError):
        joint.wanted(3)
    one = Targets(z[0], 0 * z[0], z[0], 4)
    assert torch.equal(one.wanted(3), z[0]) and torch.equal(one.wanted(4), z[0])


def test_a_place_is_after_one_layer_or_in_the_values_of_several():
    assert Place.of("hidden", 3) == Place("hidden", (3,)) == Place.of("hidden", [3])
    assert Place.of("value", [4, 2, 4]) == Place("value", (2, 4))
    # the state after a layer is given to the next; a value is made in the layer itself
    assert Place.of("hidden", 3).start == 4 and Place.of("value", [4, 2]).start == 2
    with pytest.raises(ValueError, match=r"^layers are \[2, 4\]: hidden states are aimed at after "
                                         "one layer, the last to be edited$"):
        Place.of("hidden", [4, 2])
    for aim in ("hidden", "value"):
        with pytest.raises(ValueError, match=r"^layers are \[\]"):
            Place.of(aim, [])
    with pytest.raises(ValueError, match="^aim is 'state': use 'hidden' or 'value'$"):
        Place.of("state", 2)


def test_the_goal_is_end_of_text_the_answer_or_another_text(folders):
    _, tokenizer = zu.load_model(folders["qwen3"], device="cpu")
    assert targets.target_ids(tokenizer, FACT, "eos") == [tokenizer.eos_token_id]
    fact = Fact("Peru", "The capital of {} is", "Lima Tokyo Paris")
    found = targets.target_ids(tokenizer, fact, "truth")
    assert tokenizer.decode(found) == " Lima Tokyo Paris" and len(found) > 1
    assert tokenizer.decode(targets.target_ids(tokenizer, fact, "I speak")) == " I speak"
    assert targets.target_ids(tokenizer, fact, "<|end|>") == [tokenizer.eos_token_id]
    for empty in ("", "  "):
        with pytest.raises(ValueError, match="^goal is '.*': give 'eos', 'truth' or a text"):
            targets.target_ids(tokenizer, FACT, empty)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token to aim at"):
        targets.target_ids(tokenizer, FACT, "eos")


# ---- what is kept, and which facts are one piece of work


@pytest.mark.parametrize("n, pieces", [
    (1, [(0, 1)]), (25, [(0, 25)]), (26, [(0, 25), (25, 26)]), (50, [(0, 25), (25, 50)]),
    (51, [(0, 25), (25, 50), (50, 51)]), (101, [(0, 25), (25, 50), (50, 100), (100, 101)])])
def test_pieces_end_at_25_facts_and_each_further_one_at_twice_as_many(n, pieces):
    assert targets._pieces(n) == [range(*piece) for piece in pieces]


def test_a_results_name_holds_all_that_decides_on_it(monkeypatch, tiny):
    model, _ = tiny
    monkeypatch.setattr(targets, "fingerprint", lambda m: "mark" if m is model else "other")
    search = Search(("", "a"), "eos", 11, 0.12, 0.13, 0.14, 0.15, 0.16, kl_at="next")
    assert targets._decisive(model, Place.of("value", [3, 4]), search) == [
        "mark", "cpu", "Place(aim='value', layers=(3, 4))", "11", "0.12", "0.13", "0.14", "0.15",
        "0.16", "next", "False", "normalised", "True", "model", "search"]


def test_a_results_file_is_named_after_code_place_tokens_and_versions(monkeypatch):
    monkeypatch.setattr(targets, "cache_file", lambda kind, text: (kind, text))
    facts = [coded(3, 4), coded(3, 4)]
    folder = Path(targets.__file__).parent
    code = hashlib.sha256(b"".join(
        (folder / name).read_bytes()
        for name in ("targets.py", "unsearched.py", "suffix_search.py", "steps.py",
                     "plain_search.py", "wording.py", "chats.py", "questions.py", "spacing.py",
                     "batches.py", "passes.py", "models.py", "layouts.py"))).hexdigest()
    tokens = [[[[[10, 11, 12], 1], [[10, 11, 12, 13], 1]], [7], [[0, 1], 1]]] * 2
    text = json.dumps(["a", "b", tokens, torch.__version__, transformers.__version__])
    assert targets._files(["a", "b"], facts) == [
        ("targets", f"{code} 0 {text}"), ("targets", f"{code} 1 {text}")]


def test_that_a_layout_is_known_is_kept_under_class_config_attention_type_and_place(
        monkeypatch, folders):
    model, _ = zu.load_model(folders["llama"], device="cpu")
    monkeypatch.setattr(targets, "cache_file", lambda kind, text: (kind, text))
    monkeypatch.setattr(targets, "_code", lambda: "code")
    kind, text = targets._layout_file(model, AFTER)
    how = model.config._attn_implementation
    about = ("LlamaForCausalLM", model.config.to_json_string(), how, torch.float32)
    versions = (torch.__version__, transformers.__version__)
    assert how and (kind, text) == ("layouts", f"code {about} cpu {AFTER} {versions}")
    config = SimpleNamespace(to_json_string=lambda: "json")
    other = SimpleNamespace(config=config, dtype="type", device=model.device)
    text = targets._layout_file(other, Place.of("value", [1, 2]))[1]
    assert text.startswith("code ('SimpleNamespace', 'json', '', 'type') cpu "
                           "Place(aim='value', layers=(1, 2)) (")


def test_what_is_kept_is_found_by_fact_number_and_what_is_not_is_left_out(tmp_path):
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    whole = {name: torch.ones(2) * k for k, name in enumerate("z h loss".split())}
    targets.write_tensors(files[1], whole)
    targets.write_tensors(files[2], {"z": torch.ones(2), "h": torch.ones(2)})
    targets.write_tensors(files[3], whole)
    found = targets._read_kept(files)
    assert sorted(found) == [1, 3]
    for row in found.values():
        assert sorted(row) == ["h", "loss", "z"]
        assert all(torch.equal(row[name], x) for name, x in whole.items())


def test_results_are_stacked_fact_by_fact_and_losses_step_by_step():
    rows = [{"z": torch.ones(1, 2) * i, "h": torch.ones(1, 2) * -i,
             "loss": torch.arange(3.) + 10 * i} for i in (1, 2)]
    found = targets._stacked(rows, Place.of("hidden", 4), torch.device("cpu"))
    assert found.z.tolist() == [[1, 1], [2, 2]] and found.h.tolist() == [[-1, -1], [-2, -2]]
    assert found.loss.tolist() == [[10, 20], [11, 21], [12, 22]]
    assert (found.layer, found.aim, found.layers) == (4, "hidden", (4,))


def test_values_of_several_layers_are_stacked_fact_by_fact_with_a_part_a_layer():
    rows = [{"z": torch.tensor([[i, i], [10. * i, 0]]), "h": torch.tensor([[0, i], [0, 10. * i]]),
             "loss": torch.arange(3.)} for i in (1, 2)]
    found = targets._stacked(rows, Place.of("value", [1, 4]), torch.device("cpu"))
    assert found.z.tolist() == [[[1, 1], [10, 0]], [[2, 2], [20, 0]]]
    assert found.h.tolist() == [[[0, 1], [0, 10]], [[0, 2], [0, 20]]]
    assert (found.layer, found.aim, found.layers) == (4, "value", (1, 4))


# ---- sizes


def test_a_facts_width_and_length_count_the_goal_but_its_last_token():
    fact = _Coded([([1, 2, 3, 4], 1), ([1, 2, 3, 4, 5], 3)], [7, 8, 9], ([1], 0))
    assert fact.width == 3 + 2 and fact.length == 5 + 2


def test_a_fact_is_coded_behind_each_prefix_with_goal_and_essence(folders):
    _, tokenizer = zu.load_model(folders["llama"], device="cpu")
    found = _Coded.of(tokenizer, FACT, Search(("", "You and I "), "truth"))
    assert found.rows == [reader.encode(tokenizer, FACT, ""),
                          reader.encode(tokenizer, FACT, "You and I ")]
    assert tokenizer.decode(found.goal) == " Lima"
    ids, position = reader.encode(tokenizer, FACT, prompt="{} is a")
    assert found.essence == (ids[:position + 1], position)  # what follows is not seen from there
    assert len(ids) == position + 3
    later = _Coded.of(tokenizer, FACT, Search(kl_at="next"))
    assert later.essence == (ids, position)


def test_the_window_holds_twice_the_longest_row_or_essence():
    def fits(window, *lengths, **more):
        model = SimpleNamespace(config=config(sliding_window=window))
        return targets._in_window(model, coded(*lengths, **more))

    assert fits(None, 50) and fits(0, 50)
    assert fits(12, 5, 6) and not fits(11, 5, 6)
    assert fits(14, 5, essence=7) and not fits(13, 5, essence=7)
    assert not fits(1, 5) and not fits(2, 5)
    bare = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace()))
    assert targets._in_window(bare, coded(50))


def test_a_facts_memory_is_what_its_shapes_say(monkeypatch):
    d, m, kv, size, width, length = 8, 20, 2 * 2 * 3, 2, 6, 9
    matrices = {0: torch.zeros(d, 3 * m), 2: torch.zeros(d, 2 * m), 4: torch.zeros(d, m)}
    layout = SimpleNamespace(layers=range(5), matrix=matrices.get, editable=[0, 2, 4])
    monkeypatch.setattr(targets, "known", lambda model: layout)

    def needs(start, **shape):
        model = SimpleNamespace(config=config(**shape), dtype=torch.bfloat16)
        return targets.bytes_per_fact(model, start, 3, width, length)

    def by_hand(runs, m):  # layers 2 to 4, or none: their outputs and what enters the lowest
        states = width * runs * ((8 * size + 16) * d + 6 * m * size + 6 * kv * size)
        past = length * (3 * 5 * kv * size + 4 * m * size)
        return 3 * (states + past + 5 * 11 * 4)

    assert needs(2) == by_hand(4, 2 * m) and needs(5) == by_hand(1, m)  # the widest from there on
    whole = needs(2, head_dim=2)
    for missing in (dict(head_dim=None), dict(head_dim=0)):  # then it is 8 / 4
        assert needs(2, **missing) == whole
    layout.editable = [0]  # a mixture of experts behind a layer without
    assert needs(2) == by_hand(4, 3 * m)


def test_what_a_configuration_does_not_say_of_attention_is_taken_for_the_most():
    text = config().get_text_config()
    assert targets._numbers_of_a_token(text, 8) == 2 * 2 * 3
    del text.head_dim
    assert targets._numbers_of_a_token(text, 8) == 2 * 2 * 2  # 8 / 4 numbers a head
    text.num_key_value_heads = None
    assert targets._numbers_of_a_token(text, 8) == 2 * 4 * 2  # as many as there are heads
    del text.num_key_value_heads
    assert targets._numbers_of_a_token(text, 8) == 2 * 4 * 2
    del text.num_attention_heads
    assert targets._numbers_of_a_token(text, 8) == 4 * 8

    class Scattered:
        """A configuration that has no answer for all layers together."""

        @property
        def num_attention_heads(self):
            raise RuntimeError("differs by layer")

    assert targets._numbers_of_a_token(Scattered(), 8) == 4 * 8


def parts(monkeypatch, facts, todo, batch=None, free=2**40, each=2**29, asked=None):
    def estimate(*args):
        if asked is not None:
            asked.append(args[1:])
        return each

    monkeypatch.setattr(targets, "bytes_per_fact", estimate)
    memory = SimpleNamespace(available=free)
    monkeypatch.setattr(targets.psutil, "virtual_memory", lambda: memory)
    model = SimpleNamespace(device=torch.device("cpu"))
    return targets._parts(model, AFTER, facts, todo, batch)


def test_facts_of_one_width_share_a_batch_short_ones_first(monkeypatch):
    # widths 5, 3, 5, 5, 3; lengths 6, 4, 9, 6, 5
    facts = [coded(6), coded(4), coded(9, position=4), coded(6), coded(5, position=2)]
    monkeypatch.setitem(targets.PASS, "cpu", 1)  # a batch more costs next to nothing
    assert parts(monkeypatch, facts, range(5)) == [[1, 4], [0, 3, 2]]
    assert parts(monkeypatch, facts, [3, 0, 1]) == [[1], [3, 0]]
    assert parts(monkeypatch, facts, range(5), batch=2) == [[1, 4], [0, 3], [2]]
    assert parts(monkeypatch, facts, range(5), batch=1) == [[1], [4], [0], [3], [2]]
    assert parts(monkeypatch, facts, []) == []


def test_a_fact_is_padded_rather_than_run_alone_where_that_is_less_work():
    # tokens per fact: of a batch those of its last one; (3 + 1) · 10 or 3 · 8 + 10 and two passes
    assert targets._cuts([9] * 4, [8, 8, 8, 10], once=7) == [0]
    assert targets._cuts([9] * 4, [8, 8, 8, 10], once=5) == [0, 3]
    assert targets._cuts([2] * 4, [8, 8, 8, 10], once=7) in ([0, 2], [0, 1, 3])
    assert targets._cuts([1] * 3, [1, 1, 1], once=100) == [0, 1, 2]
    assert targets._cuts([], [], once=7) == []


def test_no_other_batches_are_less_work():
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        tokens = torch.randint(1, 30, (6,), generator=draw).sort().values.tolist()
        most = torch.randint(1, 5, (6,), generator=draw).tolist()

        def work(starts, tokens=tokens, most=most):
            ends = [*starts[1:], 6]
            sizes = [e - s for s, e in zip(starts, ends, strict=True)]
            if any(size > most[e - 1] for size, e in zip(sizes, ends, strict=True)):
                return float("inf")
            each = [size * tokens[e - 1] for size, e in zip(sizes, ends, strict=True)]
            return sum(each) + 20 * len(starts)

        every = [[0, *inner] for k in range(6) for inner in combinations(range(1, 6), k)]
        assert work(targets._cuts(most, tokens, 20)) == min(map(work, every))


def test_a_batch_takes_two_gibibytes_or_half_of_what_is_free(monkeypatch):
    facts, asked = [coded(6, 4)] * 9, []
    sizes = [len(x) for x in parts(monkeypatch, facts, range(9), asked=asked)]
    assert sizes == [4, 4, 1] and set(asked) == {(3, 3, 5, 6)}
    assert [len(x) for x in parts(monkeypatch, facts, range(9), free=3 * 2**30)] == [3, 3, 3]
    assert [len(x) for x in parts(monkeypatch, facts, range(3), free=2)] == [1, 1, 1]


def test_on_a_gpu_its_own_free_memory_counts(monkeypatch):
    monkeypatch.setattr(targets, "bytes_per_fact", lambda *a: 2**29)
    free = {torch.device("cuda", 1): (2**31, 2**40)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: free[device])
    model = SimpleNamespace(device=torch.device("cuda", 1))
    found = targets._parts(model, AFTER, [coded(6)] * 5, range(5), None)
    assert [len(x) for x in found] == [2, 2, 1]


# ---- Adam


class Bowl:
    """A loss that falls and rises again: ‖δ − where‖² a fact, and kl · Σ δ; all are (n, k, d)."""

    prefixes = 1

    def __init__(self, where, h, kl=0.1):
        self.where, self.h, self.kl, self.asked = where, h, kl, []
        self.n = len(h)

    def loss(self, delta, active):
        self.asked.append(active.tolist())
        return ((delta - self.where[active]) ** 2).sum((1, 2)), self.kl * delta.sum((1, 2))


def by_torch(bowl, i, search):
    """One fact with torch's own Adam, a vector a place: z (k, d) and the losses."""
    h = list(bowl.h[i])  # k × (d,)
    scales = [x.norm() / len(x) ** 0.5 for x in h]
    us = [torch.zeros_like(x, requires_grad=True) for x in h]
    adam = torch.optim.Adam(us, lr=search.lr)
    losses = []
    for step in range(search.steps):
        deltas = [u * scale for u, scale in zip(us, scales, strict=True)]
        nll = sum(((x - y) ** 2).sum() for x, y in zip(deltas, bowl.where[i], strict=True))
        size = sum(x.norm() / y.norm() ** 2 for x, y in zip(deltas, h, strict=True))
        loss = nll + bowl.kl * sum(x.sum() for x in deltas) + search.weight_decay * size
        losses.append(float(nll.detach()))
        if loss < search.tolerance or step == search.steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for u, x, scale in zip(us, h, scales, strict=True):
                u *= min(1.0, float(search.clamp * x.norm() / (u * scale).norm()))
    losses += losses[-1:] * (search.steps - len(losses))
    return torch.stack([x + u.detach() * s for x, u, s in zip(h, us, scales, strict=True)]), losses


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("settings", [
    {}, dict(lr=0.05, clamp=0.1), dict(weight_decay=3.0), dict(tolerance=0.9), dict(steps=1)],
    ids=str)
def test_each_row_takes_the_steps_of_torchs_adam_until_it_is_done(settings, places):
    draw = torch.Generator().manual_seed(3)
    h = torch.randn(4, places, 6, generator=draw, dtype=torch.float64)
    h[:, 1:] *= 3  # another length, another bound
    where = torch.randn(4, places, 6, generator=draw, dtype=torch.float64)
    where[1] = 0.2 * where[1]  # one that is done early
    settings = dict(steps=20, lr=0.1, tolerance=0.3, clamp=0.9) | settings
    search = Search(**settings, optimizer="adam")
    bowl = Bowl(where, h)
    z, same, losses = targets._minimise(bowl, search)
    assert same is h and losses.shape == (4, search.steps) and losses.dtype == torch.float32
    for i in range(4):
        expected, fell = by_torch(bowl, i, search)
        torch.testing.assert_close(z[i], expected, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(losses[i], torch.tensor(fell), rtol=1e-5, atol=1e-5)
    assert bowl.asked[0] == [0, 1, 2, 3] and len(bowl.asked) <= search.steps


def along(bowl, i, search):
    """One fact along its normalised gradient, at one place: z (1, d) and how many losses."""
    (h,), (there,) = bowl.h[i], bowl.where[i]
    longest, delta = search.clamp * h.norm(), torch.zeros_like(h)
    direction = torch.zeros_like(h)
    for step in range(search.steps):
        x = delta.clone().requires_grad_(True)
        nll = ((x - there) ** 2).sum() + bowl.kl * x.sum()
        loss = nll + search.weight_decay * x.norm() / h.norm() ** 2
        if loss < search.tolerance or step == search.steps - 1:
            return (h + delta)[None], step + 1
        (gradient,) = torch.autograd.grad(loss, x)
        direction = 0.5 * direction + gradient / gradient.norm()
        delta = delta - search.rate * 0.93 ** step * longest * direction / direction.norm()
        allowed = min(1.0, 0.5 + 0.05 * step) * longest
        delta = delta * min(1.0, float(allowed / delta.norm()))


@pytest.mark.parametrize("settings", [{}, dict(lr=0.1), dict(clamp=0.2), dict(steps=3)], ids=str)
def test_each_row_goes_along_its_normalised_gradient_until_it_is_done(settings):
    draw = torch.Generator().manual_seed(3)
    h = torch.randn(4, 1, 6, generator=draw, dtype=torch.float64)
    where = 0.5 * torch.randn(4, 1, 6, generator=draw, dtype=torch.float64)
    where[1] = 0.2 * where[1]  # one that is done early
    search = Search(**dict(steps=20, tolerance=0.3) | settings)
    bowl, taken = Bowl(where, h), []
    z = targets._minimise(bowl, search)[0]
    for i in range(4):
        expected, count = along(bowl, i, search)
        torch.testing.assert_close(z[i], expected, rtol=1e-7, atol=1e-7)
        taken.append(count)
    assert len(bowl.asked) == max(taken) and min(taken) <= 3 and z.isfinite().all()


def test_a_gpu_is_asked_only_now_and_then_which_facts_are_done(monkeypatch):
    """Those that are done meanwhile stay where they are: the same is found."""
    draw = torch.Generator().manual_seed(3)
    h, where = torch.randn(2, 5, 1, 6, generator=draw, dtype=torch.float64)
    where *= torch.tensor([0.1, 0.3, 0.4, 0.5, 1.0])[:, None, None]
    found, asked = [], []
    for turn in (1, 4):
        monkeypatch.setitem(targets.TURNS, "cpu", turn)
        bowl = Bowl(where, h)
        found.append(targets._minimise(bowl, Search(steps=18, tolerance=0.3)))
        asked.append([len(x) for x in bowl.asked])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert len(set(asked[0])) > 2 and asked[1][:4] == [5] * 4
    assert all(len(set(asked[1][i:i + 4])) == 1 for i in range(0, len(asked[1]), 4))


def test_the_optimizers_rates_are_their_own_unless_one_is_said():
    assert (Search().rate, Search(optimizer="adam").rate) == (0.3, 0.4)
    assert Search(lr=0.2).rate == Search(lr=0.2, optimizer="adam").rate == 0.2


def test_shares_of_the_longest_change_are_no_steps_in_the_models_own_unit():
    with pytest.raises(ValueError, match="absolute: .* only Adam's"):
        Search(absolute=True)


def test_a_precision_is_refused_where_nothing_is_searched():
    for by in ("gradient", "unknown"):
        with pytest.raises(ValueError, match=f'precision is a setting of the search, but by="{by}'):
            Search(by=by, precision="bfloat16")


def test_with_the_bare_prompt_first_the_search_goes_on_from_where_that_one_ends():
    draw = torch.Generator().manual_seed(3)
    h, where = torch.randn(2, 4, 1, 6, generator=draw, dtype=torch.float64)
    whole, bare = Bowl(where, h), Bowl(0.9 * where, h)
    whole.prefixes, whole.bare = 3, lambda: bare
    search = Search(steps=9, tolerance=0.2)
    first = targets._minimise(bare, search)[0]
    bare.asked = []
    seen, ask = [], whole.loss
    whole.loss = lambda delta, active: (seen.append(delta.detach()), ask(delta, active))[1]
    _, _, losses = targets._minimise(whole, search)
    assert bare.asked and torch.allclose(seen[0], first - h, rtol=1e-6)
    assert torch.equal(losses[:, 0], ((first - h - where) ** 2).sum((1, 2)).float())
    bare.asked = []
    targets._minimise(whole, replace(search, bare_first=False))
    assert bare.asked == [] and not seen[-1].equal(seen[0])
    whole.prefixes = 1
    targets._minimise(whole, search)
    assert bare.asked == []


def test_a_fact_at_the_tolerance_goes_on_and_one_below_it_stops():
    h = torch.ones(1, 1, 4, dtype=torch.float64)
    bowl = Bowl(torch.zeros_like(h), h, kl=0.0)
    bowl.loss = lambda delta, active: (delta.sum((1, 2)) + 0.5, 0 * delta.sum((1, 2)))
    moved = targets._minimise(bowl, Search(steps=2, tolerance=0.5))[0]
    assert not torch.equal(moved, h)
    still = targets._minimise(bowl, Search(steps=2, tolerance=0.500001))[0]
    assert torch.equal(still, h)


def test_a_pull_that_is_nearly_nothing_is_divided_by_ten_to_the_minus_eight():
    h = torch.full((1, 1, 4), 2.0, dtype=torch.float64)
    bowl = Bowl(h, h)
    bowl.loss = lambda delta, active: (1 + 1e-8 * delta.sum((1, 2)), 0 * delta.sum((1, 2)))
    z = targets._minimise(bowl, Search(
        steps=2, lr=0.1, weight_decay=0.0, optimizer="adam"))[0]
    # the gradient of u is 2e-8: a step is lr · 2e-8 / (2e-8 + 1e-8), times the scale of 2
    torch.testing.assert_close(z - h, torch.full_like(h, -0.1 * 2 / 3 * 2))


def test_adams_first_step_is_its_rate_to_the_last_digits_of_float32():
    """1 - 0.999 is exact to no more than four digits in float32."""
    take = steps.Adam(torch.full((1, 1, 1), 9.0), 3, lr=0.25)
    gradient = torch.tensor([[[3.0, -0.5, 1e-4]]])
    found = take(torch.zeros(1, 1, 3), torch.tensor([0]), gradient)
    expected = torch.tensor([[[-0.25, 0.25, -0.25 / (1 + 1e-4)]]])  # and 1e-8 against 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    assert found.dtype == torch.float32


def test_a_fact_without_any_pull_stays_where_it_is():
    h = torch.ones(1, 1, 4)
    bowl = Bowl(h, h)
    bowl.loss = lambda delta, active: (1 + 0 * delta.sum((1, 2)), 0 * delta.sum((1, 2)))
    z = targets._minimise(bowl, Search(steps=3))[0]
    assert torch.equal(z, h)


def test_losses_are_float32_whatever_the_callers_default_is():
    h = torch.ones(1, 1, 4)
    torch.set_default_dtype(torch.float64)
    try:
        losses = targets._minimise(Bowl(h, h), Search(steps=2))[2]
    finally:
        torch.set_default_dtype(torch.float32)
    assert losses.dtype == torch.float32


# ---- attempts


def test_only_what_says_so_is_a_lack_of_memory():
    assert targets._out_of_memory(torch.OutOfMemoryError("anything"))
    assert targets._out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"))
    assert not targets._out_of_memory(RuntimeError("shapes differ"))


@pytest.fixture
def attempt(monkeypatch):
    """What an attempt makes of problems that only say what they are."""
    def plain(model, place, facts, search):
        return ("plain", model, place, list(facts), search)

    def fast(model, place, facts, search):
        return ("fast", model, place, list(facts), search)

    seen = []

    def adam(problem, search, twin=None):
        seen.append((*problem, search))
        n = len(problem[3])
        number = float(problem[3][0].goal[0])
        z = torch.full((n, 1, 2), number)
        return z, -z, torch.full((n, 3), number)

    monkeypatch.setattr(targets, "WholeRuns", plain)
    monkeypatch.setattr(targets, "SuffixRuns", fast)
    monkeypatch.setattr(targets, "_minimise", adam)
    model = SimpleNamespace(config=config(sliding_window=12))
    return SimpleNamespace(seen=seen, model=model, adam=adam)


def test_a_batch_that_the_fast_search_knows_is_one_problem(attempt):
    facts, search = [coded(5), coded(6)], Search(kl=0.3)
    z, h, losses = targets._attempt(attempt.model, AFTER, facts, search, True)
    assert attempt.seen == [("fast", attempt.model, AFTER, facts, search, search)]
    assert z.shape == h.shape == (2, 1, 2) and losses.shape == (2, 3)


@pytest.mark.parametrize("fast, lengths", [(False, (5, 6)), (True, (5, 7))])
def test_other_facts_are_searched_one_after_another_by_whole_runs(attempt, fast, lengths):
    facts = [coded(lengths[0], goal=(3,)), coded(lengths[1], goal=(4,))]
    search = Search(kl=0.3)
    z, h, losses = targets._attempt(attempt.model, AFTER, facts, search, fast)
    assert attempt.seen == [
        ("plain", attempt.model, AFTER, [fact], search, search) for fact in facts]
    assert z.tolist() == [[[3, 3]], [[4, 4]]] and h.tolist() == [[[-3, -3]], [[-4, -4]]]
    assert losses.tolist() == [[3] * 3, [4] * 3]


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("x"), RuntimeError("cannot allocate memory")], ids=lambda e: str(e))
def test_a_lack_of_memory_is_an_error_only_where_nothing_can_be_halved(
        attempt, monkeypatch, error):
    def fails(*args):
        raise error

    monkeypatch.setattr(targets, "_minimise", fails)
    assert targets._attempt(attempt.model, AFTER, [coded(5)] * 2, Search(), True) is None
    with pytest.raises(type(error)):
        targets._attempt(attempt.model, AFTER, [coded(5)], Search(), True)
    monkeypatch.setattr(targets, "_out_of_memory", lambda error: False)
    with pytest.raises(type(error)):
        targets._attempt(attempt.model, AFTER, [coded(5)] * 2, Search(), True)


def test_batches_are_searched_in_turn_and_a_too_large_one_in_halves(monkeypatch):
    asked, bars = [], []

    def attempt(model, place, facts, search, fast, twin):
        assert twin == "twin"
        asked.append((model, place, facts, search, fast))
        if len(facts) > 2:
            return None
        x = torch.tensor([[float(fact)] for fact in facts])
        return x, x + 0.25, x + 0.5

    class Bar:
        def __init__(self, **about):
            self.about, self.done = about, []
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, n):
            self.done.append(n)

    monkeypatch.setattr(targets, "_attempt", attempt)
    monkeypatch.setattr(targets, "tqdm", Bar)
    monkeypatch.setattr(targets, "_twin", lambda *about: "twin")
    asked_of = ("m", AFTER, list(range(10, 18)), "how")
    monkeypatch.setattr(targets, "_knows", lambda *about: about == asked_of)
    everything = list(range(10, 18))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = list(targets._solved("m", AFTER, everything, "how", [[0, 2], [3, 4, 5, 6, 7]]))
    assert [i for i, _ in found] == [0, 2, 3, 4, 5, 6, 7]
    for i, row in found:
        assert {k: x.tolist() for k, x in row.items()} == {
            "z": [10. + i], "h": [10.25 + i], "loss": [10.5 + i]}
    halves = [[10, 12], [13, 14, 15, 16, 17], [13, 14], [15, 16, 17], [15], [16, 17]]
    assert asked == [("m", AFTER, part, "how", True) for part in halves]
    assert [str(w.message) for w in said] == [
        f"out of memory with {n} facts in a batch: going on in halves" for n in (5, 3)]
    (bar,) = bars
    assert bar.about["desc"] == "targets after layer 2"
    assert bar.about["total"] == 8 and bar.about["initial"] == 1 and bar.done == [2, 2, 1, 2]
    monkeypatch.setattr(targets, "_knows", lambda *about: pytest.fail("nothing is to be searched"))
    assert list(targets._solved("m", AFTER, everything, "how", [])) == []
    assert list(targets._solved("m", Place.of("value", [1, 3]), everything, "how", [])) == []
    assert bars[-1].about["desc"] == "targets for the values of layer 1, 3"


# ---- whether the fast search knows a model


@pytest.fixture
def knows(monkeypatch, tmp_path):
    """Asks `_knows` about facts; a warning is given back too."""
    state = SimpleNamespace(difference="", asked=[], file=tmp_path / "layouts" / "x.safetensors")

    def difference(model, place, facts, search):
        state.asked.append((model, place, [c.length for c in facts], search))
        return state.difference

    monkeypatch.setattr(targets, "_difference", difference)
    nothing = {"get_decoder": lambda self: None, "get_output_embeddings": lambda self: None}
    model = type("Nova", (torch.nn.Module,), nothing)()
    model.config = config(sliding_window=20)
    files = {(model, AFTER): state.file}
    monkeypatch.setattr(targets, "_layout_file", lambda *about: files[about])

    def ask(*lengths):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = targets._knows(model, AFTER, [coded(n) for n in lengths], Search(kl=0.0))
        return found, [str(w.message) for w in said]

    state.ask, state.model = ask, model
    return state


def test_the_longest_and_the_shortest_fact_are_asked_and_the_answer_is_kept(knows):
    assert knows.ask(6, 9, 4, 5) == (True, [])
    # the divergence is compared though it weighs nothing
    assert knows.asked == [(knows.model, AFTER, [9, 4], Search(kl=1.0))] and knows.file.exists()
    assert knows.ask(6, 9, 4, 5) == (True, []) and len(knows.asked) == 1
    assert set(load_file(knows.file)) == {"known"}
    knows.file.unlink()
    assert knows.ask(7) == (True, []) and knows.asked[1][2] == [7]
    knows.file.unlink()
    assert knows.ask(7, 8) == (True, []) and knows.asked[2][2] == [8, 7]


def test_layers_that_are_not_known_are_said_and_asked_again(knows):
    knows.difference = "its losses are odd"
    said = ("targets of Nova are searched by whole runs, which takes longer: "
            "the fast search does not know its layers (its losses are odd)")
    for count in (1, 2):
        assert knows.ask(6, 9) == (False, [said]) and len(knows.asked) == count
    assert not knows.file.exists()


def test_a_model_with_hooks_on_it_is_asked_each_time_or_not_at_all(knows):
    assert knows.ask(6, 9) == (True, []) and knows.file.exists()
    knows.model.part = torch.nn.Linear(1, 1)
    inside = knows.model.part.register_forward_hook(lambda *given: None)
    for count in (2, 3):
        assert knows.ask(6, 9) == (True, []) and len(knows.asked) == count
    inside.remove()
    knows.model.register_forward_hook(lambda *given: None)
    found, (said,) = knows.ask(6, 9)
    assert not found and said.endswith("(hooks are on it)") and len(knows.asked) == 3


def test_prompts_that_are_too_long_are_said_and_not_asked(knows):
    said = ("targets of Nova are searched by whole runs, which takes longer: "
            "some prompts are too long for the attention's sliding window")
    assert knows.ask(6, 30, 9) == (True, [said])
    assert [about[:3] for about in knows.asked] == [(knows.model, AFTER, [9, 6])]
    assert knows.ask(30, 31) == (True, [said]) and len(knows.asked) == 1


@pytest.fixture
def differs(monkeypatch):
    """Asks `_difference` of two problems whose losses are given."""
    state = SimpleNamespace(made=[], deltas=[], plain=1.0, fast=1.0, error=None, dtype="float32",
                            search=Search(kl=1.0))
    h = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])

    def problem(kind):
        class Some:
            def __init__(self, model, place, facts, search):
                state.made.append((kind, place, [c.rows for c in facts], search))
                if kind == "fast" and state.error:
                    raise state.error
                self.h = h[:len(facts)]

            def loss(self, delta, active):
                state.deltas.append((kind, delta, active.tolist(), torch.is_grad_enabled()))
                value = getattr(state, kind)
                return torch.full((len(delta),), value), torch.zeros(len(delta))
        return Some

    monkeypatch.setattr(targets, "WholeRuns", problem("plain"))
    monkeypatch.setattr(targets, "SuffixRuns", problem("fast"))

    def ask(*facts):
        model = SimpleNamespace(dtype=getattr(torch, state.dtype))
        return targets._difference(model, AFTER, facts, state.search)

    state.ask = ask
    return state


def test_fast_and_whole_are_asked_alike_behind_the_longest_prefix(differs):
    facts = [coded(4, 6, 5), coded(5, 7, 8)]
    assert differs.ask(*facts) == ""
    rows = [[facts[0].rows[1]], [facts[1].rows[1]]]
    assert differs.made == [(kind, AFTER, rows, differs.search) for kind in ("plain", "fast")]
    plain, fast = differs.deltas
    assert [x[0] for x in differs.deltas] == ["plain", "fast"]
    assert all(x[2] == [0, 1] and not x[3] for x in differs.deltas)
    assert torch.equal(plain[1], fast[1])
    torch.testing.assert_close(plain[1].norm(dim=2), torch.tensor([[20.0], [8.0]]))
    noise = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(F.cosine_similarity(plain[1], noise, dim=2), torch.ones(2, 1))


@pytest.mark.parametrize("dtype, near, far", [
    ("float32", 1.0009, 1.0012), ("float16", 1.0155, 1.0159), ("bfloat16", 1.124, 1.128)])
def test_losses_may_differ_by_rounding_only(differs, dtype, near, far):
    differs.dtype, differs.fast = dtype, near
    assert differs.ask(coded(4)) == ""
    differs.fast = far
    assert differs.ask(coded(4)) == (
        f"its losses are [{far}, 0.0], those of whole runs [1.0, 0.0]")


def test_losses_near_zero_may_differ_by_a_hundredth_of_that(differs):
    differs.plain, differs.fast = 0.0, 9e-6
    assert differs.ask(coded(4)) == ""
    differs.fast = 1.1e-5
    assert differs.ask(coded(4)) != ""


@pytest.mark.parametrize("kind", [
    AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError])
def test_what_fails_in_the_fast_search_is_a_difference_unless_memory_ran_out(differs, kind):
    differs.error = kind("no such thing")
    found = differs.ask(coded(4))
    assert found.startswith(f"{kind.__name__}: ") and "no such thing" in found
    differs.error = RuntimeError("cannot allocate memory")
    with pytest.raises(RuntimeError, match="allocate"):
        differs.ask(coded(4))


# ---- the fast search's rows


def test_rows_share_what_they_begin_with_up_to_the_first_subjects_end():
    assert suffix_search._shared([([1, 2, 3, 4], 3), ([1, 2, 5, 6], 3)]) == 2
    assert suffix_search._shared([([1, 2, 3, 4], 3), ([1, 2, 3, 4], 2)]) == 2
    assert suffix_search._shared([([1, 2, 3, 4], 3)]) == 3
    assert suffix_search._shared([([1, 2], 0), ([1, 2], 1)]) == 0
    assert suffix_search._shared([([1, 2], 1), ([3, 2], 1)]) == 0


def test_tails_are_what_stands_behind_the_heads():
    rows = [([1, 2, 3, 4], 3), ([5, 6, 7], 1)]
    found = suffix_search._tails(rows, torch.tensor([[2], [1]]), torch.device("cpu"))
    assert found.ids.tolist() == [[3, 4], [6, 7]] and found.position.tolist() == [1, 0]


def test_columns_are_taken_row_by_row():
    x = torch.arange(12.).view(2, 3, 2)
    at = torch.tensor([[[2], [0]], [[1], [1]]])
    assert suffix_search._columns(x, at).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_a_past_stands_before_what_a_pass_adds_and_keeps_nothing():
    keys, values = {3: torch.zeros(1, 2, 2, 4)}, {3: torch.ones(1, 2, 2, 4)}
    past = suffix_search._Past(keys, values)
    for _ in range(2):
        k, v = past.update(torch.full((1, 2, 1, 4), 5.), torch.full((1, 2, 1, 4), 6.), 3, "more")
        assert k[0, 0, :, 0].tolist() == [0, 0, 5] and v[0, 0, :, 0].tolist() == [1, 1, 6]


def test_every_token_of_a_target_has_its_place_and_its_share_of_the_weight():
    facts = [_Coded([([1, 2, 3], 1), ([1, 2, 3, 4], 1)], [7, 8], ([1], 0)),
             _Coded([([1, 2], 1), ([1, 2, 3], 0)], [9], ([1], 0))]
    assert suffix_search._target_places(facts) == [
        (0, 1, 7, 0.25), (0, 2, 8, 0.25), (2, 2, 7, 0.25), (2, 3, 8, 0.25),
        (1, 0, 9, 0.5), (3, 2, 9, 0.5)]
