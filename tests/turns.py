"""Who runs beside whom, where pytest is split into several processes: a test that measures time runs alone.

What it measures is what the others leave it of the machine. Of locks on files: whoever wants to run takes the place at
the door first, so that a test that waits to be alone does not wait for all that come after it.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = "AUREON_TEST_TURNS"
"""Tells the processes that pytest starts where the locks are."""


def begin(config: pytest.Config) -> None:
    """Make the locks, in the process that starts the others."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory(prefix="aureon-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ[FOLDER] = folder.name


@contextlib.contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Wait for the turn of a test, and keep it."""
    folder = Path(os.environ[FOLDER])
    with (folder / "door").open("ab") as door, (folder / "room").open("ab") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
