"""A Slurm cluster of one node, this machine, for tests: its own munge, controller and daemon.

`python tests/slurm_node.py FOLDER` starts one there and says how to reach it; Ctrl-C ends it.
It needs Debian's slurm-wlm and munge, whose services need not run.
"""
from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
#: Two partitions of the same node: a job in `urgent` takes the place of one in `main`, which is
#: put back into its queue.
SETTINGS = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,requeue_delay=1
ReturnToService=2
MpiDefault=none
KillWait=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={host} Default=NO State=UP PriorityTier=2 PreemptMode=OFF
"""


def lacking() -> list[str]:
    """Which programs are not at hand."""
    return [tool for tool in TOOLS if not _program(tool)]


def _program(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Node:
    """A cluster of one node in a folder.

    Attributes
    ----------
    folder : Path
        Where all of it lies.
    cpus, memory : int
        What its node says that it has, memory in MB.
    outside : dict
        The environment that it is started in.
    """

    folder: Path
    cpus: int = 2
    memory: int = 8000
    outside: dict[str, str] = field(default_factory=lambda: {**os.environ})
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to find this cluster: an environment to run them in."""
        path = f"{self.folder / 'bin'}{os.pathsep}{self.outside['PATH']}"
        return self.outside | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> Node:
        """Write the settings, start the daemons and wait until the node is idle."""
        for name in ("state", "spool", "munge", "bin"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(SETTINGS.format(
            host=host, user=getpass.getuser(), folder=self.folder, ports=_free_ports(2),
            cpus=self.cpus, memory=self.memory))
        # Snakemake's plugin forgets SLURM_CONF on its way to srun
        srun = self.folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec '
                        f'{_program("srun")} "$@"\n')
        srun.chmod(0o755)
        for daemon in ("munged", "slurmctld", "slurmd"):
            self.start_daemon(daemon)
        self._until_idle()
        return self

    def start_daemon(self, name: str) -> None:
        """Start one of the daemons; it runs on until `stop_daemon`."""
        munge = self.folder / "munge"
        given = {"munged": ["--foreground", "--force", f"--key-file={munge}/key",
                            f"--socket={munge}/socket", f"--pid-file={munge}/pid",
                            f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
                 "slurmctld": ["-D"], "slurmd": ["-D"]}[name]
        with (self.folder / f"{name}.out").open("a") as out:
            self.daemons[name] = subprocess.Popen([str(_program(name)), *given], stdout=out,
                                                  stderr=out, env=self.environment)
        time.sleep(0.3)

    def stop_daemon(self, name: str) -> None:
        """End one of the daemons."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """Cancel all jobs and end all daemons."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--user", getpass.getuser())
        for name in reversed([*self.daemons]):
            self.stop_daemon(name)

    def run(self, *command: str) -> str:
        """What one of Slurm's commands says; what it complains of is in there too."""
        return subprocess.run(command, env=self.environment, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def job_of(self, page: str) -> str:
        """The number of the job that runs a chapter; "" where none does."""
        for line in self.run("squeue", "--noheader", "--format=%i %T %k").splitlines():
            number, state, comment = line.split(maxsplit=2)
            if state == "RUNNING" and comment.endswith(page):
                return number
        return ""

    def _until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while "idle" not in (said := self.run("sinfo", "--noheader", "--format=%t")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the node of {self.folder} does not become idle: {said}")
            time.sleep(0.2)


if __name__ == "__main__":
    node = Node(Path(sys.argv[1]).resolve()).start()
    print(f"export SLURM_CONF={node.folder}/slurm.conf PATH={node.folder}/bin:$PATH", flush=True)
    try:
        node.daemons["slurmctld"].wait()
    except KeyboardInterrupt:
        pass
    finally:
        node.stop()
