"""What a profile would download, run and cost, before anything starts: `make plan PROFILE=paper`.

Work is counted in floating-point operations from the models' shapes, by the same stages as the chapter on cost, and
turned into hours by the rate at which this machine multiplies matrices (measured now, for a second or two, or given
with --rate) and the share of that rate that a real edit reached in a recorded benchmark (results/bench-targets.json).
"""
from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from zu.data.cache import cache_dir  # noqa: E402
from zu.data.foreign import own_code  # noqa: E402
from zu.data.readers import PUBLISHED  # noqa: E402
from zu.experiment import parse_method  # noqa: E402
from zu.methods import Descended, settings_for  # noqa: E402
from zu.models import default_layers  # noqa: E402

#: Shapes of the paper's models and the embedded one, for when no config is at hand:
#: d, m, depth, heads, key-value heads, head width, vocabulary, whether the head is the embedding.
SHAPES = {
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128, 128_256, True),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151_936, True),
    "smollm2": (576, 1536, 30, 9, 3, 64, 49_152, True),
}
#: Prompts a fact is scored on, tokens in a prompt with its answer, and tokens from the subject's last one on:
#: means over samples of the published files, with SmolLM2's tokenizer. What is not named counts as the first.
PROMPTS = {"mcf": (13, 11, 4.2), "zsre": (3, 15, 5.6), "mquake": (2, 11, 6.0)}
#: Tokens of a text before the prompt, texts before a prompt besides none, and a generous length of a batch's rows.
PREFIX, PREFIXES = 11, 5
#: The chapters that run a grid of models, data sets and seeds.
GRIDS = ("few_shot", "many_facts")
#: float64 work is counted this many times: processors do it at half of the rate of float32, or less.
DOUBLE = 2


@dataclass(frozen=True)
class Model:
    """A model's name and shape, and the weights one token passes in a layer."""

    name: str
    d: int
    m: int
    depth: int
    heads: int
    kv: int
    width: int
    vocabulary: int
    tied: bool

    @property
    def layer(self) -> int:
        return self.d * self.width * (2 * self.heads + 2 * self.kv) + 3 * self.d * self.m

    @property
    def parameters(self) -> int:
        return self.depth * self.layer + self.d * self.vocabulary * (1 if self.tied else 2)


def find_model(name: str) -> Model:
    """The shape of a model, from its config where it can be had, else from the table above."""
    for part, shape in SHAPES.items():
        if part in name.lower():
            return Model(name, *shape)
    from transformers import AutoConfig

    if own := own_code(name):
        raise SystemExit(f"model '{name}' {own}")
    c = AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config()
    return Model(name, c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads,
                 c.num_key_value_heads, getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
                 c.vocab_size, bool(c.tie_word_embeddings))


def edited(model: Model, layers) -> tuple[int, ...]:
    """The layers that would be edited, as `zu.models.resolve_layers` picks them."""
    if layers:
        return tuple(int(x * model.depth) if isinstance(x, float) else x for x in layers)
    return default_layers(model.depth, model.d)


def targets(model: Model, L: int, facts: int, steps: int, suffix: float, prefixes: int = PREFIXES) -> float:
    """Operations of the optimisation of targets: once up to L, then forward and backward above it."""
    rows = facts * (prefixes + 1)
    once = 2 * rows * (PREFIX + suffix) * model.layer * (L + 1)
    step = 6 * rows * (suffix * model.layer * (model.depth - L - 1) + model.d * model.vocabulary)
    return once + steps * step


def work(model: Model, method: str, dataset: str, n: int, layers: tuple[int, ...], ppl_tokens: int,
         prefixes: int = PREFIXES) -> dict[str, float]:
    """Operations of one run by stage. Targets are shared between the methods that set them after the same layer."""
    name, given, _ = parse_method(method)
    prompts, tokens, suffix = PROMPTS.get(dataset.split(":")[0], PROMPTS["mcf"])
    forward = 2 * model.depth * model.layer
    cost = {"evaluate": n * prompts * (tokens * forward + 2 * model.d * model.vocabulary)
            + 2 * ppl_tokens * (forward + 2 * model.d * model.vocabulary)}
    if name == "base":
        return cost
    settings, L = settings_for(name, **given), layers[-1]
    at = layers[len(layers) // 2:][:1] if settings.middle else layers
    if isinstance(settings, Descended):
        rows = n * tokens * settings.passes
        cost["edit"] = settings.steps * rows * (forward + 4 * (model.depth - at[0]) * model.layer)
        return cost
    steps = settings.steps
    cost["traces"] = len(at) * n * (prefixes + 1) * (PREFIX + tokens) * 2 * model.layer * (L + 1)
    cost["targets " + str(at[-1])] = targets(model, at[-1], n, steps, suffix, prefixes)
    if searched := at[:settings.truth_searches(at)]:
        cost["targets truth"] = sum(targets(model, layer, n, steps, suffix, prefixes) for layer in searched)
    cost["solve"] = DOUBLE * len(at) * settings.operations(model.d, model.m, n)
    return cost


def parameters(page: str) -> dict:
    """The values that a chapter's cell tagged `parameters` sets."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", (ROOT / "book" / f"{page}.md").read_text(), re.M | re.S)
    cell = next((c for c in cells if re.match(r":tags: \[.*\bparameters\b", c)), "")
    body = ast.parse(cell.split("\n", 1)[-1]).body
    return {node.target.id: ast.literal_eval(node.value) for node in body if isinstance(node, ast.AnnAssign)}


def runs_at(n: int, method: str, values: dict) -> bool:
    """Whether a chapter runs a method on so many facts: some end at `most_searching`, descent runs only there."""
    name, most = parse_method(method).method, values.get("most_searching")
    if name == "zerounlearn-gd" and most and n != max((x for x in values["counts"] if x <= most), default=n):
        return False
    return n <= (most or n) or name not in values.get("searching", ())


def runs(page: str, values: dict) -> list[tuple[str, str, str, int, int]]:
    """Every (model, dataset, method, n, seed) of a grid's chapter."""
    counts = values.get("counts") or [values["n"]]
    grid = [(model, dataset, method, n, seed) for model in values["models"] for dataset in values["datasets"]
            for n in counts for seed in values["seeds"] for method in values["methods"] if runs_at(n, method, values)]
    extra = [(values["models"][-1], values["datasets"][0], method, counts[-1], values["seeds"][0])
             for method in values.get("more", ())]
    return grid + extra


def measure(dtype: torch.dtype, device: str) -> float:
    """Operations a second of square products of side 2048 on this machine: the best of several."""
    a = torch.randn(2048, 2048, device=device).to(dtype)
    best, stop = float("inf"), time.perf_counter() + 1.5
    while time.perf_counter() < stop:
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def shares(path: Path = ROOT / "results" / "bench-targets.json") -> dict[str, float]:
    """The share of the rate of bare products that the recorded benchmark reached, by stage."""
    record = json.loads(path.read_text(encoding="utf-8"))
    model = find_model(record["model"])
    t, c = record["targets"], record["moments"]
    done = targets(model, c["layers"][-1], t["facts"], t["steps"], t["longest_prompt"] / 3, t["prompts"] - 1)
    return {"targets": done / t["seconds"] / c["gemm_flops"], "forward": c["share_of_gemm"]}


def plan(profile: dict, rate: float, share: dict[str, float]) -> dict:
    """Downloads, runs, hours by chapter and model, and the largest memory, as plain values."""
    found: dict = {"downloads": {}, "chapters": {}}
    seen: set[tuple] = set()  # what is computed once and kept
    for page in (page for page in GRIDS if (ROOT / "book" / f"{page}.md").exists()):
        values = parameters(page) | (profile.get(page) or {})
        models = {name: find_model(name) for name in values["models"]}
        size = {"float32": 4, "bfloat16": 2}[values["dtype"]]
        for name, model in models.items():
            if "/" in name:
                found["downloads"][name] = f"about {2 * model.parameters / 1e9:.1f} GB of weights"
        for dataset in values["datasets"]:
            address = PUBLISHED.get(dataset.split(":")[0], dataset)
            if address.startswith(("https:", "hub:")):
                found["downloads"][dataset.split(":")[0]] = address
        for key in ("moment", "ppl"):
            corpus, tokens = values["corpus" if key == "moment" else "ppl_corpus"], values[f"{key}_tokens"]
            if corpus.startswith("hub:"):
                found["downloads"][corpus] = f"the first {tokens:,} tokens, streamed and not kept"
        todo, hours = runs(page, values), {}
        for name, model in models.items():
            layers = edited(model, values["layers"])
            spent: dict[str, float] = {}
            if (text := (name, values["corpus"], values["moment_tokens"], layers)) not in seen:
                seen.add(text)
                moments = 2 * values["moment_tokens"] * (model.layer * (layers[-1] + 1) + len(layers) * model.m**2)
                spent["moments"] = moments / share["forward"] / rate / 3600
            for _, dataset, method, n, seed in (run for run in todo if run[0] == name):
                for stage, operations in work(model, method, dataset, n, layers, values["ppl_tokens"],
                                              values.get("n_prefixes", PREFIXES)).items():
                    key = (name, dataset, n, seed, stage)
                    if stage.startswith("targets") and key in seen:
                        continue
                    seen.add(key)
                    kind = stage.split()[0]
                    of = share["targets" if kind == "targets" else "forward"]
                    spent[kind] = spent.get(kind, 0.0) + operations / of / rate / 3600
            memory = size * model.parameters + 8 * model.m**2 * (len(layers) + 4) + 2 * 2**30
            disk = 8 * model.m**2 * len(layers) + (2 * model.parameters if "/" in name else 0)  # moments; weights
            hours[name] = {"layers": list(layers), "hours": spent, "memory_bytes": memory, "disk_bytes": disk}
        found["chapters"][page] = {"runs": len(todo), "models": hours}
    return found


def shards(page: str, values: dict, hours: float, rate: float) -> list[dict]:
    """A grid's chapter in pieces of about so many hours at most: for each, the parameters that it changes.

    A piece has one model and one data set, and as many seeds as fit, one at least; rows that the chapter makes for its
    first data set and seed only belong to the piece that has these. The same arguments give the same pieces.
    """
    share, found = shares(), []
    for name in values["models"]:
        model = find_model(name)
        layers = edited(model, values["layers"])
        for dataset in values["datasets"]:
            stages: dict[tuple, float] = {}
            for method in values["methods"]:
                for n in (n for n in values.get("counts") or [values["n"]] if runs_at(n, method, values)):
                    for stage, operations in work(model, method, dataset, n, layers, values["ppl_tokens"],
                                              values.get("n_prefixes", PREFIXES)).items():
                        key = (n, stage) if stage.startswith("targets") else (n, stage, method)
                        of = share["targets" if stage.startswith("targets") else "forward"]
                        stages[key] = operations / of / rate / 3600
            size, seeds = max(int(hours / sum(stages.values())), 1), values["seeds"]
            for first in range(0, len(seeds), size):
                whole = (name, dataset, first) == (values["models"][-1], values["datasets"][0], 0)
                found.append({"models": [name], "datasets": [dataset], "seeds": seeds[first:first + size]}
                             | ({"more": values["more"] if whole else []} if "more" in values else {}))
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("profile", help="a name in profiles/")
    ask.add_argument("--rate", type=float, help="TFLOP/s of matrix products to plan for, instead of this machine's")
    options = ask.parse_args()
    path = ROOT / "profiles" / f"{options.profile}.yaml"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        sys.exit(f"there is no profiles/{path.name}; there are: {there}")
    profile = yaml.safe_load(path.read_text()) or {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = (profile.get("few_shot") or {}).get("dtype", "float32")
    rate = options.rate * 1e12 if options.rate else measure(getattr(torch, dtype), device)
    share = shares()
    found = plan(profile, rate, share)
    where = "as given" if options.rate else f"measured on this machine's {device}, {dtype}"
    print(f"Rate of matrix products: {rate / 1e12:.3g} TFLOP/s ({where}); of it targets reach "
          f"{100 * share['targets']:.0f}%, forward passes {100 * share['forward']:.0f}% (results/bench-targets.json)")
    print("\nTo download, if it is not in the cache of the hub or in " + str(cache_dir() / "data")
          + ("" if found["downloads"] else ": nothing but the embedded model, some 93 MB"))
    for name, what in found["downloads"].items():
        print(f"  {name}: {what}")
    total = 0.0
    for page, chapter in found["chapters"].items():
        print(f"\n{page}: {chapter['runs']} runs, one record each; those that exist are not run again")
        for name, one in chapter["models"].items():
            total += sum(one["hours"].values())
            stages = ", ".join(f"{stage} {hours:.2g}" for stage, hours in one["hours"].items())
            print(f"  {name}, layers {one['layers']}: {sum(one['hours'].values()):.2g} h ({stages}); "
                  f"memory about {one['memory_bytes'] / 1e9:.0f} GB, disk {one['disk_bytes'] / 1e9:.1f} GB")
    others = sorted(set(profile) - set(found["chapters"]))
    print(f"\n{' and '.join(found['chapters'])}: about {total:.2g} hours on one device. Not counted: "
          + (f"{', '.join(others)}, which this profile sets too, and " if others else "")
          + "the chapters that run with their defaults.")


if __name__ == "__main__":
    main()
