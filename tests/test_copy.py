"""What a chapter offers to be copied runs alone, in a namespace and a folder of its own."""
import builtins
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

import zu

BOOK = Path(__file__).parents[1] / "book"
BLOCK = re.compile(r"```(?:python|\{code-cell\} ipython3)\n(?::.*\n)*(.*?)```", re.S)
BLOCKS = {page.stem: BLOCK.findall(text.split("## Copy this")[1])
          for page in sorted(BOOK.glob("*.md")) if "## Copy this" in (text := page.read_text())}


def test_every_chapter_with_code_ends_with_a_block_to_copy():
    chapters = {p.stem for p in BOOK.glob("*.md") if "\nkernelspec:" in p.read_text()}
    assert chapters - set(BLOCKS) == {"intro", "ledger", "exhibits"}
    assert all(BLOCKS.values())


owners_of_modules = cache(metadata.packages_distributions)  # it reads the files of all that is here


@cache
def installed_with(name, extras=()):
    """The distributions that `pip install name[extras]` brings, as far as they are here."""
    found, todo = set(), [Requirement(f"{name}[{','.join(extras)}]")]
    while todo:
        one = todo.pop()
        key = (re.sub(r"[-_.]+", "-", one.name).lower(), tuple(sorted(one.extras)))
        if key in found:
            continue
        found.add(key)
        try:
            needs = [Requirement(text) for text in metadata.requires(one.name) or ()]
        except metadata.PackageNotFoundError:
            continue
        todo += [r for r in needs if not r.marker
                 or any(r.marker.evaluate({"extra": x}) for x in ("", *one.extras))]
    return {name for name, _ in found}


@pytest.fixture
def only_zu(request, monkeypatch):
    """A block and zu find what `pip install -e ".[embedded]"` brings, or the line in the block."""
    chapter = request.node.callspec.params["chapter"] if hasattr(request.node, "callspec") else ""
    text = "".join(BLOCKS.get(chapter, ()))
    extras = (re.findall(r'# pip install -e "\.\[(.*)\]"', text) or ["embedded"])[0].split(",")
    there, owners = installed_with("zu-unlearning", tuple(extras)), owners_of_modules()
    plain, refused = builtins.__import__, []

    def look(name, globals=None, locals=None, fromlist=(), level=0):
        top, asks = name.partition(".")[0], (globals or {}).get("__name__", "")
        mine = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(top, ())}
        ours = asks == "__main__" or asks.partition(".")[0] == "zu"
        if not level and ours and mine and not mine & there:
            refused.append(top)
            raise ModuleNotFoundError(f"No module named '{top}'", name=top)
        return plain(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", look)
    return refused


def test_what_a_block_may_import_is_what_zu_brings(only_zu):
    assert {"torch", "transformers", "gguf"} <= installed_with("zu-unlearning", ("embedded",))
    more = {"pytest", "jupytext", "lm-eval", "datasets", "snakemake", "pandas", "matplotlib"}
    assert not more & installed_with("zu-unlearning", ("embedded",))
    exec("import json, torch, gguf", {"__name__": "__main__"})
    with pytest.raises(ModuleNotFoundError, match="jupytext"):
        exec("import jupytext", {"__name__": "__main__"})
    assert only_zu == ["jupytext"] and "pytest" in sys.modules


@pytest.mark.parametrize("chapter", BLOCKS)
def test_the_block_runs_alone(chapter, folders, tmp_path, monkeypatch, only_zu):
    """On a tiny model that counts as knowing what it is asked; on fewer facts and less text."""
    asked, load, sample, moments = [], zu.load_model, zu.Facts.sample, zu.moments

    def stand_in(name, **settings):
        asked.append(name)
        return load(folders["llama"], device="cpu", **settings)

    monkeypatch.setattr(zu, "load_model", stand_in)
    monkeypatch.setattr(zu, "known",
                        lambda model, tokenizer, facts, **_: zu.Facts(
                            facts[:30], facts.name, facts.rule))
    for name in ("zu.second_moments", "zu.methods.unlearning.read_moments"):
        monkeypatch.setattr(
            name, lambda *given, **more: moments(*given, **more | {"tokens": 512, "window": 64}))
    monkeypatch.setattr(zu.Facts, "sample", lambda self, n, seed: sample(self, min(n, 6), seed))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").symlink_to(BOOK)
    rows = "France,The capital of {} is,Paris\nPeru,The capital of {} is,Lima\n"
    (tmp_path / "mine.csv").write_text("subject,prompt,target\n" + rows)
    before = torch.get_default_dtype()
    for block in BLOCKS[chapter]:
        exec(compile(block, f"{chapter}.md, to copy", "exec"), {"__name__": "__main__"})
    assert torch.get_default_dtype() == before
    assert set(asked) <= {"smollm2"} and (asked or "import zu\n" not in "".join(BLOCKS[chapter]))
