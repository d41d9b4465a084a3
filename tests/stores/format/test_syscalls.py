"""Proof by strace that nothing changes a store outside the crash points of ``stores.format.durable``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The only writes that no crash points enclose: spooled rows, which nobody reads after a crash.
SPOOL_WRITES = {"write", "lseek", "close"}
CHANGES = {
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range", "splice"),
    *("truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "syncfs", "creat"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "chown", "fchown"),
    *("lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat", "setxattr", "fsetxattr", "removexattr"),
}
LINE = re.compile(r"^(?:\[pid +)?(\d+)?\]? *(?P<call>\w+)\((?P<rest>.*)$")


def strace() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("needs strace")
    probe = subprocess.run([path, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()[:80]}")
    return path


def trace(tmp_path: Path, *options: str) -> tuple[Path, Path, list[str]]:
    """Run the scenario under strace; return the store, the marks file and the traced lines in order."""
    root, marks, log = tmp_path / "store", tmp_path / "marks", tmp_path / "trace"
    marks.touch()
    command = [strace(), "-f", "-y", "-s", "400", "-e", "trace=%file,%desc,mmap", "-o", str(log)]
    command += [sys.executable, "-m", "tests._helpers.scenario", str(root), str(marks), *options]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[3], timeout=240)
    return root, marks, log.read_text(errors="replace").splitlines()


def changes_a_file(call: str, rest: str) -> bool:
    if call in ("open", "openat", "openat2"):
        return bool(re.search(r"O_(CREAT|WRONLY|RDWR|TRUNC|APPEND)", rest))
    if call == "mmap":
        return "PROT_WRITE" in rest and "MAP_SHARED" in rest
    return call in CHANGES


def escapes(root: Path, marks: Path, lines: list[str]) -> tuple[int, list[str]]:
    """Return the number of changes seen, and those that no pair of crash points encloses."""
    inside = f"{root}/"
    bracketed = False
    seen, escaped = 0, []
    for line in lines:
        match = LINE.match(line)
        if match is None:
            continue
        call, rest = match["call"], match["rest"]
        if call == "write" and f"<{marks}>" in rest.split(",", 1)[0]:
            bracketed = re.search(r'"\w+:before:', rest) is not None
            continue
        if (inside not in rest and f"{root}>" not in rest and f'{root}"' not in rest) or not changes_a_file(call, rest):
            continue
        seen += 1
        spool = re.match(rf"\d+<{re.escape(str(root))}/staging/\w+\.spool>", rest) and call in SPOOL_WRITES
        if not bracketed and not spool:
            escaped.append(line[:300])
    return seen, escaped


def test_every_change_lies_between_two_crash_points(tmp_path: Path) -> None:
    root, marks, lines = trace(tmp_path)
    seen, escaped = escapes(root, marks, lines)
    assert escaped == []
    assert seen > 300
    named = {line.split(":", 1)[0] for line in marks.read_text().splitlines()}
    assert named == {"append", "create", "fsync", "link", "mkdir", "rename", "shard", "unlink", "write"}


def test_the_proof_notices_an_escape(tmp_path: Path) -> None:
    root, marks, lines = trace(tmp_path, "escape")
    escaped = escapes(root, marks, lines)[1]
    assert escaped and all(f"{root}/events/escaped.jsonl" in line for line in escaped)
