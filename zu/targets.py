"""Where to aim: the state, or the layer's own output, with which the model says something else.

`optimise` finds it by a gradient search over a change δ, for many facts at once. δ changes the
hidden state after the last edited layer, or the output of the MLPs' output projections. The parts,
from the outside in: `_Coded`, a fact as token ids; `_parts`, which facts share a batch;
`_minimise`, the steps (`zu.steps`); `zu.suffix_search`, the loss, computed with only the part of
the model that δ reaches. `_knows` checks that this part computes what the whole model does; if it
does not, `zu.plain_search` computes the same loss with whole runs.
"""
from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
import transformers
from tqdm.auto import tqdm

from .data.cache import cache_file, read_tensors, write_tensors
from .data.facts import Fact, FactError
from .data.invented import names
from .layouts import heard, hooked, known
from .models import fingerprint
from .modes import settles
from .plain_search import WholeRuns
from .sinks import refuse
from .steps import RATES, STEPS, Adam, Normalised, Optimizer
from .suffix_search import SuffixRuns, lowered
from .unsearched import along_gradient, size_of, towards_unknown
from .wording import Wording, beside, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: ROME's "essence" prompt; what the model says after it should not change, see `Search`.
ESSENCE = "{} is a"
#: The first piece of work is the search for this many facts, the next piece ends at twice as many,
#: and so on, so that larger sets with the same beginning share their first pieces.
TOGETHER = 25


#: The fixed cost of one more batch per step, in tokens of a suffix, by kind of device: a CPU reads
#: the weights once more, and a GPU waits for its kernels to be launched. The first number comes
#: from the shapes of the embedded model and a CPU's rates, the second is a guess. They affect only
#: the last bits of a result, by which facts share a batch.
PASS = {"cpu": 40, "cuda": 10_000}
#: How many steps pass between checks of which facts are done; a check makes a GPU wait.
TURNS = {"cpu": 1, "cuda": 4}


#: How many invented subjects stand for an unknown one.
UNKNOWN = 8


#: What δ changes: the hidden state after a layer, or the output of projections.
Aim = Literal["hidden", "value"]


@dataclass(frozen=True)
class Place:
    """Where δ goes in a model, at a fact's subject's last token.

    Parameters
    ----------
    aim : {"hidden", "value"}
        The hidden state after a layer; or the output of the MLP's output projection, before any
        scale or norm on its way into the residual stream.
    layers : tuple of int
        The layer; for values there may be several layers, each with its own δ.
    """

    aim: Aim
    layers: tuple[int, ...]

    @property
    def start(self) -> int:
        """The lowest layer that must be run again for another δ."""
        return self.layers[0] + (self.aim == "hidden")

    @classmethod
    def of(cls, aim: Aim, layers: int | Sequence[int]) -> Place:
        """The place of an aim; `ValueError` for hidden states after several layers."""
        several = (layers,) if isinstance(layers, int) else tuple(sorted(set(layers)))
        if not several or (aim == "hidden" and len(several) > 1):
            raise ValueError(f"layers are {list(several)}: hidden states are aimed at after one "
                             "layer, the last to be edited")
        if aim not in ("hidden", "value"):
            raise ValueError(f"aim is {aim!r}: use 'hidden' or 'value'")
        return cls(aim, several)


@dataclass(frozen=True)
class Targets:
    """The result of `optimise` for n facts, at the subject's last token.

    Parameters
    ----------
    z : (n, d), or (n, k, d) for values at k layers
        The wanted states or values, float32.
    h : as z
        The present states or values, float32.
    loss : (steps, n)
        Mean negative log-likelihood of the target before each step; a fact that has converged keeps
        its last value.
    layer : int, optional
        The layer of these states, or the last of the values' layers; None if unknown.
    aim : {"hidden", "value"}
        Whether they are hidden states, or values (outputs of the projection).
    layers : tuple of int
        The layers of the values, if there are several.
    marks : tuple of str
        For each fact a hash of how it is asked, see `marks_of`; empty if unknown.
    """

    z: torch.Tensor
    h: torch.Tensor
    loss: torch.Tensor
    layer: int | None = None
    aim: Aim = "hidden"
    layers: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()

    def wanted(self, layer: int) -> torch.Tensor:
        """The wanted states or values of one layer.

        Parameters
        ----------
        layer : int
            One of the targets' layers.

        Returns
        -------
        (n, d)
            The wanted hidden states after the layer, or its wanted values.
        """
        return self.z if self.z.dim() == 2 else self.z[:, self.layers.index(layer)]

    def described(self) -> str:
        """Describe the targets in words: hidden states or values, and of which layers.

        Returns
        -------
        str
            The end of a sentence.
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
            The layers to edit; hidden states are wanted after the last of them.
        aim : {"hidden", "value"}
            What the edit aims at.

        Raises
        ------
        ValueError
            If the number of facts, the layers or the aim differ.
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


def marks_of(facts: Sequence[Fact], chat: bool | str | None) -> tuple[str, ...]:
    """For each fact, a short hash of its prompt with the subject and of the chat it is asked in.

    Parameters
    ----------
    facts : sequence of Fact
        Any facts.
    chat : bool or str, optional
        How they are asked, see `zu.wording.Wording`.

    Returns
    -------
    tuple of str
        16 hexadecimal digits each.
    """
    found = []
    for fact in facts:
        text = json.dumps([fact.subject, fact.prompt, chat or False])
        found.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return tuple(found)


@dataclass(frozen=True)
class Search:
    """How to search for a target.

    Adam's lr is relative: one step moves a coordinate by about lr · ‖h‖/√d, whatever the scale of
    the model's residual stream. The literature uses an absolute rate, 0.1 in the model's own unit
    (`absolute`), which would be lr = 0.1 √d/‖h‖, and a tolerance of 0.05. Our defaults save steps.

    Parameters
    ----------
    prefixes : sequence of str
        Texts put before the prompt, the empty one first.
    goal : str
        What the model should say, see `target_ids`.
    steps : int
        The most losses to compute; no step follows the last one.
    lr : float, optional
        The size of a step: for Adam in units of ‖h‖/√d (0.4 by default), for the normalised
        gradient as a share of the longest δ (0.3 by default).
    weight_decay, kl : float
        The weights of the terms.
    clamp : float
        The longest δ, in units of ‖h‖.
    tolerance : float
        A fact is done once its loss is below this.
    aim : {"hidden", "value"}
        What δ changes, and what h stands for: the hidden state, or the projection's output.
    absolute : bool
        Whether lr is in h's own unit instead, as in the literature.
    optimizer : {"adam", "normalised"}
        The rule for the steps, see `zu.steps`; the literature uses Adam.
    bare_first : bool
        Whether to search with the bare prompt alone first, and continue from there with all
        prefixes.
    by : {"search", "gradient", "unknown"}
        How δ is found: step by step; along the gradient of the bare prompt's loss at δ = 0, with
        the shortest of several lengths that suffices; or as the difference to the states of
        `UNKNOWN` invented subjects in the same prompt, which uses no goal. The last two take no
        steps, use only the bare prompt, and report its loss.
    precision : {"model", "bfloat16"}
        The precision of the search. With "bfloat16" a float32 model's upper layers are copied in
        bfloat16, and the search continues from their result in float32 until the losses are below
        the tolerance there. This is meant for GPUs and for processors that multiply in bfloat16. δ
        is always float32.
    kl_at : {"subject", "next"}
        The divergence that kl weighs. "subject" is that of the released code and MEMIT:
        KL(changed ‖ original) of the prediction at the subject's last token in "{subject} is a".
        "next" is KL(original ‖ changed) of the prediction at the end of that text.
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
    optimizer: Optimizer = "normalised"
    bare_first: bool = True
    by: Literal["search", "gradient", "unknown"] = "search"
    precision: Literal["model", "bfloat16"] = "model"

    def __post_init__(self) -> None:
        """Refuse contradictory settings."""
        if self.absolute and self.optimizer != "adam":
            raise ValueError("absolute: the normalised gradient's steps are shares of the longest "
                             "δ; only Adam's can be in h's own unit")
        if self.by != "search" and self.precision != "model":
            raise ValueError(f'precision is a setting of the search, but by="{self.by}" does not '
                             "search: leave precision out")

    @property
    def rate(self) -> float:
        """The size of a step; by default the optimizer's own."""
        return RATES[self.optimizer] if self.lr is None else self.lr


def target_ids(
    tokenizer: PreTrainedTokenizerBase | Wording, fact: Fact, goal: str
) -> list[int]:
    """The tokens to aim at: the end-of-sequence token, the true answer's, or another text's.

    On zsRE the released code aims at the text "<|endoftext|>", whatever its tokens are, with or
    without a space depending on the method; on MCF it aims at a string from a file that was not
    released. Here the text of one of the tokenizer's special tokens stands for that token.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase or Wording
        A fast tokenizer, which knows character offsets; or a wording with one.
    fact : Fact
        The fact with its true answer, and with the prompt that a text continues.
    goal : str
        "eos", "truth", or any other text, such as "I do not know".

    Returns
    -------
    list of int
        The tokens, at least one.

    Raises
    ------
    ValueError
        If the text is empty, or the goal is "eos" and the tokenizer has no such token.
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

    For each fact the search minimises the mean over the prefixes of the target's negative
    log-likelihood, plus kl · KL of the prediction about the subject, plus weight_decay · ‖δ‖ /
    ‖h‖², with δ added to h and ‖δ‖ ≤ clamp · ‖h‖, until the sum is below the tolerance.

    Parameters
    ----------
    model, tokenizer
        A causal language model, and its tokenizer or wording (`zu.wording.Wording`).
    facts : sequence of Fact
        The n facts.
    layer : int or sequence of int
        The layer after which δ is added, or the layers whose projections' outputs get a δ each
        (`Search.aim`).
    search : Search
        What the model should say, and how δ is found.
    batch : int, optional
        The most facts in a batch; by default as many as fit into 2 GiB or half of the free memory.
    cache : bool
        Whether to keep each result under `zu.cache_dir`. No text is kept, and nothing of a model
        with hooks on it. An interrupted run continues where it stopped, and ends with the same bits
        (see `TOGETHER`).

    Returns
    -------
    Targets
        On the model's device, fact by fact.

    Raises
    ------
    FactError
        If a fact's subject ends in an attention sink, see `zu.sinks`.
    ValueError
        If the model's logits are not finite.

    References
    ----------
    Meng et al. 2022 (ROME), Eq. 4.
    """
    place = Place.of(search.aim, layer)
    refuse(model, Wording.of(tokenizer), facts, place.layers[-1])
    coded = [_Coded.of(tokenizer, fact, search) for fact in facts]
    files, parts = _planned(model, place, coded, search, batch)
    cache = cache and not hooked(*model.modules())  # the files' names do not cover hooks
    found = _read_kept(files) if cache else {}
    parts = [part for part in parts if not set(part) <= set(found)]  # whole batches: the same bits
    for i, found[i] in _solved(model, place, coded, search, parts):
        if cache:
            write_tensors(files[i], found[i])
    stacked = _stacked([found[i] for i in range(len(coded))], place, model.device)
    return replace(stacked, marks=marks_of(facts, Wording.of(tokenizer).chat))


def _planned(
    model: PreTrainedModel,
    place: Place,
    coded: Sequence[_Coded],
    search: Search,
    batch: int | None,
) -> tuple[list[Path], list[list[int]]]:
    """The file of each fact's result, and the facts that share a batch, piece by piece."""
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
    """Search for the facts of some batches; yields numbers with z, h (k, d), loss (steps,).

    If memory runs out, a batch is halved, with a warning.
    """
    fast = bool(parts) and _knows(model, place, coded, search)
    twin = _twin(model, place, search) if fast else None
    done = len(coded) - sum(map(len, parts))
    where = "after layer" if place.aim == "hidden" else "for the values of layer"
    todo, title = list(parts), f"targets {where} {', '.join(map(str, place.layers))}"
    with tqdm(total=len(coded), initial=done, desc=title, leave=False) as bar:
        while todo:
            part = todo.pop(0)
            solved = _attempt(model, place, [coded[i] for i in part], search, fast, twin)
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
    """Everything but a fact's tokens that its result depends on, for the names of files."""
    numbers = (search.steps, search.rate, search.weight_decay, search.kl, search.clamp)
    how = (search.tolerance, search.kl_at, search.absolute, search.optimizer, search.bare_first)
    about = (fingerprint(model), model.device.type, place, *numbers, *how, search.precision,
             search.by)
    return [str(x) for x in about]


def _pieces(n: int) -> list[range]:
    """The pieces of work for n facts, see `TOGETHER`."""
    ends = [0, TOGETHER]
    while ends[-1] < n:
        ends.append(2 * ends[-1])
    return [range(start, min(end, n)) for start, end in pairwise(ends)]


def _read_kept(files: Sequence[Path]) -> dict[int, dict[str, torch.Tensor]]:
    """The cached results, by fact number."""
    found = {}
    for i, path in enumerate(files):
        kept = read_tensors(path, "z", "h", "loss")
        if kept:
            found[i] = kept
    return found


def _stacked(
    results: Sequence[dict[str, torch.Tensor]], place: Place, device: torch.device
) -> Targets:
    """The facts' results as one `Targets`, with z and h on the model's device."""
    z = torch.stack([x["z"] for x in results])  # n × (k, d) -> (n, k, d)
    h = torch.stack([x["h"] for x in results])
    if len(place.layers) == 1:
        z, h = z[:, 0], h[:, 0]  # -> (n, d)
    loss = torch.stack([x["loss"] for x in results])  # n × (steps,) -> (n, steps)
    return Targets(z.to(device), h.to(device), loss.T, place.layers[-1], place.aim, place.layers)


def _twin(model: PreTrainedModel, place: Place, search: Search) -> PreTrainedModel | None:
    """The model's twin in bfloat16, if one is asked for and the model is in float32."""
    if search.precision == "model" or model.dtype != torch.float32:
        return None
    if hooked(*model.modules()):
        warnings.warn(
            "hooks are on the model: the search uses the model's own precision, not bfloat16",
            stacklevel=5,  # at the call of `optimise`
        )
        return None
    return lowered(model, place.start)


def _attempt(
    model: PreTrainedModel,
    place: Place,
    coded: Sequence[_Coded],
    search: Search,
    fast: bool,
    twin: PreTrainedModel | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The result of `_minimise` for a batch; None if memory runs out and the batch can be halved.

    `fast` is the result of `_knows`; for `twin` see `_minimise`. After the return nothing refers to
    a failed batch's tensors.
    """

    def find(problem: SuffixRuns | WholeRuns, some: Sequence[_Coded]) -> tuple:
        if search.by == "search":
            return _minimise(problem, search, twin)
        return _unsearched(problem, search, partial(towards_unknown, model, place), some)

    try:
        if fast and all(_in_window(model, c) for c in coded):
            return find(SuffixRuns(model, place, coded, search), coded)
        # whole runs take more memory than a batch is planned for: one fact after another
        alone = [find(WholeRuns(model, place, [c], search), [c]) for c in coded]
        z, h, losses = (torch.cat(x) for x in zip(*alone, strict=True))  # n × (1, ...) -> (n, ...)
        return z, h, losses
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if len(coded) == 1 or not _out_of_memory(error):
            raise
    return None


def _knows(
    model: PreTrainedModel, place: Place, coded: Sequence[_Coded], search: Search
) -> bool:
    """Whether the fast search agrees with whole runs of a model.

    Both compute the losses of the shortest fact and of the longest one that is sure to fit into the
    attention's window, as in a batch. A warning says if and how they differ. Facts that may not fit
    are searched by whole runs, with a warning too.
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
    """The file that records that the fast search knows a model's layers, whatever its weights."""
    attention = getattr(model.config, "_attn_implementation", "")
    about = (type(model).__name__, model.config.to_json_string(), attention, model.dtype)
    return cache_file("layouts", f"{_code()} {about} {model.device.type} {place} {_versions()}")


def _difference(
    model: PreTrainedModel, place: Place, facts: Sequence[_Coded], search: Search
) -> str:
    """How the fast search's losses differ from those of whole runs; "" if they do not.

    Both compute the target's negative log-likelihood and the divergence behind the longest prefix,
    with a random δ four times as long as h. That is longer than any δ in a search, so everything
    that δ reaches shows. The divergence also checks the prediction without δ.
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
            fast = SuffixRuns(model, place, facts, search)
            found = torch.cat(fast.loss(delta, every))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if _out_of_memory(error):
                raise
            return f"{type(error).__name__}: {error}"
    # rounding to bfloat16 (ε = 2⁻⁷) or float16 (2⁻¹⁰) alone moves a loss by about ε
    tolerance = max(1e-3, 16 * torch.finfo(model.dtype).eps)
    if torch.allclose(found, expected, rtol=tolerance, atol=tolerance / 100):
        return ""
    ours, theirs = ([round(x, 4) for x in losses.tolist()] for losses in (found, expected))
    return f"its losses are {ours}, those of whole runs {theirs}"


def _in_window(model: PreTrainedModel, fact: _Coded) -> bool:
    """Whether the attention's sliding window, if there is one, is sure not to cut a fact.

    In a batch there is padding between a row's head and its tail (see `zu.suffix_search.Suffixes`),
    which counts for the window: together they take up to twice the columns of the longest row.
    """
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return not window or 2 * max(fact.length, len(fact.essence[0])) <= window


@dataclass(frozen=True)
class _Coded:
    """A fact as token ids.

    `rows` holds (ids, position of the subject's last token) by prefix, `goal` the tokens to aim at,
    `essence` (ids, position) of the essence prompt, and `unknown` (ids, position) of the bare
    prompt with invented subjects, if they are needed.
    """

    rows: list[tuple[list[int], int]]
    goal: list[int]
    essence: tuple[list[int], int]
    unknown: list[tuple[list[int], int]] = field(default_factory=list)

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase | Wording, fact: Fact, search: Search
    ) -> _Coded:
        """A fact behind each prefix, with its goal and its essence prompt."""
        wording = Wording.of(tokenizer)
        # without a search only the bare prompt is used
        prefixes = search.prefixes if search.by == "search" else search.prefixes[:1]
        rows = [encode(wording, fact, prefix) for prefix in prefixes]
        target = target_ids(wording, fact, search.goal)
        ids, position = beside(wording, fact, ESSENCE)
        if search.kl_at == "subject":
            ids = ids[:position + 1]  # later tokens are not visible from there
        return cls(rows, target, (ids, position), cls._of_unknown(wording, fact, search))

    @staticmethod
    def _of_unknown(
        wording: Wording, fact: Fact, search: Search
    ) -> list[tuple[list[int], int]]:
        """The fact's prompt with each of several invented subjects."""
        if search.by != "unknown":
            return []
        if not fact.subject:
            raise FactError('by="unknown" puts other subjects into a prompt, but a fact has no '
                            "subject: give its subject, or use by=\"search\"")
        return [encode(wording, replace(fact, subject=name)) for name in names(UNKNOWN)]

    @property
    def width(self) -> int:
        """The number of tokens from the subject's last one on, with all but the target's last."""
        return max(len(ids) - position for ids, position in self.rows) + len(self.goal) - 1

    @property
    def length(self) -> int:
        """The number of tokens in the longest sequence, with all but the target's last."""
        return max(len(ids) for ids, _ in self.rows) + len(self.goal) - 1


def _files(about: list[str], coded: list[_Coded]) -> list[Path]:
    """The file of each fact's result; the place tells facts with equal tokens apart."""
    tokens = [[c.rows, c.goal, c.essence, *c.unknown] for c in coded]
    code, text = _code(), json.dumps([*about, tokens, *_versions()])
    files = []
    for i in range(len(coded)):
        files.append(cache_file("targets", f"{code} {i} {text}"))
    return files


def _code() -> str:
    """A hash of the code that a result depends on."""
    here = Path(__file__).parent
    modules = ("targets", "unsearched", "suffix_search", "steps", "plain_search", "wording",
               "chats", "questions", "spacing", "batches", "passes", "models", "layouts")
    sources = b"".join((here / f"{name}.py").read_bytes() for name in modules)
    return hashlib.sha256(sources).hexdigest()


def _versions() -> tuple[str, str]:
    """The versions of the libraries that a result depends on."""
    return torch.__version__, transformers.__version__


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; on a CPU it is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def bytes_per_fact(
    model: PreTrainedModel, start: int, prompts: int, width: int, length: int
) -> int:
    """An upper estimate, from the shapes, of the memory that a fact adds to a batch.

    It counts what the backward pass reads again, and the attention's past.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    start : int
        The lowest layer that δ reaches.
    prompts : int
        The number of prompts: the prefixes, and the essence prompt.
    width : int
        The number of tokens from the subject's last one on.
    length : int
        The number of tokens in the whole sequence.

    Returns
    -------
    int
        The memory in bytes.
    """
    config = model.config.get_text_config()
    size = model.dtype.itemsize
    layout = known(model)
    depth = len(layout.layers)
    # some layers of a mixture of experts have no projection, and widths differ in some families
    there = [i for i in layout.editable if i >= min(start, depth - 1)] or layout.editable
    d, m = max((layout.matrix(i).shape for i in there), key=math.prod)
    kv = _numbers_of_a_token(config, d)
    per_token = (8 * size + 16) * d + 6 * m * size + 6 * kv * size
    states = width * (depth - start + 1) * per_token
    past = length * (3 * depth * kv * size + 4 * m * size)
    scores = 5 * config.vocab_size * 4
    return prompts * (states + past + scores)


def _numbers_of_a_token(config: Any, d: int) -> int:
    """How many numbers the attention stores per token and layer, for keys and values."""
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
    """The fact numbers `todo` in batches that together take the least time.

    In a batch all suffixes are padded to the longest, and each batch costs a pass over the weights.
    It is therefore better to pad a few facts than to run them alone, see `PASS`.
    """
    device = model.device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    memory = min(free // 2, 2 * 2**30)
    order = sorted(todo, key=lambda i: (coded[i].width, coded[i].length))
    most, tokens = [], []  # of a batch that ends with each fact: facts, and tokens per fact
    for i in order:
        c = coded[i]
        prompts = len(c.rows) + 1
        bytes_each = bytes_per_fact(model, place.start, prompts, c.width, c.length)
        most.append(batch or max(memory // bytes_each, 1))
        tokens.append(c.width * len(c.rows))
    starts = _cuts(most, tokens, PASS.get(device.type, PASS["cuda"]))
    return [order[start:end] for start, end in pairwise([*starts, len(order)])]


def _cuts(most: Sequence[int], tokens: Sequence[int], once: int) -> list[int]:
    """Where batches should start for the least work, for facts in ascending order of their tokens.

    `most` and `tokens` describe a batch that ends with each fact: how many facts it may hold, and
    how many tokens each takes. `once` is a batch's fixed cost, in tokens.
    """
    # for the first `end` facts: the least work, and where its last batch starts
    work, start = [0], [0]
    for end in range(1, len(most) + 1):
        first = max(end - most[end - 1], 0)
        options = [(work[s] + once + (end - s) * tokens[end - 1], -s) for s in range(first, end)]
        least, last = min(options)  # of equal ones with the shortest last batch
        work.append(least)
        start.append(-last)
    cuts, end = [], len(most)
    while end:
        end = start[end]
        cuts.append(end)
    return cuts[::-1]


def _minimise(
    problem: SuffixRuns | WholeRuns, search: Search, twin: PreTrainedModel | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The result of a search: z (n, k, d), h (n, k, d) and the losses (n, steps), at k places.

    `twin` is a copy of the model in lower precision, see `zu.suffix_search.lowered`, with which the
    search begins. The last losses are always those of the problem itself.
    """
    first: SuffixRuns | WholeRuns = problem
    stages = [problem]
    if twin is not None and isinstance(problem, SuffixRuns):
        first = problem.lowered(twin)
        stages = [first, problem]
    if search.bare_first and problem.prefixes > 1:
        stages = [first.bare(), *stages]
    h = problem.h
    u = torch.zeros_like(h)
    longest = search.clamp * h.norm(dim=2, keepdim=True) / _unit(h, search)  # of u, (n, k, 1)
    take = STEPS[search.optimizer](longest, h.shape[2], search.rate)
    for stage in stages:
        u, losses = _descend(stage, search, u, take)
    return h + u * _unit(h, search), h, losses.T


def _unsearched(
    problem: SuffixRuns | WholeRuns,
    search: Search,
    unknown: Callable[..., torch.Tensor],
    coded: Sequence[_Coded],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Like `_minimise`, but without steps: the single loss stands for that of every step."""
    if search.by == "gradient":
        delta = along_gradient(problem, search)
    else:
        delta = unknown([c.unknown for c in coded], problem.h, search)
    with torch.no_grad():
        nll, _ = problem.loss(delta, torch.arange(len(delta), device=delta.device))
    losses = nll.float().cpu()[:, None].expand(-1, search.steps)  # (n,) -> (n, steps)
    return problem.h + delta, problem.h, losses.contiguous()


def _unit(h: torch.Tensor, search: Search) -> torch.Tensor:
    """The unit of δ, (n, k, 1): 1 if Adam's rate is absolute, else ‖h‖/√d."""
    norm = h.norm(dim=2, keepdim=True)
    return torch.ones_like(norm) if search.absolute else norm / h.shape[2] ** 0.5


def _descend(
    problem: SuffixRuns | WholeRuns, search: Search, start: torch.Tensor, take: Adam | Normalised
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps on u = δ / unit from a start, with one independent problem per row.

    Rows that have converged are left out; on a GPU this is checked only now and then, see `TURNS`.
    Returns u (n, k, d) and the losses (steps, n).
    """
    h, u = problem.h, start.clone()
    norm = h.norm(dim=2, keepdim=True)  # (n, k, 1)
    scale = _unit(h, search)
    turn = TURNS.get(h.device.type, TURNS["cuda"])
    losses = torch.zeros(search.steps, len(h), dtype=torch.float32, device=h.device)
    active = torch.arange(len(h), device=h.device)  # (a,): the facts that are run
    going = torch.ones_like(active, dtype=torch.bool)  # (a,): which of them are not done yet
    for step in range(search.steps):
        x = u[active].requires_grad_(True)  # (n, k, d) -> (a, k, d), a copy
        delta = x * scale[active]
        nll, divergence = problem.loss(delta, active)  # both (a,)
        loss = nll + divergence + size_of(delta, norm[active], search)
        # also for all later steps, until they are computed
        losses[step:, active] = torch.where(going, nll.detach().float(), losses[step, active])
        going = going & ~(loss.detach() < search.tolerance)
        look = (step + 1) % turn == 0
        if step == search.steps - 1 or (look and not bool(going.any())):
            break
        (gradient,) = torch.autograd.grad(loss.sum(), x)  # rows are independent: (a, k, d)
        if look:
            active, gradient, going = active[going], gradient[going], going[going]
        moved = take(u[active], active, gradient)
        u[active] = torch.where(going[:, None, None], moved, u[active])
    return u, losses.cpu()
