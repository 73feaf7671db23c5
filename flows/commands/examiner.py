"""Poses the demo's tasks and later marks the answers, in a process of its own.

Both are work of seconds for a processor, and the cell is to have the other one. The process sees no answer before it is
asked to mark it, and the cell never sees the process: the demo carries tasks one way and answers the other.

    tasks, one JSON object a line  ─►  stdout
    {metadata, answer}, a line     ─►  stdin      ...  a score from 0 to 1, a line  ─►  stdout
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import msgspec
from msgspec import Struct

from schemas.errors import AureonError, OutcomeUnknownError, RefusedError

_ROOT = Path(__file__).resolve().parents[2]


class Marking(Struct, frozen=True):
    """An answer to be marked, with the metadata of its task."""

    metadata: dict[str, str]
    answer: str


class _Refusal(Struct, frozen=True):
    """What the process says when it cannot do its work."""

    refused: str


class Examiner:
    """The process, as the demo sees it; it ends with this object, or when this process dies.

    Args:
        count: how many tasks.
        seed: which ones.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._posed = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(count), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))},
            # Ctrl-C on the terminal is the demo's to handle.
            start_new_session=True,
        )

    def tasks(self) -> Iterator[bytes]:
        """Give the tasks as they are posed, as JSON.

        Raises:
            RefusedError: the generators are not installed.
            OutcomeUnknownError: the process ended.
        """
        while self._posed < self._count:
            line = self._read()
            self._posed += 1
            yield line

    def scores(self, answers: Sequence[Marking]) -> list[float]:
        """Mark answers; once all tasks are posed.

        Raises:
            OutcomeUnknownError: the process ended.
        """
        for _ in self.tasks():
            pass
        # From a thread: the process stops reading while nobody takes its scores.
        asking = threading.Thread(target=self._ask, args=(answers,), name="aureon-marking", daemon=True)
        asking.start()
        scores = [msgspec.json.decode(self._read(), type=float) for _ in answers]
        asking.join()
        return scores

    def _ask(self, answers: Iterable[Marking]) -> None:
        stdin = _pipe(self._process.stdin)
        try:
            for answer in answers:
                stdin.write(msgspec.json.encode(answer) + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it ended; whoever reads the scores says so

    def _read(self) -> bytes:
        line = _pipe(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            raise OutcomeUnknownError("the process that poses the tasks ended before its work was done")
        if line.startswith(b'{"refused"'):
            raise RefusedError(msgspec.json.decode(line, type=_Refusal).refused)
        return line

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it never read the last answers
                _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("the process has no pipe")
    return pipe


def serve(count: int, seed: int) -> None:
    """Pose, then mark until nobody asks any more: what the process does."""
    # Generators may print; the pipe is for tasks and scores alone.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            _serve(count, seed, out)
        except AureonError as error:
            _write(out, msgspec.json.encode(_Refusal(str(error))))
        except BrokenPipeError:
            os._exit(0)  # the demo is over; there is nobody to flush to


def _serve(count: int, seed: int, out: IO[bytes]) -> None:
    from flows.demo_tasks import demo_tasks, verify  # noqa: PLC0415 - heavy, and only this process needs it

    for task in demo_tasks(count, seed):
        _write(out, msgspec.json.encode(task))
    for line in sys.stdin.buffer:
        marking = msgspec.json.decode(line, type=Marking)
        _write(out, msgspec.json.encode(_score(verify, marking)))


def _score(verify: object, marking: Marking) -> float:
    """A verifier that stumbles over an answer has not accepted it."""
    check: Mapping[str, str] = marking.metadata
    try:
        return float(verify(check, marking.answer))  # type: ignore[operator] # a function; imported late
    except AureonError:
        raise
    except Exception:  # noqa: BLE001 - of a library
        return 0.0


def _write(out: IO[bytes], document: bytes) -> None:
    out.write(document + b"\n")
    out.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
