"""Turns questions into graphs: read annotations, parse texts that no run has parsed yet, write tables, commit."""

from pipeline.parse.config import ParseConfig, load_parse_config
from pipeline.parse.request import ParseRequest
from pipeline.parse.run import ParseResult, parse

__all__ = ["ParseConfig", "ParseRequest", "ParseResult", "load_parse_config", "parse"]
