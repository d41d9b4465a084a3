"""Makes the features of a configuration ready for planning: extractor, complete spec, spec digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from extractors import Extractor, ExtractorError
from pipeline.extract.config import Config, FeatureConfig, MediaConfig
from pipeline.media import Clips, MediaError, Policy, Segments, device_recipe, recipe
from pipeline.shared import ConfigError
from settings.messages import plural
from stores.format import check_name, digest

_RAGGED_STEPS = 60  # a guess at T where it depends on the video: one step per second of a minute


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a configuration, ready for planning. Cheap to make and to pickle: it holds no weights."""

    name: str
    config: FeatureConfig
    extractor: Extractor
    policy: Policy
    spec: Mapping[str, Any]
    spec_digest: str

    @property
    def pictures_on_device(self) -> bool:
        """Whether the process of the models decodes this feature's pictures, on its GPU."""
        return bool(self.extractor.input != "audio" and self.spec["decode"]["backend"] == "nvdec")

    @property
    def step_bytes(self) -> int:
        """Bytes of one stored step."""
        elements = int(np.prod(self.extractor.output().step_shape, dtype=np.int64))
        return elements * np.dtype(self.config.dtype).itemsize

    @property
    def input_bytes(self) -> int:
        """Bytes of the model input of one video that the decoding process makes, or a guess if T depends on it."""
        extractor = self.extractor
        if self.pictures_on_device:
            return 0
        numbers = int(np.prod(extractor.prepared_shape(), dtype=np.int64))
        return (self.policy.steps or _RAGGED_STEPS) * numbers * np.dtype(extractor.prepared_dtype).itemsize

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one stored row; None if T depends on the video."""
        return None if self.policy.steps is None else self.policy.steps * self.step_bytes

    @property
    def expected_row_bytes(self) -> int:
        """``row_bytes``, or a guess at it if T depends on the video."""
        return (self.policy.steps or _RAGGED_STEPS) * self.step_bytes


def ready_features(config: Config) -> dict[str, Feature]:
    """Make the features of a configuration ready; return name to feature, in order of name.

    Raises
    ------
    ConfigError
        If a sampling policy does not suit the extractor's input (single frames, clips of as many frames as the
        extractor takes, or sound), or a decoding backend is not installed.
    """
    return {name: _ready(name, config.features[name], config) for name in sorted(config.features)}


_PICTURE_ONLY = ("rgb", "geometry")
_SOUND_ONLY = ("audio", "audio_tolerance_s")
_RULES = {"frames": ("time", "damage"), "audio": ("time", "sound", "damage")}
_LIBRARIES = {
    "frames": ("libavformat", "libavcodec", "libswscale"),
    "audio": ("libavformat", "libavcodec", "libswresample"),
}


def _decode_spec(media: MediaConfig, extractor: Extractor) -> dict[str, Any]:
    """Return the part of decoding that can change a feature: a new resampler must not recompute pictures."""
    kind = "audio" if extractor.input == "audio" else "frames"
    on_gpu: dict[str, Any] = {}
    try:
        whole = recipe(media.backend)
        if media.backend == "nvdec" and kind == "frames":
            resize = "on the device, the bytes of Pillow" if extractor.prepares_tensors else "on the CPU"
            on_gpu = {**device_recipe(), "resize": resize}
    except MediaError as error:
        raise ConfigError(f"media.backend: {error.message}") from error
    whole = {
        **whole,
        "libraries": {name: whole["libraries"][name] for name in _LIBRARIES[kind]},
        "rules": {name: whole["rules"][name] for name in _RULES[kind]},
        "truncated": media.truncated,
        "damage": media.damage,
    }
    if kind == "frames":
        return {name: value for name, value in whole.items() if name not in _SOUND_ONLY} | on_gpu
    return {
        **{name: value for name, value in whole.items() if name not in _PICTURE_ONLY},
        "audio_absent": media.audio_absent,
        "audio_windows": "zeros where the track ends; a step is real with half a window of track",
    }


def _unsuitable(extractor: Extractor, policy: Policy) -> str | None:
    """Return why a policy does not give what the extractor takes; None if it does."""
    given = policy.spec()["policy"]
    if extractor.input == "audio" and not isinstance(policy, Segments):
        return f"sound is sampled by 'segments', not {given!r}"
    if extractor.input == "frames" and isinstance(policy, Clips):
        return f"{extractor.name} takes single frames, which 'segments' gives, not {given!r}"
    if extractor.input != "clips":
        return None
    frames = extractor.prepared_shape()[0]
    if not isinstance(policy, Clips):
        return f"{extractor.name} takes clips of {plural(frames, 'frame')}, which 'clips' gives, not {given!r}"
    if policy.frames != frames:
        return f"clips of {plural(policy.frames, 'frame')}, but {extractor.name} is set to take {frames}"
    return None


def _ready(name: str, config: FeatureConfig, whole: Config) -> Feature:
    extractor = config.build()
    if reason := _unsuitable(extractor, config.policy):
        raise ConfigError(f"features.{name}.sampling: {reason}")
    try:
        model, output = extractor.spec(), extractor.output()
    except ExtractorError as error:
        raise ConfigError(f"features.{name}: {error}") from error
    spec = {
        "extractor": config.extractor,
        "model": model,
        "sampling": config.policy.spec(),
        "decode": _decode_spec(whole.media, extractor),
        "dtype": config.dtype,
        "steps": config.policy.steps,
        "step_shape": list(output.step_shape),
        "units": output.units,
        "epoch": config.epoch,
        "random_weights": extractor.random_weights,
    }
    return Feature(check_name(name), config, extractor, config.policy, spec, digest(spec))
