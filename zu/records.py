"""Records: what a run found and where it comes from, written and read again."""
from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch

from .data.cache import user_path, write_whole
from .data.facts import Facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = "zu-record-1"
PACKAGES = ("torch", "transformers", "numpy", "safetensors")
#: The folder of the code that a record depends on; its subpackage `book` only shows results.
PACKAGE = Path(__file__).parent
KINDS = ("*.py", "*.json", "*.safetensors")


def provenance(model: PreTrainedModel) -> dict:
    """Where a record comes from.

    Parameters
    ----------
    model : PreTrainedModel
        The model, whose device is recorded.

    Returns
    -------
    dict
        Versions, commit, device, threads, peak memory in bytes (of the process or, on CUDA, of the
        GPU), and time (UTC).
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
        "commit": current_commit(),
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


def current_commit() -> str:
    """The commit of the source tree.

    Returns
    -------
    str
        Twelve digits, followed by "+changes" if the package has uncommitted changes; "unknown"
        outside of git.
    """
    head = _git("rev-parse", "--short=12", "HEAD")
    status = _git("status", "--porcelain", "--", str(PACKAGE))
    if head.returncode or status.returncode:
        return "unknown"
    changes = "+changes" if status.stdout.strip() else ""
    return head.stdout.strip() + changes


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The result of a git command in the package's folder."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def decisive(function: Callable) -> list[str]:
    """What the result of a user's function depends on: its source, and what it refers to.

    Of the outside names in the function these count: numbers, texts and tuples of them; facts;
    functions of the same module, with what they refer to in turn; and a chapter's parameters of any
    type. Anything else, such as a list that changes, does not count.

    Parameters
    ----------
    function : callable
        A function, a lambda, or a `functools.partial` of one.

    Returns
    -------
    list of str
        Texts that are equal for functions that do the same; for hashes, never for records.
    """
    found: dict[int, list[str]] = {}
    _describe(function, found)
    return [text for texts in found.values() for text in texts]


def _describe(value: Any, found: dict[int, list[str]]) -> None:
    """Add the source of a function or partial and what it refers to, each once."""
    if id(value) in found:
        return
    found[id(value)] = []
    if isinstance(value, functools.partial):
        given = [*value.args, *sorted(value.keywords.items())]
        found[id(value)].append(repr([_plain(x) for x in given]))
        _describe(value.func, found)
        return
    if not inspect.isfunction(value):  # an object that can be called
        found[id(value)].append(inspect.getsource(type(value)))
        return
    found[id(value)].append(inspect.getsource(value))
    parameters = value.__globals__.get("__annotations__", {})
    nonlocals = inspect.getclosurevars(value).nonlocals
    outside = {name: value.__globals__.get(name) for name in _names(value.__code__)}
    for name, x in sorted({**outside, **nonlocals}.items()):
        if inspect.isfunction(x) and x.__module__ == value.__module__:
            _describe(x, found)
        elif (text := _plain(x, any_type=name in parameters)) is not None:
            found[id(value)].append(f"{name} = {text}")


def _names(code: CodeType) -> set[str]:
    """The names that a function refers to, including those in functions inside it."""
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names(inner)
    return names


def _plain(value: Any, any_type: bool = False) -> str | None:
    """A value as text if it is one that cannot change unnoticed; None for others."""
    if isinstance(value, Facts):
        return f"{value.hash} {value.rule}"
    if any_type or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        parts = [_plain(x) for x in value]
        return None if None in parts else repr(parts)
    return None


def code_hash() -> str:
    """A hash of the package's source and data, without `zu.book`, which only shows results.

    Records made by other code have another hash.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    content = []
    for path in sorted(path for kind in KINDS for path in PACKAGE.rglob(kind)):
        name = path.relative_to(PACKAGE)
        if name.parts[0] != "book":
            content.append(name.as_posix().encode() + path.read_bytes())
    return hashlib.sha256(b"".join(content)).hexdigest()[:16]


def write_record(path: str | Path, record: dict) -> dict:
    """Write a record as JSON, whole or not at all; NaN becomes null.

    Parameters
    ----------
    path : str or Path
        Where to write; a missing folder is made.
    record : dict
        Values that JSON can hold.

    Returns
    -------
    dict
        The record as it will be read.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    record = without_nan(record)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_whole(user_path(path), lambda part: part.write_text(text, encoding="utf-8"))
    return record


def without_nan(value: Any) -> Any:
    """A value in the form in which a record holds it.

    Parameters
    ----------
    value : dict, list, tuple, or a plain value
        A value of any depth.

    Returns
    -------
    dict, list, or a plain value
        The same with None for NaN and infinite numbers, and lists for tuples.
    """
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_record(path: str | Path) -> dict | None:
    """Read a record.

    Parameters
    ----------
    path : str or Path
        A file that `write_record` wrote.

    Returns
    -------
    dict or None
        None if there is no file, or it is damaged or of another format.
    """
    try:
        record = json.loads(user_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if isinstance(record, dict) and record.get("format") == FORMAT:
        return record
    return None


def read_records(folder: str | Path) -> list[dict]:
    """Read all records below a folder.

    Parameters
    ----------
    folder : str or Path
        The folder; records may be at any depth.

    Returns
    -------
    list of dict
        The records in the order of their paths, without damaged ones.
    """
    paths = sorted(user_path(folder).rglob("*.json"))
    found = (read_record(path) for path in paths)
    return [record for record in found if record is not None]
