"""C_0 is the mean outer product of the keys of ordinary text, computed once."""
import json
import sys
import warnings
from contextlib import suppress
from hashlib import sha256
from itertools import islice

import pytest
import scipy.linalg
import torch

import zu
from zu import models, second_moments
from zu.data.cache import packaged_file
from zu.data.compact import packed, unpacked
from zu.reader import hooks
from zu.second_moments import CorpusError, Moments, corpus, own_samples, pack, shrunken


def test_moments_equal_the_mean_outer_product_of_all_keys(tiny, texts, cache):
    model, tokenizer = tiny
    found = zu.moments(model, tokenizer, (1, 3), texts, tokens=320, window=32)
    for layer in (1, 3):
        keys = []
        with hooks((models.down_proj(model, layer).register_forward_pre_hook,
                    lambda m, a, k=keys: k.append(a[0]))):
            for row in pack(tokenizer, texts, 320, 32):
                model(input_ids=row[None])
        k = torch.cat(keys).reshape(-1, 80).double()
        assert len(k) == 320
        torch.testing.assert_close(found[layer], k.T @ k / 320, rtol=1e-5, atol=1e-6)


def test_moments_come_from_the_cache_and_a_damaged_file_is_made_again(
        tiny, texts, cache, monkeypatch):
    model, tokenizer = tiny
    first = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    files = sorted((cache / "moments").iterdir())
    assert len(files) == 2 and all(f.suffix == ".safetensors" for f in files)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["zu.second_moments"], "_sum",
                      lambda *a: pytest.fail("computed again"))
        again = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    assert all(torch.equal(first[i], again[i]) for i in (1, 2))
    assert first.tokens == again.tokens == 128
    files[0].write_bytes(files[0].read_bytes()[:100])
    mended = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    assert all(torch.equal(first[i], mended[i]) for i in (1, 2))


def test_moments_of_an_edited_model_or_of_other_text_are_not_taken_from_the_cache(
        tiny, texts, cache):
    model, tokenizer = tiny
    first = zu.moments(model, tokenizer, (2,), texts, tokens=128, window=32)
    with torch.no_grad():
        models.down_proj(model, 1).weight.mul_(1.1)
    for other in (texts, texts[::-1]):
        found = zu.moments(model, tokenizer, (2,), other, tokens=128, window=32)
        assert not torch.equal(first[2], found[2])


def test_without_a_number_twenty_tokens_are_read_for_each_direction_of_a_key(tiny, texts):
    model, tokenizer = tiny  # whose keys are of length 80
    assert second_moments.enough(model, [1, 2], window=64) == 1600
    assert second_moments.enough(model, [1, 2], window=90) == 1620  # whole windows
    assert second_moments.enough(model, []) == 0
    found = zu.moments(model, tokenizer, [2], texts * 60, window=90)
    assert found.tokens == 1620
    same = zu.moments(model, tokenizer, [2], texts * 60, tokens=1620, window=90)
    assert torch.equal(found[2], same[2])


def test_too_little_text_is_an_error(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="one window of 200"):
        zu.moments(model, tokenizer, (1,), ["short"], window=200)


def test_an_interrupted_sum_goes_on_where_it_stopped(tiny, texts, cache, monkeypatch):
    model, tokenizer = tiny
    module, texts = sys.modules["zu.second_moments"], texts * 3
    settings = dict(tokens=20 * 32, window=32)
    monkeypatch.setattr(module, "FLUSH", 2)
    whole = zu.moments(model, tokenizer, (1, 2), texts, **settings, cache=False)
    forward, calls = module.forward_until, []

    def dies(*args, **kwargs):
        calls.append(args[2])
        if len(calls) == 10:  # in the last batch: the first two are in the sum that is kept
            raise KeyboardInterrupt
        forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "SAVE", -1)
        patch.setattr(module, "forward_until", dies)
        with pytest.raises(KeyboardInterrupt):
            zu.moments(model, tokenizer, (1, 2), texts, **settings)
    monkeypatch.setattr(module, "forward_until",
                        lambda *a, **k: (calls.append(a[2]), forward(*a, **k)))
    again = zu.moments(model, tokenizer, (1, 2), texts, **settings)
    # 10 passes of 2 windows; the last failed, and what comes again is its batch of 8 windows, here
    # the last 4
    assert len(calls) == 10 + 2 and all(len(batch) == 2 for batch in calls)
    for layer in (1, 2):
        assert torch.equal(again[layer], whole[layer])
    assert len(list((cache / "moments").iterdir())) == 2  # the half-done sum is gone


def test_texts_come_from_a_file_a_data_set_or_a_list_alike(tiny, texts, tmp_path):
    model, tokenizer = tiny
    (tmp_path / "a.txt").write_text("\n\n".join(t.strip().replace(". ", ".\n") for t in texts),
                                    encoding="utf-8")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = "".join(json.dumps({"text": t.strip()}) + "\n" for t in texts)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    plain = [t.strip() for t in texts]
    expected = zu.moments(model, tokenizer, (2,), plain, tokens=320, window=32)[2]
    for source in (tmp_path / "a.txt", folder / "train.jsonl", f"hub:{folder}"):
        found = zu.moments(model, tokenizer, (2,), source, tokens=320, window=32)
        assert torch.equal(found[2], expected)
    few = zu.moments(model, tokenizer, (2,), tmp_path / "a.txt", tokens=100_000, window=32)
    whole = sum(len(tokenizer(t + "\n", add_special_tokens=False)["input_ids"]) for t in plain)
    assert few.tokens == whole // 32 * 32 < 100_000  # what was read, not what was asked for


def test_a_hub_corpus_passes_on_its_config_and_split(monkeypatch):
    asked = []
    monkeypatch.setattr("datasets.load_dataset",
                        lambda *a, **k: asked.append((a, k)) or [{"text": "a b"}])
    assert list(corpus("hub:me/set:small:test")[1]) == ["a b"]
    assert asked[0][0] == ("me/set", "small") and asked[0][1]["split"] == "test"
    assert asked[0][1]["streaming"]


def test_the_models_own_samples_are_reproducible_and_can_start_anywhere(tiny, cache):
    model, tokenizer = tiny
    rows = list(islice(own_samples(model, tokenizer, 12), 80))
    for skip in (8, 32, 40):
        later = list(islice(own_samples(model, tokenizer, 12, skip), 80 - skip))
        assert torch.equal(torch.stack(rows[skip:]), torch.stack(later))
    assert not set(torch.stack(rows).flatten().tolist()) & set(tokenizer.all_special_ids)
    first = zu.moments(model, tokenizer, (2,), "self", tokens=128, window=16)[2]
    rows, keys = torch.stack(list(islice(own_samples(model, tokenizer, 16), 8))), []
    with hooks((models.down_proj(model, 2).register_forward_pre_hook,
                lambda m, a: keys.append(a[0]))):
        model(input_ids=rows)
    k = keys[0].reshape(-1, 80).double()
    torch.testing.assert_close(first, k.T @ k / 128, rtol=1e-5, atol=1e-6)


def test_sampling_by_cache_follows_the_models_own_distribution(tiny):
    """The drawn tokens' log-probability in one pass is that of sampling at temperature 1."""
    model, tokenizer = tiny
    rows = torch.stack(list(islice(own_samples(model, tokenizer, 24), 64)))
    start = torch.full((64, 1), tokenizer.bos_token_id or tokenizer.eos_token_id)
    logits = model(input_ids=torch.cat([start, rows], 1)[:, :-1]).logits
    logits[..., tokenizer.all_special_ids] = -torch.inf
    logp = logits.log_softmax(-1)
    drawn = logp.gather(2, rows[..., None])[..., 0].mean()
    entropy = -(logp.exp() * logp.nan_to_num(neginf=0.0)).sum(-1).mean()
    assert abs(drawn + entropy) < 0.15


@pytest.mark.parametrize("source, message", [
    ("nowhere.txt", "no text at 'nowhere.txt'"), ("bad.jsonl", "bad.jsonl, line 2"),
    ("latin.txt", "not UTF-8"),
    ("hub:no/such-set", "is the network up"),
])
def test_a_corpus_that_cannot_be_read_is_named(tiny, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset",
                        lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route")))
    (tmp_path / "bad.jsonl").write_text('{"text": "a b c"}\n{"txt": 1}\n')
    (tmp_path / "latin.txt").write_bytes("Côte d'Ivoire".encode("latin-1"))
    with pytest.raises(CorpusError, match=message):
        zu.moments(*tiny, (1,), source, tokens=320, window=32)


# ---- few tokens


def test_shrunken_moments_are_nearer_to_the_true_one_and_singular_no_more():
    """Of keys whose second moment is known, fewer than there are directions."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 2, 40, dtype=torch.float64)
    true = scale.square().diag()
    k = torch.randn(25, 40, dtype=torch.float64, generator=draw) * scale
    C0, fourth = k.T @ k / 25, float(k.square().sum(1).square().mean())
    found = shrunken(C0, fourth, 25)
    assert (found - true).norm() < 0.8 * (C0 - true).norm()
    assert torch.linalg.eigvalsh(C0)[0] < 1e-9 and torch.linalg.eigvalsh(found)[0] > 0.1
    torch.testing.assert_close(found.trace(), C0.trace())


def test_how_far_moments_are_shrunk_is_the_ratio_of_two_squared_errors():
    draw = torch.Generator().manual_seed(0)
    k = torch.randn(12, 2, dtype=torch.float64, generator=draw) * torch.tensor([1.0, 3.0])
    C0 = k.T @ k / 12
    error = sum(((x[:, None] * x - C0) ** 2).sum() for x in k) / 12 / 12  # of a mean of twelve
    mean = C0.trace() / 2 * torch.eye(2, dtype=torch.float64)
    rho = error / ((C0 - mean) ** 2).sum()
    fourth = float(k.square().sum(1).square().mean())
    assert 0.01 < rho < 0.9
    torch.testing.assert_close(shrunken(C0, fourth, 12), (1 - rho) * C0 + rho * mean)
    torch.testing.assert_close(shrunken(C0, fourth, 10**9), C0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shrunken(C0, 99 * fourth, 12), mean)  # no more than all the way
    same = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(shrunken(same, 4.0, 12), same)


def test_moments_know_how_much_keys_differ_whether_read_or_kept(tiny, texts, cache):
    model, tokenizer = tiny
    read = zu.moments(model, tokenizer, (1, 3), texts, tokens=64, window=32)
    kept = zu.moments(model, tokenizer, (1, 3), texts, tokens=64, window=32)
    keys = []
    with hooks((models.down_proj(model, 3).register_forward_pre_hook,
                lambda m, a: keys.append(a[0]))):
        for row in pack(tokenizer, texts, 64, 32):
            model(input_ids=row[None])
    k = torch.cat(keys).reshape(64, -1).double()
    fourth = float(k.square().sum(1).square().mean())
    for found in (read, kept):
        assert found.fourth[3] == pytest.approx(fourth, rel=1e-5) and not found.shrunk
        shrunk = found.shrink()
        assert shrunk.shrunk and shrunk.tokens == 64 and list(shrunk) == [1, 3]
        torch.testing.assert_close(shrunk[3], shrunken(found[3], found.fourth[3], 64))


def test_moments_that_do_not_say_how_much_keys_differ_are_not_shrunk():
    with pytest.raises(ValueError, match="moments of layer 2 do not say"):
        Moments({1: torch.eye(3), 2: torch.eye(3)}, 5, {1: 2.0}).shrink()


@pytest.mark.parametrize("method, needed", [
    ("memit", 80), ("alphaedit", 80), ("exact", 80), ("anchored", 80), ("rome", 80),
    ("zerounlearn", 32)])
def test_moments_of_fewer_tokens_than_a_method_needs_are_told_of(
        tiny, facts, texts, cache, method, needed):
    """Lemma 4.1 sees C_0 through W C_0 Wᵀ: it needs d tokens, the others m."""
    model, tokenizer = tiny
    said = {}
    for tokens in (needed, needed // 2):
        found = zu.moments(model, tokenizer, (1,), texts, tokens=tokens, window=needed // 2)
        for shrink in (False, True):
            some = found.shrink() if shrink else found
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with suppress(zu.EditError):
                    zu.unlearn(model, tokenizer, facts[:2], method, layers=[1], moments=some,
                               n_prefixes=0, steps=1, check=False).restore()
            said[tokens, shrink] = [str(w.message) for w in caught if "tokens" in str(w.message)]
    assert [bool(x) for x in said.values()] == [False, False, True, False]
    (message,) = said[needed // 2, False]
    assert (f"of {needed // 2} tokens, and {method} needs at least {needed} in layer 1" in message
            and "shrink()" in message and f"tokens={2 * needed}" in message)


def test_a_packed_moment_is_that_moment_in_every_direction():
    k = torch.randn(24, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k *= torch.logspace(0, -1.5, 24, dtype=torch.float64)[:, None]
    C0 = k @ k.T / 400
    kept = packed(C0)
    assert kept["factor"].dtype == torch.float16 and kept["factor"].shape == (24 * 25 // 2,)
    again = unpacked(kept)
    assert again.dtype == torch.float64 and torch.equal(again, again.T)
    torch.testing.assert_close(again.diagonal(), C0.diagonal(), rtol=1e-6, atol=0)
    ratios = scipy.linalg.eigh(again.numpy(), C0.numpy(), eigvals_only=True)
    assert 0.995 < ratios.min() < ratios.max() < 1.005
    assert not torch.equal(again, C0)
    with pytest.raises(ValueError, match="not positive definite.*from fewer tokens than m"):
        packed(k[:, :10] @ k[:, :10].T)


def test_what_the_package_brings_along_is_taken_in_place_of_reading(
        tiny, cache, tmp_path, monkeypatch):
    model, tokenizer = tiny
    read = zu.moments(model, tokenizer, (1, 2), cache=False)
    monkeypatch.setattr(second_moments, "packaged_file",
                        lambda kind, about: tmp_path / f"{sha256(about.encode()).hexdigest()}.st")
    assert len(second_moments.package(model, tokenizer, (1, 2))) == len(list(tmp_path.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(second_moments, "_sum", lambda *a: pytest.fail("read"))
        found = zu.moments(model, tokenizer, (2, 1))
    assert list(found) == [1, 2] and found.tokens == read.tokens and found.fourth == read.fourth
    for layer in (1, 2):
        torch.testing.assert_close(found[layer], unpacked(packed(read[layer])))
    assert not (cache / "moments").exists()
    fresh = zu.moments(model, tokenizer, (1, 2), cache=False)
    assert all(torch.equal(fresh[layer], read[layer]) for layer in (1, 2))
    other = zu.moments(model, tokenizer, (1, 2), tokens=read.tokens + 512)
    assert other.tokens == read.tokens + 512  # another text than that of the package's


@pytest.mark.whole
def test_the_package_brings_along_what_is_read_of_the_embedded_model_by_default():
    """To four thousandths in every direction; a file that nobody asks for is not there."""
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    layers = models.resolve_layers(model)
    taken, read = (zu.moments(model, tokenizer, layers, cache=cache) for cache in (True, False))
    assert taken.tokens == read.tokens
    for layer in layers:
        assert not torch.equal(taken[layer], read[layer])
        ratios = scipy.linalg.eigh(taken[layer], read[layer], eigvals_only=True)
        assert 0.996 < ratios.min() < ratios.max() < 1.004
    files = list(packaged_file(second_moments.KIND, "").parent.iterdir())
    assert len(files) == len(layers) and sum(file.stat().st_size for file in files) < 8e6
