"""How long the solves of `zu.solve` take at the shape of a model of three billion parameters.

`python bench/solve.py` compares the exact Lemma 5.1 with the paper's 500 gradient steps, measures
Lemma 4.1, all in one process, prints the ratios and writes build/bench/solve.json. `--small` does
the same in seconds, at a shape that proves nothing. A few gradient steps are measured and
extrapolated, since 500 would take an hour.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time

import torch

from zu import solve
from zu.data.cache import user_path

SHAPES = {
    "full": {"d": 3072, "m": 8192, "n": 1000, "few": 50},
    "small": {"d": 192, "m": 512, "n": 64, "few": 4},
}
STEPS = 500  # of Adam, as released
NAMES = {
    "published": "Eq. 12 as published (autograd, P_0 as a matrix, float32)",
    "float64": "the same steps in the basis of P_0, float64",
    "float32": "the same steps in the basis of P_0, float32",
}
WEIGHTS = {"zero": 1.0, "forget": 100.0, "lam": 0.1}  # as released


def peak_gb() -> float:
    """The largest resident memory of this process so far, in units of 10⁹ bytes."""
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if platform.system() == "Darwin" else 1024)
        / 1e9
    )


def timed(call) -> tuple[torch.Tensor, dict[str, float]]:
    """The call's result, its wall-clock and its processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def adam_steps(W, K_f, V_star, V_f, basis, count: int) -> torch.Tensor:
    """The arithmetic of `zu.solve.lemma_5_1_gd` in the arguments' own dtype (released: float32)."""
    k, w_k = basis.T @ K_f, W @ K_f
    delta = torch.zeros_like(W, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1e-3)
    for _ in range(count):
        y = delta.detach() @ basis
        out = w_k + y @ k
        inner = WEIGHTS["zero"] * V_f @ (V_f.T @ out) + WEIGHTS["forget"] * (out - V_star)
        delta.grad = 2 * (inner @ k.T + WEIGHTS["lam"] * y) @ basis.T
        adam.step()
    return delta.detach()


def published_steps(W, K_f, V_star, V_f, projector, count: int) -> torch.Tensor:
    """Eq. 12 as it stands, by automatic differentiation, in the arguments' dtype; P_0 is m × m."""
    delta = torch.zeros_like(W, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1e-3)
    for _ in range(count):
        change = delta @ projector
        out = (W + change) @ K_f
        loss = (
            WEIGHTS["zero"] * (V_f.T @ out).square().sum()
            + WEIGHTS["forget"] * (out - V_star).square().sum()
        )
        loss = loss + WEIGHTS["lam"] * change.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return delta.detach() @ projector


def seconds_per_step(run, count: int) -> dict[str, float]:
    """The cost of one more step: the difference between runs of 1 + count and of 1, per step."""
    _, one = timed(lambda: run(1))
    _, more = timed(lambda: run(1 + count))
    return {key: (more[key] - one[key]) / count for key in one}


def measure(d: int, m: int, n: int, few: int, further: int = 2) -> dict:
    """All figures of this benchmark at one shape, on float32 inputs (as models have them)."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(*shape, generator=g)

    W, K_f, V_star = rand(d, m) / m**0.5, rand(m, n), rand(d, n)
    V_f = torch.linalg.qr(W @ K_f).Q  # orthonormal, as released
    basis = torch.linalg.qr(rand(m, m // 2)).Q
    args = (W, K_f, V_star, V_f, basis)
    result: dict = {
        "shapes": {"d": d, "m": m, "n": n, "q": m // 2, "n_lemma_4_1": few},
        "input_dtype": "float32",
    }

    before = peak_gb()
    _, result["lemma_5_1"] = timed(lambda: solve.lemma_5_1(*args, **WEIGHTS))
    result["lemma_5_1"] |= {"peak_gb": peak_gb(), "peak_gb_before": before, "arithmetic": "float64"}

    result["adam_step_float64"] = seconds_per_step(
        lambda count: solve.lemma_5_1_gd(*args, **WEIGHTS, steps=count), further
    )
    result["adam_step_float32"] = seconds_per_step(lambda count: adam_steps(*args, count), further)
    result["adam_step_published"] = seconds_per_step(
        lambda count: published_steps(W, K_f, V_star, V_f, basis @ basis.T, count), further
    )
    for name in ("float64", "float32", "published"):
        for key in ("seconds", "cpu_seconds"):
            steps = STEPS * result[f"adam_step_{name}"][key]
            result[f"ratio_{name}_{key}"] = steps / result["lemma_5_1"][key]

    tall = rand(m, 64)
    C0 = tall @ tall.T / 64 + torch.diag(torch.logspace(-3, 1, m))
    K, V = K_f[:, :few], V_star[:, :few]
    _, result["lemma_4_1"] = timed(
        lambda: solve.lemma_4_1(W, K, V, C0, W @ K, alpha=15_000.0, beta=50.0, lam=1.0)
    )
    result["lemma_4_1"] |= {"peak_gb": peak_gb(), "arithmetic": "float64"}
    return result


def main(argv: list[str] | None = None) -> dict:
    """Measure, print, write; returns what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--out", default="build/bench/solve.json", help="where the figures go")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    measure(d=24, m=64, n=8, few=2)  # libraries load and start their threads at the first call
    result = measure(
        **SHAPES["small" if options.small else "full"], further=50 if options.small else 2
    )
    result |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    path = user_path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")

    timings = ("seconds", "cpu_seconds")
    exact, few, shapes = result["lemma_5_1"], result["lemma_4_1"], result["shapes"]
    print(
        f"{shapes}, {result['threads']} threads, torch {result['torch']}, "
        f"inputs {result['input_dtype']}"
    )
    print(
        f"Lemma 5.1, exact: {exact['seconds']:.1f} s, processor {exact['cpu_seconds']:.1f} s",
        end="; ",
    )
    print(f"float64 inside, peak {exact['peak_gb']:.2f} GB")
    for name in ("published", "float64", "float32"):
        step, ratio = result[f"adam_step_{name}"], {k: result[f"ratio_{name}_{k}"] for k in timings}
        print(
            f"Adam, {NAMES[name]}: {step['seconds']:.3f} s a step, "
            f"processor {step['cpu_seconds']:.3f} s",
            end="; ",
        )
        print(f"{STEPS} steps, extrapolated: {STEPS * step['seconds']:.0f} s", end=", ")
        print(
            f"{ratio['seconds']:.0f} times the exact solution "
            f"({ratio['cpu_seconds']:.0f} in processor time)"
        )
    print(
        f"Lemma 4.1, n {shapes['n_lemma_4_1']}: {few['seconds']:.1f} s, "
        f"processor {few['cpu_seconds']:.1f} s"
    )
    print(f"written to {path}")
    return result


if __name__ == "__main__":
    main()
