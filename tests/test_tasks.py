"""The suite is what it says, and the harness's numbers are those of a plain loop; no network,
nothing left changed."""
import json
import math
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml

import samples
from zu.data import world
from zu.experiment.tasks import TaskError, compare, digest, downstream, load_tasks, wilson
from zu.reader import Reader

SUITE = Path(__file__).parents[1] / "book" / "tasks"
NAMES = sorted(p.stem for p in SUITE.glob("*.yaml"))
CONFIG = """
task: {name}
output_type: multiple_choice
doc_to_text: "{{{{sentence}}}} It is"
doc_to_choice: [a city, "the capital", France]
doc_to_target: label
num_fewshot: 2
fewshot_config:
  sampler: first_n
  samples:
    - {{sentence: Lima is in Peru., label: 0}}
    - {{sentence: You and I speak., label: 2}}
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}}
"""
SENTENCES = ["Paris is in France.", "Tokyo!", "You and I is a city.",
             "Therefore I speak a language.", "Because", "The capital of Japan",
             "In which country?"]


def items(name):
    return [json.loads(line)
            for line in (SUITE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(item):
    return [t for v in item.values() for t in (v if isinstance(v, list) else [v])
            if isinstance(t, str)]


@pytest.fixture
def own(tmp_path):
    """A folder with one task, "cities", of seven items."""
    (tmp_path / "cities.yaml").write_text(CONFIG.format(name="cities"))
    rows = [{"sentence": s, "label": i % 3} for i, s in enumerate(SENTENCES)]
    (tmp_path / "cities.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    """Any connection fails, as it does with no network."""
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_of_the_suite_is_balanced_without_doubles_and_about_nothing_that_is_forgotten(name):
    assert len(NAMES) >= 6
    rows, config = items(name), yaml.safe_load((SUITE / f"{name}.yaml").read_text())
    field = config["doc_to_target"]
    answers = [row[field] for row in rows]
    choices = (rows[0]["choices"] if config["doc_to_choice"] == "choices"
               else config["doc_to_choice"])
    assert len(rows) >= 64 and set(answers) == set(range(len(choices)))
    assert {answers.count(a) for a in answers} == {len(rows) // len(choices)}
    # any beginning too, so that a limit keeps it balanced
    for end in range(len(choices), len(rows), len(choices)):
        assert len({answers[:end].count(a) for a in set(answers)}) == 1
    solved = [tuple(texts(s)) for s in config.get("fewshot_config", {}).get("samples", [])]
    asked = [tuple(texts(row)) for row in rows]
    assert len(set(asked + solved)) == len(asked) + len(solved) == len(rows) + config["num_fewshot"]
    assert all(len(row["choices"]) == len(set(row["choices"])) == len(choices)
               for row in rows if "choices" in row)
    names = {n.casefold() for pairs in world.triples().values()
             for pair in pairs for n in pair if len(n) > 3}
    found = re.compile(r"\b(" + "|".join(map(re.escape, sorted(names))) + r")\b")
    assert not [t for text in asked + solved for t in text if found.search(t.casefold())]


def test_grammar_asks_about_the_sentences_of_acceptability():
    halves = {sentence: i == row["answer"]
              for row in items("grammar") for i, sentence in enumerate(row["choices"])}
    assert all(halves[row["sentence"]] == bool(row["label"]) for row in items("acceptability"))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_harness_gives_the_log_likelihoods_of_a_plain_loop(tiny, own, offline, batch_size):
    from lm_eval import evaluator

    from zu.experiment.tasks import _asker

    model, tokenizer = tiny
    tasks = load_tasks(["cities"], own)
    answers = ["a city", "the capital", "France"]
    solved = "Lima is in Peru. It is a city\n\nYou and I speak. It is France\n\n"
    plain = []
    for sentence in SENTENCES:
        prompt, row = f"{solved}{sentence} It is", []
        for answer in answers:
            ids, start = tokenizer(f"{prompt} {answer}").input_ids, len(tokenizer(prompt).input_ids)
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            row.append((sum(logp[t - 1, ids[t]].item() for t in range(start, len(ids))),
                        all(logp[t - 1].argmax() == ids[t] for t in range(start, len(ids)))))
        plain.append(row)
    asker = _asker(Reader(model, tokenizer), batch_size)
    found = evaluator.evaluate(asker, {"tasks": tasks["cities"]}, bootstrap_iters=0)
    for row, sample in zip(plain, found["samples"]["cities"], strict=True):
        assert [x for x, _ in sample["filtered_resps"]] == pytest.approx(
            [x for x, _ in row], abs=1e-4)
        assert [bool(g) for _, g in sample["filtered_resps"]] == [g for _, g in row]
    right = "".join("01"[max(range(3), key=lambda i: row[i][0]) == n % 3]
                    for n, row in enumerate(plain))
    result = downstream(model, tokenizer, tasks, batch_size=batch_size)["cities"]
    assert (result["right"] == right and result["n"] == 7
            and result["acc"] == pytest.approx(100 * right.count("1") / 7))
    assert result["chance"] == pytest.approx(300 / 7)
    assert result["said"] == pytest.approx(
        100 * sum(row[n % 3][1] for n, row in enumerate(plain)) / 7)
    assert (result["harness"]["acc"] == pytest.approx(result["acc"] / 100)
            and -1 <= result["harness"]["mcc"] <= 1)
    assert downstream(model, tokenizer, tasks, limit=4)["cities"]["right"] == right[:4]
    remembers = Reader(model, tokenizer, 2)
    for _ in range(2):  # read, then remembered
        assert downstream(model, tokenizer, tasks, batch_size=batch_size,
                          reader=remembers)["cities"] == result
    assert remembers.seen


def test_prompts_longer_than_the_model_reads_are_cut_as_hflm_cuts_them(tiny, own, offline):
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    from zu.experiment.tasks import _asker

    path = own / "cities.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r | {"sentence": r["sentence"] * 80}) + "\n" for r in rows))
    model, tokenizer = tiny
    assert len(tokenizer(SENTENCES[0] * 80).input_ids) > model.config.max_position_embeddings
    tasks, found = load_tasks(["cities"], own), []
    for reader in (_asker(Reader(model, tokenizer), 4),
                   HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)):
        result = evaluator.evaluate(reader, {"tasks": tasks["cities"]}, bootstrap_iters=0)
        found.append([s["filtered_resps"] for s in result["samples"]["cities"]])
    assert found[0] == found[1]


def test_model_random_state_cache_and_output_stay_as_they_were(
        tiny, offline, tmp_path, monkeypatch, capfd):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.chdir(tmp_path)
    model, tokenizer = tiny
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    capfd.readouterr()
    result = downstream(model, tokenizer, load_tasks(NAMES, SUITE), limit=6)
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not list(tmp_path.iterdir())
    assert list(result) == NAMES and {r["n"] for r in result.values()} == {6}
    assert json.loads(json.dumps(result)) == {
        k: v | {"interval": list(v["interval"])} for k, v in result.items()}


@pytest.mark.parametrize("parts", [
    pytest.param(["glue", "mmlu/default"], id="of some folders"),
    pytest.param(None, id="of all", marks=pytest.mark.whole)])  # it reads 14,000 files
def test_an_unknown_task_and_one_whose_items_cannot_be_had_are_named(own, monkeypatch, parts):
    import lm_eval.api.task
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    some = {}
    if parts:
        some = dict(include_path=[root / name for name in parts], include_defaults=False)
    manager = lm_eval.tasks.TaskManager(**some)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda: manager)

    def refuse(*args, **kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(lm_eval.api.task.datasets, "load_dataset", refuse)
    with pytest.raises(TaskError, match="'citys' is neither in .* did you mean 'cities'"):
        load_tasks(["cities", "citys"], own)
    with pytest.raises(TaskError, match="'qqqqzzqqzz' .* has cities"):
        load_tasks(["qqqqzzqqzz"], own)
    for name in ("sst2", "mmlu", "mrpc", "cola", "rte", "mnli"):
        with pytest.raises(OSError, match=f"'{name}' could not be read from the hub: "
                                          ".*network once.*\\(no network\\)"):
            load_tasks([name], own)


@pytest.mark.parametrize("line, says", [
    ('{"sentence": "x", "label": 3}', "the answer is 3, the choices are 0 to 2"),
    ('{"sentence": "x", "label": -1}', "the answer is -1"),
    ('{"sentence": "x", "label": true}', "its fields, or their types, are not those"),
    ('{"sentence": "x"}', "its fields, or their types, are not those of line 1"),
    ('["x"]', "its fields, or their types, are not those of line 1"),
    ('{"sentence": ', "not JSON"),
])
def test_a_broken_item_is_named_by_file_and_line(own, line, says):
    with open(own / "cities.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(TaskError, match=re.escape(f"cities.jsonl, line 8: {says}")):
        load_tasks(["cities"], own)


def test_a_task_without_items_is_named(own):
    (own / "cities.jsonl").unlink()
    with pytest.raises(TaskError, match="cities.jsonl"):
        load_tasks(["cities"], own)
    (own / "cities.jsonl").write_text("")
    with pytest.raises(TaskError, match="cities.jsonl has no items"):
        load_tasks(["cities"], own)


def test_the_digest_changes_with_an_item_and_with_a_wording(own):
    before = digest(["cities"], own)
    assert digest(["cities", "sst2"], own) == before
    for name in ("cities.jsonl", "cities.yaml"):
        old = (own / name).read_text()
        (own / name).write_text(old.replace("Lima", "Chad").replace("Tokyo", "Kyoto"))
        assert digest(["cities"], own) != before
        (own / name).write_text(old)
    assert digest(["cities"], own) == before


def test_intervals_and_p_are_those_of_their_formulas():
    # where p is as likely as the share is at 1.96 deviations
    for hits, n in ((0, 5), (5, 5), (37, 64)):
        for p in (x / 100 for x in wilson(hits, n)):
            assert (hits / n - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / n, abs=1e-6)

    def mcnemar(lost, won):  # exact, two-sided: as many heads or fewer of so many coins
        ways = sum(math.comb(lost + won, k) for k in range(min(lost, won) + 1))
        return 2 * ways / 2 ** (lost + won)

    def result(right):
        hits, n = right.count("1"), len(right)
        return {"right": right, "interval": wilson(hits, n), "chance": 50.0}

    before = {"a": result("1" * 60 + "0" * 4), "b": result("1" * 50 + "0" * 14),
              "idle": result("10" * 32)}
    after = {"a": result("1" * 50 + "0" * 13 + "1"), "b": result("0" * 3 + "1" * 61),
             "idle": result("0" * 64)}
    found = compare(before, after)
    assert found["a"] == (10, 1, pytest.approx(2 * mcnemar(10, 1)))
    assert found["b"] == (3, 14, pytest.approx(2 * mcnemar(3, 14)))
    assert (found["all"] == (13, 15, pytest.approx(mcnemar(13, 15)))
            and set(found) == {"a", "b", "all"})
    assert {p for _, _, p in compare(before, before).values()} == {1.0}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare(before, {name: result("1") for name in before})


#: Which task of the suite reads which published file.
PUBLISHED = {
    "downstream_sst2": "sentiment", "downstream_mmlu": "knowledge", "downstream_mrpc": "paraphrase",
    "downstream_cola": "acceptability", "downstream_rte": "entailment",
    "downstream_nli": "entailment",
}


@pytest.mark.parametrize("sample", samples.both(*PUBLISHED), indirect=True)
def test_the_same_configs_read_the_published_items(tiny, tmp_path, offline, sample):
    name = PUBLISHED[sample.name]
    rows = json.loads(sample.path.read_text(encoding="utf-8"))
    labels = {"entailment": 0, "not_entailment": 1}  # one of the files has them as texts
    rows = [{k: labels.get(v, v) if k == "label" else v for k, v in r.items()} for r in rows]
    shutil.copy(SUITE / f"{name}.yaml", tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tasks = load_tasks([name], tmp_path)
    task = tasks[name][name]
    assert len(task.eval_docs) == len(rows)
    for row, doc in zip(rows, task.eval_docs, strict=True):
        said = task.doc_to_text(doc)
        assert all(text.strip() in said for key, text in row.items()
                   if key in ("sentence", "sentence1", "sentence2", "question"))
        right = row["answer"] if "answer" in row else row["label"]
        assert task.doc_to_target(doc) == right and 0 <= right < len(task.doc_to_choice(doc))
    result = downstream(*tiny, tasks, limit=3)[name]
    assert result["n"] == 3 and set(result["right"]) <= {"0", "1"}


def test_an_edit_is_measured_while_it_is_on_and_the_record_resumes(
        tiny, own, facts, texts, tmp_path, cache):
    from flat_grid import run_grid
    from zu.experiment import Measure

    model, tokenizer = tiny
    tasks, calls = load_tasks(["cities"], own), []

    def measure(lm, tokenizer, facts, edit):
        calls.append(edit)
        return downstream(lm, tokenizer, tasks)

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(texts), encoding="utf-8")
    grid = dict(methods=["base", "memit:steps=2"], seeds=[1], n=2, records=tmp_path / "records",
                layers=[1, 2], corpus=str(text), moment_tokens=640, experiment="downstream")
    mine = Measure(measure, {"suite": digest(["cities"], own)})
    run = run_grid(model, tokenizer, facts, measure=mine, **grid)
    assert (calls[0] is None and calls[1] is not None
            and [r["metrics"]["cities"]["n"] for r in run] == [7, 7])
    assert run == run_grid(model, tokenizer, facts, measure=mine, **grid)
    assert len(calls) == 2
    run_grid(model, tokenizer, facts, measure=Measure(measure, {"suite": "another"}), **grid)
    assert len(calls) == 4


@pytest.mark.parametrize("longest", [None, 12])  # the second: prompts are cut, which HFLM does
def test_no_accuracy_is_told_of_logits_that_are_not_finite(tiny, own, offline, spoil, broken,
                                                           longest):
    model, tokenizer = tiny
    if longest:
        model.config.max_position_embeddings = longest
    tasks = load_tasks(["cities"], own)
    hook = spoil(model, float("-inf"), [3, 5])  # ruled out: no fault
    assert downstream(model, tokenizer, tasks)["cities"]["n"] == len(SENTENCES)
    hook.remove()
    spoil(model, *broken)
    with pytest.raises(ValueError, match="logits of model .* are NaN or infinite"):
        downstream(model, tokenizer, tasks)
