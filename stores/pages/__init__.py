"""Pages about a store that any browser opens from a folder: no network, no server, nothing installed."""

from .site import Options, Place, render, write_pages

__all__ = ["Options", "Place", "render", "write_pages"]
