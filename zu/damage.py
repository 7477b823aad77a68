"""What an edit does to ordinary text, told from its weights alone."""
from __future__ import annotations

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
        Δ, (d, m), or its two factors (d, r) and (r, m).
    C0 : (m, m)
        Second moment of general keys.
    transposed : bool
        Whether weight and change are given as (m, d), as GPT-2 stores them.

    Returns
    -------
    float
        tr(Δ C_0 Δᵀ) / tr(W C_0 Wᵀ): the mean squared length of what the edit adds to the layer's
        output for a general key, against that of the output itself.
    """
    parts = [x.to(weight.device, torch.float32) for x in change]
    W, C0 = weight.float(), C0.to(weight.device, torch.float32)
    if transposed:
        W, parts = W.T, [x.T for x in reversed(parts)]  # (m, d) -> (d, m)
    added = parts[0]  # (d, m), or the left factor (d, r)
    inner = C0 if len(parts) == 1 else parts[1] @ C0 @ parts[1].T  # (r, m) (m, m) (m, r) -> (r, r)
    return _energy(added, inner) / _energy(W, C0)


def _energy(x: torch.Tensor, C: torch.Tensor) -> float:
    """tr(x C xᵀ) of x (d, k) and C (k, k)."""
    return ((x @ C).double() * x).sum().item()
