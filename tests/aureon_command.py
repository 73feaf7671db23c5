"""The `aureon` command as a process of its own, as users run it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AUREON = (sys.executable, "-m", "flows.cli")

Finished = subprocess.CompletedProcess[str]


def environment(**variables: str) -> dict[str, str]:
    """That of this process without its settings, and with some of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUREON_")}
    # the gate takes seconds to start, and few tests are about it
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "AUREON_GATE": "off", **variables}


def aureon(*arguments: str | Path, cwd: Path, stdin: str = "", timeout_s: float = 150, **variables: str) -> Finished:
    """Run a command to its end, as `finished` does."""
    return finished(*AUREON[1:], *arguments, cwd=cwd, stdin=stdin, timeout_s=timeout_s, **variables)


def finished(*arguments: str | Path, cwd: Path, stdin: str = "", timeout_s: float = 150, **variables: str) -> Finished:
    """Run Python to its end.

    Args:
        arguments: what Python is given.
        cwd: where it runs; the default home is below.
        stdin: what it reads.
        timeout_s: then it has failed.
        variables: of its environment.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        input=stdin.encode(),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def running(*arguments: str | Path, cwd: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and end it with the test. What it says goes to `said.txt` in its folder."""
    with (cwd / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            [*AUREON, *map(str, arguments)],
            cwd=cwd,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(
    condition: Callable[[], object], limit_s: float = 90.0, process: "subprocess.Popen[str] | None" = None
) -> None:
    """Wait for a condition.

    Args:
        condition: what is to come true.
        limit_s: how long that may take.
        process: if it ends, there is no use in waiting.

    Raises:
        TimeoutError: it does not come true.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise TimeoutError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s")
        time.sleep(0.01)


def is_alive(pid: int | str) -> bool:
    """Tell whether a process runs: one that has ended stays until somebody asks how, in a container for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def said(cwd: Path) -> str:
    """What the commands that were started in a folder have said so far."""
    path = cwd / "said.txt"
    return path.read_text() if path.exists() else ""
