"""What the chapter on erasure shows of its records, on records that are made up."""
import numpy as np
import pytest

from zu.audit.erasure import TESTS
from zu.book import gone
from zu.book.verdicts import NO, UNDECIDED, YES

STEPS = [1, 4]


def record(method, n=20, seed=1, **shares):
    """A run in which each test gets back so many of n facts; "reverse" could be asked of three."""
    metrics = {}
    for test in TESTS:
        hits = shares.get(test.replace(" ", "_"), shares.get("every", 0))
        metrics[test] = [1.0] * hits + [0.0] * (n - hits)
    metrics["reverse"] = [1.0] * 3 + [None] * (n - 3)
    for name in ("lens", "probe"):
        metrics[f"{name} by layer"] = [0.0, 0.25, 0.5]
    for lesson in gone.LESSONS:
        share = np.mean(metrics[lesson])
        metrics[f"{lesson} by step"] = [share / 2, share]
    dataset = "world-cloze-known"
    if method == gone.SWAPPED:
        method, dataset = "base", dataset + "-swapped"
        metrics["reverse"] = [None] * n
    return {"method": method, "dataset": dataset, "seed": seed, "n": n, "metrics": metrics}


@pytest.fixture
def answers():
    return gone.Answers([
        record("base", every=20), record("memit", every=18), record(gone.SWAPPED, lens=8),
        record("zerounlearn", relearn=16, relearn_others=1, lens=10, context=9, asked=1)])


NAMES = {"base": "Base", gone.SWAPPED: "swapped", "memit": "MEMIT", "zerounlearn": "ZeroUnlearn"}


def test_what_a_test_gets_back_must_be_more_than_asking_gets_and_than_swapped_facts_give(answers):
    assert answers.back("zerounlearn") == ["context", "relearn"]
    assert answers.brings("zerounlearn", "lens") != YES  # swapped facts give nearly as much
    # asked at once MEMIT gives all: there is nothing to come back
    assert answers.back("memit") == []
    assert answers.brings("memit", "asked") == YES
    assert set(answers.back("base")) == {*TESTS} - {"asked", "reverse"}


def test_of_few_facts_nothing_is_concluded(answers):
    assert answers.brings("base", "reverse") == UNDECIDED
    assert len(answers.values("base", "reverse")) == 3
    some = gone.Answers([record("base", n=4, every=4), record(gone.SWAPPED, n=4)])
    assert some.back("base") == []
    assert gone.Answers([]).back("base") == []  # a row that was not run


def test_what_swapped_facts_cannot_be_asked_is_held_against_nothing():
    rows = [record("base"), record(gone.SWAPPED)]
    for row in rows[:1]:
        row["metrics"]["reverse"] = [1.0] * 12 + [0.0] * 8
    found = gone.Answers(rows)
    assert found.more("base", "reverse").value == pytest.approx(60)
    assert found.brings("base", "reverse") == YES


def test_of_the_silenced_it_counts_those_that_come_back(answers):
    assert answers.returned(["zerounlearn"], "context").value == pytest.approx(100 * 8 / 19)
    both = answers.returned(["zerounlearn", "memit"], "context")  # two facts of MEMIT's are silent
    assert both.value == pytest.approx(100 * 8 / 21) and both.low < both.value < both.high
    assert np.isnan(answers.returned(["base"], "context").value)  # it has silenced nothing


def test_draws_are_joined_fact_by_fact():
    rows = [record("base", seed=seed, asked=asked) for seed, asked in ((2, 10), (1, 20))]
    found = gone.Answers(rows)
    assert len(found.values("base", "asked")) == 40
    assert found.share("base", "asked").value == pytest.approx(75)
    assert found.values("base", "asked")[:20] == [1.0] * 20  # the first seed's first
    assert found.curve("base", "lens by layer").tolist() == [0, 0.25, 0.5]


def test_the_table_marks_what_comes_back_and_says_of_how_few_facts(answers):
    found = gone.frame(answers, NAMES)
    table = gone.table(found, NAMES)
    assert [*table.columns] == ["control", "Base", "swapped", "MEMIT", "ZeroUnlearn"]
    assert table.control["context"] == "asking" and table.control["asked"] == "none"
    assert table.control["lens"] == "swapped, asking" == table.control["relearn"]
    assert table.control["reverse (3 facts)"] == "asking" and {*gone.CONTROLS} == {*TESTS}
    assert table.ZeroUnlearn["context"] == "▲\u00a045" and table.ZeroUnlearn["phrasings"] == "0"
    assert table.swapped["lens"] == "40" and table.swapped["reverse (3 facts)"] == "–"
    own = found[(found.method == "zerounlearn") & (found.test == "context")].iloc[0]
    assert own["from, %"] < own["%"] < own["to, %"] and own.facts == 20
    assert not set(found[found.method == gone.SWAPPED].back) - {""}
    assert set(found.back) <= {"", YES, NO, UNDECIDED}


def test_a_run_says_how_it_was_made_and_none_has_dashes():
    about = {"model": "tiny", "commit": "abc", "n_prefixes": 5, "moment_tokens": 7,
             "about_measure": {"steps": STEPS}}
    some = gone.made([record("base", seed=seed) | about for seed in (1, 2)])
    assert some == {"facts": 20, "draws": 2, "model": "tiny", "commit": "abc", "prefixes": 5,
                    "tokens": 7, "steps": STEPS}
    assert gone.made([])["facts"] == "–" and gone.made([])["steps"] == []
    nothing = gone.Answers([])
    assert gone.table(gone.frame(nothing, NAMES), NAMES).empty
    assert np.isnan(gone.last(gone.by_step(nothing, NAMES, []), "zerounlearn").value)


def test_runs_stand_side_by_side_with_how_they_were_made():
    about = {"model": "tiny", "commit": "abc", "moment_tokens": 7,
             "about_measure": {"steps": STEPS}}
    few = [record("zerounlearn", context=10) | about]
    many = [record("zerounlearn", n=100, context=17) | about | {"moment_tokens": 9}]
    table = gone.beside({"new": few, "old": many, "none": []}, "zerounlearn")
    assert table["facts at once"].tolist() == [20, 100, "–"]
    assert table["tokens of C_0"].tolist() == [7, 9, "–"]
    assert table.context["new"].startswith("50.0 [") and table.context["old"].startswith("17.0 [")
    assert table.context["none"].startswith("nan")


def test_steps_begin_before_the_first_one(answers):
    taught = gone.by_step(answers, NAMES, STEPS)
    own = taught[(taught.method == "zerounlearn") & (taught.lesson == "relearn")]
    assert own.step.tolist() == [0, 1, 4] and own["%"].tolist() == pytest.approx([5, 40, 80])
    assert gone.last(taught, "zerounlearn").value == pytest.approx(80)
    assert np.isnan(gone.last(taught, "exact").value)
    assert len(gone.by_step(answers, NAMES, [1])) == 0  # of a run with other steps


def test_each_figure_has_a_panel_for_what_it_shows(answers):
    found = gone.frame(answers, NAMES)
    panels = [axis for axis in gone.draw_tests(found, NAMES).axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [*TESTS]
    full = [line for line in panels[0].lines if line.get_marker() == "o"]
    assert len(full) == len(NAMES)
    seen = gone.inside(answers, NAMES)
    assert len(seen) == len(NAMES) * 2 * 3
    left, right = gone.draw_inside(seen, NAMES, [1, 2]).axes
    assert len(left.lines) == len(right.lines) == len(NAMES)
    speed = gone.draw_speed(gone.by_step(answers, NAMES, STEPS), NAMES, ["memit"])
    assert [axis.get_title() for axis in speed.axes] == [*gone.LESSONS.values()]


def test_the_schematic_has_a_place_for_every_test_and_fake():
    places = gone.ways()
    named = ", ".join(places[places.kind == "test"].name).split(", ")
    assert sorted(named) == sorted(TESTS)
    assert {*places[places.kind == "fake"].name} == {"last layer", "one wording", "in the cracks"}
    left, right = gone.draw_ways(places).axes
    said = " ".join(text.get_text() for text in left.texts)
    assert all(test in said for test in TESTS)
    assert all(name in " ".join(text.get_text() for text in right.texts)
               for name in places[places.kind == "fake"].name)
