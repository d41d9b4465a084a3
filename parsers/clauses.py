"""Who does what to whom in each clause of a dependency tree (Universal Dependencies v2).

A clause is a predicate word with its arguments. One table (`_SLOTS`) says what the predicate's dependents are to it;
a subject that is missing is borrowed from where the clause hangs, by another (`_LENDERS`).
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
"""Relation to the predicate → slot in the clause. A subtype that is not listed counts as its relation."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument that is no subject.

    Attributes
    ----------
    slot:
        obj, iobj, obl, xcomp or ccomp as the relation says; cop: what is said of a subject; advmod: where, when, why
        or how.
    head:
        Its head word; None where a preposition has lost its noun.
    prepositions:
        Its case markers.
    """

    slot: str
    head: int | None
    prepositions: tuple[int, ...] = ()


@dataclass(slots=True)
class Clause:
    """A predicate with its arguments; all words by their positions.

    Attributes
    ----------
    predicate:
        The verb; where a copula or nothing joins it to its subject, what is said of the subject.
    verbs:
        The verb and its particles, or the copula.
    subjects, patients:
        Who does it, and in a passive clause to whom it is done. A coordination gives several.
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
        """The patients of a passive clause, else the subjects."""
        return self.patients if self.passive else self.subjects

    def heads(self, slot: str) -> list[int]:
        """Head words of the arguments in a slot."""
        return [argument.head for argument in self.arguments if argument.slot == slot and argument.head is not None]


def clauses(tree: Tree) -> list[Clause]:
    """The clauses of a tree, in the order of their predicates."""
    relatives = _relative_words(tree)
    found: dict[int, Clause] = {}
    # Top down, for a clause borrows only from clauses above it.
    for position in tree.top_down:
        if is_predicate(tree, position):
            clause = _own_clause(tree, position, relatives, found.get(tree.heads[position]))
            _borrow(tree, clause, found.get(tree.heads[position]))
            found[position] = clause
    for position, clause in found.items():
        noun = tree.heads[position]
        if tree.relation(position) == "acl:relcl" and noun >= 0 and position not in relatives.values():
            _fill_gap(tree, clause, noun, found)
    return [found[position] for position in sorted(found)]


def is_predicate(tree: Tree, position: int) -> bool:
    """Whether a word heads a clause: a verb that hangs as one, or any word with a subject, copula or expletive."""
    if tree.dependents(position, "nsubj", "csubj", "cop", "expl"):
        return True
    upos = tree.tokens[position].upos
    if upos == "VERB" and base(tree.relation(position)) in _CLAUSAL:
        return True
    return upos in ("VERB", "AUX") and bool(tree.dependents(position, "obj", "iobj", "obl:agent"))


def is_wh(tree: Tree, position: int) -> bool:
    """Whether a word asks: what, which, how, …"""
    return tree.tokens[position].lemma.lower() in WH_WORDS


def is_negative(tree: Tree, position: int) -> bool:
    """Whether a modifier of the word negates it: not, n't, never, no."""
    return any(
        tree.tokens[child].lemma.lower() in _NEGATIVE_WORDS or has_feature(tree.tokens[child], "Polarity=Neg")
        for child in tree.dependents(position, "advmod", "det")
    )


def _own_clause(tree: Tree, position: int, relatives: dict[int, int], above: Clause | None) -> Clause:
    """The clause of a predicate with the arguments that are its own dependents."""
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
            # In "he cried when she left" the word joins two clauses and asks for nothing.
            slot = "advmod" if base(tree.relation(position)) != "advcl" else None
        if slot is not None:
            _place(tree, clause, slot, child, relatives)
    return clause


def _place(tree: Tree, clause: Clause, slot: str, child: int, relatives: dict[int, int]) -> None:
    """Put a dependent, and what is coordinated with it, into its slot; a relative word gives way to its noun."""
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
    """One argument for each of some coordinated words; a later one without prepositions has those of the first."""
    if slot == "obl" and tree.tokens[first].upos == "ADP":
        return [Argument(slot, None, (first,))]
    words = [first]
    for word in words:  # grows as it is read
        words.extend(child for child in tree.dependents(word, "conj") if not is_predicate(tree, child))
    shared = prepositions(tree, first)
    return [Argument(slot, word, prepositions(tree, word) or shared) for word in sorted(words)]


def prepositions(tree: Tree, position: int) -> tuple[int, ...]:
    """Case markers of a word, with the further words of one (because of)."""
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
    """Give a clause without a subject that of where it hangs, and a conjunct what follows both conjuncts."""
    relation = base(tree.relation(clause.predicate))
    lender = _LENDERS.get(relation)
    if lender is not None and not clause.grammatical_subjects:
        lent = lender(tree, clause, above)
        if clause.passive:
            clause.patients = lent
        else:
            clause.subjects = lent
    if relation == "conj" and above is not None and above.verbal and clause.verbal:
        after = [a for a in above.arguments if a.slot == "obj" and (a.head or 0) > clause.predicate]
        if not clause.passive and not clause.heads("obj"):
            clause.arguments += after
        if clause.passive and above.passive and not clause.subjects:
            clause.subjects = [agent for agent in above.subjects if agent > clause.predicate]


def _subject_above(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    return list(above.grammatical_subjects) if above is not None else []


def _controller(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """The object where there is one (she asked him to go), else the subject (she wants to go)."""
    return (above.heads("obj") if above is not None else []) or _subject_above(tree, clause, above)


def _head_noun(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """The noun that a participle or relative clause modifies; an infinitive (food to eat) leaves its role open."""
    head = tree.heads[clause.predicate]
    infinitive = any(tree.tokens[mark].lemma == "to" for mark in tree.dependents(clause.predicate, "mark"))
    return [] if infinitive or head < 0 else [head]


_LENDERS: dict[str, Callable[[Tree, Clause, Clause | None], list[int]]] = {
    "conj": _subject_above,
    "advcl": _subject_above,
    "xcomp": _controller,
    "acl": _head_noun,
}
"""Relation by which a clause hangs → who lends it a subject."""


def _relative_words(tree: Tree) -> dict[int, int]:
    """Relative words (who, which, that, where, …) → the predicate of their relative clause."""
    found = {}
    for position, token in enumerate(tree.tokens):
        if token.lemma.lower() not in _RELATIVE_WORDS or token.upos not in ("PRON", "DET", "ADV"):
            continue
        clause = next((word for word in tree.ancestors(position) if tree.relation(word) == "acl:relcl"), None)
        if clause is not None and position < clause and tree.heads[clause] >= 0:
            found[position] = clause
    return found


def _fill_gap(tree: Tree, clause: Clause, noun: int, found: dict[int, Clause]) -> None:
    """Put the noun of a relative clause without a relative word where the clause lacks an argument.

    The gap is behind a stranded preposition, else the object of the innermost open complement (the toy he wants to
    buy).
    """
    innermost = clause
    while inner := [word for word in tree.dependents(innermost.predicate, "xcomp") if word in found]:
        innermost = found[inner[0]]
    for number, argument in enumerate(innermost.arguments):
        if argument.head is None:
            innermost.arguments[number] = replace(argument, head=noun)
            return
    if innermost.verbal and not innermost.passive and not innermost.heads("obj") and noun not in clause.subjects:
        innermost.arguments.append(Argument("obj", noun))
