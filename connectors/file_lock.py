"""Locks of files, which the kernel lets go of when the process ends, however it does (flock(2))."""

import fcntl


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file for as long as the descriptor is open anywhere, children that inherit it included.

    Args:
        descriptor: of the file.
        shared: beside others that share it, but for none who has it alone.

    Returns:
        False where another one has it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
