"""One folder caches what is downloaded or computed once; files are written whole or not at all."""
from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cache_dir() -> Path:
    """The folder that caches downloads and results.

    Returns
    -------
    Path
        ``$ZU_CACHE``, or else the user's cache folder. It may not exist yet.
    """
    from platformdirs import user_cache_dir

    return user_path(os.environ.get("ZU_CACHE") or user_cache_dir("zu"))


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, with the home folder in place of ``~``.

    Parameters
    ----------
    path : str or Path
        The path of a file or folder.

    Returns
    -------
    Path
        The expanded path; unchanged if it does not begin with ``~`` or there is no such user.
    """
    return Path(os.path.expanduser(path))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, by way of a temporary file beside it.

    Parameters
    ----------
    path : Path
        The file's path. A missing folder is made.
    write : callable
        Called with the temporary path; writes the file there.

    Raises
    ------
    OSError
        If the file cannot be written; the message names the file and the remedy.
    """
    from safetensors import SafetensorError

    mark = f"{os.getpid()}-{secrets.token_hex(4)}"  # unique to this process and thread
    part = path.with_name(f".{path.name}.{mark}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        errno = getattr(error, "errno", None)
        number = [errno] if errno else []
        why = getattr(error, "strerror", None) or error
        # with its number, so that it stays the same kind of OSError
        raise OSError(*number, f"{why}: {path} is not written, and any earlier file is kept; "
                               "make room or mend its folder, and run again") from error
    finally:
        with suppress(OSError):  # a missing folder has been reported above
            part.unlink(missing_ok=True)


def cache_file(kind: str, about: str) -> Path:
    """The path of a result in the cache.

    Parameters
    ----------
    kind : str
        A folder of the cache.
    about : str
        Everything that the result depends on.

    Returns
    -------
    Path
        A path whose name is a hash of `about`.
    """
    return cache_dir() / kind / _name(about)


def packaged_file(kind: str, about: str) -> Path:
    """The path of a result that comes with the package, under the name that it has in the cache.

    Parameters
    ----------
    kind, about : str
        As in `cache_file`.

    Returns
    -------
    Path
        The path; only for a few results is there a file.
    """
    return Path(__file__).parent / "files" / kind / _name(about)


def _name(about: str) -> str:
    """A file's name, made of a hash of what its content depends on."""
    return f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.safetensors"


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Keep tensors in the cache as safetensors, whole or not at all.

    If the cache cannot be written (read-only, or a full disk), only time is lost, and a warning
    says so.

    Parameters
    ----------
    path : Path
        The path of the file in the cache.
    tensors : dict of str to Tensor
        The tensors by name.
    """
    from safetensors.torch import save_file

    kept = {name: x.contiguous() for name, x in tensors.items()}

    def save(part: Path) -> None:
        save_file(kept, part, metadata={"content": digest(kept)})

    try:
        write_whole(path, save)
    except OSError as error:
        warnings.warn(
            f"the cache {cache_dir()} cannot be written ({error}): this result is not kept, and "
            "the next run computes it again; make room, or set ZU_CACHE to another folder",
            stacklevel=2)


def read_tensors(path: Path, *names: str) -> dict[str, torch.Tensor] | None:
    """Read the tensors of a cache file.

    Parameters
    ----------
    path : Path
        The path of the file in the cache.
    *names : str
        The names of the tensors that must be in it.

    Returns
    -------
    dict of str to Tensor, or None
        All tensors in the file, on the CPU; None if the file is absent, damaged, or lacks one of
        `names`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None  # computed again and written over
    if about.get("content", whole := digest(found)) != whole or not set(names) <= set(found):
        return None
    return found


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of tensors with their names, which shows whether a file is as it was written.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        The tensors by name.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].cpu()
        found.update(f"{name} {x.dtype} {tuple(x.shape)} ".encode())
        # a copy, since a single number taken out of many counts as contiguous, whatever its stride
        flat = x.flatten().clone(memory_format=torch.contiguous_format)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
