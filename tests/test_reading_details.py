"""How facts are read, to the letter: names, places, columns, limits, what files may look like."""
import csv
import json
import sys
from pathlib import Path

import pytest

from zu.data import readers
from zu.data.facts import Fact, FactError, Facts
from zu.data.readers import BrokenFile, load_facts
from zu.data.schemas import schema
from zu.data.shapes import rows_of
from zu.data.words import places

ROW = {"subject": "Peru", "prompt": "The capital of {} is", "target": "Lima"}
LINE = json.dumps(ROW)
ZSRE = {"subject": "Peru", "src": "Which city leads Peru?", "rephrase": "Who leads Peru?",
        "answers": ["Lima"], "loc": "who sang it", "loc_ans": "Ann"}


def rows(n):
    return [ROW | {"subject": f"City {i}x"} for i in range(1, n + 1)]


def save(folder, text, name="facts.json"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def message(source, **more):
    """What the error says, without the path it begins with."""
    with pytest.raises(FactError) as caught:
        load_facts(source, **more)
    return str(caught.value).removeprefix(f"{source}").removeprefix(", ")


# ---- names, rules and halves


def test_the_embedded_clozes_are_the_default_and_take_another_rule():
    world = load_facts()
    assert list(world) == list(load_facts("world-cloze")) and world.name == "world-cloze"
    assert load_facts(rule="tokens").rule == "tokens" != world.rule


def test_facts_of_ones_own_are_called_own_and_take_a_rule_and_skip():
    fact, other = Fact(**ROW), Fact(**ROW | {"target": "Cusco"})
    assert (load_facts([fact]).name, load_facts([fact]).rule) == ("own", "exact")
    assert load_facts([fact], rule="tokens").rule == "tokens"
    assert load_facts([fact], on_error="raise")[0] == fact
    with pytest.warns(UserWarning, match="^'own': 1 of 2 rows left out; Facts.skipped says why$"):
        found = load_facts([fact, other], on_error="skip")
    assert list(found) == [fact]
    assert found.skipped == ("fact 2: field 'target' contradicts fact 1, which has the same "
                             "subject and prompt: keep one",)
    with pytest.raises(FactError, match="^'own' holds no facts: give at least one$"):
        load_facts([])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_half_keeps_rule_and_reasons_and_the_second_has_the_odd_one(tmp_path):
    some = [ZSRE | {"subject": f"City {i}x", "src": f"Where is City {i}x?", "rephrase": ""}
            for i in range(5)]
    path = save(tmp_path, [*some, 3])
    kept = load_facts(f"{path}:retain", on_error="skip")
    gone = load_facts(f"{path}:forget", on_error="skip")
    whole = load_facts(path, on_error="skip")
    assert [*kept, *gone] == list(whole) and len(kept) == 2
    assert (kept.name, gone.name) == ("facts-retain", "facts-forget")
    assert kept.rule == gone.rule == "tokens" and kept.skipped == gone.skipped == whole.skipped


def test_a_path_may_hold_spaces_commas_and_line_ends(tmp_path):
    path = save(tmp_path / "a, b\nc d", [*rows(2), rows(1)[0]], "my, facts 9.json")
    assert message(path) == "row 3: the same fact as row 1: keep one"
    path = save(tmp_path / "a, b\nc d", rows(3), "my, facts 9.json")
    assert [fact.id for fact in load_facts(path)] == ["1", "2", "3"]
    assert [fact.id for fact in load_facts(f"{path}:forget")] == ["2", "3"]
    assert load_facts(path).name == "my, facts 9"


def test_the_first_row_that_shows_a_schema_decides(tmp_path):
    path = save(tmp_path, [3, {"subject": "x"}, ZSRE])
    with pytest.warns(UserWarning, match="2 of 3 rows left out"):
        found = load_facts(path, on_error="skip")
    assert found[0].target == "Lima" and found.rule == "tokens" and found[0].id == "3"
    assert [text.removeprefix(f"{path}, ").split(":")[0] for text in found.skipped] == [
        "row 1", "row 2"]


def test_an_id_stays_where_there_is_one_and_is_given_once(tmp_path):
    path = save(tmp_path, [ROW | {"id": "a"}, *rows(2)])
    assert [fact.id for fact in load_facts(path)] == ["a", "2", "3"]
    path = save(tmp_path, [rows(1)[0] | {"id": "x"}, *rows(3)[1:], ROW | {"id": "x"}])
    assert message(path) == "row 4: field 'id' is that of row 1: give each fact its own"


def test_a_repeated_hop_takes_the_questions_of_all_in_their_order_and_each_once(tmp_path):
    def chain(number, question):
        return {"case_id": number, "requested_rewrite": [
            {"prompt": "{} was born in", "subject": "Ann", "target_true": {"str": "Peru"}}],
            "questions": [question], "answer": "Lima",
            "single_hops": [{"cloze": "Ann was born in", "answer": "Peru"}]}

    asked = ["b?", "a?", "b?", "c?", "d?"]
    found = load_facts(save(tmp_path, [chain(i, text) for i, text in enumerate(asked)]))
    assert [question for question, _ in found[0].hops] == ["b?", "a?", "c?"]


@pytest.mark.parametrize("paraphrase, odd", [
    ("In {} lies", False), ("PERU has", False), ("It has", True)])
def test_a_paraphrase_is_odd_without_the_subject_in_any_case(tmp_path, recwarn, paraphrase, odd):
    load_facts(save(tmp_path, [ROW | {"paraphrases": ["Peru has", paraphrase]}, *rows(2)]))
    said = [str(warning.message) for warning in recwarn]
    assert said == ["'facts': 1 of 3 facts have a paraphrase that holds neither the subject nor "
                    "{}: it is asked as it is"] * odd


# ---- what the published sets leave open


REWRITE = {"subject": "Peru", "prompt": "Of Peru it is", "target_true": {"str": "Lima"}}
KNOWN = {"subject": "Peru", "prompt": "Of Peru it is", "attribute": "Lima"}
CHAIN = {"requested_rewrite": [REWRITE]}


@pytest.mark.parametrize("row, name", [
    ({"requested_rewrite": REWRITE}, "1"), (KNOWN, "1"), (CHAIN, "?-0"),
    (CHAIN | {"case_id": 0}, "0-0")])
def test_a_row_may_have_no_label_and_name_its_subject_in_the_prompt(tmp_path, row, name):
    fact = load_facts(save(tmp_path, [row]))[0]
    assert fact == Fact("Peru", "Of {} it is", "Lima", relation="", id=name)


def test_an_unrelated_question_ends_with_one_question_mark(tmp_path):
    for question in ("who sang it", "who sang it?", "?who sang it"):
        fact = load_facts(save(tmp_path, [ZSRE | {"loc": question}]))[0]
        assert fact.neighbors == ((question.removesuffix("?") + "?", "Ann"),)


def test_facts_of_ones_own_have_a_relation_which_may_be_a_number(tmp_path):
    path = save(tmp_path, [ROW | {"relation": 7}, rows(1)[0] | {"relation": "P36"}])
    assert [fact.relation for fact in load_facts(path)] == ["7", "P36"]


def test_a_name_of_no_field_is_answered_with_the_fields_and_the_likest(tmp_path):
    fields = "subject, prompt, target, paraphrases, neighbors, relation, id, hops, join"
    said = f"row 1: field number 1 has a name that is none of {fields}"
    assert message(save(tmp_path, [{"?": 1}])) == said
    assert message(save(tmp_path, [{"subjct": 1}])) == f"{said}; is it meant to be 'subject'?"


# ---- files


@pytest.mark.parametrize("text", [
    b"\xef\xbb\xbf" + LINE.encode(), f"[{LINE}]", f"\n [\n{LINE}\n]\n", f"\n\n{LINE}\n\n",
    f"[ {LINE} ] "])
def test_white_space_and_a_byte_order_mark_do_no_harm(tmp_path, text):
    assert load_facts(save(tmp_path, text))[0].target == "Lima"


def test_a_list_needs_no_blanks(tmp_path):
    text = json.dumps(rows(3), separators=(",", ":"))
    assert len(load_facts(save(tmp_path, text))) == 3


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_named_in_either_order(tmp_path, mark):
    assert "the file is UTF-16" in message(save(tmp_path, mark + LINE.encode()))


def test_a_broken_file_stays_and_is_said_to_be_one(tmp_path):
    path = save(tmp_path, f"[{LINE}, {{")
    with pytest.raises(BrokenFile, match=r"facts.json, row 2: not JSON at column 76 \("):
        load_facts(path)
    assert path.exists()
    with pytest.warns(UserWarning, match="^'facts': 1 of 2 rows left out"):
        assert len(load_facts(path, on_error="skip")) == 1


@pytest.mark.parametrize("text, place", [
    ('{"a" 1}', "line 1: not JSON at column 6"),
    (f'{LINE}\n  {{"a" 1}}', "line 2: not JSON at column 6"),
    (f'[{LINE},\n  {{"a"\n 1}}]', "row 2: not JSON at column 2"),
    (f'[{{"a" 1}},\n{LINE}]', "row 1: not JSON at column 7"),
    ('\n[\n{"a" 1}]', "row 1: not JSON at column 6"),
    ('\n[{"a" 1}]', "row 1: not JSON at column 7"),
])
def test_a_fault_is_found_by_its_column_in_its_line(tmp_path, text, place):
    assert message(save(tmp_path, text)).startswith(f"{place} (")


def test_rows_and_files_may_be_as_long_as_the_limit(tmp_path, monkeypatch):
    long = rows(1)[0]
    length = len(json.dumps(long))
    monkeypatch.setattr(readers, "ROW", length)
    for text in (f"[{json.dumps(long)}]", json.dumps(long)):
        assert len(load_facts(save(tmp_path, text))) == 1
        monkeypatch.setattr(readers, "FILE", len(text))
        assert len(load_facts(save(tmp_path, text))) == 1
        said = message(save(tmp_path, f"{text} "))
        assert said.startswith(": the file is larger than 0 MiB")
        monkeypatch.setattr(readers, "FILE", 2**29)
    monkeypatch.setattr(readers, "ROW", length - 1)
    for text, place in ((f"[{json.dumps(long)}]", "row 1"), (json.dumps(long), "line 1")):
        said = message(save(tmp_path, text))
        assert said.startswith(f"{place}: {length} characters in one row, more than {length - 1}")


def test_a_list_that_breaks_off_gives_the_rows_before(tmp_path):
    path = save(tmp_path, f"[{LINE} {LINE}]")
    assert message(path).startswith("row 1: after this row the list breaks off")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert len(load_facts(path, on_error="skip")) == 1


# ---- tables


def table(folder, lines, name="facts.csv", delimiter=","):
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    return path


HEAD = ["subject", "prompt", "target"]


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv", "a.TSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_says_what_parts_the_cells(tmp_path, name, delimiter):
    body = ["Peru", "Of coast; hills, woods, rivers, cities;\tthe capital of {} is", "Lima, or so"]
    found = load_facts(table(tmp_path, [HEAD, body], name, delimiter))
    assert found[0].prompt == body[1] and found[0].target == body[2]


def test_signs_in_the_rows_do_not_say_what_parts_the_cells(tmp_path):
    lines = [";".join(HEAD), "Peru;a, b, c, d, e, f, g, {} is;Lima", "Chad;h, i, j, k, {} is;it"]
    found = load_facts(save(tmp_path, "\n".join(lines), "a.csv"))
    assert [fact.target for fact in found] == ["Lima", "it"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_table_end_as_on_any_system(tmp_path, end):
    lines = [",".join(HEAD), "Peru,{} is,Lima", "Chad,{} is,it", ""]
    found = load_facts(save(tmp_path, end.join(lines).encode(), "a.csv"))
    assert [fact.target for fact in found] == ["Lima", "it"]


def test_a_table_may_begin_with_empty_lines(tmp_path):
    lines = ["", "", ";".join(HEAD), "Peru;a, b, c, {} is;Lima", "Chad;{} is;"]
    path = save(tmp_path, "\n".join(lines), "a.csv")
    assert message(path) == "line 5: field 'target' is missing"
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert load_facts(path, on_error="skip")[0].target == "Lima"


def test_a_table_that_begins_like_a_web_page_is_a_table(tmp_path):
    assert message(save(tmp_path, "<a>,b\n1,2\n", "a.csv")).startswith("line 2: field number 1 ")


def test_a_cell_keeps_its_line_ends_and_a_list_may_stand_in_spaces(tmp_path):
    body = ["Peru", "In {} is", "Lima\r\nor so", ' ["Of {} is"] ', "", '[["Chad has", "it"]]']
    path = table(tmp_path, [[*HEAD, "paraphrases", "hops", "neighbors"], body])
    fact = load_facts(path)[0]
    assert fact.target == "Lima\r\nor so" and fact.paraphrases == ("Of {} is",)
    assert fact.hops == () and fact.neighbors == (("Chad has", "it"),)


def test_a_row_after_one_that_cannot_be_read_is_read(tmp_path):
    text = f'{",".join(HEAD)}\nPeru,In {{}} is,"Lima"x\nChad,In {{}} is,x\n'
    path = save(tmp_path, text, "a.csv")
    assert message(path).startswith("line 2: not CSV (")
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert load_facts(path, on_error="skip")[0].subject == "Chad"


@pytest.mark.parametrize("field, cell, like", [
    ("paraphrases", '["a"] b', '["{} lies in", "..."]'), ("hops", "a", '[["Peru lies in", "..."]]'),
    ("neighbors", "{}", '[["Peru lies in", "..."]]')])
def test_a_cell_that_is_no_list_is_told_how_one_is_written(tmp_path, field, cell, like):
    path = table(tmp_path, [[*HEAD, field], ["Peru", "In {} is", "Lima", cell]])
    assert message(path) == (
        f"line 2: field '{field}' is no JSON list: write {like} into the cell, with quotation "
        "marks around the whole and those within it doubled")


# ---- from elsewhere


def test_a_download_has_a_plain_name_in_the_cache_and_no_checksum(cache, monkeypatch):
    import pooch

    asked = []

    def retrieve(url, known_hash, **more):
        asked.append((url, known_hash, more["fname"], Path(more["path"]), more["downloader"]))
        return save(cache, [ROW], "there.json")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert load_facts("https://a.org/B c/ä_1.json?x=2").name == "there"
    url, checksum, name, folder, downloader = asked[0]
    assert (url, checksum) == ("https://a.org/B c/ä_1.json?x=2", None)
    assert name == "a.org-B-c--_1.json-x-2" and folder == cache / "data"
    assert isinstance(downloader, pooch.HTTPDownloader)


def test_rows_of_a_download_that_cannot_be_used_stop_it_and_leave_it_there(cache, monkeypatch):
    import pooch

    path = save(cache.parent, [ROW, {"subject": "x"}])
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **more: str(path))
    with pytest.raises(FactError, match="row 2: field 'target' is missing"):
        load_facts("https://a.org/facts.json")
    assert path.exists()


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("a checksum")])
def test_a_download_that_fails_names_address_folder_and_kind(cache, monkeypatch, error):
    import pooch

    def fail(*args, **more):
        raise error

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(OSError) as caught:
        load_facts("https://a.org/x.json")
    said = str(caught.value)
    assert said.startswith(f"https://a.org/x.json is not in {cache / 'data'} and could not be")
    assert f"({type(error).__name__})" in said


@pytest.mark.parametrize("source, dataset, config, name", [
    ("hub:me/facts", "me/facts", None, "me-facts"),
    ("hub:me/facts:small", "me/facts", "small", "me-facts-small"),
    ("hub:me/facts:a:b", "me/facts", "a:b", "me-facts-a-b"),
])
def test_a_set_of_the_hub_is_named_by_dataset_and_config(
        monkeypatch, source, dataset, config, name):
    import datasets

    asked = []

    def load_dataset(*given):
        asked.append(given)
        return {"train": rows(2), "test": rows(3)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_facts(source)
    assert asked == [(dataset, config)] and found.name == name
    assert [fact.id for fact in found] == ["1", "2"]


def test_without_a_split_train_the_first_one_is_read(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *given: {"b": rows(3), "a": rows(2)})
    assert len(load_facts("hub:me/facts")) == 3


def test_without_the_datasets_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OSError, match=r'^"hub:me/facts" needs the datasets package'):
        load_facts("hub:me/facts")


@pytest.mark.parametrize("error", [OSError("gone\nfor good"), ValueError("gone\nfor good")])
def test_a_hub_that_cannot_be_read_says_why_in_a_line(monkeypatch, error):
    import datasets

    def fail(*given):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    said = r'^"hub:me/facts" could not be read \(gone\): is the network'
    with pytest.raises(OSError, match=said):
        load_facts("hub:me/facts")


# ---- collections of facts


def test_facts_have_a_name_a_rule_and_nothing_skipped_by_default():
    facts = Facts([Fact(**ROW)])
    assert (facts.name, facts.rule, facts.skipped) == ("own", "exact", ())
    assert repr(facts) == "Facts(1 of 'own', rule 'exact')"
    told = Facts([Fact(**ROW)], "mine", "tokens", ["row 2: why"])
    assert repr(told) == "Facts(1 of 'mine', rule 'tokens', 1 skipped)"
    assert isinstance(told[:1], Facts) and told[:1].rule == "tokens" and told[:1].name == "mine"
    assert told[:1].skipped == ()


def test_a_prompt_may_begin_with_a_space_but_not_end_with_one():
    assert Fact(**ROW | {"prompt": " {} has"}).text == " Peru has"
    with pytest.raises(FactError, match="^field 'prompt' begins or ends with a space"):
        Fact(**ROW | {"prompt": "{} has "})


def test_an_empty_text_is_no_list_of_pairs():
    with pytest.raises(FactError, match="^field 'hops' is no list of"):
        Fact(**ROW, hops="")


def test_a_sample_of_what_is_known_says_that_more_were_asked(facts):
    known = Facts(facts, "five-known")
    with pytest.raises(ValueError, match="holds 5 facts: the model knows that many of those that"):
        known.sample(6, 0)


@pytest.mark.parametrize("n", [0, 6])
def test_a_sample_is_of_one_to_all(facts, n):
    assert len(facts.sample(1, 0)) == 1 and set(facts.sample(5, 0)) == set(facts)
    with pytest.raises(ValueError, match=f"^n is {n}: 'own' holds 5 facts$"):
        facts.sample(n, 0)


def test_a_hash_is_the_same_in_every_process_and_counts_every_field():
    fact = Fact(**ROW | {"id": "ä"})
    text = json.dumps([{"hops": [], "id": "ä", "neighbors": [], "paraphrases": [],
                        "prompt": ROW["prompt"], "relation": "", "subject": "Peru",
                        "target": "Lima"}], ensure_ascii=False)
    import hashlib

    assert Facts([fact]).hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("row, kind", [
    ({"requested_rewrite": []}, "mquake"), ({"requested_rewrite": {}}, "multi-counterfact"),
    ({"src": ""}, "zsre"), ({"ground_truth": ""}, "flat-counterfact"), ({"attribute": ""}, "known"),
    ({}, "own"), ({"subject": ""}, "own")])
def test_a_schema_is_known_by_a_field_that_only_it_has(row, kind):
    assert schema(row) == kind


# ---- fields, by name


BIG = {"subject": "Peru", "update": "Which city leads Peru?", "ans": "Lima"}
RWKU = {"subject": "Peru", "query": "Which city leads Peru?", "answer": "Lima"}
EASY = {"subject": "Peru", "prompt": "Peru is led from", "ground_truth": "Lima",
        "target_new": "Cusco"}
CHAIN = {"requested_rewrite": [{"subject": "Peru", "prompt": "{} is led from",
                                "target_true": {"str": "Lima"}}], "single_hops": []}


@pytest.mark.parametrize("row, field", [
    (EASY | {"hops": 3}, "hops"), (EASY | {"locality": 3}, "locality"),
    (RWKU | {"hops": 3}, "hops"), (RWKU | {"neighbors": 3}, "neighbors"),
    (BIG | {"loc": 3, "loc_ans": "Ann"}, "loc"), (BIG | {"mhop": 3, "mhop_ans": "Ann"}, "mhop"),
    (EASY | {"locality": {"prompt": ["Who sang?", 3], "ground_truth": ["Ann", "Bo"]}}, "locality")])
def test_what_is_no_question_is_named_by_its_field(row, field):
    with pytest.raises(FactError, match=f"fact 1: field '{field}' (holds|is or holds) a int"):
        load_facts([row])


@pytest.mark.parametrize("row, kept", [
    (EASY | {"hops": [{"prompt": "Who rules?"}, {"prompt": "Who sang?", "answer": "Ann"}]}, "hops"),
    (EASY | {"locality": {"prompt": ["Who rules?"]}, "hops": [["Who sang?", "Ann"]]}, "hops"),
    (RWKU | {"neighbors": [{"query": "Who rules?"}, ["Who sang?", "Ann"]]}, "neighbors"),
    (RWKU | {"hops": [{"query": "Who rules?"}, ["Who sang?", "Ann"]]}, "hops"),
    (BIG | {"mhop": "Who rules?", "loc": "Who sang?", "loc_ans": "Ann"}, "neighbors"),
    (BIG | {"loc": "Who rules?", "mhop": "Who sang?", "mhop_ans": "Ann"}, "hops"),
    ({"subject": "Peru", "prompt": "Peru is led from", "target_new": "Lima", "locality": {"a": []},
      "portability": {"R": [{"prompt": "Who rules?"}, {"prompt": "Who sang?",
                                                       "ground_truth": "Ann"}]}}, "hops")])
def test_a_question_without_an_answer_is_left_out_and_told_of(row, kept):
    with pytest.warns(UserWarning) as said:
        (fact,) = load_facts([row])
    assert any("in 1 row a question has no answer" in str(one.message) for one in said)
    assert getattr(fact, kept) == (("Who sang?", "Ann"),)


@pytest.mark.parametrize("row, field", [
    ({"subject": "Chad", "prompt": "Peru is", "attribute": "Lima"}, "prompt"),
    (CHAIN | {"requested_rewrite": [CHAIN["requested_rewrite"][0] | {"prompt": "It is"}]},
     "prompt"),
    ({"requested_rewrite": CHAIN["requested_rewrite"][0] | {"prompt": "It is"}},
     "requested_rewrite.prompt"),
    (EASY | {"subject": "Chad"}, "prompt"),
    ({**EASY, "subject": "Chad", "prompts": "It is", "prompt": None}, "prompts"),
    (BIG | {"subject": "Chad"}, "update")])
def test_a_prompt_without_its_subject_is_named_by_its_field(row, field):
    with pytest.raises(FactError, match=f"field '{field}' holds the subject 0 times as a word: wr"):
        load_facts([row])


def test_a_label_is_read_in_every_shape_that_has_one():
    choices = {"question": "Which?", "choices": ["3", "a", "b"], "answer": "3", "subject": "law"}
    for row in (BIG, choices, EASY, RWKU):
        assert load_facts([row | {"id": "q7"}])[0].id == "q7"
    (fact,) = load_facts([choices])  # "3" is a text here: there is no choice of that number
    assert (fact.target, fact.relation, fact.subject) == ("3", "law", "")


def test_wordings_and_neighbours_are_read_under_each_of_their_names():
    unke = {"question": "Which city leads Peru?", "answer": "Lima", "subject": "Peru",
            "para_question": "Peru's first city?", "paraphrased_question": "Who leads Peru?"}
    (fact,) = load_facts([unke])
    assert fact.subject == "Peru" and fact.prompt == "Which city leads {}?"
    assert fact.paraphrases == ("Who leads Peru?", "Peru's first city?")
    with pytest.warns(UserWarning, match="the question does not hold the subject exactly once"):
        assert load_facts([unke | {"subject": "Chad"}])[0].subject == ""
    (fact,) = load_facts([EASY | {"locality_prompts": ["Oslo is"],
                                  "locality_ground_truths": ["cold"]}])
    assert fact.neighbors == (("Oslo is", "cold"),)


def test_a_cell_that_only_begins_in_brackets_is_a_text():
    import pandas as pd

    frame = pd.DataFrame([EASY | {"rephrase": "[Peru's] leader is"}])
    assert load_facts(frame)[0].paraphrases == ("[Peru's] leader is",)


def test_neighbours_of_rwku_stay_beside_those_of_other_rows_and_rows_that_cannot_be_read():
    near = {"subject": "Chad", "neighbor": "Oslo", "query": "Who leads Oslo?", "answer": "Ann"}
    own = RWKU | {"neighbors": [["Who sang?", "Ann"], ["___ of tea is full.", "A cup"]]}
    other = RWKU | {"subject": "Chad", "query": "Which city leads Chad?"}
    rows = [own, other, near, {"query": "Who?", "answer": "Ann"}, 3]
    with pytest.warns(UserWarning, match="2 of 4 rows left out|a gap has words behind it"):
        found = load_facts(rows, on_error="skip")
    assert [fact.neighbors for fact in found] == [
        (("Who sang?", "Ann"), ("Fill in the blank: ___ of tea is full.\nAnswer:", "A cup")),
        (("Who leads Oslo?", "Ann"),)]


def test_a_tables_index_is_no_field_whether_a_text_or_a_number():
    for name in ("", "Unnamed: 0", "index", "level_0"):
        for value in (3, "3"):
            assert load_facts([{name: value} | ROW])[0].text == "The capital of Peru is"
        with pytest.raises(FactError, match="field number 1 has a name that is none of"):
            load_facts([{name: "a text"} | ROW])


def test_what_python_holds_is_taken_as_it_stands_and_tuples_as_lists():
    row = ROW | {"paraphrases": ("{} has",), "neighbors": (("Chad has", "N'Djamena"),)}
    (fact,) = load_facts([row])
    assert fact == Fact(**row, id="1")
    # a text that looks like a list is a wording, but in a table's cell
    assert load_facts([ROW | {"paraphrases": '["{} has"]'}])[0].paraphrases == ('["{} has"]',)


def test_of_a_data_frames_index_what_is_a_field_is_read_and_the_rest_left():
    import pandas as pd

    frame = pd.DataFrame([ROW | {"batch": 4, "paraphrases": pd.NA}]).set_index(["batch", "subject"])
    assert list(load_facts(frame)) == [Fact(**ROW, id="1")]
    # what pandas has for nothing is nothing in a row or a column too
    nothing = {"paraphrases": pd.NA, "neighbors": float("nan"), "relation": pd.NaT}
    columns = {field: pd.Series([value], dtype=object) for field, value in (ROW | nothing).items()}
    for source in ([ROW | nothing], columns):
        assert list(load_facts(source)) == [Fact(**ROW, id="1")]


# ---- tables of columns, by name


def test_columns_may_have_labels_of_any_kind_and_stand_beside_lists():
    labelled = {field: {"a": value, "b": value} for field, value in ROW.items()}
    labelled["subject"]["b"] = "Chad"
    assert [fact.text for fact in load_facts(labelled)] == [
        "The capital of Peru is", "The capital of Chad is"]
    (fact,) = load_facts({"subject": {"0": "Peru"}, "prompt": [ROW["prompt"]], "target": ["Lima"]})
    assert fact == Fact(**ROW, id="1")
    assert list(rows_of({})) == list(rows_of({"subject": None, "target": []})) == []


@pytest.mark.parametrize("columns, told", [
    ({"subject": ["Peru", "Chad"], "prompt": "It is", "target": ["a", "b"]},
     "lists of one length, one value a row, and a single row one text in each field, but here are "
     "fields with no list: 'prompt'; 2 values: 'subject', 'target'"),
    ({"subject": ["Peru"], "prompt": ["It is"] * 2, "target": ["a"], "mine": ["b"] * 2},
     "lists of one length, one value a row, but here are fields with 1 values: 'subject', "
     "'target'; 2 values: 'prompt', number 4")])
def test_columns_that_do_not_fit_are_named_with_their_lengths(columns, told):
    with pytest.raises(FactError) as caught:
        load_facts(columns)
    assert str(caught.value).endswith(f"a table of columns needs {told}")


# ---- words


def test_a_word_stands_where_no_letter_mark_or_digit_goes_on():
    assert places("Peru Peru Peru", "Peru") == [0, 5, 10]
    assert places("xPeru, Peruvian, Peru2: Peru, Peru", "Peru") == [24, 30]
    assert places("Peru", "") == places("", "Peru") == []
    assert places("x(ab", "(ab") == [1]  # a bracket is no part of a word
    # a mark belongs to the sign before it, and what stands behind a joiner to what is joined
    assert places("Lima\u0301", "Lima") == places("กิ", "ก") == places("a ❤\ufe0f b", "❤") == []
    assert places("\u200d東東", "東") == [2]
    # one side without borders is enough
    assert places("lima秘鲁lima", "lima") == [0, 6] and places("lima秘鲁lima", "秘鲁") == [4]
    # letters of which Unicode's tables have no name are letters as others
    assert places("\U00017000\U00017001", "\U00017001") == []


@pytest.mark.parametrize("row, kind", [
    ({"prompt": "", "target": "", "question": ""}, "own"), ({"target_old": ""}, "cknowedit"),
    ({"target_true": ""}, "memit"), ({"target_new": "", "target_true": ""}, "memit"),
    ({"ground_truth": None, "target_old": ""}, "cknowedit"),
    ({"ground_truth": "x", "target_old": "", "target_true": ""}, "flat-counterfact"),
    ({"ground_truth": "x", "prompts": "", "target_true": ""}, "easyedit")])
def test_a_request_is_known_by_the_answer_that_it_has(row, kind):
    assert schema(row) == kind


# ---- which kind of file it is


def test_a_table_is_known_by_its_first_line_and_by_a_name_that_says_so(tmp_path):
    table = "subject,prompt,target\nPeru,The capital of {} is,Lima\n"
    for text in (table, table.replace("subject,prompt,target", '"subject","prompt","target"')):
        assert load_facts(save(tmp_path, text, "facts.txt"))[0].text == "The capital of Peru is"
    below = "My facts\nid,subject,prompt,target,relation\n1,Peru,The capital of {} is,Lima,\n"
    assert message(save(tmp_path, below, "facts.txt")).startswith(
        "line 1: not JSON at column 1")
    for name, text in (("facts.csv", "Frage,Antwort\na,b"), ("facts.TSV", "Frage\tAntwort\na\tb")):
        assert "line 2: field number 1 has a name" in message(save(tmp_path, text, name))
    # but JSON is JSON under every name
    assert load_facts(save(tmp_path, f"{LINE}\n", "facts.csv"))[0].target == "Lima"


def test_what_parts_the_cells_is_no_letter_and_as_the_first_line_says(tmp_path):
    said = "sep=;\n\tsubject;\tprompt;\ttarget\t\nPeru;The capital of {} is;Lima\n"
    assert load_facts(save(tmp_path, said, "facts.csv"))[0].text == "The capital of Peru is"
    letters = "subject,prompt,target,XXXXX\nPeru,The capital of {} is,Lima,a\n"
    assert "line 2: field number 4 has a name" in message(save(tmp_path, letters, "facts.csv"))


def test_an_object_over_several_lines_may_stand_behind_empty_ones(tmp_path):
    path = save(tmp_path, f"\n\n  {json.dumps(ROW | {'join': []}, indent=1)}")
    assert list(load_facts(path)) == [Fact(**ROW, id="1")]  # what is empty joins nothing


def test_objects_with_commas_behind_them_are_told_of_those(tmp_path):
    path = save(tmp_path, f"{LINE},\n{LINE},\n")
    assert message(path).startswith("line 1: there is a comma after the object: take it away")


def test_a_name_that_leads_nowhere_is_told_only_where_it_looks_like_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("nothing", "two words/x", "two words.csv", "two\\words x", "/" * 199)
    told = {name: f"'{name}'" for name in names}
    told |= {"two words": "a text of 9 characters", "a/b\nc": "a text of 5 characters",
             "x/" * 100: "a text of 200 characters",
             " [{}": "a text of 4 characters (JSON goes through json.loads first)"}
    for name, said in told.items():
        with pytest.raises(FileNotFoundError) as caught:
            load_facts(name)
        assert str(caught.value).startswith(f"no facts at {said}: give world-cloze")


def test_labels_of_columns_must_be_the_same_in_each():
    other = {"subject": {"a": "Peru"}, "prompt": {"b": ROW["prompt"]}, "target": {"a": "Lima"}}
    with pytest.raises(FactError, match="fields whose objects have other keys than the first"):
        load_facts(other)


@pytest.mark.parametrize("row, told", [
    ({"subject": "Peru", "mine": 3}, ""), ({"prompt": "It is", "mine": 3}, "; missing: 'target'"),
    ({"mine": 3}, ""), ({"targt": "Lima", "prompt": "It is"}, "; is it meant to be 'target'?")])
def test_what_is_missing_is_told_where_some_of_it_is_there(row, told):
    with pytest.raises(FactError) as caught:
        load_facts([row])
    assert str(caught.value).endswith(f"hops, join{told}")
