"""Kafka as the sink of a flow: lists of messages in, by lane, and nothing lost without a word."""

from collections.abc import Callable

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from msgspec import Struct

from connectors.checked_producer import CheckedProducer
from connectors.told_errors import tells_errors


class Outgoing(Struct, frozen=True):
    """One message and where it goes."""

    kafka_topic: str
    lane: int
    key: bytes
    value: bytes


@tells_errors
class LaneSink(FixedPartitionedSink[list[Outgoing], None]):
    """Writes what comes from each lane, in order.

    Unit of parallelism: the lane that the messages come from. Guarantee: at the end of an epoch all its messages are
    acknowledged, in order for each destination, or the cell stops with an error. Replay: the open epoch's messages
    are written again; readers know them by their cause.

    Args:
        lanes: how many lanes there are.
        producer: the process's producer; both are asked for when the first lane opens.
        expect: told of each Kafka topic and lane where something was sent.
    """

    def __init__(
        self,
        lanes: Callable[[], int],
        producer: Callable[[], CheckedProducer],
        expect: Callable[[str, int], None] = lambda _kafka_topic, _lane: None,
    ) -> None:
        self._lanes = lanes
        self._producer = producer
        self._expect = expect

    def list_parts(self) -> list[str]:
        """Name the lanes."""
        return [f"{lane:04d}" for lane in range(self._lanes())]

    def part_fn(self, item_key: str) -> int:
        """A key is the number of its lane."""
        return int(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> "_LanePartition":
        """Open one lane."""
        del step_id, for_part, resume_state
        return _LanePartition(self._producer(), self._expect)


@tells_errors
class _LanePartition(StatefulSinkPartition[list[Outgoing], None]):
    def __init__(self, producer: CheckedProducer, expect: Callable[[str, int], None]) -> None:
        self._producer = producer
        self._expect = expect

    def write_batch(self, values: list[list[Outgoing]]) -> None:
        """Hand messages to the producer, those for one destination together."""
        by_place: dict[tuple[str, int], tuple[list[bytes], list[bytes]]] = {}
        for batch in values:
            for message in batch:
                keys, bodies = by_place.setdefault((message.kafka_topic, message.lane), ([], []))
                keys.append(message.key)
                bodies.append(message.value)
        for (kafka_topic, lane), (keys, bodies) in by_place.items():
            self._producer.send(kafka_topic, lane, bodies, keys)
            self._expect(kafka_topic, lane)

    def snapshot(self) -> None:
        """The end of an epoch: all has to be acknowledged."""
        self._producer.flush()
