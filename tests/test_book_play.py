"""Figures to play with: what they are drawn from, their still pictures, and their controls."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zu
from zu.book import play
from zu.book.shown import CONTROLS, with_data
from zu.experiment import Kept, read_record
from zu.scores import wilson

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib").use("Agg")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import ranks as ranks_tool  # noqa: E402
import spectrum as spectrum_tool  # noqa: E402

SETS = ["world-cloze (clozes), 50 facts, m", "other, 50 facts, m"]


def few_shot():
    """Base and two methods on two data sets, six draws; another method on one draw alone."""
    rows = []
    for dataset in ("world-cloze", "other"):
        for seed in range(1, 7):
            for method, left in (("base", 1.0), ("memit", 0.5), ("memit:alpha=1", 0.5), ("ga", 0)):
                level = 40 + seed
                metrics = {"eff": left * level, "gen": left * level / 2, "spe": left * level,
                           "ppl": 20 / (left or 0.5), "hop": None}
                rows.append({"model": "m", "dataset": dataset, "n": 50, "seed": seed,
                             "method": method, "metrics": metrics | {
                                 "n_eff": 50, "n_gen": 100, "n_spe": 500}})
    return [*rows, {**rows[1], "method": "rome"}, {**rows[1], "seed": 99}]


@pytest.fixture
def draws():
    return play.per_draw(few_shot())


def of(frame, **about):
    for name, value in about.items():
        frame = frame[frame[name] == value]
    return frame


def test_a_draw_is_held_against_the_unedited_model_on_the_same_facts(draws):
    one = of(draws, set=SETS[0], method="memit", seed=3).set_index("quantity")
    assert one.value["forgotten"] == one.value["kept"] == 50.0
    assert one.value["eff"] == 21.5 and one.value["times"] == 2.0 and one.asked["spe"] == 500
    assert of(draws, seed=99).empty  # there is no base of that draw
    zero = [dict(row, metrics=row["metrics"] | {"gen": 0.0}) for row in few_shot()]
    kinds = set(play.per_draw(zero).quantity)
    assert "forgotten elsewhere" not in kinds and {"gen", "forgotten"} <= kinds


def test_means_have_intervals_over_draws_and_few_draws_make_none(draws):
    means = play.over_all(draws)
    assert set(means.method) == {"base", "memit", "memit:alpha=1", "ga"}  # rome ran once
    same = of(means, set=SETS[0], method="memit", quantity="forgotten").iloc[0]
    assert (same["mean"], same.low, same.high, same.draws) == (50.0, 50.0, 50.0, 6)
    eff = of(means, set=SETS[0], method="memit", quantity="eff").iloc[0]
    assert eff["mean"] == 21.75 and eff.high - eff["mean"] == pytest.approx(
        2.5706 * np.std(np.arange(6) / 2, ddof=1) / 6**0.5, rel=1e-4)


def test_no_answer_in_any_draw_is_no_proof_that_there_is_none(draws):
    means = play.over_all(draws)
    most = wilson(0, 300)[1]
    eff = of(means, set=SETS[0], method="ga", quantity="eff").iloc[0]
    gone = of(means, set=SETS[0], method="ga", quantity="forgotten").iloc[0]
    assert (eff.low, eff["mean"], eff.high) == (0.0, 0.0, most)
    assert (gone["mean"], gone.high) == (100.0, 100.0)
    assert gone.low == pytest.approx(100 - 100 * most / 43.5)


def through_a_notebook(controls):
    """What is left of controls that a notebook has kept: it sorts the keys."""
    return json.loads(json.dumps(controls, sort_keys=True, allow_nan=False))


def test_the_controls_of_the_first_figure_hold_every_set_method_and_quantity(draws):
    means = play.over_all(draws)
    controls = through_a_notebook(play.trade_controls(draws, means, "forgotten", "kept"))
    assert [key for key, _ in controls["quantities"]] == list(play.QUANTITIES)
    assert [one["name"] for one in controls["sets"]] == SETS
    names = [row["name"] for row in controls["sets"][0]["rows"]]
    assert names == ["Base", "MEMIT", "MEMIT, alpha=1", "GA"]
    memit = controls["sets"][0]["rows"][1]["values"]["eff"]
    assert memit["mean"] == 21.75 and memit["draws"]["3"] == 21.5 and len(memit["draws"]) == 6


def test_the_still_picture_has_a_panel_for_each_set_and_a_line_where_as_much_is_lost(draws):
    means = play.over_all(draws)
    figure = play.draw_trade(draws, means, "forgotten", "kept", SETS)
    assert [axis.get_title() for axis in figure.axes] == [s.replace(", ", ",\n", 1) for s in SETS]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["Base", "MEMIT", "MEMIT, alpha=1", "GA"]
    lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in lines] == [[0, 100]]
    other = play.draw_trade(draws, means, "forgotten", "ppl", SETS[:1])
    assert all(line.get_linestyle() != ":" for line in other.axes[0].get_lines())


def seen():
    """What tools/ranks.py writes, of two facts, two prompts each and three layers."""
    rows = [{"subject": subject, "relation": "r", "kind": kind, "prompt": f"{subject} {kind}",
             "answer": "A", "method": method, "ranks": [90, 50, last], "says": " A"}
            for method, last in (("base", 1), ("memit", 7)) for subject in ("x", "y")
            for kind in ("as edited", "a neighbour")]
    return {"rows": rows, "layers": [1], "vocabulary": 100}


def test_ranks_are_told_by_prompt_method_and_layer():
    frame = play.ranks(seen())
    assert len(frame) == 2 * 2 * 2 * 3
    one = of(frame, prompt="y a neighbour", method="memit")
    assert one["rank"].to_list() == [90, 50, 7] and one.layer.to_list() == [0, 1, 2]
    controls = through_a_notebook(play.rank_controls(seen(), "y", 2))
    assert [x["name"] for x in controls["methods"]] == ["before the edit", "MEMIT"]
    assert [fact["subject"] for fact in controls["facts"]] == ["x", "y"]
    prompt = controls["facts"][1]["prompts"][0]
    assert prompt["kind"] == "as edited" and prompt["rows"][1] == {"ranks": [90, 50, 7],
                                                                 "says": "A"}


def test_the_picture_of_ranks_has_a_panel_for_each_kind_of_prompt_and_1_at_its_top():
    figure = play.draw_ranks(seen(), "x")
    assert [axis.get_title() for axis in figure.axes] == ["as edited", "a neighbour"]
    low, high = figure.axes[0].get_ylim()
    assert low > high and figure.axes[0].get_yscale() == "log"
    assert list(figure.axes[1].get_lines()[1].get_ydata()) == [90, 50, 7]


def four():
    """A layer of four directions, with energies that add up to 10, 20 and 4."""
    return {"edited": [3], "rows": [{
        "layer": 3, "eigenvalues": [0.01, 0.05, 1.0, 8.94], "held out": [1.0, 1.0, 8.0, 10.0],
        "facts": [1.0, 1.0, 1.0, 1.0]}]}


def test_a_threshold_keeps_what_lies_below_it_and_what_that_holds():
    frame = play.cuts(four(), (0.001, 0.01, 0.05001, 100.0)).set_index("threshold")
    assert frame.directions.to_list() == [0, 0, 2, 4]  # the eigenvalue itself is not below
    assert frame["share"].to_list() == [0.0, 0.0, 50.0, 100.0]
    assert frame.ordinary.to_list() == pytest.approx([0, 0, 0.6, 100])
    assert frame["held out"].to_list() == [0, 0, 10.0, 100.0]
    assert frame.facts.to_list() == [0, 0, 50.0, 100.0]
    assert {0.01, 0.02} < set(play.THRESHOLDS) and list(play.THRESHOLDS) == sorted(
        set(play.THRESHOLDS))


def test_the_controls_of_the_cut_begin_at_the_threshold_and_end_at_everything():
    controls = through_a_notebook(play.cut_controls(four(), 3, 0.02))
    assert controls["thresholds"][controls["start"]] == 0.02
    layer = controls["layers"][0]
    assert layer["directions"][controls["start"]] == 1 and layer["directions"][-1] == 4
    assert layer["share"] == [0, 25, 50, 75, 100] and layer["edited"]
    assert layer["eigenvalues"] == [0.01, 0.01, 0.05, 1.0, 8.94]
    assert layer["curves"]["facts"] == [0, 25, 50, 75, 100]
    assert [key for key, *_ in controls["curves"]] == ["ordinary", "held out", "facts"]
    figure = play.draw_cuts(four(), 3, 0.06)
    assert [axis.patches[0].get_width() for axis in figure.axes] == [50.0, 50.0]


def test_a_layers_energies_are_those_along_the_eigenvectors_and_add_up(tmp_path):
    g = torch.Generator().manual_seed(0)
    K, other, keys = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (50, 40, 3))
    found = spectrum_tool.of_layer(K.T @ K / 50, other.T @ other / 40, keys)
    assert found["eigenvalues"] == sorted(found["eigenvalues"])
    for name, x in (("eigenvalues", K), ("held out", other), ("facts", keys)):
        assert sum(found[name]) == pytest.approx(float(x.pow(2).sum(1).mean()), rel=1e-3)
    q = torch.linalg.eigh(K.T @ K).eigenvectors[:, 0]
    assert found["held out"][0] == pytest.approx(float((other @ q).pow(2).mean()), rel=1e-3)
    record = {"format": "zu-record-1", "edited": [3], "rows": [{"layer": 3} | found]}
    spectrum_tool.write(tmp_path / "s.json", record)
    assert read_record(tmp_path / "s.json") == record
    assert len((tmp_path / "s.json").read_text().splitlines()) == 7


def test_ranks_before_and_after_an_edit_are_those_of_the_logits(fresh, facts):
    model, tokenizer = fresh("llama")
    reader = zu.Reader(model, tokenizer)
    two = ranks_tool.chosen(reader, facts)
    assert [fact.subject for fact in two] == ["France"]  # of those with both kinds of prompts
    rows = ranks_tool.rows_of(model, tokenizer, two, ["ga"])
    assert [(row["method"], row["kind"]) for row in rows] == [
        (method, kind) for method in ("base", "ga") for kind in ranks_tool.KINDS]
    first = rows[0]
    ids = tokenizer(first["prompt"], return_tensors="pt").input_ids
    gold = tokenizer(first["prompt"] + " " + first["answer"]).input_ids[ids.shape[1]]
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    assert first["ranks"][-1] == 1 + int((logits > logits[gold]).sum())
    assert first["says"] == tokenizer.decode([int(logits.argmax())])
    assert len(first["ranks"]) == 5 and rows[0]["ranks"] != rows[3]["ranks"]


def test_the_kept_records_have_what_the_page_shows():
    few = list(Kept.read(ROOT / "results/few_shot.json").runs.values())
    means = play.over_all(play.per_draw(few))
    assert {"base", "memit", "zerounlearn", "ga"} <= set(means.method) and means.notna().all(None)
    record = read_record(ROOT / "results/ranks.json")
    frame = play.ranks(record)
    assert set(frame.method) == {"base", *ranks_tool.METHODS} and "Latvia" in set(frame.subject)
    assert {tuple(kinds) for kinds in frame.groupby("subject").kind.unique()} == {ranks_tool.KINDS}
    at = play.cuts(read_record(ROOT / "results/spectrum.json"))
    assert set(at.layer) == {5, 15, 16, 17} and (at.ordinary <= at["share"] + 1e-9).all()


# ---- in a browser


def cell(name, figure, controls):
    """A cell that shows a figure to play with, as it stands in an executed notebook."""
    v4 = pytest.importorskip("nbformat").v4
    data = with_data(figure, pd.DataFrame({"x": [1]}), controls)._repr_mimebundle_()[0]
    named = {"mystnb": {"figure": {"name": name, "caption": "What it says."},
                        "image": {"alt": "What is drawn, in words."}}}
    output = v4.new_output("execute_result", data, execution_count=1)
    return v4.new_code_cell("shown", outputs=[output], execution_count=1, metadata=named)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of a page with the three figures, rendered as the book's pages are."""
    app, v4 = pytest.importorskip("sphinx.application"), pytest.importorskip("nbformat").v4
    pytest.importorskip("sphinx_book_theme")
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    room = tmp_path_factory.mktemp("play")
    draws = play.per_draw(few_shot())
    means = play.over_all(draws)
    hostile = seen()
    hostile["rows"][0]["prompt"] = "</script><b>x</b>"
    cells = [
        v4.new_markdown_cell("# Title"),
        cell("fig-trade", play.draw_trade(draws, means, "forgotten", "kept", SETS),
             play.trade_controls(draws, means, "forgotten", "kept")),
        cell("fig-ranks", play.draw_ranks(seen(), "x"), play.rank_controls(hostile, "x", 1)),
        cell("fig-cuts", play.draw_cuts(four(), 3, 0.02), play.cut_controls(four(), 3, 0.02))]
    note = v4.new_notebook(cells=cells, metadata={"kernelspec": {
        "name": "python3", "display_name": "P", "language": "python"}})
    (room / "page.ipynb").write_text(v4.writes(note))
    static = ROOT / "book/_static"
    (room / "conf.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'book/_ext')!r})\n"
        "extensions = ['myst_nb', 'book_page']\nnumfig = True\nnb_execution_mode = 'off'\n"
        "root_doc = 'page'\nhtml_theme = 'sphinx_book_theme'\nlanguage = 'en'\n"
        "suppress_warnings = ['mystnb.unknown_mime_type']\n"
        f"html_static_path = [{str(static)!r}]\n"
        "html_css_files = ['book.css']\nhtml_js_files = ['play.js']\n")
    app.Sphinx(room, room, room / "out", room / "trees", "html", status=None, warning=None).build()
    sys.modules.pop("book_page", None)
    return room / "out/page.html"


def test_the_data_is_on_the_page_and_cannot_end_its_script(page):
    text = page.read_text()
    assert text.count('class="zu-play"') == 3 and text.count(' hidden><script type="appl') == 3
    assert "</script><b>" not in text and "\\u003c/script>\\u003cb>" in text
    assert CONTROLS not in text and text.count("<figcaption>") == 3


@pytest.fixture(scope="module")
def chrome():
    """Headless Chrome or Chromium; the tests are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api")
    import pdf

    try:
        program = pdf.browser()
    except SystemExit as error:
        pytest.skip(str(error))
    with api.sync_playwright() as work:
        browser = work.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chrome, page):
    """The page in a browser, and the errors that its scripts made."""
    tab = chrome.new_page(viewport={"width": 1000, "height": 900})
    tab.errors = []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.goto(page.as_uri())
    yield tab
    assert not tab.errors
    tab.close()


def said(tab, name):
    return tab.locator(f"#fig-{name} .zu-said").inner_text()


def test_the_keyboard_moves_the_threshold_and_picture_sentence_and_table_follow(opened):
    slider = opened.get_by_label("Threshold")
    assert "threshold 0.02: 1 of 4 directions stay" in said(opened, "cuts")
    before = opened.locator("#fig-cuts .zu-plots").inner_html()
    slider.focus()
    for _ in range(8):
        opened.keyboard.press("ArrowRight")
    assert "threshold 0.05: 1 of 4" in said(opened, "cuts")
    opened.keyboard.press("ArrowRight")
    assert "threshold 0.056: 2 of 4 directions stay (50%)" in said(opened, "cuts")
    assert slider.get_attribute("aria-valuetext") == "0.056"
    assert opened.locator("#fig-cuts .zu-plots").inner_html() != before
    cells = opened.locator("#fig-cuts tbody tr").first.locator("th, td").all_text_contents()
    assert cells == ["3", "2", "50", "0.6", "10", "50"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert opened.evaluate(outline) == "solid"  # the focus is to be seen
    opened.get_by_role("button", name="Back to 0.02").press("Enter")
    assert "threshold 0.02: 1 of 4" in said(opened, "cuts")


def test_axes_facts_and_methods_are_chosen_by_their_labels(opened):
    figure = opened.locator("#fig-trade")
    assert f"{SETS[0]}. Across, facts forgotten" in said(opened, "trade")
    figure.get_by_label("Facts", exact=True).select_option(label=SETS[1])
    figure.get_by_label("Up", exact=True).select_option(label="perplexity")
    assert said(opened, "trade").startswith(SETS[1])
    assert "Up, perplexity: 20 (Base) to 40 (" in said(opened, "trade")
    dots = figure.locator("svg[role=img] circle[r='6']")
    assert dots.count() == 4
    figure.get_by_label("GA", exact=True).press("Space")
    assert dots.count() == 3 and figure.locator("tbody tr").count() == 3
    image = figure.get_by_role("img", name="perplexity against facts forgotten")
    assert image.get_attribute("aria-describedby") == "fig-trade-said"
    assert figure.get_by_role("status").get_attribute("id") == "fig-trade-said"


def test_another_fact_and_layer_show_other_ranks(opened):
    figure = opened.locator("#fig-ranks")
    assert "Rank after layer 1 of 2: before the edit 50, MEMIT 50" in said(opened, "ranks")
    figure.get_by_label("After layer", exact=True).press("ArrowRight")
    figure.get_by_label("Fact about", exact=True).select_option(label="y")
    figure.get_by_label("Asked", exact=True).select_option(label="a neighbour")
    assert "“y a neighbour” – A. Rank after layer 2 of 2: before the edit 1, MEMIT 7" in said(
        opened, "ranks")


def test_the_still_picture_is_what_print_and_readers_without_scripts_see(opened, chrome, page):
    def visible(tab, name):
        return [tab.locator(f"{where} {name}").first.is_visible()
                for where in ("#fig-trade", "#fig-ranks", "#fig-cuts")]

    still = "a.zu-figure img"
    assert not any(visible(opened, still)) and all(visible(opened, ".zu-plots"))
    opened.emulate_media(media="print")
    assert all(visible(opened, still)) and not any(visible(opened, ".zu-plots"))
    plain = chrome.new_context(java_script_enabled=False).new_page()
    plain.goto(page.as_uri())
    assert all(visible(plain, still)) and plain.locator("select").count() == 0


def test_a_narrow_screen_is_not_scrolled_sideways(chrome, page):
    tab = chrome.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page.as_uri())
    assert tab.locator("#fig-cuts svg[role=img]").count() == 2
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    widths = tab.evaluate("[...document.querySelectorAll('.zu-plots svg')].map(x => x.clientWidth)")
    assert len(widths) == 4 and max(widths) < 390
    tab.set_viewport_size({"width": 800, "height": 800})
    tab.wait_for_function("document.querySelector('#fig-trade svg[role=img]').clientWidth > 400")


def test_nothing_keeps_a_reader_out_light_or_dark(page):
    pytest.importorskip("axe_playwright_python")
    pytest.importorskip("playwright.sync_api")
    import pdf

    try:
        pdf.browser()
    except SystemExit as error:
        pytest.skip(str(error))
    for name in ("search.html", "genindex.html"):
        (page.parent / name).unlink(missing_ok=True)
    run = subprocess.run([sys.executable, ROOT / "tools/check_pages.py", page.parent],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_sums_are_taken_draw_by_draw_and_leave_out_base_and_who_is_told():
    rows = [*few_shot(), *({**row, "method": "memit+anchors"} for row in few_shot()
                           if row["method"] == "memit")]
    found = play.sums(play.per_draw(rows), SETS[0])
    assert {*found} == {"memit", "memit:alpha=1", "ga"}
    assert found["memit"] == pytest.approx((100, 100, 100))  # half forgotten, half kept
    assert found["ga"] == pytest.approx((100, 100, 100))  # all forgotten, nothing kept
    assert play.sums(play.per_draw(rows), "no such set") == {}
