"""A toy world: videos with sound that it encodes itself, questions about them, and the truth about both.

`python -m examples.toyworld --seed 0 --out DIR` writes it; `examples/toyworld/world.py` says what is in it.
"""

from examples.toyworld.make import Written, build, write
from examples.toyworld.world import Act, Actor, AvQuestion, GroundingQuestion, Scene, World

__all__ = ["Act", "Actor", "AvQuestion", "GroundingQuestion", "Scene", "World", "Written", "build", "write"]
