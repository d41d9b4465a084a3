"""Describe a store for a person: inspection, the dataset card, the HTML page, dictionaries, versions."""

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
from .page import render_page, write_page
from .versions import Difference, KeyChanges, VersionDescription, diff, history

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
    "PlanCoverage",
    "SplitCoverage",
    "StoreDescription",
    "StoredDictionary",
    "VersionDescription",
    "coverage",
    "coverage_lines",
    "describe_dictionary",
    "describe_key",
    "describe_store",
    "dictionary_name",
    "diff",
    "find_dictionary",
    "history",
    "render_card",
    "render_page",
    "rounding_errors",
    "stored_dictionaries",
    "write_card",
    "write_page",
]
