"""Feature files of another tool, stores of clips, and readers that do what the published trainers do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stores import Store
from stores.commit import create_store
from stores.exchange.comparing import Comparison, compare, open_other
from stores.exchange.exporting import export
from stores.exchange.rows import Export, ExportOptions, StoreRows
from stores.format.rows import Row
from tests._helpers.building import commit_rows, row

SPEC = {"extractor": "clip", "steps": 32, "step_shape": [6], "dtype": "float16"}


def clip_row(key: str, steps: int = 32, **options: Any) -> Row:
    return row(key, steps=steps, step_shape=(6,), **options)


def clip_store(root: Path, rows: Sequence[Row], spec: dict[str, Any] = SPEC) -> Path:
    create_store(root)
    commit_rows(root, rows, feature="clip", spec=spec)
    return root


def exported(root: Path, out: Path, target: str = "nextgqa", splits: Any = None, **options: Any) -> Export:
    with Store.open(root, lease=False) as store:
        return export(store, "clip", target, out, splits, ExportOptions(**options))


def compared(root: Path, other: Path, atol: float = 0.0, dataset: str | None = None) -> Comparison:
    with Store.open(root, lease=False) as store:
        return compare(StoreRows(store, "clip"), open_other(other, "clip", dataset), atol)


def cra_reader(path: Path, dataset: str = "CLIPL_I") -> dict[str, np.ndarray]:
    """Load features as CRA and NExT-GQA do: into a dict by decoded id (``docs/facts/cra.md`` section 2.4)."""
    features = {}
    with h5py.File(path, "r") as file:
        for vid, feature in zip(file["vid"], file[dataset], strict=True):
            features[vid.decode("utf-8")] = feature
    return features


def cra_fetch(feature: np.ndarray) -> np.ndarray:
    return feature[np.linspace(0, len(feature) - 1, 32, dtype=int)]


def avqa_reader(folder: Path, video_id: str) -> np.ndarray:
    return np.load(os.path.join(str(folder), video_id + ".npy"))  # noqa: PTH118


def write_h5(path: Path, keys: Sequence[Any], values: Any, ids: str = "vid", name: str = "CLIPL_I") -> Path:
    with h5py.File(path, "w") as file:
        kind = h5py.string_dtype("utf-8") if all(isinstance(key, str) for key in keys) else None
        file.create_dataset(ids, data=keys, dtype=kind)
        file.create_dataset(name, data=values)
    return path


def write_npy(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def values_of(root: Path, feature: str = "clip") -> dict[str, np.ndarray]:
    with Store.open(root, lease=False) as store:
        return {key: np.array(store.row(feature, key)) for key in store.keys(feature)}


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)
