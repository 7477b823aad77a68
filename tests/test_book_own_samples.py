"""Moments from the model's own text on their page: spectra, scores, and what an edit notices."""
import math

import pytest
import torch

from zu.book import own_samples

pd = pytest.importorskip("pandas")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")


def record(method, eff, spe=None, ppl=20.0):
    metrics = {"eff": eff, "gen": None, "spe": spe, "ppl": ppl}
    for name in ("eff", "spe"):
        value = metrics[name]
        metrics[f"interval_{name}"] = [None, None] if value is None else [value - 3, value + 3]
    return {"method": method, "n": 8, "metrics": metrics}


@pytest.fixture
def found():
    return {("corpus", 64): [record("memit", 10.0)],
            ("corpus", 128): [record("base", 50.0, ppl=10.0), record("memit", 12.0)],
            ("own samples", 64): [record("memit", 16.0)]}


def test_the_rank_in_effect_is_that_of_a_flat_spectrum():
    assert own_samples.effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == 3
    assert own_samples.effective_rank(torch.tensor([9.0, 0.0])) == 1


def test_spectra_descend_and_each_moment_has_its_rank():
    moments = {("corpus", 128): torch.eye(16), ("own samples", 64): torch.diag(torch.arange(16.0))}
    frame, ranks = own_samples.spectra(moments)
    mine = frame[frame.text == "own samples"]
    assert mine.direction.tolist() == [1, 9] and mine.eigenvalue.tolist() == [15, 7]
    assert ranks["corpus", 128] == 16
    assert ranks["own samples", 64] == pytest.approx(120**2 / 1240)
    labels = [text.get_text() for text in
              own_samples.draw_spectra(frame, 128).axes[0].get_legend().get_texts()]
    assert labels == ["corpus, 128 tokens", "own samples, 64 tokens"]


def test_scores_have_base_first_and_sizes_in_order(found):
    frame = own_samples.scores(found)
    assert [*zip(frame.method, frame.text, frame.tokens, frame.Eff, strict=True)] == [
        ("base", "corpus", 128, 50.0), ("memit", "corpus", 64, 10.0),
        ("memit", "own samples", 64, 16.0), ("memit", "corpus", 128, 12.0)]


def test_what_an_edit_notices_has_an_interval_over_facts(found):
    to, of = ("own samples", 64), ("corpus", 128)
    value, low, high = own_samples.moved(found, "memit", to, of, "eff")
    assert value == 4 and high - value == pytest.approx(3 * math.sqrt(2)) == value - low
    for gone in (own_samples.moved(found, "memit", to, of, "spe"),
                 own_samples.moved(found, "rome", to, of, "eff"),
                 own_samples.moved(found, "memit", ("own samples", 1), of, "eff")):
        assert math.isnan(gone.value)
