"""The panel of an audio-visual question: frames, spectrogram, and when the model listened and looked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.panels.clip import RATE, Frame, read_frames, read_waveform
from trainers.panels.figure import Clip, new_figure, page, to_png, verdict
from trainers.panels.finished import ShownQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEARD, _SEEN = "#c2410c", "#2563c9"
_FRAMES = 12  # thumbnails that fit in a row
_FFT, _HOP, _BANDS = 1024, 512, 64


@dataclass(frozen=True, slots=True)
class Attention:
    """When a modality was attended to.

    Attributes
    ----------
    times
        ``[T]``, times of the steps in seconds, ascending.
    weights
        ``[T]``; the panel scales them to a maximum of 1.
    """

    times: NDArray[np.float64]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.times.shape != self.weights.shape or not len(self.times):
            raise ValueError(f"times of shape {self.times.shape}, weights of shape {self.weights.shape}")


@dataclass(frozen=True, slots=True)
class Panel:
    """What is shown about a question.

    Attributes
    ----------
    question
        Its text.
    name
        The video's key and the question's id, in one line.
    predicted
        The predicted answer.
    answer
        The right answer; None if it is hidden.
    duration
        Duration of the video in seconds.
    audio
        When the model listened; None if it has no such input.
    visual
        When the model looked; None if it has no such input.
    frames
        Images of one size. Evenly spaced ones are shown, and the one that the model looked at most is framed.
    frame_times
        Times of the frames in seconds, ascending.
    waveform
        The sound, mono ``[S] float32``; None shows no spectrogram.
    rate
        Its samples per second.
    clips
        Parts of the video's file that the page plays.
    """

    question: str
    name: str
    predicted: str
    answer: str | None
    duration: float
    audio: Attention | None = None
    visual: Attention | None = None
    frames: Sequence[Frame] = ()
    frame_times: Sequence[float] = ()
    waveform: NDArray[np.float32] | None = None
    rate: int = RATE
    clips: Sequence[Clip] = ()

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.frame_times):
            raise ValueError(f"{len(self.frames)} frames, {len(self.frame_times)} times of frames")


def draw_question(shown: ShownQuestion) -> tuple[bytes, str]:
    """Draw a question of a finished run, as a PNG and as an HTML page.

    Raises
    ------
    TrainingError
        If nothing is predicted for the question, its video cannot be decoded, or matplotlib is not installed.
    """
    questions, row, video = shown.questions, shown.row, shown.video
    # A model that sees nothing but the question has no attention.
    weights = shown.predictions("attention").get(shown.question_id, {})
    times = shown.predictions("times").get(shown.video_id, {})
    attention = {
        modality: Attention(np.array(times[modality]), np.array(values, np.float32))
        for modality, values in weights.items()
    }
    seconds = times.get("visual") or next(iter(times.values()), [0.0])
    duration = shown.duration(seconds)
    panel = Panel(
        question=questions.texts[row],
        name=shown.name,
        predicted=shown.prediction("answers", shown.question_id),
        answer=questions.answers[row],
        duration=duration,
        audio=attention.get("audio"),
        visual=attention.get("visual"),
        frames=() if video is None else read_frames(video, seconds, shown.start_s),
        frame_times=() if video is None else seconds,
        waveform=None if video is None else read_waveform(video, shown.start_s, duration),
        clips=shown.clips({}),
    )
    image = draw(panel)
    return image, to_html(panel, image)


def draw(panel: Panel) -> bytes:
    """Draw a panel as PNG; equal panels give equal bytes.

    Raises
    ------
    TrainingError
        If matplotlib is not installed.
    """
    heights = [*([1.1] if panel.frames else []), *([1.6] if panel.waveform is not None else []), 1.6]
    title = f"{panel.question}\n{panel.name}\n{_told(panel)}"
    figure, grid = new_figure(title, heights, margin=1.65)
    rows = iter(grid)
    if panel.frames:
        strip = next(rows).subgridspec(1, _FRAMES, wspace=0.02)
        for place, (index, framed) in enumerate(shown_frames(panel)):
            _draw_frame(figure.add_subplot(strip[place]), panel, index, framed)
    if panel.waveform is not None:
        _draw_spectrogram(figure.add_subplot(next(rows)), panel.waveform, panel)
    _draw_attention(figure.add_subplot(next(rows)), panel)
    return to_png(figure)


def to_html(panel: Panel, image: bytes | None = None) -> str:
    """Draw a panel as an HTML page that needs no other file but the video; ``image`` is what ``draw`` returned.

    Raises
    ------
    TrainingError
        If matplotlib is not installed.
    """
    drawn = draw(panel) if image is None else image
    told = html.escape(_told(panel))
    return page(panel.question, panel.name, told, drawn, "frames, spectrogram and attention", clips=panel.clips)


def _told(panel: Panel) -> str:
    """Return whether the answer is right, and which it is and should be."""
    right = None if panel.answer is None else panel.predicted == panel.answer
    told = f"{verdict(right)}: predicted “{panel.predicted}”"
    return told if right or panel.answer is None else f"{told}, right is “{panel.answer}”"


def shown_frames(panel: Panel) -> list[tuple[int, bool]]:
    """Choose evenly spaced frames; return their indices, and for each whether it is to be framed.

    The framed one is nearest to the time that the model looked at most.
    """
    count = len(panel.frames)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _FRAMES))})
    if panel.visual is None:
        return [(index, False) for index in chosen]
    peak = panel.visual.times[panel.visual.weights.argmax()]
    nearest = min(chosen, key=lambda index: abs(panel.frame_times[index] - peak))
    return [(index, index == nearest) for index in chosen]


def log_mel(waveform: NDArray[np.float32], rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute a spectrogram to look at; it is not what models read.

    Returns
    -------
    Log magnitudes in 64 mel bands ``[64, F]``, and the times of their columns in seconds ``[F]``.
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
