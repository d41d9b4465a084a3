"""The wording of messages; the copy in ``stores/wording.py`` words them the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import stores.wording
from settings.messages import available, first_few, nearest, one_line, plural, printable

UNPRINTABLE = [
    ("half \ud83d of a pair", r"half \ud83d of a pair"),
    ("caf\udcff", r"caf\udcff"),  # a byte of a file name that is not UTF-8
    ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
    ("right to left \u202e mark", r"right to left \u202e mark"),
    ("zero\u200bwidth", r"zero\u200bwidth"),
    ("\ufeffa", r"\ufeffa"),
    ("Ä, 日本語 and 😀", "Ä, 日本語 and 😀"),
]
ONE_LINE: list[tuple[BaseException | str, str]] = [
    (ValueError("two\nlines,\r\n a\ttab"), "two lines, a tab"),
    ("  a text \n", "a text"),
    (OSError(2, "No such file or directory", "a\nb"), r"[Errno 2] No such file or directory: 'a\nb'"),
    *UNPRINTABLE,
]
BOUNDED = [
    (500, "a" * 500),
    (501, "a" * 500 + "…"),
    (10_000, "a" * 500 + "…"),
]
AVAILABLE: list[tuple[list[str], str]] = [
    (["b", "a"], "available: b, a"),
    ([], "available: none"),
]
FIRST_FEW: list[tuple[list[object], int, str]] = [
    ([], 3, ""),
    (["a"], 3, "a"),
    ([1, 2, 3], 3, "1, 2, 3"),
    ([1, 2, 3, 4], 3, "1, 2, 3 and 1 more"),
    (["a", "b", "c"], 1, "a and 2 more"),
]


@pytest.fixture(params=["settings", "stores"])
def wording(request: pytest.FixtureRequest) -> dict[str, Callable[..., str]]:
    """The functions that both modules have."""
    ours = {"one_line": one_line, "printable": printable, "available": available, "first_few": first_few}
    return ours if request.param == "settings" else {name: getattr(stores.wording, name) for name in ours}


@pytest.mark.parametrize(("text", "expected"), UNPRINTABLE)
def test_what_a_terminal_would_act_on_is_spelt_out(
    wording: dict[str, Callable[..., str]], text: str, expected: str
) -> None:
    shown = wording["printable"](text)
    assert shown == expected
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize(("error", "expected"), ONE_LINE)
def test_an_error_or_a_text_is_one_line(
    wording: dict[str, Callable[..., str]], error: BaseException | str, expected: str
) -> None:
    assert wording["one_line"](error) == expected


@pytest.mark.parametrize("error", [ValueError(), ValueError(""), TimeoutError(" \n"), KeyboardInterrupt()])
def test_an_error_without_a_message_is_named_by_its_type(
    wording: dict[str, Callable[..., str]], error: BaseException
) -> None:
    assert wording["one_line"](error) == type(error).__name__


@pytest.mark.parametrize(("length", "expected"), BOUNDED)
def test_a_line_is_bounded(wording: dict[str, Callable[..., str]], length: int, expected: str) -> None:
    assert wording["one_line"](ValueError("a" * length)) == expected


def test_the_bound_can_be_chosen(wording: dict[str, Callable[..., str]]) -> None:
    assert wording["one_line"]("abcdef", 3) == "abc…"
    assert wording["one_line"]("abc", 3) == "abc"


@pytest.mark.parametrize(("names", "expected"), AVAILABLE)
def test_available_names_keep_their_order(
    wording: dict[str, Callable[..., str]], names: list[str], expected: str
) -> None:
    assert wording["available"](names) == expected
    assert wording["available"](iter(names)) == expected


@pytest.mark.parametrize(("items", "most", "expected"), FIRST_FEW)
def test_the_first_few_of_many(
    wording: dict[str, Callable[..., str]], items: list[object], most: int, expected: str
) -> None:
    assert wording["first_few"](items, most) == expected


def test_three_are_shown_unless_told_otherwise(wording: dict[str, Callable[..., str]]) -> None:
    assert wording["first_few"](range(10)) == "0, 1, 2 and 7 more"


def test_items_are_worded_by_a_function() -> None:
    assert first_few(["a", "b", "c"], 2, repr) == "'a', 'b' and 1 more"


def test_the_nearest_known_word_is_suggested() -> None:
    known = ["clip", "swin", "vggish", "swing"]
    assert nearest("clib", known) == "; did you mean 'clip'?"
    assert nearest("swim", known, most=2) == "; did you mean 'swin' or 'swing'?"
    assert nearest("clib", iter(known)) == "; did you mean 'clip'?"
    assert nearest("resnet", known) == ""
    assert nearest("clip", []) == ""


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2, ("row",), "2 rows"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_count_has_its_noun(count: int, words: tuple[str, ...], expected: str) -> None:
    assert plural(count, *words) == expected
