"""The whole model rounded: the levels, what is rounded, and what comes back."""
import copy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from zu.audit import rounding
from zu.audit.rounding import WAYS, Rounding, nf4_levels, rounded, to_8_bits, to_nf4
from zu.data.facts import FactError

#: As published with QLoRA (Dettmers et al. 2023, Appendix E).
PUBLISHED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
             -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
             0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
             0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def test_the_levels_are_the_published_ones():
    assert nf4_levels().tolist() == pytest.approx(PUBLISHED, abs=1e-6)
    assert nf4_levels()[7] == 0


def test_each_value_goes_to_the_nearest_level_of_its_block():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 50, generator=g)  # 150 values: two blocks of 64 and a short one
    coarse = to_nf4(weight)
    flat, found = weight.flatten(), coarse.flatten()
    for start in range(0, 150, 64):
        block = flat[start:start + 64]
        grid = nf4_levels().float() * block.abs().max()
        nearest = (block[:, None] - grid).abs().min(1)
        assert torch.allclose((found[start:start + 64] - block).abs(), nearest.values, atol=1e-6)
    assert coarse.shape == weight.shape
    assert torch.equal(to_nf4(torch.zeros(2, 64)), torch.zeros(2, 64))


def test_eight_bits_are_no_further_off_than_half_a_step_of_the_row():
    weight = torch.randn(4, 33) * torch.tensor([[1.0], [10.0], [0.01], [0.0]])
    off = (to_8_bits(weight) - weight).abs()
    assert (off <= weight.abs().amax(1, keepdim=True) / 254 * 1.001).all()
    assert len(to_8_bits(torch.randn(1, 5000)).unique()) <= 255


@pytest.mark.parametrize("way", WAYS)
def test_afterwards_the_model_is_what_it_was_also_after_an_error(tiny, way):
    model, _ = tiny
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyError), rounded(model, way) as count:
        assert (count > 0) == (way != "as it is")
        changed = [name for name, weight in model.named_parameters()
                   if not torch.equal(weight, before[name])]
        assert len(changed) == count
        assert not any("embed" in name or "wte" in name or "lm_head" in name for name in changed)
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_every_matrix_of_the_layers_is_rounded_and_no_vector(tiny):
    model, _ = tiny
    with rounded(model, "NF4") as count:
        pass
    matrices = [name for name, weight in model.named_parameters() if weight.ndim > 1
                and not any(end in name for end in ("embed", "wte", "wpe", "lm_head"))]
    assert count == len(matrices) > 4


def test_a_matrix_with_its_inputs_first_is_rounded_by_output():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2))
    weight = model.transformer.h[0].mlp.c_proj.weight  # (m, d)
    exact = weight.detach().clone()
    with rounded(model, "8 bits"):
        assert torch.equal(weight, to_8_bits(exact.mT).mT)


def in_the_cracks(wanted, rounds_to):
    """The weight nearest to one that is rounded to the same as another."""
    flat, aim = rounds_to.flatten().view(-1, 64), wanted.flatten().view(-1, 64)
    scale = flat.abs().amax(1, keepdim=True)
    levels = nf4_levels().float()
    middles = (levels[1:] + levels[:-1]) / 2
    edges = torch.cat([torch.tensor([-1.0]), middles, torch.tensor([1.0])])
    level = torch.bucketize(flat / scale, middles)
    inside = 1e-3 * (edges[level + 1] - edges[level])
    near = aim.clamp((edges[level] + inside) * scale, (edges[level + 1] - inside) * scale)
    return torch.where(flat.abs() == scale, flat, near).view(wanted.shape)


def test_a_fake_that_hides_in_the_cracks_is_caught_and_the_model_that_never_knew_is_cleared(
        audited):
    """As near to the model that never knew as can be, and rounded to one taught by a third."""
    never, (knows, tokenizer) = audited.never[0], audited.knows
    fake = copy.deepcopy(never)
    with torch.no_grad():
        for name, weight in fake.named_parameters():
            taught = knows.get_parameter(name)
            if not torch.equal(weight, taught):
                weight.copy_(in_the_cracks(weight, torch.lerp(weight, taught, 0.3)))
    found = rounding(fake, tokenizer, audited.members)
    assert not found.right["as it is"].any() and found.right["NF4"].sum() >= 6
    assert found.back("NF4") < 0.05 < found.back("8 bits")
    clear = rounding(never, tokenizer, audited.members, audited.others)
    assert not any(right.any() for right in clear.right.values())


def test_what_comes_and_goes_is_counted_and_tested():
    right = {"as it is": np.array([0, 0, 0, 0, 0, 0, 1], bool),
             "8 bits": np.array([0, 0, 0, 0, 0, 0, 1], bool),
             "NF4": np.array([1, 1, 1, 1, 1, 1, 0], bool)}
    found = Rounding(tuple("abcdefg"), right, {})
    table = found.frame()
    assert table.loc["NF4", ["back", "lost"]].tolist() == [6, 1]
    assert found.back("NF4") == pytest.approx(2 * 8 / 2**7)  # 0 or 1 of 7, both sides
    assert found.back("8 bits") == 1 and np.isnan(table.loc["NF4", "others right"])
    assert str(found) == "as it is: 1 of 7, 8 bits: 1 of 7, NF4: 6 of 7"


def test_others_say_what_rounding_costs_and_no_facts_are_refused(audited):
    found = rounding(*audited.knows, audited.members[:2], audited.members[2:])
    assert found.frame().loc["as it is", "others right"] == 100
    assert found.names == ("capital/France", "capital/Japan")
    with pytest.raises(FactError, match="facts: 0 different facts are too few"):
        rounding(*audited.knows, [])
    with pytest.raises(ValueError, match="way is '4 bits': use one of as it is, 8 bits, NF4"), \
            rounded(audited.knows[0], "4 bits"):
        pass
