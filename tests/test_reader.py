"""Keys, values and states are read at the subject's last token, however prompts are batched."""
import copy

import pytest
import torch
import transformers

import zu
from zu import models, reader
from zu.data.facts import Fact, FactError


def by_hand(model, ids, layer, position):
    """Key, value and hidden state of one unpadded sequence, through the whole model."""
    seen = {}
    linear = models.down_proj(model, layer)
    handles = [linear.register_forward_hook(lambda m, a, o: seen.update(key=a[0], value=o))]
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    handles[0].remove()
    # the last entry of hidden_states is normed, so this holds below the last layer
    state = out.hidden_states[layer + 1][0, position]
    return seen["key"][0, position], seen["value"][0, position], state


def test_a_batch_gives_what_each_prompt_gives_alone(tiny, facts):
    model, tokenizer = tiny
    rows = [reader.encode(tokenizer, fact) for fact in facts]
    for tokens in (1, 30, 4096):
        seen = reader.trace(model, reader.collate(rows), [1, 3], tokens=tokens)
        for layer in (1, 3):
            for i, (ids, position) in enumerate(rows):
                key, value, hidden = by_hand(model, ids, layer, position)
                torch.testing.assert_close(seen.keys[layer][i], key, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(seen.values[layer][i], value, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(seen.hidden[layer][i], hidden, rtol=1e-5, atol=1e-5)


def test_what_enters_the_lowest_layer_is_read_once_and_the_rest_is_the_same_bit_for_bit(
        tiny, facts):
    model, tokenizer = tiny
    batch = reader.collate([reader.encode(tokenizer, fact) for fact in facts])
    below, runs = reader.Reader(model, tokenizer, 1), []
    for i, layer in enumerate(models.decoder(model).layers):
        layer.register_forward_hook(lambda *a, i=i: runs.append(i))
    first = reader.trace(model, batch, [1, 3], tokens=20, run=below.run)
    plain = reader.trace(model, batch, [1, 3], tokens=20)
    assert torch.equal(first.keys[1], plain.keys[1]) and len(below.seen) > 1
    with torch.no_grad():
        models.down_proj(model, 1).weight.mul_(1.5)  # as an edit would, between two layers
    plain = reader.trace(model, batch, [2, 3], tokens=20)
    runs.clear()
    again = reader.trace(model, batch, [2, 3], tokens=20, run=below.run)
    assert set(runs) == {1, 2, 3} and not torch.equal(again.hidden[3], first.hidden[3])
    for kind in ("keys", "values", "hidden"):
        for layer in (2, 3):
            assert torch.equal(getattr(again, kind)[layer], getattr(plain, kind)[layer])


def test_padding_on_the_left_gives_what_padding_on_the_right_gives(tiny, facts):
    model, tokenizer = tiny
    right = reader.collate([reader.encode(tokenizer, fact) for fact in facts])
    pad = right.ids.shape[1] - right.mask.sum(1)
    assert pad.any()
    back = (torch.arange(right.ids.shape[1]) - pad[:, None]) % right.ids.shape[1]
    left = reader.Batch(right.ids.gather(1, back), right.mask.gather(1, back), right.position + pad)
    assert (left.mask[:, -1] == 1).all()
    for tokens in (20, 4096):
        ours, theirs = (reader.trace(model, side, [1, 3], tokens=tokens)
                        for side in (left, right))
        for layer in (1, 3):
            torch.testing.assert_close(ours.keys[layer], theirs.keys[layer], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.hidden[layer], theirs.hidden[layer],
                                       rtol=1e-5, atol=1e-5)


def test_a_subject_that_no_token_covers_is_an_error_that_names_the_fact():
    class Blind:
        def __call__(self, text, **kwargs):
            return {"input_ids": [5, 6], "offset_mapping": [(0, 1), (0, 0)]}

    with pytest.raises(FactError, match="fact 'capital/peru'"):
        reader.encode(Blind(), Fact("Peru", "The capital of {} is", "Lima", id="capital/peru"))


def test_values_are_the_weight_times_the_keys(tiny, facts):
    model, tokenizer = tiny
    seen = reader.trace(model, reader.collate([reader.encode(tokenizer, f) for f in facts]), [2])
    weight = models.down_proj(model, 2).weight
    torch.testing.assert_close(seen.keys[2] @ weight.T, seen.values[2], rtol=1e-4,
                               atol=1e-5)


def test_the_position_is_the_subjects_last_token(tiny, facts):
    _, tokenizer = tiny
    for prefix in ("", "The people. ", "東京 🙂. "):
        for fact in facts:
            ids, position = reader.encode(tokenizer, fact, prefix)
            through = tokenizer.decode(ids[:position + 1], skip_special_tokens=True)
            until = tokenizer.decode(ids[:position], skip_special_tokens=True)
            whole = prefix + fact.prompt.split("{}")[0] + fact.subject
            assert through == whole and until != whole


def test_a_subject_that_stands_twice_is_read_where_the_prompt_puts_it(tiny):
    _, tokenizer = tiny
    fact = Fact("Paris", "Paris and {} is a city in", "France")
    ids, position = reader.encode(tokenizer, fact)
    assert tokenizer.decode(ids[:position + 1], skip_special_tokens=True) == "Paris and Paris"


def test_a_subject_in_the_first_token_gets_a_token_in_front(tiny):
    _, tokenizer = tiny
    ids, position = reader.encode(tokenizer, Fact("I", "{} is a city in", "Peru"))
    assert position >= 1 and tokenizer.decode(ids[position]) == "I"


def test_hooks_are_gone_after_an_error(tiny, facts):
    model, tokenizer = tiny
    batch = reader.collate([reader.encode(tokenizer, facts[0])])
    with pytest.raises(IndexError):
        reader.trace(model, batch, [1, 99])
    put = models.down_proj(model, 1).register_forward_hook
    with pytest.raises(RuntimeError, match="inside"), reader.hooks((put, print)):
        raise RuntimeError("inside")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_prefixes_are_the_same_for_a_seed_and_hold_no_braces(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setenv("ZU_CACHE", str(tmp_path / "one"))
    first = reader.prefixes(model, tokenizer, seed=3)
    monkeypatch.setenv("ZU_CACHE", str(tmp_path / "other"))
    assert first == reader.prefixes(model, tokenizer, seed=3)
    assert first != reader.prefixes(model, tokenizer, seed=4)
    assert first[0] == "" and len(first) == 6 and not any("{" in p or "}" in p for p in first)


def test_prefixes_are_written_once_a_model_and_again_where_their_file_is_damaged(
        tiny, tmp_path, monkeypatch):
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    monkeypatch.setenv("ZU_CACHE", str(tmp_path))
    seen, real = [], reader.write
    monkeypatch.setattr(reader, "write", lambda *a, **k: seen.append(1) or real(*a, **k))
    first = reader.prefixes(model, tokenizer)
    once = len(seen)
    assert once and reader.prefixes(model, tokenizer) == first and len(seen) == once
    (file,) = (tmp_path / "prefixes").iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert reader.prefixes(model, tokenizer) == first and len(seen) == 2 * once
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    assert reader.prefixes(model, tokenizer) != first and len(seen) == 3 * once


def test_mean_keys_weigh_the_bare_prompt_by_one_half(tiny, facts):
    model, tokenizer = tiny
    before = ("", "The people. ", "You and I. ")
    keys, bare = reader.subject_keys(reader.Reader(model, tokenizer), facts, [1], before)
    each = [by_hand(model, *_args(tokenizer, facts[1], p))[0].double() for p in before]
    expected = 0.5 * each[0] + 0.25 * each[1] + 0.25 * each[2]
    torch.testing.assert_close(keys[1][1], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bare.keys[1][1].double(), each[0], rtol=1e-5, atol=1e-5)


def _args(tokenizer, fact, prefix):
    ids, position = reader.encode(tokenizer, fact, prefix)
    return ids, 1, position


def test_rows_that_begin_alike_are_continued_as_each_alone(tiny):
    model, tokenizer = tiny
    ids = torch.tensor([tokenizer("The people of this country")["input_ids"]])
    one, alike, mixed = (reader.write(model, tokenizer, x, 8, torch.Generator(), top_k=1)
                         for x in (ids, ids.expand(3, -1), torch.cat([ids, ids.flip(1), ids])))
    assert one.shape == (1, ids.shape[1] + 8)
    assert torch.equal(alike, one.expand(3, -1)) and torch.equal(mixed[[0, 2]], alike[:2])


def write_in_place(weight):
    with torch.no_grad():
        weight.mul_(1.5)


def write_by_data(weight):
    weight.data += 0.1  # as PEFT merges an adapter: torch does not count this


def write_one_value(weight):
    weight.data[3, 5] += 1.0


def replace_storage(weight):
    weight.data = weight.data * 1.5


CHANGES = [write_in_place, write_by_data, replace_storage]


@pytest.fixture
def remembering(tiny, facts):
    """A reader of a model that remembers what enters layer 2 of a batch, and this batch."""
    batch = reader.collate([reader.encode(tiny[1], fact) for fact in facts])
    mine = reader.Reader(*tiny, 2)
    mine.run(batch)
    return mine, batch


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layer", [0, 1, None])
def test_what_is_remembered_is_not_used_once_a_weight_below_has_changed(remembering, change, layer):
    mine, batch = remembering
    model = mine.model
    weight = models.down_proj(model, layer).weight if layer is not None else (
        model.get_input_embeddings().weight)
    before, old = mine.run(batch), weight.detach().clone()
    change(weight)
    now = mine.run(batch)
    fresh = reader.Reader(model, mine.tokenizer).run(batch)
    assert torch.equal(now, fresh) and not torch.equal(now, before)
    with torch.no_grad():
        weight.copy_(old)
    known = len(mine.seen)
    assert torch.equal(mine.run(batch), before) and len(mine.seen) == known  # found again


def test_a_check_sees_the_change_of_one_value_that_torch_does_not_count(remembering):
    mine, batch = remembering
    before = mine.run(batch)
    write_one_value(models.down_proj(mine.model, 1).weight)
    mine.check()
    now = mine.run(batch)
    assert torch.equal(now, reader.Reader(mine.model, mine.tokenizer).run(batch))
    assert not torch.equal(now, before)


@pytest.mark.parametrize("change", [write_by_data, write_one_value])
def test_scores_by_a_reader_are_those_of_the_model_as_it_is(remembering, facts, texts, change):
    mine, _ = remembering
    asked = mine.model, mine.tokenizer

    def scores(**more):
        return (str(zu.evaluate(*asked, facts, **more)),
                zu.perplexity(*asked, texts, tokens=100, window=50, stride=25, **more))

    before = scores(reader=mine)
    change(models.down_proj(mine.model, 0).weight)
    assert scores(reader=mine) == scores() != before


def test_what_a_listener_below_changes_is_read_anew(remembering):
    mine, batch = remembering
    before = mine.run(batch)
    handle = models.decoder(mine.model).layers[0].mlp.register_forward_hook(
        lambda module, args, output: output * 2)
    assert not torch.equal(mine.run(batch), before)
    handle.remove()
    assert torch.equal(mine.run(batch), before)


def test_a_change_above_costs_nothing_that_is_remembered(remembering):
    mine, batch = remembering
    kept = len(mine.seen)
    before = mine.run(batch)
    write_in_place(models.down_proj(mine.model, 2).weight)
    assert not torch.equal(mine.run(batch), before) and len(mine.seen) == kept


def test_a_reader_of_another_model_is_refused(remembering, folders, facts):
    mine, _ = remembering
    other = zu.load_model(folders["llama"], device="cpu")
    for ask in (lambda: zu.evaluate(*other, facts, reader=mine),
                lambda: zu.perplexity(*other, reader=mine),
                lambda: zu.unlearn(*other, facts, "ga", reader=mine),
                lambda: zu.find_targets(*other, facts, 2, reader=mine)):
        with pytest.raises(ValueError, match="reader is of another model"):
            ask()


def test_what_was_read_in_another_state_makes_room_and_the_rest_is_read_anew(tiny, facts):
    batches = [reader.collate([reader.encode(tiny[1], fact)]) for fact in facts[:3]]
    whole = reader.Reader(*tiny, 2)
    whole.run(batches[0])
    (size,) = [taken for _, taken in whole.seen.values()]
    mine = reader.Reader(*tiny, 2, limit=2 * size + size // 2)
    states = [mine.run(batch) for batch in batches]
    assert len(mine.seen) == 2
    write_in_place(models.down_proj(tiny[0], 0).weight)
    now = mine.run(batches[2])
    assert len(mine.seen) == 1 and not torch.equal(now, states[2])
    mine.bind(1)  # what was read up to layer 2 is let go
    assert not mine.seen and torch.equal(mine.run(batches[2]), now) and len(mine.seen) == 1


def test_a_past_says_what_it_holds_and_lower_layers_are_read_without_memory(tiny, facts):
    mine = reader.Reader(*tiny, 3)
    batch = reader.collate([reader.encode(tiny[1], fact) for fact in facts])
    past = transformers.DynamicCache()
    tiny[0](input_ids=torch.tensor([[1, 2]] * len(facts)), past_key_values=past)
    with pytest.raises(ValueError, match="past holds a text: say which in about="):
        mine.run(batch, past=past)
    for _ in range(2):
        keys, _ = reader.subject_keys(mine, facts, [1, 3])
        fresh, _ = reader.subject_keys(reader.Reader(*tiny), facts, [1, 3])
        assert all(torch.equal(keys[layer], fresh[layer]) for layer in (1, 3))


def test_prefixes_begin_with_none(tiny):
    with pytest.raises(ValueError, match="prefixes: the first must be empty"):
        reader.Reader(*tiny, prefixes=["Listen. "])


# ---- hooks of somebody else's


def later_tokens_turned(module, args, output):
    """A hook that turns round what a model, its decoder or its head puts out from token 2 on."""
    found = output if isinstance(output, torch.Tensor) else output[0]
    with torch.no_grad():
        found[:, 2:] = found[:, 2:].flip(-1)
    return output


def said(model, tokenizer, fact):
    """The probability of an answer's only token by the model itself, as it is called."""
    ids, count = zu.wording.Wording(tokenizer).answered(zu.questions.Question.of(fact))
    assert count == 1
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
    return logits.softmax(-1)[ids[-1]].item()


@pytest.mark.parametrize("where", ["model", "decoder", "head"])
def test_hooks_put_on_after_a_reader_was_used_are_seen_and_those_taken_off_are_not(
        tiny, where, cache):
    model, tokenizer = tiny
    (token,) = zu.wording.tokens(tokenizer, " Paris").ids[-1:]
    fact = Fact("France", "The capital of {} is", tokenizer.decode([token]).strip() or "Paris")
    read = reader.Reader(model, tokenizer, 1)
    ask = lambda: zu.evaluate(model, tokenizer, [fact], reader=read).prob_eff  # noqa: E731
    part = {"model": model, "decoder": models.decoder(model),
            "head": model.get_output_embeddings()}[where]
    plain = ask()
    assert read.readable and plain == pytest.approx(said(model, tokenizer, fact), rel=1e-4)
    handle = part.register_forward_hook(later_tokens_turned)
    batch = reader.collate([([5, 6, 7], 1)])
    with pytest.raises(zu.LayoutError, match="has hooks on itself, its decoder or its head"):
        read.last_states(batch)
    changed = ask()
    assert not read.readable and changed != pytest.approx(plain, rel=1e-2)
    assert changed == pytest.approx(said(model, tokenizer, fact), rel=1e-4)
    handle.remove()
    assert read.readable and ask() == plain


def test_a_layout_that_was_kept_is_tried_again_where_hooks_are_on_the_model(tiny, facts, cache):
    model, tokenizer = tiny
    zu.layout(model)  # and keeps it
    handle = models.down_proj(model, 2).register_forward_hook(lambda m, a, out: out * 2)
    for _ in range(2):
        with pytest.raises(zu.LayoutError, match="output of layer 2's projection is not W k"):
            zu.unlearn(model, tokenizer, facts, layers=[1, 2], n_prefixes=0)
    handle.remove()
    handle = model.register_forward_hook(later_tokens_turned)
    with pytest.raises(zu.LayoutError, match="its logits differ"):
        zu.layout(model)
    handle.remove()
    zu.layout(model)


def test_what_is_read_of_a_model_with_hooks_on_it_is_not_kept(tiny, facts, texts, cache):
    model, tokenizer = tiny

    def read():
        C0 = zu.moments(model, tokenizer, [2], texts, tokens=128, window=32)[2]
        found = zu.find_targets(model, tokenizer, facts[:1], 2, steps=2, n_prefixes=1)
        return C0, found.z

    plain = read()
    steer = models.decoder(model).layers[0].register_forward_hook(
        lambda module, args, out: (out[0] * 2, *out[1:]) if isinstance(out, tuple) else out * 2)
    assert not any(map(torch.equal, plain, read()))
    steer.remove()
    assert all(map(torch.equal, plain, read()))


def test_a_reader_puts_the_same_texts_before_prompts_whatever_edits_do_to_the_model(tiny):
    model, tokenizer = tiny
    mine = zu.Reader(model, tokenizer)
    first = mine.texts(2)
    weight = zu.models.down_proj(model, 2).weight
    before = weight.detach().clone()
    try:
        weight.data.mul_(-3)
        assert zu.Reader(model, tokenizer).texts(2) != first  # another model writes others
        assert mine.texts(2) == first and mine.texts(5)[:3] == first
    finally:
        weight.data.copy_(before)
    assert mine.texts(2, seed=1) != first
