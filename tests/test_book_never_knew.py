"""The chapter that holds edits against never having known: its rows and its figure."""
import math

import numpy as np
import pandas as pd
import pytest

import zu
from zu.audit import Before, leaks, membership
from zu.book import never_knew


def test_a_row_says_what_was_measured_and_the_figure_draws_it(audited):
    before = Before.of(*audited.never, audited.members)
    never = membership(*audited.never, audited.members, audited.others)
    rows, found = [], []
    for name, model in (("never knew", audited.never), ("knows", audited.knows)):
        quality = before.compare(model[0])
        rows.append(never_knew.row(name, zu.evaluate(*model, audited.members), 12.5, quality,
                                   leaks(*model, audited.members, k=0)))
        found += never_knew.areas(name, membership(
            *model, audited.members, audited.others, reference=never))
    table, areas = pd.DataFrame(rows).set_index("model"), pd.DataFrame(found)
    assert table.loc["never knew", ["KL", "p (KS)", "p (paired)"]].tolist() == [0, 1, 1]
    assert table.loc["knows", "Eff"] == 100 and table.loc["knows", "KL"] > 0.1
    assert table.loc["knows", "rank"] == 0 and table.loc["knows", "PPL"] == 12.5
    assert table.loc["knows", "log truth ratio"] == pytest.approx(np.mean(quality.ratio))
    assert len(areas) == 10 and {*areas["model"]} == {"never knew", "knows"}
    left, right = never_knew.draw(table, areas, ["knows", "never knew"]).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["knows", "never knew"]
    drawn = {line.get_label(): line for line in left.lines}
    assert {*never_knew.DRAWN} <= {*drawn}
    assert drawn["reference"].get_xdata()[1] == 0.5
    assert right.patches[0].get_width() == table.loc["knows", "KL"]
    assert right.patches[1].get_width() == 0 and not math.isnan(left.get_ylim()[0])
