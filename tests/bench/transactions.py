"""`python -m tests.bench.transactions`: what Kafka's transactions would bring, beside the present way in the same run.

    appended       a decision goes to the log, is read back, and then its next round is sent; one idempotent producer
    in one         a decision and its next round in one transaction, which is committed when so many ms are over; one
                   transactional producer a lane, and nothing is read back

Both read what is committed only, take three rounds a task, and decide nothing: this is the way through Kafka alone. The
rates are of tasks that wait, the latency is that of one task alone, to its last decision at a reader. Run it with
AUREON_TEST_KAFKA=apache: the embedded broker loses messages to a reader in transactions. The last line is one JSON
object.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
from confluent_kafka import Message, Producer
from msgspec import Struct

from connectors.checked_producer import CheckedProducer
from connectors.kafka import ClientConfig, client_config
from connectors.lane_reader import LaneReader, Watermarks
from connectors.topics import RESULTS, TASKS, ensure_topics
from tests.bench.bench import ROUNDS, Bench, new_bench
from tests.brokers import empty

LANES = (1, 4)
COMMIT_EVERY_MS = (0, 20)
TASKS_A_LANE = 30_000
REPEATS, WARM_UP = 120, 10
BATCH = 1000
IDLE_S = 0.0005
EVIDENCE = "x" * 500
"""About as much as a decision tells beside its task."""


class Task(Struct):
    """As little of a task as a loop needs."""

    logical_id: str
    round_index: int = 0
    evidence: str = ""


class Place(Struct, frozen=True):
    """One lane of a loop."""

    config: ClientConfig
    lane: int
    over: threading.Event
    done: list[int]
    """How many decisions count, by lane."""

    def reader(self, kafka_topic: str, watermarks: Watermarks) -> LaneReader:
        """Read one of its partitions, from the beginning."""
        return LaneReader(self.config, kafka_topic, self.lane, 0, watermarks, committed_only=True, sleep_after_s=None)


Loop = Callable[[Place], None]


def decode(message: Message) -> Task:
    """What a message holds."""
    return msgspec.json.decode(message.value() or b"", type=Task)


def decisions(tasks: Sequence[Task]) -> list[bytes]:
    """One for each task."""
    return [msgspec.json.encode(Task(t.logical_id, t.round_index, EVIDENCE)) for t in tasks]


def next_rounds(tasks: Sequence[Task]) -> list[bytes]:
    """One for each task whose rounds are not spent."""
    return [msgspec.json.encode(Task(t.logical_id, t.round_index + 1)) for t in tasks if t.round_index + 1 < ROUNDS]


def appended(producer: CheckedProducer, place: Place) -> None:
    """Decide, read the decision back, and let the next round follow from it."""
    with Watermarks(place.config) as watermarks:
        inputs, log = place.reader(TASKS, watermarks), place.reader(RESULTS, watermarks)
        while not place.over.is_set():
            tasks = [decode(m) for m in inputs.poll(BATCH)]
            if tasks:
                producer.send(RESULTS, place.lane, decisions(tasks))
            decided = [decode(m) for m in log.poll(BATCH)]
            if decided:
                producer.send(TASKS, place.lane, next_rounds(decided))
                place.done[place.lane] += len(decided)
            if not tasks and not decided:
                producer.check()
                time.sleep(IDLE_S)
        inputs.close()
        log.close()


def in_one(every_ms: int, place: Place) -> None:
    """Decide, and send the next round in the same transaction."""
    settings = {"transactional.id": f"lane-{place.lane}", "linger.ms": 1, "batch.size": 1_000_000}
    producer = Producer({**place.config, **settings, "compression.type": "zstd"})
    producer.init_transactions(30)
    begun, count = 0.0, 0
    with Watermarks(place.config) as watermarks:
        inputs = place.reader(TASKS, watermarks)
        while not place.over.is_set():
            tasks = [decode(m) for m in inputs.poll(BATCH)]
            if tasks and not count:
                producer.begin_transaction()
                begun = time.monotonic()
            for kafka_topic, values in ((RESULTS, decisions(tasks)), (TASKS, next_rounds(tasks))):
                producer.produce_batch(kafka_topic, [{"value": v} for v in values], partition=place.lane)
            count += len(tasks)
            if count and time.monotonic() - begun >= every_ms / 1000:
                producer.commit_transaction(30)
                place.done[place.lane] += count
                count = 0
            elif not tasks:
                time.sleep(IDLE_S)
        inputs.close()


class Transactions:
    """One broker, and what is measured on it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._config = client_config(bench.broker.brokers)

    @contextmanager
    def running(self, loop: Loop | None, lanes: int) -> Iterator[list[int]]:
        """Run the lanes, each in a thread of its own; gives what they have done. None stands for the present way."""
        producer = CheckedProducer(self._config)
        run = loop or partial(appended, producer)
        over, done = threading.Event(), [0] * lanes
        places = [Place(self._config, lane, over, done) for lane in range(lanes)]
        threads = [threading.Thread(target=run, args=[place]) for place in places]
        for thread in threads:
            thread.start()
        try:
            yield done
        finally:
            over.set()
            for thread in threads:
                thread.join()
            producer.close()

    def anew(self, lanes: int) -> None:
        """Delete all there is, and create the topics."""
        empty(self._bench.broker)
        ensure_topics(self._config, lanes)

    def rate(self, loop: Loop | None, lanes: int) -> float:
        """Rounds per second while tasks wait."""
        self.anew(lanes)
        count = self._bench.tasks(TASKS_A_LANE)
        producer = CheckedProducer(self._config)
        for lane in range(lanes):
            producer.send(TASKS, lane, [msgspec.json.encode(Task(f"task-{n}")) for n in range(count)])
        producer.flush()
        producer.close()
        with self.running(loop, lanes) as done:
            while not (first := sum(done)):
                time.sleep(IDLE_S)
            began = time.perf_counter()
            while sum(done) < ROUNDS * count * lanes:
                time.sleep(IDLE_S)
            return (sum(done) - first) / (time.perf_counter() - began)

    def latency(self, loop: Loop | None, lanes: int) -> tuple[float, float]:
        """Milliseconds from sending a task to its last decision, nothing else under way: p50 and p99."""
        self.anew(lanes)
        producer = CheckedProducer({**self._config, "linger.ms": 0})
        took = []
        with self.running(loop, lanes), Watermarks(self._config) as watermarks:
            places = [Place(self._config, lane, threading.Event(), []) for lane in range(lanes)]
            logs = [place.reader(RESULTS, watermarks) for place in places]
            for number in range(REPEATS):
                lane = number % lanes
                began = time.perf_counter()
                producer.send(TASKS, lane, [msgspec.json.encode(Task(f"task-{number}"))])
                while not any(decode(m).round_index == ROUNDS - 1 for m in logs[lane].poll(BATCH)):
                    time.sleep(IDLE_S)
                if number >= WARM_UP:
                    took.append((time.perf_counter() - began) * 1000)
            for log in logs:
                log.close()
        producer.close()
        return statistics.median(took), sorted(took)[int(len(took) * 0.99)]


def main() -> None:
    """Measure both ways, and print them."""
    argparse.ArgumentParser(
        prog="python -m tests.bench.transactions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    ways: dict[str, Loop | None] = {"appended": None}
    ways |= {f"in one, every {ms} ms": partial(in_one, ms) for ms in COMMIT_EVERY_MS}
    figures = []
    with new_bench() as bench:
        measured = Transactions(bench)
        print(f"{bench.broker.name} broker, three rounds a task")
        for lanes in LANES:
            for name, loop in ways.items():
                rate, (p50, p99) = measured.rate(loop, lanes), measured.latency(loop, lanes)
                print(
                    f"  {lanes} lanes, {name:<20}{rate:>8,.0f} rounds/s   one task {p50:.1f} / {p99:.1f} ms (p50 / p99)"
                )
                told = {"rounds_per_s": round(rate), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
                figures.append({"lanes": lanes, "way": name, **told})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
