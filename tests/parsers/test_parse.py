"""Parses as values and as a table, and reading them from CoNLL-U."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.conllu import from_conllu
from parsers.parse import (
    PARSES,
    Parse,
    ParserError,
    Refused,
    Token,
    first_refused,
    parses_from_table,
    parses_table,
    refused_from_table,
)

WONT = """\
# newdoc id = a
# text = He won't.
1\tHe\the\tPRON\tPRP\tCase=Nom\t3\tnsubj\t_\t_
2-3\twon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
2\two\twill\tAUX\tMD\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_
4\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

# text = Stop!
1\tStop\tstop\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
2\t!\t!\tPUNCT\t.\t_\t1\tpunct\t_\t_

# newdoc id = b
1-2\tdel\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_
2\tel\tel\tDET\t_\t_\t3\tdet\t_\t_
3\tgato\tgato\tNOUN\t_\t_\t0\troot\t_\t_
"""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.integers(0, 2**31 - 1)
tokens = st.builds(Token, texts, texts, texts, texts, texts, numbers, texts, numbers, numbers, numbers)
parses = st.builds(Parse, texts, st.lists(tokens, max_size=4).map(tuple))
refusals = st.builds(Refused, texts, st.sampled_from(["text_too_long", "parser_failed"]), texts)


@given(st.lists(parses | refusals, max_size=5, unique_by=lambda parse: parse.text))
def test_a_table_gives_back_its_parses_and_refusals_in_order(written: list[Parse | Refused]) -> None:
    table = parses_table(written)
    assert table.schema == PARSES
    for kind, read in ((Parse, parses_from_table(table)), (Refused, refused_from_table(table))):
        assert list(read.items()) == [(parse.text, parse) for parse in written if isinstance(parse, kind)]


def test_a_refusal_is_one_column_that_a_parse_leaves_null() -> None:
    parse = Parse("a", (Token("a", "", "X", "", "", 0, "root", 0, 0, 1),))
    table = parses_table([parse, Refused("b", "text_too_long", "has 9 words")])
    assert table["error"].to_pylist() == [None, "text_too_long: has 9 words"]
    assert table["tokens"][1].as_py() == []
    # Older versions wrote no such column.
    older = table.slice(0, 1).drop_columns(["error"])
    assert parses_from_table(older) == {"a": parse}
    assert refused_from_table(older) == {}


def test_a_question_has_no_graph_if_one_of_its_texts_is_refused() -> None:
    long = Refused("long", "text_too_long", "has 9 words")
    refused = {"long": long}
    assert first_refused(refused, "long", "yes") is long
    assert first_refused(refused, "who", "long") is long
    assert first_refused(refused, "who", None) is None


def test_a_table_in_several_chunks() -> None:
    one, two = (parses_table([Parse(text, (Token(text, "", "X", "", "", 0, "root", 0, 0, 1),))]) for text in "ab")
    assert list(parses_from_table(pa.concat_tables([one, two]))) == ["a", "b"]


def test_conllu_documents_contractions_and_empty_nodes() -> None:
    first, second = from_conllu(WONT)
    assert first.text == "He won't. Stop!"
    assert [token.text for token in first.tokens] == ["He", "wo", "n't", ".", "Stop", "!"]
    assert [first.text[token.start : token.end] for token in first.tokens] == ["He", "wo", "n't", ".", "Stop", "!"]
    assert [token.head for token in first.tokens] == [3, 0, 2, 2, 0, 1]
    assert [list(sentence) for sentence in first.sentences()] == [[0, 1, 2, 3], [4, 5]]
    assert (first.tokens[0].feats, first.tokens[1].feats) == ("Case=Nom", "")
    assert second.text == "del gato"
    # The words of "del" do not add up to its letters, so each of them covers all of it.
    assert [second.text[token.start : token.end] for token in second.tokens] == ["del", "del", "gato"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\ta\ta", r"line 1: must have 10 columns separated by tabs \(got 3\)"),
        ("x\ta\ta\tX\t_\t_\t0\troot\t_\t_", "line 1: ID 'x' is neither a number nor a range"),
        ("1\ta\ta\tX\t_\t_\t_\troot\t_\t_", "line 1: HEAD '_' is not a number"),
        ("# text = b\n1\ta\ta\tX\t_\t_\t0\troot\t_\t_", "line 1: 'a' is not in the text, or not in this order"),
    ],
)
def test_bad_conllu_is_one_line_with_its_place(line: str, message: str) -> None:
    with pytest.raises(ParserError, match=f"^some.conllu {message}$"):
        from_conllu(line, origin="some.conllu")
