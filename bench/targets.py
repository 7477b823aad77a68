"""How long targets and moments take: `zu` against the plain loop of the chapter `where_to_aim`.

In one process, `python bench/targets.py` runs the chapter's own cells (those tagged `plain`: one
fact at a time, whole sequences, whole model) on a few facts and `zu.targets` on many, with the same
prefixes, seeds and steps. It compares the rate of `zu.moments` with that of plain matrix products
of the forward pass's shapes, and says how far results agree. `--small` takes seconds and proves
nothing. `--random-shape` uses random weights, on which speed does not depend.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from pathlib import Path

import jupytext
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import zu
from zu.data.world import prose
from zu.experiment import FORMAT, provenance, write_record
from zu.layouts import known
from zu.models import decoder, down_proj
from zu.reader import Batch, collate, encode, forward_until, hooks, prefixes, subject_keys
from zu.second_moments import pack
from zu.targets import Search, Targets

CHAPTER = Path(__file__).parents[1] / "book" / "where_to_aim.md"
WINDOW = 512
LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256,
         "rope_theta": 5e5}
SHAPES = {
    "llama-3.2-3b": LLAMA | {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "tie_word_embeddings": True},
    "llama-3.1-8b": LLAMA | {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "tie_word_embeddings": False},
    "qwen3-4b": LLAMA | {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 2560, "rope_theta": 1e6,
        "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": True},
}


def plain_cells() -> dict:
    """The names that the chapter's cells tagged `plain` define."""
    space: dict = {}
    for cell in jupytext.read(CHAPTER).cells:
        if "plain" in cell.metadata.get("tags", []):
            exec(compile(cell.source, str(CHAPTER), "exec"), space)
    return space


def load(options) -> tuple[nn.Module, object, tuple[str, ...]]:
    """The chosen model, a tokenizer and the prefixes.

    A random model uses the tokens and texts of the embedded one.
    """
    dtype = getattr(torch, options.dtype)
    if not options.random_shape:
        model, tokenizer = zu.load_model(options.model, device=options.device, dtype=dtype)
        return model, tokenizer, prefixes(model, tokenizer)
    small, tokenizer = zu.load_model("smollm2", device="cpu")
    shape = dict(SHAPES[options.random_shape])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.name = options.random_shape
    return model.eval().requires_grad_(False), tokenizer, prefixes(small, tokenizer)


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if platform.system() == "Darwin" else 1024)


def timed(device: torch.device, call):
    """The call's result and its wall-clock seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def difference(ours: torch.Tensor, plain: torch.Tensor) -> float:
    """The largest relative difference of a row."""
    ours, plain = ours.double().cpu(), plain.double().cpu()
    return float(((ours - plain).norm(dim=-1) / plain.norm(dim=-1)).max())


def plain_keys(model, tokenizer, facts, layer: int, before) -> torch.Tensor:
    """Mean keys by one whole pass per prompt: half the weight on the bare one, half on the rest."""
    def key(fact, prefix):
        seen, (ids, position) = [], encode(tokenizer, fact, prefix)
        keep = lambda module, args: seen.append(args[0][0, position].double())  # noqa: E731
        with torch.no_grad(), hooks((down_proj(model, layer).register_forward_pre_hook, keep)):
            model(input_ids=torch.tensor([ids], device=model.device))
        return seen[0]

    rows = [torch.stack([key(fact, prefix) for prefix in before]) for fact in facts]
    return torch.stack([(k[0] + k[1:].mean(0)) / 2 if len(k) > 1 else k[0] for k in rows])


def plain_moments(model, ids: torch.Tensor, layer: int) -> torch.Tensor:
    """C_0 by one whole pass per window, in float64."""
    m = known(model).matrix(layer).shape[1]
    total = torch.zeros(m, m, dtype=torch.float64, device=model.device)

    def add(module, args):
        key = args[0].reshape(-1, m).double()
        total.addmm_(key.T, key)

    with torch.no_grad(), hooks((down_proj(model, layer).register_forward_pre_hook, add)):
        for row in ids.to(model.device).split(1):
            model(input_ids=row, logits_to_keep=1)
    return total / ids.numel()


def linear_shapes(model, layers) -> list[tuple[int, int]]:
    """(in, out) of the matrices that a pass for the keys of `layers` multiplies by.

    The last down_proj isn't needed.
    """
    return [(x.in_features, x.out_features) for i in range(max(layers) + 1)
            for name, x in decoder(model).layers[i].named_modules()
            if isinstance(x, nn.Linear) and not (i == max(layers) and "down_proj" in name)]


@torch.no_grad()
def gemm_rate(model, shapes, tokens: int) -> float:
    """Operations per second of plain products of these shapes, with separate matrices."""
    like = dict(device=model.device, dtype=model.dtype)
    states = {a: torch.randn(tokens, a, **like) for a, _ in shapes}
    weights = [torch.randn(b, a, **like) for a, b in shapes]

    def run():
        for w in weights:
            nn.functional.linear(states[w.shape[1]], w)

    seconds = min(timed(model.device, run)[1] for _ in range(4))
    return 2 * tokens * sum(a * b for a, b in shapes) / seconds


def measure_moments(model, tokenizer, layers, windows: int) -> tuple[dict, dict]:
    """zu.moments compared with plain products and the plain forward pass; and C_0.

    Attention's own products are not counted.
    """
    device, tokens = model.device, windows * WINDOW
    rows = 2 if device.type == "cpu" else 8  # what zu.moments puts through at once
    shapes = linear_shapes(model, layers)
    forward = 2 * sum(a * b for a, b in shapes)
    outer = 2 * sum(known(model).matrix(i).shape[1] ** 2 for i in layers)
    texts = prose("moments")
    ids = pack(tokenizer, texts, tokens, WINDOW)

    def forward_pass():
        for part in ids.to(device).split(rows):
            forward_until(
                model, max(layers), Batch(part, torch.ones_like(part), part[:, 0]), keys_only=True)

    zu.moments(model, tokenizer, layers, texts, tokens=2 * WINDOW, cache=False)
    gemm = gemm_rate(model, shapes, rows * WINDOW)
    with torch.no_grad():
        _, bare = timed(device, forward_pass)
    C0, seconds = timed(device, lambda: zu.moments(
        model, tokenizer, layers, texts, tokens=tokens, cache=False))
    # before and after: other work comes and goes
    gemm = (gemm + gemm_rate(model, shapes, rows * WINDOW)) / 2
    few = ids[:4]
    ours = zu.moments(model, tokenizer, layers, texts, tokens=few.numel(), cache=False)
    plain = plain_moments(model, few, max(layers))
    return {
        "tokens": ids.numel(), "seconds": seconds,
        "flops": ids.numel() * (forward + outer) / seconds,
        "gemm_flops": gemm, "share_of_gemm": ids.numel() * (forward + outer) / seconds / gemm,
        "forward_flops": ids.numel() * forward / bare,
        "difference": float((ours[max(layers)] - plain.cpu()).norm() / plain.norm().cpu()),
        "layers": list(layers),
    }, C0


def measure_targets(
    model, tokenizer, facts, count: int, layer: int, before, steps: int
) -> tuple[dict, Targets]:
    """zu on all facts, then the plain loop on the first `count`; no search stops early.

    Also zu's targets.
    """
    same = dict(steps=steps, tolerance=0.0, lr=0.4)
    plain_targets, device = plain_cells()["plain_targets"], model.device

    def ours(facts, **settings):
        return zu.targets.optimise(
            model, tokenizer, facts, layer, Search(before, **settings), cache=False)

    ours(facts[:1], steps=1)
    held = peak_bytes(device)
    found, seconds = timed(device, lambda: ours(facts, **same))
    peak = peak_bytes(device)
    plain_targets(model, tokenizer, facts[:1], layer, before, steps=1)
    (z, _), plain = timed(device, lambda: plain_targets(
        model, tokenizer, facts[:count], layer, before, **same))
    keys, _ = subject_keys(zu.Reader(model, tokenizer), facts[:count], [layer], before)
    return {
        "facts": len(facts), "prompts": len(before), "steps": steps, "seconds": seconds,
        "peak_bytes": peak, "peak_bytes_before": held,
        "plain_facts": count, "plain_seconds": plain,
        "ratio": plain / count / (seconds / len(facts)),
        "difference": difference(found.z[:count], z),
        "keys_difference": difference(
            keys[layer], plain_keys(model, tokenizer, facts[:count], layer, before)),
        "longest_prompt": collate(
            [encode(tokenizer, f, p) for f in facts for p in before]).ids.shape[1],
    }, found


def main(argv: list[str] | None = None) -> dict:
    """Measure, print, write; returns what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=50, help="facts for zu (50)")
    parser.add_argument("--plain", type=int, default=3,
                        help="facts for the plain loop, the first of them (3)")
    parser.add_argument("--steps", type=int, default=25, help="optimisation steps (25)")
    parser.add_argument("--windows", type=int, default=32,
                        help=f"windows of {WINDOW} tokens for the moments (32)")
    parser.add_argument("--model", default="smollm2", help="smollm2, a hub id or a folder")
    parser.add_argument("--random-shape", choices=SHAPES,
                        help="instead: random weights of this architecture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--small", action="store_true", help="2 facts, 2 steps, 4 windows")
    parser.add_argument("--out", default="build/bench/targets.json", help="where the figures go")
    options = parser.parse_args(argv)
    if options.small:
        options.facts, options.plain, options.steps, options.windows = 2, 1, 2, 4
    torch.set_num_threads(options.threads)
    model, tokenizer, before = load(options)
    layers, config = zu.models.resolve_layers(model), model.config.get_text_config()
    facts = zu.load_facts("world-cloze").sample(options.facts, 0)
    size = sum(w.numel() * w.element_size() for w in model.parameters())
    result = provenance(model) | {
        "format": FORMAT, "experiment": "bench-targets", "model": model.name,
        "random": bool(options.random_shape), "dtype": options.dtype, "model_bytes": size,
        "d": config.hidden_size, "m": config.intermediate_size,
        "depth": config.num_hidden_layers, "vocabulary": config.vocab_size,
    }
    count = min(options.plain, len(facts))
    t, found = measure_targets(model, tokenizer, facts, count, layers[-1], before, options.steps)
    c, C0 = measure_moments(model, tokenizer, layers, options.windows)
    edit, seconds = timed(model.device, lambda: zu.unlearn(
        model, tokenizer, facts, layers=layers, targets=found, moments=C0))
    edit.restore()
    e = {"seconds": seconds, "peak_bytes": peak_bytes(model.device), "layers": list(layers)}
    result |= {"targets": t, "moments": c, "edit": e}
    about = ("model", "depth", "d", "m", "vocabulary", "dtype", "device", "threads", "versions")
    print(", ".join(f"{name} {result[name]}" for name in about))
    print(f"targets: {t['facts']} facts x {t['prompts']} prompts x {t['steps']} steps "
          f"in {t['seconds']:.1f} s; the plain loop: {t['plain_facts']} "
          f"in {t['plain_seconds']:.1f} s; a fact {t['ratio']:.1f} times faster")
    print(f"  peak {t['peak_bytes'] / 1e9:.2f} GB, before {t['peak_bytes_before'] / 1e9:.2f}, "
          f"weights {size / 1e9:.2f}")
    print(f"  largest relative difference: targets {t['difference']:.1e}, "
          f"keys {t['keys_difference']:.1e}")
    print(f"moments: {c['tokens']} tokens in {c['seconds']:.1f} s, "
          f"{c['flops'] / 1e9:.0f} GFLOP/s, bare products {c['gemm_flops'] / 1e9:.0f} "
          f"({100 * c['share_of_gemm']:.0f}%), forward alone "
          f"{c['forward_flops'] / 1e9:.0f}; relative difference {c['difference']:.1e}")
    print(f"traces and solves of layers {layers}: {seconds:.1f} s; with the targets and moments "
          f"above {seconds + t['seconds'] + c['seconds']:.1f} s, "
          f"peak {e['peak_bytes'] / 1e9:.2f} GB")
    return write_record(options.out, result)


if __name__ == "__main__":
    main()
