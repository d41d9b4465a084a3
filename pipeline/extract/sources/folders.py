"""Walks folders and globs: a stat per file, and each linked folder once."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Generic, TypeVar

from pipeline.extract.sources.columns import Columns, SourceItem
from pipeline.extract.sources.names import KeyMode, has_video_suffix
from pipeline.extract.threads import map_in_threads
from pipeline.media import is_image
from pipeline.shared.errors import SourceError

_TIMED = 64  # files after which it is known whether the file system is slow
_SLOW_S = 1e-4  # a stat that takes longer than this goes over a network
_THREADS = 32  # stats under way at a time on a slow file system

_File = TypeVar("_File")


def add_file(columns: Columns, path: str, base: Path, key_mode: KeyMode) -> None:
    """Add a file that was named, whatever its suffix."""
    key = Path(path).stem if key_mode == "stem" else os.path.relpath(path, base)
    columns.add_files([key], [path], _Stats[str](os.stat)([path]))


def add_directory(
    columns: Columns, root: Path, key_mode: KeyMode, image_rate: float | None, ignored: Counter[str]
) -> None:
    """Add the videos below a folder; count what is left out.

    Raises
    ------
    SourceError
        If a folder cannot be read.
    """
    statuses = _Stats[os.DirEntry[str]](os.DirEntry.stat)
    for folder, files in _Folders(str(root)):
        passed_over: Counter[str] = Counter()
        videos = [entry for entry in files if has_video_suffix(entry.name, passed_over)]
        if image_rate is not None and not videos and any(is_image(entry.name) for entry in files):
            columns.add(_image_folder(folder, str(root), key_mode, image_rate))
            passed_over = Counter()
        ignored.update(passed_over)
        if key_mode == "stem":
            keys = [entry.name.rpartition(".")[0] for entry in videos]
        else:
            below = os.path.relpath(folder, root)
            keys = [entry.name if below == "." else f"{below}/{entry.name}" for entry in videos]
        columns.add_files(keys, [_joined(folder, entry.name) for entry in videos], statuses(videos))


class _Stats(Generic[_File]):
    """Reads the stats of files: one by one, or in threads once they turn out to be slow.

    Parameters
    ----------
    read
        Returns the stat of one file.
    """

    def __init__(self, read: Callable[[_File], os.stat_result]) -> None:
        self._read = read
        self._seconds = 0.0
        self._files = 0

    def __call__(self, files: Sequence[_File]) -> list[os.stat_result | None]:
        """Return the stat of each; None for a dangling link or a circle of links, which planning will meet again."""
        first = files[: max(_TIMED - self._files, 0)]
        started = time.perf_counter()
        statuses = self._read_all(first)
        self._seconds += time.perf_counter() - started
        self._files += len(first)
        rest = files[len(first) :]
        if self._seconds <= _SLOW_S * self._files:
            return statuses + self._read_all(rest)
        size = -(-len(rest) // _THREADS)
        slices = [rest[start : start + size] for start in range(0, len(rest), max(size, 1))]
        return statuses + list(chain.from_iterable(map_in_threads(self._read_all, slices, _THREADS)))

    def _read_all(self, files: Sequence[_File]) -> list[os.stat_result | None]:
        try:
            return list(map(self._read, files))
        except OSError:
            return [self._read_one(file) for file in files]

    def _read_one(self, file: _File) -> os.stat_result | None:
        try:
            return self._read(file)
        except OSError:
            return None


class _Folders:
    """Walks folders, each once: by its own name first, and through a link only if nothing else leads there."""

    def __init__(self, root: str) -> None:
        self._pending = [root]
        self._links: list[str] = []
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield one folder after the other with its files; their entries can be asked until the next one."""
        while self._pending or self._links:
            linked = not self._pending
            folder = self._links.pop() if linked else self._pending.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"{folder}: not readable ({error.strerror})") from error
            try:  # by descriptor, so that no stat walks the path again
                entries = _scanned(folder, descriptor)
                yield folder, [entry for entry in entries if not self._is_folder(folder, entry)]
            finally:
                os.close(descriptor)
            self._links.sort(key=os.fsencode, reverse=True)

    def _is_folder(self, folder: str, entry: os.DirEntry[str]) -> bool:
        try:
            if not entry.is_dir():
                return False
        except OSError:  # a circle of links
            return False
        if not entry.name.startswith("."):
            (self._links if entry.is_symlink() else self._pending).append(_joined(folder, entry.name))
        return True


def _scanned(folder: str, descriptor: int) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(descriptor) as entries:
            return list(entries)
    except OSError as error:
        raise SourceError(f"{folder}: not readable ({error.strerror})") from error


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder != "/" else f"/{name}"


def _image_folder(folder: str, base: str, key_mode: KeyMode, image_rate: float) -> SourceItem:
    name = os.path.basename(folder)  # noqa: PTH119
    key = name if key_mode == "stem" or folder == base else os.path.relpath(folder, base)
    return SourceItem(key, folder, image_rate=image_rate)


def _holds_images_alone(folder: str) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(map(is_image, names)) and not any(has_video_suffix(name, Counter()) for name in names)


def add_glob(
    columns: Columns, pattern: str, key_mode: KeyMode, image_rate: float | None, ignored: Counter[str]
) -> None:
    """Add the files that a glob matches; count what is left out."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed]).resolve() if fixed else Path.cwd()
    _, dot, suffix = parts[-1].rpartition(".")
    states_suffix = bool(dot) and not glob.has_magic(suffix)
    paths = list(_matches(base, parts[fixed:], image_rate is not None))
    keys, taken, found = [], [], []
    for path, status in zip(paths, _Stats[str](os.stat)(paths), strict=True):
        if status is not None and stat.S_ISDIR(status.st_mode):
            if image_rate is not None and _holds_images_alone(path):
                columns.add(_image_folder(path, str(base), key_mode, image_rate))
            continue
        name = os.path.basename(path)  # noqa: PTH119
        if states_suffix or has_video_suffix(name, ignored):
            keys.append(name.rpartition(".")[0] or name if key_mode == "stem" else os.path.relpath(path, base))
            taken.append(path)
            found.append(status)
    columns.add_files(keys, taken, found)


def _matches(base: Path, parts: Sequence[str], with_folders: bool) -> Iterator[str]:
    """Yield the paths below ``base`` that a glob's parts match; ``**`` enters every folder once, through links too."""
    if "**" not in parts:
        pattern = str(Path(glob.escape(str(base)), *parts))
        yield from (os.path.abspath(path) for path in glob.glob(pattern))  # noqa: PTH100, PTH207 (plain strings)
        return
    for folder, files in _Folders(str(base)):
        if with_folders and _match_parts(Path(folder).relative_to(base).parts, parts):
            yield folder
        for entry in files:
            path = _joined(folder, entry.name)
            if _match_parts(Path(path).relative_to(base).parts, parts):
                yield path


def _match_parts(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the parts of a path are those of a glob; ``**`` stands for any folders, no wildcard for a dot."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return list(parts) == ["**"] or any(_match_parts(names[skip:], parts[1:]) for skip in range(len(names)))
    if names[0].startswith(".") and not parts[0].startswith("."):
        return False
    return fnmatch.fnmatchcase(names[0], parts[0]) and _match_parts(names[1:], parts[1:])
