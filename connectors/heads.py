"""The heads of the lake on Kafka: what was written, told where nobody who can change the lake can change it.

- **Unit of parallelism:** any number of cells; each has its own key, and compaction keeps the newest head of each.
- **Guarantee:** a head that is there was in the lake before. The last ones before a crash may be missing.
- **Replay:** writes later heads.
"""

import logging

import msgspec

from connectors.checked_producer import CheckedProducer
from connectors.kafka import ClientConfig, read_to_end
from connectors.topics import HEADS
from schemas.errors import UNREADABLE
from schemas.head import Head

log = logging.getLogger(__name__)

LAST_MESSAGES = 20_000
"""So far back heads are looked for: a broker that does not compact keeps one of each commit."""


def publish_head(producer: CheckedProducer, head: Head) -> None:
    """Tell of a head; it is on its way when this returns.

    Raises:
        OutcomeUnknownError: an earlier message failed.
    """
    producer.send(HEADS, 0, [msgspec.json.encode(head)], [head.key.encode()])


def published_heads(config: ClientConfig) -> list[Head]:
    """Read the newest head of each key.

    Raises:
        TryAgainError: the broker does not answer.
    """
    heads = {}
    for message in read_to_end(config, HEADS, last=LAST_MESSAGES):
        try:
            heads[message.key()] = msgspec.json.decode(message.value() or b"", type=Head)
        except UNREADABLE as error:
            log.warning("%s@%s: no head: %s; ignored", HEADS, message.offset(), error)
    return list(heads.values())
