"""Tells the characters that people read from those that only steer how text is shown.

Format characters (Unicode category Cf: zero-width spaces, byte order marks, soft hyphens, marks of direction) come into
a text by copying. Nobody sees them, and they are no words. Some belong to what is written, however: the joiners of
emoji, of Persian and of Indic scripts, and the few format characters that are drawn.
"""

from __future__ import annotations

import unicodedata

_BREAK = "\u200b"
"""ZERO WIDTH SPACE, the one format character that stands between words (Unicode Standard, section 23.2)."""

_JOINERS = "\u200c\u200d\u180e"
"""ZERO WIDTH NON-JOINER, ZERO WIDTH JOINER, MONGOLIAN VOWEL SEPARATOR."""

_DRAWN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Signs that embrace the digits after them (Unicode property Prepended_Concatenation_Mark)."""

_TAGS = "".join(map(chr, range(0xE0020, 0xE0080)))
_LONGEST_FLAG = 16  # characters; a flag is an emoji, at most six letters and a final tag

_VIRAMA = 9  # the canonical combining class of signs that remove a vowel


def without_format(text: str) -> tuple[str, list[int]]:
    """Return what is to be read of a text, and where each of its characters stands in the text.

    Format characters that no word needs are left out, so that a word in which one stands stays whole. A zero-width
    space, a control character or a lone surrogate becomes a blank; line ends stay.
    """
    kept: list[str] = []
    positions: list[int] = []
    for position, char in enumerate(text):
        category = unicodedata.category(char)
        if category == "Cf" and char != _BREAK and not _is_written(text, position):
            continue
        blank = char == _BREAK or (category in ("Cc", "Cs") and char != "\n")
        kept.append(" " if blank else char)
        positions.append(position)
    return "".join(kept), positions


def trimmed(text: str) -> str:
    """Return a text without the white space and the format characters around it."""
    start, end = 0, len(text)
    while start < end and _is_margin(text, start):
        start += 1
    while end > start and _is_margin(text, end - 1):
        end -= 1
    return text[start:end]


def format_characters(text: str) -> list[str]:
    """Return the format characters that are not read, each once and as ``U+200B``, in the order of the text."""
    unread = (
        char
        for position, char in enumerate(text)
        if unicodedata.category(char) == "Cf" and not _is_written(text, position)
    )
    return [f"U+{ord(char):04X}" for char in dict.fromkeys(unread)]


def _is_margin(text: str, position: int) -> bool:
    char = text[position]
    return char.isspace() or (unicodedata.category(char) == "Cf" and not _is_written(text, position))


def _is_written(text: str, position: int) -> bool:
    """Return whether the format character at a position belongs to what is written.

    Joiners do inside an emoji, behind the virama of an Indic script, and inside a word (or behind its number) of a
    script that has no capitals, such as the Arabic one: Latin, Greek and Cyrillic words need none. Tags do behind an
    emoji (the flags of Scotland and Wales).
    """
    char = text[position]
    before = text[position - 1] if position else ""
    if char in _DRAWN:
        return True
    if char in _TAGS:
        return _is_symbol(text[max(0, position - _LONGEST_FLAG) : position].rstrip(_TAGS)[-1:])
    if char not in _JOINERS or not before:
        return False
    if unicodedata.combining(before) == _VIRAMA:
        return True
    after = text[position + 1 : position + 2]
    if char == "\u200d" and _is_symbol(after) and _is_emoji_end(before):
        return True
    return _is_uncased(before) and _is_uncased(after) and not (before.isnumeric() and after.isnumeric())


def _is_symbol(char: str) -> bool:
    return char != "" and unicodedata.category(char)[0] == "S"


def _is_emoji_end(char: str) -> bool:
    """Return whether a character can end an emoji: a symbol, a variation selector, a keycap or a tag."""
    return _is_symbol(char) or char in "\ufe0f\u20e3\U000e007f"


def _is_uncased(char: str) -> bool:
    """Return whether a character is a letter, mark or number of which there is neither a small nor a capital form."""
    return char != "" and unicodedata.category(char)[0] in "LMN" and char.lower() == char.upper()
