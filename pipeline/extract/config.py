"""Configures an extraction: a preset or a file and ``--set``, merged into one validated value.

The other stages have settings of their own: ``pipeline/parse/config.py``, ``pipeline/cluster/run.py`` and, for all of
them together, ``pipeline/refresh.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

import settings
from extractors import Extractor, ExtractorError, build, check_code
from pipeline.extract.remote import MAX_BYTES, PROTOCOLS, STALL_S, Bounds
from pipeline.media import Limits, Policy, SamplingError, policy_from_spec
from pipeline.shared import ConfigError, MachineConfig
from settings import Section
from settings.files import TEXT_BYTES
from settings.messages import nearest

PRESETS = Path(__file__).parents[1] / "presets"


class FeatureConfig(BaseModel):
    """One feature: an extractor with its options, a sampling policy, and how rows are stored.

    Keys that are not listed here are options of the extractor.
    """

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    extractor: str
    """Name of the extractor."""
    sampling: Mapping[str, Any]
    """Sampling policy in its dictionary form."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type in which rows are stored."""
    micro_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Number of steps in one forward of the model; recorded in the numerics of a shard."""
    epoch: Annotated[int, Field(ge=0)] = 0
    """Part of the spec; another number computes all rows anew."""

    @property
    def options(self) -> dict[str, Any]:
        """The options of the extractor."""
        return dict(self.model_extra or {})

    def meant(self, error: ExtractorError) -> str:
        """Return the key of every feature that may have been meant by what the extractor does not know."""
        unknown = [option for option in self.options if f"unknown option {option!r}" in str(error)]
        return next((hint for option in unknown if (hint := nearest(option, FeatureConfig.model_fields))), "")

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
        """The sampling policy."""
        return policy_from_spec(dict(self.sampling))


class MediaConfig(Section):
    """How files are opened and decoded. The limits do not change rows, so they are in no spec."""

    backend: Literal["pyav", "decord", "torchcodec", "nvdec"] = "pyav"
    """Library that decodes; it is in the spec."""
    max_pixels: Annotated[int, Field(ge=1)] = Limits().max_pixels
    """Largest picture, width times height."""
    max_duration_s: Annotated[float, Field(gt=0)] = Limits().max_duration_s
    """Longest source, in seconds."""
    deadline_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that the decoding of one video may take."""
    memory_mb: Annotated[int, Field(ge=128)] = 2048
    """Memory that a decoding child may use beyond its own size, in MiB."""
    recycle_after: Annotated[int, Field(ge=1)] = 300
    """Number of videos after which a decoding child is replaced."""
    max_bytes: Annotated[int, Field(ge=1)] = MAX_BYTES
    """Largest file that is copied from a remote filesystem, in bytes."""
    stall_s: Annotated[float, Field(gt=0)] = STALL_S
    """Seconds in which a remote filesystem sends nothing, or less than 64 KiB of a file, after which it is given up."""
    truncated: Literal["fail", "keep"] = "fail"
    """What a file gives that ends before its container says: a failure, or rows of what is there; it is in the spec."""
    damage: Literal["conceal", "fail"] = "conceal"
    """What a row gives whose steps hold damaged pictures or sound: what the decoder makes of it, with these steps
    marked, or a failure; it is in the spec."""
    audio_absent: Literal["fail", "mask"] = "mask"
    """What a video without sound gives: a failure, or steps that are not valid; it is in the spec of sound."""

    def bounds(self) -> Bounds:
        """Return what a remote file may cost."""
        return Bounds(self.max_bytes, self.stall_s)


class RunConfig(MachineConfig):
    """How an extraction is spread over a machine or a cluster, and cut into shards."""

    decode_workers: Annotated[int, Field(ge=1)] | None = None
    """Number of decoding processes; chosen from the CPUs and the memory if not given."""
    shard_mb: Annotated[float, Field(gt=0)] = 64.0
    """Size of a full shard, in MB."""
    shard_rows: Annotated[int, Field(ge=1)] = 512
    """Number of rows of a full shard."""
    commit_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Age at which a shard is published, full or not."""
    wait_for_cpus: Annotated[int, Field(ge=0)] = 0
    """On Ray: CPUs that the cluster must have before the run starts; an autoscaler is asked for them."""
    wait_for_gpus: Annotated[int, Field(ge=0)] = 0
    """On Ray: GPUs that the cluster must have before the run starts."""
    patience_s: Annotated[float, Field(gt=0)] = 1800.0
    """On Ray: seconds without any progress, or of waiting for CPUs and GPUs, after which the run ends."""


class SourceConfig(Section):
    """How a source is read."""

    image_rate: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Images per second of folders of images, which are then taken for videos; not looked for if not given."""

    key: Literal["stem", "relpath"] = "stem"
    """How a file of a directory or glob gets its video key: its name without suffix, or its relative path."""

    protocols: tuple[str, ...] = PROTOCOLS
    """The protocols that URIs may have; each one of a chain (``zip://a.mp4::https://…``) must be listed."""

    root: Path | None = None
    """A folder that every file must lie in, links resolved; anywhere if not given."""

    table_bytes: Annotated[int, Field(ge=1)] = TEXT_BYTES
    """Largest table of videos, in bytes; it is read whole."""


class Config(Section):
    """Everything that an extraction needs to know besides SOURCE and the store."""

    features: Annotated[Mapping[str, FeatureConfig], Field(min_length=1)]
    """Name to feature."""
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
                raise ValueError(f"features.{name}: {error}{feature.meant(error)}") from error
        return self

    def limits(self) -> Limits:
        """Return the limits of decoding."""
        return Limits(max_pixels=self.media.max_pixels, max_duration_s=self.media.max_duration_s)


def preset_names() -> list[str]:
    """Return the names of the presets, sorted."""
    return settings.preset_names(PRESETS)


def load_config(
    preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = (), allow_code: bool = False
) -> Config:
    """Read a preset or a file, apply ``a.b=c`` overrides in order, validate.

    Parameters
    ----------
    preset, file, overrides
        The settings.
    allow_code
        Whether an extractor may be ``package.module:Class``, which is imported here, if no installed package names it.

    Raises
    ------
    ConfigError
        With one line that names the file and the key.
    """
    if preset is None and file is None:
        preset = "demo"
    try:
        raw, origin = settings.read(PRESETS, preset, file, overrides)
        check_code(raw, origin, allow_code)
        return settings.validate(Config, raw, origin)
    except settings.SettingsError as error:
        raise ConfigError(str(error)) from error
