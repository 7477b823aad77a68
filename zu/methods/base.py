"""The base classes of methods: their settings, and how a layer's problem is built and solved."""
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
    """A method: its fields are its settings, and its class attributes never change.

    Subclass `Located` for a method that finds targets and solves one problem per layer, `Descended`
    for one that trains, or this class for anything else. Then `zu.register` the subclass.

    Attributes
    ----------
    name : str
        The unique name by which `zu.unlearn`, tables and parameters know it.
    about : str
        What it does, in a few words.
    label, colour : str
        Its name in tables, and its colour in every figure.
    middle : bool
        Whether it changes only one of the layers, the middle one unless a setting says otherwise.
    spares : bool
        Whether it takes anchors and earlier edits into account.
    layers : sequence of int or float, optional
        The layers to edit: indices, or shares of the depth (floats below 1); by default the model's
        own (`zu.models.resolve_layers`).
    seed : int
        The seed of everything that is drawn: the prefixes, and the default text to retain.
    chat : bool or str, optional
        Whether to ask, aim at and train facts as a turn of a chat, see `zu.wording.Wording`; by
        default as the given reader does, or else as plain text.
    moments : dict, optional
        By layer, the second moment C_0 (m, m) of general keys in the unedited model, as
        `zu.moments` returns it; by default that of the embedded prose. Some methods need it, and
        with any method it serves to measure the edit's damage.
    check : bool
        Whether to read some held-out prose before and after the edit, and to refuse an edit that
        more than doubles its perplexity.
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
        """Layers as plain numbers, from a list, a range or an array."""
        return None if given is None else layer_numbers(given)

    def edited(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The layers that the method changes, out of those that it is given.

        Parameters
        ----------
        layers : sequence of int
            The layers given, ascending.

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
        """A setting of `chat` that is valid, as far as this can be told without a tokenizer."""
        if given is not None:
            check_chat(given)
        return given

    @classmethod
    def row_name(cls, anchors: bool) -> str:
        """The name of this method's row in tables.

        Parameters
        ----------
        anchors : bool
            Whether the row is given anchors.

        Returns
        -------
        str
            The label, which differs between a row with anchors and one without.
        """
        return f"{cls.label} + anchors" if anchors else cls.label

    def warning(self, job: Job) -> str:
        """A warning to give before a job is done.

        Parameters
        ----------
        job : Job
            The job that is about to be done.

        Returns
        -------
        str
            The text of the warning; empty if there is none.
        """
        return ""

    def make(self, job: Job, edit: Edit) -> None:
        """Compute the edit of a job and put it on, weight by weight, with `Edit.set`.

        Parameters
        ----------
        job : Job
            The facts to forget, and the layers to edit.
        edit : Edit
            The edit to fill; it holds no weight yet.

        Raises
        ------
        NotImplementedError
            If a subclass does not define this method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no make()")

    def remedies(self) -> tuple[list[str], list[str]]:
        """The settings to adjust if an edit changes nothing.

        Returns
        -------
        tuple[list[str], list[str]]
            The names of the settings to raise, and of those to lower.
        """
        more = self._present("steps", "lr")
        less = self._present("lam", "alpha", "tolerance")
        return more, less

    def _present(self, *names: str) -> list[str]:
        """The names that are settings of this method, in the order given."""
        return [name for name in names if name in type(self).model_fields]


@dataclass
class Job:
    """The facts to forget, the layers to edit, and what has been found or read for that.

    Attributes
    ----------
    reader : Reader
        A reader of the model that should forget.
    facts : list[Fact]
        The n facts to forget.
    layers : tuple[int, ...]
        The layers to edit, ascending.
    anchors : Sequence[Fact]
        Prompts with other subjects whose values should stay.
    earlier : Sequence[Edit]
        Edits of the same layers; the values of their facts should stay.
    prefixes : Sequence[str]
        Texts put before a prompt, the empty one first.
    targets, moments
        What `unlearn` found, if the method needs it; the moments are C_0 (m, m) by layer.
    weights : torch.Tensor | None
        The facts' weights, (n,) float64; None counts as all 1.
    aim : {"hidden", "value"}
        Whether targets are states after the last layer, or each layer's own output.
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
    #: The model's layout as probed by `zu.layout`, for methods that need it.
    probed: Layout | None = None

    @property
    def layout(self) -> Layout:
        """How the model is read and written."""
        return self.probed or known(self.model)

    def left(self, layer: int) -> int:
        """The number of layers that still share what the targets lack.

        Parameters
        ----------
        layer : int
            The layer to edit.

        Returns
        -------
        int
            How many layers are not edited yet, including this one; 1 if each layer has targets of
            its own.
        """
        return 1 if self.aim == "value" else len(self.layers) - self.layers.index(layer)

    @property
    def model(self) -> PreTrainedModel:
        """The model that should forget."""
        return self.reader.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.reader.tokenizer

    @property
    def wording(self) -> Wording:
        """The model's tokenizer, and how facts are asked with it."""
        return self.reader.wording

    def reads(self, layer: int) -> list[int]:
        """The layers to read for the edit of one layer.

        Parameters
        ----------
        layer : int
            The layer to edit.

        Returns
        -------
        list[int]
            The layer itself and, if targets are hidden states, the layer after which they are set;
            ascending.
        """
        return sorted({layer, self.layers[-1]}) if self.aim == "hidden" else [layer]


@dataclass(frozen=True)
class Problem:
    """One layer's matrices, float64, under the names of `zu.solve`.

    Attributes
    ----------
    W : (d, m)
        The layer's weight, which maps a key to a value.
    K_f : (m, n)
        The keys of the facts to forget, one column each.
    V_star : (d, n)
        The values that these keys should get.
    C0 : (m, m)
        The second moment of general keys.
    V_f : (d, k)
        The knowledge to project away; usually k = n.
    K_p : (m, p) or None
        The keys of earlier edits and of anchors, whose values should stay, each times the square
        root of its weight; None if there are none.
    spectrum : callable
        Returns the spectrum of C_0, see `zu.solve.spectrum`.
    keep : callable
        Called with everything that a `zu.solve.Spared` depends on beside C_0, and with a function
        that makes one. Returns it, newly made or left by an earlier edit; by default always newly
        made.
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
    """The keys at which a layer should change its output, and by how much.

    Attributes
    ----------
    K_f : (m, p)
        Keys, one column each; p is the number n of facts or a multiple of it.
    missing : (d, p)
        What the layer's output lacks at these keys.
    mean : (n, m)
        The facts' mean keys, one row each.
    """

    K_f: torch.Tensor
    missing: torch.Tensor
    mean: torch.Tensor


class OneLayer(Method):
    """The setting of methods that change one layer.

    Attributes
    ----------
    which : {"middle", "last"}
        Which of the given layers to change.
    """

    middle: ClassVar[bool] = True

    which: Literal["middle", "last"] = "middle"

    def edited(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The middle or the last one of the layers, see `Method.edited`."""
        return super().edited(layers) if self.which == "middle" else (layers[-1],)


class Settings(Method):
    """The settings of every locate-and-edit method, which say how its targets are found.

    The released code uses an absolute rate, 0.1 in the residual stream's own unit, and a tolerance
    of 0.05.

    Attributes
    ----------
    goal : str
        What the model should say instead of the answer: "eos", the end of the text, or any text,
        such as "I do not know"; "truth" stands for the answer itself.
    n_prefixes : int
        How many texts are put before a prompt, beside the empty one.
    steps : int
        Optimisation steps for a target.
    lr : float, optional
        The size of a step, see `zu.targets.Search`; by default the optimizer's own.
    optimizer : {"adam", "normalised"}
        The rule for the steps, see `zu.steps`.
    bare_first : bool
        Whether to search with the bare prompt alone first.
    by : {"search", "gradient", "unknown"}
        How a target is found: by a search; from one gradient; or from the states of unknown
        subjects. See `zu.targets.Search`.
    precision : {"model", "bfloat16"}
        The precision of the search, see `zu.targets.Search`.
    absolute : bool
        Whether lr is in the unit of h itself instead, as in the literature.
    tolerance : float
        The loss under which a target counts as found.
    weight_decay : float
        The weight of ‖δ‖ / ‖h‖² in the loss.
    kl : float
        The weight, in the loss, of the divergence of what the model says of the subject.
    kl_at : {"subject", "next"}
        Where and how that divergence is measured, see `zu.targets.Search`. The first is the
        released code's.
    aim : {"hidden", "value"}
        What δ changes, and what h stands for: the hidden state after the last edited layer, which
        the layers bring about together; or the output of each edited layer's projection. If a model
        normalises that output, the aim is always "value", since no weight can then bring about a
        given state.
    clamp : float
        The largest ‖δ‖, as a share of ‖h‖.
    targets : Targets, optional
        The result of an earlier search for these facts and the last of the layers, as
        `zu.find_targets` returns it. ROME takes targets of its own layer; if it is given those of
        the methods that edit all layers, it searches for its own and warns.
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
        """A goal that is not empty."""
        check_goal(given)
        return given

    def search(
        self, prefixes: Sequence[str], goal: str | None = None, aim: Aim | None = None
    ) -> Search:
        """The search for targets that the settings describe.

        Parameters
        ----------
        prefixes : Sequence[str]
            Texts put before a prompt, the empty one first.
        goal : str, optional
            What the model should say; by default the setting.
        aim : {"hidden", "value"}, optional
            The aim; by default the setting.

        Returns
        -------
        Search
            The argument of `zu.targets.optimise`.
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

    A subclass defines `solve`. It may also override `columns`, `keys_to_keep` and `old_values`.

    References
    ----------
    Algorithm 1 of the paper.
    """

    def remedies(self) -> tuple[list[str], list[str]]:
        """Raise settings that strengthen the edit or the search; lower those that hold it back."""
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
            If a subclass does not define this method.
        """
        raise NotImplementedError(f"{type(self).__name__} has no solve()")

    def make(self, job: Job, edit: Edit) -> None:
        """Edit the layers in turn, each in the model as edited so far.

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
        """Solve one layer, which takes its share of what the targets still lack.

        Parameters
        ----------
        job : Job
            The facts to forget, with targets and moments.
        edit : Edit
            Receives the layer's new weight and the facts' mean keys.
        layer : int
            The layer to edit.
        left : int
            The number of layers that share what is missing, see `Job.left`.

        Raises
        ------
        ValueError
            If the moments or the keys of an earlier edit lack the layer.
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
        """One column per fact: its mean key over the prefixes, and what its target still lacks.

        Parameters
        ----------
        job : Job
            The n facts to forget, with targets.
        layer : int
            The layer to edit.

        Returns
        -------
        Columns
            Keys (m, n), what is missing (d, n), and mean keys (n, m).
        """
        keys, bare = subject_keys(job.reader, job.facts, job.reads(layer), job.prefixes)
        mean = keys[layer]
        return Columns(mean.T, missing(job, layer, bare), mean)  # keys: (n, m) -> (m, n)

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        """The values that count as the layer's knowledge of the facts, `Problem.V_f`.

        Parameters
        ----------
        job : Job
            The n facts to forget.
        layer : int
            The layer to edit.
        V_f : (d, n)
            The layer's present values at the facts' mean keys.

        Returns
        -------
        torch.Tensor
            (d, n), float64; here the present values.
        """
        return V_f

    def keys_to_keep(self, job: Job, layer: int) -> torch.Tensor | None:
        """The keys whose values should stay: those of earlier edits and of anchors.

        Parameters
        ----------
        job : Job
            A job with earlier edits, anchors, both or neither.
        layer : int
            The layer to edit.

        Returns
        -------
        torch.Tensor or None
            (m, p), float64, each key times the square root of its weight; None if there are none.
        """
        device = job.layout.matrix(layer).device
        kept = [e.keys[layer].to(device).double() for e in job.earlier]  # (n of that edit, m) each
        if job.anchors and self.anchor_weight():
            kept.append(self.anchor_weight() ** 0.5 * self.anchor_keys(job, layer))  # (a, m)
        if not kept:
            return None
        return torch.cat(kept).T  # (p, m) -> (m, p)

    def anchor_weight(self) -> float:
        """The weight of an anchor's key, relative to that of a fact to forget.

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
            A job with at least one anchor.
        layer : int
            The layer to edit.

        Returns
        -------
        torch.Tensor
            (a, m), float64.
        """
        return keys_of(job, layer, job.anchors)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """How many searches for the true answers an edit makes, beside the one for its targets.

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
        """The least number of tokens from which moments must be read for this method.

        Parameters
        ----------
        d, m : int
            Length of a value, length of a key.

        Returns
        -------
        int
            m, since C_0 has m directions and fewer tokens leave some of them at zero; 0 for a
            method that does not use C_0.
        """
        return m

    def operations(self, d: int, m: int, n: int) -> float:
        """About how many multiplications and additions one layer's solve takes.

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
    """What a layer's output at the facts' keys lacks to reach the targets.

    Parameters
    ----------
    job : Job
        The n facts to forget, with targets.
    layer : int
        The layer to edit; the result is on its device.
    bare : Trace
        The trace of the bare prompts, which includes the last layer's hidden states.

    Returns
    -------
    torch.Tensor
        (d, n), float64: (z − h) divided by the layer's scale, or what the layer's own values lack.

    Raises
    ------
    ValueError
        If the job has no targets.
    """
    if job.targets is None:
        raise ValueError("the job has no targets: zu.unlearn or zu.find_targets finds them")
    device = job.layout.matrix(layer).device
    z = job.targets.wanted(layer).to(device)  # (n, d)
    if job.aim == "value":
        return (z - bare.values[layer].to(device)).double().T  # (n, d) -> (d, n)
    h = bare.hidden[job.layers[-1]].to(device)  # (n, d)
    lack = (z - h).double().T  # (n, d) -> (d, n)
    scale = job.layout.scale(layer)  # a state after this layer moves by so much of its output
    return lack if scale == 1 else lack / scale


def keys_of(job: Job, layer: int, facts: Sequence[Fact]) -> torch.Tensor:
    """The keys of some facts without prefixes.

    Parameters
    ----------
    job : Job
        The job whose model is read, in its present state.
    layer : int
        The layer whose keys are wanted.
    facts : Sequence[Fact]
        Any n facts.

    Returns
    -------
    torch.Tensor
        (n, m), float64.
    """
    keys, _ = subject_keys(job.reader, facts, job.reads(layer))
    return keys[layer]


def without_prompt(facts: Iterable[Fact]) -> list[Fact]:
    """Strip the prompts of facts down to their subjects.

    Parameters
    ----------
    facts : Iterable[Fact]
        Facts with any prompts.

    Returns
    -------
    list[Fact]
        The facts in order, each with the prompt "{}"; a fact without a subject stays as it is.
    """
    return [replace(fact, prompt="{}") if fact.subject else fact for fact in facts]


def _spectrum(job: Job, layer: int, C0: torch.Tensor) -> tuple:
    """Eigenvalues (m,) and eigenvectors (m, m) of C0 (m, m), found once per job or shared reader.
    """

    def find(x: torch.Tensor) -> list[torch.Tensor]:
        # cached beside the moments, where other processes find it
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
    """The result of `make` for a layer's C0 (m, m); a shared reader keeps the last one per layer.

    It takes as much memory as C0, and serves only readers that several calls share.
    """
    where = job.layout.matrix(layer).device  # the factors stay where they are used
    return job.reader.once(("spared", layer), C0, lambda _: make(), (about, str(where)))


class Sparing(Located):
    """The settings of methods that take anchors.

    Attributes
    ----------
    anchor : float
        The weight of an anchor's key, relative to that of a fact to forget.
    """

    spares: ClassVar[bool] = True

    anchor: float = Field(
        1.0, ge=0, description="weight of an anchor's key against that of a fact to forget"
    )

    def anchor_weight(self) -> float:
        """The weight of an anchor's key: the setting."""
        return self.anchor


class Truthful(Located):
    """The settings of methods that project old values away.

    Attributes
    ----------
    V_f : {"outputs", "optimised"}
        The knowledge to project away; subclasses define it as a field. "outputs" is W K_f, as in
        the paper's text. "optimised" is what the released code uses: W k + δ, with the bare
        prompt's key k and a δ, of length at most clamp · ‖W k‖, that makes the model say the true
        answer.
    """

    if TYPE_CHECKING:  # for mypy only: pydantic would make it a field of this class too
        V_f: Literal["outputs", "optimised"]

    def old_values(self, job: Job, layer: int, V_f: torch.Tensor) -> torch.Tensor:
        """The values that count as the layer's knowledge of the facts: the present ones, or with δ.

        Parameters
        ----------
        job : Job
            The n facts to forget.
        layer : int
            The layer to edit, to whose output δ is added.
        V_f : (d, n)
            The layer's present values at the facts' mean keys.

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
        if bias is not None:  # the bias is not an output of W
            said = said - bias.double()
        return said.T  # (n, d) -> (d, n)

    def truth_searches(self, layers: Sequence[int]) -> int:
        """One search per layer if V_f is optimised, none otherwise."""
        return len(layers) if self.V_f == "optimised" else 0


class Descended(OneLayer):
    """Gradient descent on one layer's projection.

    Attributes
    ----------
    sign : int
        1 if the loss of the trained text goes up, -1 if it goes down.
    passes : int
        Forward passes per step, as multiples of one pass over the facts.
    steps : int
        How often each fact is seen.
    lr : float
        The optimiser's learning rate.
    batch : int, optional
        The most facts in a step; by default all of them.
    stop : float
        A descent towards a goal ends once the mean loss per answer token is below this; with 0 it
        takes all its steps.
    """

    sign: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    steps: int = Field(25, ge=1, description="how often each fact is seen")
    lr: float = Field(5e-3, gt=0)
    batch: int | None = Field(None, ge=1, description="most facts in a step; by default all")
    stop: float = Field(0.0, ge=0, description="the loss under which a descent to a goal ends")

    def trained(self) -> str:
        """The text that is trained: "truth", the true answers, unless a method trains another.

        Returns
        -------
        str
            An argument of `zu.descent.answer_rows`.
        """
        return "truth"

    def objective(self, job: Job) -> descent.Objective:
        """The texts that are read, with their weights in the loss.

        Parameters
        ----------
        job : Job
            The n facts to forget.

        Returns
        -------
        descent.Objective
            One row per fact, each with the weight `sign` / n.
        """
        rows = descent.answer_rows(job.wording, job.facts, self.trained())
        n = len(job.facts)
        return descent.Objective(rows, [self.sign / n] * n)

    def make(self, job: Job, edit: Edit) -> None:
        """Descend, and put the new weights on.

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
