"""Starts, kills and stops the processes of one cell."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bytewax.recovery import init_db_dir

from tests.apache_kafka import free_ports

ROOT = Path(__file__).parents[2]


class CrashingCell:
    """One cell, as one process with one worker or two, or as two processes."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.state = home / "state-0"
        self._states = 0
        # a process that a library brings down says where
        told = {"AUREON_HOME": str(home), "PYTHONFAULTHANDLER": "1"}
        # all lanes by hand: shapes change from life to life, and of a frozen one a copy goes on
        self._environment = {**os.environ, "AUREON_GATE": "off", "AUREON_CELL": "1/1", **environment, **told}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = (home / "cell.log").open("ab")

    def start(self, shape: str, **variables: str) -> None:
        """Start it as `w1`, `w2` or `two`, with variables for this life alone."""
        recovery = self.state / "recovery"
        if not recovery.exists():
            recovery.mkdir(parents=True)
            init_db_dir(recovery, 4)
        command = [sys.executable, "-m", "bytewax.run", "flows.refine", "-r", str(recovery), "-s", "1", "-b", "0"]
        each: list[list[str]] = [[]]
        if shape == "w2":
            each = [["-w", "2"]]
        elif shape == "two":
            addresses = ";".join(f"127.0.0.1:{port}" for port in free_ports(2))
            each = [["-i", str(i), "-a", addresses] for i in range(2)]
        environment = {**self._environment, "AUREON_STATE": str(self.state), **variables}
        self.processes = [
            subprocess.Popen([*command, *more], cwd=ROOT, env=environment, stdout=self.log, stderr=self.log)
            for more in each
        ]

    def kill(self, *, lose_state: bool = False) -> None:
        """Kill it at once, and throw its state folder away or not."""
        _kill(self.processes)
        if lose_state:
            self.lose_state()

    def close(self) -> None:
        """Kill it, and let go of its output."""
        self.kill()
        self.log.close()

    def end(self) -> None:
        """End it in order where nothing is about a kill, so that what it has done is told as covered."""
        for process in self.processes:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            for process in self.processes:
                process.wait(60)
        self.close()

    def freeze(self) -> list[subprocess.Popen[bytes]]:
        """Stop it without ending it; the next start goes on from a copy of its state."""
        frozen = self.processes
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        self._states += 1
        copy = self.home / f"state-{self._states}"
        shutil.copytree(self.state, copy)
        self.state = copy
        return frozen

    def lose_state(self) -> None:
        """Throw its state folder away."""
        shutil.rmtree(self.state)

    def terminate(self, limit_s: float = 120.0) -> list[int]:
        """End it gracefully."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(limit_s) for process in self.processes]

    def check_alive(self) -> None:
        """Fail when a process has ended by itself."""
        for process in self.processes:
            code = process.poll()
            if code is not None:
                raise AssertionError(f"a process ended by itself with {code}: {self.tail()}")

    def doing(self) -> str:
        """End it with the stacks of all its threads in its output, and read that."""
        for process in self.processes:
            process.send_signal(signal.SIGABRT)  # which `faulthandler` answers
            process.wait(60)
        return (self.home / "cell.log").read_text(errors="replace")[-20_000:]

    def tail(self) -> str:
        """The last lines of its output."""
        return (self.home / "cell.log").read_text(errors="replace")[-3000:]


def wake(frozen: list[subprocess.Popen[bytes]]) -> None:
    """Let a stopped process go on."""
    for process in frozen:
        process.send_signal(signal.SIGCONT)


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(60)


def kill_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill what was frozen."""
    _kill(processes)


def random_shape(rng: random.Random) -> str:
    """One worker, two, or two processes."""
    return rng.choice(["w1", "w2", "two"])


def wait_until(condition: Callable[[], object], limit_s: float, what: str, cell: CrashingCell) -> None:
    """Wait for a cell to make something true.

    Raises:
        AssertionError: it did not in time; with what its threads are doing.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {limit_s:.0f} s: {what}: {cell.doing()}")
        time.sleep(0.1)
