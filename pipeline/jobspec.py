"""A feature made ready for planning: its extractor, its complete spec and the spec's digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from extractors.base import Extractor, ExtractorError
from pipeline.config import Config, FeatureConfig
from pipeline.errors import ConfigError
from pipeline.media.recipe import recipe
from pipeline.media.types import MediaError
from pipeline.sampling import Policy
from stores.layout import check_name, digest


@dataclass(frozen=True, slots=True)
class FeatureJob:
    """One feature of a run. Cheap to make and to pickle: it holds no weights."""

    name: str
    config: FeatureConfig
    extractor: Extractor
    policy: Policy
    spec: Mapping[str, Any]
    spec_digest: str

    @property
    def step_bytes(self) -> int:
        """Bytes of one stored step."""
        elements = int(np.prod(self.extractor.output().step_shape, dtype=np.int64))
        return elements * np.dtype(self.config.dtype).itemsize

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one stored row; None where T depends on the video."""
        return None if self.policy.steps is None else self.policy.steps * self.step_bytes


def feature_jobs(config: Config) -> tuple[FeatureJob, ...]:
    """Make the features of a configuration ready, in order of name."""
    return tuple(_feature_job(name, config.features[name], config) for name in sorted(config.features))


def _decode_recipe(backend: str) -> dict[str, Any]:
    """What can change a frame: a new resampler must not recompute picture features."""
    try:
        whole = recipe(backend)
    except MediaError as error:
        raise ConfigError(f"media.backend: {error.message}") from error
    libraries = {name: version for name, version in whole["libraries"].items() if name != "libswresample"}
    return {**{name: value for name, value in whole.items() if name != "audio"}, "libraries": libraries}


def _feature_job(name: str, config: FeatureConfig, whole: Config) -> FeatureJob:
    extractor = config.build()
    if extractor.input != "frames":
        raise ConfigError(f"features.{name}: {config.extractor} reads audio; only frame extractors run so far")
    try:
        model, output = extractor.spec(), extractor.output()
    except ExtractorError as error:
        raise ConfigError(f"features.{name}: {error}") from error
    spec = {
        "extractor": config.extractor,
        "model": model,
        "sampling": config.policy.spec(),
        "decode": _decode_recipe(whole.media.backend),
        "dtype": config.dtype,
        "steps": config.policy.steps,
        "step_shape": list(output.step_shape),
        "units": output.units,
        "epoch": config.epoch,
        "random_weights": extractor.random_weights,
    }
    return FeatureJob(check_name(name), config, extractor, config.policy, spec, digest(spec))
