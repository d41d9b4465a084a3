"""VGGish's log-mel front end, batched, in double precision, without torch.

It computes what the published front end does (``mel_features.py`` of TensorFlow's AudioSet models, copied into
torchvggish): frames of 25 ms every 10 ms, no padding; periodic Hann window; magnitude of a 512-point FFT; 64 triangles
that are linear on the HTK mel scale between 125 and 7500 Hz; ``ln(mel + 0.01)``. Silence is ``ln(0.01)`` everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.base import ExtractorError, Json
from extractors.mel import Bank, by_blocks, hann, triangles

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
    return by_blocks(frames, _bands, BANDS).reshape(*samples.shape[:-1], frames.shape[1], BANDS)


def patches(windows: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the network's input for each window: ``[T, 15600]`` to ``[T, 96, 64] float32``."""
    return log_mel(windows).astype(np.float32)


def mel_matrix() -> NDArray[np.float64]:
    """Return the weight of each of the 257 FFT bins in each band, ``[257, 64]``; it is zero for the bin at 0 Hz."""
    bins = _hertz_to_mel(np.linspace(0.0, RATE / 2, FFT_LENGTH // 2 + 1))
    edges = np.linspace(_hertz_to_mel(np.float64(LOW_HZ)), _hertz_to_mel(np.float64(HIGH_HZ)), BANDS + 2)
    weights = triangles(bins, edges)
    weights[0] = 0.0
    return weights


def _bands(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Turn frames ``[R, n, 400]`` into bands ``[R, n, 64]``."""
    window, bank = _tables()
    magnitude = np.abs(np.fft.rfft(frames * window, FFT_LENGTH))
    values: NDArray[np.float64] = np.log(bank.sum(magnitude) + LOG_OFFSET)
    return values


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float64], Bank]:
    """Return the window ``[400]`` and the bands."""
    return hann(FRAME_SAMPLES), Bank.of(mel_matrix())


def _hertz_to_mel(hertz: Any) -> Any:
    return _MEL_Q * np.log(1.0 + hertz / _MEL_BREAK_HZ)
