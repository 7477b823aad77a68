"""The methods that locate and edit: ROME, MEMIT, AlphaEdit, three ZeroUnlearns, anchored."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from .. import solve
from ..data.facts import Fact
from ..edit import Edit
from ..questions import Question
from ..reader import Trace, prefix_weights, subject_keys
from ..scores import score
from ..targets import Aim
from .base import (
    Columns,
    Job,
    Located,
    OneLayer,
    Problem,
    Sparing,
    Truthful,
    keys_of,
    missing,
    without_prompt,
)


class Rome(OneLayer, Located):
    """ROME: rank-one edits of the middle layer, one fact after another, each with its own key.

    As published, δ moves the projection's output, by at most `clamp` times that output's length. In
    the embedded model the hidden state is six times as long, so with aim="hidden" δ may be six
    times as long too. The released comparison edits the last of the three layers on Llama, and
    layer 8 on Qwen with a bound of 4, a rate of 0.5 and no C_0⁻¹: see profiles/released.yaml.

    Attributes
    ----------
    first_only : bool
        Whether to edit only the first fact, as that comparison does.
    whiten : bool
        Whether C_0⁻¹ spreads the change, as published; otherwise it is along the key alone.

    References
    ----------
    Meng et al. 2022.
    """

    name: ClassVar[str] = "rome"
    about: ClassVar[str] = "rank-one edits, fact after fact"
    label: ClassVar[str] = "ROME"
    colour: ClassVar[str] = "#56B4E9"
    aim: Aim = "value"
    first_only: bool = False
    whiten: bool = True

    def tokens_needed(self, d: int, m: int) -> int:
        """m tokens, one per direction of C_0; none if C_0 does not spread the change."""
        return m if self.whiten else 0

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m): one rank-one change per fact, each on the weight so far.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        C0 = p.C0 if self.whiten else torch.eye(len(p.C0), dtype=p.C0.dtype, device=p.C0.device)
        W = p.W  # a layer's keys do not depend on its own weight: no need to read them again
        count = 1 if self.first_only else p.K_f.shape[1]
        for i in range(count):
            W = W + solve.rome(W, p.K_f[:, i], p.V_star[:, i], C0)
        return W


def general(p: Problem, alpha: float, weight: float) -> torch.Tensor:
    """α C_0 plus the keys to spare, which get the same weight as the facts to forget.

    Parameters
    ----------
    p : Problem
        A problem with C_0 (m, m) and, if there are any, keys to spare (m, p).
    alpha : float
        The weight of C_0.
    weight : float
        The weight of a fact to forget.

    Returns
    -------
    torch.Tensor
        (m, m), float64.
    """
    spared = 0 if p.K_p is None else weight * p.K_p @ p.K_p.T  # (m, p) @ (p, m)
    return alpha * p.C0 + spared


def spared(
    p: Problem,
    *,
    alpha: float = 0.0,
    lam: float = 0.0,
    weight: float = 1.0,
    basis: torch.Tensor | None = None,
    about: Hashable = (),
) -> solve.Spared | None:
    """α C_0 + lam I and the keys to spare, as factors that an earlier edit may have left.

    Parameters
    ----------
    p : Problem
        A problem with C_0 (m, m) and, if there are any, keys to spare (m, p).
    alpha, lam : float
        The weights of C_0 and of the size of a change.
    weight : float
        The weight of a fact to forget.
    basis : (m, q), optional
        The directions that may change, computed from C_0.
    about : hashable
        Anything else that the basis depends on.

    Returns
    -------
    Spared or None
        None if α C_0 + lam I is singular or nearly so, see `zu.solve.Spared.of`.
    """
    def make() -> solve.Spared | None:
        general = None if basis is not None and not alpha else alpha * p.C0
        return solve.Spared.of(general, lam=lam, basis=basis)

    found = p.keep((alpha, lam, basis is None, about), make)
    if found is None:
        return None
    return found.spare(None if p.K_p is None else weight**0.5 * p.K_p)


class Memit(Sparing):
    """MEMIT: a ridge edit of all facts at once.

    Attributes
    ----------
    alpha : float
        The weight of C_0, relative to that of the facts' own keys.

    References
    ----------
    Meng et al. 2023.
    """

    name: ClassVar[str] = "memit"
    about: ClassVar[str] = "ridge edit of all facts at once"
    label: ClassVar[str] = "MEMIT"
    colour: ClassVar[str] = "#0072B2"

    alpha: float = Field(15_000.0, gt=0)

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.memit`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        factors = spared(p, alpha=self.alpha)
        if factors is not None:
            return p.W + factors.lemma_5_1(p.W, p.K_f, p.V_star)
        kept = general(p, self.alpha, 1)
        return p.W + solve.memit(p.W, p.K_f, p.V_star, kept, alpha=1)


class AlphaEdit(Sparing):
    """AlphaEdit: edits inside the null space of C_0, with lam on the size of the change.

    The null space consists of the directions of C_0's smallest eigenvalues: a share of all
    directions or, with a threshold (0.02 in the papers), those with eigenvalues below it. A
    threshold depends on the model's scale.

    Attributes
    ----------
    share : float
        The share of C_0's directions that form the null space.
    threshold : float or None
        The eigenvalue below which a direction belongs to the null space, in place of `share`.
    lam : float
        The weight of the size of the change.

    References
    ----------
    Fang et al. 2025.
    """

    name: ClassVar[str] = "alphaedit"
    about: ClassVar[str] = "ridge edit inside the null space of general keys"
    label: ClassVar[str] = "AlphaEdit"
    colour: ClassVar[str] = "#009E73"

    share: float = Field(0.5, gt=0, le=1)
    threshold: float | None = Field(None, ge=0)
    lam: float = Field(10.0, ge=0)

    def null_space(self, p: Problem) -> torch.Tensor:
        """The directions that may change.

        Parameters
        ----------
        p : Problem
            A problem with C_0 (m, m) and its spectrum.

        Returns
        -------
        torch.Tensor
            An orthonormal basis (m, q), float64.
        """
        if self.threshold is None:
            criterion = {"share": self.share}
        else:
            criterion = {"threshold": self.threshold}
        return solve.null_space(p.C0, found=p.spectrum(), **criterion)

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.alphaedit`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        basis = self.null_space(p)
        factors = None
        if p.K_p is not None:  # without keys to spare, the basis is all that is needed
            factors = spared(p, lam=self.lam, basis=basis, about=(self.share, self.threshold))
        if factors is not None:
            return p.W + factors.lemma_5_1(p.W, p.K_f, p.V_star)
        return p.W + solve.alphaedit(p.W, p.K_f, p.V_star, basis, lam=self.lam, K_p=p.K_p)

    def remedies(self) -> tuple[list[str], list[str]]:
        """As for other methods that locate, but with only the one of share and threshold in use."""
        more, less = super().remedies()
        if self.threshold is not None:
            more = ["threshold" if name == "share" else name for name in more]
        return more, less

    def operations(self, d: int, m: int, n: int) -> float:
        """About how many multiplications and additions one layer's solve takes.

        Parameters
        ----------
        d, m, n : int
            Length of a value, length of a key, number of facts.

        Returns
        -------
        float
            The number of operations, including those for all eigenvectors of C_0.
        """
        return super().operations(d, m, n) + 9 * m**3  # all eigenvectors of C_0


class ZeroUnlearn(Truthful, Sparing):
    """ZeroUnlearn: Lemma 4.1, a ridge edit and then a projection.

    Attributes
    ----------
    alpha, beta, lam : float
        The weights of C_0, of the forget term and of the size of the change.
    project : bool
        Whether to project, which is the zero term.
    eps : float
        The share of the old knowledge that the projector leaves, see `zu.solve.projector`; 0 in the
        paper. The released code sets eps = 0.01, together with V_f = "optimised".
    V_f : {"outputs", "optimised"}
        The knowledge to project away: W K_f, as in the paper's text, or what the released code
        uses, see `Truthful`.

    References
    ----------
    Lemma 4.1 of the paper (Eq. 8).
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

    def tokens_needed(self, d: int, m: int) -> int:
        """d tokens, one per coordinate of a value: it sees C_0 only through W C_0 Wᵀ, (d, d)."""
        return d

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.lemma_4_1`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        V_f = p.V_f if self.project else torch.zeros_like(p.V_f)  # the zero matrix spans nothing
        factors = spared(p, alpha=self.alpha, lam=self.lam, weight=self.beta)
        if factors is not None:
            return factors.lemma_4_1(
                p.W, p.K_f, p.V_star, V_f, beta=self.beta, eps=self.eps
            )
        kept = general(p, self.alpha, self.beta)
        weights = {"alpha": 1, "beta": self.beta, "lam": self.lam}  # alpha is in `kept`
        return solve.lemma_4_1(p.W, p.K_f, p.V_star, kept, V_f, **weights, eps=self.eps)


class Exact(Truthful, AlphaEdit):
    """Lemma 5.1, solved exactly.

    V_f is orthonormalised. The released code hard-codes the weights 1 and 100 with λ = 0.1; it
    never reads the β = 10 in its settings for ZeroUnlearn-GD, and it optimises V_f for that method
    too, see `ZeroUnlearn`. At these weights the zero term has no effect, and the rest is AlphaEdit
    with a λ ten thousand times smaller, which ruins a model with hundreds of facts. The default λ
    is the smallest of five that keeps perplexity within a quarter of the unedited model's from 10
    to 500 facts (`tools/exact_lambda.py`). With it, and as long as the zero term has no effect,
    this method is AlphaEdit. Give lam=0.1 for the lemma as released.

    Attributes
    ----------
    zero, forget, lam : float
        The weights of the terms of Eq. 12.
    V_f : {"outputs", "optimised"}
        The knowledge to project away, see `ZeroUnlearn`.

    References
    ----------
    Lemma 5.1 of the paper; the terms are those of its Eq. 12.
    """

    name: ClassVar[str] = "exact"
    about: ClassVar[str] = "Lemma 5.1, solved exactly"
    label: ClassVar[str] = "exact Lemma 5.1"
    colour: ClassVar[str] = "#882255"

    zero: float = Field(1.0, ge=0)
    forget: float = Field(100.0, ge=0)
    lam: float = Field(1000.0, ge=0)
    V_f: Literal["outputs", "optimised"] = "outputs"

    def terms(self, p: Problem) -> dict[str, Any]:
        """Eq. 12 as the solvers of Lemma 5.1 take it.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        dict[str, Any]
            Keyword arguments: K_f (m, n), V_star (d, n), V_f (d, k) with orthonormal columns, basis
            (m, q), and the three weights.
        """
        U = solve.column_space(p.V_f, torch.float32)[0]  # (d, n) -> (d, k), k its rank
        return {
            "K_f": p.K_f,
            "V_star": p.V_star,
            "V_f": U,
            "basis": self.null_space(p),
            "zero": self.zero,
            "forget": self.forget,
            "lam": self.lam,
        }

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.lemma_5_1`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        terms = self.terms(p)
        if p.K_p is None:
            return p.W + solve.lemma_5_1(W=p.W, **terms)
        factors = spared(p, lam=self.lam, weight=self.forget, basis=terms["basis"],
                         about=(self.share, self.threshold))
        if factors is not None:
            del terms["basis"], terms["lam"]  # the factors contain them
            return p.W + factors.lemma_5_1(p.W, **terms)
        terms["general"] = self.forget * p.K_p @ p.K_p.T  # (m, p) @ (p, m)
        return p.W + solve.lemma_5_1(W=p.W, **terms)


class Descent(Exact):
    """ZeroUnlearn-GD: the same problem solved by Adam, with the released weights.

    Attributes
    ----------
    lam : float
        As for `Exact`, but with the released default: stopping Adam after few short steps limits
        the change as a larger λ would.
    gd_steps : int
        The number of Adam's steps.
    gd_lr : float
        Adam's learning rate.
    """

    name: ClassVar[str] = "zerounlearn-gd"
    about: ClassVar[str] = "Lemma 5.1 by 500 steps of Adam"
    label: ClassVar[str] = "ZeroUnlearn-GD"
    colour: ClassVar[str] = "#CC79A7"
    spares: ClassVar[bool] = False

    lam: float = Field(0.1, ge=0)
    gd_steps: int = Field(500, ge=0)
    gd_lr: float = Field(1e-3, gt=0)

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.lemma_5_1_gd`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        # Adam's many steps are taken in float32; the paper names no precision
        change = solve.lemma_5_1_gd(
            W=p.W.float(), steps=self.gd_steps, lr=self.gd_lr, **self.terms(p)
        )
        return p.W + change

    def remedies(self) -> tuple[list[str], list[str]]:
        """As for the exact solve, with Adam's steps and rate before those of the search."""
        more, less = super().remedies()
        return [*more[:-2], "gd_steps", "gd_lr", *more[-2:]], less

    def operations(self, d: int, m: int, n: int) -> float:
        """About how many multiplications and additions one layer's solve takes.

        Parameters
        ----------
        d, m, n : int
            Length of a value, length of a key, number of facts.

        Returns
        -------
        float
            The number of operations, including those of all of Adam's steps.
        """
        step = 4 * d * m * (2 * n + m * self.share)  # in the null space and back
        return super().operations(d, m, n) + step * self.gd_steps


class Anchored(Sparing):
    """Lemma 5.1's terms, with general keys and anchors as a soft null space.

    The term α C_0 replaces Eq. 12's projector P_0. A fact's key behind each prefix is a column of
    its own, with the weight that it has in the mean key. So is the key of the subject without the
    prompt, which is closer to the keys of other wordings. Anchors are read in both ways too. With
    `rounds`, facts that are still answered behind some prefix get three times their weight, and the
    edit is made again; with a small initial weight, no fact gets more weight than it needs.

    Attributes
    ----------
    weight : float
        The initial weight of a fact to forget.
    rounds : int
        How often the weight of facts that are not forgotten yet may be tripled.
    bare : float
        The weight of a subject's key without its prompt, relative to the key with it.
    anchor : float
        The weight of an anchor's key, relative to that of a fact to forget.
    alpha, zero, lam : float
        The weights of C_0, of the zero term and of the size of the change.

    References
    ----------
    Lemma 5.1 of the paper; the terms are those of its Eq. 12.
    """

    name: ClassVar[str] = "anchored"
    about: ClassVar[str] = "Lemma 5.1's terms, sparing other subjects of the same kind"
    label: ClassVar[str] = "anchored"
    colour: ClassVar[str] = "#332288"

    weight: float = Field(1.0, gt=0, description="weight of a fact to forget at first")
    rounds: int = Field(
        0,
        ge=0,
        description="how often a fact that is not forgotten yet gets three times its weight",
    )
    bare: float = Field(
        3.0, ge=0, description="weight of a subject's key without its prompt, against that with it"
    )
    anchor: float = Field(
        2.0, ge=0, description="weight of an anchor's key against that of a fact to forget"
    )
    alpha: float = Field(300.0, ge=0)
    zero: float = Field(0.0, ge=0)
    lam: float = Field(0.02, gt=0)

    @classmethod
    def row_name(cls, anchors: bool) -> str:
        """The label alone if there are anchors, for which the method is named."""
        return cls.label if anchors else f"{cls.label}, no anchors"

    def warning(self, job: Job) -> str:
        """A warning that no other subject is spared, if anchors count but none are given."""
        if job.anchors or not self.anchor:
            return ""
        return (
            "anchored without anchors spares no other subjects: "
            "give anchors=zu.anchors(...), or anchor=0"
        )

    def make(self, job: Job, edit: Edit) -> None:
        """Edit all layers; in each further round again, with more weight on facts still answered.

        Parameters
        ----------
        job : Job
            The n facts to forget. Its `weights` (n,) are set, and tripled for facts still answered.
        edit : Edit
            The edit to fill.
        """
        job.weights = torch.full((len(job.facts),), self.weight, dtype=torch.float64)
        for left in range(self.rounds, -1, -1):
            super().make(job, edit)
            if not left:
                break
            still = answered(job)
            if not still.any():
                break
            edit.restore()
            job.weights[still] *= 3

    def columns(self, job: Job, layer: int) -> Columns:
        """One column per fact and prefix, and as many for the subjects without their prompts.

        Parameters
        ----------
        job : Job
            The n facts to forget, p texts before each, targets and weights.
        layer : int
            The layer to edit.

        Returns
        -------
        Columns
            Keys (m, q), what is missing at them (d, q), and mean keys (n, m); q is p · n, or twice
            that if the subjects without their prompts count.
        """
        n, texts = len(job.facts), len(job.prefixes)
        device = job.layout.matrix(layer).device
        keys, bare = self._keys(job, layer, job.facts)  # (p n, m)
        root_share = prefix_weights(texts).sqrt().to(device)  # (p,)
        weights = torch.ones(n, dtype=torch.float64) if job.weights is None else job.weights
        root_weight = weights.sqrt().repeat(texts).to(device)  # (n,) -> (p n,)
        # each key has the square root of its share already: (p,), (p, n, m) -> (n, m)
        mean = torch.einsum("p,pnm->nm", root_share, keys.view(texts, n, -1))
        # as many columns as keys: (p,), (d, n) -> (d, p, n) -> (d, p n)
        lack = torch.einsum("p,dn->dpn", root_share, missing(job, layer, bare)).flatten(1)
        lack = lack * root_weight
        K_f = keys.T * root_weight  # (p n, m) -> (m, p n)
        if self.bare:
            alone, _ = self._keys(job, layer, without_prompt(job.facts))  # (p n, m)
            K_alone = self.bare ** 0.5 * root_weight * alone.T  # (p n, m) -> (m, p n)
            K_f = torch.cat([K_f, K_alone], 1)  # (m, 2 p n)
            lack = torch.cat([lack, self.bare ** 0.5 * lack], 1)  # (d, 2 p n)
        return Columns(K_f, lack, mean)

    def _keys(self, job: Job, layer: int, facts: Sequence[Fact]) -> tuple[torch.Tensor, Trace]:
        """All keys, (p n, m), times the square root of their share; and the bare prompts' trace."""
        keys, bare = subject_keys(job.reader, facts, job.reads(layer), job.prefixes, each=True)
        return keys[layer], bare

    def anchor_keys(self, job: Job, layer: int) -> torch.Tensor:
        """The anchors' keys and, if bare keys count, those of their subjects without a prompt.

        Parameters
        ----------
        job : Job
            A job with at least one anchor.
        layer : int
            The layer to edit.

        Returns
        -------
        torch.Tensor
            (a, m), float64; each subject is read once without a prompt.
        """
        alone = []
        if self.bare:
            one_each = {anchor.subject: anchor for anchor in job.anchors}
            alone = without_prompt(one_each.values())
        return keys_of(job, layer, [*job.anchors, *alone])

    def solve(self, p: Problem) -> torch.Tensor:
        """A layer's new weight (d, m), see `zu.solve.lemma_5_1`.

        Parameters
        ----------
        p : Problem
            The layer's matrices, float64.

        Returns
        -------
        torch.Tensor
            (d, m), float64.
        """
        U = solve.column_space(p.V_f, torch.float32)[0]  # (d, n) -> (d, k), k its rank
        factors = spared(p, alpha=self.alpha, lam=self.lam)
        if factors is not None:
            return p.W + factors.lemma_5_1(p.W, p.K_f, p.V_star, U, zero=self.zero)
        kept = general(p, self.alpha, 1)
        return p.W + solve.lemma_5_1(
            p.W, p.K_f, p.V_star, U, zero=self.zero, lam=self.lam, general=kept
        )


def answered(job: Job) -> torch.Tensor:
    """Which facts the model still answers behind at least one of the prefixes.

    Parameters
    ----------
    job : Job
        The n facts, and p texts before each; the model is asked in its present state.

    Returns
    -------
    torch.Tensor
        (n,), bool.
    """
    asked = [Question.of(fact).behind(prefix) for prefix in job.prefixes for fact in job.facts]
    found = score(job.model, job.tokenizer, asked, reader=job.reader)  # (p n, 3)
    right = torch.from_numpy(found[:, 0] > 0)
    return right.view(len(job.prefixes), -1).any(0)  # (p n,) -> (p, n) -> (n,)
