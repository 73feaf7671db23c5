"""What README shows works."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import duckdb
import jsonschema  # type: ignore[import-untyped] # it comes with Great Expectations, without types
import pytest

import one_lake
from flows.commands.schema import schema_of
from one_lake.sink import LakeWriter
from schemas.task import read_task
from tests.aureon_command import AUREON, ROOT, aureon, environment, until
from tests.brokers import Broker

README = (ROOT / "README.md").read_text()


def block(language: str, mark: str) -> str:
    """The code block of a language that holds a mark."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if mark in b]
    assert len(found) == 1, f"{len(found)} blocks with {mark!r}"
    return str(found[0])


def test_the_task_is_one() -> None:
    """By the schema and by the reader."""
    task = block("json", "logical_id")
    jsonschema.Draft202012Validator(schema_of("task")).validate(json.loads(task))
    read_task(task.encode())


def test_the_folders_are_there() -> None:
    """And no other."""
    folders = re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)
    assert folders == ["flows", "connectors", "schemas", "one_lake", "tests"]
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_queries_run(tmp_path: Path) -> None:
    """On an empty lake as on any."""
    LakeWriter(tmp_path).close()
    with one_lake.connect(tmp_path) as lake:
        statements = duckdb.extract_statements(block("sql", "FROM one"))
        assert len(statements) == 4
        for statement in statements:
            lake.execute(statement).fetchall()


class _Endpoint(BaseHTTPRequestHandler):
    """Answers every chat with 42; the first question of each model fails."""

    asked: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = question["model"] in self.asked
        self.asked.add(question["model"])
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "42"}}]}).encode()
        self.send_response(200 if known else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the library
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A server of chat completions."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_own_nodes_and_the_reader_of_results(own_broker: Broker, tmp_path: Path, endpoint: str) -> None:
    """The nodes of README answer a task, and the reader of README is told once, whoever says it again."""
    (tmp_path / "my_nodes.py").write_text(block("python", "class Chat"))
    task = json.dumps({"topic": "anything", "logical_id": "deep", "payload": {"prompt": "?", "answer_kind": "number"}})
    brokers = own_broker.brokers
    assert aureon("submit", "-", cwd=tmp_path, stdin=task, AUREON_BROKERS=brokers).returncode == 0
    command = ("run", "--until-idle", "1", "--nodes", "my_nodes:nodes")
    done = aureon(*command, cwd=tmp_path, AUREON_BROKERS=brokers, CHAT_URL=endpoint)
    assert done.returncode == 0, done.stderr
    assert "1 nodes: chat" in done.stderr

    reader = block("python", "subscribe").replace("127.0.0.1:9092", brokers)
    with (tmp_path / "read.txt").open("wb") as read:
        process = subprocess.Popen([AUREON[0], "-c", reader], cwd=tmp_path, env=environment(), stdout=read)
    try:
        until((tmp_path / "read.txt").read_text, 30)
        assert (tmp_path / "read.txt").read_text() == "anything deep 42\n"
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()
