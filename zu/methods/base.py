"""What a method is: its settings, what it needs, how a layer's problem is built and solved."""
from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, field_validator

from .. import descent, solve
from ..data.facts import Fact
from ..edit import Edit
from ..models import down_proj, weight_name
from ..reader import Reader, Trace, subject_keys
from ..targets import Search, Targets, optimise

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Method(BaseModel):
    """A method: its settings are the fields, and what never changes stands in the class.

    Subclass `Located` for one that finds targets and solves a problem per layer, `Descended` for
    one that trains, or this one for anything else; then `zu.register` it.

    Attributes
    ----------
    name : str
        How `zu.unlearn`, tables and parameters call it; unique.
    about : str
        What it does, in a few words.
    label, colour : str
        What tables call it, and its colour in every figure.
    middle : bool
        Whether it changes only the middle one of the layers.
    spares : bool
        Whether it takes anchors and earlier edits into account.
    layers : sequence of int or float, optional
        The layers to edit: indices, or shares of the depth (floats below 1); by default the model's
        own (`zu.models.resolve_layers`).
    seed : int
        Of whatever is drawn: the prefixes, the default text to retain.
    moments : dict, optional
        What general text looks like to the unedited model, C_0 (m, m) by layer, as `zu.moments`
        returns it, for the methods that need it; by default that of the embedded prose. With any
        method, the edit's damage is measured with it.
    check : bool
        Whether some held-out prose is read before and after, and an edit refused that makes its
        perplexity more than twice what it was.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    label: ClassVar[str] = ""
    colour: ClassVar[str] = "#444444"
    middle: ClassVar[bool] = False
    spares: ClassVar[bool] = False

    layers: tuple[int | float, ...] | None = None
    seed: int = 0
    moments: InstanceOf[dict] | None = Field(None, exclude=True, repr=False)
    check: bool = Field(True, exclude=True, repr=False)

    @field_validator("layers", mode="before")
    @classmethod
    def _any_sequence(cls, given: Any) -> Any:
        """Layers as plain numbers, from whatever holds them: a list, a range, an array."""
        if isinstance(given, int | float):
            raise ValueError(f"layers is {given}: give a list, [{given}]")
        if given is None or isinstance(given, str):
            return given
        return tuple(x if isinstance(x, int | float) else operator.index(x) for x in given)

    @classmethod
    def row_name(cls, anchors: bool) -> str:
        """What tables call a row of this method.

        Parameters
        ----------
        anchors : bool
            Whether the row is given anchors.

        Returns
        -------
        str
            The label, and whatever tells the two rows apart.
        """
        return f"{cls.label} + anchors" if anchors else cls.label

    def warning(self, job: Job) -> str:
        """What a user should know before a job is done.

        Parameters
        ----------
        job : Job
            What is about to be done.

        Returns
        -------
        str
            The text of a warning; empty where there is nothing to say.
        """
        return ""

    def make(self, job: Job, edit: Edit) -> None:
        """Compute the edit of a job and put it on, weight by weight, by `Edit.set`.

        Parameters
        ----------
        job : Job
            The facts to forget, and where.
        edit : Edit
            The edit to fill; it holds no weight yet.

        Raises
        ------
        NotImplementedError
            Where a subclass does not give this method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no make()")

    def remedies(self) -> tuple[list[str], list[str]]:
        """What to turn where an edit changes nothing.

        Returns
        -------
        tuple[list[str], list[str]]
            Names of the settings to raise, and of those to lower.
        """
        more = self._present("steps", "lr")
        less = self._present("lam", "alpha", "tolerance")
        return more, less

    def _present(self, *names: str) -> list[str]:
        """Those of the names that are settings of this method, in the order given."""
        return [name for name in names if name in type(self).model_fields]


@dataclass
class Job:
    """The facts that a model is to forget, where, and what was found or read already.

    Attributes
    ----------
    reader : Reader
        Of the model that is to forget.
    facts : list[Fact]
        The n facts to forget.
    layers : tuple[int, ...]
        The layers to edit, ascending.
    anchors : Sequence[Fact]
        Prompts with other subjects whose values should stay.
    earlier : Sequence[Edit]
        Edits of the same layers whose facts' values should stay.
    prefixes : Sequence[str]
        Texts put before a prompt, the empty one first.
    targets, moments
        Found by `unlearn` where a method needs them; the moments are C_0, (m, m), by layer.
    weights : torch.Tensor | None
        Of the facts, (n,) float64; all 1 unless a method weighs them.
    """

    reader: Reader
    facts: list[Fact]
    layers: tuple[int, ...]
    anchors: Sequence[Fact] = ()
    earlier: Sequence[Edit] = ()
    prefixes: Sequence[str] = ("",)
    targets: Targets | None = None
    moments: dict[int, torch.Tensor] | None = None
    weights: torch.Tensor | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model that is to forget."""
        return self.reader.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.reader.tokenizer

    def reads(self, layer: int) -> list[int]:
        """The layers that are read for an edit of one.

        Parameters
        ----------
        layer : int
            The layer to edit.

        Returns
        -------
        list[int]
            The layer itself and the one that targets are set after, ascending.
        """
        return sorted({layer, self.layers[-1]})


@dataclass(frozen=True)
class Problem:
    """One layer's matrices, float64, as `zu.solve` names them.

    Attributes
    ----------
    W : (d, m)
        The layer's weight: it maps a key to a value.
    K_f : (m, n)
        Keys of the facts to forget, a column each.
    V_star : (d, n)
        The values that they should get.
    C0 : (m, m)
        Second moment of general keys.
    V_f : (d, k)
        The knowledge to project away; usually k = n.
    K_p : (m, p) or None
        Keys whose values should stay, those of earlier edits and of anchors, each times the square
        root of its weight; None where there are none.
    spectrum : callable
        Gives the spectrum of C_0, see `zu.solve.spectrum`; called where it is needed.
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
    """What a layer should do about the facts.

    Attributes
    ----------
    K_f : (m, p)
        Keys, a column each; p is the number n of facts or a multiple of it.
    missing : (d, p)
        What is missing at these keys, in the state after the last edited layer.
    mean : (n, m)
        Each fact's mean key, a row each.
    """

    K_f: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor


class Settings(Method):
    """The settings of every method of the locate-and-edit kind: how its targets are found.

    The released code takes an absolute rate, 0.1 in the residual stream's own unit, and a tolerance
    of 0.05; its KL term is another one too, see `zu.targets.optimise`.

    Attributes
    ----------
    n_prefixes : int
        Texts put before a prompt, beside none.
    steps : int
        Optimisation steps for a target.
    lr : float
        One step moves a coordinate of the target by lr times ‖h‖/√d.
    tolerance : float
        Loss under which a target is found.
    weight_decay : float
        Weight of ‖δ‖ / ‖h‖² in the loss.
    kl : float
        Weight of the divergence after "{subject} is a" in the loss.
    clamp : float
        Largest ‖δ‖ as a share of ‖h‖.
    targets : Targets, optional
        What such a search found, as `zu.find_targets` returns it for these facts and the last of
        the layers, where it is at hand. ROME searches for its own where its layer is another one.
    """

    n_prefixes: int = Field(5, ge=0, le=5, description="texts put before a prompt, beside none")
    steps: int = Field(25, ge=1, description="optimisation steps for a target")
    lr: float = Field(
        0.4, gt=0, description="one step moves a coordinate of the target by lr times ‖h‖/√d"
    )
    tolerance: float = Field(0.1, ge=0, description="loss under which a target is found")
    weight_decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    clamp: float = Field(0.75, gt=0, description="largest ‖δ‖ as a share of ‖h‖")
    targets: InstanceOf[Targets] | None = Field(None, exclude=True, repr=False)

    def search(self, prefixes: Sequence[str], goal: str = "eos") -> Search:
        """The search for targets that the settings ask for.

        Parameters
        ----------
        prefixes : Sequence[str]
            Texts put before a prompt, the empty one first.
        goal : {"eos", "truth"}
            What the model should say.

        Returns
        -------
        Search
            What `zu.targets.optimise` takes.
        """
        return Search(
            prefixes=prefixes,
            goal=goal,
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            kl=self.kl,
            clamp=self.clamp,
            tolerance=self.tolerance,
        )


class Located(Settings):
    """Locate and edit: read the facts' keys layer by layer, and solve each layer's problem.

    A subclass gives `solve`; it may also say what its problem's columns are, what it spares, and
    what it takes for the old values.

    References
    ----------
    Algorithm 1 of the paper.
    """

    def remedies(self) -> tuple[list[str], list[str]]:
        """Raise what strengthens the edit or lengthens the search; lower what holds it back."""
        more = self._present("share", "beta", "weight", "clamp", "steps", "lr")
        less = super().remedies()[1]
        return more, less

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.

        Raises
        ------
        NotImplementedError
            Where a subclass does not give this method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no solve()")

    def make(self, job: Job, edit: Edit) -> None:
        """Edit the layers in turn, each on the model as edited so far.

        Parameters
        ----------
        job : Job
            The facts to forget, with targets and moments.
        edit : Edit
            The edit to fill.
        """
        for index, layer in enumerate(job.layers):
            left = len(job.layers) - index
            self.edit_layer(job, edit, layer, left)

    def edit_layer(self, job: Job, edit: Edit, layer: int, left: int) -> None:
        """Solve one layer, which takes its share of what is still missing.

        Parameters
        ----------
        job : Job
            The facts to forget, with targets and moments.
        edit : Edit
            Gets the layer's new weight and the facts' mean keys.
        layer : int
            The layer to edit.
        left : int
            How many layers are not edited yet, this one too.

        Raises
        ------
        ValueError
            Where the moments or the keys of an earlier edit lack the layer.
        """
        moments = job.moments or {}
        if layer not in moments or any(layer not in e.keys for e in job.earlier):
            raise ValueError(
                f"layer {layer} is to be edited, but moments or an earlier edit's keys lack it"
            )
        weight = down_proj(job.model, layer).weight
        W = weight.double()
        columns = self.columns(job, layer)
        C0 = moments[layer].to(weight.device)
        V_star = W @ columns.K_f + columns.missing / left  # (d, m) @ (m, p) + (d, p)
        V_f = self.old_values(job, layer, W @ columns.mean.T)  # (d, m) @ (m, n)
        problem = Problem(
            W=W,
            K_f=columns.K_f,
            V_star=V_star,
            C0=C0,
            V_f=V_f,
            K_p=self.keys_to_keep(job, layer),
            spectrum=partial(_spectrum, job, layer, C0),
        )
        edit.set(weight_name(job.model, layer), self.solve(problem))
        edit.keys[layer] = columns.mean.float()

    def columns(self, job: Job, layer: int) -> Columns:
        """A column per fact: its mean key over the prefixes, and what its target still lacks.

        Parameters
        ----------
        job : Job
            The n facts to forget, with targets.
        layer : int
            The layer to edit.

        Returns
        -------
        Columns
            Keys (m, n), what is missing after the last layer (d, n), and mean keys (n, m).
        """
        keys, bare = subject_keys(job.reader, job.facts, job.reads(layer), job.prefixes)
        mean = keys[layer]
        return Columns(mean.T, missing(job, layer, bare), mean)  # keys: (n, m) -> (m, n)

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        """What the layer is taken to say about the facts.

        Parameters
        ----------
        job : Job
            The n facts to forget.
        layer : int
            The layer to edit.
        V_f : (d, n)
            What the layer says about them now.

        Returns
        -------
        torch.Tensor
            (d, n), float64; here what it says now.
        """
        return V_f

    def keys_to_keep(self, job: Job, layer: int) -> torch.Tensor | None:
        """Keys whose values should stay: those of earlier edits and of anchors.

        Parameters
        ----------
        job : Job
            With earlier edits, anchors, both or neither.
        layer : int
            The layer to edit.

        Returns
        -------
        torch.Tensor or None
            (m, p), float64, each key times the square root of its weight; None for no keys.
        """
        device = down_proj(job.model, layer).weight.device
        kept = [e.keys[layer].to(device).double() for e in job.earlier]  # (n of that edit, m) each
        if job.anchors and self.anchor_weight():
            kept.append(self.anchor_weight() ** 0.5 * self.anchor_keys(job, layer))  # (a, m)
        if not kept:
            return None
        return torch.cat(kept).T  # (p, m) -> (m, p)

    def anchor_weight(self) -> float:
        """Weight of an anchor's key against that of a fact to forget.

        Returns
        -------
        float
            1 unless a method has a setting for it.
        """
        return 1.0

    def anchor_keys(self, job: Job, layer: int) -> torch.Tensor:
        """The anchors' keys.

        Parameters
        ----------
        job : Job
            With at least one anchor.
        layer : int
            The layer to edit.

        Returns
        -------
        torch.Tensor
            (a, m), float64.
        """
        return keys_of(job, layer, job.anchors)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """How many searches for the true answers an edit makes, beside that for its targets.

        Parameters
        ----------
        layers : Sequence[int]
            The layers to edit.

        Returns
        -------
        int
            The number of searches.
        """
        return 0

    def operations(self, d: int, m: int, n: int) -> float:
        """Multiplications and additions of one layer's solve, about.

        Parameters
        ----------
        d, m, n : int
            Length of a value, length of a key, number of facts.

        Returns
        -------
        float
            The number of operations.
        """
        return 2 * d * m * m + 2 * d * d * m + 4 * n * d * m


def missing(job: Job, layer: int, bare: Trace) -> torch.Tensor:
    """What the state after the last layer still lacks of its target.

    Parameters
    ----------
    job : Job
        The n facts to forget, with targets.
    layer : int
        The layer to edit, on whose device the result is.
    bare : Trace
        What the bare prompts show, the last layer's hidden states among it.

    Returns
    -------
    torch.Tensor
        z − h, (d, n), float64.

    Raises
    ------
    ValueError
        For a job without targets.
    """
    if job.targets is None:
        raise ValueError("the job has no targets: zu.unlearn finds them, zu.find_targets too")
    device = down_proj(job.model, layer).weight.device
    z = job.targets.z.to(device)  # (n, d)
    h = bare.hidden[job.layers[-1]].to(device)  # (n, d)
    return (z - h).double().T  # (n, d) -> (d, n)


def keys_of(job: Job, layer: int, facts: Sequence[Fact]) -> torch.Tensor:
    """Keys of some facts without prefixes.

    Parameters
    ----------
    job : Job
        Whose model is read, as it is now.
    layer : int
        The layer whose keys are wanted.
    facts : Sequence[Fact]
        n facts, which need not be those of the job.

    Returns
    -------
    torch.Tensor
        (n, m), float64.
    """
    keys, _ = subject_keys(job.reader, facts, job.reads(layer))
    return keys[layer]


def without_prompt(facts: Iterable[Fact]) -> list[Fact]:
    """The same subjects with no prompt around them.

    Parameters
    ----------
    facts : Iterable[Fact]
        Facts with any prompts.

    Returns
    -------
    list[Fact]
        The facts, in order, each with the prompt "{}".
    """
    return [replace(fact, prompt="{}") for fact in facts]


def _spectrum(job: Job, layer: int, C0: torch.Tensor) -> tuple:
    """Eigenvalues (m,) and eigenvectors (m, m) of C0 (m, m), found once a job or shared reading."""

    def find(_: torch.Tensor) -> list[torch.Tensor]:
        return [part.cpu() for part in solve.spectrum(C0)]

    # kept on the CPU, as moments are
    found = job.reader.once(("spectrum", layer), C0.cpu(), find)
    return tuple(part.to(C0.device) for part in found)


class Sparing(Located):
    """The settings of the methods that take anchors.

    Attributes
    ----------
    anchor : float
        Weight of an anchor's key against that of a fact to forget.
    """

    spares: ClassVar[bool] = True

    anchor: float = Field(
        1.0, ge=0, description="weight of an anchor's key against that of a fact to forget"
    )

    def anchor_weight(self) -> float:
        """Weight of an anchor's key against that of a fact to forget: the setting."""
        return self.anchor


class Truthful(Located):
    """The settings of the methods that project old values away.

    Attributes
    ----------
    V_f : {"outputs", "optimised"}
        The knowledge to project away; a subclass has it as a field. "outputs" takes W K_f, as the
        paper's text says. "optimised" takes W K_f + δ, with δ a change of the residual stream, up
        to clamp · ‖h‖, from which the model says the true answer, behind every prefix.
    """

    if TYPE_CHECKING:  # said to mypy alone: pydantic would make it a field of this class too
        V_f: Literal["outputs", "optimised"]

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        """What the layer is taken to say about the facts, (d, n): what it says now, or with δ.

        Parameters
        ----------
        job : Job
            The n facts to forget.
        layer : int
            The layer to edit, after which δ is searched for.
        V_f : (d, n)
            What the layer says about them now.

        Returns
        -------
        torch.Tensor
            (d, n), float64.
        """
        if self.V_f == "outputs":
            return V_f
        search = self.search(job.prefixes, goal="truth")
        truth = optimise(job.model, job.tokenizer, job.facts, layer, search)
        delta = truth.z - truth.h  # (n, d)
        return V_f + delta.to(V_f.device).double().T  # (n, d) -> (d, n)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """One search a layer where V_f is optimised, none otherwise."""
        return len(layers) if self.V_f == "optimised" else 0


class Descended(Method):
    """Gradient descent on the middle layer's projection, all facts in a step.

    Attributes
    ----------
    goal : {"truth", "eos"}
        What is trained in the answers' place.
    sign : int
        1 where the loss of that goes up, -1 where it goes down.
    passes : int
        Forward passes of a step, as multiples of the facts'.
    steps : int
        Steps of the optimiser.
    lr : float
        Its rate.
    """

    middle: ClassVar[bool] = True
    goal: ClassVar[str] = "truth"
    sign: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    steps: int = Field(25, ge=1)
    lr: float = Field(5e-3, gt=0)

    def objective(self, job: Job) -> descent.Objective:
        """What is read, and how it counts in the loss.

        Parameters
        ----------
        job : Job
            The n facts to forget.

        Returns
        -------
        descent.Objective
            A row a fact; the loss is their mean.
        """
        rows = descent.answer_rows(job.tokenizer, job.facts, self.goal)
        n = len(job.facts)
        return descent.Objective(rows, [self.sign / n] * n)

    def make(self, job: Job, edit: Edit) -> None:
        """Descend, and take the new weights.

        Parameters
        ----------
        job : Job
            The facts to forget.
        edit : Edit
            The edit to fill.
        """
        new, _ = descent.descend(
            job.model, self.objective(job), job.layers, steps=self.steps, lr=self.lr
        )
        for layer, weight in new.items():
            edit.set(weight_name(job.model, layer), weight)
