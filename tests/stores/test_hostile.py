"""Stores from strangers: nothing outside is touched, nothing hangs or crashes, and what is wrong is named.

Each attack goes through the commands as a user would run them, with a tree beside the store that must not change.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from stores import Store, StoreError
from stores.command import app
from stores.commit import Changes, commit, write_table
from stores.errors import StoreDamageError
from stores.format import layout
from stores.format.inside import StorePath
from stores.format.manifest import load
from stores.upkeep import probe
from stores.upkeep.repairing import repair
from stores.upkeep.verification import verify
from tests._helpers.building import commit_rows, row
from tests._helpers.hostile import copied, manifest_path, picture, relist, reseal, restate
from tests._helpers.mutable import rich_store
from tests.conftest import ROOT

OLD = 1_000_000_000
COMMANDS = [
    ["verify", "--deep"],
    ["repair"],
    ["gc", "--grace", "0"],
    ["compact"],
    ["inspect"],
    ["report"],
    ["card"],
    ["history"],
    ["rollback", "1"],
    ["push", "BESIDE/place"],
    ["pull", "BESIDE/pulled"],
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rich_store(tmp_path_factory.mktemp("template") / "store")


@pytest.fixture
def root(tmp_path: Path, template: Path) -> Path:
    return copied(template, tmp_path / "store")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Old files beside the store, of names that a store has too."""
    folder = tmp_path / "victim"
    for name in ("thesis.txt", "demo-00000000/only-copy.h5", f"{0:032}.json", f"{0:032}.parquet"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("dear")
        os.utime(path, (OLD, OLD))
    return folder


def run(words: list[str], root: Path) -> tuple[int, str]:
    """Run a command on a store; a traceback fails the test."""
    command = [words[0], str(root), *(word.replace("BESIDE", str(root.parent)) for word in words[1:])]
    done = CliRunner().invoke(app, command)
    output = done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), (command, done.exception)
    assert "Traceback" not in output
    return done.exit_code, output


@pytest.mark.parametrize("name", [*layout.DIRECTORIES, layout.IDENTITY])
def test_a_link_in_the_place_of_a_part_is_named_and_not_followed(root: Path, victim: Path, name: str) -> None:
    shutil.move(root / name, root.parent / "moved")
    before, moved = picture(victim), picture(root.parent / "moved")
    target = victim if name in layout.DIRECTORIES else root.parent / "moved"
    (root / name).symlink_to(target)
    code, output = run(["verify", "--deep"], root)
    assert code != 0 and name in output, output
    for words in COMMANDS:
        run(words, root)
    with suppress(StoreError, OSError):  # what a run appends to is not asked for by a commit
        commit_rows(root, [row("new")])
    assert (picture(victim), picture(root.parent / "moved")) == (before, moved)


@pytest.mark.parametrize("kind", ["features", "tables"])
def test_a_link_in_the_place_of_a_folder_of_rows_is_not_followed(root: Path, victim: Path, kind: str) -> None:
    folder = min((root / kind).iterdir())
    shutil.copytree(folder, victim / "copy")
    for path in (victim / "copy").iterdir():
        os.utime(path, (OLD, OLD))
    shutil.rmtree(folder)
    folder.symlink_to(victim / "copy")
    before = picture(victim)
    found = verify(root, deep=True)
    assert f"{kind}/{folder.name}" in [problem.file for problem in found.problems]
    for words in COMMANDS:
        run(words, root)
    assert picture(victim) == before


def test_a_store_may_lie_behind_a_link(root: Path) -> None:
    link = root.parent / "elsewhere"
    link.symlink_to(root)
    assert verify(link, deep=True).ok
    commit_rows(link, [row("new")])
    with Store.open(link) as store:
        assert "new" in store.keys("demo")


@pytest.mark.parametrize(
    "path",
    [
        "../victim/00000000000000000000000000000000.parquet",
        "{victim}/00000000000000000000000000000000.parquet",
        "tables/../../victim/00000000000000000000000000000000.parquet",
        "versions/0000000000.parquet",
        "tables/questions-00000000/x.parquet",
    ],
)
def test_a_table_that_names_another_file_is_damage(root: Path, victim: Path, path: str) -> None:
    before, kept = picture(victim), picture(root / "versions")

    def change(record: dict[str, Any]) -> None:
        record["tables"]["questions"]["parts"]["a part"]["files"][0]["path"] = path.format(victim=victim)

    reseal(manifest_path(root), change)
    code, output = run(["verify"], root)
    assert code != 0 and "not a valid manifest" in output
    with pytest.raises(StoreDamageError, match="not a valid manifest"):
        Store.open(root)
    for words in COMMANDS:
        run(words, root)
    assert picture(victim) == before
    assert {name for name in kept if name != manifest_path(root).name} >= {layout.version_file(0)}
    assert (root / "versions" / layout.version_file(0)).read_bytes() == kept[layout.version_file(0)][1]


def test_a_table_that_names_the_file_of_another_table_is_damage(root: Path) -> None:
    table = write_table(root, "secrets", {"kind": "secrets"}, pa.table({"x": [4]}))
    commit(root, Changes(tables={"secrets": {"": table}}))

    def change(record: dict[str, Any]) -> None:
        record["tables"]["questions"]["parts"]["a part"] = record["tables"]["secrets"]["parts"][""]

    reseal(manifest_path(root), change)
    with pytest.raises(StoreDamageError, match="another one"):
        Store.open(root)


@pytest.mark.parametrize("place", ["versions/0000000099.json", "store.json", "specs", "receipt", "shard", "segment"])
def test_a_pipe_is_named_at_once(root: Path, place: str) -> None:
    shard = min((root / "features").rglob("*.h5"))
    places = {
        "specs": min((root / "specs").iterdir()),
        "receipt": shard.with_suffix(".json"),
        "shard": shard,
        "segment": root / load(root).features["demo"].specs[load(root).features["demo"].current].index[0].path,
    }
    path = places.get(place, root / place)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for words in (["verify", "--deep"], ["inspect"]):
        done = subprocess.run(
            [sys.executable, "-m", "stores", words[0], str(root), *words[1:]],
            cwd=ROOT, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        if words[0] == "verify":
            assert done.returncode != 0
            assert path.name in done.stdout + done.stderr
            assert "not a regular file" in done.stdout + done.stderr
    for words in COMMANDS:
        run(words, root)


def test_a_segment_whose_offsets_lead_outside_is_damage(root: Path) -> None:
    manifest = load(root)
    feature = manifest.features["demo"]
    ref = max(feature.specs[feature.current].index, key=lambda ref: ref.rows)
    path = root / ref.path
    data = bytearray(path.read_bytes())
    keys = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("key").combine_chunks()
    offsets = np.frombuffer(keys.buffers()[1], np.int64, len(keys) + 1).tobytes()
    at = data.index(offsets)
    data[at + 8 : at + 16] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(bytes(data))
    relist(root, path)
    with Store.open(root) as store, pytest.raises(StoreDamageError, match=ref.path):
        store.keys("demo")
    assert any(problem.file == ref.path for problem in verify(root).problems)
    for words in COMMANDS:
        run(words, root)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "|O"), ("dtype", "<f99"), ("offset", 10**9), ("offset", -8), ("shape", [2**40, 4]), ("shape", [])],
)
def test_a_receipt_that_leads_outside_its_file_is_damage(root: Path, field: str, value: object) -> None:
    shard = max((root / "features").rglob("*.h5"), key=lambda path: path.stat().st_size)

    def change(record: dict[str, Any]) -> None:
        record["datasets"]["values"][field] = value

    reseal(shard.with_suffix(".json"), change)
    name = shard.with_suffix(".json").name
    assert any(name in str(problem) for problem in verify(root).problems)
    with Store.open(root) as store, pytest.raises(StoreDamageError, match="not a valid receipt"):
        for feature, spec in [("demo", digest) for digest in store.manifest.features["demo"].specs]:
            for key in store.keys(f"{feature}@{spec}"):
                store.row(f"{feature}@{spec}", key)
    for words in COMMANDS:
        run(words, root)


def test_a_receipt_with_a_moved_place_is_damage(root: Path) -> None:
    shard = max((root / "features").rglob("*.h5"), key=lambda path: path.stat().st_size)

    def change(record: dict[str, Any]) -> None:
        record["datasets"]["time_s"]["offset"] = record["datasets"]["duration_s"]["offset"]

    reseal(shard.with_suffix(".json"), change)
    assert not verify(root).ok
    assert not verify(root, deep=True).ok


def external_storage(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, secret: Path) -> None:
    file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, secret: Path) -> None:
    layout_ = h5py.VirtualLayout(shape, dtype)
    layout_[...] = h5py.VirtualSource(str(secret), name, shape)
    file.create_virtual_dataset(name, layout_)


def external_link(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, secret: Path) -> None:
    file[name] = h5py.ExternalLink(str(secret), name)


def soft_link(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, secret: Path) -> None:
    file[name] = h5py.SoftLink("/keys")


def filtered(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, secret: Path) -> None:
    file.create_dataset(name, shape, dtype, compression="gzip")


@pytest.mark.parametrize("trick", [external_storage, virtual, external_link, soft_link, filtered])
def test_references_of_hdf5_are_not_followed(root: Path, trick: Callable[..., None]) -> None:
    secret = root.parent / "secret.h5"
    shard = min((root / "features").rglob("*.h5"))
    with h5py.File(shard, "r+") as file, h5py.File(secret, "w") as other:
        values = file["values"]
        shape, dtype = values.shape, values.dtype.str
        other["values"] = np.full(shape, 7, dtype)
        del file["values"]
        trick(file, "values", shape, dtype, secret)
    restate(root, shard)
    receipt_name = shard.relative_to(root).as_posix()
    found = verify(root, deep=True)
    assert receipt_name in [problem.file for problem in found.problems]
    with Store.open(root) as store, pytest.raises(StoreDamageError):
        for spec in store.manifest.features["demo"].specs:
            for key in store.keys(f"demo@{spec}"):
                assert not (store.row(f"demo@{spec}", key) == 7).all()
    for words in COMMANDS:
        run(words, root)


def test_a_parquet_file_of_other_size_is_not_read(root: Path) -> None:
    (path,) = (root / "tables").rglob("*.parquet")
    pq.write_table(pa.table({"x": pa.array(np.zeros(5_000_000, np.int64))}), path)
    relist(root, path)
    with Store.open(root) as store, pytest.raises(StoreDamageError, match="5000000 rows, the manifest says 3"):
        store.table("questions")
    assert not verify(root).ok


def test_a_row_beyond_its_shard_is_damage(root: Path) -> None:
    manifest = load(root)
    feature = manifest.features["demo"]
    ref = max(feature.specs[feature.current].index, key=lambda ref: ref.rows)
    path = root / ref.path
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    column = table.schema.get_field_index("row")
    for wrong in (-1, 10_000):
        rows = pa.array([wrong] * table.num_rows, pa.int32())
        changed = table.set_column(column, table.schema.field("row"), rows)
        with path.open("wb") as file, pa.ipc.new_file(file, changed.schema) as writer:
            writer.write_table(changed)
        relist(root, path)
        with Store.open(root) as store, pytest.raises(StoreDamageError, match="the index names row"):
            for key in store.keys("demo"):
                store.row("demo", key)


def test_a_library_that_crashes_is_a_finding(root: Path) -> None:
    assert verify(root).ok  # starts the child
    child = probe._children[0]._process
    child.kill()
    child.wait()
    problems = verify(root).problems
    assert any("ended the process that read it (SIGKILL)" in problem.message for problem in problems)
    assert verify(root).ok


@pytest.mark.parametrize("relative", ["", ".", "..", "a/../b", "/etc", "a//b", "a/.", "a\0b"])
def test_names_that_are_no_names_below_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(StoreDamageError):
        StorePath(tmp_path) / relative


def test_a_folder_that_becomes_a_link_between_check_and_use_is_not_followed(root: Path, victim: Path) -> None:
    """The path was looked at before; what counts is what it is when it is opened."""
    path = StorePath(root) / "staging" / "thesis.txt"
    assert not path.exists()
    (root / "staging").rename(root / "staging-before")
    (root / "staging").symlink_to(victim)
    for attempt in (path.read_bytes, path.status, path.open, path.parent.listing):
        with pytest.raises(StoreDamageError, match="a symbolic link"):
            attempt()
    assert (victim / "thesis.txt").exists()


def test_repair_of_a_store_without_sound_manifest_changes_nothing(root: Path) -> None:
    for path in (root / "versions").iterdir():
        path.write_bytes(random.Random(0).randbytes(100))
    before = picture(root)
    with pytest.raises(StoreDamageError, match="no manifest can be read"):
        repair(root)
    assert picture(root) == before
