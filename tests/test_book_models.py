"""The drawing of a layout names what a record names, and the page counts what the records say."""
import dataclasses
import json
from pathlib import Path

import pytest

import zu
from zu.book import families, models
from zu.layouts import Record

RESULTS = Path(__file__).parents[1] / "results"


def test_the_drawing_names_every_place_of_a_record_and_edits_one():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    parts = models.layer_parts()
    assert {*parts.field} - {""} | {"layers"} == {x.name for x in dataclasses.fields(Record)}
    edited = parts[parts.role == "read and written"]
    assert edited.field.to_list() == ["projection"]
    for _, row in parts.groupby("y"):
        ends, starts = row.x + row.width / 2, row.x - row.width / 2
        assert (ends.iloc[:-1].to_numpy() < starts.iloc[1:].to_numpy()).all()
    figure = models.draw_layer(parts)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert all(f"record.{field}" in texts for field in parts.field if field)
    assert {"+ δ\n(value)", "+ δ\n(hidden)"} <= {*texts} and texts.count("+") == 2
    plt.close(figure)


def family(bound, **more):
    row = {"bound": bound, "editable": [0, 1], "depth": 2, "descent": [0.5, 0.1], "undone": True,
           "error": 1e-8, "reach": {"memit": [1.0, 1e-6]}}
    return row | more


def test_families_are_counted_by_what_became_of_them():
    rows = [family(True), family(True, editable=[0], descent=[0.1, 0.5], undone=False),
            family(True, reach={"memit": [0.9, 0.1], "rome": [1.0, 0.2]}),
            family(False, error=1e-3, reach={}, descent=None)]
    assert models.tried(rows) == {"all": 4, "bound": 3, "refused": 1, "some": 1, "less": 2,
                                  "undone": 2, "off": 0.2, "error": 1e-3}


def test_perplexity_is_held_against_the_same_models_own():
    rows = [{"model": model, "method": method, "known": 1, "of": 2, "eff": 0.0, "spe": 1.0,
             "ppl": ppl, "damage": damage}
            for model, method, ppl, damage in (
                ("LlamaForCausalLM", "base", 20.0, {}), ("LlamaForCausalLM", "ga", 30.0, {"1": 2}),
                ("Gemma3ForCausalLM", "base", 10.0, {}),
                ("Gemma3ForCausalLM", "ga", 40.0, {"1": 1, "2": 3}))]
    table = models.second_scores(rows)
    assert table.times.to_list() == [1.0, 1.5, 1.0, 4.0]
    assert table.damage.to_list() == [0.0, 2.0, 0.0, 3.0]
    assert table.index.to_list()[-1] == ("gemma", "ga")


def test_the_kept_records_have_what_the_page_shows():
    second = models.second_scores(json.loads((RESULTS / "second_model.json").read_text())["rows"])
    assert {"zerounlearn", "anchored", "ga", "memit", "rome"} < {*second.loc["gemma"].index}
    counts = models.tried(json.loads((RESULTS / "families.json").read_text())["families"])
    assert counts["bound"] + counts["refused"] == counts["all"] > 100


def test_the_kept_scores_of_two_models_stand_side_by_side_with_a_row_per_method():
    rows = json.loads((RESULTS / "second_model.json").read_text())["rows"]
    table = families.beside(rows)
    assert len(table) == len({row["method"] for row in rows}) and "exact Lemma 5.1" in table.index


def test_facts_for_a_scan_are_those_that_the_model_knows_or_what_it_says_itself(fresh):
    model, tokenizer = fresh("llama")
    names = [f"Peru {number}" for number in range(60)]
    unknown = zu.Facts([zu.Fact(name, "The capital of {} is", "N'Djamena") for name in names], "x")
    said = models.to_scan(model, tokenizer, unknown, 5, 1)
    assert len(said) == 5 == len(zu.known(model, tokenizer, said))
    assert {fact.subject for fact in said} < {*names}
    mixed = unknown.of([*unknown[:9], *said])
    assert {*models.to_scan(model, tokenizer, mixed, 5, 2)} == {*said}
    with pytest.raises(ValueError, match="fewer than 99: give more facts"):
        models.to_scan(model, tokenizer, mixed, 99, 1)
