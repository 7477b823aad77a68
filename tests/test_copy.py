"""What a chapter offers to be copied runs alone: in a namespace and a folder with nothing of the chapter's in them."""
import re
from pathlib import Path

import pytest
import torch

import zu

BOOK = Path(__file__).parents[1] / "book"
BLOCK = re.compile(r"```(?:python|\{code-cell\} ipython3)\n(?::.*\n)*(.*?)```", re.S)
BLOCKS = {page.stem: BLOCK.findall(text.split("## Copy this")[1])
          for page in sorted(BOOK.glob("*.md")) if "## Copy this" in (text := page.read_text())}


def test_every_chapter_with_code_ends_with_a_block_to_copy():
    chapters = {p.stem for p in BOOK.glob("*.md") if "\nkernelspec:" in p.read_text()}
    assert chapters - set(BLOCKS) == {"intro", "baselines", "ledger", "exhibits"}
    assert all(BLOCKS.values())


@pytest.mark.parametrize("chapter", BLOCKS)
def test_the_block_runs_alone(chapter, folders, tmp_path, monkeypatch):
    """On a tiny model in the embedded one's place, which counts as knowing what it is asked; fewer facts, less text."""
    asked, load, sample, moments = [], zu.load_model, zu.Facts.sample, zu.moments

    def stand_in(name, **settings):
        asked.append(name)
        return load(folders["llama"], device="cpu", **settings)

    monkeypatch.setattr(zu, "load_model", stand_in)
    monkeypatch.setattr(zu, "known", lambda model, tokenizer, facts, **_: zu.Facts(facts[:30], facts.name, facts.rule))
    for name in ("zu.moments", "zu.methods.read_moments"):
        monkeypatch.setattr(name, lambda *given, **more: moments(*given, **more | {"tokens": 2048, "window": 64}))
    monkeypatch.setattr(zu.Facts, "sample", lambda self, n, seed: sample(self, min(n, 6), seed))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").symlink_to(BOOK)
    (tmp_path / "mine.csv").write_text("subject,prompt,target\nFrance,The capital of {} is,Paris\nPeru,It is,Lima\n")
    before = torch.get_default_dtype()
    for block in BLOCKS[chapter]:
        exec(compile(block, f"{chapter}.md, to copy", "exec"), {"__name__": "__main__"})
    assert torch.get_default_dtype() == before
    assert set(asked) <= {"smollm2"} and (asked or "import zu\n" not in "".join(BLOCKS[chapter]))
