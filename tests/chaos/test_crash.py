"""Promises 1 and 2 under kill -9."""

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import TASKS, TASKS_HIGH, ensure_topics
from one_lake.verify import verify
from schemas.ids import home_lane
from tests.brokers import Broker
from tests.chaos.audit import LogFollower, PollingReader, audit, undecided
from tests.chaos.cells import ROOT, CrashingCell, kill_all, random_shape, wait_until, wake

LANES = 3
TASKS_AT_FIRST, TASKS_A_LIFE, ALWAYS_OPEN = 1000, 50, 500
"""New ones come all the time, so that every kill finds enough under way."""
KILLS = 20
FIRST_DECISION_S = 120
"""Each process starts a gate of its own, which may be beside other tests on few cores."""
LOST_STATE = {5, 10, 15}
FROZEN = {7, 13}


def send_tasks(brokers: str, rng: random.Random, numbers: range) -> None:
    """Send tasks, and wait until they have arrived."""
    producer = CheckedProducer(client_config(brokers))
    hand_over(producer, rng, numbers)
    producer.flush()
    producer.close()


def hand_over(producer: CheckedProducer, rng: random.Random, numbers: range) -> None:
    """Send tasks; some twice, in another class of priority or to another lane."""
    for number in numbers:
        logical_id = f"task-{number}"
        home = home_lane(logical_id, LANES)
        places = [(rng.choice([TASKS, TASKS, TASKS_HIGH]), home)]
        if rng.random() < 0.1:
            places.append((rng.choice([TASKS, TASKS_HIGH]), rng.randrange(LANES)))
        for kafka_topic, lane in places:
            task = {
                "topic": f"topic-{number % 3}",
                "logical_id": logical_id,
                "payload": {"prompt": f"question {number}"},
                "priority": 1 if kafka_topic == TASKS_HIGH else rng.randint(3, 9),
            }
            producer.send(kafka_topic, lane, [msgspec.json.encode(task)], [logical_id.encode()])


def end_life(cell: CrashingCell, rng: random.Random, kill: int) -> None:
    """Kill a cell; before some kills it falls asleep, another goes on, and it wakes up."""
    if kill in LOST_STATE:
        time.sleep(3)  # so that a cut has been committed to the group
    cell.check_alive()
    if kill in FROZEN:
        frozen = cell.freeze()
        cell.start(random_shape(rng))
        time.sleep(rng.uniform(2.0, 4.0))
        wake(frozen)
        time.sleep(rng.uniform(1.0, 3.0))
        kill_all(frozen)
    cell.kill(lose_state=kill in LOST_STATE)


@contextlib.contextmanager
def maintained(home: Path) -> Iterator[None]:
    """Have a lake maintained again and again; killed at the end, wherever that finds it."""
    command = [sys.executable, "-m", "flows.cli", "maintain", "--every", "1", "--home", str(home)]
    with (home / "maintain.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.chaos
@pytest.mark.timeout(1500)
def test_nothing_is_lost_or_doubled_when_processes_are_killed(
    own_broker: Broker, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Twenty kills, three lost state folders, two processes that wake up after they were thought dead.

    The lake is being maintained, and in every other life records are judged before they are written; on Apache Kafka,
    to which that makes no difference, lives are too short for a gate to start.
    """
    has_gates = own_broker.name == "embedded"
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    config = client_config(own_broker.brokers)
    ensure_topics(config, LANES)
    send_tasks(own_broker.brokers, rng, range(TASKS_AT_FIRST))
    sent = TASKS_AT_FIRST
    cell = CrashingCell(
        tmp_path,
        {
            "AUREON_BROKERS": own_broker.brokers,
            "AUREON_NODES": "tests.chaos.nodes:random_nodes",
            "AUREON_SCORE_THRESHOLD": "1.0",
            "AUREON_IN_FLIGHT": "50",
            "CHAOS_CALLS": str(tmp_path / "calls.txt"),
        },
    )
    follower, reader = LogFollower(own_broker.brokers, LANES), PollingReader(tmp_path / "lake")
    found_open: list[int] = []
    beside = contextlib.ExitStack()
    try:
        beside.enter_context(maintained(tmp_path))
        for kill in range(KILLS):
            is_gated = has_gates and kill % 2 == 1
            cell.start(random_shape(rng), AUREON_GATE="on" if is_gated else "off")
            more = max(TASKS_A_LIFE, ALWAYS_OPEN - len(undecided(follower)))
            send_tasks(own_broker.brokers, rng, range(sent, sent + more))
            sent += more
            before = len(follower.winners)
            follower.poll()
            wait_until(partial(_grown, follower, before, cell), FIRST_DECISION_S, "no decision after a start", cell)
            time.sleep(rng.uniform(0.8, 7.0 if is_gated else 2.5))
            end_life(cell, rng, kill)
            follower.poll()
            found_open.append(len(undecided(follower)))
            reader.look()
        cell.start("w1", AUREON_GATE="on" if has_gates else "off")
        wait_until(lambda: settled(follower, reader), 600, "tasks are left", cell)
        assert cell.terminate() == [0], cell.tail()
        beside.close()
        reader.look(whole=True)
        found = audit(follower, tmp_path / "lake")
    finally:
        beside.close()
        cell.close()
        follower.close()
    report = verify(tmp_path / "lake")
    figures(
        f"{own_broker.name}, seed {seed}: {KILLS} kills, undecided at each {found_open}\n{found}\n"
        f"{reader.looks} looks at the lake, {reader.vanished} rows vanished or changed\n"
        f"{report.seals} signed commits, {report.files} files\n" + _repeated_calls(tmp_path / "calls.txt")
    )
    assert report.is_sound, f"seed {seed}: {report.first}"
    assert report.files < report.seals, "nothing was maintained"
    assert found.faults() == 0, f"seed {seed}: {found.examples[:20]}"
    assert reader.vanished == 0, f"seed {seed}"
    assert found.records + found.poison >= sent
    assert min(found_open) >= 100, f"seed {seed}: a kill found too little under way: {found_open}"


def _grown(follower: LogFollower, before: int, cell: CrashingCell) -> bool:
    cell.check_alive()
    follower.poll()
    return len(follower.winners) > before


def settled(follower: LogFollower, reader: PollingReader) -> bool:
    """Nothing new came in a while, and what is undecided are duplicates only."""
    before = (len(follower.messages), len(follower.winners))
    reader.look()
    time.sleep(2.5)
    follower.poll()
    if (len(follower.messages), len(follower.winners)) != before:
        return False
    return not undecided(follower)


def _repeated_calls(notes: Path) -> str:
    calls = Counter(notes.read_text().splitlines())
    return f"{sum(calls.values())} calls answered, {sum(count - 1 for count in calls.values())} of them repeated"
