"""Compare many rows of a shard with their digests at once.

``ShardReader.row_is_sound`` says what a sound row is. Where rows are small, its calls for one row cost more than the
hashing; here the bytes to be hashed are put together for thousands of rows by a few array operations.
"""

from __future__ import annotations

import hashlib

import numpy as np

from .rows import Array
from .shard import ShardReader

_LARGE = 1 << 14
"""A row of this many bytes is hashed where it lies: copying it would cost more than the calls."""
_AT_ONCE = 1 << 21
"""Bytes that are put together at once."""


def sound_rows(reader: ShardReader, rows: Array) -> Array:
    """Return which rows, and everything kept beside them, still match their digests.

    Parameters
    ----------
    reader
        The shard.
    rows
        ``[N]`` integers: positions of rows in the shard.

    Returns
    -------
    Array
        ``[N] bool``, what ``reader.row_is_sound`` says of each.
    """
    sound = np.zeros(len(rows), bool)
    first, length = spans(reader, rows)
    inside = _inside(first, first + length, len(reader.steps("values")))  # elsewhere an offset is damaged
    for name, offset in (("keys", "key_offset"), ("media", "media_offset")):
        inside &= _inside(reader.column(offset)[rows], reader.column(offset)[rows + 1], len(reader.column(name)))
    step_bytes = sum(reader.steps(name).dtype.itemsize * _size(reader.steps(name)) for name in _columns(reader))
    together = inside & (length * step_bytes < _LARGE)
    for number in np.flatnonzero(~together).tolist():
        sound[number] = reader.row_is_sound(int(rows[number]))
    for steps in np.unique(length[together]).tolist():
        same = np.flatnonzero(together & (length == steps))
        count = max(1, _AT_ONCE // max(steps * step_bytes, 256))
        for start in range(0, len(same), count):
            some = same[start : start + count]
            sound[some] = _sound(reader, rows[some], first[some], steps)
    return sound


def _inside(start: Array, end: Array, total: int) -> Array:
    inside: Array = (start >= 0) & (start <= end) & (end <= total)
    return inside


def _columns(reader: ShardReader) -> list[str]:
    """Return the columns that the row digest covers, in its order."""
    published = ("published_time_s",) if "published_time_s" in reader.receipt.datasets else ()
    return ["values", "time_s", "valid", *published]


def _size(steps: Array) -> int:
    return int(np.prod(steps.shape[1:], dtype=np.int64))


def spans(reader: ShardReader, rows: Array) -> tuple[Array, Array]:
    """Return ``ShardReader.span`` of many rows, as two arrays ``[N] int64``."""
    if not reader.receipt.ragged:
        steps = reader.receipt.datasets["values"].shape[1]
        return rows.astype(np.int64) * steps, np.full(len(rows), steps, np.int64)
    offset = reader.column("offset")
    return offset[rows], offset[rows + 1] - offset[rows]


def _sound(reader: ShardReader, rows: Array, first: Array, steps: int) -> Array:
    """Check rows of ``steps`` steps each; ``first`` is the first step of each."""
    at = first[:, None] + np.arange(steps)
    parts: list[Array] = []
    for name in _columns(reader):
        wanted = reader.steps(name)[at]
        wanted = wanted.view(bool) if name == "valid" else wanted
        form = np.frombuffer(f"{wanted.dtype.str}{wanted.shape[1:]}".encode(), np.uint8)
        parts += [np.broadcast_to(form, (len(rows), len(form))), _bytes(wanted)]
    digests = _digests(np.concatenate(parts, axis=1))
    of_rows = digests == reader.column("row_digest")[rows]
    of_records = _record_digests(reader, rows, digests) == reader.column("record_digest")[rows]
    sound: Array = (of_rows & of_records).all(axis=1)
    return sound


def _bytes(values: Array) -> Array:
    """Return ``[N, bytes of an item] uint8``."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1) if values.size else _nothing(values)


def _nothing(values: Array) -> Array:
    return np.empty((len(values), 0), np.uint8)


def _digests(texts: Array) -> Array:
    """Return the sha256 of each row of ``texts [N, L] uint8``, ``[N, 32] uint8``."""
    text, width, sha256 = texts.tobytes(), texts.shape[1], hashlib.sha256
    found = [sha256(text[place : place + width]).digest() for place in range(0, len(text), width)]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


def _record_digests(reader: ShardReader, rows: Array, digests: Array) -> Array:
    """Return ``rows.record_digest`` of many rows, ``[N, 32] uint8``."""
    keys, key_at = reader.column("keys"), reader.column("key_offset")
    media, media_at = reader.column("media"), reader.column("media_offset")
    starts, ends = (key_at[rows], key_at[rows + 1])
    clips = [reader.column(name)[rows].astype("<f8") for name in ("clip_start_s", "duration_s")]
    lengths = (ends - starts).astype("<u4")
    fixed = np.concatenate([digests, reader.column("cache_key")[rows], *map(_bytes, clips), _bytes(lengths)], axis=1)
    text, width, sha256 = fixed.tobytes(), fixed.shape[1], hashlib.sha256
    key_text, media_text = keys.data, media.data
    places = zip(
        range(0, len(text), width),
        starts.tolist(),
        ends.tolist(),
        media_at[rows].tolist(),
        media_at[rows + 1].tolist(),
        strict=True,
    )
    found = [
        sha256(b"".join((text[at : at + width], key_text[key:key_end], media_text[record:record_end]))).digest()
        for at, key, key_end, record, record_end in places
    ]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)
