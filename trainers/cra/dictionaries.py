"""The confounder dictionaries from which CRA's interventions are initialised, read from the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from settings.messages import available
from stores import Store
from stores.describe import StoredDictionary, dictionary_name, stored_dictionaries
from trainers.cra.config import DataConfig
from trainers.cra.intervention import EDGES, NODES, PARSED
from trainers.errors import TrainingError

_SWITCH = {"linguistic": "model.back", "visual": "model.front"}


def load_dictionary(store: Store, name: str, data: DataConfig) -> Tensor:
    """Read the centres of a dictionary in the order of their clusters.

    Parameters
    ----------
    store
        The store to read.
    name
        ``linguistic_dictionary`` or ``visual_dictionary``.
    data
        What the model is trained on. The dictionary must be made from the same feature, dataset and split.

    Returns
    -------
    Linguistic ``[K, 8, E]``, changed as ``data.graphs`` says, or visual ``[K, F]``; float32, of K clusters.

    Raises
    ------
    TrainingError
        If there is no such dictionary, it is made from something else, its graphs have other nodes or edges than the
        back door, or its centres are not finite.
    """
    kind = name.removesuffix("_dictionary")
    remedy = f"run jobs/cluster.py --kind {kind}"
    dictionary = choose_dictionary(store, name, data)
    difference = _difference(dictionary.spec, store, data)
    if difference is not None:
        raise TrainingError(f"{store.path}: {dictionary} {difference}; {remedy}")
    centres = store.table(name, dictionary.part).sort_by("cluster").column("center").combine_chunks()
    values = centres.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(centres), -1)
    if not np.isfinite(values).all():
        raise TrainingError(f"{store.path}: {name} has centres that are not finite; {remedy}")
    tensor = torch.from_numpy(values)  # [K, 8 E] or [K, F]
    return _changed(tensor.view(len(tensor), len(NODES), -1), data.graphs) if kind == "linguistic" else tensor


def _changed(centres: Tensor, graphs: str) -> Tensor:
    """Return linguistic centres ``[K, 8, E]`` with what the parser found left, dealt anew or taken out."""
    if graphs == "parsed":
        return centres
    changed, generator = centres.clone(), torch.Generator().manual_seed(0)
    for node in PARSED:
        order = torch.randperm(len(centres), generator=generator)
        changed[:, NODES.index(node)] = centres[order, NODES.index(node)] if graphs == "shuffled" else 0
    return changed


def choose_dictionary(store: Store, name: str, data: DataConfig) -> StoredDictionary:
    """Return the dictionary of a kind that is made of the dataset, split and feature that a model is trained on.

    Raises
    ------
    TrainingError
        If there is none.
    """
    dictionary = matching_dictionary(store, name, data)
    if dictionary is not None:
        return dictionary
    kind = name.removesuffix("_dictionary")
    present = available([one.name for one in stored_dictionaries(store, kind)])
    raise TrainingError(
        f"{store.path}: no {kind} dictionary {_made_of(kind, data)} in version {store.version} ({present}); "
        f"run jobs/cluster.py --kind {kind}, or set {_SWITCH[kind]} to false"
    )


def matching_dictionary(store: Store, name: str, data: DataConfig) -> StoredDictionary | None:
    """Return what ``choose_dictionary`` returns, or None."""
    kind = name.removesuffix("_dictionary")
    wanted = _made_of(kind, data)
    return next((one for one in stored_dictionaries(store, kind) if one.name == wanted), None)


def _made_of(kind: str, data: DataConfig) -> str:
    return dictionary_name(data.dataset, data.train, data.feature.partition("@")[0] if kind == "visual" else None)


def _difference(spec: Mapping[str, Any], store: Store, data: DataConfig) -> str | None:
    """Return why a dictionary of this spec does not fit; None if it does. A key that the spec lacks is not compared."""
    clustered, used = spec.get("feature_spec"), store.spec_digest(data.feature)
    if clustered is not None and clustered != used:
        return f"was made from spec {clustered[:8]} of {spec['feature']!r}, not {used[:8]}"
    graph = {"nodes": list(NODES), "edges": [list(edge) for edge in EDGES]}
    for part, expected in graph.items():
        if spec.get(part, expected) != expected:
            return f"has graphs with other {part} than CRA's back door"
    return None
