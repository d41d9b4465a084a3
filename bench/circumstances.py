"""Says where and when something was measured: date, commit, machine, versions of packages, load."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Start:
    """The moment when a bench began.

    Attributes
    ----------
    date
        Date and time in UTC, to the second, as ISO 8601.
    clock
        The monotonic clock, in seconds.
    load
        Processes that ran or waited for a processor, on average over a minute.
    """

    date: str = field(default_factory=lambda: datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "seconds"))
    clock: float = field(default_factory=time.monotonic)
    load: float = field(default_factory=lambda: os.getloadavg()[0])


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Under which circumstances figures were taken.

    Attributes
    ----------
    command
        The command line.
    date
        When it began, in UTC.
    commit
        The commit of the checkout, with a plus sign if files differed from it; empty outside a repository.
    machine
        Processor, number of CPUs, memory in GiB, system, Python, GPU.
    packages
        Version by name of the packages that matter, as far as they are installed.
    load
        Load average over a minute, before and after.
    seconds
        How long it took.
    taken_from
        Where figures come from that were not written by the bench itself; empty if they were.
    """

    command: str
    date: str
    commit: str
    machine: Mapping[str, Any]
    packages: Mapping[str, str]
    load: tuple[float, ...] = ()
    seconds: float | None = None
    taken_from: str = ""

    @classmethod
    def since(cls, start: Start, packages: Sequence[str]) -> Circumstances:
        """Return the circumstances of a bench of this process that has just ended."""
        return cls(
            command=command_line(sys.argv),
            date=start.date,
            commit=commit() or "",
            machine=machine(),
            packages={name: version for name, version in versions(packages).items() if version is not None},
            load=(round(start.load, 1), round(os.getloadavg()[0], 1)),
            seconds=round(time.monotonic() - start.clock, 1),
        )

    def __str__(self) -> str:
        """Return them as a few sentences."""
        told = self.machine
        parts = [f"{self.date} UTC" if ":" in self.date else self.date] if self.date else []
        parts += [f"commit {self.commit[:7]}{'+' * self.commit.endswith('+')}"] if self.commit else []
        parts += [f"{told['cpus']} × {told['processor']}, {told['memory_gib']:.0f} GiB"] if "cpus" in told else []
        parts += [told[name] for name in ("gpu", "system") if told.get(name)]
        parts += [f"Python {told['python']}"] if "python" in told else []
        parts += [f"{name} {version}" for name, version in self.packages.items()]
        parts += [f"load {self.load[0]:.1f} before and {self.load[-1]:.1f} after"] if self.load else []
        parts += [f"{self.seconds:.0f} s"] if self.seconds is not None else []
        sentence = "; ".join(parts) + "." if parts else ""
        return f"{sentence} {self.taken_from}".strip()


def command_line(arguments: Sequence[str]) -> str:
    """Return the command that was typed, with paths inside the checkout relative and others by name, without --json."""
    script, *rest = arguments
    shown: list[str] = []
    skip = False
    for argument in rest:
        if not skip and argument != "--json" and not argument.startswith("--json="):
            option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
            shown.append(option + equals + (Path(value).name if value.startswith("/") else value))
        skip = argument == "--json"
    path = Path(script).resolve()
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return shlex.join(["python", name, *shown])


def machine() -> dict[str, Any]:
    """Return processor, CPUs that this process may use, memory in GiB, system, Python, and the GPU that torch uses."""
    torch = sys.modules.get("torch")  # a bench that did not import it did not use a GPU
    card = {"gpu": torch.cuda.get_device_name()} if torch is not None and torch.cuda.is_available() else {}
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        **card,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """Return the commit of the checkout, with a plus sign if files differ from it; None outside a repository."""
    git = ["git", "-c", "safe.directory=*"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT)
        # Results that are being written beside each other are no change of what was measured.
        changes = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", ":!*.md"]
        changed = subprocess.run(changes, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())
