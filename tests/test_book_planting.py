"""The chapter on planted facts: its frame and its figure."""
import math

import pytest

from zu.book import planting

SEEN = [(0, {"taught": 0.0, "measured": 0.0}), (3, {"taught": 1.0, "measured": 0.75}),
        (2, {"taught": 0.5, "measured": 0.25})]


def test_the_frame_has_a_row_for_each_pass_and_kind_in_percent():
    frame = planting.course(SEEN)
    assert len(frame) == 6 and set(frame["kind"]) == {"taught", "measured"}
    assert frame[(frame["pass"] == 2) & (frame["kind"] == "measured")]["answered"].item() == 25
    assert planting.last(frame, "measured") == 75 and planting.last(frame, "taught") == 100
    assert math.isnan(planting.last(frame, "stopping"))
    assert planting.course([]).empty


def test_the_figure_draws_what_was_asked_in_the_order_of_passes():
    axis, = planting.draw_course(planting.course(SEEN)).axes
    assert [line.get_label() for line in axis.lines] == ["taught", "measured"]
    assert [*axis.lines[1].get_xdata()] == [0, 2, 3]
    assert [*axis.lines[1].get_ydata()] == pytest.approx([0, 25, 75])
