"""Which file a row was computed from: found by what the store knows of its sources, proven by its bytes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from settings.files import open_regular
from stores import Store
from stores.format import schemas
from stores.format.segments import SegmentLog
from trainers.errors import TrainingError


def source_of(store: Store, features: tuple[str, ...], key: str, given: Path | None) -> Path | None:
    """Return the file of a video: the given one if it has the bytes of the video's rows, else the store's source.

    A row is named by its cache key, which is the digest of the file's content id, of the clip's bounds and of the spec
    (``docs/format.md`` section 8.5). Where the store does not know the bytes, as of imported rows, a given file is
    taken as it is, with a warning.

    Parameters
    ----------
    store
        The store.
    features
        The features whose rows say which file it is, in this order; after them, all others of the store.
    key
        The video key.
    given
        The file that the user names; None looks for the source.

    Returns
    -------
    The file; None, with a warning, if none is given and the source cannot be read here or has changed.

    Raises
    ------
    TrainingError
        If the given file cannot be read or is another one.
    """
    row = next((row for name in _names(store, features) if (row := _Row.find(store, name, key)) is not None), None)
    known = [] if row is None else list(row.sources(store))
    if given is not None:
        content = _content_id(given)
        if row is not None and row.is_from(content):
            return given
        if known:
            raise TrainingError(
                f"{given}: is not the file of video {key!r}: its bytes are others than those of {known[0]}, which the "
                "rows were computed from"
            )
        warnings.warn(f"{given}: taken as video {key!r} unchecked; the store does not know its bytes", stacklevel=2)
        return given
    readable = [Path(source) for source in known if Path(source).is_file()]
    for source in readable:
        if row is not None and row.is_from(_content_id(source)):
            return source
    if readable:
        reason = f"{readable[0]} has changed since its rows were computed"
    elif known:
        reason = f"its source {known[0]} cannot be read here"
    else:
        reason = "the store does not know its source"
    warnings.warn(f"video {key!r}: {reason}, so no frames are shown; name the file with --video", stacklevel=2)
    return None


class _Row:
    """The row of one feature, as far as it tells which bytes it was computed from."""

    def __init__(self, spec_digest: str, cache_key: bytes, start_s: float, duration_s: float) -> None:
        self._spec_digest, self._cache_key = spec_digest, cache_key
        # The bounds as they were given: a clip may have either, both or none.
        ends = (None, start_s + duration_s, round(start_s + duration_s, 3), round(start_s + duration_s, 6))
        self._bounds = [(start, end) for start in dict.fromkeys((None, start_s)) for end in dict.fromkeys(ends)]

    @classmethod
    def find(cls, store: Store, name: str, key: str) -> _Row | None:
        """Return the row of a feature; None if the key has none there."""
        if (name, key) not in store:
            return None
        places = store.places(name, [key])
        reader, row = store.shard(name, places.shards[int(places.shard[0])]), int(places.row[0])
        return cls(store.spec_digest(name), reader.cache_key(row), *reader.clip(row))

    def is_from(self, content_id: str) -> bool:
        """Return whether the row was computed from bytes of this SHA-256."""
        for bounds in self._bounds:
            shown = ", ".join("null" if bound is None else repr(float(bound)) for bound in bounds)
            name = f'["{content_id}", {shown}, "{self._spec_digest}"]'
            if hashlib.sha256(name.encode()).digest() == self._cache_key:
                return True
        return False

    def sources(self, store: Store) -> Iterator[str]:
        """Yield the URIs from which the row was computed, as the store knows them, in their order as bytes."""
        table = SegmentLog(store.path, store.manifest.sources, schemas.SOURCES).table()
        contents = table.column("content_id").to_pylist()
        matching = {content for content in dict.fromkeys(contents) if self.is_from(content)}
        for uri, content in zip(table.column("key").to_pylist(), contents, strict=True):
            if content in matching:
                yield uri.decode("utf-8", "surrogateescape")


def _names(store: Store, features: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([*features, *sorted(store.features)]))


def _content_id(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
