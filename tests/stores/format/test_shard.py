"""One shard, written by this package and read by h5py, hashlib and os.stat."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import stat
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.commit import create_store, write_spec
from stores.errors import InvalidKeyError, StoreDamageError, StoreError
from stores.format import container, layout
from stores.format.layout import feature_directory
from stores.format.receipts import read_receipt
from stores.format.rows import Receipt, Row
from stores.format.shard import ShardReader, ShardWriter
from stores.format.soundness import sound_rows
from tests._helpers.building import SPEC, files_under, flip, inside, row, staged_is_empty, write_shard

HARD_KEYS = [
    "🦔 ёж/視頻",
    "../../etc/x",
    "a" * 512,
    ".",
    "-rf",
    "line\nbreak",
    "e\u0301",
    "\u00e9",
    "C:\\x",
    "\u202e",
    "a b",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return create_store(tmp_path / "store")


def shard_path(root: Path, receipt: Receipt) -> Path:
    return (feature_directory(root, receipt.feature, receipt.spec_digest) / f"{receipt.id}.h5").path


def written(root: Path, rows: list[Row]) -> tuple[Path, Receipt]:
    receipt = write_shard(root, rows)
    return shard_path(root, receipt), receipt


def keys_by_h5py(file: h5py.File) -> list[str]:
    offset = file["key_offset"][()]
    blob = file["keys"][()].tobytes()
    return [blob[a:b].decode() for a, b in pairwise(offset)]


def assert_h5py_reads(path: Path, rows: list[Row]) -> None:
    ordered = sorted(rows, key=lambda row: row.key.encode())
    with h5py.File(path) as file:
        assert keys_by_h5py(file) == [row.key for row in ordered]
        ragged = "offset" in file
        assert ragged == (len({len(row.values) for row in rows}) > 1)
        for index, expected in enumerate(ordered):
            cut = slice(*file["offset"][index : index + 2]) if ragged else index
            np.testing.assert_array_equal(file["values"][cut], expected.values)
            assert file["values"].dtype == expected.values.dtype
            np.testing.assert_array_equal(file["time_s"][cut], expected.time_s)
            np.testing.assert_array_equal(file["valid"][cut].astype(bool), expected.valid)
            assert file["cache_key"][index].tobytes() == expected.cache_key
            assert file["duration_s"][index] == expected.duration_s
            assert file["clip_start_s"][index] == expected.clip_start_s


def assert_reader_reads(path: Path, receipt: Receipt, rows: list[Row]) -> None:
    reader = ShardReader(inside(path), receipt)
    assert reader.problems() == []
    for index, expected in enumerate(sorted(rows, key=lambda row: row.key.encode())):
        stored = reader.row(index, reader.key(index), reader.cache_key(index))
        np.testing.assert_array_equal(stored.values, expected.values)
        assert stored.values.dtype == expected.values.dtype and stored.values.shape == expected.values.shape
        np.testing.assert_array_equal(stored.time_s, expected.time_s)
        np.testing.assert_array_equal(stored.valid, expected.valid)
        assert (stored.key, stored.cache_key, stored.media) == (expected.key, expected.cache_key, expected.media)
        assert (stored.duration_s, stored.clip_start_s) == (expected.duration_s, expected.clip_start_s)
        if expected.published_time_s is None:
            assert stored.published_time_s is None
        else:
            np.testing.assert_array_equal(stored.published_time_s, expected.published_time_s)
    reader.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(root: Path, data: st.DataObject) -> None:
    keys = data.draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    step_shape = data.draw(st.sampled_from([(), (4,), (1, 1), (2, 3, 2), (0,)]))
    dtype = data.draw(st.sampled_from(["<f2", "<f4", "<f8", ">f4", "u1", "<i4", "?"]))
    lengths = data.draw(
        st.one_of(st.just([5] * len(keys)), st.lists(st.integers(0, 6), min_size=len(keys), max_size=len(keys)))
    )
    published = data.draw(st.booleans())
    rows = [row(key, 0, steps, step_shape, dtype, published) for key, steps in zip(keys, lengths, strict=True)]
    path, receipt = written(root, data.draw(st.permutations(rows)))
    assert_h5py_reads(path, rows)
    assert_reader_reads(path, receipt, rows)
    assert read_receipt(inside(path).with_suffix(".json")) == receipt


@pytest.mark.parametrize("dtype", ["<f2", "<f8", "|u1"])
@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 4, 2), (1500, 1500), (700, 1, 9)])
def test_datasets_are_contiguous_aligned_and_unfiltered(root: Path, lengths: tuple[int, ...], dtype: str) -> None:
    rows = [row(f"k{i}", steps=steps, published=True, dtype=dtype) for i, steps in enumerate(lengths)]
    path, receipt = written(root, rows)
    data = path.read_bytes()
    with h5py.File(path) as file:
        assert set(file) == set(receipt.datasets)
        for name, dataset in file.items():
            creation = dataset.id.get_create_plist()
            assert dataset.chunks is None and creation.get_layout() == h5py.h5d.CONTIGUOUS
            assert creation.get_nfilters() == 0
            offset = dataset.id.get_offset()
            assert offset % (4096 if dataset[()].nbytes >= 4096 else dataset.dtype.itemsize) == 0
            assert data[offset : offset + dataset[()].nbytes] == dataset[()].tobytes()
            place = receipt.datasets[name]
            assert (place.offset, place.shape, np.dtype(place.dtype)) == (offset, dataset.shape, dataset.dtype)
    assert (receipt.bytes, receipt.sha256) == (path.stat().st_size, hashlib.sha256(data).hexdigest())


def cost_of_one_row(root: Path, steps: int, step_shape: tuple[int, ...], published: bool) -> int:
    """Return the bytes that a shard of one row and its receipt take beyond values, times and mask."""
    spec = layout.digest(SPEC | {"model": {"layers": "x" * 1000}})
    write_spec(root, SPEC | {"model": {"layers": "x" * 1000}})
    writer = ShardWriter(root, "demo", spec, {"device": "cpu", "threads": 2, "micro_batch": 32})
    only = row("a" * 40, steps=steps, step_shape=step_shape, published=published, media={"record": "x" * 700})
    writer.add(only)
    path = shard_path(root, writer.finish())
    arrays = (only.values, only.time_s, only.valid, only.published_time_s)
    own = sum(array.nbytes for array in arrays if array is not None)
    return path.stat().st_size + path.with_suffix(".json").stat().st_size - own


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("steps", "step_shape"), [(32, (768,)), (60, (7, 7, 128)), (60, (128,)), (3, (4,)), (1, ())])
def test_a_shard_of_one_row_costs_little(root: Path, steps: int, step_shape: tuple[int, ...], published: bool) -> None:
    assert cost_of_one_row(root, steps, step_shape, published) <= 8000


def test_a_library_that_cannot_save_space_writes_a_larger_shard_that_reads_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("a", steps=32, step_shape=(768,)), row("b", steps=32, step_shape=(768,))]
    small = written(root, rows)[1]
    monkeypatch.setattr(container, "_set_symbol_table", None)
    monkeypatch.setattr(container, "_set_no_attributes", None)
    path, receipt = written(root, rows)
    assert receipt.bytes > small.bytes
    assert_h5py_reads(path, rows)
    assert_reader_reads(path, receipt, rows)


def test_equal_members_give_equal_bytes_in_any_order(root: Path) -> None:
    rows = [
        row(key, steps=1 + index % 3, media={"b": 1, "a": {"y": index, "x": 0}}) for index, key in enumerate(HARD_KEYS)
    ]
    digests = set()
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        digests.add(written(root, rows)[1].sha256)
    assert len(digests) == 1


def test_equal_members_give_equal_bytes_in_another_process(root: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests._helpers.building import row, write_shard; "
        "rows = [row(k, media=dict.fromkeys({'c', 'a', 'b'}, 1)) for k in {'x', 'y', 'z', 'ü'}]; "
        "print(write_shard(Path(sys.argv[1]), rows).sha256)"
    )
    outputs = set()
    for seed in ("1", "2", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        command = [sys.executable, "-c", script, str(root)]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)
    assert len(outputs) == 1


def test_rows_are_read_only_views_of_one_map(root: Path) -> None:
    path, receipt = written(root, [row("a"), row("b")])
    reader = ShardReader(inside(path), receipt)
    for view in (reader.values(1), reader.times(1), reader.valid(1)):
        assert np.shares_memory(view, reader._map)
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
    kept = reader.values(0)
    reader.close()
    np.testing.assert_array_equal(kept, row("a").values)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_published_files_follow_the_umask(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path, _ = written(root, [row("a")])
    finally:
        os.umask(before)
    for file in (path, path.with_suffix(".json")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("key", HARD_KEYS)
def test_hard_keys_round_trip_and_never_become_paths(root: Path, key: str) -> None:
    before = files_under(root.parent)
    path, receipt = written(root, [row(key)])
    assert ShardReader(inside(path), receipt).key(0) == key
    made = {root / "specs" / f"{receipt.spec_digest}.json", path, path.with_suffix(".json")}
    assert files_under(root.parent) - before == {file.relative_to(root.parent).as_posix() for file in made}


@pytest.mark.parametrize("key", ["", "a" * 513, "é" * 257, "a\0b", "\ud800", "video\udcff"])
def test_bad_keys_are_refused(root: Path, key: str) -> None:
    writer = ShardWriter(root, "demo", write_spec(root, SPEC), {})
    with pytest.raises(InvalidKeyError):
        writer.add(replace(row("good"), key=key))
    assert len(writer) == 0


def test_512_bytes_are_enough_for_256_two_byte_letters(root: Path) -> None:
    path, receipt = written(root, [row("é" * 256)])
    assert ShardReader(inside(path), receipt).key(0) == "é" * 256


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a" * 65, "ä", "a\n"])
def test_bad_feature_names_are_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidKeyError):
        ShardWriter(root, name, write_spec(root, SPEC), {})


good = row("b", published=True)


@pytest.mark.parametrize(
    "bad",
    [
        replace(good, time_s=good.time_s[:-1]),
        replace(good, valid=good.valid[:1]),
        replace(good, published_time_s=np.zeros(7)),
        replace(good, published_time_s=None),
        replace(good, cache_key=b"short"),
        replace(good, values=good.values.astype(np.float32)),
        replace(good, values=good.values[:, :2]),
        replace(good, values=np.float32(1.0).reshape(())),
        replace(good, values=np.array(["a", "b", "c"], object)),
        replace(good, values=np.zeros((3, 4), complex)),
        replace(good, media={"x": float("nan")}),
        replace(good, media={"x": "\ud800"}),
        replace(good, media={"x": b"bytes"}),
    ],
    ids=lambda bad: None,
)
def test_bad_rows_are_refused_and_spoil_nothing(root: Path, bad: Row) -> None:
    writer = ShardWriter(root, "demo", write_spec(root, SPEC), {})
    writer.add(row("a", published=True))
    with pytest.raises(StoreError, match=r"demo: key 'b'"):
        writer.add(bad)
    writer.add(row("c", published=True))
    receipt = writer.finish()
    assert_reader_reads(shard_path(root, receipt), receipt, [row("a", published=True), row("c", published=True)])


def test_a_shard_needs_rows_and_a_written_spec(root: Path) -> None:
    with pytest.raises(StoreError, match="at least one row"):
        ShardWriter(root, "demo", write_spec(root, SPEC), {}).finish()
    writer = ShardWriter(root, "demo", "0" * 64, {})
    writer.add(row("a"))
    with pytest.raises(StoreDamageError, match="the spec is missing"):
        writer.finish()
    assert staged_is_empty(root)


def test_discard_leaves_nothing(root: Path) -> None:
    writer = ShardWriter(root, "demo", write_spec(root, SPEC), {})
    writer.add(row("a"))
    assert not staged_is_empty(root)
    writer.discard()
    assert staged_is_empty(root) and len(writer) == 0


@pytest.mark.parametrize("cut", [1, 2000])
def test_truncated_shard_is_named(root: Path, cut: int) -> None:
    path, receipt = written(root, [row("a")])
    os.truncate(path, receipt.bytes - cut)
    with pytest.raises(StoreDamageError, match=receipt.id):
        ShardReader(inside(path), receipt)


def test_missing_shard_and_receipt_are_named(root: Path) -> None:
    path, receipt = written(root, [row("a")])
    path.with_suffix(".json").unlink()
    with pytest.raises(StoreDamageError, match=receipt.id):
        read_receipt(inside(path).with_suffix(".json"))
    path.unlink()
    with pytest.raises(StoreDamageError, match=receipt.id):
        ShardReader(inside(path), receipt)


def test_a_receipt_of_another_placement_is_refused(root: Path) -> None:
    path, receipt = written(root, [row("a"), row("b")])
    moved = receipt.datasets["values"].model_copy(update={"offset": receipt.datasets["values"].offset + 4096})
    other = receipt.model_copy(update={"datasets": {**receipt.datasets, "values": moved}})
    with pytest.raises(StoreDamageError, match="'values' is not where its receipt says"):
        ShardReader(inside(path), other)


def test_a_flip_beside_the_values_names_the_row(root: Path) -> None:
    path, receipt = written(root, [row("a"), row("b")])
    for name in ("values", "time_s", "valid", "duration_s", "clip_start_s", "cache_key", "row_digest", "record_digest"):
        place = receipt.datasets[name]
        bit = 8 * (place.offset + place.nbytes // 2)  # the first byte of row b
        flip(path, bit)
        reader = ShardReader(inside(path), receipt, check_header=False)
        assert [reader.row_is_sound(0), reader.row_is_sound(1)] == [True, False], name
        assert sound_rows(reader, np.arange(2)).tolist() == [True, False], name
        reader.close()
        flip(path, bit)


@pytest.mark.parametrize("lengths", [(3, 3, 3), (2, 0, 4), (1, 3000, 1)], ids=["equal", "ragged", "one large"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_checked_together_are_as_sound_as_each_alone(
    root: Path, lengths: tuple[int, ...], data: st.DataObject
) -> None:
    """Wherever a bit flips: in values, in what lies beside them, or in an offset that then leads out of the file."""
    published = data.draw(st.booleans())
    rows = [row(key, steps=steps, published=published) for key, steps in zip("abc", lengths, strict=True)]
    path, receipt = written(root, rows)
    name = data.draw(st.sampled_from(sorted(receipt.datasets)))
    place = receipt.datasets[name]
    flip(path, 8 * place.offset + data.draw(st.integers(0, 8 * place.nbytes - 1)))
    reader = ShardReader(inside(path), receipt, check_header=False)
    chosen = np.array(data.draw(st.permutations(range(3))))
    assert sound_rows(reader, chosen).tolist() == [reader.row_is_sound(number) for number in chosen.tolist()]
    reader.close()


def test_a_spooled_row_frees_its_values(root: Path) -> None:
    """Memory must not grow with the shard: the values are in the spool file."""
    writer = ShardWriter(root, "demo", write_spec(root, SPEC), {})
    given = row("a")
    values = given.values.copy()
    alive = weakref.ref(values)
    writer.add(replace(given, values=values))
    del values
    gc.collect()
    assert alive() is None
    writer.discard()
