"""Which questions have a record already: by topic and digest of the payload; what was learned from decisions.

A memory of its own (`flows.learning`): bounded, the question answered longest ago makes room. Each process knows the
records of its own lanes, so it finds most doubles of a question only where there is one process.
"""

from collections import OrderedDict
from itertools import islice

import msgspec
from msgspec import Struct

from flows.memory import Memory
from schemas.blob import REFERENCE_START
from schemas.decision import Decision, DecisionKind
from schemas.ids import digest_of

STATE_VERSION = 1
MAX_RECORDS = 50_000
KEPT_RECORDS = 5_000
"""Of these, the newest so many are in the file: all of them would take 20 ms to write, every two seconds."""
MAX_CHARACTERS = 500
"""Of an answer; a longer one is not remembered."""

_REFERENCE = REFERENCE_START.encode()


class Accepted(Struct, frozen=True, gc=False, array_like=True):
    """What a question converged to, not forced."""

    logical_id: str
    answer: str | None
    """None where it has more than `MAX_CHARACTERS` characters."""
    evidence: str


class _State(Struct, frozen=True):
    next_offsets: dict[int, int]
    records: list[tuple[str, str, Accepted]]
    version: int = STATE_VERSION


class AcceptedRecords(Memory):
    """What is known of the records of a cell; threads may share it."""

    name, version = "accepted", STATE_VERSION

    def __init__(self) -> None:
        super().__init__()
        self._records: OrderedDict[tuple[str, str], Accepted] = OrderedDict()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._records)

    def record_of(self, topic: str, digest: str) -> Accepted | None:
        """Find the record of a question.

        Args:
            topic: of the task.
            digest: `schemas.ids.payload_digest` of its payload.
        """
        return self._records.get((topic, digest))

    def _take(self, decision: Decision) -> None:
        if decision.kind is DecisionKind.CONVERGED and not decision.forced:
            self._add(decision)

    def _add(self, decision: Decision) -> None:
        result = decision.result
        if result is None or result.answer is None:
            return
        digest = decision.payload_digest or _digest(bytes(decision.payload))
        if not digest:
            return
        answer = result.answer
        short = len(answer) <= MAX_CHARACTERS and not answer.startswith(REFERENCE_START)
        key = decision.topic, digest
        records = self._records
        records[key] = Accepted(decision.logical_id, answer if short else None, result.evidence)
        records.move_to_end(key)
        if len(records) > MAX_RECORDS:
            records.popitem(last=False)

    def encoded(self) -> bytes:
        """Write down the newest records."""
        with self._lock:
            newest = [(*key, record) for key, record in islice(reversed(self._records.items()), KEPT_RECORDS)]
            state = _State(dict(self._next), newest[::-1])
        return msgspec.json.encode(state)

    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
        state = msgspec.json.decode(encoded, type=_State)
        with self._lock:
            self._next = dict(state.next_offsets)
            self._records = OrderedDict({(topic, digest): record for topic, digest, record in state.records})
            self.changes += 1


def _digest(payload: bytes) -> str:
    """Digest a payload of which the decision does not tell: that of a later round; "" where only a blob has it."""
    return "" if payload.startswith(_REFERENCE) else digest_of(payload)
