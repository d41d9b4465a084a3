"""Turns annotation files into questions, texts into parses, parses into graphs, and vectors into dictionaries.

Arrays and tables go in and come out: nothing here knows a store, Ray or a network. Stanza is imported by the first
parse.
"""

from parsers.confounders import Dictionary, DictionaryError, KMeansParameters, fit_dictionary
from parsers.known import ConlluParser
from parsers.parse import Parse, ParserError, parses_from_table, parses_table
from parsers.stanza_parser import StanzaParser

__all__ = [
    "ConlluParser",
    "Dictionary",
    "DictionaryError",
    "KMeansParameters",
    "Parse",
    "ParserError",
    "StanzaParser",
    "fit_dictionary",
    "parses_from_table",
    "parses_table",
]
