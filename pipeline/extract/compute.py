"""Runs the towers over prepared steps: one row or one failure for every wanted feature of a decoded unit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from extractors import MicroBatcher, ModelOutputError, is_out_of_memory
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
    compared
        Names of the features whose half precision was compared with float32.
    """

    batchers: dict[str, MicroBatcher] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)

    @classmethod
    def load(cls, features: Sequence[Feature], device: str, threads: int | None) -> Models:
        """Load every tower once.

        Raises
        ------
        ExtractorError
            If weights are missing or do not fit.
        """
        models = {}
        for feature in features:
            models[feature.name] = MicroBatcher(feature.extractor.load(device, threads), feature.config.micro_batch)
        return cls(models)


def compute_rows(context: RunContext, models: Models, units: Sequence[Decoded]) -> Iterator[ComputedRow | UnitFailure]:
    """Run the towers over decoded units; yield one row or one failure per unit and wanted feature."""
    for decoded in units:
        yield from _stream_failures(decoded)
    for feature in context.features.values():
        members = {decoded.unit.keys[0]: decoded for decoded in units if feature.name in decoded.features}
        if members:
            yield from _compute_feature(feature, models, members)


def _stream_failures(decoded: Decoded) -> Iterator[UnitFailure]:
    """Yield one failure per reason for the features whose stream could not be delivered."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, reason in decoded.failures.items():
        by_reason.setdefault(reason, []).append(name)
    for (failure_class, message), names in by_reason.items():
        yield UnitFailure(decoded.unit, tuple(names), failure_class, message, decoded.source)


def _compute_feature(
    feature: Feature, models: Models, members: dict[str, Decoded]
) -> Iterator[ComputedRow | UnitFailure]:
    batcher = models.batchers[feature.name]
    while members:
        try:
            results = batcher.run([(key, decoded.features[feature.name].steps) for key, decoded in members.items()])
        except ModelOutputError as error:
            logger.debug("feature %s: wrong output", feature.name, exc_info=True)
            for key in dict.fromkeys(error.keys or members):
                decoded = members.pop(key)
                yield UnitFailure(decoded.unit, (feature.name,), "model_error", one_line(error), decoded.source)
            continue
        except (MemoryError, RuntimeError) as error:
            logger.debug("feature %s: not computed", feature.name, exc_info=True)
            failure_class = "oom" if is_out_of_memory(error) else "model_error"
            for decoded in members.values():
                yield UnitFailure(decoded.unit, (feature.name,), failure_class, one_line(error), decoded.source)
            return
        numerics = batcher.numerics()
        for key, values in results:
            prepared = members[key].features[feature.name]
            rounding = _compute_error(feature, models, prepared, values)
            yield _row(feature, members[key], prepared, values, numerics, rounding)
        return


def _compute_error(
    feature: Feature, models: Models, prepared: PreparedSteps, values: Array
) -> dict[str, RoundingError]:
    """Measure the error of half precision, once per loaded model, on its first row: it takes another forward."""
    places = measured_steps(prepared.samples.frame)
    if feature.name in models.compared or not len(places):
        return {}
    models.compared.add(feature.name)
    reference = models.batchers[feature.name].reference(prepared.steps[places])
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
        return UnitFailure(unit, (feature.name,), "model_error", message, decoded.source)
    places = measured_steps(samples.frame)
    if stored.dtype != values.dtype and len(places):
        rounding[STORAGE] = rounding_error(stored[places], values[places])
    stored[samples.frame < 0] = 0
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
