"""Processes that work for this one."""

import os
import threading
import time

LOOK_S = 1.0


def end_with_parent() -> None:
    """Have this process end when the one that started it has ended, by kill -9 for example; called in the child.

    A worker of a pool waits for work on a pipe that its siblings hold open, too, so nothing else would tell it.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
