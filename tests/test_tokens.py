"""How many tokens moments need, as the book tells it."""
import json
from math import exp, log
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from zu.book import tokens
from zu.book.verdicts import over_draws

ROOT = Path(__file__).resolve().parents[1]


def rows(method, count, ppl, gen=(10.0, 12.0), how="read"):
    return [{"seed": i, "tokens": count, "how": how, "method": method, "eff": 0.0, "gen": g,
             "spe": 5.0} | ({"refused": "why"} if p is None else {"ppl": p})
            for i, (p, g) in enumerate(zip(ppl, gen, strict=True), 1)]


KEPT = [*rows("base", 0, [10.0, 20.0]), *rows("memit", 4096, [11.0, 22.0]),
        *rows("memit", 512, [22.0, 44.0], gen=(9.0, 11.0)), *rows("memit", 64, [None, 30.0]),
        *rows("memit", 512, [11.0, 22.0], how="shrunk"),
        {"seed": 3, "tokens": 0, "how": "read", "method": "base", "ppl": 99.0}]  # begun only


def test_scores_are_held_against_those_of_the_most_tokens_draw_by_draw():
    found = tokens.against_most(KEPT, (64, 512))
    assert list(found.index) == [("MEMIT", "4,096"), ("MEMIT", "512"), ("MEMIT", "512, shrunk"),
                                 ("MEMIT", "64")]
    assert found["Gen"].tolist() == [
        "11.0", "-1.0 (-1.0\u00a0to\u00a0-1.0)", "+0.0 (+0.0\u00a0to\u00a0+0.0)",
        "refused in 1 of 2"]
    assert found["perplexity"].tolist() == ["16.50", "+100.0% (+100.0%\u00a0to\u00a0+100.0%)",
                                            "+0.0% (+0.0%\u00a0to\u00a0+0.0%)",
                                            "refused in 1 of 2"]
    assert tokens.draws(KEPT) == 2


def test_perplexity_is_drawn_as_the_mean_ratio_to_the_unedited_models():
    ax = plt.figure().subplots()
    drawn = tokens.draw_perplexity(ax, KEPT)
    ratio = drawn.set_index(["method", "how", "tokens"]).iloc[:, 0]
    assert ratio["memit", "read", 4096] == pytest.approx(1.1)
    assert ratio["memit", "read", 512] == pytest.approx(2.2)
    assert ratio["memit", "read", 64] == pytest.approx(1.5)  # of the draw that has one
    assert ratio["memit", "shrunk", 512] == pytest.approx(1.1)
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    plt.close(ax.figure)


def test_the_kept_record_has_draws_that_are_done():
    record = json.loads((ROOT / "results" / "tokens.json").read_text())
    assert tokens.draws(record["rows"]) >= 2, "fewer draws than an interval needs"
    found = tokens.against_most(record["rows"], (8192,))
    assert {"ZeroUnlearn", "MEMIT", "AlphaEdit"} <= set(found.index.get_level_values("method"))


def test_what_the_chapter_says_of_the_kept_draws_holds():
    rows = json.loads((ROOT / "results" / "tokens.json").read_text())["rows"]
    score = {(x["method"], x["tokens"], x["how"], x["seed"]): x for x in rows}

    def apart(method, count, key, how="read"):
        return over_draws([score[method, count, how, seed][key]
                           - score[method, 98_304, "read", seed][key]
                           for seed in range(1, 1 + tokens.draws(rows))])

    methods = ("zerounlearn", "memit", "alphaedit", "exact:lam=0.1")
    assert all(abs(apart(method, 32_768, key).value) < 1.5
               for method in methods for key in ("eff", "gen", "spe"))
    assert apart("memit", 12_288, "gen").high < 0
    assert all(abs(apart("zerounlearn", 12_288, key).value) < 1 for key in ("eff", "gen", "spe"))
    assert -12 < apart("memit", 512, "spe", "shrunk").value < -8
    assert all(score["memit", count, "read", seed].get("ppl", 1e9) > 1e4
               for count in (512, 1024) for seed in (1, 2, 3))

    def ratio(method, count, how="read"):
        return over_draws([log(score[method, count, how, seed]["ppl"]
                               / score[method, 98_304, "read", seed]["ppl"]) for seed in (1, 2, 3)])

    assert all(abs(ratio(method, 32_768).value) < 0.0045 for method in methods)
    assert exp(ratio("zerounlearn", 512).value) == pytest.approx(1.61, abs=0.005)
    assert exp(ratio("zerounlearn", 512, "shrunk").value) == pytest.approx(1.06, abs=0.005)
    for method in ("alphaedit", "exact:lam=0.1"):
        assert -7 < apart(method, 512, "spe").value < -5.5
        assert -7 < apart(method, 512, "gen").value <= -3
        few = ratio(method, 512)
        assert few.low < 0 < few.high and exp(few.value) == pytest.approx(1.08, abs=0.005)
