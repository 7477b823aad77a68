"""The paper's whole protocol on small random models, and the plan of its cost."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
import yaml

import samples
import zu
from test_own_method import MINE
from zu.experiment import parse_method, read_records

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import plan  # noqa: E402

PROFILE = yaml.safe_load((ROOT / "profiles" / "paper.yaml").read_text())
#: Of the paper's three data sets; the first is flat among the published ones.
DATASETS = ("counterfact_edit" if samples.REAL else "multi_counterfact", "zsre_mend", "mquake_hard")


@pytest.fixture
def stage(tmp_path, folders, texts, written):
    """A folder to run in, and the profile's values that point away from the hub."""
    (tmp_path / "book" / "paper").mkdir(parents=True)
    shutil.copy(ROOT / "book" / "paper" / "tables.csv", tmp_path / "book" / "paper")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(texts), encoding="utf-8")
    files = Path(samples.REAL).resolve() if samples.REAL else written
    datasets = [f"{files / name}.json:forget" for name in DATASETS]
    return tmp_path, {"models": [str(folders["llama"]), str(folders["qwen3"])],
                      "datasets": datasets, "on_error": "skip",
                      "corpus": str(text), "ppl_corpus": str(text), "moment_tokens": 1024,
                      "ppl_tokens": 512, "device_map": "", "records": "records"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page, fewer, alone", [
    pytest.param("few_shot", {"n": 2, "seeds": [1], "more": []}, True, id="a model and a set"),
    pytest.param("few_shot", {"n": 2, "seeds": [1]}, False, marks=pytest.mark.whole),
    pytest.param("many_facts", {"counts": [1, 3]}, False, marks=pytest.mark.whole)])
def test_the_whole_profile_runs_on_small_random_models(stage, page, fewer, alone, monkeypatch):
    folder, elsewhere = stage
    if alone:  # of what is given, the first model and the last data set
        elsewhere |= {"models": elsewhere["models"][:1], "datasets": elsewhere["datasets"][-1:]}
    values = PROFILE[page] | elsewhere | fewer
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--output",
                    folder / f"{page}.ipynb", ROOT / "book" / f"{page}.md"], check=True)
    papermill.execute_notebook(folder / f"{page}.ipynb", folder / "out.ipynb", values,
                               kernel_name="python3", progress_bar=False, cwd=str(folder))
    records = read_records(folder / "records")
    runs = plan.runs(plan.defaults(page) | values)
    assert len(records) == len(set(runs))
    assert {r["method"] for r in records} == set(values["methods"] + values.get("more", []))
    for record in records:
        metrics = record["metrics"]
        assert metrics["n_eff"] == record["n"] and 0 <= metrics["eff"] <= 100 and metrics["ppl"] > 1
        assert (metrics["spe"] is None) == ("mquake" in record["dataset"])
        assert record["settings"] == parse_method(record["method"])[1]
        assert record["layers"] == [1, 2, 3]
    shown = json.dumps([cell.get("outputs")
                        for cell in json.loads((folder / "out.ipynb").read_text())["cells"]],
                       ensure_ascii=False)
    for dataset in values["datasets"]:
        assert not [f.id for f in zu.load_facts(dataset, on_error="skip") if f.text in shown]


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_method_of_ones_own_is_a_chapters_parameter_by_its_import_path(stage, monkeypatch):
    folder, elsewhere = stage
    (folder / "my_unlearning.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))
    mine = "my_unlearning.Damp:share=0.2"
    values = PROFILE["few_shot"] | elsewhere | {"n": 2, "seeds": [1], "more": []}
    values |= {"methods": ["base", "zerounlearn", mine]}
    values |= {"models": elsewhere["models"][:1], "datasets": elsewhere["datasets"][:1]}
    subprocess.run([sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--output",
                    folder / "few_shot.ipynb", ROOT / "book" / "few_shot.md"], check=True)
    papermill.execute_notebook(folder / "few_shot.ipynb", folder / "out.ipynb", values,
                               kernel_name="python3", progress_bar=False, cwd=str(folder))
    found = {r["method"]: r for r in read_records(folder / "records")}
    assert set(found) == {"base", "zerounlearn", mine} and found[mine]["settings"] == {"share": 0.2}
    assert "Damp" in (folder / "out.ipynb").read_text()


def test_the_plan_counts_every_run_and_shared_work_once():
    share = {"targets": 0.5, "forward": 0.5}
    few = plan.runs(plan.defaults("few_shot") | PROFILE["few_shot"])
    assert len(few) == 3 * 3 * 10 * 8 + 4 and len(set(few)) == len(few)
    name = PROFILE["few_shot"]["models"][0]

    def hours(methods, rate=1e14):
        values = PROFILE["few_shot"] | {"models": [name], "methods": methods, "more": []}
        chapters = plan.plan({"few_shot": values}, rate, share)["chapters"]
        return chapters["few_shot"]["models"][name]["hours"]

    one, two = hours(["memit"]), hours(["memit", "zerounlearn"])
    assert one["targets"] == two["targets"] > 0
    assert two["traces"] == pytest.approx(2 * one["traces"])
    assert one["moments"] == two["moments"]
    assert {k: pytest.approx(2 * v) for k, v in hours(["memit"], 2e14).items()} == one


def test_the_plan_knows_what_is_downloaded():
    found = plan.plan(PROFILE, 1e14, {"targets": 0.5, "forward": 0.5})["downloads"]
    assert set(found) == {*PROFILE["few_shot"]["models"], "mcf", "zsre", "mquake",
                          PROFILE["few_shot"]["corpus"], PROFILE["few_shot"]["ppl_corpus"]}
    assert plan.plan({}, 1e14, {"targets": 0.5, "forward": 0.5})["downloads"] == {}


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_plans_counts_are_those_of_a_real_model(folders, name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = zu.load_model(folders[name], device="cpu")
    shape = plan.find_model(str(folders[name]))
    matrices = sum(w.numel() for w in model.parameters() if w.dim() == 2)
    assert shape.parameters == matrices
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long))
    linear = 2 * 2 * (shape.depth * shape.layer + shape.d * shape.vocabulary)
    # not in the plan: small at short prompts
    attention = 2 * shape.depth * 2 * 2 * 2 * shape.heads * shape.width
    assert linear <= counter.get_total_flops() <= linear + attention


def test_make_plan_starts_nothing(tmp_path):
    run = subprocess.run([sys.executable, ROOT / "tools" / "plan.py", "paper", "--rate", "100"],
                         capture_output=True,
                         text=True, env=os.environ | {"ZU_CACHE": str(tmp_path / "cache")})
    assert run.returncode == 0, run.stderr
    assert "724 runs" in run.stdout and "gated" not in run.stdout
    assert not (tmp_path / "cache").exists()
