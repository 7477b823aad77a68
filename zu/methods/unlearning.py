"""Make a model forget: check what is asked, find what is needed, let the method make its edit."""
from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.facts import Fact
from ..edit import Edit, EditError
from ..models import resolve_layers
from ..reader import Below
from ..reader import prefixes as written_prefixes
from ..second_moments import moments as read_moments
from ..targets import Targets, optimise
from .base import Job, Method, Settings
from .registry import settings_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What `unlearn` does by default: the paper's method.
DEFAULT = "zerounlearn"


def find_targets(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    layer: int,
    *,
    seed: int = 0,
    goal: str = "eos",
    **settings: Any,
) -> Targets:
    """Targets as `unlearn` computes them, to share between methods.

    Parameters
    ----------
    model, tokenizer
        What is to forget.
    facts : Sequence[Fact]
        The n facts to forget.
    layer : int
        The layer after which targets are set: the last of those to edit.
    seed : int
        Of the prefixes.
    goal : {"eos", "truth"}
        What the model should say at a target, see `zu.targets.optimise`.
    **settings
        As in `zu.methods.Settings`.

    Returns
    -------
    Targets
        The states wanted and the states found, (n, d) each, float32.
    """
    s = Settings(**settings)
    prefixes = _prefixes_for(model, tokenizer, s, seed)
    return optimise(model, tokenizer, facts, layer, prefixes, goal=goal, **s.search())


def _prefixes_for(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    s: Settings,
    seed: int,
    given: Sequence[str] | None = None,
) -> Sequence[str]:
    """The empty text and as many prefixes as the settings ask for: of those given, or written."""
    if given is None:
        given = written_prefixes(model, tokenizer, seed=seed) if s.n_prefixes else ("",)
    return given[: s.n_prefixes + 1]


def unlearn(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    method: str | Method = DEFAULT,
    *,
    layers: Sequence[int | float] | None = None,
    seed: int = 0,
    targets: Targets | None = None,
    moments: dict[int, torch.Tensor] | None = None,
    earlier: Sequence[Edit] = (),
    anchors: Sequence[Fact] = (),
    retain: Sequence[str] | None = None,
    before: Sequence[str] | None = None,
    below: Below | None = None,
    **settings: Any,
) -> Edit:
    """Make the model forget facts: compute an `Edit`, put it on, return it.

    For each layer in turn, on the model as edited so far: keys K_f, (m, n), and the share of the
    way to go that falls to this layer, V_star = W K_f + (z − h) / (layers left), (d, n); then the
    method's solve.

    Parameters
    ----------
    model, tokenizer, facts
        What is to forget what.
    method : str or Method
        A name of `zu.METHODS`, an import path ("my_module.MyMethod"), or a method with its
        settings, such as ``zu.methods.ZeroUnlearn(alpha=1.0)``.
    layers : Sequence[int | float] or None
        Indices, or shares of the depth; by default the model's own (`zu.models.resolve_layers`).
        ROME and the methods that descend change the middle one only.
    seed : int
        Of the prefixes, and of the default text to retain.
    targets, moments, before
        Results of `find_targets` for the last layer, of `zu.moments` and of `zu.reader.prefixes`,
        when they are at hand; all must come from the unedited model. Where the middle layer is not
        the last, ROME finds its own targets.
    earlier : Sequence[Edit]
        Edits of the same layers whose facts' values should stay.
    anchors : Sequence[Fact]
        Prompts with other subjects whose values should stay, see `zu.anchors`.
    retain : Sequence[str] or None
        Ordinary text for the methods that retain some; by default some of the embedded prose.
    below : Below or None
        What other calls have read up to a layer that is not above the lowest edited one, to share.
    **settings
        The method's own, where it is given by name.

    Returns
    -------
    Edit
        The edit, which is on.

    Raises
    ------
    ValueError
        Unknown methods or settings, what the method cannot take, a model whose logits are not
        finite.
    EditError
        An edit that exploded or changes nothing. The model is then as it was.

    References
    ----------
    Algorithm 1 of the paper.
    """
    s = _with_settings(method, settings)
    job = Job(
        model=model,
        tokenizer=tokenizer,
        facts=list(facts),
        layers=resolve_layers(model, layers),
        seed=seed,
        targets=targets,
        moments=moments,
        earlier=earlier,
        anchors=anchors,
        retain=retain,
        before=before,
        below=below,
    )
    _check(s, job)
    if s.middle and len(job.layers) > 1:
        middle = len(job.layers) // 2
        job.layers = (job.layers[middle],)
        job.targets = None  # those given are of the last layer
    _check_below(job)
    message = s.warning(job)
    if message:
        warnings.warn(message, stacklevel=2)
    about = {"layers": list(job.layers), "seed": seed} | s.model_dump()
    edit = Edit(model, method=s.name, settings=about, facts=len(job.facts))
    try:
        if isinstance(s, Settings):
            _prepare(s, job, edit)
        s.make(job, edit)
        if not edit.changed:
            raise EditError(_in_vain(s, edit))
    except BaseException:  # an interrupt too leaves the model as it was
        edit.restore()
        raise
    return edit


def _with_settings(method: str | Method, settings: dict[str, Any]) -> Method:
    """The method with its settings, whichever way they are given."""
    if not isinstance(method, Method):
        return settings_for(method, **settings)
    if settings:
        raise ValueError(
            f"{', '.join(settings)}: an instance of {type(method).__name__} has its settings "
            "already; give them there, or name the method"
        )
    return method


def _check(s: Method, job: Job) -> None:
    """Refuse what cannot be done, before anything is computed."""
    if not job.facts:
        raise ValueError("facts is empty: give at least one fact to forget")
    asked = (
        (job.earlier, "earlier edits", s.spares),
        (job.anchors, "anchors", s.spares),
        (job.retain is not None, "text to retain", s.retains),
    )
    for given, what, takes in asked:
        if given and not takes:
            raise ValueError(f"{s.name} takes no {what}")
    if not isinstance(job.moments, dict | None):
        raise TypeError(
            f"moments is a {type(job.moments).__name__}: give what zu.moments returns, C_0 by layer"
        )


def _check_below(job: Job) -> None:
    """Refuse a shared reading of a layer above the lowest edited one: the edit would change it."""
    lowest = job.layers[0]
    if job.below is not None and job.below.layer > lowest:
        raise ValueError(
            f"below holds what enters layer {job.below.layer}, but layer {lowest} is to be edited: "
            f"give Below({lowest})"
        )


def _prepare(s: Settings, job: Job, edit: Edit) -> None:
    """Find what a method that locates needs and was not given: prefixes, targets, moments."""
    job.before = _prefixes_for(job.model, job.tokenizer, s, job.seed, job.before)
    if job.below is None:
        job.below = Below(job.layers[0])
    if job.targets is None:
        job.targets = optimise(
            job.model, job.tokenizer, job.facts, job.layers[-1], job.before, **s.search()
        )
    if job.moments is None:
        job.moments = read_moments(job.model, job.tokenizer, job.layers)
    counts = {
        "moment_tokens": getattr(job.moments, "tokens", None),  # a plain dictionary has no tokens
        "anchors": len(job.anchors),
    }
    edit.settings |= {name: count for name, count in counts.items() if count}


def _in_vain(s: Method, edit: Edit) -> str:
    """What to say, and to try, of an edit after which every weight is what it was."""
    more, less = (", ".join(names) for names in s.remedies())
    size = max(map(edit.relative_size, edit.parts), default=0.0)
    if size:
        why = (
            f"its change, at most {size:.1g} of a weight, is lost in the rounding to "
            f"{edit.model.dtype}"
        )
    else:
        why = "its change is zero, as its settings leave it no direction, no target or no force"
    fewer = f", less of {less}" if less else ""
    return (
        f"{s.name} changes nothing: {why}; the model is as it was. Try more of {more}{fewer}, or "
        "other facts"
    )
