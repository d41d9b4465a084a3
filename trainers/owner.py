"""The one owner of a run's folder: a second trainer with the same folder is refused before it writes anything."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from settings.files import NOTE_BYTES, read_bytes
from trainers.errors import TrainingError
from trainers.folder import OWNER, writing


@dataclass(frozen=True, slots=True)
class Owner:
    """The process to which a run's folder belongs, as the file ``owner.json`` in the folder names it.

    Attributes
    ----------
    pid
        Its number, which another process gets some time after it has ended.
    born
        When it began, in clock ticks since its host was booted; tells it from a later process of the same number.
        None on systems that do not say.
    boot
        Which start of the host that was; None on systems that do not say.
    host
        Name of its host.
    since
        When it took the folder, for people.
    """

    pid: int
    born: int | None
    boot: str | None
    host: str
    since: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return what this process would write."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(os.getpid(), _status(os.getpid())[1], _boot(), socket.gethostname(), now)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended; False if this host cannot know."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's
            pass
        state, born = _status(self.pid)
        return state in ("Z", "X") or (None not in (born, self.born) and born != self.born)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Make a run's folder and own it within the ``with`` block.

    ``owner.json`` is created exclusively, which every file system does, NFS among them. What a process of this host
    left behind when it was killed is taken over. The file is also locked with ``flock`` as long as it is owned: where a
    lock reaches further than process numbers do, as between two containers of one machine, it keeps a living owner
    from being taken for a dead one.

    Raises
    ------
    TrainingError
        If a run is going on there, or a process of another host left its file behind.
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWNER
    file = _create(path)
    if file is None:
        file = _take_over(path)
    try:
        yield
    finally:
        with suppress(OSError):  # on a disk that has failed it stays, and is taken over
            if _is_at(file, path):
                path.unlink()
        os.close(file)


def refuse_owned(folder: Path) -> None:
    """Raise TrainingError if a run is going on in a folder, or if that cannot be known; change nothing."""
    path = folder / OWNER
    try:
        owner = _parsed(path, read_bytes(path, NOTE_BYTES))
    except FileNotFoundError:
        return
    if not owner.is_gone:
        raise _refusal(path, owner)


def _create(path: Path) -> int | None:
    """Create the file and return it open and locked; return None if it is there already."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    _lock(file)
    try:
        _write(file, path)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    return file


def _take_over(path: Path) -> int:
    """Return the file of an owner that is gone, rewritten for this process, open and locked."""
    while True:
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # released just now
            created = _create(path)
            if created is not None:
                return created
            continue
        try:
            locked = _lock(file)
            if not _is_at(file, path):  # released between the two
                os.close(file)
                continue
            owner = _parsed(path, os.pread(file, 1 << 16, 0))
            if not (locked and owner.is_gone):
                raise _refusal(path, owner)
            os.ftruncate(file, 0)
            _write(file, path)
        except (OSError, TrainingError):
            with suppress(OSError):
                os.close(file)
            raise
        return file


def _lock(file: int) -> bool:
    """Lock a file; return False if another process has it locked, and True where there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _write(file: int, path: Path) -> None:
    with writing(path):
        os.pwrite(file, (json.dumps(asdict(Owner.this_process()), indent=1) + "\n").encode(), 0)
        os.fsync(file)


def _parsed(path: Path, data: bytes) -> Owner:
    try:
        owner = Owner(**json.loads(data))
        if type(owner.pid) is not int or owner.pid < 1 or not isinstance(owner.host, str):
            raise ValueError("no process")
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{path}: does not say which run owns this folder; if none is going on here, remove the file"
        ) from error
    return owner


def _refusal(path: Path, owner: Owner) -> TrainingError:
    here = f"{path.parent}: a run is going on here: {owner}; "
    if owner.host == socket.gethostname():
        return TrainingError(f"{here}wait for it, stop it, or name another --out")
    return TrainingError(
        f"{here}wait for it or name another --out; if it is certain that this process has ended, remove {path}"
    )


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _status(pid: int) -> tuple[str | None, int | None]:
    """Return the state of a process, and when it began in clock ticks; None for what the system does not say."""
    try:
        # Fields follow the name, which stands in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None, None


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
