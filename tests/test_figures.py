"""What tables and figures say beside their numbers."""
import base64
import io
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from zu import figures


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
    assert figures.with_interval({"eff": 20.0, "interval_eff": [0.0, 50.0]}, "eff") == "20.0 [0, 50]"
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
    assert re.search(link, text, re.M | re.S), "the data behind it, for download"
    if name.startswith("fig-"):
        assert len(alt) > 40, "an alternative text says what is drawn"
