"""Where is it cut? States of the model that knows, put into the one that forgot, layer by layer."""
from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..batches import Batch, collate
from ..data.facts import Fact
from ..layouts import known
from ..modes import settles
from ..passes import hooks, states_of, whole_logits
from ..questions import Question
from ..reader import Reader
from ..scores import mcnemar, wilson
from ..wording import Wording, encode
from .asking import answered, distinct, frame, names_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Where states are put: at the subject's last token, and where the answer is said.
PLACES = ("subject", "end")


@dataclass(frozen=True)
class Patched:
    """What a model says with another model's state at one token after one layer.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places in the list.
    plain : array, (n,)
        The rank of the answer's first token with nothing put in; 0 is the likeliest.
    rank : dict of str to array, (layers, n)
        By place of `PLACES`, the same with the state put in after each layer.
    p : dict of str to array, (layers, n)
        The probability of that token.
    """

    names: tuple[str, ...]
    plain: np.ndarray
    rank: dict[str, np.ndarray]
    p: dict[str, np.ndarray]

    def share(self, place: str) -> np.ndarray:
        """The share of facts whose answer is the likeliest, by layer.

        Parameters
        ----------
        place : str
            One of `PLACES`.

        Returns
        -------
        array, (layers,)
            0 to 1.
        """
        return (self.rank[place] == 0).mean(1)

    def against(self, never: Patched) -> dict[str, float]:
        """p of the exact sign test against a model that never knew, into which the same was put.

        Late states carry the answer with them, whoever reads them, so that a model that never knew
        says it too. For each fact the two are compared by the number of layers after which the
        answer is the likeliest; the test counts the facts for which one has more.

        Parameters
        ----------
        never : Patched
            The same states put into the model that never knew.

        Returns
        -------
        dict
            By place, the two-sided p; 1 if the models differ in no fact.

        Raises
        ------
        ValueError
            If the two were not asked the same.
        """
        mine, theirs = self.rank[PLACES[0]].shape, never.rank[PLACES[0]].shape
        if self.names != never.names or mine != theirs:
            raise ValueError("the two differ in facts or layers: put the same states into both")
        found = {}
        for place in PLACES:
            more = (self.rank[place] == 0).sum(0) - (never.rank[place] == 0).sum(0)
            found[place] = mcnemar(int((more < 0).sum()), int((more > 0).sum()))
        return found

    def frame(self) -> Any:
        """A table with a row for each place and layer (needs pandas).

        Returns
        -------
        pandas.DataFrame
            By "place": "layer", "right", "low" and "high" in percent, with Wilson's interval, and
            "p", the answer's mean probability.
        """
        rows = []
        for place in PLACES:
            for layer, hits in enumerate((self.rank[place] == 0).sum(1).tolist()):
                low, high = wilson(hits, len(self.names))
                rows.append({"place": place, "layer": layer, "right": 100 * hits / len(self.names),
                             "low": low, "high": high, "p": self.p[place][layer].mean()})
        return frame(rows, "place")

    def picture(self) -> Any:
        """The shares by layer, a curve per place with its interval (needs matplotlib).

        Returns
        -------
        Figure
            One panel.
        """
        plt = importlib.import_module("matplotlib.pyplot")  # which only a picture needs
        figure, axis = plt.subplots(figsize=(7.0, 3.0))
        table = self.frame()
        looks = zip(PLACES, ("#44AA99", "#CC6677"), ("-", "--"), strict=True)
        for place, colour, dash in looks:
            rows = table.loc[place]
            axis.plot(rows.layer, rows.right, dash, color=colour,
                      label=f"at the {'subject' if place == 'subject' else 'end of the prompt'}")
            axis.fill_between(rows.layer, rows.low, rows.high, color=colour, alpha=0.2, lw=0)
        plain = 100 * (self.plain == 0).mean()
        axis.axhline(plain, color="#888888", lw=1, ls=":", label="nothing put in")
        axis.set(xlabel="state put in after layer", ylabel="answered, %", ylim=(-3, 103))
        axis.legend()
        return figure


@dataclass(frozen=True)
class Held:
    """What a model holds at two tokens of some prompts, to be put into another state of it.

    The facts are held as token ids, which the tokenizer turns back into text: private facts stay
    private only as long as this object does. It is written to no file.

    Attributes
    ----------
    names : tuple of str
        The facts' ids, or their places in the list.
    prompts : dict of str to Batch
        By place of `PLACES`, the prompts with that position.
    gold : (n,) tensor
        The answers' first tokens.
    hidden : dict of str to dict of int to (n, d) tensor
        By place and layer, the residual stream.
    """

    names: tuple[str, ...]
    prompts: dict[str, Batch]
    gold: torch.Tensor
    hidden: dict[str, dict[int, torch.Tensor]]

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Wording,
        facts: Iterable[Fact],
    ) -> Held:
        """Read a model that knows some facts.

        Parameters
        ----------
        model, tokenizer
            A causal language model that knows the facts, and its tokenizer, or how it is asked
            (`zu.wording.Wording`).
        facts : iterable of Fact
            The facts.

        Returns
        -------
        Held
            Its states, to put into another state of the model (`into`).

        Raises
        ------
        FactError
            For no facts, for answers that cannot be put into tokens, and for subjects that no token
            covers.
        ValueError
            If what the model holds is not finite.

        Examples
        --------
        >>> held = zu.audit.Held.of(model, tokenizer, facts)
        >>> with zu.unlearn(model, tokenizer, facts):
        ...     forgot = held.into(model)
        >>> print(forgot.frame(), forgot.against(held.into(never)))
        """
        some = distinct(facts, "facts")
        wording = Wording.of(tokenizer)
        whole = [answered(wording, [Question.of(fact)], fact)[0] for fact in some]
        ends = [(ids[:-count], len(ids) - count - 1) for ids, count in whole]
        subjects = [(ids, encode(wording, fact)[1])
                    for (ids, _), fact in zip(ends, some, strict=True)]
        prompts = {"subject": collate(subjects, model.device), "end": collate(ends, model.device)}
        hidden = {place: _read(model, wording, batch) for place, batch in prompts.items()}
        gold = torch.tensor([ids[-count] for ids, count in whole], device=model.device)
        names = names_of(some)
        return cls(names, prompts, gold, hidden)

    def into(self, model: PreTrainedModel) -> Patched:
        """Put the states into a model, one layer and place at a time. It is not changed.

        Parameters
        ----------
        model : PreTrainedModel
            The same model in another state, or one of the same shape.

        Returns
        -------
        Patched
            What it says then.

        Raises
        ------
        ValueError
            For a model of another shape, and one that says nothing finite.
        """
        first = self.hidden[PLACES[0]]
        layout = known(model)
        width = layout.matrix(0).shape[0]
        if len(layout.layers) != len(first) or width != first[0].shape[1]:
            raise ValueError("the model has another width or depth than the one that was read: "
                             "give the same model in another state")
        ends = self.prompts["end"]
        plain, _ = _said(model, ends, self.gold)
        rank, p = {}, {}
        for place in PLACES:
            each = [_said(model, ends, self.gold, (layer, self.prompts[place], states))
                    for layer, states in self.hidden[place].items()]
            rank[place] = np.stack([one[0] for one in each])
            p[place] = np.stack([one[1] for one in each])
        return Patched(self.names, plain, rank, p)


@settles
@torch.no_grad()
def _read(model: PreTrainedModel, wording: Wording, batch: Batch) -> dict[int, torch.Tensor]:
    """The residual stream at the batch's positions, by layer, (n, d) each."""
    found = Reader(model, wording).trace(batch, range(len(known(model).layers))).hidden
    if not all(bool(torch.isfinite(states).all()) for states in found.values()):
        raise ValueError("the model's hidden states are not finite: nothing can be put elsewhere")
    return {layer: found[layer].clone() for layer in sorted(found)}


@settles
@torch.no_grad()
def _said(
    model: PreTrainedModel,
    ends: Batch,
    gold: torch.Tensor,
    put: tuple[int, Batch, torch.Tensor] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank and probability of the answers' first tokens, (n,) each, with some states put in.

    `put` is the layer after which, the batch at whose positions, and what, (n, d).
    """
    rank, p = np.zeros(len(ends), int), np.zeros(len(ends))
    for rows, part in ends.split(1024):
        reads = torch.arange(part.ids.shape[1], device=rows.device) == part.position[:, None]
        pairs = []
        if put is not None:
            layer, at, states = put
            block = known(model).layers[layer]
            instead = partial(_instead, at.position[rows], states[rows])
            pairs.append((block.register_forward_hook, instead))
        with hooks(*pairs):
            logp = whole_logits(model, part, reads).double().log_softmax(-1)  # (part, vocabulary)
        own = logp.gather(1, gold[rows, None])
        rank[rows.cpu()] = (logp > own).sum(1).cpu()
        p[rows.cpu()] = own[:, 0].exp().cpu()
    return rank, p


def _instead(
    position: torch.Tensor, states: torch.Tensor, module: nn.Module, args: tuple, output: Any
) -> Any:
    """A layer's output with other states (rows, d) at the positions (rows,)."""
    own = states_of(output)
    new = own.clone().view(len(position), -1, own.shape[-1])  # some families flatten the rows
    new[torch.arange(len(position), device=own.device), position] = states.to(own)
    new = new.view(own.shape)
    if isinstance(output, tuple | list):
        return type(output)([new, *output[1:]])
    return new
