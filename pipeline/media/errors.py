"""Turns what libav and the system raise into one `MediaError`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import av.error

from pipeline.media.sampling import TooShort
from pipeline.media.types import FailureClass, MediaError

_CLASSES: tuple[tuple[type[BaseException], FailureClass], ...] = (
    (TooShort, "too_short"),
    (MemoryError, "oom"),
    (av.error.DecoderNotFoundError, "unsupported_codec"),
    (av.error.DemuxerNotFoundError, "unsupported_codec"),
    (av.error.PatchWelcomeError, "unsupported_codec"),
    (FileNotFoundError, "missing"),
)
# What the system says of a file that is there. Decoders borrow other numbers (EPERM, EINVAL, ENOSYS) for bad data.
_UNREADABLE = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENFILE,
        errno.ENOTDIR,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
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
    failure_class = next((named for cls, named in _CLASSES if isinstance(error, cls)), None)
    if failure_class is None:
        of_system = isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError)
        failure_class = "unreadable" if of_system or getattr(error, "errno", None) in _UNREADABLE else "corrupt"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(failure_class, str(words))


def is_damage(error: av.error.FFmpegError) -> bool:
    """Whether a decoder's error tells of one bad packet, rather than of the codec, the system or memory."""
    return media_error(error).failure_class == "corrupt"
