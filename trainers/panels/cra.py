"""One grounded question at a glance: frames, attention before and after smoothing, spans, options with their scores."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainers.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Frame = NDArray[np.uint8]
Span = tuple[float, float]

_TRUE, _PREDICTED, _RAW = "#2a9d4a", "#2563c9", "#9a9a9a"
_PER_ROW = 16


@dataclass(frozen=True, slots=True)
class Panel:
    """What is shown of a question.

    Attributes
    ----------
    question, options : texts; ``scores`` one logit an option.
    answer, prediction : indices of options; ``answer`` None if hidden.
    times : ``[T]`` seconds of the frames, ascending; ``attention`` (p) and ``weights`` (w) ``[T]``.
    duration : seconds.
    true_spans, predicted_span : seconds.
    frames : T images ``[H, W, 3] uint8`` of one size, or none.
    """

    question: str
    options: Sequence[str]
    scores: Sequence[float]
    answer: int | None
    prediction: int
    times: Sequence[float]
    attention: Sequence[float]
    weights: Sequence[float]
    duration: float
    true_spans: Sequence[Span]
    predicted_span: Span
    frames: Sequence[Frame] = ()

    def __post_init__(self) -> None:
        steps = len(self.times)
        if len(self.attention) != steps or len(self.weights) != steps or len(self.frames) not in (0, steps):
            raise ValueError(
                f"{steps} times, {len(self.attention)} and {len(self.weights)} weights, {len(self.frames)} frames"
            )
        if len(self.options) != len(self.scores):
            raise ValueError(f"{len(self.options)} options, {len(self.scores)} scores")


def read_frames(path: str | Path, times: Sequence[float], start_s: float = 0.0, height: int = 90) -> list[Frame]:
    """The frames that are shown at ``times`` (seconds after ``start_s``, ascending), scaled to a height in pixels.

    Raises
    ------
    TrainingError
        If the file cannot be opened or holds no frame.
    """
    import av  # only panels decode

    thumbnails: list[Frame] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise TrainingError(f"{path}: no video stream")
            shown = None
            frames: Any = container.decode(stream)  # typed by av as frames of any stream
            for frame in frames:
                if frame.time is None:
                    raise TrainingError(f"{path}: its frames have no times")
                while (
                    shown is not None and len(thumbnails) < len(times) and frame.time > start_s + times[len(thumbnails)]
                ):
                    thumbnails.append(_thumbnail(shown, height))
                shown = frame
                if len(thumbnails) == len(times):
                    break
    except av.FFmpegError as error:
        raise TrainingError(f"{path}: not readable ({error.strerror})") from error
    if shown is None:
        raise TrainingError(f"{path}: no frame could be decoded")
    last = _thumbnail(shown, height)
    return thumbnails + [last] * (len(times) - len(thumbnails))


def _thumbnail(frame: Any, height: int) -> Frame:
    width = max(1, round(frame.width * height / frame.height))
    pixels: Frame = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return pixels


def draw(panel: Panel) -> bytes:
    """The panel as PNG.

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
    rows = -(-len(panel.frames) // _PER_ROW)
    heights = [0.9] * rows + [2.2, 0.35 * len(panel.options) + 0.3]
    figure = Figure(figsize=(14, sum(heights) + 0.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(panel.question, fontsize=12, parse_math=False)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for row in range(rows):
        steps = range(row * _PER_ROW, min((row + 1) * _PER_ROW, len(panel.frames)))
        _draw_frames(figure.add_subplot(grid[row]), panel, steps)
    _draw_attention(figure.add_subplot(grid[rows]), panel)
    _draw_options(figure.add_subplot(grid[rows + 1]), panel)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_frames(axes: Axes, panel: Panel, steps: range) -> None:
    """One row of frames; the last row may have fewer."""
    height, width, _ = panel.frames[0].shape
    axes.imshow(np.concatenate([panel.frames[step] for step in steps], axis=1))
    axes.set_xlim(0, width * min(_PER_ROW, len(panel.frames)))
    axes.axis("off")
    for place, step in enumerate(steps):
        time = panel.times[step]
        true = any(start <= time <= end for start, end in panel.true_spans)
        middle = (place + 0.5) * width
        axes.text(middle, -2, f"{time:.1f} s", fontsize=7, ha="center", color=_TRUE if true else "black")
        if panel.predicted_span[0] <= time <= panel.predicted_span[1]:
            axes.plot(
                [place * width, (place + 1) * width], [height + 3] * 2, color=_PREDICTED, linewidth=4, clip_on=False
            )


def _draw_attention(axes: Axes, panel: Panel) -> None:
    for index, (start, end) in enumerate(panel.true_spans):
        axes.axvspan(start, end, color=_TRUE, alpha=0.2, label="true span" if index == 0 else None)
    start, end = panel.predicted_span
    axes.axvspan(start, end, facecolor="none", edgecolor=_PREDICTED, hatch="//", label="predicted span")
    axes.plot(panel.times, panel.attention, color=_RAW, marker=".", label="attention")
    axes.plot(panel.times, panel.weights, color=_PREDICTED, marker=".", label="smoothed")
    axes.set_xlim(0, max(panel.duration, *panel.times))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.legend(loc="upper right", fontsize=8)


def _draw_options(axes: Axes, panel: Panel) -> None:
    colours = [_TRUE if index == panel.answer else _RAW for index in range(len(panel.options))]
    chances = _softmax(panel.scores)
    bars = axes.barh(range(len(panel.options)), chances, color=colours)
    labels = [f"{'▸ ' if index == panel.prediction else ''}{text}" for index, text in enumerate(panel.options)]
    axes.set_yticks(range(len(panel.options)), labels, parse_math=False)  # a $ is a $
    for index, name in enumerate(axes.get_yticklabels()):
        name.set_color(_TRUE if index == panel.answer else "black")  # a bar of no length has no colour
    axes.bar_label(bars, [f"{chance:.2f}" for chance in chances], padding=3, fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.invert_yaxis()
    axes.set_xlabel("green: right; ▸ predicted")


def to_html(panel: Panel) -> str:
    """The panel as one HTML file that needs no other."""
    image = base64.b64encode(draw(panel)).decode()
    chances = _softmax(panel.scores)
    rows = "\n".join(
        f"<tr{' class=right' if index == panel.answer else ''}><td>{'▸' if index == panel.prediction else ''}</td>"
        f"<td>{html.escape(option)}</td><td>{panel.scores[index]:.3f}</td><td>{100 * chances[index]:.1f} %</td></tr>"
        for index, option in enumerate(panel.options)
    )
    true = ", ".join(_seconds(span) for span in panel.true_spans) or "unknown"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(panel.question)}</title>
<style>body{{font-family:sans-serif;max-width:1400px;margin:1em auto}}img{{width:100%}}
td,th{{padding:.2em .8em;text-align:left}}.right{{color:{_TRUE};font-weight:bold}}</style></head>
<body><h1>{html.escape(panel.question)}</h1>
<p>true span: {true}; predicted: {_seconds(panel.predicted_span)}</p>
<img alt="frames, attention and options" src="data:image/png;base64,{image}">
<table><tr><th></th><th>option</th><th>score</th><th>softmax</th></tr>
{rows}
</table></body></html>
"""


def _seconds(span: Span) -> str:
    return f"{span[0]:.1f}–{span[1]:.1f} s"


def _softmax(scores: Sequence[float]) -> NDArray[np.float64]:
    powers = np.exp(np.asarray(scores, np.float64) - max(scores))
    chances: NDArray[np.float64] = powers / powers.sum()
    return chances
