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

import torch

from .data.cache import write_whole

FORMAT = "zu-record-1"
PACKAGES = ("torch", "transformers", "numpy", "safetensors")
#: Where the code lies that a record depends on; of its rooms, `book` only shows what there is.
PACKAGE = Path(__file__).parent


def provenance(model) -> dict:
    """Where a record comes from: versions, commit, device, threads, peak memory of the process, time (UTC)."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        name, peak = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        import resource

        name = platform.machine()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"versions": {"python": platform.python_version()} | {p: version_of(p) for p in PACKAGES},
            "commit": _commit(), "device": f"{device.type} ({name})", "threads": torch.get_num_threads(),
            "peak_memory_bytes": int(peak), "created": datetime.now(UTC).isoformat(timespec="seconds")}


def version_of(package: str) -> str:
    """An installed package's version, or "absent"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit of the source tree, "+changes" where it is not clean; "unknown" outside of git."""
    run = [subprocess.run(["git", "-C", str(PACKAGE), *args], capture_output=True, text=True, check=False)
           for args in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--", str(PACKAGE)))]
    if any(r.returncode for r in run):
        return "unknown"
    return run[0].stdout.strip() + ("+changes" if run[1].stdout.strip() else "")


def code_hash() -> str:
    """A hash of the source and data of the package, but for what only draws: other code, other records."""
    files = sorted(p for kind in ("py", "json") for p in PACKAGE.rglob(f"*.{kind}"))
    named = [(p.relative_to(PACKAGE).as_posix(), p) for p in files if p.relative_to(PACKAGE).parts[0] != "book"]
    return hashlib.sha256(b"".join(name.encode() + p.read_bytes() for name, p in named)).hexdigest()[:16]


def write_record(path: str | Path, record: dict) -> dict:
    """Write a record as JSON, whole or not at all; NaN becomes null. Returns it as it will be read."""
    record = _finite(record)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8"))
    return record


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(path: str | Path) -> dict | None:
    """A record, or None where there is none or it is damaged."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def read_records(folder: str | Path) -> list[dict]:
    """All records below a folder, in the order of their paths."""
    found = (read_record(path) for path in sorted(Path(folder).rglob("*.json")))
    return [record for record in found if record is not None]
