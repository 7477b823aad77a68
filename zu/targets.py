"""Where to aim: the hidden state after the last edited layer that makes the model say something else."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from .facts import Fact
from .models import decoder, logits
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
             clamp: float = 0.75, tolerance: float = 0.05, batch_tokens: int = 4096) -> Targets:
    """Find, for every fact, the δ to add after `layer` at the subject's last token (Meng et al. 2022, Eq. 4).

    Minimises, per fact: the mean over the prefixes `before` of the target's negative log-likelihood
    + kl · KL(original ‖ changed) of the next token after "{subject} is a" + weight_decay · ‖δ‖ / ‖h‖², as MEMIT's
    code does; with Adam, cutting ‖δ‖ to clamp · ‖h‖ after each step, until the loss is under `tolerance`.

    lr is relative: one step moves a coordinate by about lr · ‖h‖/√d, whatever the scale of the model's
    residual stream (the literature's lr is absolute). Positions before the subject's last token and layers up
    to `layer` do not depend on δ: they are computed once. Results do not depend on which facts share a batch.
    """
    parts = _parts(tokenizer, facts, before, batch_tokens)
    found = []
    with tqdm(total=len(facts), desc=f"targets after layer {layer}", leave=False) as bar:
        for part in parts:
            problem = _Problem(model, tokenizer, [facts[i] for i in part], layer, tuple(before), goal, kl)
            found.append(_adam(problem, steps, lr, weight_decay, clamp, tolerance))
            bar.update(len(part))
    back = torch.tensor([i for part in parts for i in part]).argsort()
    z, h, loss = zip(*found, strict=True)
    return Targets(torch.cat(z)[back.to(z[0].device)], torch.cat(h)[back.to(h[0].device)], torch.cat(loss, 1)[:, back])


def _parts(tokenizer, facts, before, batch_tokens) -> list[list[int]]:
    """Fact numbers in batches: those whose prompts go on equally far after the subject need no padding there."""
    coded = [encode(tokenizer, fact, before[-1]) for fact in facts]
    width = [len(ids) - position for ids, position in coded]
    size = max(1, batch_tokens // ((len(before) + 1) * max(len(ids) for ids, _ in coded)))
    parts: list[list[int]] = []
    for i in sorted(range(len(facts)), key=lambda i: width[i]):
        if parts and width[parts[-1][-1]] == width[i] and len(parts[-1]) < size:
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
    losses = torch.zeros(steps, n)
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
    return h + u * scale, h, losses


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

    def __init__(self, model, tokenizer, facts, layer, before, goal, kl) -> None:
        self.model, self.layer, self.kl, self.n = model, layer, kl, len(facts)
        goals = [target_ids(tokenizer, fact, goal) for fact in facts]
        rows, self.fact, labels = [], [], []
        for i, fact in enumerate(facts):
            for prefix in before:
                ids, position = encode(tokenizer, fact, prefix)
                rows.append((ids + goals[i][:-1], position))
                labels.append([(len(ids) - 1 - position + j, t) for j, t in enumerate(goals[i])])
                self.fact.append(i)
        self.asked = len(rows)
        for i, fact in enumerate(facts):
            rows.append(encode(tokenizer, fact, prompt=ESSENCE))
            self.fact.append(i)
        batch = collate(rows, model.device)
        self.fact = torch.tensor(self.fact, device=model.device)
        self._read(batch)
        at = [(r, j, t, 1 / (len(before) * len(row))) for r, row in enumerate(labels) for j, t in row]
        row, offset, token, weight = (torch.tensor(x, device=model.device) for x in zip(*at, strict=True))
        ends = batch.mask.sum(1) - 1 - batch.position
        essence = torch.arange(self.asked, len(rows), device=model.device)
        self.row, self.token, self.weight = row, token, weight
        self.reads = torch.cat([row, essence]), torch.cat([offset, ends[essence]])
        bare = torch.arange(self.n, device=model.device) * len(before)
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
        per_fact = torch.zeros(len(active), device=delta.device)
        per_fact = per_fact.index_add(0, index[self.fact[self.row[used]]], nll)
        before = self.original[-self.n:][active]
        return per_fact, self.kl * F.kl_div(logp[asked:], before, reduction="none", log_target=True).sum(1)
