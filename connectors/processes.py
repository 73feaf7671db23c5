"""Processes that work for this one."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Have this process end when the one that started it has ended, by kill -9 for example; called in the child.

    A worker of a pool waits for work on a pipe that its siblings hold open, too, so nothing else would tell it.

    Raises:
        ValueError: `multiprocessing` did not start it.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("this process was not started by another's `multiprocessing`")

    def watch() -> None:
        parent.join()  # also if it ended before this was called
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
