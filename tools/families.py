"""Tiny random models of every decoder family that transformers has, with what is odd about each."""
import inspect
import math

import torch

import zu

#: Small sizes, by the names that configurations have for them.
SIZES = dict(
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
#: What a family does to its states and logits, set to numbers that show.
ODD = dict(
    residual_multiplier=0.22, logits_scaling=8.0, embedding_multiplier=2.0, logit_scale=0.0625,
    scale_depth=1.4, dim_model_base=16, scale_emb=12, lm_head_multiplier=0.1,
    final_logit_softcapping=5.0, mlp_multipliers=[0.5, 0.7])
#: Encoders, and decoders that need another model's states: no decoder-only language models.
OTHERS = set(
    "albert bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small blt "
    "camembert cpmant data2vec-text electra emu3 ernie git marian mbart megatron-bert mllama "
    "musicgen musicgen_melody mvp pegasus phi4_multimodal plbart prophetnet reformer rembert "
    "roberta roberta-prelayernorm roc_bert roformer trocr whisper xlm xlm-roberta xlm-roberta-xl "
    "xlnet xmod".split())


def kinds():
    """The names of all families."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in OTHERS]


def build(kind):
    """A tiny random model of a family that runs; an exception where it takes other sizes."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = type(CONFIG_MAPPING[kind]().get_text_config())
    names = _names(config)
    given = {name: value for name, value in (SIZES | ODD).items() if name in names}
    for name, other in getattr(config, "attribute_map", {}).items():
        if name in SIZES:
            given.pop(name, None)
            given[other] = SIZES[name]
    if "kv_lora_rank" in names:  # latent attention: a key for each head, rotated in part
        given |= dict(num_key_value_heads=4) | (dict(head_dim=4) if "head_dim" in names else {})
    made = config(**given)
    with torch.device("meta"):
        size = sum(x.numel() for x in AutoModelForCausalLM.from_config(made).parameters())
    if size > 5_000_000:
        raise ValueError(f"{size} weights are not tiny")
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(made)
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.2)  # so that layers do something
        elif weight.dim() == 1:
            weight.data.add_(0.1 * torch.randn_like(weight))  # so that norms and biases show
    model.name = kind
    model.eval().requires_grad_(False)(input_ids=torch.arange(5, 12)[None], use_cache=False)
    return model


def _names(config):
    """What a configuration can be given."""
    return {*inspect.signature(config.__init__).parameters, *vars(config())}


FACTS = [zu.Fact("France", "The capital of {} is", "Paris", id="a"),
         zu.Fact("Japan", "In {} people speak", "Tokyo", id="b")]


def logits_error(model, tokenizer, reader=None):
    """By how much a fact's probability differs from what the model itself says, relatively."""
    ids, n = zu.wording.split_answer(tokenizer, FACTS[0].text, FACTS[0].target)
    said = model(input_ids=torch.tensor([ids]), use_cache=False).logits.float().log_softmax(-1)
    own = said[0, :-1].gather(1, torch.tensor(ids)[1:, None])[-n:].sum().exp().item()
    pair = [(FACTS[0].text, FACTS[0].target)]
    return abs(zu.scores.score(model, tokenizer, pair, reader=reader)[0, 2] - own) / own


def reach(model, tokenizer, layer, method, **settings):
    """How much of its target an edit of one layer reaches, and how far it ends from it."""
    layout = zu.layout(model)
    normed = math.isnan(layout.scale(layer))
    aim = "value" if normed or method == "rome" else "hidden"
    facts = FACTS[:1] if method == "rome" else FACTS  # its second edit moves the first a little
    search = dict(n_prefixes=0, steps=6, aim=aim)
    targets = zu.find_targets(model, tokenizer, facts, layer, **search)
    moments = {layer: torch.eye(layout.matrix(layer).shape[1]).double()}
    with zu.unlearn(model, tokenizer, facts, method, layers=[layer], targets=targets,
                    moments=moments, n_prefixes=0, **settings):
        _, seen = zu.reader.subject_keys(zu.Reader(model, tokenizer), facts, [layer])
        got = (seen.values if aim == "value" else seen.hidden)[layer]
    wanted = targets.z - targets.h
    part = ((got - targets.h) * wanted).sum() / wanted.square().sum()
    return part.item(), ((got - targets.z).norm() / wanted.norm()).item()


#: Settings with which each method goes all the way to its targets.
WHOLE_WAY = {"memit": dict(alpha=1e-6), "rome": {},
             "zerounlearn": dict(alpha=1e-6, lam=1e-6, project=False)}
