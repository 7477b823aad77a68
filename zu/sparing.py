"""Anchors, which an edit must spare: the forget prompts with other subjects."""
from __future__ import annotations

import random
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from .data.facts import Fact, FactError, as_facts, bare
from .data.words import folded, places
from .passes import write
from .wording import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The beginning of a list of subjects that the model continues.
LIST = "A list of names of the same kind, without repetition: {}, "
#: How many continuations it writes.
ROWS = 16
#: How many tokens each of them has.
LENGTH = 32


#: A function that gives names for a group of facts with one prompt.
Names = Callable[[list[Fact]], list[str]]


def anchors(
    facts: Sequence[Fact],
    source: Iterable[Fact | str] | None = None,
    *,
    per_prompt: int | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> list[Fact]:
    """Make anchors for `unlearn`: each forget prompt with other subjects of the same kind.

    The anchors' targets are never read, since an edit should keep the model's own output, whatever
    it is. Subjects to forget are left out, and so are subjects in neighbours' prompts, on which
    specificity is measured. A warning says how many given names are left out.

    Parameters
    ----------
    facts : sequence of Fact
        The facts to forget.
    source : iterable of Fact or str, optional
        Other facts, of which those of the same relation are used (or, without a relation, those
        with the same prompt); or names of subjects. By default the model continues a list of the
        subjects to forget.
    per_prompt : int, optional
        The most subjects per prompt; by default all given names, or 20 from facts or the model.
    model, tokenizer : optional
        The model to ask if there is no source, and its tokenizer.
    seed : int
        The seed of the choice among the subjects, or of the model's list.

    Returns
    -------
    list of Fact
        The anchors, prompt after prompt.

    Raises
    ------
    FactError
        If a fact to forget has no subject.
    ValueError
        If there is no anchor for a prompt, neither a source nor a model is given, or the source
        holds something that is neither a fact nor a name.
    """
    facts, source = as_facts(facts), _checked(source)
    if per_prompt is not None and per_prompt < 1:
        raise ValueError(f"per_prompt is {per_prompt}: give 1 or more, or leave it out for all")
    names = _names(source, model, tokenizer, seed)
    allowed = _allowed(facts)
    if source:
        _warn_of_left_out(source, allowed)
    found, limit = [], per_prompt or (None if _only_names(source) else 20)
    for group in _by_prompt(facts):
        free = [name for name in dict.fromkeys(names(group)) if allowed(name)]
        if not free:
            raise ValueError(_no_anchor(group[0], "the model" if source is None else "source"))
        relation, prompt = group[0].relation, group[0].prompt
        found += [Fact(name, prompt, "-", relation=relation) for name in free[:limit]]
    return found


def _checked(source: Iterable[Fact | str] | None) -> list[Fact | str] | None:
    """A source as a list, with names without spaces around them; `ValueError` if it is invalid."""
    if source is None:
        return None
    if isinstance(source, str):
        raise ValueError("source is one text: give a list of names, or of facts")
    if isinstance(source, Fact):
        source = [source]
    elif isinstance(source, set | frozenset):  # a set's order differs from run to run
        source = sorted(source, key=str)
    found: list[Fact | str] = []
    for number, item in enumerate(source, 1):
        if isinstance(item, str):
            item = bare(item)
        elif not isinstance(item, Fact):
            raise ValueError(f"source: number {number} is a {type(item).__name__}: give zu.Fact, "
                             "as zu.load_facts reads them, or names of subjects")
        if not item:
            raise ValueError(f"source: number {number} is an empty text: give names of subjects")
        found.append(item)
    return found


def _names(
    source: list[Fact | str] | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    seed: int,
) -> Names:
    """The function that gives names for a group, from a source or else from the model."""
    if source is not None:
        return partial(_drawn, source, seed)
    if model is None or tokenizer is None:
        raise ValueError(
            "anchors need a source: give other facts, names of subjects, or model and tokenizer "
            "to ask"
        )
    return partial(_asked, model, tokenizer, seed)


def _by_prompt(facts: Sequence[Fact]) -> list[list[Fact]]:
    """The facts in groups of one relation and prompt; `FactError` for one without a subject."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        if not fact.subject:
            raise FactError(f"the fact with id '{fact.id}' has no subject that an anchor could "
                            "replace: give one, and {} in the prompt, or use a method without "
                            "anchors")
        groups.setdefault((fact.relation, fact.prompt), []).append(fact)
    return list(groups.values())


def _asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int, group: list[Fact]
) -> list[str]:
    """Names similar to the subjects of a group, proposed by the model."""
    return propose(model, tokenizer, [fact.subject for fact in group], seed=seed)


def _drawn(source: list[Fact | str], seed: int, group: list[Fact]) -> list[str]:
    """Names for a group from a source, in an order that the seed determines."""
    names = _of_kind(source, group[0].relation, group[0].prompt)
    return random.Random(seed).sample(names, len(names))


def _no_anchor(fact: Fact, who: str) -> str:
    """The message about a prompt without an anchor."""
    return (
        f"no anchor for the prompt of the fact with id '{fact.id}' (its line, in a file without "
        f"ids): {who} names no subject of its kind that is neither to be forgotten nor in a "
        "neighbour's prompt; give other facts or names"
    )


def _allowed(facts: Sequence[Fact]) -> Callable[[str], bool]:
    """Whether a name may be an anchor's: no subject to forget, and in no neighbour's prompt."""
    prompts = {prompt for fact in facts for prompt, _ in fact.neighbors}
    reserved = folded(" \n ".join(prompts))
    forget = {folded(fact.subject) for fact in facts}

    def allowed(name: str) -> bool:
        name = folded(name)
        return name not in forget and not places(reserved, name)

    return allowed


def _only_names(source: list[Fact | str] | None) -> bool:
    """Whether the source holds only names."""
    return bool(source and all(isinstance(x, str) for x in source))


def _warn_of_left_out(source: list[Fact | str], allowed: Callable[[str], bool]) -> None:
    """Warn of given names that are left out."""
    out = sum(isinstance(x, str) and not allowed(x) for x in source)
    if out:
        warnings.warn(
            f"anchors: {out} of the {len(source)} names are left out, since they are subjects to "
            "forget or in neighbours' prompts, on which Spe is measured",
            stacklevel=3,  # at the call of `anchors`
        )


def _of_kind(source: list[Fact | str], relation: str, prompt: str) -> list[str]:
    """The source's names, and the subjects of its facts with the same relation, or else prompt."""
    names = []
    for x in source:
        if isinstance(x, str):
            names.append(x)
            continue
        kind, wanted = (x.relation, relation) if relation else (x.prompt, prompt)
        if kind == wanted and x.subject:
            names.append(x.subject)
    return names


def propose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    subjects: Sequence[str],
    *,
    seed: int = 0,
) -> list[str]:
    """Names similar to `subjects`, which the model writes as the continuation of a list.

    Parameters
    ----------
    model : PreTrainedModel
        The model that writes.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    subjects : sequence of str
        Subjects, up to five of which begin the list.
    seed : int
        The seed of their choice, and of the model's continuations.

    Returns
    -------
    list of str
        Names, the most frequent first.

    Raises
    ------
    ValueError
        If the model's logits are not finite.
    """
    shown = random.Random(seed).sample(list(subjects), min(5, len(subjects)))
    start = LIST.format(", ".join(shown)).rstrip()
    ids = torch.tensor([tokens(tokenizer, start).ids], device=model.device)  # (1, t)
    generator = torch.Generator().manual_seed(seed)
    rows = write(model, tokenizer, ids.expand(ROWS, -1), LENGTH, generator)  # (ROWS, t + LENGTH)
    written = rows[:, ids.shape[1]:]  # (ROWS, LENGTH)
    counts: Counter[str] = Counter()
    for text in tokenizer.batch_decode(written, skip_special_tokens=True):
        items = re.split("[,،、，]", text.split("\n")[0])[:-1]  # the last one may be cut off
        names = [item.strip() for item in items]
        # once per text; with a dict, because a set's order differs from run to run
        counts.update(list(dict.fromkeys(name for name in names if _is_name(name))))
    return [name for name, _ in counts.most_common()]


def _is_name(text: str) -> bool:
    """Whether a text looks like a name: a letter in front, 2 to 41 characters, up to four words."""
    # marks count as letters: vowels of Thai or Hindi, accents
    letters = "".join("x" if unicodedata.category(char)[0] == "M" else char for char in text)
    found = re.fullmatch(r"[^\W\d_][\w'’.\- ]{1,40}", letters)
    return bool(found) and len(text.split()) <= 4
