"""Limits that parsers repeat because they import nothing of ``stores``: what one accepts, the other accepts."""

from __future__ import annotations

import pytest

from parsers import annotations
from parsers.annotations import rows
from stores.errors import InvalidKeyError
from stores.format import layout

NAMES = ["a", "A.b-c_9", "9", "a" * 64, "a" * 65, "", ".a", "-a", "_a", "a/b", "a\n", "ä"]
KEYS = ["k", "ä" * 256, "ä" * 256 + "k", "", "a\0b", "\udcff", "../x", " "]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_datasets_and_splits_are_names_of_tables(name: str) -> None:
    try:
        layout.check_name(name)
    except InvalidKeyError:
        with pytest.raises(annotations.AnnotationError):
            annotations._check_name("dataset", name)
    else:
        annotations._check_name("dataset", name)


@pytest.mark.parametrize("key", KEYS)
def test_ids_are_keys_of_a_store(key: str) -> None:
    try:
        layout.check_key(key)
    except InvalidKeyError:
        with pytest.raises(rows.RowError):
            rows.check_key("video_id", key)
    else:
        assert rows.check_key("video_id", key) == key
