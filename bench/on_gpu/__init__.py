"""The sections of ``bench/gpu.py``, one module each, and what they share."""

from bench.on_gpu.findings import Findings
from bench.on_gpu.runner import NAMES, run_sections
from bench.on_gpu.section import Section, Setup

__all__ = ["NAMES", "Findings", "Section", "Setup", "run_sections"]
