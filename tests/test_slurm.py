"""`make` on a Slurm cluster of one node, which is set up for the test (tests/slurm_node.py)."""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time

import pytest

from slurm_node import Node, lacking
from test_pipeline import (  # noqa: F401
    COMMAND,
    ENVIRONMENT,
    HEAD,
    KEPT,
    ROOT,
    built,
    project,
    until,
)

sys.path.insert(0, str(ROOT / "tools"))
import cluster  # noqa: E402

pytestmark = pytest.mark.whole
missing = [*lacking(), *([] if importlib.util.find_spec(cluster.PLUGIN) else ["the plugin"])]
needs_slurm = pytest.mark.skipif(bool(missing), reason=f"not at hand: {', '.join(missing)}")

#: A chapter that writes a record a second, says when each was made, and says what all of them say.
SLOW = HEAD + """
# Slow

It does what one with load_model does.

```{code-cell} ipython3
import json
import time
from pathlib import Path
folder = Path("build/records/slow")
folder.mkdir(parents=True, exist_ok=True)
for i in range(12):
    record = folder / f"{i}.json"
    if not record.exists():
        time.sleep(1)
        record.write_text(json.dumps({"value": i * i, "made": time.time()}))
print("the sum is", sum(json.loads((folder / f"{i}.json").read_text())["value"] for i in range(12)))
```
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    running = Node(tmp_path_factory.mktemp("slurm"), outside=ENVIRONMENT).start()
    yield running
    running.stop()


@pytest.fixture
def cluster_project(project):  # noqa: F811
    """The small book, with the profiles of the clusters, and what this node has."""
    for where in ("slurm", "slurm-cpu"):
        shutil.copytree(ROOT / "profiles" / where, project / "profiles" / where)
    shutil.copytree(ROOT / "results", project / "results",
                    ignore=lambda _, names: [n for n in names if not n.startswith("bench")])
    settings = project / "profiles/slurm-cpu/config.yaml"
    text = settings.read_text()
    for old, new in (("cpus_per_task: 4", "cpus_per_task: 2"), ("mem_mb: 16000", "mem_mb: 4000"),
                     ("status-checks: 20", "status-checks: 1"),
                     ("latency-wait: 60", "latency-wait: 5")):
        assert old in text
        text = text.replace(old, new)
    settings.write_text(text)
    return project


def make(node, project, *arguments):  # noqa: F811
    return subprocess.run([*COMMAND, *arguments], cwd=project, env=node.environment, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def start(node, project, said):  # noqa: F811
    with open(said, "w") as out:
        return subprocess.Popen([*COMMAND, "book", "WHERE=slurm-cpu"], cwd=project,
                                env=node.environment, stdin=subprocess.DEVNULL, stdout=out,
                                stderr=out)


@needs_slurm
def test_what_the_cluster_refuses_is_said_before_anything_is_sent(node, cluster_project):
    run = make(node, cluster_project, "book", "WHERE=slurm")
    assert run.returncode == 2
    assert "Slurm refuses a job with what profiles/slurm/config.yaml asks for" in run.stdout
    assert "Invalid generic resource (gres) specification" in run.stdout
    assert "main: 1 nodes, CPUs 2, memory 8000 MB" in run.stdout and "slurm-cpu" in run.stdout
    assert not node.run("squeue", "--noheader", "--states=all").strip()
    assert "WHERE is one of slurm, slurm-cpu" in make(
        node, cluster_project, "book", "WHERE=nowhere").stdout


@needs_slurm
def test_chapters_run_as_jobs_short_ones_together_and_the_pages_are_the_same(
        node, cluster_project):
    page = cluster_project / "build/html/stand_in.html"
    plain = re.sub(r"last run.*?s,", "", page.read_text())
    shutil.rmtree(cluster_project / "build")
    run = make(node, cluster_project, "book", "WHERE=slurm-cpu")
    assert run.returncode == 0, run.stdout + (
        cluster_project / "build/logs/snakemake.log").read_text()
    assert {*re.findall(r"(\w+) done", run.stdout)} == {"stand_in", "other", "html"}
    jobs = re.findall(r"has been submitted with SLURM jobid (\d+)",
                      (cluster_project / "build/logs/snakemake.log").read_text())
    assert len(jobs) == 1
    assert re.sub(r"last run.*?s,", "", page.read_text()) == plain
    again = make(node, cluster_project, "book", "WHERE=slurm-cpu")
    assert again.returncode == 0 and "done" not in again.stdout


@needs_slurm
def test_a_chapter_that_fails_there_says_why_and_so_does_slurm(node, cluster_project, tmp_path):
    settings = cluster_project / "profiles/slurm-cpu/config.yaml"
    settings.write_text(settings.read_text().replace("retries: 2", "retries: 0"))
    other = cluster_project / "book/other.md"
    other.write_text(HEAD + "\n# Other\n\n```{code-cell} ipython3\nraise ValueError('broken')\n"
                     "```\n")
    run = make(node, cluster_project, "book", "WHERE=slurm-cpu")
    assert run.returncode == 2
    assert "other FAILED" in run.stdout and "ValueError: broken" in run.stdout
    assert "did not end well" not in run.stdout
    other.write_text(SLOW)
    building = start(node, cluster_project, tmp_path / "said")
    until(lambda: node.job_of("other"), "the chapter runs")
    number = node.job_of("other")
    node.run("scancel", number)
    assert building.wait(120) == 2
    said = (tmp_path / "said").read_text()
    assert "other did not end well" in said
    assert f"Slurm's state of job {number} is CANCELLED" in said


@needs_slurm
@pytest.mark.parametrize("what", ["killed", "preempted", "controller"])
def test_after_a_loss_the_chapter_goes_on_from_its_records(node, cluster_project, tmp_path, what):
    (cluster_project / "book/other.md").write_text(SLOW)
    records = cluster_project / "build/records/slow"
    building = start(node, cluster_project, tmp_path / "said")
    until(lambda: len([*records.glob("*.json")]) >= 3, "three records")
    if what == "killed":
        node.run("scancel", node.job_of("other"))
    elif what == "preempted":
        urgent = node.run("sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=2",
                          "--output=/dev/null", "--wrap=sleep 2").strip()
        until(lambda: "PENDING" in node.run("squeue", "-h", "-o", "%T", "-p", "main"), "its turn")
        assert urgent.isdigit()
    else:
        node.stop_daemon("slurmctld")
        time.sleep(5)
        node.start_daemon("slurmctld")
    lost = time.time()
    assert building.wait(240) == 0, (tmp_path / "said").read_text() + (
        cluster_project / "build/logs/snakemake.log").read_text()
    assert "the sum is 506" in (cluster_project / "build/html/other.html").read_text()
    made = [json.loads((records / f"{i}.json").read_text())["made"] for i in range(12)]
    assert sum(t < lost for t in made) >= 3 and made == sorted(made)


@needs_slurm
def test_evidence_is_made_there_too(node, cluster_project):
    (cluster_project / "book/other.md").write_text(KEPT)
    run = make(node, cluster_project, "evidence", "WHERE=slurm-cpu")
    assert run.returncode == 0, run.stdout
    assert run.stdout.splitlines()[-1] == "results/other.json: 1 new, 1 in all"
