"""Directives, as they reach those whom they are for; cancels among them."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.cancels import CANCEL_KEY, Cancels, cancel_key
from connectors.directives import Directives
from schemas.errors import RefusedError
from schemas.task import read_task
from tests.aureon_command import until

TASK, _ = read_task(b'{"topic": "math", "logical_id": "a", "payload": {"prompt": "?"}}')


class ScriptedReader:
    """Gives what the script says, batch by batch; then nothing, or an error."""

    position = 0

    def __init__(self, *batches: list[Any], then: Exception | None = None) -> None:
        self._batches = list(batches)
        self._then = then

    def end_offset(self) -> int:
        """So many records were there at the start."""
        return 1

    def poll(self, _most: int) -> list[Any]:
        """The next batch."""
        if self._batches:
            self.position += 1
            return self._batches.pop(0)
        if self._then is not None:
            raise self._then
        return []

    def close(self) -> None:
        """Nothing to let go of."""


def record(key: bytes, value: bytes) -> Any:
    """A message of the topic."""
    return SimpleNamespace(key=lambda: key, value=lambda: value, offset=lambda: 0)


def cancel_of(topic: str, logical_id: str) -> Any:
    """An order."""
    text = f'{{"topic": "{topic}", "logical_id": "{logical_id}", "at": 0.0}}'
    return record(cancel_key(topic, logical_id), text.encode())


def follow(cancels: Cancels, reader: ScriptedReader) -> Directives:
    """Hand on what the script says."""
    return Directives(reader, {CANCEL_KEY: cancels.take}, cancels.settle)  # type: ignore[arg-type]


def test_orders_are_known_from_the_start_and_as_they_come() -> None:
    """What is no order is left out."""
    changes: list[int] = []
    reader = ScriptedReader([cancel_of("math", "b")], [record(b"cancel/x", b"{"), record(b"cluster/1", b"{}")])
    cancels = Cancels()
    cancels.on_change = lambda: changes.append(1)
    directives = follow(cancels, reader)
    assert changes
    assert not cancels.covers(TASK)
    reader._batches.append([cancel_of("math", "a")])
    deadline = time.monotonic() + 60
    while len(changes) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert cancels.covers(TASK)
    directives.check()
    directives.close()


def test_where_orders_cannot_be_read_no_task_goes_on() -> None:
    """One that is cancelled by now would."""
    directives = follow(Cancels(), ScriptedReader([], then=RefusedError("no right to read")))
    with pytest.raises(RefusedError, match="no right to read"):
        until(directives.check)
    directives.close()
