"""Messages that show their order."""

from confluent_kafka import Message


def numbers(first: int, last: int) -> list[bytes]:
    """Make messages that show their order."""
    return [b"%d" % i for i in range(first, last)]


def values(messages: list[Message]) -> list[bytes | None]:
    """Take the contents."""
    return [m.value() for m in messages]
