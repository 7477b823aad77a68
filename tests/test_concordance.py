"""The concordance is complete, and what it names is there."""
import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import concordance  # noqa: E402

ROWS = concordance.rows(ROOT / concordance.SOURCE)


def test_every_equation_lemma_table_and_figure_of_the_paper_has_a_row():
    assert concordance.numbered(ROWS, "Eq.") == set(range(1, 35))
    assert concordance.numbered(ROWS, "Table") == set(range(1, 5))
    assert concordance.numbered(ROWS, "Fig.") == set(range(1, 11))
    items = [row["item"] for row in ROWS]
    assert {"Lemma 4.1", "Lemma 5.1", "Algorithm 1", "Tables F.1", "Table F.2", "Table F.3",
            "Table F.4"} <= set(items) and len(items) == len(set(items))


def test_the_page_is_made_from_the_rows():
    made = (ROOT / concordance.PAGE).read_text(encoding="utf-8")
    assert made == concordance.page(ROWS), "run tools/concordance.py"


@pytest.mark.parametrize("name", sorted({row["code"] for row in ROWS} - {"–"}))
def test_the_code_that_is_named_is_there(name):
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("name", sorted({row["test"] for row in ROWS} - {"–"}))
def test_the_tests_that_are_named_are_there(name):
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert function in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}


def test_the_records_and_the_places_that_are_named_are_there():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")}
    whole = "".join(text for name, text in pages.items() if name != "concordance")
    for row in ROWS:
        kept = ROOT / "results" / row["record"]
        assert row["record"] == "–" or kept.is_dir() or kept.with_suffix(".json").exists(), row
        kind, target = re.fullmatch(r"\{([a-z:]+)\}`([a-z0-9_-]+)`", row["where"]).groups()
        marks = {"doc": target in pages, "eq": f"$$ ({target})" in whole,
                 "prf:ref": f":label: {target}\n" in whole, "numref": f"name: {target}\n" in whole}
        assert marks[kind], row["where"]
