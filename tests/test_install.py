"""The package as others get it: a wheel, a name of its own, nothing a user does not need."""
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*args, cwd, **env):
    """What a command says away from the clone, with nothing of it on the path; it must not fail."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | env
    done = subprocess.run([str(a) for a in args], cwd=cwd, env=clean, capture_output=True,
                          text=True, timeout=900)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.whole
def test_a_wheel_installed_away_from_the_clone_runs_a_block_to_copy(folders, tmp_path):
    quiet = ("--no-deps", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *quiet, "-w", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", *quiet, wheel, cwd=tmp_path)
    # what zu needs is taken from here, and not installed once more: a path in a .pth file brings no
    # editable install
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])",
                    cwd=tmp_path).strip())
    (site / "needs.pth").write_text(sysconfig.get_paths()["purelib"])
    text = (ROOT / "book" / "few_shot.md").read_text().split("## Copy this")[1]
    block = re.search(r"```(?:python|\{code-cell\} ipython3)\n(?::.*\n)*(.*?)```", text,
                      re.S).group(1)
    small = (f"import zu\nassert str({str(site)!r}) in zu.__file__\n"
             "load, sample = zu.load_model, zu.Facts.sample\n"
             f"zu.load_model = lambda name: load({str(folders['llama'])!r}, device='cpu')\n"
             "zu.Facts.sample = lambda self, n, seed: sample(self, min(n, 3), seed)\n")
    (tmp_path / "block.py").write_text(small + block)
    run(python, tmp_path / "block.py", cwd=tmp_path, ZU_CACHE=str(tmp_path / "cache"))


@pytest.mark.whole
def test_zu_is_found_from_the_folder_that_holds_a_clone_of_that_name(tmp_path):
    # a clone's folder has no __init__.py: to Python it looks like a namespace
    (tmp_path / "zu").mkdir()
    said = run(sys.executable, "-c", "import zu; print(zu.load_model.__module__)", cwd=tmp_path)
    assert said.strip() == "zu.models"


def test_import_zu_loads_nothing_of_the_extras_and_its_tasks_no_harness(tmp_path):
    extras = {"matplotlib", "pandas", "datasets", "lm_eval", "scipy", "IPython", "seaborn",
              "snakemake", "peft"}
    loaded = "{m.partition('.')[0] for m in sys.modules}"
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
            f"import zu; print(sorted({loaded} & {extras})); import zu.experiment.tasks; "
            f"print(sorted({loaded} & {{'datasets', 'lm_eval'}}))")
    assert run(sys.executable, "-c", code, cwd=tmp_path).split() == ["[]", "[]"]


def test_nothing_tells_anyone_to_install_another_projects_package():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.split()
    texts = [p for p in files if p.endswith((".md", ".py", ".yaml", ".yml", ".toml", ".txt"))
             or p == "Makefile"]
    assert {"README.md", "Makefile", "pyproject.toml"} < set(texts)
    wrong = re.compile(r"pip install [^\n`]*(?<![\w./-])[\"']?zu(?:\[|[\"'\s=]|$)")
    assert not [p for p in texts if p != "tests/test_install.py"
                and wrong.search((ROOT / p).read_text())]
