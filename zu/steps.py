"""How a search for targets steps: Adam, or along the normalised gradient.

Both step on u, what is searched for, with one independent problem a row: u is (n, k, d), at k
places of each of n facts. Those that are not done yet, a of them, are stepped.
"""
from __future__ import annotations

from typing import Literal

import torch

Optimizer = Literal["adam", "normalised"]
#: The rate where none is said.
RATES: dict[str, float] = {"adam": 0.4, "normalised": 0.3}
#: Along the normalised gradient: how much of the direction before is kept, and how much shorter
#: each step is than the one before.
KEPT, SHORTER = 0.5, 0.93


class Adam:
    """Adam: each coordinate moves by about the rate.

    Parameters
    ----------
    u : (n, k, d)
        The start.
    longest : (n, k, 1)
        The longest u that is allowed.
    lr : float
        The rate.

    References
    ----------
    Kingma and Ba 2015.
    """

    def __init__(self, u: torch.Tensor, longest: torch.Tensor, lr: float) -> None:
        self.lr = lr
        self.mean, self.square = torch.zeros_like(u), torch.zeros_like(u)

    def __call__(self, active: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """What to take off u.

        Parameters
        ----------
        active : (a,)
            The facts that are stepped.
        gradient : (a, k, d)
            Of their losses.
        step : int
            How many steps came before.

        Returns
        -------
        (a, k, d)
            The change.
        """
        mean, square = self.mean, self.square
        mean[active] = 0.9 * mean[active] + 0.1 * gradient
        square[active] = 0.999 * square[active] + 0.001 * gradient ** 2
        m = mean[active] / (1 - 0.9 ** (step + 1))
        v = square[active] / (1 - 0.999 ** (step + 1))
        return self.lr * m / (v.sqrt() + 1e-8)


class Normalised:
    """The gradient's direction alone, with some of the last one: a step has a given length.

    The best δ is nearly always as long as it may be, so what is searched for is a direction, and
    the gradient's length says nothing of how far to go.

    Parameters
    ----------
    u : (n, k, d)
        The start.
    longest : (n, k, 1)
        The longest u that is allowed.
    lr : float
        The first step's length, as a share of that.
    """

    def __init__(self, u: torch.Tensor, longest: torch.Tensor, lr: float) -> None:
        self.lr, self.longest = lr, longest
        self.direction = torch.zeros_like(u)

    def __call__(self, active: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """What to take off u.

        Parameters
        ----------
        active, gradient, step
            As Adam's.

        Returns
        -------
        (a, k, d)
            The change.
        """
        self.direction[active] = KEPT * self.direction[active] + _unit_length(gradient)
        length = self.lr * SHORTER**step * self.longest[active]  # (a, k, 1)
        return length * _unit_length(self.direction[active])


def _unit_length(x: torch.Tensor) -> torch.Tensor:
    """Vectors (..., d) at length 1; those of no length stay."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


STEPS: dict[str, type[Adam | Normalised]] = {"adam": Adam, "normalised": Normalised}
