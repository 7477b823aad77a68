"""The released settings, as profiles/released.yaml has them, against the formulas written out.

What is below knows nothing of `zu` but how it cuts text into tokens: loops over facts, prefixes and
layers, torch's own Adam, inverses of whole matrices.
"""
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

import zu
from zu.experiment import check_row, parse_method

ROOT = Path(__file__).parents[1]
LAYERS = [1, 2, 3]
PREFIXES = ("", "The city is. ", "Because people speak. ")
PROFILES = ["released", "released-qwen"]


def row(profile, method):
    """A method's settings in a profile."""
    labels = yaml.safe_load((ROOT / f"profiles/{profile}.yaml").read_text())["few_shot"]["methods"]
    (found,) = [parse_method(label) for label in labels if parse_method(label).method == method]
    return found.settings


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_rows_run_as_they_say(profile):
    chapters = yaml.safe_load((ROOT / f"profiles/{profile}.yaml").read_text())
    for values in chapters.values():
        for label in values["methods"]:
            check_row(label, anchors=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_hold_what_was_released(profile):
    """By the tables of the paper's code: see the profile's head for what is not theirs."""
    search = dict(
        optimizer="adam", bare_first=False, absolute=True, lr=0.1, tolerance=0.05)
    zero = zu.methods.ZeroUnlearn(**row(profile, "zerounlearn"))
    assert (zero.eps, zero.V_f) == (0.01, "optimised")
    assert (zero.alpha, zero.beta, zero.lam) == (15_000, 50, 1)
    assert (zero.steps, zero.weight_decay, zero.kl, zero.clamp) == (25, 0.5, 0.0625, 0.75)
    assert (zero.kl_at, zero.aim) == ("subject", "hidden")
    for method in ("memit", "alphaedit", "zerounlearn", "zerounlearn-gd"):
        assert search.items() <= row(profile, method).items()
    many = zu.methods.Descent(**row(profile, "zerounlearn-gd"))
    assert (many.threshold, many.V_f, many.gd_steps, many.gd_lr) == (0.01, "optimised", 500, 1e-3)
    assert (many.zero, many.forget, many.lam) == (1, 100, 0.1)
    rome, ga, ft = (zu.methods.registry.settings_for(x, **row(profile, x))
                    for x in ("rome", "ga", "ft"))
    assert (rome.aim, rome.absolute, ga.batch, ft.batch, ft.stop) == ("value", True, 64, 64, 0.01)
    assert (ga.steps, ga.lr, ft.steps, ft.lr) == (25, 5e-3, 25, 5e-4)
    if profile == "released":
        assert {x.which for x in (rome, ga, ft)} == {"last"} and rome.clamp == 0.75 and rome.whiten
    else:
        assert {x.layers for x in (rome, ga, ft)} == {(8,)} and not rome.whiten
        assert (rome.clamp, rome.lr) == (4, 0.5) and row(profile, "memit")["layers"] == [6, 7, 8]


@contextmanager
def changed(module, delta, at):
    """For a block, a module's output with δ added at one token."""
    def add(_, args, output):
        states = output[0] if isinstance(output, tuple) else output
        moved = states.clone()
        moved[0, at] = moved[0, at] + delta
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def at_token(model, module, ids, at, what="output"):
    """A module's output, or input, at a token of a prompt."""
    seen = []

    def keep(_, args, output):
        states = args[0] if what == "input" else output
        seen.append((states[0] if isinstance(states, tuple) else states)[0, at])

    handle = module.register_forward_hook(keep)
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0]


def searched(model, tokenizer, fact, module, prefixes, goal):
    """h + δ at the subject's last token: 25 steps of Adam at 0.1, δ at most 0.75 of h."""
    prompts = [zu.wording.encode(tokenizer, fact, prefix) for prefix in prefixes]
    essence, subject = zu.wording.encode(tokenizer, fact, prompt="{} is a")
    h = at_token(model, module, *prompts[0])
    with torch.no_grad():
        before = model(input_ids=torch.tensor([essence])).logits[0, subject].log_softmax(-1)
    delta = torch.zeros_like(h, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=0.1)
    for step in range(25):
        losses = []
        for ids, at in prompts:
            with changed(module, delta, at):
                logits = model(input_ids=torch.tensor([ids + goal[:-1]])).logits[0]
            says = logits[len(ids) - 1:].log_softmax(-1)
            losses.append(-says.gather(1, torch.tensor(goal)[:, None]).mean())
        with changed(module, delta, subject):
            now = model(input_ids=torch.tensor([essence])).logits[0, subject].log_softmax(-1)
        apart = (now.exp() * (now - before)).sum()  # KL(edited ‖ original)
        size = 0.5 * delta.norm() / h.norm() ** 2
        loss = torch.stack(losses).mean() + 0.0625 * apart + size
        if loss < 0.05 or step == 24:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            delta *= min(1.0, 0.75 * h.norm() / delta.norm())
    return (h + delta).detach()


def mean_key(model, tokenizer, fact, linear):
    """A fact's key: half the bare prompt's, half the mean of those behind a prefix."""
    keys = []
    for prefix in PREFIXES:
        ids, at = zu.wording.encode(tokenizer, fact, prefix)
        keys.append(at_token(model, linear, ids, at, "input").double())
    return (keys[0] + torch.stack(keys[1:]).mean(0)) / 2


def test_three_layers_are_edited_as_the_formulas_say(folders, facts):
    """Lemma 4.1 with P + εI, V_f for the true answer, each layer on the model as edited so far."""
    model, tokenizer = zu.load_model(folders["llama"], device="cpu")
    twin, _ = zu.load_model(folders["llama"], device="cpu")
    some, settings = list(facts)[:2], row("released", "zerounlearn")
    m = model.config.intermediate_size
    noise = {layer: torch.randn(3 * m, m, dtype=torch.float64,
                            generator=torch.Generator().manual_seed(layer)) for layer in LAYERS}
    # so small that the facts count
    moments = {layer: 1e-4 * x.T @ x / len(x) for layer, x in noise.items()}
    edit = zu.unlearn(model, tokenizer, some, "zerounlearn", layers=LAYERS, moments=moments,
                      reader=zu.Reader(model, tokenizer, prefixes=PREFIXES), **settings)

    blocks = twin.model.layers
    last, eos = blocks[LAYERS[-1]], [tokenizer.eos_token_id]
    z = torch.stack([searched(twin, tokenizer, f, last, PREFIXES, eos) for f in some], 1)
    for number, layer in enumerate(LAYERS):
        linear = blocks[layer].mlp.down_proj
        W = linear.weight.detach().double()
        K = torch.stack([mean_key(twin, tokenizer, f, linear) for f in some], 1)  # (m, n)
        bare = [zu.wording.encode(tokenizer, f) for f in some]
        h = torch.stack([at_token(twin, last, *prompt) for prompt in bare], 1)
        V = W @ K + (z - h).double() / (len(LAYERS) - number)
        V_f = []
        for f in some:
            ids, n = zu.wording.split_answer(tokenizer, f.text, f.target)
            V_f.append(searched(twin, tokenizer, f, linear, ("",), ids[-n:]).double())
        U = torch.linalg.svd(torch.stack(V_f, 1), full_matrices=False).U
        P = torch.eye(len(W)).double() - U @ U.T + 0.01 * torch.eye(len(W)).double()
        C, eye = moments[layer], torch.eye(m).double()
        KK = 15_000 * C + 50 * K @ K.T
        VK = 15_000 * W @ C + 50 * V @ K.T
        new = P @ (VK + W) @ W.T @ torch.linalg.inv(W @ (KK + eye) @ W.T) @ W
        ours = edit.deltas[f"model.layers.{layer}.mlp.down_proj.weight"].double() + W
        assert (ours - new).norm() < 1e-5 * (new - W).norm(), layer
        with torch.no_grad():
            linear.weight.copy_(new.float())
