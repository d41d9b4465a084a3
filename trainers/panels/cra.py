"""The panel of a grounded question: frames, attention before and after smoothing, spans, options with their scores."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.metrics.grounding import Span
from trainers.panels.clip import Frame, read_frames
from trainers.panels.figure import Clip, new_figure, page, seconds, to_png, verdict
from trainers.panels.finished import ShownQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRUE, _PREDICTED, _RAW = "#2a9d4a", "#2563c9", "#9a9a9a"
_PER_ROW = 16  # frames
_STYLE = f"""
td,th{{padding:.2em .8em;text-align:left}}.right{{color:{_TRUE};font-weight:bold}}"""


@dataclass(frozen=True, slots=True)
class Panel:
    """What is shown about a question.

    Attributes
    ----------
    question
        Its text.
    name
        The video's key and the question's id, in one line.
    options
        Texts of its options.
    scores
        One logit per option.
    answer
        Index of the right option; None if it is hidden.
    prediction
        Index of the predicted option.
    times
        ``[T]``, times of the frames in seconds, ascending.
    attention
        p ``[T]``, weights of the frames before smoothing.
    weights
        w ``[T]``, weights of the frames after smoothing.
    duration
        Duration of the video in seconds.
    true_spans
        Annotated spans in seconds.
    predicted_span
        Predicted span in seconds.
    frames
        T images of one size, or none.
    clips
        Parts of the video's file that the page plays.
    """

    question: str
    name: str
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
    clips: Sequence[Clip] = ()

    def __post_init__(self) -> None:
        steps = len(self.times)
        if len(self.attention) != steps or len(self.weights) != steps or len(self.frames) not in (0, steps):
            raise ValueError(
                f"{steps} times, {len(self.attention)} and {len(self.weights)} weights, {len(self.frames)} frames"
            )
        if len(self.options) != len(self.scores):
            raise ValueError(f"{len(self.options)} options, {len(self.scores)} scores")

    @property
    def verdict(self) -> str:
        """Whether the answer is right, and which it is and should be."""
        right = None if self.answer is None else self.prediction == self.answer
        told = f"{verdict(right)}: predicted “{self.options[self.prediction]}”"
        return told if right or self.answer is None else f"{told}, right is “{self.options[self.answer]}”"


def draw_question(shown: ShownQuestion) -> tuple[bytes, str]:
    """Draw a question of a finished run, as a PNG and as an HTML page.

    Raises
    ------
    TrainingError
        If nothing is predicted for the question, its video cannot be decoded, or matplotlib is not installed.
    """
    questions, row = shown.questions, shown.row
    keys = (shown.question_id, f"{shown.video_id}_{shown.question_id}")
    times = shown.prediction("times", shown.video_id)
    start, end = shown.prediction("spans", *keys)
    answer = int(questions.answer_index[row])
    panel = Panel(
        question=questions.texts[row],
        name=shown.name,
        options=questions.options[row],
        scores=shown.prediction("scores", *keys),
        answer=None if answer < 0 else answer,
        prediction=shown.prediction("answers", *keys)["prediction"],
        times=times,
        attention=shown.prediction("unsmoothed", *keys),
        weights=shown.prediction("attention", *keys),
        duration=shown.duration(times),
        true_spans=questions.spans[row],
        predicted_span=(start, end),
        frames=() if shown.video is None else read_frames(shown.video, times, shown.start_s),
        clips=shown.clips({"true span": questions.spans[row], "predicted span": [(start, end)]}),
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
    rows = -(-len(panel.frames) // _PER_ROW)
    heights = [0.9] * rows + [2.2, 0.35 * len(panel.options) + 0.3]
    figure, grid = new_figure(f"{panel.question}\n{panel.name}\n{panel.verdict}", heights, margin=1.4)
    for row in range(rows):
        steps = range(row * _PER_ROW, min((row + 1) * _PER_ROW, len(panel.frames)))
        _draw_frames(figure.add_subplot(grid[row]), panel, steps)
    _draw_attention(figure.add_subplot(grid[rows]), panel)
    _draw_options(figure.add_subplot(grid[rows + 1]), panel)
    return to_png(figure)


def _draw_frames(axes: Axes, panel: Panel, steps: range) -> None:
    """Draw one row of frames; the last row may have fewer."""
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
    axes.set_yticks(range(len(panel.options)), labels, parse_math=False)  # a $ in a text is no formula
    for index, name in enumerate(axes.get_yticklabels()):
        name.set_color(_TRUE if index == panel.answer else "black")  # a bar of no length has no colour
    axes.bar_label(bars, [f"{chance:.2f}" for chance in chances], padding=3, fontsize=8)
    axes.set_xlim(0, 1.1)
    axes.invert_yaxis()
    axes.set_xlabel("green: right; ▸ predicted")


def to_html(panel: Panel, image: bytes | None = None) -> str:
    """Draw a panel as an HTML page that needs no other file but the video; ``image`` is what ``draw`` returned.

    Raises
    ------
    TrainingError
        If matplotlib is not installed.
    """
    chances = _softmax(panel.scores)
    rows = "\n".join(
        f"<tr{' class=right' if index == panel.answer else ''}><td>{'▸' if index == panel.prediction else ''}</td>"
        f"<td>{html.escape(option)}</td><td>{panel.scores[index]:.3f}</td><td>{100 * chances[index]:.1f} %</td></tr>"
        for index, option in enumerate(panel.options)
    )
    true = ", ".join(seconds(span) for span in panel.true_spans) or "unknown"
    return page(
        panel.question,
        panel.name,
        f"{html.escape(panel.verdict)}<br>true span: {true}; predicted: {seconds(panel.predicted_span)}",
        draw(panel) if image is None else image,
        "frames, attention and options",
        clips=panel.clips,
        body=f"""
<table><tr><th></th><th>option</th><th>score</th><th>softmax</th></tr>
{rows}
</table>""",
        style=_STYLE,
    )


def _softmax(scores: Sequence[float]) -> NDArray[np.float64]:
    powers = np.exp(np.asarray(scores, np.float64) - max(scores))
    chances: NDArray[np.float64] = powers / powers.sum()
    return chances
