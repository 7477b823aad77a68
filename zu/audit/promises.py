"""What a card's numbers allow somebody to promise, and what they do not."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cards import FORMAT
from .erasure import TESTS

#: The level of every bound here.
LEVEL = 0.95
#: What no card can show, whatever its numbers.
NEVER = (
    "That the facts are gone. A test that finds nothing is a test that found nothing; another one "
    "may find them.",
    "Anything about other copies: the weights before the edit, models trained from them, caches, "
    "logs, the text that the model was trained on, or documents that are looked up beside it.",
    "Anything about other weights: after further training, merging or rounding, measure again.",
)


def at_most(hits: int, n: int, level: float = LEVEL) -> float:
    """The one-sided exact bound of a share: with at least this level it is no larger.

    Parameters
    ----------
    hits, n : int
        What was found: `hits` of `n` that were drawn at random.
    level : float
        How sure the bound should be, between 0 and 1.

    Returns
    -------
    float
        The bound, 0 to 1. With no hits it is 1 − (1 − level)^(1/n), about 3/n at 95%.

    Raises
    ------
    ValueError
        If the counts or the level make no sense.

    References
    ----------
    Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of
    the binomial".
    """
    _check(level)
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share: give at least one question, and no more hits "
                         "than questions")
    from scipy.stats import beta  # here, as it takes a second to import

    return 1.0 if hits == n else float(beta.ppf(level, hits + 1, n - hits))


def questions_needed(share: float, hits: int = 0, level: float = LEVEL) -> int:
    """How many must be asked so that so many hits still bound the share.

    Parameters
    ----------
    share : float
        The largest share that is to be ruled out from above, between 0 and 1.
    hits : int
        How many hits are to be allowed for.
    level : float
        How sure the bound should be, between 0 and 1.

    Returns
    -------
    int
        The smallest n with ``at_most(hits, n, level) <= share``.

    Raises
    ------
    ValueError
        If the share, the hits or the level make no sense.
    """
    _check(level)
    if not 0 < share < 1 or hits < 0:
        raise ValueError(f"a share of {share:g} with {hits} hits cannot be bounded: give a share "
                         "between 0 and 1, and no negative number of hits")
    low, high = hits, hits + 1
    while at_most(hits, high, level) > share:
        low, high = high, 2 * high
    while high - low > 1:  # the bound falls with n: low is too few, high is enough
        middle = (low + high) // 2
        if at_most(hits, middle, level) > share:
            low = middle
        else:
            high = middle
    return high


def _check(level: float) -> None:
    """Refuse a level that is none."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level:g}: give one between 0 and 1, such as 0.95")


@dataclass(frozen=True)
class Promises:
    """Sentences that a card supports, and what remains open.

    Attributes
    ----------
    may : tuple of str
        What may be said, each sentence with its numbers.
    open : tuple of str
        Ways in which answers came back, and what nobody has looked at.
    never : tuple of str
        What no card shows.
    """

    may: tuple[str, ...]
    open: tuple[str, ...]
    never: tuple[str, ...] = NEVER

    def __str__(self) -> str:
        parts = (("You may say:", self.may), ("You must add:", self.open),
                 ("You may not say:", self.never))
        return "\n\n".join("\n".join([head, *(f"- {line}" for line in lines)])
                           for head, lines in parts if lines)


def promises(card: Mapping[str, Any] | str | Path) -> Promises:
    """What the numbers of a card allow somebody to say about an edit.

    The sentences hold no fact's text.

    Parameters
    ----------
    card : mapping, str or Path
        What `zu.card` returned, or the path of a ``.card.json`` that it wrote.

    Returns
    -------
    Promises
        Sentences to say, to add, and not to say.

    Raises
    ------
    ValueError
        If this is no card.
    """
    about = card if isinstance(card, Mapping) else _read(Path(card).expanduser())
    if about.get("format") != FORMAT:
        raise ValueError("this is no card of zu: give what zu.card returned, or the path of the "
                         ".card.json that it wrote")
    before, after = about["measures"]["before"], about["measures"]["after"]
    may, left = _of_asking(before, after, about["facts"])
    for more_may, more_left in (_of_damage(before, after, about.get("ppl_tokens", 0)),
                                _of_tests(before, after)):
        may, left = may + more_may, left + more_left
    return Promises(tuple(may), tuple(left))


def _read(path: Path) -> dict[str, Any]:
    """The content of a card's file; one without a format if the file is none."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no card at '{path}': write one with zu.card") from None
    except (ValueError, RecursionError):
        about = None
    return about if isinstance(about, dict) else {}


Found = Mapping[str, Any]
Lines = tuple[list[str], list[str]]


def _mean(found: Sequence[float | None] | None) -> float | None:
    """A measure's mean in percent; None if it was not asked."""
    mean = found[0] if found else None
    return None if mean is None or not math.isfinite(mean) else mean


def _of_asking(before: Found, after: Found, n: int) -> Lines:
    """Sentences on the facts' own wording and on others."""
    may, left = [], []
    was, now = _mean(before["eff"]), _mean(after["eff"])
    if was is None or now is None:
        left.append("The facts themselves were not asked.")
    else:
        may.append("Asked in the wording of the edit, the model answers "
                   f"{_share(now, n)}; without the edit it answered {_share(was, n)}.")
        if was < 100:
            left.append(f"Before the edit it did not answer {_share(100 - was, n)}: that these are "
                        "not answered now shows nothing.")
        if now == 0:
            left.append(f"This holds for the {n} facts that were asked. If they stand for a longer "
                        f"list, up to {at_most(0, n):.1%} of that list may still be answered "
                        "(95%, if they were drawn from it at random).")
    was, now = _mean(before["gen"]), _mean(after["gen"])
    if was is None or now is None:
        left.append("No other wording was asked.")
    elif was == 0:
        left.append("In other wordings the model answered nothing before the edit: that it "
                    "answers nothing now shows nothing.")
    else:
        may.append(f"Asked in other words, the model answers {_in_words(after['gen'])} of the "
                   f"questions; without the edit it answered {_in_words(before['gen'])}.")
    return may, left


def _of_damage(before: Found, after: Found, tokens: int) -> Lines:
    """Sentences on neighbours and on prose."""
    may, left = [], []
    if _mean(before.get("spe")) is None:
        left.append("No neighbour was asked: what else was lost is not known.")
    elif _mean(before["spe"]) == 0:
        left.append("The model knew none of the neighbours: that they were spared is not shown.")
    else:
        may.append(f"Of the questions about neighbours it answers {_in_words(after['spe'])}; "
                   f"without the edit it answered {_in_words(before['spe'])}.")
    was, now = before.get("ppl"), after.get("ppl")
    if "ppl" not in after:
        left.append("Perplexity was not measured: whether the model still writes is not known.")
    elif was is None or now is None or not math.isfinite(was) or not math.isfinite(now):
        left.append("Perplexity is not a number: the model may be ruined.")
    else:
        may.append(f"On {tokens:,} tokens of held-out prose perplexity changes by "
                   f"{100 * (now / was - 1):+.1f}%.")
    return may, left


def _of_tests(before: Found, after: Found) -> Lines:
    """Sentences on the ways to get an answer back."""
    if "robustness" not in after:
        return [], ["No way of getting the answers back was tried: give zu.card others of the same "
                    "relations."]
    nothing, back, idle, unasked = [], [], [], []
    for name in TESTS:
        if name == "asked":
            continue
        was, now = (_mean(x["robustness"].get(name)) for x in (before, after))
        if was is None or now is None:
            unasked.append(name)
        elif now > 0:
            back.append(f"{name} {_in_words(after['robustness'][name])}, without the edit "
                        f"{was:.0f}%")
        elif was == 0:
            idle.append(name)
        else:
            nothing.append(f"{name} (without the edit {was:.0f}%)")
    may = [f"These tests found no answer: {', '.join(nothing)}."] if nothing else []
    left = [f"These tests found answers: {'; '.join(back)}. How many they find in a model that "
            "never knew, the card does not say."] if back else []
    if idle:
        left.append(f"These find nothing without the edit either, so they show nothing: "
                    f"{', '.join(idle)}.")
    if unasked:
        left.append(f"These could not be asked: {', '.join(unasked)}.")
    return may, left


def _share(percent: float, n: int) -> str:
    """A share of n facts as a count, where it is one."""
    hits = percent * n / 100
    if abs(hits - round(hits)) > 1e-6 * n:
        return f"{percent:.1f}% of the {n} facts"
    return f"{round(hits)} of the {n} facts"


def _in_words(measure: Sequence[float]) -> str:
    """Mean, low and high in words."""
    mean, low, high = measure
    return f"{mean:.0f}% (95%: {low:.0f} to {high:.0f}%)"
