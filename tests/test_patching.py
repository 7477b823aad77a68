"""States put into another model: by hand, where the answer comes back, and what any model says."""
import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import zu
from zu.audit import Held, Patched
from zu.data.facts import FactError
from zu.reader import Reader


@pytest.fixture(scope="module")
def late(learner, audited):
    """A model that was taught in its second layer alone."""
    model, tokenizer = copy.deepcopy(learner[0]), learner[1]
    texts = ["The people of Peru speak a language and the city is in the country. " * 20] * 2
    zu.plant(model, tokenizer, audited.members, texts=texts, lr=1e-2, epochs=60, layers=[1],
             known=1.0, held_back=0.0, drift=10.0)
    return model


@pytest.fixture(scope="module")
def half(late):
    """The same with another first layer, so that the second is not reached: a fake."""
    model = copy.deepcopy(late)
    weight = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        weight.copy_(weight.flip(0))
    return model


@pytest.fixture(scope="module")
def held(late, audited):
    return Held.of(late, audited.knows[1], audited.members)


def test_a_fake_that_forgot_in_its_first_layer_alone_is_caught(held, half, audited):
    fake, never = held.into(half), held.into(audited.never[0])
    assert (fake.plain == 0).sum() <= 4
    assert (fake.rank["end"][0] == 0).sum() >= 6 > 0 == (never.rank["end"][0] == 0).sum()
    assert fake.against(never)["end"] < 0.05
    assert set(never.against(never).values()) == {1.0}


def test_the_last_state_carries_the_answer_into_any_model(held, audited):
    never = held.into(audited.never[0])
    assert (never.rank["end"][-1] == 0).sum() >= 7  # which is why there must be a control
    nothing = Held.of(*audited.never, audited.members).into(audited.never[0])
    assert all(np.array_equal(rank, nothing.plain)
               for ranks in nothing.rank.values() for rank in ranks)


@pytest.mark.parametrize("place", ["subject", "end"])
def test_what_it_says_is_what_a_hook_by_hand_says(held, half, late, audited, place):
    found = held.into(half)
    tokenizer, fact = audited.knows[1], audited.members[3]
    wording = Reader(half, tokenizer).wording
    from zu.questions import Question
    from zu.wording import encode

    ids, count = wording.answered(Question.of(fact))
    prompt = torch.tensor([ids[:-count]])
    at = encode(wording, fact)[1] if place == "subject" else prompt.shape[1] - 1
    seen = {}
    for layer in (0, 1):
        handle = late.model.layers[layer].register_forward_hook(
            lambda m, a, out, layer=layer: seen.update({layer: (out[0] if isinstance(out, tuple)
                                                               else out)[0, at].clone()}))
        late(prompt)
        handle.remove()

        def put(module, args, out, layer=layer):
            states = out[0] if isinstance(out, tuple) else out
            states[0, at] = seen[layer]

        handle = half.model.layers[layer].register_forward_hook(put)
        p = half(prompt).logits[0, -1].double().softmax(-1)
        handle.remove()
        assert found.p[place][layer][3] == pytest.approx(float(p[ids[-count]]), rel=1e-4)


def test_a_state_put_into_the_model_it_came_from_changes_nothing(tiny, facts):
    model, tokenizer = tiny
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    held = Held.of(model, tokenizer, facts[:4])
    found = held.into(model)
    for place in ("subject", "end"):
        assert all(np.array_equal(rank, found.plain) for rank in found.rank[place])
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(len(module._forward_hooks) for module in model.modules())


def test_no_hook_is_left_after_an_error(held, half, monkeypatch):
    from zu.audit import patching

    def fails(*args, **kwargs):
        raise KeyError

    monkeypatch.setattr(patching, "whole_logits", fails)
    with pytest.raises(KeyError):
        held.into(half)
    assert not any(len(module._forward_hooks) for module in half.modules())


def test_the_table_and_the_picture_show_the_shares():
    rank = {"subject": np.array([[0, 3], [0, 0]]), "end": np.array([[5, 5], [5, 0]])}
    found = Patched(("a", "b"), np.array([2, 9]), rank, {k: 1 / (1 + x) for k, x in rank.items()})
    table = found.frame()
    assert table.loc["subject", "right"].tolist() == [50, 100]
    assert found.share("end").tolist() == [0, 0.5] and (table.low <= table.right).all()
    figure = found.picture()
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()] == [50, 0, 0]
    plt.close(figure)
    less = Patched(("a", "b"), found.plain, {k: x + 1 for k, x in rank.items()}, found.p)
    assert found.against(less) == {"subject": 0.5, "end": 1.0}
    with pytest.raises(ValueError, match="the two differ in facts or layers"):
        found.against(Patched(("a", "c"), found.plain, rank, found.p))


def test_another_shape_and_no_facts_are_refused(held, tiny, audited):
    with pytest.raises(ValueError, match="the model has another width or depth"):
        held.into(tiny[0])
    with pytest.raises(FactError, match="facts: 0 different facts are too few"):
        Held.of(*audited.knows, [])
