"""Where facts live: causal tracing (Meng et al. 2022), all restorations of one fact in one batch."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.facts import Fact, FactError
from ..models import decoder, logits
from ..reader import encode, hooks
from ..scores import split_answer

#: What can be restored; and the places of a token, in the order of a prompt.
KINDS = ("hidden", "mlp", "attention")
ROLES = ("first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens",
         "last token")


class Prompt(NamedTuple):
    """A fact's prompt as token ids, the positions of the subject's first and last token, the answer's first token."""

    ids: list[int]
    first: int
    last: int
    gold: int

    def role(self, position: int) -> str:
        """The place of a token from `first` on. The only token of a subject is its last one, not its first."""
        if position <= self.last:
            return ROLES[2 if position == self.last else 0 if position == self.first else 1]
        return ROLES[5 if position == len(self.ids) - 1 else 3 if position == self.last + 1 else 4]


def prompt(tokenizer, fact: Fact) -> Prompt:
    """Find the subject in a fact's prompt, as `encode` does.

    Raises `FactError` where no token covers the subject, or one holds both the prompt's end and the answer's start.
    """
    ids, last = encode(tokenizer, fact)
    whole, n = split_answer(tokenizer, fact.text, fact.target)
    spans = tokenizer(fact.text, return_offsets_mapping=True)["offset_mapping"]
    if whole[:-n] != ids[-len(spans):]:
        raise FactError(f"fact '{fact.id or '?'}': one token holds the prompt's end and the answer's start")
    first = next(i for i, (a, b) in enumerate(spans, len(ids) - len(spans)) if b > max(a, fact.prompt.index("{}")))
    return Prompt(ids, first, last, whole[-n])


class _Job(NamedTuple):
    """Restore at `position` the state that enters layer `start`, or what layers `start` to `stop` − 1 put out."""

    start: int
    stop: int
    kind: str
    position: int
    layer: int


def _parts(layer: nn.Module) -> dict[str, nn.Module]:
    return {"mlp": layer.mlp, "attention": layer.self_attn.o_proj}


def _clean(model: nn.Module, ids: Sequence[int]) -> tuple[list[dict], dict[str, list[torch.Tensor]]]:
    """How each layer was called, and (T, d) by kind and layer; "hidden" is what enters each layer, then the end."""
    calls, run, layers = [], {kind: [] for kind in KINDS}, decoder(model).layers

    def enter(module, args, kwargs):
        calls.append(kwargs)
        run["hidden"].append(args[0][0])

    def keep(kind, module, args, output):
        run[kind].append(output[0])

    with hooks(*((partial(x.register_forward_pre_hook, with_kwargs=True), enter) for x in layers),
               *((part.register_forward_hook, partial(keep, kind)) for x in layers for kind, part in _parts(x).items()),
               (layers[-1].register_forward_hook, partial(keep, "hidden"))):
        decoder(model)(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return calls, run


def _probability(model: nn.Module, states: torch.Tensor, gold: int) -> torch.Tensor:
    return logits(model, decoder(model).norm(states)).softmax(-1)[..., gold].double().cpu()


def _sweep(model: nn.Module, calls, run, states: torch.Tensor, jobs: Sequence[_Job], gold: int) -> torch.Tensor:
    """Probability of `gold` without any job and after each, (draws, 1 + jobs), from corrupted inputs (draws, T, d).

    A job is a branch. When it starts, the tokens from its position on are copied to the end of the sequence; there
    they see each other and, left of the position, the corrupted tokens. Nothing else of a corrupted run can differ.
    jobs: by start. A layer is called as the clean run called it, but for longer positions and another mask.
    """
    T, device = states.shape[1], states.device
    begin = torch.tensor([0] + [job.position for job in jobs], device=device)
    size = T - begin
    first, branch = size.cumsum(0) - size, torch.arange(len(size), device=device).repeat_interleave(size)
    at = torch.arange(len(branch), device=device) - first[branch] + begin[branch]
    tree = (branch == branch[:, None]) | ((branch == 0) & (at < begin[branch][:, None]))

    def restore(i, kind, module, args, output):
        live = [n for n, job in enumerate(jobs, 1) if job.kind == kind and job.start <= i < job.stop]
        output[:, first[live]] = run[kind][i][begin[live]]

    for i, layer in enumerate([*decoder(model).layers, None]):
        for job in (job for job in jobs if job.start == i):
            states = torch.cat([states, states[:, job.position:T]], 1)
            if job.kind == "hidden":
                states[:, job.position - T] = run["hidden"][i][job.position]
        if layer is None:
            return _probability(model, states[:, first + size - 1], gold)
        now, call = at[:states.shape[1]], dict(calls[i])
        mask = call["attention_mask"]  # none: causal; else true or 0 where a token may look
        seen = torch.ones(T, T).tril() > 0 if mask is None else (mask if mask.dtype == torch.bool else mask == 0)[0, 0]
        seen = seen.to(device)[now[:, None], now] & tree[:len(now), :len(now)]
        call["attention_mask"] = torch.zeros_like(seen, dtype=states.dtype).masked_fill(
            ~seen, torch.finfo(states.dtype).min)[None, None]
        call["position_embeddings"] = tuple(x[:, now] for x in call["position_embeddings"])
        call["position_ids"] = now[None]
        with hooks(*((part.register_forward_hook, partial(restore, i, k)) for k, part in _parts(layer).items())):
            states = layer(states, **call)


@torch.no_grad()
def indirect_effects(model: nn.Module, tokenizer, facts: Sequence[Fact], *, kinds: Sequence[str] = KINDS,
                     noise: float = 3.0, draws: int = 4, window: float = 0.2, seed: int = 0,
                     tokens: int = 1024) -> pd.DataFrame:
    """Indirect effect of each restoration: P(answer | corrupted, restored) − P(answer | corrupted), mean over draws.

    The subject's embeddings get Gaussian noise of `noise` standard deviations of all facts' subject embeddings.
    Restored is one clean hidden state after a layer, or at one token the outputs of the MLP or of attention in the
    `window` (share of the depth) of layers around it. P is that of the answer's first token. Batches hold about
    `tokens` tokens. Returns a row for each (fact, kind, layer, position from the subject on) with the token's role,
    the effect, and the fact's clean and corrupted probability. Raises `FactError`, and `ValueError`
    for other kinds or draws and for a model whose logits are not finite.
    """
    if draws < 1 or not set(kinds) <= set(KINDS):
        raise ValueError(f"draws is {draws} and kinds {tuple(kinds)}: give at least 1, and some of {KINDS}")
    prompts, depth, rows = [prompt(tokenizer, fact) for fact in facts], len(decoder(model).layers), []
    width = max(1, round(window * depth))
    embedded = [_clean(model, p.ids)[1]["hidden"][0][p.first:p.last + 1] for p in prompts]
    sigma = noise * torch.cat(embedded).float().std()
    for n, p in enumerate(tqdm(prompts, desc="causal tracing", leave=False)):
        calls, run = _clean(model, p.ids)
        clean, states = _probability(model, run["hidden"][-1][-1], p.gold).item(), run["hidden"][0].repeat(draws, 1, 1)
        drawn = np.random.default_rng([seed, n]).standard_normal((draws, *embedded[n].shape), np.float32)
        states[:, p.first:p.last + 1] += (torch.from_numpy(drawn).to(states.device) * sigma).to(states.dtype)
        spans = {i: (max(0, i - width // 2), min(depth, i - width // 2 + width)) for i in range(depth)}
        jobs = sorted(_Job(*((i + 1, i + 1) if kind == "hidden" else spans[i]), kind, t, i)
                      for i in range(depth) for kind in kinds for t in range(p.first, len(p.ids)))
        while jobs:
            size = draws * np.cumsum([len(p.ids)] + [len(p.ids) - job.position for job in jobs])
            take = max(1, int((size <= tokens).sum()) - 1)
            part, jobs = jobs[:take], jobs[take:]
            base, *found = _sweep(model, calls, run, states, part, p.gold).mean(0).tolist()
            rows += [(n, job.kind, job.layer, job.position, p.role(job.position), x - base, clean, base)
                     for job, x in zip(part, found)]
    columns = ["fact", "kind", "layer", "position", "role", "effect", "clean", "corrupted"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)
