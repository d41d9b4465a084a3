"""The page of a finished run, and of two runs side by side: static HTML that needs no network and no server."""

from trainers.report.page import write_report

__all__ = ["write_report"]
