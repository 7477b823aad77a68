"""Every schema of the field is read; what cannot be used is named: file, row, field, remedy."""
import csv
import json
from pathlib import Path

import pytest

import samples
import zu
from zu.data import readers
from zu.data.facts import Fact, FactError
from zu.data.readers import load_facts

ROWS = [{"subject": "France", "prompt": "The capital of {} is", "target": "Paris"},
        {"subject": "Peru", "prompt": "The capital of Peru is", "target": "Lima",
         "paraphrases": ["Peru's capital is"],
         "neighbors": [["The capital of Chad is", "N'Djamena"]]}]
#: One row of each published schema, with invented content.
MULTI = {"case_id": 7, "requested_rewrite": {
    "prompt": "The capital of {} is", "relation_id": "P36", "subject": "Peru",
    "target_true": {"str": "Lima"}, "target_new": {"str": "Rome"}},
    "paraphrase_prompts": ["Rain fell. In Peru, the capital is", "Peru's capital:"],
    "neighborhood_prompts": ["The capital of the Incas' coast is"],
    "generation_prompts": ["Peru is"]}
FLAT = {"case_id": 0, "prompt": "The capital of Peru is", "target_new": "Rome", "subject": "Peru",
        "ground_truth": "Lima", "rephrase_prompt": "Peru's capital is",
        "locality_prompt": "The capital of Chad is", "locality_ground_truth": "N'Djamena"}
ZSRE = {"subject": "Peru", "src": "Which city is Peru's capital?", "pred": "Cusco", "alt": "Rome",
        "rephrase": "What is Peru's capital?", "answers": ["Lima", "Ciudad"],
        "loc": "nq question: who sang it",
        "loc_ans": "Ann", "cond": "Cusco >> Rome || Which city is Peru's capital?"}
MQUAKE = {"case_id": 3, "requested_rewrite": [
    {"prompt": "{} was born in", "relation_id": "P19", "subject": "Ann",
     "target_true": {"str": "Peru"},
     "target_new": {"str": "Chad"}, "question": "Where was Ann born?"},
    {"prompt": "The capital of {} is", "relation_id": "P36", "subject": "Chad",
     "target_true": {"str": "N'Djamena"},
     "target_new": {"str": "Rome"}, "question": "What is the capital of Chad?"}],
    "questions": ["What is the capital of Ann's birthplace?", "Second wording?"], "answer": "Lima",
    "single_hops": [{"cloze": "Ann was born in", "answer": "Peru", "question": "?"},
                    {"cloze": "The capital of Peru is", "answer": "Lima", "question": "?"}]}
KNOWN = {"known_id": 5, "subject": "Lima", "attribute": "Peru", "template": "{} lies in",
         "prediction": " Peru, a", "prompt": "Lima lies in the country of", "relation_id": "P17"}


def save(tmp_path, rows, name="facts.json"):
    path = tmp_path / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def test_json_json_lines_and_csv_give_the_same_facts(tmp_path):
    a = load_facts(save(tmp_path, ROWS, "a.json"))
    b = load_facts(save(tmp_path, "\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS) + "\n",
                        "b.jsonl"))
    for name, delimiter in (("c.csv", ","), ("d.csv", ";"), ("e.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            out = csv.DictWriter(file, ["subject", "prompt", "target", "paraphrases", "neighbors"],
                                 delimiter=delimiter)
            out.writeheader()
            out.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()}
                          for r in ROWS)
        c = load_facts(tmp_path / name)
        assert [f.text for f in c] == [f.text for f in a] and c[1].neighbors == a[1].neighbors
        assert c[1].paraphrases == ("Peru's capital is",)
    assert list(a) == list(b) and a.name == "a" and a.rule == "exact" and a.skipped == ()
    assert a[1].prompt == "The capital of {} is"
    assert a[1].neighbors == (("The capital of Chad is", "N'Djamena"),)


def test_each_published_schema_is_known_by_its_fields(tmp_path):
    lima = "The capital of {} is"
    cases = {
        "multi": ([MULTI], "exact", [
            Fact("Peru", lima, "Lima", ("Rain fell. In Peru, the capital is", "Peru's capital:"),
                 (("The capital of the Incas' coast is", "Lima"),), "P36", "7")]),
        "flat": ([FLAT], "exact", [Fact("Peru", lima, "Lima", ("Peru's capital is",),
                 (("The capital of Chad is", "N'Djamena"),), id="0")]),
        "zsre": ([ZSRE], "tokens", [
            Fact("Peru", "Which city is {}'s capital?", "Lima", ("What is Peru's capital?",),
                 (("nq question: who sang it?", "Ann"),), id="1")]),
        "known": ([KNOWN], "exact",
                  [Fact("Lima", "{} lies in the country of", "Peru", relation="P17", id="5")]),
        "mquake": ([MQUAKE], "tokens", [
            Fact("Ann", "{} was born in", "Peru", relation="P19", id="3-0",
                 hops=(("What is the capital of Ann's birthplace?", "Lima"),)),
            # not on the way to the true answer
            Fact("Chad", lima, "N'Djamena", relation="P36", id="3-1")]),
    }
    for name, (rows, rule, expected) in cases.items():
        found = load_facts(save(tmp_path, rows, f"{name}.json"))
        assert list(found) == expected and found.rule == rule and found.name == name
    assert load_facts(tmp_path / "flat.json", rule="tokens").rule == "tokens"


@pytest.mark.parametrize("source", ["world-cloze", "world-apart", "planted",
                                    [Fact("", "Two", "2")]])
def test_another_rule_of_scoring_is_refused_for_every_source(source):
    with pytest.raises(ValueError, match="rule is 'best': use 'exact' or 'tokens'"):
        load_facts(source, rule="best")


def test_a_hop_of_several_chains_stands_once_with_the_questions_of_all(tmp_path):
    chains = [MQUAKE | {"case_id": i, "questions": [f"Question {i}?"]} for i in range(5)]
    facts = load_facts(save(tmp_path, chains))
    assert [f.id for f in facts] == ["0-0", "0-1"]
    asked = [question for question, _ in facts[0].hops]
    assert asked == ["Question 0?", "Question 1?", "Question 2?"]


def test_the_papers_split_takes_forget_facts_from_the_second_half(tmp_path):
    rows = [{"subject": f"City {i}x", "prompt": "{} lies in", "target": "Peru"} for i in range(7)]
    path = save(tmp_path, rows)
    kept, gone = load_facts(f"{path}:retain"), load_facts(f"{path}:forget")
    assert [f.subject for f in kept] + [f.subject for f in gone] == [r["subject"] for r in rows]
    assert len(kept) == 3 and gone.name == "facts-forget"


GOOD = json.dumps(ROWS[0])


@pytest.mark.parametrize("text, message", [
    ('{"subject": "France", "prompt": "In {} is"}', "line 1: field 'target' is missing"),
    (GOOD + '\n{"subject": "Peru"', "line 2: not JSON at column"),
    ('{"subject": "France", "prompt": "In Spain is", "target": "x"}',
     "line 1: field 'prompt' holds the subject 0"),
    ('{"subject": "France", "prompt": "In {} is", "target": "x", "colour": 1}',
     "field number 4 has a name"),
    ('{"subject": "France", "prompts": "In {} is", "target": "x"}',
     "field number 2 .* meant to be 'prompt'"),
    ('{"France": "Paris"}', "field number 1 has a name"),
    ('{"subject": "France", "prompt": "In {} is", "target": ""}',
     "line 1: field 'target' is empty"),
    ('{"subject": "France", "prompt": "In {} is", "target": 7}',
     "line 1: field 'target' is or holds a int"),
    ('{"subject": "France", "prompt": "In {} is", "target": "x", "neighbors": ["ab"]}',
     "'neighbors' is no list of"),
    ("[3]", "row 1: a int, not an object"), ("  <!doctype html><html>", "web page"), ("", "empty"),
    ("[]", "no facts"),
    ('[{"subject": "a"', "row 1: not JSON"),
    (f"[{GOOD}", "row 1: after this row the list breaks off"),
    (f"[{GOOD},", "row 2: not JSON"), (f"{GOOD} {GOOD}", "line 1: more than one JSON value"),
    ("[" * 100_000, "row 1: not JSON that can be read"),
    ("[" + "1" * 5000 + "]", "row 1: not JSON that can be read"),
    (f"{GOOD}\n{GOOD}", "line 2: the same fact as line 1"),
    (GOOD + "\n" + GOOD.replace("Paris", "Lyon"), "line 2: field 'target' contradicts line 1"),
    (json.dumps([r | {"id": "x"} for r in ROWS]), "row 2: field 'id' is that of row 1"),
    (json.dumps([MULTI | {"requested_rewrite": {"prompt": "{} is", "subject": "Peru"}}]),
     "row 1: field 'requested_rewrite.target_true.str' is missing"),
    (json.dumps([ZSRE | {"answers": []}]), "row 1: field 'answers' is missing"),
    (json.dumps([ZSRE | {"subject": "Chad"}]), "row 1: field 'src' holds the subject 0"),
    ('{"subject": "\\ud83d", "prompt": "In {} is", "target": "x"}',
     "line 1: field 'subject' holds bytes"),
    ('{"subject": "France", "prompt": "In {} is", "target": "' + "x" * 10**6 + '"}',
     "line 1: 10000.. characters in"),
])
def test_a_bad_file_is_refused_with_file_row_and_field_and_none_of_its_text(
        tmp_path, text, message):
    path = save(tmp_path, text)
    with pytest.raises(FactError, match=message) as caught:
        load_facts(path)
    assert str(caught.value).startswith(str(path))
    assert not any(word in str(caught.value) for word in ("France", "Peru", "Paris", "Lyon"))


@pytest.mark.parametrize("text, kept, skipped", [
    (f'{GOOD}\n{{"subject": "Peru"\n{{"subject": "Chad", "prompt": "In {{}}", "target": "x"}}', 2,
     ["line 2"]),
    (f'[{GOOD}, {{"subject": ""}}, 3, {json.dumps(ROWS[1])}]', 2, ["row 2", "row 3"]),
    (f'[{GOOD}, {json.dumps(ROWS[1])}, {{"subj', 2, ["row 3"]),
    (json.dumps([MULTI, MULTI | {"case_id": 8, "requested_rewrite": 3}, {"case_id": 9}]), 1,
     ["row 2", "row 3"]),
])
def test_on_error_skip_lets_the_rest_through_and_counts(tmp_path, text, kept, skipped):
    path = save(tmp_path, text)
    with pytest.warns(UserWarning, match=f"{len(skipped)} of .* rows left out"):
        facts = load_facts(path, on_error="skip")
    assert len(facts) == kept
    assert [m.split(":")[0].rsplit(", ", 1)[-1] for m in facts.skipped] == skipped
    assert f"{len(skipped)} skipped" in repr(facts)


def test_a_file_of_which_nothing_can_be_used_is_an_error_even_then(tmp_path):
    with pytest.raises(FactError, match="none of the 1 rows.*web page"):
        load_facts(save(tmp_path, "<html>Not found</html>"), on_error="skip")


def test_bytes_that_are_not_utf8_are_an_error_of_their_row_alone(tmp_path):
    rows = [{"subject": "Côte", "prompt": "In {} is", "target": "x"}, ROWS[0]]
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b"\n".join(json.dumps(r, ensure_ascii=False).encode("latin-1") for r in rows))
    with pytest.raises(FactError,
                       match="line 1: field 'subject' holds bytes that are not UTF-8: save"):
        load_facts(path)
    with pytest.warns(UserWarning):
        assert [f.subject for f in load_facts(path, on_error="skip")] == ["France"]
    path.write_text(GOOD, encoding="utf-16")
    with pytest.raises(FactError, match="UTF-16"):
        load_facts(path)


def test_a_paraphrase_without_its_subject_is_told_of_and_none_of_its_text(tmp_path):
    rows = [ROWS[0] | {"paraphrases": ["Its capital is"]},
            ROWS[0] | {"subject": "Peru", "paraphrases": ["In {} lies", "PERU has"]}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = "1 of 2 facts have a paraphrase that holds neither the subject nor {}"
    with pytest.warns(UserWarning, match=said) as told:
        assert len(load_facts(path)) == 2
    assert not any(word in str(told[0].message) for word in ("France", "Its capital"))


def test_a_line_of_100_mb_and_a_file_that_is_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "long.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.write('{"subject": "')
        for _ in range(100):
            file.write("x" * 2**20)
        file.write('"}\n' + GOOD)
    with pytest.raises(FactError, match="line 1: 10485.* characters in one row"):
        load_facts(path)
    with pytest.warns(UserWarning):
        assert len(load_facts(path, on_error="skip")) == 1
    monkeypatch.setattr(readers, "FILE", 10**6)
    with pytest.raises(FactError, match="larger than"):
        load_facts(path)


@pytest.mark.parametrize("field, cell", [
    ("paraphrases", "{}'s capital is"), ("paraphrases", "{}"), ("neighbors", "{} borders Peru"),
    ("hops", "{}"),
    ("paraphrases", '["{} lies in"] and more'), ("neighbors", '[["It is", "Oslo"]] x'),
    ("paraphrases", "['{} is']"),
    ("paraphrases", '"{} is"'), ("paraphrases", "7")])
def test_a_cell_of_a_csv_that_is_no_list_is_an_error_that_names_the_field_never_an_empty_list(
        tmp_path, field, cell):
    path = tmp_path / "cells.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["subject", "prompt", "target", field],
                                    ["Peru", "It is {}", "Lima", cell]])
    with pytest.raises(FactError,
                       match=f"cells.csv, line 2: field '{field}' is no JSON list") as caught:
        load_facts(path)
    assert "Lima" not in str(caught.value)
    assert ("[[" in str(caught.value)) == (field != "paraphrases")  # pairs are written as pairs


@pytest.mark.parametrize("value", [{}, 0, False])
def test_what_is_no_list_is_no_empty_one_either(tmp_path, value):
    row = {"subject": "Peru", "prompt": "The capital of {} is", "target": "Lima",
           "paraphrases": value}
    with pytest.raises(FactError, match="field 'paraphrases' is a (dict|int|bool)"):
        load_facts(save(tmp_path, json.dumps([row]), "facts.json"))


def test_csv_errors_name_the_line(tmp_path):
    for text, message in (
            ("subject,prompt,target\nPeru,In {} is\n", "line 2: field 'target' is missing"),
            ("subject,prompt,target\nPeru,In {}, is,x\n", "line 2: more cells"),
            ('subject,prompt,target\nPeru,"In {} is,x\n', "line 2: not CSV"),
            ("subject,prompt,target,paraphrases\nPeru,In {} is,x,[oh\n",
             "line 2: field .paraphrases."),
            ("name,prompt,target\nPeru,In {} is,x\n",
             "line 2: field number 1 has a name that is none"),
            ("", "no facts")):
        with pytest.raises(FactError, match=message):
            load_facts(save(tmp_path, text, "facts.csv"))


def test_a_missing_file_and_a_wrong_on_error_say_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="world-cloze.*mquake"):
        load_facts(tmp_path / "none.json")
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        load_facts(on_error="ignore")


def test_facts_of_ones_own_are_taken_as_they_are_but_not_twice():
    fact = zu.Fact("France", "The capital of {} is", "Paris")
    assert list(load_facts([fact])) == [fact]
    with pytest.raises(FactError, match="fact 2: the same fact as fact 1"):
        load_facts([fact, fact])


def test_a_download_is_kept_and_a_broken_one_is_not(tmp_path, cache, monkeypatch):
    import pooch

    served = []

    def retrieve(url, known_hash, fname, path, downloader):
        target = Path(path) / fname
        if not target.exists():
            served.append(url)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return str(target)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    text = "<html>Moved</html>"
    for _ in range(2):
        with pytest.raises(FactError, match="web page.*not kept"):
            load_facts("zsre")
    text = json.dumps([ZSRE, {"src": "?"}])
    for _ in range(2):
        # published sets are not perfect: skipping is their default
        with pytest.warns(UserWarning, match="1 of 2"):
            facts = load_facts("zsre")
    assert facts.name == "zsre" and len(served) == 3 and len(facts) == 1
    text = json.dumps([ZSRE])[:-1]
    with pytest.raises(FactError, match="breaks off.*not kept"):
        load_facts("https://example.org/data/facts.json")

    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(OSError, match="connect to the network once, or give a path"):
        load_facts("mcf")


def test_the_hub_is_read_by_the_same_schemas(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset",
                        lambda name, config: {"test": [FLAT], "train": [FLAT, KNOWN]}
                        if (name, config) == ("me/facts", "small") else 1 / 0)
    with pytest.raises(FactError, match="hub:me/facts, row 2: field 'ground_truth' is missing"):
        load_facts("hub:me/facts:small")

    def fail(name, config):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(OSError, match="is the network up"):
        load_facts("hub:me/facts")


#: Facts and rows left out of each file, and its rule.
COUNTS = {
    ("written", "counterfact_edit"): (11, 1, "exact"),
    ("written", "zsre_mend"): (10, 0, "tokens"),
    ("written", "mquake_hard"): (13, 0, "tokens"),
    ("written", "known_facts"): (10, 0, "exact"),
    ("written", "multi_counterfact"): (8, 0, "exact"),
    ("real", "counterfact_edit"): (1499, 1, "exact"),
    ("real", "zsre_mend"): (500, 0, "tokens"),
    ("real", "mquake_hard"): (427, 0, "tokens"),
    ("real", "known_facts"): (600, 0, "exact"),
}


@pytest.mark.parametrize("sample", samples.both(*samples.FACTS), indirect=True)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_published_file_loads_to_the_last_usable_row(sample):
    facts = load_facts(sample.path, on_error="skip")
    found = len(facts), len(facts.skipped), facts.rule
    assert found == COUNTS[sample.source, sample.name]
    assert all(fact.subject in fact.text and fact.target for fact in facts)
    assert all(fact.text != fact.prompt for fact in facts)


def read(written, name):
    """The facts of a file that `samples` wrote, by their ids."""
    facts = load_facts(written / f"{name}.json", on_error="skip")
    assert (len(facts), len(facts.skipped), facts.rule) == COUNTS["written", name]
    return facts, {fact.id: fact for fact in facts}


def test_of_two_counterfact_rows_that_contradict_each_other_the_first_is_kept(written):
    path = written / "counterfact_edit.json"
    with pytest.warns(UserWarning, match="1 of 12 rows left out"):
        facts, by_id = read(written, "counterfact_edit")
    assert facts.skipped == (f"{path}, row 9: field 'target' contradicts row 7, which has the same "
                             "subject and prompt: keep one",)
    assert by_id["14"].target == "Madrid" and "21" not in by_id
    # the same subject in another prompt is another fact
    assert by_id["20"] == Fact("Lisbon", "{} is a city in", "Portugal",
                               ("The trams are yellow. Lisbon belongs to",),
                               (("Porto is a city in", "Portugal"),), id="20")
    with pytest.raises(FactError, match="row 9: field 'target' contradicts row 7"):
        load_facts(path)


@pytest.mark.filterwarnings("ignore:'counterfact_edit'")
def test_what_stands_in_a_counterfact_row_is_kept_to_the_letter(written):
    _, by_id = read(written, "counterfact_edit")
    assert by_id["2"].prompt == "The river {} flows through"
    assert by_id["3"].subject == "Jan Nováček"
    assert by_id["3"].paraphrases == (
        "Career\nHe rowed for six years. Jan Nováček holds a passport of",)
    assert by_id["5"].prompt == "What does {} teach? She teaches"
    assert by_id["5"].paraphrases == (
        "The hall seats 240  people. Every morning Ida Brandt gives lessons in",)
    assert by_id["8"].subject == "Model\u00a04"
    assert by_id["8"].neighbors == (("Model\u00a06, built by", "IBM"),)
    assert by_id["9"].text == 'Maria "Mo" Keller plays'
    assert by_id["13"].text == "And Then... was written in"


def test_a_multi_counterfact_row_takes_its_neighbours_and_no_text_that_shows_the_new_answer(
        written):
    _, by_id = read(written, "multi_counterfact")
    assert by_id["0"] == Fact(
        "Lake Biwa", "{} is located in the country of", "Japan",
        ("The ferry is white.  Lake Biwa belongs to", "A\nHe swam. In the east, Lake Biwa lies in"),
        tuple((f"{near} is located in the country of", "Japan")
              for near in ("Mount Fuji", "Nara Park", "Osaka Castle")), "P17", "0")
    assert by_id["1"].subject == "São Tomé" and len(by_id["2"].neighbors) == 2
    assert by_id["3"].text == "What is the capital of Norway? It is"


def test_a_zsre_row_gives_its_first_answer_and_an_unrelated_question_with_one_question_mark(
        written):
    _, by_id = read(written, "zsre_mend")
    assert by_id["2"].text == "What kind of  work does Jan Nováček do?"
    assert by_id["2"].target == "rower"  # neither what the model said, nor the second answer
    assert by_id["3"].paraphrases == ("In which year was Asteroid 4410 found.",)
    assert by_id["3"].neighbors[0][1] == '"Save us" and "Help"'
    assert (by_id["4"].subject, by_id["4"].prompt) == ("Who Is There?", "Who is the author of {}?")
    assert by_id["4"].neighbors == (
        ("nq question: what is the company’s full name?", "Blue Lamp Pvt Ltd."),)
    assert by_id["5"].prompt == "What was the home port of {} (1902)?"
    assert by_id["6"].subject == by_id["7"].subject and by_id["6"].target == by_id["7"].target


def test_an_unrelated_question_that_has_its_question_mark_gets_no_second_one(tmp_path):
    facts = load_facts(save(tmp_path, [ZSRE | {"loc": "nq question: who sang it?"}]))
    assert facts[0].neighbors == (("nq question: who sang it?", "Ann"),)


def test_only_what_lies_on_the_way_to_the_true_answer_of_an_mquake_chain_knows_its_question(
        written):
    _, by_id = read(written, "mquake_hard")
    # the first hop of four chains is one fact, asked through the first three
    assert by_id["12-0"].text == "Lanterns was sung by"
    assert by_id["12-0"].hops == (
        ('Where does the government sit whose passport the singer of "Lanterns" holds?',
         "Washington, D.C."),
        ('What is the seat of government for the singer of "Lanterns"?', "Washington, D.C."),
        ('Which language is spoken where the singer of "Lanterns" is at home?', "English"))
    # not on the way in the chain that comes first, but in a later one
    assert by_id["12-1"].text == "Bo Kim holds a passport of"
    assert by_id["12-1"].hops == (("Where does the government of Bo Kim's country sit?", "Tokyo"),)
    # the other chain came back to the true one
    assert by_id["15-2"].target == "Washington, D.C."
    assert [answer for _, answer in by_id["15-2"].hops] == ["Washington, D.C."]
    # known to the other chain alone
    assert {id for id, fact in by_id.items() if not fact.hops} == {
        "12-2", "16-2", "18-2", "30-1", "30-2", "30-3", "31-1"}
    assert by_id["21-0"].hops == (
        ("Which passport does the writer of Old Snow 2 hold?", "Japan"),)


def test_a_known_fact_asks_with_its_prompt_and_not_with_the_template(written):
    _, by_id = read(written, "known_facts")
    assert by_id["1"] == Fact("Loire", "The {} flows through the middle of", "France",
                              relation="P17", id="1")
    assert by_id["4"].text == "Blue Lamp's owner, a singer named"
    assert by_id["6"].subject == "Café de l'Été" and by_id["9"].subject == "Port Vale F.C."
