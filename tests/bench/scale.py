"""What a backlog costs in memory, and what finished work behind a cell costs at its start.

Run it as `python -m tests.bench.scale`, with AUREON_TEST_KAFKA=apache for the figures that count: of the embedded
broker, a client itself holds what the broker sends. The last line is one JSON object.
"""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator

from confluent_kafka import Consumer, TopicPartition

from connectors.kafka import client_config
from connectors.topics import RESULTS, TASKS, ensure_topics
from schemas.decision import DecisionKind, read_decision
from tests.bench.bench import Bench, new_bench, peak_mb
from tests.brokers import empty

BACKLOGS = (30_000, 300_000)
FINISHED = (5_000, 500_000)
MORE = 20_000
"""So many more tasks wait when the cell is killed: it is in the middle of its work."""
STARTS = 3
"""The slowest of so many starts counts, each after a kill."""


class Scale:
    """One broker with tasks of one round, and what is measured on it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._config = client_config(bench.broker.brokers)
        self._ends = Consumer({**self._config, "group.id": "scale", "enable.auto.commit": False})

    def decided(self) -> int:
        """How many entries the log has."""
        return int(self._ends.get_watermark_offsets(TopicPartition(RESULTS, 0), timeout=10)[1])

    def anew(self) -> None:
        """Delete all there is, and create the topics."""
        empty(self._bench.broker)
        ensure_topics(self._config, 1)

    @contextlib.contextmanager
    def cell(self, home: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running cell, killed at the end."""
        process, _ = self._bench.start(home, "instant", max_rounds="1")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def until(self, process: subprocess.Popen[bytes], decided: int, pause_s: float) -> None:
        """Wait until the log has so many entries."""
        while self.decided() < decided:
            if process.poll() is not None:
                raise RuntimeError("the cell ended by itself")
            time.sleep(pause_s)

    def _first_decision(self, process: subprocess.Popen[bytes], offset: int) -> None:
        """Wait for a decision at or after an offset; marks are none."""
        self._ends.assign([TopicPartition(RESULTS, 0, offset)])
        while process.poll() is None:
            for message in self._ends.consume(1000, 0.002):
                if message.error() is None and read_decision(message.value() or b"").kind is not DecisionKind.STARTED:
                    self._ends.unassign()
                    return
        raise RuntimeError("the cell ended by itself")

    def memory(self, tasks: int) -> float:
        """Peak memory in MB of a cell that works through as many as the smaller backlog has."""
        self.anew()
        self._bench.fill(TASKS, tasks)
        with self.cell(f"backlog-{tasks}") as process:
            self.until(process, self._bench.tasks(min(BACKLOGS)), 0.05)
            return peak_mb(process.pid)

    def resume(self, tasks: int) -> float:
        """Seconds from the start of a process to its first decision, with so many finished tasks behind it."""
        self.anew()
        self._bench.fill(TASKS, tasks + MORE)
        home = f"finished-{tasks}"
        with self.cell(home) as process:
            self.until(process, tasks, 0.005)
        took = []
        for _ in range(STARTS):
            before, started = self.decided(), time.perf_counter()
            with self.cell(home) as process:
                self._first_decision(process, before)
                took.append(time.perf_counter() - started)
                # far enough for a snapshot, so that the next start has another place to resume from
                self.until(process, before + 1000, 0.005)
        return max(took)


def main() -> None:
    """Measure all of it and print it."""
    with new_bench() as bench:
        measured = Scale(bench)
        memory = {tasks: measured.memory(tasks) for tasks in map(bench.tasks, BACKLOGS)}
        resume = {tasks: measured.resume(tasks) for tasks in map(bench.tasks, FINISHED)}
    print(f"{bench.broker.name} broker")
    for tasks, megabytes in memory.items():
        print(f"  {tasks:>7,} tasks waiting: peak memory {megabytes:.0f} MB")
    for tasks, seconds in resume.items():
        print(f"  {tasks:>7,} tasks finished: first decision {seconds:.2f} s after the start")
    figures = {
        "memory_mb": {str(k): round(v) for k, v in memory.items()},
        "resume_s": {str(k): round(v, 2) for k, v in resume.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
