"""`aureon run` with a nodes.toml: read again while it runs, and its key is in the requests and nowhere else."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

import one_lake
from connectors.kafka import client_config
from tests.aureon_command import aureon, running, said, until
from tests.brokers import Broker
from tests.openai_server import OpenAIServer, Question, error

pytestmark = pytest.mark.embedded
KEY = "sk-Zq8vNw3TfYb61LxKdRm50PcJ"
NODE = """
[[node]]
id = "{name}"
kind = "openai"
url = "{url}"
key_env = "OWN_KEY"
models = ["m"]
topics = ["{topic}"]
"""


def node(name: str, server: OpenAIServer, topic: str) -> str:
    """An entry of the file."""
    return NODE.format(name=name, url=server.url, topic=topic)


def task(topic: str, name: str) -> str:
    """A line for `aureon submit`."""
    payload = {"prompt": f"What is {name}?", "answer_kind": "number"}
    return json.dumps({"topic": topic, "logical_id": name, "payload": payload})


def everything_on(brokers: str) -> bytes:
    """All messages on Kafka: keys, values, headers."""
    consumer = Consumer({**client_config(brokers), "group.id": "everything", "enable.auto.commit": False})
    found = []
    try:
        for topic in consumer.list_topics(timeout=10).topics.values():
            places = [TopicPartition(topic.topic, p, OFFSET_BEGINNING) for p in topic.partitions]
            missing = sum(consumer.get_watermark_offsets(p, timeout=10)[1] for p in places)
            consumer.assign(places)
            deadline = time.monotonic() + 3
            while missing and time.monotonic() < deadline:  # transactions' marks count and never come
                for message in consumer.consume(500, 0.3):
                    found.append(repr((message.key(), message.value(), message.headers())).encode())
                    missing -= 1
    finally:
        consumer.close()
    assert found
    return b"\n".join(found)


def all_of(lake: Path) -> bytes:
    """All rows of the lake."""
    with one_lake.connect(lake) as connection:
        views = ("records", "rounds", "branches", "dead_letters")
        return repr([connection.execute(f"SELECT * FROM {view}").fetchall() for view in views]).encode()  # noqa: S608


def test_the_key_of_a_server_is_in_its_requests_and_nowhere_else(own_broker: Broker, tmp_path: Path) -> None:
    """Though the server says it back, in errors and in answers."""

    def telling(question: Question) -> str:
        return f"Your key is {KEY}.\nAnswer: 42" if "good" in str(question["messages"]) else "Answer: 42"

    with OpenAIServer(telling) as server:
        server.fault_of = lambda q: error(401, f"wrong key {KEY}, begins with {KEY[:12]}") if "bad" in str(q) else None
        (tmp_path / "nodes.toml").write_text(node("echo", server, "math"))
        own: dict[str, Any] = {"AUREON_BROKERS": own_broker.brokers, "AUREON_NODES": "nodes.toml", "OWN_KEY": KEY}
        lines = "\n".join([task("math", "good"), task("math", "bad")])
        assert aureon("submit", "-", cwd=tmp_path, stdin=lines, **own).returncode == 0
        checked = aureon("nodes", "check", cwd=tmp_path, **own)
        limits: dict[str, Any] = {"AUREON_MAX_ATTEMPTS": "1", "AUREON_CALL_BACKOFF_S": "0.05"}
        done = aureon("run", "--until-idle", "1", "--log-level", "debug", cwd=tmp_path, **own, **limits)
        assert done.returncode == 0, done.stderr
        assert {s.headers["Authorization"] for s in server.served} == {f"Bearer {KEY}"}
    status = aureon("status", cwd=tmp_path, **own)
    rows = all_of(tmp_path / ".aureon" / "lake")
    assert b"HTTP 401: wrong key [key]" in rows
    assert b"Your key is [key]" in rows
    told = [done.stdout, done.stderr, checked.stdout, checked.stderr, status.stdout, status.stderr]
    files = [path.read_bytes() for path in (tmp_path / ".aureon").rglob("*") if path.is_file()]
    assert any(b"Answer: 42" in content for content in files)
    with sqlite3.connect(tmp_path / ".aureon" / "state" / "calls.sqlite") as ledger:
        files.append(b"".join(body for (body,) in ledger.execute("SELECT body FROM commits")))
    places = {
        "said": "".join(told).encode(),
        "lake": rows,
        "Kafka": everything_on(own_broker.brokers),
        "files": b"\n".join(files),
    }
    assert [name for name, content in places.items() if KEY[:12].encode() in content] == []


def test_the_file_is_read_again_while_the_cell_runs(own_broker: Broker, tmp_path: Path) -> None:
    """A new server is asked, one that is taken out is not, and a file that is wrong changes nothing."""
    own: dict[str, Any] = {"AUREON_BROKERS": own_broker.brokers, "AUREON_NODES": "nodes.toml", "OWN_KEY": KEY}
    path = tmp_path / "nodes.toml"

    def converged(name: str) -> bool:
        done = aureon("sql", "--json", f"SELECT models FROM one WHERE logical_id = '{name}'", cwd=tmp_path, **own)  # noqa: S608
        return done.returncode == 0 and "models" in done.stdout

    def submit(topic: str, name: str) -> None:
        assert aureon("submit", "-", cwd=tmp_path, stdin=task(topic, name), **own).returncode == 0

    with OpenAIServer() as first, OpenAIServer() as second:
        path.write_text(node("first", first, "math"))
        with running("run", "--verbose", cwd=tmp_path, **own) as cell:
            submit("math", "a")
            until(lambda: converged("a"), 40, cell)
            path.write_text(node("first", first, "math") + node("second", second, "logic"))
            until(lambda: "2 nodes, 1 of them new" in said(tmp_path), 20, cell)
            submit("logic", "b")
            until(lambda: converged("b"), 40, cell)
            path.write_text(node("first", first, "math").replace("openai", "opnai"))
            until(lambda: "the nodes stay as they were" in said(tmp_path), 20, cell)
            assert "opnai" in said(tmp_path)
            submit("logic", "c")
            until(lambda: converged("c"), 40, cell)
            path.write_text(node("second", second, "math"))
            until(lambda: "1 nodes, 1 of them new" in said(tmp_path), 20, cell)
            asked = first.count
            submit("math", "d")
            until(lambda: converged("d"), 40, cell)
            cell.terminate()
            assert cell.wait(60) == 0, said(tmp_path)
        assert first.count == asked
        assert second.count >= 3
