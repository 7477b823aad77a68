"""What an edit must spare: the forget prompts with other subjects, whose values shall stay as they are."""
from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .data.facts import Fact
from .reader import write

#: How a list of subjects is put to the model for it to go on, how often, and for how many tokens.
LIST, ROWS, LENGTH = "A list of names of the same kind, without repetition: {}, ", 16, 32


def anchors(facts: Sequence[Fact], source: Iterable[Fact | str] | None = None, *, per_prompt: int | None = None,
            model: nn.Module | None = None, tokenizer=None, seed: int = 0) -> list[Fact]:
    """Each forget prompt with up to `per_prompt` other subjects of the same kind, for `unlearn`'s anchors.

    per_prompt: by default all that are given by name, 20 of other facts or of the model's own.

    source: other facts, of which those count that share a forget fact's relation (or its prompt, where it names no
    relation); or subjects by name; or None: the model is asked to go on with a list of the forget set's subjects.
    The anchors' targets are never read: what is kept is the model's own output, whatever it is.

    Left out are the subjects to forget, and every subject that a neighbour's prompt names: an edit that has seen what
    specificity is measured on would be measured on what it was fitted to. Of subjects by name a warning says how many.
    Raises `ValueError` when no anchor is found for a prompt, or source is None and there is no model.
    """
    if source is None and (model is None or tokenizer is None):
        raise ValueError("anchors need a source: give other facts, names of subjects, or model and tokenizer to ask")
    source = None if source is None else list(source)
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        groups.setdefault((fact.relation, fact.prompt), []).append(fact)
    reserved = " \n ".join({prompt for fact in facts for prompt, _ in fact.neighbors}).casefold()
    forget = {fact.subject.casefold() for fact in facts}
    allowed = lambda name: name.casefold() not in forget and not re.search(  # noqa: E731
        rf"(?<!\w){re.escape(name.casefold())}(?!\w)", reserved)
    if out := sum(isinstance(x, str) and not allowed(x) for x in source or ()):
        warnings.warn(f"anchors: {out} of the {len(source)} names are left out, as subjects to forget or of "
                      "neighbours, on which Spe is measured", stacklevel=2)
    limit = per_prompt or (None if source and all(isinstance(x, str) for x in source) else 20)
    found = []
    for (relation, prompt), group in groups.items():
        if source is None:
            names = propose(model, tokenizer, [f.subject for f in group], seed=seed)
        else:
            names = [x if isinstance(x, str) else x.subject for x in source
                     if isinstance(x, str) or (x.relation == relation if relation else x.prompt == prompt)]
            names = random.Random(seed).sample(names, len(names))
        free = list(filter(allowed, dict.fromkeys(names)))
        if not free:
            who = "the model" if source is None else "source"
            raise ValueError(f"no anchor for the prompt of the fact with id '{group[0].id}' (its line, in a file "
                             f"without ids): {who} names no subject of its kind that is neither to be forgotten nor a "
                             "neighbour; give other facts or names")
        found += [Fact(name, prompt, "-", relation=relation) for name in free[:limit]]
    return found


def propose(model: nn.Module, tokenizer, subjects: Sequence[str], *, seed: int = 0) -> list[str]:
    """Names like `subjects`, written by the model as the rest of a list of them, the most frequent first."""
    shown = random.Random(seed).sample(list(subjects), min(5, len(subjects)))
    ids = torch.tensor([tokenizer(LIST.format(", ".join(shown)).rstrip())["input_ids"]], device=model.device)
    rows = write(model, tokenizer, ids.expand(ROWS, -1), LENGTH, torch.Generator().manual_seed(seed))
    counts: Counter[str] = Counter()
    for text in tokenizer.batch_decode(rows[:, ids.shape[1]:], skip_special_tokens=True):
        names = [name.strip() for name in text.split("\n")[0].split(",")[:-1]]  # the last one may be cut off
        counts.update(list(dict.fromkeys(name for name in names if re.fullmatch(r"[^\W\d_][\w'’.\- ]{1,40}", name)
                                         and len(name.split()) <= 4)))  # a set's order differs from run to run
    return [name for name, _ in counts.most_common()]
