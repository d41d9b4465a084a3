"""Settings of a parse run: built-in defaults, a file, and ``--set`` merged into one validated value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from settings import Section, override, read_yaml, validate


class StanzaConfig(Section):
    """The parser. Neither device, batch nor threads change a parse.

    One thread is the fastest: the networks are small, and threads that wait for each other on a busy machine make them
    more than ten times slower.
    """

    dir: Path | None = None
    lang: Annotated[str, Field(min_length=1)] = "en"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Annotated[int, Field(ge=1, le=65536)] = 512
    threads: Annotated[int, Field(ge=1)] = 1


class GraphConfig(Section):
    """``enabled: false`` stores questions only. ``released``: nodes as the released code, without passive subjects."""

    enabled: bool = True
    released: bool = False


class ParseRunConfig(Section):
    """How the work is spread on a cluster."""

    actors: Annotated[int, Field(ge=1)] | None = None


class ParseConfig(Section):
    """Everything that a parse run needs to know besides the annotations and the store.

    ``conllu`` names a CoNLL-U file that holds the parse of every text; Stanza is not used then.
    """

    stanza: StanzaConfig = StanzaConfig()
    conllu: Path | None = None
    graph: GraphConfig = GraphConfig()
    run: ParseRunConfig = ParseRunConfig()


def load_parse_config(
    file: Path | None = None, overrides: Sequence[str] = (), stanza_dir: Path | None = None
) -> ParseConfig:
    """The defaults, a YAML file on top, then ``a.b=c`` overrides in order.

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
