"""The loss audit: a cluster under load, a seeded schedule of faults, and then the books.

    python -m tests.chaos --broker apache --each 5 --more 20 --seed 1 --page chaos.html

Prints a table; its last line is one JSON object.
"""

# ruff: noqa: T201 - a command prints
import argparse
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.chaos.faults import KINDS
from tests.chaos.run import run


def main() -> int:
    """Run it, and tell."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--broker", choices=("apache", "embedded"), default="apache")
    parser.add_argument("--seed", type=int, help="of the schedule; by default any")
    parser.add_argument("--each", type=int, default=5, help="faults of every kind")
    parser.add_argument("--more", type=int, default=20, help="faults besides, of any kind")
    parser.add_argument("--only", action="append", choices=[kind.name for kind in KINDS], help="this kind; repeatable")
    parser.add_argument("--rate", type=float, default=30.0, help="tasks a second")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long it is spread over, at least")
    parser.add_argument("--behind", type=int, default=1_000_000, help="tasks that are finished before it begins")
    parser.add_argument("--calm", type=float, default=10.0, help="seconds between faults, at least")
    parser.add_argument("--page", type=Path, default=Path("chaos.html"), help="where the timeline goes")
    parser.add_argument("--home", type=Path, help="where the cluster lives; by default a new temporary folder")
    options = parser.parse_args()
    if options.home is not None and options.home.is_dir() and any(options.home.iterdir()):
        parser.error(f"{options.home} is not empty")
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    home = options.home or Path(tempfile.mkdtemp(prefix="aureon-chaos-"))
    print(f"seed {seed}; logs in {home}", file=sys.stderr)
    result = run(
        home,
        options.broker,
        seed,
        each=options.each,
        more=options.more,
        only=options.only,
        rate=options.rate,
        at_least_s=options.minutes * 60,
        behind=options.behind,
        calm_s=(options.calm, options.calm + 4.0),
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    table = f"{result.table()}\n\n{result.vitals.table()}"
    title = f"Loss audit, {options.broker}, seed {seed}"
    options.page.write_text(result.timeline.page(title, table, result.vitals.picture()))
    print(table)
    print(f"timeline: {options.page}")
    print(msgspec.json.encode(result.summary()).decode())
    return 0 if result.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
