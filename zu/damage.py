"""The damage that an edit does to ordinary text, computed from its weights alone."""
from __future__ import annotations

from dataclasses import dataclass, field

import torch


def moved(
    weight: torch.Tensor,
    change: tuple[torch.Tensor, ...],
    C0: torch.Tensor,
    *,
    transposed: bool = False,
) -> float:
    """The share of a projection's energy on general keys that a change moves.

    Parameters
    ----------
    weight : (d, m)
        W, the projection without the change.
    change : tuple of Tensor
        Δ (d, m), or its two factors (d, r) and (r, m).
    C0 : (m, m)
        The second moment of general keys.
    transposed : bool
        Whether weight and change are given as (m, d), as GPT-2 stores them.

    Returns
    -------
    float
        tr(Δ C_0 Δᵀ) / tr(W C_0 Wᵀ): the mean squared length of what the edit adds to the layer's
        output for a general key, against that of the output itself.
    """
    W, parts, C0 = _as_values(weight, change, C0, transposed)
    return _added(parts, C0) / _energy(W, C0)


@dataclass
class Energies:
    """tr(W C_0 Wᵀ) of the weights that edits leave, for the damage of later edits.

    After a low-rank change the energy can be updated without the product of W and C_0.
    """

    #: By layer, the weight as it is stored, C_0, and the energy. The weight is never written to.
    known: dict[int, tuple[torch.Tensor, torch.Tensor, float]] = field(default_factory=dict)

    def moved(
        self,
        layer: int,
        weight: torch.Tensor,
        change: tuple[torch.Tensor, ...],
        C0: torch.Tensor,
        edited: torch.Tensor,
        *,
        transposed: bool = False,
    ) -> float:
        """Like the function `moved`, but without computing W C_0 Wᵀ if an earlier edit left it.

        Parameters
        ----------
        layer : int
            The weight's layer.
        weight, change, C0, transposed
            As in `moved`.
        edited : Tensor
            The weight with the change on it, stored in the same orientation as `weight`.

        Returns
        -------
        float
            The share, to float32's rounding.
        """
        W, parts, C = _as_values(weight, change, C0, transposed)
        before = self._of(layer, weight, C0)
        if before is None:
            before = _energy(W, C)
        self.known.pop(layer, None)
        added = _added(parts, C)
        if len(parts) == 2:
            left, right = parts  # (d, r), (r, m)
            # tr(Δ C_0 Wᵀ): (d, m) @ (m, m) @ (m, r) -> (d, r), from the right
            cross = ((W @ (C @ right.T)).double() * left).sum().item()
            self.known[layer] = edited, C0, before + 2 * cross + added
        return added / before

    def _of(self, layer: int, weight: torch.Tensor, C0: torch.Tensor) -> float | None:
        """The energy of this weight on this C_0, if it is known."""
        if layer not in self.known:
            return None
        W, C, found = self.known[layer]
        same = W.device == weight.device and C.device == C0.device
        return found if same and torch.equal(W, weight) and torch.equal(C, C0) else None


def _as_values(
    weight: torch.Tensor, change: tuple[torch.Tensor, ...], C0: torch.Tensor, transposed: bool
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """W (d, m), the parts of Δ and C_0 in float32 on the weight's device."""
    parts = [x.to(weight.device, torch.float32) for x in change]
    W, C0 = weight.float(), C0.to(weight.device, torch.float32)
    if transposed:
        W, parts = W.T, [x.T for x in reversed(parts)]  # (m, d) -> (d, m)
    return W, parts, C0


def _added(parts: list[torch.Tensor], C0: torch.Tensor) -> float:
    """tr(Δ C_0 Δᵀ)."""
    added = parts[0]  # (d, m), or the left factor (d, r)
    inner = C0 if len(parts) == 1 else parts[1] @ C0 @ parts[1].T  # (r, m) (m, m) (m, r) -> (r, r)
    return _energy(added, inner)


def _energy(x: torch.Tensor, C: torch.Tensor) -> float:
    """tr(x C xᵀ) for x (d, k) and C (k, k)."""
    return ((x @ C).double() * x).sum().item()
