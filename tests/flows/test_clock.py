"""A clock that is set back ends the process; one that is set forth, or slowly put right, does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.clock import ClockGuard

ROOT = Path(__file__).parents[2]
SLEEPER = """
import sys, time
from flows import clock
steps = iter([0.0, *[-60.0] * 1000])
clock.ClockGuard(wall=lambda: time.monotonic() + next(steps)).start()
time.sleep(120)
"""


class Clocks:
    """Two clocks that a test sets."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0
        self.ended: list[int] = []
        self.guard = ClockGuard(lambda: self.wall, lambda: self.steady, self.ended.append)

    def go(self, seconds: float, wall: float) -> None:
        """Let some time go by, of which the clock shows another."""
        self.steady += seconds
        self.wall += wall
        self.guard.look()


@pytest.mark.parametrize("back", [6.0, 3600.0])
def test_a_step_back_ends_the_process(back: float) -> None:
    """Once, and with what tells that it may be started again."""
    clocks = Clocks()
    clocks.go(0.5, 0.5)
    clocks.go(0.5, 0.5 - back)
    assert clocks.ended == [1]


def test_all_else_does_not() -> None:
    """A step forth, one back that is small, a clock that is put right slowly, a process that stood still."""
    clocks = Clocks()
    clocks.go(0.5, 3600.0)
    clocks.go(0.5, -3.0)
    for _ in range(100):
        clocks.go(0.5, 0.4)
    clocks.go(900.0, 900.0)
    assert clocks.ended == []


def test_the_process_says_why_and_ends() -> None:
    """For good, whatever its other threads do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SLEEPER], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "the clock was set back by 60 s" in done.stderr
