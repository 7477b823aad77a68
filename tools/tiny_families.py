"""Tiny random models of every decoder family of transformers, with the peculiarities of each."""
from __future__ import annotations

import inspect
from typing import Any

import torch

#: Small sizes, by their names in configurations.
SIZES: dict[str, Any] = dict(
    vocab_size=400, hidden_size=32, n_embd=32, d_model=32, word_embed_proj_dim=32, lru_width=32,
    intermediate_size=80, n_inner=80, ffn_dim=80, decoder_ffn_dim=80, expansion_ratio=2,
    moe_intermediate_size=16, num_hidden_layers=5, n_layer=5, n_layers=5, num_layers=5,
    decoder_layers=5, num_attention_heads=4, n_head=4, n_heads=4, attention_heads=4,
    decoder_attention_heads=4, num_key_value_heads=2, head_dim=8, rotary_dim=4,
    max_position_embeddings=256, n_positions=256, n_ctx=256, max_seq_len=256, pad_token_id=0,
    bos_token_id=1, eos_token_id=0, attention_types=[[["global"], 5]], num_experts=4,
    n_routed_experts=4, num_local_experts=4, num_experts_per_tok=2, q_lora_rank=16,
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, mamba_n_heads=8,
    mamba_d_head=8, mamba_d_state=8, mamba_d_ssm=64, mamba_n_groups=1, linear_num_value_heads=4,
    linear_num_key_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, n_group=1, num_group=1,
    topk_group=1)
#: What families do to their states and logits, with numbers that have a visible effect.
ODD: dict[str, Any] = dict(
    residual_multiplier=0.22, logits_scaling=8.0, embedding_multiplier=2.0, logit_scale=0.0625,
    scale_depth=1.4, dim_model_base=16, scale_emb=12, lm_head_multiplier=0.1,
    final_logit_softcapping=5.0, mlp_multipliers=[0.5, 0.7])
_MIXED = ["sliding_attention", "full_attention"]
#: What single families need in addition or in another size, by the name of their text part.
OWN: dict[str, dict[str, Any]] = {
    "cohere_compass_text": dict(rope_parameters={
        "full_attention": {"rope_type": "default", "rope_theta": 1e4}}),
    "dbrx": dict(attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
                 ffn_config={"hidden_size": 32, "ffn_hidden_size": 16}),
    # as released: the first layer is dense
    "deepseek_v2": dict(first_k_dense_replace=1),
    "dots1": dict(n_shared_experts=1, first_k_dense_replace=1),
    "dots3_note_text": dict(
        head_dim=12, index_topk=4, index_head_dim=8, index_n_heads=2,
        shared_experts_intermediate_size=16, swa_num_attention_heads=4, swa_num_key_value_heads=4,
        swa_q_lora_rank=16, swa_kv_lora_rank=16, swa_head_dim=12, swa_qk_nope_head_dim=8,
        swa_v_head_dim=8),
    # in both Gemmas the last two layers take keys and values from those before
    "gemma3n_text": dict(
        vocab_size_per_layer_input=400, hidden_size_per_layer_input=8, num_kv_shared_layers=2,
        laurel_rank=8, layer_types=[*_MIXED, *_MIXED, "full_attention"],
        activation_sparsity_pattern=[0.9, 0.9, 0.0, 0.0, 0.0]),
    "gemma4_text": dict(
        vocab_size_per_layer_input=400, hidden_size_per_layer_input=8, num_kv_shared_layers=2,
        layer_types=[*_MIXED, *_MIXED, "full_attention"], per_layer_config={}),
    # as the released micro models are: without experts
    "granitemoehybrid": dict(num_local_experts=0, shared_intermediate_size=80),
    "kimi_linear": dict(linear_head_dim=8, linear_num_heads=4),
    "lfm2_moe": dict(layer_types=["conv", "full_attention", "conv", "full_attention", "conv"],
                     num_dense_layers=1),
    "llama4_text": dict(interleave_moe_layer_step=2, intermediate_size_mlp=80),
    "mamba2": dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8),
    "nemotron_h": dict(
        layers_block_type=["linear_attention", "mlp", "full_attention", "mlp", "moe"],
        mamba_num_heads=8, mamba_head_dim=8, moe_shared_expert_intermediate_size=16),
    "qwen2_5_vl_text": dict(rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2]}),
    "qwen4_exp_text": dict(
        hc_lowrank=8, ple_embed_dim=32, ngram_vocab_size_base=100,
        shared_expert_intermediate_size=16, indexer_n_heads=2, indexer_kv_heads=1,
        indexer_head_dim=8, indexer_budget=4, indexer_compress_ratio=2),
    "zamba": dict(attn_layer_period=2, attn_layer_offset=1, attention_hidden_size=64,
                  attention_head_dim=16, use_mamba_kernels=False),
    "zamba2": dict(layers_block_type=["linear_attention", "hybrid"] * 2 + ["linear_attention"],
                   mamba_ngroups=1, n_mamba_heads=4, chunk_size=8, num_key_value_heads=4,
                   use_mamba_kernels=False),
    "zaya": dict(num_experts_per_tok=1, router_hidden_size=16),
}
_EYE = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            image_size=28, patch_size=14)
#: Families of images and text that are built whole: their image parts, and other settings.
WHOLE: dict[str, dict[str, Any]] = {
    "gemma3": dict(vision_config=_EYE, mm_tokens_per_image=4),
    "gemma4": dict(vision_config=dict(_EYE, num_key_value_heads=4, head_dim=8, patch_size=4,
                                      position_embedding_size=64)),
    "llava": dict(vision_config=dict(_EYE, model_type="clip_vision_model", projection_dim=32)),
    "mistral3": dict(vision_config=dict(_EYE, model_type="pixtral", head_dim=8)),
    "qwen2_5_vl": dict(vision_config=dict(depth=2, hidden_size=32, intermediate_size=32,
                                          num_heads=4, out_hidden_size=32)),
}
#: Encoders, and decoders that need another model's states: no decoder-only language models.
OTHERS = set(
    "albert bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small blt "
    "camembert cpmant data2vec-text electra emu3 ernie gemma4_assistant gemma4_unified_assistant "
    "git marian mbart megatron-bert mllama musicgen musicgen_melody mvp pegasus phi4_multimodal "
    "plbart prophetnet reformer rembert roberta roberta-prelayernorm roc_bert roformer trocr "
    "whisper xlm xlm-roberta xlm-roberta-xl xlnet xmod".split())


def kinds() -> list[str]:
    """The names of all families."""
    decoders = [kind for kind in _causal() if kind not in OTHERS]
    return decoders + [kind for kind in WHOLE if kind not in decoders]


def build(kind: str) -> Any:
    """A tiny random model of a family; an exception if the family does not accept these sizes."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForCausalLM if kind in _causal() else AutoModelForImageTextToText
    made = _configuration(kind)
    with torch.device("meta"):
        meant = auto.from_config(made, trust_remote_code=False)
    size = sum(x.numel() for x in meant.parameters())
    if size > 5_000_000:
        raise ValueError(f"{size} weights are not tiny")
    torch.manual_seed(7)
    model = auto.from_config(made, trust_remote_code=False)
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.2)  # so that layers do something
        elif weight.dim() == 1:
            weight.data.add_(0.1 * torch.randn_like(weight))  # so that norms and biases show
    model.name = kind
    model.eval().requires_grad_(False)(input_ids=torch.arange(5, 12)[None], use_cache=False)
    return model


def tokenizer(text: str) -> Any:
    """A byte tokenizer that has learnt the words of a text, with a token at each text's beginning.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator([text] * 4, trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"], special_tokens=["<|end|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|begin|>",
                                   eos_token="<|end|>")


def _causal() -> Any:
    """The families that transformers loads as text models, with their classes' names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _configuration(kind: str) -> Any:
    """A family's configuration with small sizes; only of its text part, unless `WHOLE` has it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    whole = CONFIG_MAPPING[kind]()
    text = type(whole.get_text_config())
    given = _small(text)
    if kind not in WHOLE:
        return text(**given)
    given["model_type"] = text.model_type
    marks = sorted(name for name in _names(whole) if name.endswith(("_token_id", "_token_index")))
    tokens = {name: 390 + i for i, name in enumerate(marks)}  # where an image stands in a text
    return type(whole)(text_config=given, **WHOLE[kind], **tokens)


def _small(config: type) -> dict[str, Any]:
    """The arguments for a family's configuration."""
    made: Any = config()
    names = _names(made)
    given = {name: value for name, value in (SIZES | ODD).items() if name in names}
    for name, other in getattr(config, "attribute_map", {}).items():
        if name in SIZES:
            given.pop(name, None)
            given[other] = SIZES[name]
    if "kv_lora_rank" in names:  # latent attention: a key for each head, rotated in part
        given |= dict(num_key_value_heads=4) | (dict(head_dim=4) if "head_dim" in names else {})
    return given | OWN.get(made.model_type, {})


def _names(config: Any) -> set[str]:
    """The arguments that a configuration accepts."""
    return {*inspect.signature(config.__init__).parameters, *vars(config)}
