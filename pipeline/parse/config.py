"""Configures a parse: built-in defaults, a file and ``--set``, merged into one validated value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from settings import Section, override, read_yaml, validate


class StanzaConfig(Section):
    """The Stanza parser. Neither device, batch nor threads change a parse."""

    dir: Path | None = None
    """Folder of the models; Stanza's own if not given."""
    lang: Annotated[str, Field(min_length=1)] = "en"
    """Language of the texts."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run."""
    batch: Annotated[int, Field(ge=1, le=65536)] = 512
    """Number of texts that are parsed and committed together."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of each parser. One is the fastest: the networks are small, and threads that wait for each other on a
    busy machine make them more than ten times slower."""


class GraphConfig(Section):
    """How graphs are made from parses."""

    enabled: bool = True
    """Whether to make graphs; otherwise only the questions are stored."""
    released: bool = False
    """Whether nodes are those of the released code, which finds no passive subjects."""


class ParseRunConfig(Section):
    """How the work is spread over a machine or a cluster."""

    actors: Annotated[int, Field(ge=1)] | None = None
    """Most parsers at work at the same time, each in a process of its own. If not given: as many as GPUs, or else as
    CPUs; on one machine one if it has a GPU, or else as many as CPUs and memory allow and as the texts are worth."""


class ParseConfig(Section):
    """Everything that a parse needs to know besides the annotations and the store."""

    stanza: StanzaConfig = StanzaConfig()
    conllu: Path | None = None
    """A CoNLL-U file that holds the parse of every text; Stanza is then not used."""
    graph: GraphConfig = GraphConfig()
    run: ParseRunConfig = ParseRunConfig()


def load_parse_config(
    file: Path | None = None, overrides: Sequence[str] = (), stanza_dir: Path | None = None
) -> ParseConfig:
    """Read the defaults, a YAML file on top, then ``a.b=c`` overrides in order, and validate.

    Raises
    ------
    SettingsError
        With one line that names the file or option and the key.
    """
    raw = {} if file is None else read_yaml(file, str(file))
    for text in overrides:
        override(raw, text)
    config = validate(ParseConfig, raw, "parse" if file is None else str(file))
    if stanza_dir is None:
        return config
    return config.model_copy(update={"stanza": config.stanza.model_copy(update={"dir": stanza_dir})})
