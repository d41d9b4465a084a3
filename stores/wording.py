"""How messages are worded here: one printable line.

The same few lines as ``settings/messages.py`` in the checkout; this package is installed alone and imports none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_LONGEST_LINE = 500


def one_line(error: BaseException | str, longest: int = _LONGEST_LINE) -> str:
    """Return an exception (its type where it says nothing) or a text as one printable line of bounded length."""
    text = printable(" ".join(str(error).split()))
    if not text:
        return type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def printable(text: str) -> str:
    """Spell out what a terminal would act on: control characters, format characters and halves of surrogate pairs."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def available(known: Iterable[str]) -> str:
    """Return ``available: a, b`` or ``available: none``."""
    return f"available: {', '.join(known) or 'none'}"


def first_few(items: Sequence[object], most: int = 3) -> str:
    """Return the first items, separated by commas, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:most])
    rest = len(items) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
