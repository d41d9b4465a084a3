"""Which characters are read: format characters that nobody sees, and those that belong to what is written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.characters import format_characters, trimmed, without_format

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
MAN_RUNNING = "\U0001f3c3\U0001f3fd\u200d♂️"
HEART_ON_FIRE = "❤️\u200d\U0001f525"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
PERSIAN = "می\u200cخواهم"
PERSIAN_NUMBER = "۵\u200cساله"
HINDI = "क्\u200dष"
MALAYALAM = "അവന്\u200d"  # its ZERO WIDTH JOINER makes the last letter a chillu
ARABIC_NUMBER = "\u0600١٢"


@pytest.mark.parametrize(
    "text",
    [FAMILY, MAN_RUNNING, HEART_ON_FIRE, SCOTLAND, PERSIAN, PERSIAN_NUMBER, HINDI, MALAYALAM, ARABIC_NUMBER, "a\nb"],
)
def test_what_is_written_stays(text: str) -> None:
    assert without_format(text) == (text, list(range(len(text))))
    assert format_characters(text) == []
    assert trimmed(text) == text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\ufeffwhat is it", "what is it"),
        ("foot\u00adball", "football"),
        ("what\u200bis it", "what is it"),
        ("\u202bwhat\u202c is \u2066it\u2069", "what is it"),
        ("word\u2060joiner", "wordjoiner"),
        ("Auf\u200clage", "Auflage"),
        ("boy\u200d", "boy"),
        ("\u200d\U0001f468", "\U0001f468"),
        ("\U0001f468\u200d runs", "\U0001f468 runs"),
        ("می\u200c رود", "می رود"),
        ("12\u200d34", "1234"),
        ("\U000e0067\U000e0062boy", "boy"),
        ("a\x00b\x85c\ud800", "a b c "),
    ],
)
def test_what_nobody_sees_is_not_read(text: str, read: str) -> None:
    assert without_format(text)[0] == read


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" \u00a0\u3000what is it\t\n", "what is it"),
        ("\ufeff \u200bv1\u200e ", "v1"),
        (f"\u200b{FAMILY} ", FAMILY),
        (f"{MALAYALAM}\u200b", MALAYALAM),
        ("a \u200b b", "a \u200b b"),
        ("\u200b\u00ad ", ""),
        ("", ""),
    ],
)
def test_trimmed(text: str, kept: str) -> None:
    assert trimmed(text) == kept


def test_format_characters_are_named_once_in_order() -> None:
    assert format_characters(f"a\u00adb\u200bc\u00add {FAMILY}") == ["U+00AD", "U+200B"]


@given(
    st.text(st.sampled_from("aä \n\u200b\u200c\u200d\u00ad\ufeff\U0001f468\ufe0fمक्\u0600\U000e0067\x00"), max_size=9)
)
def test_positions_point_at_the_characters_that_are_read(text: str) -> None:
    read, positions = without_format(text)
    assert positions == sorted(set(positions))
    assert len(read) == len(positions)
    for char, position in zip(read, positions, strict=True):
        assert char in (text[position], " ")
    kept = trimmed(text)
    assert trimmed(kept) == kept
    assert text.count(kept) >= 1
    for dropped in set(range(len(text))) - set(positions):
        assert unicodedata.category(text[dropped]) == "Cf"
