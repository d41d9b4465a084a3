"""The stages that fill a store (`extract`, `parse`, `cluster`), all of them in order (`refresh`), and what they share.

This face is empty on purpose: the decoding child imports ``pipeline.media`` alone, and nothing above it.
"""

__all__: list[str] = []
