"""Describe a store for a person: inspection, the dataset card, dictionaries, versions, where rows came from."""

from ..format.layout import MEMBERS
from .card import render_card, write_card
from .coverage import Coverage, PlanCoverage, SplitCoverage, coverage, coverage_lines
from .dictionaries import (
    KINDS,
    RECORD,
    DictionaryDescription,
    DictionaryKind,
    StoredDictionary,
    describe_dictionary,
    dictionary_name,
    find_dictionary,
    stored_dictionaries,
)
from .inspect import KeyDescription, StoreDescription, describe_key, describe_store, rounding_errors
from .origins import Origin, RowName, find_origins
from .versions import Difference, KeyChanges, VersionDescription, diff, history
from .videos import VideoRow, count_questions, facts_of, rows_of

__all__ = [
    "KINDS",
    "MEMBERS",
    "RECORD",
    "Coverage",
    "DictionaryDescription",
    "DictionaryKind",
    "Difference",
    "KeyChanges",
    "KeyDescription",
    "Origin",
    "PlanCoverage",
    "RowName",
    "SplitCoverage",
    "StoreDescription",
    "StoredDictionary",
    "VersionDescription",
    "VideoRow",
    "count_questions",
    "coverage",
    "coverage_lines",
    "describe_dictionary",
    "describe_key",
    "describe_store",
    "dictionary_name",
    "diff",
    "facts_of",
    "find_dictionary",
    "find_origins",
    "history",
    "render_card",
    "rounding_errors",
    "rows_of",
    "stored_dictionaries",
    "write_card",
]
