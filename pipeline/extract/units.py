"""Value objects that travel through an extraction: the context of a run, decoded units, their rows or failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.extract.config import MediaConfig
from pipeline.extract.features import Feature
from pipeline.extract.plan import Unit
from pipeline.media import Limits, MediaProcess, Samples
from stores.commit import SourceRecord
from stores.format import Array, RoundingError, Row


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every worker of a run must know. It can be pickled: it holds no weights and no open file."""

    store: Path
    features: Mapping[str, Feature]
    media: MediaConfig
    limits: Limits

    def wanted_features(self, units: Sequence[Unit]) -> list[Feature]:
        """Return the features that some unit wants, by name: only their towers need loading."""
        wanted = {name for unit in units for name in unit.features}
        return [feature for name, feature in self.features.items() if name in wanted]

    def media_process(self) -> MediaProcess:
        """Make the supervisor of a decoding child, with the limits of this run."""
        media = self.media
        return MediaProcess(media.deadline_s, media.memory_mb, media.recycle_after, media.backend)


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """Model input of one feature for one unit.

    Attributes
    ----------
    steps
        [T, *prepared_shape] of the extractor's prepared dtype.
    samples
        Where the steps lie in time, and which of them are valid.
    media
        Media record of the row: the streams that the steps come from.
    """

    steps: Array
    samples: Samples
    media: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A unit after decoding, small enough to travel: no full-size frame is left in it.

    Attributes
    ----------
    unit
        The unit.
    source
        The file as it was when it was decoded.
    duration_s
        Length of the video or clip in seconds.
    features
        Feature name to model input.
    failures
        Feature name to (failure class, message), for features whose stream cannot be delivered.
    frames
        Number of frames decoded.
    seconds
        Seconds that it took.
    """

    unit: Unit
    source: SourceRecord
    duration_s: float
    features: Mapping[str, PreparedSteps]
    failures: Mapping[str, tuple[str, str]]
    frames: int
    seconds: float

    @property
    def nbytes(self) -> int:
        """Bytes of the model input; steps that several features share count once."""
        return sum({id(prepared.steps): prepared.steps.nbytes for prepared in self.features.values()}.values())


@dataclass(frozen=True, slots=True)
class UnitFailure:
    """A unit, or some of its features, that could not be computed.

    Attributes
    ----------
    unit, features
        The unit, and which of its features.
    failure_class, message
        What went wrong, as the store records it.
    source
        The file as it was; None if it could not be read so far.
    of_model
        Whether the extractor failed, not the decoder: an extractor may fail on whatever it is given.
    """

    unit: Unit
    features: tuple[str, ...]
    failure_class: str
    message: str
    source: SourceRecord | None = None
    of_model: bool = False


@dataclass(frozen=True, slots=True)
class UnitUnchanged:
    """A remote file whose stamp changed but whose bytes did not: nothing was decoded."""

    unit: Unit
    source: SourceRecord


@dataclass(frozen=True, slots=True)
class ComputedRow:
    """A finished row on its way to a shard.

    Attributes
    ----------
    feature
        Name of the feature.
    row
        The row.
    aliases
        Further keys with the same bytes and clip bounds.
    numerics
        What besides the spec can move the last bits of the row.
    source
        The file that it was computed from.
    rounding
        Measured error of half precision, by kind (``compute``, ``storage``).
    """

    feature: str
    row: Row
    aliases: tuple[str, ...]
    numerics: Mapping[str, Any]
    source: SourceRecord
    rounding: Mapping[str, RoundingError]
