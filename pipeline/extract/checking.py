"""Checks the towers of a configuration on this machine, before a night of extraction relies on them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors import ExtractorError, MicroBatcher
from extractors.batching import noise_steps
from extractors.text import build_text_encoder
from pipeline.extract.config import Config
from pipeline.extract.decode_unit import decode_unit
from pipeline.extract.features import Feature, ready_features
from pipeline.extract.identity import describe_os_error, source_status
from pipeline.extract.plan import Unit
from pipeline.extract.precision import MEASURED_STEPS, measured_steps, rounding_error
from pipeline.extract.summary import device_type_here
from pipeline.extract.units import Decoded, RunContext
from pipeline.shared import UsageError
from stores.format import RoundingError

TEXTS = (
    "a person playing a musical instrument",
    "a person outdoors",
    "people talking to each other",
    "an animal",
    "food on a table",
    "a vehicle on a road",
    "an empty room",
)
"""What frames are compared with if no texts are given."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class TowerCheck:
    """What one tower did here.

    Attributes
    ----------
    feature, spec_digest
        The feature.
    model, weights_sha256
        What the spec calls the model, and the digest of its weights; None for random or no weights.
    parameters
        Numbers of the network; None if it is no torch network.
    preprocessing
        As the spec records it.
    prepared_shape, prepared_dtype
        Of one step of model input.
    step_shape, dtype, units
        Of one stored step.
    device, compute_dtype
        Where the network ran, and in what it computed.
    steps
        Number of steps that were computed.
    from_media
        Whether they came from a file; otherwise they were noise.
    load_s
        Seconds that loading took.
    steps_per_s
        Median rate of three rounds, after one that does not count.
    rounding
        Error of the stored dtype and of half precision against float32.
    nearest
        (text, cosine) of the frames' mean, nearest first; empty unless the tower shares its space with texts.
    """

    feature: str
    spec_digest: str
    model: Mapping[str, Any]
    weights_sha256: str | None
    parameters: int | None
    preprocessing: Mapping[str, Any]
    prepared_shape: tuple[int, ...]
    prepared_dtype: str
    step_shape: tuple[int, ...]
    dtype: str
    units: str
    device: str
    compute_dtype: str
    steps: int
    from_media: bool
    load_s: float
    steps_per_s: float
    rounding: RoundingError
    nearest: Sequence[tuple[str, float]]


def check_towers(config: Config, media: Path | None = None, texts: Sequence[str] = TEXTS) -> Iterator[TowerCheck]:
    """Load every tower of a configuration and compute with it; yield what it did, one after the other.

    Parameters
    ----------
    config
        The configuration.
    media
        A file whose frames and sound are computed; noise if None.
    texts
        What CLIP's frames are compared with.

    Raises
    ------
    ConfigError, ExtractorError
        If a feature cannot be made ready, or weights are missing or do not fit.
    UsageError
        If the file cannot be decoded.
    """
    features = ready_features(config)
    decoded = None if media is None else _decode(config, features, media)
    for feature in features.values():
        yield _check(config, feature, decoded, texts)


def _decode(config: Config, features: Mapping[str, Feature], media: Path) -> Decoded:
    path = media.absolute()
    try:
        size, stamp = source_status(path, None)
    except OSError as error:
        raise UsageError(f"{media}: {describe_os_error(error)[1]}") from error
    unit = Unit(str(path), (path.stem,), tuple(sorted(features)), None, size, stamp)
    with tempfile.TemporaryDirectory() as folder:  # no store is needed, only a place for one
        context = RunContext(Path(folder), features, config.media, config.limits())
        process = context.media_process("pyav")
        try:
            result = decode_unit(context, unit, process)
        finally:
            process.close()
    if not isinstance(result, Decoded):
        raise UsageError(f"{media}: {getattr(result, 'message', 'it cannot be decoded')}")
    return result


def _check(config: Config, feature: Feature, decoded: Decoded | None, texts: Sequence[str]) -> TowerCheck:
    extractor = feature.extractor
    device = device_type_here(config.run)
    started = time.perf_counter()
    loaded = extractor.load(device)
    batcher = MicroBatcher(loaded, feature.config.micro_batch)
    load_s = time.perf_counter() - started
    if decoded is None:
        steps = noise_steps((MEASURED_STEPS, *extractor.prepared_shape()), np.dtype(extractor.prepared_dtype))
    elif feature.name in decoded.features:
        prepared = decoded.features[feature.name]
        steps = np.asarray(prepared.steps)[~prepared.samples.empty]
    else:
        raise UsageError(f"{decoded.unit.uri}: feature {feature.name!r}: {decoded.failures[feature.name][1]}")
    if not len(steps):
        raise UsageError(f"feature {feature.name!r}: the file has no step that is not padding")
    seconds = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        ((_, values),) = batcher.run([("check", steps)])
        seconds.append(time.perf_counter() - started)
    if not np.isfinite(values).all():
        raise ExtractorError(f"feature {feature.name!r}: the network returned values that are not finite")
    places = measured_steps(np.zeros(len(steps), bool))
    reference = batcher.reference(steps[places])
    exact = values[places] if reference is None else reference
    spec = feature.spec
    numerics = batcher.numerics()
    described = spec.get("model")
    model: Mapping[str, Any] = described if isinstance(described, dict) else {"extractor": extractor.name}
    return TowerCheck(
        feature=feature.name,
        spec_digest=feature.spec_digest,
        model={name: value for name, value in model.items() if name != "preprocessing"},
        weights_sha256=_text(numerics.get("weights_sha256")),
        parameters=loaded.parameters,
        preprocessing=model.get("preprocessing", {}),
        prepared_shape=tuple(extractor.prepared_shape()),
        prepared_dtype=extractor.prepared_dtype,
        step_shape=tuple(extractor.output().step_shape),
        dtype=feature.config.dtype,
        units=extractor.output().units,
        device=device,
        compute_dtype=_text(numerics.get("compute_dtype")) or "float32",
        steps=len(steps),
        from_media=decoded is not None,
        load_s=load_s,
        steps_per_s=len(steps) / statistics.median(seconds[1:]),
        rounding=rounding_error(values[places].astype(feature.config.dtype), exact),
        nearest=[] if decoded is None else _nearest(feature, values, texts, device),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _nearest(feature: Feature, values: NDArray[Any], texts: Sequence[str], device: str) -> list[tuple[str, float]]:
    """Return texts with the cosine of their vectors to the frames' mean, nearest first; none if they share no space."""
    extractor = feature.extractor
    options = {name: getattr(extractor, name) for name in ("model", "weights", "sha256") if hasattr(extractor, name)}
    if extractor.name != "clip" or values.ndim != 2 or not texts:
        return []
    encoder = build_text_encoder("clip", {name: value for name, value in options.items() if value is not None})
    if encoder.dim != values.shape[1]:
        return []
    vectors = encoder.load(device).encode(list(texts))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    frames = values.astype(np.float32)
    mean = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).mean(axis=0)
    cosines = vectors @ (mean / np.linalg.norm(mean))
    order = np.argsort(-cosines, kind="stable")
    return [(texts[place], float(cosines[place])) for place in order.tolist()]
