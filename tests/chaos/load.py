"""Tasks at a steady rate, the same number for each lane, over several topics or nearly all of one."""

import itertools
import random
import threading
import time

import msgspec

from connectors.kafka import CheckedProducer, client_config
from connectors.topics import TASKS
from schemas.errors import OutcomeUnknownError
from schemas.ids import home_lane

TOPICS = 5
TICK_S = 0.05
CHUNK = 500


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
        self._producer = CheckedProducer(client_config(brokers), self._stopped, idempotent=False)
        self.sent = 0
        self.hot = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _stopped(self) -> bool:
        return self._over.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def send_one(self, topic: str) -> str:
        """Send one task of a topic; returns its id."""
        with self._lock:
            return self._send(topic)

    def stop(self) -> int:
        """Send nothing more; returns how many tasks there are on the broker."""
        self._over.set()
        self._thread.join()
        with self._lock:
            self._over.clear()
            self._producer.flush(60.0)
            self._producer.close()
        return self.sent

    def _send(self, topic: str) -> str:
        lane = self.sent % self._lanes
        name = next(n for i in itertools.count() if home_lane(n := f"task-{self.sent}-{i}", self._lanes) == lane)
        self.sent += 1
        payload = {"prompt": f"{self.sent}+{self._rng.randrange(1000)}", "answer_kind": "number"}
        task = {"topic": topic, "logical_id": name, "payload": payload}
        self._producer.send(TASKS, lane, [msgspec.json.encode(task)], [name.encode()])
        return name

    def _run(self) -> None:
        began, planned = time.monotonic(), 0
        while not self._over.wait(TICK_S):
            due = int((time.monotonic() - began) * self._rate)
            try:
                with self._lock:
                    for _ in range(due - planned):
                        hot = self.hot and self._rng.random() < 0.95
                        self._send("topic-0" if hot else f"topic-{self._rng.randrange(TOPICS)}")
            except OutcomeUnknownError:
                return  # it was told to stop while the broker was away
            planned = due
