"""One audio-visual question at a glance: frames, spectrogram, and where the model listened and looked."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEARD, _SEEN = "#c2410c", "#2563c9"
_FRAMES = 12  # thumbnails that fit in a row
_FFT, _HOP, _BANDS = 1024, 512, 64


@dataclass(frozen=True, slots=True)
class Attention:
    """Where a modality was attended.

    Attributes
    ----------
    times : ``[T]`` seconds of the steps, ascending.
    weights : ``[T]``; in the panel they are scaled to their greatest.
    """

    times: NDArray[np.float64]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.times.shape != self.weights.shape or not len(self.times):
            raise ValueError(f"times of shape {self.times.shape}, weights of shape {self.weights.shape}")


@dataclass(frozen=True, slots=True)
class Panel:
    """What is shown of a question.

    Attributes
    ----------
    question, predicted, answer : texts; ``answer`` None if hidden.
    duration : seconds.
    audio, visual : None where the model has no such input.
    frames, frame_times : images ``[H, W, 3] uint8`` of one size and their seconds, ascending; evenly spaced ones are
        shown. The one that the model looked at most is framed.
    waveform, rate : mono ``[S] float32`` and samples per second; None shows no spectrogram.
    """

    question: str
    predicted: str
    answer: str | None
    duration: float
    audio: Attention | None = None
    visual: Attention | None = None
    frames: Sequence[NDArray[np.uint8]] = ()
    frame_times: Sequence[float] = ()
    waveform: NDArray[np.float32] | None = None
    rate: int = 16000

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.frame_times):
            raise ValueError(f"{len(self.frames)} frames, {len(self.frame_times)} times of frames")


def draw(panel: Panel) -> bytes:
    """The panel as PNG; equal panels give equal bytes.

    Raises
    ------
    TrainingError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError("panels need matplotlib: pip install matplotlib") from error
    heights = [*([1.1] if panel.frames else []), *([1.6] if panel.waveform is not None else []), 1.6]
    figure = Figure(figsize=(14, sum(heights) + 1.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    truth = "hidden" if panel.answer is None else panel.answer
    title = f"{panel.question}\npredicted: {panel.predicted}   right: {truth}"
    figure.suptitle(title, fontsize=12, parse_math=False)
    rows = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
    if panel.frames:
        strip = next(rows).subgridspec(1, _FRAMES, wspace=0.02)
        for place, (index, framed) in enumerate(shown_frames(panel)):
            _draw_frame(figure.add_subplot(strip[place]), panel, index, framed)
    if panel.waveform is not None:
        _draw_spectrogram(figure.add_subplot(next(rows)), panel.waveform, panel)
    _draw_attention(figure.add_subplot(next(rows)), panel)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def to_html(panel: Panel) -> str:
    """The panel as one HTML file that needs no other."""
    image = base64.b64encode(draw(panel)).decode()
    truth = "hidden" if panel.answer is None else panel.answer
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(panel.question)}</title>
<style>body{{font-family:sans-serif;max-width:1400px;margin:1em auto}}img{{width:100%}}</style></head>
<body><h1>{html.escape(panel.question)}</h1>
<p>predicted: {html.escape(panel.predicted)}; right: {html.escape(truth)}</p>
<img alt="frames, spectrogram and attention" src="data:image/png;base64,{image}"></body></html>
"""


def shown_frames(panel: Panel) -> list[tuple[int, bool]]:
    """Which frames are shown, and whether each is the one nearest to the most attended second."""
    count = len(panel.frames)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _FRAMES))})
    if panel.visual is None:
        return [(index, False) for index in chosen]
    peak = panel.visual.times[panel.visual.weights.argmax()]
    nearest = min(chosen, key=lambda index: abs(panel.frame_times[index] - peak))
    return [(index, index == nearest) for index in chosen]


def log_mel(waveform: NDArray[np.float32], rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A spectrogram to look at, not a model's input: log magnitude in 64 mel bands, and the seconds of its columns.

    Returns
    -------
    ``[64, F]`` and ``[F]``.
    """
    padded = np.pad(np.asarray(waveform, np.float64), (0, max(0, _FFT - len(waveform))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    magnitude = np.abs(np.fft.rfft(windows * np.hanning(_FFT)))
    mel = 1127 * np.log1p(np.fft.rfftfreq(_FFT, 1 / rate) / 700)
    edges = np.linspace(0, mel[-1], _BANDS + 2)
    rising = (mel - edges[:-2, None]) / (edges[1:-1, None] - edges[:-2, None])
    falling = (edges[2:, None] - mel) / (edges[2:, None] - edges[1:-1, None])
    bands = np.clip(np.minimum(rising, falling), 0, None)
    seconds = (np.arange(len(windows)) * _HOP + _FFT / 2) / rate
    return np.log(bands @ magnitude.T + 0.01), seconds


def _draw_frame(axes: Axes, panel: Panel, index: int, framed: bool) -> None:
    axes.imshow(panel.frames[index])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{panel.frame_times[index]:.1f} s", fontsize=7, pad=2)
    if framed:
        for spine in axes.spines.values():
            spine.set_color(_SEEN)
            spine.set_linewidth(3)


def _draw_spectrogram(axes: Axes, waveform: NDArray[np.float32], panel: Panel) -> None:
    bands, seconds = log_mel(waveform, panel.rate)
    half = _HOP / 2 / panel.rate
    extent = (seconds[0] - half, seconds[-1] + half, 0, _BANDS)
    axes.imshow(bands, origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set_xlim(0, panel.duration)
    axes.set_ylabel("mel band", fontsize=8)
    axes.set_xticks([])


def _draw_attention(axes: Axes, panel: Panel) -> None:
    for name, attention, colour in (("listened", panel.audio, _HEARD), ("looked", panel.visual, _SEEN)):
        if attention is not None:
            greatest = float(attention.weights.max()) or 1.0
            scaled = attention.weights / greatest
            axes.plot(attention.times, scaled, color=colour, marker=".", label=f"{name} (1 = {greatest:.3f})")
            axes.fill_between(attention.times, scaled, color=colour, alpha=0.15)
    axes.set_xlim(0, panel.duration)
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("s")
    axes.set_ylabel("attention", fontsize=8)
    if panel.audio is not None or panel.visual is not None:
        axes.legend(loc="upper right", fontsize=8)
