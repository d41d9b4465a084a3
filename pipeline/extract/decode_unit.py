"""Decodes one unit: copies its file if it is remote, decodes it once, and prepares it for every feature."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import fsspec
import numpy as np

from extractors import ExtractorError
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, describe_os_error, hash_content, local_status, remote_status
from pipeline.extract.plan import Unit
from pipeline.extract.units import Decoded, PreparedSteps, RunContext, UnitFailure, UnitUnchanged
from pipeline.media import (
    Audio,
    AudioRequest,
    DecodeRequest,
    Event,
    Frame,
    Header,
    MediaError,
    MediaProcess,
    Policy,
    Segments,
    audio_steps,
)
from settings.messages import one_line
from stores.commit import SourceRecord
from stores.format import STAGING, Array, new_id

logger = logging.getLogger("reelstore.extract.decode_unit")

_COPY_CHUNK = 1 << 20
_ATTEMPTS_WHILE_CHANGING = 2


class _ChangedError(Exception):
    """Raised when the file is no longer the one that was hashed."""


def decode_unit(context: RunContext, unit: Unit, media: MediaProcess) -> Decoded | UnitFailure | UnitUnchanged:
    """Decode a unit once for all its features and prepare their model input. Never raises for bad media.

    A file that changes while it is read is read again once; if it changes again, it fails as ``changed_during_read``.
    """
    started = time.perf_counter()
    for _ in range(_ATTEMPTS_WHILE_CHANGING):
        try:
            return _decode_once(context, unit, media, started)
        except _ChangedError:
            continue
        except MediaError as error:
            logger.debug("%s: not decoded", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, error.failure_class, error.message)
        except ExtractorError as error:
            logger.debug("%s: not prepared", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, "model_error", one_line(error))
        except OSError as error:
            logger.debug("%s: not readable", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, *describe_os_error(error))
    return UnitFailure(unit, unit.features, "changed_during_read", "the file changed while it was read, twice")


def _decode_once(context: RunContext, unit: Unit, media: MediaProcess, started: float) -> Decoded | UnitUnchanged:
    if "://" in unit.uri:
        size, stamp = remote_status(unit.uri)
        local = context.store / STAGING / f"{new_id()}.copy"
        try:
            content_id = _copy(unit.uri, local)
            if remote_status(unit.uri) != (size, stamp):
                raise _ChangedError
            return _decode_file(context, unit, local, SourceRecord(unit.uri, size, stamp, content_id), media, started)
        finally:
            local.unlink(missing_ok=True)
    path = Path(unit.uri)
    size, stamp = local_status(path.stat())
    untouched = unit.content_id is not None and (size, stamp) == (unit.size, unit.stamp)
    if not untouched and len(unit.keys) > 1:
        raise _ChangedError  # the other keys have the old bytes: the next plan tells them apart
    content_id = unit.content_id if untouched and unit.content_id else hash_content(path)
    decoded = _decode_file(context, unit, path, SourceRecord(unit.uri, size, stamp, content_id), media, started)
    if local_status(path.stat()) != (size, stamp):
        raise _ChangedError
    return decoded


def _copy(uri: str, target: Path) -> str:
    """Copy a remote file, hash it on the way, and return its content id."""
    hasher = hashlib.sha256()
    with fsspec.open(uri, "rb") as remote, target.open("xb") as local:
        reader: IO[bytes] = remote
        while chunk := reader.read(_COPY_CHUNK):
            hasher.update(chunk)
            local.write(chunk)
    return hasher.hexdigest()


def _decode_file(
    context: RunContext, unit: Unit, path: Path, source: SourceRecord, media: MediaProcess, started: float
) -> Decoded | UnitUnchanged:
    wanted = [
        feature
        for feature in (context.features[name] for name in unit.features)
        if unit.stored.get(feature.name) != cache_key(source.content_id, unit.start_s, unit.end_s, feature.spec_digest)
    ]
    if not wanted:
        return UnitUnchanged(unit, source)
    sounds = [feature for feature in wanted if feature.extractor.input == "audio"]
    pictures: dict[Policy, list[Feature]] = {}
    for feature in wanted:
        if feature.extractor.input == "frames":
            pictures.setdefault(feature.policy, []).append(feature)
    request = DecodeRequest(
        path=str(path),
        policies=tuple(policy.spec() for policy in pictures),
        audio=AudioRequest(sounds[0].extractor.rate, context.media.audio_absent) if sounds else None,
        start_s=unit.start_s,
        end_s=unit.end_s,
        backend=context.media.backend,
        limits=context.limits,
    )
    assembly = _Assembly(list(pictures.values()), sounds)
    for event in media.decode(request):
        assembly.take(event)
    header = assembly.header()
    seconds = time.perf_counter() - started
    return Decoded(unit, source, header.duration_s, assembly.features(), assembly.frames, seconds)


class _Assembly:
    """Assembles the events of one decode into the model input of each feature."""

    def __init__(self, pictures: Sequence[Sequence[Feature]], sounds: Sequence[Feature]) -> None:
        self._pictures = pictures  # by policy, in the order of the request
        self._sounds = sounds
        self._header: Header | None = None
        self._audio: Audio | None = None
        self._steps: dict[str, Array] = {}
        self._filled: dict[str, Array] = {}
        self.frames = 0

    def take(self, event: Event) -> None:
        """Add one event, in the order in which the decoder sends them."""
        if isinstance(event, Header):  # a second one voids what came before it
            self._header = event
            for features, samples in zip(self._pictures, event.samples, strict=True):
                for feature in features:
                    shape = (len(samples.time_s), *feature.extractor.prepared_shape())
                    self._steps[feature.name] = np.zeros(shape, feature.extractor.prepared_dtype)
                    self._filled[feature.name] = samples.frame < 0
        elif isinstance(event, Frame):
            self.frames += 1
            for policy, slots in event.uses:
                for feature in self._pictures[policy]:
                    places = list(slots)
                    self._steps[feature.name][places] = feature.extractor.prepare(event.rgb[None])[0]
                    self._filled[feature.name][places] = True
        else:
            self._audio = event

    def header(self) -> Header:
        """Return the header that holds; raise ``crash`` if none came."""
        if self._header is None:
            raise MediaError("crash", "the decoder ended before it described the file")
        return self._header

    def features(self) -> dict[str, PreparedSteps]:
        """Return feature name to model input; raise ``MediaError`` if the events are incomplete."""
        header = self.header()
        prepared = {}
        for features, samples in zip(self._pictures, header.samples, strict=True):
            for feature in features:
                missing = int((~self._filled[feature.name]).sum())
                if missing:
                    raise MediaError("corrupt", f"{missing} wanted frames cannot be decoded")
                prepared[feature.name] = PreparedSteps(self._steps[feature.name], samples, header.media)
        for feature in self._sounds:
            if self._audio is None:
                raise MediaError("crash", "the decoder ended before the sound")
            assert isinstance(feature.policy, Segments)  # checked when the feature was made
            windows, samples = audio_steps(
                self._audio, feature.policy, header.duration_s, feature.extractor.window_samples
            )
            media = {**header.media, "audio": self._audio.record, "audio_state": self._audio.state}
            prepared[feature.name] = PreparedSteps(feature.extractor.prepare(windows), samples, media)
        return prepared
