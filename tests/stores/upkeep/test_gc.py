"""What garbage collection removes, and what it must keep."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stores import Store
from stores.commit import Changes, commit, place_shard, write_spec, write_table
from stores.format import layout
from stores.format.inside import StorePath
from stores.format.leases import LEASE_SECONDS, held, take
from stores.format.manifest import versions
from stores.format.shard import ShardWriter
from stores.upkeep import gc
from stores.upkeep.gc import collect
from stores.upkeep.verification import verify
from tests._helpers.building import (
    OTHER_SPEC,
    SPEC,
    commit_rows,
    files_under,
    row,
    row_digests,
    store_with,
    write_shard,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = store_with(tmp_path / "store", "a", "b")
    commit_rows(root, [row("a", content=1), row("b", content=1)])
    return root


def make_old(root: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def test_young_things_stay(root: Path) -> None:
    (root / "staging" / "leftover.spool").write_bytes(b"x")
    before = files_under(root)
    outcome = collect(root)
    assert (outcome.versions, outcome.files, files_under(root)) == ([], [], before)


def test_old_versions_and_what_only_they_name_go(root: Path) -> None:
    (root / "staging" / "leftover.spool").write_bytes(b"12345")
    (root / "versions" / ".nonce-of-a-dead-commit").write_bytes(b"{}")
    make_old(root, 8 * 24 * 3600)
    before, digests = files_under(root), row_digests(root)
    planned = collect(root, dry_run=True)
    assert files_under(root) == before
    size = sum((root / path).stat().st_size for path in planned.files)
    outcome = collect(root)
    assert outcome == planned and outcome.bytes == size
    assert before - files_under(root) == {
        *outcome.files,
        *(f"versions/{layout.version_file(v)}" for v in outcome.versions),
    }
    assert {"staging/leftover.spool", "versions/.nonce-of-a-dead-commit"} <= set(outcome.files)
    assert versions(root) == [2] and len(list(root.rglob("*.h5"))) == 1
    assert verify(root, deep=True).ok and row_digests(root) == digests


def test_an_uncommitted_shard_within_the_grace_can_still_be_committed(root: Path) -> None:
    make_old(root, 8 * 24 * 3600)
    receipt = write_shard(root, [row("late")])
    collect(root)
    commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt]))
    assert verify(root, deep=True).ok and ("demo", "late") in row_digests(root)


def test_a_spec_written_again_survives_until_its_rows_are_committed(root: Path) -> None:
    write_spec(root, OTHER_SPEC)
    make_old(root, 8 * 24 * 3600)
    writer = ShardWriter(root, "demo", write_spec(root, OTHER_SPEC), {})
    writer.add(row("a"))
    collect(root)
    receipt = writer.finish()
    commit(root, Changes(placed=place_shard(root, receipt), shards=[receipt], current={"demo": receipt.spec_digest}))
    assert verify(root, deep=True).ok


def test_a_retired_spec_goes_after_the_grace(root: Path) -> None:
    manifest = commit_rows(root, [row("a")], spec=OTHER_SPEC)
    old = layout.digest(SPEC)
    assert collect(root).retired_specs == []
    outcome = collect(root, grace_seconds=0)
    assert outcome.retired_specs == [f"demo@{old[:8]}"]
    assert not (root / "specs" / f"{old}.json").exists()
    directory = layout.feature_directory(root, "demo", old).path
    assert not directory.exists() or list(directory.iterdir()) == []  # it may be too young to be removed with its files
    if directory.exists():
        os.utime(directory, (0, 0))
    collect(root, grace_seconds=0)
    assert not directory.exists()
    with Store.open(root) as store:
        assert store.version == manifest.version + 1 and store.keys("demo") == ["a"]
    assert verify(root, deep=True).ok


def test_tables_are_kept_with_their_receipts(root: Path) -> None:
    for rows in (1, 2):
        entry = write_table(root, "questions", {"kind": "q"}, pa.table({"x": range(rows)}))
        commit(root, Changes(tables={"questions": {"": entry}}))
    collect(root, grace_seconds=0)
    assert len(list((root / "tables").rglob("*.parquet"))) == 1
    assert verify(root, deep=True).ok
    with Store.open(root) as store:
        assert store.table("questions").num_rows == 2


def test_the_events_and_the_card_are_not_garbage(root: Path) -> None:
    (root / "events" / "run.jsonl").write_text("{}\n")
    (root / "README.md").write_text("card")
    make_old(root, 99 * 24 * 3600)
    collect(root)
    assert {"events/run.jsonl", "README.md", "store.json"} <= files_under(root)


def hold(root: Path) -> None:
    take(StorePath(root), 0)
    os._exit(0)


def test_a_dead_readers_lease_counts_no_more(root: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=hold, args=(root,))
    worker.start()
    worker.join(60)
    (lease,) = (StorePath(root) / "leases").entries()
    assert held(StorePath(root)) == (set(), [lease])
    collect(root, grace_seconds=0)
    assert not lease.exists()


def test_leases_of_other_hosts_count_until_they_are_old(root: Path) -> None:
    lease = take(StorePath(root), 1)
    assert lease is not None
    record = json.loads(lease.read_bytes()) | {"host": "another-node", "pid": 2**22 + 1}
    lease.path.write_text(json.dumps(record))
    assert held(StorePath(root))[0] == {1}
    assert held(StorePath(root), time.time() + LEASE_SECONDS + 1) == (set(), [lease])


def test_a_lease_being_written_is_left_alone(root: Path) -> None:
    lease = StorePath(root) / "leases/half.json"
    lease.path.write_text('{"version": 1, "ho')
    assert held(StorePath(root)) == (set(), [])
    assert held(StorePath(root), time.time() + LEASE_SECONDS + 1) == (set(), [lease])


def test_a_reused_process_id_is_not_the_reader(root: Path) -> None:
    lease = take(StorePath(root), 1)
    assert lease is not None
    record = json.loads(lease.read_bytes())
    assert held(StorePath(root))[0] == {1}
    lease.path.write_text(json.dumps(record | {"started": record["started"] - 1000}))
    assert held(StorePath(root))[0] == set()


def test_a_file_that_vanishes_meanwhile_does_not_stop_gc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vanishing = root / "staging" / "other-writers.spool"
    vanishing.write_bytes(b"x")
    real = StorePath.status

    def status(self: StorePath) -> os.stat_result:
        if self.path == vanishing:
            vanishing.unlink(missing_ok=True)
        return real(self)

    monkeypatch.setattr(StorePath, "status", status)
    collect(root, grace_seconds=0)
    assert not vanishing.exists()


def test_a_commit_during_gc_is_not_collected(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def versions_with_rival(where: Path) -> list[int]:
        if len(versions(where)) == 3:
            commit_rows(root, [row("rival")])
            make_old(root / "versions", 99)
        return versions(where)

    monkeypatch.setattr(gc, "versions", versions_with_rival)
    collect(root, grace_seconds=50)
    with Store.open(root) as store:
        assert store.version == 3
        np.testing.assert_array_equal(store.row("demo", "rival"), row("rival").values)
