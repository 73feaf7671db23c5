"""How bad input is given: each by the way on which it comes, and what is told then, as it was told."""

import asyncio
import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msgspec

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config, read_to_end
from connectors.nodes import NodeError
from connectors.nodes.openai import Key, OpenAINode
from connectors.topics import DEAD_LETTERS, DEFAULT_LANES, TASKS, ensure_topics
from flows import cli
from flows.sending import TaskSender
from one_lake import tables
from schemas.decision import DeadLetter
from schemas.node import NodeCapabilities
from tests.aureon_command import aureon
from tests.bad_input.rows import Broadcast, Command, Damage, Message, Reply
from tests.connectors.asked import a_call
from tests.one_lake.lake_data import KEY, decisions, lake_writer
from tests.openai_server import OpenAIServer

SECRET = "sk-hunter2-hunter2-hunter2"  # noqa: S105 - it opens nothing
CALL = a_call(node="a")
GOOD = b'{"topic": "math", "logical_id": "m", "payload": {"prompt": "Solve for m: 2*m = 4", "answer_kind": "number"}}'
_PASSING = (
    (re.compile(r"\b[0-9a-f]{16}\b"), "{key}"),
    (re.compile(r"\b[0-9a-f]{12}…"), "{sha256}"),
    (re.compile(r"part-[\w-]+\.parquet"), "{part}.parquet"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "{cluster}"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "{time}"),
    (re.compile(r"127\.0\.0\.1:[1-6]\d{4}"), "{address}"),
)
"""What is another one each time."""


class Told(NamedTuple):
    """What came of a command."""

    code: int
    says: str


def told(text: str, home: Path) -> str:
    """Leave out of what was told what is another one each time."""
    text = text.replace(str(home), "{home}")
    for pattern, name in _PASSING:
        text = pattern.sub(name, text)
    return text.strip()


def call(arguments: Sequence[str], home: Path, variables: Mapping[str, str], stdin: bytes = b"") -> Told:
    """Call `aureon` in this process, as it is called in a folder.

    Of a wrong usage the last line is what is told: before it stands how the command is used. What is no error is told
    on stdout; of that, what says how things are is left out.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUREON_")}
    environment = {**kept, "COLUMNS": "120", "AUREON_GATE": "off", **variables}
    out, said = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(home),
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
    ):
        sys.modules.pop("mine", None)
        try:
            code = cli.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
            return Told(code, told(said.getvalue().strip().splitlines()[-1], home))
    lines = [line for line in out.getvalue().splitlines() if not line.startswith(("lake ", "head: "))]
    return Told(code, told(said.getvalue() or "\n".join(lines), home))


def command(row: Command, home: Path, brokers: str) -> Told:
    """Give a command its arguments, files and variables."""
    for name, data in row.files.items():
        (home / name).write_bytes(data)
    variables = dict(row.variables)
    if row.on_broker:
        variables["AUREON_BROKERS"] = brokers
    return call(shlex.split(row.arguments), home, variables, row.stdin)


# -- on Kafka ------------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """What a cell said of messages."""

    dead: Mapping[int, DeadLetter]
    """By offset on `tasks.global`, what became a dead letter."""
    log: str


def on_kafka(messages: Sequence[Message], broadcasts: Sequence[Broadcast], home: Path, brokers: str) -> Heard:
    """Write the messages, run a cell until it has decided all of them, and read what it says."""
    config = client_config(brokers)
    ensure_topics(config)
    producer = CheckedProducer(config)
    try:
        for broadcast in broadcasts:
            producer.send(broadcast.kafka_topic, 0, [broadcast.value], [broadcast.key])
        values = [*(row.value for row in messages), GOOD]  # one whose calls are in the ledger then
        producer.send(TASKS, 0, values, [b""] * len(values))
        producer.flush()
    finally:
        producer.close()
    done = aureon("run", "--until-idle", "0.5", cwd=home, AUREON_BROKERS=brokers)
    assert done.returncode == 0, done.stderr
    letters = [msgspec.json.decode(m.value() or b"", type=DeadLetter) for m in read_to_end(config, DEAD_LETTERS)]
    return Heard({letter.offset: letter for letter in letters}, told(done.stderr, home))


# -- over HTTP -----------------------------------------------------------------------------------------------------


def over_http(row: Reply, server: OpenAIServer) -> tuple[str | None, str]:
    """Have a call answered so; gives of which sort the failure is, and what is told of it."""
    server.faults.append(row.fault)

    async def ask() -> tuple[str | None, str]:
        node = OpenAINode(NodeCapabilities(node="a", models=("m",)), server.url, Key(SECRET))
        try:
            answer = await node.ask(CALL)
        except NodeError as error:
            wait = "" if error.retry_after_s is None else f" (asks to be left alone for {error.retry_after_s:g} s)"
            return error.failure, f"{error}{wait}"
        finally:
            await node.close()
        assert answer.status == "abstained"
        return None, str((answer.meta or {})["abstained"])

    return asyncio.run(ask())


# -- damaged files -------------------------------------------------------------------------------------------------


def state(row: Damage, home: Path, brokers: str) -> Told:
    """Damage a file of a home, and call a command there; what it says of other things is left out."""
    _damage(home / ".aureon" / row.file, row)
    task = b'{"topic": "math", "payload": {"prompt": "Solve for m: 3*m = 6", "of": "%b"}}' % row.kind.encode()
    with TaskSender(client_config(brokers), DEFAULT_LANES, 1 << 20) as sender:  # the ledger is opened for a call
        sender.add(task)
        sender.flush()
    code, says = call(shlex.split(row.arguments), home, {"AUREON_BROKERS": brokers})
    others = "supervision.directives@", "aureon: broker ", "idle for ", "stopped; "
    return Told(code, "\n".join(line for line in says.splitlines() if not any(other in line for other in others)))


def lake(row: Damage, home: Path) -> Told:
    """Damage a file of a lake, and ask it."""
    folder = home / ".aureon" / "lake"
    with contextlib.closing(lake_writer(folder)) as writer:
        writer.add(decisions(0, range(9)))
        writer.flush()
    _damage(_file_of_lake(folder, row.file), row)
    return call(shlex.split(row.arguments), home, {})


def _file_of_lake(folder: Path, what: str) -> Path:
    if what == "log":
        return tables.log_entry(folder, "rounds", 1)
    if what == "key":
        return tables.keys_folder(folder) / f"{KEY.name}.json"
    return next(tables.folder(folder, what).glob("*.parquet"))


def _damage(path: Path, row: Damage) -> None:
    path.write_bytes(row.damage(path.read_bytes()))
    for beside in path.parent.glob(f"{path.name}-*"):  # what SQLite keeps beside it
        beside.unlink()


@contextlib.contextmanager
def server() -> Iterator[OpenAIServer]:
    """A server of models."""
    with OpenAIServer() as one:
        yield one
