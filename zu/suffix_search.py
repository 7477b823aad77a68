"""The loss of the search for targets, computed fast: only the part that δ reaches is run.

`SuffixRuns` computes the same as `zu.plain_search.WholeRuns`, for many facts at once, from the
layer whose states δ changes and from the subject's last token on. `Suffixes` computes everything
that does not depend on δ once, and keeps it.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from transformers import DynamicCache

from .batches import Batch, collate
from .layouts import known
from .models import logits
from .passes import CACHES, called_with, check_ids, ended, entering_first, hooks, states_of
from .plain_search import CodedFact, Search, divergence, values_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Place(Protocol):
    """Where δ goes, see `zu.targets.Place`."""

    @property
    def aim(self) -> str: ...

    @property
    def layers(self) -> tuple[int, ...]: ...

    @property
    def start(self) -> int: ...


class _Past:
    """Keys and values left of the subject's last token, for one pass over the rest.

    This is the part of transformers' cache interface that attention layers call. Both are stored by
    layer, (rows, heads, s, head size), with s past positions.
    """

    def __init__(self, keys: dict[int, torch.Tensor], values: dict[int, torch.Tensor]) -> None:
        self.keys = keys
        self.values = values

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The past's keys and values, followed by a pass's own, which are not kept."""
        # (rows, heads, s, head size) and (rows, heads, w, head size) -> (rows, heads, s + w, ...)
        keys = torch.cat([self.keys[layer_idx], key], 2)
        values = torch.cat([self.values[layer_idx], value], 2)
        return keys, values


class Suffixes:
    """The part of the model that δ reaches: from a layer on, from the subject's last token on.

    A row is one prompt of one fact. Rows come in groups with a common beginning, with one row per
    fact in each: row j · n + i is fact i's prompt in group j. The tokens of a row are read in two
    parts,

        head : the common beginning of its group, read once for the group;
        tail : the rest, which contains the subject's last token;

    and used in two other parts,

        past : everything left of the subject's last token. Its keys and values in the layers to run
            do not depend on δ, and are kept;
        suffix : the subject's last token and what follows. It is run again for each δ.

    Shapes below: r rows; a tokens of the longest head, t of the longest tail, s of the longest
    past, w of the longest suffix; d the hidden size, c key-value heads of size e.

    `groups` holds rows of (ids, position of the subject's last token), by group.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: PreTrainedModel,
        place: Place,
        groups: Sequence[Sequence[tuple[list[int], int]]],
    ) -> None:
        self.place, self.layout = place, known(model)
        body = self.layout.body
        every = [row for rows in groups for row in rows]
        check_ids(model, collate(every).ids)
        self.layers = {
            i: block for i, block in enumerate(self.layout.layers) if i >= place.start
        }
        n, device = len(groups[0]), model.device
        self.fact = torch.arange(n, device=device).repeat(len(groups))  # (r,): whose prompt it is

        shared = [_shared(rows) for rows in groups]
        cache = _read_heads(body, groups, shared, device)
        # (groups,) -> (r, 1): how long the head of each row is
        head = torch.tensor(shared, device=device).repeat_interleave(n)[:, None]
        tails = _tails(every, head, device)
        p = tails.position[:, None]  # (r, 1): the subject's last token, counted within the tail
        states, calls = self._read_tails(tails, head, cache)

        width = int((tails.real.sum(1) - p[:, 0]).max())  # w
        past = int((head + p).max())  # s
        # (r, s): which token of its row each column of the past holds. The pasts end together, at
        # the subject's last token: a column is negative where a shorter one has not begun yet.
        left = head + p - past + torch.arange(past, device=device)
        self._keep_suffixes(states.to(device), calls, p, width)
        self._keep_past(cache, left, head, max(shared))
        self.mask = self._attention_mask(left >= 0, width)

    def _read_tails(
        self, tails: Batch, head: torch.Tensor, cache: DynamicCache
    ) -> tuple[torch.Tensor, dict[int, dict]]:
        """A pass over the tails with the heads in the cache, which holds both afterwards.

        In the layers to run, the pass covers only the tokens left of the subjects' last tokens, up
        to the furthest of these. The rest is the suffix, which is run for each δ.

        Returns the states that enter the lowest layer to run, (r, t, d) (or leave the last layer if
        there is none to run), and each layer's call.
        """
        calls: dict[int, dict] = {}
        early = torch.arange(max(int(tails.position.max()), 1), device=head.device)  # (b,)
        at = early.expand(len(head), -1)[..., None]  # (r, b, 1)

        def keep(
            module: nn.Module, args: tuple, kwargs: dict, i: int
        ) -> tuple[tuple[torch.Tensor], dict]:
            x, calls[i] = called_with(module, args, kwargs)  # (r, t, d), or (r, b, d) further up
            call = _cut_call(calls[i], at) | {name: cache for name in calls[i] if name in CACHES}
            if isinstance(seen := call.get("attention_mask"), torch.Tensor):
                call["attention_mask"] = _early(seen, len(early), longest)
            return (x[:, : len(early)],), call

        pairs: list[tuple[Callable, Callable]] = []
        for i, block in self.layers.items():
            register = partial(block.register_forward_pre_hook, with_kwargs=True)
            pairs.append((register, partial(keep, i=i)))
        device, longest = head.device, int(head.max())
        # (a,) < (r, 1) -> (r, a): 1 where a row has a token in its head
        in_head = (torch.arange(longest, device=device) < head).long()
        mask = torch.cat([in_head, tails.real], 1)  # (r, a) and (r, t) -> (r, a + t)
        # (r, 1) + (t,) -> (r, t): a tail goes on where its row's head ends, not where the longest
        # head does
        positions = head + torch.arange(tails.ids.shape[1], device=device)
        # stop here, since a body may reshape the output of its last layer to the shape of the tails
        last = ended(self.layout.layers[-1].register_forward_hook)
        with entering_first(self.layout, self.place.start) as found, hooks(*pairs), last:
            self.layout.body(
                input_ids=tails.ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                position_ids=positions,
            )
        (states,) = found
        return states, calls

    def _keep_suffixes(
        self, states: torch.Tensor, calls: dict[int, dict], p: torch.Tensor, width: int
    ) -> None:
        """Cut the suffixes out of the tails: the states that enter them, and the layers' calls."""
        steps = torch.arange(width, device=p.device)
        # (r, 1) + (w,) -> (r, w, 1): where each token of a suffix stands in its tail. What comes
        # after a row's end repeats a column; no real token sees it.
        at = (p + steps).clamp(max=states.shape[1] - 1)[..., None]
        self.suffix = _columns(states, at)  # (r, t, d) -> (r, w, d)
        self.calls = {i: _cut_call(calls[i], at) for i in self.layers}

    def _keep_past(
        self, cache: DynamicCache, left: torch.Tensor, head: torch.Tensor, longest: int
    ) -> None:
        """Collect the pasts from the cache, as each layer's keys and values (r, c, s, e).

        In the cache a row's head fills columns 0 to head − 1, then comes padding up to `longest`
        (a), then the row's tail.
        """
        # (r, s): the column of the cache that holds token `left` of each row
        column = torch.where(left < head, left, longest + left - head)
        # (r, s) -> (r, 1, s, 1); a token that does not exist is masked, any column serves
        column = column.clamp(min=0)[:, None, :, None]
        self.past = {}
        for i in self.layers:
            kept = []
            layer: Any = cache.layers[i]  # of attention, whatever other kinds the type allows
            for x in (layer.keys, layer.values):
                # (r, 1, s, 1) -> (r, c, s, e)
                index = column.to(x.device).expand(-1, x.shape[1], -1, x.shape[3])
                kept.append(x.gather(2, index))  # (r, c, a + t, e) -> (r, c, s, e)
            self.past[i] = tuple(kept)

    def _attention_mask(self, in_past: torch.Tensor, width: int) -> torch.Tensor:
        """The mask to add to the attention's scores, (r, 1, w, s + w): 0, or the least number.

        `in_past` (r, s) says which columns of the past hold a token. Each token of a suffix sees
        those, the earlier tokens of the suffix, and itself.
        """
        steps = torch.arange(width, device=in_past.device)
        # (1, w) <= (w, 1) -> (w, w) -> (r, w, w)
        causal = (steps[None, :] <= steps[:, None]).expand(len(in_past), -1, -1)
        past = in_past[:, None, :].expand(-1, width, -1)  # (r, s) -> (r, w, s)
        visible = torch.cat([past, causal], 2)[:, None]  # -> (r, w, s + w) -> (r, 1, w, s + w)
        dtype = self.suffix.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=in_past.device)
        mask.masked_fill_(~visible, torch.finfo(dtype).min)
        return mask

    def only(self, rows: torch.Tensor) -> Suffixes:
        """The same with only some rows.

        Parameters
        ----------
        rows : (k,)
            The numbers of the rows, ascending.

        Returns
        -------
        Suffixes
            A part, or the object itself if all rows are wanted.
        """
        if len(rows) == len(self.fact):
            return self
        found = copy(self)
        found.fact, found.suffix, found.mask = self.fact[rows], self.suffix[rows], self.mask[rows]
        found.past, found.calls = {}, {}
        for i, (keys, values) in self.past.items():
            there = rows.to(keys.device)  # a model may be spread over several
            found.past[i] = keys[there], values[there]  # (r, c, s, e) -> (k, c, s, e)
            found.calls[i] = _rows_of(self.calls[i], there)
        return found

    def lowered(self, twin: PreTrainedModel) -> Suffixes:
        """The same in the precision of a twin of the model, see `lowered`.

        Parameters
        ----------
        twin : PreTrainedModel
            The model's twin.

        Returns
        -------
        Suffixes
            The same for the twin's layers.
        """
        found, dtype = copy(self), _of_head(twin)
        found.layout = known(twin)
        found.layers = {i: found.layout.layers[i] for i in self.layers}
        found.suffix = self.suffix.to(dtype)
        least = torch.finfo(dtype).min  # float32's least number would become -inf
        found.mask = self.mask.clamp(min=least).to(dtype)
        found.past = {i: (x.to(dtype), y.to(dtype)) for i, (x, y) in self.past.items()}
        found.calls = {i: _cast(call, dtype) for i, call in self.calls.items()}
        return found

    def states(
        self, delta: torch.Tensor, row: torch.Tensor, offset: torch.Tensor
    ) -> torch.Tensor:
        """The states that the head receives at some places, with a δ for each fact.

        Parameters
        ----------
        delta : (n, k, d)
            δ by fact.
        row, offset : (places,)
            The row of each place, and the column in its suffix.

        Returns
        -------
        (places, d)
            The states there, after the norm.
        """
        shift = delta[self.fact]  # (n, k, d) -> (r, k, d): each row's δ
        x = self.suffix  # (r, w, d)
        if self.place.aim == "hidden":
            x = _shifted(x, shift[:, 0])
        with hooks(*self._shifts(shift)):
            for i, block in self.layers.items():
                keys, values = self.past[i]
                device = keys.device  # a model may be spread over several
                past = _Past({i: keys}, {i: values})
                call = _filled(self.calls[i], self.mask.to(device), past)
                x = states_of(block(x.to(device), **call))
        at_row, at_column = row.to(x.device), offset.to(x.device)
        return self.layout.finish(x[at_row, at_column])  # (r, w, d) -> (places, d)

    def _shifts(self, shift: torch.Tensor) -> list[tuple[Callable, Callable]]:
        """Hooks that add each row's δ (rows, k, d) to values, if the aim is values."""
        if self.place.aim == "hidden":
            return []

        def add(j: int, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            values = output.view(len(shift), -1, output.shape[-1])  # some flatten rows and length
            return _shifted(values, shift[:, j]).view_as(output)

        pairs: list[tuple[Callable, Callable]] = []
        for j, layer in enumerate(self.place.layers):
            linear = self.layout.projection(layer)
            pairs.append((linear.register_forward_hook, partial(add, j)))
        return pairs


def _shifted(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """States (rows, w, d) with a δ (rows, d) added to each row's first column."""
    first = x[:, :1].float() + shift.to(x.device)[:, None]  # (rows, d) -> (rows, 1, d)
    return torch.cat([first.to(x.dtype), x[:, 1:]], 1)


#: The names of layers' arguments that depend on token positions.
_BY_POSITION = ("position_embeddings", "position_ids")


def _cut_call(call: dict, at: torch.Tensor) -> dict:
    """A layer's call for some columns `at` (r, w, 1) of the tails; `LookupError` for other tensors.

    Only the rotary position embeddings (r, t, e) and the position numbers (r, t) are cut by column.
    The attention mask and the cache are put in later.
    """
    cut: dict[str, Any] = {}
    for name, given in call.items():
        if name == "position_embeddings":
            cut[name] = tuple(_columns(x, at) for x in given)  # (r, t, e) -> (r, w, e)
        elif name == "position_ids" and given is not None:
            cut[name] = _columns(given[..., None], at)[..., 0]  # (r, t) -> (r, w)
        elif name == "attention_mask" or not isinstance(given, torch.Tensor | tuple | list):
            cut[name] = given
        else:
            raise LookupError(f"its layers are called with '{name}'")
    return cut


def _early(mask: torch.Tensor, columns: int, past: int) -> torch.Tensor:
    """An attention mask for the first columns of a pass behind a past.

    (r, 1, t, a + t) -> (r, 1, b, a + b); a mask of real tokens alone, (r, a + t) -> (r, a + b).
    """
    mask = mask[..., : past + columns]
    return mask[:, :, :columns] if mask.dim() == 4 else mask


def _rows_of(call: dict, rows: torch.Tensor) -> dict:
    """A cut call for only some rows."""
    own: dict[str, Any] = {}
    for name, given in call.items():
        if name == "position_embeddings":
            own[name] = tuple(part[rows] for part in given)
        elif name == "position_ids" and given is not None:
            own[name] = given[rows]
        else:
            own[name] = given
    return own


def _filled(call: dict, mask: torch.Tensor, past: _Past) -> dict:
    """A cut call with its mask and past."""
    caches = {name: past for name in call if name in CACHES}
    return call | caches | {"attention_mask": mask, "use_cache": True}


def _cast(call: dict, dtype: torch.dtype) -> dict:
    """A cut call with its position embeddings in another precision."""
    own = dict(call)
    if "position_embeddings" in call:
        own["position_embeddings"] = tuple(x.to(dtype) for x in call["position_embeddings"])
    return own


def _shared(rows: Sequence[tuple[list[int], int]]) -> int:
    """The length of the common beginning of all rows, which includes no subject's last token."""
    most = min(position for _, position in rows)
    for j in range(most):
        if len({ids[j] for ids, _ in rows}) > 1:
            return j
    return most


def _read_heads(
    body: nn.Module,
    groups: Sequence[Sequence[tuple[list[int], int]]],
    shared: Sequence[int],
    device: torch.device,
) -> DynamicCache:
    """A cache with each group's head, of `shared` tokens, read once and repeated for its rows."""
    cache = DynamicCache()
    if max(shared):
        heads = [(rows[0][0][:k], 0) for rows, k in zip(groups, shared, strict=True)]
        # padding on the right: no real token sees it
        body(input_ids=collate(heads, device).ids, past_key_values=cache)
        cache.batch_repeat_interleave(len(groups[0]))  # (groups, c, a, e) -> (r, c, a, e)
    return cache


def _tails(
    rows: Sequence[tuple[list[int], int]], head: torch.Tensor, device: torch.device
) -> Batch:
    """The rest of each row behind its head, whose length is in `head` (r, 1): ids of (r, t)."""
    lengths = head[:, 0].tolist()
    left = [(ids[k:], p - k) for (ids, p), k in zip(rows, lengths, strict=True)]
    return collate(left, device)


def _columns(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The columns `at` (r, w, 1) of each row of x (r, t, size): (r, w, size)."""
    return x.gather(1, at.to(x.device).expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class _Asked:
    """The rows of some of the facts, and the places at which their logits are needed.

    `prompts` and `essences` are suffixes. These have one entry per target token behind a prefix,
    (q,): `row` and `offset`, the place that predicts it; `token`, the token itself; `weight`, its
    weight; `owner`, its fact among these. `ends` (a,) holds the place of each essence prompt's end,
    and `original` (a, vocabulary) the prediction there without δ.
    """

    prompts: Suffixes
    essences: Suffixes
    row: torch.Tensor
    offset: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor
    owner: torch.Tensor
    ends: torch.Tensor
    original: torch.Tensor

    def only(self, facts: torch.Tensor) -> _Asked:
        """The same for only some facts, (a,), in this order."""
        n = len(self.ends)
        if len(facts) == n:
            return self
        index = torch.full((n,), -1, device=facts.device)  # (n,): −1 for the facts left out
        index[facts] = torch.arange(len(facts), device=facts.device)
        prompts, places = _chosen(self.prompts, index)
        essences, _ = _chosen(self.essences, index)
        kept = (places[self.row] >= 0).nonzero()[:, 0]  # (q,) -> (such places,)
        return _Asked(
            prompts,
            essences,
            places[self.row[kept]],
            self.offset[kept],
            self.token[kept],
            self.weight[kept],
            index[self.owner[kept]],
            self.ends[facts],
            self.original[facts],
        )

    def bare(self, prefixes: int) -> _Asked:
        """The same with only the bare prompts, which are the first n rows."""
        n = len(self.ends)
        kept = (self.row < n).nonzero()[:, 0]
        return replace(
            self,
            prompts=self.prompts.only(torch.arange(n, device=self.ends.device)),
            row=self.row[kept],
            offset=self.offset[kept],
            token=self.token[kept],
            weight=self.weight[kept] * prefixes,
            owner=self.owner[kept],
        )


def _chosen(suffixes: Suffixes, index: torch.Tensor) -> tuple[Suffixes, torch.Tensor]:
    """The rows of some facts, and the number of each row among them, (r,), −1 for other rows.

    `index` (n,) holds the number of each fact among these, −1 for other facts.
    """
    rows = (index[suffixes.fact] >= 0).nonzero()[:, 0]  # (k,)
    places = torch.full((len(suffixes.fact),), -1, device=rows.device)
    places[rows] = torch.arange(len(rows), device=rows.device)
    found = copy(suffixes.only(rows))
    found.fact = index[found.fact]
    return found, places


class SuffixRuns:
    """The loss of n facts, each with its own δ, computed only where δ reaches.

    Parameters
    ----------
    model, place, coded, search
        As in `zu.plain_search.WholeRuns`.

    Attributes
    ----------
    n : int
        How many facts there are.
    prefixes : int
        How many texts are put before each prompt, including the empty one.
    h : (n, k, d)
        The states or values to which δ is added, at k places, float32.

    Raises
    ------
    LookupError
        If layers are called with unknown arguments.
    ValueError
        If the model's logits are not finite.
    """

    def __init__(
        self, model: PreTrainedModel, place: Place, coded: Sequence[CodedFact], search: Search
    ) -> None:
        self.model, self.search, self.n = model, search, len(coded)
        self.prefixes = len(coded[0].rows)
        groups = []  # one group per prefix
        for j in range(self.prefixes):
            groups.append([(c.rows[j][0] + c.goal[:-1], c.rows[j][1]) for c in coded])
        prompts = Suffixes(model, place, groups)
        # separately, since their suffixes are shorter: mostly only the subject's last token
        essences = Suffixes(model, place, [[c.essence for c in coded]])
        if place.aim == "hidden":
            # (r, w, d) -> (n, 1, d): the bare prompts' rows are the first
            self.h = prompts.suffix[:self.n, :1].float()
        else:
            self.h = values_at(model, [c.rows[0] for c in coded], place.layers)

        columns = zip(*_target_places(coded), strict=True)
        row, offset, token, weight = (torch.tensor(x, device=model.device) for x in columns)
        # (n,): each essence prompt is read at its last token
        last = [len(ids) - 1 - position for ids, position in (c.essence for c in coded)]
        ends = torch.tensor(last, device=model.device)
        original = self._essence(essences, torch.zeros_like(self.h), ends)
        owner = prompts.fact[row]
        self.every = _Asked(
            prompts, essences, row, offset, token, weight.float(), owner, ends, original
        )
        self._last: tuple[torch.Tensor | None, _Asked] = None, self.every  # the last `active`

    def _essence(
        self, essences: Suffixes, delta: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        """The prediction after the essence prompts, with δ (n, k, d) by fact, (n, vocabulary)."""
        with torch.no_grad():
            said = essences.states(delta, torch.arange(len(ends), device=ends.device), ends)
            return logits(self.model, said).log_softmax(-1).to(delta.device)

    def bare(self) -> SuffixRuns:
        """The same problem with only the bare prompts.

        Returns
        -------
        SuffixRuns
            The problem with the facts' first rows.
        """
        return self._with(self.every.bare(self.prefixes), 1)

    def lowered(self, twin: PreTrainedModel) -> SuffixRuns:
        """The same problem in the precision of a twin of the model, see `lowered`.

        Parameters
        ----------
        twin : PreTrainedModel
            The model's twin.

        Returns
        -------
        SuffixRuns
            The problem with the twin's losses; h and δ stay float32.
        """
        every = self.every
        prompts, essences = every.prompts.lowered(twin), every.essences.lowered(twin)
        found = self._with(every, self.prefixes)
        found.model = twin
        original = found._essence(essences, torch.zeros_like(self.h), every.ends)
        found.every = replace(every, prompts=prompts, essences=essences, original=original)
        found._last = None, found.every
        return found

    def _with(self, every: _Asked, prefixes: int) -> SuffixRuns:
        """The same problem with other rows."""
        found = copy(self)
        found.every, found.prefixes, found._last = every, prefixes, (None, every)
        return found

    def loss(
        self, delta: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean target negative log-likelihood and weighted divergence of some facts.

        Parameters
        ----------
        delta : (active, k, d)
            The δ of each fact, float32.
        active : (active,)
            The facts' numbers. As long as it is the same tensor, no device has to be waited for.

        Returns
        -------
        nll, divergence : (active,)
            As in `zu.plain_search.WholeRuns.loss`.

        Raises
        ------
        ValueError
            If the model's logits are not finite; on a GPU this is checked only if `active` is
            another tensor than before.
        """
        fresh = self._last[0] is not active
        if fresh:
            self._last = active, self.every.only(active)
        asked, a = self._last[1], len(active)
        states = asked.prompts.states(delta, asked.row, asked.offset)
        every = torch.arange(a, device=delta.device)
        said = asked.essences.states(delta, every, asked.ends)
        both = torch.cat([states, said])  # (q, d) and (a, d)
        check = fresh or both.device.type == "cpu"
        logp = logits(self.model, both, check).log_softmax(-1).to(delta.device)
        # (q, vocabulary) -> (q,): the target token's own
        chosen = logp[:len(asked.row)].gather(1, asked.token[:, None])[:, 0]
        nll = -chosen * asked.weight
        # (q,) -> (a,): summed over each fact's prefixes and tokens
        per_fact = torch.zeros(a, dtype=nll.dtype, device=delta.device)
        per_fact = per_fact.index_add(0, asked.owner, nll)
        each = divergence(asked.original, logp[len(asked.row):], self.search.kl_at)
        return per_fact, self.search.kl * each


def lowered(
    model: PreTrainedModel, start: int, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """A twin of a model, with its upper layers, norm and head as copies in another precision.

    The lower layers are shared with the model; the twin is run only from the first copy on.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model; it is not changed.
    start : int
        The first layer that is copied.
    dtype : torch.dtype
        The dtype of the copies.

    Returns
    -------
    PreTrainedModel
        The twin.
    """
    shared = {id(block): block for block in known(model).layers[:start]}
    twin = deepcopy(model, shared)
    found = known(twin)
    parts = [*found.layers[start:], twin.get_output_embeddings()]
    parts += [x for x in found.body.modules() if id(x) in found.above()]
    for part in parts:
        part.to(dtype)
    return twin


def _of_head(model: PreTrainedModel) -> torch.dtype:
    """The precision of a model's head, which in a twin is that of everything that is run."""
    return next(model.get_output_embeddings().parameters()).dtype


def _target_places(coded: Sequence[CodedFact]) -> list[tuple[int, int, int, float]]:
    """The place that predicts each token of each target: row, column of its suffix, token, weight.

    The weights of a fact's tokens behind its prefixes add up to 1.
    """
    n, places = len(coded), []
    for i, c in enumerate(coded):
        weight = 1 / (len(c.rows) * len(c.goal))
        for j, (ids, position) in enumerate(c.rows):
            last = len(ids) - 1 - position  # the prompt's last token predicts the target's first
            for k, token in enumerate(c.goal):
                places.append((j * n + i, last + k, token, weight))
    return places
