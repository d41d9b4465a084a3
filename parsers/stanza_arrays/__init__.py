"""Runs the networks of a Stanza pipeline on arrays: each step takes the sentences of a whole batch.

Stanza's own code makes objects of every document, sentence, token and word between any two steps, and looks every word
up again in each. The networks and their weights are Stanza's, and so is what they find: ``tests/parsers`` compares it,
text by text. What this code does not know (a transformer, a transition parser) goes through Stanza's own processors.
"""

from parsers.stanza_arrays.engine import Engine
from parsers.stanza_arrays.sentences import Sentence

__all__ = ["Engine", "Sentence"]
