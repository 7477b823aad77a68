"""How a search for targets steps: along the normalised gradient, or by Adam.

Both step on u, what is searched for, with one independent problem a row: u is (n, k, d), at k
places of each of n facts. Those that are not done yet, a of them, are stepped; how many steps a
fact has taken is its own affair, as some are done sooner.
"""
from __future__ import annotations

from typing import Literal

import torch

Optimizer = Literal["normalised", "adam"]
#: The rate where none is said.
RATES: dict[str, float] = {"normalised": 0.3, "adam": 0.4}
#: Along the normalised gradient: how much of the direction before is kept, how much shorter each
#: step is than the one before, and how long u may be at first and how much longer after each step,
#: as shares of the longest.
KEPT, SHORTER, AT_FIRST, LONGER = 0.5, 0.93, 0.5, 0.05


class Adam:
    """Adam: each coordinate moves by about the rate, and u may be as long as the longest at once.

    Parameters
    ----------
    longest : (n, k, 1)
        The longest u that is allowed.
    d : int
        The length of a row of u.
    lr : float
        The rate.

    References
    ----------
    Kingma and Ba 2015.
    """

    def __init__(self, longest: torch.Tensor, d: int, lr: float) -> None:
        self.lr, self.longest = lr, longest
        n, k, _ = longest.shape
        self.mean, self.square = longest.new_zeros(n, k, d), longest.new_zeros(n, k, d)
        # steps by fact, in float64: 1 − 0.999 would lose four digits in float32
        self.taken = longest.new_zeros(n, 1, 1, dtype=torch.float64)

    def __call__(
        self, u: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        """Take a step.

        Parameters
        ----------
        u : (a, k, d)
            Where the facts are.
        active : (a,)
            Their numbers.
        gradient : (a, k, d)
            Of their losses.

        Returns
        -------
        (a, k, d)
            Where they are then, no longer than they may be.
        """
        mean, square = self.mean, self.square
        self.taken[active] += 1
        mean[active] = 0.9 * mean[active] + 0.1 * gradient
        square[active] = 0.999 * square[active] + 0.001 * gradient ** 2
        taken = self.taken[active]  # (a, 1, 1)
        m = mean[active] / (1 - 0.9**taken).to(u.dtype)
        v = square[active] / (1 - 0.999**taken).to(u.dtype)
        return _no_longer(u - self.lr * m / (v.sqrt() + 1e-8), self.longest[active])


class Normalised:
    """The gradient's direction alone, with some of the last one: a step has a given length.

    What is looked for is a direction more than a length: the gradient's own length says nothing of
    how far to go, and a u of any direction that lowers the loss lowers it further when it is
    longer. So the length is held, at half of the longest at first, and grows a little with each
    step, and what is found is about the shortest u that does: it moves other facts the least.

    Parameters
    ----------
    longest : (n, k, 1)
        The longest u that is allowed.
    d : int
        The length of a row of u.
    lr : float
        The first step's length, as a share of that.
    """

    def __init__(self, longest: torch.Tensor, d: int, lr: float) -> None:
        self.lr, self.longest = lr, longest
        n, k, _ = longest.shape
        self.direction = longest.new_zeros(n, k, d)
        self.taken = longest.new_zeros(n, 1, 1)  # steps by fact

    def __call__(
        self, u: torch.Tensor, active: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        """Take a step.

        Parameters
        ----------
        u, active, gradient
            As Adam's.

        Returns
        -------
        (a, k, d)
            Where they are then, no longer than they may be.
        """
        before, longest = self.taken[active], self.longest[active]  # (a, 1, 1) and (a, k, 1)
        self.taken[active] += 1
        self.direction[active] = KEPT * self.direction[active] + _unit_length(gradient)
        step = self.lr * SHORTER**before * longest  # (a, k, 1)
        allowed = longest * (AT_FIRST + LONGER * before).clamp(max=1.0)
        return _no_longer(u - step * _unit_length(self.direction[active]), allowed)


def _no_longer(u: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
    """u (a, k, d), cut to the longest that it may be, (a, k, 1)."""
    length = u.norm(dim=2, keepdim=True)  # (a, k, 1)
    return u * (longest / length.clamp_min(1e-12)).clamp(max=1.0)


def _unit_length(x: torch.Tensor) -> torch.Tensor:
    """Vectors (..., d) at length 1; those of no length stay."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


STEPS: dict[str, type[Normalised | Adam]] = {"normalised": Normalised, "adam": Adam}
