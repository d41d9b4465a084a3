"""Value objects that travel through an extraction: the context of a run, decoded units, their rows or failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors import Steps
from pipeline.extract.config import MediaConfig
from pipeline.extract.features import Feature
from pipeline.extract.plan import Unit
from pipeline.media import DecodeRequest, Header, Limits, MediaProcess, Picks, Samples
from stores.commit import SourceRecord
from stores.format import STAGING, RoundingError, Row, StorePath, durable, new_id


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every worker of a run must know. It can be pickled: it holds no weights and no open file.

    Attributes
    ----------
    store
        The store's folder.
    features
        Name to feature.
    media, limits
        How files are decoded.
    source_root
        The folder that every local file must lie in; None for anywhere.
    id
        Of the run: its copies of remote files bear it.
    """

    store: Path
    features: Mapping[str, Feature]
    media: MediaConfig
    limits: Limits
    source_root: Path | None = None
    id: str = field(default_factory=new_id)

    def wanted_features(self, units: Sequence[Unit]) -> list[Feature]:
        """Return the features that some unit wants, by name: only their towers need loading."""
        wanted = {name for unit in units for name in unit.features}
        return [feature for name, feature in self.features.items() if name in wanted]

    def media_process(self, backend: str | None = None) -> MediaProcess:
        """Make the supervisor of a decoding child, with the limits of this run; by default, of its backend."""
        media = self.media
        return MediaProcess(media.deadline_s, media.memory_mb, media.recycle_after, backend or media.backend)

    def copy_path(self) -> StorePath:
        """Return a new path for the copy of a remote file."""
        return StorePath.of(self.store) / STAGING / f"{self.id}-{new_id()}.copy"

    def remove_copy(self, path: str) -> None:
        """Remove a copy that ``copy_path`` named, if it is there."""
        durable.unlink(StorePath.of(self.store) / STAGING / Path(path).name)

    def remove_copies(self) -> None:
        """Remove what is left of the run's copies of remote files."""
        for path in (StorePath.of(self.store) / STAGING).files(".copy"):
            if path.name.startswith(f"{self.id}-"):
                durable.unlink(path)


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """Model input of one feature for one unit.

    Attributes
    ----------
    steps
        [T, *prepared_shape] of the extractor's prepared dtype: an array, or a tensor on the device of the model.
    samples
        Where the steps lie in time, and which of them are valid.
    media
        Media record of the row: the streams that the steps come from.
    """

    steps: Steps
    samples: Samples
    media: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeferredPictures:
    """Pictures of a unit that the process of the models decodes, on its device.

    Attributes
    ----------
    request
        What PyAV is asked for if the device does not deliver; ``path`` is the file, or the run's copy of it.
    header, picks
        What the packets say: the media record, the times of the steps, and the frames that they show.
    policies
        Feature name to the number of its policy in the request.
    copied
        Whether ``path`` is a copy, which is removed once it is read.
    """

    request: DecodeRequest
    header: Header
    picks: Picks
    policies: Mapping[str, int]
    copied: bool


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
    deferred
        What is still to be decoded.
    sandbox
        What kept the decoder from doing anything else; None if the file was not decoded.
    """

    unit: Unit
    source: SourceRecord
    duration_s: float
    features: Mapping[str, PreparedSteps]
    failures: Mapping[str, tuple[str, str]]
    frames: int
    seconds: float
    deferred: DeferredPictures | None = None
    sandbox: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The features that have model input, or will have."""
        return (*self.features, *(self.deferred.policies if self.deferred is not None else ()))

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
