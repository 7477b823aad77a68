"""What the chapter on own facts shows of an edit, on keys that are made up."""
import pytest
import torch

from zu import Fact
from zu.book import own_facts


@pytest.fixture
def found():
    """Two forgotten subjects of six: their keys are stored, and the change moves the first most."""
    keys = torch.eye(6)
    change = torch.zeros(3, 6)
    change[0, 0], change[1, 1], change[1, 3] = 5.0, 0.5, 2.0
    return own_facts.guesses(keys, keys[:2], change, 2)


def test_a_stored_key_and_a_large_change_give_a_subject_away(found):
    assert found.cosine.tolist() == [1, 1, 0, 0, 0, 0]
    assert found.change.tolist() == [5, 0.5, 0, 2, 0, 0]
    assert own_facts.hits(found, "cosine") == 2
    assert own_facts.hits(found, "change") == 1  # the fourth stands out more than the second
    assert not {"subject", "name"} & {*found.columns}


def test_keys_are_compared_by_direction_and_changes_by_the_keys_length():
    keys, change = 7 * torch.eye(4), torch.eye(4)
    found = own_facts.guesses(keys, keys[:1] / 100, change, 1)
    assert found.cosine[0] == pytest.approx(1) and found.change.tolist() == [1] * 4


def test_luck_is_counted_without_putting_back(found):
    assert own_facts.by_luck(found, 0) == 1
    assert own_facts.by_luck(found, 2) == pytest.approx(1 / 15)  # one pair of fifteen
    assert own_facts.by_luck(found, 1) == pytest.approx(1 - 6 / 15)


def test_each_fact_has_a_row_with_both_probabilities():
    table = own_facts.probabilities([Fact("Peru", "The capital of {} is", "Lima")], [0.5], [0.01])
    assert table.loc["The capital of Peru is"].to_list() == ["Lima", 0.5, 0.01]


def test_the_picture_has_every_subject_twice_and_names_none(found):
    pytest.importorskip("matplotlib.pyplot").switch_backend("agg")
    figure = own_facts.draw_guesses(found)
    assert [sum(len(line.get_xdata()) for line in axis.lines) for axis in figure.axes] == [6, 6]
