"""Subjects that end in an attention sink and therefore hold nothing to forget.

A model parks unused attention on the first token. The state of such an *attention sink* is tens of
times as long as any other, and says nothing about its word; sometimes the second token becomes a
sink too. A subject that ends there cannot be edited, since its target would be as far away as its
state is long.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .batches import collate
from .data.facts import Fact, FactError
from .reader import trace
from .wording import Wording, encode, sink

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Sinks are among this many first tokens.
NEAR = 4
#: A token is a sink if its state is more than this many times as long as behind one more token. On
#: the embedded model other states are 0.9 to 1.2 times as long, and sinks at least 48 times.
LONGER = 5.0


def found(
    model: PreTrainedModel, wording: Wording, facts: Sequence[Fact], layer: int
) -> dict[int, float]:
    """The facts whose subject's last token is an attention sink in their own prompt.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    wording : Wording
        How the facts are asked.
    facts : sequence of Fact
        The facts to check.
    layer : int
        The layer after which the states are compared.

    Returns
    -------
    dict of int to float
        By the fact's number, counted from 0, the length of its state divided by the length of the
        same token's state behind one more token.

    References
    ----------
    Xiao et al. 2024 (attention sinks); Sun et al. 2024 (massive activations).
    """
    numbers, rows, behind = [], [], []
    for number, fact in enumerate(facts):
        ids, position = encode(wording, fact)
        if position < NEAR:
            read = ids[:position + 1]
            numbers.append(number)
            rows.append((read, position))
            behind.append(([sink(wording.tokenizer), *read], position + 1))
    if not numbers:
        return {}
    states = trace(model, collate([*rows, *behind], model.device), [layer]).hidden[layer]
    length, usual = states.float().norm(dim=1).chunk(2)  # (2 k, d) -> (2 k,) -> (k,) and (k,)
    times = (length / usual).tolist()
    return {i: x for i, x in zip(numbers, times, strict=True) if x > LONGER}


def refuse(
    model: PreTrainedModel, wording: Wording, facts: Sequence[Fact], layer: int
) -> None:
    """Raise `FactError` if a fact's subject ends in an attention sink.

    Parameters
    ----------
    model, wording, facts, layer
        As in `found`.

    Raises
    ------
    FactError
        If there is such a fact; the message gives the facts' numbers and the remedy.
    """
    sinks = found(model, wording, facts, layer)
    if sinks:
        which = ", ".join(f"{i + 1} of {len(facts)} (id '{facts[i].id or '?'}')" for i in sinks)
        raise FactError(
            f"the subject of fact {which} ends where the model takes the text to begin: its state "
            f"after layer {layer} is {max(sinks.values()):.0f} times as long as behind other words "
            "(an attention sink) and says nothing of the subject, so no edit can make the model "
            "forget it there. Put words before {} in the prompt ('The city of {} ...' for '{} "
            "...'), or leave the fact out"
        )
