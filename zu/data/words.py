"""Where a word stands in a text: as a word, not as a part of one."""
from __future__ import annotations

import unicodedata

#: Scripts whose words have no border that a text shows: they are written without spaces, or their
#: endings follow a name without one (Hangul). By how their characters' Unicode names begin.
UNSPACED = ("CJK", "IDEOGRAPHIC", "KANGXI", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA",
            "BOPOMOFO", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE",
            "BALINESE", "TAI ", "YI ")

#: What joins two signs into one, such as the persons of a family's emoji.
_JOINER = "\u200d"
#: Signs that are a part of the one before them: the joiner, and the colours of skin.
_BOUND = frozenset(_JOINER + "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


def places(text: str, word: str) -> list[int]:
    """Where a word stands in a text as a word.

    "Peru" stands in "Peru's coast", not in "Peruvian"; 秘鲁 stands in 秘鲁的首都, since Chinese
    shows no borders between words.

    Parameters
    ----------
    text : str
        Where it is looked for.
    word : str
        One word or several; "" stands nowhere.

    Returns
    -------
    list of int
        Where it begins, from the left, each place once and none within another.
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
    """Whether a word stands in a text as a word, in capitals or not, its accents coded either way.

    Parameters
    ----------
    text, word : str
        As in `places`.

    Returns
    -------
    bool
    """
    return bool(places(folded(text), folded(word)))


def folded(text: str) -> str:
    """A text to be compared: without capitals, and each accent coded in one way (NFC).

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
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
    """Whether a character is a part of words: a letter, a mark on one, or a digit."""
    return unicodedata.category(char)[0] in "LMN"


def _is_unspaced(char: str) -> bool:
    """Whether a character is of a script that shows no borders between words."""
    return unicodedata.name(char, "").startswith(UNSPACED)
