"""Detect an edit that ruins the model, by its damage and by perplexity on some held-out prose."""
from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..carried import at_first, edits_on
from ..edit import Edit, EditError
from ..scores import perplexity

if TYPE_CHECKING:
    from ..reader import Reader
    from .base import Job, Method

#: The damage in one layer above which perplexity doubles in most runs: at 1 an edit adds as much
#: energy to general text as the layer itself puts out. Of the 88 edits of the embedded model in
#: `results/damage.json`, perplexity more than doubled in 17 of the 18 above 1 and in 2 of the
#: other 70.
DOUBLES = 1.0
#: An edit that makes perplexity more than this many times larger is refused.
WORST = 2.0
#: Perplexity is read on `TOKENS` tokens of held-out prose if on the first `FEW` it has grown more
#: than `SUSPECT` times. Reading few tokens is cheap, but overstates the change, since words with
#: little context suffer most.
TOKENS, FEW, SUSPECT = 1024, 128, 1.5
#: A model whose perplexity exceeds this share of its vocabulary reads that prose as noise.
NOISE = 0.25


class DamageWarning(UserWarning):
    """An edit moves so much of general text that perplexity doubles in most such runs."""


def before(job: Job) -> float | None:
    """The model's perplexity on held-out prose before the edit.

    Parameters
    ----------
    job : Job
        A job of that model; a reader that several calls share remembers the result.

    Returns
    -------
    float or None
        The perplexity. None, with a warning, if the model reads that prose as noise, so that the
        check would say nothing.

    Raises
    ------
    NonFiniteError
        If the model's logits are not finite.
    """
    reader = job.reader
    found = _remembered(reader, FEW)
    size = reader.model.config.get_text_config().vocab_size
    if found < NOISE * size:
        at_first(reader.model, found)
        return found
    warnings.warn(
        f"the model's perplexity on held-out English prose is {found:,.0f} even before the edit,"
        f" with a vocabulary of {size:,}: it reads this prose as noise, which cannot show whether "
        "the edit ruins the model. Measure it on text of your own (zu.perplexity); check=False "
        "leaves this out",
        stacklevel=4,  # at the call of `unlearn`
    )
    return None


def judge(s: Method, job: Job, edit: Edit, was: float) -> float:
    """Refuse an edit that makes perplexity more than `WORST` times larger.

    Parameters
    ----------
    s : Method
        The method that made the edit.
    job : Job
        The job for which it was made.
    edit : Edit
        The edit, which is on its model.
    was : float
        The result of `before`.

    Returns
    -------
    float
        The perplexity that `before` would find now.

    Raises
    ------
    EditError
        If the edit ruins the model; the message gives both perplexities, the damage, and which
        settings to change.
    """
    reader = job.reader
    few = _with_edit(s, reader, FEW)
    if not reader.single_call:  # what a later edit starts from
        reader.prose[reader.fingerprint(), FEW] = few
    if few <= SUSPECT * was:
        return few
    edit.restore()
    was = _remembered(reader, TOKENS)
    edit.apply()
    now = _with_edit(s, reader, TOKENS)
    if now > WORST * was:
        raise EditError(
            f"the edit ruins the model: perplexity on held-out prose goes from {was:,.1f} to "
            f"{now:,.1f}, more than {WORST:g} times; damage by layer: {edit.damage_in_words()}. "
            f"The model is as it was. {_advice(s)}"
        )
    return few


def warn(edit: Edit, now: float | None) -> None:
    """Warn of an edit whose damage in a layer exceeds `DOUBLES`, and of edits that ruin together.

    Parameters
    ----------
    edit : Edit
        The edit, which is on its model, with its damage if that is measured.
    now : float or None
        The result of `judge`; None if no prose was read.

    Warns
    -----
    DamageWarning
        Once for each of the two reasons.
    """
    there = 0 if now is None else len(edits_on(edit.model))
    if now is not None and there > 1 and now > WORST * (first := at_first(edit.model, now)):
        warnings.warn(
            f"with the {there} edits that are on the model, its perplexity on a little held-out "
            f"prose is {now:,.1f}, more than {WORST:g} times the {first:,.1f} before the first of "
            "them: they ruin it together, though none does so alone. Restore some, or forget the "
            "facts in one edit",
            DamageWarning,
            stacklevel=4,  # at the call of `unlearn`
        )
    if max(edit.damage.values(), default=0.0) > DOUBLES:
        warnings.warn(
            f"the edit moves much of general text, by layer: {edit.damage_in_words()} of its "
            f"energy. Past {DOUBLES:.0%} perplexity doubles in most runs: measure it "
            "(zu.perplexity), or forget fewer facts at once",
            DamageWarning,
            stacklevel=4,  # at the call of `unlearn`
        )


def _remembered(reader: Reader, tokens: int) -> float:
    """The model's present perplexity, which a shared reader remembers."""
    if reader.single_call:
        return _read(reader, tokens)
    about = reader.fingerprint(), tokens
    if about not in reader.prose:
        reader.prose[about] = _read(reader, tokens)
    return reader.prose[about]


def _with_edit(s: Method, reader: Reader, tokens: int) -> float:
    """The edited model's perplexity; `EditError` if its logits are not finite."""
    try:
        return _read(reader, tokens)
    except ValueError as error:  # logits that are not finite
        raise EditError(f"the edit ruins the model: with it, {error}. {_advice(s)}") from None


def _read(reader: Reader, tokens: int) -> float:
    """The perplexity on the held-out prose, in one window."""
    model = reader.model
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokens
    tokens = min(tokens, context)
    return perplexity(
        model, reader.tokenizer, tokens=tokens, window=tokens, stride=tokens, reader=reader
    )


def _advice(s: Method) -> str:
    """Which settings to change: the opposite of what helps an edit that changes nothing."""
    less, more = (", ".join(names) for names in s.remedies())
    turns = [f"more of {more}"] * bool(more) + [f"less of {less}"] * bool(less)
    return (f"Try fewer facts, {', '.join(turns)}, or another method; check=False takes the edit "
            "all the same")
