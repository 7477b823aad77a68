"""Find words in a text as whole words, not as parts of others."""
from __future__ import annotations

import unicodedata

#: Scripts that show no borders between words, since they use no spaces, or attach endings to a
#: name without one (Hangul). Given by the beginnings of their characters' Unicode names.
UNSPACED = ("CJK", "IDEOGRAPHIC", "KANGXI", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA",
            "BOPOMOFO", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE",
            "BALINESE", "TAI ", "YI ")

#: Joins two signs into one, such as the persons in the emoji of a family.
_JOINER = "\u200d"
#: Signs that belong to the one before them: the joiner and the skin colours.
_BOUND = frozenset(_JOINER + "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


def places(text: str, word: str) -> list[int]:
    """The places at which a text holds a word as a whole word.

    "Peru" is found in "Peru's coast", not in "Peruvian"; 秘鲁 is found in 秘鲁的首都, since Chinese
    shows no borders between words.

    Parameters
    ----------
    text : str
        The text to search.
    word : str
        One word or several; "" is found nowhere.

    Returns
    -------
    list of int
        Where the word begins, from left to right, without overlaps.
    """
    found: list[int] = []
    at = text.find(word) if word else -1
    while at >= 0:
        end = at + len(word)
        if _is_border(text[at - 1:at], word[0]) and _is_border(word[-1], text[end:end + 1]):
            found.append(at)
            at = text.find(word, end)
        else:
            at = text.find(word, at + 1)
    return found


def stands_in(text: str, word: str) -> bool:
    """Whether a text holds a word, whatever the case of letters and the coding of accents.

    Parameters
    ----------
    text, word : str
        As in `places`.

    Returns
    -------
    bool
        True if the word is found at least once.
    """
    return bool(places(folded(text), folded(word)))


def folded(text: str) -> str:
    """A text prepared for comparison: without capitals, and with all accents coded alike (NFC).

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The folded text.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _is_border(left: str, right: str) -> bool:
    """Whether a word may end between two characters; "" stands for the end of the text."""
    if not left or not right:
        return True
    if unicodedata.category(right)[0] == "M" or right in _BOUND or left == _JOINER:
        return False  # a mark belongs to the character before it, as a sign in an emoji does
    inside = _is_letter(left) and _is_letter(right)
    return not inside or _is_unspaced(left) or _is_unspaced(right)


def _is_letter(char: str) -> bool:
    """Whether a character is part of a word: a letter, a mark on one, or a digit."""
    return unicodedata.category(char)[0] in "LMN"


def _is_unspaced(char: str) -> bool:
    """Whether a character belongs to a script that shows no borders between words."""
    return unicodedata.name(char, "").startswith(UNSPACED)
