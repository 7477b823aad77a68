"""What a method is: its settings, what it needs, how a layer's problem is built and solved."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, field_validator

from .. import descent, solve
from ..chats import check_chat
from ..data.cache import cache_file, digest, read_tensors, write_tensors
from ..data.facts import Fact
from ..edit import Edit
from ..layouts import Layout, known
from ..models import layer_numbers, weight_name
from ..reader import Reader, Trace, subject_keys
from ..steps import Optimizer
from ..targets import Aim, Search, Targets, optimise
from ..wording import Wording, check_goal

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
        Whether it changes only one of the layers: the middle one, unless a setting says otherwise.
    spares : bool
        Whether it takes anchors and earlier edits into account.
    layers : sequence of int or float, optional
        The layers to edit: indices, or shares of the depth (floats below 1); by default the model's
        own (`zu.models.resolve_layers`).
    seed : int
        Of whatever is drawn: the prefixes, the default text to retain.
    chat : bool or str, optional
        Facts are asked, aimed at and trained as a turn of a chat, see `zu.wording.Wording`; by
        default as the reader that is given asks them, and plainly without one.
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
    chat: bool | str | None = None
    moments: InstanceOf[dict] | None = Field(None, exclude=True, repr=False)
    check: bool = Field(True, exclude=True, repr=False)

    @field_validator("layers", mode="before")
    @classmethod
    def _any_sequence(cls, given: Any) -> Any:
        """Layers as plain numbers, from whatever holds them: a list, a range, an array."""
        return None if given is None else layer_numbers(given)

    def edited(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Those of the layers that the method changes.

        Parameters
        ----------
        layers : sequence of int
            The layers that it is given, ascending.

        Returns
        -------
        tuple of int
            All of them, or one.
        """
        if not self.middle:
            return tuple(layers)
        return (layers[len(layers) // 2],)

    @field_validator("chat", mode="before")
    @classmethod
    def _usable_chat(cls, given: Any) -> Any:
        """A chat that can be asked, as far as a tokenizer has no say in it."""
        if given is not None:
            check_chat(given)
        return given

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
    aim : {"hidden", "value"}
        What the targets are of: the state after the last layer, or each layer's own output.
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
    aim: Aim = "hidden"
    #: The model's layout, as probed where a method needs it (`zu.layout`).
    probed: Layout | None = None

    @property
    def layout(self) -> Layout:
        """How the model is read and written."""
        return self.probed or known(self.model)

    def left(self, layer: int) -> int:
        """Over how many layers what is missing is still to be shared.

        Parameters
        ----------
        layer : int
            The layer to edit.

        Returns
        -------
        int
            How many layers are not edited yet, this one too; 1 where each has targets of its own.
        """
        return 1 if self.aim == "value" else len(self.layers) - self.layers.index(layer)

    @property
    def model(self) -> PreTrainedModel:
        """The model that is to forget."""
        return self.reader.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.reader.tokenizer

    @property
    def wording(self) -> Wording:
        """The model's tokenizer, and how facts are put to it."""
        return self.reader.wording

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
        return sorted({layer, self.layers[-1]}) if self.aim == "hidden" else [layer]


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
    keep : callable
        Is given what decides, beside C_0, on a `zu.solve.Spared`, and a function that makes it;
        returns it, made now or for an edit before. By default it is made each time.
    """

    W: torch.Tensor
    K_f: torch.Tensor
    V_star: torch.Tensor
    C0: torch.Tensor
    V_f: torch.Tensor
    K_p: torch.Tensor | None
    spectrum: Callable[[], tuple]
    keep: Callable[[Hashable, Callable[[], Any]], Any] = lambda about, make: make()


@dataclass(frozen=True)
class Columns:
    """What a layer should do about the facts.

    Attributes
    ----------
    K_f : (m, p)
        Keys, a column each; p is the number n of facts or a multiple of it.
    missing : (d, p)
        What is missing at these keys, in units of what the layer puts out.
    mean : (n, m)
        Each fact's mean key, a row each.
    """

    K_f: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor


class OneLayer(Method):
    """The setting of the methods that change one layer.

    Attributes
    ----------
    which : {"middle", "last"}
        Which one of the layers.
    """

    middle: ClassVar[bool] = True

    which: Literal["middle", "last"] = "middle"

    def edited(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The middle or the last one of the layers, see `Method.edited`."""
        return super().edited(layers) if self.which == "middle" else (layers[-1],)


class Settings(Method):
    """The settings of every method of the locate-and-edit kind: how its targets are found.

    The released code takes an absolute rate, 0.1 in the residual stream's own unit, and a tolerance
    of 0.05.

    Attributes
    ----------
    goal : str
        What the model should say instead of the answer: "eos", the end of the text, or any text,
        such as "I do not know"; "truth" is the answer.
    n_prefixes : int
        Texts put before a prompt, beside none.
    steps : int
        Optimisation steps for a target.
    lr : float, optional
        The size of a step, see `zu.targets.Search`; by default the optimizer's own.
    optimizer : {"adam", "normalised"}
        What takes the steps, see `zu.steps`.
    bare_first : bool
        Whether a target is searched for with the bare prompt alone first.
    by : {"search", "gradient", "unknown"}
        How a target is found: by a search; from one gradient; or from what unknown subjects look
        like. See `zu.targets.Search`.
    precision : {"model", "bfloat16"}
        What the search computes in, see `zu.targets.Search`.
    absolute : bool
        Whether lr is in the unit of h itself instead, as in the literature.
    tolerance : float
        Loss under which a target is found.
    weight_decay : float
        Weight of ‖δ‖ / ‖h‖² in the loss.
    kl : float
        Weight of the divergence of what is said of the subject, in the loss.
    kl_at : {"subject", "next"}
        Where and how that is taken: see `zu.targets.Search`. The first is the released one.
    aim : {"hidden", "value"}
        What δ changes, and h stands for: the hidden state after the last edited layer, which the
        layers bring about together; or what the projection of each edited layer puts out. Where a
        model normalises that output it is always "value", as no weight can bring about a given
        state then.
    clamp : float
        Largest ‖δ‖ as a share of ‖h‖.
    targets : Targets, optional
        What such a search found, as `zu.find_targets` returns it for these facts and the last of
        the layers, where it is at hand. ROME takes those of its own layer; given those of the
        methods that edit all layers it searches for its own, with a warning.
    """

    goal: str = Field("eos", description="what the model should say instead of the answer")
    n_prefixes: int = Field(5, ge=0, le=5, description="texts put before a prompt, beside none")
    steps: int = Field(25, ge=1, description="optimisation steps for a target")
    lr: float | None = Field(
        None, gt=0, description="the size of a step in the search for a target; none: its own"
    )
    optimizer: Optimizer = "normalised"
    bare_first: bool = True
    by: Literal["search", "gradient", "unknown"] = "search"
    precision: Literal["model", "bfloat16"] = "model"
    absolute: bool = False
    tolerance: float = Field(0.1, ge=0, description="loss under which a target is found")
    weight_decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    kl_at: Literal["subject", "next"] = "subject"
    aim: Aim = "hidden"
    clamp: float = Field(0.75, gt=0, description="largest ‖δ‖ as a share of ‖h‖")
    targets: InstanceOf[Targets] | None = Field(None, exclude=True, repr=False)

    @field_validator("goal")
    @classmethod
    def _some_goal(cls, given: str) -> str:
        """A goal that says something."""
        check_goal(given)
        return given

    def search(
        self, prefixes: Sequence[str], goal: str | None = None, aim: Aim | None = None
    ) -> Search:
        """The search for targets that the settings ask for.

        Parameters
        ----------
        prefixes : Sequence[str]
            Texts put before a prompt, the empty one first.
        goal : str, optional
            What the model should say; by default the setting.
        aim : {"hidden", "value"}, optional
            Another aim than the settings'.

        Returns
        -------
        Search
            What `zu.targets.optimise` takes.
        """
        return Search(
            prefixes=prefixes,
            goal=goal or self.goal,
            steps=self.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            kl=self.kl,
            clamp=self.clamp,
            tolerance=self.tolerance,
            aim=aim or self.aim,
            kl_at=self.kl_at,
            absolute=self.absolute,
            optimizer=self.optimizer,
            bare_first=self.bare_first,
            by=self.by,
            precision=self.precision,
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
        for layer in job.layers:
            self.edit_layer(job, edit, layer, job.left(layer))

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
            Over how many layers what is missing is shared, see `Job.left`.

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
        W = job.layout.matrix(layer).double()  # (d, m)
        columns = self.columns(job, layer)
        C0 = moments[layer].to(W.device)
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
            keep=partial(_kept, job, layer, moments[layer]),
        )
        new = job.layout.stored(layer, self.solve(problem))
        edit.set(weight_name(job.model, layer), new)
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
        device = job.layout.matrix(layer).device
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

    def tokens_needed(self, d: int, m: int) -> int:
        """Of how many tokens moments must be, at the least, to say what general text is like.

        Parameters
        ----------
        d, m : int
            Length of a value, length of a key.

        Returns
        -------
        int
            m: C_0 has m directions, of which fewer tokens leave some at zero. 0 for a method that
            does not look at C_0.
        """
        return m

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
    """What a layer's output lacks, at the facts' keys, for the targets to be met.

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
        (d, n), float64: z − h over the layer's scale, or what its own values lack.

    Raises
    ------
    ValueError
        For a job without targets.
    """
    if job.targets is None:
        raise ValueError("the job has no targets: zu.unlearn finds them, zu.find_targets too")
    device = job.layout.matrix(layer).device
    z = job.targets.wanted(layer).to(device)  # (n, d)
    if job.aim == "value":
        return (z - bare.values[layer].to(device)).double().T  # (n, d) -> (d, n)
    h = bare.hidden[job.layers[-1]].to(device)  # (n, d)
    lack = (z - h).double().T  # (n, d) -> (d, n)
    scale = job.layout.scale(layer)  # a state after this layer moves by so much of its output
    return lack if scale == 1 else lack / scale


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
    """The same subjects with no prompt around them; facts without a subject as they are.

    Parameters
    ----------
    facts : Iterable[Fact]
        Facts with any prompts.

    Returns
    -------
    list[Fact]
        The facts, in order, each with the prompt "{}"; one without a subject as it is.
    """
    return [replace(fact, prompt="{}") if fact.subject else fact for fact in facts]


def _spectrum(job: Job, layer: int, C0: torch.Tensor) -> tuple:
    """Eigenvalues (m,) and eigenvectors (m, m) of C0 (m, m), found once a job or shared reading."""

    def find(x: torch.Tensor) -> list[torch.Tensor]:
        # another process finds them beside the moments that they are of
        kept = getattr(getattr(job, "moments", None), "kept", False)
        path = cache_file("moments", f"spectrum {digest({'C0': x})}") if kept else None
        there = path and read_tensors(path, "values", "vectors")
        if there:
            return [there["values"], there["vectors"]]
        values, vectors = (part.cpu() for part in solve.spectrum(C0))
        if path:
            write_tensors(path, {"values": values, "vectors": vectors})
        return [values, vectors]

    # kept on the CPU, as moments are
    found = job.reader.once(("spectrum", layer), C0.cpu(), find)
    return tuple(part.to(C0.device) for part in found)


def _kept(
    job: Job, layer: int, C0: torch.Tensor, about: Hashable, make: Callable[[], Any]
) -> Any:
    """What is made of C0 (m, m) for a layer, kept by a shared reader: the last one of each layer.

    It takes as much memory as C0, and is of no use to the one call of a reader of its own.
    """
    where = job.layout.matrix(layer).device  # the factors stay where they are used
    return job.reader.once(("spared", layer), C0, lambda _: make(), (about, str(where)))


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
        paper's text says. "optimised" takes what the released code does: W k + δ with the bare
        prompt's key k, where δ, up to clamp · ‖W k‖, makes the model say the true answer.
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
            The layer to edit, to whose output δ is added.
        V_f : (d, n)
            What the layer says about them now.

        Returns
        -------
        torch.Tensor
            (d, n), float64.
        """
        if self.V_f == "outputs":
            return V_f
        search = self.search(("",), goal="truth", aim="value")
        truth = optimise(job.model, job.wording, job.facts, layer, search)
        said = truth.z.to(V_f.device).double()  # (n, d)
        bias = job.layout.projection(layer)._parameters.get("bias")
        if bias is not None:  # which is no output of W
            said = said - bias.double()
        return said.T  # (n, d) -> (d, n)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """One search a layer where V_f is optimised, none otherwise."""
        return len(layers) if self.V_f == "optimised" else 0


class Descended(OneLayer):
    """Gradient descent on one layer's projection.

    Attributes
    ----------
    sign : int
        1 where the loss of that goes up, -1 where it goes down.
    passes : int
        Forward passes of a step, as multiples of the facts'.
    steps : int
        How often each fact is seen.
    lr : float
        Rate of the optimiser.
    batch : int, optional
        Most facts in a step; by default all of them.
    stop : float
        The mean loss of an answer's token under which a descent towards a goal ends; 0: it takes
        all its steps.
    """

    sign: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    steps: int = Field(25, ge=1, description="how often each fact is seen")
    lr: float = Field(5e-3, gt=0)
    batch: int | None = Field(None, ge=1, description="most facts in a step; by default all")
    stop: float = Field(0.0, ge=0, description="the loss under which a descent to a goal ends")

    def trained(self) -> str:
        """What is trained: "truth", the true answers, unless a method trains another text.

        Returns
        -------
        str
            As `zu.descent.answer_rows` takes it.
        """
        return "truth"

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
        rows = descent.answer_rows(job.wording, job.facts, self.trained())
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
        schedule = descent.Schedule(self.steps, self.lr, self.batch, self.stop)
        new, _ = descent.descend(job.model, self.objective(job), job.layers, schedule)
        for layer, weight in new.items():
            edit.set(weight_name(job.model, layer), job.layout.stored(layer, weight))
