"""Which tests `make test` takes no coverage of: those with a bar that the taking would move.

Whoever follows each line of a process slows it down, up to twofold where it is busy. So a test that measures time or
memory, that limits its process' files, or that kills processes by the second, is left alone with all that it starts;
and so is one that runs thousands of schedules through lines that others run as well.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
from coverage import Coverage

LEFT_ALONE = ("unmeasured", "chaos")
"""The marks of such tests."""
FOLLOWS = "COVERAGE_PROCESS_CONFIG"
"""By this variable coverage.py follows the processes that tests start."""


@contextlib.contextmanager
def measured(item: pytest.Item) -> Iterator[None]:
    """Run a test with coverage, if it is taken at all, or without."""
    taken = Coverage.current()
    if taken is None or not any(map(item.get_closest_marker, LEFT_ALONE)):
        yield
        return
    config = os.environ.pop(FOLLOWS)
    taken.stop()
    try:
        yield
    finally:
        taken.start()
        os.environ[FOLLOWS] = config
