"""Make a model forget: check what is asked, find what is needed, let the method make its edit."""
from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..carried import edits_on
from ..data.facts import Fact, as_facts
from ..edit import Edit, EditError
from ..models import resolve_layers, weight_name
from ..modes import settled
from ..probes import layout
from ..reader import Reader
from ..second_moments import Moments
from ..second_moments import moments as read_moments
from ..targets import Aim, Targets, marks_of, optimise
from ..wrappers import has_adapters, parameter, why_not_alone, why_not_editable
from . import ruin
from .base import Job, Method, Settings
from .given import check_kinds, check_moments, of_earlier, of_moments
from .registry import with_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The default method of `unlearn`: the paper's.
DEFAULT = "zerounlearn"


def find_targets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    layer: int | Sequence[int],
    *,
    goal: str = "eos",
    reader: Reader | None = None,
    **settings: Any,
) -> Targets:
    """Compute targets as `unlearn` does, to share them between methods.

    Parameters
    ----------
    model, tokenizer
        The model that should forget, and its tokenizer.
    facts : Sequence[Fact]
        The n facts to forget.
    layer : int or sequence of int
        The layer after which targets are set: the last one to edit. With aim="value", all layers to
        edit.
    goal : str
        What the model should say at a target: "eos", "truth" or any text, see
        `zu.targets.target_ids`.
    reader : Reader, optional
        A reader of this model, which has the prefixes.
    **settings
        As in `zu.methods.Settings`.

    Returns
    -------
    Targets
        The wanted states z and the present states h, (n, d) each, float32; (n, k, d) for values at
        k layers.

    Raises
    ------
    ValueError
        If a setting has no meaning for a search.
    EditError
        If the model's weights were loaded inside `torch.inference_mode`.
    """
    idle = [name for name in ("layers", "moments", "targets") if name in settings]
    if idle:
        raise ValueError(f"find_targets takes no {', '.join(idle)}: the layer is an argument")
    s = Settings(goal=goal, **settings)
    _check_weights(model)
    with settled(model):
        reader = Reader.of(model, tokenizer, reader, s.chat)
        texts = reader.texts(s.n_prefixes, s.seed)
        return optimise(model, reader.wording, as_facts(facts), layer, s.search(texts))


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    method: str | Method = DEFAULT,
    *,
    anchors: Sequence[Fact] = (),
    earlier: Sequence[Edit] = (),
    reader: Reader | None = None,
    **settings: Any,
) -> Edit:
    """Make the model forget facts: compute an `Edit`, put it on, return it (Algorithm 1).

    For each layer in turn, in the model as edited so far, a locate-and-edit method reads the keys
    K_f (m, n), gives the layer its share of what the targets lack, V_star = W K_f + (z − h) /
    (layers left) (d, n), and solves for the new weight.

    Parameters
    ----------
    model, tokenizer
        The model that should forget, and its tokenizer.
    facts : Sequence[Fact]
        The n facts to forget.
    method : str or Method
        A name of `zu.METHODS`, an import path ("my_module.MyMethod"), or a method with its
        settings, such as ``zu.methods.ZeroUnlearn(alpha=1.0)``.
    anchors : Sequence[Fact]
        Prompts with other subjects whose values should stay, see `zu.anchors`.
    earlier : Sequence[Edit]
        Edits of the same layers; the values of their facts should stay.
    reader : Reader, optional
        A reader of this model, for what several calls share, such as prefixes and moments. Without
        one, each call reads for itself.
    **settings
        The method's settings, if it is given by name: `layers`, `seed`, `chat`, `moments` and
        `check` for all methods, and for some `alpha`, `goal`, `targets` or `retain`. A method given
        as an instance takes only `layers`, `seed`, `chat`, `moments`, `check` and `targets` here.

    Returns
    -------
    Edit
        The edit, which is on the model.

    Raises
    ------
    ValueError
        If the method or a setting is unknown, there are no facts, the method cannot take something
        that is given, or the model's logits are not finite.
    TypeError
        If `earlier` is not a list of edits, or `reader` is not a reader.
    EditError
        If the weights cannot be edited, or if the edit explodes, changes nothing, or more than
        doubles the perplexity on held-out prose (unless `check` is off). The model is then as it
        was.
    """
    s = with_settings(method, settings)
    check_kinds(earlier, reader)
    layers = resolve_layers(model, s.layers)
    reader = Reader.of(model, tokenizer, reader, s.chat)
    job = Job(reader, list(as_facts(facts)), layers, list(as_facts(anchors)), earlier)
    for message in _checked(s, job):
        warnings.warn(message, stacklevel=2)
    with settled(model), reader.checked():
        return _made(s, job)


def _checked(s: Method, job: Job) -> list[str]:
    """Refuse a job that cannot be done; returns the warnings to give before it is done."""
    _check_weights(job.model, job.layers)
    with settled(job.model):
        _probe(s, job)
    _check(s, job)
    return _to_know(s, job)


def _to_know(s: Method, job: Job) -> list[str]:
    """The warnings to give before a job is done."""
    message = s.warning(job)
    said = [message] if message else []
    own, given = s.edited(job.layers), s.targets if isinstance(s, Settings) else None
    if given is not None and not _serve(given, own, job.aim):
        said.append(f"{s.name} edits layer {own[-1]} only, and the given targets are "
                    f"{given.described()}: it searches for its own (zu.find_targets for that layer "
                    f"with aim={job.aim!r} finds them)")
    said += of_moments(s, job) + of_earlier(job)
    named = {edit.ticket for edit in job.earlier}
    there = [about for ticket, about in edits_on(job.model).items() if ticket not in named]
    if there:
        way = "restore it first" + (", or name it in earlier=" if s.spares else "")
        said.append(f"the model already carries an edit ({'; '.join(there)}) that is not named in "
                    f"earlier: this one is made on top of it, and does not spare it; {way}. If a "
                    "cell ran twice, the first edit can no longer be taken off: load the model "
                    "afresh")
    if has_adapters(job.model):
        said.append("the model has PEFT adapters: its own save_pretrained saves only these, "
                    "and this edit would be lost; save the edit too (edit.save), or merge the "
                    "adapters first (merge_and_unload) and save the whole model (zu.save_model)")
    return said


def _made(s: Method, job: Job) -> Edit:
    """Make the edit of a checked job and put it on.

    The steps: `_prepare` finds targets and moments; `Located.make` goes through the layers;
    `Located.edit_layer` reads a layer's keys (`zu.reader.subject_keys`), builds its `Problem` and
    lets the method solve it; `Edit.set` puts the new weight on.
    """
    job.layers = s.edited(job.layers)
    job.reader.bind(job.layers[0])
    about = s.model_dump() | {"layers": list(job.layers), "chat": job.wording.chat}
    edit = Edit(job.model, method=s.name, settings=about, facts=len(job.facts))
    was = ruin.before(job) if s.check else None
    try:
        if isinstance(s, Settings):
            _prepare(s, job, edit)
        else:
            job.moments = _remembered(job) if s.moments is None else s.moments
        s.make(job, edit)
        if not edit.changed:
            raise EditError(_in_vain(s, edit))
        edit.measure(job.moments or {}, job.reader.energies)
        now = None if was is None else ruin.judge(s, job, edit, was)
    except BaseException:  # an interrupt too leaves the model as it was
        edit.restore()
        raise
    ruin.warn(edit, now)
    return edit


def _probe(s: Method, job: Job) -> None:
    """Probe the layout for a method that locates; aim at values if the model normalises them."""
    if not isinstance(s, Settings):
        return
    job.probed = layout(job.model)
    normed = any(math.isnan(job.probed.scale(layer)) for layer in job.layers)
    job.aim = "value" if normed else s.aim


def _check(s: Method, job: Job) -> None:
    """Refuse a job that cannot be done, before anything is computed."""
    if not job.facts:
        raise ValueError("facts is empty: give at least one fact to forget")
    for given, what in ((job.earlier, "earlier edits"), (job.anchors, "anchors")):
        if given and not s.spares:
            raise ValueError(f"{s.name} takes no {what}")
    targets = s.targets if isinstance(s, Settings) else None
    check_moments(s, job)
    if targets is None:
        return
    own = s.edited(job.layers)
    if targets.layer is None and own[-1] != job.layers[-1]:
        raise ValueError(f"the targets do not name their layer, and {s.name} edits layer {own[-1]} "
                         f"of {list(job.layers)}: give Targets(..., layer=)")
    if s.middle and not _serve(targets, own, job.aim):
        # targets of methods that edit all layers are allowed: it searches for its own
        targets.check(len(job.facts), job.layers, targets.aim)
    else:
        targets.check(len(job.facts), own, job.aim)
    _check_finite(targets)
    _check_facts(targets, job)


def _check_facts(targets: Targets, job: Job) -> None:
    """Refuse targets that were found for other facts, or for these in another order."""
    marks = marks_of(job.facts, job.wording.chat)
    if len(targets.marks) != len(marks) or targets.marks == marks:
        return  # made by hand, or a part of others: they do not name their facts
    if sorted(targets.marks) == sorted(marks):
        raise ValueError("the targets are of the same facts in another order: give the facts in "
                         "the order in which the targets were found, or find them again "
                         "(zu.find_targets)")
    number = next(i for i, pair in enumerate(zip(targets.marks, marks, strict=True))
                  if pair[0] != pair[1])
    raise ValueError(f"the targets are of other facts, from number {number} (counted from 0) on, "
                     "or of facts asked in another chat: find them again (zu.find_targets)")


def _check_weights(model: PreTrainedModel, layers: Sequence[int] = ()) -> None:
    """Refuse weights through which no gradient can flow, and layers whose weights cannot change."""
    for name, weight in model.named_parameters():
        if weight.is_inference():
            raise EditError(f"{name} cannot be read for an edit: {why_not_editable(weight)}")
    for layer in layers:
        name = weight_name(model, layer)
        weight = parameter(model, name)
        if why := why_not_editable(weight) or why_not_alone(model, weight):
            raise EditError(f"{name} cannot be edited: {why}")


def _check_finite(targets: Targets) -> None:
    """Refuse targets that are NaN or infinite."""
    if not bool(targets.z.isfinite().all() and targets.h.isfinite().all()):
        raise ValueError("the targets are NaN or infinite: search for them again "
                         "(zu.find_targets), with a smaller lr or in another dtype (float32, "
                         "bfloat16)")


def _prepare(s: Settings, job: Job, edit: Edit) -> None:
    """Find the prefixes, targets and moments for a method that locates."""
    job.prefixes = job.reader.texts(s.n_prefixes, s.seed)
    edit.settings["aim"] = job.aim
    if s.targets is not None and _serve(s.targets, job.layers, job.aim):
        job.targets = s.targets
        edit.settings["targets"] = "given"
    else:
        search = s.search(job.prefixes, aim=job.aim)
        where = job.layers[-1] if job.aim == "hidden" else job.layers
        job.targets = optimise(job.model, job.wording, job.facts, where, search)
        _check_finite(job.targets)
    job.moments = s.moments
    if job.moments is None:
        job.moments = _moments(job)
    edit.settings["n_prefixes"] = len(job.prefixes) - 1
    counts = {
        "moment_tokens": getattr(job.moments, "tokens", None),  # a plain dictionary has no tokens
        "anchors": len(job.anchors),
    }
    edit.settings |= {name: count for name, count in counts.items() if count}


def _serve(targets: Targets, layers: tuple[int, ...], aim: Aim) -> bool:
    """Whether targets serve an edit of these layers; targets that name no layer do."""
    if targets.aim != aim:
        return False
    if targets.layer is None:
        return True
    if aim == "hidden":
        return targets.layer == layers[-1]
    return (targets.layers or (targets.layer,)) == layers


def _moments(job: Job) -> dict[int, torch.Tensor]:
    """The moments of the embedded prose; reads those that the reader does not remember.

    The remembered moments are those of the model at the first call. They are read anew if the
    model has changed, unless the job's earlier edits have changed it.
    """
    reader = job.reader
    now = reader.fingerprint()
    if not job.earlier and now != reader.moments_of:
        reader.moments = {}
    lacking = [layer for layer in job.layers if layer not in reader.moments]
    if lacking:
        if job.earlier:
            warnings.warn(
                "the moments are read from a model with earlier edits on: give moments= of the "
                "unedited model, or the reader of the first edit",
                stacklevel=5,  # at the call of `unlearn`
            )
        more = read_moments(reader.model, reader.tokenizer, lacking)
        reader.moments = Moments(reader.moments | more, more.tokens, kept=more.kept)
        reader.moments_of = now
    return reader.moments


def _remembered(job: Job) -> dict[int, torch.Tensor] | None:
    """The moments that the reader remembers, if they are those of this model unedited."""
    reader = job.reader
    if not reader.moments:
        return None
    same = job.earlier or reader.fingerprint() == reader.moments_of
    return reader.moments if same else None


def _in_vain(s: Method, edit: Edit) -> str:
    """The message about an edit that leaves every weight as it was, and what to try."""
    more, less = (", ".join(names) for names in s.remedies())
    size = max(map(edit.relative_size, edit.parts), default=0.0)
    if size:
        why = (
            f"its change, at most {size:.1g} of a weight, is lost in rounding to "
            f"{edit.model.dtype}"
        )
    else:
        why = "its change is zero, as its settings leave it no direction, no target or no force"
    fewer = f", less of {less}" if less else ""
    return (
        f"{s.name} changes nothing: {why}; the model is as it was. Try more of {more}{fewer}, or "
        "other facts"
    )
