"""The methods, by name: each computes an edit of a few down_proj weights, all in one signature."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from . import solve
from .edits import Edit
from .facts import Fact
from .models import down_proj, resolve_layers, weight_name
from .moments import moments as read_moments
from .targets import Targets, optimise
from .trace import prefixes, subject_keys


class Settings(BaseModel):
    """What every method of the locate-and-edit kind can be told. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    n_prefixes: int = Field(5, ge=0, le=5, description="texts put before a prompt, beside none")
    steps: int = Field(25, ge=1, description="optimisation steps for a target")
    lr: float = Field(0.1, gt=0, description="one step moves a coordinate of the target by lr times ‖h‖/√d")
    weight_decay: float = Field(0.5, ge=0)
    kl: float = Field(0.0625, ge=0)
    clamp: float = Field(0.75, gt=0, description="largest ‖δ‖ as a share of ‖h‖")


class Memit(Settings):
    """MEMIT (Meng et al. 2023): alpha weights C_0 against the facts' own keys."""

    alpha: float = Field(15_000.0, ge=0)


class ZeroUnlearn(Settings):
    """ZeroUnlearn, Lemma 4.1: weights alpha on C_0, beta on the forget term, lam on the size of the change.

    V_f: the knowledge to project away; "outputs" takes W K_f, as the paper's text says, "optimised" takes
    W K_f + δ with δ optimised to produce the true answer, which is how we read the released code.
    """

    alpha: float = Field(15_000.0, ge=0)
    beta: float = Field(50.0, ge=0)
    lam: float = Field(1.0, ge=0)
    eps: float = Field(0.0, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"


@dataclass(frozen=True)
class Method:
    """A name's settings, and the function from one layer's matrices to its new weight."""

    settings: type[Settings]
    solve: Callable[..., torch.Tensor]
    about: str


def _memit(s: Memit, W, K_f, V_star, C0, V_f):
    return W + solve.memit(W, K_f, V_star, C0, alpha=s.alpha)


def _zerounlearn(s: ZeroUnlearn, W, K_f, V_star, C0, V_f):
    return solve.lemma_4_1(W, K_f, V_star, C0, V_f, alpha=s.alpha, beta=s.beta, lam=s.lam, eps=s.eps)


#: Every method by name. `unlearn` takes these names.
METHODS: dict[str, Method] = {
    "memit": Method(Memit, _memit, "ridge edit of all facts at once (Meng et al. 2023)"),
    "zerounlearn": Method(ZeroUnlearn, _zerounlearn, "ridge edit, then projection (Lemma 4.1)"),
}
#: The one that we would use.
RECOMMENDED = "zerounlearn"


def settings_for(method: str, **settings) -> Settings:
    """The validated settings of a method. Raises `ValueError` naming what is unknown or ill-typed."""
    if method not in METHODS:
        raise ValueError(f"method is '{method}': known are {', '.join(METHODS)}")
    known = METHODS[method].settings
    try:
        return known(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{method}: setting '{name}' is not usable ({first['msg']}); it takes "
                         f"{', '.join(known.model_fields)}") from None


def find_targets(model: nn.Module, tokenizer, facts: Sequence[Fact], layer: int, *, seed: int = 0,
                 goal: str = "eos", **settings) -> Targets:
    """Targets as `unlearn` computes them, to share between methods; settings as in `Settings`."""
    s = Settings(**settings)
    before = prefixes(model, tokenizer, seed=seed)[:s.n_prefixes + 1]
    return optimise(model, tokenizer, facts, layer, before, goal=goal, steps=s.steps, lr=s.lr,
                    weight_decay=s.weight_decay, kl=s.kl, clamp=s.clamp)


def unlearn(model: nn.Module, tokenizer, facts: Sequence[Fact], method: str = RECOMMENDED, *,
            layers: Sequence[int | float] | None = None, seed: int = 0, targets: Targets | None = None,
            moments: dict[int, torch.Tensor] | None = None, **settings) -> Edit:
    """Make the model forget facts: compute an `Edit`, put it on, return it (Algorithm 1).

    layers: indices, or shares of the depth; by default the model's own (`zu.models.resolve_layers`).
    seed: of the prefixes. targets, moments: results of `find_targets` for the last layer and of `zu.moments`,
    when they are at hand; both must come from the unedited model. settings: the method's own, see `METHODS`.

    For each layer in turn, on the model as edited so far: keys K_f, and the share of the way to go that falls to
    this layer, V_star = W K_f + (z − h) / (layers left); then the method's solve.
    Raises `ValueError` for unknown methods or settings, `EditError` for an edit that exploded; the model is
    then as it was.
    """
    s = settings_for(method, **settings)
    facts = list(facts)
    if not facts:
        raise ValueError("facts is empty: give at least one fact to forget")
    layers = resolve_layers(model, layers)
    before = prefixes(model, tokenizer, seed=seed)[:s.n_prefixes + 1]
    shared = {name: getattr(s, name) for name in ("steps", "lr", "weight_decay", "kl", "clamp")}
    if targets is None:
        targets = optimise(model, tokenizer, facts, layers[-1], before, **shared)
    if moments is None:
        moments = read_moments(model, tokenizer, layers)
    edit = Edit(model, method=method, settings={"layers": list(layers), "seed": seed} | s.model_dump())
    try:
        for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
            keys, bare = subject_keys(model, tokenizer, facts, sorted({layer, layers[-1]}), before)
            weight = down_proj(model, layer).weight
            W, K_f = weight.double(), keys[layer].T
            residual = (targets.z.to(weight.device) - bare.hidden[layers[-1]].to(weight.device)).double().T
            V_f = W @ K_f
            if getattr(s, "V_f", "outputs") == "optimised":
                truth = optimise(model, tokenizer, facts, layer, before, goal="truth", **shared)
                V_f = V_f + (truth.z - truth.h).to(weight.device).double().T
            C0 = moments[layer].to(weight.device)
            edit.set(weight_name(model, layer),
                     METHODS[method].solve(s, W, K_f, W @ K_f + residual / left, C0, V_f))
    except BaseException:
        edit.restore()
        raise
    return edit
