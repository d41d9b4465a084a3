"""Walks folders and globs: a stat per file, and each linked folder once."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from pipeline.extract.sources.columns import Columns, SourceItem
from pipeline.extract.sources.names import KeyMode, has_video_suffix
from pipeline.extract.threads import map_in_threads
from pipeline.media import is_image
from pipeline.shared.errors import SourceError

_TIMED = 64  # files after which it is known whether the file system is slow
_SLOW_S = 1e-4  # a stat that takes longer than this goes over a network
_THREADS = 32  # stats under way at a time on a slow file system


def add_file(columns: Columns, path: str, base: Path, key_mode: KeyMode) -> None:
    """Add a file that was named, whatever its suffix."""
    key = Path(path).stem if key_mode == "stem" else os.path.relpath(path, base)
    columns.add_files([key], [path], _Stats()([path]))


def add_directory(
    columns: Columns, root: Path, key_mode: KeyMode, image_rate: float | None, ignored: Counter[str]
) -> None:
    """Add the videos below a folder; count what is left out.

    Raises
    ------
    SourceError
        If a folder cannot be read.
    """
    statuses = _Stats()
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
        columns.add_files(keys, [entry.path for entry in videos], statuses(videos))


class _Stats:
    """Reads the stats of files: one by one, or in threads once they turn out to be slow."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._files = 0

    def __call__(self, files: Sequence[str | os.DirEntry[str]]) -> list[os.stat_result | None]:
        """Return the stat of each; None for a dangling link or a circle of links, which planning will meet again."""
        first = list(files[: max(_TIMED - self._files, 0)])
        started = time.perf_counter()
        statuses = [_stat(file) for file in first]
        self._seconds += time.perf_counter() - started
        self._files += len(first)
        rest = files[len(first) :]
        if self._seconds <= _SLOW_S * self._files:
            return statuses + [_stat(file) for file in rest]
        size = -(-len(rest) // _THREADS)
        slices = [rest[start : start + size] for start in range(0, len(rest), max(size, 1))]
        found = map_in_threads(lambda part: [_stat(file) for file in part], slices, _THREADS)
        return statuses + list(chain.from_iterable(found))


def _stat(file: str | os.DirEntry[str]) -> os.stat_result | None:
    try:
        return os.stat(file) if isinstance(file, str) else file.stat()  # noqa: PTH116 (plain strings are faster)
    except OSError:
        return None


class _Folders:
    """Walks folders, each once: by its own name first, and through a link only if nothing else leads there."""

    def __init__(self, root: str) -> None:
        self._pending = [root]
        self._links: list[str] = []
        self._seen: set[tuple[int, int]] = set()

    def __iter__(self) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Yield one folder after the other with its files."""
        while self._pending or self._links:
            linked = not self._pending
            folder = self._links.pop() if linked else self._pending.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                entries = list(os.scandir(folder))
            except OSError as error:
                raise SourceError(f"{folder}: not readable ({error.strerror})") from error
            yield folder, [entry for entry in entries if not self._is_folder(entry)]
            self._links.sort(key=os.fsencode, reverse=True)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            if not entry.is_dir():
                return False
        except OSError:  # a circle of links
            return False
        if not entry.name.startswith("."):
            (self._links if entry.is_symlink() else self._pending).append(entry.path)
        return True


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
    for path, status in zip(paths, _Stats()(paths), strict=True):
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
            if _match_parts(Path(entry.path).relative_to(base).parts, parts):
                yield entry.path


def _match_parts(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the parts of a path are those of a glob; ``**`` stands for any folders, no wildcard for a dot."""
    if not parts or not names:
        return not parts and not names
    if parts[0] == "**":
        return list(parts) == ["**"] or any(_match_parts(names[skip:], parts[1:]) for skip in range(len(names)))
    if names[0].startswith(".") and not parts[0].startswith("."):
        return False
    return fnmatch.fnmatchcase(names[0], parts[0]) and _match_parts(names[1:], parts[1:])
