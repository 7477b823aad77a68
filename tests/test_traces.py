"""Tracing that is kept fact by fact gives what tracing gives, resumes, and takes kept records."""
import json
import math
import sys
from pathlib import Path

import pytest

import zu
from zu.experiment import EvidenceError, earn, traces
from zu.experiment.traces import Tracing
from zu.experiment.tracing import KINDS, Corruption, How, indirect_effects
from zu.wording import Wording

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import evidence  # noqa: E402

HOW = How(KINDS, Corruption(3.0, 2, 1), 0.5)


@pytest.fixture
def ask(tiny, facts, tmp_path):
    """Trace two facts with records in a folder of that name; the tracing and its table."""
    def run(folder, kept=None):
        model, tokenizer = tiny
        some = zu.Facts(facts[:2], "some")
        tracing = Tracing(model, Wording(tokenizer, False), some, HOW,
                          tmp_path / folder / "tracing-facts", kept)
        return tracing, tracing.run()

    return run


def test_the_table_is_that_of_tracing_to_four_digits(ask, tiny, facts):
    tracing, table = ask("first")
    model, tokenizer = tiny
    plain = indirect_effects(model, tokenizer, facts[:2], corruption=HOW.corruption, window=0.5)
    same = ["fact", "kind", "layer", "position", "role"]
    assert table[same].equals(plain[same])
    assert (table.effect - plain.effect).abs().max() <= 0.5e-4 + 1e-9
    assert (table.clean - plain.clean).abs().max() < 1e-9
    only = tracing.of(1)
    assert (only.effect.to_numpy() - plain.effect[plain.fact == 1].to_numpy() == 0).all()


def test_a_fact_that_was_traced_is_not_traced_again(ask, monkeypatch):
    _, table = ask("first")
    monkeypatch.setattr(traces, "effects_of", lambda *_: pytest.fail("traced again"))
    assert ask("first")[1].equals(table)
    with pytest.raises(pytest.fail.Exception):
        ask("second")


def test_kept_records_are_taken_and_found_again(ask, tmp_path, monkeypatch):
    _, table = ask("first")
    kept = tmp_path / "results/tracing.json"
    kept.parent.mkdir()
    assert evidence.pack("tracing", tmp_path / "first", kept.parent) == 2
    with monkeypatch.context() as patch:
        patch.setattr(traces, "code_hash", lambda: "another")
        tracing, again = ask("second", kept)
    assert tracing.taken == 2 and not list((tmp_path / "second").rglob("*.json"))
    assert (again.effect - table.effect).abs().max() < 1e-6
    assert len(earn([tracing], math.inf)) == 2 and earn([tracing], 0) == []
    about = json.loads(kept.read_text())
    about["runs"][0]["metrics"]["effects"]["mlp"][0][0] += 0.1
    kept.write_text(json.dumps(about))
    tracing, _ = ask("third", kept)
    with pytest.raises(EvidenceError, match=r"tracing.json: the record of tracing on 2 facts of "
                       r"some, seed 1, is not found again: effects.mlp\[0\]\[0\]"):
        earn([tracing], math.inf)
