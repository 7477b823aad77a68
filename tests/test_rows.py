"""Which rows an experiment runs on how many facts."""
import pytest

from zu.experiment import most_searched, rows_at

LABELS = ["base", "slow:steps=3", "slow+anchors", "slower:a=1", "quick"]
LIMITS = {"counts": [10, 25, 200], "searching": ["slow"], "once": ["slower"]}


@pytest.mark.parametrize("most, n, left_out", [
    (25, 10, {"slower:a=1"}),
    (25, 25, set()),
    (25, 200, {"slow:steps=3", "slow+anchors", "slower:a=1"}),
    (100, 25, set()),
    (200, 200, set()),
    (5, 10, {"slow:steps=3", "slow+anchors", "slower:a=1"}),
    (5, 200, {"slow:steps=3", "slow+anchors"}),
])
def test_what_searches_ends_at_the_most_facts_and_what_runs_once_runs_there(most, n, left_out):
    rows = rows_at(n, LABELS, most=most, **LIMITS)
    assert rows == [label for label in LABELS if label not in left_out]


def test_without_limits_every_row_runs_everywhere():
    assert all(rows_at(n, LABELS, counts=[1, 2], most=0) == LABELS for n in (1, 2))


def test_the_most_facts_waited_for_are_one_of_the_counts():
    assert most_searched([10, 25, 200], 100) == 25
    assert most_searched([10, 25, 200], 5) == 200
