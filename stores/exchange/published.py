"""The layouts of published trainers: CRA and NExT-GQA (HDF5 per split), MUSIC-AVQA (one ``.npy`` per video)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from ..errors import ExchangeError, StoreError
from ..format import layout
from ..format.staged_file import StagedFile
from .files import INDEX_COLUMNS, INDEX_FILE
from .rows import Export, ExportOptions, Missing, Rows, file_names, write_json

FRAMES = 32


def export_nextgqa(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """CRA and NExT-GQA: a split is one HDF5 file with ``vid`` (V,) and the feature [V, T, C] float32.

    ``frame2time_<split>.json`` gives 32 seconds a video: entry j is the time of the row that the trainers fetch as
    frame j, ``np.linspace(0, T - 1, 32, dtype=int)[j]``, which is row j where T is 32. Times are real and unrounded
    unless the published ones are asked for. Videos whose times are unknown are left out of it and reported.
    """
    dataset = layout.check_name(options.dataset or "CLIPL_I")
    naming = options.naming or "cra"
    if naming not in ("cra", "nextgqa"):
        raise ExchangeError(f"layout {naming!r}: there is cra and nextgqa")
    written: dict[str, list[str]] = {}
    shape: tuple[int, ...] | None = None
    for split, keys in splits.items():
        written[split] = []
        for key in keys:
            values = rows.load(key)
            if isinstance(values, str):
                result.missing.append(Missing(key, split, values))
                continue
            if values.ndim != 2 or values.shape[0] == 0:
                raise ExchangeError(
                    f"feature {rows.feature!r}: key {key!r} is {list(values.shape)}; these trainers read [T, C]"
                )
            shape = shape or values.shape
            if values.shape != shape:
                raise ExchangeError(
                    f"feature {rows.feature!r}: key {key!r} is {list(values.shape)} beside {list(shape)}; "
                    "one HDF5 dataset holds rows of one shape"
                )
            written[split].append(key)
    for split, keys in written.items():
        name = f"{split}.h5" if naming == "cra" else f"{dataset}_{split}.h5"
        _write_split(folder / name, rows, keys, dataset, shape or (0, 0))
        result.files[name] = len(keys)
        result.padded += sum(map(rows.padded, keys))
        seconds: dict[str, list[float]] = {}
        for key in keys:
            times = rows.times(key, options.published_times)
            if times is None:
                result.times_unknown.append(key)
            else:
                seconds[key] = times[np.linspace(0, len(times) - 1, FRAMES, dtype=int)].tolist()
        if seconds:
            write_json(folder / f"frame2time_{split}.json", seconds)


def _write_split(path: Path, rows: Rows, keys: Sequence[str], dataset: str, shape: tuple[int, ...]) -> None:
    with StagedFile(path) as target, h5py.File(target, "w") as file:
        file.create_dataset("vid", data=keys, shape=(len(keys),), dtype=h5py.string_dtype("utf-8"))
        features = file.create_dataset(dataset, (len(keys), *shape), "<f4")
        for row, key in enumerate(keys):
            values = rows.load(key)
            if isinstance(values, str):
                raise StoreError(f"key {key!r}: changed during the export ({values})")
            features[row] = values


def export_music_avqa(
    rows: Rows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """MUSIC-AVQA and its family: one C-order float32 ``<video_id>.npy`` [T, …] a video.

    ``index.csv`` says which file has which key, T, how many steps are valid and, where some are padding, which
    (``mask``, a 0 or 1 a step). All splits share the folder.
    """
    if options != ExportOptions():
        raise ExchangeError("target 'music_avqa': has neither --dataset-name, --layout nor --published-times")
    asked = {key: split for split, keys in reversed(list(splits.items())) for key in keys}
    names = file_names(asked)
    with (folder / INDEX_FILE).open("x", encoding="utf-8", newline="") as file:
        index = csv.writer(file, lineterminator="\n")
        index.writerow(INDEX_COLUMNS)
        for key in sorted(asked):
            values = rows.load(key)
            if isinstance(values, str):
                result.missing.append(Missing(key, asked[key], values))
                continue
            name = f"{names[key]}.npy"
            np.save(folder / name, values, allow_pickle=False)
            valid = rows.store.valid(rows.feature, key)
            mask = "" if valid.all() else "".join("01"[step] for step in valid.astype(int))
            index.writerow((key, name, len(values), int(valid.sum()), mask))
            result.files["*.npy"] = result.files.get("*.npy", 0) + 1
            result.padded += bool(mask)
            result.renamed += names[key] != key
