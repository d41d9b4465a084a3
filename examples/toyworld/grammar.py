"""Write the correct Universal Dependencies parse of every question and answer about stage videos.

The generator knows the grammar of what it writes, so the demo gets true graphs without a parser's models.
"""

from __future__ import annotations

from collections.abc import Iterable

from examples.toyworld.wording import WORDINGS
from examples.toyworld.world import ACTIONS

_Word = tuple[str, str, str, str]  # form, lemma, UPOS, deprel; the head is given beside it


def conllu(texts: Iterable[str]) -> str:
    """Return CoNLL-U text of the distinct sentences, in their order.

    Raises
    ------
    ValueError
        If the toy world has no such sentence.
    """
    return "".join(_sentence(text) for text in dict.fromkeys(texts))


def _sentence(text: str) -> str:
    words = text.split(" ")
    lines = [f"# newdoc\n# text = {text}"]
    for number, ((form, lemma, upos, deprel), head) in enumerate(_tree(words), 1):
        lines.append(f"{number}\t{form}\t{lemma}\t{upos}\t_\t_\t{head}\t{deprel}\t_\t_")
    return "\n".join(lines) + "\n\n"


def _tree(words: list[str]) -> list[tuple[_Word, int]]:
    """Return the words, each with the number of its head."""
    match words:
        case [action] if action in ACTIONS:
            return [((action, action, "VERB", "root"), 0)]
        case [colour, kind]:
            return [((colour, colour, "ADJ", "amod"), 2), ((kind, kind, "NOUN", "root"), 0)]
        case ["which" | "what" as which, "shape" | "figure" as noun, verb]:
            return [
                ((which, which, "DET", "det"), 2),
                ((noun, noun, "NOUN", "nsubj"), 3),
                (_verb(verb, "root"), 0),
            ]
        case ["what", "does", "the", colour, kind, "do", *clause]:
            main = [
                (("what", "what", "PRON", "obj"), 6),
                (("does", "do", "AUX", "aux"), 6),
                *_subject(colour, kind, 5, 6),
                (("do", "do", "VERB", "root"), 0),
            ]
            return main + _clause(clause, 6) if clause else main
        case ["what", noun, "does", "the", colour, kind, verb, *clause] if (noun, verb) in WORDINGS:
            main = [
                (("what", "what", "DET", "det"), 2),
                ((noun, noun, "NOUN", "obj"), 7),
                (("does", "do", "AUX", "aux"), 7),
                *_subject(colour, kind, 6, 7),
                ((verb, verb, "VERB", "root"), 0),
            ]
            return main + _clause(clause, 7) if clause else main
    raise ValueError(f"{' '.join(words)!r} is not a sentence of the toy world")


def _clause(words: list[str], main: int) -> list[tuple[_Word, int]]:
    """Parse a clause such as ``after the blue ring jumps``, which follows the main verb at ``main``."""
    noun, own = main + 4, main + 5
    match words:
        case ["after" | "before" as mark, "the", colour, kind, verb]:
            subject = _subject(colour, kind, noun, own)
            return [((mark, mark, "SCONJ", "mark"), own), *subject, (_verb(verb, "advcl"), main)]
    raise ValueError(f"{' '.join(words)!r} is not a clause of the toy world")


def _subject(colour: str, kind: str, at: int, verb: int) -> list[tuple[_Word, int]]:
    return [
        (("the", "the", "DET", "det"), at),
        ((colour, colour, "ADJ", "amod"), at),
        ((kind, kind, "NOUN", "nsubj"), verb),
    ]


def _verb(form: str, deprel: str) -> _Word:
    lemma = form.removesuffix("s")
    if lemma not in ACTIONS:
        raise ValueError(f"{form!r} is not an action of the toy world")
    return form, lemma, "VERB", deprel
