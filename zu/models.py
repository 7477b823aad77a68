"""Load a model by name, and find the memory in it: each layer's MLP output projection."""
from __future__ import annotations

import functools
import hashlib
import json
import numbers
import operator
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .built import altered
from .data.embedded import embedded_model
from .data.foreign import own_code
from .data.names import closest
from .layouts import LayoutError, check_there, known
from .modes import undisturbed
from .wrappers import why_not_editable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The layers to edit, by depth and width, so that a copy under another name gets the same ones:
#: the paper's (its Section 6.2) for Llama-3.2-3B, Llama-3.1-8B and Qwen3-4B, and ours for
#: SmolLM2-135M. The released code does not use them for every method: ROME, GA and FT change one
#: layer, 18, 21 or 8, and MEMIT changes layers 6 to 8 of Qwen3-4B.
LAYERS = {
    (28, 3072): (16, 17, 18),
    (32, 4096): (19, 20, 21),
    (36, 2560): (9, 10, 11),
    (30, 576): (15, 16, 17),
}


#: A weight's sum, its norm and its place-weighted sum, see `sums`.
Sums = tuple[float, float, float]

_LOADING = threading.Lock()


def load_model(
    name: str | Path = "smollm2",
    *,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | dict | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Only safetensors files are read, and code from the folder or the hub is never run. A model of
    images and text is loaded if it can read text alone; a warning says if only its text part is
    loaded.

    Parameters
    ----------
    name : str or Path
        ``"smollm2"`` (the embedded SmolLM2-135M-Instruct), a hub id, or a local folder.
    device : str, optional
        For example ``"cpu"`` or ``"cuda"``; by default CUDA if there is a GPU.
    dtype : torch.dtype
        The dtype of the weights.
    device_map : str or dict, optional
        Passed to transformers instead of `device`, for a model spread over several GPUs.

    Returns
    -------
    model : PreTrainedModel
        In evaluation mode, with gradients off.
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer, which knows the offsets of its tokens.

    Raises
    ------
    OSError
        If the model cannot be found, read or downloaded, or needs code of its own; the message says
        what to do.
    """
    from safetensors import SafetensorError
    embedded = str(name) == "smollm2"
    source = str(embedded_model() if embedded else os.path.expanduser(name))
    try:
        if not Path(source).is_dir():
            _on_hub(source)
        if not (own := own_code(source)):
            # never in inference mode, whose weights stay as they are; and one model at a time
            with _LOADING, undisturbed():
                model, tokenizer = _read(source, dtype, device_map)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"model '{name}' could not be loaded: give 'smollm2', a folder with config.json, "
            "tokenizer.json and *.safetensors, or a hub id; a hub id needs the network and, for a "
            f"gated model, 'hf auth login' ({reason})") from error
    if own:
        raise OSError(f"model '{name}' {own}")
    if not tokenizer.is_fast:
        raise OSError(f"model '{name}' has no fast tokenizer, which zu needs to find the subject's "
                      "tokens: give a folder with a tokenizer.json")
    called = str(name) if embedded else Path(str(name)).name
    model.name = called  # type: ignore[assignment]  # torch declares modules and tensors only
    if device_map is None:
        _move(model, device)
    return model.eval().requires_grad_(False), tokenizer


def _read(
    source: str, dtype: torch.dtype, device_map: str | dict | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer from a folder or hub id, using only transformers' own classes."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )
    from transformers.models.auto import modeling_auto

    # without trust_remote_code=False transformers asks whether to run a folder's code
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    of_text = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    of_images = config.model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind: Any = AutoModelForCausalLM
    if of_images and not of_text:
        kind = AutoModelForImageTextToText
    placement = {} if device_map is None else {"device_map": device_map}
    model, found = kind.from_pretrained(
        source, dtype=dtype, use_safetensors=True, trust_remote_code=False,
        output_loading_info=True, **placement)
    if lacking := sorted(found["missing_keys"]):  # transformers fills them with random numbers
        raise OSError(f"its files lack {len(lacking)} weights, {lacking[0]} for one")
    if kind is AutoModelForImageTextToText:
        _must_read_text(model)
    elif type(model.config) is not type(config):
        warnings.warn(f"only the text part of a {type(config).__name__} is loaded, as "
                      f"{type(model).__name__}; zu.save_model writes that part", stacklevel=3)
    return model, tokenizer


@torch.no_grad()
def _must_read_text(model: PreTrainedModel) -> None:
    """Raise `OSError` unless a model of images and text can read text alone."""
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    said = f"{type(model).__name__} does not read text alone"
    try:
        logits = model.eval()(input_ids=ids, use_cache=False).logits
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OSError(f"{said}: {type(error).__name__}, {error}") from error
    if logits.shape[:2] != ids.shape:
        raise OSError(said)


def _move(model: nn.Module, device: str | None) -> None:
    """Move a model to a device, by default to CUDA if there is a GPU."""
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _on_hub(name: str) -> None:
    """Raise `OSError` with the reason if no model has this name.

    transformers itself would go on trying for a minute.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise OSError("there is no such folder")
    if "/" not in name and closest(name.lower(), ["smollm2"], 0.7):
        raise OSError("did you mean 'smollm2'?")
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # of the network, the hub or the name: a dozen kinds
        raise OSError(f"no such folder, and the hub says: {error}") from error


def decoder(model: PreTrainedModel) -> nn.Module:
    """The decoder inside a causal language model: the module around its layers, without the head.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.

    Returns
    -------
    nn.Module
        For example a ``LlamaModel``.

    Raises
    ------
    LayoutError
        If zu does not know the model's layout, see `zu.layouts.known`.
    """
    return known(model).body


def down_proj(model: PreTrainedModel, layer: int) -> nn.Module:
    """The MLP output projection of one layer, which holds the paper's W.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    layer : int
        The layer's number, counted from 0.

    Returns
    -------
    nn.Module
        A linear module. Its weight is (d, m), or (m, d) in families that store it transposed
        (GPT-2): see `zu.layouts.Layout.matrix`. Some have a bias.

    Raises
    ------
    IndexError
        If the model has no such layer.
    LayoutError
        If the layer cannot be edited.

    References
    ----------
    The paper's Section 3.2.
    """
    return known(model).projection(layer)


def weight_name(model: PreTrainedModel, layer: int) -> str:
    """The name of a projection's weight in ``model.named_parameters()``.

    Parameters
    ----------
    model, layer
        As in `down_proj`.

    Returns
    -------
    str
        For example ``"model.layers.16.mlp.down_proj.weight"``.

    Raises
    ------
    IndexError, LayoutError
        As `down_proj` does.
    """
    weight = down_proj(model, layer).get_parameter("weight")
    names = (name for name, parameter in model.named_parameters() if parameter is weight)
    return next(names)


class NonFiniteError(ValueError):
    """A model's numbers are NaN or infinite, so nothing is computed from them."""


def finite(model: PreTrainedModel, values: torch.Tensor, what: str = "logits") -> torch.Tensor:
    """Check that a model's output is finite.

    Parameters
    ----------
    model : PreTrainedModel
        The model, for the message.
    values : Tensor
        (..., d) or (..., vocabulary). A single −∞ is allowed: the model rules that token out.
    what : str
        The name of the values in the message.

    Returns
    -------
    Tensor
        `values` themselves.

    Raises
    ------
    NonFiniteError
        If a row holds NaN or +∞, or nothing but −∞.
    """
    largest = values.detach().amax(-1)  # (..., d) -> (...); NaN where a row has one
    if not bool(largest.isfinite().all()):
        name = getattr(model, "name", type(model).__name__)
        raise NonFiniteError(
            f"the {what} of model '{name}' are NaN or infinite: nothing was computed from them. "
            "Load it with another dtype (dtype=torch.float32), or take off the edit that is on it")
    return values


def logits(model: PreTrainedModel, states: torch.Tensor, check: bool = True) -> torch.Tensor:
    """Logits of final hidden states, finished by the model's own code.

    The model's own forward pass runs, with the states in place of its decoder's output, so that
    whatever a family does around its head (a scale, a soft cap, a bias) is done too.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    states : Tensor
        (..., d): hidden states after the final norm (`zu.layouts.Layout.finish`).
    check : bool
        Whether to check the logits with `finite`.

    Returns
    -------
    Tensor
        (..., vocabulary), float32.

    Raises
    ------
    NonFiniteError
        If the logits are not finite (see `finite`), unless `check` is off.
    """
    head = model.get_output_embeddings()
    flat = states.reshape(1, -1, states.shape[-1])  # (..., d) -> (1, places, d)
    # tokens that are never read; not every family accepts embeddings in their place
    ids = torch.zeros(flat.shape[:2], dtype=torch.long, device=model.device)  # (1, places)

    def look(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if check:  # before the soft cap, which would turn +∞ into a number
            finite(model, output)

    handle = head.register_forward_hook(look)
    try:
        with _standing_in(known(model).body, flat):
            out = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return out.float().view(*states.shape[:-1], -1)  # (1, places, vocabulary) -> (..., vocabulary)


@contextmanager
def _standing_in(body: nn.Module, states: torch.Tensor) -> Iterator[None]:
    """Inside the block a decoder returns these states (1, places, d), whatever its input."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Output(BaseModelOutputWithPast):
        """The states, and None for any other field that a family's head asks for."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    def put_out(*args: object, **kwargs: object) -> Output:
        return Output(last_hidden_state=states)

    own = body.__dict__.get("forward")  # accelerate puts one there
    body.forward = put_out
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


def default_layers(depth: int, width: int) -> tuple[int, ...]:
    """The layers to edit in a model of this size.

    Parameters
    ----------
    depth : int
        The number of layers.
    width : int
        The width of the hidden states, d.

    Returns
    -------
    tuple of int
        The entry of `LAYERS`. Without one: the three layers from 0.55 of the depth on, or, in a
        shallow model, the three before the last.
    """
    start = min(round(0.55 * depth), max(depth - 4, 0))
    stop = min(start + 3, depth)
    return LAYERS.get((depth, width), tuple(range(start, stop)))


def resolve_layers(
    model: PreTrainedModel, layers: Sequence[int | float] | None = None
) -> tuple[int, ...]:
    """Turn a user's choice of layers into layer numbers.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    layers : sequence of int or float, optional
        Indices, or shares of the depth (floats below 1); by default `default_layers`.

    Returns
    -------
    tuple of int
        The layers to edit, sorted, each once.

    Raises
    ------
    LayoutError
        If the model's layers cannot be edited.
    ValueError
        If `layers` is a number instead of a list, is empty, or holds something that is neither a
        layer's number nor a share.
    IndexError
        If the model has no such layer.
    """
    depth = len(known(model).layers)
    if layers is None:
        layers = default_layers(depth, model.config.get_text_config().hidden_size)
    numbers = layer_numbers(layers)
    indices = (int(x * depth) if isinstance(x, float) else x for x in numbers)
    chosen = tuple(sorted(set(indices)))
    for layer in chosen:
        down_proj(model, layer)  # for its errors
    if not chosen:
        raise ValueError("layers is empty: name at least one layer to edit")
    return chosen


def layer_numbers(layers: object) -> tuple[int | float, ...]:
    """Layers as plain numbers, from a list, a range or an array.

    Parameters
    ----------
    layers : sequence of int or float
        Indices, or shares of the depth.

    Returns
    -------
    tuple of int or float
        The same numbers, in the same order.

    Raises
    ------
    ValueError
        If `layers` is a number instead of a list, or holds something that is neither an index nor
        a share below 1.
    """
    single = isinstance(layers, str) or getattr(layers, "ndim", 1) < 1  # or a tensor of one number
    if single or not isinstance(layers, Iterable):
        raise ValueError(f"layers is {layers}: give a list, [{layers}]")
    return tuple(map(_layer_number, layers))


def _layer_number(given: object) -> int | float:
    """One layer as a plain number."""
    if isinstance(given, numbers.Real) and not isinstance(given, bool | numbers.Integral):
        share = float(given)
        if 0 <= share < 1:
            return share
    elif not isinstance(given, bool):
        try:
            return operator.index(given)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise ValueError(f"layers has {given!r}: give a layer's number, or a share of the depth from 0 "
                     "to below 1")


def fitting(model: PreTrainedModel, window: int) -> int:
    """How many tokens of a window the model can read at once.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    window : int
        The length asked for, in tokens.

    Returns
    -------
    int
        `window`, or the model's context if that is shorter.

    Warns
    -----
    UserWarning
        If the window is cut.

    Raises
    ------
    LayoutError
        If the model is wrapped, or its weights are not in memory.
    """
    check_there(model)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or not 0 < context < window:
        return window
    name = getattr(model, "name", type(model).__name__)
    warnings.warn(f"a window of {window} tokens is longer than what model '{name}' can read: it is "
                  f"cut to the model's context, {context} tokens", stacklevel=5)
    return context


def check_length(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> None:
    """Refuse questions that a model cannot read.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.
    rows : sequence of sequences of int
        The token ids of each question with its answer.

    Raises
    ------
    ValueError
        If a row is longer than the model's context, or holds a token that the model lacks.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, rows), default=0)
    if isinstance(context, int) and 0 < context < longest:
        raise ValueError(f"a question with its answer has {longest} tokens, more than the model's "
                         f"context of {context}: shorten it")
    weight: torch.Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    known = weight.shape[0]
    highest = max((max(row) for row in rows if row), default=0)
    if highest >= known:
        raise ValueError(f"the tokenizer gives token {highest}, but the model has {known}: give "
                         "the model's own tokenizer")


def fingerprint(
    model: PreTrainedModel,
    summed: Callable[[Sequence[torch.Tensor]], list[Sums]] | None = None,
    about: str | None = None,
) -> str:
    """A short hash of the architecture and of every weight's values, for cache keys.

    An edit changes the fingerprint: see `hash_of` for how the values enter. So does anything that
    makes the same weights compute something else (another `rope_theta`, an adapter that is
    switched off, a module that is `altered`).

    Parameters
    ----------
    model : PreTrainedModel
        Any model.
    summed : callable, optional
        As in `hash_of`.
    about : str, optional
        The result of `beside_weights`, if it is known already.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    weights = [*model.named_parameters(), *model.named_buffers()]
    return hash_of(weights, beside_weights(model) if about is None else about, summed)


def beside_weights(model: PreTrainedModel) -> str:
    """A model's class, configuration and `altered` modules, as they enter its fingerprint.

    Parameters
    ----------
    model : PreTrainedModel
        Any model.

    Returns
    -------
    str
        A text of some kilobytes.
    """
    return " ".join([type(model).__name__, _architecture(model), *altered(model)])


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of how a tokenizer cuts text, and of its special tokens.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("padding", "truncation"):  # left by the last call
        about.pop(state, None)
    about["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.all_special_ids]
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


#: The fields of a configuration that do not affect what the model computes.
_IDLE = {"_name_or_path", "architectures", "auto_map", "dtype", "transformers_version", "use_cache"}


def _architecture(model: PreTrainedModel) -> str:
    """A model's configuration as text, without the fields in `_IDLE`."""
    about = model.config.to_dict()
    return json.dumps({k: v for k, v in about.items() if k not in _IDLE}, sort_keys=True,
                      default=str)


def hash_of(
    weights: Iterable[tuple[str, torch.Tensor]],
    start: str = "",
    summed: Callable[[Sequence[torch.Tensor]], list[Sums]] | None = None,
) -> str:
    """A short hash of weights' names, shapes and values.

    Parameters
    ----------
    weights : iterable of (str, Tensor)
        Each weight enters by its sum, its norm and a sum that depends on the order of its values,
        all taken in float64.
    start : str
        A text that enters first.
    summed : callable, optional
        Returns the weights' sums, from memory if it has them (`KnownSums`); by default all are
        computed.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    LayoutError
        If a weight is not in memory, or is split into pieces.
    """
    named = list(weights)
    for name, weight in named:
        if weight.is_meta or type(weight).__name__ == "DTensor":
            raise LayoutError(f"{name} cannot be read: {why_not_editable(weight)}")
    tensors = [weight for _, weight in named]
    found = summed(tensors) if summed else [sums(weight) for weight in tensors]
    digest = hashlib.sha256(start.encode())
    for (name, weight), three in zip(named, found, strict=True):
        values = " ".join(f"{x:.9e}" for x in three)
        about = f"{name} {tuple(weight.shape)} {weight.dtype} {values}"
        digest.update(about.encode())
    return digest.hexdigest()[:16]


class KnownSums:
    """The sums of weights, computed again only if a weight shows a sign of change (`signs`).

    Some ways of writing to a weight show no sign. Code that relies on the sums should call `forget`
    first.
    """

    def __init__(self) -> None:
        #: By a weight's identity: the weight itself, its sign, its sums.
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Hashable, Sums]] = {}

    def forget(self) -> None:
        """Forget all sums, so that every weight is summed again."""
        self._known.clear()

    def __call__(self, weights: Sequence[torch.Tensor]) -> list[Sums]:
        """The sums of some weights.

        Parameters
        ----------
        weights : sequence of Tensor
            In memory.

        Returns
        -------
        list of (float, float, float)
            What `sums` gives for each.
        """
        found = []
        for weight, sign in zip(weights, signs(weights), strict=True):
            known = self._known.get(id(weight))
            # the identity may have belonged to a weight that no longer exists
            if known is None or known[0]() is not weight or sign is None or known[1] != sign:
                known = weakref.ref(weight), sign, sums(weight)
                self._known[id(weight)] = known
            found.append(known[2])
        return found


def signs(tensors: Sequence[torch.Tensor]) -> list[Hashable]:
    """Hints that a tensor has changed, cheap enough to be checked before each use.

    Parameters
    ----------
    tensors : sequence of Tensor
        In memory.

    Returns
    -------
    list of hashable
        For each tensor its place in memory, how often it was written to and, since some writes are
        not counted, a few of its values; None for a tensor whose writes are not counted at all.
    """
    values = []
    for x in tensors:
        flat = x.detach().flatten()  # (size,)
        values.append(flat[:: max(len(flat) // 8, 1)][:8].float())
    if not values:
        return []
    device = values[0].device
    few = torch.cat([x.to(device) for x in values]).cpu().split([len(x) for x in values])
    found: list[Hashable] = []
    for x, some in zip(tensors, few, strict=True):
        about = x.data_ptr(), tuple(x.shape), x.dtype
        counted = not x.is_inference()  # inference tensors have no count of their writes
        found.append((*about, x._version, some.numpy().tobytes()) if counted else None)
    return found


def sums(weight: torch.Tensor) -> Sums:
    """The sum of a weight's values, their norm, and their place-weighted sum, in float64.

    The last multiplies each value by a number between 1 and 2 that differs from place to place, so
    that it notices values that swap places.

    Parameters
    ----------
    weight : Tensor
        Of any shape.

    Returns
    -------
    total, norm, placed : float
        The three sums.
    """
    flat = weight.detach().flatten()
    if flat.device.type == "cpu":
        rows, row, by_place = _ROWS, _CACHED, _on_cpu()  # fits into the processor's cache
    else:
        rows, row = 1, min(2**26, max(len(flat), 1))
        by_place = _by_place(row, flat.device)  # (row,)
    total = square = placed = 0.0
    for number, part in enumerate(flat.split(rows * row)):
        x = part.double()  # (rows row,), or what is left
        total += x.sum().item()
        square += (x @ x).item()
        for j, few in enumerate(x.split(row), rows * number):
            placed += (1 + _GOLDEN * j % 1) * (few @ by_place[: len(few)]).item()
    return total, square ** 0.5, placed


#: On a CPU, the number of a weight's values per row, and of rows summed at once.
_CACHED, _ROWS = 2**16, 8
_GOLDEN = 0.6180339887498949


@functools.cache
def _on_cpu() -> torch.Tensor:
    """`_by_place` for the rows on a CPU, computed once."""
    return _by_place(_CACHED, torch.device("cpu"))


def _by_place(size: int, device: torch.device) -> torch.Tensor:
    """The factors of a row's values in the place-weighted sum: (size,), float64."""
    steps = torch.arange(size, dtype=torch.float64, device=device)
    return 1 + steps.mul_(_GOLDEN).frac_()
