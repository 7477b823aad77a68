"""A scan of layers: what it tries, what it leaves of the model, what it refuses and keeps."""
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import zu
from zu import scanning
from zu.data.invented import subjects
from zu.edit import EditError
from zu.experiment import grids
from zu.scanning import Plan, scan_layers
from zu.scans import Scan, ScanError, ScanWarning, Window

PROMPTS = "The capital of {} is", "In {} people speak", "You and {} and"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def gpt2(folders, tmp_path_factory):
    """A folder with a tiny random GPT-2, whose projections are stored transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("gpt2")
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=400, n_embd=32, n_layer=5, n_head=4, n_positions=256, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0))
    model.save_pretrained(folder)
    zu.load_model(folders["qwen3"], device="cpu")[1].save_pretrained(folder)
    return folder


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def family(request, fresh, gpt2):
    """A fresh (model, tokenizer) of each of three families, read from a folder."""
    if request.param == "gpt2":
        return zu.load_model(gpt2, device="cpu")
    return fresh(request.param)


def said(model, tokenizer, prompt):
    """What a model says first, where it is a word."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    word = tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax())
    return word.strip() if word.startswith(" ") and word.strip().isalpha() else ""


def known_to(model, tokenizer, count=8):
    """Facts that a random model answers, with paraphrases and neighbours that it may answer."""
    found = []
    names = [*subjects("city", 300)]
    pairs = [(prompt.format(name), word) for name in names[:60] for prompt in PROMPTS
             if (word := said(model, tokenizer, prompt.format(name)))]
    for number, name in enumerate(names[60:]):
        for prompt in PROMPTS:
            if word := said(model, tokenizer, prompt.format(name)):
                others = tuple(p for p in PROMPTS if p != prompt)
                at = number % max(len(pairs) - 3, 1)
                found.append(zu.Fact(name, prompt, word, others, tuple(pairs[at:at + 3]),
                                     id=f"id/{name}"))
                break
        if len(found) == count:
            return zu.Facts(found, "invented")
    raise AssertionError("the model says too few words")


@pytest.fixture
def text(tmp_path, texts):
    path = tmp_path / "prose.txt"
    path.write_text("\n\n".join(texts * 8))
    return str(path)


@pytest.fixture
def small(text):
    """A scan's plan for a tiny model, whose perplexity means nothing."""
    return {"width": 1, "corpus": text, "ppl_corpus": text, "ppl_tokens": 128, "tokens": 512}


@pytest.fixture
def loaded(fresh):
    return fresh("llama")


@pytest.fixture
def asked(loaded):
    return known_to(*loaded)


@pytest.fixture(autouse=True)
def _quiet():
    """What a tiny model cannot help: a short context, and scores that decide little."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a window of .* tokens is longer")
        warnings.filterwarnings("ignore", category=ScanWarning)
        yield


def weights(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(model, before):
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_every_window_is_tried_and_the_model_is_what_it_was(family, small):
    model, tokenizer = family
    facts, before = known_to(model, tokenizer), weights(model)
    scan = scan_layers(model, tokenizer, facts, layers="all", **small)
    same(model, before)
    assert [w.layers for w in scan.windows] == [(0,), (1,), (2,), (3,), (4,)]
    assert scan.base.mean("eff") == 100 and len(scan.base.eff) == 8
    assert all(w.mean("eff") < 100 for w in scan.windows if w.layers[0] < 4)
    assert len({w.eff + w.gen + w.spe + (w.ppl,) for w in scan.windows}) == 5
    assert scan.layers in [w.layers for w in scan.windows]
    with zu.unlearn(model, tokenizer, facts, layers=scan.layers, check=False) as edit:
        assert len(edit.parts) == 1


def test_its_scores_are_those_of_evaluate_and_perplexity_while_the_edit_is_on(
        loaded, asked, small, text):
    model, tokenizer = loaded
    scan = scan_layers(model, tokenizer, asked, layers=[2], **small)
    (window,) = scan.windows
    C0 = zu.moments(model, tokenizer, [2], text, tokens=512)
    some = asked.sample(8, 0).sample(8, 0)  # the order in which a grid draws them
    with zu.unlearn(model, tokenizer, some, layers=[2], moments=C0, check=False):
        scores = zu.evaluate(model, tokenizer, some)
        ppl = zu.perplexity(model, tokenizer, text, tokens=128)
    assert (window.mean("eff"), window.mean("gen"), window.mean("spe")) == pytest.approx(
        (scores.eff, scores.gen, scores.spe))
    assert window.ppl == pytest.approx(ppl) and window.damage > 0
    base = zu.evaluate(model, tokenizer, some)
    assert scan.base.mean("spe") == pytest.approx(base.spe)
    assert scan.base.mean("gen") == pytest.approx(base.gen)


@pytest.fixture(scope="module")
def capitals():
    names = ["France", "Japan", "Peru", "Chad", "Paris", "Tokyo", "Lima", "Therefore", "Because",
             "Côte", "d'Ivoire", "東京", "N'Djamena", "You", "and", "language"]
    answers = ["Lima", "Paris", "Tokyo", "a language", "country", "the city", "Peru", "Japan"]
    pairs = [*zip(names, [*answers, *answers[1:], answers[0]], strict=True)]
    return [zu.Fact(name, "The capital of {} is", answer, ("In {} people speak of",),
                    tuple((f"The capital of {x} is", y) for x, y in pairs if y != answer)[:6],
                    relation="capital") for name, answer in pairs]


@pytest.mark.parametrize("layer", [0, 1])
def test_it_finds_the_layer_through_which_facts_were_learnt(folders, capitals, small, layer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=160, head_dim=16, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        initializer_range=0.1, tie_word_embeddings=True)).eval().requires_grad_(False)
    tokenizer = zu.load_model(folders["llama"], device="cpu")[1]
    texts = ["The people of Peru speak a language and the city is in the country. " * 20] * 2
    planting = zu.plant(model, tokenizer, capitals, texts=texts, lr=1e-2, epochs=80, known=1.0,
                        held_back=0.0, drift=1e9, layers=[layer],
                        taught={"capital": ["The people of {} speak of", "In {} the city is"]})
    taught = weights(model)
    with pytest.warns(UserWarning, match="already carries an edit") as caught:
        scan = scan_layers(model, tokenizer, capitals, layers="all", **small)
    assert len([w for w in caught if "already carries" in str(w.message)]) == 1  # not once each
    assert scan.layers == (layer,) and scan.best.mean("eff") == 0
    assert [w.layers for w in scan.as_good] == [] and scan.decided
    same(model, taught)
    planting.restore()


def test_an_interrupt_leaves_the_model_and_the_next_call_goes_on_there(
        loaded, asked, small, tmp_path, monkeypatch):
    model, tokenizer = loaded
    before, calls, real = weights(model), [], grids.unlearn

    def third_is_interrupted(model, *args, layers, **more):
        calls.append(layers)
        edit = real(model, *args, layers=layers, **more)
        if len(calls) == 3:
            monkeypatch.setattr(scanning, "score", interrupt)
        return edit

    def interrupt(*args, **more):
        raise KeyboardInterrupt

    plan = small | {"layers": [0, 1, 2, 3], "records": tmp_path / "records"}
    scored = scanning.score
    monkeypatch.setattr(grids, "unlearn", third_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan_layers(model, tokenizer, asked, **plan)
    same(model, before)
    assert calls == [(0,), (1,), (2,)]
    monkeypatch.setattr(scanning, "score", scored)
    calls[:] = [()] * 3  # none is interrupted any more
    scan = scan_layers(model, tokenizer, asked, **plan)
    assert calls[3:] == [(2,), (3,)]
    assert scan_layers(model, tokenizer, asked, **plan).frame().equals(scan.frame())
    assert calls[5:] == []
    more = scan_layers(model, tokenizer, asked, **(plan | {"ppl_tokens": 64}))
    assert len(calls) == 9 and more.base.ppl != scan.base.ppl  # another question


def test_nothing_is_kept_without_a_folder(loaded, asked, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.iterdir())
    scan_layers(*loaded, asked, layers=[1], **small)
    assert sorted(tmp_path.iterdir()) == there


def test_what_is_saved_holds_no_text_of_a_user(loaded, asked, small, tmp_path):
    scan = scan_layers(*loaded, asked, layers=[1, 2], settings={"goal": "a city of Peru"},
                       **small)
    scan.save(tmp_path / "scan.json")
    written = (tmp_path / "scan.json").read_text()
    private = [part for fact in asked for part in (
        fact.subject, fact.text, fact.id, *fact.paraphrase_texts, *(p for p, _ in fact.neighbors))]
    private += ["a city of Peru", small["corpus"], asked.name]
    assert not [part for part in private if part in written]
    again = Scan.load(tmp_path / "scan.json")
    assert again.frame().equals(scan.frame()) and again.layers == scan.layers
    assert again.about["used"] == 8 and again.about["plan"]["corpus"] == "own"
    assert again.about["settings"] == {"goal": "own"}


def test_only_known_facts_are_used_and_what_is_dropped_is_said(loaded, asked, small):
    unknown = [zu.Fact(f"Peru {n}", "The capital of {} is", "N'Djamena") for n in range(4)]
    mixed = zu.Facts([*asked[:3], *unknown, *asked[3:]], "mixed")
    scan = scan_layers(*loaded, mixed, layers=[1], **small)
    assert (scan.about["given"], scan.about["known"], scan.about["used"]) == (12, 8, 8)
    assert "by 8 facts (12 given, 8 known)" in str(scan)
    assert scan.base.mean("eff") == 100
    few = scan_layers(*loaded, mixed, layers=[1], n=6, **small)
    assert few.about["used"] == len(few.base.eff) == 6


def test_too_few_known_facts_are_refused_with_the_way_out(loaded, asked, small):
    unknown = [zu.Fact(f"Peru {n}", "The capital of {} is", "N'Djamena") for n in range(9)]
    with pytest.raises(ScanError, match=r"knows 4 of the 13 facts, and a scan needs 5 or more.*"
                       r"give other facts .*chat=True"):
        scan_layers(*loaded, [*unknown, *asked[:4]], **small)


def test_facts_that_ask_nothing_beside_their_prompt_are_refused(loaded, asked, small):
    bare = [zu.Fact(fact.subject, fact.prompt, fact.target) for fact in asked]
    with pytest.raises(ScanError, match="neither paraphrases nor neighbours"):
        scan_layers(*loaded, bare, **small)


def test_a_kind_of_question_that_is_missing_is_said_and_not_judged(loaded, asked, small):
    alone = [zu.Fact(f.subject, f.prompt, f.target, f.paraphrases) for f in asked]
    with pytest.warns(ScanWarning, match="answers no .*neighbour of these facts, so .*Spe cannot"):
        scan = scan_layers(*loaded, alone, layers=[1], **small)
    assert "spe" not in scan.goals(scan.best)


@pytest.mark.parametrize("given, words", [
    ({"widths": 2}, "scan_layers has no setting 'widths': did you mean 'width'"),
    ({"alpha": 2}, "it is a setting of a method: give settings={'alpha': ...}"),
    ({"width": 0}, "width is 0: give a whole number, 1 or more"),
    ({"n": 4}, "n is 4: give a whole number, 5 or more"),
    ({"tokens": 1.5}, "tokens is 1.5: give a whole number"),
    ({"width": 9}, "the model has 5 layers that can be edited: give a smaller one"),
    ({"layers": "some"}, 'layers is \'some\': give "all"'),
    ({"layers": []}, "layers is empty"),
    ({"layers": [4], "width": 2}, "no window of 2 layers starts at layer 4: .* up to 3"),
    ({"settings": {"layers": [1]}}, "settings hold layers, which the scan sets itself"),
    ({"settings": {"alhpa": 1}}, "did you mean 'alpha'"),
    ({"settings": {"goal": "no, nothing"}}, "words without commas and brackets"),
    ({"method": "alphaedti"}, "did you mean 'alphaedit'"),
    ({"method": "ft", "anchors": True}, "ft takes no anchors: leave them out"),
])
def test_what_cannot_be_meant_is_refused_before_anything_is_computed(
        loaded, asked, small, monkeypatch, given, words):
    def compute(*args, **more):
        raise AssertionError("something was computed")

    monkeypatch.setattr(scanning, "known", compute)
    if "anchors" in given:
        given = given | {"anchors": asked[:2]}
    with pytest.raises(ValueError, match=words):
        scan_layers(*loaded, asked, **(small | given))


def test_windows_are_starts_shares_or_tuples(loaded):
    def windows(**plan):
        return scanning._windows(loaded[0], Plan(**plan))

    assert windows(layers=[1, 0.5], width=2) == [(1, 2), (2, 3)]
    assert windows(layers=[(0, 4), 1], width=1) == [(0, 4), (1,)]
    assert windows(layers=[1, 1, (1,)], width=1) == [(1,)]
    assert windows(width=3) == windows(layers="all", width=3) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]


@pytest.fixture
def deep(folders):
    """A model of forty narrow layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=40,
                         num_attention_heads=2, num_key_value_heads=2)
    return LlamaForCausalLM(config).eval(), zu.load_model(folders["llama"], device="cpu")[1]


@pytest.mark.parametrize("peak", [0, 13, 24, 37])
def test_from_coarse_to_fine_it_reaches_the_best_window_with_few_tries(
        deep, asked, monkeypatch, peak):
    tried = []

    def mocked(trial, grid, window):
        tried.append(window)
        return Window(window, (0.0,) * 8, (float(abs(window[0] - peak)),) * 8, (100.0,) * 8, 10.0)

    base = Window((), *[(100.0,) * 8] * 3, 10.0)
    monkeypatch.setattr(scanning._Trial, "_try", mocked)
    monkeypatch.setattr(scanning._Trial, "base", lambda trial, layers: base)
    monkeypatch.setattr(scanning, "known", lambda *args, **more: asked)
    scan = scan_layers(*deep, asked)
    assert scan.layers == (peak, peak + 1, peak + 2)
    assert tried[0] == (0, 1, 2) and (37, 38, 39) in tried[:8]
    assert len(tried) == len({*tried}) <= 15


def test_an_edit_that_cannot_be_made_is_a_row_with_its_reason(
        loaded, asked, small, monkeypatch):
    real = grids.unlearn

    def fails_at_one(*args, layers, **more):
        if layers == (1,):
            raise EditError("it explodes")
        return real(*args, layers=layers, **more)

    monkeypatch.setattr(grids, "unlearn", fails_at_one)
    scan = scan_layers(*loaded, asked, layers=[0, 1], **small)
    assert [w.failed for w in scan.windows] == ["", "it explodes"] and scan.layers == (0,)
    with pytest.raises(ScanError, match="no window can be edited: 1: it explodes"):
        scan_layers(*loaded, asked, layers=[1], **small)


def test_moments_that_do_not_fit_together_are_read_in_parts(loaded, asked, small, monkeypatch):
    read, real = [], grids.moments

    def listening(model, tokenizer, layers, *args, **more):
        read.append(sorted(layers))
        return real(model, tokenizer, layers, *args, **more)

    monkeypatch.setattr(grids, "moments", listening)
    whole = scan_layers(*loaded, asked, layers="all", **small)
    assert read == [[0, 1, 2, 3, 4]]
    monkeypatch.setattr(scanning, "MEMORY", 2 * 80 * 80 * 8)
    parts = scan_layers(*loaded, asked, layers="all", **small)
    assert read[1:] == [[0, 1], [2, 3], [4]]
    assert [w.eff for w in parts.windows] == [w.eff for w in whole.windows]
    np.testing.assert_allclose([w.ppl for w in parts.windows], [w.ppl for w in whole.windows],
                               rtol=1e-6)


def test_a_method_its_settings_and_anchors_reach_the_edit(loaded, asked, small, monkeypatch):
    made, real = [], grids.unlearn

    def listening(model, tokenizer, facts, method, **more):
        edit = real(model, tokenizer, facts, method, **more)
        made.append((edit.method, edit.settings, len(more["anchors"])))
        return edit

    monkeypatch.setattr(grids, "unlearn", listening)
    spare = zu.anchors(asked, [*subjects("city", 300)][-4:])
    scan = scan_layers(*loaded, asked, "anchored", anchors=spare, layers=[(1, 2)],
                       settings={"n_prefixes": 1, "weight": 0.5}, **small)
    ((method, settings, anchors),) = made
    assert method == "anchored" and settings["layers"] == [1, 2] and anchors == len(spare) > 0
    assert settings["n_prefixes"] == 1 and settings["weight"] == 0.5
    assert scan.about["anchors"] == anchors and scan.about["settings"]["weight"] == 0.5
    scan_layers(*loaded, asked, zu.methods.Memit(n_prefixes=1), layers=[2], **small)
    assert made[1][0] == "memit" and made[1][1]["n_prefixes"] == 1
    with pytest.raises(ScanError, match="has its settings already"):
        scan_layers(*loaded, asked, zu.methods.Memit(), settings={"steps": 2}, **small)


def test_methods_that_train_are_scanned_too(loaded, asked, small):
    before = weights(loaded[0])
    scan = scan_layers(*loaded, asked, "ga", layers=[1, 3], **small)
    same(loaded[0], before)
    assert [w.layers for w in scan.windows] == [(1,), (3,)]
    assert any(w.mean("eff") < 100 for w in scan.windows)


def test_it_warns_where_no_window_qualifies_and_where_nothing_is_decided(
        loaded, asked, monkeypatch):
    def rows(*pairs):
        found = [Window((i,), eff, (0.0,) * 8, (100.0,) * 8, ppl)
                 for i, (eff, ppl) in enumerate(pairs)]
        return Scan({"depth": 5, "method": "memit", "used": 8, "given": 8, "known": 8},
                    Window((), *[(100.0,) * 8] * 3, 10.0), tuple(found))

    gone, there = (0.0,) * 8, (100.0,) * 8
    with pytest.warns(ScanWarning, match="no window qualifies.*layer 0 misses perplexity"):
        scanning._said(rows((gone, 12.0), (there, 12.0)))
    with pytest.warns(ScanWarning, match="undecided: all windows are as good as 0"):
        scanning._said(rows((gone, 10.0), (gone, 10.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scanning._said(rows((gone, 10.0), (there, 10.0)))
        scanning._said(rows((gone, 10.0)))


def test_facts_are_asked_in_a_chat_where_the_plan_says_so(loaded, asked, small, monkeypatch):
    seen = []
    monkeypatch.setattr(scanning, "known",
                        lambda model, tokenizer, facts, chat: seen.append(chat) or facts)
    scan = scan_layers(*loaded, asked, layers=[1], chat="You and {} is", **small)
    there = zu.evaluate(*loaded, asked, chat="You and {} is")
    assert seen == ["You and {} is"] and scan.about["plan"]["chat"] == "own"
    assert scan.base.mean("eff") == pytest.approx(there.eff) != 100
    assert scan.base.mean("spe") == pytest.approx(there.spe)


def test_records_lie_below_the_folder_given(loaded, asked, small, tmp_path):
    scan_layers(*loaded, asked, layers=[1], records=str(tmp_path / "mine"), **small)
    files = [*Path(tmp_path / "mine" / "scan").rglob("*.json")]
    assert len(files) == 2  # Base and one window
