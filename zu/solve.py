"""Closed-form edits of one linear layer, on plain tensors: the paper's two lemmas, the baselines.

Shapes: ``W`` (d, m) maps a key (m) to a value (d); ``K_f`` (m, n) and ``V_star`` (d, n) hold the n
facts to forget, column by column, and the values they should get; ``V_f`` (d, k) holds the
knowledge to erase (usually k = n); ``C0`` (m, m) is the second moment K_0 K_0ᵀ / N of general keys;
``basis`` (m, q) has orthonormal columns.

Every function computes in float64 and returns the dtype and the device of its first argument.
`lemma_4_1` is multiplicative and returns the new weight Ŵ; every other solve returns the *change*
Δ, so that Ŵ = W + Δ. If a matrix to invert is singular, its pseudo-inverse is used, which gives the
solution of smallest norm.

Every function raises ValueError and names the argument if a tensor is not a floating-point matrix,
has the wrong shape or device, or holds NaN or infinity, or if a weight is negative or not finite.
"""
from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

#: One letter per dimension of an argument; equal letters stand for equal sizes.
SHAPES = {
    "W": "dm",
    "K_f": "mn",
    "V_star": "dn",
    "V_f": "dk",
    "C0": "mm",
    "basis": "mq",
    "K_p": "mp",
}


def projector(V_f: torch.Tensor, eps: float = 0.0) -> torch.Tensor:
    """(1 + eps) I − U Uᵀ, with U an orthonormal basis of the column space of V_f.

    For eps = 0 this is the paper's P: V_fᵀ P = 0, P² = P = Pᵀ, rank P = d − rank V_f. The authors'
    code uses eps = 0.01, which gives no projector: directions outside the span of V_f are scaled by
    1.01, and those inside keep 1%. Singular values that rounding V_f to its own dtype could have
    produced count as zero: those up to ε ‖V_f‖ + max(d, k) ε₆₄ σ₁, where ε is the machine epsilon
    of V_f's dtype (of float32 for 16-bit types) and ε₆₄ that of float64, in which the SVD is taken.

    Parameters
    ----------
    V_f : (d, k)
        The knowledge to project away.
    eps : float
        The share of it that is left; what lies outside its span is scaled by 1 + eps.

    Returns
    -------
    (d, d)
        The matrix, in V_f's dtype.

    Raises
    ------
    ValueError
        See the module.

    References
    ----------
    The paper, above Eq. 6, and Eq. 9.
    """
    (v_f,) = _float64(V_f=V_f)
    _weights(eps=eps)
    u, _ = column_space(v_f, V_f.dtype)
    identity = torch.eye(len(v_f), dtype=v_f.dtype, device=v_f.device)
    return ((1 + eps) * identity - u @ u.T).to(V_f.dtype)


def lemma_4_1(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    C0: torch.Tensor,
    V_f: torch.Tensor,
    *,
    alpha: float,
    beta: float,
    lam: float,
    eps: float = 0.0,
) -> torch.Tensor:
    """The edited weight Ŵ of Lemma 4.1, with α C_0 for K_0 K_0ᵀ and β on the forget term.

    Ŵ = P (I + β R K_fᵀ Wᵀ B⁻¹) W, with R = V_star − W K_f and B = W (α C_0 + β K_f K_fᵀ + λ I) Wᵀ:
    a ridge edit of rank n, then the projection. It takes one d×d factorisation, and O(d m²) for
    W C_0 Wᵀ. Ŵ minimises β‖Ŵ K_f − V_star‖² + α tr((Ŵ − W) C_0 (Ŵ − W)ᵀ) + λ‖Ŵ − W‖² over all
    Ŵ = P M W, and is the only minimiser if λ > 0, or if α > 0 and C_0 is positive definite. If W is
    rank-deficient, B is singular, but its range contains W K_f, so the pseudo-inverse gives the
    same Ŵ. With eps > 0 (see `projector`) Ŵ is not a minimiser.

    Parameters
    ----------
    W : (d, m)
        The weight to edit.
    K_f : (m, n)
        Keys of the facts to forget.
    V_star : (d, n)
        The values that these keys should get.
    C0 : (m, m)
        Second moment of general keys.
    V_f : (d, k)
        The knowledge to erase.
    alpha, beta, lam : float
        Weights of general keys, of the facts, and of the size of the change.
    eps : float
        The share of V_f that the projector leaves, see `projector`.

    Returns
    -------
    (d, m)
        The new weight Ŵ, in W's dtype; not a change.

    Raises
    ------
    ValueError
        See the module.

    References
    ----------
    The paper, Lemma 4.1 and Eq. 8.
    """
    w, k_f, v_star, c0, v_f = _float64(W=W, K_f=K_f, V_star=V_star, C0=C0, V_f=V_f)
    _weights(alpha=alpha, beta=beta, lam=lam, eps=eps)
    u, _ = column_space(v_f, V_f.dtype)  # (d, r)
    w_k = w @ k_f  # (d, n)
    b = alpha * (w @ c0) @ w.T + beta * w_k @ w_k.T + lam * w @ w.T  # (d, d)
    edited = w + beta * (v_star - w_k) @ _ridge(b, w_k, w)  # (d, n) @ (n, m) -> (d, m)
    return ((1 + eps) * edited - u @ (u.T @ edited)).to(W.dtype)


def _ridge(b: torch.Tensor, w_k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """(W K_f)ᵀ B⁻¹ W, (n, m), from B (d, d), W K_f (d, n) and W (d, m)."""
    # after an edit, W lacks directions up to rounding, and so does B
    solved, _ = _solve(b, w_k, hidden=True)  # B⁻¹ W K_f, (d, n)
    return solved.T @ w


def spectrum(C0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and eigenvectors of C0; eigenvalues up to m ε λ_max are set to zero.

    Parameters
    ----------
    C0 : (m, m)
        Second moment of general keys.

    Returns
    -------
    values : (m,)
        Ascending, float64.
    vectors : (m, m)
        In the columns, float64.

    Raises
    ------
    ValueError
        If C0 is not symmetric, and see the module.
    """
    (c0,) = _float64(C0=C0)
    if (c0 - c0.T).abs().max() > 1e-4 * c0.abs().max():
        raise ValueError("C0 must be symmetric")
    values, vectors = torch.linalg.eigh((c0 + c0.T) / 2)
    rounding = len(c0) * torch.finfo(c0.dtype).eps * values[-1]
    return torch.where(values > rounding, values, 0.0), vectors


def null_space(
    C0: torch.Tensor,
    *,
    threshold: float | None = None,
    share: float | None = None,
    energy: float | None = None,
    found: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """An orthonormal basis of the eigenvectors of C0 that count as its null space.

    Give exactly one criterion. Eigenvectors are taken in ascending order of eigenvalues, and
    eigenvalues up to m ε λ_max count as zero.

    Parameters
    ----------
    C0 : (m, m)
        Second moment of general keys.
    threshold : float, optional
        Take the eigenvalues below it, in C0's own units, as the paper does.
    share : float, optional
        Take the lowest ⌊share · m⌋ eigenvalues, 0 ≤ share ≤ 1.
    energy : float, optional
        Take as many of the lowest eigenvalues as together make up at most this share of the trace,
        0 ≤ energy ≤ 1.
    found : (values, vectors), optional
        The `spectrum` of C0, if it is known already.

    Returns
    -------
    (m, q)
        The basis, in C0's dtype; q may be 0.

    Raises
    ------
    ValueError
        If there is not exactly one criterion, a share or energy is above 1, or C0 is not symmetric,
        and see the module.

    References
    ----------
    The paper, Eq. 11.
    """
    (c0,) = _float64(C0=C0)
    _one_criterion(threshold=threshold, share=share, energy=energy)
    values, vectors = found or spectrum(c0)
    if threshold is not None:
        q = int((values < threshold).sum())
    elif share is not None:
        # 0.1 * 30 should be 3 even if floating point gives 2.999...
        q = math.floor(share * len(values) + 1e-9)
    elif energy is not None and energy < 1:
        q = int((values.cumsum(0) <= energy * values.sum()).sum())
    else:  # all, which rounding of the sum could miss
        q = len(values)
    return vectors[:, :q].to(C0.dtype)  # (m, m) -> (m, q)


def _one_criterion(**criteria: float | None) -> None:
    """Raise `ValueError` unless exactly one criterion is given, and shares are at most 1."""
    given = {name: x for name, x in criteria.items() if x is not None}
    if len(given) != 1:
        names = sorted(given) or "none"
        raise ValueError(f"give exactly one of threshold, share and energy, not {names}")
    _weights(**given)
    for name in given.keys() & {"share", "energy"}:
        if given[name] > 1:
            raise ValueError(f"{name} must be at most 1, not {given[name]}")


def lemma_5_1(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    V_f: torch.Tensor,
    basis: torch.Tensor | None = None,
    *,
    zero: float = 1.0,
    forget: float = 1.0,
    lam: float,
    general: torch.Tensor | None = None,
) -> torch.Tensor:
    """The change X = Δ P_0 that solves Lemma 5.1 (P_0 = basis basisᵀ) exactly.

    X minimises zero·‖V_fᵀ(W + X)K_f‖² + forget·‖(W + X)K_f − V_star‖² + lam·‖X‖² over all X = X P_0
    (see `_diagonal`). It takes O(d m n + m q n), and holds nothing larger than d×m, d×n, m×n or the
    basis. For lam = 0 this is the minimiser of smallest norm, the limit of lam → 0.

    `general` adds the term tr(X general Xᵀ): with L Lᵀ = lam I + basisᵀ general basis,
    L⁻¹ basisᵀ K_f replaces basisᵀ K_f, and 1 replaces lam. Without a basis there is no hard null
    space; with zero = 0 as well, this is `memit`.

    Parameters
    ----------
    W, K_f, V_star, V_f : (d, m), (m, n), (d, n), (d, k)
        The weight to edit; keys of the facts to forget, and the values that they should get; the
        knowledge to erase.
    basis : (m, q), optional
        Orthonormal basis of the directions that may change; by default all directions.
    zero, forget, lam : float
        Weights of the three terms.
    general : (m, m), optional
        A symmetric, positive semi-definite matrix of what else X should spare, softly.

    Returns
    -------
    (d, m)
        The change X, in W's dtype.

    Raises
    ------
    ValueError
        If the columns of `basis` are not orthonormal, or `general` + lam I is singular, and see the
        module.

    References
    ----------
    The paper, Lemma 5.1, Eqs. 12 and 32.
    """
    arguments = {"W": W, "K_f": K_f, "V_star": V_star, "V_f": V_f}
    arguments |= {} if basis is None else {"basis": basis}
    w, k_f, v_star, v_f, *rest = _lemma_5_1_arguments(arguments, zero, forget, lam)
    q = rest[0] if rest else None  # None: all directions, without an m × m identity
    factor = None
    if general is not None:
        _, g = _float64({"general": "mm"}, W=W, general=general)
        factor, lam = _factor_within(q, g, lam), 1.0  # (q, q)
    a, gamma, b = _thin_svd(_lowered(k_f, factor, q), K_f.dtype)  # (q, r), (r,), (n, r)
    terms = _Terms(w @ (k_f @ b), v_star @ b, v_f, zero, forget, lam)  # their columns turned by B
    z = _diagonal(terms, gamma, column_space(v_f, V_f.dtype))
    return (z @ _raised(a, factor, q).T).to(W.dtype)  # (d, r) @ (r, m) -> (d, m)


def _lowered(
    k: torch.Tensor, factor: torch.Tensor | None, q: torch.Tensor | None
) -> torch.Tensor:
    """L⁻¹ basisᵀ times keys (m, n): (q, n). L may be a number; without a factor it is 1."""
    inside = k if q is None else q.T @ k  # (q, m) @ (m, n) -> (q, n)
    if factor is None or not factor.ndim:
        return inside if factor is None else inside / factor
    return torch.linalg.solve_triangular(factor, inside, upper=False)


def _raised(
    x: torch.Tensor, factor: torch.Tensor | None, q: torch.Tensor | None
) -> torch.Tensor:
    """Basis L⁻ᵀ times x (q, n): (m, n), the transpose of `_lowered`."""
    if factor is not None:
        by_columns = factor.ndim > 0
        x = torch.linalg.solve_triangular(factor.T, x, upper=True) if by_columns else x / factor
    return x if q is None else q @ x  # (m, q) @ (q, n) -> (m, n)


def _diagonal(
    terms: _Terms, gamma: torch.Tensor, space: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Eq. 32 in the coordinates where it is diagonal: each entry of h (d, r) times its factor.

    With basisᵀ K_f = A Γ Bᵀ and V_f = U Σ Rᵀ, whose U (d, s) and Σ (s,) are the `space`, entry
    (i, j) has the factor 1 / ((zero Σ_i² + forget) Γ_j² + lam); off the span of U all Σ_i are 0.
    The terms are those of K_f B and V_star B.
    """
    h = -terms.pull(terms.w_k) * gamma  # (d, r)
    u, sigma = space
    h_u = u.T @ h  # (s, r): inside the span of V_f; the rest of h meets Σ = 0
    stiff = terms.zero * sigma[:, None] ** 2 + terms.forget  # (s, 1)
    outside = (h - u @ h_u) * _reciprocal(terms.forget * gamma**2 + terms.lam)  # (d, r)
    inside = u @ (h_u * _reciprocal(stiff * gamma**2 + terms.lam))  # (d, r)
    return outside + inside


def _factor_within(
    q: torch.Tensor | None, general: torch.Tensor, lam: float
) -> torch.Tensor:
    """L (q, q), with L Lᵀ = lam I + basisᵀ general basis; `ValueError` if that is singular."""
    m = general.clone() if q is None else q.T @ general @ q  # (q, m) @ (m, m) @ (m, q) -> (q, q)
    m.diagonal().add_(lam)
    factor, failed = torch.linalg.cholesky_ex(m)
    if failed:
        raise ValueError("general + lam I is not positive definite: give a larger lam")
    return factor


def lemma_5_1_kronecker(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    V_f: torch.Tensor,
    basis: torch.Tensor,
    *,
    zero: float = 1.0,
    forget: float = 1.0,
    lam: float,
) -> torch.Tensor:
    """`lemma_5_1` as the paper states it: one linear system of size d m × d m.

    vec X = [G ⊗ (zero V_f V_fᵀ + forget I) + lam I]⁻¹ vec E, columns stacked. It takes O((d m)³)
    time and 8 (d m)² bytes of memory, so d·m should be at most a few thousand. For lam = 0 it gives
    the solution of smallest norm.

    Parameters
    ----------
    W, K_f, V_star, V_f, basis, zero, forget, lam
        As in `lemma_5_1`.

    Returns
    -------
    (d, m)
        The change X, in W's dtype.

    Raises
    ------
    ValueError
        As in `lemma_5_1`.

    References
    ----------
    The paper, Eq. 13.
    """
    arguments = {"W": W, "K_f": K_f, "V_star": V_star, "V_f": V_f, "basis": basis}
    w, k_f, v_star, v_f, q = _lemma_5_1_arguments(arguments, zero, forget, lam)
    d, m = w.shape
    k = q @ (q.T @ k_f)  # P_0 K_f, (m, n)
    s = zero * v_f @ v_f.T + forget * torch.eye(d, dtype=w.dtype, device=w.device)  # (d, d)
    e = (forget * v_star - s @ w @ k_f) @ k.T  # (d, m)
    system = torch.kron(k @ k.T, s)  # (m, m) ⊗ (d, d) -> (d m, d m)
    system.diagonal().add_(lam)
    stacked = e.T.reshape(-1, 1)  # (d, m) -> (m, d) -> (d m, 1): column after column
    x, _ = _solve(system, stacked)
    return x.reshape(m, d).T.to(W.dtype)  # (d m, 1) -> (m, d) -> (d, m)


def lemma_5_1_gd(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    V_f: torch.Tensor,
    basis: torch.Tensor,
    *,
    zero: float = 1.0,
    forget: float = 1.0,
    lam: float,
    steps: int | None = 500,
    lr: float | None = 1e-3,
    tol: float = 1e-7,
) -> torch.Tensor:
    """`lemma_5_1` by gradient descent on Eq. 12 (ZeroUnlearn-GD), starting at Δ = 0.

    By default Adam takes ``steps`` steps of size ``lr`` on Δ (d, m), with the loss at Δ P_0, in W's
    precision (at least float32). The released code uses 500 steps and 1e-3, with the weights 1, 100
    and 0.1. With ``lr=None`` the steps follow the curvature of Eq. 12 instead, see `_nesterov`.
    Only that method uses ``tol``.

    Parameters
    ----------
    W, K_f, V_star, V_f, basis, zero, forget, lam
        As in `lemma_5_1`.
    steps : int, optional
        The most steps to take. None means 500 steps of Adam or, without Adam, as many as `tol`
        requires.
    lr : float, optional
        The size of Adam's steps; None for no Adam.
    tol : float
        The error of X to reach without Adam, as a share of ‖X‖.

    Returns
    -------
    (d, m)
        The change X, in W's dtype.

    Raises
    ------
    ValueError
        As in `lemma_5_1`.

    References
    ----------
    The paper, Section 5.1, Eq. 12.
    """
    arguments = {"W": W, "K_f": K_f, "V_star": V_star, "V_f": V_f, "basis": basis}
    w, k_f, v_star, v_f, q = _lemma_5_1_arguments(arguments, zero, forget, lam)
    _weights(steps=steps or 0, lr=lr or 0.0, tol=tol)
    k = q.T @ k_f  # (q, m) @ (m, n) -> (q, n)
    terms = _Terms(w @ k_f, v_star, v_f, zero, forget, lam)
    if lr is not None:
        dtype = torch.promote_types(W.dtype, torch.float32)
        inside = (q @ k).to(dtype)  # P_0 K_f: (m, q) @ (q, n) -> (m, n), the product in float64
        x = _adam(terms.to(dtype), q.to(dtype), inside, 500 if steps is None else steps, lr)
        return x.to(W.dtype)
    bounds = terms.curvature(_thin_svd(k, K_f.dtype)[1], column_space(v_f, V_f.dtype)[1])
    if bounds is None:
        return torch.zeros_like(W)  # nothing pulls: the loss is lam‖X‖² plus a constant
    y = _nesterov(terms, k, bounds, steps, tol)
    return (y @ q.T).to(W.dtype)  # (d, q) @ (q, m) -> (d, m)


@dataclass(frozen=True)
class _Terms:
    """Eq. 12 without its basis: w_k = W K_f and v_star (d, n), v_f (d, k), and the weights."""

    w_k: torch.Tensor
    v_star: torch.Tensor
    v_f: torch.Tensor
    zero: float
    forget: float
    lam: float

    def to(self, dtype: torch.dtype) -> _Terms:
        """The same in another precision."""
        w_k, v_star, v_f = (x.to(dtype) for x in (self.w_k, self.v_star, self.v_f))
        return _Terms(w_k, v_star, v_f, self.zero, self.forget, self.lam)

    def pull(self, out: torch.Tensor) -> torch.Tensor:
        """Half of the loss's gradient with respect to `out` = (W + X) K_f: (d, n)."""
        erased = self.zero * self.v_f @ (self.v_f.T @ out)
        return erased + self.forget * (out - self.v_star)

    def curvature(
        self, gamma: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The bounds L and μ of the loss's curvature; None if the loss depends on no key."""
        stiff = self.zero * sigma**2 + self.forget
        stiff = torch.cat([stiff, sigma.new_full((1,), self.forget)])  # outside the span of V_f
        if not len(gamma) or not stiff.any():
            return None
        largest = 2 * (stiff.max() * gamma[0] ** 2 + self.lam)
        smallest = 2 * (stiff[stiff > 0].min() * gamma[-1] ** 2 + self.lam)
        return largest, smallest


def _adam(
    terms: _Terms, q: torch.Tensor, inside: torch.Tensor, steps: int, lr: float
) -> torch.Tensor:
    """X = Δ P_0 (d, m) after some steps of Adam on Δ; `inside` is P_0 K_f, (m, n)."""
    shape = len(terms.w_k), len(q)
    delta = torch.zeros(shape, dtype=q.dtype, device=q.device, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=lr, fused=True)
    for _ in range(steps):
        at = delta.detach()
        pull = terms.pull(terms.w_k + at @ inside)  # (d, m) @ (m, n) -> (d, n)
        delta.grad = 2 * (pull @ inside.T + terms.lam * (at @ q @ q.T))
        adam.step()
    return delta.detach() @ q @ q.T


def _nesterov(
    terms: _Terms,
    k: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    steps: int | None,
    tol: float,
) -> torch.Tensor:
    """Δ basis (d, q) by Nesterov's method with constant momentum; k is basisᵀ K_f, (q, n).

    The curvature of Eq. 12 lies between μ = 2(forget Γ_min² + lam) and L = 2((zero Σ_max² + forget)
    Γ_max² + lam), the `bounds`. The steps have size 1/L, and the momentum is that for κ = L/μ. The
    method stops once ‖gradient‖ ≤ tol · μ ‖X‖, which proves ‖X − X*‖ ≤ tol ‖X‖, or after `steps`;
    None means as many as theory requires, 2 √κ log(5 κ^1.5 / tol). Rounding limits the accuracy to
    about κ · 1e-16.
    """
    largest, smallest = bounds
    y = torch.zeros(len(terms.w_k), len(k), dtype=k.dtype, device=k.device)
    ahead = y
    root = torch.sqrt(smallest / largest)
    momentum = (1 - root) / (1 + root)
    kappa = float(largest / smallest)
    accuracy = math.log(5 * kappa**1.5 / max(tol, 1e-16))
    enough = math.ceil(2 * math.sqrt(kappa) * accuracy) + 1
    for _ in range(enough if steps is None else steps):
        pull = terms.pull(terms.w_k + ahead @ k)  # (d, q) @ (q, n) -> (d, n)
        slope = 2 * (pull @ k.T + terms.lam * ahead)
        if slope.norm() <= tol * smallest * ahead.norm():
            break
        previous = y
        y = ahead - slope / largest
        ahead = y + momentum * (y - previous)
    return ahead


def rome(
    W: torch.Tensor, k: torch.Tensor, v_star: torch.Tensor, C0: torch.Tensor
) -> torch.Tensor:
    """ROME's rank-one change Δ for one key k and its new value v_star.

    Δ = (v_star − W k) (C_0⁻¹ k)ᵀ / (kᵀ C_0⁻¹ k). Of all Δ with (W + Δ) k = v_star, this one moves
    general keys least, as measured by tr(Δ C_0 Δᵀ). If C_0 is singular and k has a part outside its
    range, that part replaces C_0⁻¹ k, and general keys do not move at all.

    Parameters
    ----------
    W : (d, m)
        The weight to edit.
    k : (m,) or (m, 1)
        The key.
    v_star : (d,) or (d, 1)
        The value that the key should get.
    C0 : (m, m)
        Second moment of general keys.

    Returns
    -------
    (d, m)
        The change Δ, in W's dtype.

    Raises
    ------
    ValueError
        If k is zero, and see the module.

    References
    ----------
    Meng et al. 2022, Eq. 2.
    """
    k, v_star = _column(k), _column(v_star)
    more = {"k": "m1", "v_star": "d1"}
    w, key, value, c0 = _float64(more, W=W, k=k, v_star=v_star, C0=C0)
    if not key.any():
        raise ValueError("k must not be zero: no change of W moves its value")
    direction, outside = _solve(c0, key)
    if outside.norm() > 1e-6 * key.norm():
        direction = outside
    change = (value - w @ key) @ direction.T / (key * direction).sum()  # (d, 1) @ (1, m) -> (d, m)
    return change.to(W.dtype)


def _column(x: torch.Tensor) -> torch.Tensor:
    """A vector (size,) as a column (size, 1); anything else unchanged, for the check of shapes."""
    return x.reshape(-1, 1) if isinstance(x, torch.Tensor) and x.ndim == 1 else x


def memit(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    C0: torch.Tensor,
    *,
    alpha: float,
    lam: float = 0.0,
) -> torch.Tensor:
    """MEMIT's change Δ = R K_fᵀ (alpha C_0 + K_f K_fᵀ + lam I)⁻¹, with R = V_star − W K_f.

    It minimises ‖(W + Δ) K_f − V_star‖² + alpha tr(Δ C_0 Δᵀ) + lam ‖Δ‖². If that does not determine
    Δ (for a singular C_0), it is the minimiser of smallest norm. It takes one m×m Cholesky
    factorisation.

    Parameters
    ----------
    W : (d, m)
        The weight to edit.
    K_f : (m, n)
        Keys of the facts.
    V_star : (d, n)
        The values that these keys should get.
    C0 : (m, m)
        Second moment of general keys.
    alpha, lam : float
        Weights of general keys, and of the size of the change.

    Returns
    -------
    (d, m)
        The change Δ, in W's dtype.

    Raises
    ------
    ValueError
        See the module.

    References
    ----------
    Meng et al. 2023, Eq. 14.
    """
    w, k_f, v_star, c0 = _float64(W=W, K_f=K_f, V_star=V_star, C0=C0)
    _weights(alpha=alpha, lam=lam)
    a = torch.addmm(c0, k_f, k_f.T, beta=alpha)  # alpha C_0 + K_f K_fᵀ, (m, m)
    a.diagonal().add_(lam)
    solved, _ = _solve(a, k_f)  # (m, n)
    return ((v_star - w @ k_f) @ solved.T).to(W.dtype)  # (d, n) @ (n, m) -> (d, m)


def alphaedit(
    W: torch.Tensor,
    K_f: torch.Tensor,
    V_star: torch.Tensor,
    basis: torch.Tensor,
    *,
    lam: float,
    K_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """AlphaEdit's change Δ = R K_fᵀ P (K_p K_pᵀ P + K_f K_fᵀ P + lam I)⁻¹.

    Here P = basis basisᵀ, R = V_star − W K_f, and K_p holds the keys of earlier edits, whose values
    should stay. Δ minimises ‖(W + Δ) K_f − V_star‖² + ‖Δ K_p‖² + lam ‖Δ‖² over all Δ = Δ P; for
    lam = 0 it is the minimiser of smallest norm. Without K_p this is `lemma_5_1` with zero = 0,
    forget = 1. The problem is solved inside the basis by a thin SVD.

    Parameters
    ----------
    W : (d, m)
        The weight to edit.
    K_f : (m, n)
        Keys of the facts.
    V_star : (d, n)
        The values that these keys should get.
    basis : (m, q)
        Orthonormal basis of the directions that may change.
    lam : float
        Weight of the size of the change.
    K_p : (m, p), optional
        Keys whose values should stay.

    Returns
    -------
    (d, m)
        The change Δ, in W's dtype.

    Raises
    ------
    ValueError
        If the columns of `basis` are not orthonormal, and see the module.

    References
    ----------
    Fang et al. 2025, Eq. 14.
    """
    w, k_f, v_star, q = _float64(W=W, K_f=K_f, V_star=V_star, basis=basis)
    _weights(lam=lam)
    _check_basis(q)
    keys = k_f
    if K_p is not None:
        _, k_p = _float64(W=W, K_p=K_p)
        keys = torch.cat([k_f, k_p], dim=1)  # (m, n) and (m, p) -> (m, n + p)
    a, gamma, b = _thin_svd(q.T @ keys, K_f.dtype)  # (q, r), (r,), (n + p, r)
    b_f = b[: k_f.shape[1]]  # (n, r): the earlier keys' residual is zero
    pull = (v_star - w @ k_f) @ b_f * (gamma * _reciprocal(gamma**2 + lam))  # (d, r)
    return (pull @ (q @ a).T).to(W.dtype)  # (d, r) @ (r, m) -> (d, m)


def _float64(
    more_shapes: Mapping[str, str] | None = None, /, **tensors: torch.Tensor
) -> list[torch.Tensor]:
    """The named tensors in float64, after checking each against its letters in SHAPES."""
    shapes = {**SHAPES, **(more_shapes or {})}
    sizes, device = {"1": 1}, None  # by letter, from the first tensor that has it
    for name, x in tensors.items():
        letters = shapes[name]
        written = ", ".join(letters)
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim != 2:
            raise ValueError(f"{name} must be a floating-point matrix ({written})")
        for letter, size in zip(letters, x.shape, strict=True):
            empty = size == 0 and letter != "q"  # only a basis may be empty
            if sizes.setdefault(letter, size) != size or empty:
                known = {key: value for key, value in sizes.items() if key != "1"}
                raise ValueError(
                    f"{name} must have shape ({written}) with {known}, not {tuple(x.shape)}"
                )
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity")
        device = device or x.device
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, the arguments before it on {device}")
    return [x.detach().to(torch.float64) for x in tensors.values()]


def _weights(**weights: float) -> None:
    """Raise `ValueError` unless every weight is a finite number of at least 0."""
    for name, x in weights.items():
        if not (isinstance(x, numbers.Real) and math.isfinite(x) and x >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, not {x!r}")


def _check_basis(q: torch.Tensor) -> None:
    """Raise `ValueError` unless the columns of q (m, q) are orthonormal."""
    # test QᵀQ x for one x, since all of QᵀQ would cost more than the solve
    probe = torch.linspace(1, 2, q.shape[1], dtype=q.dtype, device=q.device)
    if (q.T @ (q @ probe) - probe).norm() > 1e-3 * probe.norm():
        raise ValueError("basis must have orthonormal columns")


def _lemma_5_1_arguments(
    arguments: dict[str, torch.Tensor], zero: float, forget: float, lam: float
) -> list[torch.Tensor]:
    """Lemma 5.1's tensors in float64, with the basis last if there is one, after all checks."""
    tensors = _float64(**arguments)
    _weights(zero=zero, forget=forget, lam=lam)
    if "basis" in arguments:
        _check_basis(tensors[-1])
    return tensors


def _thin_svd(
    x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left vectors (a, r), singular values (r,) and right vectors (b, r) of x (a, b), float64.

    r is the numerical rank of x, which was rounded to `dtype` before (see `projector`).
    """
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    noise = eps * s.norm() + max(x.shape) * torch.finfo(x.dtype).eps * s[:1]  # s may be empty
    rank = int((s > noise).sum())
    return u[:, :rank], s[:rank], vt[:rank].T


def column_space(v_f: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """An orthonormal basis of the column space of v_f, and its singular values.

    Parameters
    ----------
    v_f : (d, k)
        A matrix.
    dtype : torch.dtype
        The dtype to which it was rounded, which determines the numerical rank (see `projector`).

    Returns
    -------
    u : (d, r)
        The basis, in v_f's dtype.
    sigma : (r,)
        The singular values, descending.
    """
    u, sigma, _ = _thin_svd(v_f, dtype)
    return u, sigma


def _reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / x where x is positive, 0 elsewhere, as in a pseudo-inverse."""
    return torch.where(x > 0, 1 / x, 0.0)


def _solve(
    a: torch.Tensor, b: torch.Tensor, hidden: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """a⁺ b, and the part of b outside the range of a, for a symmetric positive semi-definite a.

    It uses a Cholesky factorisation or, if a pivot is rounding noise (a is numerically singular),
    eigenvectors. `hidden` says whether a direction of a may be noise that no pivot shows, since a
    pivot may be a thousand times as large as the eigenvalue. a is (size, size); b and both results
    are (size, n).
    """
    factor, failed = torch.linalg.cholesky_ex(a)
    rounding = len(a) * torch.finfo(a.dtype).eps
    if not failed and (factor.diagonal() ** 2 > rounding * a.diagonal()).all():
        if not hidden or _smallest(factor) > rounding * a.norm():
            return torch.cholesky_solve(b, factor), torch.zeros_like(b)
    values, vectors = torch.linalg.eigh((a + a.T) / 2)
    keep = values > rounding * values[-1]
    kept = vectors[:, keep]  # (size, rank)
    inside = kept.T @ b  # (rank, n)
    return kept @ (inside / values[keep, None]), b - kept @ inside


def _smallest(factor: torch.Tensor) -> float:
    """An estimate, from above, of the smallest eigenvalue of L Lᵀ, by inverse iteration."""
    places = torch.arange(len(factor), dtype=factor.dtype, device=factor.device)
    x = torch.cos(places)[:, None]  # (size, 1): along no axis, and the same on every device
    for _ in range(3):
        x = torch.cholesky_solve(x / x.norm(), factor)
    return 1 / float(x.norm())


class Spared:
    """A + K_p K_pᵀ, which says what a change of W should not move, in factors that take more keys.

    A is general + lam I, inside a basis if there is one. Its Cholesky factor L is computed once.
    What a key of K_p adds, a column of U = L⁻¹ K_p and a row of the Cholesky factor of
    M = I + Uᵀ U, is computed once per key. An edit that spares the facts of p earlier edits then
    costs O(m² + m p + p²) per key of its own, while a new factorisation would cost O(m³).

    The factors serve changes X with the cost tr(X (A + K_p K_pᵀ) Xᵀ). With T = [(I − U M⁻¹ Uᵀ) L⁻¹;
    M⁻¹ Uᵀ L⁻¹], Tᵀ T is the inverse of A + K_p K_pᵀ (Woodbury), as a sum without differences.

    Parameters
    ----------
    factor : (q, q), or 0-dimensional
        L; a number if A is a multiple of I, which needs a basis.
    basis : (m, q), optional
        Orthonormal basis of the directions that may change; by default all directions.
    """

    #: The factors are not used if A's smallest eigenvalue is below this share of its largest entry:
    #: at 1e-4 a change is exact to about 1e-11, at this share to about 1e-8.
    LEAST = 1e-8

    def __init__(self, factor: torch.Tensor, basis: torch.Tensor | None = None) -> None:
        self.factor, self.basis = factor, basis
        m, q = (len(factor), len(factor)) if basis is None else basis.shape
        self.keys = factor.new_zeros(m, 0)  # K_p
        self._inner = factor.new_zeros(q, 0)  # U, (q, p)
        self._outer = factor.new_zeros(0, 0)  # the Cholesky factor of M, (p, p)

    @classmethod
    def of(
        cls, general: torch.Tensor | None, *, lam: float, basis: torch.Tensor | None = None
    ) -> Self | None:
        """The factors without any keys.

        Parameters
        ----------
        general : (m, m) or None
            A symmetric, positive semi-definite matrix such as alpha C_0; None for lam I alone,
            which needs a basis.
        lam : float
            The weight of the size of a change.
        basis : (m, q), optional
            Orthonormal basis of the directions that may change; by default all directions.

        Returns
        -------
        Spared or None
            None if general + lam I is singular, or so nearly singular that the factors would be
            inexact. Then use the solves of this module, which take all keys at once.

        Raises
        ------
        ValueError
            If there is neither `general` nor a basis, and see the module.
        """
        _weights(lam=lam)
        q = None
        if basis is not None:
            (q,) = _float64(basis=basis)
            _check_basis(q)
        if general is None:
            if q is None:
                raise ValueError("give general, a basis or both")
            return cls(q.new_tensor(lam**0.5), q) if lam else None
        other = {} if q is None else {"basis": q}
        g, *_ = _float64({"general": "mm"}, general=general, **other)
        try:
            factor = _factor_within(q, g, lam)
        except ValueError:
            return None
        if not len(factor) or _smallest(factor) < cls.LEAST * float(factor.norm(dim=1).max()) ** 2:
            return None  # L's longest row is as long as the root of A's largest entry
        return cls(factor, q)

    def spare(self, K_p: torch.Tensor | None) -> Self:
        """Spare these keys and no others; keys that were spared before cost nothing again.

        The longest common beginning with the earlier keys is kept, and the rest is computed anew.

        Parameters
        ----------
        K_p : (m, p) or None
            Each key times the square root of its weight; None for no keys.

        Returns
        -------
        Spared
            Itself.

        Raises
        ------
        ValueError
            See the module.
        """
        keys = self.keys[:, :0]
        if K_p is not None and K_p.numel():
            _, keys = _float64({"one": "m1"}, one=self.keys.new_zeros(len(keys), 1), K_p=K_p)
        shared = min(keys.shape[1], self.keys.shape[1])
        equal = (keys[:, :shared] == self.keys[:, :shared]).all(0)  # (m, shared) -> (shared,)
        same = int(equal.cumprod(0).sum())
        self._inner, self._outer = self._inner[:, :same], self._outer[:same, :same]
        if same < keys.shape[1]:
            self._add(keys[:, same:])
        self.keys = keys
        return self

    def _add(self, keys: torch.Tensor) -> None:
        """Extend the factors by further keys (m, b)."""
        new = _lowered(keys, self.factor, self.basis)  # (q, b)
        side = self._inner.T @ new  # (p, q) @ (q, b) -> (p, b)
        side = torch.linalg.solve_triangular(self._outer, side, upper=False)
        corner = new.T @ new - side.T @ side  # (b, b)
        corner.diagonal().add_(1)
        above = torch.cat([self._outer, torch.zeros_like(side)], 1)  # (p, p + b)
        below = torch.cat([side.T, torch.linalg.cholesky(corner)], 1)  # (b, p + b)
        self._outer = torch.cat([above, below])  # (p + b, p + b)
        self._inner = torch.cat([self._inner, new], 1)  # (q, p + b)

    def whiten(self, keys: torch.Tensor) -> torch.Tensor:
        """T times keys.

        Parameters
        ----------
        keys : (m, n)
            Keys, float64.

        Returns
        -------
        (q + p, n)
            Vectors whose squared lengths are kᵀ (A + K_p K_pᵀ)⁻¹ k of the keys k.
        """
        low = _lowered(keys, self.factor, self.basis)  # (q, n)
        c = torch.cholesky_solve(self._inner.T @ low, self._outer)  # (p, n)
        return torch.cat([low - self._inner @ c, c])  # (q + p, n)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        """Tᵀ times the result of `whiten`.

        Parameters
        ----------
        x : (q + p, n)
            Whitened keys, float64.

        Returns
        -------
        (m, n)
            (A + K_p K_pᵀ)⁻¹ times the keys.
        """
        q = len(self._inner)
        low, c = x[:q], x[q:]  # (q, n), (p, n)
        low = low + self._inner @ torch.cholesky_solve(c - self._inner.T @ low, self._outer)
        return _raised(low, self.factor, self.basis)

    def lemma_5_1(
        self,
        W: torch.Tensor,
        K_f: torch.Tensor,
        V_star: torch.Tensor,
        V_f: torch.Tensor | None = None,
        *,
        zero: float = 0.0,
        forget: float = 1.0,
    ) -> torch.Tensor:
        """The change X that `zu.solve.lemma_5_1` gives for general = A + K_p K_pᵀ.

        With zero = 0 this is also `memit` or, inside a basis, `alphaedit`; then only one n × n
        factorisation is left to do.

        Parameters
        ----------
        W, K_f, V_star, V_f : (d, m), (m, n), (d, n), (d, k)
            As in that function; V_f is not read if zero is 0.
        zero, forget : float
            Weights of the two terms.

        Returns
        -------
        (d, m)
            The change X, in W's dtype.

        Raises
        ------
        ValueError
            See the module.
        """
        w, k_f, v_star, *rest = _float64(
            W=W, K_f=K_f, V_star=V_star, **({"V_f": V_f} if zero and V_f is not None else {}))
        _weights(zero=zero, forget=forget)
        k = self.whiten(k_f)  # (q + p, n)
        if not rest:
            ridge = forget * k.T @ k  # (n, n)
            ridge.diagonal().add_(1)
            pull = forget * (v_star - w @ k_f).T  # (d, n) -> (n, d)
            z = torch.cholesky_solve(pull, torch.linalg.cholesky(ridge)).T  # (n, d) -> (d, n)
            return (z @ self.back(k).T).to(W.dtype)  # (d, n) @ (n, m) -> (d, m)
        a, gamma, b = _thin_svd(k, K_f.dtype)  # (q + p, r), (r,), (n, r)
        terms = _Terms(w @ (k_f @ b), v_star @ b, rest[0], zero, forget, 1.0)
        z = _diagonal(terms, gamma, column_space(rest[0], K_f.dtype))  # (d, r)
        return (z @ self.back(a).T).to(W.dtype)  # (d, r) @ (r, m) -> (d, m)

    def lemma_4_1(
        self,
        W: torch.Tensor,
        K_f: torch.Tensor,
        V_star: torch.Tensor,
        V_f: torch.Tensor,
        *,
        beta: float,
        eps: float = 0.0,
    ) -> torch.Tensor:
        """The new weight Ŵ of `zu.solve.lemma_4_1`, with A + K_p K_pᵀ for alpha C_0 + lam I.

        Parameters
        ----------
        W, K_f, V_star, V_f : (d, m), (m, n), (d, n), (d, k)
            As in that function.
        beta, eps : float
            As in that function.

        Returns
        -------
        (d, m)
            The new weight Ŵ, in W's dtype; not a change.

        Raises
        ------
        ValueError
            If the factors are inside a basis, and see the module.
        """
        if self.basis is not None:
            raise ValueError("basis: Lemma 4.1 changes W in all directions")
        w, k_f, v_star, v_f = _float64(W=W, K_f=K_f, V_star=V_star, V_f=V_f)
        _weights(beta=beta, eps=eps)
        u, _ = column_space(v_f, V_f.dtype)  # (d, r)
        w_k = w @ k_f  # (d, n)
        # W times a root of what is spared: (d, m), (d, p) and (d, n) -> (d, m + p + n)
        root = torch.cat([_times_lower(w, self.factor), w @ self.keys, beta**0.5 * w_k], 1)
        edited = w + beta * (v_star - w_k) @ _ridge(root @ root.T, w_k, w)  # (d, m)
        return ((1 + eps) * edited - u @ (u.T @ edited)).to(W.dtype)


def _times_lower(x: torch.Tensor, lower: torch.Tensor, parts: int = 8) -> torch.Tensor:
    """x (d, m) times a lower triangular matrix (m, m), skipping most of its zeros."""
    size = -(-len(lower) // parts)
    starts = range(0, len(lower), size)
    return torch.cat([x[:, i:] @ lower[i:, i:i + size] for i in starts], 1)  # (d, m)
