"""The chapter on the data: tables and figures on a few invented facts."""
from dataclasses import replace

import numpy as np
import pytest

import zu
from zu.data.facts import Fact, Facts
from zu.scores import Scores, percent_interval

pytest.importorskip("matplotlib").use("Agg")
from zu.book import data  # noqa: E402

PERU = Fact(subject="Peru", prompt="The capital of {} is", target="Lima",
            paraphrases=("Who rules {} sits in", "The seat of {} is"),
            neighbors=(("The capital of Chile is", "Santiago"),),
            hops=(("The capital of Ana's country is", "Lima"),), relation="capital")
CHILE = replace(PERU, subject="Chile", target="Santiago", paraphrases=(), neighbors=(), hops=())
SEA = Fact(subject="Chile", prompt="{} lies at the", target="Pacific", relation="sea")


def test_each_question_feeds_its_score():
    asked = data.asked_of(PERU)
    assert asked.score.tolist() == ["Eff", "Gen", "Gen", "Spe", "Hop"]
    assert asked[asked.wanted == "should stay"].answer.tolist() == ["Santiago"]
    assert set(asked[asked.wanted == "should fall"].answer) == {"Lima"}


def test_what_the_diagram_says_of_the_scores_is_what_evaluate_measures():
    """Every score of `zu.Scores` is fed by one field of a fact, and by no other."""
    measured = {name.title() for name in ("eff", "gen", "spe", "hop")
                if name in Scores.__dataclass_fields__}
    assert {score for score, _ in data.FEEDS.values()} == measured
    assert {name for name in data.FEEDS if name != "prompt"} <= set(Fact.__dataclass_fields__)


@pytest.mark.parametrize("fact, boxes", [(PERU, 5), (CHILE, 2)])
def test_the_diagram_has_a_box_for_the_fact_and_each_kind_of_question(fact, boxes):
    figure, drawn = data.draw_fact(fact, "capital")
    axis = figure.axes[0]
    assert len(axis.patches) == boxes and len(drawn) == len(data.asked_of(fact))
    said = " ".join(text.get_text().replace("\n", " ") for text in axis.texts)
    assert "Lima" in said or "Santiago" in said
    assert ("Spe" in said) == bool(fact.neighbors)


def test_what_is_read_is_told_field_by_field():
    table = data.read_as({"mine": Facts([PERU, CHILE], "mine", "exact")})
    assert table.loc["mine", "asked"].tolist() == ["The capital of Peru is",
                                                   "The capital of Chile is"]
    assert table.neighbors.tolist() == ["The capital of Chile is … Santiago", "–"]
    assert table.paraphrases.iloc[0] == "Who rules Peru sits in; The seat of Peru is"


def test_the_commonest_answer_is_a_share_of_the_relations_facts():
    twin = replace(PERU, subject="Lima's country")
    first = Facts([SEA, PERU, CHILE, twin], "first", "exact")
    table = data.relations({"first": first, "second": Facts([SEA], "second", "exact")})
    assert table.index.tolist() == ["capital", "sea"]
    assert table.loc["capital", "commonest answer, %"] == pytest.approx(200 / 3)
    assert table["different answers"].tolist() == [2, 1]
    assert table.first.tolist() == [3, 1] and table.second.tolist() == [0, 1]


def test_what_is_known_is_a_mean_by_relation_with_its_interval():
    values = np.array([100.0, 0.0, 0.0])
    table = data.known_by_relation({"a": ([PERU, CHILE, SEA], values),
                                    "b": ([SEA], np.array([50.0]))})
    assert table.loc["a"].index.tolist() == ["sea", "capital"]  # by what is right
    capital = table.loc["a", "capital"]
    assert capital.right == 50.0 and capital.facts == 2 and capital.commonest == 50.0
    assert (capital.low, capital.high) == percent_interval(values[:2])
    assert table.loc["b"].index.tolist() == ["sea"]
    figure, drawn = data.draw_known(table)
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == ["sea (1)", "capital (2)"] and len(drawn) == 3


def test_a_relation_that_has_no_name_is_all():
    unnamed = replace(PERU, relation="")
    table = data.known_by_relation({"a": ([unnamed], np.array([100.0]))})
    assert table.index.tolist() == [("a", "all")]


def test_methods_are_compared_by_facts_and_name():
    scores = Scores(eff=10.0, gen=20.0, spe=30.0, prob_eff=0.1, prob_gen=0.2, prob_spe=0.3,
                    interval_eff=(0.0, 0.0), interval_gen=(0.0, 0.0), interval_spe=(0.0, 0.0),
                    n_eff=1, n_gen=1, n_spe=1)
    table = data.compared({("known", "memit"): scores})
    assert table.loc["known", "MEMIT"].tolist() == [10.0, 20.0, 30.0, 0.1]


def test_the_embedded_neighbours_of_unique_answers_never_share_them():
    """What the chapter's last exercise rests on."""
    for fact in zu.load_facts("world-cloze"):
        if fact.relation in ("country-capital", "element-number"):
            assert fact.target not in {answer for _, answer in fact.neighbors}
