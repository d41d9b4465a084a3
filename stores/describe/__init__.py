"""Describe a store for a person: inspection, the dataset card, the HTML page, dictionaries."""

from .card import render_card, write_card
from .dictionaries import (
    KINDS,
    MEMBERS,
    RECORD,
    DictionaryDescription,
    DictionaryKind,
    describe_dictionary,
    dictionary_spec,
)
from .inspect import KeyDescription, StoreDescription, describe_key, describe_store, rounding_errors
from .page import render_page, write_page

__all__ = [
    "KINDS",
    "MEMBERS",
    "RECORD",
    "DictionaryDescription",
    "DictionaryKind",
    "KeyDescription",
    "StoreDescription",
    "describe_dictionary",
    "describe_key",
    "describe_store",
    "dictionary_spec",
    "render_card",
    "render_page",
    "rounding_errors",
    "write_card",
    "write_page",
]
