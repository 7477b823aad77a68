"""The rule by which a scan picks layers, on tables written here; its words, picture and file."""
import json
import math

import numpy as np
import pytest

from zu import scans
from zu.scans import Scan, ScanError, Window

NAN = math.nan
ABOUT = {"model": "m", "depth": 12, "method": "zerounlearn", "given": 30, "known": 24, "used": 20}
N = 20


def window(first, eff=0, gen=0, spe=100, ppl=10.0, width=1, **more):
    """A window with the same score for every fact, or with a list of scores."""
    def by_fact(value):
        return tuple(map(float, value)) if isinstance(value, list) else (float(value),) * N

    return Window(tuple(range(first, first + width)), by_fact(eff), by_fact(gen), by_fact(spe), ppl,
                  **more)


def scan(*windows, base=None):
    return Scan(ABOUT, base or Window((), (100.0,) * N, (90.0,) * N, (100.0,) * N, 10.0),
                tuple(windows))


def some(hits, n=N):
    """As many facts with 100 as said, the first ones."""
    return [100.0] * hits + [0.0] * (n - hits)


def test_the_bounds_are_those_of_the_book():
    pytest.importorskip("pandas")
    from zu.book import anchors

    mine = scans.MOST_EFF, scans.GEN_SHARE, scans.SPE_SHARE, scans.PPL_SHARE
    assert mine == (anchors.MOST_EFF, anchors.GEN_SHARE, anchors.SPE_SHARE, anchors.PPL_SHARE)


def test_of_windows_within_the_bounds_the_largest_smaller_reserve_wins():
    balanced = window(3, gen=10, spe=95)  # reserves 2/3 and 1/2
    lopsided = window(5, gen=28, spe=100)  # 1/15 and 1
    forgets_less = window(7, eff=some(1), gen=0, spe=100)  # Eff 5
    dear = window(9, gen=0, spe=100, ppl=10.51)
    found = scan(lopsided, balanced, forgets_less, dear)
    assert found.layers == (3,) and found.qualifies and found.missed == ()
    frame = found.frame().set_index("layers")
    assert frame.reserve["3"] == pytest.approx(0.5)
    assert frame.reserve["5"] == pytest.approx(1 / 15)
    assert "all goals are met" in str(found)


def test_a_window_just_within_its_bounds_is_within_them():
    at_the_bound = window(2, eff=[2.0] * N, ppl=10.5)
    assert scan(at_the_bound).qualifies
    assert not scan(window(2, eff=[2.1] * N)).qualifies
    assert not scan(window(2, ppl=10.6)).qualifies


def test_the_best_of_those_within_the_bounds_may_miss_gen_and_spe_and_says_so():
    found = scan(window(1, gen=60, spe=80), window(2, gen=0, spe=50))
    assert found.layers == (1,) and found.qualifies and found.missed == ("gen", "spe")
    words = str(found)
    assert "Gen (60.0, wanted ≤ 30.0)" in words and "Spe (80.0, wanted ≥ 90.0)" in words
    assert "no window qualifies" not in words


def test_where_none_is_within_the_bounds_the_least_shortfall_is_named_as_such():
    little = window(4, eff=some(1), gen=30, spe=90)  # 3/98
    nothing = window(6, eff=100, gen=90, spe=100)  # 1 + 1
    ruined = window(8, ppl=42.0, spe=90)  # log2(4) = 2
    found = scan(nothing, little, ruined)
    assert found.layers == (4,) and not found.qualifies and found.missed == ("eff",)
    short = found.frame().set_index("layers").short
    assert short["4"] == pytest.approx(3 / 98) and short["6"] == pytest.approx(2)
    assert short["8"] == pytest.approx(2)
    assert "no window qualifies" in str(found) and "layer 4 misses Eff (5.0" in str(found)


def test_a_window_within_the_bounds_goes_before_one_of_less_shortfall():
    within = window(1, gen=80, spe=40)
    near = window(2, eff=some(1), gen=0, spe=100)
    assert scan(within, near).layers == (1,)


def test_equal_windows_go_by_perplexity_and_then_by_depth():
    assert scan(window(1, ppl=10.2), window(5, ppl=10.1), window(3, ppl=10.1)).layers == (3,)


def test_windows_that_facts_do_not_tell_apart_are_undecided():
    same = scan(window(1), window(2, ppl=10.1), window(3, ppl=10.2))
    assert not same.decided and [w.name for w in same.as_good] == ["2", "3"]
    assert "undecided: all windows are as good as 1" in str(same)
    one_fact = scan(window(1), window(2, eff=some(1)), window(3, eff=some(12)))
    assert one_fact.decided and [w.name for w in one_fact.as_good] == ["2"]
    assert "undecided: 2 is as good" in str(one_fact)
    assert [one_fact.verdict(w) for w in one_fact.windows] == ["recommended", "as good", "worse"]


def test_a_single_window_is_recommended_with_nothing_to_decide():
    alone = scan(window(1))
    assert alone.layers == (1,) and alone.as_good == () and "undecided" not in str(alone)


def test_facts_are_paired_a_small_steady_difference_decides_and_a_large_loose_one_does_not():
    spread = [0.0, 100.0] * (N // 2)
    base = Window((), (100.0,) * N, (100.0,) * N, tuple(spread), 10.0)
    steady = [max(x - 8.0, 0.0) for x in spread]
    assert [w.name for w in scan(window(1, spe=spread), window(2, spe=steady), base=base).as_good
            ] == []
    draw = np.random.default_rng(1)
    loose = [float(x) for x in draw.permutation([92.0, 0.0] * (N // 2))]
    assert len(scan(window(1, spe=spread), window(2, spe=loose), base=base).as_good) == 1


def test_with_few_facts_less_is_decided_than_with_many():
    def against(n):
        def scores(hits, what=None):
            return tuple([100.0] * hits + [0.0] * (n - hits)) if what is None else (what,) * n

        base = Window((), scores(0, 100.0), scores(0, 90.0), scores(0, 100.0), 10.0)
        good = Window((1,), scores(0), scores(0), scores(0, 100.0), 10.0)
        bad = Window((2,), scores(n // 5), scores(0), scores(0, 100.0), 10.0)
        return Scan(ABOUT, base, (good, bad)).as_good

    assert len(against(5)) == 1 and len(against(50)) == 0


def test_what_the_unedited_model_has_none_of_is_not_judged():
    base = Window((), (100.0,) * N, (0.0,) * N, (NAN,) * N, 10.0)
    found = scan(window(1, gen=5, spe=[NAN] * N), window(2, gen=0, spe=[NAN] * N, eff=some(9)),
                 base=base)
    assert found.layers == (1,) and set(found.goals(found.best)) == {"eff", "ppl"}
    assert found.missed == () and [found.verdict(w) for w in found.windows][1] == "worse"


def test_facts_without_a_kind_of_question_do_not_count_for_it():
    half = [NAN] * 10 + [50.0] * 10
    found = scan(window(1, gen=half), base=Window((), (100.0,) * N, tuple(half), (100.0,) * N,
                                                  10.0))
    assert found.best.mean("gen") == 50 and found.base.mean("gen") == 50


def test_a_window_without_an_edit_is_never_recommended_and_keeps_its_reason():
    failed = Window((1,), failed="it explodes")
    found = scan(failed, window(2, eff=100, gen=90))
    assert found.layers == (2,) and found.as_good == ()
    assert found.frame().verdict.tolist() == ["Base", "it explodes", "recommended"]
    assert found.frame().short.isna().tolist() == [True, True, False]


def test_the_table_has_base_first_and_names_each_window():
    found = scan(window(3, width=3, spe=50, ppl=20.0), window(8))
    frame = found.frame()
    assert frame["layers"].tolist() == ["Base", "3–5", "8"]
    assert frame.times.tolist() == [1, 2, 1] and frame.spe.tolist() == [100, 50, 100]
    assert frame["last"].tolist()[1:] == [5, 8]
    assert frame.depth.tolist()[1:] == pytest.approx([4 / 11, 8 / 11])
    assert Window((1, 3, 5)).name == "1, 3, 5"


def test_differences_are_over_the_facts_that_both_windows_ask():
    gen = [NAN] * 10 + some(5, 10)
    found = scan(window(1), window(2, eff=some(10), gen=gen))
    table = found.against().set_index("score")
    assert table.difference["Eff"] == 50 and table.decided["Eff"]
    assert table.low["Eff"] > 20 and table.high["Eff"] < 80
    assert table.facts["Gen"] == 10 and table.difference["Gen"] == 50
    assert table.difference["Spe"] == 0 and not table.decided["Spe"]
    back = found.against([2]).set_index("score")
    assert back.difference["Eff"] == -50
    with pytest.raises(ScanError, match=r"no window \[9\]: it has 1, 2"):
        found.against([9])


def test_a_saved_scan_is_read_as_it_was(tmp_path):
    found = scan(window(1, gen=[NAN] * 10 + some(5, 10)), Window((2,), failed="it explodes"),
                 window(5, eff=some(3), damage=0.2, seconds=1.5))
    found.save(tmp_path / "scan.json")
    again = Scan.load(tmp_path / "scan.json")
    assert again.frame().equals(found.frame()) and str(again) == str(found)
    assert again.layers == found.layers == (1,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "zu-record-1"}',
                                  '{"format": "zu-scan-1", "about": {}}'])
def test_a_file_that_is_no_scan_is_refused(tmp_path, text):
    (tmp_path / "scan.json").write_text(text)
    with pytest.raises(ScanError, match="is no scan of this version: give a file that Scan.save"):
        Scan.load(tmp_path / "scan.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="scan.json"):
        Scan.load(tmp_path / "scan.json")


def test_a_saved_scan_has_no_nan(tmp_path):
    scan(Window((2,), failed="no"), window(1)).save(tmp_path / "scan.json")
    text = (tmp_path / "scan.json").read_text()
    assert json.loads(text)["windows"][0]["ppl"] is None and "NaN" not in text


def points(axis):
    """The filled or hollow points of a panel, by place: (height, whether filled)."""
    from matplotlib.colors import to_rgba

    found = {}
    for line in axis.lines:
        if line.get_marker() == "o":
            filled = to_rgba(line.get_markerfacecolor()) != to_rgba("white")
            found[float(line.get_xdata()[0])] = float(line.get_ydata()[0]), filled
    return found


def test_the_picture_marks_the_layers_and_what_is_worse():
    pytest.importorskip("matplotlib").use("Agg")
    found = scan(window(3, width=3), window(6, width=3, eff=some(15)),
                 window(0, width=3, ppl=10.2), Window((8, 9, 10), failed="no"))
    figure = found.picture()
    eff, gen, spe, ppl = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["Eff", "Gen", "Spe",
                                                          "perplexity, times Base"]
    assert points(eff) == {4.0: (0, True), 7.0: (75, False), 1.0: (0, True)}
    assert points(ppl)[1.0] == (pytest.approx(1.02), True)
    assert [line.get_marker() for line in spe.lines].count("x") == 1
    band = eff.patches[0]
    assert band.get_x() == pytest.approx(2.55) and band.get_width() == pytest.approx(2.9)
    assert any(list(line.get_ydata()) == [90, 90] for line in gen.lines)  # Base
    goal = [patch for patch in spe.patches if patch is not spe.patches[0]]
    assert goal[0].get_y() == pytest.approx(90)


def test_the_picture_takes_a_ruined_model_and_goals_that_are_not_judged():
    pytest.importorskip("matplotlib").use("Agg")
    base = Window((), (100.0,) * N, (0.0,) * N, (NAN,) * N, 10.0)
    found = scan(window(1, spe=[NAN] * N, ppl=1e7), window(2, spe=[NAN] * N), base=base)
    ppl = found.picture().axes[3]
    assert ppl.get_yscale() == "log" and points(ppl)[1.0][0] == pytest.approx(1e6)
