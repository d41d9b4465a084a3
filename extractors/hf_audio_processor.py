"""Feature extractors of transformers for sound, read from ``preprocessor_config.json`` without importing the library.

AST's and CLAP's are read; what another one does is not guessed. Each gives a window of one second what the library
gives it when it is handed alone. What the model repeats or pads is not prepared twice: ``Ast`` leaves the padding to
the model, and ``Clap`` prepares each of the frames that the library's repetition makes once.

The numbers are those of the library's numpy code, which it takes for AST unless torchaudio is installed, to 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extractors.base import ExtractorError, Json
from extractors.mel import Bank, Fbank, Scale, hann, to_hertz, to_mel, triangles
from settings.messages import available

Padding = Literal["repeatpad", "repeat", "pad"]

_BLOCK_FRAMES = 4096  # frames of CLAP that lie in memory at once; it changes no value


class FrontEnd(Protocol):
    """What a feature extractor does with windows of one second."""

    @property
    def rate(self) -> int:
        """Samples per second, and so the samples of a window."""

    @property
    def places(self) -> tuple[int, ...]:
        """For each time of the model's input, the prepared frame that lies there, or -1 for ``fill``."""

    @property
    def fill(self) -> float:
        """What padded frames hold."""

    @property
    def bands(self) -> int:
        """Numbers of a frame."""

    @property
    def frames(self) -> int:
        """Frames that are prepared."""

    def spec(self) -> dict[str, Json]:
        """Return all that it depends on as JSON."""

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn ``[T, rate]`` into ``float32 [T, frames, bands]``."""


@dataclass(frozen=True, slots=True)
class Ast:
    """``ASTFeatureExtractor``: Kaldi's log-mel energies of the window, then frames of zeros up to ``length``.

    Attributes
    ----------
    fbank
        The energies. What they are normalised by also makes the zeros of the padding.
    length
        Frames that the model takes.
    """

    fbank: Fbank
    length: int

    @property
    def rate(self) -> int:
        """16 kHz."""
        return Fbank.RATE

    @property
    def places(self) -> tuple[int, ...]:
        """The frames, then padding."""
        return (*range(self.frames), *([-1] * (self.length - self.frames)))

    @property
    def fill(self) -> float:
        """Zero, normalised."""
        return -self.fbank.mean / (2 * self.fbank.std)

    @property
    def bands(self) -> int:
        """Bands."""
        return self.fbank.bands

    @property
    def frames(self) -> int:
        """Frames that lie in the window."""
        return min(self.fbank.frames(self.rate), self.length)

    def spec(self) -> dict[str, Json]:
        """Return the energies and the length."""
        return {**self.fbank.spec(), "padded_frames": self.length}

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn ``[T, 16000]`` into ``float32 [T, frames, bands]``."""
        return self.fbank(windows)[:, : self.frames].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Clap:
    """``ClapFeatureExtractor``: the window is repeated or padded to ``length`` samples, then transformed, in decibels.

    Frames are centred, and the sound is mirrored at both ends. A periodic Hann window; the power of the Fourier
    transform; triangles in hertz; ``10 log10(max(power, 1e-10))``.

    Attributes
    ----------
    rate, length
        Samples per second, and samples that the window is brought to.
    fft, hop
        Samples of a frame, and from one frame to the next.
    bands, low_hz, high_hz
        The triangles.
    scale
        ``slaney``, each triangle of equal area, or ``htk``, each of equal height, which models with fusion take.
    padding
        ``repeatpad``: whole repetitions, then zeros; ``repeat``: repetitions, the last one cut; ``pad``: zeros.
    """

    rate: int
    length: int
    fft: int
    hop: int
    bands: int
    low_hz: float
    high_hz: float
    scale: Scale
    padding: Padding

    FLOOR = 1e-10

    @property
    def places(self) -> tuple[int, ...]:
        """Which of the different frames lies at each time; there is no padding."""
        return tuple(_clap_layout(self.rate, self.length, self.fft, self.hop, self.padding)[1].tolist())

    @property
    def fill(self) -> float:
        """Nothing is padded after the transform."""
        return 0.0

    @property
    def frames(self) -> int:
        """Frames that differ."""
        return len(_clap_layout(self.rate, self.length, self.fft, self.hop, self.padding)[0])

    def spec(self) -> dict[str, Json]:
        """Return all that it depends on."""
        return {
            "features": "10 log10(max(mel power, floor))",
            "rate": self.rate,
            "samples": self.length,
            "padding": self.padding,
            "frame_samples": self.fft,
            "frame_hop": self.hop,
            "centred": "mirrored at the ends",
            "window": "periodic Hann",
            "bands": self.bands,
            "mel": self.scale,
            "hz": [self.low_hz, self.high_hz],
            "floor": self.FLOOR,
            "precision": "float64",
        }

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn ``[T, rate]`` into ``float32 [T, frames, bands]``."""
        samples, _ = _clap_layout(self.rate, self.length, self.fft, self.hop, self.padding)
        padded = np.concatenate([windows, np.zeros((len(windows), 1), np.float32)], axis=1)  # a zero at the end
        decibels = np.empty((len(windows), len(samples), self.bands), np.float32)
        rows = max(1, _BLOCK_FRAMES // len(samples))
        for start in range(0, len(windows), rows):
            decibels[start : start + rows] = self._energies(padded[start : start + rows][:, samples])
        return decibels

    def _energies(self, frames: NDArray[np.float32]) -> NDArray[np.float64]:
        bank = _clap_bank(self)
        spectrum = np.fft.rfft(frames.astype(np.float64) * hann(self.fft))  # [R, frames, bins]
        power = bank.sum(spectrum.real**2 + spectrum.imag**2)
        values: NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, self.FLOOR))
        return values


@lru_cache(maxsize=4)
def _clap_bank(clap: Clap) -> Bank:
    """Return the bands of the bins."""
    low, high = (to_mel(np.float64(hertz), clap.scale) for hertz in (clap.low_hz, clap.high_hz))
    edges = to_hertz(np.linspace(low, high, clap.bands + 2), clap.scale)
    matrix = triangles(np.linspace(0, clap.rate // 2, clap.fft // 2 + 1), edges)
    return Bank.of(matrix * (2.0 / (edges[2:] - edges[:-2])) if clap.scale == "slaney" else matrix)


@lru_cache(maxsize=4)
def _clap_layout(
    window: int, length: int, fft: int, hop: int, padding: Padding
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which frames of the padded sound differ, and where they lie.

    Returns
    -------
    samples
        ``[U, fft]``: the window's samples in each different frame, in order of first appearance; ``window`` is a zero.
    places
        ``[frames]``: the number of the frame at each time.
    """
    own = np.arange(window)
    if padding != "pad":
        own = np.tile(own, length // window + (padding == "repeat"))[:length]
    whole = np.pad(own, (0, length - len(own)), constant_values=window)
    mirrored = np.pad(whole, fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, fft)[::hop]
    _, first, inverse = np.unique(frames, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.ascontiguousarray(frames[first[order]]), rank[inverse.reshape(-1)]


def name_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the class that settings are for.

    Raises
    ------
    ExtractorError
        If they name none, or one that is not known here.
    """
    name = settings.get("feature_extractor_type")
    if not isinstance(name, str):
        raise ExtractorError(f"names no feature_extractor_type; add that of the model ({available(sorted(_READERS))})")
    if name not in _READERS:
        raise ExtractorError(
            f"has the feature extractor {name}, which is not supported ({available(sorted(_READERS))})"
        )
    return name


def read(settings: Mapping[str, Any]) -> FrontEnd:
    """Return what a feature extractor does with a window of one second.

    Parameters
    ----------
    settings
        The content of ``preprocessor_config.json``.

    Raises
    ------
    ExtractorError
        If the feature extractor is not known, or its settings ask for something that is not supported; the message goes
        on after the name of the file.
    """
    return _READERS[name_of(settings)](settings)


def _ast(settings: Mapping[str, Any]) -> Ast:
    rate = _whole(settings, "sampling_rate", Fbank.RATE)
    if rate != Fbank.RATE:
        raise ExtractorError(f"has sampling_rate={rate}; AST's frames are defined for {Fbank.RATE} only")
    mean, std = _number(settings, "mean", -4.2677393), _number(settings, "std", 4.5689974)
    if settings.get("do_normalize", True) is False:
        mean, std = 0.0, 0.5
    if std <= 0:
        raise ExtractorError(f"has std={std}, which must be positive")
    bands = _whole(settings, "num_mel_bins", 128)
    return Ast(Fbank(bands, "hann", 1.0, mean, std), _whole(settings, "max_length", 1024))


def _clap(settings: Mapping[str, Any]) -> Clap:
    rate = _whole(settings, "sampling_rate", 48_000)
    length = _whole(settings, "max_length_s", 10) * rate
    truncation, padding = settings.get("truncation", "fusion"), settings.get("padding", "repeatpad")
    scales: dict[Any, Scale] = {"fusion": "htk", "rand_trunc": "slaney"}
    if truncation not in scales:
        raise ExtractorError(f"has truncation={truncation!r}, which is not supported ({available(sorted(scales))})")
    if padding not in ("repeatpad", "repeat", "pad"):
        raise ExtractorError(f"has padding={padding!r}, which is not supported (available: repeatpad, repeat, pad)")
    if _number(settings, "padding_value", 0.0) != 0:
        raise ExtractorError(f"has padding_value={settings['padding_value']}; the library pads with zeros")
    low, high = _number(settings, "frequency_min", 0), _number(settings, "frequency_max", 14_000)
    if not 0 <= low < high <= rate / 2:
        raise ExtractorError(
            f"has bands from {low:g} to {high:g} Hz, which sound of sampling_rate={rate} does not hold"
        )
    fft, hop = _whole(settings, "fft_window_size", 1024), _whole(settings, "hop_length", 480)
    bands = _whole(settings, "feature_size", 64)
    return Clap(rate, length, fft, hop, bands, low, high, scales[truncation], padding)


_READERS: dict[str, Callable[[Mapping[str, Any]], FrontEnd]] = {
    "ASTFeatureExtractor": _ast,
    "ClapFeatureExtractor": _clap,
}


def _whole(settings: Mapping[str, Any], key: str, default: int) -> int:
    value = settings.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ExtractorError(f"has {key}={value!r}; a positive whole number is needed")
    return value


def _number(settings: Mapping[str, Any], key: str, default: float) -> float:
    value = settings.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ExtractorError(f"has {key}={value!r}; a number is needed")
    return float(value)
