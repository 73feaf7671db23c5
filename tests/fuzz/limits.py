"""How a target is run: within a time of the processor, since a wait for other processes is not its fault."""

import time
from collections.abc import Callable

LIMIT_S = 1.0
"""Of the processor, for one input."""


class TooSlowError(Exception):
    """An input took longer than any may."""


def run(target: Callable[[bytes], None], data: bytes, limit_s: float = LIMIT_S) -> None:
    """Put one input to a target.

    Raises:
        TooSlowError: it took longer than the limit.
        Exception: whatever broke.
    """
    began = time.process_time()
    target(data)
    if (took := time.process_time() - began) > limit_s:
        raise TooSlowError(f"{took:.2f} s for {len(data):,} bytes")
