"""The promises of `zu.solve` at their edges: defaults, thresholds, steps against plain loops."""
import math

import pytest
import torch

from test_solve import calls, loss_5_1, make
from zu import solve

EPS = torch.finfo(torch.float64).eps


def diagonal(*values, dtype=torch.float64):
    return torch.diag(torch.tensor(values, dtype=dtype))


# ---- where and in what precision


@pytest.fixture
def elsewhere():
    """Another default device and another default precision than the arguments'."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    with torch.device("meta"):
        yield
    torch.set_default_dtype(before)


def test_torchs_defaults_of_device_and_precision_change_no_result(elsewhere):
    with torch.device("cpu"):
        p = make(4, 9, 3, 0)
    wants = calls(p, eps=0.3)
    wants["lemma_5_1 without a basis"] = lambda: solve.lemma_5_1(
        p.W, p.K_f, p.V_star, p.V_f, lam=0.5)
    wants["spectrum"] = lambda: torch.diag(solve.spectrum(p.C0)[0])
    wants["nothing pulls"] = lambda: solve.lemma_5_1_gd(
        p.W, p.K_f, p.V_star, p.V_f, p.basis, zero=0.0, forget=0.0, lam=1.0, lr=None)
    there = {name: call() for name, call in wants.items()}
    torch.set_default_dtype(torch.float32)
    with torch.device("cpu"):
        here = {name: call() for name, call in wants.items()}
    for name, result in there.items():
        assert torch.equal(result, here[name]), name


# ---- defaults


def test_the_weights_of_lemma_5_1_are_one_by_default():
    p = make(4, 9, 3, 1)
    arguments = p.W, p.K_f, p.V_star, p.V_f, p.basis
    for way in (solve.lemma_5_1, solve.lemma_5_1_kronecker, solve.lemma_5_1_gd):
        assert torch.equal(way(*arguments, lam=0.5), way(*arguments, zero=1.0, forget=1.0, lam=0.5))


def test_gradient_descent_takes_500_steps_of_a_thousandth_by_default():
    p = make(4, 9, 3, 1)
    arguments = p.W, p.K_f, p.V_star, p.V_f, p.basis
    published = solve.lemma_5_1_gd(*arguments, lam=0.5, steps=500, lr=1e-3)
    assert torch.equal(solve.lemma_5_1_gd(*arguments, lam=0.5), published)
    assert torch.equal(solve.lemma_5_1_gd(*arguments, lam=0.5, steps=None), published)


def test_descent_by_the_curvature_stops_at_a_ten_millionth_by_default():
    p = make(4, 9, 3, 1)
    arguments = p.W, p.K_f, p.V_star, p.V_f, p.basis
    named = solve.lemma_5_1_gd(*arguments, lam=0.5, lr=None, tol=1e-7)
    assert torch.equal(solve.lemma_5_1_gd(*arguments, lam=0.5, lr=None), named)


def test_nothing_of_the_knowledge_is_left_and_no_size_is_weighed_by_default():
    p = make(4, 9, 3, 1)
    assert torch.equal(solve.projector(p.V_f), solve.projector(p.V_f, 0.0))
    weights = {"alpha": 1.0, "beta": 2.0, "lam": 0.5}
    arguments = p.W, p.K_f, p.V_star, p.C0
    left = solve.lemma_4_1(*arguments, p.V_f, **weights)
    assert torch.equal(left, solve.lemma_4_1(*arguments, p.V_f, **weights, eps=0.0))
    plain = solve.memit(*arguments, alpha=1.0)
    assert torch.equal(plain, solve.memit(*arguments, alpha=1.0, lam=0.0))


# ---- what counts as zero


@pytest.mark.parametrize("dtype, noise", [
    (torch.float32, 1.19e-7), (torch.bfloat16, 1.19e-7), (torch.float16, 1.19e-7),
    (torch.float64, 9 * EPS),  # ε once, and eight times for the larger side
])
@pytest.mark.parametrize("scale", [1024.0, 8192.0])  # what is small is no subnormal of float16
def test_singular_values_that_rounding_could_have_made_count_as_zero(dtype, noise, scale):
    V_f = torch.zeros(8, 3, dtype=torch.float64)
    V_f[0, 0], V_f[1, 1] = scale, 0.95 * scale * noise
    assert torch.linalg.matrix_rank(torch.eye(8) - solve.projector(V_f.to(dtype)).float()) == 1
    V_f[1, 1] = 1.05 * scale * noise
    assert torch.linalg.matrix_rank(torch.eye(8) - solve.projector(V_f.to(dtype)).float()) == 2


def test_what_is_left_of_the_knowledge_is_eps_to_the_last_digit():
    V_f = torch.eye(3, 1, dtype=torch.float64)
    assert (solve.projector(V_f, 0.01) - diagonal(0.01, 1.01, 1.01)).abs().max() <= 4 * EPS


def test_eigenvalues_up_to_rounding_are_zero_and_those_above_are_kept():
    values, _ = solve.spectrum(diagonal(4 * EPS, 5 * EPS, 0.5, 1.0))
    assert values.tolist() == [0.0, 5 * EPS, 0.5, 1.0]
    values, _ = solve.spectrum(1000 * diagonal(4 * EPS, 5 * EPS, 0.5, 1.0))
    assert values.tolist() == [0.0, 5000 * EPS, 500.0, 1000.0]


def test_a_moment_may_be_asymmetric_by_a_ten_thousandth_of_its_largest_entry():
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert not solve.spectrum(nothing)[0].any()
    for scale in (1e-3, 1.0, 1e3):
        C0 = scale * torch.eye(3, dtype=torch.float64)
        C0[0, 1] = 0.9e-4 * scale
        # as if each side had half of it
        expected = torch.linalg.eigvalsh((C0 + C0.T) / 2)
        assert (solve.spectrum(C0)[0] - expected).abs().max() <= 10 * EPS * scale
        C0[0, 1] = 1.1e-4 * scale
        with pytest.raises(ValueError, match="^C0 must be symmetric"):
            solve.spectrum(C0)


def test_a_threshold_leaves_out_the_eigenvalue_it_names():
    C0 = diagonal(0.25, 0.5, 1.0)
    assert solve.null_space(C0, threshold=0.5).shape[1] == 1
    assert solve.null_space(C0, threshold=0.5001).shape[1] == 2


def test_a_share_is_counted_where_floating_point_falls_short_of_it():
    assert 0.29 * 100 < 29
    C0 = torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64))
    assert solve.null_space(C0, share=0.29).shape[1] == 29
    assert solve.null_space(C0, share=0.2899).shape[1] == 28


def test_energy_takes_as_many_as_carry_that_part_and_all_of_it_takes_all():
    C0 = diagonal(1.0, 1.0, 2.0)
    assert solve.null_space(C0, energy=0.25).shape[1] == 1
    assert solve.null_space(C0, energy=0.5).shape[1] == 2
    short = [seed for seed in range(50) if _sums_fall_short(seed)]
    assert short  # there the running sum ends above the sum
    for seed in short:
        found = _spectrum(seed), torch.eye(400, dtype=torch.float64)
        assert solve.null_space(torch.eye(400), energy=1.0, found=found).shape[1] == 400


def _spectrum(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(400, generator=generator, dtype=torch.float64).sort().values


def _sums_fall_short(seed):
    values = _spectrum(seed)
    return bool(values.cumsum(0)[-1] > values.sum())


def test_a_spectrum_at_hand_is_taken_as_it_is():
    C0 = diagonal(1.0, 2.0, 3.0)
    values, vectors = solve.spectrum(C0)
    basis = solve.null_space(C0, share=0.4, found=(values, vectors.flip(1)))
    assert torch.equal(basis, vectors[:, 2:])


@pytest.mark.parametrize("criteria, named", [
    ({}, "none"), ({"share": 0.5, "energy": 0.1}, r"\['energy', 'share'\]")])
def test_several_criteria_or_none_are_named(criteria, named):
    with pytest.raises(ValueError, match=f"share and energy, not {named}$"):
        solve.null_space(torch.eye(3), **criteria)


@pytest.mark.parametrize("way", ["lemma_5_1", "lemma_5_1_kronecker", "lemma_5_1_gd", "alphaedit"])
def test_a_basis_may_be_off_by_rounding_but_not_by_a_percent(way):
    p = make(3, 8, 2, 0)
    assert torch.isfinite(calls(p, basis=1.0001 * p.basis)[way]()).all()
    with pytest.raises(ValueError, match="^basis must have orthonormal"):
        calls(p, basis=1.01 * p.basis)[way]()


def test_a_key_of_rounding_alone_moves_nothing():
    """float32 keys: a singular value of 0.9 ε ‖K_f‖ is none, one of 1.1 is one."""
    W = V_star = torch.zeros(2, 2)
    V_star = V_star + 1.0
    for part, rank in ((0.9, 1), (1.1, 2)):
        K_f = torch.diag(torch.tensor([1.0, part * 1.19e-7]))
        change = solve.lemma_5_1(W, K_f, V_star, torch.zeros(2, 1), lam=0.0)
        assert int((change.abs().max(0).values > 0).sum()) == rank


def test_with_no_weight_at_all_nothing_changes():
    p = make(3, 8, 2, 0)
    for way in (solve.lemma_5_1, solve.lemma_5_1_kronecker):
        change = way(p.W, p.K_f, p.V_star, p.V_f, p.basis, zero=0.0, forget=0.0, lam=0.0)
        assert not change.any()


# ---- steps against plain loops


def test_steps_of_adam_are_those_of_torchs_own_loop_on_the_loss():
    p = make(3, 8, 2, 4)
    weights = {"zero": 0.5, "forget": 2.0, "lam": 0.3}
    found = solve.lemma_5_1_gd(p.W, p.K_f, p.V_star, p.V_f, p.basis, **weights, steps=25, lr=1e-2)
    projection = p.basis @ p.basis.T
    delta = torch.zeros_like(p.W, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1e-2, eps=1e-8)
    for _ in range(25):
        adam.zero_grad()
        loss_5_1(p, delta @ projection, **weights).backward()
        adam.step()
    assert (found - delta.detach() @ projection).abs().max() <= 1e-13


@pytest.mark.parametrize("dtype, expected", [
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
])
def test_adam_steps_in_the_weights_precision_but_in_float32_at_least(dtype, expected, monkeypatch):
    seen, adam = [], torch.optim.Adam

    def watched(tensors, **more):
        seen.append(tensors[0].dtype)
        return adam(tensors, **more)

    monkeypatch.setattr(torch.optim, "Adam", watched)
    p = make(3, 8, 2, 4, dtype=dtype)
    basis = torch.eye(8, 4, dtype=dtype)
    change = solve.lemma_5_1_gd(p.W, p.K_f, p.V_star, p.V_f, basis, lam=0.5, steps=1)
    assert seen == [expected] and change.dtype == dtype


def plain_nesterov(p, way, steps):
    """Nesterov's steps on Δ basis, with the extreme eigenvalues of the whole Hessian."""
    k = p.basis.T @ p.K_f
    stiffness = way["zero"] * p.V_f @ p.V_f.T + way["forget"] * torch.eye(len(p.W)).double()
    identity = torch.eye(len(p.W) * len(k), dtype=torch.float64)
    hessian = 2 * (torch.kron(stiffness, k @ k.T) + way["lam"] * identity)
    values = torch.linalg.eigvalsh(hessian)
    smallest, largest = values[0], values[-1]
    root = (smallest / largest).sqrt()
    momentum = (1 - root) / (1 + root)
    y = ahead = torch.zeros(len(p.W), len(k), dtype=torch.float64)
    for _ in range(steps):
        at = ahead.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_5_1(p, at @ p.basis.T, **way), at)
        previous, y = y, ahead - slope / largest
        ahead = y + momentum * (y - previous)
    return ahead @ p.basis.T


@pytest.mark.parametrize("way", [
    {"zero": 2.0, "forget": 0.5, "lam": 0.3}, {"zero": 0.0, "forget": 3.0, "lam": 0.1}])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_by_the_curvature_are_nesterovs_with_its_extreme_values(way, steps):
    p = make(5, 6, 4, 2, k=2)  # as many keys as directions, and values off the span of V_f
    found = solve.lemma_5_1_gd(
        p.W, p.K_f, p.V_star, p.V_f, p.basis, **way, steps=steps, lr=None, tol=0.0)
    assert (found - plain_nesterov(p, way, steps)).norm() <= 1e-12 * found.norm()


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
def test_descent_by_the_curvature_is_as_near_as_it_promises_and_stops_there(tol, monkeypatch):
    p = make(5, 8, 3, 2, k=2)
    arguments, way = (p.W, p.K_f, p.V_star, p.V_f, p.basis), {"zero": 2.0, "lam": 0.3}
    taken = counted(monkeypatch)
    found = solve.lemma_5_1_gd(*arguments, **way, lr=None, steps=None, tol=tol)
    assert (found - solve.lemma_5_1(*arguments, **way)).norm() <= tol * found.norm()
    assert len(taken) < as_theory_asks(p, way, tol)


def test_without_a_tolerance_it_takes_as_many_steps_as_the_theory_asks_for(monkeypatch):
    p = make(5, 6, 4, 2, k=2)
    way = {"zero": 2.0, "lam": 0.3}
    arguments = p.W, p.K_f, p.V_star, p.V_f, p.basis
    taken = counted(monkeypatch)
    solve.lemma_5_1_gd(*arguments, **way, lr=None, steps=None, tol=0.0)
    assert len(taken) == as_theory_asks(p, way, 1e-16)
    taken.clear()
    solve.lemma_5_1_gd(*arguments, **way, lr=None, steps=7, tol=0.0)
    assert len(taken) == 7


def counted(monkeypatch):
    """A list that grows with each slope that is taken."""
    taken, pull = [], solve._Terms.pull

    def counting(self, out):
        taken.append(1)
        return pull(self, out)

    monkeypatch.setattr(solve._Terms, "pull", counting)
    return taken


def as_theory_asks(p, way, tol):
    """2 √κ log(5 κ^1.5 / tol), rounded up, and the step that finds it is done."""
    gamma = torch.linalg.svdvals(p.basis.T @ p.K_f)
    sigma = torch.linalg.svdvals(p.V_f)
    largest = (way["zero"] * sigma[0] ** 2 + 1) * gamma[0] ** 2 + way["lam"]
    kappa = float(largest / (gamma[-1] ** 2 + way["lam"]))
    return math.ceil(2 * math.sqrt(kappa) * math.log(5 * kappa**1.5 / tol)) + 1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_descent_by_the_curvature_depends_on_the_weights_ratios_alone(scale):
    p = make(5, 8, 3, 2, k=2)
    arguments = p.W, p.K_f, p.V_star, p.V_f, p.basis
    weights = {"zero": 2.0, "forget": 1.0, "lam": 0.3}
    scaled = {name: scale * x for name, x in weights.items()}
    found = solve.lemma_5_1_gd(*arguments, **scaled, lr=None, steps=None)
    expected = solve.lemma_5_1_gd(*arguments, **weights, lr=None, steps=None)
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_descent_by_the_curvature_needs_no_wish_and_no_penalty():
    p = make(5, 8, 3, 2, k=2)
    arguments, weights = (p.W, p.K_f, p.V_star, p.V_f, p.basis), {"forget": 0.0, "lam": 0.0}
    found = solve.lemma_5_1_gd(*arguments, **weights, lr=None, steps=None)
    exact = solve.lemma_5_1(*arguments, **weights)
    assert (found - exact).norm() <= 1e-7 * exact.norm()


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1e3, 1e10])
def test_memit_with_a_singular_moment_is_the_same_at_every_size_of_the_keys(scale):
    for seed in range(8):
        p = make(3, 12, 3, seed)
        K_0, nothing = p.root[:, :4], torch.zeros_like(p.W)
        expected = solve.memit(nothing, p.K_f, p.V_star, K_0 @ K_0.T, alpha=1.0)
        K_0, K_f = scale * K_0, scale * p.K_f
        found = solve.memit(nothing, K_f, p.V_star, K_0 @ K_0.T, alpha=1.0)
        assert (scale * found - expected).norm() <= 1e-6 * expected.norm()


def test_no_step_is_no_change():
    p = make(4, 9, 3, 1)
    for lr in (1e-3, None):
        change = solve.lemma_5_1_gd(
            p.W, p.K_f, p.V_star, p.V_f, p.basis, lam=0.5, steps=0, lr=lr)
        assert change.shape == p.W.shape and not change.any()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_rome_tells_a_free_direction_from_rounding_at_every_size_of_a_key(scale):
    p = make(3, 10, 1, 5)
    K_0, nothing = p.root[:, :4], torch.zeros_like(p.W)
    for key in (K_0 @ torch.ones(4, 1).double(), p.K_f):  # used by general knowledge, and free
        expected = solve.rome(nothing, key, p.V_star, K_0 @ K_0.T)
        found = solve.rome(nothing, scale * key, p.V_star, K_0 @ K_0.T)
        assert (scale * found - expected).norm() <= 1e-6 * expected.norm()


# ---- bad input


@pytest.mark.parametrize("k, v_star, said", [
    ((8, 2), (3, 2), r"^k must have shape \(m, 1\) with \{'d': 3, 'm': 8\}, not \(8, 2\)$"),
    ((8,), (3, 2), r"^v_star must have shape \(d, 1\) with \{'d': 3, 'm': 8\}, not \(3, 2\)$"),
])
def test_rome_takes_one_key_and_one_value(k, v_star, said):
    with pytest.raises(ValueError, match=said):
        solve.rome(torch.ones(3, 8), torch.ones(k), torch.ones(v_star), torch.eye(8))


@pytest.mark.parametrize("name", ["W", "K_f", "V_star", "C0"])
def test_an_empty_matrix_is_refused(name):
    shapes = {"W": (3, 8), "K_f": (8, 2), "V_star": (3, 2), "C0": (8, 8)}
    shapes[name] = 0, shapes[name][1]
    given = {key: torch.ones(shape) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=f"^{name} must have shape"):
        solve.memit(**given, alpha=1.0)


def test_a_vector_where_a_matrix_belongs_is_said_with_its_letters():
    with pytest.raises(ValueError, match=r"^K_f must be a floating-point matrix \(m, n\)$"):
        solve.memit(torch.ones(3, 8), torch.ones(8), torch.ones(3, 1), torch.eye(8), alpha=1.0)


def test_general_keys_of_another_size_are_refused_by_name():
    p = make(4, 9, 2, 0)
    said = r"^general must have shape \(m, m\) with .*, not \(4, 4\)$"
    with pytest.raises(ValueError, match=said):
        solve.lemma_5_1(p.W, p.K_f, p.V_star, p.V_f, lam=1.0, general=p.C0[:4, :4])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_singular_system_is_solved_in_its_range_whatever_its_scale(scale, rank):
    generator = torch.Generator().manual_seed(rank)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    inside, outside = q[:, :rank], q[:, rank:]
    values = torch.linspace(1, 2, rank, dtype=torch.float64)
    a = scale * (inside * values) @ inside.T
    weights = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    b = q @ weights
    solved, left = solve._solve(a, b)
    expected = inside @ (weights[:rank] / (scale * values[:, None]))
    torch.testing.assert_close(solved, expected, rtol=1e-10, atol=1e-12 / scale)
    torch.testing.assert_close(left, outside @ weights[rank:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0 ** -100, 1.0, 2.0 ** 100])
def test_a_pivot_of_one_rounding_error_is_noise_whatever_the_scale(scale):
    a = scale * torch.tensor([[1, 1], [1, 1 + EPS]], dtype=torch.float64)
    b = torch.tensor([[3.0], [1.0]], dtype=torch.float64)  # (2, 2) in the range, (1, −1) outside
    solved, left = solve._solve(a, b)
    torch.testing.assert_close(scale * solved, torch.ones_like(b), rtol=1e-12, atol=0)
    torch.testing.assert_close(left, torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
