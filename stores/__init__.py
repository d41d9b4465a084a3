"""Shard files, tables, manifests and the ``Store`` that reads them. Imports no other house."""

from stores.errors import StoreError
from stores.store import FeatureInfo, Ragged, Store

__all__ = ["FeatureInfo", "Ragged", "Store", "StoreError"]
