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
_UNDONE = frozenset({"without", "instead"})
"""Marks of a clause that says what is not done."""
_OF = frozenset({"of", "for", "in", "at", "on", "about"})
"""Marks of a gerund that says what a noun is about, and not what it does."""
_SUBJECT_CONTROL = frozenset({"promise", "vow", "threaten"})
"""Verbs whose subject does what their complement says, even if they have an object."""
_ADVERBIAL_NOUNS = frozenset({"time", "moment", "day", "way", "reason"})
"""Nouns whose relative clause, if it has no relative word, says when, how or why (the time he fell)."""
_CLAUSAL = frozenset({"root", "conj", "ccomp", "xcomp", "csubj", "advcl", "acl", "parataxis", "list", "dep"})

_RELATIVE_CLAUSES = frozenset({"acl:relcl", "advcl:relcl"})

_SLOTS: dict[str, str | None] = {
    "nsubj:outer": None,
    "csubj:outer": None,
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
"""Relation to the predicate → slot in the clause. A subtype that is not listed counts as its base relation.

An outer subject belongs to another clause, whose complement the predicate is (the problem is that he fell).
"""


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
        Whether not, n't, never or no modifies the predicate, or without or instead introduces the clause.
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
    ordered = []
    for position in sorted(by_predicate):
        ordered += [*_outer_clause(tree, position), by_predicate[position]]
    return ordered


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


def is_degree(tree: Tree, position: int) -> bool:
    """Return whether a word is the how of how old, how many or how often."""
    head = tree.heads[position]
    return (
        tree.tokens[position].lemma.lower() == "how"
        and head == position + 1
        and tree.tokens[head].upos in ("ADJ", "ADV", "NUM")
    )


def is_negative(tree: Tree, position: int) -> bool:
    """Return whether not, n't, never or no modifies the word."""
    return any(
        tree.tokens[child].lemma.lower() in _NEGATIVE_WORDS or has_feature(tree.tokens[child], "Polarity=Neg")
        for child in tree.dependents(position, "advmod", "det")
    )


def _own_clause(tree: Tree, position: int, relatives: dict[int, int], above: Clause | None) -> Clause:
    """Return the clause of a predicate, with the arguments that are its own dependents."""
    copulas = tree.dependents(position, "cop")
    if _outer_subjects(tree, position):
        copulas = copulas[1:]
    verbal = not copulas and tree.tokens[position].upos in ("VERB", "AUX")
    clause = Clause(
        predicate=position,
        verbs=tuple(sorted([position, *tree.dependents(position, "compound:prt")]) if verbal else copulas),
        verbal=verbal,
        passive=verbal and _is_passive(tree, position, above),
        existential=any(tree.tokens[child].lemma.lower() == "there" for child in tree.dependents(position, "expl")),
        negated=is_negative(tree, position) or not _UNDONE.isdisjoint(_marks(tree, position)),
    )
    if not verbal:
        clause.arguments += _coordinated(tree, "cop", position)
    for child in tree.children[position]:
        relation = tree.relation(child)
        slot = _SLOTS.get(relation, _SLOTS.get(base(relation)))
        if relation == "advmod" and _asks(tree, child) and not is_degree(tree, child):
            # In "he cried when she left" the word joins two clauses and asks nothing.
            slot = "advmod" if base(tree.relation(position)) != "advcl" else None
        if slot is not None:
            _place(tree, clause, slot, child, relatives)
    return clause


def _outer_subjects(tree: Tree, position: int) -> list[int]:
    return tree.dependents(position, "nsubj:outer", "csubj:outer")


def _outer_clause(tree: Tree, position: int) -> list[Clause]:
    """Return the clause around a predicate that is a clause itself: (problem, be, fell) in "the problem is he fell".

    Its copula is the first one of the predicate. Without a copula there is no such clause.
    """
    subjects = _outer_subjects(tree, position)
    copulas = tree.dependents(position, "cop")
    if not subjects or not copulas:
        return []
    heads = [argument.head for subject in subjects for argument in _coordinated(tree, "subject", subject)]
    clause = Clause(position, (copulas[0],), verbal=True, passive=False, existential=False, negated=False)
    clause.subjects = [head for head in heads if head is not None]
    clause.arguments = [Argument("ccomp", position)]
    return [clause]


def _asks(tree: Tree, adverb: int) -> bool:
    """Return whether an adverb is a question word or modified by one, as in how long."""
    return is_wh(tree, adverb) or any(is_wh(tree, word) for word in tree.dependents(adverb, "advmod"))


def _marks(tree: Tree, position: int) -> list[str]:
    """Return the lemmas of the words that introduce a clause, such as to, while or from."""
    return [tree.tokens[mark].lemma.lower() for mark in tree.dependents(position, "mark")]


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
    """Lend a clause without a subject one from above, and a conjunct the object or agent that both share.

    An object is shared if it follows both verbs (she washed and ate the apple) or stands before both (which apple did
    she wash and eat).
    """
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
                if argument.slot == "obj" and _is_shared(tree, clause, above, argument.head)
            ]
        if clause.passive and above.passive and not clause.subjects:
            clause.subjects = [agent for agent in above.subjects if agent > clause.predicate]


def _is_shared(tree: Tree, clause: Clause, above: Clause, word: int | None) -> bool:
    """Return whether an object of the verb above is that of its conjunct, too.

    Before both verbs it is only if a coordinator stands between them: parsers often take for a conjunct what follows
    "after" (what did he do after she left).
    """
    if word is None or above.predicate < word < clause.predicate:
        return False
    return word > clause.predicate or bool(tree.dependents(clause.predicate, "cc"))


def _subject_above(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    return list(above.grammatical_subjects) if above is not None else []


def _controller(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """Return the object if there is one (she asked him to go), else the subject (she wants to go)."""
    if above is None or tree.tokens[above.predicate].lemma.lower() in _SUBJECT_CONTROL:
        return _subject_above(tree, clause, above)
    return above.heads("obj") or above.heads("iobj") or _subject_above(tree, clause, above)


def _adverbial_subject(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """Return the subject, but the controller behind "from" (he kept her from falling).

    Whoever does a thing by doing another is the agent of both (the door was opened by pushing it).
    """
    marks = _marks(tree, clause.predicate)
    if "from" in marks:
        return _controller(tree, clause, above)
    if "by" in marks and above is not None and above.passive:
        return list(above.subjects)
    return _subject_above(tree, clause, above)


def _head_noun(tree: Tree, clause: Clause, above: Clause | None) -> list[int]:
    """Return the noun that a participle or relative clause modifies.

    There is none for an infinitive (food to eat) or for a complement (a way of eating).
    """
    head = tree.heads[clause.predicate]
    marks = _marks(tree, clause.predicate)
    token = tree.tokens[clause.predicate]
    # Only a gerund: parsers often take "in" for the mark of the verb in "what does the girl in white do".
    gerund = token.xpos == "VBG" or token.text.lower().endswith("ing")
    complement = gerund and tree.relation(clause.predicate) != "acl:relcl" and not _OF.isdisjoint(marks)
    return [] if head < 0 or complement or "to" in marks else [head]


_LENDERS: dict[str, Callable[[Tree, Clause, Clause | None], list[int]]] = {
    "conj": _subject_above,
    "advcl": _adverbial_subject,
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
        clause = next((word for word in tree.ancestors(position) if tree.relation(word) in _RELATIVE_CLAUSES), None)
        if clause is not None and position < clause and tree.heads[clause] >= 0:
            relatives[position] = clause
    return relatives


def _fill_gap(tree: Tree, clause: Clause, noun: int, by_predicate: dict[int, Clause]) -> None:
    """Put the noun of a relative clause without a relative word where the clause lacks an argument.

    The gap follows a stranded preposition (the chair he sits on), or it is the subject of a finite complement (the man
    she said fell), or else the object of the innermost complement (the toy he wants to buy) and of its conjuncts.
    """
    innermost = clause
    while complements := [
        word for word in tree.dependents(innermost.predicate, "xcomp", "ccomp") if word in by_predicate
    ]:
        innermost = by_predicate[complements[0]]
        if base(tree.relation(innermost.predicate)) == "ccomp" and not innermost.grammatical_subjects:
            (innermost.patients if innermost.passive else innermost.subjects).append(noun)
            return
    for number, argument in enumerate(innermost.arguments):
        if argument.head is None:
            innermost.arguments[number] = replace(argument, head=noun)
            return
    if noun in clause.subjects:
        return
    if tree.tokens[noun].lemma.lower() in _ADVERBIAL_NOUNS:
        clause.arguments.append(Argument("advmod", noun))
        return
    conjuncts = [word for word in tree.dependents(innermost.predicate, "conj") if word in by_predicate]
    for lacking in (innermost, *(by_predicate[word] for word in conjuncts)):
        if lacking.verbal and not lacking.passive and not lacking.heads("obj"):
            lacking.arguments.append(Argument("obj", noun))
