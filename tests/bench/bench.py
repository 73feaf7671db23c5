"""A cell on a broker of its own, what it is sent, and how fast it is: what all benchmarks share.

Counted are rounds whose decision is on the log and whose row is in the lake, between the first and the last commit
to the lake, so that the start is left out.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from bytewax.recovery import init_db_dir
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic
from deltalake import DeltaTable

from connectors.checked_producer import CheckedProducer
from connectors.kafka import admin_client, client_config
from connectors.topics import RESULTS, TASKS, ensure_topics
from schemas.decision import DecisionKind, read_decision
from tests.bench.raw import IN, OUT
from tests.brokers import Broker, empty, new_broker

ROOT = Path(__file__).parents[2]
ROUNDS = 3


class Bench:
    """One broker, and what is measured on it."""

    def __init__(self, broker: Broker, folder: Path, scale: float) -> None:
        self.broker = broker
        self._folder = folder
        self._scale = scale

    def tasks(self, count: int) -> int:
        """So many tasks at this scale."""
        return max(300, int(count * self._scale))

    def fill(self, kafka_topic: str, count: int) -> None:
        """Send so many tasks."""
        producer = CheckedProducer(client_config(self.broker.brokers))
        for start in range(0, count, 5000):
            batch = [task_message(i) for i in range(start, min(count, start + 5000))]
            producer.send(kafka_topic, 0, batch)
        producer.flush()
        producer.close()

    def raw(self, count: int) -> float:
        """Rounds per second of the raw loop."""
        empty(self.broker)
        admin = admin_client(client_config(self.broker.brokers))
        for created in admin.create_topics(
            [NewTopic(t, 1, 1, config={"retention.ms": "-1"}) for t in (IN, OUT)]
        ).values():
            created.result()
        self.fill(IN, count)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.bench.raw", self.broker.brokers, str(count)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return float(ran.stdout)

    def home(self, name: str) -> Path:
        """The folder of a cell."""
        return self._folder / name

    def start(self, name: str, nodes: str, **settings: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a cell in a folder of its own, or once more in the same."""
        home = self.home(name)
        recovery = home / "state" / "recovery"
        if not recovery.exists():
            recovery.mkdir(parents=True)
            init_db_dir(recovery, 1)
        environment = {
            **os.environ,
            "AUREON_HOME": str(home),
            "AUREON_BROKERS": self.broker.brokers,
            "AUREON_NODES": nodes if nodes.endswith(".toml") else f"tests.bench.nodes:{nodes}",
            # one model alone never reaches the score; the last round converges because the rounds are spent
            "AUREON_SCORE_THRESHOLD": "0.9",
            "AUREON_DRAIN_S": "1",
            "AUREON_GATE": "off",
            **{f"AUREON_{key.upper()}": value for key, value in settings.items()},
        }
        command = [sys.executable, "-m", "bytewax.run", "flows.refine", "-r", str(recovery), "-s", "2", "-b", "0"]
        with (home / "cell.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        return process, home

    def cell(self, name: str, nodes: str, count: int, **settings: str) -> tuple[float, float]:
        """Rounds per second of a cell in the steady state, and its peak memory in MB."""
        empty(self.broker)
        ensure_topics(client_config(self.broker.brokers), 1)
        self.fill(TASKS, count)
        process, home = self.start(name, nodes, **settings)
        log = home / "lake" / "rounds" / "_delta_log"
        commits: list[tuple[float, int]] = []
        entries = 0
        try:
            while not commits or commits[-1][1] < ROUNDS * count:
                if process.poll() is not None:
                    raise RuntimeError((home / "cell.log").read_text()[-2000:])
                time.sleep(0.02)
                if log.exists() and (found := len(list(log.iterdir()))) > entries:
                    entries, at = found, time.perf_counter()
                    commits.append((at, _rounds_in_lake(home / "lake")))
            memory = peak_mb(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        if len(commits) < 4:
            raise RuntimeError("too few commits to tell a rate; raise AUREON_BENCH_SCALE")
        # the work ran out before the last commit, and the first one was that of an empty table or came at the start
        (first, before), (last, after) = commits[1], commits[-2]
        return (after - before) / (last - first), memory

    def single(self, repeats: int) -> list[float]:
        """Milliseconds from sending one task, nothing else under way, to its last decision on the log."""
        empty(self.broker)
        config = client_config(self.broker.brokers)
        ensure_topics(config, 1)
        process, _home = self.start("single", "instant")
        consumer = Consumer({**config, "group.id": "bench", "enable.auto.commit": False, "fetch.wait.max.ms": 10})
        consumer.assign([TopicPartition(RESULTS, 0, 0)])
        producer = CheckedProducer({**config, "linger.ms": 0})
        took = []
        try:
            for number in range(repeats):
                started = time.perf_counter()
                producer.send(TASKS, 0, [task_message(number)])
                while not _converged(consumer):
                    if process.poll() is not None:
                        raise RuntimeError("the cell ended by itself")
                if number >= 3:  # the first ones wait for the start
                    took.append((time.perf_counter() - started) * 1000)
                time.sleep(0.05)
        finally:
            consumer.close()
            producer.close()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        return took


def _converged(consumer: Consumer) -> bool:
    return any(
        read_decision(m.value() or b"").kind is DecisionKind.CONVERGED
        for m in consumer.consume(100, 0.002)
        if m.error() is None
    )


def task_message(number: int) -> bytes:
    """One task of the benchmark."""
    return msgspec.json.encode(
        {
            "topic": "math",
            "logical_id": f"task-{number}",
            "payload": {"prompt": f"What is {number} plus {number + 1}?", "answer_kind": "number"},
        }
    )


def _rounds_in_lake(lake: Path) -> int:
    """The log has one entry a round here, so the highest offset in `rounds` counts them."""
    try:
        version = DeltaTable(str(lake / "rounds")).transaction_version("lane-0")
    except Exception:  # noqa: BLE001 - there is no lake yet
        return 0
    return 0 if version is None else int(version) + 1


def peak_mb(pid: int) -> float:
    """Peak memory of a process so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def new_bench() -> Iterator[Bench]:
    """A bench on a broker of its own, at the scale that AUREON_BENCH_SCALE names."""
    with tempfile.TemporaryDirectory() as folder:
        broker = new_broker(Path(folder) / "broker")
        broker.start()
        try:
            yield Bench(broker, Path(folder), float(os.environ.get("AUREON_BENCH_SCALE", "1")))
        finally:
            broker.stop()
