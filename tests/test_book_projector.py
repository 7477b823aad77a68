"""The chapter on the projector: what its pictures are drawn from."""
import pandas as pd
import pytest
import torch

from zu.book import projector

pytest.importorskip("matplotlib").use("Agg")


@pytest.fixture
def memory():
    """W, a key to forget and general keys, the first of which is orthogonal to it."""
    g = torch.Generator().manual_seed(0)
    W, k_f, K_0 = (torch.randn(*shape, generator=g, dtype=torch.float64)
                   for shape in ((2, 5), (5, 1), (5, 7)))
    K_0[:, :1] -= k_f @ (k_f.T @ K_0[:, :1]) / (k_f.T @ k_f)
    return W, k_f, K_0


def test_the_cloud_is_turned_and_both_edits_take_the_fact_to_zero(memory):
    frame = projector.cloud(*memory)
    W, k_f, K_0 = memory
    assert len(frame) == 3 * 8 and tuple(frame.edit.unique()) == projector.EDITS
    fact = frame[frame.what == "the fact"].set_index("edit")[["across", "along"]]
    assert fact.loc["before"].to_list() == pytest.approx([0, float((W @ k_f).norm())])
    assert fact.iloc[1:].abs().to_numpy().max() < 1e-12
    before, flat, least = (frame[(frame.edit == edit) & (frame.what == "general")]
                           for edit in projector.EDITS)
    lengths = (before.across**2 + before.along**2) ** 0.5  # a turn keeps them
    assert lengths.to_list() == pytest.approx((W @ K_0).norm(dim=0).tolist())
    assert flat.along.abs().max() < 1e-12
    assert flat.across.to_list() == pytest.approx(before.across.to_list())
    # a key orthogonal to the forgotten one keeps its value under the smallest change
    assert least.along.iloc[0] == pytest.approx(before.along.iloc[0])
    assert abs(least.along.to_numpy() - before.along.to_numpy())[1:].min() > 1e-6


def test_what_moved_is_a_share_of_the_energy(memory):
    frame = projector.cloud(*memory)
    found = projector.moved(frame)
    general = frame[(frame.edit == "before") & (frame.what == "general")]
    along, all_of_it = (general.along**2).sum(), (general.along**2 + general.across**2).sum()
    assert found["before"] == 0 and found["the projector"] == pytest.approx(100 * along / all_of_it)
    assert found["the smallest change"] < found["the projector"]


def test_values_that_are_not_in_the_plane_are_refused():
    with pytest.raises(ValueError, match="two rows, not 3"):
        projector.cloud(torch.zeros(3, 4), torch.zeros(4, 1), torch.zeros(4, 2))


def test_the_figures_show_each_value_and_each_rank(memory):
    figure = projector.draw_cloud(projector.cloud(*memory))
    dots = [line for axis in figure.axes for line in axis.get_lines() if len(line.get_xdata()) == 7]
    assert len(dots) == len(figure.axes) == 3
    assert set(dots[1].get_ydata().round(9)) == {0.0}
    ranks = pd.DataFrame({"facts": ["a", "a", "b"], "n": [1, 2, 2], "rank of P": [3, 2, 3],
                          "r / d": [0.25, 0.5, 0.25], "energy removed": [0.3, 0.4, 0.2]})
    left, right = projector.draw_ranks(ranks).axes
    assert [list(line.get_ydata()) for line in left.get_lines()[:2]] == [[3, 2], [3]]
    assert sorted(right.collections[0].get_offsets()[:, 1].tolist()) == [0.2, 0.3, 0.4]
