"""Pictures and measurements of the chapter on Lemma 5.1: its terms, its system, its cost."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.overrides import TorchFunctionMode

from .. import solve
from .figures import PALETTE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What the three wishes are called, and the colour of each.
WISHES = {"zero": SERIES[1], "targets": SERIES[2], "small change": PALETTE["base"]}


def wishes(
    at: np.ndarray, old: np.ndarray, target: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """The three terms of Lemma 5.1 for one fact, at some new values of it.

    The fact's key has length one and lies in the null space, so that the change of the value is as
    long as that of the matrix; the zero term's axis is the old value's, at length one.

    Parameters
    ----------
    at : (..., 2)
        New values.
    old, target : (2,)
        The value before the edit, and the one asked for.
    weights : sequence of float
        The weights of the zero term, the targets and the size of the change.

    Returns
    -------
    (3, ...)
        The weighted terms; their sum is the objective.

    Raises
    ------
    ValueError
        If `old` is zero: it has no axis then.
    """
    if not np.any(old):
        raise ValueError("old must not be zero: it has no axis then")
    zero, forget, lam = weights
    along = at @ (old / np.linalg.norm(old))
    return np.stack([zero * along**2, forget * ((at - target) ** 2).sum(-1),
                     lam * ((at - old) ** 2).sum(-1)])


def ways_down(
    old: np.ndarray, target: np.ndarray, weights: Sequence[float], steps: Sequence[int], lr: float
) -> pd.DataFrame:
    """Ways of the value of the fact of `wishes` to the minimum of the sum of the three terms.

    Parameters
    ----------
    old, target : (2,)
        The value before the edit, and the one asked for.
    weights : sequence of float
        The weights of the zero term, the targets and the size of the change.
    steps : sequence of int
        After how many of Adam's steps to look.
    lr : float
        Size of Adam's steps.

    Returns
    -------
    pd.DataFrame
        "method", "step", "value 1" and "value 2": Adam's way, that of steepest descent in small
        steps ("gradient flow", its "step" being the time), and the "minimum".
    """
    w, v_star = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (old, target))
    one, axis = torch.ones(1, 1, dtype=w.dtype), w / w.norm()
    zero, forget, lam = weights
    best = w + solve.lemma_5_1(w, one, v_star, axis, one, zero=zero, forget=forget, lam=lam)
    curvature = 2 * (zero * axis @ axis.T + (forget + lam) * torch.eye(2).to(w))
    rows = []
    for step in steps:
        at = w + solve.lemma_5_1_gd(w, one, v_star, axis, one, zero=zero, forget=forget, lam=lam,
                                    steps=step, lr=lr)
        rows.append(("Adam", float(step), *at[:, 0].tolist()))
    for moment in np.linspace(0, 3, 60):
        at = best + torch.linalg.matrix_exp(-moment * curvature) @ (w - best)
        rows.append(("gradient flow", float(moment), *at[:, 0].tolist()))
    rows.append(("minimum", float("nan"), *best[:, 0].tolist()))
    return pd.DataFrame(rows, columns=["method", "step", "value 1", "value 2"])


def draw_wishes(
    old: np.ndarray, target: np.ndarray, weights: Sequence[float], paths: pd.DataFrame
) -> Figure:
    """The level curves of the three terms, and those of their sum with ways down to its minimum.

    Parameters
    ----------
    old, target : (2,)
        The fact's value before the edit, and the one asked for.
    weights : sequence of float
        The weights of the zero term, the targets and the size of the change.
    paths : pd.DataFrame
        New values on the way: "method", "step", "value 1", "value 2"; the method "minimum" has one
        row.

    Returns
    -------
    Figure
        Two panels.
    """
    import matplotlib.pyplot as plt

    x, y = np.meshgrid(np.linspace(-2.4, 3.8, 311), np.linspace(-1.0, 3.6, 231))
    terms = wishes(np.stack([x, y], -1), old, target, weights)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.5), sharex=True, sharey=True)
    for term, colour, levels in zip(terms, WISHES.values(), ([0.02, 0.5], [0.2, 0.8], [0.1, 0.4])):
        left.contour(x, y, term, levels, colors=colour, linewidths=[1.6, 0.8])
    across = np.array([-old[1], old[0]]) / np.linalg.norm(old)
    left.axline((0, 0), tuple(across), color=WISHES["zero"], ls="--", lw=1)
    left.set_title("what each wish asks for")
    total = terms.sum(0)
    levels = total.min() + np.geomspace(0.05, total.max(), 9)
    right.contour(x, y, total, levels, colors=PALETTE["base"], linewidths=0.7, alpha=0.6)
    right.set_title("their sum")
    _draw_paths(right, paths)
    for axis in (left, right):
        axis.plot(*old, "o", color=WISHES["small change"], ms=6, zorder=3)
        axis.plot(*target, "P", color=WISHES["targets"], ms=8, zorder=3)
        axis.set(aspect="equal", xlabel="first entry of the value", xticks=range(-2, 4))
        axis.grid(False)
    left.set_ylabel("second entry")
    for text, place, wish in (("small change:\nstay at the old value", (1.3, -0.8), "small change"),
                              ("target:\ngo there", (1.75, 2.6), "targets"),
                              ("zero term:\nanywhere on\nthe dashed line", (-2.3, 0.2), "zero")):
        left.annotate(text, place, color=WISHES[wish], fontsize=8)
    right.legend(fontsize=8, loc="upper right")
    return figure


def _draw_paths(axis: Axes, paths: pd.DataFrame) -> None:
    """Ways down, and the star at their end."""
    looks = {"Adam": (PALETTE["zerounlearn-gd"], "o-"), "gradient flow": (SERIES[3], "--")}
    for method, some in paths.groupby("method", sort=False):
        if method == "minimum":
            axis.plot(some["value 1"], some["value 2"], "*", ms=13, color=PALETTE["exact"],
                      ls="none", label="minimum", zorder=4)
            continue
        colour, look = looks[str(method)]
        axis.plot(some["value 1"], some["value 2"], look, color=colour, ms=3, lw=1.5, label=method)


def draw_systems(systems: Mapping[str, np.ndarray]) -> Figure:
    """Square matrices as pictures: dark entries are large, white ones zero.

    Parameters
    ----------
    systems : mapping of str to (size, size)
        Matrices by title, none of them zero.

    Returns
    -------
    Figure
        One panel per matrix, all on one scale, down to a millionth of the largest entry of all.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(1, len(systems), figsize=(7.0, 3.1), squeeze=False)
    largest = max(np.abs(matrix).max() for matrix in systems.values())
    norm = LogNorm(largest * 1e-6, largest)
    for axis, (title, matrix) in zip(axes[0], systems.items()):
        shown = np.where(np.abs(matrix) < norm.vmin, np.nan, np.abs(matrix))
        image = axis.imshow(shown, cmap="magma_r", norm=norm, interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(True)
    figure.colorbar(image, ax=axes[0].tolist(), label="size of an entry", shrink=0.85)
    return figure


def draw_excess(frame: pd.DataFrame) -> Figure:
    """Draw how far ways of descent are above the minimum, by steps.

    Parameters
    ----------
    frame : pd.DataFrame
        "method", "steps" and "above the minimum, %"; values under 1e-9 are drawn at 1e-9. A method
        whose name begins with "Adam" is drawn in the colour of ZeroUnlearn-GD.

    Returns
    -------
    Figure
        One panel.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    looks = iter(("-", "--", ":", "-."))
    for method, some in frame.groupby("method", sort=False):
        is_adam = str(method).startswith("Adam")
        colour = PALETTE["zerounlearn-gd" if is_adam else "exact"]
        axis.plot(some.steps, some["above the minimum, %"].clip(lower=1e-9),
                  next(looks) if is_adam else "-", color=colour, label=method)
    axis.set(xscale="symlog", yscale="log", xlabel="steps", ylabel="objective above its minimum, %")
    axis.legend(loc="lower left")
    return figure


class Largest(TorchFunctionMode):
    """A context in which `bytes` is the size of the largest tensor that any call returned."""

    bytes: int = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function and look at what it returns."""
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else [out]:
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return out


def costs(
    ways: Mapping[str, tuple[Callable[..., Any], Sequence[int]]],
    problem: Callable[[int], Sequence[torch.Tensor]],
    repeats: int = 3,
) -> pd.DataFrame:
    """Time and memory of solvers at several sizes.

    Parameters
    ----------
    ways : mapping of str to (callable, sizes)
        Solvers by name, and the sizes to run each at.
    problem : callable
        A solver's arguments, given a size.
    repeats : int
        How often each is timed; the shortest time counts.

    Returns
    -------
    pd.DataFrame
        One row per solver and size: "method", "m", "seconds" of processor time and "bytes", the
        largest tensor that a call returned.
    """
    rows = []
    for method, (way, sizes) in ways.items():
        for size in sizes:
            arguments = problem(size)
            with Largest() as watch:  # the first call is not timed
                way(*arguments)
            times = []
            for _ in range(repeats):
                start = time.process_time()
                way(*arguments)
                times.append(time.process_time() - start)
            rows.append({"method": method, "m": size, "seconds": min(times), "bytes": watch.bytes})
    return pd.DataFrame(rows)


def exponents(frame: pd.DataFrame, last: int = 3) -> pd.DataFrame:
    """The powers of m with which time and memory grow.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `costs`.
    last : int
        How many of the largest sizes the powers are fitted to.

    Returns
    -------
    pd.DataFrame
        By method: "seconds" and "bytes", slopes of least squares between logarithms.
    """
    found: dict[str, dict[str, float]] = {}
    for method, some in frame.groupby("method", sort=False):
        tail = some.nlargest(last, "m")
        found[str(method)] = {
            what: float(np.polyfit(np.log(tail.m), np.log(tail[what].clip(lower=1e-9)), 1)[0])
            for what in ("seconds", "bytes")}
    return pd.DataFrame.from_dict(found, orient="index")


def draw_costs(frame: pd.DataFrame) -> Figure:
    """Time and memory against size, with the fitted powers in the legend.

    Parameters
    ----------
    frame : pd.DataFrame
        The result of `costs`, of up to three methods.

    Returns
    -------
    Figure
        Two panels in double logarithmic axes.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2)
    powers = exponents(frame)
    colours = (SERIES[0], PALETTE["zerounlearn-gd"], PALETTE["exact"])
    for axis, what in zip(axes, ("seconds", "bytes")):
        # of lines that lie on each other, the later is thinner
        for (method, some), colour, width in zip(frame.groupby("method", sort=False), colours,
                                                 (1.6, 3.6, 1.4)):
            axis.loglog(some.m, some[what], "o-", ms=3, lw=width, color=colour,
                        label=f"{method}: $m^{{{powers.loc[method, what]:.1f}}}$")
        axis.set_xlabel("m")
        axis.set_ylim(top=60 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=8, loc="upper left")
    axes[0].set_ylabel("processor time, s")
    axes[1].set_ylabel("largest array, bytes")
    return figure
