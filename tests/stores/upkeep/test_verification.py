"""Damage: every flipped bit is found and named; repair loses only the rows that it hit."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pyarrow as pa
import pytest

from stores import Store
from stores.commit import Changes, Failure, SourceRecord, check_identity, commit, place_shard, write_table
from stores.errors import StoreFormatError
from stores.format import layout
from stores.format.manifest import load, versions
from stores.upkeep.repairing import adopt, repair
from stores.upkeep.verification import summary, verify
from tests._helpers.building import (
    OTHER_SPEC,
    SPEC,
    commit_rows,
    files_under,
    flip,
    row,
    row_digests,
    staged_is_empty,
    store_with,
    write_shard,
)

KEYS = [f"clip{number}" for number in range(6)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, two specs, a removed key, aliases, a table, failures and sources."""
    root = store_with(tmp_path_factory.mktemp("template") / "store")
    commit_rows(root, [row("clip0"), row("stale")], spec=OTHER_SPEC)
    receipt = write_shard(root, [row(key) for key in KEYS[:3]])
    placed = place_shard(root, receipt, {"clip0": ["alias"]})
    commit(root, Changes(placed=placed, shards=[receipt], current={"demo": receipt.spec_digest}))
    commit_rows(root, [row(key, steps=2 + number) for number, key in enumerate([*KEYS[3:], "gone"])])
    failure = Failure("bad", "demo", receipt.spec_digest, "corrupt", True, "no moov", "/v/bad", "c", 1)
    table = write_table(root, "questions", {"kind": "questions"}, pa.table({"x": [1, 2, 3]}), "a part")
    commit(
        root,
        Changes(
            removed=[("demo", "gone")],
            failures=[failure],
            sources=[SourceRecord("/v/a", 1, "s", "c")],
            tables={"questions": {"a part": table}},
        ),
    )
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return shutil.copytree(template, tmp_path / "store")


def latest_files(root: Path) -> dict[str, list[str]]:
    """Return every kind of file that the latest version needs."""
    manifest = load(root)
    index = [ref.path for entry in manifest.features["demo"].specs.values() for ref in entry.index]
    listing = [ref.path for entry in manifest.features["demo"].specs.values() for ref in entry.shards]
    shards = sorted(path for path in files_under(root) if path.endswith(".h5"))
    return {
        "manifest": [f"versions/{layout.version_file(manifest.version)}"],
        "older manifest": [f"versions/{layout.version_file(1)}"],
        "spec": sorted(path for path in files_under(root) if path.startswith("specs/")),
        "index": index,
        "shard list": listing,
        "shard": shards,
        "receipt": [path.removesuffix(".h5") + ".json" for path in shards],
        "failures": [ref.path for ref in manifest.failures],
        "sources": [ref.path for ref in manifest.sources],
        "table": [file.path for _, _, part in manifest.table_parts() for file in part.files],
        "table receipt": [
            file.path.replace(".parquet", ".json") for _, _, part in manifest.table_parts() for file in part.files
        ],
    }


KINDS = (
    "manifest",
    "older manifest",
    "spec",
    "index",
    "shard list",
    "shard",
    "receipt",
    "failures",
    "sources",
    "table",
    "table receipt",
)


def named(root: Path) -> set[str]:
    return {problem.file for problem in verify(root, deep=True).problems}


def test_a_sound_store_is_sound_and_repair_changes_nothing(root: Path) -> None:
    result = verify(root, deep=True)
    assert result.ok and (result.shards, result.rows) == (3, 9)
    assert verify(root).ok and summary(result)["ok"]
    before = files_under(root)
    done = repair(root)
    assert (done.adopted_rows, done.salvaged_rows, done.dropped_rows, done.version) == (0, 0, {}, versions(root)[-1])
    assert files_under(root) == before


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found_and_its_file_named(root: Path, kind: str, count: int) -> None:
    generator = random.Random(kind)
    for name in latest_files(root)[kind]:
        path = root / name
        for bit in generator.sample(range(8 * path.stat().st_size), count):
            flip(path, bit)
            try:
                assert name in named(root) or name.removesuffix(".json") + ".h5" in named(root), f"{name}: bit {bit}"
            finally:
                flip(path, bit)
    assert verify(root, deep=True).ok


def test_a_flipped_identity_is_refused(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    older = {f'{{"format": "reelstore", "format_version": {number}}}\n' for number in range(1, layout.FORMAT_VERSION)}
    for bit in range(8 * (root / "store.json").stat().st_size):
        flip(root / "store.json", bit)
        if (root / "store.json").read_bytes().decode("latin-1") in older:  # as harmless as it is true
            flip(root / "store.json", bit)
            continue
        with pytest.raises(StoreFormatError, match=r"store\.json"):
            check_identity(root)
        flip(root / "store.json", bit)
    check_identity(root)


def test_a_flipped_row_is_named_by_its_key_also_without_deep(root: Path) -> None:
    with Store.open(root, lease=False) as store:
        places = {key: store.place("demo", key) for key in KEYS}
    for key, (shard, index) in places.items():
        with h5py.File(root / shard) as file:
            values = file["values"]
            first = file["offset"][index] if "offset" in file else index
            start = values.id.get_offset() + int(first) * values[0].nbytes
        flip(root / shard, 8 * start)
        for deep in (False, True):
            keys = {problem.key for problem in verify(root, deep=deep).problems}
            assert keys == ({key, "alias"} if key == "clip0" else {key})
        flip(root / shard, 8 * start)


def test_verify_of_an_older_version(root: Path) -> None:
    assert verify(root, deep=True, version=1).rows == 2
    assert verify(root, deep=True, version=0).rows == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_repair_after_a_flip_loses_only_the_rows_it_hit(root: Path, kind: str, seed: int) -> None:
    before = row_digests(root)
    generator = random.Random(f"{kind}{seed}")
    name = generator.choice(latest_files(root)[kind])
    flip(root / name, generator.randrange(8 * (root / name).stat().st_size))
    hit = {problem.key for problem in verify(root, deep=True).problems if problem.key}
    done = repair(root)
    assert named(root) == set()
    after = row_digests(root)
    assert {key for feature, key in before if (feature, key) not in after} <= hit | {"alias"}
    assert all(after[place] == before[place] for place in set(after) & set(before))
    assert set(after) - set(before) <= {("demo", "gone")}
    assert set(done.dropped_rows.get("demo", [])) >= {key for _, key in set(before) - set(after)} - {"alias"}
    assert staged_is_empty(root)
    version = load(root).version
    assert repair(root).version == version


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [delete, truncate, empty])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "manifest" not in kind])
def test_lost_files_are_found_and_mended(root: Path, kind: str, harm: Callable[[Path], None]) -> None:
    before = row_digests(root)
    name = latest_files(root)[kind][-1]
    held = set()
    if kind == "shard":
        with Store.open(root, lease=False) as store:
            held = {key for key in store.keys("demo") if store.place("demo", key)[0] == name}
    harm(root / name)
    assert not verify(root).ok
    assert any(Path(other).stem == Path(name).stem for other in named(root))
    repair(root)
    assert named(root) == set()
    after = row_digests(root)
    assert {key for _, key in set(before) - set(after)} <= held | {"alias"}
    assert all(after[place] == before[place] for place in set(after) & set(before))


@pytest.mark.parametrize("harm", [truncate, empty])
def test_a_lost_newest_manifest_falls_back_on_the_one_before(root: Path, harm: Callable[[Path], None]) -> None:
    newest = versions(root)[-1]
    before = row_digests(root)
    commit_rows(root, [row("last")])
    harm(root / "versions" / layout.version_file(newest + 1))
    assert not verify(root).ok
    done = repair(root)
    assert done.version == newest + 3 and versions(root) == [*range(newest + 1), newest + 2, newest + 3]
    assert set(row_digests(root)) == {*before, ("demo", "last")}  # its shard was adopted
    assert verify(root, deep=True).ok


def test_a_removed_key_does_not_come_back_when_another_row_is_mended(root: Path) -> None:
    commit_rows(root, [row("alone")])
    commit(root, Changes(removed=[("demo", "alone")]))
    with Store.open(root, lease=False) as store:
        (root / store.place("demo", "clip0")[0]).unlink()
    repair(root)
    assert {key for _, key in row_digests(root)} == {"clip3", "clip4", "clip5"}


def test_new_content_is_not_undone_by_a_lost_index_segment(root: Path) -> None:
    commit_rows(root, [row("clip0", content=7)])
    wanted = row_digests(root)
    newest = load(root).features["demo"].specs[layout.digest(SPEC)].index[-1]
    (root / newest.path).unlink()
    repair(root)
    assert row_digests(root)["demo", "clip0"] == wanted["demo", "clip0"]


def test_finished_shards_that_no_manifest_names_are_adopted(root: Path) -> None:
    receipt = write_shard(root, [row("orphan"), row("clip0", content=3)])
    kept = row_digests(root)["demo", "clip0"]
    manifest, shards, rows = adopt(root, load(root))
    assert (shards, rows) == (1, 1)
    assert row_digests(root)["demo", "clip0"] == kept  # a committed row is never overridden
    with Store.open(root, lease=False) as store:
        assert receipt.id in store.place("demo", "orphan")[0]
    assert adopt(root, manifest) == (manifest, 0, 0)


def test_a_duplicate_that_lost_a_race_never_brings_a_removed_key_back(root: Path) -> None:
    write_shard(root, [row("clip0")])
    manifest, shards, rows = adopt(root, load(root))
    assert (shards, rows) == (0, 0)
    assert adopt(root, manifest) == (manifest, 0, 0)  # and is not read again
    commit(root, Changes(removed=[("demo", "clip0")]))
    adopt(root, load(root))
    assert ("demo", "clip0") not in row_digests(root)
    assert verify(root, deep=True).ok


@pytest.mark.parametrize("harm", [delete, truncate, lambda path: flip(path, 8 * (path.stat().st_size // 2))])
def test_damaged_orphans_are_not_adopted(root: Path, harm: Callable[[Path], None]) -> None:
    receipt = write_shard(root, [row("orphan")])
    harm(layout.feature_directory(root, "demo", receipt.spec_digest).path / f"{receipt.id}.h5")
    assert adopt(root, load(root))[1:] == (0, 0)


def test_an_orphan_in_anothers_folder_is_not_adopted(root: Path) -> None:
    receipt = write_shard(root, [row("orphan")], spec=OTHER_SPEC)
    source = layout.feature_directory(root, "demo", receipt.spec_digest).path
    target = layout.feature_directory(root, "demo", layout.digest(SPEC)).path
    for suffix in (".h5", ".json"):
        (source / f"{receipt.id}{suffix}").rename(target / f"{receipt.id}{suffix}")
    assert adopt(root, load(root))[1:] == (0, 0)


def test_a_spec_that_nothing_remembers_is_reported_lost(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    (root / "specs" / f"{layout.digest(SPEC)}.json").unlink()
    for path in root.rglob("features/*/*.json"):
        path.unlink()
    done = repair(root)
    assert done.lost_specs == [f"demo@{layout.digest(SPEC)}"]
    assert verify(root, deep=True).ok and row_digests(root) == {}
