"""Read feature stores of videos: verified rows in memory-mapped shards, in versions that never change.

Installed with ``pip install reelstore``, this package is called ``reelstore``; in a checkout of Reelstore, where the
stages that fill stores live, it is ``stores``.

>>> from reelstore import Store
>>> store = Store.open("stores/nextgqa")  # pins the latest version
>>> key = store.keys("clip")[0]
>>> values = store.row("clip", key)  # [T, C] float16, a view of the file
>>> seconds, valid = store.times("clip", key), store.valid("clip", key)  # [T] float64 and [T] bool
>>> batch = store.read("clip", store.keys("clip")[:8])  # [8, T, C], a copy

``reelstore.loading`` has the PyTorch datasets and samplers, ``reelstore.testing`` a hypothesis state machine for
whoever builds on the reader. ``docs/format.md`` specifies the files.
"""

from .errors import (
    ExchangeError,
    InvalidKeyError,
    MissingKeyError,
    RaggedRowsError,
    SharingError,
    StoreDamageError,
    StoreError,
    StoreFormatError,
    StoreNotFoundError,
    UnsupportedFilesystemError,
)
from .store import FeatureInfo, Ragged, Store

__all__ = [
    "ExchangeError",
    "FeatureInfo",
    "InvalidKeyError",
    "MissingKeyError",
    "Ragged",
    "RaggedRowsError",
    "SharingError",
    "Store",
    "StoreDamageError",
    "StoreError",
    "StoreFormatError",
    "StoreNotFoundError",
    "UnsupportedFilesystemError",
]
