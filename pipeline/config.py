"""Configuration: presets, files and ``--set`` merged into one validated value."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from extractors.base import Extractor, ExtractorError
from extractors.registry import build
from pipeline.errors import ConfigError
from pipeline.media.types import Limits
from pipeline.sampling import Policy, SamplingError, policy_from_spec

PRESETS = Path(__file__).parent / "presets"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class MediaConfig(_Section):
    """How files are opened and decoded. None of the limits changes a row, so none is in a spec."""

    backend: Literal["pyav", "decord"] = "pyav"
    max_pixels: Annotated[int, Field(ge=1)] = Limits().max_pixels
    max_duration_s: Annotated[float, Field(gt=0)] = Limits().max_duration_s
    deadline_s: Annotated[float, Field(gt=0)] = 300.0
    memory_mb: Annotated[int, Field(ge=128)] = 2048
    recycle_after: Annotated[int, Field(ge=1)] = 300
    audio_absent: Literal["fail", "mask"] = "mask"


class RunConfig(_Section):
    """How the work is spread. ``auto`` values are chosen from the machine and printed."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    decode_workers: Annotated[int, Field(ge=1)] | None = None
    model_threads: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    shard_mb: Annotated[float, Field(gt=0)] = 64.0
    shard_rows: Annotated[int, Field(ge=1)] = 512
    commit_seconds: Annotated[float, Field(gt=0)] = 30.0


class SourceConfig(_Section):
    """How video keys are made from files of a directory or glob."""

    key: Literal["stem", "relpath"] = "stem"


class Config(_Section):
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


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            line = key_node.start_mark.line + 1
            if key in seen:
                raise ConfigError(
                    f"{node.start_mark.name}: line {line}: key {key!r} is given twice (first in line {seen[key]})"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a preset or a file, apply ``a.b=c`` overrides in order, validate.

    Raises
    ------
    ConfigError
        With one line that names the file and the key.
    """
    if preset is not None and file is not None:
        raise ConfigError("--preset and --config exclude each other; name one")
    if file is not None:
        path, origin = file, str(file)
    else:
        names = preset_names()
        preset = preset or "demo"
        if preset not in names:
            raise ConfigError(f"preset {preset!r}: unknown; there is {', '.join(names)}{_nearest(preset, names)}")
        path, origin = PRESETS / f"{preset}.yaml", f"preset {preset}"
    raw = _read_yaml(path, origin)
    for override in overrides:
        _override(raw, override)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {describe(error)}") from error


def _read_yaml(path: Path, origin: str) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, Loader=_UniqueKeyLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{origin}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin}: not readable ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{origin}: {where}not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{origin}: must be a mapping with a 'features' section")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    path = name.split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {override}: must look like a.b=c")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    section = raw
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {override}: {part!r} is a value, not a section")
    section[path[-1]] = value


def describe(error: ValidationError) -> str:
    """The first problem of a validation, as ``key: what is wrong``."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = Config
        for part in problem["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        known = sorted(section.model_fields)
        return f"{where}: unknown key{_nearest(str(problem['loc'][-1]), known) or '; there is ' + ', '.join(known)}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"{where}: required, but not given"
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""
