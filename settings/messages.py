"""How messages to a person are worded: one line, nothing unprintable, the nearest right word, the first few of many.

A leaf that imports the standard library only. Every package words its messages with it except ``stores``, which is
installed alone and has its own copy of these few lines in ``stores/wording.py``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

_LONGEST_LINE = 500
_FEW = 3
_NAMED_IN_PICKLE = re.compile(r"GLOBAL ([\w.<>]{1,200}?)\.?(?=\s|$)")


def one_line(error: BaseException | str, longest: int = _LONGEST_LINE) -> str:
    """Return an exception, or a text, as one printable line of at most ``longest`` characters and an ellipsis.

    White space of any length becomes one blank. An exception without a message is named by its type.
    """
    text = printable(" ".join(str(error).split()))
    if not text and not isinstance(error, str):
        return type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def why_not_loaded(error: BaseException, longest: int = _LONGEST_LINE) -> str:
    """Word why a library does not load a file of tensors, as ``one_line`` does, without its advice.

    torch advises to load what it has refused with ``weights_only=False``, which runs the file's code.
    """
    text = str(error)
    if "weights_only" not in text and "Weights only" not in text:
        return one_line(error, longest)
    named = _NAMED_IN_PICKLE.search(text)
    return f"it names {printable(named[1])}, which is code" if named else "it is no file of tensors alone"


def printable(text: str) -> str:
    """Spell out what a terminal would act on: control characters, format characters and halves of surrogate pairs."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(word: str, known: Iterable[str], most: int = 1) -> str:
    """Return ``; did you mean 'x'?`` if a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), most)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def available(known: Iterable[str]) -> str:
    """Return ``available: a, b`` or ``available: none``."""
    return f"available: {', '.join(known) or 'none'}"


def first_few(items: Sequence[object], most: int = _FEW, show: Callable[[object], str] = str) -> str:
    """Return the first ``most`` items, each worded by ``show``, separated by commas, and how many more there are."""
    shown = ", ".join(show(item) for item in items[:most])
    rest = len(items) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun, as ``1 row`` or ``2 rows``; ``nouns`` is a plural that does not just add an s."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
