"""A process that writes made-up decisions of some lanes to a lake until all are there: LAKE LANES DECIDED SEED."""

import random
import sys
from pathlib import Path

from tests.one_lake.lake_data import decisions, lake_writer


def main(lake_dir: Path, lanes: list[int], decided: int, seed: int) -> None:
    """Go on from at or below what is there, as a lane does after a crash."""
    chance = random.Random(seed)
    writer = lake_writer(lake_dir)
    upcoming = {lane: max(0, writer.version(lane) + 1 - chance.randrange(40)) for lane in lanes}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while any(offset < decided for offset in upcoming.values()):
        for lane in chance.sample(lanes, len(lanes)):
            end = min(decided, upcoming[lane] + chance.randrange(60))
            writer.add(decisions(lane, range(upcoming[lane], end)))
            upcoming[lane] = end
        writer.flush()
    writer.close()


if __name__ == "__main__":
    lake, lane_numbers, count, number = sys.argv[1:]
    main(Path(lake), [int(lane) for lane in lane_numbers.split(",")], int(count), int(number))
