"""The methods that locate and edit: ROME, MEMIT, AlphaEdit, ZeroUnlearn in three forms, and anchored."""
from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from .. import solve
from ..edit import Edit
from ..models import down_proj
from ..reader import prefix_weights, subject_keys
from ..scores import score
from .base import Columns, Job, Located, Problem, Sparing, Truthful, keys_of, missing, without_prompt


class Rome(Located):
    """ROME (Meng et al. 2022): one fact after the other, each with its own key, into the middle layer.

    δ moves the hidden state, up to clamp · ‖h‖. In the released comparison it moves down_proj's
    output, up to 0.75 of that output's length, which in the embedded model is several times shorter
    than h; the layer is the last of the three on Llama, and 8 on Qwen, with a bound of 4, a rate of
    0.5 and no C_0⁻¹.
    first_only: edit the first fact and no other, which that comparison does as well.
    """

    name: ClassVar[str] = "rome"
    about: ClassVar[str] = "rank-one edits, fact after fact"
    label: ClassVar[str] = "ROME"
    colour: ClassVar[str] = "#56B4E9"
    middle: ClassVar[bool] = True

    first_only: bool = False

    def solve(self, p: Problem) -> torch.Tensor:
        W = p.W
        for i in range(1 if self.first_only else p.K_f.shape[1]):
            W = W + solve.rome(W, p.K_f[:, i], p.V_star[:, i], p.C0)
        return W


def general(p: Problem, alpha: float, weight: float) -> torch.Tensor:
    """α C_0 with the keys to spare among the general ones, weighed as the facts to forget are: (m, m)."""
    return alpha * p.C0 + (0 if p.K_p is None else weight * p.K_p @ p.K_p.T)


class Memit(Sparing):
    """MEMIT (Meng et al. 2023): alpha weights C_0 against the facts' own keys."""

    name: ClassVar[str] = "memit"
    about: ClassVar[str] = "ridge edit of all facts at once"
    label: ClassVar[str] = "MEMIT"
    colour: ClassVar[str] = "#0072B2"

    alpha: float = Field(15_000.0, gt=0)

    def solve(self, p: Problem) -> torch.Tensor:
        return p.W + solve.memit(p.W, p.K_f, p.V_star, general(p, self.alpha, 1), alpha=1)


class AlphaEdit(Sparing):
    """AlphaEdit (Fang et al. 2025): edits inside the null space of C_0, with lam on the size of the change.

    The null space is the lowest share of C_0's directions; with a threshold (the papers': 0.02), instead of it,
    the directions of eigenvalues below that, which depends on the model's scale.
    """

    name: ClassVar[str] = "alphaedit"
    about: ClassVar[str] = "ridge edit inside the null space of general keys"
    label: ClassVar[str] = "AlphaEdit"
    colour: ClassVar[str] = "#009E73"

    share: float = Field(0.5, gt=0, le=1)
    threshold: float | None = Field(None, ge=0)
    lam: float = Field(10.0, ge=0)

    def null_space(self, p: Problem) -> torch.Tensor:
        """An orthonormal basis (m, q) of the directions that may change."""
        criterion = {"share": self.share} if self.threshold is None else {"threshold": self.threshold}
        return solve.null_space(p.C0, found=p.spectrum(), **criterion)

    def solve(self, p: Problem) -> torch.Tensor:
        return p.W + solve.alphaedit(p.W, p.K_f, p.V_star, self.null_space(p), lam=self.lam, K_p=p.K_p)

    def remedies(self) -> tuple[list[str], list[str]]:
        more, less = super().remedies()
        return (more if self.threshold is None else ["threshold" if x == "share" else x for x in more]), less

    def operations(self, d: int, m: int, n: int) -> float:
        return super().operations(d, m, n) + 9 * m**3  # all eigenvectors of C_0


class ZeroUnlearn(Truthful, Sparing):
    """ZeroUnlearn, Lemma 4.1: weights alpha on C_0, beta on the forget term, lam on the size of the change.

    V_f: the knowledge to project away. "outputs" takes W K_f, as the paper's text says. "optimised"
    takes W K_f + δ, with δ a change of the residual stream, up to clamp · ‖h‖, from which the model
    says the true answer, behind every prefix. This is not the released V_f: there δ is a change of
    down_proj's own output, up to 0.75 times its length, for the bare prompt. eps: what the
    projector leaves, 0 in the paper. The released code sets eps = 0.01 together with its optimised
    V_f, so no setting here is its method. project: whether to project, that is, the zero term.
    """

    name: ClassVar[str] = "zerounlearn"
    about: ClassVar[str] = "ridge edit, then projection (Lemma 4.1)"
    label: ClassVar[str] = "ZeroUnlearn"
    colour: ClassVar[str] = "#D55E00"

    alpha: float = Field(15_000.0, ge=0)
    beta: float = Field(50.0, ge=0)
    lam: float = Field(1.0, ge=0)
    project: bool = True
    eps: float = Field(0.0, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"

    def solve(self, p: Problem) -> torch.Tensor:
        V_f = p.V_f if self.project else torch.zeros_like(p.V_f)
        return solve.lemma_4_1(p.W, p.K_f, p.V_star, general(p, self.alpha, self.beta), V_f, alpha=1, beta=self.beta,
                               lam=self.lam, eps=self.eps)


class Exact(Truthful, AlphaEdit):
    """Lemma 5.1, solved exactly: weights zero, forget and lam on the terms of Eq. 12.

    V_f is orthonormalised. The weights 1, 100 and 0.1 are hard-coded in the released code; the
    β = 10 that its settings hold for ZeroUnlearn-GD is never read. It optimises V_f for that method
    too, see `ZeroUnlearn`.
    """

    name: ClassVar[str] = "exact"
    about: ClassVar[str] = "Lemma 5.1, solved exactly"
    label: ClassVar[str] = "exact Lemma 5.1"
    colour: ClassVar[str] = "#882255"

    zero: float = Field(1.0, ge=0)
    forget: float = Field(100.0, ge=0)
    lam: float = Field(0.1, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"

    def terms(self, p: Problem) -> dict:
        """Eq. 12 as the solvers of Lemma 5.1 take it."""
        U = solve.column_space(p.V_f, torch.float32)[0]
        weights = {"zero": self.zero, "forget": self.forget, "lam": self.lam}
        return {"K_f": p.K_f, "V_star": p.V_star, "V_f": U, "basis": self.null_space(p)} | weights

    def solve(self, p: Problem) -> torch.Tensor:
        terms = self.terms(p)
        if p.K_p is not None:
            terms["general"] = self.forget * p.K_p @ p.K_p.T
        return p.W + solve.lemma_5_1(W=p.W, **terms)


class Descent(Exact):
    """ZeroUnlearn-GD: the same problem by Adam."""

    name: ClassVar[str] = "zerounlearn-gd"
    about: ClassVar[str] = "Lemma 5.1 by 500 steps of Adam"
    label: ClassVar[str] = "ZeroUnlearn-GD"
    colour: ClassVar[str] = "#CC79A7"
    spares: ClassVar[bool] = False

    gd_steps: int = Field(500, ge=0)
    gd_lr: float = Field(1e-3, gt=0)

    def solve(self, p: Problem) -> torch.Tensor:
        # Adam's many steps in float32: the paper names no precision
        return p.W + solve.lemma_5_1_gd(W=p.W.float(), steps=self.gd_steps, lr=self.gd_lr, **self.terms(p))

    def remedies(self) -> tuple[list[str], list[str]]:
        more, less = super().remedies()
        return [*more[:-2], "gd_steps", "gd_lr", *more[-2:]], less

    def operations(self, d: int, m: int, n: int) -> float:
        step = 4 * d * m * (2 * n + m * self.share)  # in the null space and back
        return super().operations(d, m, n) + step * self.gd_steps


class Anchored(Sparing):
    """Lemma 5.1's terms, with general keys and anchors as a soft null space: alpha on C_0 in place of Eq. 12's P_0.

    A fact's key behind each prefix is a column of its own, weighing as much as it does in the average; and so is the
    key of its subject without the prompt, to which other wordings come closer. Anchors are read in both ways too.
    With rounds, facts that are still answered behind some prefix get three times their weight, and the edit is made
    again: with a small weight to begin with, none gets more than it takes.
    """

    name: ClassVar[str] = "anchored"
    about: ClassVar[str] = "Lemma 5.1's terms, sparing other subjects of the same kind"
    label: ClassVar[str] = "anchored"
    colour: ClassVar[str] = "#332288"

    weight: float = Field(1.0, gt=0, description="weight of a fact to forget at first")
    rounds: int = Field(0, ge=0, description="how often a fact that is not forgotten yet gets three times its weight")
    bare: float = Field(3.0, ge=0, description="weight of a subject's key without its prompt, against that with it")
    anchor: float = Field(2.0, ge=0, description="weight of an anchor's key against that of a fact to forget")
    alpha: float = Field(300.0, ge=0)
    zero: float = Field(0.0, ge=0)
    lam: float = Field(0.02, gt=0)

    def warning(self, job: Job) -> str:
        if job.anchors or not self.anchor:
            return ""
        return "anchored without anchors spares no other subjects: give anchors=zu.anchors(...), or anchor=0"

    def make(self, job: Job, edit: Edit) -> None:
        """Edit all layers; in each further round again, with three times the weight on what is still answered."""
        job.weights = torch.full((len(job.facts),), self.weight, dtype=torch.float64)
        for left in range(self.rounds, -1, -1):
            super().make(job, edit)
            if not left or not (still := answered(job)).any():
                break
            edit.restore()
            job.weights[still] *= 3

    def columns(self, job: Job, layer: int) -> Columns:
        """A column per fact and prefix, p · n in all, and as many for the subjects without their prompt."""
        n, texts, device = len(job.facts), len(job.before), down_proj(job.model, layer).weight.device
        keys, bare = self._keys(job, layer, job.facts)  # (p n, m), each times the square root of its share
        share = prefix_weights(texts).sqrt().to(device)
        force = job.weights.sqrt().repeat(texts).to(device)  # (p n,)
        mean = torch.einsum("p,pnm->nm", share, keys.view(texts, n, -1))
        lack = torch.einsum("p,dn->dpn", share, missing(job, layer, bare)).flatten(1) * force  # (d, p n)
        K_f = keys.T * force
        if self.bare:
            alone = self.bare ** 0.5 * force * self._keys(job, layer, without_prompt(job.facts))[0].T
            K_f, lack = torch.cat([K_f, alone], 1), torch.cat([lack, self.bare ** 0.5 * lack], 1)
        return Columns(K_f, lack, mean)

    def _keys(self, job: Job, layer: int, facts) -> tuple:
        keys, bare = subject_keys(job.model, job.tokenizer, facts, job.reads(layer), job.before, True, job.below)
        return keys[layer], bare

    def anchor_keys(self, job: Job, layer: int) -> torch.Tensor:
        alone = without_prompt({f.subject: f for f in job.anchors}.values()) if self.bare else []
        return keys_of(job, layer, [*job.anchors, *alone])

    def solve(self, p: Problem) -> torch.Tensor:
        U = solve.column_space(p.V_f, torch.float32)[0]
        return p.W + solve.lemma_5_1(p.W, p.K_f, p.V_star, U, zero=self.zero, lam=self.lam,
                                     general=general(p, self.alpha, 1))


def answered(job: Job) -> torch.Tensor:
    """Which facts (n,) are still answered behind one of the prefixes."""
    asked = [(prefix + f.text, f.target) for prefix in job.before for f in job.facts]
    found = score(job.model, job.tokenizer, asked, below=job.below)
    return torch.from_numpy(found[:, 0] > 0).view(len(job.before), -1).any(0)
