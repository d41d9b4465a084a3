"""Log-mel front ends as libraries define them, batched, in double precision, without torch.

A front end cuts a waveform into frames, takes the squared magnitude of each frame's Fourier transform, sums it over
triangles on a mel scale, and returns the logarithm. The sum over each triangle runs over its own bins, in order,
instead of a matrix product over all of them: the same window then gives the same bits whatever windows are computed
beside it, which no matrix library promises.

``Fbank`` is Kaldi's, as torchaudio and transformers compute it for AST and BEATs. The libraries compute it in single
precision; where a band is far below the loudest one of its frame, that differs from double precision by more than the
last digit, and the values here are the more exact ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.base import Json

Scale = Literal["htk", "kaldi", "slaney"]

_BLOCK_FRAMES = 6144  # frames per FFT call: it bounds the memory that an hour of sound takes, and changes no value
_SLANEY_BREAK_HZ, _SLANEY_BREAK_MEL = 1000.0, 15.0
_SLANEY_STEP = np.log(6.4) / 27.0


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Bands of an FFT: the bins that are not zero, band after band.

    Attributes
    ----------
    bands
        Number of bands.
    filled
        intp ``[K]``: the bands that have a bin at all.
    starts
        intp ``[K]``: where each of them begins in ``bins`` and ``weights``.
    bins, weights
        intp and float64 ``[N]``: a bin, and its weight in its band.
    """

    bands: int
    filled: NDArray[np.intp]
    starts: NDArray[np.intp]
    bins: NDArray[np.intp]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> Bank:
        """Return the bank of a matrix ``[bins, bands]``."""
        bands, bins = np.nonzero(matrix.T)
        filled, starts = np.unique(bands, return_index=True)
        return cls(matrix.shape[1], filled, starts, bins, matrix[bins, bands])

    def sum(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum ``[..., bins]`` to ``float64 [..., bands]``; a band without a bin is zero."""
        sums: NDArray[np.float64] = np.add.reduceat(spectrum[..., self.bins] * self.weights, self.starts, axis=-1)
        if len(self.filled) == self.bands:
            return sums
        every = np.zeros((*sums.shape[:-1], self.bands))
        every[..., self.filled] = sums
        return every


def triangles(places: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each place in each band, ``[B, K]``; band k rises from edge k and falls to edge k + 2.

    Parameters
    ----------
    places
        ``[B]``, of the bins.
    edges
        ``[K + 2]``, ascending, in the unit of ``places``.
    """
    bins, low, centre, high = places[:, None], edges[:-2], edges[1:-1], edges[2:]
    weights: NDArray[np.float64] = np.maximum(
        0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    )
    return weights


def to_mel(hertz: Any, scale: Scale) -> Any:
    """Return frequencies in mel: on Kaldi's and HTK's scale, or Slaney's, which is linear below 1 kHz."""
    if scale == "kaldi":
        return 1127.0 * np.log(1.0 + hertz / 700.0)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hertz / 700.0)
    above = np.maximum(hertz, _SLANEY_BREAK_HZ)
    logarithmic = _SLANEY_BREAK_MEL + np.log(above / _SLANEY_BREAK_HZ) / _SLANEY_STEP
    return np.where(hertz < _SLANEY_BREAK_HZ, 3.0 * hertz / 200.0, logarithmic)


def to_hertz(mel: Any, scale: Scale) -> Any:
    """Return mel in hertz; the inverse of ``to_mel``."""
    if scale == "kaldi":
        return 700.0 * (np.exp(mel / 1127.0) - 1.0)
    if scale == "htk":
        return 700.0 * (np.power(10.0, mel / 2595.0) - 1.0)
    logarithmic = _SLANEY_BREAK_HZ * np.exp(_SLANEY_STEP * (np.maximum(mel, _SLANEY_BREAK_MEL) - _SLANEY_BREAK_MEL))
    return np.where(mel < _SLANEY_BREAK_MEL, 200.0 * mel / 3.0, logarithmic)


def hann(length: int, periodic: bool = True) -> NDArray[np.float64]:
    """Return the Hann window, float64 ``[length]``; one that is not periodic ends as it begins, with zero."""
    period = length if periodic else length - 1
    window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi / period * np.arange(length))
    return window


def by_blocks(
    frames: NDArray[Any], compute: Callable[[NDArray[Any]], NDArray[np.float64]], bands: int
) -> NDArray[np.float64]:
    """Compute ``[R, n, L]`` frames in blocks of whole rows: float64 ``[R, n, bands]``."""
    result = np.empty((*frames.shape[:2], bands), np.float64)
    rows = max(1, _BLOCK_FRAMES // frames.shape[1])
    for start in range(0, len(frames), rows):
        result[start : start + rows] = compute(frames[start : start + rows])
    return result


@dataclass(frozen=True, slots=True)
class Fbank:
    """Kaldi's log-mel energies of sound at 16 kHz, normalised as AST and BEATs do it.

    Frames of 25 ms every 10 ms, none of them padded; each less its mean; pre-emphasis 0.97; a window; the power of a
    512-point FFT; triangles that are linear on Kaldi's mel scale from 20 Hz to 8 kHz; ``ln(max(power, 2**-23))``;
    ``(x - mean) / (2 std)``.

    Attributes
    ----------
    bands
        Number of bands.
    window
        ``hann``, or ``povey``, which is a Hann window to the power of 0.85; neither is periodic.
    gain
        What samples of -1..1 are multiplied by first.
    mean, std
        Of the normalisation; 0 and 0.5 leave the values as they are.
    """

    bands: int
    window: Literal["hann", "povey"]
    gain: float
    mean: float
    std: float

    RATE = 16_000
    FRAME, HOP, FFT = 400, 160, 512
    LOW_HZ = 20.0
    PREEMPHASIS = 0.97
    FLOOR = 2.0**-23

    def spec(self) -> dict[str, Json]:
        """Return the front end as JSON."""
        return {
            "features": "(ln(max(mel power, floor)) - mean) / (2 std)",
            "rate": self.RATE,
            "frame_samples": self.FRAME,
            "frame_hop": self.HOP,
            "less_mean": True,
            "preemphasis": self.PREEMPHASIS,
            "window": f"symmetric {self.window}",
            "fft": self.FFT,
            "bands": self.bands,
            "mel": "Kaldi",
            "hz": [self.LOW_HZ, self.RATE / 2],
            "floor": self.FLOOR,
            "gain": self.gain,
            "mean": self.mean,
            "std": self.std,
            "precision": "float64",
        }

    def frames(self, samples: int) -> int:
        """Return the number of frames of a window."""
        return 1 + (samples - self.FRAME) // self.HOP

    def __call__(self, windows: NDArray[Any]) -> NDArray[np.float64]:
        """Turn ``[T, S]`` samples, at least a frame of them, into ``float64 [T, frames, bands]``."""
        frames = np.lib.stride_tricks.sliding_window_view(windows, self.FRAME, axis=-1)[:, :: self.HOP]
        values = by_blocks(frames, self._energies, self.bands)
        return (values - self.mean) / (2 * self.std)

    def _energies(self, frames: NDArray[Any]) -> NDArray[np.float64]:
        window, bank = _fbank_tables(self.bands, self.window)
        exact = np.ascontiguousarray(frames, np.float64) * self.gain  # [R, n, 400]
        exact -= exact.mean(axis=-1, keepdims=True)
        emphasised = exact.copy()
        emphasised[..., 1:] -= self.PREEMPHASIS * exact[..., :-1]
        emphasised[..., 0] *= 1 - self.PREEMPHASIS
        spectrum = np.fft.rfft(emphasised * window, self.FFT)
        power = bank.sum(spectrum.real**2 + spectrum.imag**2)
        values: NDArray[np.float64] = np.log(np.maximum(power, self.FLOOR))
        return values


@lru_cache(maxsize=8)
def _fbank_tables(bands: int, window: str) -> tuple[NDArray[np.float64], Bank]:
    """Return the window ``[400]`` and the bands of the 257 bins."""
    symmetric = hann(Fbank.FRAME, periodic=False)
    places = to_mel(np.arange(Fbank.FFT // 2 + 1) * (Fbank.RATE / Fbank.FFT), "kaldi")
    edges = np.linspace(to_mel(Fbank.LOW_HZ, "kaldi"), to_mel(Fbank.RATE / 2, "kaldi"), bands + 2)
    return symmetric if window == "hann" else symmetric**0.85, Bank.of(triangles(places, edges))
