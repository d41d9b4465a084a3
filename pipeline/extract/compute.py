"""Runs the towers over prepared steps: one row or one failure for every wanted feature of a decoded unit.

If a tower fails, the machine is asked first: an error that blames it, or a tower that fails on noise as well, ends the
process with ``MachineFaultError``. Only a tower that still computes noise has met a bad row, which is then found among
the rows of its group and fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extractors import (
    ExtractorError,
    MachineFaultError,
    MicroBatcher,
    ModelOutputError,
    is_machine_fault,
    is_out_of_memory,
)
from pipeline.extract.device_decoding import DeviceDecoder
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key
from pipeline.extract.precision import measured_steps, rounding_error
from pipeline.extract.units import ComputedRow, Decoded, PreparedSteps, RunContext, UnitFailure
from settings.messages import one_line
from stores.format import COMPUTE, STORAGE, Array, RoundingError, Row

logger = logging.getLogger("reelstore.extract.compute")


@dataclass(slots=True)
class Models:
    """The loaded models of a worker.

    Attributes
    ----------
    batchers
        Feature name to the micro-batcher that runs its tower.
    device
        Where the towers run.
    compared
        Names of the features whose half precision was compared with float32.
    pictures
        What decodes pictures on the device; None unless the backend is ``nvdec``.
    """

    batchers: dict[str, MicroBatcher] = field(default_factory=dict)
    device: str = "cpu"
    compared: set[str] = field(default_factory=set)
    pictures: DeviceDecoder | None = None

    @classmethod
    def load(cls, features: Sequence[Feature], device: str, threads: int | None) -> Models:
        """Load every tower once; on another device than the CPU, see that each can compute.

        Raises
        ------
        ExtractorError
            If weights are missing or do not fit, or the device cannot be used or cannot decode.
        """
        models = cls(device=device)
        if decoded := [feature for feature in features if feature.pictures_on_device]:
            models.pictures = DeviceDecoder(decoded, device)
        for feature in features:
            try:
                batcher = MicroBatcher(feature.extractor.load(device, threads), feature.config.micro_batch)
                models.batchers[feature.name] = batcher
                if device != "cpu":
                    batcher.probe(feature.extractor.prepared_shape(), feature.extractor.prepared_dtype)
            except ExtractorError:
                raise
            except Exception as error:  # whatever a library raises: nothing can be computed here
                logger.debug("feature %s: does not load", feature.name, exc_info=True)
                raise ExtractorError(
                    f"feature {feature.name!r} cannot be computed on {device}: {_named(error)}"
                ) from error
        return models

    def blame(self, feature: Feature, error: Exception) -> None:
        """Return if a row may be at fault for the error; else raise ``MachineFaultError``.

        The error may blame the machine by itself. If it does not, the tower is tried on noise: rows differ, and noise
        is none of them.
        """
        cause: Exception = error
        if not is_machine_fault(error):
            try:
                extractor = feature.extractor
                self.batchers[feature.name].probe(extractor.prepared_shape(), extractor.prepared_dtype)
            except Exception as second:  # noqa: BLE001 (it does not compute, whatever it raises)
                cause = second
            else:
                return
        raise MachineFaultError(f"feature {feature.name!r} on {self.device}: {_named(cause)}") from error


def decode_pictures(context: RunContext, models: Models, units: Sequence[Decoded]) -> Sequence[Decoded]:
    """Decode on the models' device what was left to it; the towers may compute other units meanwhile.

    Raises
    ------
    MachineFaultError
        If the machine is at fault.
    """
    return units if models.pictures is None else models.pictures.decode(context, units)


def compute_rows(context: RunContext, models: Models, units: Sequence[Decoded]) -> Iterator[ComputedRow | UnitFailure]:
    """Run the towers over units whose pictures are decoded; yield one row or failure per unit and wanted feature.

    Raises
    ------
    MachineFaultError
        If the machine, not a row, is at fault.
    """
    for decoded in units:
        yield from _stream_failures(decoded)
    for feature in context.features.values():
        members = {decoded.unit.keys[0]: decoded for decoded in units if feature.name in decoded.features}
        if members:
            yield from _compute_feature(feature, models, members)


def crash(decoded: Decoded, message: str) -> Iterator[UnitFailure]:
    """Yield the failures of a unit that ended the processes that computed it."""
    yield from _stream_failures(decoded)
    yield UnitFailure(decoded.unit, decoded.names, "crash", message, decoded.source)


def _stream_failures(decoded: Decoded) -> Iterator[UnitFailure]:
    """Yield one failure per reason for the features whose stream could not be delivered."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, reason in decoded.failures.items():
        by_reason.setdefault(reason, []).append(name)
    for (failure_class, message), names in by_reason.items():
        yield UnitFailure(decoded.unit, tuple(names), failure_class, message, decoded.source)


def _compute_feature(
    feature: Feature, models: Models, members: Mapping[str, Decoded]
) -> Iterator[ComputedRow | UnitFailure]:
    batcher = models.batchers[feature.name]
    try:
        results = batcher.run([(key, decoded.features[feature.name].steps) for key, decoded in members.items()])
    except Exception as error:  # whatever a tower raises
        logger.debug("feature %s: not computed", feature.name, exc_info=True)
        models.blame(feature, error)
        if len(members) > 1:
            for key, decoded in members.items():
                yield from _compute_feature(feature, models, {key: decoded})
            return
        (decoded,) = members.values()
        yield _failure(feature, decoded, "oom" if is_out_of_memory(error) else "model_error", _named(error))
        return
    numerics = batcher.numerics()
    for key, values in results:
        prepared = members[key].features[feature.name]
        rounding = _compute_error(feature, models, prepared, values)
        yield _row(feature, members[key], prepared, values, numerics, rounding)


def _failure(feature: Feature, decoded: Decoded, failure_class: str, message: str) -> UnitFailure:
    return UnitFailure(decoded.unit, (feature.name,), failure_class, message, decoded.source, of_model=True)


def _named(error: Exception) -> str:
    """Return an error as one line; the type says what it is unless the error is one of the usual."""
    usual = isinstance(error, ModelOutputError | ExtractorError) or type(error) in (RuntimeError, MemoryError)
    return one_line(error) if usual else f"{type(error).__name__}: {one_line(error)}"


def _compute_error(
    feature: Feature, models: Models, prepared: PreparedSteps, values: Array
) -> dict[str, RoundingError]:
    """Measure the error of half precision, once per loaded model, on its first row: it takes another forward."""
    places = measured_steps(prepared.samples.empty)
    if feature.name in models.compared or not len(places):
        return {}
    models.compared.add(feature.name)
    try:
        reference = models.batchers[feature.name].reference(prepared.steps[places])
    except Exception as error:  # the row is there: only the machine can be at fault
        raise MachineFaultError(f"feature {feature.name!r} on {models.device}: {_named(error)}") from error
    return {} if reference is None else {COMPUTE: rounding_error(values[places], reference)}


def _row(
    feature: Feature,
    decoded: Decoded,
    prepared: PreparedSteps,
    values: Array,
    numerics: Mapping[str, Any],
    rounding: dict[str, RoundingError],
) -> ComputedRow | UnitFailure:
    unit = decoded.unit
    samples = prepared.samples
    with np.errstate(over="ignore"):
        stored = values.astype(feature.config.dtype)
    if not np.isfinite(stored).all():
        message = f"values up to {np.abs(values).max():.3g} do not fit {feature.config.dtype}; use dtype float32"
        return _failure(feature, decoded, "model_error", message)
    places = measured_steps(samples.empty)
    if stored.dtype != values.dtype and len(places):
        rounding[STORAGE] = rounding_error(stored[places], values[places])
    stored[samples.empty] = 0
    row = Row(
        key=unit.keys[0],
        cache_key=cache_key(decoded.source.content_id, unit.start_s, unit.end_s, feature.spec_digest),
        values=stored,
        time_s=samples.time_s,
        valid=samples.valid,
        duration_s=decoded.duration_s,
        clip_start_s=unit.start_s or 0.0,
        published_time_s=samples.published_time_s,
        media=prepared.media,
    )
    return ComputedRow(feature.name, row, unit.keys[1:], numerics, decoded.source, rounding)
