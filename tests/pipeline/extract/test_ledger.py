"""What a run has finished is committed every few seconds, each failure is entered once per key, and a stop waits."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.extract import ledger as module
from pipeline.extract.features import Feature, ready_features
from pipeline.extract.ledger import Ledger
from pipeline.extract.outcomes import StageTimes, UnitDone
from pipeline.extract.plan import Plan, Unit
from pipeline.extract.shards import FinishedShard
from pipeline.extract.units import UnitFailure, UnitUnchanged
from pipeline.shared import EventLog, StopRequestedError, StopSignals
from stores import Store
from stores.commit import SourceRecord, create_store
from stores.format import load
from tests._helpers.building import row, write_shard
from tests._helpers.runs import rgb_config

UNIT = Unit("/videos/a.mp4", ("a", "b"), ("rgb",), "c" * 64, 10, "1:2", attempts={"rgb": 1})
SOURCE = SourceRecord("/videos/a.mp4", 10, "1:2", "c" * 64)


@pytest.fixture
def feature(tmp_path: Path) -> Feature:
    return ready_features(rgb_config(tmp_path))["rgb"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return create_store(tmp_path / "store")


def open_ledger(store: Path, feature: Feature, signals: StopSignals | None = None, **plan: Any) -> Ledger:
    signals = signals or StopSignals()
    planned = Plan(units=[UNIT], **plan)
    return Ledger(store, load(store), planned, {"rgb": feature}, EventLog(store), signals)


def shard(store: Path, feature: Feature, *keys: str, **aliases: tuple[str, ...]) -> FinishedShard:
    rows = [row(key, steps=4, step_shape=(12,)) for key in keys]
    return FinishedShard(write_shard(store, rows, "rgb", feature.spec), aliases, (SOURCE,))


def stored(store: Path) -> list[str]:
    with Store.open(store, lease=False) as opened:
        return opened.keys("rgb") if "rgb" in opened.features else []


def test_rows_wait_for_the_next_commit_and_then_share_it(
    store: Path, feature: Feature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", math.inf)
    ledger = open_ledger(store, feature)
    ledger.accept(shard(store, feature, "a", a=("b",)))
    ledger.accept(shard(store, feature, "c"))
    assert stored(store) == []
    version = load(store).version
    ledger.commit()
    assert stored(store) == ["a", "b", "c"]
    assert ledger.manifest.version == load(store).version == version + 1
    assert (ledger.progress.computed, ledger.progress.bytes_written > 0) == (3, True)
    ledger.commit()
    assert load(store).version == version + 1


def test_rows_are_committed_as_they_come_once_the_last_commit_is_old(
    store: Path, feature: Feature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.0)
    ledger = open_ledger(store, feature)
    ledger.accept(shard(store, feature, "a"))
    assert stored(store) == ["a"]
    version = load(store).version
    ledger.accept(UnitDone(1, StageTimes(frames=4)))  # nothing to publish
    ledger.accept(UnitUnchanged(UNIT, SOURCE))  # a new stamp alone can wait
    assert load(store).version == version
    assert (ledger.progress.videos, ledger.progress.times.frames, ledger.progress.linked) == (1, 4, 2)


def test_what_planning_settled_is_committed_before_any_outcome(store: Path, feature: Feature) -> None:
    before = load(store).version
    planned = open_ledger(store, feature, sources=[SOURCE])
    assert planned.manifest.version == load(store).version == before + 1
    assert open_ledger(store, feature).manifest.version == before + 1


def test_a_failure_is_entered_once_per_key(store: Path, feature: Feature, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.0)
    ledger = open_ledger(store, feature)
    ledger.accept(UnitFailure(UNIT, ("rgb",), "timeout", "no answer within 20 s"))
    with Store.open(store, lease=False) as opened:
        rows = opened.failures().to_pylist()
    assert [(row["video_id"], row["class"], row["permanent"], row["attempts"]) for row in rows] == [
        ("a", "timeout", False, 2),
        ("b", "timeout", False, 2),
    ]
    assert {row["content_id"] for row in rows} == {"c" * 64}
    assert [failure.video_id for failure in ledger.progress.failures] == ["a", "b"]
    (log,) = (store / "events").glob("*.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["video_id"] for event in events if event["event"] == "failure"] == ["a", "b"]


def test_a_row_settles_the_failure_of_its_key(store: Path, feature: Feature, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.0)
    ledger = open_ledger(store, feature)
    ledger.accept(UnitFailure(UNIT, ("rgb",), "corrupt", "bad", SOURCE))
    ledger.accept(shard(store, feature, "a"))
    with Store.open(store, lease=False) as opened:
        assert [row["video_id"] for row in opened.failures().to_pylist()] == ["b"]


def test_a_stop_waits_until_the_outcome_is_entered_and_committed(
    store: Path, feature: Feature, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.0)
    place_shard = module.place_shard

    def place_and_stop(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return place_shard(*arguments)

    monkeypatch.setattr(module, "place_shard", place_and_stop)
    with StopSignals() as signals:
        ledger = open_ledger(store, feature, signals)
        finished = shard(store, feature, "a")
        with pytest.raises(StopRequestedError):
            ledger.accept(finished)
    assert stored(store) == ["a"]
    assert ledger.progress.computed == 1
