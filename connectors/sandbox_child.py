"""Runs an untrusted program within limits that this process lays on itself first; `connectors.sandbox` starts it.

It imports nothing of the project and little else, so it starts in twenty milliseconds, and it is run by `python -I -S`:
it has the standard library alone.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

# What may be read besides the program's own folder: the interpreter, its standard library, shared libraries.
READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

# Landlock (Linux 5.13): https://docs.kernel.org/userspace-api/landlock.html
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_OWN_FOLDER = _READ_FILE | _READ_DIR | _WRITE_FILE | (1 << 5) | (1 << 8)  # remove and make files, but no folders
_TRUNCATE = 1 << 14

# seccomp: https://docs.kernel.org/userspace-api/seccomp_filter.html
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x10000
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
"""Copies and flags of a file, locks, the size of a pipe; not who gets signals about it."""
_IOCTL = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""Is it a terminal, how wide, how much is there to read; flags."""
_PROBED = 424
"""System calls from here on are newer than what a C library can do without: it asks whether they are there."""
_MACHINES = {
    "x86_64": (0xC000003E, 0, {"clone": 56, "fcntl": 72, "ioctl": 16, "prlimit64": 302}),
    "aarch64": (0xC00000B7, 1, {"clone": 220, "fcntl": 25, "ioctl": 29, "prlimit64": 261}),
}
"""The audit architecture, the place in `_CALLS`, and the system calls whose arguments are looked at."""
_CALLS = """
read 0 63, write 1 64, close 3 57, openat 257 56, newfstatat 262 79, fstat 5 80, lseek 8 62, mmap 9 222, munmap 11 215,
mprotect 10 226, mremap 25 216, brk 12 214, madvise 28 233, futex 202 98, getdents64 217 61, open 2 -, stat 4 -,
lstat 6 -, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78,
getcwd 79 17, chdir 80 49, fchdir 81 50, statfs 137 43, fstatfs 138 44, pread64 17 67, pwrite64 18 68, readv 19 65,
writev 20 66, preadv 295 69, pwritev 296 70, pipe 22 -, pipe2 293 59, dup 32 23, dup2 33 -, dup3 292 24,
sendfile 40 71, copy_file_range 326 285, splice 275 76, fadvise64 221 223, flock 73 32, fsync 74 82, fdatasync 75 83,
ftruncate 77 46, fallocate 285 47, rename 82 -, renameat 264 38, renameat2 316 276, unlink 87 -, unlinkat 263 35,
umask 95 166, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19,
timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, timer_create 222 107, timer_settime 223 110,
timer_gettime 224 108, timer_delete 226 111, timer_getoverrun 225 109, setitimer 38 103, getitimer 36 102, alarm 37 -,
pause 34 -, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
gettimeofday 96 169, time 201 -, times 100 153, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
rt_sigpending 127 136, rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, signalfd4 289 74,
restart_syscall 219 128, getpid 39 172, gettid 186 178, getppid 110 173, getpgid 121 155, getpgrp 111 -,
getsid 124 156, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158,
getresuid 118 148, getresgid 120 150, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163,
getpriority 140 141, sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, getcpu 309 168, getrandom 318 278, membarrier 324 283,
mincore 27 232, msync 26 227, set_tid_address 218 96, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
arch_prctl 158 -, exit 60 93, exit_group 231 94
"""
"""What computing takes, with its numbers on x86-64 and arm64; `-` where there is none. All else is refused."""


_OF_FILES = (
    *("listdir", "scandir", "remove", "rename", "mkdir", "rmdir", "link", "symlink"),
    *("truncate", "chmod", "chown", "utime", "setxattr", "removexattr"),
)


def main() -> None:
    """Read what to do from stdin, shut the doors, run the program, and tell how it ended."""
    task = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ["TMPDIR"] = os.getcwd()
    report: int = task["report"]
    try:
        confine(task)
    except OSError as error:
        tell(report, {"end": "unsafe", "line": str(error)})
        return
    watch(report)
    run(task, report)


def confine(task: dict[str, Any]) -> None:
    """Lay all limits on this process; they cannot be lifted again, and hold for whatever it starts.

    Raises:
        OSError: the kernel lacks one of them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != task["parent"]:  # it ended before it could be watched
        os._exit(1)
    limits = {
        resource.RLIMIT_CPU: (task["cpu_s"], task["cpu_s"] + 1),
        resource.RLIMIT_AS: (task["memory"], task["memory"]),
        resource.RLIMIT_FSIZE: (task["file_bytes"], task["file_bytes"]),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, most in limits.items():
        resource.setrlimit(what, most)
    _call("no_new_privs", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _drop_capabilities(libc)
    _confine_files(libc)
    _confine_calls(libc)


def _call(what: str, result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _confine_files(libc: ctypes.CDLL) -> None:
    """Forbid all files but those that the interpreter needs, and the program's own folder."""
    abi = _call("Landlock (Linux 5.13) is needed to keep files apart", libc.syscall(_CREATE_RULESET, None, 0, 1))
    files = (1 << 13) - 1
    files |= (1 << 13) if abi >= 2 else 0
    files |= _TRUNCATE if abi >= 3 else 0
    net, scoped = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    wanted = struct.pack("QQQ", files, net, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = _call("Landlock", libc.syscall(_CREATE_RULESET, wanted, len(wanted), 0))
    own = _OWN_FOLDER | (_TRUNCATE if abi >= 3 else 0)
    read = _READ_FILE | _READ_DIR
    library = os.path.realpath(os.path.dirname(os.__file__))
    places = [(place, read) for place in (*READABLE, library, os.path.join(sys.base_prefix, "lib"))]
    places += [(place, _READ_FILE | _WRITE_FILE) for place in DEVICES]
    for place, access in [*places, (".", own)]:
        try:
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = access if os.path.isdir(place) else access & (_READ_FILE | _WRITE_FILE)
        rule = struct.pack("=Qi", allowed, fd)
        _call("Landlock", libc.syscall(_ADD_RULE, rules, 1, rule, 0))
        os.close(fd)
    _call("Landlock", libc.syscall(_RESTRICT_SELF, rules, 0))
    os.close(rules)


def _confine_calls(libc: ctypes.CDLL) -> None:
    """Refuse all system calls but those that computing takes."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no list of system calls for {platform.machine()}; there are lists for {', '.join(_MACHINES)}")
    architecture, column, looked_at = machine
    load, equal, any_bit, at_least, back = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, refuse = (back, 0, 0, _ALLOW), (back, 0, 0, _ERRNO | _EPERM)
    # the places of the number and of the arguments, 32 bits each, in what the kernel hands to the filter
    number, first, second, third, third_high = 0, 16, 24, 32, 36

    def one_of(values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
        return [part for value in values for part in ((equal, 0, 1, value), allow)] + [refuse]

    arguments = {
        "clone": [(load, 0, 0, first), (any_bit, 0, 1, _CLONE_THREAD), allow, refuse],
        "fcntl": [(load, 0, 0, second), *one_of(_FCNTL)],
        "ioctl": [(load, 0, 0, second), *one_of(_IOCTL)],
        # no new limits: the pointer to them is null, and it is about this process
        "prlimit64": [
            *((load, 0, 0, third), (equal, 1, 0, 0), refuse, (load, 0, 0, third_high), (equal, 1, 0, 0), refuse),
            *((load, 0, 0, first), (equal, 1, 0, 0), refuse, allow),
        ],
    }
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (back, 0, 0, _KILL), (load, 0, 0, number)]
    for name, parts in arguments.items():
        code += [(equal, 0, len(parts), looked_at[name]), *parts]
    for call in _CALLS.split(","):
        place = call.split()[1 + column]
        if place != "-":
            code += [(equal, 0, 1, int(place)), allow]
    code += [(at_least, 0, 1, _PROBED), (back, 0, 0, _ERRNO | _ENOSYS), refuse]
    filters = b"".join(struct.pack("HBBI", *part) for part in code)
    buffer = ctypes.create_string_buffer(filters)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    _call("seccomp", libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Be root in name only, where the cell is; capset(2), version 3."""
    header = struct.pack("Ii", 0x20080522, 0)
    _call("capset", libc.capset(header, bytes(24)))


def watch(report: int) -> None:
    """Have the interpreter tell what the program tries; no boundary, which the kernel is, but it knows the words."""
    own = os.path.realpath(".")
    library = os.path.realpath(os.path.dirname(os.__file__))
    readable = (own, library, os.path.realpath(sys.base_prefix), *READABLE, *DEVICES)
    told = {
        "socket.__new__": "network",
        "socket.getaddrinfo": "network",
        "socket.gethostbyname": "network",
        "os.fork": "processes",
        "os.forkpty": "processes",
        "os.exec": "processes",
        "os.posix_spawn": "processes",
        "os.system": "processes",
        "os.kill": "processes",
        "subprocess.Popen": "processes",
    }
    about_files = frozenset([f"os.{what}" for what in _OF_FILES] + ["open"])
    real, start, names = os.path.realpath, str.startswith, (str, bytes)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        limit = told.get(event)
        line = event
        if event in about_files:
            path = arguments[0]
            if not isinstance(path, names):
                return
            path = os.fsdecode(path)
            if any(start(real(path), place) for place in readable):
                return
            limit, line = "files", f"{event} of {path[:200]}"
        if limit is not None:
            tell(report, {"end": "stopped", "limit": limit, "line": line})
            os._exit(1)

    sys.addaudithook(hook)


def run(task: dict[str, Any], report: int) -> None:
    """Run the program, then its tests; only the end of the tests is told as such."""
    nonce = task.pop("nonce")
    program, tests = task.pop("program"), task.pop("tests")
    names: dict[str, Any] = {"__name__": "answer", "__builtins__": __builtins__}
    part = "the program"
    stop: Callable[[int], None] = os._exit
    write = tell
    try:
        exec(compile(program, "answer.py", "exec"), names)  # noqa: S102 - that is what all of this is for
        part = "the tests"
        names["__name__"] = "tests"
        exec(compile(tests, "tests.py", "exec"), names)  # noqa: S102
    except BaseException as error:  # noqa: BLE001 - whatever it raises
        limit = ""
        if isinstance(error, MemoryError):
            names.clear()
            limit = "memory"
        elif isinstance(error, OSError) and error.errno == 27:  # EFBIG
            limit = "file size"
        line = f"{part}: {type(error).__name__}: {error}"[:500]
        write(report, {"end": "stopped" if limit else "failed", "limit": limit, "line": line})
        stop(1)
    write(report, {"end": "done", "nonce": nonce})
    stop(0)


def tell(report: int, said: dict[str, Any]) -> None:
    """Say how it ended."""
    os.write(report, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()
