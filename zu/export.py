"""Write what other libraries load: a whole model, or an edit as a PEFT adapter."""
from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from .built import unsaid
from .carried import edits_on
from .layouts import hooked
from .wrappers import (
    has_adapters,
    plain_name,
    sharers,
    unwrapped,
    why_not_alone,
    why_not_editable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Factors(NamedTuple):
    """A change of a projection as an adapter's factors: Δ = B A.

    Attributes
    ----------
    A : (r, m)
        PEFT's lora_A.
    B : (d, r)
        PEFT's lora_B.
    transposed : bool
        Whether the projection is stored as (m, d).
    """

    A: torch.Tensor
    B: torch.Tensor
    transposed: bool


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write a model with the edits on it, for transformers, vLLM or a converter to GGUF.

    The folder holds the weights as safetensors in the model's own dtype, the configuration, the
    generation settings, the tokenizer, and a README with the hub's front matter. It appears whole
    or not at all.

    Parameters
    ----------
    model : PreTrainedModel
        The model, with its edits on.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    folder : str or Path
        A new or empty folder to write to. ``~`` is the home folder.

    Raises
    ------
    ValueError
        If the model has adapters that are not merged, if weights are quantised, split into pieces,
        shared, not in memory, NaN or infinite, or if they do not belong to the model's
        configuration and would be lost.
    FileExistsError
        If the folder is not empty.
    OSError
        If the folder cannot be written.
    """
    from transformers import PreTrainedModel as Whole

    inner = unwrapped(model)
    if has_adapters(model):
        raise ValueError("the model has PEFT adapters, and would be saved without them or under "
                         "their names: merge them first (model = model.merge_and_unload(), or "
                         "model.get_base_model() for a model without its learnt prompts)")
    if not isinstance(inner, Whole):
        raise ValueError(f"save_model takes a model of transformers, not a {type(inner).__name__}")
    if not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(f"tokenizer is a {type(tokenizer).__name__}: give the model's own")
    _check_numbers(inner)
    _check_names(inner)
    if hooked(*inner.modules()):
        warnings.warn("the model has hooks or functions of your own in it, which are not "
                      "saved: the loaded model computes without them", stacklevel=2)
    about = "; ".join(edits_on(inner).values()) or "none"
    text = front_matter(inner, "transformers", []) + (
        f"\n# {called(inner)}, edited\n\nEdits by zu on it: {about}. Each is part of the weights; "
        "nothing else is needed to load the model.\n")

    def write(part: Path) -> None:
        with _no_bars():
            inner.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "README.md").write_text(text, encoding="utf-8")

    write_folder(folder, write)


def _check_numbers(model: PreTrainedModel) -> None:
    """Refuse a model whose weights are not plain finite numbers in memory."""
    quantised = getattr(model.config, "quantization_config", None)
    if quantised is not None or getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("the model is quantised: load it in float32, float16 or bfloat16, put the "
                         "edit on it, save it, then quantise what was saved")
    for name, weight in model.named_parameters():
        why = "" if weight.is_inference() else why_not_editable(weight)
        if not why and not bool(weight.isfinite().all()):
            why = "it holds NaN or infinity"
        if why:
            raise ValueError(f"{name} cannot be saved: {why}")


def _check_names(model: PreTrainedModel) -> None:
    """Refuse a model that its configuration and weights alone would not reproduce."""
    if names := unsaid(model):
        raise ValueError(
            f"{len(names)} weights of the model are not those of its configuration, {names[0]} for "
            "one, and would be lost when it is loaded: make a parametrisation or a pruning mask "
            "permanent (parametrize.remove_parametrizations, prune.remove), take compiled or "
            "wrapped modules out, or change the configuration with the model")
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, weight in model.named_parameters():
        if name not in tied and tied.isdisjoint(sharers(model, weight)):
            if why := why_not_alone(model, weight):
                raise ValueError(f"{name} cannot be saved: {why}")


def write_adapter(
    folder: str | Path,
    changes: Mapping[str, Factors],
    readme: str,
    about: dict[str, str],
    *,
    base: str | None,
) -> None:
    """Write changes of projections as a PEFT adapter, whole or not at all.

    Each change has its own rank; the scale lora_alpha / r is 1 for all.

    Parameters
    ----------
    folder : str or Path
        As in `save_model`.
    changes : mapping of str to Factors
        The changes by the weight's name.
    readme : str
        The text of the README, with its front matter.
    about : dict of str to str
        Metadata for the file of tensors.
    base : str or None
        The folder or hub id of the very model that was changed, if it has one.

    Raises
    ------
    FileExistsError, OSError
        As in `save_model`.
    """
    from safetensors.torch import save_file

    ranks, tensors = {}, {}
    for name, change in changes.items():
        module = plain_name(name).removesuffix(".weight")
        ranks[module] = len(change.A)
        for kind, x in (("lora_A", change.A), ("lora_B", change.B)):
            tensors[f"base_model.model.{module}.{kind}.weight"] = x.float().cpu().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": list(ranks),
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "fan_in_fan_out": any(change.transposed for change in changes.values()),
    }
    def write(part: Path) -> None:
        save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"} | about)
        said = json.dumps(config, indent=2) + "\n"
        (part / "adapter_config.json").write_text(said, encoding="utf-8")
        (part / "README.md").write_text(readme, encoding="utf-8")

    write_folder(folder, write)


def source_of(model: nn.Module) -> str:
    """Where a model was loaded from.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.

    Returns
    -------
    str
        A folder or a hub id; "" if the model was not loaded from either.
    """
    config = getattr(unwrapped(model), "config", None)
    return str(getattr(config, "_name_or_path", "") or "")


def called(model: nn.Module) -> str:
    """The public name of a model: its hub id, or its folder's name without the path.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.

    Returns
    -------
    str
        A name without a local path; "model" if nothing is known.
    """
    source = source_of(model)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) and not Path(source).is_dir():
        return source
    return str(getattr(unwrapped(model), "name", "") or Path(source).name or "model")


def front_matter(model: nn.Module, library: str, tags: Iterable[str]) -> str:
    """The metadata that the hub reads at the head of a README: base model, library, tags.

    Parameters
    ----------
    model : nn.Module
        The base model.
    library : str
        The library that loads the result: "peft", "transformers" or "zu".
    tags : iterable of str
        Tags beside "unlearning", "model-editing" and "zu".

    Returns
    -------
    str
        YAML between two lines of dashes.
    """
    relation = "finetune" if library == "transformers" else "adapter"
    lines = ["---", f"base_model: {_yaml(called(model))}", f"base_model_relation: {relation}",
             f"library_name: {library}", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {_yaml(tag)}" for tag in ("unlearning", "model-editing", "zu", *tags)]
    return "\n".join([*lines, "---"]) + "\n"


def _yaml(text: str) -> str:
    """A text in YAML: unchanged if it is a plain word, else in quotes."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text)
    words = ("yes", "no", "on", "off", "y", "n", "true", "false", "null")
    return text if plain and text.lower() not in words else json.dumps(text)


def differing(model: nn.Module, originals: Mapping[str, torch.Tensor]) -> str:
    """A weight that differs from the one in the folder from which the model was loaded.

    Parameters
    ----------
    model : nn.Module
        A model, wrapped or not.
    originals : mapping of str to Tensor
        By plain name, the original values of its edited weights.

    Returns
    -------
    str
        The name of one such weight; "" if there is none, or no such folder is available.
    """
    from safetensors import safe_open

    files = _files(source_of(model))
    weights = {plain_name(name): x.detach() for name, x in model.named_parameters()}
    weights |= originals
    for file in files:
        with safe_open(file, framework="pt") as there:
            for name in set(there.keys()) & set(weights):
                x = weights[name]
                if not torch.equal(there.get_tensor(name).to(x.dtype), x.cpu()):
                    return name
    return ""


def _files(source: str) -> list[Path]:
    """The safetensors files of a folder, or of a hub id if it is in the hub's cache."""
    folder = Path(source)
    if not source or not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, local_files_only=True))
        except (OSError, ValueError):  # not in the cache, or not an id
            return []
    return sorted(folder.glob("*.safetensors"))


def write_folder(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Write a folder whole or not at all, by way of a temporary folder beside it.

    Parameters
    ----------
    folder : str or Path
        A new or empty folder. ``~`` is the home folder.
    write : callable
        Called with the temporary folder; writes the files there.

    Raises
    ------
    FileExistsError
        If the folder is not empty, or is a file.
    OSError
        If the folder cannot be written; the message names it.
    """
    from safetensors import SafetensorError

    folder = Path(os.path.abspath(Path(folder).expanduser()))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already and is not an empty folder: name another, "
                              "or remove it")
    part = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        write(part)
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder} is not written ({error}): make room, or name a folder that can be "
                      "written") from error
    finally:
        with suppress(OSError):  # a missing folder has been reported above
            shutil.rmtree(part)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' progress bars inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
