"""Kernels that are forked from one process: as good as others, and gone when they should be."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from jupyter_client.manager import start_new_kernel

pytestmark = [pytest.mark.whole, pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(),
                                                    reason="no kernel is forked here")]
ROOT = Path(__file__).parents[1]
ABOUT = """
import json, os, sys
print(json.dumps({"warm": "transformers" in sys.modules, "parent": os.getppid(), "pid": os.getpid(),
                  "folder": os.getcwd(), "mine": os.environ.get("MINE"),
                  "tools": any(p.endswith("/tools") for p in sys.path)}))
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(ROOT / "tools/jupyter"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ZU_KERNELS", str(tmp_path))
    serve = ["tools/warm_ipykernel.py", "serve", str(tmp_path), str(os.getpid())]
    run = subprocess.Popen([sys.executable, *serve], cwd=ROOT)
    began = time.monotonic()
    while not (tmp_path / "1").exists():
        assert time.monotonic() - began < 60 and run.poll() is None
        time.sleep(0.05)
    yield run
    run.kill()
    run.wait()


class Kernel:
    def __init__(self, **environment):
        self.manager, self.client = start_new_kernel(startup_timeout=120, kernel_name="python3", cwd=str(ROOT),
                                                     env=os.environ | environment)

    def run(self, code):
        """What it printed, the kinds of its other outputs, and its reply."""
        texts, kinds = [], []

        def hook(message):
            if message["msg_type"] == "stream":
                texts.append(message["content"]["text"])
            elif message["msg_type"] in ("display_data", "error"):
                kinds.append(sorted(message["content"].get("data", [message["content"].get("ename")])))
        reply = self.client.execute_interactive(code, output_hook=hook, timeout=120)
        return "".join(texts), kinds, reply["content"]["status"]

    def about(self):
        return json.loads(self.run(ABOUT)[0])

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


def gone(pid, within=10):
    began = time.monotonic()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - began < within
        time.sleep(0.1)
    return True


def test_a_forked_kernel_is_a_fresh_one_with_everything_imported(server):
    one, two = Kernel(MINE="a"), Kernel(MINE="b")
    try:
        first, second = one.about(), two.about()
        for said, mine in ((first, "a"), (second, "b")):
            assert said["warm"] and said["parent"] == server.pid and said["mine"] == mine
            assert said["folder"] == str(ROOT) and not said["tools"]
        assert first["pid"] != second["pid"]
        one.run("import torch; torch.set_default_dtype(torch.float64); x = 1")
        assert two.run("import torch; print(torch.get_default_dtype(), torch.get_num_threads(), 'x' in globals())")[0] \
            == "torch.float32 1 False\n"
        draw = "import matplotlib.pyplot as plt\nplt.plot([0, 1]);"
        assert one.run(draw)[1] == [["image/png", "text/plain"]]
        # processes of its own, threads, and more than one layer of calls: nothing of it is lost in a fork
        assert two.run("import subprocess; print(subprocess.run(['true']).returncode, torch.ones(9, 9).matmul("
                       "torch.ones(9, 9, requires_grad=True)).sum().backward())")[0] == "0 None\n"
    finally:
        one.end()
        two.end()
    assert gone(first["pid"]) and gone(second["pid"]) and server.poll() is None


def test_a_forked_kernel_is_interrupted_and_dies_with_the_one_that_asked_for_it(server):
    kernel = Kernel()
    said = kernel.about()
    asked = kernel.manager.provisioner.process.pid
    assert asked != said["pid"]
    kernel.client.execute("import time; print('began', flush=True); time.sleep(100)")
    while kernel.client.get_iopub_msg(timeout=30)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    while (reply := kernel.client.get_iopub_msg(timeout=30))["msg_type"] != "error":
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    psutil.Process(asked).kill()
    assert gone(said["pid"])
    kernel.client.stop_channels()
    kernel.manager.cleanup_resources()


@pytest.mark.parametrize("why", ["no server any more", "another number of threads", "never a server"])
def test_a_kernel_without_a_server_imports_for_itself(server, monkeypatch, why):
    if why.startswith("never"):
        monkeypatch.delenv("ZU_KERNELS")
    if why.startswith("no"):
        server.kill()
        server.wait()
    kernel = Kernel(OMP_NUM_THREADS="2" if why.startswith("another") else "1")
    try:
        said = kernel.about()
        assert not said["warm"] and said["pid"] == kernel.manager.provisioner.process.pid and not said["tools"]
    finally:
        kernel.end()


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "k").mkdir()
    start = ("import os, subprocess, sys, time; p = subprocess.Popen([sys.executable, 'tools/warm_ipykernel.py', "
             f"'serve', {str(tmp_path / 'k')!r}, str(os.getpid())]); print(p.pid, flush=True); time.sleep(100)")
    run = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
    pid = int(run.stdout.readline())
    began = time.monotonic()
    while not (tmp_path / "k/1").exists():
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    run.kill()
    run.wait()
    assert gone(pid) and not (tmp_path / "k").exists()
