"""Scores do not depend on how a tokenizer cuts prompts, numbers and several-token answers."""
import math

import numpy as np
import pytest
import torch

import zu
from zu.scores import score, split_answer

TEXT = ("The capital of France is Paris . In 1969 Peru had 13 cities and 42 rivers; Japan speaks "
        "Japanese , the language of Tokyo . What is the answer? It is N'Djamena or Côte d'Ivoire , "
        "東京 , 2024 .")
#: How each family splits text before merging, as their tokenizer.json files say: digits by up to
#: three, one by one, or any number with a metaspace; with or without a beginning-of-text token;
#: Qwen normalises to NFC.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KINDS = ("llama3", "qwen3", "smollm2", "llama2")


def build(kind):
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    byte_fallback = kind == "llama2"
    bpe = Tokenizer(models.BPE(byte_fallback=byte_fallback,
                               unk_token="<unk>" if byte_fallback else None,
                               fuse_unk=byte_fallback))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if kind in ("llama3", "qwen3"):
        pattern = LLAMA3 if kind == "llama3" else LLAMA3.replace("{1,3}", "")
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"),
             pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif kind == "smollm2":
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                                     pre_tokenizers.ByteLevel(False)])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        alphabet = sorted(set(TEXT.replace(" ", "▁")))
    if kind == "qwen3":
        bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.Metaspace() if kind == "llama2" else decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    if byte_fallback:
        special += ["<unk>"] + [f"<0x{i:02X}>" for i in range(256)]
    bpe.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    if kind in ("llama3", "llama2"):
        bpe.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", bpe.token_to_id("<|begin|>"))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", bos_token="<|begin|>")


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """A small random model, and a tokenizer of one kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
    return LlamaForCausalLM(config).eval().requires_grad_(False), build(request.param)


#: Several tokens; a number of several digits; an accent; no spaces between words; an apostrophe; a
#: digit and a comma.
FACTS = [("Peru", "The number of rivers in {} is", "42"),
         ("Japan", "In 1969 {} had", "2024 cities"),
         ("Peru", "{} speaks", "the language of Tokyo"),
         ("Chad", "The capital of {} is", "N'Djamena"),
         ("東京", "The answer? {} is", "東京"), ("Abidjan", "{} lies in", "Côte d'Ivoire"),
         ("France", "What is the capital of {}? It is", "1,969")]


def plain(model, tokenizer, prompt, answer):
    """Prompt and answer cut apart by their texts, then one position after the other."""
    whole = tokenizer(f"{prompt} {answer}")["input_ids"]
    start = next(i for i in range(len(whole) + 1) if len(
        tokenizer.decode(whole[:i], skip_special_tokens=True,
                         clean_up_tokenization_spaces=False)) > len(prompt)) - 1
    hits, value = [], 0.0
    for at in range(start, len(whole)):
        logp = model(torch.tensor([whole[:at]])).logits[0, -1].log_softmax(-1)
        hits.append(int(logp.argmax()) == whole[at])
        value += float(logp[whole[at]])
    return [float(all(hits)), float(np.mean(hits)), math.exp(value)]


def test_the_batch_scores_like_the_plain_path(pair):
    model, tokenizer = pair
    asked = [(prompt.replace("{}", subject), answer) for subject, prompt, answer in FACTS]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        for tokens in (1, 40, 4096):
            np.testing.assert_allclose(score(model, tokenizer, asked, tokens=tokens),
                                       [plain(model, tokenizer, *one) for one in asked], rtol=1e-5,
                                       atol=1e-12)


def test_a_model_that_says_the_answer_is_right_on_every_token(pair):
    model, tokenizer = pair
    for subject, prompt, answer in FACTS:
        ids, count = split_answer(tokenizer, prompt.replace("{}", subject), answer)
        said = tokenizer.decode(ids[-count:]).strip()
        assert said == answer and count < len(ids)

        class Says(torch.nn.Module):
            def forward(self, states, gold=ids):
                said = torch.tensor([gold[-states.shape[1]:]])  # (1, places), as states are
                return torch.nn.functional.one_hot(said, 1000).float() * 50

        head, model.lm_head = model.lm_head, Says()
        try:
            found = score(model, tokenizer, [(prompt.replace("{}", subject), answer)])
        finally:
            model.lm_head = head
        np.testing.assert_allclose(found, [[1, 1, 1]], rtol=1e-5)


def test_every_answer_keeps_its_digits_and_spaces(pair):
    model, tokenizer = pair
    facts = zu.Facts([zu.Fact(*fact) for fact in FACTS])
    counts = {answer: split_answer(tokenizer, "It is", answer)[1] for _, _, answer in FACTS}
    assert min(counts.values()) >= 1 and counts["2024 cities"] > 1
    both = [zu.evaluate(model, tokenizer, facts, rule=rule) for rule in ("exact", "tokens")]
    assert both[0].prob_eff == both[1].prob_eff and both[0].eff <= both[1].eff
