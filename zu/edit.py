"""An edit: the changes of a few weights, which can be applied, undone exactly, saved and loaded."""
from __future__ import annotations

import json
import numbers
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from .carried import delist, edits_on, enlist, mark, twin_on
from .damage import Energies, moved
from .data.cache import digest, write_whole
from .export import Factors, differing, front_matter, source_of, write_adapter
from .modes import undisturbed
from .wrappers import (
    is_transposed,
    layer_of,
    parameter,
    plain_name,
    why_not_alone,
    why_not_editable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = "zu-edit-3"
#: The previous format, whose mark of a weight does not notice values that swapped places.
BEFORE = "zu-edit-2"
#: The share of a change's norm that its factors may leave out: half of float32's rounding.
ROUNDING = 2.0 ** -24
#: A change as it is stored, in float32: one (d, m) tensor, or two factors, (d, r) and (r, m).
Parts = tuple[torch.Tensor, ...]
#: What a file calls the parts of a change, by how many there are.
_KINDS = {1: ("delta",), 2: ("left", "right")}


class EditError(ValueError):
    """An edit cannot be applied, restored or loaded; the message says why and what to do."""


class Edit:
    """Weight changes by parameter name, tied to one model.

    Used as a context manager, the edit is taken off at the end of the block (of the outermost one,
    if blocks of the same edit are nested). Otherwise it stays on until `restore`.

    Parameters
    ----------
    model : PreTrainedModel
        The model to change.
    method : str
        The name of the method that made the edit.
    settings : dict, optional
        The method's settings. An edit can be saved only if JSON can hold them.
    facts : int
        How many facts the edit removes.

    Attributes
    ----------
    parts : dict of str to tuple of Tensor
        Each change as it is stored, in float32: one (d, m) tensor, or two factors (d, r) and (r, m)
        if they take less room.
    keys : dict of int to Tensor
        By layer, the facts' keys (n, m), for later edits that should spare them.
    damage : dict of int to float
        By layer, the share of general energy that the edit moves (see `measure`); empty until it is
        measured.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        method: str = "",
        settings: dict | None = None,
        facts: int = 0,
    ) -> None:
        self.model = model
        self.method = method
        self.settings = dict(settings or {})
        self.facts = facts
        self.parts: dict[str, Parts] = {}
        self.keys: dict[int, torch.Tensor] = {}
        self.damage: dict[int, float] = {}
        #: Identifies the edit in the model's list of edits, see `zu.carried`.
        self.ticket = secrets.token_hex(8)
        self._dtype = ""  # of the weights that the edit was made for
        self._marks: dict[str, str] = {}  # of the weights that the edit was made for
        self._original: dict[str, torch.Tensor] = {}  # the weights before; empty while off
        self._edited: dict[str, torch.Tensor] = {}  # the weights now; empty while off
        self._blocks = 0  # how many `with` blocks of it are open

    @undisturbed()
    @torch.no_grad()
    def set(self, name: str, weight: torch.Tensor) -> None:
        """Record the new value of a parameter and put it on.

        A change whose rank is at most two per fact is stored as two factors, exact to float32's
        rounding.

        Parameters
        ----------
        name : str
            As in ``model.named_parameters()``; it is stored without the names of wrappers
            (`zu.wrappers.plain_name`).
        weight : Tensor
            (d, m), float64: the new value.

        Raises
        ------
        EditError
            If the weight cannot be edited, or `weight` has another shape, NaN, infinity, a value
            that the weight's dtype cannot hold, or differs from the weight by more than a hundred
            times its norm. The model stays as it was.
        """
        name = plain_name(name)
        current = self._editable(name)
        if weight.shape != current.shape:
            raise EditError(f"{name}: new weight {tuple(weight.shape)}, expected "
                            f"{tuple(current.shape)}")
        old = self._original.get(name, current.detach())
        delta = weight.to(current.device).double() - old.double()
        size, scale = delta.norm(), old.double().norm()
        if not bool(torch.isfinite(delta).all()) or size > 100 * scale:
            raise EditError(
                f"{name}: the edit has NaN, infinity or a norm of {size:.3g} against {scale:.3g} "
                "of the weight itself; nothing was applied. Use a larger lam or alpha, a smaller "
                "lr, fewer facts")
        parts = _factors(delta, 2 * self.facts)
        edited = _rounded(name, old, parts)
        self.parts[name], self._marks[name], self._dtype = parts, mark(old), str(old.dtype)
        self.damage.clear()  # measured for the previous change
        self._put(name, edited)

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """The changes as they are applied, float32 (d, m).

        The edited weight is ``(W + delta)`` in W's dtype.
        """
        return {name: _product(parts) for name, parts in self.parts.items()}

    @undisturbed()
    @torch.no_grad()
    def apply(self) -> Self:
        """Put the edit on; an edit that is on already stays as it is.

        If other code has since loaded the original weights into the model, the edit is put on
        again. The change is added to the present weights, so edits made for the same weights stack.

        Returns
        -------
        Edit
            Itself.

        Raises
        ------
        EditError
            If a weight cannot be edited, if its dtype cannot hold the sum, or if the same edit is
            on the model already. The model stays as it was.
        """
        edited = {}
        for name, parts in self.parts.items():
            if name not in self._original or self._is_off(name):
                edited[name] = _rounded(name, self._editable(name).detach(), parts)
        if edited and (twin := twin_on(self.model, self.ticket, self._content())):
            raise EditError(f"the very same edit ({twin}) is on the model already, and would count "
                            "twice: restore that one, or leave this one off")
        for name, weight in edited.items():
            self._put(name, weight)
        return self

    @undisturbed()
    @torch.no_grad()
    def restore(self) -> None:
        """Take the edit off: every weight becomes what it was before, bit for bit.

        If the model was cast to another dtype in the meantime, the original weights are cast in the
        same way, and a warning says so. (An edit merged as a PEFT adapter does not come off by this
        method; PEFT's own unmerge restores the weights only up to rounding.)

        Raises
        ------
        EditError
            If something else has changed a weight since. Take later edits off first.
        """
        casts: dict[str, tuple[torch.dtype, ...]] = {}
        for name, edited in self._edited.items():
            if self._is_off(name):
                casts[name] = ()
                continue
            found = _casts(edited, self._parameter(name))
            if found is None:
                raise EditError(f"{name} was changed after this edit was applied: restore the "
                                "later edit first; where a training step, a merge or other weights "
                                "loaded into the model changed it, load the model afresh")
            casts[name] = found
        for name in list(self._original):
            weight = self._parameter(name)
            weight.copy_(_cast(self._original.pop(name), casts[name]))
        self._edited.clear()
        delist(self.model, self.ticket)
        if cast := next(filter(None, casts.values()), None):
            way = " to ".join(map(str, cast))
            warnings.warn(f"the model was cast to {way} while the edit was on: the edit is off, and"
                          " each weight is what it was, rounded in the same way; the digits that "
                          "the cast dropped do not come back", stacklevel=4)

    @undisturbed()
    @torch.no_grad()
    def measure(
        self, moments: Mapping[int, torch.Tensor], energies: Energies | None = None
    ) -> dict[int, float]:
        """Measure, by layer, the share of general energy that the edit moves.

        The share is tr(Δ C_0 Δᵀ) / tr(W C_0 Wᵀ). `zu.unlearn` measures it itself if the method
        needs the moments or the reader already has them.

        Parameters
        ----------
        moments : mapping of int to Tensor
            By layer, C_0 (m, m) of the unedited model, as `zu.moments` returns it.
        energies : Energies, optional
            Sums left by the previous edit, see `zu.damage`.

        Returns
        -------
        dict of int to float
            `damage`, now with the layers whose moments are given.
        """
        for name, parts in self.parts.items():
            layer, old = layer_of(name), self._original.get(name, self._parameter(name).detach())
            transposed = is_transposed(self.model, name)
            m = old.shape[0 if transposed else 1]
            if layer is None or layer not in moments or len(moments[layer]) != m:
                continue
            C0 = moments[layer]
            if energies is not None and name in self._edited:
                self.damage[layer] = energies.moved(
                    layer, old, parts, C0, self._edited[name], transposed=transposed)
            else:
                self.damage[layer] = moved(old, parts, C0, transposed=transposed)
        return self.damage

    def _is_off(self, name: str) -> bool:
        """Whether other code has already put the original values back into a weight."""
        weight, old = self._parameter(name), self._original[name]
        if weight.is_meta or weight.dtype != old.dtype or weight.shape != old.shape:
            return False
        return torch.equal(weight, old.to(weight.device))

    @property
    def applied(self) -> bool:
        """Whether the edit is on the model now."""
        return bool(self._original)

    @property
    def changed(self) -> list[str]:
        """Names of the weights that differ while the edit is on, after rounding to their dtype."""
        names = []
        for name, old in self._original.items():
            if not torch.equal(old, self._edited[name]):
                names.append(name)
        return names

    @property
    def nbytes(self) -> int:
        """Bytes of the stored changes, without the keys."""
        return sum(x.nbytes for parts in self.parts.values() for x in parts)

    def __enter__(self) -> Self:
        self.apply()
        self._blocks += 1
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._blocks -= 1
        if self._blocks:  # the edit stays on until the outermost block ends
            return
        try:
            self.restore()
        except EditError as problem:
            if error is None:
                raise
            # keep the block's own error visible
            error.add_note(f"the edit is still on the model: {problem}")

    def __repr__(self) -> str:
        state = "on" if self.applied else "off"
        return (f"Edit('{self.method}', {self.facts} facts, {len(self.parts)} weights, "
                f"{_size(self.nbytes)}, {state})")

    def summary(self) -> str:
        """The edit in words: method, facts, settings, and a line for each changed weight."""
        state = "on" if self.applied else "off"
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [f"{self.method}, {self.facts} facts, {state}", f"  settings: {settings}"]
        for name, parts in self.parts.items():
            d, m = len(parts[0]), parts[-1].shape[1]
            rank = f"rank {len(parts[-1])}" if len(parts) == 2 else "full"
            size = _size(sum(x.nbytes for x in parts))
            share = self.relative_size(name)
            lines.append(f"  {name}: {d} x {m}, {rank}, {share:.2%} of the weight, {size}")
        lines.append(f"  damage, general energy moved: {self.damage_in_words()}")
        kept = sum(x.nbytes for x in self.keys.values())
        if kept:
            lines.append(f"  keys for later edits: {_size(kept)}")
        return "\n".join(lines)

    def damage_in_words(self) -> str:
        """Describe the damage in words.

        Returns
        -------
        str
            The share of general energy that moves at each layer, for example ``"layer 15 8.21%,
            layer 16 3.10%"``; or that it is not measured.
        """
        each = [f"layer {layer} {share:.2%}" for layer, share in self.damage.items()]
        return ", ".join(each) or "not measured (edit.measure(zu.moments(...)) does)"

    def relative_size(self, name: str) -> float:
        """The size of a change relative to its weight.

        Parameters
        ----------
        name : str
            The name of a changed weight.

        Returns
        -------
        float
            ‖Δ‖ / ‖W‖, in Frobenius norms.
        """
        name = plain_name(name)
        old = self._original.get(name, self._parameter(name))
        return float(_product(self.parts[name]).norm() / old.float().norm())

    def save(self, path: str | Path) -> None:
        """Write changes and keys to a safetensors file, whole or not at all.

        The file holds no text of the facts.

        Parameters
        ----------
        path : str or Path
            Where to write. A missing folder is made, and ``~`` is the home folder.

        Raises
        ------
        EditError
            If JSON cannot hold one of the settings.
        OSError
            If the file cannot be written.
        """
        from safetensors.torch import save_file

        for name, value in self.settings.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise EditError(f"setting '{name}' is a {type(value).__name__}, which cannot be "
                                "saved: give a number, a text, a list or a dict of these") from None
        tensors = self._tensors()
        about = {
            "format": FORMAT,
            "method": self.method,
            "settings": json.dumps(self.settings),
            "facts": str(self.facts),
            "model": str(getattr(self.model, "name", "")),
            "dtype": self._dtype,
            "before": json.dumps(self._marks),
            "damage": json.dumps(self.damage),
            "content": _digest(tensors),
        }
        where = Path(path).expanduser()
        write_whole(where, lambda part: save_file(tensors, part, metadata=about))

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of the edit's file, on the CPU, by their names in it."""
        tensors = {f"keys/{layer}": x for layer, x in self.keys.items()}
        for name, parts in self.parts.items():
            for kind, x in zip(_KINDS[len(parts)], parts, strict=True):
                tensors[f"{kind}/{name}"] = x
        return {name: x.cpu().contiguous() for name, x in tensors.items()}

    def is_in(self, path: str | Path) -> bool:
        """Whether a file holds this very edit.

        Parameters
        ----------
        path : str or Path
            A file that `save` wrote.

        Returns
        -------
        bool
            True if the file's changes and keys equal this edit's, bit for bit.

        Raises
        ------
        EditError
            If the file is damaged or holds no edit.
        """
        return _digest(_read(Path(path).expanduser())[1]) == _digest(self._tensors())

    @undisturbed()
    @torch.no_grad()
    def save_pretrained(self, folder: str | Path, *, rank: int | None = None) -> None:
        """Write the edit as a PEFT adapter: two factors per weight, each of its own rank, scale 1.

        ``PeftModel.from_pretrained(model, folder)`` then gives the edited model. `model` must be
        the one that the edit was made for, with any adapter that had been merged into it.
        ``merge_and_unload`` is exact to the rounding of the weights' dtype, and so is PEFT's
        unmerge; only `restore` takes an edit off bit for bit.

        Parameters
        ----------
        folder : str or Path
            A new or empty folder to write to. ``~`` is the home folder.
        rank : int, optional
            Write the best approximation of at most this rank; a warning says how much it leaves
            out. By default the change is written in full, or refused.

        Raises
        ------
        EditError
            If the edit changes nothing, or if the factors of a change would be no smaller than the
            weight itself, as they are for methods that train the weights.
        FileExistsError
            If the folder is not empty.
        OSError
            If the folder cannot be written.
        """
        if rank is not None and (not isinstance(rank, numbers.Integral) or rank < 1):
            raise EditError(f"rank is {rank}: give a whole number, 1 or more")
        changes, left_out = {}, {}
        for name, parts in self.parts.items():
            left, right, lost = _cut(name, parts, rank)
            if len(right):  # a weight that stays what it is needs no adapter
                transposed = is_transposed(self.model, name)
                A, B = (left.T, right.T) if transposed else (right, left)
                changes[name], left_out[name] = Factors(A, B, transposed), lost
        if not changes:
            raise EditError("the edit changes nothing: there is no adapter to write")
        lost = max(left_out.values())
        if lost > 2 * ROUNDING:
            warnings.warn(f"an adapter of rank {rank} leaves out up to {lost:.1%} of a weight's "
                          "change: it is not the same edit, so measure what it does", stacklevel=3)
        about = {"zu": FORMAT, "before": json.dumps(self._marks)}
        write_adapter(folder, changes, self._readme(left_out), about, base=self._base())

    def _base(self) -> str | None:
        """Where the edit's model is stored; None, with a warning, if the weights there differ."""
        source = source_of(self.model)
        if other := differing(self.model, self._original):
            warnings.warn(f"the model is not the one stored in '{source}' ({other} differs: it was "
                          "trained or edited, or an adapter was merged into it). The adapter fits "
                          "only the model that you edited: save that model without the edit "
                          "(zu.save_model), and load the adapter onto it", stacklevel=5)
            return None
        return source or None

    def _readme(self, left_out: dict[str, float]) -> str:
        """The adapter's README: the hub's front matter, then a description of the edit."""
        head = front_matter(self.model, "peft", [self.method] if self.method else [])
        lines = [f"# {self.method or 'An edit'}: {self.facts} facts to forget", "",
                 "An edit by zu as a PEFT adapter. It fits only the model that it was made for, "
                 "unedited, with whatever had been merged into it.", "", "```python",
                 "from peft import PeftModel", "",
                 "model = PeftModel.from_pretrained(model, folder)", "```", "",
                 "Merging and unmerging are exact to the rounding of the weights' dtype, not bit "
                 "for bit.", ""]
        lines += [f"- {line.strip()}" for line in self.summary().split("\n")[1:]]
        for name, lost in left_out.items():
            if lost > 2 * ROUNDING:
                lines.append(f"- {name}: {lost:.2%} of the change is left out here")
        return head + "\n" + "\n".join(lines) + "\n"

    @classmethod
    @undisturbed()
    def load(cls, path: str | Path, model: PreTrainedModel) -> Edit:
        """Read an edit for a copy of the model that it was made for. It is not applied yet.

        Parameters
        ----------
        path : str or Path
            A file that `save` wrote.
        model : PreTrainedModel
            A copy of the model that the edit was made for, unedited and in the same dtype. It may
            be compiled, data-parallel, or carry PEFT adapters on other weights.

        Returns
        -------
        Edit
            Not applied; its tensors are on the model's devices.

        Raises
        ------
        EditError
            If the file is missing, damaged or holds no edit, or if the edit was made for other
            weights than this model's.
        """
        path = Path(path).expanduser()
        about, tensors = _read(path)
        edit = cls._described(path, model, about, tensors)
        for name in sorted({key.partition("/")[2] for key in tensors}):
            edit.parts[plain_name(name)] = edit._checked(path, name, tensors, about)
        device = next((parts[0].device for parts in edit.parts.values()), None)
        edit.keys = {layer: x.to(device) for layer, x in edit.keys.items()}
        return edit

    @classmethod
    def _described(
        cls, path: str | Path, model: PreTrainedModel, about: dict[str, str], tensors: dict
    ) -> Edit:
        """An edit with everything that its file holds but the changes; removes keys from `tensors`.

        `EditError` if the description is damaged.
        """
        try:
            edit = cls(model, method=about["method"], settings=json.loads(about["settings"]),
                       facts=int(about["facts"]))
            edit._marks = {**json.loads(about["before"])}
            edit._dtype = about.get("dtype", "")
            for layer, share in json.loads(about.get("damage", "{}")).items():
                edit.damage[int(layer)] = float(share)
            for name in sorted(tensors):
                if name.startswith("keys/"):
                    edit.keys[int(name[5:])] = tensors.pop(name)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EditError(f"{path}: what it says about itself is damaged ({error!r}); make the "
                            "edit again") from None
        return edit

    def _checked(
        self,
        path: Path,
        name: str,
        tensors: dict[str, torch.Tensor],
        about: dict[str, str],
    ) -> Parts:
        """One weight's change from a file; `EditError` unless it fits the weight and its mark."""
        made_for = f"it was made for the model '{about.get('model')}'; "
        if edits_on(self.model):
            made_for += "if this is that model, restore() the edit that is on it first"
        else:
            made_for += "load that one afresh, unedited"
        try:
            weight = self._editable(name)
        except EditError as error:
            raise EditError(f"{path}: {error}; {made_for}") from None
        if about.get("dtype", str(weight.dtype)) != str(weight.dtype):
            made_for += f", and with dtype={about['dtype']}, not {weight.dtype}"
        there = [f"{kind}/{name}" for kind in ("delta", "left", "right")]
        parts = tuple(tensors[key].to(weight.device) for key in there if key in tensors)
        if not _fits(parts, weight):
            raise EditError(f"{path}: {name} is not a finite float32 change of a weight "
                            f"{tuple(weight.shape)}, whole or in two factors; {made_for}")
        now = mark(weight) if about["format"] == FORMAT else _old_mark(weight)
        if self._marks.pop(name, None) != now:
            raise EditError(f"{path}: {name} of this model is not what the edit was made for; "
                            f"{made_for}")
        self._marks[plain_name(name)] = mark(weight)
        return parts

    def _parameter(self, name: str) -> nn.Parameter:
        """The model's parameter of this name, plain or not."""
        try:
            return parameter(self.model, name)
        except AttributeError:
            raise EditError(f"the model has no parameter '{name}'") from None

    def _editable(self, name: str) -> nn.Parameter:
        """The model's parameter of this name; `EditError` if it cannot be changed."""
        weight = self._parameter(name)
        if why := why_not_editable(weight) or why_not_alone(self.model, weight):
            raise EditError(f"{name} cannot be edited: {why}")
        return weight

    def _put(self, name: str, edited: torch.Tensor) -> None:
        """Write one new weight into the model, and remember it and the original."""
        weight = self._parameter(name)
        self._original.setdefault(name, weight.detach().clone())
        self._edited[name] = edited
        weight.copy_(edited)
        about = f"{self.method}, {self.facts} facts"
        enlist(self.model, self.ticket, about, self._marks, self._content())

    def _content(self) -> str:
        """A text that differs between edits with different changes."""
        return " ".join(mark(x) for _, parts in sorted(self.parts.items()) for x in parts)


def _rounded(name: str, old: torch.Tensor, parts: Parts) -> torch.Tensor:
    """A weight plus a change, in the weight's dtype; `EditError` if that dtype cannot hold it."""
    wide = torch.promote_types(old.dtype, torch.float32)
    edited = (old.to(wide) + _product(parts).to(wide)).to(old.dtype)
    if not bool(torch.isfinite(edited).all()):
        raise EditError(f"{name}: with the edit on it, the weight would be NaN or infinite in "
                        f"{old.dtype}; nothing was applied. Load the model in bfloat16 or float32, "
                        "or use a larger lam or alpha, a smaller lr, fewer facts")
    return edited


def _casts(then: torch.Tensor, now: torch.Tensor) -> tuple[torch.dtype, ...] | None:
    """The dtypes through which a tensor `then` was cast to become `now`; None if it was not.

    An unchanged tensor gives (). A cast and back again shows in the values.
    """
    if now.is_meta or now.shape != then.shape:
        return None
    then = then.to(now.device)
    ways: list[tuple[torch.dtype, ...]] = [()] if then.dtype == now.dtype else [(now.dtype,)]
    for between in (torch.bfloat16, torch.float16):
        if between != now.dtype:
            ways.append((between, now.dtype))
    for way in ways:
        if torch.equal(_cast(then, way), now):
            return way
    return None


def _cast(x: torch.Tensor, way: tuple[torch.dtype, ...]) -> torch.Tensor:
    """A tensor cast to one dtype after the other."""
    for dtype in way:
        x = x.to(dtype)
    return x


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """A file's metadata and its tensors by name; `EditError` if it holds no edit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EditError(f"{path}: not readable as safetensors ({error})") from None
    found = about.get("format")
    if found not in (FORMAT, BEFORE):
        raise EditError(f"{path}: not an edit written by this zu (format {found!r}, not "
                        f"{FORMAT!r})")
    if about.get("content", whole := _digest(tensors)) != whole:
        raise EditError(f"{path}: the file is damaged, its numbers are not those that were written:"
                        " fetch it again, or make the edit again")
    return about, tensors


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of a file's tensors, by their weights' plain names."""
    return digest({_place(name): x for name, x in tensors.items()})


def _place(name: str) -> str:
    """The name of a tensor in a file, without the names of wrappers."""
    kind, _, weight = name.partition("/")
    return f"{kind}/{plain_name(weight)}"


def _factors(delta: torch.Tensor, bound: int) -> Parts:
    """A change (d, m), float64, as float32: in two factors if its rank is at most `bound`.

    Factors are used only if they are smaller. Random combinations of delta's columns find their
    span, which is then cut to the numerical rank.
    """
    d, m = delta.shape
    bound = min(bound, d * m // (d + m))
    if not bound:
        return (delta.float(),)
    # drawn on the CPU, so that every device gets the same combinations
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(m, bound, generator=generator, dtype=delta.dtype).to(delta.device)
    q = torch.linalg.qr(delta @ mix).Q  # (d, m) @ (m, bound) -> (d, bound)
    u, s, vt = torch.linalg.svd(q.T @ delta, full_matrices=False)  # of (bound, m)
    keep = s > ROUNDING * s.norm() / bound ** 0.5
    left = q @ u[:, keep] * s[keep].sqrt()  # (d, r)
    right = vt[keep] * s[keep, None].sqrt()  # (r, m)
    fits = (left @ right - delta).norm() <= 2 * ROUNDING * delta.norm()
    return (left.float(), right.float()) if fits else (delta.float(),)


def _cut(name: str, parts: Parts, rank: int | None) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A change as two factors, of at most the rank given, and the share that they leave out.

    `EditError` if no rank is given and exact factors would be no smaller than the change.
    """
    if len(parts) == 2 and (rank is None or len(parts[1]) <= rank):
        return *parts, 0.0
    delta = _product(parts).double()
    d, m = delta.shape
    u, s, vt = torch.linalg.svd(delta, full_matrices=False)  # (d, k), (k,), (k, m)
    full = int((s > ROUNDING * s.norm() / len(s) ** 0.5).sum())
    if rank is None and full * (d + m) >= d * m:
        raise EditError(
            f"{name} is changed at rank {full} of {min(d, m)}: as an adapter that would be no "
            "smaller than the weight. Save the edited model whole (zu.save_model), or the edit "
            "(edit.save), or give rank= for an approximation")
    keep = full if rank is None else min(rank, full)
    root = s[:keep].sqrt()
    lost = float(s[keep:].norm() / s.norm()) if full else 0.0
    return (u[:, :keep] * root).float(), (root[:, None] * vt[:keep]).float(), lost


def _product(parts: Parts) -> torch.Tensor:
    """The change that the parts make, (d, m) float32."""
    if len(parts) == 1:
        return parts[0]
    left, right = parts
    return (left.double() @ right.double()).float()  # (d, r) @ (r, m) -> (d, m)


def _fits(parts: Parts, weight: torch.Tensor) -> bool:
    """Whether parts are float32 matrices whose finite product has the weight's shape."""
    if len(parts) not in _KINDS:
        return False
    if any(x.dim() != 2 or x.dtype != torch.float32 for x in parts):
        return False
    if len(parts) == 2 and len(parts[1]) != parts[0].shape[1]:
        return False
    shape = (len(parts[0]), parts[-1].shape[1])
    return shape == weight.shape and bool(torch.isfinite(_product(parts)).all())


def _size(n: int) -> str:
    """A number of bytes in words."""
    return f"{n / 1e3:.1f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"


def _old_mark(weight: torch.Tensor) -> str:
    """The mark in files of the previous format: a sum and a norm."""
    total = weight.sum(dtype=torch.float64).item()
    norm = torch.linalg.vector_norm(weight.double()).item()
    return f"{total:.9e} {norm:.9e}"
