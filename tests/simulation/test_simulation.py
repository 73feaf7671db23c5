"""The lane is exact through any schedule, and no rule of the design (flows/guide/design.md) can be left out of it."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from flows.lane import Lane, Message
from tests.simulation.runs import failing_in_all, run_all
from tests.simulation.schedule import Rules, run

SCHEDULES = 10_000


@pytest.mark.timeout(600)
@pytest.mark.unmeasured
def test_every_schedule_ends_exactly() -> None:
    """Crashes at every step, zombies, lost folders, moved lanes, poison: the promises hold, whatever the seed."""
    bad = run_all(0, SCHEDULES)

    told = [f"python -m tests.simulation {o.seed}    # {o.kind}: {o.failures[0]}" for o in bad[:10]]
    assert not bad, f"{len(bad)} of {SCHEDULES:,} schedules are not exact:\n" + "\n".join(told)


@pytest.mark.unmeasured
@pytest.mark.timeout(600)
def test_each_rule_is_needed(figures: Callable[[str], None]) -> None:
    """With any one rule left out, some schedule fails."""
    bad = failing_in_all(enough=1)

    lines = [f"{found[0] if found else '-':>6}  {name}" for name, found in bad.items()]
    figures("\n".join(["the first seed that fails with one thing left out:", *lines]))
    assert not [name for name, found in bad.items() if not found]


def test_topics_take_turns_and_are_kept_back_in_the_schedules() -> None:
    """So all that is exact here is exact with them."""
    overtaken: set[int] = set()
    kept_back: set[int] = set()
    seed = 0

    class Watched(Lane):
        """Notes the seeds where order is not that of offsets, and where a topic has its share while places are free."""

        def hand_out(self, now: float, *, may_run_alone: bool = True) -> tuple[list[Message], list[Message]]:
            handed, marks = super().hand_out(now, may_run_alone=may_run_alone)
            for one, other in pairwise(handed):
                if (one.kafka_topic, one.priority) == (other.kafka_topic, other.priority) and one.offset > other.offset:
                    overtaken.add(seed)
            free = self._limit - len(self._under_way) - len(self._marking)
            if free > 0 and not self.wants_alone and any(source.ready for source in self._inputs.values()):
                kept_back.add(seed)
            return handed, marks

    for seed in range(400):
        assert not run(seed, Rules(lane=Watched)).failures
    assert len(overtaken) >= 20
    assert kept_back


def test_a_seed_always_gives_the_same_schedule() -> None:
    """What failed once can be looked at."""
    first, second = run(20, tracing=True), run(20, tracing=True)

    assert first.trace
    assert first.trace == second.trace
