"""Turns annotation files into questions, texts into parses, parses into graphs, and vectors into dictionaries.

Arrays and tables go in and come out: nothing here knows a store, Ray or a network. Stanza is imported by the first
parse.
"""

from parsers.confounders import Dictionary, DictionaryError, fit_dictionary
from parsers.kmeans import KMeansParameters, Vectors
from parsers.known import ConlluParser
from parsers.parse import (
    Parse,
    ParserError,
    Refused,
    first_refused,
    parses_from_table,
    parses_table,
    refused_from_table,
)
from parsers.stanza_parser import StanzaParser

__all__ = [
    "ConlluParser",
    "Dictionary",
    "DictionaryError",
    "KMeansParameters",
    "Parse",
    "ParserError",
    "Refused",
    "StanzaParser",
    "Vectors",
    "first_refused",
    "fit_dictionary",
    "parses_from_table",
    "parses_table",
    "refused_from_table",
]
