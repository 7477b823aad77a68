"""The promises of `zu.solve`: minimisers minimise, three ways agree, bad input is named."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zu import solve

searched = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def make(
    d, m, n, seed, *, cond=1e3, zero_key=False, repeated=False, k=None, dtype=torch.float64,
    deficient=False
):
    """A random problem, C0 = root rootᵀ of the given condition, a basis of half its directions."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W, K_f, V_star, V_f = rand(d, m), rand(m, n), rand(d, n), rand(d, k or n)
    if zero_key:
        K_f[:, 0] = 0
    if repeated:
        K_f, V_f = torch.cat([K_f, K_f], 1), torch.cat([V_f, V_f], 1)
        V_star = torch.cat([V_star, rand(d, n)], 1)  # the same key with two different wishes
    if deficient and d > 1:
        W[-1] = W[0]
    Q = torch.linalg.qr(rand(m, m)).Q
    root = Q * torch.logspace(0, -math.log10(cond) / 2, m, dtype=torch.float64)
    p = SimpleNamespace(W=W, K_f=K_f, V_star=V_star, V_f=V_f, root=root, C0=root @ root.T)
    for name, x in vars(p).items():
        setattr(p, name, x.to(dtype))
    p.basis = solve.null_space(p.C0, share=0.5 if m > 1 else 1.0)
    return p


sizes = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 12), st.integers(1, 10)),
    st.tuples(st.integers(1, 6), st.just(60), st.integers(1, 3)),  # m ≫ d
    st.integers(1, 6).map(lambda d: (d, d, 1)),  # m = d, n = 1
    st.integers(1, 5).map(lambda d: (d, 2 * d, d + 3)),  # n > d
)
conds = st.sampled_from([1.0, 1e4, 1e8, 1e12])
flags = {"zero_key": st.booleans(), "repeated": st.booleans(), "seed": st.integers(0, 10**6)}
weights = st.sampled_from([0.1, 1.0, 30.0])
tiny = torch.finfo(torch.float64).eps


def squares(*terms):
    return sum(weight * (x**2).sum() for weight, x in terms)


def loss_4_1(p, What, alpha, beta, lam):
    change = What - p.W
    return squares((beta, What @ p.K_f - p.V_star), (alpha, change @ p.root), (lam, change))


def loss_5_1(p, X, zero, forget, lam):
    out = (p.W + X) @ p.K_f
    return squares((zero, p.V_f.T @ out), (forget, out - p.V_star), (lam, X))


def slope(loss, x):
    """The gradient of loss at x by autograd, and the size of what cancels in it (a step away)."""
    x = x.clone().requires_grad_()
    (at,) = torch.autograd.grad(loss(x), x)
    with torch.enable_grad():
        (away,) = torch.autograd.grad(loss(x + x.detach().abs().max() + 1), x)
    return at.norm(), away.norm()


def ridge(p, parts):
    """Brute force: rows of Δ minimising Σ‖Δ A − B‖², by one stacked least-squares problem."""
    A = torch.cat([a for a, _ in parts], 1)
    B = torch.cat([b for _, b in parts], 1)
    return torch.linalg.lstsq(A.T, B.T, driver="gelsd", rcond=1e-14).solution.T


# ---- the projector and the null space


@searched
@given(st.integers(1, 12), st.integers(1, 15), st.data(),
       st.sampled_from([torch.float32, torch.float64]))
def test_projector_removes_exactly_the_column_space(d, k, data, dtype):
    r = data.draw(st.integers(0, min(d, k)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    left = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q[:, :r]
    right = torch.linalg.qr(torch.randn(k, k, generator=g, dtype=torch.float64)).Q[:, :r]
    V_f = ((left * torch.logspace(0, 2, r, dtype=torch.float64)) @ right.T).to(
        dtype
    )  # rank r, up to rounding
    P = solve.projector(V_f)
    unit = 1000 * torch.finfo(dtype).eps
    assert P.dtype == dtype and P.shape == (d, d)
    assert (V_f.T @ P).norm() <= unit * (1 + V_f.norm())
    assert (P @ P - P).norm() <= unit and (P - P.T).norm() <= unit
    assert abs(P.trace() - (d - r)) <= unit  # Eq. 9
    assert torch.allclose(solve.projector(V_f, eps=0.01) - P, 0.01 * torch.eye(d, dtype=dtype),
                          atol=unit)


def test_projector_of_zeros_is_the_identity_and_of_a_full_space_is_zero():
    assert torch.equal(solve.projector(torch.zeros(4, 2)), torch.eye(4))
    full = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert solve.projector(full).abs().max() < 1e-6


@searched
@given(st.integers(2, 30), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_null_space_keeps_what_each_criterion_says(m, seed, part):
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(m, m, generator=g, dtype=torch.float64)).Q
    values = torch.rand(m, generator=g, dtype=torch.float64).sort().values + 0.01
    C0 = (Q * values) @ Q.T
    cut = float(values[m // 2]) + 1e-9
    energies = values.cumsum(0) / values.sum()
    expected = {
        "threshold": (cut, int((values < cut).sum())),
        "share": (part, math.floor(part * m + 1e-9)),
        "energy": (part, int((energies <= part).sum()) if part < 1 else m),
    }
    for name, (value, q) in expected.items():
        basis = solve.null_space(C0, **{name: value})
        if name == "energy" and (energies - part).abs().min() < 1e-9:
            continue  # on the edge, rounding decides
        assert basis.shape == (m, q)
        assert (basis.T @ basis - torch.eye(q)).norm() < 1e-12 * m
        # the lowest directions, not others
        assert (basis @ basis.T - Q[:, :q] @ Q[:, :q].T).norm() < 1e-6


@searched
@given(st.integers(2, 20), st.data())
def test_null_space_of_few_samples_is_what_they_leave_open(m, data):
    few = data.draw(st.integers(1, m - 1))
    K_0 = torch.randn(m, few, generator=torch.Generator().manual_seed(few), dtype=torch.float64)
    for criterion in ({"energy": 0.0}, {"threshold": 1e-9}, {"share": (m - few) / m}):
        basis = solve.null_space(K_0 @ K_0.T, **criterion)
        assert basis.shape[1] == m - few and (basis.T @ K_0).norm() < 1e-6


# ---- Lemma 4.1


@searched
@given(sizes, weights, weights, weights, st.booleans(), st.integers(0, 10**6))
def test_lemma_4_1_equals_equation_8(size, alpha, beta, lam, repeated, seed):
    d, m, n = size
    p = make(d, max(d, m), n, seed, repeated=repeated)
    KK = alpha * p.C0 + beta * p.K_f @ p.K_f.T
    VK = alpha * p.W @ p.C0 + beta * p.V_star @ p.K_f.T
    eye = torch.eye(len(KK), dtype=torch.float64)
    for eps in (0.0, 0.01):
        M = (
            solve.projector(p.V_f, eps)
            @ (VK + lam * p.W)
            @ p.W.T
            @ torch.linalg.inv(p.W @ (KK + lam * eye) @ p.W.T)
        )
        What = solve.lemma_4_1(p.W, p.K_f, p.V_star, p.C0, p.V_f, alpha=alpha, beta=beta, lam=lam,
                               eps=eps)
        # inv of a matrix of condition up to 1e8
        assert (What - M @ p.W).norm() <= 1e-7 * (1 + p.W.norm())


@searched
@given(sizes, conds, weights, st.sampled_from([0.0, 1e-6, 1.0]), st.booleans(),
       st.fixed_dictionaries(flags))
def test_lemma_4_1_is_the_minimiser_in_its_family(size, cond, alpha, lam, deficient, flag):
    p = make(*size, cond=cond, deficient=deficient, k=1, **flag)
    What = solve.lemma_4_1(p.W, p.K_f, p.V_star, p.C0, p.V_f, alpha=alpha, beta=2.0, lam=lam)
    P = solve.projector(p.V_f)
    M = What @ torch.linalg.pinv(p.W)
    assert (P @ M @ p.W - What).norm() <= 1e-8 * (1 + What.norm())  # it is in the family at all
    # the zero term vanishes
    assert (p.V_f.T @ What).norm() <= 1e-11 * p.V_f.norm() * (1 + What.norm())

    def loss(M):
        return loss_4_1(p, P @ M @ p.W, alpha, 2.0, lam)

    at, away = slope(loss, M)
    assert at <= 1e-8 * away
    g = torch.Generator().manual_seed(flag["seed"])
    for step in (1e-3, 1.0):
        other = M + step * torch.randn(M.shape, generator=g, dtype=M.dtype)
        assert loss(other) >= loss(M) * (1 - 1e-9)
    # and no brute force does better: rows of N = P M minimise Σ‖N A − P B‖², then P
    parts = [
        (2**0.5 * p.W @ p.K_f, 2**0.5 * p.V_star),
        (alpha**0.5 * p.W @ p.root, alpha**0.5 * p.W @ p.root),
    ]
    parts.append((lam**0.5 * p.W, lam**0.5 * p.W))
    assert loss(M) <= loss(ridge(p, parts)) * (1 + 1e-8)


def test_lemma_4_1_needs_no_weight_to_project_and_forgets_all_when_facts_span_the_space():
    p = make(4, 9, 2, 0)
    What = solve.lemma_4_1(p.W, p.K_f, p.V_star, p.C0, p.V_f, alpha=0.0, beta=0.0, lam=0.0)
    assert torch.allclose(What, solve.projector(p.V_f) @ p.W)
    full = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nothing = solve.lemma_4_1(p.W, p.K_f, p.V_star, p.C0, full, alpha=1.0, beta=1.0, lam=1.0)
    assert nothing.norm() < 1e-12


# ---- Lemma 5.1

lemma_5_1 = {"zero": st.sampled_from([0.0, 1.0, 20.0]), "forget": weights}
ways = st.fixed_dictionaries(lemma_5_1)


@searched
@given(sizes, ways, st.sampled_from([1e-2, 1.0, 10.0]), st.fixed_dictionaries(flags))
def test_exact_lemma_5_1_equals_the_kronecker_system(size, way, lam, flag):
    p = make(*size, **flag)
    a = p.W, p.K_f, p.V_star, p.V_f, p.basis
    exact = solve.lemma_5_1(*a, **way, lam=lam)
    assert (exact - solve.lemma_5_1_kronecker(*a, **way, lam=lam)).norm() <= 1e-8 * exact.norm()


@given(sizes, ways, st.sampled_from([0.3, 3.0]), st.fixed_dictionaries(flags))
@settings(searched, max_examples=25)
def test_gradient_descent_to_convergence_ends_at_the_exact_solution(size, way, lam, flag):
    p = make(*size, k=2, **flag)
    a = p.W, p.K_f, p.V_star, p.V_f, p.basis
    exact = solve.lemma_5_1(*a, **way, lam=lam)
    descent = solve.lemma_5_1_gd(*a, **way, lam=lam, lr=None, steps=None)
    assert (exact - descent).norm() <= 1e-5 * exact.norm()
    assert loss_5_1(p, exact, **way, lam=lam) <= loss_5_1(p, descent, **way, lam=lam) * (1 + 1e-12)


@searched
@given(sizes, ways, st.sampled_from([1e-4, 1.0]), conds, st.fixed_dictionaries(flags))
def test_lemma_5_1_is_stationary_feasible_and_unbeaten(size, way, lam, cond, flag):
    p = make(*size, cond=cond, **flag)
    X = solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, p.basis, **way, lam=lam)
    P_0 = p.basis @ p.basis.T
    assert (X - X @ P_0).norm() <= 1e-11 * (1 + X.norm())

    def loss(X):
        return loss_5_1(p, X @ P_0, **way, lam=lam)

    at, away = slope(loss, X)
    assert at <= 1e-8 * (1 + away)
    g = torch.Generator().manual_seed(flag["seed"])
    for step in (1e-4, 1e-2, 1.0):
        for _ in range(5):
            other = X + step * torch.randn(X.shape, generator=g, dtype=X.dtype) @ P_0
            assert loss(other) >= loss(X)


@searched
@given(sizes, ways, st.sampled_from([1e-3, 1.0]), st.booleans(), st.fixed_dictionaries(flags))
def test_lemma_5_1_with_general_keys_is_stationary_inside_the_basis_and_contains_memit(
        size, way, lam, soft, flag):
    p = make(*size, **flag)
    basis = None if soft else p.basis
    X = solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, basis, **way, lam=lam, general=p.C0)
    P_0 = torch.eye(len(p.C0), dtype=X.dtype) if soft else p.basis @ p.basis.T

    def loss(X):
        X = X @ P_0
        return loss_5_1(p, X, **way, lam=lam) + torch.trace(X @ p.C0 @ X.T)

    at, away = slope(loss, X)
    assert (X - X @ P_0).norm() <= 1e-9 * (1 + X.norm()) and at <= 1e-8 * (1 + away)
    plain = solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, None, zero=0.0, lam=lam, general=2 * p.C0)
    ridge = solve.memit(p.W, p.K_f, p.V_star, p.C0, alpha=2.0, lam=lam)
    assert (plain - ridge).norm() <= 1e-7 * (1 + ridge.norm())


def test_lemma_5_1_refuses_general_keys_that_leave_the_change_open():
    p = make(4, 9, 2, 0)
    with pytest.raises(ValueError, match="larger lam"):
        solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, lam=0.0, general=torch.zeros_like(p.C0))
    with pytest.raises(ValueError, match="general must have shape"):
        solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, lam=1.0, general=p.C0[:, :4])


@searched
@given(sizes, ways, st.fixed_dictionaries(flags))
def test_lemma_5_1_without_size_penalty_is_the_smallest_of_its_minimisers(size, way, flag):
    p = make(*size, **flag)
    a = p.W, p.K_f, p.V_star, p.V_f, p.basis
    X = solve.lemma_5_1(*a, **way, lam=0.0)
    near = solve.lemma_5_1(*a, **way, lam=1e-11)
    assert loss_5_1(p, X, **way, lam=0.0) <= loss_5_1(p, near, **way, lam=0.0) * (1 + 1e-9) + 1e-18
    # smallest: no part of X lies where the keys do not reach
    reach = torch.linalg.pinv(p.basis.T @ p.K_f, rtol=1e-10)
    assert (X - X @ p.K_f @ reach @ p.basis.T).norm() <= 1e-7 * (1 + X.norm())


def test_published_gradient_descent_lowers_the_loss_without_reaching_the_minimum():
    p = make(6, 20, 8, 3)
    a, way = (p.W, p.K_f, p.V_star, p.V_f, p.basis), {"zero": 1.0, "forget": 100.0, "lam": 0.1}
    start, exact = torch.zeros_like(p.W), solve.lemma_5_1(*a, **way)
    X = solve.lemma_5_1_gd(*a, **way)
    assert loss_5_1(p, exact, **way) < loss_5_1(p, X, **way) < loss_5_1(p, start, **way)
    assert (X - X @ p.basis @ p.basis.T).norm() < 1e-12
    assert torch.equal(solve.lemma_5_1_gd(*a, **way, steps=0), start)


def test_an_empty_basis_leaves_the_weight_alone():
    p = make(3, 8, 2, 0)
    empty = p.basis[:, :0]
    for way in (solve.lemma_5_1, solve.lemma_5_1_kronecker, solve.lemma_5_1_gd):
        assert not way(p.W, p.K_f, p.V_star, p.V_f, empty, lam=1.0).any()
    assert not solve.lemma_5_1_gd(p.W, p.K_f, p.V_star, p.V_f, empty, lam=1.0, lr=None).any()
    assert not solve.alphaedit(p.W, p.K_f, p.V_star, empty, lam=1.0).any()


# ---- the baselines


@searched
@given(sizes, conds, weights, st.sampled_from([0.0, 0.5]), st.fixed_dictionaries(flags))
def test_memit_minimises_its_least_squares(size, cond, alpha, lam, flag):
    p = make(*size, cond=cond, **flag)
    delta = solve.memit(p.W, p.K_f, p.V_star, p.C0, alpha=alpha, lam=lam)

    def loss(x):
        return squares((1, (p.W + x) @ p.K_f - p.V_star), (alpha, x @ p.root), (lam, x))

    eye = torch.eye(p.W.shape[1], dtype=torch.float64)
    nothing = torch.zeros_like(p.W)
    best = ridge(
        p, [(p.K_f, p.V_star - p.W @ p.K_f), (alpha**0.5 * p.root, nothing),
            (lam**0.5 * eye, nothing)]
    )
    # what rounding C0 itself can change
    rounding = 100 * tiny * alpha * p.C0.norm() * best.norm() ** 2
    assert loss(delta) <= loss(best) * (1 + 1e-8) + rounding
    at, away = slope(loss, delta)
    assert at <= 1e-9 * away


@searched
@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_memit_with_a_singular_moment_takes_the_smallest_change(m, few, n, seed):
    p = make(3, m, n, seed)
    K_0 = p.root[:, :few]
    delta = solve.memit(p.W, p.K_f, p.V_star, K_0 @ K_0.T, alpha=1.0)
    seen = torch.eye(m, dtype=K_0.dtype)
    if few + n < m:
        seen = torch.linalg.qr(torch.cat([K_0, p.K_f], 1)).Q
    assert (delta - delta @ seen @ seen.T).norm() <= 1e-8 * (1 + delta.norm())


def earlier_keys(p, scale, earlier, seed):
    """Keys (m, earlier) of edits made before; None where there are none."""
    if not earlier:
        return None
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(p.W.shape[1], earlier, generator=g, dtype=torch.float64)


@searched
@given(sizes, weights, st.sampled_from([1e-3, 10.0]), st.integers(0, 8),
       st.fixed_dictionaries(flags))
def test_alphaedit_equals_its_published_formula(size, scale, lam, earlier, flag):
    p = make(*size, **flag)
    m, R = p.W.shape[1], p.V_star - p.W @ p.K_f
    K_p = earlier_keys(p, scale, earlier, flag["seed"])
    delta = solve.alphaedit(p.W, p.K_f, p.V_star, p.basis, lam=lam, K_p=K_p)
    P, keys = p.basis @ p.basis.T, p.K_f if K_p is None else torch.cat([p.K_f, K_p], 1)
    inverse = torch.linalg.inv(keys @ keys.T @ P + lam * torch.eye(m, dtype=P.dtype))
    assert (delta - R @ p.K_f.T @ P @ inverse).norm() <= 1e-7 * (1 + delta.norm())


@searched
@given(sizes, st.sampled_from([1e-3, 10.0]), st.fixed_dictionaries(flags))
def test_alphaedit_without_earlier_keys_is_a_case_of_lemma_5_1(size, lam, flag):
    p = make(*size, **flag)
    delta = solve.alphaedit(p.W, p.K_f, p.V_star, p.basis, lam=lam)
    same = solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, p.basis, zero=0.0, forget=1.0, lam=lam)
    assert (delta - same).norm() <= 1e-10 * (1 + delta.norm())


@searched
@given(sizes, weights, st.sampled_from([0.0, 1e-3, 10.0]), st.integers(0, 8),
       st.fixed_dictionaries(flags))
def test_alphaedit_is_as_good_as_brute_force(size, scale, lam, earlier, flag):
    p = make(*size, **flag)
    R = p.V_star - p.W @ p.K_f
    K_p = earlier_keys(p, scale, earlier, flag["seed"])
    delta = solve.alphaedit(p.W, p.K_f, p.V_star, p.basis, lam=lam, K_p=K_p)
    q = p.basis.shape[1]
    parts = [(p.basis.T @ p.K_f, R),
             (lam**0.5 * torch.eye(q, dtype=R.dtype), R.new_zeros(len(R), q))]
    if K_p is not None:
        parts.append((p.basis.T @ K_p, R.new_zeros(len(R), earlier)))

    def loss(x):
        return squares((1, x @ p.K_f - R), (lam, x), *([(1, x @ K_p)] if K_p is not None else []))

    assert loss(delta) <= loss(ridge(p, parts) @ p.basis.T) * (1 + 1e-9) + 1e-20


@searched
@given(sizes, conds, st.integers(0, 10**6))
def test_rome_is_exact_at_its_key_and_moves_general_keys_least(size, cond, seed):
    d, m, _ = size
    p = make(d, m, 1, seed, cond=cond)
    k, v = p.K_f[:, 0], p.V_star[:, 0]
    delta = solve.rome(p.W, k, v, p.C0)
    assert ((p.W + delta) @ k - v).norm() <= 1e-11 * (1 + v.norm() + p.W.norm() * k.norm())
    assert torch.linalg.matrix_rank(delta) <= 1
    assert torch.equal(delta, solve.rome(p.W, k[:, None], v[:, None], p.C0))
    g = torch.Generator().manual_seed(seed)
    for step in (1e-3, 1.0):
        other = step * torch.randn(d, m, generator=g, dtype=torch.float64)
        other = delta + other - (other @ k)[:, None] * k / (k @ k)  # still exact at k
        assert (other @ p.root).norm() >= (delta @ p.root).norm() * (1 - 1e-6)
    direct = torch.linalg.solve(p.root.T, torch.linalg.solve(p.root, k))  # C0⁻¹ k through its root
    best = (v - p.W @ k)[:, None] * direct / (direct @ k)
    assert (delta @ p.root).norm() <= (best @ p.root).norm() * (1 + 1e-3)


def test_rome_uses_the_null_space_of_a_singular_moment():
    p = make(3, 10, 1, 5)
    K_0 = p.root[:, :4]
    delta = solve.rome(p.W, p.K_f[:, 0], p.V_star[:, 0], K_0 @ K_0.T)
    assert (delta @ K_0).norm() < 1e-10
    assert ((p.W + delta) @ p.K_f - p.V_star).norm() < 1e-10
    inside = K_0[:, 0]  # a key that general knowledge does use: no free direction
    delta = solve.rome(p.W, inside, p.V_star[:, 0], K_0 @ K_0.T)
    assert ((p.W + delta) @ inside - p.V_star[:, 0]).norm() < 1e-10
    with pytest.raises(ValueError, match="k must not be zero"):
        solve.rome(p.W, torch.zeros(10, dtype=torch.float64), p.V_star[:, 0], p.C0)


# ---- every function


def calls(p, **other):
    a = {name: other.get(name, getattr(p, name))
         for name in ("W", "K_f", "V_star", "V_f", "C0", "basis")}
    W, K, V, V_f, C0, Q = a.values()

    def weight(**defaults):
        return {**defaults, **{name: other[name] for name in defaults.keys() & other.keys()}}

    five = weight(zero=1.0, forget=2.0, lam=0.5)
    return {
        "projector": lambda: solve.projector(V_f, **weight(eps=0.0)),
        "null_space": lambda: solve.null_space(C0, **weight(share=0.5)),
        "lemma_4_1": lambda: solve.lemma_4_1(
            W, K, V, C0, V_f, **weight(alpha=2.0, beta=3.0, lam=0.5, eps=0.0)
        ),
        "lemma_5_1": lambda: solve.lemma_5_1(W, K, V, V_f, Q, **five),
        "lemma_5_1_kronecker": lambda: solve.lemma_5_1_kronecker(W, K, V, V_f, Q, **five),
        "lemma_5_1_gd": lambda: solve.lemma_5_1_gd(W, K, V, V_f, Q, **five, steps=3),
        "lemma_5_1_gd (curvature)": lambda: solve.lemma_5_1_gd(
            W, K, V, V_f, Q, **five, lr=None, steps=30),
        "rome": lambda: solve.rome(W, K[:, 0], V[:, 0], C0),
        "memit": lambda: solve.memit(W, K, V, C0, **weight(alpha=2.0, lam=0.5)),
        "alphaedit": lambda: solve.alphaedit(W, K, V, Q, **weight(lam=0.5),
                                             K_p=other.get("K_p", K)),
    }


@given(sizes, conds, st.fixed_dictionaries(flags), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(searched, max_examples=20)
def test_results_have_the_caller_s_dtype_and_are_those_of_float64(size, cond, flag, dtype):
    flag["zero_key"] = False  # rome refuses
    p = make(*size, cond=cond, dtype=dtype, **flag)
    wide = SimpleNamespace(**{name: x.double() for name, x in vars(p).items()})
    if dtype == torch.bfloat16:  # its eigenvectors are not orthonormal to 1e-3
        p.basis = wide.basis = torch.eye(len(p.C0))[:, : len(p.C0) // 2].double()
    unit = torch.finfo(dtype).eps
    found, exact = ({name: call() for name, call in calls(q).items()} for q in (p, wide))
    for name, result in found.items():
        assert result.dtype == dtype and torch.isfinite(result).all(), name
    # unique only up to rotation; Adam steps in W's own precision
    for name in found.keys() - {"null_space", "lemma_5_1_gd"}:
        assert (found[name].double() - exact[name]).norm() <= 2 * unit * exact[name].norm(), name


@pytest.mark.parametrize("seed", range(5))
def test_adam_in_float32_ends_where_adam_in_float64_does(seed):
    p = make(6, 40, 3, seed, cond=10.0, dtype=torch.float32)
    wide = SimpleNamespace(**{name: x.double() for name, x in vars(p).items()})
    found, exact = (solve.lemma_5_1_gd(q.W, q.K_f, q.V_star, q.V_f, q.basis, zero=1.0, forget=2.0,
                                       lam=0.5, steps=50)
                    for q in (p, wide))
    assert found.dtype == torch.float32 and exact.dtype == torch.float64
    assert (found.double() - exact).norm() <= 1e-6 * exact.norm()  # some 3e-7 was seen


def test_results_do_not_track_gradients_or_change_their_arguments():
    p = make(3, 8, 2, 0)
    p.W.requires_grad_()
    before = {name: x.clone() for name, x in vars(p).items()}
    for name, call in calls(p).items():
        assert not call().requires_grad, name
    assert all(torch.equal(before[name], x) for name, x in vars(p).items())


def wrong(x):
    """Wrong versions of a matrix, each with a word its message must hold."""
    yield torch.cat([x, x], 0), "shape"
    yield x[0], "matrix"
    yield x.long(), "matrix"
    yield x.tolist(), "matrix"
    for bad in (math.nan, math.inf):
        y = x.clone()
        y[0, -1] = bad
        yield y, "NaN or infinity"


@pytest.mark.parametrize("name", ["W", "K_f", "V_star", "V_f", "C0", "basis", "K_p"])
def test_a_wrong_matrix_is_named(name):
    p = make(3, 8, 2, 0)
    p.K_p = p.K_f
    used = {
        "W": "lemma_4_1 lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd memit alphaedit rome",
        "K_f": "lemma_4_1 lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd memit alphaedit",
        "V_star": "lemma_4_1 lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd memit alphaedit",
        "V_f": "projector lemma_4_1 lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd",
        "C0": "null_space lemma_4_1 memit rome",
        "basis": "lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd alphaedit",
        "K_p": "alphaedit",
    }[name].split()
    for function in used:
        cases = list(wrong(getattr(p, name)))
        if function == "projector":  # alone, a taller V_f is a right one
            cases = [(bad, word) for bad, word in cases if word != "shape"]
        assert len(cases) >= 5
        for bad, word in cases:
            # the first argument sets the sizes, so what disagrees with a wrong W is the next one
            culprit = name
            if (name, word) == ("W", "shape"):
                culprit = "v_star" if function == "rome" else "V_star"
            with pytest.raises(ValueError, match=rf"^{culprit} .*{word}"):
                calls(p, **{name: bad})[function]()
    with pytest.raises(ValueError, match=r"^k .*matrix"):
        solve.rome(p.W, p.K_f[:, 0].long(), p.V_star[:, 0], p.C0)
    with pytest.raises(ValueError, match=r"^v_star .*shape"):
        solve.rome(p.W, p.K_f[:, 0], p.V_star, p.C0)


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf, None, "1"])
@pytest.mark.parametrize("name", ["alpha", "beta", "lam", "eps", "zero", "forget"])
def test_a_wrong_weight_is_named(name, bad):
    p = make(3, 8, 2, 0)
    used = {
        "alpha": "lemma_4_1 memit",
        "beta": "lemma_4_1",
        "lam": "lemma_4_1 lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd memit alphaedit",
        "eps": "projector lemma_4_1",
        "zero": "lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd",
        "forget": "lemma_5_1 lemma_5_1_kronecker lemma_5_1_gd",
    }[name].split()
    for function in used:
        with pytest.raises(ValueError, match=f"^{name} must be a finite number"):
            calls(p, **{name: bad})[function]()


def test_wrong_criteria_and_bases_are_named():
    p = make(3, 8, 2, 0)
    for criteria in ({}, {"share": 0.5, "energy": 0.1}):
        with pytest.raises(ValueError, match="exactly one"):
            solve.null_space(p.C0, **criteria)
    for name in ("share", "energy"):
        with pytest.raises(ValueError, match=f"^{name} must be at most 1"):
            solve.null_space(p.C0, **{name: 1.5})
    for name in ("threshold", "share", "energy"):
        with pytest.raises(ValueError, match=f"^{name} must be a finite"):
            solve.null_space(p.C0, **{name: -0.1})
    with pytest.raises(ValueError, match="^C0 must be symmetric"):
        solve.null_space(p.C0 + torch.triu(torch.ones(8, 8), 1), share=0.5)
    for function in ("lemma_5_1", "lemma_5_1_kronecker", "lemma_5_1_gd", "alphaedit"):
        with pytest.raises(ValueError, match="^basis must have orthonormal"):
            calls(p, basis=2 * p.basis)[function]()
    for name, bad in (("steps", -1), ("lr", math.nan), ("tol", -1.0)):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            solve.lemma_5_1_gd(p.W, p.K_f, p.V_star, p.V_f, p.basis, lam=1.0, **{name: bad})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    p = make(12, 40, 6, 0)
    there = SimpleNamespace(**{name: x.cuda() for name, x in vars(p).items()})
    for (name, call), other in zip(calls(p).items(), calls(there).values(), strict=True):
        here, result = call(), other()
        assert result.device.type == "cuda", name
        if name == "null_space":
            here, result = here @ here.T, result @ result.T
        assert (result.cpu() - here).norm() <= 1e-9 * (1 + here.norm()), name
    with pytest.raises(ValueError, match="^K_f is on cpu"):
        calls(there, K_f=p.K_f)["memit"]()
