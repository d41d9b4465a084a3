"""Turns what libav, the system and other decoders raise into one ``MediaError``."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import av.error

from pipeline.media.inputs import LOCAL, Files
from pipeline.media.sampling import SamplingError, TooShort
from pipeline.media.types import FailureClass, MediaError

_CLASSES: tuple[tuple[type[BaseException], FailureClass], ...] = (
    (TooShort, "too_short"),
    (SamplingError, "too_large"),
    (MemoryError, "oom"),
    (av.error.DecoderNotFoundError, "unsupported_codec"),
    (av.error.DemuxerNotFoundError, "unsupported_codec"),
    (av.error.PatchWelcomeError, "unsupported_codec"),
    (FileNotFoundError, "missing"),
)
# What the system says about a file that exists. Decoders borrow other numbers (EPERM, EINVAL, ENOSYS) for bad data.
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


FAILURES = (MediaError, TooShort, SamplingError, MemoryError, OSError, av.error.FFmpegError)
"""Everything that opening, demuxing or decoding a file is known to raise."""
_SPARE_BYTES = 64 << 20


def _has_memory() -> bool:
    """Return whether this process, which may live under a limit of its own, can still get memory."""
    try:
        bytearray(_SPARE_BYTES)
    except MemoryError:
        return False
    return True


def _can_be_read(path: str, files: Files) -> bool:
    try:
        with files.open(path) as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True


@contextmanager
def translate_errors(path: str, files: Files = LOCAL) -> Iterator[None]:
    """Raise ``MediaError`` in place of every error that opening, demuxing or decoding a file is known to raise.

    libav says EIO for a file that ends too early as well as for a disk that fails. It is believed only if the file
    cannot be read without libav either.
    """
    try:
        yield
    except MediaError:
        raise
    except FAILURES as error:
        if isinstance(error, av.error.FFmpegError) and error.errno == errno.EIO and _can_be_read(path, files):
            raise MediaError("corrupt", "the file ends where more should follow") from error
        raise classify(error) from error


def classify(error: BaseException) -> MediaError:
    """Return the ``MediaError`` for an error; it keeps the words of libav or the system, without the file's name.

    libav says ENOMEM for data that it will not take as well as for memory that it cannot get. It is believed only if
    this process cannot get any either.
    """
    if isinstance(error, MediaError):
        return error
    if isinstance(error, av.error.FFmpegError) and isinstance(error, MemoryError) and _has_memory():
        return MediaError("corrupt", "libav refuses the data (and calls it a lack of memory)")
    failure_class = next((failure_class for cls, failure_class in _CLASSES if isinstance(error, cls)), None)
    if failure_class is None:
        from_system = isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError)
        failure_class = "unreadable" if from_system or getattr(error, "errno", None) in _UNREADABLE else "corrupt"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(failure_class, str(words))


def is_damage(error: av.error.FFmpegError) -> bool:
    """Return whether a decoder's error means one bad packet, rather than the codec, the system or memory."""
    return classify(error).failure_class == "corrupt"


class RefusalError(MediaError):
    """Raised for a file that an opt-in backend would decode otherwise than PyAV, or not at all.

    Attributes
    ----------
    reason
        One line: why.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__("unsupported_codec", f"refused by the {backend} backend: {reason}")
        self.backend = backend
        self.reason = " ".join(reason.split())

    def __reduce__(self) -> tuple[type[RefusalError], tuple[str, str]]:  # type: ignore[override]  # its own arguments
        return type(self), (self.backend, self.reason)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
