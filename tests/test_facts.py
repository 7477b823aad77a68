"""Facts are checked where they enter, and errors name the place and the remedy."""
import json

import pytest

import zu
from zu.facts import Fact, FactError, Facts, load_facts


@pytest.mark.parametrize("change, message", [
    ({"subject": ""}, "'subject'"), ({"target": "  "}, "'target'"), ({"prompt": "The capital is"}, "'prompt'.*once"),
    ({"prompt": "{} and {} are"}, "once"), ({"prompt": "The capital of {} is "}, "last word"),
    ({"subject": " France"}, "space around"), ({"target": 3}, "'target' is 3"),
])
def test_a_fact_that_cannot_be_used_is_refused_by_field(change, message):
    with pytest.raises(FactError, match=message):
        Fact(**{"subject": "France", "prompt": "The capital of {} is", "target": "Paris"} | change)


def test_a_sample_is_the_same_for_a_seed_and_has_no_fact_twice(facts):
    first, again = facts.sample(3, 5), facts.sample(3, 5)
    assert list(first) == list(again) and len(set(first)) == 3
    assert any(list(facts.sample(3, s)) != list(first) for s in range(5))
    with pytest.raises(ValueError, match="holds 5 facts"):
        facts.sample(6, 1)


def test_the_hash_tells_forget_sets_apart(facts):
    assert facts.hash == Facts(list(facts)).hash != facts[:4].hash


ROWS = [{"subject": "France", "prompt": "The capital of {} is", "target": "Paris"},
        {"subject": "Peru", "prompt": "The capital of Peru is", "target": "Lima", "paraphrases": ["Peru's capital is"],
         "neighbors": [["The capital of Chad is", "N'Djamena"]]}]


def test_json_and_json_lines_give_the_same_facts(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    a, b = load_facts(tmp_path / "a.json"), load_facts(tmp_path / "b.jsonl")
    assert list(a) == list(b) and a.name == "a"
    assert a[1].text == "The capital of Peru is" and a[1].prompt == "The capital of {} is"
    assert a[1].neighbors == (("The capital of Chad is", "N'Djamena"),)


@pytest.mark.parametrize("text, message", [
    ('{"subject": "France", "prompt": "In {} is"}', "line 1: field 'target' is missing"),
    ('{"subject": "France", "prompt": "In {} is", "target": "x"}\n{"subject": "Peru"', "line 2: not JSON at column"),
    ('{"subject": "France", "prompt": "In Spain is", "target": "x"}', "line 1: field 'prompt' holds the subject 0"),
    ('{"subject": "France", "prompt": "In {} is", "target": "x", "colour": 1}', "'colour' is not one of"),
    ('[3]', "row 1: a int"), ("<html>", "not JSON"), ('[{"subject": "a"', "not JSON"),
    ('{"subject": "France", "prompt": "In {} is", "target": ""}', "line 1: field 'target'"),
])
def test_a_bad_file_is_refused_with_file_row_and_field(tmp_path, text, message):
    path = tmp_path / "facts.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FactError, match=message) as caught:
        load_facts(path)
    assert "facts.json" in str(caught.value)


def test_another_encoding_and_a_missing_file_say_so(tmp_path):
    (tmp_path / "latin.json").write_bytes('[{"subject": "Côte"}]'.encode("latin-1"))
    with pytest.raises(FactError, match="not UTF-8"):
        load_facts(tmp_path / "latin.json")
    with pytest.raises(FileNotFoundError, match="world-cloze"):
        load_facts(tmp_path / "none.json")


def test_facts_of_ones_own_are_taken_as_they_are():
    fact = zu.Fact("France", "The capital of {} is", "Paris")
    assert list(load_facts([fact])) == [fact]
