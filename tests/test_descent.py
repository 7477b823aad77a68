"""Gradient methods read exactly the answers' tokens, and leave no trace on the model they read."""
import pytest
import torch
import torch.nn.functional as F

import zu
from zu import descent, methods, models

NAMES = ["ga", "ft", "graddiff", "npo", "simnpo"]
RETAIN = {"graddiff", "simnpo"}


def objective_of(name, tokenizer, facts, texts, **settings):
    job = methods.Job(zu.Reader(None, tokenizer), list(facts), (2,))
    if name in RETAIN:
        settings["retain"] = texts
    return methods.settings_for(name, **settings).objective(job)


def by_hand(model, tokenizer, facts, texts, name, layer, lr, steps):
    """Plain gradient descent, one sequence at a time, no padding, on `F.cross_entropy` of whole
    forward passes."""
    weight, eos = models.down_proj(model, layer).weight, tokenizer.eos_token_id
    weight.requires_grad_(True)
    reference, losses = {}, []
    for _ in range(steps):
        loss = 0.0
        for i, fact in enumerate(facts):
            prompt = tokenizer(fact.text)["input_ids"]
            full = ([*prompt, eos] if name == "ft"
                    else tokenizer(fact.text + " " + fact.target)["input_ids"])
            # here no token spans both; then the answer is what is left
            assert full[:len(prompt)] == prompt
            ids = torch.tensor([full])
            logits = model(ids).logits[0, len(prompt) - 1:-1]
            nll = F.cross_entropy(logits, ids[0, len(prompt):],
                                  reduction="sum" if name == "npo" else "mean")
            if name == "npo":
                ratio = (-nll - reference.setdefault(i, -nll.detach())).exp()
                loss = loss + 2 / 0.1 * torch.log(1 + ratio ** 0.1) / len(facts)
            elif name == "simnpo":  # β = 2.5, γ = 0; nll is a mean over the answer's tokens
                loss = loss - 2 / 2.5 * F.logsigmoid(2.5 * nll) / len(facts)
            else:
                loss = loss + (nll if name == "ft" else -nll) / len(facts)
        for text in texts if name in RETAIN else ():
            ids = torch.tensor([tokenizer(text)["input_ids"][:64]])
            loss = loss + F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]) / len(texts)
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= lr * slope
    return weight.detach(), slope, losses


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_a_plain_cross_entropy(
        tiny, facts, texts, name, monkeypatch):
    model, tokenizer = tiny
    # plain steps show the gradient's size
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    old = models.down_proj(model, 2).weight.clone()
    objective = objective_of(name, tokenizer, facts, texts)
    for tokens in (4096, 20):  # one batch, or padded parts whose gradients add up
        how = descent.Schedule(3, 0.05, tokens=tokens)
        new, losses = descent.descend(model, objective, [2], how)
        other, _ = zu.load_model(model.config._name_or_path, device="cpu")
        hand, slope, plain = by_hand(other, tokenizer, facts, texts, name, 2, 0.05, 3)
        assert torch.allclose(losses, torch.tensor(plain), rtol=1e-4)
        assert (new[2] - hand).norm() < 1e-4 * (hand - old).norm() and slope.norm() > 1e-3
    assert torch.equal(models.down_proj(model, 2).weight, old)


@pytest.mark.parametrize("name", ["ga", "ft", "npo"])
def test_in_batches_a_step_sees_so_many_rows_in_the_order_in_which_they_come(
        tiny, facts, name, monkeypatch):
    """By hand: two facts, two facts, one fact, and again; each step's loss is their mean."""
    model, tokenizer = tiny
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    objective = objective_of(name, tokenizer, facts, None)
    rows, seen = objective.rows, []
    how = descent.Schedule(2, 0.05, batch=2)
    new, losses = descent.descend(model, objective, [2], how, watch=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]  # steps, not rounds
    other, _ = zu.load_model(model.config._name_or_path, device="cpu")
    weight = models.down_proj(other, 2).weight.requires_grad_(True)

    def nll(ids, count):
        said = other(torch.tensor([ids])).logits[0, -count - 1:-1]
        return F.cross_entropy(said, torch.tensor(ids[-count:]), reduction="sum")

    start, old, plain = [nll(*row).detach() for row in rows], weight.detach().clone(), []
    for some in 2 * [(0, 1), (2, 3), (4,)]:
        each = []
        for i in some:
            if name == "npo":  # the reference is the model before the first step of all
                ratio = (start[i] - nll(*rows[i])).exp()
                each.append(2 / 0.1 * torch.log(1 + ratio ** 0.1))
            else:
                each.append({"ga": -1, "ft": 1}[name] * nll(*rows[i]) / rows[i][1])
        loss = sum(each) / len(some)
        plain.append(loss.item())
        (slope,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 0.05 * slope
    assert torch.allclose(losses, torch.tensor(plain), rtol=1e-4)
    assert (new[2] - weight).norm() < 1e-4 * (weight - old).norm() and (weight != old).any()


def test_a_batch_of_all_rows_or_more_is_one_step(tiny, facts):
    model, tokenizer = tiny
    objective = objective_of("ga", tokenizer, facts, None)
    whole, losses = descent.descend(model, objective, [2], descent.Schedule(3, 1e-3))
    for size in (5, 99):
        new, same = descent.descend(model, objective, [2], descent.Schedule(3, 1e-3, batch=size))
        assert torch.equal(new[2], whole[2]) and torch.equal(same, losses)


def test_a_descent_to_a_goal_ends_after_the_round_in_which_its_loss_fell_under_stop(tiny, facts):
    model, tokenizer = tiny
    objective = objective_of("ft", tokenizer, facts, None)
    _, losses = descent.descend(model, objective, [2], descent.Schedule(12, 5e-3))
    assert (losses[1:] < losses[:-1]).all()  # of all rows together it is the loss itself
    for last in (0, 4):
        stop = float(losses[last]) + 1e-6
        new, fewer = descent.descend(model, objective, [2], descent.Schedule(12, 5e-3, stop=stop))
        assert torch.equal(fewer, losses[:last + 1])
        short, _ = descent.descend(model, objective, [2], descent.Schedule(last + 1, 5e-3))
        assert torch.equal(new[2], short[2])
    _, every = descent.descend(
        model, objective, [2], descent.Schedule(12, 5e-3, stop=float(losses[-1]) - 1e-6))
    assert len(every) == 12


def test_in_batches_the_loss_that_ends_a_descent_is_that_of_all_rows(tiny, facts):
    """Each row's loss as it was when the row was seen."""
    model, tokenizer = tiny
    objective = objective_of("ft", tokenizer, facts, None)
    _, losses = descent.descend(model, objective, [2], descent.Schedule(6, 5e-3, batch=2))
    # (18,) -> (6, 3): a step's loss is the mean over its rows, of which there are 2, 2 and 1
    rounds = (losses.view(6, 3) * torch.tensor([0.4, 0.4, 0.2])).sum(1)
    assert (rounds[1:] < rounds[:-1]).all()
    how = descent.Schedule(6, 5e-3, batch=2, stop=float(rounds[2]) + 1e-5)
    _, fewer = descent.descend(model, objective, [2], how)
    assert torch.equal(fewer, losses[:9])


@pytest.mark.parametrize("name", ["ga", "npo"])
def test_what_pulls_nothing_up_takes_all_its_steps_whatever_stop_says(tiny, facts, name):
    model, tokenizer = tiny
    objective = objective_of(name, tokenizer, facts, None)
    assert len(descent.descend(model, objective, [2], descent.Schedule(4, 1e-3, stop=1e9))[1]) == 4


def test_soft_caps_and_sliding_windows_are_the_model_s_own(gemma, facts, texts):
    model, tokenizer = gemma
    objective = objective_of("ga", tokenizer, facts, None)
    _, losses = descent.descend(model, objective, [2], descent.Schedule(1, 1e-3))
    other, _ = zu.load_model(model.config._name_or_path, device="cpu")
    plain = by_hand(other, tokenizer, facts, texts, "ga", 2, 1e-3, 1)[2]
    assert torch.allclose(losses, torch.tensor(plain), rtol=1e-4)


def test_rows_hold_the_prompt_with_its_bos_and_exactly_the_answer(tiny, facts):
    _, tokenizer = tiny
    for fact, (ids, count) in zip(
            facts, descent.answer_rows(tokenizer, facts, "truth"), strict=True):
        assert tokenizer.decode(ids[-count:]).strip() == fact.target
        assert (ids[:-count] == tokenizer(fact.text)["input_ids"]
                and ids.count(tokenizer.bos_token_id) <= 1)
        assert tokenizer.bos_token_id is None or ids[0] == tokenizer.bos_token_id
    for fact, (ids, count) in zip(facts, descent.answer_rows(tokenizer, facts, "eos"), strict=True):
        assert count == 1 and ids == [*tokenizer(fact.text)["input_ids"], tokenizer.eos_token_id]


@pytest.fixture
def untouched(tiny):
    """Holds that weights, flags, gradients and hooks are afterwards what they were before."""
    model, _ = tiny
    models.down_proj(model, 1).weight.requires_grad_(True)
    before = {n: (w.clone(), w.requires_grad) for n, w in model.named_parameters()}
    yield
    for n, w in model.named_parameters():
        assert torch.equal(w, before[n][0]) and w.requires_grad == before[n][1] and w.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flags_and_hooks_are_as_before(tiny, facts, name, untouched):
    zu.unlearn(*tiny, facts, name, layers=[2], steps=5).restore()


@pytest.mark.parametrize("name", NAMES)
def test_they_are_so_after_an_interrupt_too(tiny, facts, name, untouched, monkeypatch):
    real, calls = descent.Objective.loss, []

    def broken(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(descent.Objective, "loss", broken)
    with pytest.raises(KeyboardInterrupt):
        zu.unlearn(*tiny, facts, name, layers=[2], steps=5)


@pytest.mark.parametrize("name", NAMES)
def test_exploding_steps_raise_and_leave_the_model_as_it_was(tiny, facts, name):
    model, tokenizer = tiny
    before = {n: w.clone() for n, w in model.state_dict().items()}
    for lr, message in ((3e37, "not finite"), (1e4, "norm of")):
        with pytest.raises(zu.EditError, match=message):
            zu.unlearn(model, tokenizer, facts, name, layers=[2], lr=lr, steps=2 if lr > 1e9 else 1)
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


def test_each_loss_pulls_where_it_says(tiny, facts, texts):
    model, tokenizer = tiny

    def after(name, **settings):
        with zu.unlearn(model, tokenizer, facts, name, layers=[2], **settings):
            truth = zu.evaluate(model, tokenizer, facts).prob_eff
            return truth, zu.perplexity(model, tokenizer, texts, tokens=200, window=64, stride=32)

    start = zu.evaluate(model, tokenizer, facts).prob_eff
    ga, npo, kept = after("ga"), after("npo"), after("graddiff", retain=texts)
    assert max(ga[0], npo[0], kept[0]) < 0.5 * start
    assert kept[1] < ga[1]  # the retained text is predicted better with it in the loss
    rows = descent.answer_rows(tokenizer, facts, "eos")
    pull = descent.Objective(rows, [-0.2] * 5)
    _, losses = descent.descend(model, pull, [2], descent.Schedule(25, 5e-4))
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="ga: setting 'retain' is not usable"):
        after("ga", retain=texts)
    with pytest.raises(ValueError, match="two tokens or more"):
        after("graddiff", retain=[])


def test_texts_to_retain_that_are_cut_are_counted_once(tiny, recwarn):
    longest = descent.RETAIN[1]
    texts = ["one two three", "one two three " * longest, "secretly " * 2 * longest]
    rows = descent.retain_rows(tiny[1], texts, 0)
    assert [len(ids) for ids, _ in rows][1:] == [longest] * 2
    assert [counted for _, counted in rows] == [len(ids) - 1 for ids, _ in rows]
    (said,) = (str(one.message) for one in recwarn)
    assert "2 of 3 texts are longer than 64 tokens" in said and "secretly" not in said
    recwarn.clear()
    descent.retain_rows(tiny[1], texts[:1], 0)
    descent.retain_rows(tiny[1], None, 0)  # zu's own choice of prose is no surprise
    assert not list(recwarn)
