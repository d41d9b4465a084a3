"""Lance, Parquet, WebDataset and Zarr exports, opened by the libraries whose formats they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stores import Store
from stores.exchange.exporting import export
from stores.exchange.files import ExchangeError
from tests._helpers.building import commit_rows, row, store_with
from tests.conftest import ROOT

KEYS = ["a.b", "clip 1", "iveNvQ4jCis_#02", "…/../x"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root = store_with(tmp_path / "store", *KEYS)
    return Store.open(root)


def same(key: str, values: np.ndarray, times: np.ndarray, valid: np.ndarray) -> None:
    expected = row(key)
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_array_equal(times, expected.time_s.astype(times.dtype))
    np.testing.assert_array_equal(valid, expected.valid)


def test_lance_reads_it(store: Store, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    result = export(store, "demo", "lance", tmp_path / "out", {"val": [*KEYS[:3], "absent"], "test": KEYS[3:]})
    assert result.files == {"val.lance": 3, "test.lance": 1} and [missing.key for missing in result.missing] == [
        "absent"
    ]
    table = lance.dataset(str(tmp_path / "out" / "val.lance")).to_table().to_pylist()
    assert [record["key"] for record in table] == KEYS[:3]
    for record in table:
        values = np.array(record["values"], np.float16).reshape(record["shape"])
        same(record["key"], values, np.array(record["time_s"]), np.array(record["valid"]))


def test_lance_takes_ragged_rows(tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    root = store_with(tmp_path / "store")
    commit_rows(root, [row("long", steps=5), row("short", steps=1)])
    export(Store.open(root), "demo", "lance", tmp_path / "out")
    table = lance.dataset(str(tmp_path / "out" / "all.lance")).to_table().to_pylist()
    assert [record["shape"] for record in table] == [[5, 4], [1, 4]]


def test_webdataset_reads_it(store: Store, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    result = export(store, "demo", "webdataset", tmp_path / "out")
    assert result.files == {"all-000000.tar": 4}
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "all-000000.tar"), shardshuffle=False).decode())
    assert sorted(sample["json"]["key"] for sample in samples) == sorted(KEYS)
    for sample in samples:
        same(sample["json"]["key"], sample["values.npy"], sample["times.npy"], sample["valid.npy"])


def test_webdataset_shards_are_the_same_bytes_again(store: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(store, "demo", "webdataset", tmp_path / name)
    assert (tmp_path / "one/all-000000.tar").read_bytes() == (tmp_path / "two/all-000000.tar").read_bytes()


def test_zarr_reads_it(store: Store, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    result = export(store, "demo", "zarr", tmp_path / "out", {"val": ["absent", *KEYS]})
    assert result.files == {"val.zarr": 4} and [missing.key for missing in result.missing] == ["absent"]
    group = zarr.open_group(tmp_path / "out" / "val.zarr", mode="r")
    assert group.metadata.zarr_format == 3 and group["values"].shape == (4, 3, 4)
    assert group["values"].chunks == (1, 3, 4)
    for index, key in enumerate(group.attrs["keys"]):
        same(key, group["values"][index], group["time_s"][index], group["valid"][index])


def test_zarr_refuses_rows_of_unequal_length(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    root = store_with(tmp_path / "store")
    commit_rows(root, [row("long", steps=5), row("short", steps=1)])
    with pytest.raises(ExchangeError, match=r"'short' is \[1, 4\] beside \[5, 4\]"):
        export(Store.open(root), "demo", "zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["lance", "zarr"])
def test_a_missing_package_is_one_line(store: Store, tmp_path: Path, target: str) -> None:
    code = f"""
import sys
sys.modules[{target!r}] = None
sys.argv = ["store.py", "export", {str(store.path)!r}, "--to", {target!r}, "--feature", "demo", "--out", "out"]
import runpy
runpy.run_path({str(ROOT / "jobs/store.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 2 and f"pip install 'reelstore[{target}]'" in done.stderr and done.stderr.count("\n") == 1


def test_datasets_reads_parquet(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, as arrays of the rows' shape and dtype."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    result = export(store, "demo", "parquet", tmp_path / "out", {"val": [*KEYS[:3], "absent"], "test": KEYS[3:]})
    assert result.files == {"val.parquet": 3, "test.parquet": 1} and [row.key for row in result.missing] == ["absent"]
    files = {split: str(tmp_path / "out" / f"{split}.parquet") for split in ("val", "test")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache")).with_format("numpy")
    assert list(loaded["val"]["key"]) == KEYS[:3]
    float16 = datasets.List(datasets.List(datasets.Value("float16"), length=4), length=3)
    assert loaded["val"].features["values"] == float16
    for record in loaded["val"]:  # this format makes every number a float32
        same(record["key"], record["values"].astype(np.float16), record["time_s"], record["valid"])
    assert loaded["test"][:]["values"].shape == (1, 3, 4)


def test_parquet_has_fixed_sizes_where_rows_have_and_takes_ragged_rows(store: Store, tmp_path: Path) -> None:
    export(store, "demo", "parquet", tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "all.parquet")
    assert str(schema.field("values").type) == "fixed_size_list<element: fixed_size_list<element: halffloat>[4]>[3]"
    root = store_with(tmp_path / "ragged")
    commit_rows(root, [row("long", steps=5), row("none", steps=0), row("short", steps=1)])
    for name in ("one", "two"):
        export(Store.open(root), "demo", "parquet", tmp_path / name)
    assert (tmp_path / "one/all.parquet").read_bytes() == (tmp_path / "two/all.parquet").read_bytes()
    table = pq.read_table(tmp_path / "one" / "all.parquet")
    assert [np.shape(values) for values in table["values"].to_pylist()] == [(5, 4), (0,), (1, 4)]
    assert table["values"][0].as_py() == row("long", steps=5).values.tolist()
