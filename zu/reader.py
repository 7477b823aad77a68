"""What a forward pass shows of a transformer's memory: keys, values and hidden states.

`Reader` remembers what several calls share; `subject_keys` reads the facts' keys, and `prefixes`
writes the texts that are put before a prompt.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from .batches import Batch, answers, collate
from .damage import Energies
from .data.cache import cache_file, read_tensors, write_tensors
from .data.facts import Fact
from .layouts import LayoutError, check_there, heard, hooked, known
from .models import KnownSums, beside_weights, fingerprint, hash_of, signs
from .models import logits as finished
from .modes import settles
from .passes import entering, forward_until, hooks, run_from, states_of, whole_logits, write
from .probes import layout
from .wording import Wording, encode, split_answer, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "OPENINGS",
    "Batch",
    "Reader",
    "Trace",
    "answers",
    "collate",
    "encode",
    "entering",
    "forward_until",
    "hooks",
    "prefix_weights",
    "prefixes",
    "run_from",
    "split_answer",
    "states_of",
    "subject_keys",
    "trace",
    "write",
]

#: The beginnings of the texts that MEMIT puts before a prompt, so that an edit also holds in other
#: contexts.
OPENINGS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class Trace:
    """What one forward pass shows at one token of each row, by layer.

    The paper's K_f and V_f are the transposes of keys and values.

    Parameters
    ----------
    keys : by layer, (rows, m)
        Inputs of the MLP's output projection.
    values : by layer, (rows, d)
        Its outputs.
    hidden : by layer, (rows, d)
        The residual stream after the layer.
    """

    keys: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]
    hidden: dict[int, torch.Tensor]


@dataclass(frozen=True)
class _Made:
    """A result computed from a tensor, with the tensor's sign (`zu.models.signs`) at that time."""

    of: torch.Tensor
    sign: Hashable
    about: Hashable
    value: Any

    def is_of(self, other: torch.Tensor, sign: Hashable) -> bool:
        """Whether the result was computed from values equal to those of `other`."""
        if other is self.of:
            return sign is not None and sign == self.sign
        if (self.of.device, self.of.dtype) != (other.device, other.dtype):
            return False
        (now,) = signs([self.of])
        return now is not None and now == self.sign and torch.equal(self.of, other)


class Reader:
    """A model with its tokenizer and what has been read from them, so that nothing is read twice.

    A reader remembers three things:

    - the states that enter a layer, for batches that were read before, so that the layers below are
      not run again;
    - the prefixes and moments that several edits share;
    - what the solves of one edit leave for the next, which takes a few times the memory of C_0 per
      layer (`once`).

    Remembered states are used only if the weights below the layer are those with which they were
    read. Otherwise the states are read anew; they are found again once the old weights are back.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    tokenizer : PreTrainedTokenizerBase or Wording
        The model's own.
    layer : int, optional
        The states that enter this layer are remembered; it must be no higher than the lowest layer
        to edit. By default nothing is remembered until `bind` names a layer, as `zu.unlearn` and
        grids do.
    prefixes : sequence of str, optional
        Texts to put before a prompt, the empty one first; by default the model writes them when
        they are needed (`prefixes`).
    limit : int
        The most bytes of states to remember; states beyond that are read anew.
    chat : bool or str, optional
        How facts are asked, see `zu.wording.Wording`; by default as plain text.

    Attributes
    ----------
    wording : Wording
        The tokenizer, with how facts are asked wherever this reader is used.

    Raises
    ------
    ValueError
        If the first prefix is not empty, or the tokenizer cannot ask in this chat.
    LayoutError
        If the model is inside torch.compile or data parallelism.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Wording,
        layer: int | None = None,
        *,
        prefixes: Sequence[str] | None = None,
        limit: int = 2**30,
        chat: bool | str | None = None,
    ) -> None:
        check_there(model)
        self.model, self.layer = model, layer
        self.wording = Wording.of(tokenizer, chat)
        self.tokenizer = self.wording.tokenizer
        self.given_prefixes = None if prefixes is None else tuple(prefixes)
        if self.given_prefixes is not None and self.given_prefixes[:1] != ("",):
            raise ValueError('prefixes: the first must be empty, "", for the prompt as it is')
        self._written: dict[int, tuple[str, ...]] = {}  # the model's own prefixes, by seed
        #: C_0 by layer, (m, m), which `zu.unlearn` has read from the embedded prose, and the
        #: model's fingerprint at that time.
        self.moments: dict[int, torch.Tensor] = {}
        self.moments_of = ""
        #: Perplexity on held-out prose, as `zu.unlearn` checks it, by the model's fingerprint and
        #: the number of tokens.
        self.prose: dict[tuple[str, int], float] = {}
        #: The energies of general keys under the weights that the last edit left.
        self.energies = Energies()
        self.single_call = False  # see `of`
        self.limit = limit  # bytes
        #: What was read, as (value, bytes), by the state of the layers below and the batch.
        self.seen: dict[tuple, tuple[Any, int]] = {}
        self.made: dict[Hashable, _Made] = {}
        self._sums = KnownSums()
        self._signs: list | None = None  # the signs of the weights below when last summed
        self._state = ""  # a hash of these sums
        self._looked = False  # inside a block of `checked`
        self._beside: str | None = None  # `beside_weights`, for as long as that block lasts

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | Wording,
        reader: Reader | None,
        chat: bool | str | None = None,
    ) -> Reader:
        """The reader given or, without one, a new reader for a single call.

        Parameters
        ----------
        model, tokenizer
            The model to read, with its tokenizer or wording.
        reader : Reader or None
            A reader of this model.
        chat : bool or str, optional
            How facts are asked; by default as the given reader or wording does.

        Returns
        -------
        Reader
            `reader` itself, or a new one.

        Raises
        ------
        ValueError
            If the reader is of another model, has another tokenizer or asks in another way.
        """
        wording = Wording.of(tokenizer, chat)
        if reader is None:
            once = cls(model, wording)
            once.single_call = True
            return once
        if reader.model is not model:
            raise ValueError("reader is of another model: give zu.Reader(model, tokenizer)")
        if reader.tokenizer is not wording.tokenizer:
            raise ValueError("reader has another tokenizer: give zu.Reader(model, tokenizer)")
        said = chat is not None or isinstance(tokenizer, Wording)
        if said and reader.wording.chat != wording.chat:
            raise ValueError("reader asks facts in another way: give zu.Reader(..., chat=) the "
                             "same chat")
        return reader

    def bind(self, layer: int) -> None:
        """From now on remember the states that enter this layer, or a lower one if that is bound.

        Nothing is remembered for a model whose layers cannot be run one by one, see `readable`.

        Parameters
        ----------
        layer : int
            The lowest layer that is going to change.
        """
        if not self.readable:
            return
        if self.layer is None or layer < self.layer:
            self.layer = layer
            self.seen.clear()  # read up to a layer that is going to change
            self._signs = None

    def _keep(self, key: tuple, value: Any, size: int) -> None:
        """Remember a value of `size` bytes if there is room.

        Values that were read with other weights make room for it.
        """
        self.seen.pop(key, None)
        used = sum(taken for _, taken in self.seen.values())
        if used + size > self.limit:
            state = self._current()
            stale = [old for old in self.seen if old[:len(state)] != state]
            for old in stale:
                used -= self.seen.pop(old)[1]
        if used + size <= self.limit:
            self.seen[key] = value, size

    def check(self) -> None:
        """Sum every weight again instead of trusting signs of change.

        The reader looks up what it remembers by these sums, so it never uses states that were read
        with other weights. Weights are summed only when their sums are needed.
        """
        if self._looked:
            return
        self._signs, self._beside = None, None
        self._sums.forget()
        if self.seen:
            self._current()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Inside the block every weight is summed once, and later checked only by signs of change.

        For work during which nothing else writes to the model, see `zu.modes.settled`.
        """
        outer = self._looked
        self.check()
        self._looked = True
        try:
            yield
        finally:
            self._looked = outer

    def fingerprint(self) -> str:
        """The model's `zu.models.fingerprint`, summing only weights not yet summed since `check`.

        Returns
        -------
        str
            16 hexadecimal digits.
        """
        if self._beside is None or not self._looked:
            self._beside = beside_weights(self.model)
        return fingerprint(self.model, self._sums, self._beside)

    def _current(self) -> tuple:
        """All that determines the states entering the layer: weights below, hooks, modes.

        The weights are hashed anew if anything hints at a change.
        """
        if self.layer is None:
            return ()  # nothing is remembered
        below = _below(self.model, self.layer)
        weights = list(_named_weights(below))
        now = signs([weight for _, weight in weights])
        if now != self._signs or None in now:
            self._signs = now
            if self.single_call:  # within one call, weights never return to earlier values
                self._state += "+"
            else:
                self._state = hash_of(weights, summed=self._sums)
        return self._state, _modes(below)

    def texts(self, count: int, seed: int = 0) -> tuple[str, ...]:
        """The empty text and `count` prefixes: the ones given, or ones that the model writes.

        The model writes its prefixes once and the reader remembers them, so that successive edits
        put the same texts before their prompts, whatever the earlier edits did to the model.

        Parameters
        ----------
        count : int
            How many prefixes beside the empty text; if fewer were given, all of those.
        seed : int
            The seed for the prefixes that the model writes, see `prefixes`.

        Returns
        -------
        tuple of str
            The empty text first.
        """
        if self.given_prefixes is not None:
            return self.given_prefixes[:count + 1]
        if not count:
            return ("",)
        if seed not in self._written:
            self._written[seed] = prefixes(self.model, self.tokenizer, seed=seed)
        return self._written[seed][:count + 1]

    def once(
        self,
        name: Hashable,
        of: torch.Tensor,
        make: Callable[[torch.Tensor], Any],
        about: Hashable = (),
    ) -> Any:
        """``make(of)``, remembered under a name for as long as it is asked for equal tensors.

        Parameters
        ----------
        name : hashable
            The name of the result.
        of : Tensor
            The tensor that the result is computed from.
        make : callable
            Computes the result.
        about : hashable
            Anything else that the result depends on.

        Returns
        -------
        object
            The result of ``make(of)``, from this call or an earlier one.
        """
        (sign,) = signs([of])
        if name in self.made:
            kept = self.made[name]
            if kept.about == about and kept.is_of(of, sign):
                return kept.value
        self.made[name] = _Made(of, sign, about, make(of))
        return self.made[name].value

    def run(
        self,
        batch: Batch,
        last: int = -1,
        past: DynamicCache | None = None,
        about: Hashable = (),
    ) -> torch.Tensor:
        """The states that leave layer `last`.

        The layers below the reader's own are run only if this batch was not read before.

        Parameters
        ----------
        batch : Batch
            The rows to run the model on.
        last : int
            The last layer to run; negative numbers count from the end.
        past : DynamicCache, optional
            The cache of the text before the batch.
        about : hashable
            Anything else that the result depends on, such as the tokens of that text.

        Returns
        -------
        (rows, length, d)
            The states.

        Raises
        ------
        ValueError
            If `past` holds a text and `about` is empty.
        """
        if past is not None and past.get_seq_length() and about == ():
            raise ValueError("past holds a text: say which in about=, by its tokens for example")
        if self.layer is None:
            return entering(self.model, batch, 0, last, past)[2]
        key = (*self._current(), about, *_contents(batch.ids, batch.mask))
        found = self.seen.get(key)
        if found:
            states, calls = found[0]
            if last % len(known(self.model).layers) in calls:
                return run_from(self.model, states, calls, last, past)
        states, calls, out = entering(self.model, batch, self.layer, last, past)
        # a reading up to a higher layer replaces a shorter one
        self._keep(key, (states, calls), _bytes([states, calls]))
        return out

    def hidden(self, batch: Batch) -> dict[int, torch.Tensor]:
        """The residual stream at each row's position, after each layer below the reader's own.

        Parameters
        ----------
        batch : Batch
            The rows to run the model on.

        Returns
        -------
        dict of int to Tensor
            By layer, (rows, d), as in `trace`; empty if the reader remembers nothing.
        """
        if not self.layer:
            return {}
        key = (*self._current(), "hidden", *_contents(batch.ids, batch.mask, batch.position))
        if key in self.seen:
            return self.seen[key][0]
        found = trace(self.model, batch, range(self.layer)).hidden
        self._keep(key, found, _bytes(found))
        return found

    @settles
    @torch.no_grad()
    def last_states(
        self, batch: Batch, past: DynamicCache | None = None, about: Hashable = ()
    ) -> torch.Tensor:
        """The states that the output head receives for a batch.

        Parameters
        ----------
        batch : Batch
            The rows to run the model on.
        past, about
            As in `run`.

        Returns
        -------
        (rows, length, d)
            The normed states after the last layer.

        Raises
        ------
        LayoutError
            If there are hooks on the model as a whole, see `readable`.
        """
        if heard(self.model):
            raise LayoutError(f"{type(self.model).__name__} has hooks on itself, its decoder or "
                              "its head, which may change what the head sees: remove them "
                              "(handle.remove()), or ask for its logits")
        states = self.run(batch, past=past, about=about)
        return known(self.model).finish(states)

    @property
    def readable(self) -> bool:
        """Whether the model's layers are known and its last states give its logits: see `layout`.

        They do not if a user's hooks are on the model as a whole (`zu.layouts.heard`). Hooks are
        looked for each time.
        """
        return not heard(self.model) and self._probed

    @cached_property
    def _probed(self) -> bool:
        """Whether `layout` accepts the model; asked once, while it has no such hooks."""
        try:
            layout(self.model)
        except LayoutError:
            return False
        return True

    def logits_at(self, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        """The model's logits at some positions of a batch.

        A model whose layers are unknown, or cannot be run one by one, is run as a whole.

        Parameters
        ----------
        batch : Batch
            The rows to run the model on, padded on the right.
        positions : (rows, length)
            True where logits are wanted.

        Returns
        -------
        (places, vocabulary)
            Row after row, float32.

        Raises
        ------
        NonFiniteError
            If the logits are not finite.
        """
        if not self.readable:
            return whole_logits(self.model, batch, positions)
        states = self.last_states(batch)  # (rows, length, d)
        return finished(self.model, states[positions.to(states.device)])

    def trace(self, batch: Batch, layers: Sequence[int]) -> Trace:
        """Like the function `trace`, but the layers below the reader's own are run only once.

        Parameters
        ----------
        batch : Batch
            The rows to run the model on.
        layers : sequence of int
            Which layers to read. If one of them lies below the reader's own, nothing remembered is
            used.

        Returns
        -------
        Trace
            Row i belongs to row i of the batch.
        """
        above = self.layer is not None and min(layers) >= self.layer
        return trace(self.model, batch, layers, run=self.run if above else None)


def _bytes(value: Any) -> int:
    """How many bytes the tensors in a value, its lists and its dictionaries take."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(x) for x in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(x) for x in value)
    return 0


def _below(model: PreTrainedModel, layer: int) -> list[tuple[str, nn.Module]]:
    """The modules of a decoder that determine what enters a layer, by name."""
    found = known(model)
    left_out = {id(part) for block in found.layers[layer:] for part in block.modules()}
    left_out |= found.above()
    return [(name, part) for name, part in found.body.named_modules() if id(part) not in left_out]


def _named_weights(
    modules: Sequence[tuple[str, nn.Module]]
) -> Iterator[tuple[str, nn.Parameter]]:
    """The modules' own weights, by name."""
    for name, part in modules:
        for kind, weight in part._parameters.items():
            if weight is not None:
                yield f"{name}.{kind}", weight


def _modes(modules: Sequence[tuple[str, nn.Module]]) -> tuple:
    """For each module whether it is in training mode, and its hooks."""
    parts = (part for _, part in modules)
    return tuple((x.training, *x._forward_hooks, *x._forward_pre_hooks) for x in parts)


def _contents(*tensors: torch.Tensor | None) -> tuple:
    """Shapes and bytes of some tensors, to find equal ones by."""
    return tuple(None if x is None else (x.shape, x.cpu().numpy().tobytes()) for x in tensors)


@settles
@torch.no_grad()
def trace(
    model: PreTrainedModel,
    batch: Batch,
    layers: Sequence[int],
    *,
    tokens: int = 4096,
    run: Callable[[Batch, int], object] | None = None,
) -> Trace:
    """Keys, values and hidden states of each row at its position, for all `layers`, in one pass.

    The pass stops at the last layer asked for. Rows go through in parts of about `tokens` tokens.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    batch : Batch
        The rows to run the model on.
    layers : sequence of int
        Which layers to read.
    tokens : int
        About how many tokens go through at once.
    run : callable, optional
        Runs a part up to a layer, in place of `forward_until`; see `Reader.trace`.

    Returns
    -------
    Trace
        On the model's device and in its dtype. Row i belongs to row i of the batch, whatever the
        parts were.
    """
    found: dict[str, dict[int, list]] = {"keys": {}, "values": {}, "hidden": {}}
    order = []
    last = max(layers)
    for rows, part in batch.split(tokens):
        order.append(rows)
        with hooks(*_taps(model, layers, part, found)):
            if run:
                run(part, last)
            else:
                forward_until(model, last, part)
    back = torch.cat(order).argsort()  # (rows,): where each row of the batch went
    joined: dict[str, dict[int, torch.Tensor]] = {}
    for kind, by_layer in found.items():
        joined[kind] = {}
        for layer, parts in by_layer.items():
            states = torch.cat(parts)  # (rows of a part, width) each -> (rows, width)
            joined[kind][layer] = states[back.to(states.device)]
    return Trace(**joined)


def _taps(
    model: PreTrainedModel, layers: Sequence[int], part: Batch, found: dict[str, dict[int, list]]
) -> list[tuple[Callable, Callable]]:
    """Hooks that store the keys, values and states of a part in `found`, by kind and layer."""

    def keep(kind: str, layer: int, states: torch.Tensor) -> None:
        states = states.view(*part.ids.shape, -1)  # some families flatten rows and length
        position = part.position.to(states.device)
        rows = torch.arange(len(position), device=states.device)
        at_position = states[rows, position]  # (rows, length, width) -> (rows, width)
        found[kind].setdefault(layer, []).append(at_position)

    def key(layer: int, module: nn.Module, args: tuple) -> None:
        keep("keys", layer, args[0])

    def value(layer: int, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        keep("values", layer, output)

    def hidden(layer: int, module: nn.Module, args: tuple, output: Any) -> None:
        keep("hidden", layer, states_of(output))

    pairs: list[tuple[Callable, Callable]] = []
    found_at = known(model)
    for layer in layers:
        linear, block = found_at.projection(layer), found_at.layers[layer]
        pairs.append((linear.register_forward_pre_hook, partial(key, layer)))
        pairs.append((linear.register_forward_hook, partial(value, layer)))
        pairs.append((block.register_forward_hook, partial(hidden, layer)))
    return pairs


def subject_keys(
    reader: Reader,
    facts: Sequence[Fact],
    layers: Sequence[int],
    prefixes: Sequence[str] = ("",),
    each: bool = False,
) -> tuple[dict[int, torch.Tensor], Trace]:
    """The facts' keys by layer, averaged over the prefixes, and the bare prompts' trace.

    A key depends on nothing to the right of the subject, so the sequences end there.

    Parameters
    ----------
    reader : Reader
        A reader of the model.
    facts : sequence of Fact
        The n facts.
    layers : sequence of int
        Which layers to read.
    prefixes : sequence of str
        The p prefixes, the empty one first.
    each : bool
        Return all p · n keys instead of their means, prefix after prefix, each times the square
        root of its weight in the mean.

    Returns
    -------
    keys : dict
        By layer, (n, m) float64; with `each`, (p · n, m).
    bare : Trace
        The trace of the n prompts behind the first prefix.

    Raises
    ------
    FactError
        If no token of a prompt covers its subject.
    """
    rows = []
    for prefix in prefixes:
        for fact in facts:
            ids, position = encode(reader.wording, fact, prefix)
            rows.append((ids[: position + 1], position))
    seen = reader.trace(collate(rows, reader.model.device), layers)
    p, n = len(prefixes), len(facts)
    weights = prefix_weights(p)
    how = "p,pnm->nm"
    if each:
        weights = weights.sqrt()
        how = "p,pnm->pnm"
    keys = {}
    for layer, k in seen.keys.items():
        by_prefix = k.double().view(p, n, -1)  # (p n, m) -> (p, n, m)
        weighed = torch.einsum(how, weights.to(k.device), by_prefix)
        keys[layer] = weighed.flatten(0, -2)  # (n, m) as it is, or (p, n, m) -> (p n, m)
    bare = Trace(
        keys={layer: x[:n] for layer, x in seen.keys.items()},
        values={layer: x[:n] for layer, x in seen.values.items()},
        hidden={layer: x[:n] for layer, x in seen.hidden.items()},
    )
    return keys, bare


def prefixes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int = 10,
    top_k: int = 5,
    seed: int = 0,
) -> tuple[str, ...]:
    """Texts to put before a prompt: the empty one, and a continuation of each of `OPENINGS`.

    The model writes the continuations, `length` tokens each, drawn from the `top_k` likeliest by a
    generator of their own. As in MEMIT (Meng et al. 2023), an edit whose subject was seen behind
    such texts also holds in other contexts. In the released code the texts have ten tokens
    including their opening. The texts are cached under `zu.cache_dir`, by model and settings.

    Parameters
    ----------
    model : PreTrainedModel
        The model that writes the continuations.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    length : int
        How many tokens to add to each opening.
    top_k : int
        How many of the likeliest tokens to draw from.
    seed : int
        The generator's seed.

    Returns
    -------
    tuple of str
        The empty text, then one text per opening, without braces and ending in ". ".

    Raises
    ------
    NonFiniteError
        If the model's logits are not finite.
    """
    starts = [tokens(tokenizer, opening).ids for opening in OPENINGS]
    sizes = sorted(set(map(len, starts)))
    # one batch if all openings have the same number of tokens, as they usually do
    batches = {size: [i for i, ids in enumerate(starts) if len(ids) == size] for size in sizes}
    special = sorted(set(tokenizer.all_special_ids))
    about = [fingerprint(model), model.device.type, starts, special, length, top_k, seed]
    path = cache_file("prefixes", repr(about))
    own = hooked(*model.modules())  # a user's hooks, which the cache file's name does not cover
    drawn = None if own else read_tensors(path, *map(str, batches))
    if drawn is None:
        generator, drawn = torch.Generator().manual_seed(seed), {}
        for size, rows in batches.items():
            ids = torch.tensor([starts[i] for i in rows], device=model.device)
            whole = write(model, tokenizer, ids, length, generator, top_k=top_k)
            drawn[str(size)] = whole.cpu()
        if not own:
            write_tensors(path, drawn)
    found: dict[int, str] = {}
    for size, rows in batches.items():
        texts = tokenizer.batch_decode(drawn[str(size)], skip_special_tokens=True)
        found.update(zip(rows, texts, strict=True))
    return ("", *(_plain(found[i]) for i in range(len(starts))))


def _plain(text: str) -> str:
    """A text as one line and a sentence of its own, without the braces that mark a subject."""
    words = text.replace("{", " ").replace("}", " ").split()
    return " ".join(words) + ". "


def prefix_weights(n: int) -> torch.Tensor:
    """The weights of n prefixes in a mean key: half for the bare prompt, half shared by the rest.

    Parameters
    ----------
    n : int
        How many prefixes there are, the empty one included.

    Returns
    -------
    (n,)
        The weights, float64, the bare prompt's first; they sum to 1.
    """
    if n == 1:
        return torch.ones(1, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / (n - 1)] * (n - 1), dtype=torch.float64)
