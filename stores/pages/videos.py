"""The page of one video: its facts, frames, sound, masks, the similarity of its steps, its questions."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ..describe.origins import Origin, locate
from ..describe.videos import VideoRow, facts_of
from ..store import Store
from . import bitmaps, charts
from .charts import Mark
from .features import sample, similarity
from .media import Decoded, Sound, Wanted

LISTED = 1000
"""The page of videos lists at most this many."""
FRAMES = 16
"""Frames shown of a video."""
QUESTIONS = 60
"""Questions shown of a video."""
CELLS = 240
"""Most cells of a mask."""
_HEAT = 96
_ROW_BYTES = 64 << 20
_SOUND_HEIGHT = 96
_BAND_HZ = (125, 500, 1000, 2000, 4000, 7500)


def all_keys(store: Store) -> pa.Array:
    """Return every video key that has a row, a failure or a question, sorted by its bytes, as ``large_binary``."""
    columns = [store.index(name).column("key") for name in store.features]
    columns.append(store.failures().column("video_id"))
    if "questions" in store.tables:
        table = store.table("questions", columns=("video_id",))
        columns += [table.column("video_id")] if "video_id" in table.column_names else []
    uniques = [column.unique().cast(pa.large_binary()) for column in columns]
    keys = pa.concat_arrays([*uniques, pa.array([], pa.large_binary())]).unique().drop_null()
    return keys.take(pc.sort_indices(keys))


def choose(keys: pa.Array, most: int) -> list[str]:
    """Return at most ``most`` keys, evenly spaced."""
    chosen: list[str] = keys.take(pa.array(sample(len(keys), most), pa.int64())).cast(pa.large_string()).to_pylist()
    return chosen


def wanted_of(
    rows: Sequence[VideoRow], origins: Sequence[Origin], nearest: Sequence[float] = (), whole: bool = True
) -> Wanted | None:
    """Return what is decoded of a video; None if no row says where its frames are.

    Parameters
    ----------
    rows, origins
        The rows of the video and its sources.
    nearest
        Seconds whose frames a dictionary shows.
    whole
        Whether the video has a page, which shows frames and sound.
    """
    row = _pictured(rows)
    sound = next((each for each in rows if each.media.get("audio_stream") is not None), None) if whole else None
    of = row or sound
    if of is None:
        return None
    times = sorted({*(times_of(rows) if whole else ()), *(nearest if row is not None else ())})
    seconds = of.seconds if math.isfinite(of.seconds) else max([*times, 0.0])
    return Wanted(origins, of.media, of.start_s, seconds, times, sound=sound is not None and seconds > 0)


def times_of(rows: Sequence[VideoRow]) -> list[float]:
    """Return the seconds of the frames that the page of a video shows."""
    row = _pictured(rows)
    return shown_times(row) if row is not None else []


def shown_times(row: VideoRow) -> list[float]:
    """Return the seconds of at most ``FRAMES`` steps, evenly spaced over those that are valid and differ in time."""
    distinct = np.unique(row.times[row.valid]) if row.valid.any() else np.unique(row.times)
    times: list[float] = distinct[sample(len(distinct), FRAMES)].tolist()
    return times


def _pictured(rows: Sequence[VideoRow]) -> VideoRow | None:
    return next((row for row in rows if row.has_pictures), None)


def describe(
    store: Store,
    key: str,
    rows: Sequence[VideoRow],
    questions: Sequence[dict[str, Any]],
    decoded: Decoded,
    origins: Sequence[Origin],
    failed: Sequence[str],
) -> dict[str, Any]:
    """Return what the page of a video shows, except the names of its pictures; ``failed`` are sources that failed."""
    pictured = _pictured(rows)
    seconds = _length(rows, questions)
    start = rows[0].start_s if rows else 0.0
    shown = questions[:QUESTIONS]
    return {
        "key": key,
        "facts": facts_of(rows, origins, len(questions), failed),
        "rows": [
            {
                "feature": row.feature,
                "shape": " × ".join(map(str, row.shape)),
                "dtype": row.dtype,
                "valid": int(row.valid.sum()),
                "steps": len(row.valid),
                "damaged": int(row.damaged.sum()),
                "digest": row.digest[:16],
                "shard": row.shard,
            }
            for row in rows
        ],
        "times": times_of(rows),
        "pictured": pictured.feature if pictured is not None else "",
        "problem": decoded.problem,
        "timeline": _timeline(shown, pictured, start, seconds) if seconds else None,
        "strips": [(row.feature, _strip(row), len(row.valid)) for row in rows if len(row.valid)],
        "sound": _sound(decoded.sound, seconds) if decoded.sound is not None else None,
        "heat": [heat for row in rows if (heat := _heat(store, row, key)) is not None],
        "questions": shown,
        "asked": len(questions),
    }


def _length(rows: Sequence[VideoRow], questions: Sequence[Mapping[str, Any]]) -> float:
    """Return the length of a video or clip in seconds; 0 if nothing tells it."""
    known = [row.seconds for row in rows if math.isfinite(row.seconds)]
    if known:
        return known[0]
    told = [float(question["duration"]) for question in questions if question.get("duration")]
    ends = [end for question in questions for _, end in _spans(question)]
    return max([*told, *ends, 0.0])


def _spans(question: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(float(span[0]), float(span[1])) for span in question.get("spans") or () if len(span) == 2]


def _timeline(
    questions: Sequence[Mapping[str, Any]], pictured: VideoRow | None, start_s: float, seconds: float
) -> Markup | None:
    """Draw the shown frames and the spans of questions; None if there is neither."""
    rows: list[tuple[str, list[Mark]]] = []
    if pictured is not None:
        width = seconds * 0.004
        times = shown_times(pictured)
        rows.append(
            (
                "frames",
                [Mark(max(0, time - width / 2), time + width / 2, 0, 1, f"{time:.2f} s", "tick") for time in times],
            )
        )
    for number, question in enumerate(questions, 1):
        marks = [
            Mark(max(0.0, start - start_s), min(seconds, end - start_s), 0, 1, f"{start:g} to {end:g} s", "span")
            for start, end in _spans(question)
        ]
        if marks := [mark for mark in marks if mark.end > mark.start]:
            rows.append((f"Q{number}", marks))
    if not rows:
        return None
    spans = sum(len(marks) for name, marks in rows if name != "frames")
    label = f"Timeline of {seconds:.1f} s with {spans} spans of {sum(name != 'frames' for name, _ in rows)} questions"
    return charts.timeline(rows, seconds, label)


def _strip(row: VideoRow) -> Markup:
    """Draw which steps are valid, padding or damaged; of many steps, a sample."""
    places = sample(len(row.valid), CELLS)
    kinds, told = [], []
    for place in places:
        state = "damaged" if row.damaged[place] else "valid" if row.valid[place] else "padding"
        time = row.times[place]
        kinds.append(state)
        told.append(f"step {place}{'' if math.isnan(time) else f', {time:.2f} s'}: {state}")
    label = (
        f"{int(row.valid.sum())} of {len(row.valid)} steps of {row.feature} are valid, {int(row.damaged.sum())} damaged"
    )
    return charts.strip(kinds, told, label)


def _sound(sound: Sound, seconds: float) -> dict[str, Markup]:
    """Draw a waveform and a log-mel picture over the same seconds."""
    loudest = max((max(abs(low), abs(high)) for low, high in sound.peaks), default=0.0)
    bands = len(sound.levels)
    mel = [1127 * math.log1p(hertz / 700) for hertz in _BAND_HZ]
    shares = [
        ((place - mel[0]) / (mel[-1] - mel[0]), charts.short(hertz)) for place, hertz in zip(mel, _BAND_HZ, strict=True)
    ]
    picture = charts.image(bitmaps.data_uri(bitmaps.png(sound.levels)), _SOUND_HEIGHT)
    span = (0.0, seconds)
    return {
        "wave": charts.frame(
            [], span, f"Waveform, loudest sample {loudest:.2f}", "s",
            y_ticks=[(0, "−1"), (0.5, "0"), (1, "1")], height=_SOUND_HEIGHT // 2 + 16,
            behind=charts.wave(sound.peaks, _SOUND_HEIGHT // 2 + 16),
        ),
        "mel": charts.frame(
            [], span, f"Log-mel energies in {bands} bands from 125 to 7500 Hz", "s",
            y_ticks=[*shares[:1], *shares[2:]], height=_SOUND_HEIGHT, behind=picture,
        ),
    }  # fmt: skip


def _heat(store: Store, row: VideoRow, key: str) -> tuple[str, Markup] | None:
    """Draw the cosine of every two steps of a row, with a caption; None for one step, or a very large row."""
    steps = row.shape[0]
    if steps < 2 or math.prod(row.shape) * np.dtype(row.dtype).itemsize > _ROW_BYTES:
        return None
    places = sample(steps, _HEAT)
    reader, number = locate(store, row.feature, key)
    values = reader.values(number)
    cosines = similarity(np.stack([values[place] for place in places]))
    levels = bitmaps.levels_of(cosines, -1.0, 1.0)
    off = cosines[~np.eye(len(places), dtype=bool)]
    shown = bitmaps.levels_of(cosines, float(off.min()), 1.0)
    label = (
        f"Cosine of every two steps of {row.feature}: from {off.min():.2f} to {off.max():.2f}, mean {off.mean():.2f}"
    )
    some = f", {len(places)} of them" if len(places) < steps else ""
    caption = f"{row.feature}, steps 0 to {steps - 1}{some}: dark {off.min():.2f}, bright 1"
    return caption, Markup(
        '<img class="heat" src="{}" alt="{}" width="{}" height="{}" data-cosines="{}" data-steps="{}">'
    ).format(
        bitmaps.data_uri(bitmaps.png(shown)),
        label,
        len(places),
        len(places),
        base64.b64encode(levels.tobytes()).decode(),
        ",".join(map(str, places)),
    )
