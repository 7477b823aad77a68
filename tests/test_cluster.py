"""What is asked of a Slurm cluster, and what is made of its answers; no cluster is needed."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import cluster  # noqa: E402


def test_how_jobs_are_asked_after_fits_the_cluster(monkeypatch):
    config = {"AccountingStorageType": "accounting_storage/slurmdbd", "MinJobAge": "300 sec"}

    def say(*command):
        return 0, "\n".join(f"{name}   = {value}" for name, value in config.items())

    monkeypatch.setattr(cluster, "_say", say)
    assert cluster._how_to_ask({}) == []
    config["AccountingStorageType"] = "accounting_storage/none"
    assert cluster._how_to_ask({}) == ["--slurm-status-command", "squeue"]
    assert cluster._how_to_ask({"slurm-status-command": "sacct"}) == []
    config["MinJobAge"] = "20 sec"
    assert cluster._how_to_ask({})[2:] == ["--slurm-init-seconds-before-status-checks", "6"]
    assert cluster._how_to_ask({"slurm-init-seconds-before-status-checks": 5})[2:] == []
    monkeypatch.setattr(cluster, "_say", lambda *command: (1, "no answer"))
    with pytest.raises(cluster.ClusterError, match="controller does not answer: no answer"):
        cluster._how_to_ask({})


def test_a_profile_is_read_where_one_is_named(tmp_path):
    assert cluster.profile_of(["--cores", "2"]) == (None, {})
    folder = tmp_path / "slurm"
    folder.mkdir()
    with pytest.raises(cluster.ClusterError, match="no .*config.yaml: WHERE is one of none"):
        cluster.profile_of(["--workflow-profile", str(folder)])
    (folder / "config.yaml").write_text("executor: slurm\n")
    assert cluster.profile_of(["--workflow-profile", str(folder)])[1] == {"executor": "slurm"}


def test_without_slurm_or_its_plugin_the_way_out_is_said(monkeypatch):
    monkeypatch.setattr(cluster.shutil, "which", lambda tool: None if tool == "sinfo" else tool)
    with pytest.raises(cluster.ClusterError, match="no sinfo here: start make on a login node"):
        cluster.arguments_for("profiles/slurm/config.yaml", {})
    monkeypatch.setattr(cluster.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cluster.ClusterError, match="pip install -e"):
        cluster.arguments_for("profiles/slurm/config.yaml", {})


def test_slurm_is_asked_for_what_the_profile_names(monkeypatch):
    asked = []

    def say(*command):
        asked.append(command)
        return (1, "no such partition") if command[0] == "sbatch" else (0, "main: 1 nodes")

    monkeypatch.setattr(cluster, "_say", say)
    with pytest.raises(cluster.ClusterError) as refused:
        cluster._try("profiles/x/config.yaml", {
            "slurm_partition": "night", "runtime": "12h", "mem_mb": 5, "gpu": 2, "disk_mb": 9,
            "slurm_extra": "--exclusive --mail-type=END"})
    assert asked[0] == ("sbatch", "--test-only", "--wrap=true", "--partition=night", "--mem=5",
                        "--gpus=2", "--exclusive", "--mail-type=END")
    assert "no such partition" in str(refused.value) and "main: 1 nodes" in str(refused.value)


LOG = """Building DAG of jobs...
[Mon Nov 30 12:00:00 2026]
Error in rule execute:
    message: SLURM-job '16' failed, SLURM status is: 'TIMEOUT'. More
    jobid: 5
    output: build/executed/other.ipynb
    log: build/logs/other.log, {log} (check log file(s) for error details)
[Mon Nov 30 12:00:01 2026]
Error in rule shard:
    message: SLURM sbatch failed. The error message was 'sbatch: error: too much'.
    output: build/shards/few_shot-3.ipynb
[Mon Nov 30 12:00:02 2026]
rule execute:
    output: build/executed/fine.ipynb
    log: {log}
"""


def test_a_job_that_ended_badly_is_named_with_slurms_reason(tmp_path):
    file = tmp_path / "slurm_logs" / "16.log"
    file.parent.mkdir()
    file.write_text("some words\nslurmstepd: error: *** CANCELLED DUE TO TIME LIMIT ***\n")
    log = LOG.format(log=file)
    assert cluster.causes(log) == (
        "  other did not end well:\n"
        "    Slurm's state of job 16 is TIMEOUT\n"
        "    slurmstepd: error: *** CANCELLED DUE TO TIME LIMIT ***\n"
        "  few_shot-3 did not end well:\n"
        "    Slurm refused it: sbatch: error: too much\n")
    assert "other" not in cluster.causes(log, "  other FAILED after 3 s; from x:\n")
    file.unlink()
    assert "TIMEOUT\n  few_shot-3" in cluster.causes(log)
    assert cluster.causes("Building DAG of jobs...\n") == ""
