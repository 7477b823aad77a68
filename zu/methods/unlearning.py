"""Make a model forget: check what is asked, find what is needed, let the method make its edit."""
from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from ..data.facts import Fact
from ..edit import Edit, EditError
from ..models import resolve_layers
from ..reader import Below, prefixes
from ..second_moments import moments as read_moments
from ..targets import Targets, optimise
from .base import Job, Method, Settings
from .registry import settings_for

#: What `unlearn` does unless told: the paper's method.
DEFAULT = "zerounlearn"


def find_targets(model: nn.Module, tokenizer, facts: Sequence[Fact], layer: int, *, seed: int = 0,
                 goal: str = "eos", **settings) -> Targets:
    """Targets as `unlearn` computes them, to share between methods; settings as in `zu.methods.Settings`."""
    s = Settings(**settings)
    before = _texts_before(model, tokenizer, s, seed)
    return optimise(model, tokenizer, facts, layer, before, goal=goal, **s.search())


def _texts_before(model, tokenizer, s: Settings, seed: int, before: Sequence[str] | None = None) -> Sequence[str]:
    if before is None:
        before = prefixes(model, tokenizer, seed=seed) if s.n_prefixes else ("",)
    return before[:s.n_prefixes + 1]


def unlearn(model: nn.Module, tokenizer, facts: Sequence[Fact], method: str | Method = DEFAULT, *,
            layers: Sequence[int | float] | None = None, seed: int = 0, targets: Targets | None = None,
            moments: dict[int, torch.Tensor] | None = None, earlier: Sequence[Edit] = (),
            anchors: Sequence[Fact] = (), retain: Sequence[str] | None = None, before: Sequence[str] | None = None,
            below: Below | None = None, **settings) -> Edit:
    """Make the model forget facts: compute an `Edit`, put it on, return it (Algorithm 1).

    For each layer in turn, on the model as edited so far: keys K_f, and the share of the way to go that falls to
    this layer, V_star = W K_f + (z − h) / (layers left); then the method's solve.

    Parameters
    ----------
    model, tokenizer, facts : what is to forget what.
    method : a name of `zu.METHODS`, an import path ("my_module.MyMethod"), or a method with its settings,
        such as ``zu.methods.ZeroUnlearn(alpha=1.0)``.
    layers : indices, or shares of the depth; by default the model's own (`zu.models.resolve_layers`). ROME
        and the methods that descend change the middle one only.
    seed : of the prefixes, and of the default text to retain.
    targets, moments, before : results of `find_targets` for the last layer, of `zu.moments` and of
        `zu.reader.prefixes`, when they are at hand; all must come from the unedited model. Where the middle
        layer is not the last, ROME finds its own targets.
    earlier : edits of the same layers whose facts' values should stay.
    anchors : prompts with other subjects whose values should stay, see `zu.anchors`.
    retain : ordinary text for the methods that retain some; by default some of the embedded prose.
    below : what other calls have read up to a layer that is not above the lowest edited one, to share.
    settings : the method's own, where it is given by name.

    Raises
    ------
    ValueError : unknown methods or settings, what the method cannot take, a model whose logits are not finite.
    EditError : an edit that exploded or changes nothing. The model is then as it was.
    """
    s = _with_settings(method, settings)
    job = Job(model, tokenizer, list(facts), resolve_layers(model, layers), seed, targets, moments, earlier, anchors,
              retain, before, below)
    _check(s, job)
    if s.middle and len(job.layers) > 1:
        job.layers, job.targets = job.layers[len(job.layers) // 2:][:1], None
    if below is not None and below.layer > job.layers[0]:
        raise ValueError(f"below holds what enters layer {below.layer}, but layer {job.layers[0]} is to be edited: "
                         f"give Below({job.layers[0]})")
    if message := s.warning(job):
        warnings.warn(message, stacklevel=2)
    edit = Edit(model, method=s.name, settings={"layers": list(job.layers), "seed": seed} | s.model_dump(),
                facts=len(job.facts))
    try:
        if isinstance(s, Settings):
            _prepare(s, job, edit)
        s.make(job, edit)
        if not edit.changed:
            raise EditError(_in_vain(s, edit))
    except BaseException:
        edit.restore()
        raise
    return edit


def _with_settings(method: str | Method, settings: dict) -> Method:
    if not isinstance(method, Method):
        return settings_for(method, **settings)
    if settings:
        raise ValueError(f"{', '.join(settings)}: an instance of {type(method).__name__} has its settings already; "
                         "give them there, or name the method")
    return method


def _check(s: Method, job: Job) -> None:
    """Refuse what cannot be done, before anything is computed."""
    if not job.facts:
        raise ValueError("facts is empty: give at least one fact to forget")
    for given, what, takes in ((job.earlier, "earlier edits", s.spares), (job.anchors, "anchors", s.spares),
                               (job.retain is not None, "text to retain", s.retains)):
        if given and not takes:
            raise ValueError(f"{s.name} takes no {what}")
    if not isinstance(job.moments, dict | None):
        raise TypeError(f"moments is a {type(job.moments).__name__}: give what zu.moments returns, C_0 by layer")


def _prepare(s: Settings, job: Job, edit: Edit) -> None:
    """Find what a method that locates needs and was not given: prefixes, targets, moments."""
    job.before = _texts_before(job.model, job.tokenizer, s, job.seed, job.before)
    job.below = Below(job.layers[0]) if job.below is None else job.below
    if job.targets is None:
        job.targets = optimise(job.model, job.tokenizer, job.facts, job.layers[-1], job.before, **s.search())
    if job.moments is None:
        job.moments = read_moments(job.model, job.tokenizer, job.layers)
    told = {"moment_tokens": getattr(job.moments, "tokens", None), "anchors": len(job.anchors)}
    edit.settings |= {name: count for name, count in told.items() if count}  # a plain dictionary has no tokens


def _in_vain(s: Method, edit: Edit) -> str:
    """What to say, and to try, of an edit after which every weight is what it was."""
    more, less = (", ".join(names) for names in s.remedies())
    size, dtype = max(map(edit.relative_size, edit.parts), default=0.0), edit.model.dtype
    why = (f"its change, at most {size:.1g} of a weight, is lost in the rounding to {dtype}" if size
           else "its change is zero, as its settings leave it no direction, no target or no force")
    return (f"{s.name} changes nothing: {why}; the model is as it was. Try more of {more}"
            + f", less of {less}" * bool(less) + ", or other facts")
