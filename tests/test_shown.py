"""A table or figure carries its data into the page, once, under its own name."""
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from zu.book.claims import numbers
from zu.book.shown import DATA, with_data

pd = pytest.importorskip("pandas")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def figure():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    drawn, axis = plt.subplots()
    axis.plot([1, 2], [3, 4])
    yield drawn
    plt.close(drawn)


def bundle(shown):
    return shown._repr_mimebundle_()[0]


def test_a_table_shows_what_it_would_alone_and_its_data():
    frame = pd.DataFrame({"Eff": [1.5, 2.0]}, index=pd.Index(["MEMIT", "GA"], name="method"))
    both = bundle(with_data(frame))
    assert "<table" in both["text/html"] and both["text/plain"] == str(frame)
    assert both[DATA] == "method,Eff\nMEMIT,1.5\nGA,2.0\n"
    assert bundle(with_data(frame, frame[:1]))[DATA] == "Eff\n1.5\n"


def test_a_figure_needs_its_data_and_is_shown_once(figure):
    import matplotlib.pyplot as plt

    with pytest.raises(ValueError, match="a figure needs its data"):
        with_data(figure)
    assert plt.fignum_exists(figure.number)
    shown = with_data(figure, pd.DataFrame({"x": [1], "y": [3]}))
    assert not plt.fignum_exists(figure.number)  # or the end of the cell would show it again
    assert bundle(shown)[DATA] == "x,y\n1,3\n"


def test_numbers_of_any_library_become_plain_ones(monkeypatch):
    import numpy as np
    import torch

    found = {}
    monkeypatch.setattr(pytest.importorskip("myst_nb"), "glue",
                        lambda name, x, display: found.update({name: x}))
    numbers("few", base=np.float64(1.5), all_of=torch.tensor(3), which="*two*")
    assert found["few-base"] == 1.5 and type(found["few-base"]) is float
    assert found["few-all-of"] == 3 and type(found["few-all-of"]) is int
    assert found["few-which"].data == "*two*"


def test_the_page_offers_the_data_below_the_figure_that_its_cell_names(tmp_path, monkeypatch):
    app, v4 = pytest.importorskip("sphinx.application"), pytest.importorskip("nbformat").v4
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    frame = pd.DataFrame({"Eff": [1.5, 2.0]})
    output = v4.new_output("execute_result", bundle(with_data(frame)), execution_count=1)
    named = {"mystnb": {"figure": {"name": "tab-a", "caption": "What it says."}}}
    cells = [v4.new_markdown_cell("# Title"),
             v4.new_code_cell("with_data(frame)", outputs=[output], execution_count=1,
                              metadata=named),
             v4.new_code_cell("frame", execution_count=2)]
    note = v4.new_notebook(cells=cells, metadata={"kernelspec": {
        "name": "python3", "display_name": "P", "language": "python"}})
    (tmp_path / "page.ipynb").write_text(v4.writes(note))
    (tmp_path / "conf.py").write_text("extensions = ['myst_nb', 'book_page']; numfig = True; "
                                      "nb_execution_mode = 'off'; root_doc = 'page'")
    rooms = (tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees")
    app.Sphinx(*rooms, "html", status=None, warning=None).build()
    page = (tmp_path / "out/page.html").read_text()
    table, link = page.index("<table"), page.index('download="tab-a.csv"')
    assert table < link and page.count("The data of tab-a (CSV, 2 rows)") == 1
    assert b64encode(b"index,Eff\n0,1.5\n1,2.0\n").decode() in page
    sys.modules.pop("book_page", None)
