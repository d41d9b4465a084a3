"""Turns a dependency parse (Universal Dependencies v2) into a graph of typed subject–predicate–object triples.

The form is that of open information extraction: the preposition of an oblique argument joins the predicate.

    the boy threw the ball through the hoop     (boy, throw, ball)  (boy, throw through, hoop)
    which object was taken by the person        (person, take, which object)
    where is the small dog                      (small dog, be, where)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parsers.clauses import Argument, Clause, clauses, is_degree, is_negative, is_predicate, is_wh, prepositions
from parsers.parse import Parse
from parsers.trees import Tree, base

_NAME_RELATIONS = frozenset({"compound", "flat", "fixed", "goeswith", "amod", "nummod"})
_WH_MODIFIERS = frozenset({("det", "NOUN"), ("nmod:poss", "NOUN")})
"""Relation of a question word to the word that it modifies, and that word's upos: which object, whose dog."""


@dataclass(frozen=True, slots=True)
class Triple:
    """Who does what to whom.

    Attributes
    ----------
    subject, object
        A noun with its compound parts, adjectives and numbers ("two washing machines") and its question word ("which
        object", "how many people"). A clause is represented by its verb. None where the text names none.
    predicate
        Lemma of the verb, its particle, and the object's preposition: "pick up", "throw through", "be in". None
        without a copula ("the baby happy").
    subject_tokens, predicate_tokens, object_tokens
        Positions in the parse's tokens, ascending.
    relation
        What the object is to the predicate. ``obj``, ``iobj``, ``obl``, ``xcomp`` and ``ccomp`` are those of Universal
        Dependencies. ``cop`` is what a copula says about the subject; ``advmod`` is where, when, why or how.
        ``intransitive`` and ``existential`` (there is …) have no object. In a passive clause, ``passive`` has the
        agent as subject and the patient as object, as if the clause were active; the other relations have the patient
        as subject and end in ``:pass``.
    negated
        Whether not, n't, never, without or instead negates the predicate, or no the subject or object.
    """

    subject: str | None
    predicate: str | None
    object: str | None
    subject_tokens: tuple[int, ...]
    predicate_tokens: tuple[int, ...]
    object_tokens: tuple[int, ...]
    relation: str
    negated: bool


def triples(parse: Parse) -> list[Triple]:
    """Return the triples of a parse, in the order of predicate, object and subject; none if it has no clause.

    Any parse is accepted: heads that are out of range and cycles are cut.
    """
    tree = Tree(parse)
    graph = []
    for clause in clauses(tree):
        distinct = dict.fromkeys(_triples(tree, clause))
        graph += sorted(distinct, key=lambda triple: (triple.object_tokens, triple.subject_tokens, triple.relation))
    return graph


def _triples(tree: Tree, clause: Clause) -> Iterator[Triple]:
    if clause.passive:
        for agent in _or_none(clause.subjects):
            for patient in _or_none(clause.patients):
                yield _triple(tree, clause, agent, Argument("passive", patient))
    arguments = clause.arguments
    if not arguments and not clause.passive:
        arguments = [Argument("existential" if clause.existential else "intransitive", None)]
    for argument in arguments:
        if clause.passive:
            argument = Argument(f"{argument.slot}:pass", argument.head, argument.prepositions)
        for subject in _or_none(clause.grammatical_subjects):
            yield _triple(tree, clause, subject, argument)


def _or_none(words: Sequence[int]) -> Sequence[int | None]:
    return words or (None,)


def _triple(tree: Tree, clause: Clause, subject: int | None, argument: Argument) -> Triple:
    # A complement of a copula joins the predicate if something depends on it (he | be afraid of | what). It is itself
    # the object of "cop" (he | be | afraid), and "advmod" asks about the whole clause (ipod | be | why).
    alone = clause.verbal or argument.slot in ("cop", "advmod")
    complement = () if alone else (*prepositions(tree, clause.predicate), clause.predicate)
    predicate_tokens = clause.verbs + complement + argument.prepositions
    subject_tokens = _phrase(tree, subject)
    object_tokens = _phrase(tree, argument.head)
    return Triple(
        subject=_text(tree, subject_tokens),
        predicate=" ".join(_lemma(tree, word) for word in predicate_tokens) or None,
        object=_text(tree, object_tokens),
        subject_tokens=subject_tokens,
        predicate_tokens=tuple(sorted(predicate_tokens)),
        object_tokens=object_tokens,
        relation=argument.slot,
        negated=clause.negated or any(is_negative(tree, word) for word in (subject, argument.head) if word is not None),
    )


def _phrase(tree: Tree, head: int | None) -> tuple[int, ...]:
    """Return the words of a node: a noun's name, adjectives and numbers, or a verb and its particles."""
    if head is None:
        return ()
    if tree.tokens[head].upos == "VERB" and is_predicate(tree, head):
        return tuple(sorted([head, *tree.dependents(head, "compound:prt")]))
    return tuple(sorted(tree.descend([head], lambda word, child: _belongs_to_phrase(tree, word, child))))


def _belongs_to_phrase(tree: Tree, word: int, child: int) -> bool:
    relation = tree.relation(child)
    if base(relation) in _NAME_RELATIONS:
        return True
    if relation == "advmod":
        return is_degree(tree, child)
    return is_wh(tree, child) and (relation, tree.tokens[word].upos) in _WH_MODIFIERS


def _text(tree: Tree, words: tuple[int, ...]) -> str | None:
    return " ".join(tree.tokens[word].text for word in words) or None


def _lemma(tree: Tree, word: int) -> str:
    token = tree.tokens[word]
    return (token.lemma if token.upos in ("VERB", "AUX") and token.lemma else token.text).lower()
