"""Files that somebody names: only regular ones are opened, nothing waits, and each role has its size."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stores.files
from settings import files
from settings.messages import why_not_loaded

READERS: list[Callable[[Path], object]] = [
    files.check_regular,
    files.open_regular,
    files.read_bytes,
    files.read_text,
    stores.files.check_regular,
    stores.files.open_regular,
    stores.files.read_text,
]


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A FIFO, a socket, a device and a folder, and links to them."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to(tmp_path / "fifo")
        yield {
            "not a regular file but a FIFO": tmp_path / "fifo",
            "not a regular file but a socket": tmp_path / "socket",
            "not a regular file but a device": Path("/dev/zero"),
            "Is a directory": tmp_path / "folder",
        }


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(read: Callable[[Path], object], strange: dict[str, Path]) -> None:
    for words, path in strange.items():
        with pytest.raises(OSError, match=re.escape(words)) as caught:
            read(path)
        assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="a FIFO"):
        read(strange["not a regular file but a FIFO"].with_name("link"))
    with pytest.raises(FileNotFoundError):
        read(Path("/nowhere/at/all"))


def test_a_file_is_read_up_to_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("0123456789")
    (tmp_path / "b").symlink_to(path)
    assert files.read_bytes(path, 10) == files.read_bytes(tmp_path / "b", 10) == b"0123456789"
    assert stores.files.read_text(path) == files.read_text(path) == "0123456789"
    for read in (files.read_bytes, files.open_regular, files.read_text):
        with pytest.raises(OSError, match="larger than 9 bytes"):
            read(path, 9)
    assert files.read_text(Path("/proc/self/stat")).startswith(f"{os.getpid()} ")  # its system does not know its size
    with pytest.raises(OSError, match="larger than 9 bytes"):
        files.read_bytes(Path("/proc/self/stat"), 9)


def test_a_folder_for_a_library_holds_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    files.check_folder(tmp_path)
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(OSError, match="not a regular file but a FIFO"):
        files.check_folder(tmp_path)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Weights only load failed. … Re-running `torch.load` with `weights_only` set to `False` will likely "
            "succeed\n\nTrying to load unsupported GLOBAL posix.system whose module posix is blocked.\n",
            "it names posix.system, which is code",
        ),
        (
            "Weights only load failed. … Unsupported global: GLOBAL fractions.Fraction was not an allowed global",
            "it names fractions.Fraction, which is code",
        ),
        ("Weights only load failed. … WeightsUnpickler error: \n\nUnsupported operand 149", "it is no file of tensors"),
        ("invalid header or archive is corrupted", "invalid header or archive is corrupted"),
    ],
)
def test_advice_of_torch_is_not_passed_on(message: str, said: str) -> None:
    line = why_not_loaded(RuntimeError(message))
    assert line.startswith(said) and "False" not in line and "\n" not in line
