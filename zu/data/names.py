"""What a misspelt name was meant to be, for the messages that refuse it."""
from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

#: How much of two names must agree, 0 to 1: difflib's own default.
CUTOFF = 0.6


def closest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known name that is most like another one.

    Parameters
    ----------
    name : str
        The name that was given. Upper and lower case count: lower it where they should not.
    known : iterable of str
        The names that there are; a dict stands for its keys.
    cutoff : float
        The least likeness, 0 to 1: twice the characters in common over the characters of both.

    Returns
    -------
    str or None
        The likest one, which is `name` itself where it is known; None where none is like enough.
    """
    found = get_close_matches(name, known, 1, cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str:
    """The question to put into a message before what else it says.

    Parameters
    ----------
    name, known, cutoff
        As in `closest`.

    Returns
    -------
    str
        ``"did you mean 'NAME'? "``, with the space behind it, or "" where nothing is like enough.
    """
    close = closest(name, known, cutoff)
    return "" if close is None else f"did you mean '{close}'? "
