"""Carries events from the decoding child to its parent: framed JSON and raw bytes, never pickles.

One message is a fixed prefix (tag, length of the JSON, length of the payload), the JSON, the payload. The parent
trusts none of it: lengths are bounded by what the request allows before anything is allocated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.media.timeline import Samples
from pipeline.media.types import (
    FAILURE_CLASSES,
    Audio,
    DecodeRequest,
    Event,
    FailureClass,
    Findings,
    Frame,
    Header,
    MediaError,
    Picks,
    StreamFailure,
    Survey,
)

PREFIX = struct.Struct("<cIQ")
MAX_JSON = 256 * 2**20  # far above the samples of any real request; bounds what a hostile child can claim
HEADER, FRAME, PICKS, FINDINGS, AUDIO, STREAM_FAILURE, SURVEY = b"H", b"F", b"K", b"I", b"A", b"S", b"P"
DONE, FAILURE = b"D", b"E"
HELLO, WANTED = b"B", b"W"

Writer = Callable[[bytes | memoryview], None]
"""Writes all of its bytes, in order."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a child says first: what keeps it from doing anything but decode (``pipeline.media.sandbox``)."""

    sandbox: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a child asks for: an image of the request's folder, or the names of all of them (None)."""

    name: str | None


class ProtocolError(Exception):
    """Raised when the other side sends what no well-behaved child sends."""


def send_event(write: Writer, event: Event) -> None:
    """Write one event."""
    if isinstance(event, Header):
        samples = [_pack(chosen) for chosen in event.samples]
        fields = {"media": event.media, "duration_s": event.duration_s, "samples": samples}
        _send(write, HEADER, fields)
    elif isinstance(event, Frame):
        fields = {"shape": event.rgb.shape, "time_s": event.time_s, "uses": event.uses}
        _send(write, FRAME, fields, np.ascontiguousarray(event.rgb).data.cast("B"))
    elif isinstance(event, Picks):
        _send(write, PICKS, asdict(event))
    elif isinstance(event, Survey):
        _send(write, SURVEY, event.facts)
    elif isinstance(event, Findings):
        _send(write, FINDINGS, {"media": event.media, "damaged": event.damaged, "remarks": event.remarks})
    elif isinstance(event, StreamFailure):
        fields = {"stream": event.stream, "failure_class": event.failure_class, "message": event.message}
        _send(write, STREAM_FAILURE, fields)
    else:
        fields = {
            "rate": event.rate,
            "segments": event.segments,
            "state": event.state,
            "record": event.record,
            "damaged": event.damaged,
        }
        _send(write, AUDIO, fields, event.samples.data.cast("B") if len(event.samples) else None)


def send_hello(write: Writer, sandbox: str) -> None:
    """Write what keeps this child from doing anything but decode."""
    _send(write, HELLO, {"sandbox": sandbox})


def send_wanted(write: Writer, name: str | None) -> None:
    """Ask for an image of the request's folder, or for the names of all of them."""
    _send(write, WANTED, {"name": name})


def send_done(write: Writer) -> None:
    """Write the end of a request that went well."""
    _send(write, DONE, {})


def send_failure(write: Writer, error: MediaError) -> None:
    """Write the end of a request that failed."""
    _send(write, FAILURE, {"failure_class": error.failure_class, "message": error.message})


def receive(read: Callable[[int], NDArray[np.uint8]], request: DecodeRequest) -> Event | Hello | Wanted | None:
    """Read one event, or what the child says of itself or asks for; return None at the end.

    Parameters
    ----------
    read
        Returns exactly as many bytes as it is given, as a fresh uint8 array.
    request
        What the child was sent; bounds the sizes.

    Raises
    ------
    MediaError
        The failure that the child reports.
    ProtocolError
        If the message makes no sense.
    """
    tag, json_length, payload_length = PREFIX.unpack(read(PREFIX.size).tobytes())
    if json_length > MAX_JSON or payload_length > _payload_bound(tag, request):
        raise ProtocolError(f"message {tag!r} of {json_length} + {payload_length} bytes")
    try:
        fields = json.loads(read(json_length).tobytes())
        if tag == FAILURE:
            raise MediaError(_failure_class(fields["failure_class"]), str(fields["message"]))
        payload = read(payload_length)
        return _event(tag, fields, payload)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"message {tag!r}: {error}") from error


def _event(tag: bytes, fields: dict[str, Any], payload: NDArray[np.uint8]) -> Event | Hello | Wanted | None:
    if tag == DONE:
        return None
    if tag == HELLO:
        return Hello(str(fields["sandbox"]))
    if tag == WANTED:
        return Wanted(None if fields["name"] is None else str(fields["name"]))
    if tag == HEADER:
        samples = tuple(_unpack(chosen) for chosen in fields["samples"])
        return Header(fields["media"], float(fields["duration_s"]), samples)
    if tag == FRAME:
        height, width, channels = fields["shape"]
        return Frame(payload.reshape(height, width, channels), float(fields["time_s"]), _uses(fields["uses"]))
    if tag == PICKS:
        numbers, clock_s = tuple(map(int, fields["numbers"])), tuple(map(float, fields["clock_s"]))
        uses = tuple(map(_uses, fields["uses"]))
        if not len(numbers) == len(clock_s) == len(uses):
            raise ProtocolError(f"{len(numbers)} picks with {len(clock_s)} times and {len(uses)} uses")
        return Picks(int(fields["stream"]), int(fields["frames"]), numbers, clock_s, uses)
    if tag == AUDIO:
        segments, damaged = _ranges(fields["segments"]), _ranges(fields["damaged"])
        waveform, rate = payload.view(np.float32), int(fields["rate"])
        return Audio(waveform, rate, segments, fields["state"], fields["record"], damaged)
    if tag == SURVEY:
        return Survey(dict(fields))
    if tag == FINDINGS:
        damaged_slots = tuple(tuple(map(int, slots)) for slots in fields["damaged"])
        return Findings(dict(fields["media"]), damaged_slots, dict(fields["remarks"]))
    if tag == STREAM_FAILURE:
        if fields["stream"] not in ("video", "audio"):
            raise ProtocolError(f"unknown stream {fields['stream']!r}")
        return StreamFailure(fields["stream"], _failure_class(fields["failure_class"]), str(fields["message"]))
    raise ProtocolError(f"unknown message {tag!r}")


def _uses(pairs: list[tuple[int, list[int]]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return tuple((int(policy), tuple(map(int, slots))) for policy, slots in pairs)


def _ranges(pairs: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((int(start), int(end)) for start, end in pairs)


def _payload_bound(tag: bytes, request: DecodeRequest) -> int:
    if tag == FRAME:
        return 3 * request.limits.max_pixels
    if tag == AUDIO and request.audio is not None:
        return 4 * math.ceil(request.limits.max_duration_s * max(request.audio.rates))
    return 0


def _failure_class(name: object) -> FailureClass:
    if name not in FAILURE_CLASSES:
        raise ProtocolError(f"unknown failure class {name!r}")
    return cast(FailureClass, name)


def _pack(samples: Samples) -> dict[str, Any]:
    published = samples.published_time_s
    return {
        "frame": samples.frame.tolist(),
        "time_s": samples.time_s.tolist(),
        "valid": samples.valid.tolist(),
        "published_time_s": None if published is None else published.tolist(),
    }


def _unpack(fields: dict[str, Any]) -> Samples:
    published = fields["published_time_s"]
    return Samples(
        frame=np.array(fields["frame"], dtype=np.int64),
        time_s=np.array(fields["time_s"], dtype=np.float64),
        valid=np.array(fields["valid"], dtype=np.bool_),
        published_time_s=None if published is None else np.array(published, dtype=np.float64),
    )


def _send(write: Writer, tag: bytes, fields: dict[str, Any], payload: memoryview | None = None) -> None:
    text = json.dumps(fields).encode()
    write(PREFIX.pack(tag, len(text), len(payload or b"")) + text)
    if payload:
        write(payload)
