"""A Slurm cluster: whether it accepts a profile's requests, how to poll it, why a job ended.

With a profile of `executor: slurm` (`make book WHERE=slurm`), users learn what the cluster refuses
before anything is submitted, and afterwards why a job failed.
"""
import importlib.util
import re
import shlex
import shutil
import subprocess
from pathlib import Path

PLUGIN = "snakemake_executor_plugin_slurm"
#: The options of sbatch for the resources of Snakemake's plugin.
OPTIONS = {"slurm_account": "--account", "slurm_partition": "--partition", "runtime": "--time",
           "constraint": "--constraint", "qos": "--qos", "mem_mb": "--mem",
           "mem_mb_per_cpu": "--mem-per-cpu", "cpus_per_task": "--cpus-per-task",
           "gres": "--gres", "gpu": "--gpus"}
#: Lines of a job's log that say why it ended.
ENDS = re.compile(r"slurmstepd: error|srun: error|srun: fatal|oom-kill|Killed|No space left")


class ClusterError(ValueError):
    """The cluster refuses what a profile asks for; the message says what to change."""


def profile_of(arguments):
    """The file and the contents of Snakemake's profile; (None, {}) without one."""
    import yaml  # here, since no other start of make needs it

    if "--workflow-profile" not in arguments:
        return None, {}
    folder = Path(arguments[arguments.index("--workflow-profile") + 1])
    file = folder / "config.yaml"
    if not file.exists():
        there = ", ".join(sorted(path.parent.name for path in folder.parent.glob("*/config.yaml")))
        raise ClusterError(f"there is no {file}: WHERE is one of {there or 'none'}")
    return file, yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def arguments_for(file, profile):
    """More arguments for Snakemake, for a profile that sends work to Slurm.

    Parameters
    ----------
    file : Path
        The profile's file, for messages.
    profile : dict
        The profile's contents.

    Returns
    -------
    list of str
        Arguments that say how to poll this cluster for the state of jobs.

    Raises
    ------
    ClusterError
        If Slurm or the plugin is missing, or Slurm refuses a job of this profile.
    """
    lacking = [tool for tool in ("sbatch", "squeue", "sinfo", "scontrol") if not shutil.which(tool)]
    if lacking:
        raise ClusterError(f"{file} sends work to Slurm, but there is no {lacking[0]} here: start "
                           "make on a login node of the cluster")
    if importlib.util.find_spec(PLUGIN) is None:
        raise ClusterError(f'{file} sends work to Slurm: pip install -e ".[slurm]"')
    _try(file, profile.get("default-resources") or {})
    return _how_to_ask(profile)


def _say(*command):
    """The status and the output of a Slurm command."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.returncode, (run.stdout if not run.returncode else run.stderr).strip()


def _try(file, asked):
    """Raise `ClusterError` unless Slurm would accept a job of this profile; none is submitted."""
    given = [f"{OPTIONS[name]}={value}" for name, value in asked.items()
             if name in OPTIONS and not (name == "runtime" and isinstance(value, str))]
    extra = shlex.split(asked.get("slurm_extra", ""))
    refused, why = _say("sbatch", "--test-only", "--wrap=true", *given, *extra)
    if not refused:
        return
    form = "%R: %D nodes, CPUs %c, memory %m MB, GPUs and the like %G, at most %l"
    _, nodes = _say("sinfo", "--noheader", "--exact", f"--format={form}")
    raise ClusterError(
        f"Slurm refuses a job with what {file} asks for ({' '.join([*given, *extra])}):\n  "
        + why.replace("\n", "\n  ") + "\n  The partitions:\n    " + nodes.replace("\n", "\n    ")
        + f"\n  Change default-resources in {file}; profiles/slurm-cpu (WHERE=slurm-cpu) asks for "
        "no GPU.")


def _how_to_ask(profile):
    """How Snakemake should poll for the state of jobs; without accounting, sacct never answers."""
    failed, config = _say("scontrol", "show", "config")
    if failed:
        raise ClusterError(f"Slurm's controller does not answer: {config}")
    said = dict(re.findall(r"^(\w+)\s*= (.*)$", config, re.M))
    if not said.get("AccountingStorageType", "").endswith("none"):
        return []
    extra = []
    if "slurm-status-command" not in profile:
        extra += ["--slurm-status-command", "squeue"]
    # Slurm forgets a finished job after this time; by then it should be polled three times
    age = int(re.match(r"\d*", said.get("MinJobAge", ""))[0] or 0)
    every = int(profile.get("slurm-init-seconds-before-status-checks", 40))
    if 0 < age < 3 * every:
        extra += ["--slurm-init-seconds-before-status-checks", str(max(age // 3, 1))]
    return extra


def causes(log, words=""):
    """Why jobs failed, according to Slurm and Snakemake's log.

    Parameters
    ----------
    log : str
        Snakemake's log.
    words : str
        The chapters' own messages; jobs that these report as failed are left out.

    Returns
    -------
    str
        A few lines per job.
    """
    said = {}
    for block in re.split(r"\n(?=\[)", log):
        state = re.search(r"SLURM-job '(\w+)' failed, SLURM status is: '(\w+)'", block)
        refused = re.search(r"sbatch failed\. The error message was '([^']*)'", block)
        file = re.search(r"(\S*slurm_logs\S+\.log)", block)
        outputs = re.findall(r"^ *output: (?:\S*/)?(\S+)\.ipynb", block, re.M)
        if "rror in " not in block or any(f"{name} FAILED" in words for name in outputs):
            continue
        lines = [f"Slurm's state of job {state[1]} is {state[2]}"] if state else []
        lines += [f"Slurm refused it: {refused[1]}"] if refused else []
        lines += _tail(Path(file[1])) if file else []
        if lines:
            names = ", ".join(dict.fromkeys(outputs)) or "a job"
            said[names] = [f"  {names} did not end well:", *(f"    {x}" for x in lines)]
    return "".join(f"{line}\n" for lines in said.values() for line in lines)


def _tail(file):
    """The lines of a job's log that say why it ended."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if ENDS.search(line)][-3:]
