"""What the chapter on causal tracing draws and tells is what its table of effects says."""
import math

import numpy as np
import pytest
import torch

from zu.book import tracing
from zu.book.tracing import END, SUBJECT, Effects, Rule, choose, gap
from zu.book.verdicts import NO, UNDECIDED, YES
from zu.experiment.tracing import ROLES, _branches, _Job

pd = pytest.importorskip("pandas")
WORDS = ["The", "capital", "of", "Costa", "Rica", "is"]
DEPTH = 6


@pytest.fixture(autouse=True)
def agg():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    yield
    plt.close("all")


def table(facts=8, ends=True):
    """Effects of facts whose subject hands over to the end at layer 4, and whose MLP peaks at 1."""
    rows = []
    for fact in range(facts):
        for kind in ("hidden", "mlp", "attention"):
            for layer in range(DEPTH):
                hidden = kind == "hidden"
                mlp = [0.3, 0.5, 0.2, 0.1, 0.0, 0.0][layer] if kind == "mlp" else 0.0
                rows.append((fact, kind, layer, 3, ROLES[0], 0.02 * hidden))
                rows.append((fact, kind, layer, 4, SUBJECT,
                             (0.6 + 0.01 * fact if layer < 4 else 0.01) if hidden else mlp))
                if ends:
                    rows.append((fact, kind, layer, 5, END,
                                 0.1 * hidden if layer < 4 else 0.7 * hidden))
    frame = pd.DataFrame(rows, columns=["fact", "kind", "layer", "position", "role", "effect"])
    return frame.assign(clean=0.8, corrupted=0.1)


def test_noise_stays_right_of_the_subject_and_a_restoration_above_and_right_of_itself():
    cells = tracing.run_cells(WORDS, (3, 4), 5, (4, 2))
    kinds = cells.set_index(["run", "token", "layer"]).kind
    assert (kinds[0] == "as in the clean run").all()
    for run in (1, 2):
        assert [kinds[run, t, 0] == "noise added" for t in range(6)] == [0, 0, 0, 1, 1, 0]
        assert all(kinds[run, t, i] == "as in the clean run" for t in range(3) for i in range(6))
    assert "restored" not in {*kinds[1]} and kinds[2, 4, 2] == "restored"
    follows = {(t, i) for (t, i), kind in kinds[2].items() if kind.startswith("follows")}
    assert follows == {(t, i) for t in (4, 5) for i in (3, 4, 5)}
    figure = tracing.draw_runs(cells)
    boxes = [x for x in figure.axes[0].patches if hasattr(x, "get_boxstyle")]
    assert len([x for x in boxes if x.get_width() == 0.8]) == len(cells) == 3 * 36


def test_branches_lie_and_see_as_those_of_the_sweep():
    jobs = [(4, 1), (4, 3), (5, 4)]
    cells = tracing.branch_cells(WORDS, 3, 5, jobs)
    swept = _branches([_Job(start, start, "hidden", at, start - 1) for at, start in jobs],
                      len(WORDS), torch.device("cpu"))
    last = cells[cells.layer == 4].sort_values("place")
    assert last.token.to_list() == swept.at.tolist()
    causal = swept.at <= swept.at[:, None]
    assert tracing.branch_mask(cells).tolist() == (swept.tree & causal).tolist()
    assert cells[cells.branch > 0].groupby("branch").layer.min().to_list() == [1, 3, 4]
    assert (cells.kind == "restored").sum() == len(jobs)
    assert len(tracing.draw_branches(cells).axes) == 2


def test_branches_compute_what_their_cells_say():
    depth, length, first = 3, 4, 2
    jobs = [(t, start) for layer in range(depth) for start in (layer + 1, layer, layer)
            for t in range(first, length)]
    runs, branches = tracing.computed([(length, first)], depth, width=1)
    cells = tracing.branch_cells(WORDS[:length], first, depth, sorted(jobs, key=lambda job: job[1]))
    assert branches == len(cells) and runs == len(jobs) * length * depth


def test_means_are_over_tokens_of_a_role_and_then_over_facts():
    frame = table(2)
    twice = frame[frame.role == SUBJECT].assign(position=9, effect=0.0)
    effects = Effects(pd.concat([frame, twice[twice.fact == 0]]))
    assert effects.mean.loc[("hidden", SUBJECT), 0] == pytest.approx((0.6 / 2 + 0.61) / 2)
    assert effects.facts.total.to_list() == pytest.approx([0.7, 0.7])
    assert effects.mean.loc[("hidden", ROLES[1])].isna().all()


def test_peaks_the_handover_and_other_tokens_are_found():
    effects = Effects(table())
    assert effects.handover() == 4 and effects.depth == DEPTH
    assert effects.peak("mlp", SUBJECT) == (1, 0.5)
    assert effects.peak("mlp", SUBJECT, start=2) == (2, pytest.approx(0.2))
    role, _, value = effects.others()
    assert (role, value) == (ROLES[0], pytest.approx(0.02))
    assert effects.at("mlp", SUBJECT, [1, 2]).to_list() == pytest.approx([0.35] * 8)


def test_prompts_that_end_in_their_subject_have_no_handover_and_no_error():
    effects = Effects(table(ends=False))
    assert effects.handover() == DEPTH
    layer, value = effects.peak("hidden", END)
    assert layer == 0 and math.isnan(value)
    assert gap(effects.at("hidden", END, 0)) == pytest.approx((math.nan,) * 3, nan_ok=True)
    for draw in (tracing.draw_map(effects), tracing.draw_lines(tracing.bands(effects), [1, 2])):
        assert len(draw.axes) >= 2


def test_a_gap_is_paired_in_points_and_has_no_interval_for_few_facts():
    one, other = pd.Series([0.5, 0.7] * 4), pd.Series([0.2, 0.4] * 4)
    assert gap(one, other) == pytest.approx((30, 30, 30))  # pair by pair they differ by the same
    assert gap(one, other, share=2).value == pytest.approx(0)
    few = gap(one[:4], other)
    assert few.value == pytest.approx(30) and math.isnan(few.low) and math.isnan(few.high)
    assert tracing.points(few) == "30.0 points, of too few facts"
    assert tracing.points(gap(one, other)).endswith("] points")


def test_three_layers_are_chosen_by_their_mean_and_numbered_by_their_columns():
    frame = pd.DataFrame(np.tile([0.0, 0.1, 0.5, 0.4, 0.3, 0.0], (6, 1)), columns=range(4, 10))
    assert choose(frame) == Rule(6, 6, 6, pytest.approx(0.4))
    assert choose(frame.iloc[:, :2]) == Rule(4, 4, 4, pytest.approx(0.05))
    mixed = pd.DataFrame([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1.01]])
    assert (choose(mixed).low, choose(mixed).high) == (0, 3)
    with pytest.raises(ValueError, match="no effects to choose by: 0 facts"):
        choose(frame[:0])


def test_a_rule_picks_the_edited_layers_only_if_all_its_draws_do():
    assert tracing.picks(Rule(3, 3, 4, 0.1), [5, 6, 7]) == YES
    assert tracing.picks(Rule(2, 2, 3, 0.1), [5, 6, 7]) == UNDECIDED
    assert tracing.picks(Rule(1, 0, 2, 0.1), [5, 6, 7]) == NO


def test_the_table_has_a_row_per_rule_for_the_edited_layers_and_for_the_papers():
    effects = Effects(table())
    rules = {"a rule": choose(effects.matrix("mlp", SUBJECT))}
    found = tracing.layer_table(rules, effects, [2, 3])
    assert found.loc["a rule", "layers"] == "0 to 2" and len(found) == 1 + 2 + 3
    assert found.loc["edited here, at the subject's last token", "effect"] == pytest.approx(0.15)
    assert found.loc["edited in the paper, Qwen3-4B", "share of depth"] == pytest.approx(10 / 36)
    shown = tracing.as_text(found)
    assert shown.loc["a rule"].to_list() == ["0 to 2", "0.17", "0 to 0", "0.333"]
    assert "nan" not in " ".join(shown.to_numpy().ravel())


def test_bars_of_single_layers_are_their_means():
    effects = Effects(table())
    alone = effects.matrix("mlp", SUBJECT)
    (axis,) = tracing.draw_alone(alone, alone).axes
    assert [bar.get_height() for bar in axis.patches] == pytest.approx(alone.mean().to_list())
