"""C_0 is the mean outer product of the keys of ordinary text, computed once."""
import sys

import pytest
import torch

import zu
from zu import models
from zu.moments import pack
from zu.trace import hooks


def test_moments_equal_the_mean_outer_product_of_all_keys(tiny, texts, cache):
    model, tokenizer = tiny
    found = zu.moments(model, tokenizer, (1, 3), texts, tokens=320, window=32)
    for layer in (1, 3):
        keys = []
        with hooks((models.down_proj(model, layer).register_forward_pre_hook, lambda m, a, k=keys: k.append(a[0]))):
            for row in pack(tokenizer, texts, 320, 32):
                model(input_ids=row[None])
        k = torch.cat(keys).reshape(-1, 80).double()
        assert len(k) == 320
        torch.testing.assert_close(found[layer], k.T @ k / 320, rtol=1e-5, atol=1e-6)


def test_moments_come_from_the_cache_and_a_damaged_file_is_made_again(tiny, texts, cache, monkeypatch):
    model, tokenizer = tiny
    first = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    files = sorted((cache / "moments").iterdir())
    assert len(files) == 2 and all(f.suffix == ".safetensors" for f in files)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["zu.moments"], "_stream", lambda *a: pytest.fail("computed again"))
        again = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    assert all(torch.equal(first[i], again[i]) for i in (1, 2))
    files[0].write_bytes(files[0].read_bytes()[:100])
    mended = zu.moments(model, tokenizer, (1, 2), texts, tokens=128, window=32)
    assert all(torch.equal(first[i], mended[i]) for i in (1, 2))


def test_moments_of_an_edited_model_or_of_other_text_are_not_taken_from_the_cache(tiny, texts, cache):
    model, tokenizer = tiny
    first = zu.moments(model, tokenizer, (2,), texts, tokens=128, window=32)
    with torch.no_grad():
        models.down_proj(model, 1).weight.mul_(1.1)
    assert not torch.equal(first[2], zu.moments(model, tokenizer, (2,), texts, tokens=128, window=32)[2])
    assert not torch.equal(first[2], zu.moments(model, tokenizer, (2,), texts[::-1], tokens=128, window=32)[2])


def test_too_little_text_is_an_error(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="one window of 512"):
        zu.moments(model, tokenizer, (1,), ["short"])
