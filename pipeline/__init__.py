"""The stages that fill a store: ``extract``, ``parse``, ``cluster``, and ``refresh``, which runs all of them in order.

The face is empty on purpose: the decoding child imports ``pipeline.media`` alone, and nothing above it.
"""

__all__: list[str] = []
