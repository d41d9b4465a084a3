"""Wording of messages: one printable line, the first few items of many.

A few lines that ``settings/messages.py`` in the checkout repeats, because this package is also installed alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_LONGEST_LINE = 500
_CREDENTIALS = re.compile(r"://[^/\s@]*@")


def one_line(error: BaseException | str, longest: int = _LONGEST_LINE) -> str:
    """Return a text, or the message of an error (its type if it has none), as one printable line of bounded length."""
    text = printable(" ".join(str(error).split()))
    if not text and not isinstance(error, str):
        return type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def printable(text: str) -> str:
    """Escape what a terminal would interpret: control characters, format characters and unpaired surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def available(known: Iterable[str]) -> str:
    """Return ``available: a, b`` or ``available: none``."""
    return f"available: {', '.join(known) or 'none'}"


def first_few(items: Sequence[object], most: int = 3) -> str:
    """Return the first items, separated by commas, and how many more there are: ``a, b, c and 7 more``."""
    shown = ", ".join(str(item) for item in items[:most])
    rest = len(items) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 row``, ``2 rows``."""
    return f"{count} {noun if count == 1 else noun + 's'}"


def without_credentials(text: str) -> str:
    """Return text with URIs that name no user and no secret."""
    return _CREDENTIALS.sub("://", text)
