"""The sandbox: an untrusted program, run within limits in a process of its own.

    program, tests ─► python -I -S sandbox_child.py ─► Landlock, seccomp, rlimits ─► exec ─► how it ended

Each run has a fresh, empty folder, an empty environment but for the name of that, and no stdin. It may compute, start
threads, read Python's own library, and keep files in its folder. It may not open or change other files, nor open
sockets or processes, nor take more time, memory, output or disk than it is given: the kernel refuses (Landlock for
files; seccomp for all system calls but those that computing takes; rlimits for memory, processor time and file size),
and this process ends it when its time is over or it writes too much. Where the kernel lacks any of that, nothing runs.

What remains: it can tell which other files there are, though not what is in them. And program and tests share an
interpreter, so a program that is made to deceive its tests, by an object that equals everything say, may pass; that it
merely exits, whichever way, is not taken for passing.
"""

import contextlib
import json
import math
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from schemas.errors import RefusedError

CHILD = Path(__file__).with_name("sandbox_child.py")
OUTPUT_BYTES = 1 << 20
"""Of stdout and stderr together."""
FILE_BYTES = 16 << 20
"""Of one file."""
FOLDER_BYTES = 32 << 20
"""Of all files of a run."""
LOOK_EVERY_S = 0.05
TIDY_S = 1.0
"""For all runs together, at the end."""
LONGEST_LINE = 500
MOST_FILES = 2000

Limit = Literal["", "time", "cpu", "memory", "output", "file size", "files", "processes", "network"]


class Limits(Struct, frozen=True):
    """What a run may take."""

    wall_s: float = 5.0
    memory_bytes: int = 256 << 20

    @property
    def cpu_s(self) -> int:
        """Whole seconds of processor time: more than the clock's, so it is threads that reach them."""
        return math.ceil(self.wall_s) + 1


class SandboxVerdict(Struct, frozen=True):
    """How a run ended."""

    kind: Literal["passed", "failed", "stopped"]
    limit: Limit = ""
    """What it was stopped by."""
    detail: str = ""
    wall_s: float = 0.0

    @property
    def passed(self) -> bool:
        """The program ran, and its tests ran to their end."""
        return self.kind == "passed"

    def __bool__(self) -> bool:
        """Tell whether it passed."""
        return self.passed

    def __str__(self) -> str:
        """In words."""
        what = f"{self.kind} by its limit of {self.limit}" if self.limit else self.kind
        return f"{what}: {self.detail}" if self.detail else what


class Sandbox:
    """Runs programs, at most as many at a time as there are processors; threads may share it.

    Args:
        limits: of each run.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._at_once = os.cpu_count() or 1
        self._slots = threading.Semaphore(self._at_once)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(self, program: str, tests: str = "") -> SandboxVerdict:
        """Run a program, and then its tests, to their end or to a limit.

        Raises:
            RefusedError: the kernel lacks what is needed to run it safely; or the sandbox is closed.
        """
        with self._slots:
            folder = tempfile.mkdtemp(prefix="aureon-sandbox-")
            try:
                return self._run(folder, program, tests)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End all runs, and wait until they have tidied up; their threads may end with this process."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _kill(process)
        limit = time.monotonic() + TIDY_S
        free = sum(self._slots.acquire(timeout=max(0.0, limit - time.monotonic())) for _ in range(self._at_once))
        for _ in range(free):
            self._slots.release()

    def _run(self, folder: str, program: str, tests: str) -> SandboxVerdict:
        nonce = secrets.token_hex(16)
        reading, writing = os.pipe()
        began = time.monotonic()
        try:
            process = self._start(folder, writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            task = {
                "program": program,
                "tests": tests,
                "nonce": nonce,
                "report": writing,
                "parent": os.getpid(),
                "cpu_s": self.limits.cpu_s,
                "memory": self.limits.memory_bytes,
                "file_bytes": FILE_BYTES,
            }
            watched = _Watched(process, reading, Path(folder), began + self.limits.wall_s)
            watched.feed(json.dumps(task).encode())
            watched.wait()
        finally:
            _kill(process)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            os.close(reading)
            with self._lock:
                self._running.discard(process)
        return _verdict(watched, process.returncode, nonce, time.monotonic() - began, self.limits)

    def _start(self, folder: str, report: int) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise RefusedError("the sandbox is closed")
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(report,),
                env={},
                cwd=folder,
                start_new_session=True,
            )
            self._running.add(process)
            return process


class _Watched:
    """A run that is being watched: what it writes is read, and it is given up when a limit is reached."""

    def __init__(self, process: "subprocess.Popen[bytes]", report: int, folder: Path, deadline: float) -> None:
        self._process = process
        self._folder = folder
        self._deadline = deadline
        self._report = report
        self.said = b""
        """On the report pipe."""
        self.error = b""
        """The end of stderr."""
        self.output = 0
        self.limit: Limit = ""
        self._looked_at = time.monotonic()

    def feed(self, task: bytes) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(task)
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until it ends or has to be ended."""
        process = self._process
        assert process.stdout is not None  # noqa: S101 - they are pipes
        assert process.stderr is not None  # noqa: S101
        stderr = process.stderr.fileno()
        with selectors.DefaultSelector() as selector:
            for fd in (process.stdout.fileno(), stderr, self._report):
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                ended = process.poll() is not None
                ready = selector.select(0 if ended else LOOK_EVERY_S)
                for key, _ in ready:
                    if not self._take(key.fd, os.read(key.fd, 1 << 16), stderr):
                        selector.unregister(key.fd)
                self.limit = self._reached()
                if self.limit or (ended and not ready):
                    return

    def _take(self, fd: int, data: bytes, stderr: int) -> bool:
        """Take what was written; False where nothing more comes."""
        if fd == self._report:
            self.said = (self.said + data)[-4096:]
        else:
            self.output += len(data)
            if fd == stderr:
                self.error = (self.error + data)[-4096:]
        return bool(data)

    def _reached(self) -> Limit:
        """Which limit was reached."""
        now = time.monotonic()
        if self.output > OUTPUT_BYTES:
            return "output"
        if now > self._deadline:
            return "time"
        if now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            if _size(self._folder) > FOLDER_BYTES:
                return "file size"
        return ""


def _size(folder: Path) -> int:
    """Add up the files of a folder, which has no folders in it."""
    total = 0
    with os.scandir(folder) as files:
        for count, file in enumerate(files):
            with contextlib.suppress(FileNotFoundError):
                total += file.stat(follow_symlinks=False).st_size
            if count > MOST_FILES:
                return FOLDER_BYTES + 1
    return total


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is not None:  # its number may be another's by now
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        process.kill()


def _verdict(watched: _Watched, code: int, nonce: str, wall_s: float, limits: Limits) -> SandboxVerdict:
    """Tell how a run ended.

    Raises:
        RefusedError: the kernel lacks what is needed.
    """
    said = _last_report(watched.said)
    if said.get("end") == "unsafe":
        raise RefusedError(f"untrusted code cannot be run here: {said.get('line')}")
    if said.get("end") == "done" and said.get("nonce") == nonce and code == 0 and not watched.limit:
        return SandboxVerdict("passed", wall_s=wall_s)
    line = str(said.get("line", ""))[:LONGEST_LINE]
    if not line:
        error = watched.error.decode(errors="replace").strip().splitlines()
        line = error[-1][:LONGEST_LINE] if error else ""
    limit = watched.limit or (said.get("limit") or "" if said.get("end") == "stopped" else _by_signal(code, line, said))
    if limit in ("time", "output", "cpu") or (limit == "file size" and not said):
        line = {
            "time": f"not done within {limits.wall_s:g} s",
            "cpu": f"more than {limits.cpu_s} s of processor time",
            "output": f"more than {OUTPUT_BYTES:,} bytes of output",
            "file size": f"more than {FOLDER_BYTES:,} bytes of files, or {MOST_FILES:,} files",
        }[limit]
    if limit and limit in get_args(Limit):  # a program may have said anything
        return SandboxVerdict("stopped", limit, line, wall_s)
    if not said:
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else "it ended before its tests did"
        line = f"{ended}; {line}" if line else ended
    return SandboxVerdict("failed", detail=line, wall_s=wall_s)


def _by_signal(code: int, line: str, said: dict[str, Any]) -> Limit:
    """Which limit ended a run that could not say so itself."""
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and not said):
        return "cpu"
    if code == -signal.SIGXFSZ:
        return "file size"
    return "memory" if "MemoryError" in line else ""


def _last_report(said: bytes) -> dict[str, Any]:
    """Read the last line that is one; the program itself may have written there."""
    for line in reversed(said.splitlines()):
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(report, dict):
            return {name: value for name, value in report.items() if isinstance(value, str)}
    return {}
