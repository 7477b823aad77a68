"""What tables and figures say beside their numbers."""
import base64
import io
import re

import pandas as pd
import pytest

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
