"""The supervision root as a process, beside a cell whose nodes do what a file says."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import one_lake
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config, read_to_end
from connectors.nodes import Node
from connectors.topics import DIRECTIVES, TASKS, ensure_topics
from schemas.ids import home_lane
from schemas.node import Answer, Call, NodeCapabilities
from schemas.supervision import Quarantine, Stage
from tests.aureon_command import aureon
from tests.brokers import Broker
from tests.chaos.audit import LogFollower
from tests.chaos.cells import ROOT, CrashingCell, wait_until

LANES = 2
LIARS = "TEST_LIARS"
"""The variable that names the file in which the nodes are that lie."""


class MoodyNode:
    """Says 42, or something of its own while it lies."""

    def __init__(self, name: str, liars: Path) -> None:
        self.capabilities = NodeCapabilities(node=name, models=("m",), max_concurrency=1000)
        self._liars = liars

    async def ask(self, call: Call) -> Answer:
        """Answer."""
        lies = self.capabilities.node in self._liars.read_text().split()
        return Answer(node=call.node, model=call.model, text=f"{len(call.logical_id)}7" if lies else "42")

    async def close(self) -> None:
        """Nothing to let go of."""


def moody_nodes() -> list[Node]:
    """Three of them."""
    import os  # noqa: PLC0415 - in the cell's own process

    return [MoodyNode(name, Path(os.environ[LIARS])) for name in ("a", "b", "c")]


class Cluster:
    """A cell and a root on one broker, with tasks one after the other."""

    def __init__(self, broker: Broker, home: Path) -> None:
        self.broker = broker
        self.home = home
        self.liars = home / "liars.txt"
        self.liars.write_text("")
        ensure_topics(client_config(broker.brokers), LANES)
        self._environment = {"AUREON_BROKERS": broker.brokers, LIARS: str(self.liars)}
        self.cell = CrashingCell(
            home,
            {**self._environment, "AUREON_NODES": "tests.flows.test_supervise:moody_nodes", "AUREON_IN_FLIGHT": "8"},
        )
        self.cell.start("w1")
        self._log = (home / "root.log").open("ab")
        self.root = self.start_root()
        self.follower = LogFollower(broker.brokers, LANES)
        self.sent = 0

    def start_root(self) -> subprocess.Popen[bytes]:
        """Start the root."""
        command = [sys.executable, "-m", "flows.cli", "supervise", "--brokers", self.broker.brokers]
        command += ["--home", str(self.home)]
        return subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)

    def refine(self, count: int) -> None:
        """Refine so many more tasks to their end, a few at a time."""
        producer = CheckedProducer(client_config(self.broker.brokers))
        for _ in range(count):
            name = f"t{self.sent}"
            self.sent += 1
            task = {"topic": "math", "logical_id": name, "payload": {"prompt": "6*7", "answer_kind": "number"}}
            producer.send(TASKS, home_lane(name, LANES), [msgspec.json.encode(task)], [name.encode()])
            time.sleep(0.01)  # a root looks once a second: at full speed all would be over before it does
        producer.flush()
        producer.close()
        deadline = time.monotonic() + 120
        while sum(d.kind.value == "converged" for _, d in self.follower.winners.values()) < self.sent:
            assert time.monotonic() < deadline, self.cell.tail()
            self.follower.poll()

    def asked(self, since: int) -> list[int]:
        """How many nodes were asked in each task from one number on."""
        found = {d.logical_id: d for _, d in self.follower.winners.values() if d.result is not None}
        return [len(found[f"t{i}"].result.candidates) for i in range(since, self.sent)]  # type: ignore[union-attr]

    def orders(self) -> list[tuple[str, str]]:
        """What the root has ordered, in order."""
        found = []
        for record in read_to_end(client_config(self.broker.brokers), DIRECTIVES):
            if (record.key() or b"").startswith(b"quarantine/"):
                order = msgspec.json.decode(record.value() or b"", type=Quarantine)
                found.append((order.node, order.stage.value))
        return found

    def until(self, node: str, stage: Stage, tasks: int) -> int:
        """Refine tasks until the root has ordered something; says after how many it was seen.

        It is so many tasks that it needs, not so much time: a root that has just started reads the last of them later.
        """
        for done in range(20, tasks + 1, 20):
            self.refine(20)
            if (node, stage.value) in self.orders():
                return done
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if (node, stage.value) in self.orders():
                return tasks
        raise AssertionError(
            f"{node} is not {stage} after {tasks} tasks: {(self.home / 'root.log').read_text()[-3000:]}"
        )

    def follow(self, nodes: int) -> None:
        """Refine tasks, a few at a time, until the cell asks so many nodes: it hears of an order a moment later."""
        first = self.sent
        for _ in range(20):
            self.refine(3)
            if set(self.asked(self.sent - 3)) == {nodes}:
                return
            time.sleep(0.5)
        raise AssertionError(f"not {nodes} nodes are asked, but {self.asked(first)}")

    def status(self) -> dict[str, Any]:
        """What `aureon status` tells of the cell."""
        told = aureon("status", "--json", "--home", self.home, cwd=self.home, AUREON_BROKERS=self.broker.brokers)
        assert told.returncode == 0, told.stderr
        (cell,) = json.loads(told.stdout)["cells"]
        return dict(cell)

    def close(self) -> None:
        """End both."""
        self.root.terminate()
        self.root.wait(60)
        self._log.close()
        self.cell.end()
        self.follower.close()


@contextlib.contextmanager
def cluster_on(broker: Broker, home: Path) -> Iterator[Cluster]:
    """Start both, and end them."""
    cluster = Cluster(broker, home)
    try:
        yield cluster
    finally:
        cluster.close()


def sql(home: Path, query: str) -> list[Any]:
    """Ask the lake."""
    with one_lake.connect(home / "lake") as lake:
        return lake.execute(query).fetchall()


def test_a_node_that_lies_is_kept_out_and_comes_back_when_it_does_not(own_broker: Broker, tmp_path: Path) -> None:
    """Within 300 tasks of its topic each; the cell goes on while the root is down, with what it heard last."""
    with cluster_on(own_broker, tmp_path) as cluster:
        cluster.refine(40)
        assert set(cluster.asked(0)) == {3}
        cluster.liars.write_text("c")
        assert cluster.until("c", Stage.QUARANTINED, 300) <= 300
        cluster.follow(2)

        first = cluster.sent
        cluster.root.kill()
        cluster.root.wait()
        cluster.refine(60)
        asked = cluster.asked(first)
        assert asked.count(2) > asked.count(3) > 0, asked

        cluster.root = cluster.start_root()
        cluster.liars.write_text("")
        assert cluster.until("c", Stage.PROBATION, 300) <= 300
        cluster.follow(3)
        first = cluster.sent
        cluster.refine(20)
        assert set(cluster.asked(first)) == {3}
        cluster.until("c", Stage.FREE, 200)

        wait_until(lambda: cluster.status()["decided"] >= cluster.sent, 60, "not all is told", cluster.cell)
        assert cluster.status()["lanes"] == [0, 1]
        cluster.root.terminate()
        assert cluster.root.wait(60) == 0
    # one that was raised just before the kill is told by the next root; twice, where its note came in time after all
    of_c = "SELECT state FROM supervision WHERE kind = 'alert' AND subject = 'c' ORDER BY number"
    assert list(dict.fromkeys(state for (state,) in sql(tmp_path, of_c))) == ["quarantined", "probation", "returned"]
    qualities = sql(tmp_path, "SELECT DISTINCT subject FROM supervision WHERE kind = 'affinity' ORDER BY 1")
    assert qualities == [("a",), ("b",), ("c",)]
    assert "supervision root; broker" in (tmp_path / "root.log").read_text()


def test_a_cell_that_dies_is_told_as_silent_and_as_back(own_broker: Broker, tmp_path: Path) -> None:
    """By its heartbeats, which it sends whether it has work or not."""
    with cluster_on(own_broker, tmp_path) as cluster:
        log = tmp_path / "root.log"
        cluster.refine(5)
        time.sleep(3)  # a heartbeat or two
        cluster.cell.kill()
        deadline = time.monotonic() + 120
        while "cell_silent" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        cluster.cell.start("w1")
        while "cell_back" not in log.read_text():
            assert time.monotonic() < deadline + 120, log.read_text()
            time.sleep(0.2)
