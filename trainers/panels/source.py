"""Which file a panel shows: the one that the video's rows were computed from."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from settings.files import open_regular
from stores import Store
from stores.describe import RowName, find_origins
from trainers.errors import TrainingError


def source_of(store: Store, features: tuple[str, ...], key: str, given: Path | None) -> Path | None:
    """Return the file of a video: the given one if it has the bytes of the video's rows, else the store's source.

    Where the store does not know the bytes, as of imported rows, a given file is taken as it is, with a warning.

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
    row = RowName.find(store, dict.fromkeys([*features, *sorted(store.features)]), key)
    known = [origin.uri for origin in find_origins(store, [key], features).get(key, [])]
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


def _content_id(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
