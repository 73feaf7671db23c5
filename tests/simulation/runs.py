"""Many schedules, in as many processes as there are processors."""

import multiprocessing
import os
from collections.abc import Iterator
from itertools import islice

from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import Kind, Outcome, kind_of, run

_AT_A_TIME = 250


def seeds(kinds: tuple[Kind, ...], number: int) -> Iterator[int]:
    """The first seeds that give these kinds of schedule."""
    return islice((seed for seed in range(1 << 30) if kind_of(seed) in kinds), number)


def run_range(first: int, last: int) -> list[Outcome]:
    """Run the seeds from `first` to before `last`; the bad ones come back."""
    return [outcome for outcome in map(run, range(first, last)) if outcome.failures]


def run_all(first: int, last: int) -> list[Outcome]:
    """Run a range of seeds in several processes; the bad ones come back."""
    parts = [(at, min(last, at + _AT_A_TIME)) for at in range(first, last, _AT_A_TIME)]
    with multiprocessing.get_context("spawn").Pool(min(len(parts), os.cpu_count() or 1)) as pool:
        return [outcome for outcomes in pool.starmap(run_range, parts, 1) for outcome in outcomes]


def failing(name: str, number: int, enough: int | None = None) -> list[int]:
    """The seeds that fail for one mutant, of so many schedules of the kinds that show it; `enough` of them will do."""
    mutant = MUTANTS[name]
    return list(islice((seed for seed in seeds(mutant.kinds, number) if run(seed, mutant.rules).failures), enough))


def failing_in_all(number: int | None = None, enough: int | None = None) -> dict[str, list[int]]:
    """The same for every mutant, each with `number` schedules or with those that it needs."""
    wanted = [(name, number or mutant.schedules, enough) for name, mutant in MUTANTS.items()]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        longest_first = sorted(wanted, key=lambda item: -item[1])
        found = dict(zip(longest_first, pool.starmap(failing, longest_first, 1), strict=True))
    return {item[0]: found[item] for item in wanted}
