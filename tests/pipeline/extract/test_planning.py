"""A plan, column by column, says what is known of each video when the store is made: situation by situation."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.extract import Plan, PlanOptions, Reason, SourceItem, Sources, make_plan, read_source, ready_features
from pipeline.extract.contents import Positions
from pipeline.extract.features import Feature
from pipeline.extract.identity import cache_key, cache_keys, failure_content_id, source_status
from pipeline.extract.plan import COMPUTED
from stores import Store
from stores.changes import Changes, Failure, SourceRecord
from stores.commit import commit, create_store, place_shard, write_spec
from stores.format import Row, ShardWriter, feature_directory, load
from tests._helpers.runs import rgb_config

CONFIG = """
features:
  a: {extractor: rgb_grid, grid: 1, sampling: {policy: uniform, n: 1}}
  b: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 1}}
"""
SITUATIONS = {
    "stored": Reason.STORED,
    "stored_and_failed": Reason.STORED,
    "new": Reason.NEW,
    "older_spec": Reason.SPEC_CHANGED,
    "changed": Reason.CONTENT_CHANGED,
    "lost_shard": Reason.MISSING_SHARD,
    "failed_for_good": Reason.FAILED_PERMANENT,
    "failed_once": Reason.RETRY,
    "failed_too_often": Reason.FAILED_PERMANENT,
    "copy": Reason.DUPLICATE,
}


class World:
    """Videos, and a store that holds each feature's row of each in a situation of its own."""

    def __init__(self, folder: Path, seed: int, videos: int = 60) -> None:
        self.videos, self.root = folder / "videos", folder / "store"
        self.videos.mkdir()
        draw = random.Random(seed)
        self.features = list(ready_features(rgb_config(folder, text=CONFIG)).values())
        self.situations: dict[tuple[str, str], str] = {}
        for number in range(videos):
            key = f"v{draw.randrange(10**6):06d}-{number}"
            (self.videos / f"{key}.mp4").write_bytes(b"x" * (number + 1))
            for feature in self.features:
                self.situations[key, feature.name] = draw.choice(sorted(SITUATIONS))
        self.keys = sorted({key for key, _ in self.situations})
        create_store(self.root)
        records = [self.record(key) for key in self.keys]
        commit(self.root, Changes(sources=[record for record in records if draw.random() < 0.8]))
        for feature in self.features:
            self._store(feature)

    def record(self, key: str) -> SourceRecord:
        path = self.videos / f"{key}.mp4"
        return SourceRecord(str(path), *source_status(path, None), hashlib.sha256(path.read_bytes()).hexdigest())

    def plan(self, **options: Any) -> Plan:
        items = read_source(str(self.videos)).items
        return make_plan(self.root, load(self.root), items, self.features, PlanOptions(**options))

    def expected(self, feature: Feature) -> Counter[str]:
        """Return the reasons that the situations stand for; a copy's first row and one more have no video."""
        counts = Counter(str(SITUATIONS[self.situations[key, feature.name]]) for key in self.keys)
        counts[Reason.REMOVED] += 1 + len(self._in(feature, "copy"))
        return counts

    def without_row(self, feature: Feature) -> set[str]:
        """Return the keys that the store has no row of."""
        with Store.open(self.root, lease=False) as store:
            return set(self.keys) - set(store.keys(feature.name))

    def _in(self, feature: Feature, *situations: str) -> list[str]:
        return [key for key in self.keys if self.situations[key, feature.name] in situations]

    def _store(self, feature: Feature) -> None:
        content = {key: self.record(key).content_id for key in self.keys}
        stored = self._in(feature, "stored", "stored_and_failed")
        self._write(feature, {"gone": "0" * 64} | {key: content[key] for key in stored})
        self._write(feature, {f"first of {key}": content[key] for key in self._in(feature, "copy")})
        self._write(feature, dict.fromkeys(self._in(feature, "changed"), "f" * 64))
        self._write(feature, dict.fromkeys(self._in(feature, "older_spec"), "e" * 64), {**feature.spec, "epoch": 7})
        for shard in self._write(feature, {key: content[key] for key in self._in(feature, "lost_shard")}):
            shard.unlink()
        failed = {"stored_and_failed": 1, "failed_for_good": 1, "failed_once": 1, "failed_too_often": 3}
        failures = [
            Failure(
                key,
                feature.name,
                feature.spec_digest,
                "crash",
                situation == "failed_for_good",
                "died",
                self.record(key).uri,
                failure_content_id(content[key], None, None),
                attempts,
            )
            for situation, attempts in failed.items()
            for key in self._in(feature, situation)
        ]
        commit(self.root, Changes(failures=failures, current={feature.name: feature.spec_digest}))

    def _write(self, feature: Feature, contents: dict[str, str], spec: dict[str, Any] | None = None) -> list[Path]:
        """Commit a shard with a row for each key and content id; return its path, if there is one."""
        if not contents:
            return []
        digest = write_spec(self.root, spec or feature.spec)
        writer = ShardWriter(self.root, feature.name, digest, {"device_type": "cpu"})
        for key, content_id in contents.items():
            cache = cache_key(content_id, None, None, digest)
            writer.add(Row(key, cache, np.zeros((1, 3), np.float16), np.zeros(1), np.ones(1, bool), 1.0))
        receipt = writer.finish()
        commit(self.root, Changes(placed=place_shard(self.root, receipt), shards=[receipt]))
        return [feature_directory(self.root, feature.name, digest).path / f"{receipt.id}.h5"]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_gets_the_reason_of_its_situation(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, seed)
    plan = world.plan()
    computed: dict[str, set[str]] = {}
    for feature in world.features:
        assert +Counter({str(k): v for k, v in plan.reasons[feature.name].items()}) == world.expected(feature)
        assert plan.lacking[feature.name] == len(world.without_row(feature)) > 0
        for key in world.keys:
            if SITUATIONS[world.situations[key, feature.name]] in COMPUTED:
                computed.setdefault(key, set()).add(feature.name)
    assert [unit.keys for unit in plan.units] == [(key,) for key in world.keys if key in computed]
    assert [set(unit.features) for unit in plan.units] == [computed[key] for key in world.keys if key in computed]
    placed = {(row.feature, row.key): world.situations[row.key, row.feature] for row in plan.placed}
    assert set(placed.values()) == {"copy"} and len(placed) == len(plan.placed)
    settled = {world.situations[key, feature] for feature, _, key in plan.settled}
    assert settled == {"stored_and_failed"}
    assert plan.stored == sum(
        SITUATIONS[name] in (Reason.STORED, Reason.DUPLICATE) for name in world.situations.values()
    )
    attempts = {(key, name): count for unit in plan.units for key in unit.keys for name, count in unit.attempts.items()}
    assert {place: 1 for place, name in world.situations.items() if name == "failed_once"}.items() <= attempts.items()


def test_only_some_keys_get_the_same_decisions_as_in_the_whole_plan(tmp_path: Path) -> None:
    world = World(tmp_path, seed=9)
    only = world.keys[::3]
    whole, part = world.plan(), world.plan(only=frozenset(only))
    assert part.units == [unit for unit in whole.units if unit.keys[0] in only]
    assert part.placed == [row for row in whole.placed if row.key in only]
    for feature in world.features:
        wanted = Counter(SITUATIONS[world.situations[key, feature.name]] for key in only)
        wanted[Reason.REMOVED] = world.expected(feature)[Reason.REMOVED]
        assert +part.reasons[feature.name] == wanted


def test_pruning_drops_rows_and_failures_without_a_video(tmp_path: Path) -> None:
    world = World(tmp_path, seed=5)
    gone = [key for key in world.keys if world.situations[key, "a"] == "failed_for_good"]
    for key in gone:
        (world.videos / f"{key}.mp4").unlink()
    plan = world.plan(prune=True)
    assert {("a", "gone"), ("b", "gone")} <= set(plan.removed)
    assert {("a", key) for key in gone} <= {(feature, key) for feature, _, key in plan.settled}


def test_force_computes_every_row(tmp_path: Path) -> None:
    world = World(tmp_path, seed=5)
    plan = world.plan(force=True)
    assert plan.rows_to_compute == len(world.keys) * 2 and plan.stored == 0


def test_rows_that_are_plainly_stored_cost_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: of 60 videos only the two that changed become items."""
    monkeypatch.setattr("tests.pipeline.extract.test_planning.SITUATIONS", {"stored": Reason.STORED})
    world = World(tmp_path, seed=1)
    commit(world.root, Changes(sources=[world.record(key) for key in world.keys]))
    made: list[int] = []
    items = Sources.items

    def counted(self: Sources, positions: Positions) -> Iterator[SourceItem]:
        made.append(len(positions))
        return items(self, positions)

    monkeypatch.setattr(Sources, "items", counted)
    assert world.plan().stored == 120 and sum(made) == 0
    for key in world.keys[:2]:
        (world.videos / f"{key}.mp4").write_bytes(b"changed")
    assert [unit.keys for unit in world.plan().units] == [(tuple(world.keys[:2]))]


def test_a_folder_of_images_at_two_rates_is_two_contents(tmp_path: Path) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(bytes([number]))
    table = tmp_path / "list.csv"
    table.write_text("video_id,uri,image_rate\nfast,film,24\nslow,film,12\nagain,film,24\n")
    features = list(ready_features(rgb_config(tmp_path, text=CONFIG)).values())
    plan = make_plan(
        create_store(tmp_path / "store"), load(tmp_path / "store"), read_source(str(table)).items, features
    )
    assert [(unit.keys, unit.image_rate) for unit in plan.units] == [(("again", "fast"), 24.0), (("slow",), 12.0)]
    assert len({unit.content_id for unit in plan.units}) == 2


def test_the_cache_keys_of_many_rows_are_those_of_each() -> None:
    contents = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
    bounds = [(None, None), (0.0, 1.5), (1e-3, None), (None, 7.25), (0.1, 1e16)]
    starts, ends = (pa.array(column, pa.float64()) for column in zip(*bounds, strict=True))
    expected = [cache_key(content, *bound, "5" * 64) for content, bound in zip(contents, bounds, strict=True)]
    assert cache_keys(pa.array(contents), starts, ends, "5" * 64).to_pylist() == expected
    none = pa.nulls(5, pa.float64())
    assert cache_keys(pa.array(contents), none, none, "5" * 64).to_pylist() == [
        cache_key(content, None, None, "5" * 64) for content in contents
    ]
    assert len(cache_keys(pa.array([], pa.string()), none[:0], none[:0], "5" * 64)) == 0
