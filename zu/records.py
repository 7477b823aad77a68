"""Records: what a run found, where it comes from, written whole and read again."""
from __future__ import annotations

import hashlib
import json
import math
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .data.cache import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = "zu-record-1"
PACKAGES = ("torch", "transformers", "numpy", "safetensors")
#: Where the code lies that a record depends on; of its rooms, `book` only shows what there is.
PACKAGE = Path(__file__).parent


def provenance(model: PreTrainedModel) -> dict:
    """Where a record comes from.

    Parameters
    ----------
    model : PreTrainedModel
        Whose device is named.

    Returns
    -------
    dict
        Versions, commit, device, threads, peak memory of the process (bytes), time (UTC).
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        name = platform.machine()
        peak = _peak_memory()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = version_of(package)
    return {
        "versions": versions,
        "commit": _commit(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": int(peak),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # elsewhere it is in KiB


def version_of(package: str) -> str:
    """An installed package's version.

    Parameters
    ----------
    package : str
        Its name, as pip knows it.

    Returns
    -------
    str
        The version, or "absent".
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of the source tree, "+changes" where it is not clean; "unknown" outside of git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    status = _git("status", "--porcelain", "--", str(PACKAGE))
    if head.returncode or status.returncode:
        return "unknown"
    changes = "+changes" if status.stdout.strip() else ""
    return head.stdout.strip() + changes


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What git says of the package's folder."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def code_hash() -> str:
    """A hash of the source and data of the package, but for what only draws.

    Other code makes other records.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    content = []
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.json")]):
        name = path.relative_to(PACKAGE)
        if name.parts[0] != "book":
            content.append(name.as_posix().encode() + path.read_bytes())
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


def write_record(path: str | Path, record: dict) -> dict:
    """Write a record as JSON, whole or not at all; NaN becomes null.

    Parameters
    ----------
    path : str or Path
        Where to write; a folder that is not there is made.
    record : dict
        What JSON can hold.

    Returns
    -------
    dict
        The record as it will be read.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    record = _finite(record)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8"))
    return record


def _finite(value: object) -> object:
    """A value with None for each number in it that is NaN or infinite."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_record(path: str | Path) -> dict | None:
    """Read a record.

    Parameters
    ----------
    path : str or Path
        Of a file that `write_record` wrote.

    Returns
    -------
    dict or None
        None where there is no file, or it is damaged or of another format.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if isinstance(record, dict) and record.get("format") == FORMAT:
        return record
    return None


def read_records(folder: str | Path) -> list[dict]:
    """All records below a folder.

    Parameters
    ----------
    folder : str or Path
        Where they lie, at any depth.

    Returns
    -------
    list of dict
        In the order of their paths; damaged ones are left out.
    """
    paths = sorted(Path(folder).rglob("*.json"))
    found = (read_record(path) for path in paths)
    return [record for record in found if record is not None]
