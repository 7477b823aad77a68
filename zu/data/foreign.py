"""Models from elsewhere: their own code is never run, so their classes must be transformers'."""
from __future__ import annotations


def own_code(source: str) -> str:
    """What is wrong with a model, a folder or hub id, whose classes transformers lacks; else "".

    Where the library has the class, it is taken, whatever ``auto_map`` names beside it.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto import modeling_auto, tokenization_auto

    config = PreTrainedConfig.get_config_dict(source)[0]
    words = tokenization_auto.get_tokenizer_config(source)
    known = config.get("model_type") in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    its = words.get("auto_map") or {}
    its = its.get("AutoTokenizer") if isinstance(its, dict) else its  # a list, in old files
    kind = words.get("tokenizer_class") or ""
    if its and tokenization_auto.tokenizer_class_from_name(kind) is None:
        what = "tokenizer_config.json"
    elif config.get("auto_map") and not known:
        what = "config.json"
    else:
        return ""
    return (f"needs code of its own (auto_map in its {what}), which zu never runs: give a model of "
            "a kind that transformers itself has (Llama, Qwen3, Mistral and their like)")
