"""The book without jupyter-book: the same pages, words to search and places to refer to."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import plain_sphinx  # noqa: E402

pytest.importorskip("jupyter_book")
v4 = pytest.importorskip("nbformat").v4

FIRST = """# The first page

Of *keys*, {cite}`meng2022rome`, {doc}`second`, {eq}`eq-here`, {numref}`fig-dots`,
{prf:ref}`lem-here`.

$$ v = W k $$ (eq-here)

```{prf:lemma} A name
:label: lem-here
It holds.
```

{glue:text}`one-number` and the {term}`key`.

## Conclusion
"""
WORDS = "# Glossary\n\n```{glossary}\nkey\n  What comes in.\n```\n"


def notebook(path, text, *cells):
    """An executed chapter."""
    note = v4.new_notebook(cells=[v4.new_markdown_cell(text), *cells], metadata={"kernelspec": {
        "name": "python3", "display_name": "P", "language": "python"}})
    path.write_text(v4.writes(note), encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A small book as `make book` puts it together, with the book's own settings."""
    room = tmp_path_factory.mktemp("plain") / "site"
    room.mkdir()
    shutil.copy(ROOT / "references.bib", room)
    for name in ("_static", "_ext"):
        shutil.copytree(ROOT / "book" / name, room / name)
    settings = (ROOT / "_config.yml").read_text(encoding="utf-8")
    needs = re.search(r"    page_needs:\n(?:      .*\n)+", settings)[0]
    small = "    page_needs:\n      second: [first]\n"
    (room / "_config.yml").write_text(settings.replace(needs, small), encoding="utf-8")
    (room / "_toc.yml").write_text(
        "format: jb-book\nroot: first\nparts:\n  - caption: A part\n    chapters:\n"
        "      - file: second\n      - file: references\n  - caption: Another\n    chapters:\n"
        "      - file: glossary\n")
    (room / "glossary.md").write_text(WORDS, encoding="utf-8")
    shutil.copy(ROOT / "book/references.md", room)
    prefix = "application/papermill.record/"
    glued = v4.new_output("display_data", {prefix + "text/plain": "4.5"}, metadata={
        "scrapbook": {"name": "one-number", "mime_prefix": prefix}})
    svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    shown = v4.new_output("execute_result", {"image/svg+xml": svg, "text/csv": "x\n1\n"},
                          execution_count=1)
    figure = {"mystnb": {"figure": {"name": "fig-dots", "caption": "Dots."},
                         "image": {"alt": "A dot and no other."}}}
    notebook(room / "first.ipynb", FIRST,
             v4.new_code_cell("dots()", outputs=[glued, shown], execution_count=1, metadata=figure))
    notebook(room / "second.ipynb", "# The second page\n\nBack to {doc}`first`, unmistakably.\n")
    return room


def by_jupyter_book(site, out):
    """The pages as `make book` renders them."""
    run = subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", site,
                          "--path-output", out, "-W", "-n", "--keep-going"],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return out / "_build/html"


def by_sphinx(site, out):
    """The pages as `make sphinx` renders them, in a process that cannot import jupyter-book."""
    barred = "import runpy, sys; sys.modules['jupyter_book'] = None; "
    start = f"runpy.run_path({str(ROOT / 'tools/plain_sphinx.py')!r}, None, '__main__')"
    run = subprocess.run([sys.executable, "-c", barred + start, site, out],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return out / "html"


def pages(html):
    """The pages' names."""
    return {path.name for path in html.glob("*.html")}


def index(html):
    """What can be searched for: for each word the pages where it is found, and titles."""
    text = (html / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(text[text.index("{"):text.rindex("}") + 1])
    names = found["docnames"]

    def where(table):
        return {word: {names[i] for i in (places if isinstance(places, list) else [places])}
                for word, places in table.items()}

    return where(found["terms"]), where(found["titleterms"]), set(found["alltitles"])


def places(html):
    """By page, what can be linked to in its article, and what its article links to."""
    found = {}
    for path in html.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        article = text.partition("<article")[2].partition("</article>")[0]
        links = re.findall(r'href="([^"]*)"', article)
        found[path.name] = (set(re.findall(r'\bid="([^"]+)"', article)),
                            [link for link in links if not link.startswith("data:")])
    return found


def objects(html):
    """The inventory's entries: what another book could refer to."""
    from sphinx.util.inventory import InventoryFile

    with open(html / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", os.path.join)
    return {(kind, name, entry[2]) for kind, names in inventory.items()
            for name, entry in names.items()}


def numbers(html):
    """The chapters' numbers in the contents, and the figures' and lemmas' in their captions."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(html.glob("*.html")))
    return sorted(re.findall(r'class="(?:section|caption)-number">([^<]+)<', text))


def same(one, other):
    """Hold two renderings of the same book against each other."""
    assert pages(one) == pages(other)
    for ours, theirs in zip(index(one), index(other), strict=True):
        assert ours == theirs
    assert objects(one) == objects(other) and numbers(one) == numbers(other)
    for (name, ours), theirs in zip(sorted(places(one).items()),
                                    dict(sorted(places(other).items())).values(), strict=True):
        assert ours == theirs, name


def test_a_small_book_is_the_same_without_jupyter_book(site, tmp_path):
    theirs, ours = by_jupyter_book(site, tmp_path / "jb"), by_sphinx(site, tmp_path / "plain")
    assert {"first.html", "second.html", "glossary.html", "search.html"} <= pages(ours)
    assert "second" in index(ours)[0]["unmistak"]
    ids, links = places(ours)["first.html"]
    assert {"fig-dots", "lem-here", "conclusion"} <= ids and "#fig-dots" in links
    same(theirs, ours)


def test_a_reference_that_leads_nowhere_and_a_setting_that_is_not_known_are_failures(
        site, tmp_path):
    bad = tmp_path / "site"
    shutil.copytree(site, bad)
    notebook(bad / "second.ipynb", "# The second page\n\n{ref}`nowhere`\n")
    run = subprocess.run([sys.executable, ROOT / "tools/plain_sphinx.py", bad, tmp_path / "out"],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "nowhere" in run.stderr and "sphinx FAILED" in run.stderr
    with open(bad / "_config.yml", "a", encoding="utf-8") as file:
        file.write("\nlogo: a.png\n")
    with pytest.raises(ValueError, match="_config.yml has logo: say in tools/plain_sphinx.py"):
        plain_sphinx.settings(bad)
    with pytest.raises(SystemExit, match="make book first"):
        plain_sphinx.main(tmp_path / "none", tmp_path / "out")


@pytest.mark.whole
def test_the_whole_book_is_the_same_without_jupyter_book(tmp_path):
    """On the chapters that `make book` has executed, where it has been here."""
    book = ROOT / "build/site"
    if not (ROOT / "build/html.files").exists() or not (book / "_toc.yml").exists():
        pytest.skip("no executed book in build/: make book first")
    same(by_jupyter_book(book, tmp_path / "jb"), by_sphinx(book, tmp_path / "plain"))
