"""What a language puts between two texts that follow each other: a space, or nothing."""
from __future__ import annotations

import re
import unicodedata
from itertools import chain

#: Scripts that put no space between words, and the punctuation of East Asia: code points from, to.
_UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Lanna
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x312F),  # Han radicals, punctuation, Hiragana, Katakana, Bopomofo
    (0x3190, 0x4DBF),  # Kanbun, Bopomofo, Katakana, squared words, Han
    (0x4E00, 0x9FFF),  # Han
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0xFE30, 0xFE4F),  # forms for vertical lines
    (0xFF00, 0xFF9F),  # full-width forms, half-width Katakana
    (0x1AFF0, 0x1B16F),  # Kana
    (0x20000, 0x3FFFF),  # Han
)
#: Those of them that separate sentences by a space.
_SPACED_SENTENCES = ((0x0E00, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF), (0xAA60, 0xAA7F))
#: Their own marks at the end of a sentence.
_ENDS = "།༎၊။។៕៖"
_STOPS = ".?!;:…"
#: Signs that end a sentence, so that no full stop follows.
_LAST = ".?!…؟۔।॥。．！？"
_QUOTES = "\"'`"
#: Beginnings of a text that follow a word without a space.
_CLOSING = re.compile(r"""[,;:!?%‰…]|\.(?!\w)|'(?:s|d|m|t|re|ve|ll)(?![\w-])|-(?=[^\W\d_])""")


def separator(before: str, after: str) -> str:
    """The text between two texts that follow each other, such as a prompt and its answer.

    Nothing goes behind white space, an opening bracket or quote, a dash, slash or elision (``l'``)
    that belongs to a word, or a currency sign before a number; nor before a comma or the like; nor
    where a script without spaces continues, that is behind Han, Kana, Thai, Lao, Khmer, Burmese,
    Tibetan and full-width punctuation, unless these are a foreign word among words with spaces. In
    all other cases there is a space, for example between an English prompt and a Chinese answer.

    Parameters
    ----------
    before, after : str
        The two texts. The first has no spaces at its end (but may end in line breaks), the second
        none at its beginning.

    Returns
    -------
    str
        ``" "`` or ``""``.
    """
    before, after = _seen(before), _seen(after)
    if not before or not after or before[-1].isspace():
        return ""
    if _open(before, after) or _closes(after):
        return ""
    return "" if _goes_on(before, after) else " "


def sentence(before: str, after: str, join: str | None = None) -> str:
    """Two texts as one sentence, with what separates it from the next one.

    Parameters
    ----------
    before, after : str
        A prompt and its answer.
    join : str, optional
        The text between them; by default that of `separator`.

    Returns
    -------
    str
        The sentence with a full stop and a space at its end. Some scripts use only one of the two,
        or another stop; and if the answer ends in a stop of its own, no other is added.
    """
    whole = before + (separator(before, after) if join is None else join) + after
    end = _seen(whole)[-1:]
    if _in(end, _SPACED_SENTENCES):
        return whole + " "
    if end and end in _LAST:
        return whole + ("" if _unspaced(end) else " ")
    return whole + ("。" if _unspaced(end) else ". ")


def trimmed(prompt: str) -> str:
    """A prompt without the spaces at its end; line breaks stay.

    Parameters
    ----------
    prompt : str
        Any text.

    Returns
    -------
    str
        The prompt up to its last line break, or up to its last character that is not white space.
    """
    bare = prompt.rstrip()
    tail = prompt[len(bare):]
    return bare + tail[:tail.rfind("\n") + 1]


def _seen(text: str) -> str:
    """A text without invisible characters, such as marks of direction."""
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def _in(sign: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    """Whether a character, if it is one, lies in one of the ranges."""
    return bool(sign) and any(first <= ord(sign) <= last for first, last in ranges)


def _unspaced(sign: str) -> bool:
    """Whether a character belongs to a script without spaces, or to its punctuation."""
    return _in(sign, _UNSPACED)


def _spaced_word(sign: str) -> bool:
    """Whether a character belongs to a word of a script with spaces."""
    return sign.isalnum() and not _unspaced(sign)


def _open(before: str, after: str) -> bool:
    """Whether a text's last sign, such as a bracket, quote or dash, belongs to what comes next."""
    last, previous = before[-1], before[-2:-1]
    kind = unicodedata.category(last)
    tied = bool(previous) and not previous.isspace()  # to what stands before it
    if kind == "Ps" or last in "¿¡" or (kind == "Sc" and after[0].isdigit()):
        return True
    if kind in ("Pd", "Pc") or last in "/\\":
        return tied
    if last in "@#":
        return not tied
    if kind in ("Pi", "Pf") or last in _QUOTES:
        if last in "'’" and previous.isalpha():
            return _elided(before)
        return not (_spaced_word(previous) or previous in (*_STOPS, ",", ")", "]", "}", "%"))
    return False


def _elided(before: str) -> bool:
    """Whether an apostrophe at a text's end stands for a vowel (``l'``, ``dell'``).

    Otherwise it closes a quote, or marks a possessive (``the countries'``).
    """
    if re.search(r"(?:^|[\s(\[])['‘]\S", before[:-1]):
        return False
    word = re.split(r"[\s'’(\[-]", before[:-1])[-1]
    return len(word) == 1 or word[-1].lower() not in "sxz"


def _closes(after: str) -> bool:
    """Whether a text begins with a sign that follows a word without a space."""
    first = after[0]
    if unicodedata.category(first) == "Pe" or (_unspaced(first) and _is_stop(first)):
        return True
    return bool(_CLOSING.match(after.replace("’", "'", 1) if first == "’" else after))


def _is_stop(sign: str) -> bool:
    """Whether an East Asian sign is a comma, a full stop or the like, and not an opening sign."""
    return unicodedata.category(sign) in ("Po", "Pf")


def _goes_on(before: str, after: str) -> bool:
    """Whether a script without spaces continues from one text into the other."""
    words = before.split()
    word, last = words[-1], before[-1]
    if not any(map(_unspaced, word)):
        return False  # the answer is a foreign word here, in whatever script
    if last in _ENDS or (last in _STOPS and _in(_letter(word), _SPACED_SENTENCES)):
        return False
    if not _unspaced(last):
        # 叫Python + 语言; but Latin behind Latin is set apart: 叫Python + is
        return _unspaced(after[0]) or not last.isalnum()
    if _unspaced(after[0]) or _is_stop(last) or len(words) == 1:
        return True
    # a foreign word among words with spaces: "the capital of 秘鲁" + "in South America"
    alone = not any(map(_spaced_word, word))
    return not (alone and _spaced_word(words[-2][-1]))


def _letter(word: str) -> str:
    """The last letter of a word, marks of vowels included; "" for none."""
    letters = (c for c in reversed(word) if unicodedata.category(c)[0] in "LM")
    return next(chain(letters, ("",)))
