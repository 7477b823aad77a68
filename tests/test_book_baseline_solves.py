"""Pictures of what the baselines move, on layers small enough to know."""
import numpy as np
import pandas as pd
import pytest
import torch

from zu.book import baseline_solves
from zu.book.figures import PALETTE


@pytest.fixture(autouse=True)
def no_window():
    pytest.importorskip("matplotlib").use("Agg")


W = torch.eye(2, dtype=torch.float64)
K_0 = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
KEY, TARGET = torch.tensor([[1.0], [1.0]], dtype=torch.float64), np.array([1.0, 3.0])


def all_moves():
    """One edit of four: twice the first output, none, twice the second, and the target itself."""
    edits = {"rome": torch.diag(torch.tensor([2.0, 1.0])).double(), "memit": W,
             "alphaedit": torch.diag(torch.tensor([1.0, 2.0])).double(),
             "zerounlearn": torch.diag(torch.tensor([1.0, 3.0])).double()}
    return baseline_solves.moves(W, K_0, KEY, edits)


def test_each_key_has_its_value_before_and_after_each_edit():
    frame = all_moves()
    assert len(frame) == 4 * 3 and frame.what.to_list()[:3] == ["general", "general", "fact"]
    rome = frame[frame.method == "rome"]
    assert rome[["before 1", "before 2"]].to_numpy().tolist() == [[2, 0], [0, 1], [1, 1]]
    assert rome[["after 1", "after 2"]].to_numpy().tolist() == [[4, 0], [0, 1], [2, 1]]


def test_shares_are_of_the_facts_distance_and_of_the_general_energy():
    shares = baseline_solves.share_moved(all_moves(), TARGET)
    assert shares.loc["memit"].to_list() == [0.0, 0.0]
    assert shares.loc["alphaedit"].to_list() == pytest.approx([50.0, 20.0])  # 1 of 4 + 1
    assert shares.loc["zerounlearn"].to_list() == pytest.approx([100.0, 80.0])
    # away from the target: from (1, 1) to (2, 1) the distance grows from 2 to √5
    assert shares.loc["rome"].way == pytest.approx(100 * (1 - 5**0.5 / 2))


def test_the_picture_has_the_keys_the_methods_and_lines_across_what_is_heard():
    keys = torch.cat([K_0, KEY], 1).numpy()
    heard = {"ROME, MEMIT": np.array([3.0, 4.0]), "AlphaEdit": np.array([0.0, 2.0])}
    figure = baseline_solves.draw_moves(all_moves(), TARGET, keys, heard)
    titles = [axis.get_title().partition("\n")[0] for axis in figure.axes]
    assert sorted(titles) == ["AlphaEdit", "MEMIT", "ROME", "ZeroUnlearn", "keys"]
    first = figure.axes[titles.index("keys")]
    lines = [line for line in first.lines if line.get_linestyle() == "--"]
    assert [line.get_color() for line in lines] == [PALETTE["rome"], PALETTE["alphaedit"]]
    for line, direction in zip(lines, heard.values()):
        assert np.dot(line.get_xy2(), direction) == pytest.approx(0.0)
    values = figure.axes[titles.index("ZeroUnlearn")]
    ends = [line.get_xydata()[0].tolist() for line in values.lines if line.get_marker() in "oP"]
    assert [1.0, 1.0] in ends and TARGET.tolist() in ends


def test_an_unknown_label_is_refused():
    with pytest.raises(StopIteration):
        baseline_solves.draw_moves(all_moves(), TARGET, torch.cat([K_0, KEY], 1).numpy(),
                                   {"somebody's": np.array([1.0, 0.0])})


def test_bars_have_the_methods_colour_and_height():
    frame = pd.DataFrame([("rome", "zero", 100.0), ("memit", "zero", 25.0),
                          ("rome", "forget", 1.0), ("memit", "forget", 2.0)],
                         columns=["method", "term", "percent"])
    figure = baseline_solves.draw_terms(frame, {"memit": "M", "rome": "R"})
    zero, forget = figure.axes
    assert [axis.get_title() for axis in (zero, forget)] == ["zero", "forget"]
    assert [bar.get_height() for bar in zero.patches] == [25.0, 100.0]
    assert [text.get_text() for text in forget.get_xticklabels()] == ["M", "R"]
    from matplotlib.colors import to_hex
    assert to_hex(zero.patches[0].get_facecolor()).upper() == PALETTE["memit"].upper()
