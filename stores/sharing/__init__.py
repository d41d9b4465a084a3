"""Share stores: publish versions at a place (a folder, a bucket, a hub), fetch them, read them from there."""

from .addresses import is_address, open_place
from .cached import VARIABLE, Cache, cache_folder, open_cache
from .parts import Selection
from .places import Place
from .transfer import Transfer, pull, push

__all__ = [
    "VARIABLE",
    "Cache",
    "Place",
    "Selection",
    "Transfer",
    "cache_folder",
    "is_address",
    "open_cache",
    "open_place",
    "pull",
    "push",
]
