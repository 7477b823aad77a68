"""Guess what a misspelt name was meant to be, for the messages that refuse it."""
from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: How much of two names must agree, from 0 to 1; this is difflib's default.
CUTOFF = 0.6


def closest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known name that is most similar to a given one.

    Parameters
    ----------
    name : str
        The name that was given. Case counts; pass a lower-case name to ignore it.
    known : iterable of str
        The known names; of a dict, its keys.
    cutoff : float
        The least similarity, from 0 to 1: twice the characters in common over the characters of
        both.

    Returns
    -------
    str or None
        The most similar name, which is `name` itself if it is known; None if none is similar
        enough.
    """
    found = get_close_matches(name, known, 1, cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str:
    """A question for the beginning of a message about an unknown name.

    Parameters
    ----------
    name, known, cutoff
        As in `closest`.

    Returns
    -------
    str
        ``"did you mean 'NAME'? "``, with the space behind it, or "" if no name is similar enough.
    """
    close = closest(name, known, cutoff)
    return "" if close is None else f"did you mean '{close}'? "
