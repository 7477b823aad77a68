"""What a page has beside its text: a line under its title, words that explain themselves, figures that open."""
import json
import math
import re
from base64 import b64encode
from datetime import datetime

import nbformat
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

WORDS, LINES = 200, 20  # read in a minute: of prose, of code
GLOSSARY = "glossary"


class Table(nodes.figure):
    """A figure that shows a table: it is counted and cited as one."""


class Tables(SphinxTransform):
    """A table that a cell made comes as a figure; its name, tab-..., says what it is."""

    default_priority = 400  # before the numbers are given

    def apply(self):
        for figure in self.document.findall(nodes.figure):
            if any(name.startswith("tab-") for name in figure["names"] + figure["ids"]):
                figure.__class__ = Table


def reading_minutes(notebook) -> int:
    """Minutes to read what a page shows of a notebook, rounded up."""
    words = lines = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += len(cell.source.split())
        elif not {"remove-input", "remove-cell", "hide-input"} & set(cell.metadata.get("tags", [])):
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return max(math.ceil(words / WORDS + lines / LINES), 1)


def last_run(notebook) -> str:
    """When papermill ran a notebook, for how long and with which parameters of its own; empty where it did not."""
    mill = notebook.metadata.get("papermill", {})
    if not mill.get("start_time"):
        return ""
    when, took = datetime.fromisoformat(mill["start_time"]), mill.get("duration") or 0
    took = f"{took / 60:.0f} min" if took >= 90 else f"{took:.0f} s"
    given = ", ".join(f"{name} = {value}" for name, value in mill.get("parameters", {}).items() if name != "records")
    return f"last run {when.day} {when:%B %Y}, {took}, {'with ' + given if given else 'no parameter set from outside'}"


def under_title(app, doctree):
    """Reading time, what to read before, the last run and the notebook, under the title of a page that was executed."""
    page = app.env.docname
    path, title = app.env.doc2path(page), next(doctree.findall(nodes.title), None)
    if not str(path).endswith(".ipynb") or title is None:
        return
    notebook = nbformat.read(path, as_version=4)
    if any({"parameters", "remove-input"} <= set(cell.metadata.get("tags", [])) for cell in notebook.cells):
        for cell in list(doctree.findall(nodes.container)):  # what papermill put in for parameters that nobody sees
            if "tag_injected-parameters" in cell["classes"]:
                cell.parent.remove(cell)
    data_links(notebook, doctree)
    figures_to_play(notebook, doctree)
    line = nodes.paragraph(classes=["zu-page"])
    minutes = reading_minutes(notebook)
    line += nodes.Text(f"{minutes} minute{'s' * (minutes > 1)} to read")
    for i, needed in enumerate(app.config.page_needs.get(page, [])):
        line += nodes.Text(", " if i else " · after ")
        link = addnodes.pending_xref("", refdomain="std", reftype="doc", reftarget=needed, refdoc=page,
                                     refexplicit=False, refwarn=True)
        link += nodes.inline(needed, needed)
        line += link
    if run := last_run(notebook):
        line += nodes.Text(f" · {run}")
    line += [nodes.Text(" · "), nodes.reference("", "notebook", refuri=f"_sources/{page}.ipynb", internal=True)]
    title.parent.insert(title.parent.index(title) + 1, line)


def carried(notebook, doctree, kind):
    """The tables and figures whose cell's output carries something of a type: name, node, what it carries."""
    figures = {name: node for node in doctree.findall(nodes.figure) for name in node["names"] + node["ids"]}
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
        held = [output.data[kind] for output in cell.get("outputs", []) if kind in output.get("data", {})]
        if name in figures and held:
            yield name, figures[name], held[-1]


def behind(figure, text):
    """Put HTML behind a figure."""
    figure.parent.insert(figure.parent.index(figure) + 1, nodes.raw("", text, format="html"))


def data_links(notebook, doctree):
    """Below a table or figure the data that its cell's output carries (`zu.book.shown`), under its name."""
    for name, figure, held in carried(notebook, doctree, "text/csv"):
        data = held if isinstance(held, str) else "".join(held)
        rows, code = len(data.splitlines()) - 1, b64encode(data.encode()).decode()
        behind(figure, f'<p class="zu-data"><a download="{name}.csv" href="data:text/csv;base64,{code}">'
                       f"The data of {name} (CSV, {rows} rows)</a></p>")


def figures_to_play(notebook, doctree):
    """Behind a figure to play with what `_static/play.js` draws it from; nothing is seen of it without scripts."""
    for name, figure, held in carried(notebook, doctree, "application/vnd.zu.play+json"):
        data = json.dumps(held, separators=(",", ":")).replace("<", "\\u003c")  # no tag may end the script
        behind(figure, f'<div class="zu-play" data-figure="{name}" hidden><script type="application/json">{data}'
                       "</script></div>")


def definitions(env) -> dict[str, str]:
    """The glossary's definitions by the id of their term."""
    if GLOSSARY not in env.found_docs:
        return {}
    found = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        text = next(item.findall(nodes.definition)).astext().replace("\n", " ")
        for term in item.findall(nodes.term):
            found |= dict.fromkeys(term["ids"], text)
    return found


def on_page(app, doctree, page):
    """A term gets its definition as a title, a figure a link to its own file; one with no alt text is a fault."""
    if app.builder.format != "html":
        return
    if not hasattr(app.env, "zu_definitions"):
        app.env.zu_definitions = definitions(app.env)
    for link in doctree.findall(nodes.reference):
        _, _, anchor = link.get("refuri", "").rpartition("#")
        if anchor in app.env.zu_definitions and page != GLOSSARY:
            link["reftitle"] = app.env.zu_definitions[anchor]
            link["classes"].append("zu-term")
    for formula in list(doctree.findall(nodes.math)):
        with_its_marks(formula)
    for image in list(doctree.findall(nodes.image)):
        if not image.get("alt", "").strip():
            logging.getLogger(__name__).warning("an image has no alt text: %s", image.get("uri"), location=image)
        uri = image.get("uri", "")
        if uri in app.env.images and not isinstance(image.parent, nodes.reference):
            link = nodes.reference("", "", refuri=f"_images/{app.env.images[uri][1]}", classes=["zu-figure"])
            image.replace_self(link)
            link += image


def with_its_marks(formula):
    """A formula in a line and the marks right beside it, which no end of a line may part from it."""
    parent, at = formula.parent, formula.parent.index(formula)
    before, after = (parent[i] if 0 <= i < len(parent) and isinstance(parent[i], nodes.Text) else ""
                     for i in (at - 1, at + 1))
    opening = re.search(r"[(\[“]*$", before).group()
    closing = re.match(r"(\S{1,4}(?=\s|$)|[.,;:?!)\]”’…%]+)?", after).group()
    if not opening and not closing:
        return
    together = nodes.inline(classes=["zu-keep"])
    formula.replace_self(together)
    if opening:
        parent.replace(before, nodes.Text(before.removesuffix(opening)))
    if closing:
        parent.replace(after, nodes.Text(after.removeprefix(closing)))
    together += [part for part in (nodes.Text(opening), formula, nodes.Text(closing)) if part.astext()]


def tidied(found) -> str:
    """The table of a data frame: see `one_heading` and `aligned`; an empty cell is the heading of nothing."""
    from bs4 import BeautifulSoup

    table = BeautifulSoup(found.group(), "html.parser").table
    rows = table.select("tbody tr")
    if rows and table.thead:
        one_heading(table.thead.find_all("tr"), max(len(row.find_all("th")) for row in rows))
        aligned(table.thead.find_all("tr"), [row.find_all("td") for row in rows])
        with_signs(table, [row.find_all("td") for row in rows])
    for cell in table.find_all("th"):
        if not text_of(cell) and not cell.find(True):
            cell.name = "td"
    return str(table)


def one_heading(head, named):
    """Put the names of the index into the line above theirs, where that line has room, and to the left."""
    if len(head) > 1:
        above, last = (row.find_all(["th", "td"]) for row in head[-2:])
        if len(above) == len(last) and not any(map(text_of, [*above[:named], *last[named:]])):
            for cell, name in zip(above, last[:named], strict=False):
                cell.string = text_of(name)
            head.pop().extract()
    for row in head:
        for cell in row.find_all(["th", "td"])[:named]:
            cell["class"] = "zu-text"


def aligned(head, rows):
    """Columns of words begin at the left, no number is parted, and what stands before a negative one is a minus."""
    for i in range(1, max(map(len, rows)) + 1):  # from the right: rows may have fewer cells at the left
        cells = [row[-i] for row in rows if len(row) >= i]
        words = set(map(text_of, cells)) - {"", "–"}
        if words and not any(re.match(r"\W{0,3}\d", word) for word in words):
            for row in head:
                across = [cell for cell in row.find_all(["th", "td"]) for _ in range(int(cell.get("colspan", 1)))]
                if i <= len(across) and not across[-i].get("colspan"):
                    cells.append(across[-i])
            for cell in cells:
                cell["class"] = "zu-text"
        for cell in cells:
            if re.fullmatch(r"\W?[\d,.]+(e[−+-]?\d+)?\s?%?", text_of(cell)):
                cell["class"] = "zu-number"
                if text_of(cell).startswith("-") and not cell.find(True):
                    cell.string = text_of(cell).replace("-", "−", 1)


#: What a verdict is called in a table, and its sign and class.
VERDICTS = {"yes": ("✓", "zu-yes"), "reproduced": ("✓", "zu-yes"),
            "no": ("✗", "zu-no"), "not reproduced": ("✗", "zu-no"),
            "undecided": ("?", "zu-open"), "untestable": ("–", "zu-open")}


def with_signs(table, rows):
    """Each verdict gets a sign and a colour: a whole cell in a column of verdicts, or the end of one after a colon."""
    from bs4 import BeautifulSoup

    for i in range(1, max(map(len, rows)) + 1):
        cells = [row[-i] for row in rows if len(row) >= i]
        said = set(map(text_of, cells)) - {""}
        for cell in cells:
            before, colon, last = text_of(cell).rpartition(": ")
            if last in VERDICTS and (colon or said <= set(VERDICTS)) and not cell.find(True):
                sign, kind = VERDICTS[last]
                mark = BeautifulSoup("", "html.parser").new_tag("span", attrs={"class": f"zu-verdict {kind}"})
                mark.string = f"{sign}\u00a0{last}"
                cell.clear()
                cell.extend([before + colon, mark])


def text_of(cell) -> str:
    """What stands in a table's cell."""
    return cell.get_text().strip()


def as_seen(app, page, template, context, doctree):
    """For who listens or has no mouse: a button is called what stands on it, a wide table can be reached and scrolled
    by keys, and the list of sources plays no part that it has not. Tables of data frames are tidied.
    """
    for old, better in (('<summary aria-label="Toggle hidden content">', "<summary>"),
                        ('<div role="list" class="citation-list">', '<div class="citation-list">'),
                         ('<div class="output text_html">', '<div class="output text_html" tabindex="0">'),
                         ('<div class="pst-scrollable-table-container">',
                          '<div class="pst-scrollable-table-container" tabindex="0">'),
                         ('<th class="head"><p></p></th>', '<td class="head"></td>'),
                         (' role="doc-biblioentry"', "")):
        if "body" in context:
            context["body"] = context["body"].replace(old, better)
    if "body" in context:
        context["body"] = re.sub(r'<table[^>]*class="dataframe.*?</table>', tidied, context["body"], flags=re.DOTALL)


def setup(app):
    """Sphinx's way in."""
    app.add_config_value("page_needs", {}, "env")
    app.add_enumerable_node(Table, "table", html=tuple(
        lambda writer, node, name=name: getattr(writer, name)(node) for name in ("visit_figure", "depart_figure")))
    app.add_transform(Tables)
    app.connect("doctree-read", under_title)
    app.connect("doctree-resolved", on_page)
    app.connect("html-page-context", as_seen)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
