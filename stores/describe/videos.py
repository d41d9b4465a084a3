"""One video as the store knows it: its rows without their values, and the facts that a person asks for first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..format.rows import Array
from ..store import Store
from .origins import Origin


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One row of a video, without its values."""

    feature: str
    shape: tuple[int, ...]
    dtype: str
    times: Array
    valid: Array
    damaged: Array
    start_s: float
    seconds: float
    media: dict[str, Any]
    digest: str
    shard: str

    @property
    def has_pictures(self) -> bool:
        """Whether it was computed from frames at known times."""
        return (
            self.media.get("video_stream") is not None and bool(np.isfinite(self.times).all()) and len(self.times) > 0
        )


def rows_of(store: Store, key: str) -> list[VideoRow]:
    """Return the rows of a video in all features."""
    rows = []
    for name in store.features:
        if (name, key) in store:
            shape, dtype = store.shape(name, key)
            start, seconds = store.clip(name, key)
            times, valid, damaged = store.times(name, key), store.valid(name, key), store.damaged(name, key)
            shard, _ = store.place(name, key)
            media, digest = store.media(name, key), store.digest(name, key)
            rows.append(VideoRow(name, shape, dtype, times, valid, damaged, start, seconds, media, digest, shard))
    return rows


def count_questions(store: Store, keys: Sequence[str]) -> dict[str, int]:
    """Return how many questions each of some videos has, of those that have any."""
    if "questions" not in store.tables:
        return {}
    table = store.table("questions", columns=("video_id",))
    if "video_id" not in table.column_names:
        return {}
    column = table.column("video_id")
    of_these = column.filter(pc.is_in(column, value_set=pa.array(keys, column.type)))
    return {record["values"]: record["counts"] for record in of_these.value_counts().to_pylist()}


def facts_of(
    rows: Sequence[VideoRow], origins: Sequence[Origin], questions: int, failed: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return what is known of a video itself, as (subject, value).

    Parameters
    ----------
    rows, origins
        Its rows, and the sources that they were computed from.
    questions
        How many questions are about it.
    failed
        The sources from which a row was tried and failed.
    """
    media: dict[str, Any] = {}
    for row in rows:
        media.update({name: value for name, value in row.media.items() if value is not None})
    told = []
    if origins:
        told.append(("source", origins[0].uri))
        told.append(("bytes", f"{origins[0].size:,}, sha256 {origins[0].content_id[:16]}…"))
    elif failed:
        told.append(("source", failed[0]))
    if rows and math.isfinite(rows[0].seconds):
        clip = f", from {rows[0].start_s:.2f} s of its file" if rows[0].start_s else ""
        told.append(("length", f"{rows[0].seconds:.2f} s{clip}"))
    if picture := _picture(media):
        told.append(("picture", picture))
    if sound := _sound_words(media):
        told.append(("sound", sound))
    told.append(("questions", f"{questions:,}"))
    return told


def _picture(media: Mapping[str, Any]) -> str:
    if not media.get("width"):
        return ""
    rate = media.get("frame_rate")
    frames = f", {rate:.4g} frames per second" if isinstance(rate, int | float) else ""
    turned = f", turned by {media['rotation_clockwise']}°" if media.get("rotation_clockwise") else ""
    return f"{media['width']} × {media.get('height')}, {media.get('codec', 'codec not known')}{frames}{turned}"


def _sound_words(media: Mapping[str, Any]) -> str:
    audio = media.get("audio")
    if isinstance(audio, Mapping) and audio.get("codec"):
        return f"{audio['codec']}, {audio.get('layout', '')} at {audio.get('rate')} Hz ({media.get('audio_state')})"
    return "a track is there" if media.get("audio_stream") is not None else "none" if media.get("codec") else ""
