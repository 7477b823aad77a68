"""Where facts live: causal tracing, with all restorations of one fact in one batch.

As in Meng et al. 2022, noise corrupts a fact's subject, and one clean state at a time is restored
to see how much of the answer it brings back.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.facts import Fact, FactError
from ..layouts import known
from ..models import decoder, logits
from ..modes import settles
from ..passes import hooks
from ..questions import Question
from ..wording import Wording, sink

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: What can be restored.
KINDS = ("hidden", "mlp", "attention")
#: The places of a token, in the order of a prompt.
ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
)
_FIRST, _MIDDLE, _LAST, _AFTER, _FURTHER, _END = ROLES
#: The columns of the table that `indirect_effects` returns.
_COLUMNS = ["fact", "kind", "layer", "position", "role", "effect", "clean", "corrupted"]


class Prompt(NamedTuple):
    """A fact's prompt as tokens.

    Attributes
    ----------
    ids : list[int]
        The prompt's token ids.
    first, last : int
        Positions of the subject's first and last token.
    gold : int
        The answer's first token.
    """

    ids: list[int]
    first: int
    last: int
    gold: int

    def role(self, position: int) -> str:
        """The place of a token.

        Parameters
        ----------
        position : int
            The token's position, from `first` on.

        Returns
        -------
        str
            One of `ROLES`. The single token of a one-token subject counts as its last.
        """
        if position == self.last:
            return _LAST
        if position == self.first:
            return _FIRST
        if position < self.last:
            return _MIDDLE
        if position == len(self.ids) - 1:
            return _END
        if position == self.last + 1:
            return _AFTER
        return _FURTHER


def prompt(tokenizer: PreTrainedTokenizerBase | Wording, fact: Fact) -> Prompt:
    """Find the subject in a fact's prompt, as `zu.wording.encode` does.

    If the subject's first token would be the first of the sequence, which is an attention sink, a
    token is put in front (`zu.wording.sink`), since noise there would disturb more than the
    subject.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A tokenizer that gives character offsets, or a wording with one.
    fact : Fact
        The fact to trace.

    Returns
    -------
    Prompt
        The prompt's tokens, the subject's place, and the answer's first token.

    Raises
    ------
    FactError
        If the fact has no subject, or no token covers it.
    """
    if not fact.subject:
        raise FactError(f"fact '{fact.id or '?'}' has no subject, and tracing needs its tokens: "
                        "give the subject, and {} in the prompt")
    wording = Wording.of(tokenizer)
    ids, first, last = wording.subject(fact)
    whole, n = wording.answered(Question.of(fact))
    if first == 0:
        ids, first, last = [sink(wording.tokenizer), *ids], 1, last + 1
    return Prompt(ids, first, last, whole[-n])


class _Job(NamedTuple):
    """Restore, at `position`, the state that enters layer `start`, or the outputs of some layers.

    These layers are `start` to `stop` − 1, around `layer`.
    """

    start: int
    stop: int
    kind: str
    position: int
    layer: int


class _Clean(NamedTuple):
    """The clean run.

    `calls` holds the keyword arguments of each layer, and `run` states (T, d) by kind and layer;
    "hidden" holds the states that enter each layer, then those that leave the last.
    """

    calls: list[dict[str, Any]]
    run: dict[str, list[torch.Tensor]]


class _Branches(NamedTuple):
    """The order of the tokens of a corrupted run and of its jobs in one sequence.

    Branch 0 is the run without any job. For each of the 1 + jobs branches, `begin` is the position
    in the prompt at which it starts, `size` its number of tokens, and `first` its start among the N
    tokens of all. For each token, `at` (N,) is its position in the prompt, and `tree` (N, N) says
    whether the row's token is in a branch that may see the column's token.
    """

    begin: torch.Tensor
    size: torch.Tensor
    first: torch.Tensor
    at: torch.Tensor
    tree: torch.Tensor


def _parts(model: PreTrainedModel, layer: int) -> dict[str, nn.Module]:
    """The modules of a layer whose outputs can be restored, by kind."""
    found = known(model)
    return {"mlp": found.projection(layer), "attention": found.attention(layer)}


def _clean(model: PreTrainedModel, ids: Sequence[int]) -> _Clean:
    """Run the prompt once, and keep each layer's call and outputs."""
    calls: list[dict[str, Any]] = []
    run: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    layers = known(model).layers

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)
        run["hidden"].append(args[0][0])  # (1, T, d) -> (T, d)

    def keep(kind: str, module: nn.Module, args: tuple, output: Any) -> None:
        run[kind].append(output[0])  # (1, T, d) -> (T, d)

    pairs: list[tuple[Callable, Callable]] = []
    for layer in layers:
        pairs.append((partial(layer.register_forward_pre_hook, with_kwargs=True), enter))
    for i in range(len(layers)):
        for kind, part in _parts(model, i).items():
            pairs.append((part.register_forward_hook, partial(keep, kind)))
    pairs.append((layers[-1].register_forward_hook, partial(keep, "hidden")))
    with hooks(*pairs):
        decoder(model)(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return _Clean(calls, run)


def _probability(model: PreTrainedModel, states: torch.Tensor, gold: int) -> torch.Tensor:
    """Probability (...) of a token after states (..., d), before the final norm; float64, CPU."""
    shares = logits(model, known(model).finish(states)).softmax(-1)  # (..., vocabulary)
    return shares[..., gold].double().cpu()


def _branches(jobs: Sequence[_Job], length: int, device: torch.device) -> _Branches:
    """Arrange the corrupted run, of `length` tokens, and the jobs behind it, in order."""
    begin = torch.tensor([0] + [job.position for job in jobs], device=device)  # (1 + jobs,)
    size = length - begin  # a branch goes on to the end of the prompt
    first = size.cumsum(0) - size
    branch = torch.arange(len(size), device=device).repeat_interleave(size)  # (1 + jobs,) -> (N,)
    at = torch.arange(len(branch), device=device) - first[branch] + begin[branch]  # (N,)
    same = branch == branch[:, None]  # (N, N)
    # a branch sees the tokens of the corrupted run left of its own beginning
    trunk = (branch == 0) & (at < begin[branch][:, None])  # (N,) & (N, N)
    return _Branches(begin, size, first, at, same | trunk)


def _allowed(mask: torch.Tensor | None, length: int) -> torch.Tensor:
    """Which tokens see which in the clean run, (T, T) bool: the row's token sees the column's.

    `mask` (1, 1, T, T) is true or 0 where it does; None means that it sees all earlier tokens.
    """
    if mask is None:
        return torch.ones(length, length).tril() > 0
    allowed = mask if mask.dtype == torch.bool else mask == 0
    return allowed[0, 0]


def _longer_call(
    clean: dict[str, Any], branches: _Branches, states: torch.Tensor, length: int
) -> dict[str, Any]:
    """A layer's clean call, for the M tokens of `states` (draws, M, d): positions and the mask."""
    now = branches.at[:states.shape[1]]  # (M,)
    count = len(now)
    seen = _allowed(clean["attention_mask"], length).to(states.device)
    seen = seen[now[:, None], now] & branches.tree[:count, :count]  # (T, T) -> (M, M)
    lowest = torch.finfo(states.dtype).min
    mask = torch.zeros_like(seen, dtype=states.dtype).masked_fill(~seen, lowest)
    call = dict(clean)
    call["attention_mask"] = mask[None, None]  # (M, M) -> (1, 1, M, M)
    # cosines and sines: (1, T, w) -> (1, M, w)
    call["position_embeddings"] = tuple(x[:, now] for x in clean["position_embeddings"])
    call["position_ids"] = now[None]  # (M,) -> (1, M)
    return call


def _start(
    states: torch.Tensor, clean: _Clean, jobs: Sequence[_Job], layer: int, length: int
) -> torch.Tensor:
    """States (draws, M, d) that enter a layer, followed by those of jobs that start there."""
    for job in jobs:
        if job.start != layer:
            continue
        copied = states[:, job.position:length]  # (draws, T - position, d), of the corrupted run
        states = torch.cat([states, copied], 1)
        if job.kind == "hidden":  # the branch's first token
            states[:, job.position - length] = clean.run["hidden"][layer][job.position]
    return states


def _sweep(
    model: PreTrainedModel,
    clean: _Clean,
    states: torch.Tensor,
    jobs: Sequence[_Job],
    gold: int,
) -> torch.Tensor:
    """Probability of `gold` without any job and after each, (draws, 1 + jobs).

    `states` are the corrupted inputs of the first layer, (draws, T, d); `jobs` are sorted by start.

    Each job is a branch. When it starts, the tokens from its position on are copied to the end of
    the sequence, where they see each other and the corrupted tokens left of the position. Nothing
    else in a corrupted run can differ. A layer is called as in the clean run, but with longer
    positions and another mask.
    """
    length = states.shape[1]  # T
    branches = _branches(jobs, length, states.device)
    begin, first = branches.begin, branches.first

    def restore(
        i: int, kind: str, module: nn.Module, args: tuple, output: torch.Tensor
    ) -> None:
        live = [
            n
            for n, job in enumerate(jobs, 1)
            if job.kind == kind and job.start <= i < job.stop
        ]
        # a branch begins at the token to restore: (draws, live, d) <- (live, d)
        output[:, first[live]] = clean.run[kind][i][begin[live]]

    layers = known(model).layers
    for i, layer in enumerate(layers):
        states = _start(states, clean, jobs, i, length)
        call = _longer_call(clean.calls[i], branches, states, length)
        pairs = [
            (part.register_forward_hook, partial(restore, i, kind))
            for kind, part in _parts(model, i).items()
        ]
        with hooks(*pairs):
            states = layer(states, **call)
    states = _start(states, clean, jobs, len(layers), length)
    ends = first + branches.size - 1  # each branch's last token
    return _probability(model, states[:, ends], gold)  # (draws, 1 + jobs, d) -> (draws, 1 + jobs)


def _jobs(p: Prompt, kinds: Sequence[str], depth: int, width: int) -> list[_Job]:
    """All restorations of a prompt, by start; outputs of `width` layers are restored together."""
    jobs = []
    for i in range(depth):
        low = i - width // 2
        span = max(0, low), min(depth, low + width)
        for kind in kinds:
            start, stop = (i + 1, i + 1) if kind == "hidden" else span
            jobs += [_Job(start, stop, kind, t, i) for t in range(p.first, len(p.ids))]
    return sorted(jobs)


def _batches(jobs: list[_Job], length: int, draws: int, tokens: int) -> Iterator[list[_Job]]:
    """The jobs in order, in batches of about `tokens` tokens, but at least one job."""
    while jobs:
        sizes = [length] + [length - job.position for job in jobs]
        total = draws * np.cumsum(sizes)
        take = max(1, int((total <= tokens).sum()) - 1)  # the first size is the run without any
        yield jobs[:take]
        jobs = jobs[take:]


def _corrupted(
    states: torch.Tensor, p: Prompt, sigma: torch.Tensor, draws: int, seed: Sequence[int]
) -> torch.Tensor:
    """Clean embeddings (T, d) with noise on the subject's tokens, one draw per row: (draws, T, d).
    """
    out = states.repeat(draws, 1, 1)  # (T, d) -> (draws, T, d)
    shape = draws, p.last + 1 - p.first, states.shape[-1]
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    noise = torch.from_numpy(drawn).to(out.device) * sigma
    out[:, p.first:p.last + 1] += noise.to(out.dtype)
    return out


class Corruption(NamedTuple):
    """How a fact's subject is corrupted.

    Attributes
    ----------
    noise : float
        The standard deviation of the Gaussian noise on the subject's embeddings, in units of the
        standard deviation of all facts' subject embeddings.
    draws : int
        How often the noise is drawn.
    seed : int
        The seed of the noise.
    """

    noise: float = 3.0
    draws: int = 4
    seed: int = 0


#: Four draws of noise with three standard deviations.
CORRUPTION = Corruption()


@settles
@torch.no_grad()
def indirect_effects(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    *,
    kinds: Sequence[str] = KINDS,
    corruption: Corruption = CORRUPTION,
    window: float = 0.2,
    tokens: int = 1024,
) -> pd.DataFrame:
    """The indirect effect of each restoration, averaged over draws.

    The effect is P(answer | corrupted, restored) − P(answer | corrupted), for the answer's first
    token. A restoration sets, at one token, the hidden state after one layer, or the outputs of the
    MLP or of attention in a `window` of layers, to the values of the clean run.

    Parameters
    ----------
    model, tokenizer
        The model to trace, and its tokenizer; the model is not changed.
    facts : Sequence[Fact]
        The facts to trace.
    kinds : Sequence[str]
        What to restore, from `KINDS`.
    corruption : Corruption
        The size of the noise on the subject, and how often it is drawn.
    window : float
        The width of the window, as a share of the depth.
    tokens : int
        About how many tokens a batch holds.

    Returns
    -------
    pd.DataFrame
        One row per fact, kind, layer and position (from the subject on), with the token's role, the
        effect, and the fact's clean and corrupted probability.

    Raises
    ------
    FactError
        If `prompt` refuses a fact.
    ValueError
        If there are no such kinds or no draws, or the model's logits are not finite.

    References
    ----------
    Meng et al. 2022.
    """
    check_asked(kinds, corruption)
    prompts = [prompt(tokenizer, fact) for fact in facts]
    how = How(tuple(kinds), corruption, window, tokens)
    sigma = spread(model, prompts)
    rows = []
    for n, p in enumerate(tqdm(prompts, desc="causal tracing", leave=False)):
        rows += [(n, *row) for row in effects_of(model, p, n, sigma, how)]
    return as_frame(rows)


class How(NamedTuple):
    """How facts are traced: the arguments of `indirect_effects`."""

    kinds: tuple[str, ...] = KINDS
    corruption: Corruption = CORRUPTION
    window: float = 0.2
    tokens: int = 1024


def check_asked(kinds: Sequence[str], corruption: Corruption) -> None:
    """Raise `ValueError` for kinds that cannot be restored, and for no draws."""
    if corruption.draws < 1 or not set(kinds) <= set(KINDS):
        raise ValueError(f"draws is {corruption.draws} and kinds is {tuple(kinds)}: give at least "
                         f"1 draw, and kinds from {KINDS}")


def as_frame(rows: Sequence[tuple]) -> pd.DataFrame:
    """The table that `indirect_effects` returns, in its order."""
    return pd.DataFrame(rows, columns=_COLUMNS).sort_values(_COLUMNS[:4], ignore_index=True)


@settles
@torch.no_grad()
def effects_of(
    model: PreTrainedModel, p: Prompt, number: int, sigma: torch.Tensor, how: How
) -> list[tuple]:
    """One fact's rows of the table that `indirect_effects` returns, without its number.

    Parameters
    ----------
    model : PreTrainedModel
        The model to trace; it is not changed.
    p : Prompt
        The fact's prompt.
    number : int
        The fact's number among those traced, which determines its noise.
    sigma : Tensor
        The unit of the noise, see `spread`.
    how : How
        What is restored, and the noise.

    Returns
    -------
    list of tuple
        Kind, layer, position, role, effect, clean and corrupted probability.
    """
    noise, draws, seed = how.corruption
    depth = len(known(model).layers)
    width = max(1, round(how.window * depth))
    clean = _clean(model, p.ids)
    states = _corrupted(clean.run["hidden"][0], p, noise * sigma, draws, [seed, number])
    rows = []
    for part in _batches(_jobs(p, how.kinds, depth, width), len(p.ids), draws, how.tokens):
        rows += _effects(model, p, clean, states, part)
    return rows


def _effects(
    model: PreTrainedModel,
    p: Prompt,
    clean: _Clean,
    states: torch.Tensor,
    jobs: Sequence[_Job],
) -> list[tuple]:
    """The table's rows of some jobs of a prompt, without the fact's number."""
    whole = _probability(model, clean.run["hidden"][-1][-1], p.gold).item()
    found = _sweep(model, clean, states, jobs, p.gold).mean(0)  # over draws: (1 + jobs,)
    base, *restored = found.tolist()
    rows = []
    for job, value in zip(jobs, restored):
        where = job.kind, job.layer, job.position, p.role(job.position)
        rows.append((*where, value - base, whole, base))
    return rows


@torch.no_grad()
def spread(model: PreTrainedModel, prompts: Sequence[Prompt]) -> torch.Tensor:
    """The standard deviation, float32, over all numbers of all prompts' subject embeddings."""
    embedded = []
    for p in prompts:
        entering = _clean(model, p.ids).run["hidden"][0]  # (T, d)
        embedded.append(entering[p.first:p.last + 1])
    return torch.cat(embedded).float().std()  # over (tokens, d)
