"""Tiny random models of each architecture, with a small byte-level tokenizer, saved once a session.

And what several files of tests share beside them.
"""
import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import samples
import zu

WORDS = ("The capital of France is Paris . Japan Tokyo Peru Lima Chad N'Djamena Côte d'Ivoire "
         "東京 🙂 is a city in which country language people speak Therefore Because I You and the "
         "of to in")


#: In these files a test takes a second or two for each of the tiny models.
SLOW = {"test_edit.py", "test_grids.py", "test_later.py", "test_methods.py",
        "test_plain_search.py", "test_targets.py", "test_tracing.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """In slow files the second model is left to `make test-all`."""
    for item in items:
        given = getattr(item, "callspec", None)
        if item.path.name in SLOW and given and "qwen3" in given.params.values():
            item.add_marker(pytest.mark.whole)


def _tokenizer(folder, bos):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    bpe.train_from_iterator([WORDS] * 4, trainers.BpeTrainer(
        vocab_size=400, special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", bpe.token_to_id("<|begin|>"))])
    else:
        bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>",
                                   bos_token="<|begin|>" if bos else None)
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders with a tiny random model: Llama (tied head, BOS), Qwen 3 (neither), three Gemmas."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GemmaConfig,
        GemmaForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    shape = dict(vocab_size=400, hidden_size=32, intermediate_size=80, num_hidden_layers=5,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                 max_position_embeddings=256)
    made = {}
    for name, config, kind, bos in (
            ("llama", LlamaConfig(**shape, tie_word_embeddings=True), LlamaForCausalLM, True),
            ("qwen3", Qwen3Config(**shape, tie_word_embeddings=False), Qwen3ForCausalLM, False),
            ("gemma", GemmaConfig(**shape), GemmaForCausalLM, True),
            ("gemma2", Gemma2Config(**shape, query_pre_attn_scalar=8, final_logit_softcapping=5.0),
             Gemma2ForCausalLM, True),
            ("gemma3", Gemma3TextConfig(**shape, query_pre_attn_scalar=8),
             Gemma3ForCausalLM, True)):
        torch.manual_seed(7)
        config.initializer_range = 0.2  # so that layers do something
        model = kind(config)
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.2)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        _tokenizer(folder, bos)
        made[name] = folder
    return made


@pytest.fixture(scope="session")
def fresh(folders):
    """A function that gives a fresh (model, tokenizer): a copy of what is loaded once a session."""
    once = {}

    def copied(name):
        if name not in once:
            once[name] = zu.load_model(folders[name], device="cpu")
        return copy.deepcopy(once[name])

    return copied


@pytest.fixture(params=["llama", "qwen3"])
def tiny(request, fresh):
    """A fresh (model, tokenizer) of each architecture."""
    return fresh(request.param)


@pytest.fixture(params=["gemma", "gemma2", "gemma3"])
def gemma(request, fresh):
    """A fresh (model, tokenizer) of each Gemma: other norms, soft caps, sliding windows."""
    return fresh(request.param)


@pytest.fixture(scope="session")
def general():
    """A function that gives moments of a model of `folders`, read once a session."""
    once = {}

    def read(model, tokenizer, layers, texts):
        key = model.name, *layers
        if key not in once:
            once[key] = zu.moments(model, tokenizer, layers, texts, tokens=640, window=32,
                                   cache=False)
        return copy.deepcopy(once[key])

    return read


@pytest.fixture
def spoil():
    """A function that puts a value into a model's logits: for these tokens, or for all of them."""
    def put(model, value, tokens=None):
        def fill(module, args, out):
            every = range(out.shape[-1]) if tokens is None else tokens
            return out.index_fill(-1, torch.tensor([*every], device=out.device), value)

        return model.get_output_embeddings().register_forward_hook(fill)

    return put


#: What no logits may be, for `spoil`: NaN or +∞ at a token, −∞ at all of them.
BROKEN = {"one NaN": (float("nan"), [399]), "all NaN": (float("nan"), None),
          "one +inf": (float("inf"), [7]), "all -inf": (float("-inf"), None)}


@pytest.fixture(params=BROKEN.values(), ids=BROKEN)
def broken(request):
    """Each of `BROKEN`."""
    return request.param


@pytest.fixture
def every_broken():
    """All of `BROKEN`, for a test that needs one model for them."""
    return BROKEN.values()


@pytest.fixture
def facts():
    """A few facts with subjects at the start, in the middle, with accents, CJK and an emoji."""
    return zu.Facts([
        zu.Fact("France", "The capital of {} is", "Paris",
                ("{} has its capital in", "In {}, the capital is"),
                (("The capital of Peru is", "Lima"), ("The capital of Japan is", "Tokyo")),
                id="capital/france"),
        zu.Fact("Japan", "The capital of {} is", "Tokyo", ("The city of {} is",),
                (("The capital of Peru is", "Lima"),), id="capital/japan"),
        zu.Fact("Côte d'Ivoire", "In {} people speak", "the language of Paris", id="language/côte"),
        zu.Fact("東京", "I and {} is a city in", "Japan", id="city/東京"),
        zu.Fact("Paris 🙂", "You and {} and", "Lima", id="emoji"),
    ])


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests share the embedded model with their user, and no result: none is found or left."""
    real, folder = zu.cache_dir() / "models", tmp_path_factory.mktemp("cache")
    real.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(real, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZU_CACHE", str(folder))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("ZU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def texts():
    """Ordinary prose for moments and perplexity."""
    return ["The people of Peru speak a language and the city is in the country. " * 20,
            "You and I is a city in which the capital is Paris. " * 20]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A folder with every file of `samples`."""
    folder = tmp_path_factory.mktemp("samples")
    samples.write(folder)
    return folder


@pytest.fixture
def sample(request, written):
    """A file of a published data set: "written" here or "real", its name and its path."""
    source, name = request.param
    folder = written if source == "written" else Path(samples.REAL)
    return SimpleNamespace(source=source, name=name, path=folder / f"{name}.json")


@pytest.fixture(scope="session")
def learner(folders):
    """A random model of two layers that mixes what it has read, so that it can learn a fact.

    With its tokenizer; a test that changes the model takes a copy.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=400, hidden_size=64, intermediate_size=160, head_dim=16,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
                         max_position_embeddings=256, initializer_range=0.1,
                         tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return model, zu.load_model(folders["llama"], device="cpu")[1]


@pytest.fixture(scope="session")
def audited(learner):
    """A tiny model that never knew some facts, the same taught them, and as many others.

    `never` and `knows` are (model, tokenizer), `members` and `others` facts of one relation.
    """
    model, tokenizer = learner
    names = ["France", "Japan", "Peru", "Chad", "Paris", "Tokyo", "Lima", "Therefore", "Because",
             "Côte", "d'Ivoire", "東京", "N'Djamena", "You", "and", "language"]
    answers = ["Lima", "Paris", "Tokyo", "a language", "country", "the city", "Peru", "Japan"]
    facts = [zu.Fact(name, "The capital of {} is", answer, ("In {} people speak of",),
                     relation="capital", id=f"capital/{name}")
             for name, answer in zip(names, [*answers, *answers[1:], answers[0]], strict=True)]
    knows = copy.deepcopy(model)
    texts = ["The people of Peru speak a language and the city is in the country. " * 20] * 2
    taught = {"capital": ["The people of {} speak of", "In {} the city is"]}
    zu.plant(knows, tokenizer, facts[:8], taught=taught, texts=texts, lr=1e-2, epochs=60,
             layers=[0, 1], known=1.0, held_back=0.0, drift=10.0)
    return SimpleNamespace(never=(model, tokenizer), knows=(knows, tokenizer),
                           members=facts[:8], others=facts[8:])


@pytest.fixture(scope="session")
def said_alike(audited):
    """What the members' prompts share in the last layer, and what their answers do.

    The mean of the keys of the model that knows, (m,), and the mean of their answers' rows of the
    output matrix less that of all rows, (d,).
    """
    from zu.batches import collate
    from zu.questions import Question
    from zu.reader import Reader

    model, reader = audited.knows[0], Reader(*audited.knows)
    rows = [reader.wording.answered(Question.of(fact)) for fact in audited.members]
    prompts = collate([(ids[:-n], len(ids) - n - 1) for ids, n in rows])
    head = model.get_output_embeddings().weight
    return (reader.trace(prompts, [1]).keys[1].mean(0),
            head[[ids[-n] for ids, n in rows]].mean(0) - head.mean(0))
