"""Promises 1 and 2 while the number of cells changes under load."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.audit import audit
from tests.chaos.cluster import LANES, Cluster, Process
from tests.chaos.load import Load
from tests.chaos.run import Watch, repeated_calls
from tests.chaos.timeline import Timeline

RATE = 20.0
"""Tasks a second."""
STAYS_S = 8.0
"""So long it goes on with each number of cells."""
CHANGE_LIMIT_S = 60.0


def wait_for_lanes(cluster: Cluster, *cells: Process) -> None:
    """Wait until these cells have all lanes between them, and each has some."""
    deadline = time.monotonic() + CHANGE_LIMIT_S
    held: list[tuple[int, ...]] = []
    while time.monotonic() < deadline:
        held = [cluster.lanes_of(cell) for cell in cells]
        if all(held) and sorted(lane for lanes in held for lane in lanes) == list(range(LANES)):
            return
        time.sleep(0.5)
    raise AssertionError(f"lanes after {CHANGE_LIMIT_S:.0f} s: {held}")


@pytest.mark.apache
@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_the_number_of_cells_changes_under_load(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """From one to three, and to the two that came last, which then have all lanes."""
    cluster = Cluster(tmp_path / "cluster", "apache", rights=False)
    timeline = Timeline()
    took = []
    try:
        cluster.start(cells=1)
        first, second, third = cluster.cells
        watch = Watch(cluster, timeline)
        load = Load(cluster.broker.brokers, LANES, RATE, seed=1)
        load.start()
        for name, starts, stops, cells in (
            ("1", (), (), (first,)),
            ("1 to 3", (second, third), (), (first, second, third)),
            ("3 to 2", (), (first,), (second, third)),
        ):
            began = time.monotonic()
            for cell in starts:
                cell.start()
            for cell in stops:
                assert cell.stop() == 0, cluster.log(cell.name)
            wait_for_lanes(cluster, *cells)
            took.append(f"{name}: {time.monotonic() - began:.1f} s")
            time.sleep(STAYS_S)
        tasks = load.stop()
        watch.until_settled(120.0)
    finally:
        codes = cluster.stop()
    watch.close()
    watch.finish()
    found = audit(watch.follower, cluster.lake)
    calls, repeated = repeated_calls(cluster.answered, watch.follower)
    figures(
        f"{tasks} tasks; {', '.join(took)}; longest time of a lane without a decision {timeline.longest_gap():.1f} s; "
        f"{repeated} of {calls} calls repeated\n{found}"
    )
    assert found.faults() == 0, found.examples[:20]
    assert watch.vanished == 0
    assert found.records == tasks
    assert not any(codes), cluster.log("cell-2")
