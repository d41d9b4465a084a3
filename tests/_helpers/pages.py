"""Reads the pages about a store: cells, links, elements, attributes; an element that is not closed is an error."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from stores import Store
from stores.pages import Options, Place, render

VOID = {"meta", "link", "img", "input", "br", "wbr", "hr"}


class Page(HTMLParser):
    """A page.

    Attributes
    ----------
    rows
        The cells of all tables, row by row, as text.
    text
        All text, with single spaces.
    links
        Targets of ``href`` and ``src``.
    elements
        How many elements there are of each name.
    attributes
        Every attribute of every element.
    """

    def __init__(self, source: bytes) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.links: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self._open: list[str] = []
        self.feed(source.decode())
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in cells] for cells in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.links += [value for name, value in attrs if name in ("href", "src") and value is not None]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def values(self, name: str) -> list[str | None]:
        """Return the values of an attribute."""
        return [value for _, attribute, value in self.attributes if attribute == name]


def files_of(root: Path, out: str = "out", version: int | None = None, **options: Any) -> dict[str, bytes]:
    """Render all files of the pages about a store, by name; without decoding, unless it is asked for."""
    with Store.open(root, version, lease=False) as store:
        return dict(render(store, Place.of(Path(out)), Options(**{"decode": False, **options})))


def pages_of(root: Path, **options: Any) -> dict[str, Page]:
    """Render and read all pages about a store, by name without the suffix."""
    files = files_of(root, **options)
    return {name.removesuffix(".html"): Page(data) for name, data in files.items() if name.endswith(".html")}
