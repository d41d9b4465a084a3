"""CoQo and its baselines AVST and HCRN: audio-visual question answering.

CoQo is "Guiding Audio-Visual Question Answering with Collective Question Reasoning" (IJCV 133(10), 2025): in training
it reasons over all questions of a video together. ``docs/facts/coqo.md`` says what is known about it.

This face holds the settings; it imports no torch. The networks are in ``model``, ``avst`` and ``hcrn``, what the
training loop sees of them in ``task``.
"""

from trainers.coqo.config import CoqoConfig

__all__ = ["CoqoConfig"]
