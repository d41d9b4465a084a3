"""Decodes one unit: copies its file if it is remote, decodes it once, and prepares it for every feature."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.config import MediaConfig
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, describe_os_error, hash_content, source_status
from pipeline.extract.plan import Unit
from pipeline.extract.remote import copy_remote, remote_status
from pipeline.extract.sources import outside
from pipeline.extract.units import Decoded, DeferredPictures, PreparedSteps, RunContext, UnitFailure, UnitUnchanged
from pipeline.media import (
    Audio,
    AudioRequest,
    DecodeRequest,
    Event,
    Findings,
    Frame,
    Header,
    MediaError,
    MediaProcess,
    Picks,
    Policy,
    RefusalError,
    Segments,
    StreamFailure,
    audio_steps,
    damaged_windows,
    fallen_back,
)
from settings.messages import one_line, plural
from stores.commit import SourceRecord
from stores.format import DAMAGED_STEPS, IDENTITY, Array

logger = logging.getLogger("reelstore.extract.decode_unit")

_ATTEMPTS_WHILE_CHANGING = 2
# Failures that a machine without a working decoder, or without its filesystem, would have with every file.
_OF_A_PROCESS = frozenset({"crash", "oom", "timeout"})
_OF_A_FILESYSTEM = frozenset({"missing", "unreadable"})


class _ChangedError(Exception):
    """Raised when the file is no longer the one that was hashed."""


def decode_unit(context: RunContext, unit: Unit, media: MediaProcess) -> Decoded | UnitFailure | UnitUnchanged:
    """Decode a unit once for all its features and prepare their model input. Never raises for bad media.

    A file that changes while it is read is read again once; if it changes again, it fails as ``changed_during_read``.

    Raises
    ------
    MachineFaultError
        If no decoder runs here, or the store is out of sight: no file is at fault for that.
    """
    result = _decode(context, unit, media)
    if isinstance(result, UnitFailure):
        classes = {result.failure_class}
    else:
        classes = {name for name, _ in result.failures.values()} if isinstance(result, Decoded) else set()
    if classes & _OF_A_PROCESS and not media.works():
        raise MachineFaultError(f"no decoder runs on {socket.gethostname()}: {_first_message(result)}")
    if classes & _OF_A_FILESYSTEM and not (context.store / IDENTITY).exists():
        raise MachineFaultError(f"{socket.gethostname()} does not see {context.store} any more")
    return result


def _first_message(result: Decoded | UnitFailure | UnitUnchanged) -> str:
    if isinstance(result, UnitFailure):
        return result.message
    return next((message for _, message in result.failures.values()), "") if isinstance(result, Decoded) else ""


def _decode(context: RunContext, unit: Unit, media: MediaProcess) -> Decoded | UnitFailure | UnitUnchanged:
    seen = _Seen()
    started = time.perf_counter()
    for _ in range(_ATTEMPTS_WHILE_CHANGING):
        try:
            return _decode_once(context, unit, media, started, seen)
        except _ChangedError:
            continue
        except MediaError as error:
            logger.debug("%s: not decoded", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, error.failure_class, error.message, seen.source)
        except ExtractorError as error:
            logger.debug("%s: not prepared", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, "model_error", one_line(error), seen.source, of_model=True)
        except OSError as error:
            logger.debug("%s: not readable", unit.uri, exc_info=True)
            return UnitFailure(unit, unit.features, *describe_os_error(error))
    return UnitFailure(unit, unit.features, "changed_during_read", "the file changed while it was read, twice")


@dataclass(slots=True)
class _Seen:
    """The file as it was when it was read: a failure is remembered for these bytes."""

    source: SourceRecord | None = None


def _decode_once(
    context: RunContext, unit: Unit, media: MediaProcess, started: float, seen: _Seen
) -> Decoded | UnitUnchanged:
    if "://" in unit.uri:
        bounds = context.media.bounds()
        size, stamp = remote_status(unit.uri, bounds)
        local = context.copy_path()
        decoded: Decoded | UnitUnchanged | None = None
        try:
            content_id = copy_remote(unit.uri, local, bounds)
            if remote_status(unit.uri, bounds) != (size, stamp):
                raise _ChangedError
            seen.source = SourceRecord(unit.uri, size, stamp, content_id)
            decoded = _decode_file(context, unit, local.path, seen.source, media, started)
            return decoded
        finally:
            if not (isinstance(decoded, Decoded) and decoded.deferred is not None):
                context.remove_copy(local.name)
    path = Path(unit.uri)
    if (stray := outside(context.source_root, path, unit.image_rate)) is not None:
        raise MediaError("unreadable", f"{stray} lies outside of {context.source_root} (source.root)")
    size, stamp = source_status(path, unit.image_rate)
    untouched = unit.content_id is not None and (size, stamp) == (unit.size, unit.stamp)
    if not untouched and len(unit.keys) > 1:
        raise _ChangedError  # the other keys have the old bytes: the next plan tells them apart
    content_id = unit.content_id if untouched and unit.content_id else hash_content(path, unit.image_rate)
    seen.source = SourceRecord(unit.uri, size, stamp, content_id)
    try:
        decoded = _decode_file(context, unit, path, seen.source, media, started)
    except MediaError:
        if source_status(path, unit.image_rate) != (size, stamp):
            raise _ChangedError from None  # what failed may not be what was hashed
        raise
    if source_status(path, unit.image_rate) != (size, stamp):
        raise _ChangedError
    return decoded


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
        if feature.extractor.input != "audio":
            pictures.setdefault(feature.policy, []).append(feature)
    request = DecodeRequest(
        path=str(path),
        policies=tuple(policy.spec() for policy in pictures),
        audio=_audio_request(sounds, context.media) if sounds else None,
        start_s=unit.start_s,
        end_s=unit.end_s,
        backend=context.media.backend,
        truncated=context.media.truncated,
        image_rate=unit.image_rate,
        limits=context.limits,
    )
    assembly = _Assembly(list(pictures.values()), sounds, fail_damaged=context.media.damage == "fail")
    _decode_streams(request, media, assembly)
    features, failures = assembly.features()
    deferred = assembly.deferred(request, copied="://" in unit.uri)
    duration_s, seconds = assembly.duration_s, time.perf_counter() - started
    return Decoded(unit, source, duration_s, features, failures, assembly.frames, seconds, deferred, media.sandbox)


def decode_instead(
    context: RunContext, deferred: DeferredPictures, refusal: RefusalError, media: MediaProcess
) -> tuple[dict[str, PreparedSteps], dict[str, tuple[str, str]]]:
    """Decode with PyAV what a GPU refused; return model input and failures by feature, as ``Decoded`` has them.

    Raises
    ------
    MachineFaultError
        If no decoder runs here.
    """
    pictures: list[list[Feature]] = [[] for _ in deferred.request.policies]
    for name, policy in deferred.policies.items():
        pictures[policy].append(context.features[name])
    assembly = _Assembly(pictures, (), fail_damaged=context.media.damage == "fail")
    try:
        for event in media.decode(replace(deferred.request, backend="pyav", audio=None)):
            assembly.take(fallen_back(event, refusal) if isinstance(event, Header) else event)
    except MediaError as error:
        logger.debug("%s: not decoded", deferred.request.path, exc_info=True)
        if error.failure_class in _OF_A_PROCESS and not media.works():
            raise MachineFaultError(f"no decoder runs on {socket.gethostname()}: {error.message}") from error
        assembly.fail("video", error)
    except ExtractorError as error:
        return {}, dict.fromkeys(deferred.policies, ("model_error", one_line(error)))
    return assembly.features()


def _audio_request(sounds: Sequence[Feature], media: MediaConfig) -> AudioRequest:
    """Ask for the sound that the windows of all features reach over, and no more, at every rate that one takes."""
    rates = tuple(sorted({feature.extractor.rate for feature in sounds}))
    return AudioRequest(rates, media.audio_absent, max(_reach(feature) for feature in sounds))


def _reach(feature: Feature) -> float:
    """Return the second at which the last window of a feature of sound ends."""
    policy, extractor = feature.policy, feature.extractor
    assert isinstance(policy, Segments)  # checked when the feature was made
    return (policy.t - 1) * policy.seconds + extractor.window_samples / extractor.rate


def _decode_streams(request: DecodeRequest, media: MediaProcess, assembly: _Assembly) -> None:
    """Decode pictures and sound in one pass. If the pass dies, the stream that it did not reach is fetched alone."""
    try:
        for event in media.decode(request):
            assembly.take(event)
    except MediaError as error:
        if request.audio is None or not request.policies:
            raise
        logger.debug("%s: one pass for both streams failed", request.path, exc_info=True)
        if assembly.has_pictures:
            assembly.fail("audio", error)
            return
        assembly.fail("video", error)
        try:
            for event in media.decode(replace(request, policies=())):
                assembly.take(event)
        except MediaError as second:
            assembly.fail("audio", second)


def share_of(feature: Feature) -> str:
    """Return a name that features have in common which prepare alike."""
    preparation = feature.extractor.shared_preparation
    return f"feature {feature.name}" if preparation is None else json.dumps(preparation, sort_keys=True)


def expected_bytes(features: Iterable[Feature]) -> int:
    """Return the bytes of the model input of one unit that wants all these features; what they share counts once."""
    shared = {
        (json.dumps(feature.spec["sampling"], sort_keys=True), share_of(feature)): feature for feature in features
    }
    return sum(feature.input_bytes for feature in shared.values())


def _prepare(feature: Feature, frames: Array) -> Array:
    """Prepare frames, clips or windows; raise ExtractorError if the extractor, which may be anybody's, fails at all."""
    try:
        return feature.extractor.prepare(frames)
    except ExtractorError:
        raise
    except Exception as error:  # whatever a plug-in raises
        raise ExtractorError(f"prepare() of {feature.name!r}: {type(error).__name__}: {one_line(error)}") from error


def _prepare_frame(feature: Feature, frame: Array) -> Array:
    """Prepare one frame, [H, W, 3], whether the extractor takes frames or clips: a clip is prepared frame by frame."""
    is_clips = feature.extractor.input == "clips"
    prepared: Array = _prepare(feature, frame[None, None])[0, 0] if is_clips else _prepare(feature, frame[None])[0]
    return prepared


class _Assembly:
    """Assembles the events of one decode into the model input of each feature."""

    def __init__(
        self, pictures: Sequence[Sequence[Feature]], sounds: Sequence[Feature], fail_damaged: bool = False
    ) -> None:
        self._pictures = pictures  # by policy, in the order of the request
        self._sounds = sounds
        self._fail_damaged = fail_damaged
        self._findings: Findings | None = None
        self._header: Header | None = None
        self._audio: dict[int, Audio] = {}  # by rate
        self._shares = {feature.name: share_of(feature) for of_policy in [*pictures, sounds] for feature in of_policy}
        # By policy and share: what several features prepare alike is prepared, held and sent once.
        self._steps: dict[tuple[int, str], Array] = {}
        self._filled: dict[tuple[int, str], Array] = {}
        self._prepared_sound: dict[tuple[Policy, str], Array] = {}
        self._failed: dict[str, MediaError] = {}
        self._picks: Picks | None = None
        self.frames = 0

    @property
    def duration_s(self) -> float:
        """Length of the video or clip in seconds; 0 if nothing was learnt about it."""
        return 0.0 if self._header is None else self._header.duration_s

    @property
    def has_pictures(self) -> bool:
        """Whether every wanted picture came."""
        return self._picks is not None or (
            self._header is not None and all(filled.all() for filled in self._filled.values())
        )

    def fail(self, stream: Literal["video", "audio"], error: MediaError) -> None:
        """Note that a stream cannot be delivered."""
        self._failed.setdefault(stream, error)

    def take(self, event: Event) -> None:
        """Add one event, in the order in which the decoder sends them."""
        if isinstance(event, Header):  # a second one voids what came before it
            self._header = event
            self._findings = None
            self._picks = None
            if "video" in self._failed:
                return  # of a pass for the sound alone
            for policy, samples in enumerate(event.samples):
                for share, feature in self._preparing(policy).items():
                    shape = (len(samples.time_s), *feature.extractor.prepared_shape())
                    self._steps[policy, share] = np.zeros(shape, feature.extractor.prepared_dtype)
                    self._filled[policy, share] = (samples.frame < 0).ravel()
        elif isinstance(event, Frame):
            self.frames += 1
            done: dict[str, Array] = {}  # one geometry may serve several policies
            for policy, slots in event.uses:
                places = list(slots)
                for share, feature in self._preparing(policy).items():
                    if share not in done:
                        done[share] = _prepare_frame(feature, event.rgb)
                    self._by_slot(policy, share)[places] = done[share]
                    self._filled[policy, share][places] = True
        elif isinstance(event, Picks):
            self.frames = len(event.numbers)
            self._picks = event
        elif isinstance(event, Findings):
            self._findings = event
        elif isinstance(event, StreamFailure):
            self.fail(event.stream, MediaError(event.failure_class, event.message))
        elif isinstance(event, Audio):
            self._audio[event.rate] = event

    def _by_slot(self, policy: int, share: str) -> Array:
        assert self._header is not None  # it comes before the frames
        by_slot: Array = self._header.samples[policy].by_slot(self._steps[policy, share])
        return by_slot

    def _preparing(self, policy: int) -> dict[str, Feature]:
        """Return, for each share of a policy, the feature that prepares for all."""
        return {self._shares[feature.name]: feature for feature in reversed(self._pictures[policy])}

    def features(self) -> tuple[dict[str, PreparedSteps], dict[str, tuple[str, str]]]:
        """Return feature name to model input, and feature name to (failure class, message) of the others."""
        prepared: dict[str, PreparedSteps] = {}
        failures: dict[str, tuple[str, str]] = {}
        pictures = [
            (feature, number)
            for number, features in enumerate(self._pictures)
            for feature in features
            if self._picks is None or "video" in self._failed
        ]
        for feature, number in [*pictures, *((feature, None) for feature in self._sounds)]:
            try:
                steps = self._sound(feature) if number is None else self._picture(feature, number)
                prepared[feature.name] = steps
            except MediaError as error:
                failures[feature.name] = (error.failure_class, error.message)
            except ExtractorError as error:
                logger.debug("%s: not prepared", feature.name, exc_info=True)
                failures[feature.name] = ("model_error", one_line(error))
        return prepared, failures

    def deferred(self, request: DecodeRequest, copied: bool) -> DeferredPictures | None:
        """Return what another process is to decode, if the pictures were only picked."""
        policies = {feature.name: number for number, features in enumerate(self._pictures) for feature in features}
        if self._picks is None or self._header is None or not policies or "video" in self._failed:
            return None
        whole = replace(request, path=str(Path(request.path).absolute()))  # the models' process may be somewhere else
        return DeferredPictures(whole, self._header, self._picks, policies, copied)

    def _described(self, stream: Literal["video", "audio"]) -> Header:
        """Return the header; raise ``MediaError`` if the stream failed or nothing came."""
        if stream in self._failed:
            raise self._failed[stream]
        if self._header is None:
            raise MediaError("crash", "the decoder ended before it described the file")
        return self._header

    def _picture(self, feature: Feature, policy: int) -> PreparedSteps:
        header = self._described("video")
        place = (policy, self._shares[feature.name])
        missing = int((~self._filled[place]).sum())
        if missing:
            raise MediaError("corrupt", f"{missing} wanted frames cannot be decoded")
        media, samples = header.media, header.samples[policy]
        if self._findings is not None:
            media = {**media, **self._findings.remarks}
        if self._findings is not None and (damaged := samples.steps_of(self._findings.damaged[policy])):
            self._check_damage(damaged, "pictures")
            media = {**media, **self._findings.media, DAMAGED_STEPS: damaged}
        return PreparedSteps(self._steps[place], samples, media)

    def _sound(self, feature: Feature) -> PreparedSteps:
        header = self._described("audio")
        whole = self._audio.get(feature.extractor.rate)
        if whole is None:
            raise MediaError("crash", "the decoder ended before the sound")
        assert isinstance(feature.policy, Segments)  # checked when the feature was made
        audio = whole.until(_reach(feature))
        window = feature.extractor.window_samples
        windows, samples = audio_steps(audio, feature.policy, header.duration_s, window)
        media = {**header.media, "audio": audio.record, "audio_state": audio.state}
        if damaged := damaged_windows(audio, feature.policy, window):
            self._check_damage(damaged, "sound")
            media[DAMAGED_STEPS] = list(damaged)
        share = (feature.policy, self._shares[feature.name])
        if share not in self._prepared_sound:
            self._prepared_sound[share] = _prepare(feature, windows)
        return PreparedSteps(self._prepared_sound[share], samples, media)

    def _check_damage(self, steps: Sequence[int], what: str) -> None:
        if self._fail_damaged:
            first = f"the first is step {steps[0]}"
            raise MediaError("corrupt", f"{plural(len(steps), 'step')} would hold damaged {what} ({first})")
