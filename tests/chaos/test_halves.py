"""A cluster cut in two: both halves go on, each with its own broker and lake, and what they did apart is merged."""

import contextlib
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import one_lake
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import ensure_topics
from one_lake.verify import verify
from tests.aureon_command import aureon
from tests.brokers import new_broker
from tests.chaos.audit import LogFollower, PollingReader, audit
from tests.chaos.cells import CrashingCell, wait_until
from tests.chaos.test_crash import FIRST_DECISION_S, LANES, hand_over, settled

ONE, OTHER, BOTH, LATE = range(100), range(100, 200), range(200, 300), range(300, 340)
RECORDS = "SELECT topic, logical_id, answer FROM one ORDER BY ALL"


class Half:
    """A broker, a cell and a lake of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.broker = new_broker(home / "broker")
        self.broker.start()
        ensure_topics(client_config(self.broker.brokers), LANES)
        variables = {"AUREON_NODES": "tests.chaos.nodes:random_nodes", "AUREON_SCORE_THRESHOLD": "1.0"}
        variables |= {"AUREON_BROKERS": self.broker.brokers, "CHAOS_CALLS": str(home / "calls.txt")}
        self.cell = CrashingCell(home, variables)
        self.follower, self.reader = LogFollower(self.broker.brokers, LANES), PollingReader(home / "lake")
        self.cell.start("w1")

    def send(self, seed: int, *numbers: range) -> None:
        """Send it tasks."""
        producer = CheckedProducer(client_config(self.broker.brokers))
        for some in numbers:
            hand_over(producer, random.Random(seed), some)
        producer.flush()
        producer.close()

    def has_decided(self, count: int) -> bool:
        """Tell whether it has made so many decisions."""
        self.cell.check_alive()
        self.follower.poll()
        return len(self.follower.winners) >= count

    def settle(self) -> None:
        """Wait until it has nothing to do."""
        wait_until(lambda: settled(self.follower, self.reader), 120, "tasks are left", self.cell)

    def merge(self, other: "Half") -> None:
        """Take what the other one has."""
        done = aureon("merge", other.home / "lake", "--home", self.home, "--state", self.cell.state, cwd=self.home)
        assert done.returncode == 0, done.stderr

    def records(self) -> list[tuple[str, str, str]]:
        """Its lake's."""
        with one_lake.connect(self.home / "lake") as db:
            return db.execute(RECORDS).fetchall()

    def close(self) -> None:
        """End it."""
        self.cell.close()
        self.follower.close()
        self.broker.stop()


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_cluster_that_was_cut_in_two_is_one_again(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Some tasks went to one half, some to the other, and some to both, which answered them differently.

    One is killed meanwhile, and works on while its lake is merged; what it does afterwards is merged, too.
    """
    seed = random.randrange(1 << 32)
    with contextlib.ExitStack() as halves:
        homes = tmp_path / "one", tmp_path / "other"
        for home in homes:
            home.mkdir()
        one, other = (halves.enter_context(contextlib.closing(Half(home))) for home in homes)
        one.send(seed, ONE, BOTH)
        other.send(seed, OTHER, BOTH)
        wait_until(partial(one.has_decided, 20), FIRST_DECISION_S, "no decisions", one.cell)
        one.cell.kill()
        one.cell.start("w1")
        other.settle()
        one.merge(other)  # while it still works
        one.settle()
        found = audit(other.follower, other.home / "lake")  # of its own decisions alone
        other.merge(one)
        one.merge(other)
        merged = one.records()
        assert other.records() == merged
        names = [(topic, logical_id) for topic, logical_id, _ in merged]
        assert len(names) == len(set(names))
        assert {(f"topic-{n % 3}", f"task-{n}") for some in (ONE, OTHER, BOTH) for n in some} <= set(names)
        with one_lake.connect(one.home / "lake") as db:
            ((conflicts,),) = db.execute("SELECT count(*) FROM conflicts").fetchall()
        assert conflicts >= len(BOTH)  # and what branched from them
        one.send(seed, LATE)
        one.settle()
        assert one.cell.terminate() == [0], one.cell.tail()
        assert other.cell.terminate() == [0], other.cell.tail()
        began = time.monotonic()
        other.merge(one)
        took = time.monotonic() - began
        assert other.records() == one.records()
        assert len(one.records()) >= len(merged) + len(LATE)
    reports = [verify(home / "lake") for home in homes]
    figures(f"seed {seed}: {len(merged)} records, {conflicts} conflicts; the last merge took {took:.1f} s\n{found}")
    assert all(report.is_sound for report in reports), [report.first for report in reports]
    assert found.faults() == 0, found.examples[:20]
