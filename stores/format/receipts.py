"""Read specs and the receipts of shards, and make receipts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
from pydantic import ValidationError

from ..errors import StoreDamageError
from . import durable, layout
from .container import opened_container, plain_dataset
from .inside import Root, StorePath
from .rounding import RoundingError
from .rows import DatasetPlace, Receipt


def read_spec(root: Root, spec_digest: str) -> dict[str, Any]:
    """Read the spec that is kept under a digest.

    Raises
    ------
    StoreDamageError
        If it is missing or does not match its digest.
    """
    path = StorePath.of(root) / layout.SPECS / f"{spec_digest}.json"
    try:
        data = path.read_bytes()
        spec: dict[str, Any] = json.loads(data)
    except FileNotFoundError as error:
        raise StoreDamageError(f"{path}: the spec is missing") from error
    except ValueError as error:
        raise StoreDamageError(f"{path}: the spec is damaged ({error})") from error
    if data != layout.spec_text(spec) or layout.digest(spec) != spec_digest:
        raise StoreDamageError(f"{path}: the spec is damaged (its content does not match its digest)")
    return spec


def read_receipt(path: StorePath) -> Receipt:
    """Read a receipt, the file ``<id>.json`` beside a shard.

    Raises
    ------
    StoreDamageError
        If it is missing, damaged or not a receipt.
    """
    try:
        return Receipt.model_validate_json(layout.unseal(path.read_bytes()))
    except FileNotFoundError as error:
        raise StoreDamageError(f"{path}: the shard's receipt is missing; run `reelstore repair`") from error
    except ValidationError as error:
        raise StoreDamageError(f"{path}: not a valid receipt ({error.errors()[0]['msg']})") from error
    except ValueError as error:
        raise StoreDamageError(f"{path}: damaged receipt: {error}; run `reelstore repair`") from error


def make_receipt(
    path: StorePath,
    places: Mapping[str, DatasetPlace],
    feature: str,
    spec_digest: str,
    spec: Mapping[str, Any],
    numerics: Mapping[str, Any],
    rounding: Mapping[str, RoundingError] | None = None,
) -> Receipt:
    """Return the receipt of a shard file, given the places of its datasets."""
    return Receipt.model_validate(
        {
            "id": path.stem,
            "feature": feature,
            "spec": spec_digest,
            "recipe": spec,
            "rows": places["duration_s"].shape[0],
            "ragged": "offset" in places,
            "bytes": path.status().st_size,
            "sha256": durable.file_digest(path),
            "datasets": places,
            "numerics": numerics,
            "format_version": layout.FORMAT_VERSION,
            "rounding": rounding or {},
        }
    )


def rebuild_receipt(
    path: StorePath, feature: str, spec_digest: str, spec: Mapping[str, Any], numerics: Mapping[str, Any]
) -> Receipt:
    """Return the receipt of a sound shard file that lost its own, with the places that HDF5 reports."""
    with path.opened() as raw, opened_container(raw.fileno()) as file:
        places = dataset_places(file)
    return make_receipt(path, places, feature, spec_digest, spec, numerics)


def dataset_places(file: h5py.File) -> dict[str, DatasetPlace]:
    """Return the places of the datasets of an open shard, sorted by name."""
    datasets = {name: plain_dataset(file, name) for name in sorted(file)}
    return {
        name: DatasetPlace(offset=dataset.id.get_offset() or 0, shape=dataset.shape, dtype=dataset.dtype.str)
        for name, dataset in datasets.items()
    }
