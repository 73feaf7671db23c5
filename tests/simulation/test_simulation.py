"""The lane is exact through any schedule, and no rule of DESIGN.md can be left out of it."""

from collections.abc import Callable

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.runs import failing_in_all, run_all
from tests.simulation.schedule import run

SCHEDULES = 20_000


@pytest.mark.timeout(600)
def test_every_schedule_ends_exactly() -> None:
    """Crashes at every step, zombies, lost folders, moved lanes, poison: the promises hold, whatever the seed."""
    bad = run_all(0, SCHEDULES)

    told = [f"python -m tests.simulation {o.seed}    # {o.kind}: {o.failures[0]}" for o in bad[:10]]
    assert not bad, f"{len(bad)} of {SCHEDULES:,} schedules are not exact:\n" + "\n".join(told)


@pytest.mark.timeout(600)
def test_each_rule_is_needed(figures: Callable[[str], None]) -> None:
    """With any one rule left out, some schedule fails."""
    bad = failing_in_all()

    lines = [f"{len(found):5} of {MUTANTS[name].schedules:5}  {name}" for name, found in bad.items()]
    figures("\n".join(["schedules that fail with one thing left out:", *lines]))
    assert not [name for name, found in bad.items() if not found]


def test_a_seed_always_gives_the_same_schedule() -> None:
    """What failed once can be looked at."""
    first, second = run(20, tracing=True), run(20, tracing=True)

    assert first.trace
    assert first.trace == second.trace
