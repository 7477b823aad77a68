"""The rendered pages for who has no mouse or cannot see, and the words in the sources."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))


def test_no_word_is_misspelt():
    rooms = ("book", "zu", "tests", "tools", "bench", "profiles", ".")
    files = [str(p) for room in rooms for p in (ROOT / room).glob("*")
             if p.suffix in (".md", ".py", ".yaml", ".toml")]
    assert len(files) > 60
    run = subprocess.run([sys.executable, "-m", "codespell_lib", "--toml", ROOT / "pyproject.toml",
                          *files],
                         capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout


def test_every_cell_of_every_chapter_is_python():
    import jupytext

    chapters = sorted((ROOT / "book").glob("*.md"))
    assert len(chapters) > 25
    for chapter in chapters:
        for cell in jupytext.read(chapter).cells:
            if cell.cell_type == "code":
                compile(cell.source, f"{chapter}: {cell.source[:60]!r}", "exec")


def test_a_pdf_needs_a_browser_and_says_so(tmp_path, monkeypatch):
    import pdf

    monkeypatch.setenv("CHROME", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="no Chrome or Chromium .*set CHROME"):
        pdf.main(tmp_path, tmp_path / "book.pdf")
    assert not list(tmp_path.iterdir())


def test_a_table_is_counted_as_one(tmp_path, monkeypatch):
    app = pytest.importorskip("sphinx.application")
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    (tmp_path / "conf.py").write_text("extensions = ['book_page']; numfig = True")
    figure = ".. figure:: a.png\n   :name: {0}\n   :alt: a\n\n   What {0} shows.\n\n"
    names = ("fig-a", "tab-a", "fig-b", "tab-b")
    (tmp_path / "index.rst").write_text("Title\n=====\n\n"
                                        + "".join(figure.format(name) for name in names)
                                        + "See " + ", ".join(f":numref:`{name}`" for name in names)
                                        + ".\n")
    app.Sphinx(tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees", "html", status=None,
               warning=None).build()
    text = re.sub("<[^>]+>", "", (tmp_path / "out/index.html").read_text())
    assert "See Fig. 1, Table 1, Fig. 2, Table 2." in text
    assert "Table 2 What tab-b shows." in " ".join(text.split())


def test_what_papermill_puts_in_is_hidden_where_the_parameters_are(tmp_path, monkeypatch):
    app, v4 = pytest.importorskip("sphinx.application"), pytest.importorskip("nbformat").v4
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    settings = ("extensions = ['myst_nb', 'book_page']; nb_execution_mode = 'off'; "
                "root_doc = 'shown'")
    (tmp_path / "conf.py").write_text(settings)
    for name, hide in (("shown", []), ("hidden", ["remove-input"])):
        cells = [v4.new_code_cell(source, metadata={"tags": [tag, *more]}) for source, tag, more in
                 (("n = 1", "parameters", hide), ("n = 222", "injected-parameters", []),
                  ("n + 333", "other", []))]
        links = "\n```{toctree}\nhidden\n```" if name == "shown" else ""
        note = v4.new_notebook(cells=[v4.new_markdown_cell(f"# Title{links}"), *cells],
                               metadata={"kernelspec": {
            "name": "python3", "display_name": "Python 3", "language": "python"}})
        (tmp_path / f"{name}.ipynb").write_text(v4.writes(note))
    app.Sphinx(tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees", "html", status=None,
               warning=None).build()
    shown, hidden = ((tmp_path / f"out/{name}.html").read_text() for name in ("shown", "hidden"))
    assert "333" in shown and "222" in shown and "333" in hidden and "222" not in hidden


def test_a_text_that_says_nothing_leaves_no_objects_name_on_the_page(tmp_path):
    app, v4 = pytest.importorskip("sphinx.application"), pytest.importorskip("nbformat").v4
    from IPython.core.interactiveshell import InteractiveShell

    from zu.book.figures import said

    shown = InteractiveShell.instance().display_formatter.format
    texts = {"nothing": "", "blank": " \n ", "plain": "*Some* text."}
    prefix, outputs = "application/papermill.record/", []
    for name, text in texts.items():  # as glue(..., display=False) leaves them
        data = {prefix + mime: value for mime, value in shown(said(text))[0].items()}
        outputs.append(v4.new_output("display_data", data, metadata={
            "scrapbook": {"name": name, "mime_prefix": prefix}}))
    last = v4.new_output("execute_result", shown(said(""))[0], execution_count=1)
    words = " ".join(f"{name}[{{glue:}}`{name}`]" for name in texts)
    figure = "```{figure} a.png\n:name: fig-a\n\nA caption.{glue:}`nothing`\n```"
    note = v4.new_notebook(cells=[
        v4.new_markdown_cell(f"# Title\n\n{words}\n\n{figure}"),
        v4.new_code_cell("said('')", outputs=[*outputs, last], execution_count=1)],
        metadata={"kernelspec": {"name": "python3", "display_name": "P", "language": "python"}})
    (tmp_path / "page.ipynb").write_text(v4.writes(note))
    settings = "extensions = ['myst_nb']; nb_execution_mode = 'off'; root_doc = 'page'"
    (tmp_path / "conf.py").write_text(settings)
    rooms = (tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees")
    app.Sphinx(*rooms, "html", status=None, warning=None).build()
    page = re.sub("<[^>]+>", "", (tmp_path / "out/page.html").read_text())
    assert "object" not in page and "nothing[\u2060] blank[\u2060] plain[Some text.]" in page
    assert "A caption.\u2060" in page


def never_empty(node):
    """Whether an expression is plainly a text with words in it, whatever was computed."""
    match node:
        case ast.Constant(value=str(text)):
            return bool(text.strip())
        case ast.JoinedStr(values=parts):
            return any(map(never_empty, parts))
        case ast.BinOp(op=ast.Add(), left=first, right=last):
            return never_empty(first) or never_empty(last)
        case ast.BoolOp(op=ast.Or(), values=[*_, last]):
            return never_empty(last)
    return False


@pytest.mark.parametrize("chapter", sorted((ROOT / "book").glob("*.md")), ids=lambda x: x.stem)
def test_no_text_that_may_be_empty_is_shown_but_by_said(chapter):
    import jupytext

    for cell in jupytext.read(chapter).cells:
        for call in ast.walk(ast.parse(cell.source if cell.cell_type == "code" else "")):
            name = isinstance(call, ast.Call) and getattr(call.func, "id", "")
            inner = [x for x in ast.walk(call) if isinstance(x, ast.Name) and x.id == "Markdown"]
            where = f"{chapter.name}: use figures.said in {ast.unparse(call)[:60]}"
            assert name != "glue" or not inner, where
            assert name != "Markdown" or never_empty(call.args[0]), where


@pytest.fixture(scope="module")
def chrome():
    """A page of headless Chrome or Chromium; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    import pdf

    try:
        program = pdf.browser()
    except SystemExit as error:
        pytest.skip(str(error))
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


PAGE = """<!doctype html><html lang="en">
<head><title>A page</title><link rel="stylesheet" href="book.css"></head>
<body><main><h1>A page</h1>
<p>An <a class="zu-term" href="#x" title="A change.">edit</a>. {}</p></main></body></html>"""


def test_a_mark_that_says_nothing_takes_no_space_from_the_next_line(chrome, tmp_path):
    from zu.book.figures import said

    text = f'<meta charset="utf-8"><p>One.{said("").data}\nTwo.</p>'
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    page = chrome.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.body.innerText") == "One.\u2060 Two."


def test_a_word_of_the_glossary_tells_its_meaning_to_the_keyboard(chrome, tmp_path):
    (tmp_path / "book.css").write_text((ROOT / "book/_static/book.css").read_text())
    (tmp_path / "page.html").write_text(PAGE.format(""))
    page = chrome.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    shown = "getComputedStyle(document.querySelector('a'), '::after').content"
    assert page.evaluate(shown) == "none"
    page.keyboard.press("Tab")
    assert page.evaluate(shown) == '"A change."'


def test_what_keeps_a_reader_out_is_found(chrome, tmp_path):
    pytest.importorskip("axe_playwright_python")
    for name, more in (("good", ""),
                       ("bad", '<img src="x.png"><span style="color: #ddd">pale</span>')):
        room = tmp_path / name
        room.mkdir()
        (room / "page.html").write_text(PAGE.format(more))
    good, bad = (subprocess.run([sys.executable, ROOT / "tools/check_pages.py", tmp_path / name],
                                capture_output=True,
                                text=True, check=False) for name in ("good", "bad"))
    assert good.returncode == 0 and "no serious accessibility violation" in good.stdout
    assert bad.returncode == 1 and "image-alt (critical" in bad.stdout
    assert "color-contrast (serious" in bad.stdout
    assert bad.stdout.count("page.html, light") == bad.stdout.count("page.html, dark") == 2


@pytest.fixture
def page(monkeypatch):
    """The page extension, without its app."""
    import importlib

    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    yield importlib.import_module("book_page")
    sys.modules.pop("book_page", None)


def paragraph(*parts):
    """A paragraph of texts and, between dollar signs, formulas."""
    from docutils import nodes

    made = [nodes.math(part.strip("$"), part.strip("$")) if part.startswith("$")
            else nodes.Text(part) for part in parts]
    return nodes.paragraph("", "", *made)


@pytest.mark.parametrize(("parts", "together"), [
    (("as ", "$x$", "? It"), ["x?"]),
    (("of (", "$x$", ") and"), ["(x)"]),
    (("the ", "$j$", "th row"), ["jth"]),
    (("for ", "$x$", ", ", "$y$", "."), ["x,", "y."]),
    (("with ", "$x$", " above"), []),
    (("$x$",), []),
])
def test_no_line_ends_between_a_formula_and_the_mark_beside_it(page, parts, together):
    from docutils import nodes

    shown = paragraph(*parts)
    before = shown.astext()
    for formula in list(shown.findall(nodes.math)):
        page.with_its_marks(formula)
    kept = [node for node in shown.findall(nodes.inline) if "zu-keep" in node["classes"]]
    assert [node.astext() for node in kept] == together
    assert shown.astext() == before


def tidied(page, frame):
    """A frame's table as a page has it."""
    from bs4 import BeautifulSoup

    html = page.tidied(re.search("<table.*</table>", frame.to_html(), re.S))
    return BeautifulSoup(html, "html.parser").table


def test_a_frame_has_one_line_of_headings_and_its_words_at_the_left(page):
    import pandas as pd

    frame = pd.DataFrame({"said": ["a word", "–"], "share": ["1e-06", "2.5"]},
                         index=pd.Index(["one", "two"], name="row"))
    table = tidied(page, frame)
    (head,) = table.thead.find_all("tr")
    assert [cell.get_text() for cell in head.find_all("th")] == ["row", "said", "share"]
    assert [cell["class"] for cell in head.find_all("th")[:2]] == [["zu-text"]] * 2
    words, numbers = ([row.find_all("td")[i] for row in table.select("tbody tr")] for i in (0, 1))
    assert [cell["class"] for cell in words] == [["zu-text"]] * 2
    assert [cell["class"] for cell in numbers] == [["zu-number"]] * 2


def test_a_negative_number_has_a_minus(page):
    import pandas as pd

    frame = pd.DataFrame({"x": [-0.25, 3.0], "word": ["-5 to 3", "a-1"]})
    rows = [[cell.get_text() for cell in row.find_all("td")]
            for row in tidied(page, frame).select("tbody tr")]
    assert rows == [["−0.25", "-5 to 3"], ["3.00", "a-1"]]


def test_a_verdict_has_a_sign_and_a_kind(page):
    import pandas as pd

    frame = pd.DataFrame({"Eff (≤ 2)": ["32.0", "0.0: yes", "9.0: no"],
                          "verdict": ["reproduced", "undecided", "not reproduced"],
                          "a word": ["yes", "no", "perhaps"]})
    rows = [row.find_all("td") for row in tidied(page, frame).select("tbody tr")]
    assert [[cell.get_text() for cell in row] for row in rows] == [
        ["32.0", "✓\u00a0reproduced", "yes"], ["0.0: ✓\u00a0yes", "?\u00a0undecided", "no"],
        ["9.0: ✗\u00a0no", "✗\u00a0not reproduced", "perhaps"]]
    kinds = [[mark["class"][1] for mark in row[1].find_all("span")] for row in rows]
    assert kinds == [["zu-yes"], ["zu-open"], ["zu-no"]]
    assert rows[1][0].span["class"] == ["zu-verdict", "zu-yes"]


def test_a_frame_whose_columns_have_a_name_keeps_both_lines(page):
    import pandas as pd

    frame = pd.DataFrame([[1, 2]], index=pd.Index(["a"], name="row"),
                         columns=pd.Index(["x", "y"], name="column"))
    head = tidied(page, frame).thead.find_all("tr")
    assert [row.get_text(" ", strip=True) for row in head] == ["column x y", "row"]
    assert not [cell for row in head for cell in row.find_all("th") if not cell.get_text()]


def test_groups_of_columns_stay_above_theirs(page):
    import pandas as pd

    columns = pd.MultiIndex.from_tuples([("here", "word"), ("here", "number"), ("there", "number")])
    frame = pd.DataFrame([["a", 1, 2]], index=pd.Index(["r"], name="row"), columns=columns)
    table = tidied(page, frame)
    above, below = table.thead.find_all("tr")
    assert [cell.get("colspan") for cell in above.find_all("th") if cell.get_text()][0] == "2"
    assert [cell.get_text() for cell in below.find_all("th")] == ["row", "word", "number", "number"]
    assert "zu-text" in table.tbody.td["class"]
