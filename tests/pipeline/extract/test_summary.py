"""What a person and a script learn about an extraction: nothing lost, nothing swallowed as markup."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline.extract.ledger import Progress
from pipeline.extract.outcomes import StageTimes
from pipeline.extract.plan import Plan
from pipeline.extract.summary import ExtractResult, PlanSummary, RunSummary, show_failures, show_summary
from pipeline.shared import Terminal
from stores.commit import Failure


def terminal() -> tuple[Terminal, io.StringIO]:
    text = io.StringIO()
    return Terminal(Console(file=text, width=200, highlight=False, soft_wrap=True)), text


def failure(key: str, failure_class: str = "timeout", message: str = "m") -> Failure:
    return Failure(key, "clip", "0" * 64, failure_class, failure_class == "corrupt", message, "/v", "c", 1)


def test_keys_with_brackets_and_emoji_codes_are_shown_as_they_are() -> None:
    shown, text = terminal()
    show_failures(shown, [failure("[red]:cat:[/red]", "corrupt", "[bold] bad")])
    assert "missing: clip '[red]:cat:[/red]': corrupt (permanent): [bold] bad" in text.getvalue()


def test_long_lists_of_failures_are_cut_and_say_where_the_rest_is() -> None:
    shown, text = terminal()
    show_failures(shown, [failure(str(index)) for index in range(50)])
    lines = text.getvalue().splitlines()
    assert len(lines) == 21
    assert "30 more" in lines[-1]


def test_the_summary_counts_failures_by_class() -> None:
    shown, text = terminal()
    plan = Plan(wanted=8)
    times = StageTimes(decode_s=2.0, model_s=4.0, frames=64, steps=160)
    failures = [failure("a"), failure("b", "corrupt"), failure("c", "corrupt")]
    progress = Progress(videos=8, computed=5, bytes_written=1000, failures=failures, times=times)
    run = RunSummary.of_run(plan, progress, version=3, wall_s=65.0, compute_s=60.0)
    result = ExtractResult(plan=PlanSummary.of_plan(plan, {}), run=run)
    show_summary(shown, PlanSummary.of_plan(plan, {}), run)
    assert "stored 5 of 8 wanted rows (5 computed now), version 3; missing: 2 corrupt, 1 timeout" in text.getvalue()
    assert "1 min 5 s: 32.0 frames/s per decode worker, 40.0 steps/s in models, 1.0 kB written" in text.getvalue()
    assert result.incomplete
    assert [record["class"] for record in result.summary()["failures"]] == ["timeout", "corrupt", "corrupt"]
