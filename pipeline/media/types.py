"""Value objects of one decode: the request, the events that answer it, and the one error it may raise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.media.timeline import Samples

FailureClass = Literal[
    "corrupt",
    "bad_timestamps",
    "unsupported_codec",
    "no_video",
    "no_audio",
    "too_short",
    "too_large",
    "missing",
    "unreadable",
    "timeout",
    "crash",
    "oom",
]
FAILURE_CLASSES: frozenset[str] = frozenset(get_args(FailureClass))
PERMANENT: frozenset[str] = frozenset(
    {"corrupt", "bad_timestamps", "unsupported_codec", "no_video", "no_audio", "too_short", "too_large"}
)
"""Failure classes that another attempt on the same bytes cannot fix."""


SILENCE = 1 / 32768
"""Sound whose samples all stay below one step of 16 bits is silent."""


class MediaError(Exception):
    """Raised when a video cannot be decoded as requested.

    Attributes
    ----------
    failure_class
        Failure class, one of ``FAILURE_CLASSES``.
    message
        One line for a person, without the failure class.
    """

    def __init__(self, failure_class: FailureClass, message: str) -> None:
        self.failure_class: FailureClass = failure_class
        self.message = " ".join(message.split())
        super().__init__(f"{failure_class}: {self.message}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[FailureClass, str]]:
        return type(self), (self.failure_class, self.message)

    @property
    def permanent(self) -> bool:
        """Whether the failure lies in the bytes rather than in the moment."""
        return self.failure_class in PERMANENT


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds checked from the headers, before the first picture is decoded.

    Attributes
    ----------
    max_pixels
        Largest picture, width times height, both as coded and as displayed.
    max_duration_s
        Longest source in seconds.
    """

    max_pixels: int = 8192 * 4320
    max_duration_s: float = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """The mono waveform that is wanted.

    Attributes
    ----------
    rates
        Sample rates in Hz, each once; the sound is decoded once for all of them.
    absent
        What a video without sound gives: a failure (``fail``), or steps that are not valid (``mask``).
    reach_s
        Seconds from the start of the video or clip beyond which no sound is wanted; None for all of it.
    """

    rates: tuple[int, ...] = (16_000,)
    absent: Literal["fail", "mask"] = "mask"
    reach_s: float | None = None

    def __post_init__(self) -> None:
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise ValueError(f"audio.rates: {list(self.rates)} must hold rates, each once")
        for rate in self.rates:
            if not 1_000 <= rate <= 384_000:
                raise ValueError(f"audio.rates: {rate} is not between 1000 and 384000 Hz")
        if self.absent not in ("fail", "mask"):
            raise ValueError(f"audio.absent: {self.absent!r} is neither 'fail' nor 'mask'")


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Everything that one pass over one file must deliver.

    Attributes
    ----------
    path
        A local file.
    policies
        Sampling policies in dictionary form (``pipeline.media.sampling.policy_from_spec``), one per consumer.
    audio
        The waveform that is wanted, or None for pictures only.
    start_s, end_s
        Clip bounds in seconds of the source's time axis; None means the source's own.
    backend
        ``pyav``, or one of the opt-in ``decord``, ``torchcodec`` (CPU) and ``nvdec`` (answered with ``Picks``).
    truncated
        What a file gives that ends before its container says: a failure (``fail``), or what is there (``keep``).
    image_rate
        If ``path`` is a folder of images: the images per second.
    survey
        Decode nothing: answer with a ``Survey`` alone.
    limits
        Bounds against hostile or faulty files.
    """

    path: str
    policies: tuple[dict[str, Any], ...]
    audio: AudioRequest | None = None
    start_s: float | None = None
    end_s: float | None = None
    backend: str = "pyav"
    truncated: Literal["fail", "keep"] = "fail"
    image_rate: float | None = None
    survey: bool = False
    limits: Limits = field(default_factory=Limits)

    def to_fields(self) -> dict[str, Any]:
        """Return the request as JSON-able fields."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> DecodeRequest:
        """Rebuild a request from ``to_fields``, or from the JSON of them."""
        fields = dict(fields)
        fields["policies"] = tuple(fields["policies"])
        fields["limits"] = Limits(**fields["limits"])
        if fields["audio"] is not None:
            fields["audio"] = AudioRequest(**{**fields["audio"], "rates": tuple(fields["audio"]["rates"])})
        return cls(**fields)


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """First event of a decode.

    A second header may follow if the decoder shows other frames than the packets promised; everything received before
    it is then void.

    Attributes
    ----------
    media
        Media record of the rows, JSON-able: the file and how it is decoded.
    duration_s
        Length of the source, or of the clip if bounds are given, in seconds.
    samples
        One ``Samples`` per policy of the request, in the same order.
    """

    media: dict[str, Any]
    duration_s: float
    samples: tuple[Samples, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One wanted picture; each comes once, in ascending time.

    Attributes
    ----------
    rgb
        uint8 [H, W, 3], upright, with square pixels.
    time_s
        Its presentation time in seconds on the request's axis.
    uses
        Pairs (index of the policy, slots it fills; see ``Samples``).
    """

    rgb: NDArray[np.uint8]
    time_s: float
    uses: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Picks:
    """The wanted pictures of a file, for a decoder in another process; comes once, in place of every ``Frame``.

    Attributes
    ----------
    stream
        Index of the video stream.
    frames
        Frames that the file shows: that decoder must count as many.
    numbers
        Which of them are wanted, from 0, ascending.
    clock_s
        When each is shown, in seconds of the stream's own clock.
    uses
        For each: pairs (index of the policy, slots it fills).
    """

    stream: int
    frames: int
    numbers: tuple[int, ...]
    clock_s: tuple[float, ...]
    uses: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What only decoding shows; comes after the last ``Frame`` if there is something to say.

    Attributes
    ----------
    media
        Additions to the media record of damaged rows, JSON-able: ``undecodable_packets``, ``corrupt_frames``.
    damaged
        For each policy of the request: the slots (see ``Samples``) whose picture is damaged, or stands in for one that
        does not decode.
    remarks
        Additions to the media record of every row.
    """

    media: dict[str, Any]
    damaged: tuple[tuple[int, ...], ...]
    remarks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """The waveform at one rate. They are the last events of a decode whose request wants sound, in its order of rates.

    Attributes
    ----------
    samples
        float32 [S], mono in [-1, 1], covering [0, duration) at ``rate``; gaps are zeros.
    rate
        Samples per second.
    segments
        Half-open sample ranges (start, end) in which real sound exists, ascending and disjoint.
    state
        ``present``; ``silent`` if every sample is below one step of 16-bit sound; ``absent`` if there is no sound.
    record
        JSON-able record of the stream and of the resampler.
    damaged
        Half-open sample ranges (start, end) whose packets do not decode, ascending.
    """

    samples: NDArray[np.float32]
    rate: int
    segments: tuple[tuple[int, int], ...]
    state: Literal["present", "silent", "absent"]
    record: dict[str, Any]
    damaged: tuple[tuple[int, int], ...] = ()

    def until(self, seconds: float) -> Audio:
        """Return the sound of the first ``seconds`` alone, with the state and the record that it has there."""
        end = round(seconds * self.rate)
        if end >= len(self.samples):
            return self
        samples = self.samples[:end]
        segments = tuple((start, min(stop, end)) for start, stop in self.segments if start < end)
        damaged = tuple((start, min(stop, end)) for start, stop in self.damaged if start < end)
        record = self.record if self.state == "absent" else {**self.record, "failed_packets": len(damaged)}
        return Audio(samples, self.rate, segments, audio_state(samples, segments), record, damaged)


def audio_state(
    samples: NDArray[np.float32], segments: tuple[tuple[int, int], ...]
) -> Literal["present", "silent", "absent"]:
    """Return the state of a waveform, float32 [S], that holds sound in ``segments``."""
    if not segments or not len(samples):
        return "absent"
    return "silent" if max(float(samples.max()), -float(samples.min())) < SILENCE else "present"


@dataclass(frozen=True, slots=True)
class Survey:
    """What the packets of a file say (``pipeline.media.survey``), JSON-able."""

    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamFailure:
    """One of the two streams cannot be delivered; what the other one gives stands.

    Attributes
    ----------
    stream
        ``video`` or ``audio``.
    failure_class, message
        As those of ``MediaError``.
    """

    stream: Literal["video", "audio"]
    failure_class: FailureClass
    message: str


Event = Header | Frame | Picks | Findings | Audio | StreamFailure | Survey
