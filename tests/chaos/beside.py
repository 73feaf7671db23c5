"""An object in a process of its own: what it does there stops no thread here, and what ends it ends nothing here."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class Beside(Generic[T]):
    """One object, made in a process of its own, and made anew where that has ended.

    Args:
        make: makes it; can be pickled.
        nice: how much it stands back for others.
    """

    def __init__(self, make: Callable[[], T], nice: int = 0) -> None:
        self._make = make
        self._nice = nice
        self._process = self._begin()

    def _begin(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _open, (self._make, self._nice))

    def submit(self, do: Callable[Concatenate[T, P], R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Begin to do something with the object."""
        return self._process.submit(_do, do, args, kwargs)

    def ask(self, do: Callable[Concatenate[T, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do something with the object; where its process ends meanwhile, once more with a new one.

        A client of librdkafka takes its process with it now and then when the only broker is killed (its issue 5280).
        """
        while True:
            try:
                return self.submit(do, *args, **kwargs).result()
            except BrokenProcessPool:
                self.close()
                self._process = self._begin()

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


_objects: list[Any] = []
"""In a process that holds one."""


def _open(make: Callable[[], Any], nice: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks it says when it is over
    os.nice(nice)
    _objects.append(make())


def _do(do: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    return do(_objects[0], *args, **kwargs)
