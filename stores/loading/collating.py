"""Lets a ``DataLoader`` give batches of this package without a ``collate_fn``.

PyTorch's ``default_collate`` looks at the first element of what a dataset returned, and at a table of types that it
lets packages extend (``torch.utils.data._utils.collate.default_collate_fn_map``, as its documentation says).
Our datasets return a whole batch for a list of indices, and wrappers that know no ``__getitems__`` a list of batches of
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data._utils.collate import default_collate_fn_map

from .batches import Batch, QuestionBatch, VideoBatch


def collate(batch: Batch | Sequence[Batch], *, collate_fn_map: Any = None) -> Batch:
    """Return a batch as it is, and a list of batches as one batch.

    Parameters
    ----------
    batch
        What a dataset returned.
    collate_fn_map
        PyTorch's table, which is not needed.
    """
    return batch if isinstance(batch, Batch) else type(batch[0]).join(batch)


default_collate_fn_map.update({QuestionBatch: collate, VideoBatch: collate})
