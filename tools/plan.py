"""What a profile would download, run and cost, before anything starts: `make plan PROFILE=paper`.

Work is counted in floating-point operations from the models' shapes, by the same stages as the
chapter on cost, and turned into hours by the rate at which this machine multiplies matrices
(measured now, for a second or two, or given with --rate) and the share of that rate that a real
edit reached in a recorded benchmark (results/bench-targets.json).
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from parameters import defaults  # noqa: E402

from zu.data.cache import cache_dir  # noqa: E402
from zu.data.foreign import own_code  # noqa: E402
from zu.data.names import did_you_mean  # noqa: E402
from zu.data.readers import PUBLISHED  # noqa: E402
from zu.experiment import parse_method, rows_at  # noqa: E402
from zu.methods import Descended, Located, Method, settings_for  # noqa: E402
from zu.models import default_layers  # noqa: E402

#: Shapes of the paper's models and the embedded one, for when no config is at hand:
#: d, m, depth, heads, key-value heads, head width, vocabulary, whether the head is the embedding.
SHAPES = {
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128, 128_256, True),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 128, 151_936, True),
    "smollm2": (576, 1536, 30, 9, 3, 64, 49_152, True),
}
#: Prompts scored per fact, tokens in a prompt with its answer, and tokens from the subject's last
#: one on: means over samples of the published files, with SmolLM2's tokenizer. Other data sets
#: count as the first.
PROMPTS = {"mcf": (13, 11, 4.2), "zsre": (3, 15, 5.6), "mquake": (2, 11, 6.0)}
#: Tokens of a text before the prompt, and the number of such texts beside the empty one.
PREFIX, PREFIXES = 11, 5
#: The chapters that run a grid of models, data sets and seeds.
GRIDS = ("few_shot", "many_facts")
#: float64 work counts this many times, since processors do it at half the rate of float32 or less.
DOUBLE = 2

#: A run of a grid: model, data set, row, number of facts, seed.
Run = tuple[str, str, str, int, int]


@dataclass(frozen=True)
class Model:
    """A model's name and shape, and the number of weights that a token passes in a layer."""

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
        """Weights of a layer's matrices."""
        return self.d * self.width * (2 * self.heads + 2 * self.kv) + 3 * self.d * self.m

    @property
    def parameters(self) -> int:
        """Weights of all matrices."""
        return self.depth * self.layer + self.d * self.vocabulary * (1 if self.tied else 2)

    @property
    def forward(self) -> int:
        """Operations of a token's way through all layers."""
        return 2 * self.depth * self.layer

    @property
    def head(self) -> int:
        """Operations of the logits at one token."""
        return 2 * self.d * self.vocabulary


def find_model(name: str) -> Model:
    """The shape of a model, from its config if it is available, else from the table above."""
    for part, shape in SHAPES.items():
        if part in name.lower():
            return Model(name, *shape)
    from transformers import AutoConfig

    if own := own_code(name):
        raise SystemExit(f"model '{name}' {own}")
    c = AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config()
    width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return Model(
        name,
        d=c.hidden_size,
        m=c.intermediate_size,
        depth=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv=c.num_key_value_heads,
        width=width,
        vocabulary=c.vocab_size,
        tied=bool(c.tie_word_embeddings),
    )


def edited(model: Model, layers: Sequence[int | float]) -> tuple[int, ...]:
    """The layers that would be edited, as `zu.models.resolve_layers` picks them."""
    if layers:
        return tuple(int(x * model.depth) if isinstance(x, float) else x for x in layers)
    return default_layers(model.depth, model.d)


def targets(
    model: Model, layer: int, facts: int, steps: int, suffix: float, prefixes: int = PREFIXES
) -> float:
    """Operations of the search for targets: once up to a layer, then forth and back above it.

    `suffix` is the number of tokens from the subject's last one on, and `prefixes` that of texts
    before a prompt, beside the empty one.
    """
    rows = facts * (prefixes + 1)
    once = 2 * rows * (PREFIX + suffix) * model.layer * (layer + 1)
    above = model.depth - layer - 1
    step = 6 * rows * (suffix * model.layer * above + model.d * model.vocabulary)
    return once + steps * step


def work(
    model: Model, label: str, dataset: str, n: int, layers: Sequence[int], values: Mapping[str, Any]
) -> dict[str, float]:
    """Operations of one run, by stage; `values` are the parameters of its chapter.

    Methods that set targets after the same layer share them: their stage has the layer in its name.
    """
    prompts, tokens, _ = _prompts(dataset)
    asked = n * prompts * (tokens * model.forward + model.head)
    read = 2 * values["ppl_tokens"] * (model.forward + model.head)
    cost = {"evaluate": asked + read}
    row = parse_method(label)
    if row.method == "base":
        return cost
    settings = settings_for(row.method, **row.settings)
    if settings.layers:
        layers = edited(model, settings.layers)
    if isinstance(settings, Descended):
        rows = n * tokens * settings.passes
        behind = 4 * (model.depth - _changed(settings, layers)[0]) * model.layer
        return cost | {"edit": settings.steps * rows * (model.forward + behind)}
    return cost | _located(model, settings, dataset, n, layers, values.get("n_prefixes", PREFIXES))


def _prompts(dataset: str) -> tuple[int, int, float]:
    """What is known of a data set's prompts: a row of `PROMPTS`."""
    return PROMPTS.get(dataset.split(":")[0], PROMPTS["mcf"])


def _changed(settings: Method, layers: Sequence[int]) -> Sequence[int]:
    """Those of the layers that a method changes: all of them, or one."""
    return settings.edited(layers)


def _located(
    model: Model, settings: Located, dataset: str, n: int, layers: Sequence[int], prefixes: int
) -> dict[str, float]:
    """Operations of an edit that locates facts and solves a problem in each layer."""
    _, tokens, suffix = _prompts(dataset)
    at = _changed(settings, layers)

    def search(layer: int, prefixes: int) -> float:
        return targets(model, layer, n, settings.steps, suffix, prefixes)

    read = n * (prefixes + 1) * (PREFIX + tokens)  # tokens, for each layer anew
    cost = {
        "traces": len(at) * read * 2 * model.layer * (layers[-1] + 1),
        f"targets {settings.aim} {at[-1]}": search(at[-1], prefixes),
    }
    if searched := at[:settings.truth_searches(at)]:  # for the bare prompt alone
        cost["targets truth"] = sum(search(layer, 0) for layer in searched)
    cost["solve"] = DOUBLE * len(at) * settings.operations(model.d, model.m, n)
    return cost


def rows(n: int, values: Mapping[str, Any]) -> list[str]:
    """The rows that a grid's chapter runs on `n` facts."""
    if "most_searching" not in values:
        return values["methods"]
    return rows_at(
        n,
        values["methods"],
        counts=values["counts"],
        most=values["most_searching"],
        searching=values["searching"],
        once=values["once"],
    )


def counts(values: Mapping[str, Any]) -> list[int]:
    """The numbers of facts of a grid's chapter."""
    return values.get("counts") or [values["n"]]


def runs(values: Mapping[str, Any]) -> list[Run]:
    """Every run of a grid's chapter."""
    grid = [
        (model, dataset, label, n, seed)
        for model in values["models"]
        for dataset in values["datasets"]
        for n in counts(values)
        for seed in values["seeds"]
        for label in rows(n, values)
    ]
    model, dataset, seed = values["models"][-1], values["datasets"][0], values["seeds"][0]
    n = counts(values)[-1]
    return grid + [(model, dataset, label, n, seed) for label in values.get("more", ())]


def measure(dtype: torch.dtype, device: str) -> float:
    """Operations per second of 2048 × 2048 products on this machine, the best of several runs."""
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
    suffix, prefixes = t["longest_prompt"] / 3, t["prompts"] - 1
    done = targets(model, c["layers"][-1], t["facts"], t["steps"], suffix, prefixes)
    return {"targets": done / t["seconds"] / c["gemm_flops"], "forward": c["share_of_gemm"]}


@dataclass(frozen=True)
class Speed:
    """How fast work is done: a rate of matrix products, and the share of it by stage."""

    rate: float
    share: Mapping[str, float]

    def hours(self, stage: str, operations: float) -> float:
        """The hours that a stage's operations take."""
        reached = self.share["targets" if stage.startswith("targets") else "forward"]
        return operations / reached / self.rate / 3600


def plan(profile: Mapping[str, Any], rate: float, share: Mapping[str, float]) -> dict[str, Any]:
    """Downloads, runs, hours by chapter and model, and the largest memory, as plain values."""
    found: dict[str, Any] = {"downloads": {}, "chapters": {}}
    seen: set[tuple] = set()  # what is computed once and kept
    for page in GRIDS:
        if not (ROOT / "book" / f"{page}.md").exists():
            continue
        values = defaults(page) | (profile.get(page) or {})
        todo = runs(values)
        found["downloads"] |= downloads(values)
        found["chapters"][page] = {
            "runs": len(todo),
            "models": {
                name: needs(find_model(name), todo, values, Speed(rate, share), seen)
                for name in values["models"]
            },
        }
    return found


def downloads(values: Mapping[str, Any]) -> dict[str, str]:
    """What a grid's chapter downloads, with its size or source."""
    found = {}
    for name in values["models"]:
        if "/" in name:
            found[name] = f"about {2 * find_model(name).parameters / 1e9:.1f} GB of weights"
    for dataset in values["datasets"]:
        name = dataset.split(":")[0]
        address = PUBLISHED.get(name, dataset)
        if address.startswith(("https:", "hub:")):
            found[name] = address
    texts = {"corpus": "moment_tokens", "ppl_corpus": "ppl_tokens"}
    for corpus, tokens in texts.items():
        if values[corpus].startswith("hub:"):
            found[values[corpus]] = f"the first {values[tokens]:,} tokens, streamed and not kept"
    return found


def needs(
    model: Model, todo: Sequence[Run], values: Mapping[str, Any], speed: Speed, seen: set[tuple]
) -> dict[str, Any]:
    """A model's part of a chapter's runs: its hours by stage, its memory and its disk.

    Results that are kept between runs are added to `seen`, and counted only once.
    """
    layers = edited(model, values["layers"])
    spent: dict[str, float] = {}
    text = (model.name, values["corpus"], values["moment_tokens"], layers)
    if text not in seen:
        seen.add(text)
        token = 2 * (model.layer * (layers[-1] + 1) + len(layers) * model.m**2)
        spent["moments"] = speed.hours("moments", values["moment_tokens"] * token)
    for name, dataset, label, n, seed in todo:
        if name != model.name:
            continue
        for stage, operations in work(model, label, dataset, n, layers, values).items():
            kind = stage.split()[0]
            key = (name, dataset, n, seed, stage)
            if kind == "targets" and key in seen:
                continue
            seen.add(key)
            spent[kind] = spent.get(kind, 0.0) + speed.hours(stage, operations)
    size = {"float32": 4, "bfloat16": 2}[values["dtype"]]
    moment = 8 * model.m**2  # bytes of a layer's, in float64
    return {
        "layers": list(layers),
        "hours": spent,
        "memory_bytes": size * model.parameters + moment * (len(layers) + 4) + 2 * 2**30,
        "disk_bytes": moment * len(layers) + (2 * model.parameters if "/" in model.name else 0),
    }


def shards(values: Mapping[str, Any], hours: float, rate: float) -> list[dict[str, Any]]:
    """A grid's chapter in pieces of at most about `hours` hours, each as a change of `values`.

    A piece has one model and one data set, and as many seeds as fit, but at least one. Rows that
    the chapter makes only for its first data set and seed belong to the piece with these. The same
    arguments always give the same pieces.
    """
    speed, found, seeds = Speed(rate, shares()), [], values["seeds"]
    for name in values["models"]:
        for dataset in values["datasets"]:
            size = max(int(hours / _hours_of_a_seed(find_model(name), dataset, values, speed)), 1)
            for first in range(0, len(seeds), size):
                piece = {
                    "models": [name],
                    "datasets": [dataset],
                    "seeds": seeds[first:first + size],
                }
                if "more" in values:
                    where = (values["models"][-1], values["datasets"][0], 0)
                    piece["more"] = values["more"] if (name, dataset, first) == where else []
                found.append(piece)
    return found


def _hours_of_a_seed(
    model: Model, dataset: str, values: Mapping[str, Any], speed: Speed
) -> float:
    """The hours of one draw for each number of facts, with shared targets counted once."""
    layers = edited(model, values["layers"])
    stages: dict[tuple, float] = {}
    for n in counts(values):
        for label in rows(n, values):
            for stage, operations in work(model, label, dataset, n, layers, values).items():
                key = (n, stage) if stage.startswith("targets") else (n, stage, label)
                stages[key] = speed.hours(stage, operations)
    return sum(stages.values())


def report(profile: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """A plan in words: the downloads, and the time of each chapter's runs on each model."""
    kept = f"To download, if it is not in the cache of the hub or in {cache_dir() / 'data'}"
    if not found["downloads"]:
        kept += ": nothing but the embedded model, some 93 MB"
    lines = ["", kept]
    lines += [f"  {name}: {what}" for name, what in found["downloads"].items()]
    total = 0.0
    for page, chapter in found["chapters"].items():
        count = chapter["runs"]
        lines += ["", f"{page}: {count} runs, one record each; those that exist are not run again"]
        for name, one in chapter["models"].items():
            hours = sum(one["hours"].values())
            stages = ", ".join(f"{stage} {spent:.2g}" for stage, spent in one["hours"].items())
            lines.append(
                f"  {name}, layers {one['layers']}: {hours:.2g} h ({stages}); "
                f"memory about {one['memory_bytes'] / 1e9:.0f} GB, "
                f"disk {one['disk_bytes'] / 1e9:.1f} GB"
            )
            total += hours
    others = sorted(set(profile) - set(found["chapters"]))
    left_out = f"{', '.join(others)}, which this profile sets too, and " if others else ""
    if not found["chapters"]:
        return "\n".join([*lines, "", f"Not counted: {left_out}the chapters that run with their "
                          "defaults."])
    lines += [
        "",
        f"{' and '.join(found['chapters'])}: about {total:.2g} hours on one device. "
        f"Not counted: {left_out}the chapters that run with their defaults.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the plan of the profile that is named on the command line."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("profile", help="a name in profiles/")
    ask.add_argument(
        "--rate",
        type=float,
        help="TFLOP/s of matrix products to plan for, instead of this machine's",
    )
    options = ask.parse_args()
    path = ROOT / "profiles" / f"{options.profile}.yaml"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        hint = did_you_mean(options.profile, there)
        sys.exit(f"there is no profiles/{path.name}; {hint}there are: {', '.join(there)}")
    profile = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = (profile.get("few_shot") or {}).get("dtype", "float32")
    if options.rate:
        rate, where = options.rate * 1e12, "as given"
    else:
        rate = measure(getattr(torch, dtype), device)
        where = f"measured on this machine's {device}, {dtype}"
    share = shares()
    print(
        f"Rate of matrix products: {rate / 1e12:.3g} TFLOP/s ({where}); of it targets reach "
        f"{100 * share['targets']:.0f}%, forward passes {100 * share['forward']:.0f}% "
        "(results/bench-targets.json)"
    )
    print(report(profile, plan(profile, rate, share)))


if __name__ == "__main__":
    main()
