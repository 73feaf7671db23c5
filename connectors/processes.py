"""Processes that work for this one, and end with it; and files that tell which process has something."""

import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import BinaryIO, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
"""Linux: send a signal to this process when the thread that started it has ended; it outlives `exec`."""


class WorkerPool(ProcessPoolExecutor):
    """Processes that work for this one, and end with it. Ctrl-C on the terminal is for this one alone.

    What has not begun when its `with` is left does not begin any more.

    Args:
        processes: how many; they begin with the first call.
        begin: called first in each of them.
        arguments: of `begin`; they are pickled.
    """

    def __init__(self, processes: int, begin: Callable[..., object] = int, arguments: tuple[object, ...] = ()) -> None:
        super().__init__(processes, multiprocessing.get_context("spawn"), _begin, (begin, arguments))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function called in one of them."""
        # processes that are started here begin with Ctrl-C kept back, since they import much before they can say so
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    begin(*arguments)


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


def bound(end: signal.Signals, command: Sequence[str]) -> list[str]:
    """Say what to start for a program that gets a signal when the process that started it has ended.

    Args:
        end: the signal.
        command: the program, by its path, and its arguments. Its standard input is to be a pipe that nobody else writes
            to: that tells when its parent has ended already.
    """
    return [sys.executable, "-P", "-m", "connectors.processes", end.name, *command]


def read_pid(file: BinaryIO) -> int:
    """Read the process in a lock file; 0 between a lock and its first word."""
    file.seek(0)
    text = file.read().strip()
    return int(text) if text.isdigit() else 0


def write_pid(file: BinaryIO) -> None:
    """Write this process into the lock file that it holds."""
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()


def _become(end: signal.Signals, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end, 0, 0, 0)
    parents_pipe = select.poll()
    parents_pipe.register(sys.stdin, 0)
    if not parents_pipe.poll(0):  # else the parent ended before it could be watched
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    _become(signal.Signals[sys.argv[1]], sys.argv[2:])
