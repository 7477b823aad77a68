"""Targets from one gradient, and from what unknown subjects look like."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import zu
from zu import reader, targets, unsearched
from zu.data import invented
from zu.data.facts import Fact, FactError
from zu.targets import Search


@pytest.fixture
def tiny(folders):
    return zu.load_model(folders["qwen3"], device="cpu")


class Slope:
    """A loss that falls along one direction a fact, from 1 to 0 at some length of δ."""

    prefixes = 1

    def __init__(self, directions, lengths, h):
        self.directions, self.lengths, self.h = directions, lengths, h

    def loss(self, delta, active):
        along = (delta * self.directions[active]).sum((1, 2)) / self.lengths[active]
        return (1 - along).abs(), 0 * along


def slope(lengths):
    h = torch.ones(len(lengths), 1, 4)
    directions = torch.nn.functional.normalize(torch.arange(1.0, 1 + h.numel()).view_as(h), dim=2)
    return Slope(directions, torch.tensor(lengths), h)


def test_the_shortest_length_along_the_gradient_that_does_is_taken():
    problem = slope([0.25, 0.5, 1.0, 5.0])  # ‖h‖ is 2: lengths of 0.25 to 2 are tried
    how = Search(tolerance=0.1, clamp=1.0, weight_decay=0.0)
    found = unsearched.along_gradient(problem, how)
    lengths = torch.tensor([0.25, 0.5, 1.0, 2.0])[:, None, None]  # the last: the longest
    torch.testing.assert_close(found, lengths * problem.directions)
    loose = unsearched.along_gradient(problem, replace(how, tolerance=0.6))
    torch.testing.assert_close(loose[2], 0.5 * problem.directions[2])


def test_between_the_lengths_the_one_with_the_least_loss_is_taken():
    problem = slope([0.6])
    how = Search(tolerance=1e-3, clamp=1.0, weight_decay=0.0)
    torch.testing.assert_close(unsearched.along_gradient(problem, how), 0.5 * problem.directions)


def test_a_loss_at_the_tolerance_is_not_under_it():
    how = Search(tolerance=0.5, clamp=1.0, weight_decay=0.0)
    problem = slope([1.0])
    problem.loss = lambda delta, active: (1 - (delta * problem.directions).sum((1, 2)) / 2,
                                          0 * delta.sum((1, 2)))  # 0.5 at length 1, of 2
    found = unsearched.along_gradient(problem, how)
    torch.testing.assert_close(found, 1.25 * problem.directions)


def test_the_divergence_and_the_length_count_as_in_the_search():
    """Both pull away from where the target's own loss falls."""
    how = Search(tolerance=1e-3, clamp=1.0, weight_decay=0.0)
    problem = slope([2.0])
    along, across = problem.directions, torch.tensor([[[1.0, -1.0, 0.0, 0.0]]])
    problem.loss = lambda delta, active: (
        9 - (delta * along).sum((1, 2)) / 4, (delta * across).sum((1, 2)))
    found = unsearched.along_gradient(problem, how)
    pull = along / 4 - across
    torch.testing.assert_close(found, 2 * pull / pull.norm())  # falls all the way: the longest
    problem.loss = lambda delta, active: (
        1 - (delta * along).sum((1, 2)) / 2, (delta * along).sum((1, 2)) ** 2 / 4)
    torch.testing.assert_close(unsearched.along_gradient(problem, how), along)  # the least is at 1
    problem.loss = lambda delta, active: (
        1 - (delta * along).sum((1, 2)) / 2, 0 * delta.sum((1, 2)))
    weighed = unsearched.along_gradient(problem, replace(how, weight_decay=4.0))
    torch.testing.assert_close(weighed, along / 4)  # 4 ‖δ‖ / ‖h‖² rises by 1 where the loss falls


def test_the_size_of_a_change_is_its_length_over_the_squared_length_of_the_state():
    delta = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[0.0, 0.0], [6.0, 8.0]]])
    norm = torch.tensor([[[2.0], [1.0]], [[1.0], [5.0]]])
    found = unsearched.size_of(delta, norm, Search(weight_decay=0.5))
    torch.testing.assert_close(found, torch.tensor([0.5 * (5 / 4 + 2 / 1), 0.5 * 10 / 25]))


def test_lengths_are_tried_with_the_bare_prompt_alone():
    problem = slope([1.0])
    whole = SimpleNamespace(h=problem.h, prefixes=2, bare=lambda: problem,
                            loss=lambda *about: pytest.fail("prompts behind prefixes are asked"))
    how = Search(tolerance=0.1, clamp=1.0, weight_decay=0.0)
    torch.testing.assert_close(unsearched.along_gradient(whole, how), problem.directions)


def test_where_nothing_pulls_delta_is_zero():
    problem = slope([1.0])
    problem.loss = lambda delta, active: (1 + 0 * delta.sum((1, 2)), 0 * delta.sum((1, 2)))
    assert not unsearched.along_gradient(problem, Search()).any()


@pytest.mark.parametrize("aim, layer", [("hidden", 2), ("value", (1, 3))], ids=str)
def test_an_unknown_one_is_the_mean_over_invented_subjects_in_the_same_prompt(
        tiny, facts, aim, layer):
    model, tokenizer = tiny
    how = Search(by="unknown", aim=aim, clamp=100.0)
    found = targets.optimise(model, tokenizer, facts, layer, how, cache=False)
    layers = [layer] if aim == "hidden" else layer
    for i, fact in enumerate(facts):
        rows = [reader.encode(tokenizer, replace(fact, subject=name))
                for name in invented.names(targets.UNKNOWN)]
        seen = reader.trace(model, reader.collate(rows), layers)
        kind = seen.hidden if aim == "hidden" else seen.values
        mean = torch.stack([kind[x].mean(0) for x in layers])
        torch.testing.assert_close(found.z[i].view_as(mean), mean, rtol=1e-4, atol=1e-5)


def test_the_way_to_an_unknown_one_is_cut_to_the_longest(tiny, facts):
    model, tokenizer = tiny
    how = Search(by="unknown", clamp=0.1)
    found = targets.optimise(model, tokenizer, facts, 2, how, cache=False)
    length = (found.z - found.h).norm(dim=1) / found.h.norm(dim=1)
    torch.testing.assert_close(length, torch.full_like(length, 0.1))


def test_a_fact_without_a_subject_has_no_unknown_one(tiny):
    model, tokenizer = tiny
    fact = Fact("", "The capital of France is", "Paris")
    with pytest.raises(FactError, match='by="unknown" puts other subjects .* has no subject'):
        targets.optimise(model, tokenizer, [fact], 2, Search(by="unknown"))


@pytest.mark.parametrize("by", ["gradient", "unknown"])
def test_a_method_takes_targets_without_a_search_and_says_their_loss(tiny, facts, by):
    model, tokenizer = tiny
    before = {name: x.clone() for name, x in model.state_dict().items()}
    moments = zu.moments(
        model, tokenizer, [1, 2], ["All the people of the city. " * 60], tokens=256)
    asked = zu.Reader(model, tokenizer, prefixes=("", "A "))
    edit = zu.unlearn(model, tokenizer, facts, "memit", layers=[1, 2], moments=moments, by=by,
                      alpha=1.0, n_prefixes=1, reader=asked, check=False)
    assert edit.settings["by"] == by and edit.changed
    edit.restore()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    found = zu.find_targets(model, tokenizer, facts, 2, by=by, n_prefixes=0, steps=3)
    assert found.loss.shape == (3, len(facts)) and bool(found.loss.isfinite().all())
    assert torch.equal(found.loss[0], found.loss[-1])  # no step was taken
    searched = zu.find_targets(model, tokenizer, facts, 2, n_prefixes=0, steps=3)
    assert not torch.equal(found.z, searched.z)


def test_invented_names_are_always_the_same_and_none_comes_twice():
    names = invented.names(500, seed=3)
    assert len(set(names)) == 500 and names == invented.names(500, seed=3)
    assert names[:20] == invented.names(20, seed=3) != invented.names(20, seed=4)
    assert all(len(name.split()) == 2 and name.isascii() and name == name.title() for name in names)


def test_an_unknown_one_is_asked_of_no_more_rows_than_there_are_prompts(monkeypatch):
    """Facts of one relation share their prompts."""
    asked = []

    def trace(model, batch, layers):
        asked.append(batch)
        return SimpleNamespace(hidden={2: torch.eye(len(batch), 3)})

    monkeypatch.setattr(unsearched, "trace", trace)
    monkeypatch.setattr(unsearched, "collate", lambda rows, device: rows)
    prompts = [[([1, 2], 1), ([1, 3], 1)], [([1, 2], 1), ([1, 3], 1)], [([1, 4], 1), ([1, 4], 1)]]
    place = targets.Place.of("hidden", 2)
    found = unsearched.towards_unknown(
        SimpleNamespace(device="cpu"), place, prompts, torch.zeros(3, 1, 3), Search())
    assert asked == [[([1, 2], 1), ([1, 3], 1), ([1, 4], 1)]]
    assert found.shape == (3, 1, 3) and not found.any()  # h is of no length, so is the longest δ
    at = torch.tensor([[[0.5, 0.5, 0.0]]]).repeat(3, 1, 1)  # where the first two facts' mean is
    found = unsearched.towards_unknown(SimpleNamespace(device="cpu"), place, prompts, at, Search())
    assert bool(found.isfinite().all()) and not found[:2].any() and found[2].any()
    near = torch.tensor([[[0.0, 0.0, 0.6]]]).repeat(3, 1, 1)
    found = unsearched.towards_unknown(
        SimpleNamespace(device="cpu"), place, prompts, near, Search(clamp=0.1))
    torch.testing.assert_close(found[2, 0], torch.tensor([0.0, 0.0, 0.06]))
