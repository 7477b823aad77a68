"""The methods, by name: each computes an edit of a few down_proj weights, all in one signature."""
from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from zudata.facts import Fact

from . import solve, train
from .edits import Edit, EditError
from .evaluate import score
from .models import down_proj, resolve_layers, weight_name
from .moments import moments as read_moments
from .targets import Targets, optimise
from .trace import Below, prefix_weights, prefixes, subject_keys


class Strict(BaseModel):
    """Settings that refuse unknown names, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Strict):
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


class Rome(Settings):
    """ROME (Meng et al. 2022): one fact after the other, each with its own key, into the middle layer.

    δ moves the hidden state, up to clamp · ‖h‖. In the released comparison it moves down_proj's
    output, up to 0.75 of that output's length, which in the embedded model is several times shorter
    than h; the layer is the last of the three on Llama, and 8 on Qwen, with a bound of 4, a rate of
    0.5 and no C_0⁻¹.
    first_only: edit the first fact and no other, which that comparison does as well.
    """

    first_only: bool = False


class Sparing(Settings):
    """What the methods that take anchors can be told about them."""

    anchor: float = Field(1.0, ge=0, description="weight of an anchor's key against that of a fact to forget")


class Memit(Sparing):
    """MEMIT (Meng et al. 2023): alpha weights C_0 against the facts' own keys."""

    alpha: float = Field(15_000.0, gt=0)


class AlphaEdit(Sparing):
    """AlphaEdit (Fang et al. 2025): edits inside the null space of C_0, with lam on the size of the change.

    The null space is the lowest share of C_0's directions; with a threshold (the papers': 0.02), instead of it,
    the directions of eigenvalues below that, which depends on the model's scale.
    """

    share: float = Field(0.5, gt=0, le=1)
    threshold: float | None = Field(None, ge=0)
    lam: float = Field(10.0, ge=0)


class ZeroUnlearn(Sparing):
    """ZeroUnlearn, Lemma 4.1: weights alpha on C_0, beta on the forget term, lam on the size of the change.

    V_f: the knowledge to project away. "outputs" takes W K_f, as the paper's text says. "optimised"
    takes W K_f + δ, with δ a change of the residual stream, up to clamp · ‖h‖, from which the model
    says the true answer, behind every prefix. This is not the released V_f: there δ is a change of
    down_proj's own output, up to 0.75 times its length, for the bare prompt. eps: what the
    projector leaves, 0 in the paper. The released code sets eps = 0.01 together with its optimised
    V_f, so no setting here is its method. project: whether to project, that is, the zero term.
    """

    alpha: float = Field(15_000.0, ge=0)
    beta: float = Field(50.0, ge=0)
    lam: float = Field(1.0, ge=0)
    project: bool = True
    eps: float = Field(0.0, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"


class Exact(AlphaEdit):
    """Lemma 5.1, solved exactly: weights zero, forget and lam on the terms of Eq. 12.

    V_f is orthonormalised. The weights 1, 100 and 0.1 are hard-coded in the released code; the
    β = 10 that its settings hold for ZeroUnlearn-GD is never read. It optimises V_f for that method
    too, see `ZeroUnlearn`.
    """

    zero: float = Field(1.0, ge=0)
    forget: float = Field(100.0, ge=0)
    lam: float = Field(0.1, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"


class Descent(Exact):
    """ZeroUnlearn-GD: the same problem by Adam."""

    gd_steps: int = Field(500, ge=0)
    gd_lr: float = Field(1e-3, gt=0)


class Anchored(Sparing):
    """Lemma 5.1's terms, with general keys and anchors as a soft null space: alpha on C_0 in place of Eq. 12's P_0.

    A fact's key behind each prefix is a column of its own, weighing as much as it does in the average; and so is the
    key of its subject without the prompt, to which other wordings come closer. Anchors are read in both ways too.
    With rounds, facts that are still answered behind some prefix get three times their weight, and the edit is made
    again: with a small weight to begin with, none gets more than it takes.
    """

    weight: float = Field(1.0, gt=0, description="weight of a fact to forget at first")
    rounds: int = Field(0, ge=0, description="how often a fact that is not forgotten yet gets three times its weight")
    bare: float = Field(3.0, ge=0, description="weight of a subject's key without its prompt, against that with it")
    anchor: float = Field(2.0, ge=0, description="weight of an anchor's key against that of a fact to forget")
    alpha: float = Field(300.0, ge=0)
    zero: float = Field(0.0, ge=0)
    lam: float = Field(0.02, gt=0)


class Ascent(Strict):
    """GA (Jang et al. 2023): up the loss of the true answers, in the middle layer.

    A step sees all facts. The released code takes 25 epochs in batches of 64, which is 25 steps for
    50 facts and 400 for 1,000, in the last of the three layers on Llama and in layer 8 on Qwen.
    """

    steps: int = Field(25, ge=1)
    lr: float = Field(5e-3, gt=0)


class FineTune(Ascent):
    """FT (Zhu et al. 2020): down the loss of end of text in the answers' place.

    It takes all its steps. The released code's FT differs as its GA does, and stops where the loss
    falls under 0.01.
    """

    lr: float = Field(5e-4, gt=0)


class GradDiff(Ascent):
    """Gradient difference (Liu et al. 2022): GA, and down the loss of text to retain, with this weight."""

    retain_weight: float = Field(1.0, ge=0)


class Npo(Ascent):
    """NPO (Zhang et al. 2024): the frozen reference is the unedited model."""

    beta: float = Field(0.1, gt=0)


@dataclass(frozen=True)
class Problem:
    """One layer's matrices, float64, as `zu.solve` names them.

    K_p: keys whose values shall stay, (m, p), those of earlier edits and of anchors, each times the square root of its
    weight; None where there are none. spectrum: of C_0, see `zu.solve.spectrum`; called where it is needed.
    """

    W: torch.Tensor
    K_f: torch.Tensor
    V_star: torch.Tensor
    C0: torch.Tensor
    V_f: torch.Tensor
    K_p: torch.Tensor | None
    spectrum: Callable[[], tuple]


@dataclass(frozen=True)
class Method:
    """A name's settings, and the function from a layer's `Problem` to its new weight; none: `zu.train` descends.

    middle: it changes the middle one of the layers only. spares: it takes earlier edits and anchors into account.
    each: it sees a fact's key behind each prefix, with its prompt and without, not one mean.
    """

    settings: type[Strict]
    about: str
    solve: Callable[..., torch.Tensor] | None = None
    middle: bool = False
    spares: bool = False
    each: bool = False


def _rome(s: Rome, p: Problem):
    W = p.W
    for i in range(1 if s.first_only else p.K_f.shape[1]):
        W = W + solve.rome(W, p.K_f[:, i], p.V_star[:, i], p.C0)
    return W


def _general(p: Problem, alpha: float, weight: float):
    """α C_0 with the keys to spare among the general ones, weighed as the facts to forget are."""
    return alpha * p.C0 + (0 if p.K_p is None else weight * p.K_p @ p.K_p.T)


def _memit(s: Memit, p: Problem):
    return p.W + solve.memit(p.W, p.K_f, p.V_star, _general(p, s.alpha, 1), alpha=1)


def _null_space(s: AlphaEdit, p: Problem):
    criterion = {"share": s.share} if s.threshold is None else {"threshold": s.threshold}
    return solve.null_space(p.C0, found=p.spectrum(), **criterion)


def _alphaedit(s: AlphaEdit, p: Problem):
    return p.W + solve.alphaedit(p.W, p.K_f, p.V_star, _null_space(s, p), lam=s.lam, K_p=p.K_p)


def _zerounlearn(s: ZeroUnlearn, p: Problem):
    V_f = p.V_f if s.project else torch.zeros_like(p.V_f)
    return solve.lemma_4_1(p.W, p.K_f, p.V_star, _general(p, s.alpha, s.beta), V_f, alpha=1, beta=s.beta, lam=s.lam,
                           eps=s.eps)


def _exact(s: Exact, p: Problem, how=solve.lemma_5_1, **more):
    U = solve.column_space(p.V_f, torch.float32)[0]
    if p.K_p is not None:
        more["general"] = s.forget * p.K_p @ p.K_p.T
    return p.W + how(K_f=p.K_f, V_star=p.V_star, V_f=U, basis=_null_space(s, p), zero=s.zero, forget=s.forget,
                     lam=s.lam, **{"W": p.W} | more)


def _descent(s: Descent, p: Problem):  # Adam's many steps in float32: the paper names no precision
    return _exact(s, p, solve.lemma_5_1_gd, W=p.W.float(), steps=s.gd_steps, lr=s.gd_lr)


def _anchored(s: Anchored, p: Problem):
    U = solve.column_space(p.V_f, torch.float32)[0]
    return p.W + solve.lemma_5_1(p.W, p.K_f, p.V_star, U, zero=s.zero, lam=s.lam, general=_general(p, s.alpha, 1))


#: Every method by name. `unlearn` takes these names.
METHODS: dict[str, Method] = {
    "ga": Method(Ascent, "gradient ascent on the answers", middle=True),
    "ft": Method(FineTune, "fine-tuning towards end of text", middle=True),
    "graddiff": Method(GradDiff, "gradient ascent on the answers, descent on text to retain", middle=True),
    "npo": Method(Npo, "negative preference optimisation", middle=True),
    "rome": Method(Rome, "rank-one edits, fact after fact", _rome, middle=True),
    "memit": Method(Memit, "ridge edit of all facts at once", _memit, spares=True),
    "alphaedit": Method(AlphaEdit, "ridge edit inside the null space of general keys", _alphaedit, spares=True),
    "zerounlearn": Method(ZeroUnlearn, "ridge edit, then projection (Lemma 4.1)", _zerounlearn, spares=True),
    "zerounlearn-gd": Method(Descent, "Lemma 5.1 by 500 steps of Adam", _descent),
    "exact": Method(Exact, "Lemma 5.1, solved exactly", _exact, spares=True),
    "anchored": Method(Anchored, "Lemma 5.1's terms, sparing other subjects of the same kind", _anchored, spares=True,
                       each=True),
}
#: What `unlearn` takes whatever the method.
SHARED = ("layers", "seed", "targets", "moments", "earlier", "anchors", "retain", "before", "below")
#: What `unlearn` does unless told: the paper's method. With anchors at hand (`zu.anchors`) we would use "anchored".
DEFAULT = "zerounlearn"


def settings_for(method: str, **settings) -> Strict:
    """The validated settings of a method. Raises `ValueError` naming what is unknown or ill-typed,
    `TypeError` for no string."""
    if not isinstance(method, str):
        raise TypeError(f"method is a {type(method).__name__}: give one of the names {', '.join(METHODS)}; a method of "
                        "your own is called itself, or given to run_grid as own=")
    if method not in METHODS:
        close = difflib.get_close_matches(method.lower(), METHODS, 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"method is '{method}': {hint}known are {', '.join(METHODS)}")
    known = METHODS[method].settings
    try:
        return known(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        close = difflib.get_close_matches(name, [*known.model_fields, *SHARED, "method"], 1, 0.7)
        hint = f"did you mean '{close[0]}'? " if close and close[0] != name else ""
        raise ValueError(f"{method}: setting '{name}' is not usable ({first['msg']}); {hint}it takes "
                         f"{', '.join(known.model_fields)}") from None


def find_targets(model: nn.Module, tokenizer, facts: Sequence[Fact], layer: int, *, seed: int = 0,
                 goal: str = "eos", **settings) -> Targets:
    """Targets as `unlearn` computes them, to share between methods; settings as in `Settings`."""
    s = Settings(**settings)
    return optimise(model, tokenizer, facts, layer, _before(model, tokenizer, s, seed), goal=goal, **_search(s))


def _before(model, tokenizer, s: Settings, seed: int, before: Sequence[str] | None = None) -> Sequence[str]:
    if before is None:
        before = prefixes(model, tokenizer, seed=seed) if s.n_prefixes else ("",)
    return before[:s.n_prefixes + 1]


def unlearn(model: nn.Module, tokenizer, facts: Sequence[Fact], method: str = DEFAULT, *,
            layers: Sequence[int | float] | None = None, seed: int = 0, targets: Targets | None = None,
            moments: dict[int, torch.Tensor] | None = None, earlier: Sequence[Edit] = (),
            anchors: Sequence[Fact] = (), retain: Sequence[str] | None = None, before: Sequence[str] | None = None,
            below: Below | None = None, **settings) -> Edit:
    """Make the model forget facts: compute an `Edit`, put it on, return it (Algorithm 1).

    layers: indices, or shares of the depth; by default the model's own (`zu.models.resolve_layers`). ROME and the
    methods that descend change the middle one only. seed: of the prefixes, and of the default text to retain.
    targets, moments, before: results of `find_targets` for the last layer, of `zu.moments` and of `zu.trace.prefixes`,
    when they are at hand; all must come from the unedited model. Where the middle layer is not the last, ROME finds its
    own targets. below: what other calls have read up to a layer that is not above the lowest edited one, to share.
    earlier: edits of the same layers whose facts' values shall stay; anchors: prompts with other subjects whose values
    shall stay, see `zu.anchors` (memit, alphaedit, zerounlearn, exact, anchored). retain: ordinary text for graddiff,
    by default some of the embedded prose. settings: the method's own, see `METHODS`.

    For each layer in turn, on the model as edited so far: keys K_f, and the share of the way to go that falls to
    this layer, V_star = W K_f + (z − h) / (layers left); then the method's solve.
    Raises `ValueError` for unknown methods or settings and for a model whose logits are not finite,
    `EditError` for an edit that exploded or changes nothing; the model is then as it was.
    """
    s, kind = settings_for(method, **settings), METHODS[method]
    facts = list(facts)
    if not facts:
        raise ValueError("facts is empty: give at least one fact to forget")
    for given, name, takes in ((earlier, "earlier edits", kind.spares), (anchors, "anchors", kind.spares),
                               (retain is not None, "text to retain", method == "graddiff")):
        if given and not takes:
            raise ValueError(f"{method} takes no {name}")
    if method == "anchored" and not anchors and s.anchor:
        warnings.warn("anchored without anchors spares no other subjects: give anchors=zu.anchors(...), or anchor=0",
                      stacklevel=2)
    if not isinstance(moments, dict | None):
        raise TypeError(f"moments is a {type(moments).__name__}: give what zu.moments returns, C_0 by layer")
    layers = resolve_layers(model, layers)
    if kind.middle and len(layers) > 1:
        layers, targets = layers[len(layers) // 2:][:1], None
    if below is not None and below.layer > layers[0]:
        raise ValueError(f"below holds what enters layer {below.layer}, but layer {layers[0]} is to be edited: give "
                         f"Below({layers[0]})")
    edit = Edit(model, method=method, settings={"layers": list(layers), "seed": seed} | s.model_dump(),
                facts=len(facts))
    try:
        if kind.solve is None:
            new, _ = train.descend(model, *_rows(method, s, tokenizer, facts, retain, seed), layers, steps=s.steps,
                                   lr=s.lr, beta=getattr(s, "beta", None))
            for layer, weight in new.items():
                edit.set(weight_name(model, layer), weight)
        else:
            before = _before(model, tokenizer, s, seed, before)
            below = Below(layers[0]) if below is None else below
            if targets is None:
                targets = optimise(model, tokenizer, facts, layers[-1], before, **_search(s))
            if moments is None:
                moments = read_moments(model, tokenizer, layers)
            told = {"moment_tokens": getattr(moments, "tokens", None), "anchors": len(anchors)}
            edit.settings |= {name: count for name, count in told.items() if count}  # a plain dictionary has no tokens
            weights = torch.full((len(facts),), getattr(s, "weight", 1.0), dtype=torch.float64)
            for left in range(getattr(s, "rounds", 0), -1, -1):
                _locate(edit, kind, s, tokenizer, facts, layers, before, targets, moments, earlier, anchors, below,
                        weights)
                if not left or not (still := _answered(model, tokenizer, facts, before, below)).any():
                    break
                edit.restore()
                weights[still] *= 3
        if not edit.changed:
            raise EditError(_in_vain(method, s, edit))
    except BaseException:
        edit.restore()
        raise
    return edit


def _in_vain(method: str, s: Strict, edit: Edit) -> str:
    """What to say, and to try, of an edit after which every weight is what it was."""
    cut = "share" if getattr(s, "threshold", None) is None else "threshold"
    most = (f"{cut} beta weight clamp gd_steps gd_lr " if METHODS[method].solve else "") + "steps lr"
    more, less = (", ".join(name for name in names.split() if hasattr(s, name))
                  for names in (most, "lam alpha tolerance"))
    size, dtype = max(map(edit.relative_size, edit.parts)), edit.model.dtype
    why = (f"its change, at most {size:.1g} of a weight, is lost in the rounding to {dtype}" if size
           else "its change is zero, as its settings leave it no direction, no target or no force")
    return (f"{method} changes nothing: {why}; the model is as it was. Try more of {more}"
            + f", less of {less}" * bool(less) + ", or other facts")


def _rows(method: str, s: Ascent, tokenizer, facts, retain, seed: int) -> tuple[list[train.Row], list[float]]:
    """What a descending method reads, and the weight of each row in its loss: the mean over facts."""
    rows = train.answer_rows(tokenizer, facts, "eos" if method == "ft" else "truth")
    weights = [(-1 if method == "ft" else 1) / len(facts)] * len(facts)
    if method == "graddiff":
        kept = train.retain_rows(tokenizer, retain, seed)
        rows, weights = rows + kept, weights + [-s.retain_weight / len(kept)] * len(kept)
    return rows, weights


def _bare(facts: Iterable[Fact]) -> list[Fact]:
    """The same subjects with no prompt around them."""
    return [replace(fact, prompt="{}") for fact in facts]


def _search(s: Settings) -> dict:
    """What a search for targets takes from a method's settings."""
    return {name: getattr(s, name) for name in ("steps", "lr", "weight_decay", "kl", "clamp", "tolerance")}


def _answered(model, tokenizer, facts: Sequence[Fact], before: Sequence[str], below: Below) -> torch.Tensor:
    """Which facts (n,) are still answered behind one of the prefixes."""
    found = score(model, tokenizer, [(prefix + f.text, f.target) for prefix in before for f in facts], below=below)
    return torch.from_numpy(found[:, 0] > 0).view(len(before), -1).any(0)


def _spectrum(below: Below, layer: int, C0: torch.Tensor) -> tuple:  # kept on the CPU, as moments are
    found = below.once(("spectrum", layer), C0.cpu(), lambda _: [x.cpu() for x in solve.spectrum(C0)])
    return tuple(x.to(C0.device) for x in found)


def _locate(edit: Edit, kind: Method, s: Settings, tokenizer, facts, layers, before, targets, moments, earlier,
            anchors, below: Below, weights: torch.Tensor) -> None:
    """Algorithm 1's loop over the layers. weights: of the facts, (n,), for a method that sees each key."""
    model, last = edit.model, layers[-1]
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        if layer not in moments or any(layer not in e.keys for e in earlier):
            raise ValueError(f"layer {layer} is to be edited, but moments or an earlier edit's keys lack it")
        needed = sorted({layer, last})
        keys, bare = subject_keys(model, tokenizer, facts, needed, before, kind.each, below)
        weight, key = down_proj(model, layer).weight, keys[layer]
        W, K_f = weight.double(), key.T
        residual = (targets.z.to(weight.device) - bare.hidden[last].to(weight.device)).double().T
        if kind.each:
            share = prefix_weights(len(before)).sqrt().to(weight.device)
            force = weights.sqrt().repeat(len(before)).to(weight.device)
            key = torch.einsum("p,pnm->nm", share, key.view(len(before), len(facts), -1))
            residual = torch.einsum("p,dn->dpn", share, residual).flatten(1) * force
            K_f = K_f * force
            if s.bare:
                alone = s.bare ** 0.5 * force * subject_keys(model, tokenizer, _bare(facts), needed, before, True,
                                                             below)[0][layer].T
                K_f, residual = torch.cat([K_f, alone], 1), torch.cat([residual, s.bare ** 0.5 * residual], 1)
        V_f = W @ key.T
        if getattr(s, "V_f", "outputs") == "optimised":
            truth = optimise(model, tokenizer, facts, layer, before, goal="truth", **_search(s))
            V_f = V_f + (truth.z - truth.h).to(weight.device).double().T
        spared = [e.keys[layer].to(weight.device).double() for e in earlier]
        if anchors and s.anchor:
            alone = _bare({f.subject: f for f in anchors}.values()) if kind.each and s.bare else []
            spared.append(s.anchor ** 0.5 * subject_keys(model, tokenizer, [*anchors, *alone], needed,
                                                         below=below)[0][layer])
        K_p = torch.cat(spared).T if spared else None
        C0 = moments[layer].to(weight.device)
        spectrum = partial(_spectrum, below, layer, C0)
        # ROME's fact after fact needs no second look: keys of a layer do not depend on that layer's own weight
        edit.set(weight_name(model, layer),
                 kind.solve(s, Problem(W, K_f, W @ K_f + residual / left, C0, V_f, K_p, spectrum)))
        edit.keys[layer] = key.float()
