"""Models from elsewhere: zu never runs their own code, so transformers must have their classes."""
from __future__ import annotations


def own_code(source: str) -> str:
    """Why a model cannot be loaded if transformers lacks its classes.

    If the library has the class, it is used, whatever ``auto_map`` names.

    Parameters
    ----------
    source : str
        A folder or hub id.

    Returns
    -------
    str
        The end of a sentence that begins with the model's name; "" if nothing is wrong.

    Raises
    ------
    OSError
        From transformers, if there is no such model.
    """
    from transformers import PreTrainedConfig
    from transformers.models.auto import modeling_auto, tokenization_auto

    config = PreTrainedConfig.get_config_dict(source)[0]
    tokenizer = tokenization_auto.get_tokenizer_config(source)
    named = tokenizer.get("auto_map") or {}
    if isinstance(named, dict):  # in old files it is a list
        named = named.get("AutoTokenizer")
    tokenizer_class = tokenizer.get("tokenizer_class") or ""
    classes = {*modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
               *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    if named and tokenization_auto.tokenizer_class_from_name(tokenizer_class) is None:
        file = "tokenizer_config.json"
    elif config.get("auto_map") and config.get("model_type") not in classes:
        file = "config.json"
    else:
        return ""
    return (f"needs code of its own (auto_map in its {file}), which zu never runs: give a model of "
            "a kind that transformers itself has (Llama, Qwen3, Mistral and their like)")
