"""A method of one's own, in a file outside the package, works wherever zu's methods do."""
import json
import sys
from pathlib import Path

import pytest
import torch

import zu
from flat_grid import run_grid
from zu.book import figures

MINE = '''"""Halve what a layer says about the facts, and nothing else."""
from typing import ClassVar

from pydantic import Field

import zu
from zu.methods import Located, Problem


@zu.register
class Damp(Located):
    """The ridge edit whose targets are a share of what the layer says now."""

    name: ClassVar[str] = "damp"
    about: ClassVar[str] = "a share of the old values"
    label: ClassVar[str] = "Damp"
    colour: ClassVar[str] = "#123456"

    share: float = Field(0.5, ge=0)
    ridge: float = Field(0.01, gt=0)

    def solve(self, p: Problem):
        wanted = self.share * p.W @ p.K_f
        return p.W + zu.solve.memit(p.W, p.K_f, wanted, p.C0, alpha=self.ridge)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The file on the path, as in a user's folder; forgotten afterwards."""
    assert len(MINE.splitlines()) < 40
    (tmp_path / "my_unlearning.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_unlearning.Damp"
    zu.METHODS.pop("damp", None)
    sys.modules.pop("my_unlearning", None)


@pytest.fixture
def job(tiny, facts, texts, cache, monkeypatch):
    monkeypatch.setattr("zu.data.world.prose", lambda part: texts, raising=False)
    model, tokenizer = tiny
    return model, tokenizer, facts


def test_unlearn_takes_it_by_path_by_name_and_as_an_instance(job, mine):
    model, tokenizer, facts = job
    settings = {"layers": [2], "moments": zu.moments(model, tokenizer, [2], tokens=512, window=32),
                "n_prefixes": 0}
    name = zu.models.weight_name(model, 2)
    with zu.unlearn(model, tokenizer, facts, mine, share=0.0, **settings) as edit:
        by_path, method = edit.deltas[name], edit.method
    with zu.unlearn(model, tokenizer, facts, "damp", share=0.0, **settings) as edit:
        assert method == "damp" and torch.equal(edit.deltas[name], by_path)
    kind = zu.METHODS["damp"](share=0.0, n_prefixes=0)
    settings.pop("n_prefixes")
    with zu.unlearn(model, tokenizer, facts, kind, **settings) as edit:
        assert torch.equal(edit.deltas[name], by_path) and edit.settings["share"] == 0
    with pytest.raises(ValueError, match="share: an instance of Damp has its settings already"):
        zu.unlearn(model, tokenizer, facts, kind, share=0.5, **settings)
    with pytest.raises(ValueError,
                       match="my_unlearning.Dump' looks like an import path, but: .*Dump"):
        zu.unlearn(model, tokenizer, facts, "my_unlearning.Dump")


def test_a_grid_records_it_and_makes_the_record_again_when_its_file_changes(job, mine, tmp_path):
    model, tokenizer, facts = job
    arguments = dict(methods=["base", f"{mine}:share=0.1"], seeds=[1], n=2, layers=(1, 2),
                     moment_tokens=512, records=tmp_path / "records", ppl_tokens=400)
    row = run_grid(model, tokenizer, facts, **arguments)[1]
    assert (row["method"] == f"{mine}:share=0.1" and row["settings"] == {"share": 0.1}
            and row["metrics"]["ppl"] > 1)
    assert run_grid(model, tokenizer, facts, **arguments)[1] == row
    path = Path(sys.modules["my_unlearning"].__file__)
    path.write_text(path.read_text() + "\n# another version\n")
    assert run_grid(model, tokenizer, facts, **arguments)[1]["fingerprint"] != row["fingerprint"]
    assert (figures.row_name(row["method"]) == "Damp"
            and figures.colour_of(row["method"]) == "#123456")


def test_a_card_is_written_for_it(job, mine, tmp_path):
    model, tokenizer, facts = job
    with zu.unlearn(model, tokenizer, facts, mine, layers=[2], n_prefixes=0,
                    moments=zu.moments(model, tokenizer, [2], tokens=512, window=32)) as edit:
        edit.save(tmp_path / "edit.safetensors")
        about = zu.card(edit, tokenizer, facts, tmp_path / "edit.safetensors", ppl_tokens=400)
    assert about["method"] == "damp" and about["settings"]["share"] == 0.5
    assert json.loads((tmp_path / "edit.card.json").read_text())["method"] == "damp"


@pytest.mark.parametrize("wrong, error, message", [
    (lambda: zu.register(dict), TypeError, "takes a subclass of zu.methods.Method"),
    (lambda: zu.register(zu.methods.Located), TypeError,
     "Located needs a class attribute name, label, about"),
    (lambda: zu.register(type("Memit2", (zu.methods.Memit,), {})), ValueError,
     "'memit' is the name of zu.methods"),
    (lambda: zu.register(type("Plus", (zu.methods.Memit,), {"name": "a+b"})), ValueError,
     "cannot be called 'a.b'"),
])
def test_what_cannot_be_registered_is_refused_by_name(wrong, error, message):
    before = dict(zu.METHODS)
    with pytest.raises(error, match=message):
        wrong()
    assert before == zu.METHODS


def test_a_recommended_method_is_one_of_them():
    assert zu.RECOMMENDED in zu.METHODS
