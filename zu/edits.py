"""An edit: what changed in a few weights, put on and taken off without a trace, saved and loaded."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from torch import nn

from .models import write_whole

FORMAT = "zu-edit-1"


class EditError(ValueError):
    """An edit that must not be applied, restored or loaded; the message says why and what to do."""


class Edit:
    """Weight changes by parameter name, tied to one model.

    As a context manager it is taken off at the end of the block; without one it stays until `restore`.
    deltas: float32 (d, m) by parameter name; the edited weight is ``(W + delta)`` in W's own dtype.
    """

    def __init__(self, model: nn.Module, *, method: str = "", settings: dict | None = None) -> None:
        self.model, self.method, self.settings = model, method, dict(settings or {})
        self.deltas: dict[str, torch.Tensor] = {}
        self._original: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def set(self, name: str, weight: torch.Tensor) -> None:
        """Record `weight` (float64, d × m) as the new value of parameter `name` and put it on.

        Raises `EditError`, with the model as it was, for NaN, infinity, or a change a hundred times larger than
        the weight itself.
        """
        current = self._parameter(name)
        old = self._original.get(name, current.detach())
        delta = (weight.to(current.device).double() - old.double()).float()
        size, scale = delta.norm(), old.double().norm()
        if weight.shape != current.shape:
            raise EditError(f"{name}: new weight {tuple(weight.shape)}, expected {tuple(current.shape)}")
        if not bool(torch.isfinite(delta).all()) or size > 100 * scale:
            raise EditError(f"{name}: the edit has NaN, infinity or a norm of {size:.3g} against {scale:.3g} of the "
                            "weight itself; nothing was applied. Use a larger lam or alpha, or fewer facts")
        self.deltas[name] = delta
        self._put(name)

    @torch.no_grad()
    def apply(self) -> Edit:
        """Put the edit on; nothing happens where it is on already. Returns itself."""
        for name in self.deltas:
            if name not in self._original:
                self._put(name)
        return self

    @torch.no_grad()
    def restore(self) -> None:
        """Take the edit off: every weight is again what it was, bit for bit.

        Raises `EditError` when something else changed a weight since: take later edits off first.
        """
        for name in self._original:
            if not torch.equal(self._parameter(name), self._edited(name)):
                raise EditError(f"{name} was changed after this edit was applied: restore the later edit first")
        for name in list(self._original):
            self._parameter(name).copy_(self._original.pop(name))

    @property
    def applied(self) -> bool:
        """Whether the edit is on the model now."""
        return bool(self._original)

    def __enter__(self) -> Self:
        return self.apply()

    def __exit__(self, *error) -> None:
        self.restore()

    def __repr__(self) -> str:
        parts = ", ".join(f"{n} (relative size {self.relative_size(n):.2%})" for n in self.deltas)
        return f"Edit('{self.method}', {'on' if self.applied else 'off'}: {parts or 'no change'})"

    def relative_size(self, name: str) -> float:
        """‖Δ‖ / ‖W‖ for one changed weight."""
        old = self._original.get(name, self._parameter(name))
        return float(self.deltas[name].norm() / old.float().norm())

    def save(self, path: str | Path) -> None:
        """Write the deltas as safetensors, whole or not at all; no text of the facts is in the file."""
        from safetensors.torch import save_file

        about = {"format": FORMAT, "method": self.method, "settings": json.dumps(self.settings),
                 "model": str(getattr(self.model, "name", "")), "before": json.dumps(self._before())}
        deltas = {name: delta.cpu().contiguous() for name, delta in self.deltas.items()}
        write_whole(Path(path), lambda part: save_file(deltas, part, metadata=about))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Edit:
        """Read an edit for a copy of the model that it was made for. It is not applied yet.

        Raises `EditError` for a file that is no edit, or one made for other weights than this model's.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                deltas = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EditError(f"{path}: not readable as safetensors ({error})") from None
        if about.get("format") != FORMAT:
            raise EditError(f"{path}: not an edit written by zu (format {about.get('format')!r})")
        edit = cls(model, method=about["method"], settings=json.loads(about["settings"]))
        before = json.loads(about["before"])
        for name, delta in deltas.items():
            weight = edit._parameter(name)
            if delta.shape != weight.shape or not bool(torch.isfinite(delta).all()):
                raise EditError(f"{path}: {name} is {tuple(delta.shape)} with the model's being "
                                f"{tuple(weight.shape)}, or it is not finite")
            if before.get(name) != _mark(weight):
                raise EditError(f"{path}: {name} of this model is not what the edit was made for; load the model "
                                f"'{about.get('model')}' afresh, unedited")
            edit.deltas[name] = delta.to(weight.device)
        return edit

    def _before(self) -> dict[str, str]:
        return {n: _mark(self._original.get(n, self._parameter(n))) for n in self.deltas}

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self.model.get_parameter(name)
        except AttributeError:
            raise EditError(f"the model has no parameter '{name}'") from None

    def _put(self, name: str) -> None:
        weight = self._parameter(name)
        self._original.setdefault(name, weight.detach().clone())
        weight.copy_(self._edited(name))

    def _edited(self, name: str) -> torch.Tensor:
        old = self._original[name]
        return (old.float() + self.deltas[name]).to(old.dtype)


def _mark(weight: torch.Tensor) -> str:
    """A short text that tells one weight from another, for refusing an edit on the wrong model."""
    return f"{weight.sum(dtype=torch.float64).item():.9e} {torch.linalg.vector_norm(weight.double()).item():.9e}"
