"""Checks before a stage starts: what is wrong with the place of a store, said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.shared.errors import PreflightError
from pipeline.shared.preflight import check_writable


def test_a_file_in_the_place_of_a_store_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(PreflightError) as itself:
        check_writable(file)
    assert str(itself.value) == f"{file}: it is not a directory; name another store"
    with pytest.raises(PreflightError) as parent:
        check_writable(file / "stores" / "mine")
    assert str(parent.value) == f"{file / 'stores' / 'mine'}: {file} is not a directory; name another store"


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tmp_path / "gone")
    with pytest.raises(PreflightError, match=r"store: is a link to .*gone, which does not exist; name another store"):
        check_writable(tmp_path / "store")


def test_a_store_that_does_not_exist_yet_is_fine(tmp_path: Path) -> None:
    check_writable(tmp_path / "stores" / "mine")
