"""Where a model keeps its memory: its layers, and in each the projection that ends the MLP.

A `Record` describes one family, under the name that transformers gives it. `known` finds a model's
`Layout` by the family's record or, for families without one, by any record that fits.
`zu.probes.layout` tests a layout on the model itself.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from .wrappers import absent, prompted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LayoutError(TypeError):
    """A model cannot be read or edited layer by layer; the message says why, and what works."""


@dataclass(frozen=True)
class Record:
    """The paths of the parts in a family's models.

    Parameters
    ----------
    layers : str
        The list of layers, in the decoder.
    last : tuple of str
        The modules between the last layer and the head, in the decoder; those that a model lacks or
        has set to None are skipped.
    projection : str
        The MLP's output projection, in a layer.
    attention : str
        The attention's output projection, in a layer.
    """

    layers: str = "layers"
    last: tuple[str, ...] = ("norm",)
    projection: str = "mlp.down_proj"
    attention: str = "self_attn.o_proj"


_LLAMA = Record()
_GPT2 = Record("h", ("ln_f",), "mlp.c_proj", "attn.c_proj")
_GPTJ = Record("h", ("ln_f",), "mlp.fc_out", "attn.out_proj")
_BLOOM = Record("h", ("ln_f",), "mlp.dense_4h_to_h", "self_attention.dense")
_NEOX = Record("layers", ("final_layer_norm",), "mlp.dense_4h_to_h", "attention.dense")
_OPT = Record("layers", ("final_layer_norm", "project_out"), "fc2", "self_attn.out_proj")
_XGLM = Record("layers", ("layer_norm",), "fc2", "self_attn.out_proj")
_PHI = Record("layers", ("final_layernorm",), "mlp.fc2", "self_attn.dense")
_LFM = Record("layers", ("embedding_norm",), "feed_forward.w2", "self_attn.out_proj")
_MAMBA = Record("layers", ("norm_f",), "mixer.out_proj", "")

#: By ``config.model_type``, the families whose parts have other names than Llama's.
RECORDS: dict[str, Record] = {
    "biogpt": _XGLM,
    "bloom": _BLOOM,
    "codegen": _GPTJ,
    "ctrl": Record("h", ("layernorm",), "ffn.2", "multi_head_attention.dense"),
    "falcon": _BLOOM,
    "falcon_h1": Record("layers", ("final_layernorm",), "feed_forward.down_proj"),
    "falcon_mamba": _MAMBA,
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": Record("h", ("ln_f",), "mlp.c_proj", "attn.attention.out_proj"),
    "gpt_neox": _NEOX,
    "gpt_neox_japanese": _NEOX,
    "gptj": _GPTJ,
    "granitemoehybrid": Record(projection="shared_mlp.output_linear"),
    "lfm2": _LFM,
    "lfm3": Record("layers", ("embedding_norm",), "feed_forward.w2"),
    "llama4_text": Record(projection="feed_forward.down_proj"),
    "mamba": _MAMBA,
    "modernbert-decoder": Record("layers", ("final_norm",), "mlp.Wo", "attn.Wo"),
    "moshi": Record("layers", ("norm",), "mlp.fc2", "self_attn.o_proj.linear"),
    "mpt": Record("blocks", ("norm_f",), "ffn.down_proj", "attn.out_proj"),
    "nanochat": Record("layers", ("norm",), "mlp.fc2"),
    "nemotron_h": Record("layers", ("norm_f",), "mixer.down_proj", "mixer.o_proj"),
    "openai-gpt": Record("h", (), "mlp.c_proj", "attn.c_proj"),
    "opt": _OPT,
    "persimmon": Record("layers", ("final_layernorm",), "mlp.dense_4h_to_h", "self_attn.dense"),
    "phi": _PHI,
    "recurrent_gemma": Record("layers", ("final_norm",), "mlp_block.down_proj", ""),
    "rwkv": Record("blocks", ("ln_out",), "feed_forward.value", "attention.output"),
    "starcoder2": Record(projection="mlp.c_proj"),
    "xglm": _XGLM,
    "xlstm": Record("blocks", ("out_norm",), "ffn.proj_down", "mlstm_layer.out_proj"),
}
#: The records that are tried for a family without one, the likeliest first.
_OTHERS = list(dict.fromkeys([_LLAMA, Record("layers", ("final_layernorm",)), *RECORDS.values()]))


@dataclass(frozen=True)
class Layout:
    """How a model is read and written, layer by layer.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    body : nn.Module
        The decoder in it: the module around its layers, without the head.
    layers : nn.ModuleList
        Its layers.
    record : Record
        The paths of a layer's parts.
    scales : mapping of int to float
        By layer, the factor by which a change of the projection's output arrives in the state after
        the layer; NaN if there is no single factor, as behind a norm. Empty if not measured.
    """

    model: PreTrainedModel
    body: nn.Module
    layers: nn.ModuleList
    record: Record
    scales: Mapping[int, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        there, depth = len(self.editable), len(self.layers)
        where = "each" if there == depth else f"{there} of them"
        names = f"'{self.record.layers}' of {depth}, '{self.record.projection}' in {where}"
        return f"Layout({kind}: {names}; {self._tried()})"

    def _tried(self) -> str:
        """The results of the probes in words."""
        if not self.scales:
            return "not tried"
        normed = sum(map(math.isnan, self.scales.values()))
        times = sorted({x for x in self.scales.values() if not math.isnan(x)})
        said = dict.fromkeys("as it is" if x == 1 else f"{x:.3g} times" for x in times)
        plain = " or ".join(said)
        words = [f"its output is added {plain}"] if plain else []
        words += [f"its output is normalised in {normed} layers"] if normed else []
        words += ["stored transposed"] if self.transposed else []
        return "probed: " + ", ".join(words)

    @property
    def transposed(self) -> bool:
        """Whether the projections' weights are stored as (m, d), GPT-2's way."""
        return any(_is_transposed(x) for x in map(self._at, self.editable) if x)

    @property
    def editable(self) -> list[int]:
        """The layers that have a projection; in some mixtures of experts only the first does."""
        return [i for i in range(len(self.layers)) if self._at(i) is not None]

    def _at(self, layer: int) -> nn.Module | None:
        """The module in place of a layer's projection; None if there is none."""
        return _part(self.layers[layer], self.record.projection)

    def projection(self, layer: int) -> nn.Module:
        """The MLP's output projection of one layer.

        Parameters
        ----------
        layer : int
            The layer's number, counted from 0.

        Returns
        -------
        nn.Module
            A linear module. Its input is a key, (..., m), and its output a value, (..., d).

        Raises
        ------
        IndexError
            If the model has no such layer.
        LayoutError
            If the layer has no such projection, or one that cannot be edited as it is.
        """
        if not 0 <= layer < len(self.layers):
            raise IndexError(f"layer {layer}: the model has layers 0 to {len(self.layers) - 1}")
        found = self._at(layer)
        where = f"layer {layer} of {type(self.model).__name__}"
        if found is None:
            raise LayoutError(f"{where} has no '{self.record.projection}': it may be a mixture of "
                              "experts, or a layer without an MLP. zu.evaluate and zu.perplexity "
                              "work nevertheless; give layers= that have one, if any")
        fault = _fault(found)
        if fault:
            raise LayoutError(f"'{self.record.projection}' in {where} {fault}")
        return found

    def matrix(self, layer: int) -> torch.Tensor:
        """A layer's weight as the paper's W.

        Parameters
        ----------
        layer : int
            As in `projection`.

        Returns
        -------
        Tensor
            (d, m): the weight itself, or a view of it if it is stored transposed.

        Raises
        ------
        IndexError, LayoutError
            As `projection` does.
        """
        linear = self.projection(layer)
        weight = linear.get_parameter("weight")
        return weight.T if _is_transposed(linear) else weight

    def stored(self, layer: int, W: torch.Tensor) -> torch.Tensor:
        """A weight in the orientation in which the model stores it.

        Parameters
        ----------
        layer : int
            As in `projection`.
        W : (d, m)
            A weight, or any tensor of its shape.

        Returns
        -------
        Tensor
            (d, m), or (m, d) if the model stores it transposed.
        """
        return W.T if _is_transposed(self.projection(layer)) else W

    def attention(self, layer: int) -> nn.Module:
        """The attention's output projection of one layer.

        Parameters
        ----------
        layer : int
            As in `projection`.

        Returns
        -------
        nn.Module
            The module whose output is that of attention.

        Raises
        ------
        LayoutError
            If zu does not know it.
        """
        found = _part(self.layers[layer], self.record.attention)
        if found is None:
            raise LayoutError(f"zu does not know the module of attention's output in layer {layer} "
                              f"of {type(self.model).__name__}")
        return found

    def finish(self, states: torch.Tensor) -> torch.Tensor:
        """The states that the head receives, from states after the last layer.

        Parameters
        ----------
        states : (..., d)
            States after the last layer.

        Returns
        -------
        (..., d')
            The states after the norm, and after a projection if the embedding is narrower.
        """
        for name in self.record.last:
            module = _part(self.body, name)
            if module is not None:
                states = module(states)
        return states

    def above(self) -> set[int]:
        """The ids of the modules between the last layer and the head."""
        parts = [_part(self.body, name) for name in self.record.last]
        return {id(x) for part in parts if part is not None for x in part.modules()}

    def scale(self, layer: int) -> float:
        """The factor by which a change of the projection's output arrives after the layer.

        Parameters
        ----------
        layer : int
            The layer's number.

        Returns
        -------
        float
            1 in most families; NaN if the output is normalised first.
        """
        return self.scales.get(layer, 1.0)


def check_bare(model: nn.Module) -> None:
    """Refuse a wrapper of a whole model, inside which layers cannot be read one by one.

    Parameters
    ----------
    model : nn.Module
        A model.

    Raises
    ------
    LayoutError
        If torch.compile or data parallelism wraps the model, or PEFT puts learnt prompts in front
        of its input.
    """
    if prompted(model):
        raise LayoutError(
            "PEFT puts learnt prompts in front of every text that the model reads (prompt or "
            "prefix tuning), which zu would leave out: give the model without them "
            "(model.get_base_model())")
    for inside, wrapper in (("_orig_mod", "torch.compile"), ("module", "data parallelism")):
        held = getattr(model, "_modules", ())
        if inside in held and not hasattr(type(model), "get_decoder"):
            raise LayoutError(
                f"the model is wrapped by {wrapper}: give zu the one inside (model.{inside}); "
                "they share their weights, so an edit of one is on the other too")

def check_there(model: nn.Module) -> None:
    """Refuse a model that `check_bare` refuses, and one whose weights are not all in memory.

    Parameters
    ----------
    model : nn.Module
        A model.

    Raises
    ------
    LayoutError
        As `check_bare` does, and if weights are on the meta device and not offloaded to a disk.
    """
    check_bare(model)
    if isinstance(model, nn.Module) and (name := absent(model)):
        raise LayoutError(f"{name} is not in memory (on the meta device): load the model's weights "
                          "first, whole or with a device_map")



def known(model: PreTrainedModel) -> Layout:
    """A model's layout by its family's record, or else by one that fits; without any test.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.

    Returns
    -------
    Layout
        The layout, without scales.

    Raises
    ------
    LayoutError
        If no record finds layers with a projection.
    """
    check_bare(model)
    kind = getattr(model.config.get_text_config(), "model_type", "")
    for body in _bodies(model):
        records = [RECORDS[kind]] if kind in RECORDS else _OTHERS
        for record in records:
            layers = _part(body, record.layers)
            if isinstance(layers, nn.ModuleList) and _fits(body, layers, record):
                return Layout(model, body, layers, record)
    raise LayoutError(
        f"{type(model).__name__} cannot be edited: zu knows no layers in it whose MLP ends in one "
        "projection (a mixture of experts has many). zu.evaluate and zu.perplexity work "
        "nevertheless")


def _bodies(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that may be a model's decoder, the likeliest first."""
    found = [model.get_decoder(), getattr(model, "base_model", None), getattr(model, "model", None)]
    return [x for x in found if isinstance(x, nn.Module)]


def _fits(body: nn.Module, layers: nn.ModuleList, record: Record) -> bool:
    """Whether some layer has the record's projection, and the decoder its last modules."""
    there = any(_part(layer, record.projection) is not None for layer in layers)
    return there and (not record.last or _part(body, record.last[0]) is not None)


def _part(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path; None if there is none."""
    if not path:
        return None
    try:
        return module.get_submodule(path)
    except AttributeError:  # also if a part of the path is None or no module
        return None


def hooked(*modules: nn.Module) -> bool:
    """Whether a user's hooks are on any of these modules.

    Parameters
    ----------
    *modules : nn.Module
        The modules; their submodules are not checked.

    Returns
    -------
    bool
        True for a forward hook or pre-hook, or a function in place of the class's `forward`. Hooks
        of accelerate do not count, nor those with which transformers itself collects outputs.
    """
    if any("forward" in vars(x) and not hasattr(x, "_hf_hook") for x in modules):
        return True
    found = (f for x in modules for f in (*x._forward_hooks.values(),
                                          *x._forward_pre_hooks.values()))
    return any(not str(getattr(f, "__module__", "")).startswith("transformers.") for f in found)


def heard(model: PreTrainedModel) -> bool:
    """Whether a user's hooks are on a model as a whole, its decoder or its head.

    If layers are run one by one, the first two are not called, and the head sees only some tokens,
    in one row. The effect of such hooks shows only if the model is run as a whole.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model.

    Returns
    -------
    bool
        True if the model must be run as a whole.
    """
    parts = [model, *_bodies(model), model.get_output_embeddings()]
    return hooked(*(part for part in parts if isinstance(part, nn.Module)))


def _is_transposed(linear: nn.Module) -> bool:
    """Whether a projection's weight is stored as (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(linear, Conv1D)


def _fault(linear: nn.Module) -> str:
    """Why a projection cannot be edited, as the end of a sentence; "" if it can."""
    from transformers.pytorch_utils import Conv1D

    if hasattr(linear, "base_layer") or hasattr(linear, "modules_to_save"):
        return ("is wrapped by an adapter: merge it into the weights first "
                "(model = model.merge_and_unload()), or take it off")
    if hasattr(linear, "parametrizations"):
        return ("has a weight that is computed from others (torch's parametrize): remove the "
                "parametrisation first")
    weight = linear._parameters.get("weight")
    if weight is None and isinstance(getattr(linear, "weight", None), torch.Tensor):
        return ("has a weight that is computed from others (pruning, weight_norm or the like of "
                "torch.nn.utils): make it permanent first (prune.remove, remove_weight_norm)")
    if weight is None or not isinstance(linear, nn.Linear | Conv1D):
        return (f"is a {type(linear).__name__}, not a plain linear map: load the model without "
                "quantisation (no quantization_config), in float32 or bfloat16")
    if weight.is_meta:
        return ("is not in memory, but offloaded: load the model with a device_map that keeps all "
                "layers on devices, or device='cpu'")
    plain = type(weight) is nn.Parameter and type(weight.data) is torch.Tensor
    if not plain or not weight.is_floating_point() or weight.element_size() < 2:
        kind = type(weight.data).__name__ if plain else type(weight).__name__
        if kind == "DTensor":
            return ("is in pieces (a DTensor of FSDP or tensor parallelism): load the model whole, "
                    "edit it, and share it out then")
        return (f"is quantised ({kind} of {weight.dtype}): load the model without quantisation "
                "(no quantization_config), edit it, and quantise what zu.save_model writes")
    return ""
