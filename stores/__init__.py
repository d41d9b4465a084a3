"""Shard files, tables, manifests and the ``Store`` that reads them. Imports no other house."""

from .errors import StoreError
from .store import FeatureInfo, Ragged, Store

__all__ = ["FeatureInfo", "Ragged", "Store", "StoreError"]
