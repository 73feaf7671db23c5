"""`aureon submit`: tasks from a file of JSON lines to Kafka, each confirmed by the broker."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw

from connectors.blobs import BlobStore
from connectors.topics import ensure_topics
from flows.cluster import config_of
from flows.commands.arguments import settings_of
from flows.figures import reach
from flows.overflow import Overflow
from flows.sending import BATCH_MESSAGES, TaskSender, too_large
from flows.settings import Settings
from flows.terminal import FAILED, INTERRUPTED, OK, say, show
from schemas.errors import UNREADABLE, AureonError, BadRecordError, RefusedError

BAD_LINES_SHOWN = 100
"""More of them would hide the summary; a file that is no JSON at all has only bad lines."""
SKIP_BYTES = 1 << 20


def main(options: argparse.Namespace) -> int:
    """Read, check and send all lines of a file."""
    settings = settings_of(options)
    if options.topic is not None and not options.topic.strip():
        raise RefusedError("--topic: empty")
    if (options.file is None) == (options.from_one is None):
        raise RefusedError("expected a FILE of tasks, or --from-one with a query, and one of them only")
    with _lines_of(options, settings) as (name, lines):
        config = config_of(settings)
        reach(config)
        lanes = ensure_topics(config, settings.lanes, settings.replication).lanes
        overflow = None
        if settings.blobs or not settings.brokers:  # else the cells, who may be elsewhere, have another store
            store = BlobStore(settings.blobs_url)
            if not settings.blobs:
                store.create()
            overflow = Overflow(store, settings.blob_bytes)
        batch = 1 if options.file == "-" else BATCH_MESSAGES  # who writes into a pipe now and then waits for no batch
        with TaskSender(config, lanes, settings.max_task_bytes, batch, overflow) as sender:
            try:
                bad = _send_all(sender, name, lines, options.topic)
                sender.flush()
            except KeyboardInterrupt:
                sender.flush()
                say(
                    f"aureon: interrupted after {sender.sent:,} tasks, which are confirmed; "
                    "submitting the whole file again is harmless"
                )
                return INTERRUPTED
    if options.json:
        show(
            msgspec.json.encode({"submitted": sender.sent, "bad": bad, "broker": config["bootstrap.servers"]}).decode()
        )
    elif not sender.sent and not bad:
        show(f"nothing submitted: {name} is empty")
    else:
        told = f", {bad:,} bad {'line' if bad == 1 else 'lines'} left out" if bad else ""
        noun = "task" if sender.sent == 1 else "tasks"
        show(f"{sender.sent:,} {noun} submitted to {config['bootstrap.servers']}, all confirmed{told}")
    return FAILED if bad else OK


def _send_all(
    sender: TaskSender, name: str, lines: Iterator[tuple[int, bytes | BadRecordError]], topic: str | None
) -> int:
    """Send what is good, report what is bad; returns how many are bad."""
    bad = 0
    for number, line in lines:
        try:
            if isinstance(line, BadRecordError):
                raise line
            sender.add(line if topic is None else with_topic(line, topic))
        except BadRecordError as error:
            bad += 1
            if bad <= BAD_LINES_SHOWN:
                say(f"{name}:{number}: {error}")
            elif bad == BAD_LINES_SHOWN + 1:
                say("further bad lines are counted, and not shown")
        except AureonError as error:
            raise type(error)(f"{name}:{number}: {error}; submitting the file again is harmless") from error
    return bad


def with_topic(line: bytes, topic: str) -> bytes:
    """Give a task a topic if it has none; a line that is no object is left as it is, for the reader to refuse."""
    try:
        task = msgspec.json.decode(line, type=dict[str, Raw])
    except UNREADABLE:
        return line
    if "topic" in task:
        return line
    return msgspec.json.encode({"topic": topic, **task})


def read_lines(
    source: BinaryIO, max_bytes: int, advance: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[int, bytes | BadRecordError]]:
    """Read lines with their numbers, from 1; blank ones are left out, one that is too long is an error in its place.

    Args:
        source: a file, or a pipe.
        max_bytes: of a longer line, no more is ever held.
        advance: told how many bytes each line took.
    """
    number = 0
    while line := source.readline(max_bytes + 2):  # with its line end
        number += 1
        size = len(line)
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while rest := source.readline(SKIP_BYTES):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
        advance(size)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write it
        if size > max_bytes + 2:
            yield number, too_large(size, max_bytes)
        elif stripped := line.strip():
            yield number, stripped


@contextlib.contextmanager
def _lines_of(
    options: argparse.Namespace, settings: Settings
) -> Iterator[tuple[str, Iterator[tuple[int, bytes | BadRecordError]]]]:
    """The tasks, with their numbers, and how to call where they are from."""
    if options.from_one is not None:
        from flows.commands.from_one import tasks_of  # noqa: PLC0415 - only this needs the lake

        yield "row", tasks_of(settings.lake_dir, settings.blobs_url, options.from_one, options.as_of)
        return
    with _opened(options.file) as (name, source), _progress(source) as advance:
        yield name, read_lines(source, settings.max_task_bytes, advance)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[str, BinaryIO]]:
    """Open what is to be read, and say how to call it."""
    if file == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise RefusedError("standard input is closed; name a file, or send the tasks through a pipe")
        if sys.stdin.isatty():
            say("reading tasks from the terminal, a JSON object a line; Ctrl-D ends")
        yield "<stdin>", sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RefusedError(f"{file}: {error.strerror}") from None
    with source:
        yield file, source


@contextlib.contextmanager
def _progress(source: BinaryIO) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal: by bytes, since nobody knows how many lines there are."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    size = os.fstat(source.fileno()).st_size  # 0 of a pipe
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("submitting", total=size or None)
        yield lambda n: progress.advance(bar, n)
