"""What the model must keep: the second moment C_0 of the keys of ordinary text, layer by layer."""
from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from .data.cache import cache_dir, read_tensors, write_tensors
from .models import down_proj, fingerprint
from .reader import Batch, forward_until, hooks, write

#: Windows in a batch, batches summed in float32 before they enter the float64 sum, least seconds between saves.
ROWS, FLUSH, SAVE = 8, 4, 120
#: Windows that a model writes at once: a step takes little longer for many than for one.
WRITTEN = 32


class CorpusError(ValueError):
    """A text corpus that cannot be read; the message says which and what to do."""


class Moments(dict[int, torch.Tensor]):
    """C_0 by layer, (m, m) float64, and how many tokens it is the mean of."""

    def __init__(self, found: dict[int, torch.Tensor], tokens: int) -> None:
        super().__init__(found)
        self.tokens = tokens


def stream(tokenizer, texts: Iterable[str], window: int) -> Iterator[torch.Tensor]:
    """The texts' tokens, one text after the other, in windows of exactly `window`; what is left over is dropped."""
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text + "\n", add_special_tokens=False)["input_ids"]
        while len(ids) >= window:
            yield torch.tensor(ids[:window])
            del ids[:window]


def pack(tokenizer, texts: Iterable[str], tokens: int, window: int) -> torch.Tensor:
    """The first `tokens` tokens of the texts in windows: (windows, window)."""
    rows = list(islice(stream(tokenizer, texts, window), max(tokens // window, 1)))
    if not rows:
        raise ValueError(f"the texts hold fewer tokens than one window of {window}: give more text")
    return torch.stack(rows)


def corpus(source: str | Path) -> tuple[str, Iterable[str]]:
    """A label for cache keys, and the texts, of a corpus by name.

    source: ``"hub:DATASET"``, ``"hub:DATASET:CONFIG"`` or ``"hub:DATASET:CONFIG:SPLIT"``, by
    default its split "train", read in streaming mode (``"hub:wikimedia/wikipedia:20231101.en"`` is
    the paper's kind; the released code reads the dump of 20220301), or a file: JSON Lines with a
    field "text", else plain text with an empty line between paragraphs. Raises `CorpusError`.
    """
    if str(source).startswith("hub:"):
        return str(source), _hub(*str(source)[4:].split(":", 2))
    path = Path(source)
    if not path.is_file():
        raise CorpusError(f"no text at '{source}': give a file, \"hub:DATASET\", \"self\", or a list of texts")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), _lines(path)


def _hub(name: str, config: str | None = None, split: str = "train") -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise CorpusError(f'"hub:{name}" needs the datasets package: in the clone, pip install -e ".[hub]"') from error
    try:
        for row in load_dataset(name, config, split=split, streaming=True):
            yield row["text"]
    except KeyError:
        raise CorpusError(f'"hub:{name}" has no column "text"') from None
    except (OSError, ValueError) as error:  # datasets' own errors are of these kinds
        raise CorpusError(f'"hub:{name}" could not be read ({str(error).splitlines()[0]}): is the network up, and is '
                          "the name right? A local file or the embedded prose need no network") from error


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        paragraph, number = [], 0
        try:
            for number, line in enumerate(file, 1):  # noqa: B007
                if path.suffix == ".jsonl":
                    yield "" + json.loads(line)["text"]
                elif line.strip():
                    paragraph.append(line.strip())
                elif paragraph:
                    yield " ".join(paragraph)
                    paragraph = []
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else 'not a JSON object with a field "text"'
            raise CorpusError(f"{path}, line {number}: {what}; plain text needs another suffix than .jsonl") from None
        if paragraph:
            yield " ".join(paragraph)


@torch.no_grad()
def own_samples(model: nn.Module, tokenizer, window: int, skip: int = 0, rows: int = WRITTEN) -> Iterator[torch.Tensor]:
    """Windows that the model writes itself, token by token at temperature 1, without end; always the same ones.

    skip: how many to leave out: each batch of so many `rows` has a seed of its own.
    """
    start = next(t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if t is not None)
    for seed in count(skip // rows):
        generator = torch.Generator(model.device).manual_seed(seed)
        ids = torch.full((rows, 1), start, device=model.device)
        yield from write(model, tokenizer, ids, window, generator)[max(skip - seed * rows, 0):, 1:].cpu()


def moments(model: nn.Module, tokenizer, layers: Sequence[int], texts: Sequence[str] | str | Path | None = None, *,
            tokens: int = 100_000, window: int = 512, cache: bool = True) -> Moments:
    """C_0 = K_0 K_0ᵀ / N for each layer, (m, m) float64 on the CPU; the paper's Sections 4.3 and 5.

    texts: ordinary prose. None: the embedded one; a list of texts; ``"self"``: `own_samples`; a file or
    ``"hub:DATASET"``: see `corpus`. The first `tokens` tokens are read in windows of `window`, all layers in one
    pass that stops at the last. The model must be the unedited one.
    cache: keep the result under `zu.cache_dir`, by model, text, size and layer, and what is done so far
    at least two minutes apart, so that an interrupted call goes on where it stopped and ends bit for bit alike. No
    text is stored.
    What comes back has the number of tokens that were read as `tokens`: fewer than asked for where the text ends.
    Raises `CorpusError`, and `ValueError` where there is less text than a window.
    """
    size = max(tokens // window, 1)
    if isinstance(texts, str | Path) and str(texts) == "self":
        label, read = "self", partial(own_samples, model, tokenizer, window)
    elif isinstance(texts, str | Path):
        label, found = corpus(texts)
        read = lambda skip: islice(stream(tokenizer, found, window), skip, None)  # noqa: E731
    else:
        if texts is None:
            from .data import world

            texts = world.prose("moments")
        packed = pack(tokenizer, texts, tokens, window)
        label, read = hashlib.sha256(packed.numpy().tobytes()).hexdigest(), lambda skip: iter(packed[skip:])
    label = f"{fingerprint(model)} {type(tokenizer).__name__} {len(tokenizer)} {label} {window} {size}"
    files = {layer: _file(f"{label} {layer}") for layer in layers}
    done = {layer: kept for layer, path in files.items() if cache and (kept := read_tensors(path, "C0", "tokens"))}
    missing = [layer for layer in layers if layer not in done]
    if missing:
        part = _file(f"{label} {missing}") if cache else None
        done |= (fresh := _sum(model, read, size, window, missing, part))
        if part:
            for layer, kept in fresh.items():
                write_tensors(files[layer], kept)
            with suppress(OSError):  # of a cache that cannot be written
                part.unlink()
    return Moments({i: done[i]["C0"] for i in layers}, min((int(done[i]["tokens"]) for i in layers), default=0))


def _file(label: str) -> Path:
    return cache_dir() / "moments" / f"{hashlib.sha256(label.encode()).hexdigest()[:24]}.safetensors"


@torch.no_grad()
def _sum(model, read: Callable[[int], Iterator[torch.Tensor]], size: int, window: int, layers: Sequence[int],
         part: Path | None) -> dict[int, dict[str, torch.Tensor]]:
    """Mean outer products over `size` windows, or as many as there are: products in float32, `FLUSH` batches of them,
    then float64; and the tokens in them."""
    weights = {layer: down_proj(model, layer).weight for layer in layers}
    total = {layer: torch.zeros(w.shape[1], w.shape[1], dtype=torch.float64) for layer, w in weights.items()}
    recent = {i: torch.zeros(len(x), len(x), device=weights[i].device, dtype=torch.float32) for i, x in total.items()}
    seen, saved = 0, time.monotonic()
    if part and (kept := read_tensors(part, "seen", *map(str, layers))):
        total, seen = {layer: kept[str(layer)] for layer in layers}, int(kept["seen"])

    def add(layer: int, key: torch.Tensor) -> None:
        key = key.reshape(-1, key.shape[-1]).float()
        recent[layer].addmm_(key.T, key)

    def flush() -> None:
        for layer, x in recent.items():
            total[layer] += x.cpu()
            x.zero_()

    pairs = [(down_proj(model, layer).register_forward_pre_hook,
              lambda module, args, layer=layer: add(layer, args[0])) for layer in layers]
    rows = islice(read(seen), size - seen)
    with tqdm(total=size, initial=seen, unit="window", leave=False,
              desc=f"moments of layers {min(layers)}-{max(layers)}") as bar:
        while batch := list(islice(rows, ROWS)):
            # a CPU is faster where a layer's states fit into its cache
            for ids in torch.stack(batch).to(model.device).split(2 if model.device.type == "cpu" else ROWS):
                with hooks(*pairs):  # only here: the model may also be writing the text
                    forward_until(model, max(layers), Batch(ids, torch.ones_like(ids), ids[:, 0]), keys_only=True)
            seen += len(batch)
            bar.update(len(batch))
            if seen % (ROWS * FLUSH):
                continue
            flush()  # at fixed places, and saved only there: an interrupted sum ends bit for bit like a whole one
            if part and time.monotonic() - saved > SAVE:
                write_tensors(part, {str(layer): x for layer, x in total.items()} | {"seen": torch.tensor(seen)})
                saved = time.monotonic()
    flush()
    if not seen:
        raise ValueError(f"the texts hold fewer tokens than one window of {window}: give more text")
    tokens = seen * window
    return {layer: {"C0": x / tokens, "tokens": torch.tensor(tokens)} for layer, x in total.items()}
