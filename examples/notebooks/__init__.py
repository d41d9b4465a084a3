"""Notebooks that run as they are, and what executes them."""

from examples.notebooks.execute import NOTEBOOKS, execute

__all__ = ["NOTEBOOKS", "execute"]
