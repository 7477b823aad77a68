"""Start Snakemake, only one at a time in a folder: `python tools/one_at_a_time.py ARGUMENT ...`.

The Makefile calls this. Two at once would remove each other's files, so a second one says who is
running, and waits until the first has ended.
"""
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster

LOCK, LOG = Path("build/lock"), Path("build/logs/snakemake.log")
#: Messages of chapters that run elsewhere, on a disk that this machine shares.
WORDS = Path("build/logs/words.log")


def end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def take():
    """Wait for the lock; returns an open file that says who holds it, and since when.

    It is the kernel's lock on that file, which ends with the last process that holds it, so a file
    left behind locks nothing. Each try opens the file again, since `make clean` may have removed
    it.
    """
    for tries in itertools.count():
        LOG.parent.mkdir(parents=True, exist_ok=True)
        lock = LOCK.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tries == 1:  # by then the holder has written its name
                lock.seek(0)
                print(f"  make runs here already ({lock.read() or 'another process'}): this one "
                      "waits until that has ended; Ctrl-C ends only this one", flush=True)
            lock.close()
            time.sleep(0.2)
            continue
        except OSError as error:  # the shared disks of some clusters have no locks
            print(f"  {LOCK} cannot be locked ({error.strerror}): do not start a second make here",
                  flush=True)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.truncate(0)
        print(f"process {os.getpid()}, since {since}", end="", file=lock, flush=True)
        return lock


def run(lock, arguments):
    """Run Snakemake with its own messages going to the log; returns this process's exit status.

    Snakemake holds the lock too, since it may outlive this process for a moment; its children do
    not.
    """
    with LOG.open("w", encoding="utf-8") as log:
        snakemake = subprocess.Popen([sys.executable, "-m", "snakemake", *arguments], stderr=log,
                                     pass_fds=[lock.fileno()],
                                     env=os.environ | {"END_WITH_PARENT": str(os.getpid())})
    interrupted = False
    while True:
        try:
            failed = snakemake.wait()
        except KeyboardInterrupt:  # Snakemake was interrupted as well, and stops its jobs first
            interrupted = True
        else:
            return 130 if failed and interrupted else 1 if failed else 0


def reason():
    """Why Snakemake failed, without the places in its files; "" if a rule has reported it."""
    text = LOG.read_text(encoding="utf-8", errors="replace")
    if "a job execution failed" in text:
        words = WORDS.read_text(encoding="utf-8", errors="replace") if WORDS.exists() else ""
        return cluster.causes(text, words)
    return "".join(line for line in text.splitlines(keepends=True)
                   if not line.startswith(("WorkflowError in file", "  File ")))


def follow():
    """Pass on the messages of chapters on other machines as they arrive."""
    WORDS.write_text("", encoding="utf-8")
    os.environ["ZU_WORDS"] = str(WORDS.resolve())

    def read():
        with WORDS.open(encoding="utf-8", errors="replace") as words:
            while True:
                if line := words.readline():
                    print(line, end="", flush=True)
                else:
                    time.sleep(0.5)

    threading.Thread(target=read, daemon=True).start()


def main(arguments):
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        file, profile = cluster.profile_of(arguments)
        elsewhere = profile.get("executor", "local") == "slurm"
        if elsewhere:
            arguments += cluster.arguments_for(file, profile)
            arguments.remove("rules")  # of what is quiet: what became of a job stands in the log
        lock = take()
        if elsewhere:
            follow()
        status = run(lock, arguments)
        print(reason() if status == 1 else "", end="", flush=True)
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, cluster.ClusterError) as error:
        sys.exit(f"  {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
