"""A figure of stacked rows, as a PNG or inside an HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of a video's file that a page plays.

    Attributes
    ----------
    label
        What it is, such as ``true span 1.0–2.5 s``.
    uri
        The file and, as ``#t=``, the seconds of it.
    """

    label: str
    uri: str

    @classmethod
    def of(cls, label: str, file: Path, start_s: float, end_s: float | None = None) -> Clip:
        """Make a clip of a file between two seconds of it; one that ends before it starts has no end."""
        until = f",{end_s:.3f}" if end_s is not None and end_s > start_s else ""
        return cls(label, f"{file.resolve().as_uri()}#t={max(0.0, start_s):.3f}{until}")


def seconds(span: tuple[float, float]) -> str:
    """Return a span as people read it: ``1.0–2.5 s``."""
    return f"{span[0]:.1f}–{span[1]:.1f} s"


def verdict(right: bool | None) -> str:
    """Return whether an answer is right in words."""
    return "not scored" if right is None else "right" if right else "wrong"


def new_figure(title: str, heights: Sequence[float], margin: float) -> tuple[Figure, GridSpec]:
    """Make a figure 14 inches wide, with one row for each of ``heights`` (inches) and ``margin`` inches around them.

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
    figure = Figure(figsize=(14, sum(heights) + margin), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, parse_math=False)
    return figure, figure.add_gridspec(len(heights), 1, height_ratios=heights)


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def page(
    title: str,
    name: str,
    summary: str,
    image: bytes,
    image_text: str,
    *,
    clips: Sequence[Clip] = (),
    body: str = "",
    style: str = "",
) -> str:
    """Return an HTML page that needs no other file, but for the video that its clips play.

    Parameters
    ----------
    title
        Plain text.
    name
        What is shown, in plain text: the video's key and the question's id.
    summary
        One line of HTML below the title.
    image
        A PNG.
    image_text
        What the image shows, for those who cannot see it.
    clips
        Parts of the video's file to play below the image.
    body
        HTML below the clips.
    style
        CSS of ``body``.
    """
    data = base64.b64encode(image).decode()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(f"{title} – {name}")}</title>
<style>body{{font-family:sans-serif;max-width:1400px;margin:1em auto;padding:0 1em}}
img{{width:100%}}figure{{display:inline-block;margin:0 1em 1em 0}}video{{max-width:100%;width:24em}}{style}</style>
</head>
<body><h1>{html.escape(title)}</h1>
<p>{html.escape(name)}</p>
<p>{summary}</p>
<img alt="{image_text}" src="data:image/png;base64,{data}">{_players(clips)}{body}</body></html>
"""


def _players(clips: Sequence[Clip]) -> str:
    """Return HTML that plays clips; a browser that cannot decode the file offers it as a link."""
    return "".join(
        f"""
<figure><video controls preload="metadata" src="{html.escape(clip.uri)}"><a href="{html.escape(clip.uri)}">open the
file</a></video><figcaption>{html.escape(clip.label)}</figcaption></figure>"""
        for clip in clips
    )
