"""The log-mel front end against the published one and the numbers that it printed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from extractors import ExtractorError, logmel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvggish import mel_features, vggish_input, vggish_params

SECOND = 16_000


def published(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute torchvggish's frames of a waveform at 16 kHz, ``[n, 64]``."""
    frames: NDArray[np.float64] = mel_features.log_mel_spectrogram(
        samples,
        audio_sample_rate=vggish_params.SAMPLE_RATE,
        log_offset=vggish_params.LOG_OFFSET,
        window_length_secs=vggish_params.STFT_WINDOW_LENGTH_SECONDS,
        hop_length_secs=vggish_params.STFT_HOP_LENGTH_SECONDS,
        num_mel_bins=vggish_params.NUM_MEL_BINS,
        lower_edge_hertz=vggish_params.MEL_MIN_HZ,
        upper_edge_hertz=vggish_params.MEL_MAX_HZ,
    )
    return frames


def published_examples(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute torchvggish's examples of a waveform at 16 kHz, ``[n, 96, 64]``."""
    examples: NDArray[np.float64] = vggish_input.waveform_to_examples(samples, SECOND, return_tensor=False)
    return examples


def sine(count: int = 3 * SECOND) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * 1000 * np.arange(count) / SECOND)


def chirp() -> NDArray[np.float64]:
    u = np.arange(SECOND) / SECOND
    return np.sin(2 * np.pi * (100 * u + 3500 * u**2))


def noise(count: int = SECOND) -> NDArray[np.float64]:
    """Return noise of a linear congruential generator, updated before use."""
    values, state = np.empty(count), 12345
    for index in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values[index] = (state / 2**31 - 1) * 0.5
    return values


def moments(frames: NDArray[np.float64]) -> list[float]:
    return [frames.mean(), frames.std()]


def close(actual: object, expected: object, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def test_a_sine() -> None:
    frames = logmel.log_mel(sine())
    assert frames.shape == (298, 64)
    close(frames[0, :4], [-4.48313252, -4.27083405, -4.17064267, -4.23770552])
    close(frames[0, -4:], [-4.6003725, -4.60069383, -4.60098887, -4.60116305])
    close(frames[1], frames[0], 1e-9)
    assert frames[0].argmax() == 19
    close(frames[0, 19], 4.811117725)
    close(moments(frames[:288]), [-3.42961870, 2.12657734])


def test_a_chirp() -> None:
    frames = logmel.log_mel(chirp())
    assert frames.shape == (98, 64)
    close(frames[0, :4], [4.1434, 4.445619, 4.2406, 3.625667])
    assert (frames[50].argmax(), frames[95].argmax()) == (46, 62)
    close([frames[50, 46], frames[95, 62]], [5.341073881, 5.311346750])
    close(moments(frames[:96]), [-3.68215928, 2.15171037])


def test_noise() -> None:
    samples = noise()
    close(samples[:4], [-0.479597, -0.483452, 0.043156, 0.134904])
    frames = logmel.log_mel(samples)
    close(frames[0, :4], [1.99307, 1.830289, 1.517436, 1.294051])
    close(frames[0, -4:], [2.799362, 3.459135, 3.363245, 3.210828])
    close(frames[95, :3], [1.620416, 1.782187, 1.294435])
    close(frames[97, -3:], [3.619247, 3.576619, 3.760307])
    close(moments(frames[:96]), [2.14410599, 0.79828625])
    close([frames.min(), frames.max()], [-1.48998644, 3.90199190])


def test_silence_is_the_logarithm_of_the_offset() -> None:
    assert (logmel.patches(np.zeros((2, 15_600), np.float32)) == np.float32(-4.605170185988091)).all()


def test_real_sound(shared: Path) -> None:
    samples, rate = soundfile.read(shared / "data" / "audio" / "torchvggish_test.wav", dtype="int16")
    assert (rate, samples.shape) == (SECOND, (64_000,))
    frames = logmel.log_mel(samples / 32768)
    assert frames.shape == (398, 64)
    close(frames[0, :4], [0.496131, -0.105557, -0.257406, -0.437416])
    close(moments(frames), [-2.18260666, 1.88224056])
    close(frames, published(samples / 32768), 1e-9)


@pytest.mark.parametrize("samples", [sine(), chirp(), noise(), noise(15_600)], ids=["sine", "chirp", "noise", "patch"])
def test_equals_the_published_front_end(samples: NDArray[np.float64]) -> None:
    close(logmel.log_mel(samples), published(samples), 1e-9)
    # Rounding the sine to float32 alone moves its quiet bands by 3e-5: both sides get the same samples.
    single = samples.astype(np.float32)
    patch = logmel.patches(single[None, :15_600])[0]
    assert (patch.dtype, patch.shape) == (np.float32, (96, 64))
    close(patch, published_examples(single.astype(np.float64))[0], 1e-6)


def test_windows_every_960_ms_are_the_published_examples_of_the_continuous_signal() -> None:
    samples = noise(4 * SECOND) * np.linspace(0, 1, 4 * SECOND)
    examples = published_examples(samples)
    starts = np.arange(len(examples)) * round(0.96 * SECOND)
    windows = np.stack([samples[start : start + 15_600] for start in starts])
    assert examples.shape == (4, 96, 64)
    close(logmel.log_mel(windows), examples, 1e-9)


def test_windows_at_each_second_are_music_avqas_patches() -> None:
    samples = noise(3 * SECOND) * np.linspace(0, 1, 3 * SECOND)
    seconds = samples.reshape(3, SECOND)
    expected = np.concatenate([published_examples(second) for second in seconds])
    assert expected.shape == (3, 96, 64)
    close(logmel.log_mel(seconds[:, :15_600]), expected, 1e-9)


def test_a_window_has_the_same_bits_in_any_company() -> None:
    windows = np.random.default_rng(0).standard_normal((70, 15_600)).astype(np.float32)
    together = logmel.log_mel(windows)
    for index in (0, 1, 63, 64, 69):
        assert logmel.log_mel(windows[index]).tobytes() == together[index].tobytes()
    assert logmel.log_mel(windows[::-1])[::-1].tobytes() == together.tobytes()


def test_a_patch_takes_exactly_its_window() -> None:
    assert logmel.PATCH_SAMPLES == 15_600
    assert logmel.log_mel(np.zeros(15_600)).shape == (96, 64)
    assert logmel.log_mel(np.zeros(15_599)).shape == (95, 64)
    with pytest.raises(ExtractorError, match="400 samples, got 399"):
        logmel.log_mel(np.zeros(399))


def test_the_mel_matrix_is_the_published_one() -> None:
    weights = logmel.mel_matrix()
    expected = mel_features.spectrogram_to_mel_matrix(64, 257, SECOND, 125, 7500)
    close(weights, expected, 1e-12)
    assert np.count_nonzero(weights) == 461
    assert np.flatnonzero(weights[:, 0]).tolist() == [5]
    assert np.flatnonzero(weights[:, 63]).tolist() == list(range(223, 240))
    close(weights.sum(0)[:5], [0.947690, 0.985416, 1.027460, 1.130301, 1.112659])
