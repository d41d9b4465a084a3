"""Finds who does what to whom in each clause of a dependency tree (Universal Dependencies v2).

A clause is a predicate word with its arguments. The table ``_SLOTS`` says what each dependent is to its predicate. The
table ``_LENDERS`` says from where a clause without a subject borrows one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from parsers.trees import Tree, base, has_feature

WH_WORDS = frozenset({"what", "who", "whom", "whose", "which", "where", "when", "why", "how"})
_RELATIVE_WORDS = WH_WORDS - {"what", "how"} | {"that"}
_NEGATIVE_WORDS = frozenset({"not", "n't", "never", "no"})
_CLAUSAL = frozenset({"root", "conj", "ccomp", "xcomp", "csubj", "advcl", "acl", "parataxis", "list", "dep"})

_SLOTS = {
    "nsubj": "subject",
    "csubj": "subject",
    "nsubj:pass": "patient",
    "csubj:pass": "patient",
    "obl:agent": "agent",
    "obj": "obj",
    "iobj": "iobj",
    "obl": "obl",
    "xcomp": "xcomp",
    "ccomp": "ccomp",
}
"""Relation to the predicate → slot in the clause. A subtype that is not listed counts as its base relation."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a predicate, other than its subject.

    Attributes
    ----------
    slot
        ``obj``, ``iobj``, ``obl``, ``xcomp`` or ``ccomp``, after the relation; ``cop``: what a copula says about the
        subject; ``advmod``: where, when, why or how.
    head
        Position of its head word; None for a stranded preposition, which has no noun.
    prepositions
        Positions of its case markers.
    """

    slot: str
    head: int | None
    prepositions: tuple[int, ...] = ()


@dataclass(slots=True)
class Clause:
    """A predicate with its arguments; words are given by their positions.

    Attributes
    ----------
    predicate
        The verb. In a clause without one, the word that describes the subject: "happy" in "the baby is happy".
    verbs
        The verb and its particles, or the copula.
    verbal
        Whether the predicate is a verb.
    passive
        Whether the verb is in the passive.
    existential
        Whether "there" stands in for the subject.
    negated
        Whether not, n't, never or no modifies the predicate.
    subjects, patients
        Who does it, and in a passive clause to whom it is done; several if they are coordinated.
    arguments
        All other arguments.
    """

    predicate: int
    verbs: tuple[int, ...]
    verbal: bool
    passive: bool
    existential: bool
    negated: bool
    subjects: list[int] = field(default_factory=list)
    patients: list[int] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)

    @property
    def grammatical_subjects(self) -> list[int]:
        """The patients of a passive clause, otherwise the subjects."""
        return self.patients if self.passive else self.subjects

    def heads(self, slot: str) -> list[int]:
        """Return the head words of the arguments in a slot."""
        return [argument.head for argument in self.arguments if argument.slot == slot and argument.head is not None]


def clauses(tree: Tree) -> list[Clause]:
    """Return the clauses of a tree, in the order of their predicates."""
    relatives = _relative_words(tree)
    by_predicate: dict[int, Clause] = {}
    # Top down, because a clause borrows only from clauses above it.
    for position in tree.top_down:
        if is_predicate(tree, position):
            above = by_predicate.get(tree.heads[position])
            clause = _own_clause(tree, position, relatives, above)
            _borrow(tree, clause, above)
            by_predicate[position] = clause
    for position, clause in by_predicate.items():
        noun = tree.heads[position]
        if tree.relation(position) == "acl:relcl" and noun >= 0 and position not in relatives.values():
            _fill_gap(tree, clause, noun, by_predicate)
    return [by_predicate[position] for position in sorted(by_predicate)]


def is_predicate(tree: Tree, position: int) -> bool:
    """Return whether a word heads a clause.

    It does if it has a subject, copula or expletive, or if it is a verb that stands for a clause or has an object.
    """
    if tree.dependents(position, "nsubj", "csubj", "cop", "expl"):
        return True
    upos = tree.tokens[position].upos
    if upos == "VERB" and base(tree.relation(position)) in _CLAUSAL:
        return True
    return upos in ("VERB", "AUX") and bool(tree.dependents(position, "obj", "iobj", "obl:agent"))


def is_wh(tree: Tree, position: int) -> bool:
    """Return whether a word is a question word, such as what, which or how."""
    return tree.tokens[position].lemma.lower() in WH_WORDS


def is_negative(tree: Tree, position: int) -> bool:
    """Return whether not, n't, never or no modifies the word."""
    return any(
        tree.tokens[child].lemma.lower() in _NEGATIVE_WORDS or has_feature(tree.tokens[child], "Polarity=Neg")
        for child in tree.dependents(position, "advmod", "det")
    )


def _own_clause(tree: Tree, position: int, relatives: dict[int, int], above: Clause | None) -> Clause:
    """Return the clause of a predicate, with the arguments that are its own dependents."""
    copulas = tree.dependents(position, "cop")
    verbal = not copulas and tree.tokens[position].upos in ("VERB", "AUX")
    clause = Clause(
        predicate=position,
        verbs=tuple(sorted([position, *tree.dependents(position, "compound:prt")]) if verbal else copulas),
        verbal=verbal,
        passive=verbal and _is_passive(tree, position, above),
        existential=any(tree.tokens[child].lemma.lower() == "there" for child in tree.dependents(position, "expl")),
        negated=is_negative(tree, position),
    )
    if not verbal:
        clause.arguments += _coordinated(tree, "cop", position)
    for child in tree.children[position]:
        relation = tree.relation(child)
        slot = _SLOTS.get(relation) or _SLOTS.get(base(relation))
        if slot is None and relation == "advmod" and is_wh(tree, child):
            # In "he cried when she left" the word joins two clauses and asks nothing.
            slot = "advmod" if base(tree.relation(position)) != "advcl" else None
        if slot is not None:
            _place(tree, clause, slot, child, relatives)
    return clause


def _place(tree: Tree, clause: Clause, slot: str, child: int, relatives: dict[int, int]) -> None:
    """Put a dependent, and the words coordinated with it, into its slot; the noun replaces a relative word."""
    arguments = [
        replace(argument, head=tree.heads[relatives[argument.head]]) if argument.head in relatives else argument
        for argument in _coordinated(tree, slot, child)
    ]
    heads = [argument.head for argument in arguments if argument.head is not None]
    if slot == "patient" or (slot == "subject" and clause.passive):
        clause.patients += heads
    elif slot in ("subject", "agent"):
        clause.subjects += heads
    else:
        clause.arguments += arguments


def _coordinated(tree: Tree, slot: str, first: int) -> list[Argument]:
    """Return an argument for a word and each conjunct; one without prepositions takes those of the first."""
    if slot == "obl" and tree.tokens[first].upos == "ADP":
        return [Argument(slot, None, (first,))]
    words = tree.descend([first], lambda _, child: _is_conjunct(tree, child))
    shared = prepositions(tree, first)
    return [Argument(slot, word, prepositions(tree, word) or shared) for word in sorted(words)]


def _is_conjunct(tree: Tree, position: int) -> bool:
    return base(tree.relation(position)) == "conj" and not is_predicate(tree, position)


def prepositions(tree: Tree, position: int) -> tuple[int, ...]:
    """Return the case markers of a word, with all words of a fixed one (because of)."""
    cases = tree.dependents(position, "case")
    return tuple(sorted(cases + [part for case in cases for part in tree.dependents(case, "fixed")]))


def _is_passive(tree: Tree, position: int, above: Clause | None) -> bool:
    if tree.dependents(position, "nsubj:pass", "csubj:pass", "aux:pass", "obl:agent"):
        return True
    token = tree.tokens[position]
    participle = token.xpos == "VBN" or {"VerbForm=Part", "Tense=Past"} <= set(token.feats.split("|"))
    if not participle or tree.dependents(position, "aux", "nsubj"):
        return False
    relation = base(tree.relation(position))
    return relation in ("acl", "advcl", "xcomp") or (relation == "conj" and above is not None and above.passive)


def _borrow(tree: Tree, clause: Clause, above: Clause | None) -> None:
    """Lend a clause without a subject one from above, and a conjunct the object or agent that follows both."""
    relation = base(tree.relation(clause.predicate))
    lender = _LENDERS.get(relation)
    if lender is not None and not clause.grammatical_subjects:
        lent = lender(tree, clause, above)
        if clause.passive:
            clause.patients = lent
        else:
            clause.subjects = lent
    if relation == "conj" and above is not None and above.verbal and clause.verbal:
        if not clause.passive and not clause.heads("obj"):
            clause.arguments += [
                argument
                for argument in above.arguments
                if argument.slot == "obj" and (argument.head or 0) > clause.predicate
            ]
        if clause.passive and above.passive and not clause.subjects:
            clause.subjects = [agent for agent in above.subjects if agent > clause.predicate]


def _subject_above(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    return list(above.grammatical_subjects) if above is not None else []


def _controller(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """Return the object if there is one (she asked him to go), else the subject (she wants to go)."""
    return (above.heads("obj") if above is not None else []) or _subject_above(tree, clause, above)


def _head_noun(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """Return the noun that a participle or relative clause modifies; none for an infinitive (food to eat)."""
    head = tree.heads[clause.predicate]
    infinitive = any(tree.tokens[mark].lemma == "to" for mark in tree.dependents(clause.predicate, "mark"))
    return [] if infinitive or head < 0 else [head]


_LENDERS: dict[str, Callable[[Tree, Clause, Clause | None], list[int]]] = {
    "conj": _subject_above,
    "advcl": _subject_above,
    "xcomp": _controller,
    "acl": _head_noun,
}
"""Relation of a clause to the word above it → function that finds its subject."""


def _relative_words(tree: Tree) -> dict[int, int]:
    """Return the relative words (who, which, that, where, …), each with the predicate of its relative clause."""
    relatives = {}
    for position, token in enumerate(tree.tokens):
        if token.lemma.lower() not in _RELATIVE_WORDS or token.upos not in ("PRON", "DET", "ADV"):
            continue
        clause = next((word for word in tree.ancestors(position) if tree.relation(word) == "acl:relcl"), None)
        if clause is not None and position < clause and tree.heads[clause] >= 0:
            relatives[position] = clause
    return relatives


def _fill_gap(tree: Tree, clause: Clause, noun: int, by_predicate: dict[int, Clause]) -> None:
    """Put the noun of a relative clause without a relative word where the clause lacks an argument.

    The gap follows a stranded preposition (the chair he sits on), or else it is the object of the innermost open
    complement (the toy he wants to buy).
    """
    innermost = clause
    while complements := [word for word in tree.dependents(innermost.predicate, "xcomp") if word in by_predicate]:
        innermost = by_predicate[complements[0]]
    for number, argument in enumerate(innermost.arguments):
        if argument.head is None:
            innermost.arguments[number] = replace(argument, head=noun)
            return
    if innermost.verbal and not innermost.passive and not innermost.heads("obj") and noun not in clause.subjects:
        innermost.arguments.append(Argument("obj", noun))
