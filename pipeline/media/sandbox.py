"""Takes from a decoding child what a decoder never needs: files, a network, processes.

A filter of the kernel (seccomp) refuses the system calls themselves, for every thread and for good. The child's input
is opened by its parent and handed over, so that even its own file is out of its reach by name. Threads go on working.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

WHOLE = "seccomp"
WITH_FILES = "seccomp, files may be opened"
LIMITS_ALONE = "rlimits"

# System calls by number on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h); None where it has no such call.
_FILES: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "truncate": (76, 45),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None),
    "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "chroot": (161, 51),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429), "fsopen": (430, 430),
    "open_tree": (428, 428), "memfd_create": (319, 279), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}  # fmt: skip
_OTHERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "setns": (308, 268), "unshare": (272, 97), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "personality": (135, 92), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "kcmp": (312, 272),
    "tkill": (200, 130),
}  # fmt: skip
_CLONE, _CLONE3, _SECCOMP = (56, 220), (435, 435), (317, 277)
_OF_ITSELF = ((62, 129), (234, 131))  # kill and tgkill: abort() and the like signal this process, and may
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in the tables, AUDIT_ARCH of the kernel

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data; the low half of the first argument
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000  # the calls of another x86 ABI, under other numbers
_CLONE_THREAD = 0x00010000
_SET_MODE_FILTER, _FOR_ALL_THREADS, _KEEP_SPECULATION = 1, 1, 4  # else kernels before 5.16 slow it all down
_PR_SET_NO_NEW_PRIVS = 38
_Instruction = tuple[int, int, int, int]


def enter(files: bool) -> str:
    """Give up, in all threads and for good, what a decoder does not need; return what is on.

    Parameters
    ----------
    files
        Whether files may still be opened by their names: libraries that read files themselves need it.

    Returns
    -------
    str
        ``seccomp``; ``seccomp, files may be opened``; or ``rlimits``, where the kernel has no filters for this machine.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None or os.name != "posix":
        return LIMITS_ALONE
    place, audit = machine
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _program(place, audit, files))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return LIMITS_ALONE
    wanted = (_FOR_ALL_THREADS | _KEEP_SPECULATION, _FOR_ALL_THREADS)  # kernels before 4.17 do not know the second flag
    if all(libc.syscall(_SECCOMP[place], _SET_MODE_FILTER, flags, header) != 0 for flags in wanted):
        return LIMITS_ALONE
    return WITH_FILES if files else WHOLE


def _program(place: int, audit: int, files: bool) -> Iterator[_Instruction]:
    """Yield the instructions of the filter: (code, jump if true, jump if false, value)."""
    yield _LOAD, 0, 0, _MACHINE_AT
    yield _JUMP_EQUAL, 1, 0, audit
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER_AT
    if place == 0:
        yield _JUMP_AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    for table in (_OTHERS, *(() if files else (_FILES,))):
        for numbers in table.values():
            if (number := numbers[place]) is not None:
                yield _JUMP_EQUAL, 0, 1, number
                yield _RETURN, 0, 0, _ERRNO | errno.EACCES
    # Its flags lie in memory, where a filter cannot look; without it, the C library starts threads by clone.
    yield _JUMP_EQUAL, 0, 1, _CLONE3[place]
    yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    yield from _allowed_if(_CLONE[place], _JUMP_BITS, _CLONE_THREAD)
    for numbers in _OF_ITSELF:
        yield from _allowed_if(numbers[place], _JUMP_EQUAL, os.getpid())
    yield _RETURN, 0, 0, _ALLOW


def _allowed_if(number: int, test: int, value: int) -> Iterator[_Instruction]:
    """Yield what lets a call pass if a test of its first argument holds, and refuses it otherwise."""
    yield _JUMP_EQUAL, 0, 4, number
    yield _LOAD, 0, 0, _ARGUMENT_AT
    yield test, 1, 0, value
    yield _RETURN, 0, 0, _ERRNO | errno.EACCES
    yield _RETURN, 0, 0, _ALLOW
