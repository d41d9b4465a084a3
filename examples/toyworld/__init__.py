"""A toy world: videos with sound that we encode ourselves, questions about them, and the truth about both.

``python -m examples.toyworld --seed 0 --out DIR`` writes it; ``examples/toyworld/world.py`` describes what it contains.
"""

from examples.toyworld.kinds import KINDS, Kind
from examples.toyworld.make import Written, build, write
from examples.toyworld.world import Act, Actor, AvQuestion, GroundingQuestion, Scene, World

__all__ = [
    "KINDS",
    "Act",
    "Actor",
    "AvQuestion",
    "GroundingQuestion",
    "Kind",
    "Scene",
    "World",
    "Written",
    "build",
    "write",
]
