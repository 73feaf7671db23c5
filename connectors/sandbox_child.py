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
_OWN_FOLDER = _READ_FILE | _READ_DIR | _WRITE_FILE | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8)  # remove, make
_TRUNCATE = 1 << 14

# seccomp: https://docs.kernel.org/userspace-api/seccomp_filter.html
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_THREAD = 0x10000
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_MACHINES = {
    # name: (audit architecture, system calls that are refused, clone, prlimit64)
    "x86_64": (
        0xC000003E,
        (
            "29 30 31 41 42 43 44 46 49 50 53 57 58 59 62 64 68 101 103 129 133 135 155 159 160 161 163 164 165 166 "
            "167 168 169 170 171 175 176 179 200 227 234 240 246 248 249 250 259 272 288 297 298 303 304 305 "
            "308 310 311 313 319 321 322 323 424 425 426 427 434 438 447"
        ),
        56,
        302,
    ),
    "aarch64": (
        0xC00000B7,
        (
            "33 39 40 41 51 60 89 92 97 104 105 106 112 116 117 129 130 131 138 142 161 162 164 170 171 180 186 190 "
            "194 195 196 198 199 200 201 202 203 206 211 217 218 219 221 224 225 240 241 242 264 265 266 268 270 "
            "271 273 279 280 281 282 424 425 426 427 434 438 447"
        ),
        220,
        261,
    ),
}
"""Sockets; new processes; signals to others; other processes' memory; name spaces and mounts; System V memory, memfd;
io_uring, which would do all of these; keys, modules, clocks, and higher limits."""
_CLONE3 = 435


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
    """Refuse system calls: sockets, processes, and what else would lead out of here."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no list of system calls for {platform.machine()}; there are lists for {', '.join(_MACHINES)}")
    architecture, refused, clone, prlimit = machine
    load, equal, any_bit, back = 0x20, 0x15, 0x45, 0x06
    code: list[tuple[int, int, int, int]] = [(load, 0, 0, 4), (equal, 1, 0, architecture), (back, 0, 0, _KILL)]
    code += [(load, 0, 0, 0), (0x35, 0, 1, 0x40000000), (back, 0, 0, _ERRNO | _ENOSYS)]  # x32
    for number in map(int, refused.split()):
        code += [(equal, 0, 1, number), (back, 0, 0, _ERRNO | _EPERM)]
    code += [(equal, 0, 1, _CLONE3), (back, 0, 0, _ERRNO | _ENOSYS)]  # its flags cannot be seen; the libc falls back
    code += [(equal, 0, 4, clone), (load, 0, 0, 16), (any_bit, 0, 1, _CLONE_THREAD)]
    code += [(back, 0, 0, _ALLOW), (back, 0, 0, _ERRNO | _EPERM)]
    code += [(equal, 0, 5, prlimit), (load, 0, 0, 32), (equal, 0, 2, 0), (load, 0, 0, 36), (equal, 1, 0, 0)]
    code += [(back, 0, 0, _ERRNO | _EPERM), (back, 0, 0, _ALLOW)]
    filters = b"".join(struct.pack("HBBI", *part) for part in code)
    buffer = ctypes.create_string_buffer(filters)
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    _call("seccomp", libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0))


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
    real, start, names = os.path.realpath, str.startswith, (str, bytes)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        limit = told.get(event)
        line = event
        if event in ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir"):
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
