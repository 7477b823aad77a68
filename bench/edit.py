"""One edit side by side: `zu` and the plain loop of the literature, on the same facts.

`python bench/edit.py` makes ZeroUnlearn's edit of three layers twice in one process: by the
released code's procedure, written out here (one fact at a time, whole model, whole sequences, every
logit, a search for the true answer per layer; rate and tolerance are those of `SEARCH`), and with
`zu` at the same settings. It prints how many times faster targets, keys and the whole edit are, and
how far they agree. Then it measures `zu`'s own defaults, the former default search by Adam, and
targets without a search. `--small` takes seconds and proves nothing.
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

import zu
from zu.data.cache import user_path
from zu.models import decoder, down_proj
from zu.reader import collate, encode, hooks, subject_keys
from zu.targets import optimise, target_ids

#: The weights of Lemma 4.1, in the released code and in `zu`.
WEIGHTS = {"alpha": 15_000.0, "beta": 50.0, "lam": 1.0}
#: The search of the plain loop: Adam's rate in ‖h‖/√d, the most steps, and the tolerance.
SEARCH = {"lr": 0.4, "steps": 25, "tolerance": 0.1}
BY_ADAM = {"optimizer": "adam", "bare_first": False}
DECAY, KL, CLAMP = 0.5, 0.0625, 0.75


# ---- the plain loop


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, call: Callable) -> object:
        """The call's result; its seconds are added to those of the stage."""
        start = time.perf_counter()
        result = call()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return result


def whole_run(model, module: nn.Module, batch, delta: torch.Tensor) -> torch.Tensor:
    """Log-probabilities after every token, with δ added to a module's output."""

    def add(_, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[range(len(batch)), batch.position] += delta
        return (states, *output[1:]) if isinstance(output, tuple) else states

    with hooks((module.register_forward_hook, add)):
        out = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return out.logits.float().log_softmax(-1)  # (rows, length, vocabulary)


def plain_target(model, tokenizer, fact, module, prefixes, goal) -> torch.Tensor:
    """z (d,) of one fact, by Adam."""
    goals = target_ids(tokenizer, fact, goal)
    prompts = [encode(tokenizer, fact, prefix) for prefix in prefixes]
    essence, at = encode(tokenizer, fact, prompt="{} is a")
    batch = collate([*((ids + goals[:-1], p) for ids, p in prompts), (essence, at)], model.device)
    seen = []
    keep = (module.register_forward_hook, lambda m, a, out: seen.append(
        (out[0] if isinstance(out, tuple) else out)[0].view(*batch.ids.shape[1:], -1)))
    with torch.no_grad(), hooks(keep):
        model(input_ids=batch.ids, attention_mask=batch.mask)
    h = seen[0][batch.position[0]].float()  # (length, d) -> (d,): in the bare prompt
    unit = h.norm() / len(h) ** 0.5
    u = torch.zeros_like(h, requires_grad=True)
    with torch.no_grad():
        original = whole_run(model, module, batch, torch.zeros_like(h))[-1, at]
    adam = torch.optim.Adam([u], lr=SEARCH["lr"])
    for step in range(SEARCH["steps"]):
        logp = whole_run(model, module, batch, u * unit)
        says = [logp[row, len(ids) - 1 + torch.arange(len(goals)), goals].mean()
                for row, (ids, _) in enumerate(prompts)]
        moved = (logp[-1, at].exp() * (logp[-1, at] - original)).sum()
        size = (u * unit).norm() / h.norm() ** 2
        loss = -torch.stack(says).mean() + KL * moved + DECAY * size
        if loss < SEARCH["tolerance"] or step == SEARCH["steps"] - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            u *= (CLAMP * h.norm() / (u * unit).norm()).clamp(max=1)
    return h + (u * unit).detach()


@torch.no_grad()
def plain_state(model, module: nn.Module, ids: list[int], position: int, inputs: bool):
    """What enters or leaves a module at one token of one prompt, by a pass of the whole model."""
    seen = []
    if inputs:
        pair = module.register_forward_pre_hook, lambda m, args: seen.append(args[0])
    else:
        pair = module.register_forward_hook, lambda m, args, out: seen.append(
            out[0] if isinstance(out, tuple) else out)
    with hooks(pair):
        model(input_ids=torch.tensor([ids], device=model.device))
    return seen[0].view(len(ids), -1)[position].double()


def plain_key(model, tokenizer, fact, layer: int, prefixes) -> torch.Tensor:
    """A fact's mean key (m,): half the weight on the bare prompt, half on the others."""
    keys = [plain_state(model, down_proj(model, layer), *encode(tokenizer, fact, p), inputs=True)
            for p in prefixes]
    return (keys[0] + torch.stack(keys[1:]).mean(0)) / 2


def plain_solve(W, K, V, C0, V_f) -> torch.Tensor:
    """Lemma 4.1 as it stands in the paper, with an inverse."""
    eye = torch.eye(len(W), dtype=W.dtype)
    P = eye - V_f @ torch.linalg.pinv(V_f)
    a, b, lam = WEIGHTS.values()
    VK = a * W @ C0 + b * V @ K.T + lam * W
    KK = a * C0 + b * K @ K.T + lam * torch.eye(len(C0), dtype=W.dtype)
    return P @ VK @ W.T @ torch.linalg.inv(W @ KK @ W.T) @ W


def plain_edit(model, tokenizer, facts, layers: Sequence[int], prefixes, C0, clock: Clock) -> dict:
    """The new weights by layer, each for the model as edited so far; the model is restored."""
    last = decoder(model).layers[layers[-1]]
    z = clock.run("targets", lambda: torch.stack(
        [plain_target(model, tokenizer, f, last, prefixes, "eos") for f in facts]))
    old, new = {}, {}
    for number, layer in enumerate(layers):
        linear = down_proj(model, layer)
        truth = clock.run("old values", lambda linear=linear: torch.stack(
            [plain_target(model, tokenizer, f, linear, ("",), "truth") for f in facts]))
        K = clock.run("keys", lambda layer=layer: torch.stack(
            [plain_key(model, tokenizer, f, layer, prefixes) for f in facts], 1))  # (m, n)
        h = clock.run("keys", lambda: torch.stack(
            [plain_state(model, last, *encode(tokenizer, f), inputs=False) for f in facts]))
        W = linear.weight.detach().double()
        V = W @ K + (z.double() - h).T / (len(layers) - number)
        solved = clock.run("solves", lambda W=W, K=K, V=V, truth=truth, layer=layer: plain_solve(
            W, K, V, C0[layer], truth.double().T))
        old[layer], new[layer] = linear.weight.detach().clone(), solved.float()
        linear.weight.data.copy_(new[layer])
    for layer, weight in old.items():
        down_proj(model, layer).weight.data.copy_(weight)
    return {"z": z, "weights": new}


# ---- zu


def our_edit(model, tokenizer, facts, layers, prefixes, C0, clock: Clock, **settings) -> dict:
    """The same with `zu`, with the seconds of its stages; the edit is taken off again."""
    reader = zu.Reader(model, tokenizer, prefixes=prefixes)
    search = replace(zu.methods.ZeroUnlearn(**settings).search(prefixes), prefixes=prefixes)
    found = clock.run("targets", lambda: optimise(
        model, tokenizer, facts, layers[-1], search, cache=False))
    clock.run("keys", lambda: [subject_keys(zu.Reader(model, tokenizer), facts, [layer], prefixes)
                               for layer in layers])

    def edit():
        return zu.unlearn(model, tokenizer, facts, "zerounlearn", layers=layers, moments=C0,
                          targets=found, reader=reader, check=False, **settings)

    made = clock.run("the rest", edit)
    weights = {layer: down_proj(model, layer).weight.detach().clone() for layer in layers}
    scores = zu.evaluate(model, tokenizer, facts, reader=reader)
    made.restore()
    return {"z": found.z, "weights": weights, "loss": found.loss, "scores": str(scores)}


def far(ours: torch.Tensor, plain: torch.Tensor) -> float:
    """The relative difference of two tensors."""
    return float((ours.double() - plain.double()).norm() / plain.double().norm())


def main(argv: list[str] | None = None) -> dict:
    """Measure, print, write; returns what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=50, help="facts for zu's own ways (50)")
    parser.add_argument("--plain", type=int, default=3, help="facts for the plain loop (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--small", action="store_true", help="2 facts, one of them plain")
    parser.add_argument("--out", default="build/bench/edit.json", help="where the figures go")
    options = parser.parse_args(argv)
    if options.small:
        options.facts, options.plain = 2, 1
    torch.set_num_threads(options.threads)
    model, tokenizer = zu.load_model("smollm2", device="cpu")
    layers = list(zu.models.resolve_layers(model))
    prefixes = zu.reader.prefixes(model, tokenizer)
    facts = list(zu.load_facts("world-cloze").sample(options.facts, 0))
    C0 = zu.moments(model, tokenizer, layers, tokens=2048 if options.small else 16_384)
    asked = model, tokenizer
    some = facts[:options.plain]
    result: dict = {"facts": options.facts, "plain_facts": len(some), "threads": options.threads}

    plain_clock, same_clock = Clock(), Clock()
    plain = plain_edit(*asked, some, layers, prefixes, C0, plain_clock)
    same = our_edit(*asked, some, layers, prefixes, C0, same_clock, V_f="optimised", **BY_ADAM,
                    **SEARCH)
    theirs, ours = plain_clock.seconds, same_clock.seconds
    ratio = {"targets": theirs["targets"] / ours["targets"], "keys": theirs["keys"] / ours["keys"],
             "whole": sum(theirs.values()) / (sum(ours.values()) - ours["keys"])}
    apart = {"targets": far(same["z"], plain["z"]), "weights": max(
        far(same["weights"][i], plain["weights"][i]) for i in layers)}
    result["plain"] = {"seconds": theirs, "ours": ours, "ratio": ratio, "difference": apart}
    print(f"{len(some)} facts, three layers, as released: {sum(theirs.values()):.1f} s "
          f"({', '.join(f'{k} {v:.1f}' for k, v in theirs.items())})")
    print("  zu with the same settings is faster by: "
          + ", ".join(f"{k} {v:.1f}" for k, v in ratio.items())
          + f"; relative difference of targets {apart['targets']:.0e}, of the new weights "
          f"{apart['weights']:.0e}")

    ways = {"Adam": BY_ADAM, "zu's default": {}, "in bfloat16": {"precision": "bfloat16"},
            "one gradient": {"by": "gradient"}, "as unknown ones": {"by": "unknown"}}
    result["ways"] = {}
    for name, settings in ways.items():
        clock = Clock()
        made = our_edit(*asked, facts, layers, prefixes, C0, clock, **settings)
        length = (made["loss"][-1]).mean()
        result["ways"][name] = {"seconds": clock.seconds, "loss": float(length),
                                "scores": made["scores"]}
        times = result["ways"]["Adam"]["seconds"]["targets"] / clock.seconds["targets"]
        each = theirs["targets"] / len(some) / (clock.seconds["targets"] / len(facts))
        print(f"{len(facts)} facts, {name}: targets {clock.seconds['targets']:.1f} s, {times:.1f} "
              f"times as fast as Adam and {each:.1f} as the plain loop; {made['scores']}")
    path = user_path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
