"""Load a model by name, and find the memory in it: each layer's MLP output projection."""
from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from .data.embedded import embedded_model
from .data.foreign import own_code

#: Layers that the paper edits (its Section 6.2) in Llama-3.2-3B, Llama-3.1-8B and Qwen3-4B, and ours in SmolLM2-135M,
#: by depth and width: a copy under another name gets the same. The released code does not edit
#: these with every method: ROME, GA and FT change one layer, 18, 21 or 8, and MEMIT takes 6 to 8 of
#: Qwen3-4B.
LAYERS = {(28, 3072): (16, 17, 18), (32, 4096): (19, 20, 21), (36, 2560): (9, 10, 11), (30, 576): (15, 16, 17)}


def load_model(name: str | Path = "smollm2", *, device: str | None = None,
               dtype: torch.dtype = torch.float32, device_map: str | dict | None = None):
    """Load a causal language model and its tokenizer.

    name: ``"smollm2"`` (the embedded SmolLM2-135M-Instruct), a Hugging Face hub id, or a local folder.
    device: e.g. ``"cpu"`` or ``"cuda"``; by default CUDA where there is one. device_map: passed to
    transformers instead, for a model spread over several GPUs.
    Only safetensors are read, and no code of a folder or of the hub is run.
    Returns ``(model, tokenizer)``, the model in evaluation mode with gradients off.
    Raises `OSError` with what to do when the model is neither at hand nor to be had, or needs code
    of its own.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(embedded_model() if str(name) == "smollm2" else os.path.expanduser(name))
    placement = {"device_map": device_map} if device_map is not None else {}
    try:
        if not Path(source).is_dir():
            _on_hub(source)
        if not (own := own_code(source)):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, use_safetensors=True, trust_remote_code=False, **placement)
    except (OSError, ValueError, SafetensorError) as error:
        raise OSError(f"model '{name}' could not be loaded: give 'smollm2', a folder with config.json, "
                      "tokenizer.json and *.safetensors, or a hub id with the network up and, for a gated "
                      f"model, 'hf auth login' done ({str(error).strip().splitlines()[0]})") from error
    if own:
        raise OSError(f"model '{name}' {own}")
    if not tokenizer.is_fast:
        raise OSError(f"model '{name}' has no fast tokenizer: token offsets are needed to find the subject")
    model.name = str(name) if str(name) == "smollm2" else Path(str(name)).name
    if device_map is None:
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval().requires_grad_(False), tokenizer


def _on_hub(name: str) -> None:
    """Raise `OSError` with the reason where a name can be no model's; transformers would try for a minute."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise OSError("there is no such folder")
    if "/" not in name and difflib.get_close_matches(name.lower(), ["smollm2"], 1, 0.7):
        raise OSError("did you mean 'smollm2'?")
    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        try:
            HfApi().model_info(name, timeout=10)
        except Exception as error:  # of the network, the hub or the name: a dozen kinds
            raise OSError(f"no such folder, and the hub says: {error}") from error


def decoder(model: nn.Module) -> nn.Module:
    """The stack of decoder layers inside a causal language model (Llama, Qwen3, Gemma and their like)."""
    body = model.get_decoder()
    if not hasattr(body, "layers") or not hasattr(body.layers[0], "mlp"):
        raise TypeError(f"{type(model).__name__} has no decoder layers with an 'mlp': zu knows the Llama family "
                        "(Llama, Qwen3, Gemma, SmolLM2, Mistral)")
    return body


def down_proj(model: nn.Module, layer: int) -> nn.Linear:
    """The MLP output projection of one layer, the paper's W: weight (d, m), no bias. Section 3.2.

    Raises `IndexError` for a layer that is not there, `TypeError` for another layout.
    """
    layers = decoder(model).layers
    if not 0 <= layer < len(layers):
        raise IndexError(f"layer {layer}: the model has layers 0 to {len(layers) - 1}")
    linear = getattr(layers[layer].mlp, "down_proj", None)
    if not isinstance(linear, nn.Linear) or linear.bias is not None:
        raise TypeError(f"layer {layer} of {type(model).__name__} has no bias-free linear 'mlp.down_proj'")
    return linear


def weight_name(model: nn.Module, layer: int) -> str:
    """The name under which that projection's weight stands in ``model.named_parameters()``."""
    weight = down_proj(model, layer).weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def finite(model: nn.Module, values: torch.Tensor, what: str = "logits") -> torch.Tensor:
    """`values` themselves. Raises `ValueError` where a row has NaN or +∞, or is −∞ all over.

    A single −∞ is no fault: a token that the model rules out.
    """
    if not bool(values.detach().amax(-1).isfinite().all()):
        name = getattr(model, "name", type(model).__name__)
        raise ValueError(f"the {what} of model '{name}' are NaN or infinite: nothing was computed "
                         "from them. Load it with another dtype (dtype=torch.float32), or take off "
                         "the edit that is on it")
    return values


def logits(model: nn.Module, states: torch.Tensor, check: bool = True) -> torch.Tensor:
    """Float32 logits of final hidden states, with the soft cap of models that have one (Gemma 2).

    Raises `ValueError` where they are not finite (see `finite`), unless check is off.
    """
    out = model.get_output_embeddings()(states).float()
    out = finite(model, out) if check else out
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(out / cap) * cap if cap else out


def default_layers(depth: int, width: int) -> tuple[int, ...]:
    """Layers to edit in a model of so many layers and hidden units: `LAYERS`, or three from 0.55 of the depth on."""
    start = min(round(0.55 * depth), max(depth - 4, 0))
    return LAYERS.get((depth, width), tuple(range(start, min(start + 3, depth))))


def resolve_layers(model: nn.Module, layers: Sequence[int | float] | None = None) -> tuple[int, ...]:
    """Layer numbers from indices, from shares of the depth (floats below 1), or `default_layers`.

    Raises `TypeError` for a model whose layers cannot be edited.
    """
    depth = len(decoder(model).layers)
    if isinstance(layers, int | float):
        raise ValueError(f"layers is {layers}: give a list, [{layers}]")
    if layers is None:
        layers = default_layers(depth, model.config.get_text_config().hidden_size)
    chosen = tuple(sorted({int(x * depth) if isinstance(x, float) else int(x) for x in layers}))
    for layer in chosen:
        down_proj(model, layer)
        if hasattr(decoder(model).layers[layer], "post_feedforward_layernorm"):
            raise TypeError(f"{type(model).__name__} normalises what down_proj puts out before it enters the residual "
                            "stream (as Gemma 2 and 3 do): no change of the weight can send it where it shall go")
    if not chosen:
        raise ValueError("layers is empty: name at least one layer to edit")
    return chosen


def fingerprint(model: nn.Module) -> str:
    """A short hash of the architecture and of every weight's values, for cache keys.

    An edited model has another one: each parameter enters by its sum and its norm, both taken in float64.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, weight in model.named_parameters():
        total = square = 0.0
        for part in weight.detach().flatten().split(2**16 if weight.device.type == "cpu" else 2**26):  # fits the cache
            x = part.double()
            total, square = total + x.sum(), square + x @ x
        norm = float(square) ** 0.5
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {float(total):.9e} {norm:.9e}".encode())
    return digest.hexdigest()[:16]
