"""Pictures of where a fact is read, on made-up tokens and lengths."""
import pytest
import torch

from zu.book import reading_memory

pytest.importorskip("matplotlib").use("Agg")
WORDS = ["The", "capital", "of", "France", "is"]


def test_a_fact_is_read_where_its_last_token_meets_an_edited_layer():
    table = reading_memory.places(WORDS, 3, [4, 5], 8)
    assert len(table) == 5 * 8 and not table.duplicated(["position", "layer"]).any()
    read = table[table["read"]]
    assert set(zip(read.token, read.layer)) == {("France", 4), ("France", 5)}
    assert set(table[table.edited].layer) == {4, 5} and table.edited.sum() == 2 * 5


@pytest.mark.parametrize("at, layers, word", [(5, [1], "^at is 5"), (-1, [1], "^at is -1"),
                                              (0, [8], r"^layers are \[8\]")])
def test_a_place_that_is_not_there_is_refused(at, layers, word):
    with pytest.raises(ValueError, match=word):
        reading_memory.places(WORDS, at, layers, 8)


@pytest.mark.parametrize("at", [0, 3, 4])
def test_the_drawing_names_the_tokens_and_sizes(at):
    table = reading_memory.places(WORDS, at, [4, 5], 8)
    left, right = reading_memory.draw_place(table, 64, 2048).axes
    labels = left.get_xticklabels()
    assert [label.get_text() for label in labels] == WORDS
    assert [label.get_fontweight() == "bold" for label in labels] == [i == at for i in range(5)]
    assert sum(len(points.get_offsets()) for points in left.collections) == len(table)
    said = " ".join(text.get_text() for text in right.texts)
    assert "2,048 numbers" in said and "64 numbers" in said and "down_proj" in said


def test_tokens_that_are_long_are_turned():
    turned = {}
    for name, words in (("short", WORDS), ("long", [*WORDS, "<|a_token_of_many_characters|>"])):
        table = reading_memory.places(words, 3, [4], 8)
        axis = reading_memory.draw_place(table, 4, 8).axes[0]
        turned[name] = axis.get_xticklabels()[0].get_rotation()
    assert turned == {"short": 0, "long": 35}


def test_quartiles_are_those_of_each_layer():
    values = torch.arange(5.0)[:, None] * torch.tensor([1.0, 10.0])  # (samples, layers)
    table = reading_memory.quartiles({"one": values, "two": -values})
    one = table[table.of == "one"]
    assert one.layer.to_list() == [0, 1]
    assert one["lower quartile"].to_list() == [1, 10]
    assert one["median"].to_list() == [2, 20] and one["upper quartile"].to_list() == [3, 30]
    assert table[table.of == "two"]["lower quartile"].to_list() == [-3, -30]


def drawn(axis):
    return {line.get_label(): list(line.get_ydata()) for line in axis.lines
            if not line.get_label().startswith("_")}


def test_each_measure_is_drawn_with_its_median():
    table = reading_memory.quartiles({"one": torch.ones(3, 2), "two": 2 * torch.ones(3, 2)})
    figure = reading_memory.draw_lengths({"key": table, "state": table}, 1)
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["length of the key",
                                                           "length of the state"]
    assert drawn(figure.axes[0]) == {"one": [1, 1], "two": [2, 2]}
    (axis,) = reading_memory.draw_cosines(table, 0.03, 1).axes
    assert drawn(axis) == {"one": [1, 1], "two": [2, 2]}
    marks = [list(line.get_ydata()) for line in axis.lines if line.get_label().startswith("_")]
    assert [0.03, 0.03] in marks
