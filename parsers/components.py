"""Makes the published 8-node graph of a question and its answer, in token order.

Source: ``sample_linguistic_feature.ipynb`` of CRA, described in ``docs/facts/cra.md`` sections 4.1 and 4.3.
"""

from __future__ import annotations

from parsers.parse import Parse, Token

NODES = (
    "question",
    "question_type",
    "subject",
    "verbs",
    "objects",
    "answer",
    "answer_verbs",
    "answer_objects",
)
"""The nodes of the graph, in the published order."""

EDGES = ((0, 5), (0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (2, 3), (4, 3), (5, 6), (5, 7), (6, 7), (2, 5))
"""The directed edges (source, target) of the graph, as positions in ``NODES``, in the published order."""

_SUBJECTS = frozenset({"nsubj", "nsubj:pass", "nsubjpass"})
_RELEASED_SUBJECTS = frozenset({"nsubj", "nsubjpass"})


def components(question: Parse, answer: Parse, released: bool = False) -> dict[str, str | list[str] | None]:
    """Return the eight components of a question and its answer, keyed and ordered as ``NODES``.

    Lists hold each text once, in the order of its first occurrence. The published code goes through a set, whose order
    changes from run to run.

    Parameters
    ----------
    question, answer
        Parses of the two texts.
    released
        Recognise a passive subject only by its UD v1 label ``nsubjpass``, as the released code does. Stanza writes
        ``nsubj:pass``, so a passive subject then becomes one of the objects.
    """
    subjects = _RELEASED_SUBJECTS if released else _SUBJECTS

    def first(tokens: tuple[Token, ...], wanted: frozenset[str], column: str) -> str | None:
        return next((token.text for token in tokens if getattr(token, column) in wanted), None)

    def unique(tokens: tuple[Token, ...], upos: set[str], without: frozenset[str] = frozenset()) -> list[str]:
        return list(dict.fromkeys(t.text for t in tokens if t.upos in upos and t.deprel not in without))

    return {
        "question": " ".join(token.text for token in question.tokens),
        "question_type": first(question.tokens, frozenset({"PRON", "ADV", "DET"}), "upos"),
        "subject": first(question.tokens, subjects, "deprel"),
        "verbs": unique(question.tokens, {"VERB"}),
        "objects": unique(question.tokens, {"NOUN", "PROPN", "ADJ"}, subjects),
        "answer": " ".join(token.text for token in answer.tokens),
        "answer_verbs": unique(answer.tokens, {"VERB"}),
        "answer_objects": unique(answer.tokens, {"NOUN", "PROPN"}, subjects),
    }


def node_texts(components: dict[str, str | list[str] | None]) -> list[str]:
    """Return the text of each node, in the order of ``NODES``.

    A list is joined by blanks, and a missing component is the empty text (``docs/facts/cra.md`` section 4.2).
    """
    values = [components[name] for name in NODES]
    return [" ".join(value) if isinstance(value, list) else value or "" for value in values]
