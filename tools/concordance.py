"""Write book/concordance.md: where this book treats each equation, lemma, table and figure.

`python tools/concordance.py` makes the page from book/paper/concordance.csv. A test compares the
page with that file, and the names in it with the code, the tests and the kept records.
"""
from __future__ import annotations

import csv
import re
from pathlib import Path

SOURCE, PAGE = Path("book/paper/concordance.csv"), Path("book/concordance.md")
HEAD = """\
% Made by tools/concordance.py from book/paper/concordance.csv: change that, and run it.
(ch-concordance)=
# Concordance

Each numbered equation, lemma, table and figure of the paper has a row: what it says, where this
book treats it, the function of `zu` that computes it, a test of that function, and the kept records
that rest on it. A dash stands where there is nothing to run. What the paper claims in words is
listed in {doc}`ledger`, claim by claim. A test is given by its file below `tests/` and by its name,
in words; records lie in `results/`.

"""


def rows(path: Path = SOURCE) -> list[dict[str, str]]:
    """The rows of the concordance, by the names of its columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page(found: list[dict[str, str]]) -> str:
    """The page's source: a MyST list-table with one row per item."""
    names = list(found[0])
    text = HEAD + "```{list-table}\n:header-rows: 1\n:widths: 12 28 18 42\n\n"
    text += _row(["the paper's", *names[1:3], "code, test, records"])
    for row in found:
        proof = _in_words(row["test"])
        proof += "" if row["record"] == "–" else f"; records `{row['record']}`"
        short = ".".join(row["code"].split(".")[-2:])  # a longer name would not fit its column
        code = "" if row["code"] == "–" else f"`{short}`; "
        text += _row([row["item"], row[names[1]], row["where"], code + proof])
    return text + "```\n"


def _in_words(test: str) -> str:
    """A test as its file and its name in words, which a narrow column can wrap."""
    file, _, name = test.partition("::")
    return f"`{file}`: {name.removeprefix('test_').replace('_', ' ')}" if name else test


def _row(cells: list[str]) -> str:
    first, *rest = cells
    return f"* - {first}\n" + "".join(f"  - {cell}\n" for cell in rest)


def numbered(found: list[dict[str, str]], kind: str) -> set[int]:
    """The numbers of a kind, such as "Eq.", that have a row."""
    pattern = re.compile(re.escape(kind) + r" (\d+)$")
    return {int(match[1]) for row in found if (match := pattern.match(row["item"]))}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(rows()), encoding="utf-8")


if __name__ == "__main__":
    main()
