"""Triples of hand-written parses, and of any parse at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers.conllu import from_conllu
from parsers.graphs import triples
from parsers.parse import Parse, Token

BLOCKS = [
    block
    for name in ("graphs.conllu", "questions.conllu")
    for block in Path(__file__).with_name(name).read_text(encoding="utf-8").strip().split("\n\n")[1:]
]
CASES = {re.search(r"# name = (.*)", block)[1]: block for block in BLOCKS}
RELATIONS = re.findall(
    r"\S+",
    "nsubj nsubj:pass csubj csubj:pass obj iobj obl obl:agent xcomp ccomp advcl acl acl:relcl conj cc root aux "
    "aux:pass cop case mark det advmod amod nummod compound compound:prt flat fixed expl parataxis punct dep nonsense",
)
WORDS = ("what", "who", "that", "there", "no", "not", "to", "why", "boy", "run", "", "ÄÖ", "😀")
POS = ("NOUN", "VERB", "AUX", "PRON", "ADV", "ADJ", "ADP", "DET", "PART", "PUNCT", "", "X")


def written(block: str) -> list[str]:
    return re.findall(r"# triple = (.*)", block)


def rendered(block: str) -> list[str]:
    (parse,) = from_conllu(block)
    return [
        " | ".join([t.subject or "-", t.predicate or "-", t.object or "-", t.relation, *["negated"] * t.negated])
        for t in triples(parse)
    ]


def test_there_are_at_least_a_hundred_written_parses() -> None:
    assert len(CASES) == len(BLOCKS) >= 100


@pytest.mark.parametrize("name", CASES)
def test_written_parse(name: str) -> None:
    assert rendered(CASES[name]) == written(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_token_positions_are_those_of_the_words(name: str) -> None:
    (parse,) = from_conllu(CASES[name])
    for triple in triples(parse):
        for text, positions in [(triple.subject, triple.subject_tokens), (triple.object, triple.object_tokens)]:
            assert (text or "") == " ".join(parse.tokens[position].text for position in positions)
        lemmas = sorted((parse.tokens[position].lemma for position in triple.predicate_tokens), key=str)
        assert sorted((triple.predicate or "").split()) == lemmas


def test_triples_of_a_second_sentence_count_words_from_the_start_of_the_text() -> None:
    blocks = [CASES["no object"], CASES["imperative"]]
    (parse,) = from_conllu("# newdoc\n" + "\n\n".join(blocks))
    graph = triples(parse)
    assert [(t.subject, t.predicate, t.object) for t in graph] == [("he", "have", "shoes"), (None, "open", "door")]
    assert [t.predicate_tokens for t in graph] == [(1,), (4,)]


token = st.builds(
    Token,
    text=st.sampled_from(WORDS),
    lemma=st.sampled_from(WORDS),
    upos=st.sampled_from(POS),
    xpos=st.sampled_from(["", "VBN"]),
    feats=st.sampled_from(["", "Polarity=Neg", "VerbForm=Part|Tense=Past", "Tense=Past|VerbForm=Part", "|="]),
    head=st.integers(-2, 14),
    deprel=st.sampled_from(RELATIONS),
    sentence=st.integers(0, 1),
    start=st.just(0),
    end=st.just(0),
)


@given(st.lists(token, max_size=12))
def test_any_parse_gives_triples(words: list[Token]) -> None:
    """Cycles, heads out of range and unknown labels raise nothing, end, and give the same triples twice."""
    parse = Parse("", tuple(sorted(words, key=lambda word: word.sentence)))
    graph = triples(parse)
    assert graph == triples(parse)
    for triple in graph:
        for positions in (triple.subject_tokens, triple.predicate_tokens, triple.object_tokens):
            assert positions == tuple(sorted(set(positions)))
            assert all(0 <= position < len(words) for position in positions)
            assert len({parse.tokens[position].sentence for position in positions}) <= 1


def test_three_thousand_words_in_a_chain() -> None:
    """The deepest tree of a parser must not exhaust the stack."""
    words = tuple(Token("go", "go", "VERB", "", "", n, "xcomp" if n else "root", 0, 0, 2) for n in range(3000))
    assert len(triples(Parse("", words))) == 3000
