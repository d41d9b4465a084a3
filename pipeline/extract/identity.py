"""Decides when two files, two contents or two rows are the same: content ids, stamps, cache keys."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.media import FailureClass, list_images
from settings.files import check_regular, open_regular
from settings.messages import one_line

_HASHED_AT_ONCE = 65536  # rows whose texts are Python objects at a time


def hash_content(path: Path, image_rate: float | None = None) -> str:
    """Return the content id of a local source, in hex: the sha256 of a file's bytes.

    For a folder of images it is the sha256 over their rate and, in the order of their names, the names and the sha256
    of their bytes: the same images at another rate are another video.

    Raises
    ------
    OSError
        If it cannot be read, or is neither.
    """
    if image_rate is None:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    hasher = hashlib.sha256(f"images {image_rate!r}\n".encode())
    for name in _image_names(path):
        hasher.update(os.fsencode(name) + b"\0" + hash_content(path / name).encode() + b"\n")
    return hasher.hexdigest()


def source_status(path: Path, image_rate: float | None) -> tuple[int, str]:
    """Return size and stamp of a local source: of a file (``local_status``), or of all images of a folder.

    Raises
    ------
    OSError
        If it cannot be read, or is neither.
    """
    if image_rate is None:
        return local_status(check_regular(path))
    hasher = hashlib.sha256(repr(image_rate).encode())
    total = 0
    for name in _image_names(path):
        size, stamp = local_status(check_regular(path / name))
        total += size
        hasher.update(os.fsencode(name) + f"\0{size}:{stamp}\n".encode())
    return total, hasher.hexdigest()[:32]


def _image_names(folder: Path) -> list[str]:
    return sorted((name for _, name in list_images(str(folder))), key=os.fsencode)


def local_status(status: os.stat_result) -> tuple[int, str]:
    """Return size and stamp (modification time and inode) of a regular file: while both stay equal, it is untouched."""
    return status.st_size, f"{status.st_mtime_ns}:{status.st_ino}"


def file_stamps(mtime_ns: pa.Array, inode: pa.Array) -> pa.Array:
    """Return the stamps of regular files, as ``local_status`` gives them, from int64 and uint64 columns."""
    return pc.binary_join_element_wise(mtime_ns.cast(pa.string()), inode.cast(pa.string()), ":")


def cache_key(content_id: str, start_s: float | None, end_s: float | None, spec_digest: str) -> bytes:
    """Return hash(content id, clip bounds, spec digest): 32 bytes that name one computed row."""
    bounds = ", ".join("null" if bound is None else repr(float(bound)) for bound in (start_s, end_s))
    return hashlib.sha256(f'["{content_id}", {bounds}, "{spec_digest}"]'.encode()).digest()


def cache_keys(content_id: pa.Array, start_s: pa.Array, end_s: pa.Array, spec_digest: str) -> pa.Array:
    """Return ``cache_key`` of many rows.

    Parameters
    ----------
    content_id
        String array without nulls.
    start_s, end_s
        Float64 arrays; null means none.

    Returns
    -------
    pyarrow.Array
        ``[n] fixed_size_binary(32)``.
    """
    whole = start_s.null_count == end_s.null_count == len(content_id)
    keys = []
    for start in range(0, len(content_id), _HASHED_AT_ONCE):
        ids = content_id.slice(start, _HASHED_AT_ONCE)
        if whole:
            texts = pc.binary_join_element_wise('["', ids, f'", null, null, "{spec_digest}"]', "")
            keys.append([hashlib.sha256(text).digest() for text in texts.cast(pa.binary()).to_pylist()])
        else:
            starts, ends = (bound.slice(start, _HASHED_AT_ONCE).to_pylist() for bound in (start_s, end_s))
            clips = zip(ids.to_pylist(), starts, ends, strict=True)
            keys.append([cache_key(content, first, last, spec_digest) for content, first, last in clips])
    return pa.concat_arrays([pa.array(chunk, pa.binary(32)) for chunk in ([], *keys)])


def describe_os_error(error: OSError) -> tuple[FailureClass, str]:
    """Return the failure class of a file that cannot be read, and one line of what the system says."""
    failure_class: FailureClass = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return failure_class, error.strerror or one_line(error)


def failure_content_id(content_id: str | None, start_s: float | None, end_s: float | None) -> str:
    """Return the content id under which a failure is remembered: these bytes, in these clip bounds."""
    bounds = "" if start_s is None and end_s is None else f"[{start_s},{end_s}]"
    return f"{content_id or ''}{bounds}"
