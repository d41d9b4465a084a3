"""Export confounder dictionaries as the files that CRA's trainers read unmodified.

``qa_graphs.npy``
    Torch pickle ``{"k_center": Data, "k_mean": Data}`` with PyTorch Geometric's ``Data(x, edge_index)``, which CRA
    reads as published, and without which it cannot be constructed. It is only written if ``torch_geometric`` is
    installed (the extra ``pyg``); otherwise it is listed as left out, and the command ends with exit code 3.
``qa_graphs.pt``
    The same as plain tensors, ``{"k_center": {"x", "edge_index"}, "k_mean": {"x", "edge_index"}}``, which
    ``torch.load(..., weights_only=True)`` reads without that package.
``visual_clusters.npy``
    Torch pickle ``{"k_center": Tensor, "k_mean": Tensor}``, which CRA reads as published, also with
    ``weights_only=True``.

``x`` is ``[k, 8, D] float32``, ``edge_index`` ``[2, 12] int64`` (row 0 has the sources), and visual tensors are
``[k, D] float32``; the published sizes are k=512 and D=768. Both ``.npy`` names are the published ones, although these
files are not numpy arrays (``docs/facts/cra.md`` section 4.4).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..describe.dictionaries import KINDS, StoredDictionary, find_dictionary, stored_dictionaries
from ..errors import MissingKeyError
from ..format.rows import Array
from ..store import Store
from ..wording import available
from .rows import RECORD_FILE, new_folder, write_json

if TYPE_CHECKING:
    import torch

TARGET = "cra_dictionaries"
PYG = "torch_geometric"


_COLUMNS = {"k_center": "center", "k_mean": "mean"}
"""Columns of a dictionary table, by their names in CRA's files."""


@dataclass(slots=True)
class DictionaryExport:
    """What an export wrote.

    Attributes
    ----------
    files
        Number of clusters by file name.
    stale
        Inputs that have changed since a dictionary was built, by kind.
    random_weights
        Kinds that were made with random weights.
    left_out
        Why a file was not written, by file name.
    """

    version: int
    files: dict[str, int] = field(default_factory=dict)
    stale: dict[str, list[str]] = field(default_factory=dict)
    random_weights: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def export_dictionaries(store: Store, out: Path, names: Sequence[str] = ()) -> DictionaryExport:
    """Write one dictionary of each kind into the new (or empty) folder ``out``.

    Parameters
    ----------
    store
        The store.
    out
        The folder to make.
    names
        Which dictionaries, ``<dataset>/<split>[/<feature>]``; needed for a kind of which there are several.

    Raises
    ------
    MissingKeyError
        If the store has no dictionary, or not exactly one of a kind that is meant.
    ExchangeError
        If the folder is not empty.
    """
    kinds = [kind for kind in KINDS if f"{kind}_dictionary" in store.tables]
    if not kinds:
        raise MissingKeyError(
            f"{store.path}: no dictionary in version {store.version}; make one with jobs/cluster.py in the checkout"
        )
    result = DictionaryExport(store.version)
    known = {one.name: kind for kind in kinds for one in stored_dictionaries(store, kind)}
    if unknown := [name for name in names if name not in known]:
        raise MissingKeyError(f"{store.path}: no dictionary {unknown[0]!r} ({available(sorted(known))})")
    named = {known[name]: name for name in names}
    chosen = {kind: find_dictionary(store, kind, named.get(kind)) for kind in kinds}
    specs = {kind: dict(dictionary.spec) for kind, dictionary in chosen.items()}
    with new_folder(out, store.path) as folder:
        for kind, dictionary in chosen.items():
            tensors = {name: _tensor(store, dictionary, column) for name, column in _COLUMNS.items()}
            if kind == "linguistic":
                _write_graphs(folder, tensors, dictionary.spec["edges"], result)
            else:
                _write_clusters(folder, tensors, result)
            if stale := store.stale(dictionary.table, dictionary.part):
                result.stale[kind] = list(stale)
            if dictionary.spec.get("random_weights"):
                result.random_weights.append(kind)
        record = {"reelstore": {"version": store.version, "dictionaries": specs}, "export": {"target": TARGET}}
        write_json(folder / RECORD_FILE, {**record, "files": result.files, "left_out": result.left_out})
    return result


def _tensor(store: Store, dictionary: StoredDictionary, column: str) -> torch.Tensor:
    """Return a column of a dictionary, ``[k, *shape] float32``."""
    import torch

    table = store.table(dictionary.table, dictionary.part)
    values: Array = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(table.num_rows, *dictionary.spec["shape"]).astype(np.float32))


def _write_clusters(folder: Path, tensors: dict[str, torch.Tensor], result: DictionaryExport) -> None:
    import torch

    torch.save(tensors, folder / "visual_clusters.npy")
    result.files["visual_clusters.npy"] = len(tensors["k_center"])


def _write_graphs(
    folder: Path, tensors: dict[str, torch.Tensor], edges: list[list[int]], result: DictionaryExport
) -> None:
    import torch

    edge_index = torch.tensor(edges, dtype=torch.int64).T.contiguous()
    count = len(tensors["k_center"])
    plain = {name: {"x": x, "edge_index": edge_index} for name, x in tensors.items()}
    torch.save(plain, folder / "qa_graphs.pt")
    result.files["qa_graphs.pt"] = count
    try:
        data = importlib.import_module(f"{PYG}.data").Data
    except ImportError as error:  # not installed, or without one of its own needs
        result.left_out["qa_graphs.npy"] = (
            f"needs the package {PYG} (pip install {PYG}; {error}); published CRA reads no other file, and "
            "qa_graphs.pt holds the same as plain tensors"
        )
        return
    torch.save({name: data(x=x, edge_index=edge_index) for name, x in tensors.items()}, folder / "qa_graphs.npy")
    result.files["qa_graphs.npy"] = count
