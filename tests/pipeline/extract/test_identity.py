"""What names a file, a content and a row: every part of a name matters, and nothing else does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import fsspec
import pytest

from pipeline.extract.identity import (
    cache_key,
    describe_os_error,
    failure_content_id,
    hash_content,
    local_status,
)
from pipeline.extract.remote import remote_status

SPEC = "5" * 64


def test_a_content_id_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    """The example of FIPS 180-4."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_content(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("start_s", "end_s"), [(None, None), (0.5, None), (1.0, 2.25)])
def test_a_cache_key_is_the_hash_of_a_json_list(start_s: float | None, end_s: float | None) -> None:
    text = json.dumps(["c" * 64, start_s, end_s, SPEC])
    assert cache_key("c" * 64, start_s, end_s, SPEC) == hashlib.sha256(text.encode()).digest()


def test_every_part_of_a_cache_key_matters_and_the_type_of_a_bound_does_not() -> None:
    keys = [
        cache_key("c", None, None, SPEC),
        cache_key("d", None, None, SPEC),
        cache_key("c", 0.0, None, SPEC),
        cache_key("c", None, 0.0, SPEC),
        cache_key("c", None, None, "6" * 64),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("c", 1, 2, SPEC) == cache_key("c", 1.0, 2.0, SPEC)


def test_a_local_stamp_changes_when_a_file_is_touched_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(b"1234")
    before = local_status(path.stat())
    assert before[0] == 4
    assert local_status(path.stat()) == before
    os.utime(path, ns=(1, 1))
    touched = local_status(path.stat())
    assert touched[0] == 4 and touched != before
    shutil.copy(path, tmp_path / "copy")
    os.utime(tmp_path / "copy", ns=(1, 1))
    (tmp_path / "copy").replace(path)  # the same size and time, another inode
    assert local_status(path.stat()) != touched


def test_a_remote_stamp_changes_when_a_file_is_written_again() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/identity/clip", b"1234")
    before = remote_status("memory://identity/clip")
    assert before[0] == 4 and before[1]
    assert remote_status("memory://identity/clip") == before
    memory.pipe("/identity/clip", b"1234")
    assert remote_status("memory://identity/clip") != before
    with pytest.raises(FileNotFoundError):
        remote_status("memory://identity/nowhere")


@pytest.mark.parametrize(
    ("error", "failure_class", "message"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/secret/a"),
            "missing",
            "No such file or directory",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/a"), "unreadable", "Permission denied"),
        (OSError("several\nlines\x1b[31m"), "unreadable", r"several lines\x1b[31m"),
        (OSError(), "unreadable", "OSError"),
    ],
)
def test_an_os_error_is_a_class_and_one_printable_line(error: OSError, failure_class: str, message: str) -> None:
    assert describe_os_error(error) == (failure_class, message)


def test_a_failure_is_remembered_for_these_bytes_in_these_bounds() -> None:
    assert failure_content_id("c", None, None) == "c"
    assert failure_content_id(None, None, None) == ""
    bounds = [(0.0, None), (None, 1.0), (0.0, 1.0)]
    names = [failure_content_id("c", start_s, end_s) for start_s, end_s in bounds]
    assert len({"c", *names}) == 4
    assert all(name.startswith("c") for name in names)


def test_a_fifo_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(OSError, match="not a regular file but a FIFO"):
        hash_content(tmp_path / "v.mp4")
