"""What a card allows somebody to say: bounds by hand, and sentences that follow its numbers."""
import json

import numpy as np
import pytest
from scipy.stats import binom

import zu
from zu.audit import promises
from zu.audit.erasure import TESTS
from zu.audit.promises import NEVER, at_most, questions_needed
from zu.book import promise


def card_of(before=(), after=(), n=20, **more):
    """A card's content with every test found in full before and not at all after."""
    full, none = [100.0, 84.0, 100.0], [0.0, 0.0, 16.0]
    measures = {}
    for state, mean, changed in (("before", full, before), ("after", none, after)):
        measures[state] = {"eff": mean, "gen": mean, "spe": full, "ppl": 20.0,
                           "robustness": dict.fromkeys(TESTS, mean)} | dict(changed)
    return {"format": "zu-card-1", "facts": n, "ppl_tokens": 8192, "measures": measures} | more


def test_bounds_are_those_of_the_binomial():
    assert at_most(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    for hits, n, level in ((0, 5, 0.9), (1, 20, 0.95), (7, 30, 0.99), (299, 300, 0.95)):
        assert binom.cdf(hits, n, at_most(hits, n, level)) == pytest.approx(1 - level)
    assert at_most(4, 4) == 1.0


@pytest.mark.parametrize(("share", "hits", "n"), [(0.01, 0, 299), (0.05, 0, 59), (0.1, 1, 46)])
def test_as_many_are_needed_as_the_bound_says(share, hits, n):
    assert questions_needed(share, hits) == n
    assert at_most(hits, n) <= share < at_most(hits, n - 1)


@pytest.mark.parametrize("call", [
    lambda: at_most(3, 2), lambda: at_most(0, 0), lambda: at_most(-1, 5), lambda: at_most(0, 5, 1),
    lambda: questions_needed(0), lambda: questions_needed(1), lambda: questions_needed(0.1, -1),
    lambda: questions_needed(0.1, level=0),
])
def test_what_is_no_share_is_refused(call):
    with pytest.raises(ValueError, match="give"):
        call()


def test_a_clean_card_promises_what_was_asked_and_bounds_the_rest():
    said = promises(card_of())
    assert said.may[0] == ("Asked in the wording of the edit, the model answers 0 of the 20 facts; "
                           "without the edit it answered 20 of the 20 facts.")
    assert "up to 13.9%" in said.open[0] and len(said.open) == 1
    assert "perplexity changes by +0.0%" in " ".join(said.may)
    each = ", ".join(f"{test} (without the edit 100%)" for test in TESTS if test != "asked")
    assert said.may[-1] == f"These tests found no answer: {each}."
    assert said.never == NEVER and all(line in str(said) for line in NEVER)


def test_what_came_back_must_be_added():
    found = dict.fromkeys(TESTS, [0.0, 0.0, 16.0]) | {"context": [45.0, 26.0, 66.0]}
    said = promises(card_of(after={"robustness": found}))
    assert any("found answers: context 45% (95%: 26 to 66%), without the edit 100%" in line
               for line in said.open)
    assert "context" not in " ".join(said.may)


def test_a_test_that_finds_nothing_without_the_edit_promises_nothing():
    was = dict.fromkeys(TESTS, [100.0, 84.0, 100.0]) | {
        "lens": [0.0, 0.0, 16.0], "reverse": [None, None, None]}
    said = promises(card_of(before={"robustness": was}))
    assert "they show nothing: lens." in " ".join(said.open)
    assert "could not be asked: reverse." in " ".join(said.open)
    assert "lens" not in " ".join(said.may) and "reverse" not in " ".join(said.may)


@pytest.mark.parametrize(("before", "after", "words"), [
    ({"eff": [60.0, 40, 80]}, {}, "did not answer 8 of the 20 facts"),
    ({"gen": [0.0, 0, 16]}, {}, "In other wordings the model answered nothing before"),
    ({"gen": [None] * 3}, {}, "No other wording was asked"),
    ({"spe": [None] * 3}, {}, "No neighbour was asked"),
    ({"spe": [0.0, 0, 16]}, {}, "knew none of the neighbours"),
    ({}, {"ppl": None}, "the model may be ruined"),
    ({}, {"ppl": float("inf")}, "the model may be ruined"),
])
def test_what_was_not_measured_or_means_nothing_is_said(before, after, words):
    said = promises(card_of(before, after))
    assert words in " ".join(said.open) and words not in " ".join(said.may)


def test_without_tests_or_prose_that_is_said_too():
    bare = card_of()
    for state in bare["measures"].values():
        del state["robustness"], state["ppl"]
    said = " ".join(promises(bare).open)
    assert "No way of getting the answers back was tried" in said
    assert "Perplexity was not measured" in said


def test_no_bound_for_a_list_of_which_something_is_answered():
    said = promises(card_of(after={"eff": [10.0, 3.0, 30.0]}))
    assert "answers 2 of the 20 facts" in said.may[0]
    assert not any("longer list" in line for line in said.open)
    assert "answers 33.3% of the 20 facts" in promises(card_of(after={"eff": [33.3, 1, 2]})).may[0]


def test_a_real_card_is_read_from_its_file_and_names_no_fact(tiny, facts, tmp_path):
    with zu.unlearn(*tiny, facts[:3], "zerounlearn", layers=[2], steps=1) as edit:
        path = tmp_path / "edit.safetensors"
        edit.save(path)
        card = zu.card(edit, tiny[1], facts[:3], path, ppl_tokens=64)
    said = promises(path.with_suffix(".card.json"))
    assert said == promises(card) and "of the 3 facts" in said.may[0]
    assert not any(fact.subject in str(said) for fact in facts[:3])


def test_what_is_no_card_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1")
    (tmp_path / "b.json").write_text(json.dumps({"format": "zu-record-1"}))
    for wrong in (tmp_path / "a.json", tmp_path / "b.json", {}):
        with pytest.raises(ValueError, match="this is no card of zu"):
            promises(wrong)
    with pytest.raises(ValueError, match="no card at"):
        promises(tmp_path / "none.json")


# ---- the page's tables


def records():
    full = {test: [1.0, 1.0] for test in TESTS}
    less = {test: [0.0, 0.0] for test in TESTS} | {"context": [1.0, 0.0], "reverse": [None, None]}
    rows = (("base", full, "d"), ("memit", less, "d"), ("base", less, "d-swapped"))
    return [{"method": m, "metrics": x, "dataset": d, "n": 2} for m, x, d in rows]


def test_kept_records_become_a_card_and_swapped_ones_do_not():
    card = promise.as_card(records(), "memit")
    assert card["facts"] == 2 and card["measures"]["before"]["eff"][0] == 100
    assert card["measures"]["after"]["robustness"]["context"][0] == 50
    assert "No neighbour was asked" in str(promises(card))
    with pytest.raises(ValueError, match="no record of rome"):
        promise.as_card(records(), "rome")


def test_tests_that_find_something_are_counted():
    table = promise.found_again(records())
    assert table.loc["memit"].tolist() == [1, len(TESTS) - 3]  # reverse could not be asked


def test_bounds_and_sizes_agree():
    frame = promise.bounds([1, 59], [0, 3])
    assert len(frame) == 3  # three hits of one question are left out
    assert frame.bound.iloc[1] <= 0.05
    assert promise.sizes([0.05], [0, 1]).loc["at most 5%"].tolist() == [59, 93]
    figure = promise.draw_bounds(frame, 20)
    assert [line.get_label() for line in figure.axes[0].get_lines()][:2] == [
        "none answered", "3 answered"]


def test_bounds_by_question_fail_where_wordings_are_alike_and_by_fact_they_hold():
    loose = promise.coverage(20, 5, 0.05, 0.001, worlds=4000)
    tight = promise.coverage(20, 5, 0.05, 0.8, worlds=4000)
    assert loose["questions"] > 0.94 and tight["questions"] < 0.8
    assert min(loose["facts"], tight["facts"]) > 0.94
    assert np.isfinite(list(loose.values())).all()
