"""Pictures of a memory: their numbers are those of the memory that they draw."""
import pandas as pd
import pytest
import torch

from zu.book import linear_memory

pytest.importorskip("matplotlib").use("Agg")
K = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]])
V = torch.tensor([[2.0, 0, 1], [0, 1, 1]])


def matrix(table, part, fact):
    some = table[(table.part == part) & (table.fact == fact)]
    some = some.drop_duplicates(["row", "column"])
    return torch.tensor(some.pivot(index="row", columns="column", values="value").to_numpy())


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_the_outer_products_add_up_to_a_memory_that_gives_the_asked_value(asked):
    table = linear_memory.cells(K, V, asked)
    W = matrix(table, "W", 0)
    products = [matrix(table, "product", fact) for fact in (1, 2, 3)]
    assert torch.equal(sum(products), W)
    assert torch.allclose(W @ K.double(), V.double())
    answers = table[table.part == "answer"].value.to_list()
    assert answers == [float(i == asked) for i in range(3)]
    assert torch.equal(matrix(table, "key in", asked + 1)[:, 0], K[:, asked].double())
    assert torch.equal(matrix(table, "value out", asked + 1)[:, 0], V[:, asked].double())


def test_no_cell_lies_on_another():
    table = linear_memory.cells(K, V, 2)
    for i, a in table.iterrows():
        rest = table.drop(index=i)
        near = rest[((rest.x - a.x).abs() < 0.99) & ((rest.y - a.y).abs() < 0.99)]
        assert near.empty, (a, near)


@pytest.mark.parametrize("keys", [K[:, :2], torch.ones(3, 3)])
def test_keys_that_cannot_all_be_recalled_alone_are_refused(keys):
    with pytest.raises(ValueError, match="^K: "):
        linear_memory.cells(keys, V[:, :keys.shape[1]], 0)


def test_every_cell_of_the_drawing_shows_its_number():
    table = linear_memory.cells(K, V, 2)
    (axis,) = linear_memory.draw_memory(table).axes
    numbers = [text.get_text() for text in axis.texts]
    for value, count in table.value.value_counts().items():
        assert numbers.count(f"{value:g}".replace("-", "−")) == count


def test_the_terms_are_drawn_over_their_weights():
    table = pd.DataFrame({"zero": [1.0, 2.0], "utility": [3.0, 1.0]},
                         index=pd.Index([0.1, 10.0], name="alpha"))
    (axis,) = linear_memory.draw_trade(table).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert drawn == {"zero": [1.0, 2.0], "utility": [3.0, 1.0]}
    assert list(axis.lines[0].get_xdata()) == [0.1, 10.0]


def some_values():
    g = torch.Generator().manual_seed(0)
    W, k_f, keys, star = (torch.randn(*s, generator=g, dtype=torch.float64)
                          for s in ((3, 6), (6, 1), (6, 20), (3, 1)))
    u = W @ k_f / (W @ k_f).norm()
    return W, W - u @ (u.T @ W), k_f, keys, star


def test_values_are_turned_so_that_the_old_one_points_upwards():
    W, flat, k_f, keys, star = some_values()
    points = linear_memory.in_the_plane({"before": W, "after": flat}, keys, k_f, star)
    assert len(points) == 2 * (20 + 1 + 1)
    columns = ["plane 1", "plane 2", "old value"]
    rows = points.set_index(["edit", "value"])[columns]
    length = float((W @ k_f).norm())
    assert rows.loc[("before", "the fact")].to_numpy().ravel() == pytest.approx([0, 0, length])
    assert (rows.loc["after"].drop("target")["old value"].abs() < 1e-12).all()
    # a turn keeps lengths
    turned = (rows.loc[("before", "general")] ** 2).sum().sum()
    assert turned == pytest.approx(float((W @ keys).pow(2).sum()))
    assert (rows.loc[("before", "target")].to_numpy().ravel()
            == pytest.approx(rows.loc[("after", "target")].to_numpy().ravel()))


def test_the_idea_has_a_panel_for_each_weight():
    W, flat, k_f, keys, star = some_values()
    points = linear_memory.in_the_plane({"before": W, "after": flat}, keys, k_f, star)
    figure = linear_memory.draw_idea(points)
    assert [axis.get_title() for axis in figure.axes] == ["before", "after"]
