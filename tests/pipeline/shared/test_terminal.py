"""What a person reads: no markup eaten, plain lines where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.shared import Terminal, duration, human_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (49_152, "49.2 kB"), (140_095_733_760, "140.1 GB"), (2e15, "2000.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(41, "41.0 s"), (65, "1 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_markup_and_emoji_codes_are_shown_as_they_are() -> None:
    text = io.StringIO()
    terminal = Terminal(Console(file=text, width=200, highlight=False, soft_wrap=True))
    terminal.line("[red]:cat:[/red]")
    terminal.labelled("missing", "[bold] bad")
    assert text.getvalue() == "[red]:cat:[/red]\nmissing: [bold] bad\n"
