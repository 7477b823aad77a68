"""Read a transformer's memory: keys, values and hidden states at the subject's last token."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from .data.cache import cache_dir, read_tensors, write_tensors
from .data.facts import Fact, FactError
from .models import decoder, down_proj, fingerprint, finite

#: How MEMIT starts the texts that it puts before a prompt, so that an edit holds in other contexts too.
OPENINGS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class Batch:
    """Token ids, (rows, length), padded on either side; which are real; and one position of interest a row."""

    ids: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, tokens: int) -> Iterator[tuple[torch.Tensor, Batch]]:
        """Parts of at most about `tokens` tokens, rows of like length together, with their row numbers.

        They are padded on the right, where a causal model cannot see it from the real tokens.
        """
        lead = self.mask.argmax(1)
        turn = (lead[:, None] + torch.arange(self.ids.shape[1], device=lead.device)) % self.ids.shape[1]
        ids, mask, position = self.ids.gather(1, turn), self.mask.gather(1, turn), self.position - lead
        order, lengths = mask.sum(1).argsort(stable=True), mask.sum(1)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and int(lengths[order[stop]]) * (stop + 1 - start) <= tokens:
                stop += 1
            rows = order[start:stop]
            width = int(lengths[rows].max())
            yield rows, Batch(ids[rows, :width], mask[rows, :width], position[rows])
            start = stop


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed at one token of each row, by layer.

    keys: inputs of down_proj, (rows, m). values: its outputs, (rows, d). hidden: the residual stream after
    the layer, (rows, d). The paper's K_f and V_f are the transposes of keys and values.
    """

    keys: dict[int, torch.Tensor]
    values: dict[int, torch.Tensor]
    hidden: dict[int, torch.Tensor]


def encode(tokenizer, fact: Fact, prefix: str = "", prompt: str | None = None) -> tuple[list[int], int]:
    """Token ids of ``prefix + prompt`` and the position of the subject's last token.

    The position comes from character offsets: the last token that covers a character of the
    subject. Where the subject begins with the sequence's very first token, the end-of-text token
    that parts documents is put in front: the attention sink is a first token, at times with the
    second, and its key says nothing about the subject. The released code puts nothing in front; nor
    does `zu.evaluate`, which scores the prompt as it is. Raises `FactError` naming the fact when no
    token covers the subject.
    """
    before, after = (fact.prompt if prompt is None else prompt).split("{}")
    start, text = len(prefix + before), prefix + before + fact.subject + after
    coded = tokenizer(text, return_offsets_mapping=True)
    stop = start + len(fact.subject)
    inside = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < stop and b > start and b > a]
    if not inside:
        raise FactError(f"fact '{fact.id or '?'}': no token of the prompt covers the subject")
    ids, position = coded["input_ids"], inside[-1]
    if inside[0] == 0:
        sink = next(t for t in (tokenizer.eos_token_id, tokenizer.bos_token_id, 0) if t is not None)
        ids, position = [sink, *ids], position + 1
    return ids, position


def collate(rows: Sequence[tuple[list[int], int]], device: torch.device | str = "cpu") -> Batch:
    """A `Batch` from (ids, position) rows. Right padding is invisible to a causal model at earlier tokens."""
    ids = pad_sequence([torch.tensor(r, dtype=torch.long) for r, _ in rows], batch_first=True)
    mask = pad_sequence([torch.ones(len(r), dtype=torch.long) for r, _ in rows], batch_first=True)
    return Batch(ids.to(device), mask.to(device), torch.tensor([p for _, p in rows], device=device))


class _Enough(Exception):
    """Ends a forward pass whose remaining layers nobody reads."""


@contextmanager
def hooks(*pairs) -> Iterator[None]:
    """Register ``(register, function)`` pairs, e.g. ``(module.register_forward_hook, f)``; always remove them."""
    handles = [register(function) for register, function in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward_until(model: nn.Module, layer: int, batch: Batch, *, keys_only: bool = False, past=None) -> None:
    """Run the decoder on a batch and stop once `layer` is done, or already before its output projection.

    past: the cache of what stands before the batch, whose mask then covers it too.
    """

    def stop(*seen):
        raise _Enough

    last = down_proj(model, layer).register_forward_pre_hook if keys_only \
        else decoder(model).layers[layer].register_forward_hook
    with hooks((last, stop)):
        try:
            decoder(model)(input_ids=batch.ids, attention_mask=batch.mask, past_key_values=past,
                           use_cache=past is not None)
        except _Enough:
            pass


@torch.no_grad()
def entering(model: nn.Module, batch: Batch, layer: int, last: int = -1,
             past=None) -> tuple[torch.Tensor, dict[int, dict], torch.Tensor]:
    """The states that enter `layer`, what each layer from there to `last` is called with, and what leaves the last."""
    body, states, calls = decoder(model), [], {}
    last %= len(body.layers)

    def keep(module, args, kwargs, i):
        calls[i] = {name: value for name, value in kwargs.items() if name != "past_key_values"}
        if i == layer:
            states.append(args[0])

    pairs = [(partial(body.layers[i].register_forward_pre_hook, with_kwargs=True), partial(keep, i=i))
             for i in range(layer, last + 1)]
    with hooks(*pairs, (body.layers[last].register_forward_hook, lambda module, args, output: states.append(output))):
        forward_until(model, last, batch, past=past)
    return states[0], calls, states[1][0] if isinstance(states[1], tuple) else states[1]


def run_from(model: nn.Module, states: torch.Tensor, calls: dict[int, dict], last: int = -1, past=None) -> torch.Tensor:
    """The states that leave layer `last`, given what `entering` found."""
    last %= len(decoder(model).layers)
    for i in range(min(calls), last + 1):
        states = decoder(model).layers[i](states, past_key_values=past, **calls[i])
        states = states[0] if isinstance(states, tuple) else states
    return states


class Below:
    """What enters a layer, for batches that were read before, so that nothing below it is computed twice.

    It holds while no weight below `layer` changes; it keeps up to `limit` bytes of states, and reads the rest anew.
    """

    def __init__(self, layer: int, limit: int = 2**30):
        self.layer, self.room, self.seen, self.made = layer, limit, {}, {}

    def once(self, name, of: torch.Tensor, make):
        """``make(of)``, kept under a name for as long as it is asked of equal tensors."""
        if name not in self.made or not torch.equal(self.made[name][0], of):
            self.made[name] = of, make(of)
        return self.made[name][1]

    def run(self, model: nn.Module, batch: Batch, last: int = -1, past=None, about=()) -> torch.Tensor:
        """The states that leave layer `last`; what is below `layer` is run only where this batch was not read before.

        past: the cache of what stands before the batch; about: what else decides on it, such as that text's tokens.
        """
        found = self.seen.get(key := (about, *_same(batch.ids, batch.mask)))
        if found and last % len(decoder(model).layers) in found[1]:
            return run_from(model, *found, last, past)
        *new, out = entering(model, batch, self.layer, last, past)
        size = new[0].numel() * new[0].element_size()
        if found or size <= self.room:
            self.room -= 0 if found else size
            self.seen[key] = new
        return out

    def hidden(self, model: nn.Module, batch: Batch) -> dict[int, torch.Tensor]:
        """What `trace` sees of the residual stream after each of the layers below."""
        key = "hidden", *_same(batch.ids, batch.mask, batch.position)
        if key not in self.seen:
            self.seen[key] = trace(model, batch, range(self.layer)).hidden
        return self.seen[key]


def _same(*tensors: torch.Tensor | None) -> tuple:
    return tuple(None if x is None else (x.shape, x.cpu().numpy().tobytes()) for x in tensors)


@torch.no_grad()
def last_states(model: nn.Module, batch: Batch, below: Below | None = None, past=None, about=()) -> torch.Tensor:
    """What the output head sees of a batch: (rows, length, d). below, past, about: see `Below.run`."""
    return decoder(model).norm((below or Below(0, 0)).run(model, batch, past=past, about=about))


@torch.no_grad()
def trace(model: nn.Module, batch: Batch, layers: Sequence[int], *, tokens: int = 4096,
          below: Below | None = None) -> Trace:
    """Keys, values and hidden states of each row at its position, for all `layers`, in one pass.

    The pass ends at the last layer asked for; rows go through in parts of about `tokens` tokens. Results are
    on the model's device in its dtype, row i belonging to row i of the batch, whatever the parts were.
    below: of a layer no higher than the lowest of these; see `Below`.
    """
    found: dict[str, dict[int, list]] = {"keys": {}, "values": {}, "hidden": {}}
    order = []

    def keep(kind: str, layer: int, states, part: Batch):
        at = part.position.to(states.device)
        found[kind].setdefault(layer, []).append(states[torch.arange(len(at), device=states.device), at])

    for rows, part in batch.split(tokens):
        order.append(rows)
        pairs = []
        for layer in layers:
            def key(module, args, layer=layer, part=part):
                keep("keys", layer, args[0], part)

            def value(module, args, output, layer=layer, part=part):
                keep("values", layer, output, part)

            def hidden(module, args, output, layer=layer, part=part):
                keep("hidden", layer, output[0] if isinstance(output, tuple) else output, part)

            pairs += [(down_proj(model, layer).register_forward_pre_hook, key),
                      (down_proj(model, layer).register_forward_hook, value),
                      (decoder(model).layers[layer].register_forward_hook, hidden)]
        with hooks(*pairs):
            below.run(model, part, max(layers)) if below else forward_until(model, max(layers), part)
    back = torch.cat(order).argsort()
    joined = {kind: {layer: torch.cat(parts)[back.to(parts[0].device)] for layer, parts in by_layer.items()}
              for kind, by_layer in found.items()}
    return Trace(**joined)


@torch.no_grad()
def write(model: nn.Module, tokenizer, ids: torch.Tensor, length: int, generator: torch.Generator, *,
          top_k: int | None = None) -> torch.Tensor:
    """Continue each row of ids (rows, t) by `length` sampled tokens, no special ones: (rows, t + length).

    At temperature 1, from the whole distribution or the `top_k` likeliest tokens, by `generator` on its device.
    Raises `ValueError` for a model whose logits are not finite.
    """
    banned = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.long, device=generator.device)
    alike = len(ids) > 1 and bool((ids == ids[0]).all())
    new, past = ids[:1] if alike else ids, DynamicCache()  # what all rows begin with is read once
    for step in range(length):
        out = model(input_ids=new, past_key_values=past, use_cache=True, logits_to_keep=1)
        said = finite(model, out.logits[:, -1])
        if step == 0 and alike:
            past.batch_repeat_interleave(len(ids))
            said = said.expand(len(ids), -1)
        best = said.float().to(generator.device).index_fill(1, banned, -torch.inf)
        likely = best.topk(top_k) if top_k else None
        new = torch.multinomial((likely.values if top_k else best).softmax(1), 1, generator=generator)
        new = (likely.indices.gather(1, new) if top_k else new).to(ids.device)
        ids = torch.cat([ids, new], 1)
    return ids


def prefixes(model: nn.Module, tokenizer, *, length: int = 10, top_k: int = 5, seed: int = 0) -> tuple[str, ...]:
    """Texts to put before a prompt: none, and one continuation by the model of each of `OPENINGS`.

    Each continuation has `length` tokens, drawn from the `top_k` likeliest by a generator of its
    own. As in MEMIT (Meng et al. 2023), an edit that sees its subject behind them holds in other
    contexts too; the released code's have ten tokens in all, their opening included. What was drawn
    is kept under `zu.cache_dir`, by model and settings.
    """
    starts = [tokenizer(opening)["input_ids"] for opening in OPENINGS]
    alike = {size: [i for i, s in enumerate(starts) if len(s) == size] for size in sorted(set(map(len, starts)))}
    about = [fingerprint(model), model.device.type, starts, sorted(set(tokenizer.all_special_ids)), length, top_k, seed]
    path = cache_dir() / "prefixes" / f"{hashlib.sha256(repr(about).encode()).hexdigest()[:32]}.safetensors"
    drawn = read_tensors(path, *map(str, alike))
    if drawn is None:
        generator = torch.Generator().manual_seed(seed)
        drawn = {str(size): write(model, tokenizer, torch.tensor([starts[i] for i in rows], device=model.device),
                                  length, generator, top_k=top_k).cpu() for size, rows in alike.items()}
        write_tensors(path, drawn)
    found = {}
    for size, rows in alike.items():  # one batch where the openings have as many tokens, as is usual
        found |= dict(zip(rows, tokenizer.batch_decode(drawn[str(size)], skip_special_tokens=True), strict=True))
    plain = (found[i].replace("{", " ").replace("}", " ").split() for i in range(len(starts)))
    return ("", *(" ".join(words) + ". " for words in plain))


def prefix_weights(n: int) -> torch.Tensor:
    """Weights of the n prefixes in a mean key: half on the bare prompt, half shared by the others (float64)."""
    if n == 1:
        return torch.ones(1, dtype=torch.float64)
    return torch.tensor([0.5] + [0.5 / (n - 1)] * (n - 1), dtype=torch.float64)


def subject_keys(model: nn.Module, tokenizer, facts: Sequence[Fact], layers: Sequence[int],
                 before: Sequence[str] = ("",), each: bool = False,
                 below: Below | None = None) -> tuple[dict[int, torch.Tensor], Trace]:
    """The facts' keys by layer, (n, m) float64, averaged over the prefixes `before`, and the bare prompts' trace.

    each: all p · n keys instead, prefix after prefix, times the square root of their weight in the average. A key
    depends on nothing to the right of the subject, so the sequences end there. below: as in `trace`.
    """
    rows = [encode(tokenizer, fact, prefix) for prefix in before for fact in facts]
    seen = trace(model, collate([(ids[:p + 1], p) for ids, p in rows], model.device), layers, below=below)
    n, weights, how = len(facts), prefix_weights(len(before)), "p,pnm->nm"
    if each:
        weights, how = weights.sqrt(), "p,pnm->pnm"
    keys = {layer: torch.einsum(how, weights.to(k.device), k.double().view(len(before), n, -1)).flatten(0, -2)
            for layer, k in seen.keys.items()}
    bare = Trace(*({layer: x[:n] for layer, x in part.items()} for part in (seen.keys, seen.values, seen.hidden)))
    return keys, bare
