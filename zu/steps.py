"""The steps of a search for targets: along the normalised gradient, or by Adam.

Both step on the unknown u, with one independent problem per row: u is (n, k, d), at k places of
each of n facts. Only the a facts that are not done yet are stepped, and each fact counts its own
steps, since some are done sooner than others.
"""
from __future__ import annotations

from typing import Literal

import torch

Optimizer = Literal["normalised", "adam"]
#: The default rates.
RATES: dict[str, float] = {"normalised": 0.3, "adam": 0.4}
#: For the normalised gradient: the share of the previous direction that is kept, the ratio of a
#: step's length to the previous one's, and, as shares of the longest u, how long u may be at first
#: and how much longer after each step.
KEPT, SHORTER, AT_FIRST, LONGER = 0.5, 0.93, 0.5, 0.05


class Adam:
    """Adam: each coordinate moves by about the rate, and u may have its full length at once.

    Parameters
    ----------
    longest : (n, k, 1)
        The longest u that is allowed.
    d : int
        The number of coordinates in a row of u.
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
            The facts' present u.
        active : (a,)
            The facts' numbers.
        gradient : (a, k, d)
            The gradients of their losses.

        Returns
        -------
        (a, k, d)
            The next u, cut to the allowed length.
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
    """Steps of a given length along the gradient's direction, with some of the previous direction.

    The search looks for a direction more than for a length. The gradient's length does not say how
    far to go, and a longer u in a good direction lowers the loss further. The length of u is
    therefore limited, to half of the longest at first and a little more after each step. The result
    is about the shortest u that suffices, which moves other facts the least.

    Parameters
    ----------
    longest : (n, k, 1)
        The longest u that is allowed.
    d : int
        The number of coordinates in a row of u.
    lr : float
        The first step's length, as a share of the longest u.
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
            As in `Adam`.

        Returns
        -------
        (a, k, d)
            The next u, cut to the allowed length.
        """
        before, longest = self.taken[active], self.longest[active]  # (a, 1, 1) and (a, k, 1)
        self.taken[active] += 1
        self.direction[active] = KEPT * self.direction[active] + _unit_length(gradient)
        step = self.lr * SHORTER**before * longest  # (a, k, 1)
        allowed = longest * (AT_FIRST + LONGER * before).clamp(max=1.0)
        return _no_longer(u - step * _unit_length(self.direction[active]), allowed)


def _no_longer(u: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
    """u (a, k, d), cut to the allowed length (a, k, 1)."""
    length = u.norm(dim=2, keepdim=True)  # (a, k, 1)
    return u * (longest / length.clamp_min(1e-12)).clamp(max=1.0)


def _unit_length(x: torch.Tensor) -> torch.Tensor:
    """Vectors (..., d) scaled to length 1; zero vectors stay zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


STEPS: dict[str, type[Normalised | Adam]] = {"normalised": Normalised, "adam": Adam}
