"""The documentation site: what ``mkdocs build`` adds to the pages of ``docs/``.

``hooks`` is what ``mkdocs.yml`` names. ``links`` brings files of the repository that pages link to into the site, and
``settings_pages``, ``command_pages`` and ``api_pages`` write the references from the code, each time the site is built.
Nothing here imports torch.
"""

from docs.manual.api_pages import api_pages
from docs.manual.command_pages import command_pages
from docs.manual.links import Repository
from docs.manual.settings_pages import settings_pages

__all__ = ["Repository", "api_pages", "command_pages", "settings_pages"]
