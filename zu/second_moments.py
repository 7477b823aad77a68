"""The knowledge to keep: the second moment C_0 of ordinary text's keys, layer by layer."""
from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from tqdm.auto import tqdm

from .batches import Batch
from .data.cache import cache_file, packaged_file, read_tensors, user_path, write_tensors
from .data.compact import packed, unpacked
from .layouts import hooked, known
from .models import fingerprint, finite, fitting, resolve_layers
from .modes import settles
from .passes import forward_until, hooks, write

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The cache's folder for sums.
KIND = "moments"
#: The default number of tokens per direction of a key, see `enough`.
EACH = 20
#: Windows in a batch.
ROWS = 8
#: Batches summed in float32 before they enter the float64 sum.
FLUSH = 4
#: The least number of seconds between saves.
SAVE = 120
#: Windows that a model writes at once; a step for many takes little longer than for one.
WRITTEN = 32


class CorpusError(ValueError):
    """A text corpus cannot be read; the message says which one and what to do."""


class Moments(dict[int, torch.Tensor]):
    """C_0 by layer, (m, m) float64, and the number of tokens behind it.

    Parameters
    ----------
    found : dict
        C_0 by layer.
    tokens : int
        How many tokens were read.
    fourth : dict, optional
        By layer, the mean of ‖k‖⁴ over the tokens' keys k, which `shrink` needs.
    kept : bool
        Whether the moments, and what is computed from them, may be cached under `zu.cache_dir`.

    Attributes
    ----------
    shrunk : bool
        Whether `shrink` made these moments.
    """

    def __init__(
        self,
        found: dict[int, torch.Tensor],
        tokens: int,
        fourth: dict[int, float] | None = None,
        kept: bool = False,
    ) -> None:
        super().__init__(found)
        self.tokens, self.fourth, self.kept = tokens, fourth or {}, kept
        self.shrunk = False

    def shrink(self) -> Moments:
        """Shrink each moment towards a multiple of the identity, for few tokens.

        Returns
        -------
        Moments
            New moments, see `shrunken`.

        Raises
        ------
        ValueError
            If `fourth` lacks a layer, so that the spread of the tokens' keys is unknown.
        """
        if lacking := [layer for layer in self if layer not in self.fourth]:
            raise ValueError(f"moments of layer {lacking[0]} do not say how much keys differ from "
                             "token to token: read them with zu.moments")
        found = {i: shrunken(C0, self.fourth[i], self.tokens) for i, C0 in self.items()}
        shrunk = Moments(found, self.tokens, self.fourth, self.kept)
        shrunk.shrunk = True
        return shrunk


def shrunken(C0: torch.Tensor, fourth: float, tokens: int) -> torch.Tensor:
    """A second moment of few tokens, shrunk towards a multiple of the identity of equal trace.

    The result is (1 − ρ) C_0 + ρ μ I with μ = tr C_0 / m, which has no direction at zero. For
    independent tokens ρ minimises the expected squared error, and tends to 0 as tokens increase.
    Tokens of one text are not independent, so ρ errs on the small side.

    Parameters
    ----------
    C0 : (m, m)
        The mean of k kᵀ over the tokens' keys k.
    fourth : float
        The mean of ‖k‖⁴.
    tokens : int
        The number of tokens.

    Returns
    -------
    (m, m)
        The shrunk moment.

    References
    ----------
    Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """
    mean = C0.trace() / len(C0)
    identity = torch.eye(len(C0), dtype=C0.dtype, device=C0.device)
    away = (C0 - mean * identity).square().sum()
    # the mean squared error of C_0: the mean of ‖k kᵀ − C_0‖², divided by the number of tokens
    error = ((fourth - C0.square().sum()) / tokens).clamp(min=0.0)
    rho = (error / away.clamp_min(torch.finfo(C0.dtype).tiny)).clamp(max=1.0)
    return (1 - rho) * C0 + rho * mean * identity


def stream(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], window: int
) -> Iterator[torch.Tensor]:
    """The texts' tokens, one text after another, in windows; an incomplete last one is dropped.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : iterable of str
        Texts, read one by one as windows are needed.
    window : int
        Tokens in a window.

    Returns
    -------
    iterator of (window,)
        Token ids, exactly `window` of them each.
    """
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text + "\n", add_special_tokens=False)["input_ids"]
        while len(ids) >= window:
            yield torch.tensor(ids[:window])
            del ids[:window]


def pack(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], tokens: int, window: int
) -> torch.Tensor:
    """The first tokens of some texts, in windows.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : iterable of str
        Texts, read until there are enough tokens.
    tokens : int
        How many tokens, rounded down to whole windows, but at least one window.
    window : int
        Tokens in a window.

    Returns
    -------
    (windows, window)
        Token ids.

    Raises
    ------
    ValueError
        If the texts do not fill one window.
    """
    rows = list(islice(stream(tokenizer, texts, window), max(tokens // window, 1)))
    if not rows:
        raise ValueError(_too_little(window))
    return torch.stack(rows)  # windows × (window,) -> (windows, window)


def _too_little(window: int) -> str:
    """The message about texts that do not fill a window."""
    return f"the texts hold fewer tokens than one window of {window}: give more text"


def corpus(source: str | Path) -> tuple[str, Iterable[str]]:
    """Open a text corpus by name.

    Parameters
    ----------
    source : str or Path
        ``"hub:DATASET"``, ``"hub:DATASET:CONFIG"`` or ``"hub:DATASET:CONFIG:SPLIT"``, read in
        streaming mode, by default its split "train". (``"hub:wikimedia/wikipedia:20231101.en"`` is
        of the paper's kind; the released code reads the dump of 20220301.) Or a file: JSON Lines
        with a field "text", else plain text with empty lines between paragraphs.

    Returns
    -------
    label : str
        The name on the hub, or a hash of the file; for cache keys.
    texts : iterable of str
        One text per row or paragraph.

    Raises
    ------
    CorpusError
        At once if the file is missing; later, while the texts are read, if they cannot be.
    """
    if str(source).startswith("hub:"):
        return str(source), _hub(*str(source)[4:].split(":", 2))
    path = user_path(source)
    if not path.is_file():
        raise CorpusError(
            f"no text at '{source}': give a file, \"hub:DATASET\", \"self\", or a list of texts"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), _lines(path)


def _hub(name: str, config: str | None = None, split: str = "train") -> Iterator[str]:
    """The texts of a data set on the Hugging Face hub, one by one as they arrive."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CorpusError(
            f'"hub:{name}" needs the datasets package: in the clone, pip install -e ".[hub]"'
        ) from error
    try:
        for row in load_dataset(name, config, split=split, streaming=True):
            yield row["text"]
    except KeyError:
        raise CorpusError(f'"hub:{name}" has no column "text"') from None
    except (OSError, ValueError) as error:  # datasets' own errors are of these kinds
        raise CorpusError(
            f'"hub:{name}" could not be read ({str(error).splitlines()[0]}): is the network up, '
            "and is the name right? A local file or the embedded prose need no network"
        ) from error


def _lines(path: Path) -> Iterator[str]:
    """The texts of a file: the field "text" of each row in JSON Lines, else the paragraphs."""
    with path.open(encoding="utf-8") as file:
        paragraph: list[str] = []
        number = 0  # of the line, for the error
        try:
            for number, line in enumerate(file, 1):  # noqa: B007
                if path.suffix == ".jsonl":
                    yield "" + json.loads(line)["text"]  # TypeError unless it is a text
                elif line.strip():
                    paragraph.append(line.strip())
                elif paragraph:
                    yield " ".join(paragraph)
                    paragraph = []
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            what = 'not a JSON object with a field "text"'
            if isinstance(error, UnicodeDecodeError):
                what = "not UTF-8"
            raise CorpusError(
                f"{path}, line {number}: {what}; plain text needs another suffix than .jsonl"
            ) from None
        if paragraph:
            yield " ".join(paragraph)


@torch.no_grad()
def own_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    skip: int = 0,
    rows: int = WRITTEN,
) -> Iterator[torch.Tensor]:
    """Windows of text that the model itself writes, without end and always the same.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which writes at temperature 1.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    window : int
        Tokens in a window.
    skip : int
        The number of windows to skip. Each batch has its own seed, so skipped batches are not
        written.
    rows : int
        Windows in a batch.

    Returns
    -------
    iterator of (window,)
        Token ids, on the CPU.

    Raises
    ------
    NonFiniteError
        If the model's logits are not finite.
    """
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
    start = next(token for token in candidates if token is not None)
    for seed in count(skip // rows):
        generator = torch.Generator(model.device).manual_seed(seed)
        ids = torch.full((rows, 1), start, device=model.device)
        written = write(model, tokenizer, ids, window, generator)  # (rows, 1 + window)
        left_out = max(skip - seed * rows, 0)  # in the first batch only
        yield from written[left_out:, 1:].cpu()


def enough(model: PreTrainedModel, layers: Sequence[int], window: int = 512) -> int:
    """The default number of tokens from which the moments of some layers are read.

    A change chosen by the second moment of N independent keys of length m does about N / (N − m)
    times the least damage, which is 20/19 with `EACH` = 20 tokens per direction. Keys of a text are
    not independent, so the factor is larger. Three times as many tokens move mean scores by little
    more than a point, see the chapter on what the model must keep.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    layers : sequence of int
        The layers whose keys are read.
    window : int
        Tokens in a window.

    Returns
    -------
    int
        `EACH` times the length m of the longest key, in whole windows.
    """
    layout = known(model)
    longest = max((layout.matrix(layer).shape[1] for layer in layers), default=0)
    return -(-EACH * longest // window) * window


@settles
def moments(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int],
    texts: Sequence[str] | str | Path | None = None,
    *,
    tokens: int | None = None,
    window: int = 512,
    cache: bool = True,
) -> Moments:
    """Read C_0 = K_0 K_0ᵀ / N of each layer in one pass (the paper's Sections 4.3 and 5).

    Parameters
    ----------
    model : PreTrainedModel
        The unedited model.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    layers : sequence of int or float
        The layers whose keys are read, as `zu.models.resolve_layers` takes them.
    texts : optional
        Ordinary prose: a list of texts; ``"self"`` for `own_samples`; or a file or
        ``"hub:DATASET"``, see `corpus`. By default the embedded prose.
    tokens : int, optional
        How many tokens to read; by default what `enough` says.
    window : int
        How many tokens to read at once. A window longer than the model's context is cut to it, with
        a warning.
    cache : bool
        Whether to keep the result under `zu.cache_dir`, and the unfinished sum about every two
        minutes: an interrupted call continues where it stopped and ends with the same bits. No text
        is stored, and nothing is stored of a model with hooks on it. The default moments of the
        embedded model come with the package.

    Returns
    -------
    Moments
        By layer, C_0 (m, m), float64, on the CPU; and how many tokens were read, which are fewer
        than asked for if the text ends before.

    Raises
    ------
    CorpusError
        If the texts cannot be read.
    ValueError
        If the texts do not fill one window, or the model's numbers are not finite.
    """
    window = fitting(model, window)
    layers = () if isinstance(layers, Sequence) and not layers else resolve_layers(model, layers)
    tokens = enough(model, layers, window) if tokens is None else tokens
    size = max(tokens // window, 1)
    cache = cache and not hooked(*model.modules())  # cache keys do not cover hooks
    source, read = _source(model, tokenizer, texts, tokens, window)
    label = _label(model, tokenizer, source, window, size) if cache else None
    done = _packaged(label, layers)
    done |= _kept(label, [layer for layer in layers if layer not in done])
    if missing := [layer for layer in layers if layer not in done]:
        part = cache_file(KIND, f"{label} {missing}") if cache else None
        done |= (fresh := _sum(model, read, size, window, missing, part))
        _keep(label, fresh, part)
    fewest = min((int(done[layer]["tokens"]) for layer in layers), default=0)
    fourth = {layer: float(done[layer]["fourth"]) for layer in layers}
    return Moments({layer: done[layer]["C0"] for layer in layers}, fewest, fourth, cache)


def package(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: Sequence[int]
) -> list[Path]:
    """Read the default text, and write the moments that come with the package.

    Parameters
    ----------
    model : PreTrainedModel
        The unedited model, without hooks on it.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    layers : sequence of int
        The layers whose keys are read.

    Returns
    -------
    list of Path
        One file per layer, which `moments` uses from then on.
    """
    window = fitting(model, 512)
    tokens = enough(model, layers, window)
    size = tokens // window
    source, read = _source(model, tokenizer, None, tokens, window)
    label = _label(model, tokenizer, source, window, size)
    files = []
    for layer, found in _sum(model, read, size, window, layers, None).items():
        files.append(packaged_file(KIND, f"{label} {layer}"))
        kept = packed(found.pop("C0"))
        write_tensors(files[-1], found | kept)
    return files


def _label(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, window: int, size: int
) -> str:
    """Everything that moments depend on except the layer."""
    about = f"{fingerprint(model)} {type(tokenizer).__name__} {len(tokenizer)}"
    return f"{about} {source} {window} {size}"


def _packaged(label: str | None, layers: Sequence[int]) -> dict[int, dict[str, torch.Tensor]]:
    """By layer, the moments that come with the package under a label."""
    done = {}
    for layer in layers if label else ():
        path = packaged_file(KIND, f"{label} {layer}")
        if kept := read_tensors(path, "factor", "scale", "fourth", "tokens"):
            done[layer] = kept | {"C0": unpacked(kept)}
    return done


def _kept(label: str | None, layers: Sequence[int]) -> dict[int, dict[str, torch.Tensor]]:
    """By layer, the moments that the cache holds under a label."""
    done = {}
    for layer in layers if label else ():
        kept = read_tensors(cache_file(KIND, f"{label} {layer}"), "C0", "fourth", "tokens")
        if kept and bool(kept["C0"].isfinite().all()):
            done[layer] = kept
    return done


def _keep(
    label: str | None, fresh: dict[int, dict[str, torch.Tensor]], part: Path | None
) -> None:
    """Write finished sums to the cache, and remove the unfinished sum `part`."""
    if part is None:
        return
    for layer, found in fresh.items():
        write_tensors(cache_file(KIND, f"{label} {layer}"), found)
    with suppress(OSError):  # the cache may be read-only
        part.unlink()


def _source(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | str | Path | None,
    tokens: int,
    window: int,
) -> tuple[str, Callable[[int], Iterator[torch.Tensor]]]:
    """A label for cache keys, and a function that skips some windows and yields the rest."""
    if isinstance(texts, str | Path) and str(texts) == "self":
        return "self", partial(own_samples, model, tokenizer, window)
    if isinstance(texts, str | Path):
        label, found = corpus(texts)

        def read(skip: int) -> Iterator[torch.Tensor]:
            return islice(stream(tokenizer, found, window), skip, None)

        return label, read
    if texts is None:
        from .data import world

        texts = world.prose("moments")
    packed = pack(tokenizer, texts, tokens, window)

    def rest(skip: int) -> Iterator[torch.Tensor]:
        return iter(packed[skip:])

    return hashlib.sha256(packed.numpy().tobytes()).hexdigest(), rest


class _Sums:
    """Sums of outer products by layer, taken in float32 and added in float64 at fixed places."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        layout = known(model)
        self.projections = {layer: layout.projection(layer) for layer in layers}
        self.total: dict[int, torch.Tensor] = {}  # (m, m) float64, on the CPU
        self.recent: dict[int, torch.Tensor] = {}  # (m, m) float32, on the layer's device
        self.fourth: dict[int, torch.Tensor] = {}  # the sum of ‖k‖⁴, float64, on the same device
        for layer in layers:
            W = layout.matrix(layer)  # (d, m)
            m, device = W.shape[1], W.device
            self.total[layer] = torch.zeros(m, m, dtype=torch.float64)
            self.recent[layer] = torch.zeros(m, m, device=device, dtype=torch.float32)
            self.fourth[layer] = torch.zeros((), device=device, dtype=torch.float64)

    def hooks(self) -> list[tuple[Callable, Callable]]:
        """Hooks that add each layer's keys as a pass produces them."""

        def add(layer: int, module: nn.Module, args: tuple) -> None:
            key = args[0]
            key = key.reshape(-1, key.shape[-1]).float()  # (rows, window, m) -> (rows window, m)
            self.recent[layer].addmm_(key.T, key)
            self.fourth[layer] += key.square().sum(1).double().square().sum()

        pairs: list[tuple[Callable, Callable]] = []
        for layer, linear in self.projections.items():
            pairs.append((linear.register_forward_pre_hook, partial(add, layer)))
        return pairs

    def flush(self) -> None:
        """Add the recent sums to the total."""
        for layer, x in self.recent.items():
            self.total[layer] += x.cpu()
            x.zero_()

    def save(self, part: Path, seen: int) -> None:
        """Save the total of the windows seen so far."""
        tensors = {str(layer): x for layer, x in self.total.items()}
        tensors |= {f"fourth {layer}": x for layer, x in self.fourth.items()}
        write_tensors(part, tensors | {"seen": torch.tensor(seen)})

    def resume(self, part: Path | None) -> int:
        """Continue from a saved total, if there is one; returns how many windows it holds."""
        if part is None:
            return 0
        names = [f"fourth {layer}" for layer in self.total]
        kept = read_tensors(part, "seen", *map(str, self.total), *names)
        if kept is None:
            return 0
        self.total = {layer: kept[str(layer)] for layer in self.total}
        for layer, x in self.fourth.items():
            self.fourth[layer] = kept[f"fourth {layer}"].to(x.device)
        return int(kept["seen"])


@torch.no_grad()
def _sum(
    model: PreTrainedModel,
    read: Callable[[int], Iterator[torch.Tensor]],
    size: int,
    window: int,
    layers: Sequence[int],
    part: Path | None,
) -> dict[int, dict[str, torch.Tensor]]:
    """Mean outer products over `size` windows, or as many as there are, and their tokens.

    `FLUSH` batches of products are summed in float32, then added in float64. `read` skips some
    windows and yields the rest. `part` is the file for the unfinished sum.
    """
    sums = _Sums(model, layers)
    seen, saved = sums.resume(part), time.monotonic()
    last = max(layers)
    # a CPU is faster if a layer's states fit into its cache
    at_once = 2 if model.device.type == "cpu" else ROWS
    rows = islice(read(seen), size - seen)
    title = f"moments of layers {min(layers)}-{last}"
    with tqdm(total=size, initial=seen, unit="window", leave=False, desc=title) as bar:
        while batch := list(islice(rows, ROWS)):
            windows = torch.stack(batch).to(model.device)  # (rows, window)
            for ids in windows.split(at_once):
                every = Batch(ids, torch.ones_like(ids), ids[:, 0])  # no position is read
                with hooks(*sums.hooks()):  # only here: the model may also be writing the text
                    forward_until(model, last, every, keys_only=True)
            seen += len(batch)
            bar.update(len(batch))
            if seen % (ROWS * FLUSH):
                continue
            # at fixed places, and saved only there, so that an interrupted sum ends with the same
            # bits as an uninterrupted one
            sums.flush()
            if part and time.monotonic() - saved > SAVE:
                sums.save(part, seen)
                saved = time.monotonic()
    sums.flush()
    if not seen:
        raise ValueError(_too_little(window))
    tokens = seen * window
    found = {}
    for layer, total in sums.total.items():
        finite(model, total, f"keys of layer {layer}")
        fourth = sums.fourth[layer].cpu() / tokens
        found[layer] = {"C0": total / tokens, "fourth": fourth, "tokens": torch.tensor(tokens)}
    return found
