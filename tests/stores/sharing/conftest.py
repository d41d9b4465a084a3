"""A store to share, and places to share it at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests._helpers.shared import BUCKET, s3_server, world

_numbers = count()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    pytest.importorskip("moto", reason="needs moto, an S3 server for tests")
    pytest.importorskip("s3fs", reason="needs s3fs")
    with s3_server():
        yield f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store; nobody changes it."""
    return world(tmp_path_factory.mktemp("shared") / "store")


@pytest.fixture(params=["folder", "s3"])
def addresses(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return addresses of places where nothing is yet."""
    if request.param == "folder":
        return lambda: f"file://{tmp_path}/place%20{next(_numbers)}"
    bucket = request.getfixturevalue("s3")
    return lambda: f"{bucket}/place {next(_numbers)}/here"


@pytest.fixture
def address(addresses: Callable[[], str]) -> str:
    return addresses()


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELSTORE_CACHE", str(tmp_path / "caches"))


@pytest.fixture
def folder_address(tmp_path: Path) -> str:
    """The address of a folder: what is the same at all places is tried at the quickest."""
    return f"file://{tmp_path}/place"
