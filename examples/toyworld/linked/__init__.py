"""Draw worlds that need more than grounding: answers linked to what lies inside the span, tones linked by time alone.

``docs/toyworld.md`` argues the construction.
"""

from examples.toyworld.linked.band import Voiced
from examples.toyworld.linked.stage import Shots

__all__ = ["Shots", "Voiced"]
