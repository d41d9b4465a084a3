"""Configuration: presets, files and ``--set`` merged into one validated value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

import settings
from extractors import Extractor, ExtractorError, build
from pipeline.media import Limits, Policy, SamplingError, policy_from_spec
from pipeline.shared import ConfigError, MachineConfig
from settings import Section

PRESETS = Path(__file__).parents[1] / "presets"


class FeatureConfig(BaseModel):
    """One feature: an extractor with its options, a sampling policy, and how rows are stored.

    Keys that are not listed here are options of the extractor.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    extractor: str
    sampling: Mapping[str, Any]
    dtype: Literal["float16", "float32"] = "float16"
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    epoch: Annotated[int, Field(ge=0)] = 0

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def build(self) -> Extractor:
        """Make the extractor (cheap: no weights are loaded).

        Raises
        ------
        ExtractorError
            If the extractor or one of its options is unknown or wrong.
        """
        return build(self.extractor, self.options)

    @cached_property
    def policy(self) -> Policy:
        return policy_from_spec(dict(self.sampling))


class MediaConfig(Section):
    """How files are opened and decoded. None of the limits changes a row, so none is in a spec."""

    backend: Literal["pyav", "decord", "torchcodec", "nvdec"] = "pyav"
    max_pixels: Annotated[int, Field(ge=1)] = Limits().max_pixels
    max_duration_s: Annotated[float, Field(gt=0)] = Limits().max_duration_s
    deadline_s: Annotated[float, Field(gt=0)] = 300.0
    memory_mb: Annotated[int, Field(ge=128)] = 2048
    recycle_after: Annotated[int, Field(ge=1)] = 300
    audio_absent: Literal["fail", "mask"] = "mask"


class RunConfig(MachineConfig):
    """How an extraction is spread over a machine or a cluster, and cut into shards."""

    decode_workers: Annotated[int, Field(ge=1)] | None = None
    """Decoding processes; from the CPUs and the memory if not given."""
    shard_mb: Annotated[float, Field(gt=0)] = 64.0
    """Size of a full shard, in MB."""
    shard_rows: Annotated[int, Field(ge=1)] = 512
    """Rows of a full shard."""
    commit_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Age at which a shard is published, full or not."""


class SourceConfig(Section):
    """How video keys are made from files of a directory or glob."""

    key: Literal["stem", "relpath"] = "stem"


class Config(Section):
    """Everything that a run needs to know besides SOURCE and the store."""

    features: Annotated[Mapping[str, FeatureConfig], Field(min_length=1)]
    media: MediaConfig = MediaConfig()
    run: RunConfig = RunConfig()
    source: SourceConfig = SourceConfig()

    @model_validator(mode="after")
    def _features_are_buildable(self) -> Config:
        for name, feature in self.features.items():
            try:
                _ = feature.policy
            except SamplingError as error:
                raise ValueError(f"features.{name}.sampling: {error}") from error
            try:
                feature.build()
            except ExtractorError as error:
                raise ValueError(f"features.{name}: {error}") from error
        return self

    def limits(self) -> Limits:
        return Limits(max_pixels=self.media.max_pixels, max_duration_s=self.media.max_duration_s)


def preset_names() -> list[str]:
    return settings.preset_names(PRESETS)


def load_config(preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a preset or a file, apply ``a.b=c`` overrides in order, validate.

    Raises
    ------
    ConfigError
        With one line that names the file and the key.
    """
    if preset is None and file is None:
        preset = "demo"
    try:
        raw, origin = settings.read(PRESETS, preset, file, overrides)
        return settings.validate(Config, raw, origin)
    except settings.SettingsError as error:
        raise ConfigError(str(error)) from error
