"""What ``mkdocs.yml`` names under ``hooks``: mkdocs calls these functions while it builds the site."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(_ROOT) in sys.path else [str(_ROOT)]

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.manual import Repository, api_pages, command_pages, settings_pages
from docs.manual.links import DOCS, OUTSIDE, place

_repository = Repository(_ROOT)
_named: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings reads where packages lie
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings the package ``stores`` under the name that it is installed by."""
    folder = tempfile.TemporaryDirectory(prefix="reelstore-site-")
    _named.append(folder)  # removed when the process ends
    (Path(folder.name) / "reelstore").symlink_to(_ROOT / "stores", target_is_directory=True)
    handlers = config.plugins["mkdocstrings"].config.handlers
    handlers.setdefault("python", {})["paths"] = [folder.name, str(_ROOT)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the references, and the files of the repository that pages link to."""
    for name, text in {**settings_pages(), **command_pages(), **api_pages()}.items():
        files.append(File.generated(config, name, content=text))
    for path in _repository.outside():
        files.append(File.generated(config, place(path), abs_src_path=str(_ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the links of a page those of the site."""
    name = page.file.src_uri
    if name.startswith(OUTSIDE):
        return _repository.for_site(name.removeprefix(OUTSIDE), markdown)
    if (_ROOT / DOCS / name).is_file():
        return _repository.for_site(DOCS + name, markdown)
    return markdown
