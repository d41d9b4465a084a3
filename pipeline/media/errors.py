"""Turns what libav and the system raise into one `MediaError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av.error

from pipeline.media.types import Kind, MediaError
from pipeline.sampling import TooShort

_KINDS: tuple[tuple[type[BaseException], Kind], ...] = (
    (TooShort, "too_short"),
    (MemoryError, "oom"),
    (av.error.DecoderNotFoundError, "unsupported_codec"),
    (av.error.DemuxerNotFoundError, "unsupported_codec"),
    (av.error.PatchWelcomeError, "unsupported_codec"),
    (FileNotFoundError, "missing"),
    (OSError, "unreadable"),
    (av.error.FFmpegError, "corrupt"),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise `MediaError` in place of every error that opening, demuxing or decoding a file is known to raise."""
    try:
        yield
    except MediaError:
        raise
    except (TooShort, MemoryError, OSError, av.error.FFmpegError) as error:
        raise media_error(error) from error


def media_error(error: BaseException) -> MediaError:
    """Classify one error; the message keeps libav's or the system's words without the file's name."""
    kind = next((kind for cls, kind in _KINDS if isinstance(error, cls)), "corrupt")
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(kind, str(words))
