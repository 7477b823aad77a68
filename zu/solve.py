"""Closed-form edits of one linear layer: the paper's two lemmas and its baselines' solves, on plain tensors.

Shapes: ``W`` (d, m) maps a key (m) to a value (d); ``K_f`` (m, n) and ``V_star`` (d, n) hold the n facts to
forget, column by column, and the values they shall get; ``V_f`` (d, k) holds the knowledge to erase
(usually k = n); ``C0`` (m, m) is the second moment K_0 K_0ᵀ / N of general keys; ``basis`` (m, q) has
orthonormal columns.

Every function computes in float64 and returns the dtype and the device of its first argument. `lemma_4_1` is
multiplicative and returns the new weight Ŵ; every other solve returns the *change* Δ, so that Ŵ = W + Δ.
Where a matrix to invert is singular, its pseudo-inverse stands in: the solution of smallest norm.

Every function raises ValueError, naming the argument, for a tensor that is not a floating-point matrix, has
the wrong shape or device, or holds NaN or infinity, and for a weight that is negative or not finite.
"""

import math
import numbers

import torch

SHAPES = {"W": "dm", "K_f": "mn", "V_star": "dn", "V_f": "dk", "C0": "mm", "basis": "mq", "K_p": "mp"}


def projector(V_f, eps=0.0):
    """(1 + eps) I − U Uᵀ, of shape (d, d), with U an orthonormal basis of the column space of V_f (d, k).

    For eps = 0 this is the paper's P (above Eq. 6): V_fᵀ P = 0, P² = P = Pᵀ, rank P = d − rank V_f (Eq. 9).
    The authors' code uses eps = 0.01, which is no projector: it scales all of R^d by 1.01. Singular values
    that rounding V_f to its own dtype could have made count as zero: up to ε ‖V_f‖ + max(d, k) ε₆₄ σ₁, with
    ε the machine epsilon of V_f's dtype (of float32 for 16-bit types) and ε₆₄ that of float64, in which the
    SVD is taken.
    """
    (v_f,) = _float64(V_f=V_f)
    _weights(eps=eps)
    u, _ = column_space(v_f, V_f.dtype)
    return ((1 + eps) * torch.eye(len(v_f), dtype=v_f.dtype, device=v_f.device) - u @ u.T).to(V_f.dtype)


def lemma_4_1(W, K_f, V_star, C0, V_f, *, alpha, beta, lam, eps=0.0):
    """The edited weight Ŵ (d, m) of Lemma 4.1 (Eq. 8), with α C_0 for K_0 K_0ᵀ and β on the forget term.

    Ŵ = P (I + β R K_fᵀ Wᵀ B⁻¹) W, with R = V_star − W K_f and B = W (α C_0 + β K_f K_fᵀ + λ I) Wᵀ: a ridge
    edit of rank n, then the projection. One d×d factorisation; O(d m²) for W C_0 Wᵀ. It minimises β‖Ŵ K_f −
    V_star‖² + α tr((Ŵ − W) C_0 (Ŵ − W)ᵀ) + λ‖Ŵ − W‖² over all Ŵ = P M W, and is the only minimiser if λ >
    0, or if α > 0 and C_0 is positive definite. If W has deficient rank, B is singular, but its range holds
    W K_f: the pseudo-inverse gives the same Ŵ. With eps > 0 (see `projector`) Ŵ is no minimiser.
    """
    w, k_f, v_star, c0, v_f = _float64(W=W, K_f=K_f, V_star=V_star, C0=C0, V_f=V_f)
    _weights(alpha=alpha, beta=beta, lam=lam, eps=eps)
    u, _ = column_space(v_f, V_f.dtype)
    w_k = w @ k_f
    b = alpha * (w @ c0) @ w.T + beta * w_k @ w_k.T + lam * w @ w.T
    edited = w + beta * (v_star - w_k) @ (_solve(b, w_k)[0].T @ w)
    return ((1 + eps) * edited - u @ (u.T @ edited)).to(W.dtype)


def spectrum(C0):
    """Eigenvalues (m,), ascending, and eigenvectors (m, m) of C0 (m, m), float64; those up to m ε λ_max are zero.

    Raises ValueError for a C0 that is not symmetric.
    """
    (c0,) = _float64(C0=C0)
    if (c0 - c0.T).abs().max() > 1e-4 * c0.abs().max():
        raise ValueError("C0 must be symmetric")
    values, vectors = torch.linalg.eigh((c0 + c0.T) / 2)
    return torch.where(values > len(c0) * torch.finfo(c0.dtype).eps * values[-1], values, 0.0), vectors


def null_space(C0, *, threshold=None, share=None, energy=None, found=None):
    """Orthonormal basis (m, q) of the eigenvectors of C0 (m, m) that count as its null space (Eq. 11).

    Exactly one criterion, in ascending order of eigenvalues: ``threshold``, those below it (the paper's
    way; in C0's own units); ``share``, the lowest ⌊share · m⌋, 0 ≤ share ≤ 1; ``energy``, as many as carry
    together at most this part of the trace, 0 ≤ energy ≤ 1. Eigenvalues up to m ε λ_max count as zero. q
    may be 0. found: `spectrum` of C0, where it is at hand. Raises ValueError for none or several criteria, a share or
    energy above 1, a C0 that is not symmetric.
    """
    (c0,) = _float64(C0=C0)
    criteria = {"threshold": threshold, "share": share, "energy": energy}
    given = {name: x for name, x in criteria.items() if x is not None}
    if len(given) != 1:
        raise ValueError(f"give exactly one of threshold, share and energy, not {sorted(given) or 'none'}")
    _weights(**given)
    for name in given.keys() & {"share", "energy"}:
        if given[name] > 1:
            raise ValueError(f"{name} must be at most 1, not {given[name]}")
    values, vectors = found or spectrum(c0)
    if threshold is not None:
        q = int((values < threshold).sum())
    elif share is not None:
        q = math.floor(share * len(values) + 1e-9)  # 0.1 * 30 is 3 even where floating point says 2.999...
    else:
        q = int((values.cumsum(0) <= energy * values.sum()).sum()) if energy < 1 else len(values)
    return vectors[:, :q].to(C0.dtype)


def lemma_5_1(W, K_f, V_star, V_f, basis=None, *, zero=1.0, forget=1.0, lam, general=None):
    """The change X = Δ P_0 (d, m) that solves Lemma 5.1 (Eq. 12, P_0 = basis basisᵀ) exactly.

    X minimises zero·‖V_fᵀ(W + X)K_f‖² + forget·‖(W + X)K_f − V_star‖² + lam·‖X‖² over all X = X P_0. With
    basisᵀ K_f = A Γ Bᵀ and V_f = U Σ Rᵀ the stationarity condition (Eq. 32) is diagonal:
    entry (i, j) has the factor 1 / ((zero Σ_i² + forget) Γ_j² + lam), where off the span of U all Σ_i are 0.
    O(d m n + m q n); nothing larger than d×m, d×n, m×n or the basis. For lam > 0 the minimiser is unique; for
    lam = 0 this is the one of smallest norm, the limit of lam → 0.

    general (m, m), symmetric and positive semi-definite, adds tr(X general Xᵀ): with M = lam I + basisᵀ general
    basis = L Lᵀ, the keys L⁻¹ basisᵀ K_f and lam = 1 the same formula solves for X basis L. Without a basis there
    is no hard null space; with zero = 0 that is `memit`. One q×q Cholesky factorisation; ValueError if M is
    numerically singular.
    """
    identity = torch.eye(W.shape[-1], dtype=W.dtype, device=W.device) if basis is None else basis
    w, k_f, v_star, v_f, q = _lemma_5_1_arguments(W, K_f, V_star, V_f, identity, zero, forget, lam)
    k = q.T @ k_f
    if general is not None:
        m = q.T @ _float64({"general": "mm"}, W=W, general=general)[1] @ q
        m.diagonal().add_(lam)
        factor, failed = torch.linalg.cholesky_ex(m)
        if failed:
            raise ValueError("general + lam I is not positive definite: give a larger lam")
        k, lam = torch.linalg.solve_triangular(factor, k, upper=False), 1.0
        q = torch.linalg.solve_triangular(factor, q.T, upper=False).T
    a, gamma, b = _thin_svd(k, K_f.dtype)
    u, sigma = column_space(v_f, V_f.dtype)
    w_b = w @ (k_f @ b)
    h = (forget * (v_star @ b - w_b) - zero * v_f @ (v_f.T @ w_b)) * gamma
    h_u = u.T @ h  # inside the span of V_f; the rest of h meets Σ = 0
    stiff = zero * sigma[:, None] ** 2 + forget
    z = (h - u @ h_u) * _reciprocal(forget * gamma**2 + lam) + u @ (h_u * _reciprocal(stiff * gamma**2 + lam))
    return (z @ (q @ a).T).to(W.dtype)


def lemma_5_1_kronecker(W, K_f, V_star, V_f, basis, *, zero=1.0, forget=1.0, lam):
    """`lemma_5_1` as the paper states it (Eq. 13): one linear system of size d m × d m.

    vec X = [G ⊗ (zero V_f V_fᵀ + forget I) + lam I]⁻¹ vec E, columns stacked. O((d m)³) time and 8 (d m)²
    bytes of memory: a few thousand for d·m at most. For lam = 0 the solution of smallest norm.
    """
    w, k_f, v_star, v_f, q = _lemma_5_1_arguments(W, K_f, V_star, V_f, basis, zero, forget, lam)
    d, m = w.shape
    k = q @ (q.T @ k_f)
    s = zero * v_f @ v_f.T + forget * torch.eye(d, dtype=w.dtype, device=w.device)
    e = (forget * v_star - s @ w @ k_f) @ k.T
    system = torch.kron(k @ k.T, s)
    system.diagonal().add_(lam)
    return _solve(system, e.T.reshape(-1, 1))[0].reshape(m, d).T.to(W.dtype)


def lemma_5_1_gd(W, K_f, V_star, V_f, basis, *, zero=1.0, forget=1.0, lam, steps=500, lr=1e-3, tol=1e-7):
    """`lemma_5_1` by gradient descent on Eq. 12 (ZeroUnlearn-GD, §5.1), starting at Δ = 0.

    ``steps`` steps of Adam of size ``lr`` on Δ (d, m), the loss taken at Δ P_0, in W's precision
    (float32 at least); 500 and 1e-3 are the released code's, whose weights are 1, 100 and 0.1.
    ``lr=None``: the curvature of Eq. 12 lies between μ = 2(forget Γ_min² + lam) and L = 2((zero
    Σ_max² + forget) Γ_max² + lam), so it steps by 1/L with Nesterov's constant momentum for κ = L/μ
    and stops where ‖gradient‖ ≤ tol · μ ‖X‖, which proves ‖X − X*‖ ≤ tol ‖X‖, or after ``steps``
    (None: as many as the theory asks for, 2 √κ log(5 κ^1.5 / tol); rounding sets a floor of about κ
    · 1e-16 to the error). Adam ignores ``tol``.
    """
    w, k_f, v_star, v_f, q = _lemma_5_1_arguments(W, K_f, V_star, V_f, basis, zero, forget, lam)
    _weights(steps=steps or 0, lr=lr or 0.0, tol=tol)
    k = q.T @ k_f
    w_k = w @ k_f

    def pull(out):  # half of the loss's slope in (W + X) K_f
        return zero * v_f @ (v_f.T @ out) + forget * (out - v_star)

    if lr is not None:
        inside = q @ k
        w_k, v_f, v_star, q, inside = (x.to(torch.promote_types(W.dtype, torch.float32))
                                       for x in (w_k, v_f, v_star, q, inside))
        delta = torch.zeros(w.shape, dtype=q.dtype, device=w.device, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=lr, fused=True)
        for _ in range(500 if steps is None else steps):
            at = delta.detach()
            delta.grad = 2 * (pull(w_k + at @ inside) @ inside.T + lam * (at @ q @ q.T))
            adam.step()
        return (delta.detach() @ q @ q.T).to(W.dtype)

    def gradient(y):  # of the loss in y = Δ basis, (d, q)
        return 2 * (pull(w_k + y @ k) @ k.T + lam * y)

    _, gamma, _ = _thin_svd(k, K_f.dtype)
    _, sigma = column_space(v_f, V_f.dtype)
    y = ahead = torch.zeros(len(w), q.shape[1], dtype=w.dtype, device=w.device)
    stiff = torch.cat([zero * sigma**2 + forget, sigma.new_full((1,), forget)])
    if not len(gamma) or not stiff.any():
        return torch.zeros_like(W)  # nothing pulls: the loss is lam‖X‖² and a constant
    largest = 2 * (stiff.max() * gamma[0] ** 2 + lam)
    smallest = 2 * (stiff[stiff > 0].min() * gamma[-1] ** 2 + lam)
    momentum = (1 - torch.sqrt(smallest / largest)) / (1 + torch.sqrt(smallest / largest))
    kappa = float(largest / smallest)
    enough = math.ceil(2 * math.sqrt(kappa) * math.log(5 * kappa**1.5 / max(tol, 1e-16))) + 1
    for _ in range(enough if steps is None else steps):
        slope = gradient(ahead)
        if slope.norm() <= tol * smallest * ahead.norm():
            break
        y, before = ahead - slope / largest, y
        ahead = y + momentum * (y - before)
    return (ahead @ q.T).to(W.dtype)


def rome(W, k, v_star, C0):
    """ROME's rank-one change Δ (d, m) for one key k (m,) or (m, 1) and its new value v_star (d,) or (d, 1).

    Δ = (v_star − W k) (C_0⁻¹ k)ᵀ / (kᵀ C_0⁻¹ k) (Meng et al. 2022, Eq. 2): among all Δ with (W + Δ) k =
    v_star the one that moves general keys least, tr(Δ C_0 Δᵀ). If C_0 is singular and k has a part outside
    its range, that part takes the place of C_0⁻¹ k, and general keys do not move at all. Raises ValueError
    if k is zero.
    """
    k, v_star = (x.reshape(-1, 1) if isinstance(x, torch.Tensor) and x.ndim == 1 else x for x in (k, v_star))
    w, key, value, c0 = _float64({"k": "m1", "v_star": "d1"}, W=W, k=k, v_star=v_star, C0=C0)
    if not key.any():
        raise ValueError("k must not be zero: no change of W moves its value")
    direction, outside = _solve(c0, key)
    if outside.norm() > 1e-6 * key.norm():
        direction = outside
    return ((value - w @ key) @ direction.T / (key * direction).sum()).to(W.dtype)


def memit(W, K_f, V_star, C0, *, alpha, lam=0.0):
    """MEMIT's change Δ = R K_fᵀ (alpha C_0 + K_f K_fᵀ + lam I)⁻¹ (d, m), with R = V_star − W K_f.

    (Meng et al. 2023, Eq. 14.) It minimises ‖(W + Δ) K_f − V_star‖² + alpha tr(Δ C_0 Δᵀ) + lam ‖Δ‖²; where
    that leaves Δ open (a singular C_0), it is the Δ of smallest norm. One m×m Cholesky factorisation.
    """
    w, k_f, v_star, c0 = _float64(W=W, K_f=K_f, V_star=V_star, C0=C0)
    _weights(alpha=alpha, lam=lam)
    a = torch.addmm(c0, k_f, k_f.T, beta=alpha)
    a.diagonal().add_(lam)
    return ((v_star - w @ k_f) @ _solve(a, k_f)[0].T).to(W.dtype)


def alphaedit(W, K_f, V_star, basis, *, lam, K_p=None):
    """AlphaEdit's change Δ = R K_fᵀ P (K_p K_pᵀ P + K_f K_fᵀ P + lam I)⁻¹ (d, m) (Fang et al. 2025, Eq. 14).

    P = basis basisᵀ, R = V_star − W K_f, and K_p (m, p) the keys of earlier edits, whose values stay. It
    minimises ‖(W + Δ) K_f − V_star‖² + ‖Δ K_p‖² + lam ‖Δ‖² over all Δ = Δ P; for lam = 0 the one of
    smallest norm. Without K_p it is `lemma_5_1` with zero = 0, forget = 1. Solved inside the basis by a
    thin SVD.
    """
    w, k_f, v_star, q = _float64(W=W, K_f=K_f, V_star=V_star, basis=basis)
    _weights(lam=lam)
    _check_basis(q)
    keys = k_f
    if K_p is not None:
        keys = torch.cat([k_f, _float64(W=W, K_p=K_p)[1]], dim=1)
    a, gamma, b = _thin_svd(q.T @ keys, K_f.dtype)
    pull = (v_star - w @ k_f) @ b[: k_f.shape[1]] * (gamma * _reciprocal(gamma**2 + lam))
    return (pull @ (q @ a).T).to(W.dtype)


def _float64(more_shapes=None, **tensors):
    """The named tensors in float64, after checking each against its letters in SHAPES."""
    sizes, device = {"1": 1}, None
    for name, x in tensors.items():
        letters = {**SHAPES, **(more_shapes or {})}[name]
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim != 2:
            raise ValueError(f"{name} must be a floating-point matrix ({', '.join(letters)})")
        for letter, size in zip(letters, x.shape, strict=True):
            if sizes.setdefault(letter, size) != size or (size == 0 and letter != "q"):
                known = {key: value for key, value in sizes.items() if key != "1"}
                raise ValueError(
                    f"{name} must have shape ({', '.join(letters)}) with {known}, not {tuple(x.shape)}"
                )
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity")
        device = device or x.device
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, the arguments before it on {device}")
    return [x.detach().to(torch.float64) for x in tensors.values()]


def _weights(**weights):
    for name, x in weights.items():
        if not (isinstance(x, numbers.Real) and math.isfinite(x) and x >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, not {x!r}")


def _check_basis(q):
    # QᵀQ x for one x: all of QᵀQ would cost more than the solve
    probe = torch.linspace(1, 2, q.shape[1], dtype=q.dtype, device=q.device)
    if (q.T @ (q @ probe) - probe).norm() > 1e-3 * probe.norm():
        raise ValueError("basis must have orthonormal columns")


def _lemma_5_1_arguments(W, K_f, V_star, V_f, basis, zero, forget, lam):
    tensors = _float64(W=W, K_f=K_f, V_star=V_star, V_f=V_f, basis=basis)
    _weights(zero=zero, forget=forget, lam=lam)
    _check_basis(tensors[-1])
    return tensors


def _thin_svd(x, dtype):
    """Left vectors, singular values, right vectors (columns) up to the numerical rank (see `projector`)."""
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    rank = int((s > eps * s.norm() + max(x.shape) * torch.finfo(x.dtype).eps * s[:1]).sum())
    return u[:, :rank], s[:rank], vt[:rank].T


def column_space(v_f, dtype):
    """Orthonormal basis U (d, r) of the columns of v_f (d, k), float64, and their singular values (r,).

    dtype: what v_f was rounded to, which decides the numerical rank (see `projector`).
    """
    return _thin_svd(v_f, dtype)[:2]


def _reciprocal(x):
    return torch.where(x > 0, 1 / x, 0.0)


def _solve(a, b):
    """a⁺ b, and the part of b outside the range of a, for a symmetric positive semi-definite a.

    By Cholesky factorisation; where a pivot is rounding noise (a is numerically singular), by eigenvectors.
    """
    factor, failed = torch.linalg.cholesky_ex(a)
    rounding = len(a) * torch.finfo(a.dtype).eps
    if not failed and (factor.diagonal() ** 2 > rounding * a.diagonal()).all():
        return torch.cholesky_solve(b, factor), torch.zeros_like(b)
    values, vectors = torch.linalg.eigh((a + a.T) / 2)
    keep = values > rounding * values[-1]
    inside = vectors[:, keep].T @ b
    return vectors[:, keep] @ (inside / values[keep, None]), b - vectors[:, keep] @ inside
