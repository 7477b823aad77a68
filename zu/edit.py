"""An edit: what changed in a few weights, put on and taken off without a trace, saved and loaded."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from torch import nn

from .data.cache import write_whole

FORMAT = "zu-edit-2"
#: What is left out of a low-rank change, as a share of its norm: half of float32's rounding.
ROUNDING = 2.0 ** -24


class EditError(ValueError):
    """An edit that must not be applied, restored or loaded; the message says why and what to do."""


class Edit:
    """Weight changes by parameter name, tied to one model.

    As a context manager it is taken off at the end of the block; without one it stays until `restore`.
    parts: what is stored of each change, float32: one (d, m) tensor, or two factors (d, r) and (r, m) where that
    is smaller. keys: by layer, the facts' keys (n, m), for later edits that shall spare them. facts: their number.
    """

    def __init__(self, model: nn.Module, *, method: str = "", settings: dict | None = None, facts: int = 0) -> None:
        self.model, self.method, self.settings, self.facts = model, method, dict(settings or {}), facts
        self.parts: dict[str, tuple[torch.Tensor, ...]] = {}
        self.keys: dict[int, torch.Tensor] = {}
        self._before: dict[str, str] = {}  # marks of the weights that the edit was made for
        self._original: dict[str, torch.Tensor] = {}
        self._edited: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def set(self, name: str, weight: torch.Tensor) -> None:
        """Record `weight` (float64, d × m) as the new value of parameter `name` and put it on.

        A change of rank up to two for each fact is stored as its factors, to float32's rounding. Raises
        `EditError`, with the model as it was, for NaN, infinity, or a change a hundred times larger than the weight.
        """
        current = self._parameter(name)
        if weight.shape != current.shape:
            raise EditError(f"{name}: new weight {tuple(weight.shape)}, expected {tuple(current.shape)}")
        old = self._original.get(name, current.detach())
        delta = weight.to(current.device).double() - old.double()
        size, scale = delta.norm(), old.double().norm()
        if not bool(torch.isfinite(delta).all()) or size > 100 * scale:
            raise EditError(f"{name}: the edit has NaN, infinity or a norm of {size:.3g} against {scale:.3g} of the "
                            "weight itself; nothing was applied. Use a larger lam or alpha, a smaller lr, fewer facts")
        self.parts[name], self._before[name] = _factors(delta, 2 * self.facts), _mark(old)
        self._put(name)

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """The changes as they are applied, float32 (d, m): the edited weight is ``(W + delta)`` in W's dtype."""
        return {name: _product(parts) for name, parts in self.parts.items()}

    @torch.no_grad()
    def apply(self) -> Edit:
        """Put the edit on; nothing happens where it is on already. Returns itself.

        The change is added to what the weights are now, so that edits made for the same weights stack.
        """
        for name in self.parts:
            if name not in self._original:
                self._put(name)
        return self

    @torch.no_grad()
    def restore(self) -> None:
        """Take the edit off: every weight is again what it was, bit for bit.

        Raises `EditError` when something else changed a weight since: take later edits off first.
        """
        for name, edited in self._edited.items():
            if not torch.equal(self._parameter(name), edited):
                raise EditError(f"{name} was changed after this edit was applied: restore the later edit first")
        for name in list(self._original):
            self._parameter(name).copy_(self._original.pop(name))
        self._edited.clear()

    @property
    def applied(self) -> bool:
        """Whether the edit is on the model now."""
        return bool(self._original)

    @property
    def changed(self) -> list[str]:
        """Names of the weights that are others while the edit is on, as rounded to their dtype."""
        return [x for x, old in self._original.items() if not torch.equal(old, self._edited[x])]

    @property
    def nbytes(self) -> int:
        """Bytes of the stored changes, without the keys."""
        return sum(x.nbytes for parts in self.parts.values() for x in parts)

    def __enter__(self) -> Self:
        return self.apply()

    def __exit__(self, *error) -> None:
        self.restore()

    def __repr__(self) -> str:
        return (f"Edit('{self.method}', {self.facts} facts, {len(self.parts)} weights, {_size(self.nbytes)}, "
                f"{'on' if self.applied else 'off'})")

    def summary(self) -> str:
        """The edit in words: method, facts, settings, and a line for each changed weight."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [f"{self.method}, {self.facts} facts, {'on' if self.applied else 'off'}", f"  settings: {settings}"]
        for name, parts in self.parts.items():
            d, m, rank = len(parts[0]), parts[-1].shape[1], f"rank {len(parts[-1])}" if len(parts) == 2 else "full"
            lines.append(f"  {name}: {d} x {m}, {rank}, {self.relative_size(name):.2%} of the weight, "
                         f"{_size(sum(x.nbytes for x in parts))}")
        kept = sum(x.nbytes for x in self.keys.values())
        return "\n".join([*lines, f"  keys for later edits: {_size(kept)}"] if kept else lines)

    def relative_size(self, name: str) -> float:
        """‖Δ‖ / ‖W‖ for one changed weight."""
        old = self._original.get(name, self._parameter(name))
        return float(_product(self.parts[name]).norm() / old.float().norm())

    def save(self, path: str | Path) -> None:
        """Write changes and keys as safetensors, whole or not at all; no text of the facts is in the file."""
        from safetensors.torch import save_file

        about = {"format": FORMAT, "method": self.method, "settings": json.dumps(self.settings),
                 "facts": str(self.facts), "model": str(getattr(self.model, "name", "")),
                 "dtype": str(self.model.dtype), "before": json.dumps(self._before)}
        tensors = {f"keys/{layer}": x for layer, x in self.keys.items()}
        for name, parts in self.parts.items():
            tensors |= {f"{kind}/{name}": x for kind, x in zip(_KINDS[len(parts)], parts, strict=True)}
        tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
        write_whole(Path(path), lambda part: save_file(tensors, part, metadata=about))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Edit:
        """Read an edit for a copy of the model that it was made for. It is not applied yet.

        Raises `EditError` for a file that is no edit, or one made for other weights than this model's.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EditError(f"{path}: not readable as safetensors ({error})") from None
        if about.get("format") != FORMAT:
            raise EditError(f"{path}: not an edit written by this zu (format {about.get('format')!r}, not {FORMAT!r})")
        try:
            edit = cls(model, method=about["method"], settings=json.loads(about["settings"]),
                       facts=int(about["facts"]))
            edit._before = {**json.loads(about["before"])}
            edit.keys = {int(k[5:]): tensors.pop(k) for k in sorted(tensors) if k.startswith("keys/")}
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise EditError(f"{path}: what it says about itself is damaged ({error!r}); make the edit again") from None
        dtype = about.get("dtype", str(model.dtype))
        made_for = f"it was made for the model '{about.get('model')}'; load that one afresh, unedited" + (
            f", and with dtype={dtype}, not {model.dtype}" if dtype != str(model.dtype) else "")
        for name in sorted({key.partition("/")[2] for key in tensors}):
            try:
                weight = edit._parameter(name)
            except EditError as error:
                raise EditError(f"{path}: {error}; {made_for}") from None
            parts = tuple(tensors[f"{kind}/{name}"].to(weight.device) for kind in ("delta", "left", "right")
                          if f"{kind}/{name}" in tensors)
            if not _fits(parts, weight):
                raise EditError(f"{path}: {name} is no finite float32 change of a weight "
                                f"{tuple(weight.shape)}, whole or in two factors; {made_for}")
            if edit._before.get(name) != _mark(weight):
                raise EditError(f"{path}: {name} of this model is not what the edit was made for; {made_for}")
            edit.parts[name] = parts
        edit.keys = {layer: x.to(model.device) for layer, x in edit.keys.items()}
        return edit

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self.model.get_parameter(name)
        except AttributeError:
            raise EditError(f"the model has no parameter '{name}'") from None

    def _put(self, name: str) -> None:
        weight = self._parameter(name)
        old = self._original.setdefault(name, weight.detach().clone())
        self._edited[name] = (old.float() + _product(self.parts[name])).to(old.dtype)
        weight.copy_(self._edited[name])


#: Names in a file of a change's parts, by their number.
_KINDS = {1: ("delta",), 2: ("left", "right")}


def _factors(delta: torch.Tensor, bound: int) -> tuple[torch.Tensor, ...]:
    """A change (d, m), float64, as float32: two factors where its rank is at most `bound` and they are smaller.

    The span of delta's columns is found through random combinations of them, then cut to the numerical rank.
    """
    d, m = delta.shape
    bound = min(bound, d * m // (d + m))
    if not bound:
        return (delta.float(),)
    mix = torch.randn(m, bound, generator=torch.Generator().manual_seed(0), dtype=delta.dtype).to(delta.device)
    q = torch.linalg.qr(delta @ mix).Q
    u, s, vt = torch.linalg.svd(q.T @ delta, full_matrices=False)
    keep = s > ROUNDING * s.norm() / bound ** 0.5
    left, right = (q @ u[:, keep] * s[keep].sqrt()), (vt[keep] * s[keep, None].sqrt())
    fits = (left @ right - delta).norm() <= 2 * ROUNDING * delta.norm()
    return (left.float(), right.float()) if fits else (delta.float(),)


def _product(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else (parts[0].double() @ parts[1].double()).float()


def _fits(parts: tuple[torch.Tensor, ...], weight: torch.Tensor) -> bool:
    if len(parts) not in _KINDS or any(x.dim() != 2 or x.dtype != torch.float32 for x in parts):
        return False
    if len(parts) == 2 and len(parts[1]) != parts[0].shape[1]:
        return False
    return (len(parts[0]), parts[-1].shape[1]) == weight.shape and bool(torch.isfinite(_product(parts)).all())


def _size(n: int) -> str:
    return f"{n / 1e3:.1f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"


def _mark(weight: torch.Tensor) -> str:
    """A short text that tells one weight from another, for refusing an edit on the wrong model."""
    return f"{weight.sum(dtype=torch.float64).item():.9e} {torch.linalg.vector_norm(weight.double()).item():.9e}"
