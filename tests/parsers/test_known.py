"""Looking up parses in a CoNLL-U file."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsers.known import ConlluParser
from parsers.parse import ParserError

LINE = "# text = run\n1\trun\trun\t{upos}\t_\t_\t0\troot\t_\t_\n\n"


def test_the_first_parse_of_a_text_counts_and_order_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "known.conllu"
    path.write_text(
        LINE.format(upos="VERB") + LINE.format(upos="NOUN") + LINE.replace("run", "sit").format(upos="VERB")
    )
    parser = ConlluParser(path)
    assert [parse.text for parse in parser.parse(["sit", "run"])] == ["sit", "run"]
    assert parser.parse(["run"])[0].tokens[0].upos == "VERB"


def test_its_digest_is_that_of_the_file(tmp_path: Path) -> None:
    digests = []
    for upos in ("VERB", "NOUN", "VERB"):
        (tmp_path / "x.conllu").write_text(LINE.format(upos=upos))
        digests.append(ConlluParser(tmp_path / "x.conllu").digest)
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not readable"),
        (b"\xff", "not UTF-8"),
        (b"1\tx\n", "line 1"),
        (LINE.format(upos="VERB").encode(), "holds no parse of 'walk' and 1 more; add it, or parse with Stanza"),
    ],
)
def test_what_cannot_be_looked_up_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.conllu"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParserError, match=message) as caught:
        ConlluParser(path).parse(["run", "walk", "fly"])
    assert "\n" not in str(caught.value)
