"""The tables and figures of the protocol, on made-up answers and records."""
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from scipy.stats import t

from zu import guesses
from zu.book import anchors, protocol
from zu.data.facts import Fact
from zu.scores import score


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def frame():
    facts = [Fact(name, "{} is on", "Asia", relation="country-continent")
             for name in ("Japan", "Nepal", "Laos")]
    facts += [Fact("Rome", "{} lies in", "Italy", relation="city-country")]
    guess = {facts[0]: 0.1, facts[1]: 0.3, facts[3]: 0.0}
    return protocol.by_relation(facts, [True, True, False, True], guess, 0.1)


def test_a_right_answer_that_is_a_likely_guess_is_not_known(frame):
    continent, city = frame.set_index("relation").to_dict("index").values()
    assert continent == {"asked": 3, "right": 2, "guessed": 1, "known": 1}
    assert city == {"asked": 1, "right": 1, "guessed": 0, "known": 1}


def test_bars_end_at_the_facts_that_were_asked(frame):
    (axis,) = protocol.draw_relations(frame).axes
    ends = [max(bar.get_x() + bar.get_width() for bars in axis.containers for bar in [bars[i]])
            for i in range(2)]
    assert ends == [3, 1]
    assert [text.get_text() for text in axis.texts] == ["1 of 3", "1 of 1"]


def test_the_goals_are_those_that_the_verdicts_use():
    text = protocol.goal_texts().goal
    assert text["Eff"] == "at most 2%" and text["Gen"] == "at most 33% of Base"
    assert text["Spe"] == "at least 90% of Base" and text["PPL"] == "at most +5% against Base"


def test_the_last_level_asks_for_the_most_facts():
    assert [*protocol.levels().index] == [1, 2, 3, 4]
    assert protocol.levels().facts[3] == "50"


def rows(method, *values):
    return [{"method": method, "seed": seed, "metrics": dict(zip(("eff", "gen", "spe", "ppl"), x,
                                                                 strict=True))}
            for seed, x in enumerate(values)]


def test_half_an_interval_is_students_of_what_is_compared_with_the_goal():
    records = [*rows("base", (100, 30, 100, 20.0), (100, 60, 100, 20.0)),
               *rows("anchored", (0, 10, 90, 20.0), (4, 30, 90, 20.0))]
    found = protocol.half_widths(records, "anchored", 50)
    assert found.spread["Eff"] == pytest.approx(8**0.5)
    assert found.spread["Gen"] == pytest.approx(50**0.5)  # 0 and 10 above a third of Base
    assert found.spread["Spe"] == found.spread["PPL"] == 0
    assert found.half["Eff"] == pytest.approx(t.ppf(0.975, 49) * (8 / 50) ** 0.5)


def test_one_draw_has_no_spread():
    records = [*rows("base", (100, 30, 100, 20.0)), *rows("anchored", (0, 10, 90, 20.0))]
    with pytest.raises(ValueError, match="1 draws of anchored and base"):
        protocol.half_widths(records, "anchored", 50)


def test_the_band_reaches_half_an_interval_to_either_side():
    records = [*rows("base", (100, 30, 100, 20.0), (100, 60, 100, 21.0)),
               *rows("anchored", (0, 10, 90, 20.0), (4, 30, 80, 20.0))]
    found = protocol.half_widths(records, "anchored", 50)
    (axis,) = protocol.draw_decided(found, 50).axes
    assert [bar.get_width() / 2 for bar in axis.patches] == pytest.approx([*found.half])
    assert all(bar.get_x() == pytest.approx(-bar.get_width() / 2) for bar in axis.patches)


def test_spe_counts_each_different_neighbor_once(tiny, facts):
    near = (("Peru lies in", "America"), ("Laos lies in", "Asia"))
    forget = [replace(facts[0], neighbors=near), replace(facts[1], neighbors=near[:1])]
    found = protocol.spared(*tiny, forget, None)["spared"]
    right = score(*tiny, guesses.different_neighbors(forget))[:, 0]
    assert found == right.tolist() and len(found) == 2
    assert protocol.spared(*tiny, [replace(facts[0], neighbors=())], None) == {"spared": []}
    records = [{"method": "a", "metrics": {"spe": 10.0, "spared": [1.0, 0.0, 1.0]}},
               {"method": "b", "metrics": {"spe": 10.0, "spared": []}}]
    spe = [row["metrics"]["spe"] for row in protocol.by_neighbor(records)]
    assert spe[0] == pytest.approx(200 / 3) and math.isnan(spe[1])
    assert records[0]["metrics"]["spe"] == 10.0  # the records stay as they are


def test_all_four_are_met_by_means_before_they_are_by_intervals():
    records = [{**row, "dataset": "d", "n": 100} for row in [
        *rows("base", *[(100, 60, 100, 20.0)] * 4),
        *rows("near", (0, 10, 99, 20.1), (0, 12, 83, 20.0), (0, 9, 97, 20.1), (0, 10, 96, 20.0)),
        *rows("far", *[(0, 10, 50, 20.1)] * 4), *rows("there", *[(0, 10, 95, 20.1)] * 4)]]
    table = protocol.reached(anchors.goals(records, {m: m for m in ("base", "near", "far",
                                                                    "there")}))
    assert table.loc["near"].tolist() == ["4 of 4", "yes", "undecided"]
    assert table.loc["far"].tolist() == ["3 of 4", "no", "no"]
    assert table.loc["there", "means"] == "yes"
