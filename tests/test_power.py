"""How many facts a test of erasure needs is what binomials by hand say."""
from fractions import Fraction
from math import comb, nan

import pytest

from zu.audit import powers
from zu.audit.power import least_found, power


def by_hand(n, k, p):
    """P(X ≥ k), in fractions."""
    p = Fraction(p)
    return float(sum(comb(n, i) * p ** i * (1 - p) ** (n - i) for i in range(k, n + 1)))


def test_ten_facts_against_a_twentieth():
    # P(X ≥ 2) = 1 − .95¹⁰ − 10 · .05 · .95⁹ = .0861; P(X ≥ 3) = .0115
    assert least_found(10, 0.05) == 3
    found = power(10, 0.05)
    assert found.by_share[0.2] == pytest.approx(1 - 0.8**10 - 2 * 0.8**9 - 45 * 0.04 * 0.8**8)
    assert found.by_share[0.5] == pytest.approx(968 / 1024)  # 1 − (1 + 10 + 45) / 1024
    assert found.enough == (0.5,)
    assert str(found) == "of 10, 3 or more decide; noticed: 20% with 32%, 50% with 95%"


@pytest.mark.parametrize("n, control", [(1, "1/20"), (20, "1/20"), (50, "1/5"), (7, "1/2"),
                                        (100, "1/3")])
def test_the_least_number_is_the_first_below_the_level(n, control):
    least = least_found(n, float(Fraction(control)))
    tails = [by_hand(n, k, control) for k in range(1, n + 1)]
    assert least == tails.index(next(t for t in tails if t <= 0.05)) + 1
    assert power(n, float(Fraction(control)), (0.75,)).by_share[0.75] == pytest.approx(
        by_hand(n, least, "3/4"))


def test_with_a_control_that_finds_nothing_one_fact_is_enough():
    assert least_found(12, 0.0) == 1
    assert power(12, 0.0, (0.2,)).by_share[0.2] == pytest.approx(1 - 0.8**12)


def test_thousands_of_facts_are_no_trouble():
    least = least_found(3000, 0.5)
    assert 1500 + 1.6 * 750**0.5 < least < 1500 + 1.7 * 750**0.5  # by the normal distribution


def test_too_few_facts_decide_nothing():
    for n in (0, 4):  # all four at ½: 1/16 > 5%
        found = power(n, 0.5)
        assert found.least is None and set(found.by_share.values()) == {0.0}
        assert found.enough == () and str(found) == f"of {n}, not even all decide"


def test_the_tests_of_an_audit_count_the_facts_that_they_asked():
    found = {"asked": [0.0] * 10, "reverse": [None] * 7 + [0.0] * 3, "8 bits": [None] * 10}
    assert {test: its.asked for test, its in powers(found, 0.05).items()} == {
        "asked": 10, "reverse": 3, "8 bits": 0}
    apart = powers(found, {"asked": 0.3, "reverse": 0.0, "8 bits": 0.05})
    assert apart["asked"] == power(10, 0.3) and apart["reverse"] == power(3, 0.0)


def test_what_cannot_be_meant_is_refused():
    for n in (-1, 2.0, True):
        with pytest.raises(ValueError, match="n is .*: give the number of facts"):
            power(n, 0.05)
    for control in (-0.1, 5, nan):
        with pytest.raises(ValueError, match="control is .*: give a number from 0 to 1, not perc"):
            power(10, control)
    with pytest.raises(ValueError, match="a share is 20: give a number from 0 to 1"):
        power(10, 0.05, (20,))
    with pytest.raises(ValueError, match="alpha is 0: give a level above 0 and below 1"):
        least_found(10, 0.05, 0)
    with pytest.raises(ValueError, match="control lacks reverse: give a share for each test"):
        powers({"asked": [1.0], "reverse": [None]}, {"asked": 0.05})
