"""Layouts of published trainers: CRA and NExT-GQA (one HDF5 file per split), MUSIC-AVQA (one ``.npy`` per video).

``docs/facts/cra.md`` section 2.4 and ``docs/facts/coqo.md`` section 2.9 describe what these trainers read.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from ..errors import ExchangeError
from ..format import layout
from ..format.staged_file import StagedFile
from ..progress import followed
from ..wording import available
from .files import INDEX_COLUMNS, INDEX_FILE
from .rows import Export, ExportOptions, StoreRows, available_rows, file_names, refuse_options, write_json

FRAMES = 32
"""Number of frames that CRA and NExT-GQA fetch per video."""
_NAMINGS = ("cra", "nextgqa")
_AXES = ("thwc", "tchw")


def export_nextgqa(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write one HDF5 file per split with ``vid`` (V,) and the feature ``[V, T, C] float32``, for CRA and NExT-GQA.

    ``frame2time_<split>.json`` gives 32 seconds per video. Entry j is the time of the row that the trainers fetch as
    frame j, ``np.linspace(0, T - 1, 32, dtype=int)[j]``; if T is 32, that is row j. Times are real and unrounded,
    unless the published ones are requested. Videos whose times are unknown are left out of it and reported.

    Raises
    ------
    ExchangeError
        If an option is not acceptable, or rows are not ``[T, C]`` of one shape.
    """
    dataset = layout.check_name(options.dataset or "CLIPL_I")
    naming = options.naming or "cra"
    if naming not in _NAMINGS:
        raise ExchangeError(f"layout {naming!r}: unknown ({available(_NAMINGS)})")
    shape, present = _find_rows(rows, splits, result)
    for split, keys in present.items():
        name = f"{split}.h5" if naming == "cra" else f"{dataset}_{split}.h5"
        _write_split(folder / name, rows, keys, dataset, shape)
        result.files[name] = len(keys)
        result.padded += sum(1 for key in keys if rows.is_padded(key))
        seconds: dict[str, list[float]] = {}
        for key in keys:
            times = rows.times(key, options.published_times)
            if times is None:
                result.times_unknown.append(key)
            else:
                seconds[key] = times[np.linspace(0, len(times) - 1, FRAMES, dtype=int)].tolist()
        if seconds:
            write_json(folder / f"frame2time_{split}.json", seconds)


def _find_rows(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], result: Export
) -> tuple[tuple[int, ...], dict[str, list[str]]]:
    """Return the shape of all rows, and the keys that have one by split."""
    shape: tuple[int, ...] | None = None
    present: dict[str, list[str]] = {split: [] for split in splits}
    for split, keys in splits.items():
        for key, values in available_rows(rows.as_float32, ((split, key) for key in keys), result, rows.progress):
            where = f"feature {rows.feature!r}: key {key!r} is {list(values.shape)}"
            if values.ndim != 2 or values.shape[0] == 0:
                raise ExchangeError(f"{where}; these trainers read [T, C]")
            shape = shape or values.shape
            if values.shape != shape:
                raise ExchangeError(f"{where} beside {list(shape)}; one HDF5 dataset holds rows of one shape")
            present[split].append(key)
    return shape or (0, 0), present


def _write_split(path: Path, rows: StoreRows, keys: Sequence[str], dataset: str, shape: tuple[int, ...]) -> None:
    with StagedFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)) as target, h5py.File(target, "w") as file:
        file.create_dataset("vid", data=keys, shape=(len(keys),), dtype=h5py.string_dtype("utf-8"))
        features = file.create_dataset(dataset, (len(keys), *shape), "<f4")
        for row, key in enumerate(followed(keys, path.name, rows.progress)):
            features[row] = rows.as_float32(key)


def export_music_avqa(
    rows: StoreRows, splits: Mapping[str, Sequence[str]], options: ExportOptions, folder: Path, result: Export
) -> None:
    """Write one C-order float32 ``<video_id>.npy`` ``[T, …]`` per video, for MUSIC-AVQA and its relatives.

    Maps are ``[T, H, W, C]`` as in the store, or ``[T, C, H, W]`` with the layout ``tchw``, which the published
    networks read (they fix C at 512). ``index.csv`` lists file, key, T and the number of valid steps. If some steps are
    padding, ``mask`` says which, with a 0 or 1 per step. All splits share the folder.

    Raises
    ------
    ExchangeError
        If another option than a layout is given, or the layout is ``tchw`` and a row is not a map.
    """
    refuse_options("music_avqa", options, _AXES)
    split_of = {key: split for split, keys in reversed(list(splits.items())) for key in keys}
    names = file_names(split_of)
    wanted: Iterable[tuple[str, str]] = ((split_of[key], key) for key in sorted(split_of))
    with (folder / INDEX_FILE).open("x", encoding="utf-8", newline="") as file:
        index = csv.writer(file, lineterminator="\n")
        index.writerow(INDEX_COLUMNS)
        for key, values in available_rows(rows.as_float32, wanted, result, rows.progress):
            name = f"{names[key]}.npy"
            if values.ndim == 4:
                result.layout = options.naming or _AXES[0]
            elif options.naming == "tchw":
                where = f"feature {rows.feature!r}: key {key!r} is {list(values.shape)}"
                raise ExchangeError(f"{where}; layout tchw is for maps [T, H, W, C]")
            if options.naming == "tchw":
                values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
            np.save(folder / name, values, allow_pickle=False)
            valid = rows.store.valid(rows.feature, key)
            mask = "" if valid.all() else "".join("01"[step] for step in valid.astype(int))
            index.writerow((key, name, len(values), int(valid.sum()), mask))
            result.files["*.npy"] = result.files.get("*.npy", 0) + 1
            if mask:
                result.padded += 1
            if names[key] != key:
                result.renamed += 1
