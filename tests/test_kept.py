"""Kept records are taken for what they answer; the present code finds them again, or says so."""
import copy
import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest

import zu
from zu.experiment import (
    EvidenceError,
    Grid,
    Kept,
    Texts,
    differences,
    grids,
    kept,
    re_earned,
    verification,
)
from zu.experiment.grids import RunSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import evidence  # noqa: E402

METHODS = ["base", "memit", "zerounlearn:steps=3"]


@pytest.fixture
def ask(tiny, facts, cache, texts, tmp_path, monkeypatch):
    """A function that runs the same small grid, with records in folders of its own."""
    monkeypatch.setattr("zu.data.world.prose", lambda part: texts)

    def run(folder, file=None, **more):
        grid = Grid(zu.Reader(*tiny), tmp_path / folder / "few_shot", (1, 2),
                    Texts("", 512, "", 400), evidence=file)
        return grid, grid.run(facts, METHODS, **{"seeds": [1, 2], "n": 2} | more)

    return run


@pytest.fixture
def packed(ask, tmp_path):
    """A file of kept records of that grid."""
    ask("first")
    assert evidence.pack("few_shot", tmp_path / "first", tmp_path / "results") == 6
    return tmp_path / "results" / "few_shot.json"


def record(**more):
    return {"question": "q", "method": "memit", "n": 2, "seed": 1, "dataset": "d", "model": "m",
            "experiment": "e", "seconds": {"edit": 10.0}} | more


def test_a_question_is_what_is_asked_and_not_who_answers_it():
    hidden = {"code": "a", "versions": {"torch": "1"}, "rule": ""}
    spec = RunSpec({"method": "memit", "n": 2}, hidden)
    other = RunSpec(spec.about, spec.hidden | {"code": "b", "versions": {"torch": "2"}})
    assert spec.question == other.question and spec.fingerprint != other.fingerprint
    for about, hidden in (({"n": 3}, {}), ({}, {"rule": "top"}), ({}, {"weights": "w"})):
        asked = RunSpec(spec.about | about, spec.hidden | hidden)
        assert asked.question != spec.question and asked.fingerprint != spec.fingerprint


def test_a_kept_record_is_taken_in_place_of_a_run_whatever_code_made_it(
        ask, packed, tmp_path, monkeypatch):
    _, first = ask("first")
    monkeypatch.setattr(grids, "code_hash", lambda: "another")
    with monkeypatch.context() as patch:
        patch.setattr(grids.Grid, "_run", lambda *a: pytest.fail("computed"))
        grid, found = ask("second", packed)
    assert [r["metrics"]["eff"] for r in found] == [r["metrics"]["eff"] for r in first]
    assert [r["question"] for r in found] == [r["question"] for r in first]
    assert all(r["commit"] == f["commit"] and r["versions"] == f["versions"]
               and r["code"] == f["code"] for r, f in zip(found, first, strict=True))
    assert len(list((tmp_path / "second").rglob("*.json"))) == 6  # for who reads records later
    grid, more = ask("third", packed, seeds=[3])
    assert not grid.kept.get("taken") and more[0]["code"] == "another"


def test_where_a_methods_default_changes_something_else_is_asked(ask, packed, monkeypatch):
    fields = zu.methods.Memit.model_fields
    monkeypatch.setattr(fields["alpha"], "default", 3.0)
    zu.methods.Memit.model_rebuild(force=True)
    try:
        grid, found = ask("second", packed, seeds=[1])
    finally:
        monkeypatch.undo()
        zu.methods.Memit.model_rebuild(force=True)
    taken = {draw.about["method"] for draw, _ in grid.kept["taken"].values()}
    assert taken == {"base", "zerounlearn:steps=3"} and len(found) == 3


def test_a_sample_of_kept_records_is_found_again(ask, packed):
    grid, found = ask("second", packed)
    assert grid.earn(0) == [] and grid.taken == 6
    (one,) = grid.earn(1e-9, "a")
    assert one in found
    assert {r["method"] for r in grid.earn(math.inf, "a")} == set(METHODS)
    assert len(grid.earn(math.inf, "b")) == 6
    # who runs the chapter a second time finds the records in place, and they are looked at too
    again, _ = ask("second", packed)
    assert len(again.earn(math.inf)) == 6
    plain, _ = ask("plain")
    assert plain.earn(math.inf) == [] and plain.taken == 0


def test_a_kept_record_that_was_altered_is_named(ask, packed):
    about = json.loads(packed.read_text())
    (run,) = (r for r in about["runs"] if r["method"] == "memit" and r["seed"] == 2)
    run["metrics"]["ppl"] *= 1.2
    packed.write_text(json.dumps(about))
    grid, _ = ask("second", packed)
    with pytest.raises(EvidenceError, match=r"few_shot.json: the record of memit on 2 facts of .*, "
                       r"seed 2, is not found again: ppl was .* and is .*--drop .* few_shot"):
        grid.earn(math.inf)
    question = run["question"]
    assert evidence.drop("few_shot", question[:12], packed.parent, packed.parent) == 1
    assert question not in Kept.read(packed).runs and len(Kept.read(packed).runs) == 5
    assert evidence.drop("few_shot", question[:12], packed.parent, packed.parent) == 0


def test_the_damage_of_an_edit_is_looked_at_too(ask, packed):
    about = json.loads(packed.read_text())
    (run,) = (r for r in about["runs"] if r["method"] == "memit" and r["seed"] == 2)
    run["damage"]["1"] = 1.1 * run["damage"]["1"] + 0.01
    packed.write_text(json.dumps(about))
    grid, _ = ask("second", packed)
    with pytest.raises(EvidenceError, match="memit on 2 facts.*damage.1 was"):
        grid.earn(math.inf)


def test_a_record_under_anothers_question_is_refused(ask, packed):
    about = json.loads(packed.read_text())
    (run,) = (r for r in about["runs"] if r["method"] == "memit" and r["seed"] == 2)
    run["forget_hash"] = "another"
    packed.write_text(json.dumps(about))
    with pytest.raises(EvidenceError, match="a record of memit stands under the question of memit,"
                       " and differs in forget_hash"):
        ask("second", packed)


def test_only_records_of_the_present_code_are_packed(ask, tmp_path, monkeypatch):
    ask("first")
    monkeypatch.setattr(evidence, "code_hash", lambda: "another")
    assert evidence.pack("few_shot", tmp_path / "first", tmp_path / "results") == 0
    assert not (tmp_path / "results").exists()


def test_records_in_folders_of_another_name_are_packed_with_their_chapter(ask, tmp_path):
    ask("held-out")
    (tmp_path / "held-out/few_shot").rename(tmp_path / "held-out/held-out")
    assert evidence.pack("anchors", tmp_path / "held-out", tmp_path / "results") == 6
    assert evidence.pack("few_shot", tmp_path / "held-out", tmp_path / "results") == 0
    page = (Path(__file__).parents[1] / "book/anchors.md").read_text()
    assert all(f'grid("{folder}"' in page for folder in evidence.ALSO["anchors"])


def test_numbers_may_differ_by_as_much_as_rounding_moves_them_and_no_more():
    was = {"eff": 10.0, "n_eff": 50, "gen": 20.0, "n_gen": 100, "spe": 30.0, "n_spe": 500,
           "hop": None, "n_hop": 0, "ppl": 20.0, "prob_eff": 0.1, "interval_eff": [4.0, 22.0],
           "layers": {"15": [1.0, None]}, "name": "x"}
    assert differences(was, copy.deepcopy(was)) == []
    assert differences(was, was | {"eff": 12.0, "spe": 31.0, "ppl": 20.2, "prob_eff": 0.102,
                                   "interval_eff": [1.0, 2.0]}) == []
    for name, x, said in (
            ("eff", 14.0, "eff was 10.0 and is 14.0: 2 of 50 prompts, at most 1"),
            ("gen", 22.0, "gen was 20.0 and is 22.0: 2 of 100 prompts, at most 1"),
            ("spe", 31.2, "spe was 30.0 and is 31.2: 6 of 500 prompts, at most 5"),
            ("ppl", 20.3, "ppl was 20 and is 20.3, which may differ by 0.2"),
            ("prob_eff", 0.103, "prob_eff was 0.1 and is 0.103, which may differ by 0.002"),
            ("n_spe", 400, "spe was of 500 prompts and is of 400"),
            ("eff", None, "eff was of 50 prompts and is of 50"),
            ("hop", 3.0, "hop was None and is 3.0"), ("name", "y", "name was 'x' and is 'y'"),
            ("layers", {"15": [1.2, None]}, "layers.15[0] was 1 and is 1.2"),
            ("layers", {"15": [1.0]}, "layers.15 was"),
            ("layers", {}, "layers.15 is only kept"),
            ("more", 1, "more is only found")):
        found = differences(was, was | {name: x})
        assert any(s.startswith(said) for s in found), name
    less = {name: x for name, x in was.items() if name != "ppl"}
    assert differences(was, less) == ["ppl is only kept"]


def test_answers_one_by_one_may_differ_in_as_many_as_rounding_turns():
    right = "01" * 60
    was = {"grammar": {"acc": 50.0, "n": 120, "right": right, "harness": {"mcc": 0.1},
                       "interval": [40, 60]}, "lens": [1.0] * 150 + [None]}
    assert differences(was, copy.deepcopy(was)) == []
    turned = {"acc": 50 + 100 / 120, "n": 120, "right": "1" + right[1:], "harness": {"mcc": 0.2},
              "interval": [41, 61]}
    assert differences(was, was | {"grammar": turned}) == []
    assert differences(was, was | {"lens": [0.0] + [1.0] * 149 + [None]}) == []
    more = turned | {"right": "11" + "1" * 4 + right[6:]}
    assert differences(was, was | {"grammar": more}) == [
        "grammar.right: 3 of 120 answers, at most 1 may differ"]
    assert differences(was, was | {"grammar": turned | {"acc": 55.0}}) == [
        "grammar.acc was 50.0 and is 55.0: 6 of 120 prompts, at most 1 may differ"]
    lost = [0.0] * 3 + [1.0] * 147 + [None]
    assert differences(was, was | {"lens": lost}) == [
        "lens: 3 of 151 answers, at most 2 may differ"]


def test_a_page_says_which_records_a_build_made_again(ask, packed, monkeypatch):
    grid, _ = ask("second", packed)
    plain, _ = ask("plain")
    monkeypatch.setenv("ZU_VERIFY", "0")
    assert re_earned(grid, plain) == "6 of this chapter's records are kept ones"
    monkeypatch.setenv("ZU_VERIFY", "all")
    said = re_earned(plain, grid)
    assert said.startswith("6 of this chapter's records are kept ones; made again in this build, "
                           "and found: ")
    assert said.count(", seed ") == 6 and "memit on 2 of" in said


def test_a_file_of_kept_records_is_whole_and_says_who_made_each(tmp_path):
    held = Kept(tmp_path / "a.json")
    makers = [{"versions": {"torch": v}, "commit": "c", "code": "k", "device": "cpu", "threads": 1}
              for v in ("1", "2")]
    records = [record(question=str(i), seed=seed, metrics={"ppl": 1 / 3}) | makers[i % 2]
               for i, seed in enumerate((3, 1, 2))]
    assert held.add([*records, {"method": "base"}, records[0] | {"seed": 9}]) == 3
    held.write()
    text = held.path.read_text()
    assert len(json.loads(text)["makers"]) == 2 and text.count('"question"') == 3
    assert text.index('"seed":1') < text.index('"seed":2') < text.index('"seed":3')
    again = Kept.read(held.path)
    assert again.runs["0"] == records[0] | {"metrics": {"ppl": 0.333333}}
    again.write()
    assert held.path.read_text() == text
    assert Kept.read(tmp_path / "none.json").runs == {}
    for wrong in (text[:50], "[]", '{"format": "zu-record-1"}'):
        held.path.write_text(wrong)
        with pytest.raises(EvidenceError, match="a.json holds no kept records.*make evidence"):
            Kept.read(held.path)


def test_in_the_course_of_commits_every_record_has_its_turn_and_draws_go_together():
    records = [record(question=f"{m}{s}", method=m, seed=s) for s in (1, 2, 3)
               for m in ("base", "memit", "exact")]
    seen = set()
    for commit in range(60):
        found = list(kept.sampled(records, str(commit), 20.0))
        assert len(found) == 2 and len({r["seed"] for r in found}) == 1
        assert found == list(kept.sampled(records, str(commit), 20.0))
        seen |= {r["question"] for r in found}
        assert len(list(kept.sampled(records, str(commit), 1e-9))) == 1
    assert seen == {r["question"] for r in records}
    assert len(list(kept.sampled(records, "", math.inf))) == 9
    assert list(kept.sampled(records[:1], "", 1.0)) == records[:1]
    assert list(kept.sampled(records, "", 0.0)) == list(kept.sampled([], "", 9.0)) == []


def test_a_long_record_has_its_turn_as_seldom_as_it_is_long():
    records = [record(question=f"{s}", seed=s, seconds={"edit": took})
               for s, took in enumerate((4.0, 4.0, 4.0, 40.0, 4000.0))]
    builds = [[r["question"] for r in kept.sampled(records, str(commit), 8.0)]
              for commit in range(2000)]
    took = [sum(records[int(q)]["seconds"]["edit"] for q in build) for build in builds]
    seen = Counter(q for build in builds for q in build)
    assert all(seen[q] > 600 for q in "012") and 100 < seen["3"] < 400 and "4" not in seen
    assert min(map(len, builds)) >= 1 and 7 < sum(took) / len(took) < 10
    assert len(list(kept.sampled(records, "", math.inf))) == 5


def test_where_all_records_are_long_the_seconds_are_kept_but_for_the_quickest():
    took = [40.0, 50.0, *[140.0] * 18]
    records = [record(question=f"{i}", method=str(i), seed=i, seconds={"edit": seconds})
               for i, seconds in enumerate(took)]
    builds = [[r["question"] for r in kept.sampled(records, str(commit), 10.0)]
              for commit in range(2000)]
    assert {len(build) for build in builds} == {1}
    seen = Counter(question for question, in builds)
    assert 60 < 2000 - seen["0"] - seen["1"] < 200  # some 18/20 of a fourteenth
    assert min(seen["0"], seen["1"]) > 800  # either stands for the rest where none has its turn


def test_how_much_is_earned_again_is_said_by_who_builds(monkeypatch):
    monkeypatch.delenv("ZU_VERIFY", raising=False)
    assert verification()[0] == 0
    for value, seconds in (("0", 0), ("34.5", 34.5), ("all", math.inf)):
        monkeypatch.setenv("ZU_VERIFY", value)
        assert verification()[0] == seconds
    monkeypatch.setattr(kept, "current_commit", lambda: "unknown")
    assert verification()[1] == zu.records.code_hash()
    monkeypatch.setattr(kept, "current_commit", lambda: "c")
    assert verification()[1] == "c"
    for value in ("-1", "some", "nan"):
        monkeypatch.setenv("ZU_VERIFY", value)
        with pytest.raises(ValueError, match=f"VERIFY is '{value}': give seconds, 0 for none, or"):
            verification()
