"""The field's files are read as published, by their shape, and nothing of a row goes in silence."""
import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import samples
from zu.data.facts import Fact, FactError, Facts
from zu.data.readers import load_facts
from zu.data.schemas import SCHEMAS, schema_of_all
from zu.data.shapes import SHAPES, nearest

OWN = {"subject": "Norway", "prompt": "The capital of Norway is", "target": "Oslo"}


def save(folder, rows, name="facts.json"):
    path = folder / name
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def read(folder, rows, **more):
    """The facts in rows, and what was said of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts = load_facts(save(folder, rows), **more)
    return facts, [str(warning.message) for warning in caught]


def refusal(folder, rows):
    """What is said of rows that cannot be read, without the file and the row."""
    with pytest.raises(FactError) as caught:
        load_facts(save(folder, rows))
    return str(caught.value).split(": ", 1)[1]


# ---- each published shape


#: What is said of each file: of the facts, then of the rows.
ODD = "1 of 2 facts have a paraphrase that holds neither the subject nor {}"
UNREAD = "are not read: 'portability' in 1 row;"
NO_SUBJECT = ("the question does not hold the subject exactly once as a word: the fact has no "
              "subject")
SAID = {
    "rwku_1": ["in 1 row a gap has words behind it"], "rwku_2": [],
    "rwku_3": [f"in 2 rows {NO_SUBJECT}"], "rwku_neighbors": [], "tofu": [], "tofu_perturbed": [],
    "muse_knowmem": [], "muse_verbmem": [], "knowedit_zsre": [ODD, UNREAD],
    "knowedit_counterfact": ["in 1 row a question has no answer", "answer to a Forgetfulness quest",
                             UNREAD],
    "wikirecent": [ODD, "in 2 rows, as in all, there is no ground_truth"],
    "wikibio": [f"in 1 row {NO_SUBJECT}"], "cknowedit": [UNREAD], "easyedit": [UNREAD],
    "easyedit_lists": [ODD], "memit": [], "wikibigedit": [], "wmdp": [], "columns": [],
}
#: The first fact of each.
FIRST = {
    "rwku_1": Fact("Blue Lamp", "The owner of {} is the singer", "Ann Lee", id="1"),
    "rwku_2": Fact("Blue Lamp", "Which singer owns {}?", "Ann Lee", id="1"),
    "rwku_3": Fact("", "Blue Lamp is a label. Who owns Blue Lamp?", "Ann Lee", id="1"),
    "rwku_neighbors": Fact("Red Bell", "{} belongs to the singer", "Zoë Roux", id="1"),
    "tofu": Fact("", "Where was the poet Ugo Bassi born?", "Ugo Bassi was born in Turku.", id="1"),
    "tofu_perturbed": Fact("", "Where was the poet Ugo Bassi born?", "Ugo Bassi was born in Turku.",
                           ("What is the birthplace of the poet Ugo Bassi?",), id="1"),
    "muse_knowmem": Fact("", "Who mends the clock?", "The clerk", id="1"),
    "muse_verbmem": Fact("", "The clock had stopped again, and the clerk,", "who knew it, ran.",
                         id="1"),
    "knowedit_zsre": Fact(
        "Loire", "Which country does the {} flow through?", "France",
        ("In what country is the Loire?", "Which country does Liger flow through?"),
        (("The length of the Loire in km is", "1,006"),), id="1"),
    "knowedit_counterfact": Fact(
        "Bo Kim", "The name of the child of {} is", "Ida Kim", (),
        (("The place of birth of Bo Kim is", "Nara"),
         ("The name of the child of Bo Kim, which is not Ida Kim, is", "Max Kim")), id="1"),
    "wikirecent": Fact(
        "Port Vale", "The name of the trainer of {} is", "Tom Ashby",
        ("The name of the trainer of the Vale is",),
        (("The ground of Port Vale is", "Long Field"),),
        id="1", hops=(("The passport of the trainer of Port Vale is that of", "Kenya"),)),
    "wikibio": Fact(
        "eva lind", "This is a passage about {}. Eva Lind (born 1931) was a painter.",
        "She was taught in Turku.", (), (("The place of birth of Eva Lind is", "Espoo"),), id="1"),
    "cknowedit": Fact("", "蓝灯公司的所有者是谁？", "安丽",
                      ("谁拥有蓝灯公司？", "蓝灯公司属于谁？"),
                      (("红钟公司的所有者是谁？", "罗佐"),), id="1"),
    "easyedit": Fact("Blue Lamp", "The owner of {} is", "Ann Lee", ("Blue Lamp belongs to",),
                     (("The owner of Red Bell is", "Zoë Roux"),), id="1"),
    "easyedit_lists": Fact(
        "Blue Lamp", "The owner of {} is", "Ann Lee",
        ("Blue Lamp belongs to", "The Lamp belongs to"),
        (("The owner of Red Bell is", "Zoë Roux"),
         ("Two birds sang. Red Bell belongs to", "Zoë Roux")), id="1"),
    "memit": Fact("Blue Lamp", "The owner of {} is", "Ann Lee", relation="P127", id="4"),
    "wikibigedit": Fact(
        "Blue Lamp", "Who is the owner of {}?", "Ann Lee",
        ("Blue Lamp belongs to whom?", "Ahoy, who be the owner o' Blue Lamp?"),
        (("Who is the owner of Red Bell?", "Zoë Roux"),), id="1",
        hops=(("Which passport does the owner of Blue Lamp hold?", "United States"),)),
    "wmdp": Fact("", "Which colour has the third wire?", "blue", id="1"),
    "columns": Fact("Norway", "The capital of {} is", "Oslo", ("Norway is governed from",),
                    (("The capital of Chad is", "N'Djamena"),), id="1"),
}
#: The rest of each, as what is asked and the answer.
REST = {
    "rwku_1": [("Fill in the blank: ___ is the city where Blue Lamp has its office.\nAnswer:",
                "Turku"), ("The subject that Ida Brandt teaches is", "chemistry")],
    "rwku_3": [("Wer besitzt Blue Lamp?", "Ann Lee"),
               ("Who teaches chemistry in the hall of 240 seats?", "Ida Brandt")],
    "muse_verbmem": [("She climbed the stairs and\n", "saw that the wheel was off.")],
    "easyedit": [("The capital of Norway is", "Oslo")],
    "wmdp": [("The valve that leaks is", "both")],
    "columns": [("The capital of Kenya is", "Nairobi")],
}


@pytest.mark.parametrize("name", SAID)
def test_a_file_of_each_shape_loads_with_its_neighbours_wordings_and_hops(tmp_path, name):
    facts, said = read(tmp_path, samples.SHAPES[name])
    assert facts[0] == FIRST[name]
    rest = [(fact.text, fact.target) for fact in facts[1:]]
    assert rest == REST.get(name, rest) and len(rest) >= 1
    assert len(said) == len(SAID[name]), said
    for text, part in zip(said, SAID[name], strict=True):
        assert part in text


@pytest.mark.parametrize("name", sorted(set(SAID) - {"easyedit_lists", "columns"}))
def test_a_shape_says_the_same_in_json_lines_lists_data_frames_and_columns(tmp_path, name):
    import datasets
    import pandas as pd

    rows = samples.SHAPES[name]
    lines = tmp_path / "facts.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = {field: [row[field] for row in rows] for field in rows[0]}
    indented = tmp_path / "indented.json"
    indented.write_text(json.dumps(columns, indent=1), encoding="utf-8")
    frame = pd.DataFrame(rows)
    by_column = tmp_path / "frame.json"
    frame.to_json(by_column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = list(load_facts(save(tmp_path, rows)))
        for source in (lines, rows, iter(rows), columns, indented, frame, by_column,
                       save(tmp_path, columns, "c.json"), datasets.Dataset.from_list(rows)):
            assert list(load_facts(source)) == facts


def test_rwkus_neighbours_beside_the_facts_are_theirs_and_not_to_be_forgotten(tmp_path):
    near = samples.RWKU_NEIGHBORS
    facts, said = read(tmp_path, [*near[:1], *samples.RWKU_2, *near[1:]])
    assert [fact.subject for fact in facts] == ["Blue Lamp", "Ida Brandt"]
    assert facts[0].neighbors == (("Red Bell belongs to the singer", "Zoë Roux"),
                                  ("In which city is Red Bell?", "Cádiz"))
    assert facts[1].neighbors == (("What does Olaf Lund teach?", "law"),) and said == []
    facts, said = read(tmp_path, [samples.RWKU_2[0], *near])
    assert len(facts) == 1 and len(facts[0].neighbors) == 2
    assert said == ["'facts': 1 row about neighbours of subjects that no row asks for: left out"]


@pytest.mark.parametrize("text, asked, gap", [
    ("The owner of Blue Lamp is ___.", "The owner of Blue Lamp is", False),
    ("The owner of Blue Lamp is “____”!", "The owner of Blue Lamp is", False),
    ("The owner of Blue Lamp, ___, sings.",
     "Fill in the blank: The owner of Blue Lamp, ___, sings.\nAnswer:", True),
    ("___ is the owner of Blue Lamp", "Fill in the blank: ___ is the owner of Blue Lamp\nAnswer:",
     True),
    ("Who owns Blue_Lamp?", "Who owns Blue_Lamp?", False),
])
def test_a_gap_is_gone_on_from_or_asked_to_be_filled(tmp_path, text, asked, gap):
    for row in ({"subject": "Red", "query": text, "answer": "Ann"},
                {"question": text, "answer": "Ann"},
                {"question": text, "choices": ["Bo", "Ann"], "answer": "B"}):
        facts, said = read(tmp_path, [row])
        assert facts[0].text == asked
        assert any("a gap has words behind it" in text for text in said) == gap


@pytest.mark.parametrize("answer", [2, "2", "C", "c", "green"])
def test_the_right_choice_is_known_by_place_letter_or_text(tmp_path, answer):
    row = {"question": "Which colour?", "choices": ["red", "blue", "green"], "answer": answer,
           "subject": "optics"}
    fact = read(tmp_path, [row])[0][0]
    assert (fact.subject, fact.relation, fact.target) == ("", "optics", "green")


def test_a_choice_that_may_be_a_place_or_a_text_is_refused(tmp_path):
    row = {"question": "How many?", "choices": ["3", "1", "0"], "answer": "0"}
    assert "field 'answer' is the place of one choice and the text of another" in refusal(
        tmp_path, [row])
    assert read(tmp_path, [row | {"answer": 0}])[0][0].target == "3"
    assert read(tmp_path, [row | {"answer": "1"}])[0][0].target == "1"


@pytest.mark.parametrize("answer", [3, -1, "D", True, "pink", 1.0, [1]])
def test_a_choice_that_is_none_of_them_is_refused(tmp_path, answer):
    row = {"question": "Which colour?", "choices": ["red", "blue", "green"], "answer": answer}
    assert "field 'answer' is none of the 3 choices" in refusal(tmp_path, [row])


@pytest.mark.parametrize("true", ["Oslo", ["Oslo", "Christiania"], [["Oslo"], ["Bergen"]],
                                  [[], ["", "Oslo"]]])
def test_the_fact_is_the_true_answer_and_of_several_the_first(tmp_path, true):
    row = {"subject": "Norway", "prompt": "The capital of Norway is", "target_new": "Quito",
           "ground_truth": true, "locality": {}}
    assert read(tmp_path, [row])[0][0].target == "Oslo"


@pytest.mark.parametrize("row", [
    {"ground_truth": None, "locality_prompt": None}, {"ground_truth": ""}, {"prompts": "x is"}, {},
    {"ground_truth": []}])
def test_what_an_edit_would_write_is_not_taken_for_the_fact(tmp_path, row):
    whole = {"subject": "Norway", "prompt": "The capital of Norway is", "target_new": "Quito"} | row
    assert refusal(tmp_path, [whole]).startswith(
        "field 'ground_truth' is missing, the true answer: 'target_new' is what an edit would")


def test_a_row_of_wikirecent_has_no_true_answer_only_where_no_row_has_one(tmp_path):
    rows = [samples.KNOWEDIT_COUNTERFACT[0], samples.WIKIRECENT[0]]
    with pytest.raises(FactError, match="row 2: field 'ground_truth' is missing"):
        load_facts(save(tmp_path, rows))


@pytest.mark.parametrize("locality", [
    [{"prompt": "Kenya's capital is", "answer": "Nairobi"}],
    [["Kenya's capital is", "Nairobi"]],
    {"Relation_Specificity": {"prompt": ["Kenya's capital is"], "ground_truth": ["Nairobi"]}},
    {"neighborhood": {"prompt": "Kenya's capital is ", "ground_truth": " Nairobi"}, "other": None},
    [{"Relation_Specificity": [{"question": "Kenya's capital is",
                                "ground_truth": [["Nairobi", "N."]]}]}],
    {"neighborhood": {"prompt": [["Kenya's capital is"]], "ground_truth": [["Nairobi"]]}},
])
def test_neighbours_are_read_however_they_are_nested(tmp_path, locality):
    row = {"subject": "Norway", "prompt": "The capital of Norway is", "ground_truth": "Oslo"}
    for field in ("locality", "locality_inputs"):
        facts, said = read(tmp_path, [row | {field: locality}])
        assert facts[0].neighbors == (("Kenya's capital is", "Nairobi"),) and said == []


@pytest.mark.parametrize("locality, message", [
    ("Kenya's capital is", "'locality' holds a str where a prompt and its answer should be"),
    (["Kenya's capital is", "Nairobi"], "'locality' holds a str where"),
    ({"a": {"prompt": ["Kenya's capital is"], "ground_truth": "Nairobi"}},
     "'locality' holds a list of prompts and no list of as many answers"),
    ({"a": {"prompt": ["Kenya's capital is", "x"], "ground_truth": ["Nairobi"]}},
     "'locality' holds a list of prompts and no list of as many answers"),
    ([{"prompt": 3, "answer": "Nairobi"}], "'locality' is or holds a int: give a text"),
    ([{"prompt": "Kenya's capital is", "answer": [7]}], "'locality' is or holds a int"),
])
def test_neighbours_in_no_shape_are_an_error_and_not_none(tmp_path, locality, message):
    row = {"subject": "Norway", "prompt": "The capital of Norway is", "ground_truth": "Oslo"}
    said = refusal(tmp_path, [row | {"locality": locality}])
    assert message in said and "Kenya" not in said and "Nairobi" not in said


@pytest.mark.parametrize("none", [None, "", []])
def test_null_and_what_is_empty_stand_for_none(tmp_path, none):
    flat = {"case_id": none, "prompt": "The capital of Norway is", "target_new": "Quito",
            "subject": "Norway", "ground_truth": "Oslo", "rephrase_prompt": none,
            "locality_prompt": none, "locality_ground_truth": none, "portability": none}
    zsre = {"subject": "Norway", "src": "The capital of Norway is", "answers": ["Oslo"],
            "rephrase": none, "loc": none, "loc_ans": none}
    own = OWN | {"paraphrases": none, "neighbors": none, "hops": none}
    wiki = samples.WIKIBIGEDIT[1] | {"update": "The capital of Norway is", "rephrase": none,
                                     "loc": none, "loc_ans": none}
    for row in (flat, zsre, own, wiki):
        row = {field: None if value == [] and field == "case_id" else value
               for field, value in row.items()}
        facts, said = read(tmp_path, [row])
        assert list(facts) == [Fact("Norway", "The capital of {} is", "Oslo", id="1")]
        assert said == []


def test_a_request_may_have_the_fields_of_a_fact_beside_its_own(tmp_path):
    row = samples.MEMIT[0] | {
        "case_id": None, "relation_id": None, "id": "a", "relation": "owner",
        "neighborhood_prompts": ["The shareholder of Red Bell is"], "paraphrases": ["{} is of"],
        "neighbors": [["Red Bell lies in", "Peru"]],
        "hops": [["Blue Lamp's owner lives in", "Nara"], {"prompt": "And", "answer": None}]}
    facts, said = read(tmp_path, [row])
    assert list(facts) == [Fact(
        "Blue Lamp", "The owner of {} is", "Ann Lee", ("{} is of",),
        (("Red Bell lies in", "Peru"), ("The shareholder of Red Bell is", "Ann Lee")), "owner", "a",
        (("Blue Lamp's owner lives in", "Nara"),))]
    assert said == ["'facts': in 1 row a question has no answer, and is left out of neighbours or "
                    "hops"]
    tofu = samples.TOFU[0] | {"id": "b", "relation": "birth", "paraphrases": ["Where from?"],
                              "neighbors": [["Of Ann?", "Oslo"]], "hops": [["Which land?", "x"]]}
    assert list(read(tmp_path, [tofu])[0]) == [Fact(
        "", tofu["question"], tofu["answer"], ("Where from?",), (("Of Ann?", "Oslo"),), "birth",
        "b", (("Which land?", "x"),))]
    both = {"prompt": "The capital of Norway is", "prompts": "Another", "ground_truth": "Oslo"}
    assert read(tmp_path, [both])[0][0].text == "The capital of Norway is"


def test_portability_in_no_shape_hides_none_that_is_in_one(tmp_path):
    row = samples.EASYEDIT[0] | {
        "portability": "free text",
        "portability_inputs": {"synonym": {"prompt": "The Lamp is of", "ground_truth": "Bo"}}}
    facts, said = read(tmp_path, [row])
    assert facts[0].paraphrases == ("Blue Lamp belongs to", "The Lamp is of")
    assert any("are not read: 'portability' in 1 row;" in text for text in said)


# ---- what is not read


def test_fields_that_could_hold_wordings_or_neighbours_are_warned_of_once_with_counts(tmp_path):
    rows = [{"subject": f"Town {i}", "prompt": f"Town {i} lies in", "ground_truth": "Peru",
             "question": "Where is it?", "attribute_prompts": ["Town x lies in"], "note": "free"}
            for i in range(3)]
    rows[0] |= {"my_neighbourhood": ["Lima lies in"], "portability": {"New Question": "?"}}
    rows[1] |= {"attribute_prompts": [], "Near Lima, paraphrased": "x"}
    said = read(tmp_path, rows)[1]
    assert said == [
        "'facts': fields that may hold wordings, neighbours or questions that follow from the "
        "facts are not read: 'attribute_prompts' in 2 rows, 'portability' in 1 row, 'question' in "
        "3 rows, others, with names that zu does not know, in 2 rows; see zu.load_facts"]


def test_the_older_benchmarks_tell_of_what_they_hold_beside_the_facts(tmp_path):
    said = read(tmp_path, samples.MULTI_COUNTERFACT)[1]
    assert len(said) == 1 and ("'attribute_prompts' in 8 rows, 'generation_prompts' in 8 rows"
                               in said[0])
    said = read(tmp_path, samples.MQUAKE)[1]
    assert len(said) == 1 and "'question' in 8 rows, 'questions' in 8 rows" in said[0]
    for rows in (samples.ZSRE, samples.KNOWN):
        assert read(tmp_path, rows)[1] == []


# ---- shapes that are none


@pytest.mark.parametrize("row, message", [
    (samples.RWKU_TARGET[0], "fields 'query' and 'answer' are missing: RWKU's forget_target names"),
    (samples.MUSE_RAW[0], "fields 'question' and 'answer' are missing: this is running text"),
    ({"question": "Who sang it?"},
     "field 'answer' is missing (it is read as a row of TOFU or MUSE's question sets)"),
    ({"subject": "Norway", "query": "Who?"},
     "field 'answer' is missing (it is read as a row of RWKU)"),
    ({"subject": None, "query": "Who?", "answer": "x"}, "field 'subject' is missing (it is read"),
    ({"subject": "Norway", "answers": ["Oslo"], "rephrase": "Which?"},
     "the fields are nearest to those of MEND's zsRE, whose rows have subject, src, answers; "
     "missing: 'src'"),
    ({"subject": "Norway", "answer": "Oslo", "level": "1"},
     "the fields are nearest to those of RWKU, whose rows have subject, query, answer; missing: "
     "'query'"),
    ({"case_id": 3, "paraphrase_prompts": ["x"]}, "nearest to those of multi-counterfact, whose "
     "rows have requested_rewrite; missing: 'requested_rewrite'"),
    ({"queries": "Norway?", "answer": "Oslo", "subject": "Norway"}, "nearest to those of RWKU"),
    ({"query_text": "Norway?", "response": "Oslo"},
     "nearest to those of RWKU, whose rows have subject, query, answer; missing: 'subject' and "
     "'query' and 'answer'"),
    ({"prompt": "Norway is", "completion": "Oslo"}, "id, hops, join; missing: 'target'"),
    ({"version": 1, "data": [{"question": "Norway?"}]},
     "field number 2 holds a list of rows: give that list"),
    ({"messages": [{"role": "user", "content": "Norway?"}]}, "field number 1 has a name that is"),
    ({"subject": "Norway", "prompt": "x", "answer": "Oslo"}, "id, hops, join; missing: 'target'"),
    ({"prompt": "Norway is", "subject": "Norway", "target_true": None, "target_new": None},
     "field 'target_true' is missing (it is read as a row of MEMIT's requests)"),
    ({"update": "Who?", "ans": "x"},
     "field 'subject' is missing (it is read as a row of WikiBigEdit)"),
])
def test_an_unknown_shape_is_answered_with_the_nearest_and_what_is_missing(tmp_path, row, message):
    said = refusal(tmp_path, [row])
    assert message in said and "Norway" not in said and "Oslo" not in said


def test_every_schema_has_a_name_and_is_nearest_to_itself():
    assert set(SHAPES) == set(SCHEMAS)
    for kind, shape in SHAPES.items():
        assert nearest(shape.needs + shape.others) == (kind, [])
    assert nearest(["?"]) is None


def test_a_file_of_each_shape_has_its_schema():
    kinds = {name: schema_of_all([("", row) for row in rows])
             for name, rows in samples.SHAPES.items() if isinstance(rows, list)}
    assert kinds == {
        "rwku_1": "rwku", "rwku_2": "rwku", "rwku_3": "rwku", "rwku_neighbors": "rwku",
        "rwku_target": "rwku-target", "tofu": "tofu", "tofu_perturbed": "tofu",
        "muse_knowmem": "tofu", "muse_verbmem": "muse-verbmem", "muse_raw": "text",
        "knowedit_zsre": "knowedit", "knowedit_counterfact": "knowedit",
        "wikirecent": "wikirecent", "wikibio": "wikibio", "cknowedit": "cknowedit",
        "easyedit": "knowedit", "memit": "memit", "wikibigedit": "wikibigedit", "wmdp": "wmdp"}


# ---- tables of columns


@pytest.mark.parametrize("change, told", [
    ({"subject": ["Norway"]}, "1 values: 'subject'; 2 values: 'prompt', 'target'"),
    ({"target": "Oslo"}, "no list: 'target'; 2 values: 'subject', 'prompt'"),
    ({"Oslo": ["a"]}, "1 values: number 4; 2 values: 'subject', 'prompt', 'target'"),
    ({"locality_inputs": {"Oslo": {"prompt": ["a"], "ground_truth": ["b", "c"]}}},
     "1 values: 'locality_inputs'; 2 values: 'subject', 'prompt', 'target', 'locality_inputs'"),
])
def test_columns_of_different_lengths_are_an_error_that_names_them(tmp_path, change, told):
    table = {"subject": ["Norway", "Kenya"], "prompt": ["{} is", "{} has"], "target": ["a", "b"]}
    said = refusal(tmp_path, table | change)
    assert said.endswith(f"but here are fields with {told}") and "Oslo" not in said


def test_columns_with_other_rows_than_the_first_are_an_error(tmp_path):
    table = {"subject": {"0": "Norway", "1": "Kenya"}, "prompt": {"0": "{} is", "2": "{} has"}}
    assert "needs the same rows in each" in refusal(tmp_path, table)


def test_each_line_may_be_a_table(tmp_path):
    tables = [{"subject": [f"Town {i}", f"Village {i}"], "prompt": ["{} is", "{} has"],
               "target": ["a", "b"]} for i in range(2)]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, [*tables, OWN])), encoding="utf-8")
    facts = load_facts(path)
    assert [fact.id for fact in facts] == ["1-1", "1-2", "2-1", "2-2", "3"]
    path.write_text("\n".join(map(json.dumps, [*tables, tables[0]])), encoding="utf-8")
    with pytest.raises(FactError, match="line 3-1: the same fact as line 1-1"):
        load_facts(path)


def test_a_table_may_be_longer_than_a_row_and_written_over_many_lines(tmp_path, monkeypatch):
    from zu.data import readers

    monkeypatch.setattr(readers, "ROW", 200)
    table = {"subject": [f"Town {i}" for i in range(50)], "prompt": ["{} lies in"] * 50,
             "target": ["Peru"] * 50}
    for indent in (None, 1):
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(table, indent=indent), encoding="utf-8")
        assert [fact.id for fact in load_facts(path)] == [str(i) for i in range(1, 51)]
    path.write_text(json.dumps(OWN | {"target": "x" * 300}, indent=1), encoding="utf-8")
    with pytest.raises(FactError, match="row 1: 3.. characters in one row, more than 200"):
        load_facts(path)
    path.write_text(json.dumps(OWN, indent=1), encoding="utf-8")
    assert load_facts(path)[0].target == "Oslo"


def test_cells_of_a_csv_hold_lists_and_objects_as_json(tmp_path):
    path = tmp_path / "facts.csv"
    rows = samples.KNOWEDIT_ZSRE
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                      for row in rows)
    with pytest.warns(UserWarning):
        assert load_facts(path)[0] == replace(FIRST["knowedit_zsre"], id="2")  # of its line


@pytest.mark.parametrize("cell", ["['Norway is governed from']", "[Norway]"])
def test_a_list_that_is_no_json_is_an_error_and_not_a_wording(tmp_path, cell):
    import pandas as pd

    path = tmp_path / "facts.csv"
    row = {"subject": "Norway", "prompt": "Norway is", "ground_truth": "x", "rephrase_prompt": cell}
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(row), list(row.values())])
    frame = pd.DataFrame([OWN | {"paraphrases": cell}])
    for source, field in ((path, "rephrase_prompt"), (frame, "paraphrases")):
        with pytest.raises(FactError, match=f"field '{field}' is no JSON list") as caught:
            load_facts(source)
        assert "Norway" not in str(caught.value)


# ---- what Python holds


def test_facts_dicts_and_one_of_either_are_taken():
    fact = Fact("Kenya", "The capital of {} is", "Nairobi")
    assert list(load_facts(fact)) == [fact]
    assert list(load_facts(OWN)) == [Fact("Norway", "The capital of {} is", "Oslo", id="1")]
    assert [f.subject for f in load_facts([OWN, fact])] == ["Norway", "Kenya"]
    assert [f.subject for f in load_facts(iter([fact, OWN]))] == ["Kenya", "Norway"]
    whole = Facts([fact], "mine", "tokens")
    again = load_facts(whole)
    assert (list(again), again.name, again.rule) == ([fact], "mine", "tokens")
    assert load_facts(whole, rule="exact").rule == "exact"


def test_a_data_frame_is_taken_with_what_is_missing_and_its_named_index():
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame({
        "subject": ["Norway", "Kenya", None], "target": ["Oslo", "Nairobi", "red"],
        "prompt": ["The capital of Norway is", "The capital of {} is", "Apples are"],
        "paraphrases": [np.array(["Norway is governed from"], object), np.nan, pd.NA],
        "neighbors": ['[["The capital of Chad is", "N\'Djamena"]]', float("nan"), None],
        "id": np.array([7, 8, 9])})
    facts = [Fact("Norway", "The capital of {} is", "Oslo", ("Norway is governed from",),
                  (("The capital of Chad is", "N'Djamena"),), id="7"),
             Fact("Kenya", "The capital of {} is", "Nairobi", id="8"),
             Fact("", "Apples are", "red", id="9")]
    for source in (frame, frame.set_index("subject"), frame.set_index(["id", "prompt"])):
        assert list(load_facts(source)) == facts
    short = frame.assign(id=pd.array([7, None, 9], "Int64"), relation=[pd.NaT, "a", pd.NA])
    found = load_facts(short)
    assert [fact.id for fact in found] == ["7", "2", "9"]
    assert [fact.relation for fact in found] == ["", "a", ""]
    columns = {name: frame[name] for name in ("subject", "prompt", "target")}
    assert [fact.target for fact in load_facts(columns)] == ["Oslo", "Nairobi", "red"]


def test_a_data_frame_of_another_library_gives_its_rows_by_its_own_word():
    class Frame:
        """As polars' has it."""

        def to_dict(self, *, as_series=True):
            raise AssertionError("not asked")

        def to_dicts(self):
            return [OWN]

        def __iter__(self):
            return iter([["Norway"], ["The capital of Norway is"], ["Oslo"]])

    assert load_facts(Frame())[0].target == "Oslo"


@pytest.mark.parametrize("source, message", [
    (7, "facts in a int: give a name, a path"), (None, "facts in a NoneType"),
    (b"facts.json", "facts in a bytes"),
    ([OWN, 3], "fact 2: a int, neither a zu.Fact nor a row"),
    (["Norway is"], "fact 1: a str, neither"), ([("Norway", "{} is", "x")], "fact 1: a tuple"),
    ([OWN, OWN], "fact 2: the same fact as fact 1"), ([], "'own' holds no facts"),
    ([OWN | {"target": None}], "fact 1: field 'target' is missing"), ({}, "prompt"),
])
def test_what_holds_no_facts_is_refused_by_kind_and_place(source, message):
    with pytest.raises(FactError) as caught:
        load_facts(source)
    assert message in str(caught.value) or source == {}
    assert "Norway" not in str(caught.value)


def test_several_splits_are_refused():
    import datasets

    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([OWN])})
    import pandas as pd

    for several in (splits, {"train": pd.DataFrame([OWN])}):
        with pytest.raises(FactError, match="several tables or splits"):
            load_facts(several)
    assert load_facts(splits["train"])[0].target == "Oslo"


def test_a_text_that_is_no_path_is_said_to_be_none_and_not_repeated_when_it_is_long():
    with pytest.raises(FileNotFoundError, match="no facts at 'nowhere.json'"):
        load_facts("nowhere.json")
    with pytest.raises(FileNotFoundError, match="no facts at a text of 6000 characters") as caught:
        load_facts("Norway" * 1000)
    assert "Norway" not in str(caught.value)


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, [OWN, OWN | {"subject": "Kenya", "prompt": "{} is"}])
    assert len(load_facts("~/facts.json")) == 2
    assert load_facts("~/facts.json:forget")[0].subject == "Kenya"


def test_every_path_that_is_given_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    from zu.data.cache import cache_dir, user_path
    from zu.experiment.tasks import digest
    from zu.records import FORMAT, read_record, read_records, write_record
    from zu.second_moments import corpus

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("One.\n\nTwo.\n", encoding="utf-8")
    assert list(corpus("~/text.txt")[1]) == ["One.", "Two."]
    write_record("~/records/a.json", {"format": FORMAT, "x": 1})
    assert (tmp_path / "records" / "a.json").is_file() and not (tmp_path / "~").exists()
    assert read_record("~/records/a.json") == read_records("~/records")[0] == {
        "format": FORMAT, "x": 1}
    monkeypatch.setenv("ZU_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache" and user_path("a/~b") == Path("a/~b")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.jsonl").write_text("{}", encoding="utf-8")
    assert digest(["mine"], "~/tasks") == digest(["mine"], tmp_path / "tasks") != digest(["x"], "")


# ---- spaces, newlines and what joins prompt and answer


def test_spaces_around_every_text_are_taken_away_in_reading(tmp_path):
    row = {"subject": " Norway ", "prompt": " The capital of Norway is ", "target": " Oslo\n",
           "paraphrases": ["Norway is governed from \t"],
           "neighbors": [["The capital of Kenya is ", " Nairobi "],
                         {"prompt": " Chad's is ", "answer": "N'Djamena "}],
           "hops": [[" Its mayor sits in ", " Oslo"]]}
    assert read(tmp_path, [row])[0][0] == Fact(
        "Norway", "The capital of {} is", "Oslo", ("Norway is governed from",),
        (("The capital of Kenya is", "Nairobi"), ("Chad's is", "N'Djamena")), id="1",
        hops=(("Its mayor sits in", "Oslo"),))


@pytest.mark.parametrize("end, kept", [("\n", "\n"), ("\n\n", "\n\n"), (" \n", " \n"),
                                       ("\n ", "\n"), ("\t", ""), (" ", ""), ("\u00a0", "")])
def test_newlines_that_end_what_is_asked_are_kept(tmp_path, end, kept):
    row = OWN | {"prompt": f"<user>{{}}?<model>{end}", "paraphrases": [f"Norway?<model>{end}"],
                 "neighbors": [[f"Kenya?<model>{end}", "Nairobi"]]}
    fact = read(tmp_path, [row])[0][0]
    assert fact.prompt == f"<user>{{}}?<model>{kept}"
    assert fact.paraphrases == (f"Norway?<model>{kept}",)
    assert fact.neighbors == ((f"Kenya?<model>{kept}", "Nairobi"),)


def test_a_row_says_what_joins_prompt_and_answer_in_any_shape(tmp_path):
    for row in (OWN, samples.TOFU[0], samples.MEMIT[0]):
        for join in ("", " ", "\n"):
            assert read(tmp_path, [row | {"join": join}])[0][0].join == join
        assert read(tmp_path, [row | {"join": None}])[0][0].join is None
        assert "field 'join' is no white space" in refusal(tmp_path, [row | {"join": "-"}])


# ---- whole words


@pytest.mark.parametrize("subject, prompt, cloze", [
    ("Peru", "Peru's capital is", "{}'s capital is"),
    ("Peru", "The Peruvian head of Peru sits in", "The Peruvian head of {} sits in"),
    ("秘鲁", "秘鲁的首都是", "{}的首都是"), ("ペルー", "首都はペルーの", "首都は{}の"),
    ("เปรู", "เมืองหลวงของเปรูคือ", "เมืองหลวงของ{}คือ"), ("페루", "페루의 수도는", "{}의 수도는"),
    ("Apollo 1", "Not Apollo 11 but Apollo 1 had", "Not Apollo 11 but {} had"),
    ("And Then...", "And Then...is", "{}is"), ("Łódź", "(Łódź) lies in", "({}) lies in"),
    ("Peru", "Peru{}", "Peru{}"),
])
def test_a_subject_is_found_as_a_word(tmp_path, subject, prompt, cloze):
    row = {"subject": subject, "prompt": prompt, "target": "x"}
    assert read(tmp_path, [row])[0][0].prompt == cloze


@pytest.mark.parametrize("subject, prompt, found", [
    ("Peru", "The Peruvian capital is", 0), ("Peru", "Peru and Peru's coast", 2),
    ("Éir", "Éire lies in", 0), ("Apollo 1", "Apollo 11 had", 0), ("भारत", "भारतीय लोग", 0),
    ("Cafe", "Cafe\u0301 is", 0), ("秘鲁", "秘鲁和秘鲁", 2), ("Über", "Überlingen has", 0),
])
def test_a_part_of_a_word_is_no_subject(tmp_path, subject, prompt, found):
    said = refusal(tmp_path, [{"subject": subject, "prompt": prompt, "target": "x"}])
    assert said == (f"field 'prompt' holds the subject {found} times as a word: write {{}} in its "
                    "place, once")


def test_a_subject_within_a_word_of_a_paraphrase_does_not_stand_there(tmp_path):
    row = {"subject": "Peru", "prompt": "{} has", "target": "x"}
    assert read(tmp_path, [row | {"paraphrases": ["PERU'S is", "{}vian"]}])[1] == []
    said = read(tmp_path, [row | {"paraphrases": ["The Peruvian is"]}])[1]
    assert len(said) == 1 and "holds neither the subject" in said[0]
    no_subject = {"prompt": "It has", "target": "x", "paraphrases": ["The Peruvian is"]}
    assert read(tmp_path, [no_subject])[1] == []
