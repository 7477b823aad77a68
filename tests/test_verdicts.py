"""A verdict follows from an interval: yes, no, or undecided."""
import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from zu.book import verdicts
from zu.book.verdicts import NO, UNDECIDED, YES, Estimate, Measured
from zu.scores import bootstrap, difference_interval, percent_interval


def test_none_of_n_and_all_of_n_have_wilsons_interval():
    for n in (1, 6, 100):
        wilson = binomtest(0, n).proportion_ci(method="wilson")
        assert percent_interval(np.zeros(n)) == pytest.approx((0, 100 * wilson.high), abs=0.01)
        high = 100 * wilson.high
        assert percent_interval(np.full(n, 100.0)) == pytest.approx((100 - high, 100), abs=0.01)
        assert difference_interval(np.zeros(n)) == pytest.approx((-high, high), abs=0.01)
        lost = difference_interval(np.full(n, -100.0))
        assert lost == pytest.approx((-100, high - 100), abs=0.01)
    mixed = np.array([0.0, 100, 100, 0, 50])
    assert percent_interval(mixed) == difference_interval(mixed) == bootstrap(mixed)
    assert all(math.isnan(x) for x in (*percent_interval([]), *difference_interval([])))


def test_a_draws_interval_is_students_and_one_draw_has_none():
    draws = [1.0, 2.5, 2.0, 4.0]
    low, high = ttest_1samp(draws, 0).confidence_interval(0.95)
    assert verdicts.over_draws(draws) == pytest.approx((2.375, low, high))
    with pytest.raises(ValueError, match="1 draws.*at least 2"):
        verdicts.over_draws([1.0])


def test_the_difference_of_two_shares_is_newcombes():
    """His example (Statistics in Medicine 17, 1998, method 10): 56 of 70 and 48 of 80."""
    def share(hits, n):
        return Estimate(100 * hits / n, *verdicts.wilson(hits, n))

    found = verdicts.combine((1, share(56, 70)), (-1, share(48, 80)))
    assert found == pytest.approx((20.0, 5.24, 33.39), abs=0.01)


def test_a_verdict_needs_the_whole_interval():
    assert [verdicts.at_most(Estimate(1, *ends), 2)
            for ends in ((0, 2), (1, 2.1), (2.1, 3))] == [YES, UNDECIDED, NO]
    assert [verdicts.at_least(Estimate(1, *ends), 2)
            for ends in ((2, 3), (1, 2.1), (0, 1.9))] == [YES, UNDECIDED, NO]
    assert verdicts.at_most(Estimate(math.nan, math.nan, math.nan), 2) == UNDECIDED
    assert [verdicts.every(YES, x) for x in (YES, UNDECIDED, NO)] == [YES, UNDECIDED, NO]
    assert [verdicts.some(NO, x) for x in (YES, UNDECIDED, NO)] == [YES, UNDECIDED, NO]
    assert verdicts.every(UNDECIDED, NO) == NO and verdicts.some(UNDECIDED, YES) == YES
    assert [verdicts.opposite(x) for x in (YES, UNDECIDED, NO)] == [NO, UNDECIDED, YES]


def record(method, seed, eff, *, n=100, interval=None, ppl=20.0, dataset="a"):
    interval = interval or verdicts.wilson(round(eff * n / 100), n)
    return {"method": method, "seed": seed, "dataset": dataset, "n": n,
            "metrics": {"eff": eff, "interval_eff": interval, "ppl": ppl}}


def test_over_several_draws_a_contrast_is_paired_and_over_data_sets_it_is_the_mean():
    rows = [record(m, seed, value, dataset=d) for seed, base in enumerate((30.0, 60.0, 45.0), 1)
            for d, more in (("a", 0), ("b", 4))
            for m, value in (("base", base + more), ("mine", base / 2 + more))]
    found = Measured(rows).contrast({"mine": 1, "base": -0.5}, "eff")  # 2 of b, none of a
    assert found == pytest.approx((1.0, 1.0, 1.0))
    wide = Measured(rows).contrast({"mine": 1}, "eff")
    assert wide.high - wide.low > 20


def test_none_in_every_draw_is_none_of_so_many_facts():
    rows = [record(m, seed, value, n=10) for seed in range(1, 11)
            for m, value in (("mine", 0.0), ("base", 30.0 + seed))]
    of_100 = verdicts.wilson(0, 100)
    assert Measured(rows).contrast({"mine": 1}, "eff") == pytest.approx((0, *of_100))
    assert verdicts.at_most(Measured(rows).contrast({"mine": 1}, "eff"), 2) == UNDECIDED
    of_base = verdicts.over_draws([30.0 + seed for seed in range(1, 11)])
    against = Measured(rows).contrast({"mine": 1, "base": -1}, "eff")
    assert against.value == pytest.approx(-35.5) and against.high == pytest.approx(
        -35.5 + math.hypot(of_100[1], of_base.value - of_base.low))


def test_one_fact_of_ten_decides_nothing():
    rows = Measured([record("mine", 1, 10.0, n=10), record("theirs", 1, 20.0, n=10)])
    assert verdicts.at_most(rows.contrast({"mine": 1, "theirs": -1}, "eff")) == UNDECIDED
    many = Measured([record("mine", 1, 10.0, n=1000), record("theirs", 1, 20.0, n=1000)])
    assert verdicts.at_most(many.contrast({"mine": 1, "theirs": -1}, "eff")) == YES
    none = Measured([record("mine", 1, 0.0, n=10, interval=(0.0, 0.0)),
                     record("theirs", 1, 10.0, n=10)])
    assert verdicts.at_most(none.contrast({"mine": 1, "theirs": -1}, "eff")) == UNDECIDED
    with pytest.raises(ValueError, match="no draw has eff of other"):
        rows.contrast({"other": 1}, "eff")


def test_perplexity_of_one_draw_borrows_the_spread_of_several():
    draws = [record(m, seed, 0.0, ppl=p) for seed, p in enumerate((20.0, 22.0, 21.0), 1)
             for m, p in (("base", 20.0), ("mine", p), ("calm", 20.1))]
    spread = verdicts.ppl_spread(draws)
    logs = np.log([1.0, 1.1, 1.05])
    assert spread == pytest.approx(4.3027 * logs.std(ddof=1) * (4 / 3) ** 0.5, rel=1e-4)
    one = Measured([record("base", 1, 0.0, ppl=20.0), record("mine", 1, 0.0, ppl=24.0)])
    assert one.log_ppl("mine", spread) == pytest.approx(
        (math.log(1.2), math.log(1.2) - spread, math.log(1.2) + spread))
    assert Measured(draws).log_ppl("mine", 9.0) == pytest.approx(verdicts.over_draws(logs))


def test_how_a_verdict_moves_with_its_bound_is_said_in_runs():
    def at(bound):
        return verdicts.at_most(verdicts.Estimate(8.0, 6.0, 12.0), bound)

    assert verdicts.moves(at, [1, 5, 10, 20, 30], "%") == (
        "no up to 5%, undecided at 10%, yes from 20% on")
    assert verdicts.moves(at, [5, 7, 10, 20]) == (
        "no up to 5, undecided from 7 to 10, yes from 20 on")
    assert verdicts.moves(at, [7, 10.5]) == "undecided from 7 to 10.5"
    assert verdicts.moves(at, [20]) == "yes from 20 to 20"
