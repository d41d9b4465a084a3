"""A question's graph as SVG: subjects and objects as boxes, predicates as labelled arrows between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_BOX, _GAP, _LINE = 120, 100, 44
_LETTERS = 15
"""Letters that fit in a box and on an arrow."""
_ABSENT = "\0"  # no text of a graph has it


@dataclass(frozen=True, slots=True)
class Triple:
    """Subject, predicate and object; either end may be missing. ``source`` is ``question`` or ``answer``."""

    subject: str | None
    predicate: str
    object: str | None
    source: str = "question"

    def __str__(self) -> str:
        return " → ".join(part for part in (self.subject, self.predicate, self.object) if part)


def draw_graph(triples: Sequence[Triple]) -> Markup:
    """Draw the triples of a question; equal texts are one box. Nothing is drawn of a question without triples.

    A box stands in the column after that of the last box that points to it, as far as there is no circle.
    """
    if not triples:
        return Markup("")
    names = list(dict.fromkeys(end for triple in triples for end in _ends(triple)))
    column = _columns(names, triples)
    row: dict[str, int] = {}
    filled: dict[int, int] = {}
    for name in names:
        row[name] = filled.get(column[name], 0)
        filled[column[name]] = row[name] + 1
    width = (max(column.values()) + 1) * _BOX + max(column.values()) * _GAP + 8
    height = max(filled.values()) * _LINE + 24
    at = {name: (column[name] * (_BOX + _GAP) + 4, row[name] * _LINE + 10) for name in names}
    label = "Graph of the question: " + "; ".join(map(str, triples))
    parts = [
        Markup('<svg class="graph" role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">').format(
            label, width, height, width, height
        )
    ]
    seen: dict[tuple[str, str], int] = {}
    for triple in triples:
        ends = _ends(triple)
        parts.append(_arrow(at[ends[0]], at[ends[1]], triple, seen.get(ends, 0)))
        seen[ends] = seen.get(ends, 0) + 1
    for name in names:
        x, y = at[name]
        text = "" if name.startswith(_ABSENT) else name
        kind = "node" if text else "none"
        parts.append(
            Markup('<g class="{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="26" rx="13"/>').format(
                kind, text or "not said", x, y, _BOX
            )
            + Markup('<text x="{}" y="{}">{}</text></g>').format(x + _BOX // 2, y + 17, _cut(text) or "–")
        )
    return Markup("").join(parts) + Markup("</svg>")


def _ends(triple: Triple) -> tuple[str, str]:
    """Return the boxes that an arrow joins; an end that is missing is an empty box of its own."""
    of = f"{triple.subject}{_ABSENT}{triple.predicate}{_ABSENT}{triple.object}"
    subject, target = (f"{_ABSENT}{side}{of}" for side in "so")
    return triple.subject or subject, triple.object or target


def _columns(names: Sequence[str], triples: Sequence[Triple]) -> dict[str, int]:
    column = dict.fromkeys(names, 0)
    for _ in names:  # a longest path has as many boxes at most; circles stop here
        moved = False
        for triple in triples:
            subject, target = _ends(triple)
            if subject != target and column[target] <= column[subject] < len(names) - 1:
                column[target] = column[subject] + 1
                moved = True
        if not moved:
            return column
    return {name: min(place, 2) for name, place in column.items()}


def _arrow(start: tuple[int, int], end: tuple[int, int], triple: Triple, repeated: int) -> Markup:
    """Draw an arrow with its predicate; a further one between the same boxes stands below the first."""
    leaves = start[0] + _BOX
    enters = end[0]
    y1, y2 = start[1] + 13, end[1] + 13
    if enters <= leaves:  # back, or within a column: below the boxes
        leaves, enters, bend = start[0] + _BOX // 2, end[0] + _BOX // 2, 24
        y1, y2 = y1 + 13, y2 + 13
        path = f"M{leaves} {y1} C{leaves} {y1 + bend} {enters} {y2 + bend} {enters} {y2}"
        x, y = (leaves + enters) // 2, max(y1, y2) + bend
    else:
        middle = (leaves + enters) // 2
        path = f"M{leaves} {y1} C{middle} {y1} {middle} {y2} {enters - 2} {y2}"
        x, y = middle, (y1 + y2) // 2 - 5
    return Markup(
        '<g class="edge {}"><path d="{}"/><path class="head" d="M{} {} l-7 -4 v8 z"/>'
        '<text x="{}" y="{}"><title>{}</title>{}</text></g>'
    ).format(triple.source, path, enters, y2, x, y + 14 * repeated, triple, _cut(triple.predicate))


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
