"""Every operation that changes a store, once, in a fixed order. Run again after a crash, it finishes the work.

As a program, ``python -m tests._helpers.scenario ROOT MARKS [escape]`` appends the name of every crash point to
the file MARKS, for the test that watches the system calls.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa

from stores import Store
from stores.commit import Changes, Failure, SourceRecord, commit, create_store, place_shard, write_spec, write_table
from stores.describe.card import write_card
from stores.format import durable, layout, segments
from stores.format.inside import StorePath
from stores.format.manifest import load
from stores.format.rows import row_digest
from stores.format.shard import ShardWriter
from stores.upkeep.compaction import compact
from stores.upkeep.gc import collect
from stores.upkeep.repairing import adopt
from tests._helpers.building import NUMERICS, OTHER_SPEC, SPEC, row

KEYS = ("a", "b", "c", "d", "é")


def write(root: Path, spec_digest: str, keys: tuple[str, ...], content: int) -> None:
    """Commit rows as a run does: write only those that are not stored yet."""
    name = f"demo@{spec_digest}"
    with Store.open(root, lease=False) as store:
        feature = store.manifest.feature("demo")
        present = store.keys(name) if feature and spec_digest in feature.specs else []
        wanted = [key for key in keys if key not in present or store.digest(name, key) != digest_of(key, content)]
    sources = [SourceRecord(f"/v/{key}", content, "s", "c") for key in keys]
    changes = Changes(current={"demo": spec_digest}, sources=sources)
    if wanted:
        writer = ShardWriter(root, "demo", spec_digest, NUMERICS)
        for key in wanted:
            writer.add(row(key, content))
        receipt = writer.finish()
        changes.placed, changes.shards = place_shard(root, receipt), [receipt]
    commit(root, changes)


def digest_of(key: str, content: int) -> str:
    made = row(key, content)
    return row_digest(made.values, made.time_s, made.valid, None).hex()


def run(root: Path) -> None:
    segments.FANOUT = 2  # merge at every second append
    create_store(root)
    adopt(root, load(root))
    spec_digest = write_spec(root, SPEC)
    write(root, spec_digest, KEYS[:2], 0)
    write(root, spec_digest, KEYS[2:], 0)
    failures = [
        Failure("bad", "demo", spec_digest, "crash", False, "died", "/v/bad", "c", attempts) for attempts in (1, 2)
    ]
    for failure in failures:
        commit(root, Changes(failures=[failure]))
    commit(root, Changes(removed=[("demo", "d")]))
    compact(root)
    table = write_table(root, "questions", {"kind": "questions"}, pa.table({"x": [1, 2]}))
    commit(root, Changes(tables={"questions": {"": table}}))
    write(root, write_spec(root, OTHER_SPEC), KEYS[:3], 1)
    with Store.open(root) as store:
        store.row("demo", "a")
    collect(root, grace_seconds=0)
    write_card(root)
    durable.append(StorePath.of(root) / layout.EVENTS / "run.jsonl", b"{}\n")


def main() -> None:
    root, marks = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
    durable.crash_point = lambda name: os.write(marks, f"{name}\n".encode()) and None
    run(root)
    if "escape" in sys.argv[3:]:
        durable.crash_point = lambda name: None
        durable.append(StorePath.of(root) / "events" / "escaped.jsonl", b"x")


if __name__ == "__main__":
    main()
