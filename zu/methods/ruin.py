"""Whether an edit ruins the model: told by its damage, and read off some held-out prose."""
from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..carried import at_first, edits_on
from ..edit import Edit, EditError
from ..scores import perplexity

if TYPE_CHECKING:
    from ..reader import Reader
    from .base import Job, Method

#: The damage in one layer past which perplexity doubles in most runs: 1, where an edit adds as much
#: energy to general text as the layer itself puts out. Of the 88 edits of the embedded model in
#: `results/damage.json` 17 of the 18 past it more than doubled perplexity, and 2 of the other 70.
DOUBLES = 1.0
#: An edit is refused that makes perplexity more than so many times what it was.
WORST = 2.0
#: On so many tokens of held-out prose, read where fewer of them make it `SUSPECT` times as large:
#: these cost an edit little, and overstate, as words with little in front of them suffer most.
TOKENS, FEW, SUSPECT = 1024, 128, 1.5
#: A model whose perplexity is more than this share of its vocabulary reads that prose as noise.
NOISE = 0.25


class DamageWarning(UserWarning):
    """An edit moves so much of general text that perplexity doubles in most such runs."""


def before(job: Job) -> float | None:
    """Perplexity on held-out prose of the model that is to be edited.

    Parameters
    ----------
    job : Job
        Of that model; a reader that is given remembers it.

    Returns
    -------
    float or None
        None, with a warning, where the model reads that prose as noise: then nothing can be told
        from it.

    Raises
    ------
    ValueError
        For a model whose logits are not finite.
    """
    reader = job.reader
    found = _remembered(reader, FEW)
    size = reader.model.config.get_text_config().vocab_size
    if found < NOISE * size:
        at_first(reader.model, found)
        return found
    warnings.warn(
        f"the model's perplexity on held-out English prose is {found:,.0f} before the edit already,"
        f" with a vocabulary of {size:,}: it reads it as noise, and whether the edit ruins the "
        "model cannot be told from it. Measure it on text of your own (zu.perplexity); check=False "
        "leaves this out",
        stacklevel=4,  # at the call of `unlearn`
    )
    return None


def judge(s: Method, job: Job, edit: Edit, was: float) -> float:
    """Refuse an edit that is on and makes perplexity more than `WORST` times what it was.

    Parameters
    ----------
    s : Method
        What made it.
    job : Job
        What it was made for.
    edit : Edit
        The edit, on its model.
    was : float
        What `before` found.

    Returns
    -------
    float
        What `before` would find now.

    Raises
    ------
    EditError
        With both perplexities, the damage, and what to turn.
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
    """Say so where an edit does more damage in a layer than `DOUBLES`, or edits do it together.

    Parameters
    ----------
    edit : Edit
        With its damage, where it is measured; on its model.
    now : float or None
        What `judge` found; None where nothing was read.
    """
    there = 0 if now is None else len(edits_on(edit.model))
    if now is not None and there > 1 and now > WORST * (first := at_first(edit.model, now)):
        warnings.warn(
            f"with the {there} edits that are on the model, its perplexity on a little held-out "
            f"prose is {now:,.1f}, more than {WORST:g} times the {first:,.1f} from before the first"
            " of them: they ruin it together, though none does alone. Restore some, or forget the "
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
    """Perplexity of the model as it is: a reader that is given keeps it."""
    if reader.single_call:
        return _read(reader, tokens)
    about = reader.fingerprint(), tokens
    if about not in reader.prose:
        reader.prose[about] = _read(reader, tokens)
    return reader.prose[about]


def _with_edit(s: Method, reader: Reader, tokens: int) -> float:
    """Perplexity of the edited model; `EditError` where it puts out no numbers."""
    try:
        return _read(reader, tokens)
    except ValueError as error:  # logits that are not finite
        raise EditError(f"the edit ruins the model: with it, {error}. {_advice(s)}") from None


def _read(reader: Reader, tokens: int) -> float:
    """Perplexity on the held-out prose, in one window."""
    model = reader.model
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokens
    tokens = min(tokens, context)
    return perplexity(
        model, reader.tokenizer, tokens=tokens, window=tokens, stride=tokens, reader=reader
    )


def _advice(s: Method) -> str:
    """What to turn: the other way than for an edit that changes nothing."""
    less, more = (", ".join(names) for names in s.remedies())
    turns = [f"more of {more}"] * bool(more) + [f"less of {less}"] * bool(less)
    return (f"Try fewer facts, {', '.join(turns)}, or another method; check=False takes the edit "
            "all the same")
