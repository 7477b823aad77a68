"""Each rule of the ledger says yes, no or undecided of records that are made up to be so."""
import json
import math
from pathlib import Path
from unittest import mock

import jupytext
import pandas as pd
import pytest
import torch

import zu
from zu.audit.erasure import TESTS
from zu.book import deciding, ledger, ledger_table
from zu.book.deciding import Evidence
from zu.book.gone import SWAPPED, Answers
from zu.book.ledger_table import Claim, decide, fails, found, on_each, rules
from zu.book.verdicts import NO, UNDECIDED, YES, Estimate
from zu.experiment import FORMAT

ROOT = Path(__file__).parents[1]
SEEDS = (1, 2, 3)


def record(method, seed=1, n=50, dataset="world-cloze", **scores):
    """A run's record; scores move a little from draw to draw."""
    scores = {"eff": 10.0, "gen": 10.0, "spe": 40.0, "ppl": 20.0} | scores
    shifted = {x: value and value + 0.1 * seed * (x != "ppl") for x, value in scores.items()}
    ends = {f"interval_{x}": [max(v - 8, 0), v + 8] for x, v in shifted.items() if v is not None}
    return {"format": FORMAT, "model": "m", "dataset": dataset, "method": method, "seed": seed,
            "n": n, "experiment": "made-up", "commit": "abc", "layers": [15, 16, 17],
            "metrics": shifted | ends}


def measured(seeds=SEEDS, spread=0.05, **methods):
    """What some methods did in some draws; Base answers 40% of everything."""
    methods = {"base": {"eff": 40.0, "gen": 40.0}} | methods
    labels = {"exact": "exact:lam=0.1", "descent": "zerounlearn-gd",
              "untargeted": "zerounlearn:beta=0"}
    return Evidence([record(labels.get(name, name), seed, **scores)
                     for name, scores in methods.items() for seed in seeds], spread)


def others(**scores):
    return {name: scores for name in ledger.OTHERS}


EXACT = {"eff": 10, "gen": 10, "spe": 10}
CASES = [
    (ledger.descent_arrives, (), YES, dict(exact=EXACT, descent=EXACT)),
    (ledger.descent_arrives, (), NO, dict(exact=EXACT, descent=EXACT | {"gen": 14})),
    (ledger.removes_the_knowledge, (), YES, dict(zerounlearn={"eff": 1})),
    (ledger.removes_the_knowledge, (), NO, dict(zerounlearn={"eff": 8})),
    (ledger.removes_the_knowledge, (25,), YES, dict(zerounlearn={"eff": 8})),
    (ledger.forgets_more, (), YES, dict(zerounlearn={"eff": 1}, **others(eff=5))),
    (ledger.forgets_more, (), NO, dict(zerounlearn={"eff": 6}, **others(eff=5))),
    (ledger.others_struggle, (), YES, others(eff=35)),
    (ledger.others_struggle, (), NO, others(eff=20)),
    (ledger.others_struggle, (25,), YES, others(eff=20)),
    (ledger.ascent_destroys, (), YES, dict(ga={"spe": 1, "ppl": 5000})),
    (ledger.ascent_destroys, (), NO, dict(ga={"spe": 1, "ppl": 50})),
    (ledger.ascent_destroys, (), NO, dict(ga={"spe": 20, "ppl": 5000})),
    (ledger.ascent_destroys, (30,), YES, dict(ga={"spe": 1, "ppl": 50})),
    (ledger.tuning_loses_specificity, (), YES, dict(ft={"spe": 1, "ppl": 25})),
    (ledger.tuning_loses_specificity, (), NO, dict(ft={"spe": 1, "ppl": 20.1})),
    (ledger.tuning_loses_specificity, (), NO, dict(ft={"spe": 9, "ppl": 25})),
    (ledger.perplexity_is_comparable, (4,), YES, dict(zerounlearn={"ppl": 20.2})),
    (ledger.perplexity_is_comparable, (4,), NO, dict(zerounlearn={"ppl": 22})),
    (ledger.specificity_is_high, (73,), YES, dict(zerounlearn={"spe": 35})),
    (ledger.specificity_is_high, (73,), NO, dict(zerounlearn={"spe": 10})),
    (ledger.preserves_best, (), YES, dict(  # others forget no more than half, or keep less
        zerounlearn={"eff": 1, "spe": 30}, ga={"eff": 1, "spe": 2}, ft={"eff": 1, "spe": 20},
        **others(eff=20, spe=38))),
    (ledger.preserves_best, (), NO, dict(  # they forget and keep more
        zerounlearn={"eff": 1, "spe": 30}, ga={"eff": 1, "spe": 2}, ft={"eff": 1, "spe": 20},
        **others(eff=1, spe=38))),
    (ledger.preserves_best, (), YES, dict(  # FT, trained otherwise than in the paper, is left out
        zerounlearn={"eff": 1, "spe": 30}, ft={"eff": 1, "spe": 35}, **others(eff=20, spe=38))),
    (ledger.preserves_best, (), NO, dict(  # it does not forget itself
        zerounlearn={"eff": 20, "spe": 30}, ga={"eff": 1, "spe": 2}, ft={"eff": 1, "spe": 20},
        **others(eff=20, spe=38))),
    (ledger.forgets_more, ("zerounlearn-gd", ledger.OTHERS), YES, dict(
        descent={"eff": 1}, zerounlearn={"eff": 9}, **others(eff=5))),
    (ledger.forgets_more, ("zerounlearn-gd", ledger.OTHERS), NO, dict(
        descent={"eff": 9}, zerounlearn={"eff": 1}, **others(eff=5))),
    (ledger.perplexity_is_comparable, (10, "zerounlearn-gd"), YES, dict(
        descent={"ppl": 21}, zerounlearn={"ppl": 30})),
    (ledger.perplexity_is_comparable, (10, "zerounlearn-gd"), NO, dict(
        descent={"ppl": 30}, zerounlearn={"ppl": 21})),
    (ledger.ascent_and_tuning_collapse, (), YES, dict(ga={"spe": 1}, ft={"ppl": 900})),
    (ledger.ascent_and_tuning_collapse, (), NO, dict(ga={"spe": 1}, ft={"ppl": 30})),
    (ledger.target_improves, (), YES, dict(
        zerounlearn={"eff": 1, "gen": 1}, untargeted={"eff": 5, "gen": 5})),
    (ledger.target_improves, (), NO, dict(
        zerounlearn={"eff": 1, "gen": 6}, untargeted={"eff": 5, "gen": 5})),
]


@pytest.mark.parametrize("rule, at, verdict, methods", CASES)
def test_a_rule_of_methods_decides_as_its_words_say(rule, at, verdict, methods):
    assert rule(measured(**methods), *at)[0] == verdict


@pytest.mark.parametrize("rule, at, methods", [
    (ledger.removes_the_knowledge, (), dict(zerounlearn={"eff": 4})),
    (ledger.perplexity_is_comparable, (4,), dict(zerounlearn={"ppl": 20.5})),
    (ledger.preserves_best, (), dict(
        zerounlearn={"eff": 1, "spe": 30}, **others(eff=1, spe=29)))])
def test_one_draw_near_the_bound_decides_nothing(rule, at, methods):
    assert rule(measured(seeds=(1,), **methods), *at)[0] == UNDECIDED


def test_the_lemmas_hold_and_a_wrong_one_is_seen(monkeypatch):
    x = ledger.problem()
    checks = (ledger.has_a_closed_form, ledger.hides_the_old_outputs, ledger.kronecker_is_optimal)
    assert [rule(x)[0] for rule in checks] == [YES] * 3
    right = ledger.solve.lemma_4_1
    monkeypatch.setattr(ledger.solve, "lemma_4_1", lambda *a, **k: right(*a, **k) + 0.01)
    kronecker = ledger.solve.lemma_5_1_kronecker
    monkeypatch.setattr(ledger.solve, "lemma_5_1_kronecker", lambda *a, **k: 2 * kronecker(*a, **k))
    assert [rule(x)[0] for rule in checks] == [NO] * 3


@pytest.mark.parametrize("left, seconds, verdict", [
    (1e-14, 9.0, NO), (1e-3, 9.0, YES), (1e-14, 4000.0, YES)])
def test_the_closed_form_is_intractable_where_it_fails_or_takes_an_hour_at_some_size(
        left, seconds, verdict):
    small = ledger.Solved(8, 20, 1e-15, 0.1)
    found, said = ledger.is_intractable([small, ledger.Solved(30, 80, left, seconds)])
    assert found == verdict and said.startswith("d = 8, m = 20: 1e-15 of the slope left after 0.1")
    assert "; d = 30, m = 80: " in said


def test_the_solution_at_real_size_leaves_no_slope(tiny):
    model, _ = tiny
    m = ledger.models.down_proj(model, 1).weight.shape[1]
    keys = torch.randn(m, 3 * m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = ledger.at_real_size(model, 1, keys @ keys.T, n=2)
    assert x.m == m and x.left < 1e-8 and ledger.is_intractable([x])[0] == NO


def test_at_the_papers_size_too_and_a_wrong_solution_is_seen(monkeypatch):
    x = ledger.at_papers_size(d=12, m=40, n=3)
    assert (x.d, x.m) == (12, 40) and x.left < 1e-12
    right = ledger.solve.lemma_5_1
    monkeypatch.setattr(ledger.solve, "lemma_5_1", lambda *a, **k: 0.99 * right(*a, **k))
    wrong = ledger.at_papers_size(d=12, m=40, n=3)
    assert wrong.left > 1e-3 and ledger.is_intractable([wrong])[0] == YES


def test_general_keys_vanish_where_they_have_no_energy_in_the_directions_that_count_as_empty():
    chosen = torch.diag(torch.tensor([1.0, 1, 1, 0.001])).double()  # one direction below 0.01
    loud = torch.diag(torch.tensor([1.0, 1, 1, 1])).double()
    assert ledger.energy_within({3: chosen}, {3: loud}) == {3: (1, 25.0)}
    quiet = ledger.energy_within({3: chosen, 4: chosen}, {3: chosen, 4: chosen})
    assert ledger.general_keys_vanish(quiet) == (
        YES, "layer 3: 1 directions with 0.0%; layer 4: 1 directions with 0.0%")
    within = quiet | {5: (1, 25.0)}
    assert ledger.general_keys_vanish(within)[0] == NO
    assert ledger.general_keys_vanish(within, 30)[0] == YES
    full = ledger.energy_within({3: loud}, {3: chosen})  # of full rank: nothing counts as empty
    assert full == {3: (0, 0.0)} and ledger.general_keys_vanish(full)[0] == NO


@pytest.mark.parametrize("low, high, n, verdict", [
    (13, 17, 20, YES), (0, 5, 20, NO), (2, 16, 20, UNDECIDED), (0, 5, 4, UNDECIDED)])
def test_a_traced_layer_decides_only_where_redrawn_facts_agree(low, high, n, verdict):
    traced = {"first_interval": [low, high], "used": [15, 16, 17], "derived": [15, 16, 17], "n": n}
    assert ledger.tracing_picks_the_layers(traced)[0] == verdict


@pytest.mark.parametrize("ppl, verdict", [(30, YES), (15, NO), (20.5, UNDECIDED)])
def test_low_layers_hurt_by_the_spread_of_a_draw(ppl, verdict):
    pair = record("zerounlearn", ppl=ppl) | {"layers": [1, 2]}, record("zerounlearn")
    found, said = ledger.low_layers_hurt(ledger.Lower([pair], 0.05))
    assert found == verdict and said == f"layers [1, 2]: {ppl:.2f}, [15, 16, 17]: 20.00"


def test_low_layers_of_several_draws_are_compared_draw_by_draw():
    pairs = [({"layers": [1], "metrics": {"ppl": 20.4 + seed}},
              {"layers": [15], "metrics": {"ppl": 20.0 + seed}}) for seed in SEEDS]
    assert ledger.low_layers_hurt(ledger.Lower(pairs[:1], 0.05))[0] == UNDECIDED
    assert ledger.low_layers_hurt(ledger.Lower(pairs, 0.05))[0] == YES


def costs(power, svd=0.1, solve=1.0):
    return [{"n": n, "model": "m", "seconds": {
        "targets": 10 * n**power, "traces": n**power, "solve": solve * n**power, "moments": 99.0,
        "SVD": svd * n**power}} for n in (10, 100, 1000)]


@pytest.mark.parametrize("power, verdict", [(1.0, YES), (2.0, NO)])
def test_time_is_proportional_by_its_exponent(power, verdict):
    assert ledger.time_is_proportional(costs(power))[0] == verdict


@pytest.mark.parametrize("svd, solve, cheap, dominates", [
    (0.01, 1.0, YES, YES), (5.0, 1.0, NO, YES), (0.01, 99.0, YES, NO)])
def test_a_time_decides_where_all_numbers_of_facts_agree(svd, solve, cheap, dominates):
    runs = costs(1, svd, solve)
    assert ledger.svd_is_cheap(runs)[0] == cheap
    assert ledger.extraction_dominates(runs)[0] == dominates
    mixed = costs(1, 0.01, 1.0)[:1] + costs(1, 5.0, 99.0)[1:]
    assert ledger.svd_is_cheap(mixed)[0] == UNDECIDED == ledger.extraction_dominates(mixed)[0]


@pytest.mark.parametrize("peaks, verdict", [
    ({"a": {10: 100, 90: 110}}, YES), ({"a": {10: 100, 90: 150}}, NO),
    ({"a": {10: 100, 90: 110}, "b": {10: 100, 90: 150}}, UNDECIDED)])
def test_memory_is_stable_where_all_models_agree(peaks, verdict):
    assert ledger.memory_is_stable(peaks)[0] == verdict
    assert ledger.memory_is_stable(peaks, 2.0)[0] == YES


def erased(back, swapped, asked=0, n=100):
    """ZeroUnlearn and swapped facts; a test gets so many of n answers back."""
    rows = []
    for method, dataset, hits in (("zerounlearn", "w-known", back), ("base", "w-swapped", swapped)):
        metrics = {test: [1.0] * hits.get(test, 0) + [0.0] * (n - hits.get(test, 0))
                   for test in TESTS} | {"asked": [1.0] * asked + [0.0] * (n - asked)}
        rows.append({"method": method, "dataset": dataset, "seed": 1, "n": n, "metrics": metrics})
    return rows


def test_removal_is_not_thorough_where_a_test_gets_more_back_than_of_swapped_facts():
    verdict, said = ledger.removes_thoroughly(
        ledger.erasable(erased({"relearn": 40, "lens": 9}, {"relearn": 2, "lens": 9})))
    assert verdict == NO and said == "relearn 40 of 100, swapped 2"


@pytest.mark.parametrize("back, swapped, asked", [(0, 0, 0), (40, 40, 0), (40, 0, 40), (3, 1, 0)])
def test_no_test_that_gets_more_back_leaves_removal_undecided(back, swapped, asked):
    answers = Answers(erased({"relearn": back}, {"relearn": swapped}, asked))
    assert ledger.removes_thoroughly(answers)[0] == UNDECIDED


def test_removal_needs_zerounlearn_and_swapped_facts():
    both = erased({}, {})
    assert ledger.erasable(both) is not None and {*ledger.erasable(both).rows} >= {SWAPPED}
    assert ledger.erasable(both[:1]) is None is ledger.erasable([])


@pytest.mark.parametrize("ppl, verdict", [(20.1, YES), (30.0, NO)])
def test_the_constraint_is_cheap_by_the_ratio_of_perplexities(ppl, verdict):
    rows = [record("zerounlearn", seed, ppl=ppl + 0.01 * seed) for seed in SEEDS]
    rows += [record("zerounlearn:project=false", seed) for seed in (*SEEDS, 4)]
    logs = ledger.with_and_without(rows)
    assert len(logs) == 3
    assert ledger.constraint_is_cheap(ledger.Dearer(logs, 0.0), 4.0)[0] == verdict
    assert ledger.constraint_is_cheap(ledger.Dearer(logs[:1], 9.0), 4.0)[0] == UNDECIDED


def looked(zero, other):
    """One draw of three methods; shares of neighbours of the other kind."""
    def row(method, x):
        share = [x, x - 0.02, x + 0.02]
        return {"method": method, "layers": [15, 16, 17], "metrics": {"forget": {
            "16": {"mixing": share, "mixing_plane": share, "mixing_own": share}}}}

    return [row("zerounlearn", zero), row("memit", other), row("alphaedit:threshold=0.02", other)]


@pytest.mark.parametrize("zero, other, verdicts", [
    (0.1, 0.5, [YES, YES]), (0.4, 0.1, [NO, NO]), (0.25, 0.25, [UNDECIDED] * 2)])
def test_outputs_mix_or_stand_apart(zero, other, verdicts):
    x = ledger.mixings(looked(zero, other))
    assert [rule(x)[0] for rule in (ledger.outputs_stand_apart, ledger.others_mix)] == verdicts
    assert ledger.mixings(looked(zero, other)[:2]) == {}


def test_outputs_may_mix_in_a_plane_and_not_in_all_dimensions():
    rows = looked(0.1, 0.5)
    for row in rows:
        row["metrics"]["forget"]["16"]["mixing"] = [0.0, 0.0, 0.1]
    x = ledger.mixings(rows)
    assert ledger.others_mix(x)[0] == YES and ledger.others_mix(x, "mixing")[0] == NO
    assert "in all dimensions: MEMIT 0.0 [0.0,\u00a010.0]%" in ledger.others_mix(x)[1]


def test_mixing_of_several_draws_is_over_draws():
    rows = looked(0.1, 0.5) + looked(0.2, 0.5)
    value, low, high = ledger.mixings(rows)["zerounlearn"]["mixing"]
    assert math.isclose(value, 15) and high - low > 100  # of two draws one knows little


def task(right, chance=20.0):
    from zu.experiment.tasks import wilson

    return {"right": right, "interval": wilson(right.count("1"), len(right)), "chance": chance,
            "acc": 100 * right.count("1") / len(right)}


def test_the_claim_about_tasks_follows_its_chapters_rule_single_tasks_decide():
    from zu.experiment.tasks import compare

    base = {name: task("1" * 40) for name in ("a", "b", "c", "d")}
    little = {name: task("0" * 3 + "1" * 37) for name in base}  # 12 items in all, 3 on a task
    much = base | {"a": task("0" * 20 + "1" * 20)}
    assert compare(base, little)["all"][2] < 0.001
    for after, verdict in ((little, YES), (much, NO), (base, YES)):
        assert ledger.tasks_are_kept([(base, after)])[0] == verdict


@pytest.mark.parametrize("after, verdict", [
    ("0" * 40, YES), ("1" * 36 + "0" * 4, NO), ("1" * 24 + "0" * 16, UNDECIDED)])
def test_ascent_collapses_where_less_than_half_is_left_of_what_is_above_chance(after, verdict):
    base = {name: task("1" * 40) for name in ("sentiment", "inference", "grammar")}
    found = base | {"sentiment": task(after), "inference": task(after)}
    pairs = ledger.can_collapse([(base, found)])
    assert ledger.ascent_collapses_on_tasks(pairs)[0] == verdict


def test_tasks_decide_only_where_base_is_above_chance_on_one_of_each_kind():
    base = {"sentiment": task("1" * 40), "inference": task("10000" * 8)}
    assert ledger.like_the_papers(base) == [] == ledger.can_collapse([(base, base)])
    rows = [{"model": "m", "dataset": "d", "seed": 1, "method": method, "metrics": base}
            for method in ("base", "ga")]
    assert len(ledger.pairs_of(rows, "ga")) == 1 and ledger.pairs_of(rows, "ft") == []
    hopeless = [r | {"metrics": {"inference": base["inference"]}} for r in rows]
    assert ledger.pairs_of(hopeless, "ga") == []


# Rows

CLAIM = Claim("§6.3", "It forgets.", "Eff at most a tenth", ledger.removes_the_knowledge,
              ["zerounlearn"], other=([5, 50], "%"))


def test_a_row_says_what_was_measured_and_how_its_verdict_moves():
    row = decide(CLAIM, measured(zerounlearn={"eff": 3}), "facts")
    assert row[1:] == ("reproduced", row.measured, "facts", "no up to 5%, yes from 50% on")
    assert row.measured.startswith("ZeroUnlearn 3.2 of 40.2, less 10% of Base's: −0.8 [")


@pytest.mark.parametrize("given", [measured(ga={"eff": 3}), Evidence([]), [], None, {}])
def test_without_the_rows_that_a_claim_needs_it_cannot_be_tested(given):
    assert decide(CLAIM, given)[1:] == (
        ledger_table.UNTESTABLE, "no records in this profile", "", "–")


def some_rows():
    by_set = {"world-cloze": measured(zerounlearn={"eff": 1}),
              "world-qa": measured(zerounlearn={"eff": 9, "spe": None}, base={"spe": None})}
    return by_set, on_each(CLAIM, by_set)


def test_rows_of_methods_that_are_trained_otherwise_decide_nothing_and_say_why():
    ga = Claim("§6.3", "GA destroys.", "…", ledger.ascent_destroys, ["ga"])
    row = decide(ga, measured(ga={"spe": 1, "ppl": 5000}), "facts")
    assert row.verdict == ledger_table.UNTESTABLE and row.of == "facts" and row.measured.startswith(
        "not trained as in the released code, which is in brackets: GA with the middle layer (the "
        "last layer). So trained: perplexity ")
    of_tasks = Claim("§6.6", "GA collapses.", "…", lambda pairs: (YES, "half is lost"))
    assert decide(of_tasks, ["a pair"]).verdict == "reproduced"
    row = decide(of_tasks, ["a pair"], unlike="GA with 25 steps (100 steps)")
    assert row.verdict == ledger_table.UNTESTABLE and row.measured.endswith("half is lost")


@pytest.mark.parametrize("label, n, differs", [
    ("ga", 50, "the middle layer (the last layer)"),
    ("ga", 200, "25 steps (100 steps), the middle layer (the last layer)"),
    ("ga:which=last", 64, ""), ("ga:which=last,batch=64", 1000, ""),
    ("ga:which=last,lr=0.001", 50, "a rate of 0.001 (a rate of 0.005)"),
    ("ft:which=last", 50, "no stop (a stop under a loss of 0.01)"),
    ("ft:which=last,batch=64,stop=0.01", 1000, "")])
def test_training_differs_from_the_released_code_by_steps_rate_layer_or_stop(label, n, differs):
    assert deciding.training_differs(label, n) == differs


def test_a_row_that_is_trained_as_released_takes_the_plain_ones_place():
    rows = [record("base"), record("ga", ppl=30), record("ga:which=last", ppl=5000)]
    m = Evidence(rows)
    assert m.methods == {"base", "ga"} and m.unlike == {} and m.rise("ga").value > 10_000
    assert Evidence(rows[:2]).unlike == {"ga": "GA with the middle layer (the last layer)"}
    assert Evidence(rows[:1]).unlike == {}


def test_each_data_set_has_a_row_unless_it_lacks_the_metric():
    by_set, rows = some_rows()
    assert [(row.verdict, row.of.partition(":")[0]) for row in rows] == [
        ("reproduced", "world-cloze"), ("not reproduced", "world-qa")]
    assert len(on_each(CLAIM, by_set, metric="spe")) == 1
    assert len(on_each(CLAIM, {"few facts": Evidence([])}, metric="spe")) == 1


def test_a_sentence_holds_where_all_rows_that_can_be_tested_agree():
    _, rows = some_rows()
    assert found(rows, CLAIM.says)[0] == UNDECIDED
    assert found(rows, CLAIM.says, of="cloze")[0] == YES
    assert fails(rows, CLAIM.says, of="qa")[0] == YES
    assert fails(rows, CLAIM.says, of="hops")[0] == UNDECIDED
    assert found([*rows[:1], decide(CLAIM, None)], CLAIM.says)[0] == YES
    with pytest.raises(LookupError):
        found(rows, "It remembers.")


def test_tables_hold_every_row_and_name_the_rules():
    _, rows = some_rows()
    assert list(ledger_table.ledger(rows).columns) == ledger_table.COLUMNS
    assert list(ledger_table.ledger(rows).verdict) == ["reproduced", "not reproduced"]
    (line,) = rules(rows).to_dict("records")
    assert line["function"] == "removes_the_knowledge" and line["verdicts"] == (
        "world-cloze: reproduced; world-qa: not reproduced")
    assert "<td style" in rules(rows)._repr_html_() and "<td>" not in rules(rows)._repr_html_()
    assert ledger_table.counts(rows) == {
        "all": 2, "reproduced": 1, "not_reproduced": 1, "undecided": 0, "untestable": 0}
    table = ledger_table.by_section({"a": rows, "b": rows[:1]})
    assert table.loc["together"].tolist() == [3, 2, 1, 0, 0] and table.loc["b", "rows"] == 1
    made = ledger_table.made([record("ga"), record("ft")])
    assert made.loc["made-up", "abc"] == 2 and ledger_table.made([]).empty


# Which records decide

@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder for this build's records, and one for kept ones; write(place, rows) fills them."""
    monkeypatch.setattr(deciding, "RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(deciding, "kept_records", lambda name: deciding.read_records(
        tmp_path / "results" / name))

    def write(place, rows):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for i, row in enumerate(rows):
            text = json.dumps(row | {"fingerprint": f"{place}{i}"})
            (folder / f"{len([*folder.iterdir()])}.json").write_text(text)
        return tmp_path / "records"

    return write


def test_the_run_that_forgot_more_facts_decides(places):
    records = places("records/few_shot", [record("base", seed, n=5) for seed in SEEDS])
    assert {r["n"] for r in deciding.deciding("few_shot", records)} == {5}
    places("results/few_shot", [record("base", 1, n=50, dataset="other")])
    assert {r["n"] for r in deciding.deciding("few_shot", records)} == {5}  # of other facts
    places("results/few_shot", [record("base", 1, n=50)])
    assert {r["n"] for r in deciding.deciding("few_shot", records)} == {50}
    by_set = deciding.few_facts(records)
    assert [*by_set] == ["world-cloze"] and by_set["world-cloze"].of == "50 facts, 1 draw"
    assert deciding.of_form("few_shot", records, "qa|zsre").methods == set()
    assert [*deciding.few_facts(records / "none")] == ["other", "world-cloze"]


def test_what_is_kept_is_said_and_of_older_code_too(places):
    rows = [record("base", seed) | {"experiment": "few_shot"} for seed in SEEDS]
    records = places("results/few_shot", rows)
    found = deciding.deciding("few_shot", records)
    assert deciding.source(found) == "50 facts, 3 draws, kept, older code"
    new = [r | {"question": "q"} for r in found]
    assert deciding.source(new) == "50 facts, 3 draws, kept" and deciding.source([]) == ""


def test_of_many_facts_the_largest_run_that_has_all_rows_decides(places):
    records = places("records/many_facts", [record(x, n=20) for x in deciding.COMPARED])
    places("results/many_facts", [record(x, n=90) for x in deciding.COMPARED - {"ga"}])
    assert deciding.many_facts(records).of.startswith("20 facts")
    places("results/many_facts", [record("ga", n=90)])
    assert deciding.many_facts(records).of.startswith("90 facts")
    assert deciding.many_facts(records / "none").of.startswith("90 facts")


def test_lower_layers_stand_beside_the_usual_edit_of_the_same_facts(places):
    low = [record("zerounlearn", seed) | {"layers": layers, "experiment": f"ablation-layers-{x}"}
           for x, layers in (("1-2", [1, 2]), ("3", [3]), ("20", [20])) for seed in (1, 2, 3)]
    records = places("records/low", low)
    assert deciding.low_layers(records, [15, 16, 17]) == []
    places("records/ablation", [record("zerounlearn", seed) for seed in (1, 2)])
    pairs = deciding.low_layers(records, [15, 16, 17])
    assert [(a["layers"], a["seed"], b["seed"]) for a, b in pairs] == [
        ([1, 2], 1, 1), ([1, 2], 2, 2)]
    assert deciding.low_layers(records, [0]) == []


def test_few_facts_rest_on_the_draws_that_all_data_sets_have(places):
    rows = [record("base", seed, dataset=x) for seed in SEEDS for x in ("a", "b")]
    records = places("results/few_shot", [*rows, record("base", 4, dataset="b")])
    assert [m.of for m in deciding.few_facts(records).values()] == ["50 facts, 3 draws"] * 2


# The page, on the kept records

@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's own cells made of the kept records; what asks a model is made up."""
    moments = {layer: torch.eye(4) for layer in (15, 16, 17)}
    made_up = (
        (zu, "load_model", lambda name: (None, None)), (zu, "moments", lambda *a, **k: moments),
        (zu.models, "resolve_layers", lambda *a: [15, 16, 17]),
        (ledger, "at_real_size", lambda *a: ledger.Solved(4, 8, 1e-15, 1.0)),
        (ledger, "at_papers_size", lambda: ledger.Solved(8, 16, 1e-15, 1.0)),
        (ledger, "energy_within", lambda *a: {15: (9, 7.0)}),
        (pytest.importorskip("myst_nb"), "glue", lambda *a, **k: None))
    names = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for where, name, stand_in in made_up:
            patch.setattr(where, name, stand_in)
        patch.setattr("zu.book.shown.with_data", mock.Mock())
        for cell in jupytext.read("book/ledger.md").cells:
            if cell.cell_type == "code":
                exec(cell.source, names)
                if "parameters" in cell.metadata.get("tags", ()):
                    names["records"] = str(tmp_path_factory.mktemp("none"))
    return names


def test_each_changed_verdict_is_the_pages_own(page):
    table = ledger_table.changes(page["rows"], ledger.CHANGED)
    assert table["verdict now"].tolist() == [change.new for change in ledger.CHANGED]
    assert (table["verdict then"] != table["verdict now"]).all()
    assert len({(change.says, change.on) for change in ledger.CHANGED}) == len(ledger.CHANGED)
    assert all(change.why for change in ledger.CHANGED)
    with pytest.raises(LookupError):
        ledger_table.changes([], ledger.CHANGED)


def test_the_page_and_the_chapter_on_few_facts_count_the_same_draws(page):
    cells = jupytext.read(ROOT / "book/few_shot.md").cells
    defaults: dict = {}
    exec(next(c.source for c in cells if "parameters" in c.metadata.get("tags", ())),
         defaults)
    drawn = f"{defaults['n']} facts, {len(defaults['seeds'])} draws, kept"
    assert {m.of for m in page["few"].values()} == {drawn}


# The paper itself

@pytest.fixture
def printed():
    """Two methods that forget on one model, in the paper's tables."""
    rows = []
    for table, methods in (("table1", ("Base", "ZeroUnlearn", "GA")),
                           ("table2", ("Base", "ZeroUnlearn-GD", "MEMIT", "AlphaEdit"))):
        for method in methods:
            scores = {"Eff": 0.5, "Spe": 20.0, "PPL": 11.0}
            scores |= {"Eff": 20.0, "Spe": 25.0, "PPL": 10.0} if method == "Base" else {}
            scores |= {"Spe": 5.0, "PPL": 90.0} if method == "GA" else {}
            scores |= {"Eff": 3.0} if method in ("MEMIT", "AlphaEdit") else {}
            rows += [(table, "L", "ZsRE", method, *x) for x in scores.items()]
    rows.append(("table4", "L", "ZsRE", "ZeroUnlearn", "Eff", 0.5))
    return pd.DataFrame(rows, columns=["table", "model", "dataset", "method", "metric", "mean"])


def test_the_papers_words_have_the_meaning_of_its_worst_cases(printed):
    assert deciding.bounds_of(printed) == pytest.approx((10.0, 80.0, 10.0))


def test_a_paper_that_agrees_with_itself_has_no_row(printed):
    assert ledger_table.against_itself(printed).empty


@pytest.mark.parametrize("table, method, metric, value, says", [
    ("table1", "ZeroUnlearn", "Eff", 5.0, "erases"), ("table1", "GA", "Spe", 24.0, "preserves"),
    ("table2", "ZeroUnlearn-GD", "Eff", 4.0, "outperforms"), ("table4", "ZeroUnlearn", "Eff", 0.9,
                                                             "repeats")])
def test_what_the_papers_tables_do_not_bear_out_is_found(
        printed, table, method, metric, value, says):
    at = (printed.table == table) & (printed.method == method) & (printed.metric == metric)
    printed.loc[at, "mean"] = value
    found = ledger_table.against_itself(printed)
    assert says in " ".join(found.statement)


def test_evidence_measures_in_percent_of_base():
    m = measured(zerounlearn={"eff": 10, "ppl": 22})
    assert m.beyond("zerounlearn", "eff", 25).value == pytest.approx(10.2 - 0.25 * 40.2)
    assert m.rise("zerounlearn").value == pytest.approx(10) and m.base_ppl() == 20
    assert isinstance(m.rise("zerounlearn"), Estimate) and m.has("zerounlearn") and not m.has("ga")
