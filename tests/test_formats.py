"""Whatever form rows come in, all are read, or it is said why not and what to do."""
import json
import unicodedata
import warnings

import pytest

import zu
from zu.data.facts import Fact, FactError, Facts
from zu.data.readers import load_facts
from zu.data.words import places, stands_in

OWN = {"subject": "Norway", "prompt": "The capital of {} is", "target": "Oslo"}
OTHER = {"subject": "Kenya", "prompt": "The capital of {} is", "target": "Nairobi"}
BOTH = [Fact(**OWN), Fact(**OTHER)]
TABLE = ("subject,prompt,target\nNorway,The capital of {} is,Oslo\n"
         "Kenya,The capital of {} is,Nairobi\n")


def write(folder, content, name="facts.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def bare(facts):
    """Subjects, prompts and targets: what a fact is, whatever it is called."""
    return [Fact(fact.subject, fact.prompt, fact.target) for fact in facts]


def refusal(source):
    with pytest.raises(FactError) as caught:
        load_facts(source)
    said = str(caught.value)
    assert "Norway" not in said and "Oslo" not in said and "Nairobi" not in said
    return said


# ---- nothing of a file goes in silence


@pytest.mark.parametrize("behind", [
    json.dumps([OTHER]), "\n" + json.dumps([OTHER]), "\n" + json.dumps(OTHER), "Norway", "]"])
def test_what_stands_behind_a_list_is_an_error_and_not_lost(tmp_path, behind):
    path = write(tmp_path, json.dumps([OWN]) + behind)
    assert "there is more text after the list" in refusal(path)
    with pytest.warns(UserWarning, match="1 of 2 rows left out"):
        assert bare(load_facts(path, on_error="skip")) == BOTH[:1]


@pytest.mark.parametrize("end", ["", "\n", " \r\n\t"])
def test_white_space_may_stand_behind_a_list(tmp_path, end):
    assert bare(load_facts(write(tmp_path, json.dumps([OWN, OTHER]) + end))) == BOTH


def test_a_field_that_stands_twice_in_an_object_is_an_error_of_its_row(tmp_path):
    twice = json.dumps(OWN).replace('"target"', '"target": "Bergen", "target"')
    for content in (f"[{json.dumps(OTHER)}, {twice}]", f"{json.dumps(OTHER)}\n{twice}"):
        path = write(tmp_path, content)
        assert refusal(path).endswith(" 2: field 'target' stands twice in one object: keep one")
        with pytest.warns(UserWarning, match="1 of 2 rows left out"):
            assert bare(load_facts(path, on_error="skip")) == BOTH[1:]
    alone = write(tmp_path, twice.replace(", ", ",\n"))
    assert "row 1: field 'target' stands twice" in refusal(alone)
    private = write(tmp_path, '[{"Norway": 1, "Norway": 2}]')
    assert "field of another name stands twice" in refusal(private)


def test_two_columns_of_one_name_are_an_error(tmp_path):
    import pandas

    path = write(tmp_path, "subject,prompt,target,target\nNorway,{} is,Oslo,Bergen\n", "facts.csv")
    assert "line 1: two columns have one name" in refusal(path)
    frame = pandas.DataFrame([["Norway", "{} is", "Oslo", "Bergen"]],
                             columns=["subject", "prompt", "target", "target"])
    assert "two columns of the table have one name" in refusal(frame)


def test_a_half_of_a_set_that_is_empty_is_an_error(tmp_path):
    path = write(tmp_path, json.dumps([OWN]))
    assert "its half ':retain' none" in refusal(f"{path}:retain")
    assert len(load_facts(f"{path}:forget")) == 1


def test_files_that_were_put_together_may_have_marks_of_byte_order_between(tmp_path):
    lines = [b"\xef\xbb\xbf" + json.dumps(row).encode() for row in (OWN, OTHER)]
    assert bare(load_facts(write(tmp_path, b"\r\n".join(lines)))) == BOTH


# ---- what is no text


@pytest.mark.parametrize("content, told", [
    (b"\x1f\x8b\x08\x00", "compressed (gzip): unpack it"), (b"BZh91AY", "compressed (bzip2)"),
    (b"\xfd7zXZ\x00", "compressed (xz)"), (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
    (b"PK\x03\x04", "spreadsheet: unpack it, or save the sheet as CSV"), (b"PAR1", "read_parquet"),
    (b"\xd0\xcf\x11\xe0\xa1", "save the sheet as CSV"), (b"ARROW1\x00\x00", "from_file"),
    (b"\x80\x04\x95", "could run code: save the facts as JSON"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ("[]".encode("utf-32"), "UTF-32: save it as UTF-8"), ("[]".encode("utf-16"), "UTF-16: save"),
    (json.dumps([OWN]).encode("utf-16-le"), "zero bytes"),
])
@pytest.mark.parametrize("name", ["facts.json", "facts.csv", "facts"])
def test_a_file_that_is_no_text_is_called_what_it_is_with_the_way_out(
        tmp_path, content, told, name):
    assert told in refusal(write(tmp_path, content, name))


@pytest.mark.parametrize("text", [json.dumps([OWN]), json.dumps(OWN), " [1]", "Norway is\nOslo",
                                  "The capital of Norway is Oslo", "Norway " * 40])
def test_a_text_that_may_be_a_fact_is_not_repeated_as_a_path(text):
    with pytest.raises(FileNotFoundError) as caught:
        load_facts(text)
    assert f"a text of {len(text)} characters" in str(caught.value)
    assert "Norway" not in str(caught.value) and "Oslo" not in str(caught.value)


@pytest.mark.parametrize("path", ["facts", "my facts.json", "of mine/a b", "C:\\my facts"])
def test_a_path_that_leads_nowhere_is_named(path):
    with pytest.raises(FileNotFoundError) as caught:
        load_facts(path)
    assert f"'{path}'" in str(caught.value)


# ---- rows within something


@pytest.mark.parametrize("wrap", [
    lambda rows: {"features": [], "rows": [{"row_idx": i, "row": row, "truncated_cells": []}
                                           for i, row in enumerate(rows)]},
    lambda rows: [{"row_idx": i, "row": row} for i, row in enumerate(rows)],
    lambda rows: {str(i): row for i, row in enumerate(rows)},
    lambda rows: {"first one": rows[0], "second one": rows[1]},
])
def test_rows_in_a_wrapper_or_under_keys_are_rows(tmp_path, wrap):
    held = wrap([OWN, OTHER])
    for content in (json.dumps(held), json.dumps(held, indent=1)):
        assert bare(load_facts(write(tmp_path, content))) == BOTH
    assert bare(load_facts(held)) == BOTH


def test_facts_under_keys_are_facts():
    assert list(load_facts({"a": BOTH[0], "b": BOTH[1]})) == BOTH
    assert bare(load_facts({"7": OWN})) == BOTH[:1]


@pytest.mark.parametrize("rows", [
    [{"edit": OWN}], {"edit": OWN}, [{"edit": OWN, "back": OTHER}] * 2])
def test_an_object_within_a_row_of_another_shape_is_no_row(rows):
    refusal(rows)


def test_what_the_hubs_viewer_leaves_out_is_said(tmp_path):
    part = {"rows": [{"row_idx": 0, "row": OWN}], "num_rows_total": 12, "partial": False}
    with pytest.warns(UserWarning, match="11 rows of the data set are not here"):
        load_facts(write(tmp_path, json.dumps(part)))
    cut = {"rows": [{"row_idx": 0, "row": OWN, "truncated_cells": ["prompt"]}]}
    assert "'truncated_cells' says that the viewer cut" in refusal(write(tmp_path, json.dumps(cut)))


@pytest.mark.parametrize("held", [
    {"train": OWN, "test": OTHER}, {"Forget": OWN, "Retain": OTHER}, {"a": OWN, "b": 3},
    {"a": {key: [value] for key, value in OWN.items()}}, {"train": [OWN], "test": [OTHER]}])
def test_splits_and_whatever_else_is_under_keys_are_not_read_as_rows(tmp_path, held):
    refusal(write(tmp_path, json.dumps(held)))


# ---- tables


@pytest.mark.parametrize("table", [
    TABLE, TABLE.replace(",", "|"), TABLE.replace(",", ", "), TABLE.replace(",", " , "),
    "sep=;\n" + TABLE.replace(",", ";"), "sep=|\r\n" + TABLE.replace(",", "|"),
    TABLE.replace("\n", ",\n"), TABLE.replace("\n", ",,\n"),
    "".join(f"{i - 1 if i else ''},{line}\n" for i, line in enumerate(TABLE.splitlines())),
    "".join(f"{i or 'Unnamed: 0'},{line}\n" for i, line in enumerate(TABLE.splitlines())),
])
@pytest.mark.parametrize("name", ["facts.csv", "facts.txt", "facts.json"])
def test_a_table_is_read_as_spreadsheets_and_pandas_write_it(tmp_path, table, name):
    if table.startswith("sep="):
        name = "facts.csv"
    assert bare(load_facts(write(tmp_path, table, name))) == BOTH


def test_json_is_known_whatever_a_file_is_called(tmp_path):
    assert bare(load_facts(write(tmp_path, json.dumps([OWN, OTHER]), "facts.csv"))) == BOTH


def test_a_quoted_cell_may_stand_behind_a_space(tmp_path):
    table = 'subject, prompt, target\nNorway, "In {}, the capital is", Oslo\n'
    assert load_facts(write(tmp_path, table, "facts.csv"))[0].prompt == "In {}, the capital is"


def test_an_index_is_no_field_but_a_field_called_so_with_a_text_is(tmp_path):
    import pandas

    frame = pandas.DataFrame([OWN, OTHER])
    for table in (frame.reset_index(), frame.rename_axis("mine"),
                  frame.set_index("subject"), frame.set_index(["subject", "prompt"]),
                  frame.reset_index(names="Unnamed: 0"), frame.set_axis([7, 7])):
        assert bare(load_facts(table)) == BOTH
    assert "field number 1 has a name that is none of" in refusal(frame.assign(index="x")[
        ["index", *OWN]])


def test_an_arrow_table_is_taken():
    pytest.importorskip("pyarrow")
    import pyarrow

    assert bare(load_facts(pyarrow.Table.from_pylist([OWN, OTHER]))) == BOTH


# ---- other shapes


def test_unkes_other_wording_is_read_and_its_questions_about_parts_are_warned_of(tmp_path):
    row = {"id": 0, "question": "Who is Ann Lee?", "answer": "A painter, born in Bergen.",
           "para_question": "Tell me of Ann Lee.", "para_answer": "x", "sub_question": ["Where?"],
           "sub_answer": ["Bergen"]}
    with pytest.warns(UserWarning, match="are not read: 'sub_question' in 1 row"):
        facts = load_facts(write(tmp_path, json.dumps([row])))
    assert facts[0].paraphrases == ("Tell me of Ann Lee.",) and facts[0].prompt == row["question"]


def test_labels_beside_a_question_and_its_answer_do_not_hide_them(tmp_path):
    row = {"question": "Where?", "answer": "There", "labels": "Unlearn"}
    assert load_facts(write(tmp_path, json.dumps([row])))[0].target == "There"


@pytest.mark.parametrize("row, told", [
    ({"text": ["Norway is", "Oslo"]}, "this is running text"),
    ({"input": "Norway?", "output": [{"answer": "Oslo", "provenance": []}]},
     "has a name that is none of"),
    (OWN | {"target": ["Oslo", "Nairobi"]}, "a single row one text in each field"),
])
def test_rows_that_are_none_are_told_what_they_look_like(tmp_path, row, told):
    said = refusal(write(tmp_path, json.dumps([row])))
    assert told in said and "holds a list of rows" not in said


@pytest.mark.parametrize("true", [{"str": "Oslo", "id": "Q585"}, "Oslo"])
def test_a_true_answer_may_stand_in_an_object_or_by_itself(true):
    ask = {"subject": "Norway", "prompt": "The capital of {} is", "target_true": true,
           "target_new": {"str": "Bergen"}}
    for row in ({"requested_rewrite": ask, "case_id": 1}, ask,
                {"requested_rewrite": [ask], "case_id": 1, "questions": [], "single_hops": []}):
        assert bare(load_facts([row])) == BOTH[:1]


# ---- invisible characters, and letters that are coded in two ways


UNSEEN = ["\u200b", "\ufeff", "\u200e", "\u2060", "\u00ad", "\u202c", "\u200d"]


@pytest.mark.parametrize("sign", UNSEEN)
def test_invisible_characters_are_taken_away_around_every_text(tmp_path, sign):
    row = OWN | {"paraphrases": ["{} has as capital"], "neighbors": [["Kenya has", "Nairobi"]]}
    clean = load_facts([row])

    def around(value):
        if isinstance(value, list):
            return [around(inner) for inner in value]
        return f"{sign} {value}{sign}"

    path = write(tmp_path, json.dumps([{key: around(value) for key, value in row.items()}]))
    assert list(load_facts(path)) == list(clean)


@pytest.mark.parametrize("sign", UNSEEN)
@pytest.mark.parametrize("field", list(OWN))
def test_a_fact_that_ends_in_an_invisible_character_is_refused(sign, field):
    with pytest.raises(FactError, match=f"field '{field}'.* an invisible character"):
        Fact(**OWN | {field: OWN[field] + sign})
    with pytest.raises(FactError, match=f"field '{field}' is empty"):
        Fact(**OWN | {field: sign})


@pytest.mark.parametrize("text", ["നന്\u200d", "क्\u200c", "👩\u200d👧", "می\u200cخواهم",
                                  "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"])
def test_joiners_that_are_seen_stay(text):
    assert load_facts([OWN | {"target": text}])[0].target == text


def test_a_subject_in_other_letters_is_said_to_be_that(tmp_path):
    for subject, prompt in (("norway", "Norway is"),
                            (unicodedata.normalize("NFD", "Åland"), "Åland is")):
        said = refusal([OWN | {"subject": subject, "prompt": prompt}])
        assert "0 times as a word (but in other capitals, or with accents coded otherwise)" in said
    assert "(but" not in refusal([OWN | {"prompt": "The Norwegian capital is"}])


def test_accents_coded_otherwise_make_no_other_word():
    apart = unicodedata.normalize("NFD", "Åland")
    assert stands_in("in Åland.", apart) and stands_in(f"in {apart}.", "ÅLAND")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_facts([OWN | {"subject": "Åland", "paraphrases": [f"The isles of {apart} are"]}])


@pytest.mark.parametrize("text, word, found", [
    ("a 👍🏽 b", "👍", 0), ("a 👍 b", "👍", 1), ("a 👩\u200d👧 b", "👩", 0),
    ("a 👩\u200d👧 b", "👧", 0), ("a 👩\u200d👧 b", "👩\u200d👧", 1), ("a 🇵🇪 b", "🇵🇪", 1)])
def test_a_part_of_an_emoji_is_no_word(text, word, found):
    assert len(places(text, word)) == found


# ---- what facts hold


@pytest.mark.parametrize("facts", [[OWN], ["Norway"], [None], [("Norway is", "Oslo")], OWN])
def test_what_holds_no_facts_is_refused_by_kind_wherever_facts_are_taken(facts, folders):
    model, tokenizer = zu.load_model(folders["llama"], device="cpu")
    for use in (Facts, lambda x: Facts([]).of(x),
                lambda x: zu.evaluate(model, tokenizer, x), lambda x: zu.known(model, tokenizer, x),
                lambda x: zu.anchors(x, ["Kenya"]),
                lambda x: zu.unlearn(model, tokenizer, x, "ga"),
                lambda x: zu.unlearn(model, tokenizer, BOTH, "anchored", anchors=x),
                lambda x: zu.find_targets(model, tokenizer, x, 2)):
        with pytest.raises(FactError, match="zu.load_facts") as caught:
            use(facts)
        assert "Norway" not in str(caught.value) and "Oslo" not in str(caught.value)


def test_one_fact_and_any_iterable_of_them_are_facts(folders):
    model, tokenizer = zu.load_model(folders["llama"], device="cpu")
    for one in (BOTH[0], iter(BOTH[:1]), tuple(BOTH[:1])):
        assert zu.evaluate(model, tokenizer, one).n_eff == 1
    assert zu.known(model, tokenizer, BOTH).name == "own-known"
    assert [fact.subject for fact in zu.anchors(BOTH[0], ["Kenya"])] == ["Kenya"]


@pytest.mark.parametrize("wrong", [dict(n=1.5, seed=1), dict(n="1", seed=1), dict(n=1, seed=None),
                                   dict(n=1, seed="a"), dict(n=1, seed=0.5)])
def test_a_sample_takes_whole_numbers_alone(wrong):
    with pytest.raises(ValueError, match="give a whole number"):
        Facts(BOTH).sample(**wrong)
