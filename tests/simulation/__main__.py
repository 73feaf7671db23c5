"""Run one schedule, many, or all mutants.

python -m tests.simulation 4711                one seed, with its trace
python -m tests.simulation 0 20000             a range of seeds
python -m tests.simulation --mutants 500       every mutant, each with so many schedules
"""

# ruff: noqa: T201 - a command prints
import sys
import time

from tests.simulation.runs import failing_in_all, run_all
from tests.simulation.schedule import run


def main(arguments: list[str]) -> int:
    """Do what the arguments say."""
    if arguments[:1] == ["--mutants"]:
        schedules = int(arguments[1]) if len(arguments) > 1 else 300
        bad = failing_in_all(schedules)
        print(f"| left out | bad of {schedules} | first seed |\n|---|---|---|")
        for name, found in bad.items():
            print(f"| {name} | {len(found)} | {found[0] if found else '-'} |")
        return 0 if all(bad.values()) else 1
    if len(arguments) == 2:
        first, last = int(arguments[0]), int(arguments[1])
        begin = time.perf_counter()
        outcomes = run_all(first, last)
        took = time.perf_counter() - begin
        print(f"{last - first:,} schedules in {took:.1f} s, {(last - first) / took:,.0f}/s; {len(outcomes)} bad")
        for outcome in outcomes[:20]:
            print(f"  seed {outcome.seed} ({outcome.kind}): {outcome.failures[0]}")
        return 1 if outcomes else 0
    if len(arguments) == 1 and arguments[0].isdigit():
        outcome = run(int(arguments[0]), tracing=True)
        print(*outcome.trace, sep="\n")
        print(f"seed {outcome.seed}, {outcome.kind}:", *(outcome.failures or [outcome.stopped or "good"]), sep="\n  ")
        return 1 if outcome.failures else 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
