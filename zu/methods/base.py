"""What a method is: its settings, what it needs, how a layer's problem is built and solved."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from .. import descent, solve
from ..data.facts import Fact
from ..edit import Edit
from ..models import down_proj, weight_name
from ..reader import Below, subject_keys
from ..targets import Targets, optimise

if TYPE_CHECKING:
    from torch import nn


class Method(BaseModel):
    """A method: its settings are the fields, and what never changes stands in the class.

    Subclass `Located` for one that finds targets and solves a problem per layer, `Descended` for one
    that trains, or this one for anything else; then `zu.register` it.

    Attributes
    ----------
    name : how `zu.unlearn`, tables and parameters call it; unique.
    about : what it does, in a few words.
    label, colour : what tables call it, and its colour in every figure.
    middle : whether it changes the middle one of the layers only.
    spares : whether it takes anchors and earlier edits into account.
    retains : whether it reads text to retain.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    label: ClassVar[str] = ""
    colour: ClassVar[str] = "#444444"
    middle: ClassVar[bool] = False
    spares: ClassVar[bool] = False
    retains: ClassVar[bool] = False

    def warning(self, job: Job) -> str:
        """What a user should know before this job is done; empty where there is nothing."""
        return ""

    def make(self, job: Job, edit: Edit) -> None:
        """Compute the edit of a job and put it on, weight by weight, by `Edit.set`."""
        raise NotImplementedError(f"{type(self).__name__} has no make()")

    def remedies(self) -> tuple[list[str], list[str]]:
        """Which settings to raise and which to lower where an edit changes nothing."""
        return self._present("steps", "lr"), self._present("lam", "alpha", "tolerance")

    def _present(self, *names: str) -> list[str]:
        return [name for name in names if name in type(self).model_fields]


@dataclass
class Job:
    """The facts that a model is to forget, where, and what was found or read already.

    targets, moments : found by `unlearn` where a method needs them and they are not given.
    before : texts put before a prompt, the empty one first.
    below : what enters the lowest edited layer, read once.
    weights : of the facts, (n,) float64; all 1 unless a method weighs them.
    """

    model: nn.Module
    tokenizer: object
    facts: list[Fact]
    layers: tuple[int, ...]
    seed: int = 0
    targets: Targets | None = None
    moments: dict[int, torch.Tensor] | None = None
    earlier: Sequence[Edit] = ()
    anchors: Sequence[Fact] = ()
    retain: Sequence[str] | None = None
    before: Sequence[str] = ("",)
    below: Below | None = None
    weights: torch.Tensor | None = None

    def reads(self, layer: int) -> list[int]:
        """The layers that are read for an edit of one: itself, and the one that targets are set after."""
        return sorted({layer, self.layers[-1]})


@dataclass(frozen=True)
class Problem:
    """One layer's matrices, float64, as `zu.solve` names them.

    K_p : keys whose values should stay, (m, p), those of earlier edits and of anchors, each times the
        square root of its weight; None where there are none.
    spectrum : of C_0, see `zu.solve.spectrum`; called where it is needed.
    """

    W: torch.Tensor
    K_f: torch.Tensor
    V_star: torch.Tensor
    C0: torch.Tensor
    V_f: torch.Tensor
    K_p: torch.Tensor | None
    spectrum: Callable[[], tuple]


@dataclass(frozen=True)
class Columns:
    """What a layer should do about the facts: keys (m, p), what is missing at them (d, p), mean keys (n, m)."""

    K_f: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor


class Settings(Method):
    """What every method of the locate-and-edit kind can be told: how its targets are found.

    The released code takes an absolute rate, 0.1 in the residual stream's own unit, and a tolerance
    of 0.05; its KL term is another one too, see `zu.targets.optimise`.
    """

    n_prefixes: int = Field(5, ge=0, le=5, description="texts put before a prompt, beside none")
    steps: int = Field(25, ge=1, description="optimisation steps for a target")
    lr: float = Field(0.4, gt=0, description="one step moves a coordinate of the target by lr times ‖h‖/√d")
    tolerance: float = Field(0.1, ge=0, description="loss under which a target is found")
    weight_decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    clamp: float = Field(0.75, gt=0, description="largest ‖δ‖ as a share of ‖h‖")

    def search(self) -> dict:
        """What a search for targets takes from the settings."""
        names = ("steps", "lr", "weight_decay", "kl", "clamp", "tolerance")
        return {name: getattr(self, name) for name in names}


class Located(Settings):
    """Locate and edit: read the facts' keys layer by layer, and solve each layer's problem (Algorithm 1).

    A subclass gives `solve`; it may also say what its problem's columns are, what it spares, and what
    it takes for the old values.
    """

    def remedies(self) -> tuple[list[str], list[str]]:
        more = self._present("share", "beta", "weight", "clamp", "steps", "lr")
        return more, super().remedies()[1]

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), float64."""
        raise NotImplementedError(f"{type(self).__name__} has no solve()")

    def make(self, job: Job, edit: Edit) -> None:
        """Edit the layers in turn, each on the model as edited so far."""
        for left, layer in zip(range(len(job.layers), 0, -1), job.layers, strict=True):
            self.edit_layer(job, edit, layer, left)

    def edit_layer(self, job: Job, edit: Edit, layer: int, left: int) -> None:
        """Solve one layer, which takes its share of what is still missing; left: layers not edited yet, itself too."""
        if layer not in job.moments or any(layer not in e.keys for e in job.earlier):
            raise ValueError(f"layer {layer} is to be edited, but moments or an earlier edit's keys lack it")
        weight = down_proj(job.model, layer).weight
        W, columns = weight.double(), self.columns(job, layer)
        C0 = job.moments[layer].to(weight.device)
        V_star = W @ columns.K_f + columns.missing / left
        V_f = self.old_values(job, layer, W @ columns.mean.T)
        # ROME's fact after fact needs no second look: keys of a layer do not depend on that layer's own weight
        problem = Problem(W, columns.K_f, V_star, C0, V_f, self.spared(job, layer), lambda: _spectrum(job, layer, C0))
        edit.set(weight_name(job.model, layer), self.solve(problem))
        edit.keys[layer] = columns.mean.float()

    def columns(self, job: Job, layer: int) -> Columns:
        """A column per fact: its mean key over the prefixes, and what is missing at the last layer."""
        keys, bare = subject_keys(job.model, job.tokenizer, job.facts, job.reads(layer), job.before, below=job.below)
        return Columns(keys[layer].T, missing(job, layer, bare), keys[layer])

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        """What the layer is taken to say about the facts, (d, n); V_f: what it says now."""
        return V_f

    def spared(self, job: Job, layer: int) -> torch.Tensor | None:
        """Keys whose values should stay, (m, p), each times the square root of its weight; None for none."""
        device = down_proj(job.model, layer).weight.device
        kept = [e.keys[layer].to(device).double() for e in job.earlier]
        if job.anchors and self.anchor_weight():
            kept.append(self.anchor_weight() ** 0.5 * self.anchor_keys(job, layer))
        return torch.cat(kept).T if kept else None

    def anchor_weight(self) -> float:
        """Weight of an anchor's key against that of a fact to forget."""
        return 1.0

    def anchor_keys(self, job: Job, layer: int) -> torch.Tensor:
        """The anchors' keys, (a, m)."""
        return keys_of(job, layer, job.anchors)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """How many searches for the true answers an edit of these layers makes, beside that for its targets."""
        return 0

    def operations(self, d: int, m: int, n: int) -> float:
        """Multiplications and additions of one layer's solve, about."""
        return 2 * d * m * m + 2 * d * d * m + 4 * n * d * m


def missing(job: Job, layer: int, bare) -> torch.Tensor:
    """What the state after the last layer still lacks of its target, (d, n) float64; bare: the bare prompts' trace."""
    device = down_proj(job.model, layer).weight.device
    return (job.targets.z.to(device) - bare.hidden[job.layers[-1]].to(device)).double().T


def keys_of(job: Job, layer: int, facts: Sequence[Fact]) -> torch.Tensor:
    """Keys of some facts without prefixes, (n, m) float64."""
    return subject_keys(job.model, job.tokenizer, facts, job.reads(layer), below=job.below)[0][layer]


def without_prompt(facts: Iterable[Fact]) -> list[Fact]:
    """The same subjects with no prompt around them."""
    return [replace(fact, prompt="{}") for fact in facts]


def _spectrum(job: Job, layer: int, C0: torch.Tensor) -> tuple:  # kept on the CPU, as moments are
    found = job.below.once(("spectrum", layer), C0.cpu(), lambda _: [x.cpu() for x in solve.spectrum(C0)])
    return tuple(x.to(C0.device) for x in found)


class Sparing(Located):
    """What the methods that take anchors can be told about them."""

    spares: ClassVar[bool] = True

    anchor: float = Field(1.0, ge=0, description="weight of an anchor's key against that of a fact to forget")

    def anchor_weight(self) -> float:
        return self.anchor


class Truthful(Located):
    """What the methods that project old values away can be told about these.

    V_f: the knowledge to project away. "outputs" takes W K_f, as the paper's text says. "optimised"
    takes W K_f + δ, with δ a change of the residual stream, up to clamp · ‖h‖, from which the model
    says the true answer, behind every prefix.
    """

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        if self.V_f == "outputs":
            return V_f
        truth = optimise(job.model, job.tokenizer, job.facts, layer, job.before, goal="truth", **self.search())
        return V_f + (truth.z - truth.h).to(V_f.device).double().T

    def truth_searches(self, layers: Sequence[int]) -> int:
        return len(layers) if self.V_f == "optimised" else 0


class Descended(Method):
    """Gradient descent on the middle layer's projection, all facts in a step.

    goal : what is trained in the answers' place, "truth" or "eos".
    sign : 1 where the loss of that goes up, -1 where it goes down.
    passes : forward passes of a step, as multiples of the facts'.
    """

    middle: ClassVar[bool] = True
    goal: ClassVar[str] = "truth"
    sign: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    steps: int = Field(25, ge=1)
    lr: float = Field(5e-3, gt=0)

    def rows(self, job: Job) -> tuple[list[descent.Row], list[float]]:
        """What is read, and the weight of each row in the loss: the mean over facts."""
        rows = descent.answer_rows(job.tokenizer, job.facts, self.goal)
        return rows, [self.sign / len(job.facts)] * len(job.facts)

    def preference(self) -> float | None:
        """β of a preference against the unedited model; None: the plain log-likelihood."""
        return None

    def make(self, job: Job, edit: Edit) -> None:
        """Descend, and take the new weights."""
        rows, weights = self.rows(job)
        new, _ = descent.descend(job.model, rows, weights, job.layers, steps=self.steps, lr=self.lr,
                                 beta=self.preference())
        for layer, weight in new.items():
            edit.set(weight_name(job.model, layer), weight)
