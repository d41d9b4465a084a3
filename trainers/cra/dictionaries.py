"""The confounder dictionaries that CRA's interventions start from, read from the store."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stores import Store
from stores.describe.dictionaries import dictionary_spec
from trainers.cra.config import DataConfig
from trainers.cra.intervention import NODES
from trainers.errors import TrainingError

_SWITCH = {"linguistic": "model.back", "visual": "model.front"}


def load_dictionary(store: Store, name: str, data: DataConfig) -> Tensor:
    """Cluster centres in the order of their clusters: linguistic ``[K, 8, E]``, visual ``[K, F]``, float32.

    Parameters
    ----------
    name : ``linguistic_dictionary`` or ``visual_dictionary``.
    data : what is trained on; a dictionary made from another feature or recipe, dataset or split is refused.

    Raises
    ------
    TrainingError
        If there is no such dictionary, it is of something else, or its centres are not finite.
    """
    kind = name.removesuffix("_dictionary")
    remedy = f"run jobs/cluster.py --kind {kind}"
    if name not in store.tables:
        raise TrainingError(
            f"{store.path}: no {name} in version {store.version}; {remedy}, or set {_SWITCH[kind]} to false"
        )
    wanted = {"dataset": data.dataset, "split": data.train, "feature": data.feature.partition("@")[0]}
    spec = dictionary_spec(store, kind)
    for what, value in wanted.items():
        made_from = spec.get(what)
        if made_from is not None and made_from.partition("@")[0] != value:
            raise TrainingError(f"{store.path}: its {name} was made from {what} {made_from!r}, not {value!r}; {remedy}")
    clustered, used = spec.get("feature_spec"), store.spec_digest(data.feature)
    if clustered is not None and clustered != used:
        raise TrainingError(
            f"{store.path}: its {name} was made from recipe {clustered[:8]} of {wanted['feature']!r}, not {used[:8]}; "
            + remedy
        )
    centres = store.table(name).sort_by("cluster").column("center").combine_chunks()
    values = centres.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(centres), -1)
    if not np.isfinite(values).all():
        raise TrainingError(f"{store.path}: {name} has centres that are not finite; {remedy}")
    tensor = torch.from_numpy(values)
    return tensor.view(len(tensor), NODES, -1) if kind == "linguistic" else tensor
