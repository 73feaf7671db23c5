"""The quality gate: each batch of records is judged before it is written, in a process of its own.

Great Expectations takes 2 s and 250 MB to import, and this process needs neither.
"""

import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import Struct

from one_lake.expectations import Configuration, suite
from schemas.errors import UNREADABLE, RefusedError

log = logging.getLogger(__name__)


class Refused(Struct, frozen=True, gc=False):
    """A row that is no record."""

    row: int
    """Its number in the batch, from 0."""
    expectation: str
    """The first one that failed, with what was found."""


class Judged(Struct, frozen=True):
    """What was found in a batch."""

    refused: list[Refused]
    alerts: list[str]
    """What is to be said of the batch as a whole."""


class _Expected(Struct, frozen=True):
    """One expectation as Great Expectations writes it; what else it says of one is left out."""

    type: str
    kwargs: dict[str, Any] = {}


class _Suite(Struct, frozen=True):
    expectations: tuple[_Expected, ...]


class _Ready(Struct, frozen=True):
    ready: bool = False
    error: str = ""


class QualityGate:
    """Judges batches, one after the other; its process is started at once, and again if it died.

    Args:
        configurations: what is expected of a record.
    """

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        self._command = [sys.executable, "-m", "one_lake.gate_process", json.dumps(list(configurations))]
        self._is_ready = False
        self._is_closed = False
        self._process = self._start()

    def judge(self, rows: pa.RecordBatch) -> Judged:
        """Judge a batch.

        Raises:
            RefusedError: an expectation is none; says which.
            OSError: its process ended, and once more when it was started again.
        """
        if not rows.num_rows:
            return Judged([], [])
        try:
            return self._ask(rows)
        except (BrokenPipeError, EOFError):
            if self._is_closed:
                raise OSError("the quality gate is closed") from None
            log.warning("the quality gate's process ended with %s; it is started again", self._process.wait())
            self._end()
            self._process = self._start()
        try:
            return self._ask(rows)
        except (BrokenPipeError, EOFError):
            raise OSError(f"the quality gate's process ended twice while it judged {rows.num_rows} records") from None

    def close(self) -> None:
        """End its process, for good."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        self._is_ready = False
        # what it was about to be sent it does not get any more
        with contextlib.suppress(BrokenPipeError), self._process:
            self._process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            # a cell that is stopped by Ctrl-C still has records to be judged
            start_new_session=True,
        )

    def _ask(self, rows: pa.RecordBatch) -> Judged:
        sink, source = self._process.stdin, self._process.stdout
        if sink is None or source is None:
            raise EOFError
        if not self._is_ready:
            ready = msgspec.json.decode(_line(source.readline()), type=_Ready)
            if ready.error:
                raise RefusedError(f"the quality gate (AUREON_GATE): {ready.error}")
            self._is_ready = True
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, rows.schema) as stream:
            stream.write_batch(rows)
        data = buffer.getvalue()
        sink.write(data.size.to_bytes(8, "little"))
        sink.write(data)
        sink.flush()
        return msgspec.json.decode(_line(source.readline()), type=Judged)


def _line(line: bytes) -> bytes:
    if not line:
        raise EOFError
    return line


def configurations_of(setting: str) -> list[Configuration] | None:
    """What AUREON_GATE stands for.

    Args:
        setting: `on`, `off`, or a file of Great Expectations' own, a suite as JSON, which is added to what is built in.

    Returns:
        The expectations; None where nothing is judged.

    Raises:
        RefusedError: it is no suite.
    """
    if setting == "off":
        return None
    if setting == "on":
        return suite()
    try:
        told = msgspec.json.decode(Path(setting).read_bytes(), type=_Suite)
    except OSError as error:
        why = error.strerror or error
        raise RefusedError(f"AUREON_GATE={setting!r}: {why}; expected on, off, or a file with a suite") from None
    except (*UNREADABLE, ValueError) as error:  # also of a name that no file has
        raise RefusedError(
            f"AUREON_GATE={setting!r}: no suite of Great Expectations: {error}; expected "
            '{"expectations": [{"type": "expect_…", "kwargs": {…}}]}'
        ) from None
    return [*suite(), *({"type": each.type, "kwargs": each.kwargs} for each in told.expectations)]
