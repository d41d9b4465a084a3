"""The published extraction of 8 components: the golden cases of ``docs/facts/cra.md`` section 4.1."""

from __future__ import annotations

import pytest

from parsers.components import EDGES, NODES, components, node_texts
from parsers.parse import Parse, Token

BOY = (
    "why/ADV/advmod did/AUX/aux the/DET/det boy/NOUN/nsubj pick/VERB/root up/ADP/compound:prt one/NUM/nummod "
    "present/NOUN/obj"
)
OBJECT = (
    "Which/DET/det object/NOUN/nsubj:pass was/AUX/aux:pass taken/VERB/root by/ADP/case the/DET/det "
    "person/NOUN/obl:agent ?/PUNCT/punct"
)
BABY = "how/ADV/mark is/AUX/aux baby/NOUN/nsubj feeling/VERB/root"


def parse(words: str) -> Parse:
    triples = [word.rsplit("/", 2) for word in words.split()]
    return Parse("", tuple(Token(text, text, upos, "", "", 0, deprel, 0, 0, 0) for text, upos, deprel in triples))


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (
            BOY,
            "unwrap/VERB/root it/PRON/obj",
            {
                "question": "why did the boy pick up one present",
                "question_type": "why",
                "subject": "boy",
                "verbs": ["pick"],
                "objects": ["present"],
                "answer": "unwrap it",
                "answer_verbs": ["unwrap"],
                "answer_objects": [],
            },
        ),
        (
            OBJECT,
            "The/DET/det shoe/NOUN/root ./PUNCT/punct",
            {
                "question": "Which object was taken by the person ?",
                "question_type": "Which",
                "subject": None,
                "verbs": ["taken"],
                "objects": ["object", "person"],
                "answer": "The shoe .",
                "answer_verbs": [],
                "answer_objects": ["shoe"],
            },
        ),
        (
            BABY,
            "happy/ADJ/root",
            {
                "question": "how is baby feeling",
                "question_type": "how",
                "subject": "baby",
                "verbs": ["feeling"],
                "objects": [],
                "answer": "happy",
                "answer_verbs": [],
                "answer_objects": [],
            },
        ),
    ],
)
def test_released_components(question: str, answer: str, expected: dict[str, object]) -> None:
    result = components(parse(question), parse(answer), released=True)
    assert result == expected
    assert tuple(result) == NODES


@pytest.mark.parametrize("label", ["nsubj:pass", "nsubjpass"])
def test_a_passive_subject_is_a_subject(label: str) -> None:
    result = components(parse(OBJECT.replace("nsubj:pass", label)), parse("shoe/NOUN/root"))
    assert (result["subject"], result["objects"]) == ("object", ["person"])


def test_the_released_code_knows_the_passive_subject_of_ud_v1_only() -> None:
    result = components(parse(OBJECT.replace("nsubj:pass", "nsubjpass")), parse("shoe/NOUN/root"), released=True)
    assert (result["subject"], result["objects"]) == ("object", ["person"])


def test_lists_keep_the_order_of_the_words_and_each_text_once() -> None:
    words = "zebra/NOUN/obj eat/VERB/root ant/NOUN/obj zebra/NOUN/obl red/ADJ/amod run/VERB/conj eat/VERB/conj"
    result = components(parse(words), parse(words))
    assert result["objects"] == ["zebra", "ant", "red"]
    assert result["answer_objects"] == ["zebra", "ant"]
    assert result["verbs"] == ["eat", "run"]


def test_node_texts_are_joined_and_never_none() -> None:
    assert node_texts(components(parse(OBJECT), parse("The/DET/det shoe/NOUN/root"), released=True)) == [
        "Which object was taken by the person ?",
        "Which",
        "",
        "taken",
        "object person",
        "The shoe",
        "",
        "shoe",
    ]
    assert node_texts(components(Parse("", ()), Parse("", ()))) == [""] * 8


def test_edges_give_the_published_degrees() -> None:
    """In-degrees with the self loop, from ``docs/facts/cra.md`` section 4.5."""
    assert len(EDGES) == 12
    assert [1 + sum(target == node for _, target in EDGES) for node in range(8)] == [1, 2, 2, 4, 3, 3, 2, 3]
