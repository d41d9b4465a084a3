"""Segment logs against a dict."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.errors import StoreDamageError
from stores.format import durable, segments
from stores.format.inside import StorePath
from stores.format.segments import FANOUT, SegmentLog, SegmentRef, log_schema

SCHEMA = log_schema([pa.field("value", pa.int64(), nullable=False)])

# None removes the key. A small alphabet makes overrides and repeats within one append common.
keys = st.one_of(st.binary(max_size=6), st.sampled_from([b"", b"\0", b"a", b"a\0", b"b", "ключ".encode(), b"\xff\xfe"]))
appends = st.lists(st.lists(st.tuples(keys, st.one_of(st.none(), st.integers(-5, 5))), max_size=12), max_size=25)


def table_of(rows: list[tuple[bytes, int | None]]) -> pa.Table:
    columns = {
        "key": [key for key, _ in rows],
        "value": [value or 0 for _, value in rows],
        "removed": [value is None for _, value in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def contents(log: SegmentLog) -> dict[bytes, int]:
    return {record["key"]: record["value"] for record in log}


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=appends)
def test_log_is_a_dict(tmp_path: Path, suffix: str, batches: list[list[tuple[bytes, int | None]]]) -> None:
    (tmp_path / "index").mkdir(exist_ok=True)
    refs: tuple[SegmentRef, ...] = ()
    model: dict[bytes, int] = {}
    touched: set[bytes] = {b"never"}
    for batch in batches:
        refs = segments.append(tmp_path, "index", refs, table_of(batch), suffix)
        for key, value in batch:
            touched.add(key)
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        log = SegmentLog(tmp_path, refs, SCHEMA)
        assert contents(log) == model
        assert [record["key"] for record in log] == sorted(model)
        assert len(log) == len(model)
        for key in touched:
            record = log.get(key)
            assert (None if record is None else record["value"]) == model.get(key)
    for ref in refs:
        data = (tmp_path / ref.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (ref.bytes, ref.sha256)
        assert pa.ipc.open_file(data).read_all().schema == SCHEMA if suffix == ".arrow" else True


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
@given(
    batches=st.lists(
        st.lists(st.tuples(st.binary(max_size=3), st.none() | st.integers(0, 9)), max_size=12), max_size=6
    ),
    wanted=st.lists(st.binary(max_size=3), max_size=20),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_keys_are_found_as_each_alone(
    tmp_path: Path, suffix: str, batches: list[list[tuple[bytes, int | None]]], wanted: list[bytes]
) -> None:
    """Keys of any bytes, empty ones too, hidden, overwritten, asked for twice and not there."""
    (tmp_path / "index").mkdir(exist_ok=True)
    refs: tuple[SegmentRef, ...] = ()
    for batch in batches:
        records = [{"key": key, "value": value or 0, "removed": value is None} for key, value in dict(batch).items()]
        refs = segments.append(tmp_path, "index", refs, pa.Table.from_pylist(records, schema=SCHEMA), suffix=suffix)
    log = SegmentLog(tmp_path, refs, SCHEMA)
    keys = [*wanted, *(key for batch in batches for key, _ in batch)]
    alone = [log.get(key) for key in keys]
    assert log.find(keys) == {key: record for key, record in zip(keys, alone, strict=True) if record is not None}
    expected = [None if record is None else (record["value"], record["key"]) for record in alone]
    assert log.lookup(keys, ("value", "key")) == expected
    assert log.lookup(keys, ("value", "key")) == expected  # with what the first call kept


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=12)), max_size=30), st.integers(0, 4))
def test_heads_ascend_as_the_keys_do(parts: list[tuple[bytes, bytes]], skip: int) -> None:
    """Also if keys end within the eight bytes, or contain zeros; ``skip`` bytes are the same in all of them."""
    keys = sorted(b"same"[:skip] + start + end for start, end in parts)
    heads = segments._Keys(pa.array(keys, pa.large_binary())).heads(skip)
    assert heads.tolist() == [int.from_bytes(key[skip : skip + 8].ljust(8, b"\0"), "big") for key in keys]
    assert heads.tolist() == sorted(heads.tolist())


def test_number_of_segments_and_bytes_per_append_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index").mkdir()
    written: list[int] = []
    kept: dict[Path, bytes] = {}

    def count(path: StorePath, data: bytes | memoryview) -> None:
        written[-1] += len(data)
        path.path.write_bytes(data)  # not fsynced: thousands of appends in a few seconds
        kept[path.path] = b""

    monkeypatch.setattr(durable, "write_new", count)
    refs: tuple[SegmentRef, ...] = ()
    appended = 2000
    for number in range(appended):
        written.append(0)
        refs = segments.append(
            tmp_path, "index", refs, table_of([(f"{number * 7919 % appended:08d}".encode(), number)])
        )
        assert len(refs) <= (FANOUT - 1) * 4  # 8**4 > 2000
        for path in set(kept) - {tmp_path / ref.path for ref in refs}:
            path.unlink()
            del kept[path]
    assert len(SegmentLog(tmp_path, refs, SCHEMA)) == appended
    half = appended // 2
    first, last = sum(written[:half]) / half, sum(written[half:]) / half
    assert last <= 1.25 * first
    assert sum(written) / appended < 4000  # one row is a segment of about 1 kB; each is rewritten ≤ log8(n) times


def test_alternating_sizes_stay_bounded(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    refs: tuple[SegmentRef, ...] = ()
    number = 0
    for turn in range(120):
        size = (1, 70, 9, 1)[turn % 4]
        refs = segments.append(tmp_path, "index", refs, table_of([(f"{number + i}".encode(), 1) for i in range(size)]))
        number += size
        assert len(refs) <= (FANOUT - 1) * 4
    assert len(SegmentLog(tmp_path, refs, SCHEMA)) == number


def test_appending_nothing_writes_nothing(tmp_path: Path) -> None:
    assert segments.append(tmp_path, "index", (), table_of([])) == ()
    assert not list(tmp_path.iterdir())


def test_removing_the_only_key_leaves_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    refs = segments.append(tmp_path, "index", (), table_of([(b"k", 1), (b"k", None)]))
    assert contents(SegmentLog(tmp_path, refs, SCHEMA)) == {}


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, SegmentRef]:
    (tmp_path / "index").mkdir()
    (ref,) = segments.append(tmp_path, "index", (), table_of([(f"{i}".encode(), i) for i in range(50)]))
    return tmp_path, ref


def test_missing_segment_is_named(one: tuple[Path, SegmentRef]) -> None:
    root, ref = one
    (root / ref.path).unlink()
    with pytest.raises(StoreDamageError, match=ref.path):
        SegmentLog(root, [ref], SCHEMA).get(b"1")


@pytest.mark.parametrize("cut", [1, 100, 10**6])
def test_truncated_segment_is_named(one: tuple[Path, SegmentRef], cut: int) -> None:
    root, ref = one
    path = root / ref.path
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StoreDamageError, match=ref.path):
        SegmentLog(root, [ref], SCHEMA).table()


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_overwritten_segment_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "index").mkdir()
    (ref,) = segments.append(tmp_path, "index", (), table_of([(b"k", 1)]), suffix)
    (tmp_path / ref.path).write_bytes(b"\xa5" * ref.bytes)
    with pytest.raises(StoreDamageError, match=ref.path):
        segments.open_segment(StorePath(tmp_path), ref, SCHEMA)


def test_log_opens_nothing_before_first_use(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, [SegmentRef(path=f"index/{0:032}.arrow", rows=1, bytes=1, sha256="0" * 64)], SCHEMA)
    with pytest.raises(StoreDamageError):
        log.get(b"k")
