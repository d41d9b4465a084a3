"""What a person reads: one line a fact, no markup eaten, nothing lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.executors.outcomes import StageTimes
from pipeline.report import Reporter, human_bytes


def reporter() -> tuple[Reporter, io.StringIO]:
    text = io.StringIO()
    return Reporter(Console(file=text, width=200, highlight=False, soft_wrap=True)), text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (49_152, "49.2 kB"), (140_095_733_760, "140.1 GB"), (2e15, "2000.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_keys_with_brackets_and_emoji_codes_are_shown_as_they_are() -> None:
    told, text = reporter()
    told.failures(
        [
            {
                "feature": "clip",
                "video_id": "[red]:cat:[/red]",
                "class": "corrupt",
                "permanent": True,
                "message": "[bold] bad",
            }
        ]
    )
    assert "missing: clip '[red]:cat:[/red]': corrupt (permanent): [bold] bad" in text.getvalue()


def test_long_lists_of_failures_are_cut_and_say_where_the_rest_is() -> None:
    told, text = reporter()
    failure = {"feature": "f", "class": "timeout", "permanent": False, "message": "m"}
    told.failures([{**failure, "video_id": str(index)} for index in range(50)])
    lines = text.getvalue().splitlines()
    assert len(lines) == 21
    assert "30 more" in lines[-1]


def test_the_summary_counts_failures_by_class() -> None:
    told, text = reporter()
    summary = {
        "stored": 5,
        "wanted": 8,
        "computed": 5,
        "version": 3,
        "failures_by_class": {"timeout": 1, "corrupt": 2},
        "wall_s": 65.0,
        "bytes_written": 1000,
    }
    told.summary(summary, StageTimes(decode_s=2.0, model_s=4.0, frames=64, steps=160))
    assert "stored 5 of 8 wanted rows (5 computed now), version 3; missing: 2 corrupt, 1 timeout" in text.getvalue()
    assert "1 min 5 s: 32.0 frames/s a decode worker, 40.0 steps/s in models, 1.0 kB written" in text.getvalue()
