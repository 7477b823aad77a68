"""Exact tests say what their definitions say."""
from itertools import permutations
from math import comb

import pytest

from zu.book.significance import Order, decided, holm, mcnemar, order


def test_an_order_comes_with_the_chance_of_one_as_good_by_lot():
    ours, theirs = [1.0, 2, 3, 4, 5], [1.0, 3, 2, 4, 5]
    found = order(ours, theirs)

    def tau(x):
        pairs = [(i, j) for i in range(5) for j in range(i)]
        return sum(1 if (x[i] > x[j]) == (i > j) else -1 for i, j in pairs) / len(pairs)

    every = [tau(x) for x in permutations(range(5))]
    assert found.tau == pytest.approx(tau(theirs)) == pytest.approx(0.8) and found.n == 5
    assert found.p == pytest.approx(sum(abs(t) >= 0.8 - 1e-9 for t in every) / len(every))
    assert order(ours, theirs[::-1]).tau == pytest.approx(-0.8)
    assert str(found) == "0.80 (p = 0.083, n = 5)"
    assert str(Order(-0.5, 0.0002, 20)) == "−0.50 (p < 0.001, n = 20)"


def test_what_cannot_be_ranked_has_no_order():
    assert order([1, 2], [1, 2]) is None
    assert order([1, 1, 1], [1, 2, 3]) is None and order([1, 2, 3], [2, 2, 2]) is None
    with pytest.raises(ValueError, match="3 numbers are ranked against 2"):
        order([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="not finite has no rank"):
        order([1, 2, float("nan")], [1, 2, 3])


def test_paired_answers_are_tested_by_those_that_turned():
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1
    assert mcnemar(8, 1) == mcnemar(1, 8)
    assert mcnemar(8, 1) == pytest.approx(2 * (comb(9, 0) + comb(9, 1)) / 2**9)


def test_many_tests_are_corrected_for_step_by_step():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.5, "d": 0.02}) == pytest.approx(
        {"a": 0.08, "b": 0.04, "c": 0.5, "d": 0.06})
    assert holm({"a": 0.02, "b": 0.03}) == pytest.approx({"a": 0.04, "b": 0.04})  # never less
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="p of b is"):
            holm({"a": 0.5, "b": wrong})


def test_only_a_small_p_decides():
    assert decided(0.01, True) == "yes" and decided(0.01, False) == "no"
    assert decided(0.05, True) == decided(0.3, False) == decided(float("nan"), True) == "undecided"
    assert decided(0.05, True, level=0.1) == "yes"
