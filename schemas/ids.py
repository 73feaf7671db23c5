"""How things are named: logical ids, task ids, rounds, branches, and the lane that is a task's home."""

import hashlib
import re

import msgspec

RESERVED_ENDING = re.compile(r":(r\d+|branch-\d+)\Z")
"""Endings that Aureon itself gives to ids. A user's id may not have one."""

MAX_ID_BYTES = 512


class RQMLRoundId(msgspec.Struct, frozen=True, order=True):
    """One refinement pass over one logical id; its text is the task id, `{logical_id}:r{round_index}`.

    >>> str(RQMLRoundId("euler-1", 2))
    'euler-1:r2'
    """

    logical_id: str
    round_index: int

    def __str__(self) -> str:
        return f"{self.logical_id}:r{self.round_index}"


def logical_id_of(task_id: str) -> str:
    """Tell which logical id a task id names; "" where it is no task id.

    >>> logical_id_of("euler-1:branch-0:r2")
    'euler-1:branch-0'
    """
    logical_id, _, round_index = task_id.rpartition(":r")
    return logical_id if round_index.isdecimal() else ""


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """The message that owns an id, with the digest of its payload."""

    kafka_topic: str
    offset: int
    digest: str


def branch_id(logical_id: str, index: int) -> str:
    """Name the `index`-th branch of a logical id."""
    return f"{logical_id}:branch-{index}"


def content_id(topic: str, payload: bytes) -> str:
    """Name a task by what it says: the same topic and payload, whatever the order of keys, give the same id.

    Args:
        topic: the subject.
        payload: a JSON object, as bytes.

    Returns:
        `sha256-` and the first 128 bits in hex.
    """
    digest = hashlib.sha256(topic.encode())
    digest.update(b"\0")
    digest.update(canonical_json(payload))
    return "sha256-" + digest.hexdigest()[:32]


def canonical_json(document: bytes) -> bytes:
    """Write a JSON document with sorted keys and no spaces, so that equal documents have equal bytes."""
    return msgspec.json.encode(msgspec.json.decode(document), order="sorted")


def payload_digest(payload: bytes) -> str:
    """Tell payloads apart: 64 bits, in hex, of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(payload)).hexdigest()[:16]


def digest_of(payload: bytes) -> str:
    """The same of what may be anything; "" where it is no JSON."""
    try:
        return payload_digest(payload)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""


def content_hash(topic: str, logical_id: str, generation: int, payload: bytes, answer: str | None) -> str:
    """Digest what was asked and what was answered: sha256, in hex, over canonical JSON.

    Args:
        topic: the subject.
        logical_id: what it is about.
        generation: which life of it.
        payload: the question, whole, as JSON.
        answer: the answer, whole.
    """
    told = [topic, logical_id, generation, msgspec.json.decode(payload), answer]
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def home_lane(logical_id: str, lanes: int) -> int:
    """Find the lane where a logical id lives: Kafka's own default partitioner for keyed messages (Java).

    Args:
        logical_id: the message key.
        lanes: the number of partitions of each of Aureon's Kafka topics.

    Returns:
        A partition number, `0 <= lane < lanes`.
    """
    return (murmur2(logical_id.encode()) & 0x7FFFFFFF) % lanes


def murmur2(data: bytes) -> int:
    """Hash as `org.apache.kafka.common.utils.Utils.murmur2` does: 32 bits, unsigned, seed 0x9747b28c."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * 0x5BD1E995) & 0xFFFFFFFF
        k = ((k ^ (k >> 24)) * 0x5BD1E995) & 0xFFFFFFFF
        h = ((h * 0x5BD1E995) & 0xFFFFFFFF) ^ k
    rest = data[whole:]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * 0x5BD1E995) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0x5BD1E995) & 0xFFFFFFFF
    return h ^ (h >> 15)
