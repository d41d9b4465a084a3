"""A small store that has one of everything."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from unittest import mock

import pyarrow as pa

from pipeline.shared import EventLog
from stores.commit import Changes, Failure, SourceRecord, commit, place_shard, write_table
from tests._helpers.building import OTHER_SPEC, commit_rows, row, store_with, write_shard


def rich_store(root: Path) -> Path:
    """Make it: two specs, several shards, a ragged one, aliases, a removed key, a table, failures, sources, events."""
    ids = (uuid.UUID(int=number, version=4) for number in itertools.count(1))
    with mock.patch("uuid.uuid4", lambda: next(ids)):  # the files have the same names each time, and the same order
        return _rich_store(root)


def _rich_store(root: Path) -> Path:
    store_with(root)
    commit_rows(root, [row("clip0"), row("stale")], spec=OTHER_SPEC)
    receipt = write_shard(root, [row("clip0"), row("clip1")])
    placed = place_shard(root, receipt, {"clip0": ["alias"]})
    commit(root, Changes(placed=placed, shards=[receipt], current={"demo": receipt.spec_digest}))
    commit_rows(root, [row(f"long{number}", steps=2 + number) for number in range(3)])
    table = write_table(root, "questions", {"kind": "questions"}, pa.table({"x": [1, 2, 3]}), "a part")
    failure = Failure("bad", "demo", receipt.spec_digest, "corrupt", True, "no moov", "/v/bad", "c", 1)
    commit(
        root,
        Changes(
            removed=[("demo", "long2")],
            failures=[failure],
            sources=[SourceRecord("/v/a", 1, "s", "c")],
            tables={"questions": {"a part": table}},
        ),
    )
    plan = {"spec": receipt.spec_digest, "wanted": 6, "lacking": 1, "rows": 4}
    EventLog(root).emit("plan", version=0, features={"demo": plan})
    return root
