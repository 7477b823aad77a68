"""The weight of the size is chosen by its rule, and the chapter says what was kept."""
import json
from pathlib import Path

import pytest

import zu
from zu.book.sizes import by_weight, chosen

KEPT = Path(__file__).parents[1] / "results" / "exact_lambda.json"


def rows(**ppl):
    """Two draws at two sizes; ppl by λ, the same but for the larger size, where it is given."""
    found = []
    for seed, base in ((1, 10.0), (2, 20.0)):
        for k, n in enumerate((10, 500)):
            one = {"seed": seed, "n": n, "eff": 1.0 * seed, "gen": 2.0, "spe": 3.0}
            found.append(one | {"method": "base", "ppl": base})
            found += [one | {"method": f"exact:lam={lam[1:]}", "ppl": base * pair[k]}
                      for lam, pair in ppl.items()]
    return found


def test_perplexity_is_held_against_the_unedited_model_of_the_same_draw():
    means = by_weight(rows(_1=(1.1, 3.0)))
    assert means.ppl[10, "exact:lam=1"] == pytest.approx(1.1)
    assert means.ppl[500, "exact:lam=1"] == pytest.approx(3.0) and means.ppl[500, "base"] == 1
    assert means.eff[10, "base"] == 1.5 and (means.draws == 2).all()


def test_a_draw_that_was_interrupted_is_left_out_where_it_is_not_whole():
    found = rows(_1=(1.1, 3.0))
    cut = [row for row in found if (row["seed"], row["n"], row["method"]) != (2, 10, "base")]
    means = by_weight(cut)
    assert means.draws.to_list() == [1, 1, 2, 2] and means.eff[10, "exact:lam=1"] == 1.0


def test_without_a_run_there_is_nothing_to_show():
    means = by_weight([])
    assert means.empty and means.index.names == ["n", "method"] and chosen([], 1.25) is None
    assert means.drop(columns="draws").unstack("n").swaplevel(axis=1).empty


def test_the_smallest_weight_that_holds_at_every_size_is_chosen():
    found = rows(_1=(1.1, 3.0), _10=(1.2, 1.25), _100=(1.0, 1.1))
    assert chosen(found, 1.25) == 10 and chosen(found, 1.2) == 100 and chosen(found, 1.05) is None
    refused = [{name: row[name] for name in ("seed", "n", "method")} | {"refused": "no"}
               if (row["n"], row["method"]) == (500, "exact:lam=10") else row for row in found]
    assert chosen(refused, 1.25) == 100


def test_the_kept_run_is_one_of_whole_draws_at_each_size():
    about = json.loads(KEPT.read_text())
    means = by_weight(about["rows"])
    assert about["most"] == 1.25 and len(means.index) % 7 == 0 and len(means.index) >= 28
    assert chosen(about["rows"], about["most"]) == 1000 == zu.METHODS["exact"]().lam
    assert zu.METHODS["zerounlearn-gd"]().lam == 0.1  # as released
    for n in (10, 50, 200, 500):
        alike = means.loc[n, "exact:lam=1000"] - means.loc[n, "alphaedit"]
        assert abs(alike[["eff", "gen", "spe"]]).max() <= 0.5 and abs(alike.ppl) < 0.001
