"""Where to aim: the hidden state after the last edited layer that makes the model say something else."""
from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from .facts import Fact
from .models import cache_dir, decoder, down_proj, fingerprint, logits, read_tensors, write_tensors
from .trace import Batch, collate, encode, hooks

#: The prompt whose next-token distribution shall stay as it is (ROME's "essence" term).
ESSENCE = "{} is a"


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
    """Tokens to aim at: the tokenizer's end-of-sequence token ("eos"), or the true answer ("truth")."""
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
             goal: str = "eos", steps: int = 25, lr: float = 0.1, weight_decay: float = 0.5, kl: float = 0.0625,
             clamp: float = 0.75, tolerance: float = 0.05, batch: int | None = None, cache: bool = True) -> Targets:
    """Find, for every fact, the δ to add after `layer` at the subject's last token (Meng et al. 2022, Eq. 4).

    Minimises, per fact: the mean over the prefixes `before` of the target's negative log-likelihood
    + kl · KL(original ‖ changed) of the next token after "{subject} is a" + weight_decay · ‖δ‖ / ‖h‖², as MEMIT's
    code does; with Adam, cutting ‖δ‖ to clamp · ‖h‖ after each step, until the loss is under `tolerance`.

    lr is relative: one step moves a coordinate by about lr · ‖h‖/√d, whatever the scale of the model's
    residual stream (the literature's lr is absolute). Positions before the subject's last token and layers up
    to `layer` do not depend on δ: they are computed once. Results do not depend on which facts share a batch.

    batch: most facts in a batch; by default as many as the free memory bears, and at most 2 GiB of it. Where it
    runs out all the same, the batch is halved with a warning. cache: keep each fact's result under
    `zu.models.cache_dir`, by model, layer, token ids and settings, so that a run goes on where it stopped; no
    text is stored.
    """
    coded = [_Coded.of(tokenizer, fact, tuple(before), goal) for fact in facts]
    about = [str(x) for x in (fingerprint(model), model.device.type, layer, steps, lr, weight_decay, kl, clamp,
                              tolerance)]
    files = [_file(about, c) for c in coded]
    found = {i: kept for i, path in enumerate(files) if cache and (kept := read_tensors(path, "z", "h", "loss"))}
    parts = _parts(model, layer, coded, [i for i in range(len(coded)) if i not in found], batch)
    with tqdm(total=len(facts), initial=len(found), desc=f"targets after layer {layer}", leave=False) as bar:
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


def _file(about: list[str], coded: _Coded) -> Path:
    here = Path(__file__)
    code = b"".join((here.parent / f"{name}.py").read_bytes() for name in ("targets", "trace", "models"))
    text = json.dumps([*about, coded.rows, coded.goal, coded.essence, torch.__version__, transformers.__version__])
    name = hashlib.sha256(code + text.encode()).hexdigest()[:32]
    return cache_dir() / "targets" / name[:2] / f"{name}.safetensors"


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


def _parts(model, layer, coded, todo: list[int], batch: int | None) -> list[list[int]]:
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


class _Problem:
    """The part of the model that δ reaches: suffixes of all prompts of some facts, layers above `layer`."""

    def __init__(self, model, layer: int, coded: Sequence[_Coded], kl: float) -> None:
        self.model, self.layer, self.kl, self.n = model, layer, kl, len(coded)
        rows, labels, before = [], [], len(coded[0].rows)
        for c in coded:
            rows += [(ids + c.goal[:-1], position) for ids, position in c.rows]
            labels += [[(len(ids) - 1 - p + j, t) for j, t in enumerate(c.goal)] for ids, p in c.rows]
        self.asked = len(rows)
        batch = collate(rows + [c.essence for c in coded], model.device)
        owner = [*range(self.n)]
        self.fact = torch.tensor([i for i in owner for _ in range(before)] + owner, device=model.device)
        self._read(batch)
        at = [(r, j, t, 1 / (before * len(row))) for r, row in enumerate(labels) for j, t in row]
        row, offset, token, weight = (torch.tensor(x, device=model.device) for x in zip(*at, strict=True))
        ends = batch.mask.sum(1) - 1 - batch.position
        essence = torch.arange(self.asked, len(batch), device=model.device)
        self.row, self.token, self.weight = row, token, weight.float()
        self.reads = torch.cat([row, essence]), torch.cat([offset, ends[essence]])
        bare = torch.arange(self.n, device=model.device) * before
        self.h = self.suffix[bare, 0].float()
        with torch.no_grad():
            start = torch.zeros_like(self.h)
            self.original = self._scores(start, torch.arange(self.n, device=model.device))[1]

    @torch.no_grad()
    def _read(self, batch: Batch) -> None:
        """One pass over whole prompts: hidden states after `layer`, and the later layers' keys and values."""
        body, seen, self.rope = decoder(self.model), {}, {}

        def hidden(module, args, output):
            seen["h"] = output[0] if isinstance(output, tuple) else output

        pairs = [(body.layers[self.layer].register_forward_hook, hidden)]
        self.above = range(self.layer + 1, len(body.layers))
        for i in self.above:
            def rope(module, args, kwargs, i=i):
                self.rope[i] = kwargs["position_embeddings"]

            pairs.append((lambda f, i=i: body.layers[i].register_forward_pre_hook(f, with_kwargs=True), rope))
        cache = DynamicCache()
        with hooks(*pairs):
            body(input_ids=batch.ids, attention_mask=batch.mask, past_key_values=cache, use_cache=True)
        self.norm, p, lengths = body.norm, batch.position, batch.mask.sum(1)
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if window and batch.ids.shape[1] > window:
            raise ValueError(f"a prompt of {batch.ids.shape[1]} tokens exceeds the sliding window of {window}")
        width, past = int((lengths - p).max()), int(p.max())
        steps = torch.arange(width, device=p.device)
        at = (p[:, None] + steps).clamp(max=batch.ids.shape[1] - 1)
        self.suffix = seen["h"].gather(1, at[..., None].expand(-1, -1, seen["h"].shape[-1]))
        left = p[:, None] - past + torch.arange(past, device=p.device)  # negative where a row has no such token
        take = left.clamp(min=0)[:, None, :, None]
        self.keys, self.values = {}, {}
        for i in self.above:
            k, v = cache.layers[i].keys, cache.layers[i].values
            index = take.expand(-1, k.shape[1], -1, k.shape[3]).to(k.device)
            self.keys[i], self.values[i] = k.gather(2, index), v.gather(2, index)
            cos, sin = self.rope[i]
            self.rope[i] = cos[0][at.to(cos.device)], sin[0][at.to(sin.device)]
        seen_left = (left >= 0)[:, None, :].expand(-1, width, -1)
        causal = (steps[None, :] <= steps[:, None]).expand(len(p), -1, -1)
        visible = torch.cat([seen_left, causal], 2)[:, None]
        self.mask = torch.zeros(visible.shape, dtype=self.suffix.dtype, device=p.device)
        self.mask.masked_fill_(~visible, torch.finfo(self.suffix.dtype).min)

    def _scores(self, delta: torch.Tensor, active: torch.Tensor):
        """Log-probabilities at the positions that are read: of the target tokens' places, and of the essence."""
        index = torch.full((self.n,), -1, device=active.device)
        index[active] = torch.arange(len(active), device=active.device)
        rows = (index[self.fact] >= 0).nonzero()[:, 0]
        x = self.suffix[rows].float()
        x = torch.cat([x[:, :1] + delta[index[self.fact[rows]]][:, None], x[:, 1:]], 1).to(self.suffix.dtype)
        for i in self.above:
            layer = decoder(self.model).layers[i]
            device = self.keys[i].device
            pick = rows.to(device)
            past = _Past({i: self.keys[i][pick]}, {i: self.values[i][pick]})
            rope = tuple(part[pick] for part in self.rope[i])
            x = layer(x.to(device), attention_mask=self.mask[rows].to(device), position_embeddings=rope,
                      past_key_values=past, use_cache=True)
            x = x[0] if isinstance(x, tuple) else x
        place = torch.full((len(self.fact),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        row, offset = self.reads
        kept = place[row] >= 0
        states = x[place[row[kept]].to(x.device), offset[kept].to(x.device)]
        logp = logits(self.model, self.norm(states)).log_softmax(-1).to(delta.device)
        return kept[:len(self.row)], logp, index

    def loss(self, delta: torch.Tensor, active: torch.Tensor):
        """Mean target negative log-likelihood and weighted divergence of each active fact, both (active,)."""
        used, logp, index = self._scores(delta, active)
        asked = int(used.sum())
        nll = -logp[:asked].gather(1, self.token[used][:, None])[:, 0] * self.weight[used]
        per_fact = torch.zeros(len(active), dtype=nll.dtype, device=delta.device)
        per_fact = per_fact.index_add(0, index[self.fact[self.row[used]]], nll)
        before = self.original[-self.n:][active]
        return per_fact, self.kl * F.kl_div(logp[asked:], before, reduction="none", log_target=True).sum(1)
