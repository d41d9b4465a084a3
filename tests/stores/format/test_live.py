"""Live values of many logs against each log merged by itself."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.format import live, segments
from stores.format.inside import StorePath
from stores.format.live import live_values
from stores.format.segments import SegmentLog, SegmentRef, log_schema

SCHEMA = log_schema([pa.field("value", pa.int64(), nullable=False)])
batches = st.lists(
    st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.none() | st.integers(0, 6), min_size=1),
    min_size=1,
    max_size=12,
)


def grown(root: Path, batches: list[dict[bytes, int | None]]) -> list[tuple[SegmentRef, ...]]:
    """Append batches to a log; None removes a key. Return every version of the log."""
    (root / "index").mkdir(exist_ok=True)
    logs: list[tuple[SegmentRef, ...]] = [()]
    for batch in batches:
        records = [{"key": key, "value": value or 0, "removed": value is None} for key, value in batch.items()]
        logs.append(segments.append(root, "index", logs[-1], pa.Table.from_pylist(records, schema=SCHEMA)))
    return logs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, data=st.data())
def test_values_are_those_of_every_log_by_itself(
    tmp_path: Path, batches: list[dict[bytes, int | None]], data: st.DataObject
) -> None:
    logs = data.draw(st.lists(st.sampled_from(grown(tmp_path, batches)), max_size=5))
    expected = {value for log in logs for value in SegmentLog(tmp_path, log, SCHEMA).table()["value"].to_pylist()}
    assert live_values(StorePath(tmp_path), logs, SCHEMA, "value") == sorted(expected)


def test_many_versions_read_each_segment_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = grown(tmp_path, [{b"%03d" % number: number} for number in range(60)])
    opened: list[str] = []
    monkeypatch.setattr(
        live,
        "open_segment",
        lambda root, ref, schema: opened.append(ref.path) or segments.open_segment(root, ref, schema),
    )
    assert live_values(StorePath(tmp_path), logs, SCHEMA, "value") == list(range(60))
    assert sorted(opened) == sorted({ref.path for log in logs for ref in log})
