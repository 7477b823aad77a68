"""Where to aim: the hidden state after the last edited layer that makes the model say something else."""
from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from .data.cache import cache_dir, read_tensors, write_tensors
from .data.facts import Fact
from .models import decoder, down_proj, fingerprint, logits
from .reader import Batch, collate, encode, hooks

#: The prompt after which the next token's distribution should stay as it is: after ROME's "essence"
#: term, but not the same one, see `optimise`.
ESSENCE = "{} is a"
#: The search for the first so many facts is one piece of work, the next piece ends at twice as many, and so on: larger
#: sets that begin alike share their first pieces.
TOGETHER = 25


@dataclass(frozen=True)
class Targets:
    """What `optimise` found for n facts at one layer.

    z: the hidden state wanted after the layer at the subject's last token, (n, d) float32. h: what it is.
    loss: mean negative log-likelihood of the target before each step, (steps, n); a fact that has converged
    keeps its last value.
    """

    z: torch.Tensor
    h: torch.Tensor
    loss: torch.Tensor


def target_ids(tokenizer, fact: Fact, goal: str) -> list[int]:
    """Tokens to aim at: the tokenizer's end-of-sequence token ("eos") or the true answer ("truth").

    The released code aims at the text "<|endoftext|>" on zsRE, whatever tokens that is, with or
    without a space by method; on MCF at a string from a file that was not released.
    """
    if goal == "eos":
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token to aim at: set tokenizer.eos_token")
        return [tokenizer.eos_token_id]
    if goal != "truth":
        raise ValueError(f"goal is {goal!r}: use 'eos' or 'truth'")
    text = fact.text + " " + fact.target
    coded = tokenizer(text, return_offsets_mapping=True)
    return [t for t, (_, stop) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
            if stop > len(fact.text)]


def optimise(model: nn.Module, tokenizer, facts: Sequence[Fact], layer: int, before: Sequence[str] = ("",), *,
             goal: str = "eos", steps: int = 25, lr: float = 0.4, weight_decay: float = 0.5, kl: float = 0.0625,
             clamp: float = 0.75, tolerance: float = 0.1, batch: int | None = None, cache: bool = True) -> Targets:
    """Find, for every fact, the δ to add after `layer` at the subject's last token (Meng et al. 2022, Eq. 4).

    Minimises, per fact: the mean over the prefixes `before` of the target's negative log-likelihood
    + kl · KL(original ‖ changed) of the next token after "{subject} is a"
    + weight_decay · ‖δ‖ / ‖h‖²; with Adam, cutting ‖δ‖ to clamp · ‖h‖ after each step, until the
    loss is under `tolerance`. MEMIT's code and the released one take another second term,
    KL(changed ‖ original), at the subject's last token.

    lr is relative: one step moves a coordinate by about lr · ‖h‖/√d, whatever the scale of the
    model's residual stream. The literature's lr is absolute, 0.1 in the model's own unit, which
    would be lr = 0.1 √d/‖h‖ here; its tolerance is 0.05. Our defaults save steps. Positions before
    the subject's last token and layers up to `layer` do not depend on δ: they are computed once.
    Results do not depend on which facts share a batch.

    batch: most facts in a batch; by default as many as the free memory bears, and at most 2 GiB of it. Where it
    runs out all the same, the batch is halved with a warning. cache: keep each fact's result under
    `zu.cache_dir`, by model, layer, token ids, settings and the facts of its piece of work (see `TOGETHER`; they
    decide on its last bits), so that a run goes on where it stopped and ends where it would have; no text is stored.
    Raises `ValueError` for a model whose logits are not finite.
    """
    coded = [_Coded.of(tokenizer, fact, tuple(before), goal) for fact in facts]
    about = [str(x) for x in (fingerprint(model), model.device.type, layer, steps, lr, weight_decay, kl, clamp,
                              tolerance)]
    ends = [0, TOGETHER]
    while ends[-1] < len(coded):
        ends.append(2 * ends[-1])
    sets = [range(start, min(end, len(coded))) for start, end in pairwise(ends)]
    files = [path for some in sets for path in _files(about, [coded[i] for i in some])]
    found = {i: kept for i, path in enumerate(files) if cache and (kept := read_tensors(path, "z", "h", "loss"))}
    parts = [part for some in sets for part in _parts(model, layer, coded, some, batch) if not set(part) <= set(found)]
    done = len(coded) - sum(map(len, parts))
    with tqdm(total=len(facts), initial=done, desc=f"targets after layer {layer}", leave=False) as bar:
        while parts:
            part = parts.pop(0)
            try:
                problem = _Problem(model, layer, [coded[i] for i in part], kl)
                solved = _adam(problem, steps, lr, weight_decay, clamp, tolerance)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if len(part) == 1 or not _out_of_memory(error):
                    raise
                solved = problem = None
            if solved is None:  # out here, where nothing holds the failed batch's tensors any more
                warnings.warn(f"out of memory with {len(part)} facts in a batch: going on in halves", stacklevel=2)
                parts[:0] = [part[:len(part) // 2], part[len(part) // 2:]]
                continue
            for i, z, h, loss in zip(part, *(x.cpu() for x in solved), strict=True):
                found[i] = {"z": z, "h": h, "loss": loss}
                if cache:
                    write_tensors(files[i], found[i])
            bar.update(len(part))
    z, h, loss = (torch.stack([found[i][name] for i in range(len(coded))]) for name in ("z", "h", "loss"))
    return Targets(z.to(model.device), h.to(model.device), loss.T)


@dataclass(frozen=True)
class _Coded:
    """A fact as token ids: (ids, position of the subject's last token) by prefix, the target, the essence prompt."""

    rows: list[tuple[list[int], int]]
    goal: list[int]
    essence: tuple[list[int], int]

    @classmethod
    def of(cls, tokenizer, fact: Fact, before: tuple[str, ...], goal: str) -> _Coded:
        return cls([encode(tokenizer, fact, prefix) for prefix in before], target_ids(tokenizer, fact, goal),
                   encode(tokenizer, fact, prompt=ESSENCE))

    @property
    def width(self) -> int:
        """Tokens from the subject's last one on, the target's but the last included."""
        return max(len(ids) - p for ids, p in self.rows) + len(self.goal) - 1

    @property
    def length(self) -> int:
        return max(len(ids) for ids, _ in self.rows) + len(self.goal) - 1


def _files(about: list[str], coded: list[_Coded]) -> list[Path]:
    """Where each fact's result is kept; facts that are coded alike are told apart by their place."""
    here = Path(__file__)
    code = b"".join((here.parent / f"{name}.py").read_bytes() for name in ("targets", "reader", "models"))
    said = [[c.rows, c.goal, c.essence] for c in coded]
    text = json.dumps([*about, said, torch.__version__, transformers.__version__])
    names = [hashlib.sha256(code + f"{i} {text}".encode()).hexdigest()[:32] for i in range(len(coded))]
    return [cache_dir() / "targets" / name[:2] / f"{name}.safetensors" for name in names]


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def bytes_per_fact(model: nn.Module, layer: int, prompts: int, width: int, length: int) -> int:
    """What a fact adds to the memory of a batch: what the backward pass reads again, and the attention's past.

    An upper estimate from the shapes; prompts: prefixes and the essence prompt; width: tokens from the subject's
    last one on; length: of the whole sequence.
    """
    config, size = model.config.get_text_config(), model.dtype.itemsize
    d, m, depth = config.hidden_size, down_proj(model, layer).in_features, config.num_hidden_layers
    kv = 2 * config.num_key_value_heads * (getattr(config, "head_dim", None) or d // config.num_attention_heads)
    states = width * (depth - layer) * ((8 * size + 16) * d + 6 * m * size + 6 * kv * size)
    past = length * (3 * depth * kv * size + 4 * m * size)
    return prompts * (states + past + 5 * config.vocab_size * 4)


def _parts(model, layer, coded, todo: Sequence[int], batch: int | None) -> list[list[int]]:
    """Fact numbers in batches: those whose prompts go on equally far after the subject need no padding there."""
    device = model.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    memory = min(free // 2, 2 * 2**30)
    parts: list[list[int]] = []
    for i in sorted(todo, key=lambda i: (coded[i].width, coded[i].length)):
        c = coded[i]
        size = batch or memory // bytes_per_fact(model, layer, len(c.rows) + 1, c.width, c.length)
        if parts and coded[parts[-1][-1]].width == c.width and len(parts[-1]) < size:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _adam(problem: _Problem, steps, lr, weight_decay, clamp, tolerance):
    """Adam on u = δ √d/‖h‖, one independent problem a row; rows that have converged are left out."""
    h = problem.h
    n, d = h.shape
    norm = h.norm(dim=1, keepdim=True)
    scale = norm / d ** 0.5
    u, mean, square = torch.zeros_like(h), torch.zeros_like(h), torch.zeros_like(h)
    losses = torch.zeros(steps, n, dtype=torch.float32)
    active = torch.arange(n, device=h.device)
    for step in range(steps):
        x = u[active].requires_grad_(True)
        delta = x * scale[active]
        nll, divergence = problem.loss(delta, active)
        size = weight_decay * (delta.norm(dim=1) / norm[active, 0] ** 2)
        loss = nll + divergence + size
        losses[step:, active.cpu()] = nll.detach().float().cpu()
        going = loss.detach() >= tolerance
        if step == steps - 1 or not bool(going.any()):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        active, gradient = active[going], gradient[going]
        mean[active] = 0.9 * mean[active] + 0.1 * gradient
        square[active] = 0.999 * square[active] + 0.001 * gradient ** 2
        m, v = mean[active] / (1 - 0.9 ** (step + 1)), square[active] / (1 - 0.999 ** (step + 1))
        u[active] -= lr * m / (v.sqrt() + 1e-8)
        length = (u[active] * scale[active]).norm(dim=1, keepdim=True)
        u[active] *= (clamp * norm[active] / length.clamp_min(1e-12)).clamp(max=1.0)
    return h + u * scale, h, losses.T


class _Past:
    """Keys and values of the positions left of the subject's last token, for one pass over the rest.

    The part of transformers' cache interface that attention layers call.
    """

    def __init__(self, keys: dict[int, torch.Tensor], values: dict[int, torch.Tensor]) -> None:
        self.keys, self.values = keys, values

    def update(self, key, value, layer_idx, *args, **kwargs):
        return torch.cat([self.keys[layer_idx], key], 2), torch.cat([self.values[layer_idx], value], 2)


class _Suffixes:
    """The part of the model that δ reaches in some prompts: from the subject's last token on, above `layer`.

    groups: rows of (ids, position) that begin alike, one row a fact in each. What they share is read once, its keys
    and values serve them all.
    """

    @torch.no_grad()
    def __init__(self, model, layer: int, groups: Sequence[Sequence[tuple[list[int], int]]]) -> None:
        body, every = decoder(model), [row for rows in groups for row in rows]
        window, longest = getattr(model.config.get_text_config(), "sliding_window", None), max(len(i) for i, _ in every)
        if window and longest > window:
            raise ValueError(f"a prompt of {longest} tokens exceeds the sliding window of {window}")
        self.layers, self.norm = {i: x for i, x in enumerate(body.layers) if i > layer}, body.norm
        n, device = len(groups[0]), model.device
        self.fact = torch.arange(n, device=device).repeat(len(groups))
        heads = [_shared(rows) for rows in groups]
        alike, cache = max(heads), DynamicCache()
        if alike:
            body(input_ids=collate([(rows[0][0][:k], 0) for rows, k in zip(groups, heads, strict=True)], device).ids,
                 past_key_values=cache)  # padding on the right: no real token sees it
            cache.batch_repeat_interleave(n)
        head = torch.tensor(heads, device=device).repeat_interleave(n)[:, None]
        tails = collate([(ids[k:], p - k) for (ids, p), k in zip(every, head[:, 0].tolist(), strict=True)], device)
        seen = self._read(body, layer, tails, head, alike, cache)
        p = tails.position[:, None]
        width, past = int((tails.mask.sum(1) - p[:, 0]).max()), int((head + p).max())
        steps = torch.arange(width, device=device)
        at = (p + steps).clamp(max=tails.ids.shape[1] - 1)[..., None]
        states = seen["h"].to(device)
        self.suffix = states.gather(1, at.expand(-1, -1, states.shape[-1]))
        left = head + p - past + torch.arange(past, device=device)  # negative where a row has no such token
        take = torch.where(left < head, left, alike + left - head).clamp(min=0)[:, None, :, None]
        self.past, self.rope = {}, {}
        for i in self.layers:
            kv = cache.layers[i].keys, cache.layers[i].values
            self.past[i] = tuple(x.gather(2, take.to(x.device).expand(-1, x.shape[1], -1, x.shape[3])) for x in kv)
            self.rope[i] = tuple(x.gather(1, at.to(x.device).expand(-1, -1, x.shape[-1])) for x in seen[i])
        causal = (steps[None, :] <= steps[:, None]).expand(len(every), -1, -1)
        visible = torch.cat([(left >= 0)[:, None, :].expand(-1, width, -1), causal], 2)[:, None]
        self.mask = torch.zeros(visible.shape, dtype=self.suffix.dtype, device=device)
        self.mask.masked_fill_(~visible, torch.finfo(self.suffix.dtype).min)

    def _read(self, body, layer: int, tails: Batch, head: torch.Tensor, alike: int, cache) -> dict:
        """What a pass over the rest of the rows shows: the states after `layer`, and each later layer's rotation."""
        seen: dict = {}

        def hidden(module, args, output):
            seen["h"] = output[0] if isinstance(output, tuple) else output

        pairs = [(body.layers[layer].register_forward_hook, hidden)]
        for i, above in self.layers.items():
            def rope(module, args, kwargs, i=i):
                seen[i] = kwargs["position_embeddings"]

            pairs.append((partial(above.register_forward_pre_hook, with_kwargs=True), rope))
        mask = torch.cat([(torch.arange(alike, device=head.device) < head).long(), tails.mask], 1)
        with hooks(*pairs):
            body(input_ids=tails.ids, attention_mask=mask, past_key_values=cache, use_cache=True,
                 position_ids=head + torch.arange(tails.ids.shape[1], device=head.device))
        return seen

    def states(self, delta: torch.Tensor, index: torch.Tensor, row: torch.Tensor, offset: torch.Tensor):
        """The final states at `offset` of each `row` whose fact has a δ, delta[index[fact]], and which rows these are.
        """
        rows = (index[self.fact] >= 0).nonzero()[:, 0]
        x = self.suffix[rows].float()
        x = torch.cat([x[:, :1] + delta[index[self.fact[rows]]][:, None], x[:, 1:]], 1).to(self.suffix.dtype)
        for i, layer in self.layers.items():
            device = self.past[i][0].device
            pick = rows.to(device)
            x = layer(x.to(device), attention_mask=self.mask[rows].to(device), past_key_values=_Past(
                      {i: self.past[i][0][pick]}, {i: self.past[i][1][pick]}), use_cache=True,
                      position_embeddings=tuple(part[pick] for part in self.rope[i]))
            x = x[0] if isinstance(x, tuple) else x
        place = torch.full((len(self.fact),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        kept = place[row] >= 0
        return kept, self.norm(x[place[row[kept]].to(x.device), offset[kept].to(x.device)])


def _shared(rows: Sequence[tuple[list[int], int]]) -> int:
    """How many tokens all rows begin with, none of them a subject's last."""
    most = min(p for _, p in rows)
    return next((j for j in range(most) if len({ids[j] for ids, _ in rows}) > 1), most)


class _Problem:
    """The targets of some facts: what the model says to their prompts with a δ at each, and what it shall say."""

    def __init__(self, model, layer: int, coded: Sequence[_Coded], kl: float) -> None:
        self.model, self.kl, self.n, before = model, kl, len(coded), len(coded[0].rows)
        groups = [[(c.rows[j][0] + c.goal[:-1], c.rows[j][1]) for c in coded] for j in range(before)]
        self.prompts = _Suffixes(model, layer, [*groups, [c.essence for c in coded]])
        at = [(j * self.n + i, len(ids) - 1 - p + k, t, 1 / (before * len(c.goal)))
              for i, c in enumerate(coded) for j, (ids, p) in enumerate(c.rows) for k, t in enumerate(c.goal)]
        row, offset, token, weight = (torch.tensor(x, device=model.device) for x in zip(*at, strict=True))
        ends = torch.tensor([len(ids) - 1 - p for ids, p in (c.essence for c in coded)], device=model.device)
        self.row, self.token, self.weight = row, token, weight.float()
        last = before * self.n + torch.arange(self.n, device=model.device)
        self.reads = torch.cat([row, last]), torch.cat([offset, ends])
        self.h = self.prompts.suffix[:self.n, 0].float()
        self.original: torch.Tensor | None = None  # what the essence prompts say with no δ: the first loss tells

    def _scores(self, delta: torch.Tensor, active: torch.Tensor):
        """Log-probabilities at the positions that are read: of the target tokens' places, and of the essence."""
        index = torch.full((self.n,), -1, device=active.device)
        index[active] = torch.arange(len(active), device=active.device)
        kept, states = self.prompts.states(delta, index, *self.reads)
        return kept[:len(self.row)], logits(self.model, states).log_softmax(-1).to(delta.device), index

    def loss(self, delta: torch.Tensor, active: torch.Tensor):
        """Mean target negative log-likelihood and weighted divergence of each active fact, both (active,).

        To be called with δ = 0 for every fact first: the divergence is counted from there.
        """
        used, logp, index = self._scores(delta, active)
        asked = int(used.sum())
        nll = -logp[:asked].gather(1, self.token[used][:, None])[:, 0] * self.weight[used]
        per_fact = torch.zeros(len(active), dtype=nll.dtype, device=delta.device)
        per_fact = per_fact.index_add(0, index[self.prompts.fact[self.row[used]]], nll)
        if self.original is None:
            self.original = logp[asked:].detach()
        before = self.original[active]
        least = torch.finfo(logp.dtype).min  # a token that is ruled out, at −∞, would make it NaN
        now, before = logp[asked:].clamp(min=least), before.clamp(min=least)
        return per_fact, self.kl * F.kl_div(now, before, reduction="none", log_target=True).sum(1)
