"""What tables and figures say beside their numbers."""
import base64
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from zu.book import figures


def test_the_data_link_holds_the_whole_frame():
    frame = pd.DataFrame({"method": ["base", "exact: a, b"], "value": [1 / 3, 20.0]})
    html = figures.data_link(frame, "tab-x").data
    assert 'download="tab-x.csv"' in html
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(data)), frame)


def test_rows_show_settings_only_where_a_method_stands_twice():
    assert figures.row_names(["base", "zerounlearn:beta=0", "memit"]) == {
        "base": "Base", "zerounlearn:beta=0": "ZeroUnlearn", "memit": "MEMIT"}
    names = figures.row_names(["rome", "rome:first_only=true", "mine"])
    assert names == {"rome": "ROME", "rome:first_only=true": "rome:first_only=true", "mine": "mine"}


@pytest.mark.parametrize("model, dataset, found", [
    ("meta-llama/Llama-3.1-8B-Instruct", "mcf-forget", ("Llama-3.1", "MCF")),
    ("smollm2", "world-qa", ("Llama-3.2", "ZsRE")),
    ("Qwen/Qwen3-4B", "mquake-forget-known", ("Qwen-3", "MQuAKE")), ("smollm2", "mine", None)])
def test_a_models_and_data_sets_own_rows_of_the_paper_are_found(model, dataset, found):
    tables = pd.DataFrame([{"model": m, "dataset": d} for m in ("Llama-3.2", "Llama-3.1", "Qwen-3")
                           for d in ("MCF", "ZsRE", "MQuAKE")])
    rows = figures.printed(tables, model, dataset)
    assert list(rows.itertuples(index=False, name=None)) == ([found] if found else [])


def test_percentages_carry_their_interval():
    metrics = {"eff": 20.0, "interval_eff": [0.0, 50.0]}
    assert figures.with_interval(metrics, "eff") == "20.0 [0,\u00a050]"
    assert figures.with_interval({"hop": None, "interval_hop": [None, None]}, "hop") == "–"


def exhibits():
    """Every figure and table of the book: its head, its alternative text, its chapter's text."""
    for path in sorted(Path(__file__).parent.parent.glob("book/*.md")):
        text = path.read_text()
        for head in re.findall(r"^```\{code-cell\}[^\n]*\n---\n(.*?)^---$", text, re.M | re.S):
            drawn = yaml.safe_load(head).get("mystnb") or {}
            if shown := drawn.get("figure"):
                alt = drawn.get("image", {}).get("alt", "")
                yield pytest.param(shown, alt, text, id=f"{path.stem}: {shown['name']}")


@pytest.mark.parametrize("shown, alt, text", exhibits())
def test_every_figure_and_table_says_what_it_found_and_gives_its_data(shown, alt, text):
    name = shown["name"]
    assert re.match("(fig|tab)-", name)
    assert "{glue:" in shown["caption"], "a caption states its finding, and a finding is computed"
    link = rf'^(?:figures\.)?data_link\((?:(?!```).)*"{name}"\)$'
    beside = rf"^    name: {name}\n(?:(?!```).)*^with_data\((?:(?!```).)*\)$"
    found = re.search(link, text, re.M | re.S) or re.search(beside, text, re.M | re.S)
    assert found, "the data behind it, for download"


@pytest.mark.parametrize("shown, alt, text", [
    one for one in exhibits() if one.values[0]["name"].startswith("fig-")])
def test_every_figure_has_an_alternative_text_that_says_what_is_drawn(shown, alt, text):
    assert len(alt) > 40


def records():
    """Two methods on two seeds: what a chapter hands to the tables."""
    values = {("base", 1): (40, 30), ("base", 2): (20, 10), ("memit", 1): (0, 25),
              ("memit", 2): (4, None)}
    return [{"dataset": "world-cloze", "model": "m", "method": method, "seed": seed, "n": 10,
             "metrics": {"eff": eff, "gen": 1.0, "spe": spe, "hop": None, "ppl": 18.5}}
            for (method, seed), (eff, spe) in values.items()]


def test_a_table_sets_mean_and_sample_deviation_beside_what_the_paper_prints():
    frame = figures.metrics_frame(records())
    assert len(frame) == 4 * 5 and frame.value.isna().sum() == 4 + 1
    paper = pd.DataFrame([("Base", "Eff", 21.55, 0.0), ("MEMIT", "Eff", 20.1, 1.234),
                          ("MEMIT", "PPL", 9.5, None)],
                         columns=["method", "metric", "mean", "std"])
    shown = figures.table(frame, paper, {"base": "Base", "ga": "GA", "memit": "MEMIT"})
    assert list(shown.index) == ["Base", "MEMIT"]  # what did not run has no row
    assert [metric for run, metric in shown.columns if run == "this run"] == [
        "Eff", "Gen", "Spe", "PPL"]
    # n - 1, not n: that would be 10.00
    assert shown.loc["Base", ("this run", "Eff")] == "30.00 ±\u00a014.14"
    assert shown.loc["MEMIT", ("this run", "Spe")] == "25.0"  # one value has no deviation
    assert list(shown["the paper"].loc["MEMIT"]) == ["20.10 ±\u00a01.23", "–", "–", "9.50"]
    assert shown.loc["Base", ("the paper", "Eff")] == "21.55"
    hops = [dict(r, metrics=r["metrics"] | {"hop": 5.0}) for r in records()]
    shown = figures.table(figures.metrics_frame(hops), paper, {"base": "Base"})
    assert ("this run", "Hop") in shown.columns


def test_a_caption_names_the_ends_and_every_method_that_shares_one():
    names = {"base": "Base", "memit": "MEMIT", "exact": "exact"}
    rows = records() + [dict(r, method="exact") for r in records() if r["method"] == "memit"]
    assert figures.extremes(figures.metrics_frame(rows), names) == (
        "Eff is lowest with MEMIT and exact, 2.0 (Base 30.0); "
        "Spe is highest with MEMIT and exact, 25.0 (Base 20.0).")
    rows += [dict(r, method="rome") for r in records() if r["method"] == "memit"]
    assert figures.extremes(figures.metrics_frame(rows), names | {"rome": "ROME"}).startswith(
        "Eff is lowest with MEMIT, exact and ROME, 2.0 ")
    assert figures.extremes(figures.metrics_frame(records()[:2]), names) == ""


def test_dots_are_the_seeds_and_bars_their_means():
    import matplotlib
    from matplotlib import pyplot as plt

    matplotlib.use("Agg")
    figure = figures.dots(figures.metrics_frame(records()),
                          {"memit": "MEMIT", "base": "Base", "ga": "GA"})
    eff = figure.axes[0]
    assert [label.get_text() for label in eff.get_yticklabels()] == ["MEMIT", "Base"]
    seeds, mean = eff.lines[2:4]
    assert list(seeds.get_xdata()) == [40, 20] and list(mean.get_xdata()) == [30, 30]
    assert seeds.get_color() == figures.PALETTE["base"] and eff.get_title().startswith("Eff")
    plt.close(figure)


def test_all_of_the_papers_models_stand_side_by_side():
    tables = pd.read_csv(Path(__file__).parents[1] / "book/paper/tables.csv")
    tables = tables.query("table in ['table1', 'F1-mcf']")
    wide = figures.all_printed(tables, "world-cloze")
    models = list(dict.fromkeys(model for model, _ in wide.columns))
    assert models == ["Llama-3.2", "Llama-3.1", "Qwen-3"]
    rows = (tables.model == "Qwen-3") & (tables.method == "MEMIT") & (tables.metric == "Spe")
    cell = tables[rows]["mean"].item()
    assert wide.loc["MEMIT", ("Qwen-3", "Spe")] == f"{cell:.2f}"
    assert not len(figures.all_printed(tables, "mine"))


def test_the_same_figure_is_the_same_file_whenever_it_is_drawn(monkeypatch):
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell

    def drawn():
        with plt.rc_context():
            figures.use_style()
            figure, axis = plt.subplots()
            axis.plot([0, 1], label="a line")
            axis.legend()
            plt.close(figure)
            return InteractiveShell.instance().display_formatter.formatters["image/svg+xml"](figure)

    first = drawn()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")  # another day
    assert first == drawn() and "<svg" in first


def test_what_is_lowest_and_highest_leaves_out_a_metric_that_is_not_there():
    frame = pd.DataFrame([{"method": m, "metric": "Eff", "value": x}
                          for m, x in (("base", 20.0), ("memit", 5.0))])
    said = figures.extremes(frame, {"base": "Base", "memit": "MEMIT"})
    assert said == "Eff is lowest with MEMIT, 5.0 (Base 20.0)."
