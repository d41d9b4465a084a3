"""VGGish's log-mel front end, batched, in double precision, without torch.

It computes what the published front end does (``mel_features.py`` of TensorFlow's AudioSet models, copied into
torchvggish): frames of 25 ms every 10 ms, no padding; periodic Hann window; magnitude of a 512-point FFT; 64 triangles
that are linear on the HTK mel scale between 125 and 7500 Hz; ``ln(mel + 0.01)``. Silence is ``ln(0.01)`` everywhere.

The sum over each triangle runs over its own bins, in order, instead of a matrix product over all of them: the same
window then gives the same bits whatever windows are computed beside it, which no matrix library promises.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.base import ExtractorError, Json

RATE = 16_000
FRAME_SAMPLES = 400
FRAME_HOP = 160
FFT_LENGTH = 512
BANDS = 64
LOW_HZ, HIGH_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH_FRAMES = 96
PATCH_SAMPLES = (PATCH_FRAMES - 1) * FRAME_HOP + FRAME_SAMPLES
_MEL_BREAK_HZ, _MEL_Q = 700.0, 1127.0
# Frames per FFT call: it bounds the memory that an hour of audio takes, and changes no value.
_BLOCK_FRAMES = 64 * PATCH_FRAMES


def spec() -> dict[str, Json]:
    """Return the front end as JSON."""
    return {
        "features": "ln(mel magnitude + offset)",
        "rate": RATE,
        "frame_samples": FRAME_SAMPLES,
        "frame_hop": FRAME_HOP,
        "window": "periodic Hann",
        "fft": FFT_LENGTH,
        "bands": BANDS,
        "mel": "HTK",
        "hz": [LOW_HZ, HIGH_HZ],
        "offset": LOG_OFFSET,
        "precision": "float64",
    }


def log_mel(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the log-mel frames of waveforms.

    Parameters
    ----------
    samples
        ``[..., S]`` mono at 16 kHz, nominally -1..1.

    Returns
    -------
    frames
        ``[..., n, 64] float64``, natural logarithm of the magnitude per band, ``n = 1 + (S - 400) // 160``.

    Raises
    ------
    ExtractorError
        If the waveform is shorter than one frame of 400 samples.
    """
    if samples.shape[-1] < FRAME_SAMPLES:
        raise ExtractorError(f"a log-mel frame takes {FRAME_SAMPLES} samples, got {samples.shape[-1]}")
    waveforms = samples.reshape(-1, samples.shape[-1])
    frames = np.lib.stride_tricks.sliding_window_view(waveforms, FRAME_SAMPLES, axis=-1)[:, ::FRAME_HOP]
    count = frames.shape[1]
    result = np.empty((len(frames), count, BANDS), np.float64)
    step = max(1, _BLOCK_FRAMES // count)
    for start in range(0, len(frames), step):
        result[start : start + step] = _bands(frames[start : start + step])
    return result.reshape(*samples.shape[:-1], count, BANDS)


def patches(windows: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the network's input for each window: ``[T, 15600]`` to ``[T, 96, 64] float32``."""
    return log_mel(windows).astype(np.float32)


def mel_matrix() -> NDArray[np.float64]:
    """Return the weight of each of the 257 FFT bins in each band, ``[257, 64]``; it is zero for the bin at 0 Hz."""
    bins = _hertz_to_mel(np.linspace(0.0, RATE / 2, FFT_LENGTH // 2 + 1))[:, None]
    edges = np.linspace(_hertz_to_mel(np.float64(LOW_HZ)), _hertz_to_mel(np.float64(HIGH_HZ)), BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights: NDArray[np.float64] = np.maximum(
        0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    )
    weights[0] = 0.0
    return weights


def _bands(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Turn frames ``[R, n, 400]`` into bands ``[R, n, 64]``."""
    hann, bins, weights, starts = _tables()
    magnitude = np.abs(np.fft.rfft(frames * hann, FFT_LENGTH))
    mel = np.add.reduceat(magnitude[..., bins] * weights, starts, axis=-1)
    values: NDArray[np.float64] = np.log(mel + LOG_OFFSET)
    return values


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Return the window ``[400]``; bin and value of each non-zero weight, band by band; where each band begins."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / FRAME_SAMPLES * np.arange(FRAME_SAMPLES))
    weights = mel_matrix()
    bands, bins = np.nonzero(weights.T)
    return hann, bins, weights[bins, bands], np.searchsorted(bands, np.arange(BANDS))


def _hertz_to_mel(hertz: Any) -> Any:
    return _MEL_Q * np.log(1.0 + hertz / _MEL_BREAK_HZ)
