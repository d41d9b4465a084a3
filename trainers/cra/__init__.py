"""CRA and its baseline Temp[CLIP]: grounded video question answering, learned from right answers alone.

CRA is "Cross-modal Causal Relation Alignment for Video Question Grounding" (CVPR 2025, arXiv:2503.07635);
``docs/facts/cra.md`` describes it and its published code.

This face holds the settings and the rules that read spans from attention; it imports no torch. The networks are in
``model`` and ``temp_clip``, what the training loop sees of them in ``task``.
"""

from trainers.cra.config import CraConfig
from trainers.cra.spans import Interval

__all__ = ["CraConfig", "Interval"]
