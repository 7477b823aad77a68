"""What the model must keep: the second moment C_0 of the keys of ordinary text, layer by layer."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from .models import cache_dir, down_proj, fingerprint, write_whole
from .trace import Batch, forward_until, hooks


def pack(tokenizer, texts: Sequence[str], tokens: int, window: int) -> torch.Tensor:
    """The first `tokens` tokens of the texts, one after the other, cut into windows: (windows, window)."""
    ids: list[int] = []
    for text in texts:
        if len(ids) >= tokens:
            break
        ids += tokenizer(text + "\n", add_special_tokens=False)["input_ids"]
    count = min(len(ids), tokens) // window
    if not count:
        raise ValueError(f"the texts hold {len(ids)} tokens: one window of {window} is needed at least")
    return torch.tensor(ids[:count * window]).view(count, window)


@torch.no_grad()
def moments(model: nn.Module, tokenizer, layers: Sequence[int], texts: Sequence[str] | None = None, *,
            tokens: int = 100_000, window: int = 512, cache: bool = True) -> dict[int, torch.Tensor]:
    """C_0 = K_0 K_0ᵀ / N for each layer, (m, m) float64 on the CPU; the paper's Sections 4.3 and 5.

    texts: ordinary prose, by default the embedded one; its first `tokens` tokens are read in windows of
    `window`, all layers in one pass that stops at the last. The model must be the unedited one.
    cache: keep the result under `zu.models.cache_dir`, by model, text, size and layer; written whole or not
    at all. No text is stored.
    """
    if texts is None:
        from . import world

        texts = world.prose("moments")
    windows = pack(tokenizer, texts, tokens, window)
    label = f"{fingerprint(model)} {hashlib.sha256(windows.numpy().tobytes()).hexdigest()} {window}"
    names = {layer: hashlib.sha256(f"{label} {layer}".encode()).hexdigest()[:24] for layer in layers}
    files = {layer: cache_dir() / "moments" / f"{name}.safetensors" for layer, name in names.items()}
    done = {layer: c for layer, path in files.items() if cache and (c := _read(path)) is not None}
    missing = [layer for layer in layers if layer not in done]
    if missing:
        fresh = _stream(model, windows, missing)
        for layer, c in fresh.items():
            if cache:
                _write(files[layer], c)
        done |= fresh
    return {layer: done[layer] for layer in layers}


def _stream(model: nn.Module, windows: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    sums: dict[int, torch.Tensor] = {}

    def add(layer: int, key: torch.Tensor) -> None:
        key = key.reshape(-1, key.shape[-1]).float()  # products in float32, their sum in float64
        sums[layer] = sums.get(layer, 0) + (key.T @ key).double()

    pairs = [(down_proj(model, layer).register_forward_pre_hook,
              lambda module, args, layer=layer: add(layer, args[0])) for layer in layers]
    with hooks(*pairs):
        for ids in tqdm(windows.split(8), desc=f"moments of layers {min(layers)}-{max(layers)}", leave=False):
            ids = ids.to(model.device)
            forward_until(model, max(layers), Batch(ids, torch.ones_like(ids), ids[:, 0]))
    return {layer: (total / windows.numel()).cpu() for layer, total in sums.items()}


def _read(path: Path) -> torch.Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)["C0"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None  # absent or damaged: computed again and written over


def _write(path: Path, c: torch.Tensor) -> None:
    from safetensors.torch import save_file

    write_whole(path, lambda part: save_file({"C0": c.contiguous()}, part))
