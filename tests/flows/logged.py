"""Decisions as a lane reads them back from its log."""

import hashlib
from collections.abc import Iterable

from flows.items import Decided
from flows.lane import Sealer
from flows.steps.derive import Derived, derive
from schemas.decision import Decision
from schemas.task import encode

CLUSTER = "a-cluster"


def read_back(*decisions: tuple[int, Decision], lane: int = 0) -> Decided:
    """Decisions with their offsets, and with the hashes that their bytes on the log have."""
    return Decided(lane, list(decisions), [hash_of(decision) for _, decision in decisions])


def hash_of(decision: Decision) -> str:
    """The hash of its bytes on the log."""
    return hashlib.sha256(encode(decision)).hexdigest()


def followed(decisions: Iterable[tuple[int, Decision]], sealer: Sealer, lane: int = 0) -> Derived:
    """All that follows from some decisions."""
    return derive(read_back(*decisions, lane=lane), sealer, CLUSTER)
