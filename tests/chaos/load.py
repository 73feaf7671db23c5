"""Tasks at a steady rate, the same number for each lane, over several topics or nearly all of one."""

import itertools
import random
import threading
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import TASKS
from schemas.errors import OutcomeUnknownError
from schemas.ids import home_lane
from tests.chaos.beside import Beside

TOPICS = 5
TICK_S = 0.05
CHUNK = 500
FLUSH_LIMIT_S = 120.0
"""Longer than a broker is ever away."""


def send_many(brokers: str, lanes: int, topic: str, count: int) -> None:
    """Send so many tasks of a topic, each to its lane.

    Raises:
        OutcomeUnknownError: the broker was away.
    """
    producer = CheckedProducer(client_config(brokers), lambda: False, idempotent=False)
    by_lane: list[tuple[list[bytes], list[bytes]]] = [([], []) for _ in range(lanes)]
    for number in range(count):
        name = f"{topic}-{number}"
        lane = home_lane(name, lanes)
        values, keys = by_lane[lane]
        values.append(msgspec.json.encode({"topic": topic, "logical_id": name, "payload": {"prompt": "1+1"}}))
        keys.append(name.encode())
        if len(values) == CHUNK:
            producer.send(TASKS, lane, values, keys)
            by_lane[lane] = ([], [])
    for lane, (values, keys) in enumerate(by_lane):
        producer.send(TASKS, lane, values, keys)
    producer.flush(60.0)
    producer.close()


class Sender:
    """The client of a user, who sends again what has not arrived.

    Args:
        brokers: where.
    """

    def __init__(self, brokers: str) -> None:
        self._producer = CheckedProducer(client_config(brokers), idempotent=False)

    def send(self, tasks: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Send some, each a lane, a key and a value, and wait until they have arrived.

        Raises:
            OutcomeUnknownError: the broker was away for too long.
        """
        for lane, key, value in tasks:
            self._producer.send(TASKS, lane, [value], [key])
        self._producer.flush(FLUSH_LIMIT_S)


class Load:
    """A user that sends tasks until it is told to stop.

    Args:
        brokers: where.
        lanes: of the cluster.
        rate: tasks a second.
        seed: of what it sends.
    """

    def __init__(self, brokers: str, lanes: int, rate: float, seed: int) -> None:
        self._lanes = lanes
        self._rate = rate
        self._rng = random.Random(seed)
        self._sender = Beside(partial(Sender, brokers))
        self.sent = 0
        self.hot = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failed: OutcomeUnknownError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def send_one(self, topic: str) -> str:
        """Send one task of a topic; returns its id."""
        with self._lock:
            task = self._task(topic)
            self._sender.ask(Sender.send, [task])
            return task[1].decode()

    def stop(self) -> int:
        """Send nothing more; returns how many tasks there are on the broker.

        Raises:
            OutcomeUnknownError: it had ended before, as the broker was away for too long.
        """
        self._over.set()
        self._thread.join()
        self._sender.close()
        if self._failed is not None:
            raise self._failed
        return self.sent

    def _task(self, topic: str) -> tuple[int, bytes, bytes]:
        """Make the next one: its lane, its key, its value."""
        lane = self.sent % self._lanes
        name = next(n for i in itertools.count() if home_lane(n := f"task-{self.sent}-{i}", self._lanes) == lane)
        self.sent += 1
        payload = {"prompt": f"{self.sent}+{self._rng.randrange(1000)}", "answer_kind": "number"}
        task = {"topic": topic, "logical_id": name, "payload": payload}
        return lane, name.encode(), msgspec.json.encode(task)

    def _run(self) -> None:
        began, planned = time.monotonic(), 0
        while not self._over.wait(TICK_S):
            due = int((time.monotonic() - began) * self._rate)
            try:
                with self._lock:
                    self._sender.ask(Sender.send, [self._task(self._topic()) for _ in range(due - planned)])
            except OutcomeUnknownError as error:
                self._failed = error
                return
            planned = due

    def _topic(self) -> str:
        return "topic-0" if self.hot and self._rng.random() < 0.95 else f"topic-{self._rng.randrange(TOPICS)}"
