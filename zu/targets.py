"""Where to aim: the state, or the layer's own output, with which the model says otherwise.

`optimise` finds it: a search by gradient over a change δ, for many facts at once. δ is a change of
the hidden state after the last edited layer, or of what the MLPs' output projections put out.
From the outside in: `_Coded`, a fact as token ids; `_parts`, which facts share a batch;
`_minimise`, the steps (`zu.steps`); `_Problem`, the loss; `_Suffixes`, the part of the model that δ
reaches. Where a model's layers are not what `_Problem` takes them for, `_knows` finds out, and
`zu.plain_search` computes the same loss.
"""
from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from .batches import Batch, collate
from .data.cache import cache_file, read_tensors, write_tensors
from .data.facts import Fact
from .layouts import heard, hooked, known
from .models import fingerprint, logits
from .modes import settles
from .passes import CACHES, called_with, check_ids, entering_first, hooks, states_of
from .plain_search import WholeRuns, divergence, values_at
from .sinks import refuse
from .steps import RATES, STEPS, Optimizer
from .wording import Wording, beside, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: ROME's "essence" prompt, at which what the model says should stay as it is, see `Search`.
ESSENCE = "{} is a"
#: The search for the first so many facts is one piece of work, the next piece ends at twice as
#: many, and so on: larger sets that begin alike share their first pieces.
TOGETHER = 25


#: What δ changes: the hidden state after a layer, or what projections put out.
Aim = Literal["hidden", "value"]


@dataclass(frozen=True)
class Place:
    """Where δ goes in a model, at a fact's subject's last token.

    Parameters
    ----------
    aim : {"hidden", "value"}
        The hidden state after a layer, or the MLP's output projection's own output, before whatever
        scale or norm it enters the residual stream by.
    layers : tuple of int
        The layer; for values there may be several, with a δ each.
    """

    aim: Aim
    layers: tuple[int, ...]

    @property
    def start(self) -> int:
        """The lowest layer that must be run anew for another δ."""
        return self.layers[0] + (self.aim == "hidden")

    @classmethod
    def of(cls, aim: Aim, layers: int | Sequence[int]) -> Place:
        """The place of an aim, or `ValueError` for hidden states after several layers."""
        several = (layers,) if isinstance(layers, int) else tuple(sorted(set(layers)))
        if not several or (aim == "hidden" and len(several) > 1):
            raise ValueError(f"layers are {list(several)}: hidden states are aimed at after one "
                             "layer, the last to be edited")
        if aim not in ("hidden", "value"):
            raise ValueError(f"aim is {aim!r}: use 'hidden' or 'value'")
        return cls(aim, several)


@dataclass(frozen=True)
class Targets:
    """What `optimise` found for n facts, at the subject's last token.

    Parameters
    ----------
    z : (n, d), or (n, k, d) for values at k layers
        What is wanted there, float32.
    h : as z
        What is there, float32.
    loss : (steps, n)
        Mean negative log-likelihood of the target before each step; a fact that has converged keeps
        its last value.
    layer : int, optional
        After which layer these states are, or the last one whose values they are; None: not said.
    aim : {"hidden", "value"}
        Whether they are hidden states, or values: what the projection puts out.
    layers : tuple of int
        Whose values they are, where they are of several layers.
    """

    z: torch.Tensor
    h: torch.Tensor
    loss: torch.Tensor
    layer: int | None = None
    aim: Aim = "hidden"
    layers: tuple[int, ...] = ()

    def wanted(self, layer: int) -> torch.Tensor:
        """What is wanted of one layer.

        Parameters
        ----------
        layer : int
            One of those that the targets are of.

        Returns
        -------
        (n, d)
            The hidden states after it, or its values.
        """
        return self.z if self.z.dim() == 2 else self.z[:, self.layers.index(layer)]

    def described(self) -> str:
        """What they are of, in words: of which layers, and hidden states or values.

        Returns
        -------
        str
            As the end of a sentence.
        """
        kind = "hidden states" if self.aim == "hidden" else "values"
        of = self.layers or ((self.layer,) if self.layer is not None else ())
        return kind + (f" of layer {', '.join(map(str, of))}" if of else "")

    def check(self, n: int, layers: int | Sequence[int], aim: Aim = "hidden") -> None:
        """Raise `ValueError` unless these are targets of `n` facts for an edit of `layers`.

        Parameters
        ----------
        n : int
            How many facts there are.
        layers : int or sequence of int
            Which are edited; hidden states are wanted after the last of them.
        aim : {"hidden", "value"}
            What the edit aims at.

        Raises
        ------
        ValueError
            For another number of facts, another layer or another aim.
        """
        edited = (layers,) if isinstance(layers, int) else tuple(layers)
        if len(self.z) != n:
            raise ValueError(f"targets are of {len(self.z)} facts, but {n} are to be forgotten")
        if self.aim != aim:
            raise ValueError(f"targets have aim={self.aim!r}, but the edit has {aim!r}")
        if self.layer not in (None, edited[-1]):
            raise ValueError(
                f"targets are of layer {self.layer}, but layer {edited[-1]} is the last to be "
                "edited"
            )
        own = self.layers or edited[-1:]
        if aim == "value" and own != edited:
            raise ValueError(f"targets are values of the layers {list(own)}, but {list(edited)} "
                             "are to be edited")


@dataclass(frozen=True)
class Search:
    """How a target is searched for.

    Adam's lr is relative: one step moves a coordinate by about lr · ‖h‖/√d, whatever the scale of
    the model's residual stream. The literature's is absolute, 0.1 in the model's own unit
    (`absolute`), which would be lr = 0.1 √d/‖h‖; its tolerance is 0.05. Our defaults save steps.

    Parameters
    ----------
    prefixes : sequence of str
        Texts put before the prompt, the empty one first.
    goal : str
        What the model should say: see `target_ids`.
    steps : int
        Most losses to take; the last is followed by no step.
    lr : float, optional
        Size of a step: of Adam in ‖h‖/√d (0.4 by default), of the normalised gradient in the
        longest δ (0.3 by default).
    weight_decay, kl : float
        Weights of the terms.
    clamp : float
        Longest δ, in ‖h‖.
    tolerance : float
        The loss under which a fact is done.
    aim : {"hidden", "value"}
        What δ changes, and h is the length of: the hidden state, or what the projection puts out.
    absolute : bool
        Whether lr is in h's own unit instead, as in the literature.
    optimizer : {"adam", "normalised"}
        What takes the steps, see `zu.steps`; the literature's is Adam.
    bare_first : bool
        Whether δ is searched for with the bare prompt alone first, and goes on from there with all
        prefixes.
    kl_at : {"subject", "next"}
        The divergence that kl weighs. "subject" is the released code's and MEMIT's: KL(changed ‖
        original) of what is said at the subject's last token in "{subject} is a". "next" is
        KL(original ‖ changed) of what is said at that text's end.
    """

    prefixes: Sequence[str] = ("",)
    goal: str = "eos"
    steps: int = 25
    lr: float | None = None
    weight_decay: float = 0.5
    kl: float = 0.0625
    clamp: float = 0.75
    tolerance: float = 0.1
    aim: Aim = "hidden"
    kl_at: Literal["subject", "next"] = "subject"
    absolute: bool = False
    optimizer: Optimizer = "adam"
    bare_first: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.absolute and self.optimizer != "adam":
            raise ValueError("absolute: the normalised gradient's steps are shares of the longest "
                             "δ; only Adam's can be in h's own unit")

    @property
    def rate(self) -> float:
        """The size of a step, the optimizer's own where none is said."""
        return RATES[self.optimizer] if self.lr is None else self.lr


def target_ids(
    tokenizer: PreTrainedTokenizerBase | Wording, fact: Fact, goal: str
) -> list[int]:
    """Tokens to aim at: the tokenizer's end-of-sequence token, the true answer, or another text's.

    The released code aims at the text "<|endoftext|>" on zsRE, whatever tokens that is, with or
    without a space by method; on MCF at a string from a file that was not released. Here the text
    of a special token of the tokenizer's is that token.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A fast one, which knows character offsets; or how it is asked.
    fact : Fact
        Gives the true answer, and the prompt that a text goes on from.
    goal : str
        "eos", "truth", or any other text, such as "I do not know".

    Returns
    -------
    list of int
        The tokens, at least one.

    Raises
    ------
    ValueError
        For an empty text, or "eos" where the tokenizer has no such token.
    """
    ids, count = Wording.of(tokenizer).towards(fact, goal)
    return ids[-count:]


@settles
def optimise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Wording,
    facts: Sequence[Fact],
    layer: int | Sequence[int],
    search: Search = Search(),
    *,
    batch: int | None = None,
    cache: bool = True,
) -> Targets:
    """Find, for every fact, the δ to add at the subject's last token.

    Minimises, per fact: the mean over the prefixes of the target's negative log-likelihood
    + kl · KL of what is said of the subject + weight_decay · ‖δ‖ / ‖h‖², where δ is added to h;
    step by step, with ‖δ‖ cut to clamp · ‖h‖ after each, until that is under the tolerance.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer, or how it is asked (`zu.wording.Wording`).
    facts : sequence of Fact
        The n facts.
    layer : int or sequence of int
        After which δ is added, or to whose projections' output, a δ each (`Search.aim`).
    search : Search
        What the model should say, and how δ is found.
    batch : int, optional
        Most facts in a batch; by default as many as 2 GiB or half of the free memory bear.
    cache : bool
        Keep each result under `zu.cache_dir`: a run goes on where it stopped, and ends with the
        same bits (see `TOGETHER`); no text is stored. Nothing is kept of a model with hooks on it.

    Returns
    -------
    Targets
        On the model's device, fact by fact.

    Raises
    ------
    FactError
        For a fact whose subject ends in an attention sink, see `zu.sinks`.
    ValueError
        For a model whose logits are not finite.

    References
    ----------
    Meng et al. 2022 (ROME), Eq. 4.
    """
    place = Place.of(search.aim, layer)
    refuse(model, Wording.of(tokenizer), facts, place.layers[-1])
    coded = [_Coded.of(tokenizer, fact, search) for fact in facts]
    files, parts = _planned(model, place, coded, search, batch)
    cache = cache and not hooked(*model.modules())  # whose names say nothing of hooks
    found = _read_kept(files) if cache else {}
    # whole batches anew: which facts share one decides on the last bits
    parts = [part for part in parts if not set(part) <= set(found)]
    for i, found[i] in _solved(model, place, coded, search, parts):
        if cache:
            write_tensors(files[i], found[i])
    return _stacked([found[i] for i in range(len(coded))], place, model.device)


def _planned(
    model: PreTrainedModel,
    place: Place,
    coded: Sequence[_Coded],
    search: Search,
    batch: int | None,
) -> tuple[list[Path], list[list[int]]]:
    """Where each fact's result is kept, and the facts that share a batch, piece by piece."""
    about = _decisive(model, place, search)
    files, parts = [], []
    for piece in _pieces(len(coded)):
        files += _files(about, [coded[i] for i in piece])
        parts += _parts(model, place, coded, piece, batch)
    return files, parts


def _solved(
    model: PreTrainedModel,
    place: Place,
    coded: Sequence[_Coded],
    search: Search,
    parts: Sequence[list[int]],
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Search for the facts of some batches: each one's number, its z, h (k, d) and loss (steps,).

    Where memory runs out a batch is halved, with a warning.
    """
    fast = bool(parts) and _knows(model, place, coded, search)
    done = len(coded) - sum(map(len, parts))
    where = "after layer" if place.aim == "hidden" else "for the values of layer"
    todo, title = list(parts), f"targets {where} {', '.join(map(str, place.layers))}"
    with tqdm(total=len(coded), initial=done, desc=title, leave=False) as bar:
        while todo:
            part = todo.pop(0)
            solved = _attempt(model, place, [coded[i] for i in part], search, fast)
            if solved is None:
                warnings.warn(
                    f"out of memory with {len(part)} facts in a batch: going on in halves",
                    stacklevel=4,
                )
                middle = len(part) // 2
                todo[:0] = [part[:middle], part[middle:]]
                continue
            for i, z, h, loss in zip(part, *(x.cpu() for x in solved), strict=True):
                yield i, {"z": z, "h": h, "loss": loss}
            bar.update(len(part))


def _decisive(model: PreTrainedModel, place: Place, search: Search) -> list[str]:
    """What decides on a fact's result beside its tokens, for the names of files."""
    numbers = (search.steps, search.rate, search.weight_decay, search.kl, search.clamp)
    how = (search.tolerance, search.kl_at, search.absolute, search.optimizer, search.bare_first)
    about = (fingerprint(model), model.device.type, place, *numbers, *how)
    return [str(x) for x in about]


def _pieces(n: int) -> list[range]:
    """The pieces of work that n facts make, see `TOGETHER`."""
    ends = [0, TOGETHER]
    while ends[-1] < n:
        ends.append(2 * ends[-1])
    return [range(start, min(end, n)) for start, end in pairwise(ends)]


def _read_kept(files: Sequence[Path]) -> dict[int, dict[str, torch.Tensor]]:
    """The results that are kept in the cache, by fact number."""
    found = {}
    for i, path in enumerate(files):
        kept = read_tensors(path, "z", "h", "loss")
        if kept:
            found[i] = kept
    return found


def _stacked(
    results: Sequence[dict[str, torch.Tensor]], place: Place, device: torch.device
) -> Targets:
    """The facts' results as one, z and h on the model's device."""
    z = torch.stack([x["z"] for x in results])  # n × (k, d) -> (n, k, d)
    h = torch.stack([x["h"] for x in results])
    if len(place.layers) == 1:
        z, h = z[:, 0], h[:, 0]  # -> (n, d)
    loss = torch.stack([x["loss"] for x in results])  # n × (steps,) -> (n, steps)
    return Targets(z.to(device), h.to(device), loss.T, place.layers[-1], place.aim, place.layers)


def _attempt(
    model: PreTrainedModel, place: Place, coded: Sequence[_Coded], search: Search, fast: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """What `_minimise` finds for a batch; None where memory runs out and the batch can be halved.

    fast: what `_knows` says. After the return nothing holds a failed batch's tensors any more.
    """
    try:
        if fast and all(_in_window(model, c) for c in coded):
            return _minimise(_Problem(model, place, coded, search), search)
        # Whole runs take more memory than a batch is measured for: one fact after another.
        alone = [_minimise(WholeRuns(model, place, [c], search), search) for c in coded]
        z, h, losses = (torch.cat(x) for x in zip(*alone, strict=True))  # n × (1, ...) -> (n, ...)
        return z, h, losses
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if len(coded) == 1 or not _out_of_memory(error):
            raise
    return None


def _knows(
    model: PreTrainedModel, place: Place, coded: Sequence[_Coded], search: Search
) -> bool:
    """Whether the fast search says of a model what whole runs of it say.

    The longest fact that is sure to fit into the attention's window is asked, together with the
    shortest, as in a batch. Where the two differ, a warning says how. Facts that may not fit are
    searched by whole runs, with a warning too.
    """
    inside = [c for c in coded if _in_window(model, c)]
    difference = "hooks are on it" if heard(model) else ""
    if inside and not difference:
        kept, own = _layout_file(model, place), hooked(*model.modules())
        if own or read_tensors(kept) is None:
            by_length = sorted(inside, key=lambda c: -c.length)
            two = [*by_length[:1], *by_length[1:][-1:]]
            difference = _difference(model, place, two, replace(search, kl=1.0))
            if not difference and not own:
                write_tensors(kept, {"known": torch.ones(1)})
    if difference:
        reason = f"the fast search does not know its layers ({difference})"
    elif len(inside) < len(coded):
        reason = "some prompts are too long for the attention's sliding window"
    else:
        return True
    name = type(model).__name__
    warnings.warn(
        f"targets of {name} are searched by whole runs, which takes longer: {reason}",
        stacklevel=5,  # at the call of `optimise`
    )
    return not difference


def _layout_file(model: PreTrainedModel, place: Place) -> Path:
    """Where it is kept that the fast search knows a model's layers, whatever its weights are."""
    attention = getattr(model.config, "_attn_implementation", "")
    about = (type(model).__name__, model.config.to_json_string(), attention, model.dtype)
    return cache_file("layouts", f"{_code()} {about} {model.device.type} {place} {_versions()}")


def _difference(
    model: PreTrainedModel, place: Place, facts: Sequence[_Coded], search: Search
) -> str:
    """How the fast search's losses of facts differ from those of whole runs; "" for not at all.

    Both are asked behind the longest prefix, for the target's negative log-likelihood and the
    divergence with a random δ four times as long as h: longer than any in a search, so that all
    that it reaches shows. The divergence is counted from what is said with no δ, which it checks.
    """
    rows = facts[0].rows
    longest = max(range(len(rows)), key=lambda j: len(rows[j][0]))
    facts = [replace(fact, rows=[fact.rows[longest]]) for fact in facts]
    plain = WholeRuns(model, place, facts, search)
    noise = torch.randn(plain.h.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(plain.h.device)  # (n, k, d)
    delta = 4 * noise * plain.h.norm(dim=2, keepdim=True) / noise.norm(dim=2, keepdim=True)
    every = torch.arange(len(facts), device=delta.device)
    with torch.no_grad():
        expected = torch.cat(plain.loss(delta, every))  # (2 n,)
        try:
            fast = _Problem(model, place, facts, search)
            fast.loss(torch.zeros_like(delta), every)
            found = torch.cat(fast.loss(delta, every))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if _out_of_memory(error):
                raise
            return f"{type(error).__name__}: {error}"
    # Rounding to bfloat16 (ε = 2⁻⁷) or float16 (2⁻¹⁰) alone moves a loss by about ε.
    tolerance = max(1e-3, 16 * torch.finfo(model.dtype).eps)
    if torch.allclose(found, expected, rtol=tolerance, atol=tolerance / 100):
        return ""
    ours, theirs = ([round(x, 4) for x in losses.tolist()] for losses in (found, expected))
    return f"its losses are {ours}, those of whole runs {theirs}"


def _in_window(model: PreTrainedModel, fact: _Coded) -> bool:
    """Whether the attention's sliding window, if it has one, is sure to cut nothing off a fact.

    In a batch padding stands between a row's head and its tail (see `_Suffixes`), and the window
    counts it: together they take up to twice the columns of the longest row.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return not window or 2 * max(fact.length, len(fact.essence[0])) <= window


@dataclass(frozen=True)
class _Coded:
    """A fact as token ids.

    rows: (ids, position of the subject's last token) by prefix. goal: the tokens to aim at.
    essence: (ids, position) of the essence prompt.
    """

    rows: list[tuple[list[int], int]]
    goal: list[int]
    essence: tuple[list[int], int]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase | Wording, fact: Fact, search: Search
    ) -> _Coded:
        """A fact behind each prefix, what it should say, and its essence prompt."""
        wording = Wording.of(tokenizer)
        rows = [encode(wording, fact, prefix) for prefix in search.prefixes]
        target = target_ids(wording, fact, search.goal)
        ids, position = beside(wording, fact, ESSENCE)
        if search.kl_at == "subject":
            ids = ids[:position + 1]  # what follows is not seen from there
        return cls(rows, target, (ids, position))

    @property
    def width(self) -> int:
        """Tokens from the subject's last one on, the target's but the last included."""
        return max(len(ids) - position for ids, position in self.rows) + len(self.goal) - 1

    @property
    def length(self) -> int:
        """Tokens of the longest sequence, the target's but the last included."""
        return max(len(ids) for ids, _ in self.rows) + len(self.goal) - 1


def _files(about: list[str], coded: list[_Coded]) -> list[Path]:
    """Where each fact's result is kept; facts with equal tokens are told apart by their place."""
    tokens = [[c.rows, c.goal, c.essence] for c in coded]
    code, text = _code(), json.dumps([*about, tokens, *_versions()])
    files = []
    for i in range(len(coded)):
        files.append(cache_file("targets", f"{code} {i} {text}"))
    return files


def _code() -> str:
    """A hash of the code that decides on a result: another code, another result."""
    here = Path(__file__).parent
    modules = ("targets", "plain_search", "wording", "chats", "questions", "spacing", "batches",
               "passes", "models", "layouts")
    sources = b"".join((here / f"{name}.py").read_bytes() for name in modules)
    return hashlib.sha256(sources).hexdigest()


def _versions() -> tuple[str, str]:
    """Those of the libraries that decide on a result."""
    return torch.__version__, transformers.__version__


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; on a CPU it is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def bytes_per_fact(
    model: PreTrainedModel, start: int, prompts: int, width: int, length: int
) -> int:
    """What a fact adds to the memory of a batch, an upper estimate from the shapes.

    That is what the backward pass reads again, and the attention's past.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    start : int
        The lowest layer that δ reaches.
    prompts : int
        Prefixes and the essence prompt.
    width : int
        Tokens from the subject's last one on.
    length : int
        Tokens of the whole sequence.

    Returns
    -------
    int
        Bytes.
    """
    config = model.config.get_text_config()
    size = model.dtype.itemsize
    layout = known(model)
    depth = len(layout.layers)
    # some layers of a mixture of experts have no projection, and some families have wider ones
    there = [i for i in layout.editable if i >= min(start, depth - 1)] or layout.editable
    d, m = max((layout.matrix(i).shape for i in there), key=math.prod)
    kv = _numbers_of_a_token(config, d)
    per_token = (8 * size + 16) * d + 6 * m * size + 6 * kv * size
    states = width * (depth - start + 1) * per_token
    past = length * (3 * depth * kv * size + 4 * m * size)
    scores = 5 * config.vocab_size * 4
    return prompts * (states + past + scores)


def _numbers_of_a_token(config: Any, d: int) -> int:
    """How many numbers the attention keeps of a token in a layer: its keys and its values."""
    try:
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or d // heads
        return 2 * head * (getattr(config, "num_key_value_heads", None) or heads)
    except (AttributeError, RuntimeError):  # another kind of layer, or layers that differ
        return 4 * d


def _parts(
    model: PreTrainedModel,
    place: Place,
    coded: Sequence[_Coded],
    todo: Sequence[int],
    batch: int | None,
) -> list[list[int]]:
    """The fact numbers `todo` in batches.

    Facts whose prompts go on equally far after the subject need no padding there: only they share
    a batch.
    """
    device = model.device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    memory = min(free // 2, 2 * 2**30)
    parts: list[list[int]] = []
    for i in sorted(todo, key=lambda i: (coded[i].width, coded[i].length)):
        c = coded[i]
        prompts = len(c.rows) + 1
        size = batch or memory // bytes_per_fact(model, place.start, prompts, c.width, c.length)
        fits = bool(parts) and coded[parts[-1][-1]].width == c.width and len(parts[-1]) < size
        if fits:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _minimise(
    problem: _Problem | WholeRuns, search: Search
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a search finds: z (n, k, d), h (n, k, d) and the losses (n, steps), at k places."""
    h = problem.h
    u = torch.zeros_like(h)
    if search.bare_first and problem.prefixes > 1:
        bare = problem.bare()
        u, _ = _descend(bare, search, u)
        problem.original = bare.original
    u, losses = _descend(problem, search, u)
    return h + u * _unit(h, search), h, losses.T


def _unit(h: torch.Tensor, search: Search) -> torch.Tensor:
    """What δ is counted in: 1 where Adam's rate is absolute, else ‖h‖/√d, (n, k, 1)."""
    norm = h.norm(dim=2, keepdim=True)
    return torch.ones_like(norm) if search.absolute else norm / h.shape[2] ** 0.5


def _descend(
    problem: _Problem | WholeRuns, search: Search, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps on u = δ / unit from a start, one independent problem a row.

    Rows that have converged are left out. Returns u (n, k, d) and the losses (steps, n).
    """
    h, u = problem.h, start.clone()
    norm = h.norm(dim=2, keepdim=True)  # (n, k, 1)
    scale = _unit(h, search)
    longest = search.clamp * norm / scale  # of u, (n, k, 1)
    take = STEPS[search.optimizer](u, longest, search.rate)
    losses = torch.zeros(search.steps, len(h), dtype=torch.float32)
    active = torch.arange(len(h), device=h.device)  # (a,): the facts that are not done yet
    for step in range(search.steps):
        x = u[active].requires_grad_(True)  # (n, k, d) -> (a, k, d), a copy
        delta = x * scale[active]
        nll, divergence = problem.loss(delta, active)  # both (a,)
        # (a, k): summed over the places
        size = search.weight_decay * (delta.norm(dim=2) / norm[active, :, 0] ** 2).sum(1)
        loss = nll + divergence + size
        losses[step:, active.cpu()] = nll.detach().float().cpu()  # and of all later steps so far
        going = loss.detach() >= search.tolerance
        if step == search.steps - 1 or not bool(going.any()):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), x)  # rows are independent: (a, k, d)
        active, gradient = active[going], gradient[going]
        u[active] -= take(active, gradient, step)
        length = u[active].norm(dim=2, keepdim=True)  # (a, k, 1)
        u[active] *= (longest[active] / length.clamp_min(1e-12)).clamp(max=1.0)
    return u, losses


class _Past:
    """Keys and values left of the subject's last token, for one pass over the rest.

    The part of transformers' cache interface that attention layers call. Both by layer,
    (rows, heads, s, head size), with s past positions.
    """

    def __init__(self, keys: dict[int, torch.Tensor], values: dict[int, torch.Tensor]) -> None:
        self.keys = keys
        self.values = values

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The past's keys and values with a pass's own behind them; nothing is kept of these."""
        # (rows, heads, s, head size) and (rows, heads, w, head size) -> (rows, heads, s + w, ...)
        keys = torch.cat([self.keys[layer_idx], key], 2)
        values = torch.cat([self.values[layer_idx], value], 2)
        return keys, values


class _Suffixes:
    """The part of the model that δ reaches: from a layer on, from the subject's last token on.

    A row is one prompt of one fact. Rows come in groups that begin alike, one row a fact in each:
    row j · n + i is fact i's prompt in group j. The tokens of a row are read in two stretches,

        head : what all rows of its group begin with, read once for the group;
        tail : the rest, which holds the subject's last token;

    and used in two others,

        past : all that stands left of the subject's last token. Its keys and values in the layers
            that are run do not depend on δ and are kept;
        suffix : the subject's last token and what follows. It is run anew for each δ.

    Shapes below: r rows; a tokens of the longest head, t of the longest tail, s of the longest
    past, w of the longest suffix; d the hidden size, c key-value heads of size e.

    groups: rows of (ids, position of the subject's last token), by group.
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
        states, calls = self._read_tails(tails, head, cache)

        p = tails.position[:, None]  # (r, 1): the subject's last token, counted within the tail
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

        Returns the states that enter the lowest layer to run, (r, t, d), or leave the last one
        where none is run, and what each layer is called with.
        """
        calls: dict[int, dict] = {}

        def keep(module: nn.Module, args: tuple, kwargs: dict, i: int) -> None:
            calls[i] = called_with(module, args, kwargs)[1]

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
        with hooks(*pairs), entering_first(self.layout, self.place.start) as found:
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
        """Bring the pasts together from the cache, each layer's keys and values (r, c, s, e).

        In the cache a row's head fills columns 0 to head − 1; up to `longest` (a) there is padding;
        from there on stands the row's tail.
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
        """What to add to the attention's scores, (r, 1, w, s + w): 0, or the least number.

        in_past: which columns of the past hold a token, (r, s). Each token of a suffix sees them,
        those of the suffix before it, and itself.
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

    def first(self, n: int) -> _Suffixes:
        """The same of the first n rows alone."""
        found = copy(self)
        found.fact, found.suffix, found.mask = self.fact[:n], self.suffix[:n], self.mask[:n]
        rows = torch.arange(n, device=self.fact.device)
        found.past, found.calls = {}, {}
        for i, (keys, values) in self.past.items():
            found.past[i] = keys[:n], values[:n]  # (r, c, s, e) -> (n, c, s, e)
            found.calls[i] = _rows_of(self.calls[i], rows.to(keys.device))
        return found

    def states(
        self, delta: torch.Tensor, index: torch.Tensor, row: torch.Tensor, offset: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head sees at some places, with the δ of some facts.

        delta: (active, k, d). index: (n,), where each fact's δ stands in it, −1 for none. row,
        offset: (places,), a row, and a column of its suffix. Returns which places belong to a fact
        with a δ, (places,), and the states there, (such places, d).
        """
        rows = (index[self.fact] >= 0).nonzero()[:, 0]  # (k,): the rows to run
        shift = delta[index[self.fact[rows]]]  # (active, k, d) -> (rows, k, d): each row's δ
        x = self.suffix[rows]  # (rows, w, d)
        if self.place.aim == "hidden":
            x = _shifted(x, shift[:, 0])
        with hooks(*self._shifts(shift)):
            for i, block in self.layers.items():
                keys, values = self.past[i]
                device = keys.device  # a model may be spread over several
                pick = rows.to(device)
                past = _Past({i: keys[pick]}, {i: values[pick]})
                call = _row_call(self.calls[i], pick, self.mask[rows].to(device), past)
                x = states_of(block(x.to(device), **call))
        # (r,): where each row stands among those that were run, −1 for none
        place = torch.full((len(self.fact),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        kept = place[row] >= 0
        at_row, at_column = place[row[kept]].to(x.device), offset[kept].to(x.device)
        return kept, self.layout.finish(x[at_row, at_column])  # -> (such places, d)

    def _shifts(self, shift: torch.Tensor) -> list[tuple[Callable, Callable]]:
        """Hooks that add each row's δ (rows, k, d) to values, where values are aimed at."""
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


#: What layers are told of the positions of their tokens, by name.
_BY_POSITION = ("position_embeddings", "position_ids")


def _cut_call(call: dict, at: torch.Tensor) -> dict:
    """A layer's call for some columns `at` (r, w, 1) of the tails; `LookupError` for other tensors.

    Of the arguments only the rotations of positions (r, t, e) and their numbers (r, t) go by
    column; the attention's mask and the cache are put in later.
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


def _rows_of(call: dict, rows: torch.Tensor) -> dict:
    """A cut call for some rows alone."""
    own: dict[str, Any] = {}
    for name, given in call.items():
        if name == "position_embeddings":
            own[name] = tuple(part[rows] for part in given)
        elif name == "position_ids" and given is not None:
            own[name] = given[rows]
        else:
            own[name] = given
    return own


def _row_call(call: dict, rows: torch.Tensor, mask: torch.Tensor, past: _Past) -> dict:
    """A cut call for some rows alone, with their mask and past."""
    own = _rows_of(call, rows)
    caches = {name: past for name in own if name in CACHES}
    return own | caches | {"attention_mask": mask, "use_cache": True}


def _shared(rows: Sequence[tuple[list[int], int]]) -> int:
    """How many tokens all rows begin with, none of them a subject's last."""
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
    """What is left of each row behind its head, whose length is in head (r, 1): ids of (r, t)."""
    lengths = head[:, 0].tolist()
    left = [(ids[k:], p - k) for (ids, p), k in zip(rows, lengths, strict=True)]
    return collate(left, device)


def _columns(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The columns `at` (r, w, 1) of each row of x (r, t, size): (r, w, size)."""
    return x.gather(1, at.to(x.device).expand(-1, -1, x.shape[-1]))


class _Problem:
    """The targets of n facts: what the model says to their prompts with a δ each, and should say.

    n: how many. prefixes: how many stand before each. h: what δ is added to at their subjects'
    last tokens, (n, k, d) float32, at k places.
    """

    def __init__(
        self, model: PreTrainedModel, place: Place, coded: Sequence[_Coded], search: Search
    ) -> None:
        self.model, self.search, self.n = model, search, len(coded)
        self.prefixes = len(coded[0].rows)
        groups = []  # a group a prefix
        for j in range(self.prefixes):
            groups.append([(c.rows[j][0] + c.goal[:-1], c.rows[j][1]) for c in coded])
        self.prompts = _Suffixes(model, place, groups)
        # apart, as their suffixes are shorter: mostly of the subject's last token alone
        self.essences = _Suffixes(model, place, [[c.essence for c in coded]])

        # All (q,), one entry a token of a target behind a prefix.
        columns = zip(*_target_places(coded), strict=True)
        row, offset, token, weight = (torch.tensor(x, device=model.device) for x in columns)
        self.row, self.offset, self.token, self.weight = row, offset, token, weight.float()
        # (n,): each essence prompt is read at its last token
        last = [len(ids) - 1 - position for ids, position in (c.essence for c in coded)]
        self.ends = torch.tensor(last, device=model.device)
        if place.aim == "hidden":
            # (r, w, d) -> (n, 1, d): the bare prompts' rows are the first
            self.h = self.prompts.suffix[:self.n, :1].float()
        else:
            self.h = values_at(model, [c.rows[0] for c in coded], place.layers)
        #: What the essence prompts say with no δ, (n, vocabulary): set by the first loss.
        self.original: torch.Tensor | None = None

    def bare(self) -> _Problem:
        """The same problem of the bare prompts alone, which are the first n rows."""
        found = copy(self)
        found.prompts, found.prefixes = self.prompts.first(self.n), 1
        kept = self.row < self.n  # (q,)
        found.row, found.offset, found.token = self.row[kept], self.offset[kept], self.token[kept]
        found.weight = self.weight[kept] * self.prefixes
        return found

    def _scores(
        self, delta: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities where the active facts are read, first at targets, then at essences.

        Returns which of the q target places these are, (q,), the log-probabilities, (such places +
        active, vocabulary), and where each fact stands among the active ones, (n,).
        """
        index = torch.full((self.n,), -1, device=active.device)
        index[active] = torch.arange(len(active), device=active.device)
        kept, states = self.prompts.states(delta, index, self.row, self.offset)
        every = torch.arange(self.n, device=active.device)
        _, said = self.essences.states(delta, index, every, self.ends)
        both = torch.cat([states, said])  # (such places, d) and (active, d)
        logp = logits(self.model, both).log_softmax(-1).to(delta.device)
        return kept, logp, index

    def loss(
        self, delta: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean target negative log-likelihood and weighted divergence of each active fact.

        delta: (active, k, d). active: their numbers, (active,). Returns two of (active,). Called
        with δ = 0 for every fact first: the divergence is counted from there.
        """
        used, logp, index = self._scores(delta, active)
        asked = int(used.sum())
        # (asked, vocabulary) -> (asked,): the target token's own
        chosen = logp[:asked].gather(1, self.token[used][:, None])[:, 0]
        nll = -chosen * self.weight[used]
        # (asked,) -> (active,): summed over each fact's prefixes and tokens
        owner = index[self.prompts.fact[self.row[used]]]
        per_fact = torch.zeros(len(active), dtype=nll.dtype, device=delta.device)
        per_fact = per_fact.index_add(0, owner, nll)
        if self.original is None:
            self.original = logp[asked:].detach()
        each = divergence(self.original[active], logp[asked:], self.search.kl_at)
        return per_fact, self.search.kl * each


def _target_places(coded: Sequence[_Coded]) -> list[tuple[int, int, int, float]]:
    """Where each token of each target is said: row, column of its suffix, token, weight.

    The weights of a fact's tokens behind its prefixes add up to 1.
    """
    n, places = len(coded), []
    for i, c in enumerate(coded):
        weight = 1 / (len(c.rows) * len(c.goal))
        for j, (ids, position) in enumerate(c.rows):
            last = len(ids) - 1 - position  # the prompt's last token says the target's first
            for k, token in enumerate(c.goal):
                places.append((j * n + i, last + k, token, weight))
    return places
