"""FrozenBiLM: a large masked language model that reads frames before the text, its baselines, and CRA on top of it.

"Zero-Shot Video Question Answering via Frozen Bidirectional Language Models", Yang et al., NeurIPS 2022,
arXiv:2206.08155; ``docs/facts/frozenbilm.md`` describes it, the grounding that NExT-GQA and CRA put on top of it, and
their published code.

This face holds the settings and imports no torch. ``tower`` is the language model with its adapters, ``grounding`` what
is put on top, ``model`` both together, ``prompts`` the texts, ``loading`` the published files, and ``task`` what the
training loop sees.
"""

from trainers.frozenbilm.config import FrozenBilmConfig

__all__ = ["FrozenBilmConfig"]
