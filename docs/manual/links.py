"""Links between pages that hold on GitHub, where a page lies in the repository, and on the site, where it may not.

A page of ``docs/`` lies at the same place on the site. Every other file of the repository that a page links to comes
into the site below ``repository/``: Markdown as a page, anything else as it is.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["DOCS", "OUTSIDE", "Repository"]

DOCS = "docs/"
OUTSIDE = "repository/"

_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[^\n]*$", re.M | re.S)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
_IMAGE = re.compile(r"(?P<before>!\[(?P<text>[^\[\]]*)\]\()(?P<target>[^()\s]+)\)")
_LINK = re.compile(r"(?P<before>(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\()(?P<target>[^()\s]+)\)")
_REFERENCE = re.compile(r"^(?P<before>\[(?P<label>[^\]]+)\]:\s*)(?P<target>\S+)$", re.M)
_BRACKETS = re.compile(r"(?<=\])(\s?)\[([^\[\]]+)\](?![(:])")
_ROW = re.compile(r"^\|.*\|$", re.M)
_COMMENT = re.compile(r"^<!--(?:(?!-->).)*-->\n", re.M | re.S)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#|/")


class Repository:
    """The files of the repository that belong to the site.

    Parameters
    ----------
    root
        The top folder of the repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def pages(self) -> list[str]:
        """Return the paths of the pages of ``docs/``, from the top of the repository, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in (self.root / DOCS).rglob("*.md"))

    def outside(self) -> list[str]:
        """Return the paths of all other files that pages lead to, directly or by way of one another, sorted."""
        found: set[str] = set()
        waiting = self.pages()
        while waiting:
            page = waiting.pop()
            for target in self.targets(page):
                if not target.startswith(DOCS) and target not in found and (self.root / target).is_file():
                    found.add(target)
                    if target.endswith(".md"):
                        waiting.append(target)
        return sorted(found)

    def targets(self, page: str) -> Iterator[str]:
        """Yield the paths, from the top of the repository, that the links of a page name."""
        seen: list[str] = []

        def note(path: str, anchor: str) -> str | None:
            seen.append(path)
            return None

        _each_link(page, (self.root / page).read_text(encoding="utf-8"), note)
        yield from seen

    def for_site(self, page: str, text: str) -> str:
        """Return the Markdown of a page with links that hold on the site.

        Comments that are lines of their own are left out. A link to a folder becomes its text, as a site has no
        listing of folders. A bar in the code of a table's cell, which GitHub wants marked, is not marked. Two pairs of
        brackets are a link only if the page says where to, as on GitHub.

        Parameters
        ----------
        page
            Where the page lies, from the top of the repository.
        text
            Its Markdown.
        """
        here = posixpath.dirname(place(page))

        def rewrite(path: str, anchor: str) -> str | None:
            if (self.root / path).is_dir():
                return ""
            return posixpath.relpath(place(path), here or ".") + anchor

        def keep_brackets(match: re.Match[str]) -> str:
            return match.group(0) if match[2].lower() in known else f"{match[1]}\\[{match[2]}\\]"

        known = {match["label"].lower() for match in _REFERENCE.finditer(text)}
        text = _ROW.sub(lambda row: _CODE.sub(lambda span: span.group(0).replace(r"\|", "|"), row.group(0)), text)
        linked = _outside_code(_each_link(page, text, rewrite), lambda part: _BRACKETS.sub(keep_brackets, part))
        return _outside_code(linked, lambda part: _COMMENT.sub("", part), inline=False)


def place(path: str) -> str:
    """Return where a file of the repository lies among the sources of the site."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else OUTSIDE + path


def _each_link(page: str, text: str, change: Callable[[str, str], str | None]) -> str:
    """Give every relative link to ``change``, with its anchor; write what it returns, unless that is None."""
    folder = posixpath.dirname(page)

    def change_one(match: re.Match[str]) -> str:
        target = match["target"]
        if _ELSEWHERE.match(target):
            return match.group(0)
        path, mark, anchor = target.partition("#")
        changed = change(posixpath.normpath(posixpath.join(folder, path)), mark + anchor)
        if changed is None:
            return match.group(0)
        if not changed:
            return match.groupdict().get("text") or match.group(0)
        return match.group(0).replace(f"{match['before']}{target}", f"{match['before']}{changed}")

    def change_all(part: str) -> str:
        for pattern in (_IMAGE, _LINK, _REFERENCE):
            part = pattern.sub(change_one, part)
        return part

    return _outside_code(text, change_all)


def _outside_code(text: str, change: Callable[[str], str], inline: bool = True) -> str:
    """Apply ``change`` to what is not code, neither a block nor, unless ``inline`` is false, in a line."""
    kept: list[str] = []

    def put_away(match: re.Match[str]) -> str:
        kept.append(match.group(0))
        return f"\0{len(kept) - 1}\0"

    hidden = _FENCE.sub(put_away, text)
    if inline:
        hidden = _CODE.sub(put_away, hidden)
    changed = change(hidden)
    for number in reversed(range(len(kept))):
        changed = changed.replace(f"\0{number}\0", kept[number])
    return changed
