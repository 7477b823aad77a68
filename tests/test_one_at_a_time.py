"""Two runs at once, and killed ones: none is in another's way. Snakemake is a stand-in."""
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.whole

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))
SNAKEMAKE = """
import os, sys, time
from pathlib import Path
name, code, *words = sys.argv[1:]
print(name, "runs", flush=True)
print(*words or [f"{name} has its reason"], sep=chr(10), file=sys.stderr, flush=True)
try:
    Path(f"{name}.new").write_text(str(os.getpid()))
    os.replace(f"{name}.new", f"{name}.pid")
    while not Path(f"{name}.go").exists():
        time.sleep(0.05)
except KeyboardInterrupt:
    time.sleep(1)
    Path(f"{name}.tidied").touch()
sys.exit(int(code))
"""


def until(true, what):
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < 60, what
        time.sleep(0.05)


def gone(pid):
    """Whether a process has ended, seen by its parent or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Runs:
    """Runs in a folder whose Snakemake goes on until NAME.go is there."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        (folder / "snakemake.py").write_text(SNAKEMAKE)

    def start(self, name, code=0, *words):
        with open(self.folder / f"{name}.txt", "w") as out:
            command = [sys.executable, TOOLS / "one_at_a_time.py", name, str(code), *words]
            # tests that run in the background may have been told to ignore interrupts: these do not
            run = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=out,
                                   start_new_session=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.started.append(run)
        return run

    def said(self, name):
        return (self.folder / f"{name}.txt").read_text()

    def go(self, *names):
        for name in names:
            (self.folder / f"{name}.go").touch()

    def snakemake(self, name):
        """The process number of its Snakemake, once that runs."""
        file = self.folder / f"{name}.pid"
        until(file.exists, f"{name} never ran")
        return int(file.read_text())

    def waits(self, name):
        until(lambda: "already" in self.said(name), f"{name} does not wait")


@pytest.fixture
def runs(tmp_path):
    runs = Runs(tmp_path)
    yield runs
    for run in runs.started:
        run.kill()
        run.wait()
    for file in tmp_path.glob("*.pid"):
        if psutil.pid_exists(pid := int(file.read_text())):
            os.kill(pid, signal.SIGKILL)


def test_a_second_run_says_who_runs_and_waits_until_that_has_ended(runs):
    one = runs.start("one")
    runs.snakemake("one")
    two = runs.start("two")
    runs.waits("two")
    assert re.search(rf"\(process {one.pid}, since \d+-\d+-\d+ \d+:\d+:\d+\)", runs.said("two"))
    assert "two runs" not in runs.said("two")
    runs.go("one", "two")
    assert (one.wait(60), two.wait(60)) == (0, 0)
    assert runs.said("one") == "one runs\n" and runs.said("two").splitlines()[1:] == ["two runs"]


def test_each_of_two_runs_that_fail_says_its_own_reason(runs):
    one = runs.start("one", 3)
    runs.snakemake("one")
    two = runs.start("two", 1)
    runs.waits("two")
    assert (runs.folder / "build/logs/snakemake.log").read_text() == "one has its reason\n"
    runs.go("one", "two")
    assert (one.wait(60), two.wait(60)) == (1, 1)
    assert runs.said("one") == "one runs\none has its reason\n"
    assert runs.said("two").splitlines()[1:] == ["two runs", "two has its reason"]


def test_a_reason_leaves_out_places_in_snakemakes_files_and_what_a_rule_has_said(runs):
    runs.go("one", "two")
    places = ["WorkflowError in file Snakefile, line 1:", "  File Snakefile, line 1"]
    assert runs.start("one", 1, *places, "there is no profile").wait(60) == 1
    assert runs.said("one") == "one runs\nthere is no profile\n"
    assert runs.start("two", 1, "Exiting because a job execution failed.").wait(60) == 1
    assert runs.said("two") == "two runs\n"


def test_a_lock_whose_holder_was_killed_is_no_lock(runs):
    one = runs.start("one")
    snakemake = runs.snakemake("one")
    one.kill()
    one.wait()
    os.kill(snakemake, signal.SIGKILL)
    until(lambda: gone(snakemake), "it lives")
    assert f"process {one.pid}" in (runs.folder / "build/lock").read_text()
    runs.go("two")
    assert runs.start("two").wait(60) == 0
    assert runs.said("two") == "two runs\n"


def test_the_lock_holds_until_snakemake_itself_has_ended(runs):
    one = runs.start("one")
    snakemake = runs.snakemake("one")
    one.kill()
    one.wait()
    two = runs.start("two")
    runs.waits("two")
    assert psutil.pid_exists(snakemake)
    runs.go("one", "two")
    assert two.wait(60) == 0


def test_an_interrupt_ends_the_one_that_waits_alone(runs):
    one = runs.start("one")
    runs.snakemake("one")
    two = runs.start("two")
    runs.waits("two")
    two.send_signal(signal.SIGINT)
    assert two.wait(60) == 130 and len(runs.said("two").splitlines()) == 1
    assert one.poll() is None
    runs.go("one")
    assert one.wait(60) == 0


def test_an_interrupt_lets_snakemake_stop_its_jobs_first(runs):
    one = runs.start("one", 1)
    runs.snakemake("one")
    os.killpg(one.pid, signal.SIGINT)
    assert one.wait(60) == 130 and (runs.folder / "one.tidied").exists()
    assert runs.said("one") == "one runs\n"  # who interrupts knows the reason


def test_one_that_waits_ends_with_the_make_that_started_it(runs):
    runs.start("one")
    runs.snakemake("one")
    command = f"{sys.executable} {TOOLS}/one_at_a_time.py two 0 > two.txt & echo $! > two.pid; wait"
    shell = subprocess.Popen(["bash", "-c", command], cwd=runs.folder)
    runs.started.append(shell)
    until((runs.folder / "two.txt").exists, "it never started")
    runs.waits("two")
    pid = runs.snakemake("two")
    shell.kill()
    shell.wait()
    until(lambda: gone(pid), "it waits on")


def test_where_a_disk_has_no_locks_it_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    import one_at_a_time

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(one_at_a_time.fcntl, "flock", flock)
    with one_at_a_time.take():
        assert "build/lock cannot be locked (Function not implemented)" in capsys.readouterr().out
