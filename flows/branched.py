"""Which questions were branched already: by topic and digest of the payload; what was learned from decisions.

A memory of its own (`flows.learning`): bounded, the branch spawned longest ago makes room. Each process knows the
branches of its own lanes, so it finds most doubles only where there is one process. Nothing rests on it: a decision
spells out the branches that are taken, and one that is not is no message that could be lost.
"""

from collections import OrderedDict
from itertools import islice

import msgspec
from msgspec import Struct

from flows.memory import Memory
from schemas.decision import Decision, DecisionKind
from schemas.ids import digest_of
from schemas.task import read_head

STATE_VERSION = 1
MAX_BRANCHES = 50_000
KEPT_BRANCHES = 5_000
"""Of these, the newest so many are in the file."""


class _State(Struct, frozen=True):
    next_offsets: dict[int, int]
    branches: list[tuple[str, str, str]]
    version: int = STATE_VERSION


class BranchedContents(Memory):
    """What is known of the branches of a cell; threads may share it."""

    name, version = "branched", STATE_VERSION

    def __init__(self) -> None:
        super().__init__()
        self._branches: OrderedDict[tuple[str, str], str] = OrderedDict()

    def branch_of(self, topic: str, digest: str) -> str | None:
        """Find the logical id of the branch with this content.

        Args:
            topic: of the branch.
            digest: `schemas.ids.payload_digest` of its payload.
        """
        return self._branches.get((topic, digest))

    def _take(self, decision: Decision) -> None:
        if decision.follow_ups and decision.kind is DecisionKind.CONVERGED:
            self._add(decision)

    def _add(self, decision: Decision) -> None:
        for follow_up in decision.follow_ups:
            if not (digest := digest_of(bytes(follow_up.payload))):
                continue
            head = read_head(follow_up.task)
            self._branches[head.topic, digest] = head.logical_id
            self._branches.move_to_end((head.topic, digest))
            if len(self._branches) > MAX_BRANCHES:
                self._branches.popitem(last=False)

    def encoded(self) -> bytes:
        """Write down the newest branches."""
        with self._lock:
            newest = [(*key, found) for key, found in islice(reversed(self._branches.items()), KEPT_BRANCHES)]
            return msgspec.json.encode(_State(dict(self._next), newest[::-1]))

    def restore(self, encoded: bytes) -> None:
        """Begin with what was learned before.

        Raises:
            ValueError: it is nothing that `encoded` wrote.
        """
        state = msgspec.json.decode(encoded, type=_State)
        with self._lock:
            self._next = dict(state.next_offsets)
            self._branches = OrderedDict({(topic, digest): found for topic, digest, found in state.branches})
            self.changes += 1
