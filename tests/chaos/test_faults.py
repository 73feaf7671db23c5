"""Model servers that fail as real ones do, over real HTTP: no task is lost, and the healthy ones hardly notice."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec
import pytest
from msgspec import Struct

import one_lake
from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.topics import TASKS, ensure_topics
from schemas.decision import Decision, DecisionKind
from schemas.ids import home_lane
from tests.brokers import Broker
from tests.chaos.audit import LogFollower, audit
from tests.chaos.cells import CrashingCell, wait_until
from tests.openai_server import HANG, OpenAIServer, error, garbage, half_closed, rate_limited, slow

pytestmark = pytest.mark.embedded

LANES = 2
SEATS = 8
LATENCY_S = 0.1
WARM_S, WINDOW_S = 3.0, 3.0
BEFORE, AFTER = 3, 4
"""So many windows; their median is what counts."""
TASKS_OPEN = 6000
"""For each measurement: they are not to run out in it."""
MEASUREMENTS = 3
"""The machine may be slower after the fault than before it for reasons of its own, but hardly each time. A cell whose
healthy nodes wait for the bad one falls short each time."""
BACK_S = 90.0
"""Within that the bad node is asked again when it is well; it is left alone longer and longer where it was not."""
MAY_FALL = 0.10 if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else 0.40
"""Where other tests run beside this one and take the processors from it, only what is far off tells of the cell.
Healthy nodes that waited for the bad one would do less than half."""
NODE = """
[[node]]
id = "{name}"
kind = "openai"
url = "{url}"
models = ["{name}-model"]
max_concurrency = {seats}
timeout_s = {timeout_s}
"""


class Running(Struct):
    """A cell, its servers by name, and who follows its log."""

    cell: CrashingCell
    servers: dict[str, OpenAIServer]
    follower: LogFollower
    home: Path

    def rates(self, names: tuple[str, ...], windows: int) -> list[float]:
        """Calls that some servers answered each second, window by window."""
        found = []
        for _ in range(windows):
            before, began = sum(self.servers[n].count for n in names), time.monotonic()
            time.sleep(WINDOW_S)
            self.cell.check_alive()
            found.append((sum(self.servers[n].count for n in names) - before) / (time.monotonic() - began))
        return found

    def before_and_after(
        self, names: tuple[str, ...], fault: Callable[[OpenAIServer], None]
    ) -> tuple[list[float], list[float]]:
        """The rates of some servers before another one fails and after."""
        time.sleep(WARM_S)
        before = self.rates(names, BEFORE)
        fault(self.servers["bad"])
        return before, self.rates(names, AFTER)

    def heal(self) -> None:
        """Have the bad server answer as before, and wait until it does its part."""
        bad = self.servers["bad"]
        bad.fault_of = bad.models_fault = None
        bad.start()
        wait_until(lambda: self._part_of(bad) > 0.5 / len(self.servers), BACK_S, "it is not asked again", self.cell)

    def _part_of(self, server: OpenAIServer) -> float:
        """How many of all calls went to a server, in one window."""
        before = {name: s.count for name, s in self.servers.items()}
        time.sleep(WINDOW_S)
        self.cell.check_alive()
        more = {name: s.count - before[name] for name, s in self.servers.items()}
        return sum(more[name] for name, s in self.servers.items() if s is server) / max(1, sum(more.values()))

    def decisions(self) -> list[Decision]:
        """Those that count, so far."""
        self.cell.check_alive()
        self.follower.poll()
        return [decision for _, decision in self.follower.winners.values()]

    def ended(self) -> int:
        """How many tasks have."""
        return sum(d.kind in {DecisionKind.CONVERGED, DecisionKind.DEAD} for d in self.decisions())

    def stop_and_audit(self) -> None:
        """End the cell gracefully; then nothing may be wrong."""
        assert self.cell.terminate() == [0], self.cell.tail()
        self.follower.poll()
        found = audit(self.follower, self.home / "lake")
        assert found.faults() == 0, f"{found}"


@contextmanager
def running(
    broker: Broker, home: Path, names: tuple[str, ...], *, timeout_s: float = 5.0, **settings: object
) -> Iterator[Running]:
    """A cell with a model server for each name."""
    with ExitStack() as stack:
        servers = {n: stack.enter_context(OpenAIServer(latency_s=LATENCY_S, models=[f"{n}-model"])) for n in names}
        nodes = [NODE.format(name=n, url=s.url, seats=SEATS, timeout_s=timeout_s) for n, s in servers.items()]
        (home / "nodes.toml").write_text("".join(nodes))
        environment = {
            "AUREON_BROKERS": broker.brokers,
            "AUREON_NODES": str(home / "nodes.toml"),
            **{f"AUREON_{name.upper()}": str(value) for name, value in settings.items()},
        }
        cell = CrashingCell(home, environment)
        stack.callback(cell.close)
        follower = LogFollower(broker.brokers, LANES)
        stack.callback(follower.close)
        cell.start("w1")
        yield Running(cell, servers, follower, home)


def send_tasks(broker: Broker, numbers: range) -> None:
    """Tasks whose answer is a number."""
    ensure_topics(client_config(broker.brokers), LANES)
    producer = CheckedProducer(client_config(broker.brokers))
    for number in numbers:
        logical_id = f"task-{number}"
        payload = {"prompt": f"What is {number}?", "answer_kind": "number"}
        task = {"topic": "math", "logical_id": logical_id, "payload": payload}
        producer.send(TASKS, home_lane(logical_id, LANES), [msgspec.json.encode(task)], [logical_id.encode()])
    producer.flush()
    producer.close()


def goes_slow(server: OpenAIServer) -> None:
    """Twenty times as slow."""
    server.fault_of = lambda _question: slow(20 * LATENCY_S)


def is_limited(server: OpenAIServer) -> None:
    """Every other request is too much."""
    server.fault_of = lambda _question: rate_limited("1") if server.count % 2 else None


def fails(server: OpenAIServer) -> None:
    """HTTP 500."""
    server.fault_of = lambda _question: error(500)


def hangs_up(server: OpenAIServer) -> None:
    """Closes the connection in the middle of the body."""
    server.fault_of = lambda _question: half_closed()


def talks_garbage(server: OpenAIServer) -> None:
    """Status 200, and no answer in it."""
    server.fault_of = lambda _question: garbage()


def hangs(server: OpenAIServer) -> None:
    """Answers nothing any more, not even how it is."""
    server.fault_of = lambda _question: HANG
    server.models_fault = HANG


def dies(server: OpenAIServer) -> None:
    """Its process is killed."""
    server.kill()


def is_as_before(before: list[float], after: list[float]) -> bool:
    """Tell whether the healthy nodes did as much in the windows after a fault."""
    return median(after) >= (1 - MAY_FALL) * median(before)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", [goes_slow, is_limited, fails, hangs_up, talks_garbage, hangs, dies])
def test_a_node_that_fails_loses_no_task_and_costs_the_healthy_ones_little(
    fault: Callable[[OpenAIServer], None], own_broker: Broker, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Two good nodes at full load and one that goes bad: they answer as many calls a second as before."""
    good = ("good-1", "good-2")
    send_tasks(own_broker, range(TASKS_OPEN))
    with running(own_broker, tmp_path, (*good, "bad")) as run:
        wait_until(lambda: run.servers["good-1"].count > SEATS, 120, "no calls", run.cell)
        measured = [run.before_and_after(good, fault)]
        while not is_as_before(*measured[-1]) and len(measured) < MEASUREMENTS:
            send_tasks(own_broker, range(len(measured) * TASKS_OPEN, (len(measured) + 1) * TASKS_OPEN))
            run.heal()
            measured.append(run.before_and_after(good, fault))
        tasks = len(measured) * TASKS_OPEN
        for server in run.servers.values():
            server.latency_s = 0.0  # the rest need not take as long
        wait_until(lambda: run.ended() == tasks, 150 * len(measured), "not all tasks end", run.cell)
        run.stop_and_audit()
        with one_lake.connect(tmp_path / "lake") as lake:
            ((right,),) = lake.execute("SELECT count(*) FROM one WHERE answer = '42'").fetchall()
    before, after = measured[-1]
    figures(
        f"{fault.__name__}: healthy nodes {median(before):.0f} calls/s before, {median(after):.0f} after, "
        f"{median(after) / median(before):.3f}, measured {len(measured)} times; {right} of {tasks} right"
    )
    assert right == tasks
    assert is_as_before(before, after), measured


@pytest.mark.chaos
def test_where_the_only_node_is_away_tasks_wait_for_it(own_broker: Broker, tmp_path: Path) -> None:
    """An outage that is shorter than a call may take ends no task, and needs no attempt."""
    send_tasks(own_broker, range(200))
    with running(own_broker, tmp_path, ("only",), timeout_s=30, max_rounds=1) as run:
        wait_until(lambda: run.servers["only"].count > SEATS, 120, "no calls", run.cell)
        run.servers["only"].kill()
        time.sleep(5)
        run.servers["only"].start()
        wait_until(lambda: run.ended() == 200, 120, "not all tasks end", run.cell)
        assert {d.kind for d in run.decisions()} <= {DecisionKind.CONVERGED, DecisionKind.RETRY}
        run.stop_and_audit()


@pytest.mark.chaos
def test_where_no_node_comes_back_every_task_is_a_dead_letter_with_its_history(
    own_broker: Broker, tmp_path: Path
) -> None:
    """What went wrong in each attempt, by node."""
    send_tasks(own_broker, range(50))
    settings = {"retry_delay_s": 0.2, "max_attempts": 3, "call_tries": 2}
    with running(own_broker, tmp_path, ("one", "two"), timeout_s=1, **settings) as run:
        run.servers["one"].kill()
        fails(run.servers["two"])
        wait_until(lambda: run.ended() == 50, 120, "not all tasks end", run.cell)
        run.stop_and_audit()
        with one_lake.connect(tmp_path / "lake") as lake:
            rows = lake.execute("SELECT reason, history FROM dead_letters").fetchall()
    assert len(rows) == 50
    for reason, history in rows:
        assert reason == "attempts_spent"
        assert len(history) == 3
        assert all("one/one-model" in attempt and "two/two-model" in attempt for attempt in history)
