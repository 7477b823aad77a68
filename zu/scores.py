"""Has it been forgotten, and what else changed: efficacy, generality, specificity, perplexity."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from .data.facts import Fact, Facts
from .models import logits
from .reader import Batch, Below, collate, last_states
from .second_moments import corpus, pack


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent by the data set's rule, as the paper's tables print them, and what is behind them.

    eff, gen, spe, hop: on the prompts, their paraphrases, their neighbours, and the questions that need the fact as
    one of two steps; NaN where there are none.
    prob_eff, ...: mean probability of the true answer (Eq. 16), 0 to 1.
    interval_eff, ...: 95% interval over facts, in percent, see `percent_interval`; facts that ask the very same prompts
    are drawn together, and where all do, the prompts are drawn. n_eff, ...: how many prompts were asked.
    """

    eff: float
    gen: float
    spe: float
    prob_eff: float
    prob_gen: float
    prob_spe: float
    interval_eff: tuple[float, float]
    interval_gen: tuple[float, float]
    interval_spe: tuple[float, float]
    n_eff: int
    n_gen: int
    n_spe: int
    hop: float = float("nan")
    prob_hop: float = float("nan")
    interval_hop: tuple[float, float] = (float("nan"), float("nan"))
    n_hop: int = 0

    def __str__(self) -> str:
        kinds = ("eff", "gen", "spe", "hop") if self.n_hop else ("eff", "gen", "spe")
        return "  ".join(f"{k.title()} {getattr(self, k):.1f}% (p {getattr(self, 'prob_' + k):.2g}, "
                         f"{getattr(self, 'n_' + k)} asked)" for k in kinds)

    def as_dict(self) -> dict:
        """Plain numbers and lists, for a record."""
        return asdict(self)


def split_answer(tokenizer, prompt: str, answer: str) -> tuple[list[int], int]:
    """Token ids of ``prompt + " " + answer``, and how many at the end belong to the answer.

    A token belongs to the answer when its characters reach beyond the prompt.
    """
    coded = tokenizer(prompt + " " + answer, return_offsets_mapping=True)
    count = sum(stop > len(prompt) for _, stop in coded["offset_mapping"])
    return coded["input_ids"], count


@torch.no_grad()
def score(model: nn.Module, tokenizer, pairs: Sequence[tuple[str, str]], *, tokens: int = 1024,
          below: Below | None = None) -> np.ndarray:
    """Score (prompt, answer) pairs under teacher forcing: an array (pairs, 3).

    Columns: whether all answer tokens are the most likely ones (0 or 1), the share of them that are, and the
    probability of the whole answer. Logits are computed at the answers' positions only. below: see `zu.reader.Below`.
    Raises `ValueError` for a model whose logits are not finite, as all that asks this does.
    """
    rows = [split_answer(tokenizer, prompt, answer) for prompt, answer in pairs]
    if not rows:
        return np.zeros((0, 3))
    batch = collate(rows, model.device)  # the "position" of a row is the length of its answer here
    out = np.zeros((len(rows), 3))
    for index, part in batch.split(tokens):
        states = last_states(model, part, below)
        at = torch.arange(part.ids.shape[1] - 1, device=part.ids.device)
        ends = part.mask.sum(1, keepdim=True)
        reads = (at + 1 < ends) & (at + 1 >= ends - part.position[:, None])
        gold = part.ids[:, 1:][reads]
        logp = logits(model, states[:, :-1][reads]).log_softmax(-1)
        right = (logp.argmax(-1) == gold).double().cpu()
        value = logp.gather(1, gold[:, None])[:, 0].double().cpu()
        row = reads.nonzero()[:, 0].cpu()
        n = reads.sum(1).double().cpu()
        hits = torch.zeros(len(n), dtype=torch.double).index_add(0, row, right)
        total = torch.zeros(len(n), dtype=torch.double).index_add(0, row, value)
        out[index.cpu().numpy()] = torch.stack([(hits == n).double(), hits / n, total.exp()], 1).numpy()
    return out


def evaluate(model: nn.Module, tokenizer, facts: Sequence[Fact], *, rule: str | None = None,
             tokens: int = 1024, below: Below | None = None) -> Scores:
    """Efficacy, generality and specificity of a model on facts (Section 6.1); the model is not changed.

    rule: "exact" or "tokens", by default the facts' own (`Facts.rule`). Scores are averaged over the prompts of
    a fact first, then over facts. Batches hold about `tokens` tokens. below: what enters a layer below which no weight
    has changed since, for prompts that are asked again; see `zu.reader.Below`.
    Raises as `score` does.
    """
    rule = rule or getattr(facts, "rule", "exact")
    if rule not in ("exact", "tokens"):
        raise ValueError(f"rule is {rule!r}: use 'exact' or 'tokens'")
    kinds = {"eff": [[(f.text, f.target)] for f in facts],
             "gen": [[(p, f.target) for p in f.paraphrase_texts] for f in facts],
             "spe": [list(f.neighbors) for f in facts], "hop": [list(f.hops) for f in facts]}
    flat = [(kind, i, pair) for kind, groups in kinds.items() for i, g in enumerate(groups) for pair in g]
    # the same question is often a neighbour of several facts: ask it once
    unique = list(dict.fromkeys(pair for _, _, pair in flat))
    asked = dict(zip(unique, score(model, tokenizer, unique, tokens=tokens, below=below), strict=True))
    out, which = {}, 0 if rule == "exact" else 1
    for kind, groups in kinds.items():
        means = np.array([np.mean([asked[pair] for pair in g], 0) for g in groups if g]).reshape(-1, 3)
        column = means[:, which] * 100
        out[kind] = float(column.mean()) if len(column) else float("nan")
        out[f"prob_{kind}"] = float(means[:, 2].mean()) if len(column) else float("nan")
        sets = Counter(tuple(g) for g in groups if g)
        shared = len(sets) == 1 < len(column)
        units = [(pair,) for g in sets for pair in g] if shared else list(sets)
        values = np.array([np.mean([asked[pair] for pair in unit], 0) for unit in units]).reshape(-1, 3)[:, which] * 100
        weights = None if shared else np.array([*sets.values()])
        out[f"interval_{kind}"] = percent_interval(values, weights)
        out[f"n_{kind}"] = sum(map(len, groups))
    return Scores(**out)


def known(model: nn.Module, tokenizer, facts: Facts, *, tokens: int = 1024) -> Facts:
    """The facts that the model knows: every token of the answer is its first choice after the fact's own prompt.

    They may be none. The paper draws the facts to forget without asking this.
    Raises as `score` does.
    """
    right = score(model, tokenizer, [(f.text, f.target) for f in facts], tokens=tokens)[:, 0]
    return Facts((f for f, r in zip(facts, right, strict=True) if r), f"{facts.name}-known", facts.rule)


def bootstrap(values: np.ndarray, weights: np.ndarray | None = None, *, draws: int = 2000,
              seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean, by resampling `values`, of these weights where they differ; NaN for none."""
    if not len(values):
        return float("nan"), float("nan")
    rows = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    even = weights is None or len(set(weights)) == 1
    means = values[rows].mean(1) if even else (values * weights)[rows].sum(1) / weights[rows].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval of `hits` of `n`, in percent; not empty where all or none are hits."""
    middle, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return 100 * (middle - half) / (n + z * z), 100 * (middle + half) / (n + z * z)


def percent_interval(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """95% interval of the mean of percentages, 0 to 100 each; NaN for none.

    By `bootstrap`; but resampling nothing but zeros gives nothing but zeros, however few they are:
    where all are 0, or all 100, it is Wilson's interval of none, or all, of so many.
    """
    values = np.asarray(values, float)
    if len(values) and (values == values[0]).all() and values[0] in (0.0, 100.0):
        return wilson(len(values) * int(values[0] == 100), len(values))
    return bootstrap(values, weights)


def difference_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean of paired differences of percentages, −100 to 100 each; NaN for none.

    By `bootstrap`; where all are the same 0, 100 or −100, as wide as Wilson's interval is there.
    """
    values = np.asarray(values, float)
    if not len(values) or (values != values[0]).any() or values[0] not in (0.0, 100.0, -100.0):
        return bootstrap(values)
    width = wilson(0, len(values))[1]
    return max(values[0] - width, -100.0), min(values[0] + width, 100.0)


@torch.no_grad()
def perplexity(model: nn.Module, tokenizer, texts: Sequence[str] | str | Path | None = None, *, tokens: int = 8192,
               window: int = 1024, stride: int = 512, below: Below | None = None) -> float:
    """Perplexity on held-out prose, by windows that overlap: every token but the first is scored once.

    texts: by default the embedded held-out prose; or a file or hub data set as `zu.second_moments.corpus`
    takes it, such as ``"hub:Salesforce/wikitext:wikitext-2-raw-v1:test"``. Its first `tokens` tokens
    are read, as many as fill whole windows. Each window of `window` scores its last `stride` tokens,
    the first one all but the very first, the last one what is left: a token sees at least window −
    stride before it, and always one, so that a stride of `window` is one less. below: as in
    `evaluate`. The paper's numbers are of another kind: the released code reads the first 100 tokens
    of the Wikipedia dump that C_0 is drawn from, and takes the exponent 1/N where N − 1 are predicted.
    Raises `ValueError` for another stride, less than two tokens, or logits that are not finite.
    """
    if texts is None:
        from .data import world

        texts = world.prose("heldout")
    elif isinstance(texts, str | Path):
        texts = corpus(texts)[1]
    if not 0 < stride <= window:
        raise ValueError(f"stride is {stride}: give 1 to window ({window})")
    if min(tokens, window) < 2:
        raise ValueError(f"tokens is {tokens}, window {window}: give 2 or more, since the first token "
                         "is not scored")
    window = min(tokens, window)
    ids = pack(tokenizer, texts, tokens, window).flatten()
    ends = torch.tensor([*range(window, len(ids), min(stride, window - 1)), len(ids)])
    total, scored = 0.0, 1
    for batch in tqdm(ends.split(8), desc="perplexity", leave=False):
        rows = torch.stack([ids[end - window:end] for end in batch.tolist()]).to(model.device)
        states = last_states(model, Batch(rows, None, None), below)
        for end, row, state in zip(batch.tolist(), rows, states, strict=True):
            first, scored = scored - (end - window), end
            logp = logits(model, state[first - 1:-1]).log_softmax(-1)
            total -= logp.gather(1, row[first:, None]).double().sum().item()
    return float(np.exp(total / (len(ids) - 1)))
