"""Confounder dictionaries as the files that CRA's trainers read unmodified.

`qa_graphs.npy`
    Torch pickle `{"k_center": Data, "k_mean": Data}` of PyTorch Geometric's `Data(x, edge_index)`: read by CRA as
    published.
`qa_graphs.pt`
    The same as plain tensors, `{"k_center": {"x", "edge_index"}, "k_mean": {"x", "edge_index"}}`: read by
    `torch.load(..., weights_only=True)` without that package.
`visual_clusters.npy`
    Torch pickle `{"k_center": Tensor, "k_mean": Tensor}`: read by CRA as published, and with `weights_only=True`.

`x` is `[k, 8, D] float32`, `edge_index` `[2, 12] int64` (row 0 the sources), visual tensors are `[k, D] float32`; the
published sizes are k=512, D=768. Both `.npy` names are the published ones, although the files are no numpy arrays.
`qa_graphs.npy` needs torch_geometric, here to be written and there to be read; without it only `qa_graphs.pt` is.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..describe.dictionaries import KINDS, dictionary_spec
from ..errors import MissingKeyError
from ..format.rows import Array
from ..store import Store
from .rows import RECORD_FILE, new_folder, write_json

if TYPE_CHECKING:
    import torch

TARGET = "cra_dictionaries"
PYG = "torch_geometric"


@dataclass(slots=True)
class DictionaryExport:
    """What an export wrote: clusters by file, what of it is stale or made with random weights, what was left out."""

    version: int
    files: dict[str, int] = field(default_factory=dict)
    stale: dict[str, list[str]] = field(default_factory=dict)
    random_weights: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def export_dictionaries(store: Store, out: Path) -> DictionaryExport:
    """Write every dictionary of the store into the new (or empty) folder ``out``.

    Raises
    ------
    MissingKeyError
        If there is none.
    ExchangeError
        If the folder holds something.
    """
    kinds = [kind for kind in KINDS if f"{kind}_dictionary" in store.tables]
    if not kinds:
        raise MissingKeyError(f"{store.path}: no dictionary in version {store.version}; see jobs/cluster.py")
    result = DictionaryExport(store.version)
    specs = {kind: dictionary_spec(store, kind) for kind in kinds}
    with new_folder(out, store.path) as folder:
        for kind, spec in specs.items():
            tensors = {name: _tensor(store, kind, column, spec) for name, column in _COLUMNS.items()}
            (_write_graphs if kind == "linguistic" else _write_clusters)(folder, tensors, spec, result)
            if stale := store.stale(f"{kind}_dictionary"):
                result.stale[kind] = list(stale)
            if spec.get("random_weights"):
                result.random_weights.append(kind)
        record = {"reelstore": {"version": store.version, "dictionaries": specs}, "export": {"target": TARGET}}
        write_json(folder / RECORD_FILE, {**record, "files": result.files, "left_out": result.left_out})
    return result


_COLUMNS = {"k_center": "center", "k_mean": "mean"}


def _tensor(store: Store, kind: str, column: str, spec: dict[str, Any]) -> torch.Tensor:
    """``[k, *shape] float32``."""
    import torch

    table = store.table(f"{kind}_dictionary")
    values: Array = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(table.num_rows, *spec["shape"]).astype(np.float32))


def _write_clusters(
    folder: Path, tensors: dict[str, torch.Tensor], spec: dict[str, Any], result: DictionaryExport
) -> None:
    import torch

    torch.save(tensors, folder / "visual_clusters.npy")
    result.files["visual_clusters.npy"] = len(tensors["k_center"])


def _write_graphs(
    folder: Path, tensors: dict[str, torch.Tensor], spec: dict[str, Any], result: DictionaryExport
) -> None:
    import torch

    edges = torch.tensor(spec["edges"], dtype=torch.int64).T.contiguous()
    count = len(tensors["k_center"])
    plain = {name: {"x": x, "edge_index": edges} for name, x in tensors.items()}
    torch.save(plain, folder / "qa_graphs.pt")
    result.files["qa_graphs.pt"] = count
    if importlib.util.find_spec(PYG) is None:
        result.left_out["qa_graphs.npy"] = f"needs the package {PYG}; qa_graphs.pt holds the same tensors"
        return
    from torch_geometric.data import Data

    torch.save({name: Data(x=x, edge_index=edges) for name, x in tensors.items()}, folder / "qa_graphs.npy")
    result.files["qa_graphs.npy"] = count
