"""Locks of files, which the kernel lets go of when the process ends, however it does (flock(2))."""

import fcntl
import time

LOOKS = 10
"""So often a lock is tried by who may be kept from it by others that only look whether somebody has it."""
LOOK_S = 0.01


def try_lock(descriptor: int, *, shared: bool = False, tries: int = 1) -> bool:
    """Take the lock of an open file for as long as the descriptor is open anywhere, children that inherit it included.

    Args:
        descriptor: of the file.
        shared: beside others that share it, but for none who has it alone.
        tries: how often, with `LOOK_S` between.

    Returns:
        False where another one has it.

    Raises:
        OSError: the file system has no locks.
    """
    for remaining in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if remaining:
                time.sleep(LOOK_S)
        else:
            return True
    return False
