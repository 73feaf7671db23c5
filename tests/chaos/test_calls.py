"""Promise 3 under kill -9: a finished call is never paid twice."""

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest

from connectors.kafka import client_config
from connectors.ledger import Commit
from connectors.topics import ensure_topics
from tests.brokers import Broker
from tests.chaos.audit import LogFollower, PollingReader, audit, undecided
from tests.chaos.cells import CrashingCell, wait_until
from tests.chaos.test_crash import LANES, send_tasks, settled
from tests.openai_server import OpenAIServer

KILLS = 20
ALWAYS_OPEN = 300
MODELS = ("one", "two", "three")
SEATS = 40
NODES = """
[[node]]
id = "local"
kind = "openai"
url = "{url}"
models = ["one", "two"]
max_concurrency = {seats}

[[node]]
id = "other"
kind = "openai"
url = "{url}"
models = ["three"]
max_concurrency = {seats}
"""

Asked = tuple[str, bytes]
"""Model and messages: the same question to the same model is the same call, since rounds tell what went before."""


class Answers:
    """Never the same answer twice, so that every task takes all its rounds; each is known by its number."""

    def __init__(self) -> None:
        self.begun: list[Asked] = []
        self.answered: list[Asked] = []
        """By number."""

    def begins(self, question: dict[str, Any]) -> None:
        """Note a call, which then takes its time."""
        self.begun.append(_asked(question))

    def __call__(self, question: dict[str, Any]) -> str:
        """Answer with the number of the call."""
        self.answered.append(_asked(question))
        return f"#{len(self.answered) - 1}"


def _asked(question: dict[str, Any]) -> Asked:
    return question["model"], msgspec.json.encode(question["messages"])


def in_ledger(path: Path) -> set[int]:
    """The numbers of the answers that the ledger holds, as a killed process has left it."""
    if not path.exists():
        return set()
    with sqlite3.connect(path) as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM commits")]
    db.close()
    commits = [msgspec.msgpack.decode(body, type=Commit) for body in bodies]
    return {int(e.answer.text[1:]) for commit in commits for e in commit.ended if e.answer.text.startswith("#")}


def decided(follower: LogFollower) -> set[int]:
    """The numbers of the answers that decisions name."""
    found = set()
    for _, decision in follower.winners.values():
        for candidate in decision.result.candidates if decision.result is not None else ():
            if candidate.text.startswith("#"):
                found.add(int(candidate.text[1:]))
    return found


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_no_finished_call_is_asked_again_after_a_kill(
    own_broker: Broker, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Twenty kills at random moments under load, over real HTTP: only what was in flight is asked again.

    Half as many on Apache Kafka: what was finished stands in the cell's own ledger.
    """
    kills = KILLS if own_broker.name == "embedded" else KILLS // 2
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    ensure_topics(client_config(own_broker.brokers), LANES)
    answers = Answers()
    finished: set[Asked] = set()
    open_at: list[int] = []
    twice_paid: list[Asked] = []
    with OpenAIServer(answers, models=MODELS) as server:
        server.latency_s = 0.15
        server.fault_of = answers.begins
        (tmp_path / "nodes.toml").write_text(NODES.format(url=server.url, seats=SEATS))
        cell = CrashingCell(
            tmp_path,
            {
                "AUREON_BROKERS": own_broker.brokers,
                "AUREON_NODES": str(tmp_path / "nodes.toml"),
                "AUREON_SCORE_THRESHOLD": "1.0",
                "AUREON_IN_FLIGHT": "60",
            },
        )
        follower = LogFollower(own_broker.brokers, LANES)
        sent = 0
        try:
            for _ in range(kills):
                more = max(30, ALWAYS_OPEN - len(undecided(follower)))
                send_tasks(own_broker.brokers, rng, range(sent, sent + more))
                sent += more
                before = len(answers.begun)
                cell.start(rng.choice(["w1", "w2"]))
                wait_until(partial(_more, answers, before + SEATS, cell), 120, "no calls after a start", cell)
                time.sleep(rng.uniform(0.2, 1.5))
                cell.check_alive()
                cell.kill()
                time.sleep(0.3)  # what the server had begun to answer is answered, or has nobody to go to
                follower.poll()
                twice_paid += [asked for asked in answers.begun[before:] if asked in finished]
                known = in_ledger(cell.state / "calls.sqlite") | decided(follower)
                finished |= {answers.answered[number] for number in known}
                open_at.append(len({asked for asked in answers.begun[before:] if asked not in finished}))
            before = len(answers.begun)
            cell.start("w1")
            reader = PollingReader(tmp_path / "lake")
            wait_until(lambda: settled(follower, reader), 120, "tasks are left", cell)
            twice_paid += [asked for asked in answers.begun[before:] if asked in finished]
            assert cell.terminate() == [0], cell.tail()
            follower.poll()
            found = audit(follower, tmp_path / "lake")
        finally:
            cell.close()
            follower.close()
    repeated = sum(count - 1 for count in Counter(answers.begun).values())
    figures(
        f"{own_broker.name}, seed {seed}: {kills} kills, {len(answers.begun)} calls, {repeated} repeated, "
        f"{sum(open_at)} in flight at the kills {open_at}, {len(twice_paid)} of finished ones\n{found}"
    )
    assert found.faults() == 0, f"seed {seed}: {found.examples[:20]}"
    assert not twice_paid, f"seed {seed}"
    assert 0 < repeated <= sum(open_at), f"seed {seed}"
    # of two nodes; each seat has one call under way at most, and one whose answer is not durable yet, for it is free
    # again a commit before that
    assert median(open_at) <= 2 * 2 * SEATS, f"seed {seed}: {open_at}"


def _more(answers: Answers, count: int, cell: CrashingCell) -> bool:
    cell.check_alive()
    return len(answers.begun) >= count
