"""The limit: three rounds a task through one partition, with nothing kept, nothing decided, nothing checked.

Batched consume, decode, encode, produce; run as `python -m tests.bench.raw BROKERS TASKS`, it prints rounds per second.
"""

import sys
import time

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec import Raw, Struct

IN, OUT = "raw.in", "raw.out"
ROUNDS = 3


class Task(Struct):
    """As little of a task as a loop needs."""

    topic: str
    logical_id: str
    payload: Raw
    round_index: int = 0


def loop(brokers: str, tasks: int) -> float:
    """Run every task through its rounds; return rounds per second."""
    quiet = {"bootstrap.servers": brokers, "log_level": 0}
    consumer = Consumer(
        {
            **quiet,
            "group.id": "raw",
            "enable.auto.commit": False,
            "receive.message.max.bytes": 2_000_000_000,
            "fetch.wait.max.ms": 10,
        }
    )
    producer = Producer(
        {**quiet, "linger.ms": 5, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000, "acks": 1}
    )
    decode, encode = msgspec.json.Decoder(Task).decode, msgspec.json.Encoder().encode
    consumer.assign([TopicPartition(IN, 0, 0)])
    done, started = 0, 0.0
    while done < ROUNDS * tasks:
        messages = consumer.consume(10_000, 0.01)
        if not messages:
            continue
        started = started or time.perf_counter()
        again: list[dict[str, bytes]] = []
        out: list[dict[str, bytes]] = []
        for message in messages:
            task = decode(message.value() or b"")
            task.round_index += 1
            (again if task.round_index < ROUNDS else out).append({"value": encode(task)})
        for kafka_topic, batch in ((IN, again), (OUT, out)):
            sent = producer.produce_batch(kafka_topic, batch, partition=0)
            while sent < len(batch):
                producer.poll(0.01)
                sent += producer.produce_batch(kafka_topic, batch[sent:], partition=0)
        producer.poll(0)
        done += len(messages)
    producer.flush()
    rate = done / (time.perf_counter() - started)
    consumer.close()
    return rate


if __name__ == "__main__":
    print(loop(sys.argv[1], int(sys.argv[2])))
