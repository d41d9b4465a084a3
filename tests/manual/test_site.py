"""The documentation site as ``make docs`` builds it: strict, whole, and without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from docs.manual.api_pages import extension_points, public_names
from docs.manual.command_pages import commands, jobs
from docs.manual.settings_pages import MODELS, walk
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

# As `python -m mkdocs build --strict`, but says whether torch was imported on the way.
_BUILD = """
import sys
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]], standalone_mode=False)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
_LOADING_RELS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "icon", "modulepreload"}


class _Page(HTMLParser):
    """What a page loads, links to, and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.headings = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.headings += tag == "h1"
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in _LOADED and _LOADED[tag] in given:
            self.loads.append(given[_LOADED[tag]])
        if tag == "link" and not _LOADING_RELS.isdisjoint(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@cache
def page(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def pages(site: Path) -> list[Path]:
    found = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(found) > 50
    return found


def shown(path: Path) -> set[str]:
    """Return the code of the cells of a page."""
    cells = re.findall(r"<td><code>([^<]*)</code></td>", path.read_text(encoding="utf-8"), re.S)
    return {unescape(cell) for cell in cells}


def test_every_page_of_docs_is_there_and_has_one_title(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        assert (site / source.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), source
    for name in ("index", "CHANGELOG", "CONTRIBUTING", "SECURITY", "bench/RESULTS"):
        assert (site / f"repository/{name}.html").is_file(), name
    for path in pages(site):
        assert page(path).headings == 1, path
        title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf-8"), re.S)
        assert title is not None and title[1].strip(), path


def test_every_link_and_anchor_leads_somewhere_in_the_site(site: Path) -> None:
    for path in pages(site):
        for link in page(path).links:
            if re.match(r"https?:|mailto:", link):
                continue
            name, anchor = urldefrag(link)
            target = (path.parent / unquote(name)).resolve() if name else path
            assert target.is_relative_to(site), f"{path}: {link}"
            assert target.is_file() or (target / "index.html").is_file(), f"{path}: {link}"
            if anchor and target.suffix == ".html" and not anchor.startswith("__"):
                assert unquote(anchor) in page(target).anchors, f"{path}: {link}"


def test_no_page_asks_a_network_for_anything(site: Path) -> None:
    for path in pages(site):
        for source in page(path).loads:
            assert not re.match(r"[a-z]+:|//", source) or source.startswith("data:"), f"{path}: {source}"
            assert (path.parent / unquote(source.partition("?")[0])).is_file(), f"{path}: {source}"
        assert "mermaid" not in path.read_text(encoding="utf-8"), f"{path}: its diagrams are drawn by a foreign script"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_reference_lists_every_setting(site: Path) -> None:
    for command, model in MODELS.items():
        keys = {setting.key for setting in walk(model)}
        assert len(keys) > 5 and keys <= shown(site / f"reference/settings/{command.replace(' ', '-')}.html"), command


def test_the_reference_lists_every_command_and_option(site: Path) -> None:
    for name in jobs():
        text = unescape((site / f"reference/commands/{name}.html").read_text(encoding="utf-8"))
        for words, command in commands(name):
            assert words in re.sub(r"<[^>]*>", "", text), words
            for parameter in command.params:
                is_option = parameter.param_type_name == "option"
                for word in parameter.opts if is_option else [parameter.metavar or parameter.name]:
                    assert re.search(rf"<code>[^<]*{re.escape(word)}\b", text), f"{words}: {word}"


def test_the_reference_lists_the_reader_and_what_extensions_use(site: Path) -> None:
    for stem, file, package in (
        ("store", "stores/__init__.py", "reelstore"),
        ("loading", "stores/loading/__init__.py", "reelstore.loading"),
    ):
        anchors = page(site / f"reference/api/{stem}.html").anchors
        assert {f"{package}.{name}" for name in public_names(file)} <= anchors, stem
    assert {"reelstore.Store.open", "reelstore.Store.row"} <= page(site / "reference/api/store.html").anchors
    points = extension_points()
    assert {"extractors.base.Extractor", "trainers.config.MethodSettings"} <= set(points)
    assert set(points) <= page(site / "reference/api/extending.html").anchors
