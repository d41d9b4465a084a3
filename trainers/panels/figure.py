"""A figure of stacked rows, as a PNG or inside an HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainers.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec


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


def page(title: str, name: str, summary: str, image: bytes, image_text: str, *, body: str = "", style: str = "") -> str:
    """Return an HTML page that needs no other file.

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
    body
        HTML below the image.
    style
        CSS of ``body``.
    """
    data = base64.b64encode(image).decode()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(f"{title} – {name}")}</title>
<style>body{{font-family:sans-serif;max-width:1400px;margin:1em auto}}img{{width:100%}}{style}</style></head>
<body><h1>{html.escape(title)}</h1>
<p>{html.escape(name)}</p>
<p>{summary}</p>
<img alt="{image_text}" src="data:image/png;base64,{data}">{body}</body></html>
"""
