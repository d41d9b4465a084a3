"""The two halves of the work, free of any executor: decode and prepare a unit, then compute its rows."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np

from extractors.base import ExtractorError, ModelOutputError
from extractors.batching import MicroBatcher, is_out_of_memory
from pipeline.audio_steps import audio_steps
from pipeline.config import MediaConfig
from pipeline.jobspec import FeatureJob
from pipeline.keys import cache_key, content_id, stamp
from pipeline.media.supervisor import MediaProcess
from pipeline.media.types import Audio, AudioRequest, DecodeRequest, Event, Frame, Header, Limits, MediaError
from pipeline.plan import Unit, describe_os_error, remote_status
from pipeline.precision import measured_steps, rounding_error
from pipeline.sampling import Samples, Segments
from stores.commit import SourceRecord
from stores.layout import STAGING, new_id
from stores.rounding import COMPUTE, STORAGE, RoundingError
from stores.rows import Array, Row

_COPY_CHUNK = 1 << 20
_ATTEMPTS_WHILE_CHANGING = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What every worker of a run needs to know. Picklable; holds no weights and no open file."""

    store: Path
    jobs: tuple[FeatureJob, ...]
    media: MediaConfig
    limits: Limits

    def job(self, name: str) -> FeatureJob:
        return next(job for job in self.jobs if job.name == name)

    def jobs_of(self, units: Sequence[Unit]) -> list[FeatureJob]:
        """The features that some unit wants: only their towers need loading."""
        wanted = {name for unit in units for name in unit.features}
        return [job for job in self.jobs if job.name in wanted]

    def media_process(self) -> MediaProcess:
        media = self.media
        return MediaProcess(media.deadline_s, media.memory_mb, media.recycle_after, media.backend)


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """Model input of one feature: ``steps [T, *prepared_shape]``, where they lie in time, and from which streams."""

    steps: Array
    samples: Samples
    media: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A unit after decoding: small enough to travel (no full-size frame is left in it)."""

    unit: Unit
    source: SourceRecord
    duration_s: float
    features: Mapping[str, PreparedSteps]
    frames: int
    seconds: float


@dataclass(frozen=True, slots=True)
class UnitFailure:
    """A unit, or some of its features, that could not be computed."""

    unit: Unit
    features: tuple[str, ...]
    kind: str
    message: str
    source: SourceRecord | None = None


@dataclass(frozen=True, slots=True)
class UnitUnchanged:
    """A remote file whose stamp changed but whose bytes did not: nothing was decoded."""

    unit: Unit
    source: SourceRecord


@dataclass(frozen=True, slots=True)
class ComputedRow:
    """A finished row on its way to a shard."""

    feature: str
    row: Row
    aliases: tuple[str, ...]
    numerics: Mapping[str, Any]
    source: SourceRecord
    rounding: Mapping[str, RoundingError]


class _ChangedError(Exception):
    """The file is not the one that was hashed."""


def decode_unit(work: Work, unit: Unit, media: MediaProcess) -> Decoded | UnitFailure | UnitUnchanged:
    """Decode a unit once for all its features and prepare their model input. Never raises for bad media.

    A file that changes while it is read is read again once; what changes again fails as
    ``changed_during_read``.
    """
    started = time.perf_counter()
    for _ in range(_ATTEMPTS_WHILE_CHANGING):
        try:
            return _decode_once(work, unit, media, started)
        except _ChangedError:
            continue
        except MediaError as error:
            return UnitFailure(unit, unit.features, error.kind, error.message)
        except ExtractorError as error:
            return UnitFailure(unit, unit.features, "model_error", one_line(error))
        except OSError as error:
            return UnitFailure(unit, unit.features, *describe_os_error(error))
    return UnitFailure(unit, unit.features, "changed_during_read", "the file changed while it was read, twice")


def _decode_once(work: Work, unit: Unit, media: MediaProcess, started: float) -> Decoded | UnitUnchanged:
    if "://" in unit.uri:
        size, mark = remote_status(unit.uri)
        local = work.store / STAGING / f"{new_id()}.copy"
        try:
            content = _copy(unit.uri, local)
            if remote_status(unit.uri) != (size, mark):
                raise _ChangedError
            return _decode_file(work, unit, local, SourceRecord(unit.uri, size, mark, content), media, started)
        finally:
            local.unlink(missing_ok=True)
    path = Path(unit.uri)
    before = path.stat()
    fresh = unit.content is not None and (before.st_size, stamp(before)) == (unit.size, unit.stamp)
    if not fresh and len(unit.keys) > 1:
        raise _ChangedError  # its twins have the old bytes: the next plan sorts them out
    content = unit.content if fresh and unit.content else content_id(path)
    source = SourceRecord(unit.uri, before.st_size, stamp(before), content)
    decoded = _decode_file(work, unit, path, source, media, started)
    after = path.stat()
    if (after.st_size, stamp(after)) != (before.st_size, stamp(before)):
        raise _ChangedError
    return decoded


def _copy(uri: str, target: Path) -> str:
    """Copy a remote file, hashing it on the way; return its content id."""
    hasher = hashlib.sha256()
    with fsspec.open(uri, "rb") as remote, target.open("xb") as local:
        reader: IO[bytes] = remote
        while chunk := reader.read(_COPY_CHUNK):
            hasher.update(chunk)
            local.write(chunk)
    return hasher.hexdigest()


def _decode_file(
    work: Work, unit: Unit, path: Path, source: SourceRecord, media: MediaProcess, started: float
) -> Decoded | UnitUnchanged:
    wanted = [
        work.job(name)
        for name in unit.features
        if unit.stored.get(name) != cache_key(source.content_id, unit.start_s, unit.end_s, work.job(name).spec_digest)
    ]
    if not wanted:
        return UnitUnchanged(unit, source)
    pictures = [job for job in wanted if job.extractor.input == "frames"]
    sounds = [job for job in wanted if job.extractor.input == "audio"]
    policies: dict[str, list[FeatureJob]] = {}
    for job in pictures:
        policies.setdefault(json.dumps(job.policy.spec(), sort_keys=True), []).append(job)
    request = DecodeRequest(
        path=str(path),
        policies=tuple(json.loads(policy) for policy in policies),
        audio=AudioRequest(sounds[0].extractor.rate, work.media.audio_absent) if sounds else None,
        start_s=unit.start_s,
        end_s=unit.end_s,
        backend=work.media.backend,
        limits=work.limits,
    )
    assembly = _Assembly(list(policies.values()), sounds)
    for event in media.decode(request):
        assembly.take(event)
    header = assembly.described()
    seconds = time.perf_counter() - started
    return Decoded(unit, source, header.duration_s, assembly.features(), assembly.frames, seconds)


class _Assembly:
    """Puts the events of one decode together into the model input of each feature."""

    def __init__(self, pictures: Sequence[Sequence[FeatureJob]], sounds: Sequence[FeatureJob]) -> None:
        self._pictures = pictures  # by policy, in the order of the request
        self._sounds = sounds
        self._header: Header | None = None
        self._audio: Audio | None = None
        self._steps: dict[str, Array] = {}
        self._filled: dict[str, Array] = {}
        self.frames = 0

    def take(self, event: Event) -> None:
        if isinstance(event, Header):  # a second one voids what came before it
            self._header = event
            for jobs, samples in zip(self._pictures, event.samples, strict=True):
                for job in jobs:
                    shape = (len(samples.time_s), *job.extractor.prepared_shape())
                    self._steps[job.name] = np.zeros(shape, job.extractor.prepared_dtype)
                    self._filled[job.name] = samples.frame < 0
        elif isinstance(event, Frame):
            self.frames += 1
            for policy, slots in event.uses:
                for job in self._pictures[policy]:
                    places = list(slots)
                    self._steps[job.name][places] = job.extractor.prepare(event.rgb[None])[0]
                    self._filled[job.name][places] = True
        else:
            self._audio = event

    def described(self) -> Header:
        if self._header is None:
            raise MediaError("crash", "the decoder ended before it described the file")
        return self._header

    def features(self) -> dict[str, PreparedSteps]:
        header = self.described()
        prepared = {}
        for jobs, samples in zip(self._pictures, header.samples, strict=True):
            for job in jobs:
                missing = int((~self._filled[job.name]).sum())
                if missing:
                    raise MediaError("corrupt", f"{missing} wanted frames cannot be decoded")
                prepared[job.name] = PreparedSteps(self._steps[job.name], samples, header.media)
        for job in self._sounds:
            if self._audio is None:
                raise MediaError("crash", "the decoder ended before the sound")
            assert isinstance(job.policy, Segments)  # checked when the job was made
            windows, samples = audio_steps(self._audio, job.policy, header.duration_s, job.extractor.window_samples)
            media = {**header.media, "audio": self._audio.record, "audio_state": self._audio.state}
            prepared[job.name] = PreparedSteps(job.extractor.prepare(windows), samples, media)
        return prepared


@dataclass(slots=True)
class Models:
    """The loaded models of a worker, one micro-batcher per feature, and the features compared with float32 so far."""

    batchers: dict[str, MicroBatcher] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, jobs: Sequence[FeatureJob], device: str, threads: int | None) -> Models:
        """Load every tower once.

        Raises
        ------
        ExtractorError
            If weights are missing or do not fit.
        """
        models = {}
        for job in jobs:
            models[job.name] = MicroBatcher(job.extractor.load(device, threads), job.config.micro_batch)
        return cls(models)


def compute_rows(work: Work, models: Models, units: Sequence[Decoded]) -> Iterator[ComputedRow | UnitFailure]:
    """Run the towers over decoded units; one row or one failure per wanted feature of each."""
    for job in work.jobs:
        members = {decoded.unit.keys[0]: decoded for decoded in units if job.name in decoded.features}
        if members:
            yield from _compute_feature(job, models, members)


def _compute_feature(
    job: FeatureJob, models: Models, members: dict[str, Decoded]
) -> Iterator[ComputedRow | UnitFailure]:
    batcher = models.batchers[job.name]
    while members:
        try:
            results = batcher.run([(key, decoded.features[job.name].steps) for key, decoded in members.items()])
        except ModelOutputError as error:
            for key in dict.fromkeys(error.keys or members):
                decoded = members.pop(key)
                yield UnitFailure(decoded.unit, (job.name,), "model_error", one_line(error), decoded.source)
            continue
        except (MemoryError, RuntimeError) as error:
            kind = "oom" if is_out_of_memory(error) else "model_error"
            for decoded in members.values():
                yield UnitFailure(decoded.unit, (job.name,), kind, one_line(error), decoded.source)
            return
        numerics = batcher.numerics()
        for key, values in results:
            prepared = members[key].features[job.name]
            rounding = _compute_error(job, models, prepared, values)
            yield _row(job, members[key], prepared, values, numerics, rounding)
        return


def _compute_error(job: FeatureJob, models: Models, prepared: PreparedSteps, values: Array) -> dict[str, RoundingError]:
    """Error of computing in half precision: once per loaded model, on its first row, since it takes another forward."""
    places = measured_steps(prepared.samples.frame)
    if job.name in models.compared or not len(places):
        return {}
    models.compared.add(job.name)
    reference = models.batchers[job.name].reference(prepared.steps[places])
    return {} if reference is None else {COMPUTE: rounding_error(values[places], reference)}


def _row(
    job: FeatureJob,
    decoded: Decoded,
    prepared: PreparedSteps,
    values: Array,
    numerics: Mapping[str, Any],
    rounding: dict[str, RoundingError],
) -> ComputedRow | UnitFailure:
    unit = decoded.unit
    samples = prepared.samples
    with np.errstate(over="ignore"):
        stored = values.astype(job.config.dtype)
    if not np.isfinite(stored).all():
        message = f"values up to {np.abs(values).max():.3g} do not fit {job.config.dtype}; use dtype float32"
        return UnitFailure(unit, (job.name,), "model_error", message, decoded.source)
    places = measured_steps(samples.frame)
    if stored.dtype != values.dtype and len(places):
        rounding[STORAGE] = rounding_error(stored[places], values[places])
    stored[samples.frame < 0] = 0
    row = Row(
        key=unit.keys[0],
        cache_key=cache_key(decoded.source.content_id, unit.start_s, unit.end_s, job.spec_digest),
        values=stored,
        time_s=samples.time_s,
        valid=samples.valid,
        duration_s=decoded.duration_s,
        clip_start_s=unit.start_s or 0.0,
        published_time_s=samples.published_time_s,
        media=prepared.media,
    )
    return ComputedRow(job.name, row, unit.keys[1:], numerics, decoded.source, rounding)


def one_line(error: BaseException) -> str:
    """An exception as one readable line."""
    text = str(error).strip().splitlines()
    return os.fsencode(text[0][:500]).decode(errors="backslashreplace") if text else type(error).__name__
