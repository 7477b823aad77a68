"""A run is killed, a disk is full, a cache damaged or shared: nothing is lost, and it is said."""
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import zu
from flat_grid import run_grid
from zu import records
from zu.experiment import grids as experiment
from zu.experiment import read_records

pytestmark = pytest.mark.whole

SEARCH = zu.targets.Search(steps=2)
ROOT = Path(__file__).parents[1]
RUN = """
import sys, zu
from pathlib import Path
from zu.experiment import Grid, Texts
model, tokenizer = zu.load_model(sys.argv[1], device="cpu")
capitals = {"Peru": "Lima", "Japan": "Tokyo", "Chad": "N'Djamena", "France": "Paris"}
facts = [zu.Fact(place, "The capital of {} is", city) for place, city in capitals.items()]
grid = Grid(zu.Reader(model, tokenizer), Path(sys.argv[2], "few_shot"), layers=(1, 2),
            texts=Texts(moment_tokens=1024, ppl_tokens=64))
methods = ["base", "memit", "zerounlearn", "exact"]
records = grid.run(zu.Facts(facts, "capitals"), methods, seeds=[1, 2, 3], n=2)
print("the end", len(records))
"""


def start(folder, records, cache, **more):
    """A process that runs the grid above, with a cache of its own or not."""
    own = {"ZU_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(records)], cwd=ROOT,
                            env=os.environ | own, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def table(records):
    """What a table would show of the records in a folder: the numbers of each, in order."""
    return [(r["method"], r["seed"], json.dumps(r["metrics"], sort_keys=True))
            for r in read_records(records)]


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    """The numbers of a run that nothing happened to."""
    where = tmp_path_factory.mktemp("undisturbed")
    run = start(folders["llama"], where / "records", where / "cache")
    out, err = run.communicate()
    assert out.startswith("the end 12"), err
    return table(where / "records")


def litter(*folders):
    return [p for folder in folders for p in folder.rglob("*.part")]


def test_two_runs_at_once_on_one_cache_and_one_folder_of_records(folders, undisturbed, tmp_path):
    runs = [start(folders["llama"], tmp_path / "records", tmp_path / "cache") for _ in range(2)]
    for run in runs:
        out, err = run.communicate()
        assert out.startswith("the end 12"), err
    assert table(tmp_path / "records") == undisturbed and not litter(tmp_path)


def test_a_full_disk_is_named_and_what_was_written_stays(folders, undisturbed, tmp_path):
    """No file may be longer than 1,000 bytes: records are, and so are the moments in the cache."""
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    records, cache = tmp_path / "records", tmp_path / "cache"
    run = start(folders["llama"], records, cache, preexec_fn=full)
    out, err = run.communicate()
    assert run.returncode == 1 and "the end" not in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("OSError: [Errno 27]") and str(records) in last and "make room" in last
    assert not list(records.rglob("*.json")) and not litter(tmp_path)
    run = start(folders["llama"], records, cache)
    out, err = run.communicate()
    assert out.startswith("the end 12"), err
    before = {p: p.stat().st_mtime_ns for p in records.rglob("*.json")}
    gone = sorted(before)[3]
    gone.unlink()
    run = start(folders["llama"], records, cache, preexec_fn=full)
    assert run.communicate() and run.returncode == 1
    after = {p: p.stat().st_mtime_ns for p in records.rglob("*.json")}
    assert after == {p: t for p, t in before.items() if p != gone}
    run = start(folders["llama"], records, cache)
    run.communicate()
    assert table(records) == undisturbed


@pytest.mark.filterwarnings("error")
def test_a_cache_that_cannot_be_written_costs_time_alone(tiny, facts, texts, tmp_path, monkeypatch):
    model, tokenizer = tiny
    with monkeypatch.context() as patch:
        patch.setenv("ZU_CACHE", str(tmp_path / "good"))
        expected = [zu.targets.optimise(model, tokenizer, facts[:1], 2, SEARCH).z,
                    zu.moments(model, tokenizer, [2], texts, tokens=128, window=32)[2]]
    (tmp_path / "file").write_text("no folder can be here")
    monkeypatch.setenv("ZU_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be written.*set ZU_CACHE"):
        z = zu.targets.optimise(model, tokenizer, facts[:1], 2, SEARCH).z
    with pytest.warns(UserWarning, match="cannot be written.*set ZU_CACHE"):
        C0 = zu.moments(model, tokenizer, [2], texts, tokens=128, window=32)[2]
    assert torch.equal(z, expected[0]) and torch.equal(C0, expected[1])


def test_an_edit_that_finds_no_room_keeps_the_file_that_was_there(tiny, facts, tmp_path):
    edit = zu.unlearn(*tiny, facts[:1], "ft", layers=[2], steps=1)
    edit.save(tmp_path / "edit.safetensors")
    kept = (tmp_path / "edit.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="edit.safetensors is not written.*make room"):
            edit.save(tmp_path / "edit.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "edit.safetensors").read_bytes() == kept and not litter(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_file_of_the_cache_is_computed_again(tiny, texts, cache, damage):
    model, tokenizer = tiny
    first = zu.moments(model, tokenizer, [1, 2], texts, tokens=128, window=32)
    kept = {file: file.read_bytes() for file in (cache / "moments").glob("*.safetensors")}
    assert len(kept) == 2  # one a layer
    for file, whole in kept.items():
        file.write_bytes(whole[:-100] if damage is None else damage)
    again = zu.moments(model, tokenizer, [1, 2], texts, tokens=128, window=32)
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert {file: file.read_bytes() for file in kept} == kept


def test_a_truncated_model_is_named(folders, tmp_path):
    for file in folders["llama"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(OSError, match=f"model '{tmp_path}' could not be loaded"):
        zu.load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(OSError, match=f"model '{tmp_path}' could not be loaded"):
        zu.load_model(tmp_path)


@pytest.fixture
def grid(tiny, facts, cache, tmp_path):
    model, tokenizer = tiny

    def run(**changed):
        settings = dict(methods=["base", "memit"], seeds=[1, 2], n=2, layers=(1, 2),
                        records=tmp_path / "records", moment_tokens=512, ppl_tokens=64)
        return run_grid(model, tokenizer, facts, **settings | changed)

    return run


def test_records_of_other_versions_are_made_again_and_it_is_said(grid, tmp_path, monkeypatch):
    first = grid()
    version = records.version_of
    with monkeypatch.context() as patch:
        for room in (records, experiment):
            patch.setattr(room, "version_of",
                          lambda p: "1.0" if p == "transformers" else version(p))
        with pytest.warns(UserWarning, match="other versions than .*'transformers': '1.0'"):
            other = grid()
    assert all(r["versions"]["transformers"] == "1.0" for r in other)
    assert [r["metrics"] for r in other] == [r["metrics"] for r in first]


def test_an_interrupted_grid_leaves_the_model_as_it_was_and_its_records(grid, tiny, tmp_path):
    before = {name: weight.clone() for name, weight in tiny[0].named_parameters()}
    calls = []

    def measure(model, tokenizer, facts, edit):
        calls.append(edit)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"n": len(facts)}

    with pytest.raises(KeyboardInterrupt):
        grid(measure=measure)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny[0].named_parameters())
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "records").rglob("*.json")}
    assert len(kept) == 3 and not litter(tmp_path)
    assert len(grid(measure=measure)) == 4 and len(calls) == 5
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())


CHAPTER = """---
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---
# Other

```{{code-cell}} ipython3
import sys
sys.argv = ["", {model!r}, "build/records/other"]
{run}
```

```{{code-cell}} ipython3
for r in records:
    print(r["method"], r["seed"], sorted(r["metrics"].items()))
```
"""


def processes(project, word):
    """Those of this project's run whose command has a word in it."""
    found = []
    for p in psutil.process_iter():
        try:
            if word in " ".join(p.cmdline()) and Path(p.cwd()) == project:
                found.append(p)
        except psutil.Error:
            pass
    return found


def test_ten_kills_at_random_moments_end_in_the_tables_of_an_undisturbed_run(
        folders, undisturbed, tmp_path):
    """kill -9 of the runner, of its workers, or of both, and the next run is started at once."""
    project = tmp_path / "project"
    (project / "book").mkdir(parents=True)
    (project / "profiles").mkdir()
    for name in ("Snakefile", "tools/quick.py", "tools/run_chapter.py", "tools/parameters.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text((ROOT / name).read_text())
    for room in ("zu",):
        (project / room).symlink_to(ROOT / room)
    (project / "_toc.yml").write_text("format: jb-book\nroot: other\n")
    (project / "profiles/test.yaml").write_text("{}\n")
    (project / "book/other.md").write_text(CHAPTER.format(model=str(folders["llama"]), run=RUN))
    end = project / "build/executed/other.ipynb"
    environment = os.environ | {"ZU_CACHE": str(tmp_path / "cache"),
                                "PATH": str(Path(sys.executable).parent) + os.pathsep
                                + os.environ["PATH"]}

    def make():
        command = ["snakemake", "--cores", "2", "--config", "profile=test", "--nolock",
                   "--rerun-incomplete", "--scheduler", "greedy", str(end.relative_to(project))]
        return subprocess.Popen([sys.executable, "-m", *command], cwd=project, env=environment,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    began = time.monotonic()
    run = make()
    out, _ = run.communicate()
    assert run.returncode == 0, out
    whole, chance, hits = time.monotonic() - began, random.Random(4), 0
    for attempt in range(25):  # a kill that comes too late, when all is done, does not count
        end.unlink(missing_ok=True)  # each time there is something left to do
        records = sorted((project / "build/records").rglob("*.json"))
        for record in chance.sample(records, k=min(3 * (attempt % 3), len(records))):
            record.unlink()
        run = make()
        began, wait, workers = time.monotonic(), chance.uniform(0.1, 0.9) * whole, []
        while run.poll() is None and (time.monotonic() - began < wait or hits % 3 and not workers):
            time.sleep(0.05)
            workers = processes(project, "run_chapter") + processes(project, "ipykernel")
        hit = False
        for victim in [*([run] if hits % 3 != 1 and run.poll() is None else []),
                       *(workers if hits % 3 else [])]:
            try:
                victim.kill()
                hit = True
            except psutil.NoSuchProcess:
                pass
        # the runner lives on, and says that a chapter failed or has finished before
        if hits % 3 == 1:
            run.communicate()
        else:
            run.wait()
        hits += hit
        if hits == 10:
            break
        whole *= 1 if hit else 0.8  # with most records there it takes less time
    assert hits == 10
    run = make()
    out, _ = run.communicate()
    assert run.returncode == 0, out
    assert table(project / "build/records") == undisturbed
    notebook = json.loads(end.read_text())
    printed = "".join("".join(o.get("text", ""))
                      for o in notebook["cells"][-1]["outputs"]).splitlines()
    shown = {f"{r['method']} {r['seed']} {sorted(r['metrics'].items())}"
             for r in read_records(project / "build/records")}
    assert len(printed) == 12 and set(printed) == shown
    time.sleep(2)
    assert not litter(project, tmp_path / "cache") and not processes(project, "run_chapter")


def test_a_chapter_whose_shell_was_killed_ends_within_seconds(tmp_path):
    import nbformat

    cell = "import time; open('began', 'w').close(); time.sleep(300)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]),
                   tmp_path / "long.ipynb")
    command = (f"{sys.executable} {ROOT}/tools/run_chapter.py long.ipynb out.ipynb "
               "--log long.log --page long & wait")
    shell = subprocess.Popen(["bash", "-c", command], cwd=tmp_path, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while not (tmp_path / "began").exists():
        assert time.monotonic() - began < 120 and shell.poll() is None
        time.sleep(0.1)
    assert processes(tmp_path, "run_chapter") and processes(tmp_path, "ipykernel")
    shell.kill()
    shell.wait()
    began = time.monotonic()
    while processes(tmp_path, "run_chapter") or processes(tmp_path, "ipykernel"):
        assert time.monotonic() - began < 30
        time.sleep(0.2)


def test_a_make_that_is_ended_takes_its_chapters_along(tmp_path):
    tools = ("tools/one_at_a_time.py", "tools/quick.py", "tools/run_chapter.py",
             "tools/parameters.py", "tools/cluster.py")
    for name in ("Makefile", "Snakefile", *tools):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    for room in ("book", "profiles"):
        (tmp_path / room).mkdir()
    for name in ("_config.yml", "references.bib"):
        (tmp_path / name).touch()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: other\n")
    (tmp_path / "profiles/test.yaml").write_text("{}\n")
    head = CHAPTER[:CHAPTER.index("```")].format()
    code = "import time\nopen('began', 'w').close()\ntime.sleep(300)\n"
    cell = f"```{{code-cell}} ipython3\n{code}```\n"
    (tmp_path / "book/other.md").write_text(head + cell)
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    make = subprocess.Popen(["make", "book", "VENV=", "PROFILE=test"], cwd=tmp_path,
                            env=os.environ | {"PATH": path},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    began = time.monotonic()
    while not (tmp_path / "began").exists():
        assert time.monotonic() - began < 120 and make.poll() is None, make.communicate()
        time.sleep(0.1)
    words = ("one_at_a_time", "snakemake", "run_chapter", "ipykernel")
    assert all(processes(tmp_path, word) for word in words)
    make.terminate()
    make.wait()
    began = time.monotonic()
    while [p for word in words for p in processes(tmp_path, word)]:
        assert time.monotonic() - began < 30
        time.sleep(0.2)
