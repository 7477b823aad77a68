"""The chapters' kernels: IPython's, forked from one process that has imported what chapters import.

Each of the book's thirty kernels would import the same 3,000 modules, for ten seconds and more on a slow core. The
server (`python tools/warm_ipykernel.py serve FOLDER PID`) does that once, when the first kernel is asked for, and ends
with process PID. What Jupyter starts as a kernel asks it to fork, waits, and passes interrupts on; when it is gone, its
fork ends. Where there is no server in $ZU_KERNELS for the kernel's number of threads, the kernel imports for itself.
"""
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress


def launch():
    from ipykernel.kernelapp import launch_new_instance

    del sys.path[0]  # tools/; IPython puts the folder it runs in there
    gc.set_threshold(100_000, 50, 50)  # looking for garbage among so many modules takes long, and there is none
    launch_new_instance()


def load():
    """What most chapters import. Nothing here may start a thread or touch a GPU: neither survives a fork."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # which IPython would set, but later
    gc.disable()
    import ipykernel.kernelapp  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import seaborn  # noqa: F401
    import torch
    from myst_nb import glue  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    import zu.book.figures
    import zu.experiment.tasks
    import zu.experiment.tracing  # noqa: F401

    if torch.cuda.is_available():
        sys.exit()
    gc.enable()
    gc.freeze()


def serve(folder, parent):
    own = os.getpid()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(f"{folder}/{os.environ['OMP_NUM_THREADS']}")
    door.listen(64)
    door.settimeout(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    try:
        while os.getppid() == parent:
            try:
                caller, _ = door.accept()
            except TimeoutError:
                continue
            if "torch" not in sys.modules:
                load()
            message, files, *_ = socket.recv_fds(caller, 2**20, 3)
            if not (child := os.fork()):
                door.close()
                return become(caller, files, **json.loads(message))
            with suppress(OSError):  # who asked may be gone, and its fork ends as well
                caller.send(str(child).encode())
            caller.close()
            for file in files:
                os.close(file)
    finally:
        if os.getpid() == own:
            shutil.rmtree(folder)


def become(caller, files, argv, folder, environment):
    """The kernel that the caller was started as."""
    def watch():
        caller.recv(1)
        os._exit(1)

    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    environment.pop("JPY_PARENT_PID", None)  # which is the caller's parent: the caller looks after it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    threading.Thread(target=watch, daemon=True).start()
    launch()
    caller.send(b"done")


def ask():
    """Have this kernel run in a fork, to its end; return where there is none to be had."""
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        try:
            server.connect(f"{os.environ['ZU_KERNELS']}/{os.environ['OMP_NUM_THREADS']}")
            what = {"argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}
            socket.send_fds(server, [json.dumps(what).encode()], [0, 1, 2])
            child = int(server.recv(64))
        except (KeyError, OSError, ValueError):
            return
        signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
        server.settimeout(1)
        while os.getppid() == parent:
            try:
                os._exit(0 if server.recv(64) else 1)
            except TimeoutError:
                pass
        os._exit(1)


if sys.argv[1:2] == ["serve"]:
    serve(sys.argv[2], int(sys.argv[3]))
else:
    if "ZU_KERNELS" in os.environ:  # never where there is no such kind of socket
        ask()
    launch()
