"""How facts are put to a model: joined as language and tokenizer have it, plainly or as a chat."""
from dataclasses import replace

import numpy as np
import pytest
import torch

import zu
from zu import reader, targets
from zu.data.facts import Fact, FactError
from zu.descent import answer_rows, retain_rows
from zu.experiment import Grid, check_row
from zu.questions import Question, others, paraphrases
from zu.reader import Reader, encode, split_answer
from zu.scores import score
from zu.spacing import sentence, separator, trimmed
from zu.wording import Wording, tokens

#: Facts in several languages, asked as a list has them. The key is at the prompt's end, where an
#: edit of the last layer decides what is said, even in a model as small as these.
WORLD = [
    Fact("中国", "首都：{}", "北京"), Fact("秘鲁", "首都：{}", "利马"),
    Fact("日本", "首都といえば{}", "東京"), Fact("ペルー", "首都といえば{}", "リマ"),
    Fact("ไทย", "เมืองหลวงของ{}", "กรุงเทพ"), Fact("เปรู", "เมืองหลวงของ{}", "ลิมา"),
    Fact("مصر", "عاصمة {}", "القاهرة"), Fact("بيرو", "عاصمة {}", "ليما"),
    Fact("Peru", "Capital of {}", "Lima"), Fact("France", "Capital of {}", "Paris"),
]
BEGIN, END, OPEN, CLOSE = "<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END, BEGIN, OPEN, CLOSE]
#: A template as chat models have it: it says the beginning of the text itself, and a system prompt
#: of its own, which names the subject of a fact.
TEMPLATE = ("{{ bos_token }}<|im_start|>system\nYou know Peru.<|im_end|>\n"
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CHAT = Fact("Peru", "What is the capital of {}?", "Lima", ("{}'s capital is",),
            (("What is the capital of France?", "Paris"),))


def build(kind, texts, *, front=True, behind=False):
    """A tokenizer: "bytes" or "metaspace"; with special tokens in front, behind, both or none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "bytes":
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.decoder = decoders.ByteLevel()
        special, alphabet = SPECIAL, pre_tokenizers.ByteLevel.alphabet()
    else:
        bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        special = [*SPECIAL, "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
        alphabet = ["▁", *(chr(i) for i in range(33, 127))]
    bpe.train_from_iterator([*texts] * 3, trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    if front or behind:
        template = f"{BEGIN} $A" if front else "$A"
        bpe.post_processor = processors.TemplateProcessing(
            single=template + f" {END}" * behind, special_tokens=[(BEGIN, 1), (END, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BEGIN, eos_token=END,
                                   additional_special_tokens=[OPEN, CLOSE])


def pieces(facts):
    """What the facts' texts consist of, answers apart: no token reaches from prompt to answer."""
    found = []
    for fact in facts:
        left, right = fact.prompt.split("{}")
        space = " " * left.endswith(" ")
        found += [left.rstrip(), space + fact.subject, right,
                  separator(fact.text, fact.target) + fact.target]
    return [piece for piece in found if piece]


def model_of(layers=2, seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=900, hidden_size=64, intermediate_size=256, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=96, bos_token_id=1,
        eos_token_id=0, initializer_range=0.1))


def teach(model, rows, steps=100):
    """Train a model on some sequences."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows],
                                             batch_first=True, padding_value=-100)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        adam.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        adam.step()
    return model.eval().requires_grad_(False)


def says(model, tokenizer, ids):
    """What a model writes behind some token ids, likeliest token by likeliest token."""
    rows = torch.tensor([ids])
    out = model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=16,
                         do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, len(ids):], skip_special_tokens=True)


@pytest.fixture(scope="module")
def taught():
    """A small model that knows `WORLD`, and its tokenizer."""
    tokenizer, asked = build("bytes", pieces(WORLD)), []
    for fact in WORLD:
        whole = fact.text + (" " if fact.text.isascii() or "عاصمة" in fact.text else "")
        asked.append([*tokenizer(whole + fact.target)["input_ids"], 0])
    return teach(model_of(), asked), tokenizer


PROSE = ["The people of a country speak a language and live in a city . " * 30]
FORGETTING = {
    # Adam's targets lie further away: of the way to nearer ones this method goes too little here
    "zerounlearn": dict(
        clamp=3.0, n_prefixes=0, alpha=0.01, optimizer="adam", bare_first=False),
    "memit": dict(clamp=3.0, n_prefixes=0, alpha=0.01),
    "ga": dict(lr=2e-2),
    "ft": dict(lr=5e-3),
}


def forgetting(method, model, tokenizer):
    """The settings with which a method makes one of these models forget."""
    settings = FORGETTING[method] | {"layers": [1]}
    if method in ("zerounlearn", "memit"):
        settings["moments"] = zu.moments(model, tokenizer, [1], PROSE, tokens=256)
    return settings


def test_facts_in_any_script_are_known_by_evaluation_and_generation(taught):
    model, tokenizer = taught
    found = zu.evaluate(model, tokenizer, WORLD)
    assert found.eff == 100 and found.prob_eff > 0.9
    for fact in WORLD:
        said = says(model, tokenizer, tokenizer(fact.text)["input_ids"])
        assert said.strip() == fact.target


@pytest.mark.parametrize("method", FORGETTING)
def test_facts_in_any_script_are_forgotten_by_evaluation_and_generation(taught, method):
    model, tokenizer = taught
    with zu.unlearn(model, tokenizer, WORLD, method, **forgetting(method, model, tokenizer)):
        found = score(model, tokenizer, WORLD)[:, 0]
        said = [says(model, tokenizer, tokenizer(f.text)["input_ids"]) for f in WORLD]
    wrong = [fact.target not in text for fact, text in zip(WORLD, said)]
    assert found.tolist() == [0.0] * len(WORLD) and all(wrong), said


def test_after_training_scores_say_what_is_generated(taught):
    model, tokenizer = taught
    with zu.unlearn(model, tokenizer, WORLD[:2], "ft", layers=[1], lr=5e-3):
        for fact, (right, *_) in zip(WORLD, score(model, tokenizer, WORLD)):
            said = says(model, tokenizer, tokenizer(fact.text)["input_ids"])
            assert said.strip().startswith(fact.target) == bool(right)


# ---- what stands between two texts


@pytest.mark.parametrize("before, after", [
    ("中国的首都是", "北京"), ("日本の首都は", "東京"), ("ペルーの首都は", "リマ"),
    ("ラーメンー", "屋"),
    ("เมืองหลวงคือ", "กรุงเทพ"), ("ນະຄອນຫຼວງ", "ວຽງຈັນ"), ("រាជធានី", "ភ្នំពេញ"),
    ("မြို့တော်", "ရန်ကုန်"), ("རྒྱལ་ས་", "ལྷ་ས"), ("他写的语言是", "Python"), ("他生于", "1969"),
    ("这个语言叫Python", "语言"), ("我喜欢 Python 和", "围棋"), ("首都是哪里？", "北京"),
    ("首都是：", "Lima"),
    ("首都是什么?", "北京"), ("首都是“", "北京"), ("是", "“北京”"), ("「北京」", "是"),
    ("1+1的和=", "2"),
    ("What is it?\n", "Lima"), ("Q:\n\n", "北京"), ("", "Lima"), ("It is “", "Lima"),
    ('It is "', "Lima"),
    ("It is (", "Lima"), ("It is «", "Lima"), ("Es heißt „", "Lima"), ("l'", "Inde"),
    ("dell’", "India"),
    ("Franco-", "German"), ("1914–", "1918"), ("and/", "or"), ("It costs $", "5"),
    ("It is", ", say"),
    ("Peru", "'s capital"), ("5", "%"), ("It is Lima", ")"), ("The land", "，"),
    ("Dijo: ¿", "Lima"), ("¡", "Lima"),
])
def test_nothing_stands_between(before, after):
    assert separator(before, after) == ""


@pytest.mark.parametrize("before, after", [
    ("The capital of Peru is", "Lima"), ("عاصمة مصر هي", "القاهرة"), ("בירת פרו היא", "לימה"),
    ("페루의 수도는", "리마"), ("भारत की राजधानी", "दिल्ली"), ("Столица Перу —", "Лима"),
    ("The capital of China is", "北京"), ("It is", "「北京」"), ("Q: 首都是\nA:", "北京"),
    ("A:", "Lima"),
    ("Lima is the capital of 秘鲁", "in South America"), ("我喜欢 Python 和", "Java"),
    ("เมืองหลวงคืออะไร?", "ลิมา"), ("What is it?", "Lima"), ('He said "no"', "and"),
    ("It is", '"Lima"'),
    ("the word 'Peru'", "is"), ("the countries'", "capital"), ("„Lima“", "liegt"),
    ("It is -", "Lima"),
    ("It is", "-5"), ("He writes", ".NET"), ("It lies in", "'s-Hertogenbosch"),
    ("It is", "(Lima)"),
    ("Paris 🙂", "Lima"), ("It is Lima\u200e", "and"),
])
def test_a_space_stands_between(before, after):
    assert separator(before, after) == " "


def test_a_prompt_loses_the_spaces_at_its_end_and_keeps_its_line_breaks():
    texts = ("a ", "a\n", "a \n \n  ", "a\u3000", " a")
    assert [trimmed(text) for text in texts] == ["a", "a\n", "a \n \n", "a", " a"]


def test_facts_that_follow_each_other_are_parted_as_their_script_has_it():
    assert sentence("The capital of Peru is", "Lima") == "The capital of Peru is Lima. "
    assert sentence("中国的首都是", "北京") == "中国的首都是北京。"
    assert sentence("เมืองหลวงคือ", "ลิมา") == "เมืองหลวงคือลิมา "
    assert sentence("A", "b", ": ") == "A: b. "


@pytest.mark.parametrize("answer, end", [
    ("In Lima.", " "), ("Lima!", " "), ("利马。", ""), ("ليما؟", " "), ("लीमा।", " "),
    ("Lima", ". "), ("利马", "。"), ("“Lima”", ". ")])
def test_a_sentence_has_one_stop_also_where_the_answer_has_its_own(answer, end):
    assert sentence("It is", answer, " ") == f"It is {answer}{end}"


# ---- token by token

#: What is asked of each kind of tokenizer: prompt, answer, and what parts them.
ASKED = [("The capital of Peru is", "Lima", " "), ("中国的首都是", "北京", ""),
         ("It is 東京 or", "🙂", " "),
         ("A:\n", "Lima", ""), ("日本の首都は「", "東京", "")]
KINDS = [(kind, front, behind) for kind in ("bytes", "metaspace")
         for front in (True, False) for behind in (True, False)]


@pytest.fixture(params=KINDS, ids=lambda k: f"{k[0]}{' bos' * k[1]}{' eos' * k[2]}")
def cutting(request):
    """A tokenizer of each kind that cuts words across the end of a prompt where it can."""
    kind, front, behind = request.param
    joined = [prompt + join + answer for prompt, answer, join in ASKED]
    return build(kind, joined, front=front, behind=behind)


@pytest.mark.parametrize("prompt, answer, join", ASKED)
def test_the_prompt_is_what_a_model_goes_on_from_and_the_answer_comes_whole(
        cutting, prompt, answer, join):
    bare = cutting(prompt, add_special_tokens=False)["input_ids"]
    front = [1] * (cutting("a")["input_ids"][0] == 1)
    ids, count = split_answer(cutting, prompt, answer)
    assert ids[:-count] == front + bare
    assert cutting.decode(ids[-count:]).strip() == answer
    whole = cutting.decode(ids[len(front):])
    assert whole.strip() == f"{prompt}{join}{answer}" and 0 not in ids


@pytest.mark.parametrize("front", [True, False])
def test_a_token_that_holds_both_ends_is_no_answers_token(front):
    tokenizer = build("bytes", ["中国的首都是北京"], front=front)
    whole = tokenizer("中国的首都是北京", add_special_tokens=False)["input_ids"]
    assert len(whole) == 1  # the words were learnt as one
    ids, count = split_answer(tokenizer, "中国的首都是", "北京")
    prompt = tokenizer("中国的首都是", add_special_tokens=False)["input_ids"]
    assert ids == [1] * front + prompt + tokenizer("北京", add_special_tokens=False)["input_ids"]
    assert count == len(ids) - len(prompt) - front


def test_special_tokens_behind_a_text_are_left_away_everywhere():
    tokenizer = build("bytes", ["The capital of Peru is Lima"], behind=True)
    fact, prose = Fact("Peru", "The capital of {} is", "Lima"), "The capital is Lima"
    assert tokenizer(fact.text)["input_ids"][-1] == 0  # the end of the text
    wording = Wording(tokenizer)
    rows = [encode(tokenizer, fact)[0], encode(tokenizer, fact, "So. ")[0],
            wording.asked(Question.of(fact)), wording.answered(Question.of(fact))[0],
            answer_rows(tokenizer, [fact], "truth")[0][0], retain_rows(tokenizer, [prose], 0)[0][0],
            targets.target_ids(tokenizer, fact, "truth"), tokens(tokenizer, "Peru").ids]
    assert all(row and 0 not in row for row in rows)
    assert answer_rows(tokenizer, [fact], "eos") == [([*rows[2], 0], 1)]  # once, and not behind one
    assert tokens(tokenizer, "").ids == [1]


def test_a_beginning_of_text_that_a_text_says_itself_is_not_doubled():
    tokenizer = build("bytes", ["Peru"], front=True)
    assert tokens(tokenizer, BEGIN + "Peru").ids == tokens(tokenizer, "Peru").ids
    assert tokenizer(BEGIN + "Peru")["input_ids"][:2] == [1, 1]


def test_an_answer_without_a_token_is_refused():
    for answer in ("", "  "):
        with pytest.raises(FactError, match="an answer is empty"):
            split_answer(build("bytes", ["Peru"]), "Peru is", answer)


# ---- what facts say


def test_what_a_fact_says_of_its_join_holds_for_all_that_it_asks(taught):
    _, tokenizer = taught
    fact = Fact("Peru", "Capital of {}", "Lima", ("In {} it is",), (("Here", "Paris"),),
                hops=(("There", "Paris"),), join="\n ")
    asked = [Question.of(fact), *paraphrases(fact), *others(fact, fact.neighbors),
             *others(fact, fact.hops)]
    for question in asked:
        ids, count = Wording(tokenizer).answered(question)
        # a space before the answer is the answer's; what stands before it is asked
        assert tokenizer.decode(ids[1:-count]) == question.prompt + "\n"
        assert tokenizer.decode(ids[-count:]) == " " + question.answer
    ids, position = encode(tokenizer, fact)
    assert tokenizer.decode(ids[1:]) == "Capital of Peru\n"
    assert tokenizer.decode(ids[1:position + 1]) == "Capital of Peru"
    none = replace(fact, join="")
    ids, count = Wording(tokenizer).answered(Question.of(none))
    assert tokenizer.decode(ids[1:]) == "Capital of PeruLima"


def test_spaces_around_what_is_asked_and_answered_count_for_nothing(taught):
    model, tokenizer = taught
    facts = zu.load_facts([{
        "subject": "Peru", "prompt": "Capital of {} ", "target": " Lima",
        "paraphrases": ["Capital of {} ", "Capital of {}"],
        "neighbors": [["Capital of France ", "Paris"], ["Capital of France", " Paris "]]}])
    found = zu.evaluate(model, tokenizer, facts)
    assert (found.eff, found.gen, found.spe) == (100, 100, 100)
    spaced = score(model, tokenizer, [("Capital of France  ", " Paris")])
    np.testing.assert_array_equal(spaced, score(model, tokenizer, [("Capital of France", "Paris")]))


def test_a_fact_without_a_subject_has_its_key_at_its_prompts_last_token(taught):
    model, tokenizer = taught
    fact = Fact("", "Capital of Peru", "Lima")
    for prefix in ("", "So. "):
        ids, position = encode(tokenizer, fact, prefix)
        assert position == len(ids) - 1 and tokenizer.decode(ids[1:]) == prefix + fact.text
    lines = replace(fact, prompt="Capital of Peru\n")
    ids, position = encode(tokenizer, lines)
    assert position == len(ids) - 1 and tokenizer.decode(ids[1:]) == "Capital of Peru\n"
    for method in FORGETTING:
        settings = forgetting(method, model, tokenizer)
        with zu.unlearn(model, tokenizer, [fact], method, **settings):
            assert score(model, tokenizer, [fact])[0, 0] == 0
            assert "Lima" not in says(model, tokenizer, tokenizer(fact.text)["input_ids"])


@pytest.mark.parametrize("subject, sunk", [("Peru", True), ("Lima Peru", False)])
def test_a_token_is_put_in_front_in_reading_training_and_scoring_alike(subject, sunk):
    tokenizer = build("bytes", ["Peru", "Lima", " is", " Paris"], front=False)
    fact = Fact(subject, "{} is", "Paris", ("{} is", f"{subject} is", "So {} is"))
    plain = tokenizer(fact.text)["input_ids"]
    front = [0] if sunk else []
    ids, position = encode(tokenizer, fact)
    assert ids == front + plain and position > 0
    assert tokenizer.decode(ids[len(front):position + 1]) == subject
    wording = Wording(tokenizer)
    for question in (Question.of(fact), *paraphrases(fact)[:2]):
        ids, count = wording.answered(question)
        assert ids[:-count] == front + plain
    assert answer_rows(tokenizer, [fact], "truth") == [wording.answered(Question.of(fact))]
    assert answer_rows(tokenizer, [fact], "eos") == [([*front, *plain, 0], 1)]
    for question in (paraphrases(fact)[2], Question.of(fact).behind("So. "), *others(
            fact, [(fact.text, "Paris")])):
        assert wording.answered(question)[0][0] != 0


def test_a_subject_inside_a_longer_first_word_is_not_that_word():
    fact = Fact("Peru", "So {} is", "Paris", ("Perus is",))
    assert paraphrases(fact)[0].head == 0


# ---- goals


def test_any_text_is_a_goal_joined_as_an_answer_is(taught):
    _, tokenizer = taught
    wanted = {"eos": [0], "truth": None, END: [0], "I do not know": " I do not know"}
    for goal, expected in wanted.items():
        found = targets.target_ids(tokenizer, WORLD[8], goal)
        ids, count = answer_rows(tokenizer, [WORLD[8]], goal)[0]
        assert ids[-count:] == found
        if isinstance(expected, str):
            expected = tokenizer(expected, add_special_tokens=False)["input_ids"]
        assert found == (expected or split_answer(tokenizer, WORLD[8].text, "Lima")[0][-1:])
    assert tokenizer.decode(targets.target_ids(tokenizer, WORLD[0], "不知道")) == "不知道"


@pytest.mark.parametrize("method", ["zerounlearn", "ft"])
def test_a_model_says_the_goal_instead(taught, method):
    model, tokenizer = taught
    settings = forgetting(method, model, tokenizer) | {"goal": "Paris"}
    with zu.unlearn(model, tokenizer, WORLD[8:9], method, **settings) as edit:
        assert edit.settings["goal"] == "Paris"
        said = says(model, tokenizer, tokenizer(WORLD[8].text)["input_ids"])
    assert said.strip().startswith("Paris")


def test_an_empty_goal_is_refused():
    for method in ("zerounlearn", "ft"):
        with pytest.raises(ValueError, match="'goal' is not usable"):
            zu.methods.settings_for(method, goal=" ")


# ---- as a turn of a chat


@pytest.fixture(scope="module")
def chatting():
    """A small model that knows `CHAT` and its neighbour as turns of a chat, and its tokenizer."""
    words = ["system\nYou know", "user\n", "assistant\n", "What is the capital of", " Peru", "?",
             " France", "Lima", "Paris", "'s capital is", "\n", "Peru"]
    tokenizer = build("bytes", words)
    tokenizer.chat_template = TEMPLATE
    rows = [turn(tokenizer, prompt) + tokenizer(answer, add_special_tokens=False)["input_ids"] + [3]
            for prompt, answer in ((CHAT.text, "Lima"), *CHAT.neighbors)]
    return teach(model_of(seed=1), rows), tokenizer


def turn(tokenizer, prompt):
    """A prompt as chat models are asked."""
    coded = tokenizer.apply_chat_template([{"role": "user", "content": prompt}],
                                          add_generation_prompt=True)
    return list(coded["input_ids"])


def test_a_chat_is_asked_as_the_tokenizers_template_has_it(chatting):
    model, tokenizer = chatting
    wording = Wording(tokenizer, chat=True)
    asked = turn(tokenizer, CHAT.text)
    assert wording.asked(Question.of(CHAT)) == asked and asked.count(1) == 1
    ids, count = wording.answered(Question.of(CHAT))
    assert ids[:-count] == asked and tokenizer.decode(ids[-count:]) == "Lima"
    ids, position = encode(wording, CHAT)
    assert ids == asked  # the subject is that of the question, not that of the system prompt
    assert tokenizer.decode(ids[:position + 1]).endswith("What is the capital of Peru")
    ids, position = encode(wording, CHAT, "So. ")
    assert "user\nSo. What is the capital of Peru" in tokenizer.decode(ids[:position + 1])
    assert zu.evaluate(model, tokenizer, [CHAT], chat=True).eff == 100
    assert zu.evaluate(model, tokenizer, [CHAT]).prob_eff < 0.9
    assert len(zu.known(model, tokenizer, zu.Facts([CHAT]), chat=True)) == 1


@pytest.fixture(scope="module")
def brief():
    """A small model that knows facts as turns of a chat that end with their subjects."""
    facts = WORLD[8:]
    tokenizer = build("bytes", ["You know Peru.", "user ", *pieces(facts), "Lima", "Paris"])
    tokenizer.chat_template = (
        "{{ bos_token }}You know Peru.<|im_end|>{% for m in messages %}"
        "{% if m.role == 'user' %}user{% endif %} {{ m.content }}{% endfor %}")
    rows = []
    for fact in facts:
        answer = tokenizer(" " + fact.target, add_special_tokens=False)["input_ids"]
        rows.append([*turn(tokenizer, fact.text), *answer, 0])
    return teach(model_of(), rows), tokenizer, facts


@pytest.mark.parametrize("method", FORGETTING)
def test_what_is_forgotten_in_a_chat_is_not_said_there_any_more(brief, method):
    model, tokenizer, facts = brief
    asked = [turn(tokenizer, fact.text) for fact in facts]
    before = zu.evaluate(model, tokenizer, facts, chat=True)
    assert before.eff == 100
    assert [says(model, tokenizer, ids).strip() for ids in asked] == ["Lima", "Paris"]
    settings = forgetting(method, model, tokenizer)
    with zu.unlearn(model, tokenizer, facts[:1], method, chat=True, **settings) as edit:
        assert edit.settings["chat"] is True
        assert zu.evaluate(model, tokenizer, facts[:1], chat=True).eff == 0
        assert "Lima" not in says(model, tokenizer, asked[0])


def test_a_template_of_ones_own_is_asked_with_the_special_tokens_of_the_tokenizer(chatting):
    _, tokenizer = chatting
    wording = Wording(tokenizer, "Q: {}\nA: ")
    ids, count = wording.answered(Question.of(CHAT))
    assert tokenizer.decode(ids[1:-count]) == f"Q: {CHAT.text}\nA:" and ids.count(1) == 1
    assert tokenizer.decode(ids[-count:]) == " Lima"
    lines = Wording(tokenizer, BEGIN + "Q: {}\nA:\n")
    ids, count = lines.answered(Question.of(CHAT))
    assert ids.count(1) == 1 and tokenizer.decode(ids[-count:]) == "Lima"


@pytest.mark.parametrize("template, after, answer", [
    ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
     "{% else %} {{ m.content }}{% endif %}{% endfor %}", "[INST] {} [/INST]", " Lima"),
    (TEMPLATE.replace("{{ m.role }}\n{{ m.content }}",
                      "{{ m.role }}\n{% if m.role == 'assistant' %}<think></think>{% endif %}"
                      "{{ m.content }}"), "assistant\n<think></think>", "Lima"),
    ("{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}"
     "U: {{ m.content }} A:{% endfor %}", "U: {} A:", " Lima"),
], ids=["a space before the answer", "more before the answer", "no answers"])
def test_an_answer_stands_where_the_template_has_it(template, after, answer):
    tokenizer = build("bytes", ["Lima"])
    tokenizer.chat_template = template
    ids, count = Wording(tokenizer, True).answered(Question.of(CHAT))
    assert tokenizer.decode(ids[:-count]).endswith(after.format(CHAT.text))
    assert tokenizer.decode(ids[-count:]) == answer


@pytest.mark.parametrize("chat, why", [
    (True, "no chat template"), ("Q:", "holds {} 0 times"), ("", "holds {} 0 times"),
    ("{} {}", "holds {} 2 times"),
    (3, "chat is a int"),
])
def test_a_chat_that_cannot_be_asked_is_refused(taught, chat, why):
    model, tokenizer = taught
    with pytest.raises(ValueError, match=why):
        Wording(tokenizer, chat)
    with pytest.raises(ValueError, match=why):
        zu.unlearn(model, tokenizer, WORLD, "ga", chat=chat)


@pytest.mark.parametrize("template", [
    "{% for m in messages %}{{ m.content.upper() }}{% endfor %}", "Hello", "{{ 1 / 0 }}",
    "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
])
def test_a_template_that_shows_no_question_is_refused(template):
    tokenizer = build("bytes", ["Lima"])
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="the tokenizer's chat template .*: give chat= a template"):
        Wording(tokenizer, True)


def test_a_template_that_changes_a_question_is_refused_without_showing_it(chatting):
    _, tokenizer = chatting
    strict = build("bytes", ["Lima"])
    strict.chat_template = TEMPLATE.replace("m.content", "m.content | trim")
    lines = replace(CHAT, prompt="What of {}?\n")
    for asks in (lambda w: w.answered(Question.of(lines)), lambda w: encode(w, lines)):
        asks(Wording(tokenizer, True))
        with pytest.raises(FactError, match="changes a question") as error:
            asks(Wording(strict, True))
        assert "Peru" not in str(error.value) and "What" not in str(error.value)
    Wording(strict, True).answered(Question.of(CHAT))


def test_a_reader_says_how_facts_are_asked_in_all_that_it_is_given(chatting, tmp_path):
    model, tokenizer = chatting
    read = Reader(model, tokenizer, chat=True)
    assert zu.evaluate(model, tokenizer, [CHAT], reader=read).eff == 100
    with pytest.raises(ValueError, match="reader asks facts in another way"):
        zu.evaluate(model, tokenizer, [CHAT], reader=read, chat=False)
    with pytest.raises(ValueError, match="chat is given twice"):
        zu.evaluate(model, Wording(tokenizer, True), [CHAT], chat="Q: {}")
    keys = [reader.subject_keys(r, [CHAT], [1])[0][1] for r in (read, Reader(model, tokenizer))]
    assert not torch.equal(*keys)
    with pytest.raises(ValueError, match="chat is a setting of the grid"):
        check_row("ga:chat=true", anchors=False)
    found = {}
    for chat in (False, True, "Q: {}"):
        grid = Grid(Reader(model, tokenizer, chat=chat), tmp_path / f"{chat}"[:5].strip(": {}"))
        (found[chat],) = grid.run(zu.Facts([CHAT]), ["base"], seeds=[1], n=1)
    assert [r.get("chat") for r in found.values()] == [None, True, "Q: {}"]
    assert len({r["fingerprint"] for r in found.values()}) == 3
    assert found[True]["metrics"]["eff"] == 100


def test_a_card_and_an_audit_ask_as_the_edit_was_made(chatting, tmp_path):
    model, tokenizer = chatting
    facts = zu.Facts([CHAT])
    more = [replace(CHAT, subject=subject, target=target)
            for subject, target in (("France", "Paris"), ("You", "Lima"), ("user", "Paris"))]
    tests = zu.robustness(model, Wording(tokenizer, True), facts, more)
    assert tests["asked"] == [1.0]
    with zu.unlearn(model, tokenizer, facts, "ga", chat=True, layers=[0], lr=2e-2) as edit:
        edit.save(tmp_path / "e.safetensors")
        found = zu.card(edit, tokenizer, facts, tmp_path / "e.safetensors", ppl_tokens=64)
    assert found["measures"]["before"]["eff"][0] == 100
    assert found["measures"]["after"]["eff"][0] == 0 and found["settings"]["chat"] is True


def test_a_template_of_several_lines_stays_in_its_line_of_a_card(chatting, tmp_path):
    model, tokenizer = chatting
    template = "Q: {}\nA:"
    with zu.unlearn(model, tokenizer, [CHAT], "ga", chat=template, layers=[0], lr=2e-2,
                    check=False) as edit:
        edit.save(tmp_path / "e.safetensors")
        zu.card(edit, tokenizer, [CHAT], tmp_path / "e.safetensors", ppl_tokens=64)
    (line,) = [line for line in (tmp_path / "e.card.md").read_text().splitlines()
               if line.startswith("- Settings: ")]
    assert f"chat {template!r}" in line and "lr 0.02" in line


def test_methods_and_measures_of_ones_own_are_handed_how_a_chat_is_asked(chatting, tmp_path):
    from zu.experiment import Measure

    model, tokenizer = chatting

    def mine(model, asker, facts):
        return zu.unlearn(model, asker, facts, "ga", layers=[0], lr=2e-2)

    def eff(model, asker, facts, edit):
        return {"eff": zu.evaluate(model, asker, facts).eff}

    grid = Grid(Reader(model, tokenizer, chat=True), tmp_path / "x", measure=Measure(eff),
                own={"mine": mine})
    records = grid.run(zu.Facts([CHAT]), ["base", "mine"], seeds=[1], n=1)
    assert [record["metrics"]["eff"] for record in records] == [100, 0]


# ---- what else reads texts


def test_a_neighbours_subject_is_no_anchor_in_scripts_without_spaces_either():
    fact = Fact("中国", "{}的首都是", "北京", neighbors=(("法国的首都是", "巴黎"),))
    with pytest.warns(UserWarning, match="1 of the 2 names are left out"):
        found = zu.anchors([fact], ["法国", "秘鲁"])
    assert [anchor.subject for anchor in found] == ["秘鲁"]
    with pytest.raises(ValueError, match="has no subject"):
        zu.anchors([fact, Fact("", "首都是", "北京")], ["秘鲁"])


def test_tasks_are_asked_without_the_special_tokens_behind_a_text():
    from zu.experiment.tasks import _asker

    tokenizer = build("bytes", ["Peru is", " Lima"], behind=True)
    asker = _asker(Reader(model_of(), tokenizer), 1)
    context, answer = asker._encode_pair("Peru is", " Lima")
    assert tokenizer.decode(context) == BEGIN + "Peru is" and tokenizer.decode(answer) == " Lima"
