"""Reads a source (a directory, a glob, or a csv, jsonl or Parquet table) into keyed videos, as columns."""

from pipeline.extract.sources.columns import SourceItem, Sources
from pipeline.extract.sources.names import IMAGES_HINT, VIDEO_SUFFIXES, KeyMode
from pipeline.extract.sources.reading import Listing, read_source
from pipeline.extract.sources.rules import Rules, outside
from pipeline.shared.errors import SourceError

__all__ = [
    "IMAGES_HINT",
    "VIDEO_SUFFIXES",
    "KeyMode",
    "Listing",
    "Rules",
    "SourceError",
    "SourceItem",
    "Sources",
    "outside",
    "read_source",
]
