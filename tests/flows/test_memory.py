"""What all memories have in common: each learns a decision once, and goes on from its file."""

import pytest

from flows.accepted import AcceptedRecords
from flows.affinity import Affinities
from flows.branched import BranchedContents
from flows.memory import Memory
from flows.outlook import Outlooks
from flows.supervision.health import TopicRecord
from tests.flows.test_affinity import DISSENT, decided

MEMORIES = (AcceptedRecords, Affinities, BranchedContents, Outlooks, TopicRecord)


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: kind.name)
def test_a_decision_teaches_once(kind: type[Memory]) -> None:
    """Of each lane, in this life and in the next."""
    memory, decisions = kind(), list(enumerate([decided(*DISSENT)] * 3))
    memory.learn(0, decisions)
    kept, changes = memory.encoded(), memory.changes
    memory.learn(0, decisions)
    assert (memory.encoded(), memory.changes) == (kept, changes)
    again = kind()
    again.restore(kept)
    again.learn(0, decisions)
    assert again.encoded() == kept
    again.learn(1, decisions)
    assert again.encoded() != kept
    assert again.changes > 1


def test_each_has_a_file_of_its_own() -> None:
    """One would overwrite the other."""
    assert len({kind.name for kind in MEMORIES}) == len(MEMORIES)
