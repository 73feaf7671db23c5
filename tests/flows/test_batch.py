"""A batch, in one call: it ends when all have ended, and says what is wrong where they cannot."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import one_lake
from tests.aureon_command import Finished, aureon, environment, finished, until
from tests.brokers import Broker
from tests.openai_server import OpenAIServer

pytestmark = pytest.mark.embedded
PROGRAM = """
import json, sys
import flows.batch
from flows.batch import refine
from flows.terminal import ended
from flows.settings import read_settings

def main():
    with refine(read_settings(), open("tasks.jsonl", "rb").read().splitlines()) as lake:
        print(json.dumps(lake.execute(
            "SELECT logical_id, answer FROM one SEMI JOIN asked USING (topic, logical_id) ORDER BY ALL").fetchall()))
    return 0

%s
sys.exit(ended(main))
"""
LOSING = """
class Losing(flows.batch.TaskSender):
    def add(self, document):
        return ("math", "gone") if b"gone" in document else super().add(document)

flows.batch.TaskSender = Losing
flows.batch.STALLED_S = 2.0
"""
FAILING = """
class Failing(flows.batch.TaskSender):
    def flush(self):
        raise flows.batch.OutcomeUnknownError("the broker has lost its mind")

flows.batch.TaskSender = Failing
"""


NODE = """
[[node]]
id = "{name}"
kind = "openai"
url = "{url}"
models = ["m"]
topics = ["{topic}"]
"""


def task(name: str, prompt: str, **payload: object) -> str:
    """A line of the file."""
    return json.dumps({"topic": "math", "logical_id": name, "payload": {"prompt": prompt, **payload}}) + "\n"


def refined(folder: Path, *lines: str, more: str = "", **variables: str) -> Finished:
    """Run the batch of these lines."""
    (folder / "tasks.jsonl").write_text("".join(lines))
    return finished("-c", PROGRAM % more, cwd=folder, timeout_s=120, **variables)


def test_all_have_ended_when_it_returns(own_broker: Broker, tmp_path: Path) -> None:
    """A task that was cancelled too; the tasks of others are not waited for, and not told."""
    own: Any = {"AUREON_BROKERS": own_broker.brokers}
    assert aureon("cancel", "math", "never", cwd=tmp_path, **own).returncode == 0
    other = json.dumps({"topic": "math", "logical_id": "other", "payload": {"prompt": "Solve for x: 2*x = 2"}})
    assert aureon("submit", "-", cwd=tmp_path, stdin=other, **own).returncode == 0
    done = refined(
        tmp_path,
        task("small", "Solve for x: 3*x = 9"),
        "\n",
        task("large", "Solve for x: 3*x = 12", note="x" * 100_000),
        task("never", "Solve for x: 3*x = 15"),
        **own,
        AUREON_BLOBS=str(tmp_path / "blobs"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["large", "4"], ["small", "3"]]
    assert any(path.stat().st_size > 100_000 for path in (tmp_path / "blobs").rglob("*") if path.is_file())


def test_a_branch_is_waited_for(own_broker: Broker, tmp_path: Path) -> None:
    """However long it takes after the task that it came of."""
    (tmp_path / "branching.toml").write_text('[[follow_up]]\nfrom = "math"\nto = "slow"\nprompt = "Check: $answer"\n')
    with OpenAIServer() as fast, OpenAIServer(latency_s=5.0) as slow:
        nodes = (("fast", fast, "math"), ("slow", slow, "slow"))
        (tmp_path / "nodes.toml").write_text("".join(NODE.format(name=n, url=s.url, topic=t) for n, s, t in nodes))
        done = refined(
            tmp_path,
            task("one", "6*7"),
            AUREON_BROKERS=own_broker.brokers,
            AUREON_NODES="nodes.toml",
            AUREON_BRANCHING="branching.toml",
            AUREON_POLICY="threshold(0.1)",
            AUREON_DRAIN_S="0.5",
        )
    assert done.returncode == 0, done.stderr
    with one_lake.connect(tmp_path / ".aureon" / "lake") as lake:
        assert lake.sql("SELECT topic, logical_id FROM one ORDER BY ALL").fetchall() == [
            ("math", "one"),
            ("slow", "one:branch-0"),
        ]


def test_what_is_no_task_is_named(tmp_path: Path) -> None:
    """By its place in the batch; nothing else is begun."""
    done = refined(tmp_path, task("one", "Solve for x: 2*x = 2"), "\n", '{"topic": "math", "payload": {}}\n')
    assert done.returncode == 1
    assert "aureon: task 3: empty: needs `prompt` (text) or `messages` (a list) - at `$.payload`" in done.stderr
    assert "Traceback" not in done.stderr
    nothing = refined(tmp_path, "\n")
    assert (nothing.returncode, nothing.stderr) == (2, "aureon: there are no tasks to refine\n")


def test_tasks_that_are_gone_are_not_waited_for(own_broker: Broker, tmp_path: Path) -> None:
    """A broker that was killed may lose them; the same again sends them again."""
    own: Any = {"AUREON_BROKERS": own_broker.brokers}
    lines = [task("here", "Solve for x: 2*x = 2"), task("gone", "Solve for x: 2*x = 4")]
    done = refined(tmp_path, *lines, more=LOSING, **own)
    assert done.returncode == 1
    assert "nothing waits any more, with 2 of 3 tasks and branches ended: the broker lost the others" in done.stderr
    again = refined(tmp_path, *lines, **own)
    assert json.loads(again.stdout) == [["gone", "2"], ["here", "1"]], again.stderr


def test_an_error_of_the_sending_ends_the_batch(own_broker: Broker, tmp_path: Path) -> None:
    """With its own words; the cell stops in order."""
    done = refined(tmp_path, task("one", "Solve for x: 2*x = 2"), more=FAILING, AUREON_BROKERS=own_broker.brokers)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "aureon: the broker has lost its mind")


def test_ctrl_c_ends_a_batch_in_order(own_broker: Broker, tmp_path: Path) -> None:
    """Without a lake: not all of it is there."""
    (tmp_path / "tasks.jsonl").write_text(task("one", "6*7"))
    with OpenAIServer(latency_s=60.0) as server:
        (tmp_path / "nodes.toml").write_text(NODE.format(name="slow", url=server.url, topic="math"))
        own = {"AUREON_BROKERS": own_broker.brokers, "AUREON_NODES": "nodes.toml", "AUREON_DRAIN_S": "0.2"}
        command = [sys.executable, "-c", PROGRAM % ""]
        with subprocess.Popen(command, cwd=tmp_path, env=environment(**own), stderr=subprocess.PIPE) as batch:
            try:
                until(lambda: server.served, 60)
                batch.send_signal(signal.SIGINT)
                told = batch.communicate(timeout=30)[1].decode()
                assert batch.returncode == 130
            finally:
                batch.kill()
    assert told.endswith("aureon: interrupted\n")
