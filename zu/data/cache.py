"""What is downloaded or computed once is kept in one folder, and written whole or not at all."""
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
    """The folder for all that is downloaded or computed once.

    Returns
    -------
    Path
        ``$ZU_CACHE``, else the user's cache folder. It need not be there yet.
    """
    from platformdirs import user_cache_dir

    return user_path(os.environ.get("ZU_CACHE") or user_cache_dir("zu"))


def user_path(path: str | Path) -> Path:
    """A path as a user gives it, with the home folder in place of ``~``.

    Parameters
    ----------
    path : str or Path
        Of a file or folder.

    Returns
    -------
    Path
        As it was, where there is no ``~`` at its beginning or no such user.
    """
    return Path(os.path.expanduser(path))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: under a temporary name beside it, which is then renamed.

    Parameters
    ----------
    path : Path
        Of the file; its folder is made where there is none.
    write : callable
        Is given the temporary name, and writes there.

    Raises
    ------
    OSError
        Naming the file and what to do.
    """
    from safetensors import SafetensorError

    mark = f"{os.getpid()}-{secrets.token_hex(4)}"  # no other process's, nor another thread's
    part = path.with_name(f".{path.name}.{mark}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        errno = getattr(error, "errno", None)
        number = [errno] if errno else []
        why = getattr(error, "strerror", None) or error
        # with its number, so that it stays the kind of OSError that it was
        raise OSError(*number, f"{why}: {path} is not written, and what was there before is kept; "
                               "make room or mend its folder, and run again") from error
    finally:
        with suppress(OSError):  # that there is no such folder has been said
            part.unlink(missing_ok=True)


def cache_file(kind: str, about: str) -> Path:
    """Where a result is kept in the cache, by what decides on it.

    Parameters
    ----------
    kind : str
        A folder of the cache.
    about : str
        All that decides on the result.

    Returns
    -------
    Path
        A name made of a hash of it.
    """
    return cache_dir() / kind / _name(about)


def packaged_file(kind: str, about: str) -> Path:
    """Where the package itself brings a result along, under the name that it has in the cache.

    Parameters
    ----------
    kind, about : str
        As in `cache_file`.

    Returns
    -------
    Path
        Of few results there is a file.
    """
    return Path(__file__).parent / "files" / kind / _name(about)


def _name(about: str) -> str:
    """A file's name by what decides on its content."""
    return f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.safetensors"


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Keep tensors in the cache as safetensors, whole or not at all.

    Nothing is lost where the cache cannot be written (read-only, or a full disk) but time: it is a
    warning.

    Parameters
    ----------
    path : Path
        Of the file, in the cache.
    tensors : dict of str to Tensor
        By name.
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
    """Tensors that a cache file holds.

    Parameters
    ----------
    path : Path
        Of the file, in the cache.
    *names : str
        Of the tensors that must be in it.

    Returns
    -------
    dict of str to Tensor, or None
        All that are in it, on the CPU; None where the file is absent, damaged, or lacks one of
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
    """A hash of tensors with their names, which tells whether a file is as it was written.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By name.

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
        # a copy: a single number out of many counts as contiguous, whatever its stride
        flat = x.flatten().clone(memory_format=torch.contiguous_format)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()
