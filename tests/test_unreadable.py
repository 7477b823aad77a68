"""What a tokenizer does not know and a model cannot read is refused, and never scored."""
import re

import pytest
import torch

import zu
from zu.data.facts import Fact, FactError
from zu.questions import Question
from zu.wording import Wording, encode

TEXT = "The capital of Peru is Lima . Chad has N'Djamena . In Japan people speak Japanese"


def build(model, pre_tokenizer=None, *, unknown="<unk>"):
    """A tokenizer without bytes to fall back on: "words", "unigram" or "pieces"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<end>", "<begin>", "<unk>"]
    if model == "words":
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    elif model == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special,
                                          unk_token="<unk>", show_progress=False)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special,
                                            show_progress=False)
    made.train_from_iterator([TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", bos_token="<begin>",
                                   unk_token=unknown)


def small(vocabulary=300, context=64):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=64,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=context)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.name = "small"
    return model


KNOWN = Fact("Peru", "The capital of {} is", "Lima", id="known")
#: Each with a question whose answer the tokenizers do not know, or know in part.
UNKNOWN = {
    "prompt and target": Fact("Peru", "The capital of {} is", "利马", id="other"),
    "paraphrases": Fact("Peru", "The capital of {} is", "Lima 利马", ("{} has",), id="other"),
    "neighbors": Fact("Peru", "The capital of {} is", "Lima", (), (("Chad has", "恩贾"),),
                      id="other"),
    "hop": Fact("Peru", "The capital of {} is", "Lima", hops=(("Chad has", "Ж"),), id="other"),
}


@pytest.mark.parametrize("kind", ["words", "unigram", "pieces"])
@pytest.mark.parametrize("field", list(UNKNOWN))
def test_an_answer_that_the_tokenizer_does_not_know_is_refused_with_its_place(kind, field):
    tokenizer, model = build(kind), small()
    with pytest.raises(FactError, match="holds what the tokenizer does not know") as caught:
        zu.evaluate(model, tokenizer, [KNOWN, UNKNOWN[field]])
    place = "prompt and target" if field == "paraphrases" else field
    assert f"fact 2 of 2 (id 'other'), {place}" in str(caught.value)
    assert not re.search("利|恩|Ж|Chad|Lima", str(caught.value))
    assert zu.evaluate(model, tokenizer, [KNOWN]).n_eff == 1


@pytest.mark.parametrize("kind", ["words", "unigram", "pieces"])
@pytest.mark.parametrize("method", ["ga", "memit"])
def test_no_edit_is_made_of_what_the_tokenizer_does_not_know(kind, method):
    tokenizer, model = build(kind), small()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fact = UNKNOWN["prompt and target"]
    if method == "memit":
        fact = Fact("秘鲁", "The capital of {} is", "Lima")
    with pytest.raises(FactError, match="tokenizer does not know"):
        zu.unlearn(model, tokenizer, [fact], method, check=False, layers=[1])
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("kind", ["words", "unigram", "pieces"])
def test_a_subject_that_ends_in_what_the_tokenizer_does_not_know_has_no_key(kind):
    tokenizer = build(kind)
    for fact in (Fact("秘鲁", "The capital of {} is", "Lima"),
                 Fact("", "The capital of 秘鲁", "Lima")):
        with pytest.raises(FactError, match="ends in what the tokenizer does not know") as caught:
            encode(tokenizer, fact)
        assert "秘" not in str(caught.value)
    # elsewhere in the prompt it may stand, as every tokenizer has it
    assert encode(tokenizer, Fact("Peru", "The 首都 of {} is", "Lima"))[1] > 0


def test_the_token_for_the_unknown_may_be_written_out():
    tokenizer = build("words", unknown="<end>")
    ids, count = Wording(tokenizer).answered(Question("The capital of Peru is", "<end>"))
    assert ids[-count:] == [tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", ["words", "unigram", "pieces"])
@pytest.mark.parametrize("fact", [
    Fact("Peru", "{} is", "Lima"), Fact("Peru", "The capital of {} is", "Lima"),
    Fact("al", "The capit{} is", "Lima"), Fact("The", "{} capital", "Lima"),
    Fact("he", "T{} capital", "Lima"), Fact("", "The capital", "Lima"), Fact("", "The", "Lima")])
def test_a_question_begins_in_scoring_as_it_begins_in_aiming(kind, fact):
    wording = Wording(build(kind))
    assert wording.asked(Question.of(fact)) == encode(wording, fact)[0]


def test_a_question_that_is_longer_than_the_models_context_is_refused():
    tokenizer, model = build("words"), small(context=16)
    long = Fact("Peru", "capital of " * 20 + "{} is", "Lima")
    with pytest.raises(ValueError, match="43 tokens, more than the model's context of 16"):
        zu.evaluate(model, tokenizer, [KNOWN, long])
    assert zu.evaluate(model, tokenizer, [KNOWN]).n_eff == 1


def test_a_tokenizer_of_another_model_is_refused_where_its_tokens_are_not_the_models():
    tokenizer = build("words")
    with pytest.raises(ValueError, match="but the model has 5: give the model's own tokenizer"):
        zu.known(small(vocabulary=5), tokenizer, [KNOWN])


# ---- names of anchors


@pytest.mark.parametrize("source, told", [
    ("Chad", "source is one text"), ([None], "number 1 is a NoneType"), (["Chad", ""], "number 2"),
    (["Chad", "\u200b "], "number 2 is an empty text"), ([{"subject": "Chad"}], "is a dict")])
def test_a_source_of_anchors_that_holds_no_names_is_refused(source, told):
    with pytest.raises(ValueError, match=told) as caught:
        zu.anchors([KNOWN], source)
    assert "Chad" not in str(caught.value)


@pytest.mark.parametrize("per_prompt", [0, -1])
def test_less_than_one_anchor_a_prompt_is_refused(per_prompt):
    with pytest.raises(ValueError, match="give 1 or more"):
        zu.anchors([KNOWN], ["Chad", "Chile"], per_prompt=per_prompt)


def test_spaces_around_names_count_for_nothing():
    assert [fact.subject for fact in zu.anchors([KNOWN], [" Chad ", "Chad\u200b"])] == ["Chad"]


def test_names_with_accents_coded_otherwise_are_the_same_names():
    fact = Fact("Åland", "{} has", "x", (), (("Curaçao has", "y"),))
    with pytest.warns(UserWarning, match="2 of the 3 names are left out"):
        found = zu.anchors([fact], ["A\u030aland", "Curac\u0327ao", "Chad"])
    assert [fact.subject for fact in found] == ["Chad"]


def test_a_set_of_names_gives_the_same_anchors_in_every_run():
    names = {f"Town {i}" for i in range(40)}
    assert zu.anchors([KNOWN], names) == zu.anchors([KNOWN], sorted(names))
