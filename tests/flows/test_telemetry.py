"""What operators see over HTTP: of a cell and a root as processes, and of what goes wrong while it is put together."""

import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from connectors.checked_producer import CheckedProducer
from connectors.kafka import client_config
from connectors.status_server import Page, Request, StatusServer
from connectors.topics import TASKS, ensure_topics
from flows.cell import Cell
from flows.cell_status import STALLED_AFTER_S, STARTS_WITHIN_S, CellStatus
from flows.metrics import METRICS, Sample, Scrape
from flows.settings import Settings
from flows.tally import MAX_TOPICS, OTHER, DecisionTally, Topics
from schemas.decision import Decision, DecisionKind
from schemas.errors import RefusedError
from schemas.ids import home_lane
from tests.apache_kafka import free_ports
from tests.aureon_command import ROOT, environment, until
from tests.brokers import Broker
from tests.chaos.cells import CrashingCell
from tests.flows.scraped import Scraped, series_names

LANES = 2
TASK_COUNT = 20
START_LIMIT_S = 60.0


def send(broker: Broker, first: int, count: int) -> None:
    """Some tasks, each in its home."""
    producer = CheckedProducer(client_config(broker.brokers))
    for name in (f"t{number}" for number in range(first, first + count)):
        task = {"topic": "math", "logical_id": name, "payload": {"prompt": "6*7"}}
        producer.send(TASKS, home_lane(name, LANES), [msgspec.json.encode(task)], [name.encode()])
    producer.flush()
    producer.close()


@pytest.fixture
def cell(own_broker: Broker, tmp_path: Path) -> Iterator[tuple[CrashingCell, Scraped]]:
    """A cell that tells how it is."""
    ensure_topics(client_config(own_broker.brokers), LANES)
    (port,) = free_ports(1)
    settings = {
        "AUREON_BROKERS": own_broker.brokers,
        "AUREON_METRICS": str(port),
        "AUREON_DAY_BUDGET": "calls=1000000",
        "AUREON_NODES": "tests.flows.refine_parts:quick_nodes",
    }
    process = CrashingCell(tmp_path, settings)
    process.start("w1")
    yield process, Scraped(port)
    process.end()


def converged(scraped: Scraped, count: int) -> bool:
    """Tell whether so many tasks have converged."""
    return scraped.value("aureon_decisions_total", topic="math", kind="converged") == count


def test_a_cell_tells_how_it_is_and_waits_for_its_broker_in_good_health(
    own_broker: Broker, cell: tuple[CrashingCell, Scraped]
) -> None:
    """Not ready while the broker is away, and healthy all the time; ready again when it is back, and goes on."""
    process, scraped = cell
    until(lambda: scraped.get("/readyz")[0] == HTTPStatus.OK, START_LIMIT_S)
    send(own_broker, 0, TASK_COUNT)
    until(lambda: converged(scraped, TASK_COUNT))
    until(lambda: scraped.value("aureon_lake_rows_total", table="records") == TASK_COUNT)
    # where an input ends is asked for every few seconds, and all of this may have taken less
    until(lambda: any(name == "aureon_lane_waiting_messages" for name, _ in scraped.series()))

    series = scraped.series()
    told = {name for name, _ in series if name.startswith("aureon_")}
    assert told == {
        name
        for metric in METRICS.values()
        if not metric.name.startswith(
            ("aureon_root_", "aureon_day_limit_tokens", "aureon_day_limit_money", "aureon_traced_")
        )
        for name in series_names(metric)
    }
    calls = sum(v for (name, labels), v in series.items() if name == "aureon_node_calls_total")
    assert calls == scraped.value("aureon_calls_total", topic="math") == scraped.value("aureon_day_spent_calls")
    assert scraped.value("aureon_day_limit_calls") == 1_000_000
    assert scraped.value("aureon_lanes_open") == scraped.value("aureon_lanes_held") == LANES
    until(lambda: scraped.value("aureon_lane_waiting_messages", lane="0", input=TASKS) == 0)
    assert scraped.value("aureon_scrape_errors_total") == 0

    own_broker.stop()
    until(lambda: scraped.get("/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE)
    assert "the broker does not answer" in scraped.get("/readyz")[1]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert scraped.get("/healthz") == (HTTPStatus.OK, "ok\n")
        time.sleep(0.2)
    assert scraped.value("aureon_broker_reachable") == 0

    own_broker.start()
    until(lambda: scraped.get("/readyz")[0] == HTTPStatus.OK)
    send(own_broker, TASK_COUNT, 1)
    until(lambda: converged(scraped, TASK_COUNT + 1))
    process.check_alive()


def test_a_root_tells_which_cells_it_hears(own_broker: Broker, cell: tuple[CrashingCell, Scraped]) -> None:
    """And that one has fallen silent, with the alert."""
    process, scraped_cell = cell
    until(lambda: scraped_cell.get("/readyz")[0] == HTTPStatus.OK, START_LIMIT_S)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "flows.cli", "supervise", "--brokers", own_broker.brokers]
    command += ["--home", str(process.home), "--metrics", str(port)]
    with (process.home / "root.log").open("ab") as log:
        root = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
    scraped = Scraped(port)
    try:
        until(lambda: scraped.value("aureon_root_cells", state="heard") == 1, START_LIMIT_S)
        until(lambda: scraped.get("/readyz") == (HTTPStatus.OK, "ok\n"))
        assert scraped.get("/healthz") == (HTTPStatus.OK, "ok\n")
        assert scraped.value("aureon_root_alerts_total", kind="cell_silent") == 0
        process.kill()
        until(lambda: scraped.value("aureon_root_cells", state="silent") == 1)
        assert scraped.value("aureon_root_alerts_total", kind="cell_silent") == 1
    finally:
        root.terminate()
        root.wait(60)


def looked_at(turned_s_ago: float | None, waited_s_ago: float | None = None) -> str:
    """What ails a cell whose only lane had its turn so long ago, in a process as old as that."""
    cell, now = Cell(Settings()), time.monotonic()
    status = CellStatus(cell)
    if turned_s_ago is not None:
        place: Any = SimpleNamespace(turned_at=now - turned_s_ago)
        cell.places[0] = place
    else:
        status._began = now - STARTS_WITHIN_S - 1
    if waited_s_ago is not None:
        cell.waited_at = now - waited_s_ago
    return status.ails()


def test_a_cell_that_stands_still_is_not_healthy() -> None:
    """Unless it waits for the broker."""
    assert not looked_at(0)
    assert looked_at(STALLED_AFTER_S + 1) == f"a lane had no turn for {STALLED_AFTER_S + 1:.0f} s"
    assert not looked_at(STALLED_AFTER_S + 1, waited_s_ago=1)
    assert looked_at(None) == f"no lane had a turn {STARTS_WITHIN_S + 1:.0f} s after the start"


def test_a_part_that_cannot_be_told_leaves_the_others() -> None:
    """It is counted."""

    def broken() -> list[Sample]:
        raise KeyError("gone meanwhile")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Scrape([broken, lambda: [Sample("aureon_lanes", 4)]]))
    text = generate_latest(registry).decode()
    assert "\naureon_lanes 4.0\n" in text
    assert "\naureon_scrape_errors_total 1.0\n" in text


def test_topics_are_bounded() -> None:
    """However many users invent, in a lane and over all lanes; those that have a name keep it."""
    topics = Topics()
    names = [topics.name(f"topic-{i % 500}") for i in range(1000)]
    assert len(set(names)) == MAX_TOPICS + 1
    assert names[:500] == names[500:]
    tally = DecisionTally()
    for i in range(500):
        decided = Decision(
            kind=DecisionKind.CONVERGED, kafka_topic=TASKS, offset=i, task_id=f"{i}:r0", topic=f"topic-{i}", calls=2
        )
        tally.add([(i, decided)])
    assert len(tally.topics) == MAX_TOPICS + 1
    assert tally.topics[OTHER].kinds["converged"] == 400
    assert sum(each.calls for each in tally.topics.values()) == 1000


def test_a_page_that_cannot_be_made_is_told_as_such() -> None:
    """And the next one is served."""

    def broken(_request: Request) -> Page:
        raise KeyError("gone")

    server = StatusServer("127.0.0.1", 0, {"/broken": broken, "/good": lambda _request: Page(b"ok\n")}).start()
    scraped = Scraped(int(server.url.rpartition(":")[2]))
    try:
        assert scraped.get("/broken") == (500, "the log says why\n")
        assert scraped.get("/good?x=1") == (200, "ok\n")
        assert scraped.get("/") == (404, "there are /broken, /good\n")
        with pytest.raises(RefusedError, match="name another port"):
            StatusServer("127.0.0.1", int(server.url.rpartition(":")[2]), {})
    finally:
        server.close()


@pytest.mark.parametrize(
    "given, address",
    [
        ("", None),
        ("9464", ("127.0.0.1", 9464)),
        ("10.0.0.1:9464", ("10.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        (":9464", ("127.0.0.1", 9464)),
    ],
)
def test_an_address_is_taken_apart(given: str, address: tuple[str, int] | None) -> None:
    """This machine's own, where none is named."""
    assert Settings(metrics=given).metrics_address == address


@pytest.mark.parametrize("given", ["here", "localhost:", "1.2.3.4:99999", "http://x:1/"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    """With an example."""
    with pytest.raises(RefusedError, match="expected PORT or HOST:PORT"):
        _ = Settings(metrics=given).metrics_address


def test_an_address_for_traces_that_is_none_is_refused() -> None:
    """Also where it cannot be taken apart."""
    with pytest.raises(RefusedError, match="AUREON_TRACES: expected http:// or https:// and a host"):
        _ = Settings(traces="http://[::1").traces_url


def test_a_cell_that_starts_or_stops_is_not_ready() -> None:
    """And says which, and of which lane; before anything is connected there is little to tell."""
    cell = Cell(Settings())
    status = CellStatus(cell)
    assert status.lacks() == "it is starting"
    assert [sample.name for part in status.parts for sample in part()] == [
        "aureon_build_info",
        "aureon_broker_reachable",
        "aureon_turn_age_seconds",
        "aureon_decision_seconds",
    ]
    connected: Any = SimpleNamespace(ownership=SimpleNamespace(is_sure=False))
    place: Any = SimpleNamespace(tenure=1, open_lane=None)
    cell._connected, cell.places[0] = connected, place
    status.ends.lacks = ""
    assert status.lacks() == "lane 0 is not open yet"
    place.open_lane = SimpleNamespace(reads_inputs=False)
    assert status.lacks() == "lane 0 still reads its log"
    place.tenure = 0
    assert status.lacks() == "it is not sure of its lanes"
    cell.stopping.ask()
    assert status.lacks() == "it is stopping"


def test_a_root_runs_as_a_flow_of_bytewax_by_itself(own_broker: Broker, tmp_path: Path) -> None:
    """With the settings of its environment; SIGTERM ends it in order."""
    (port,) = free_ports(1)
    settings = {"AUREON_BROKERS": own_broker.brokers, "AUREON_HOME": str(tmp_path), "AUREON_METRICS": str(port)}
    command = [sys.executable, "-m", "bytewax.run", "flows.supervise"]
    variables = environment(**settings, AUREON_LOG_FORMAT="json")
    with subprocess.Popen(command, cwd=ROOT, env=variables, text=True) as root:
        scraped = Scraped(port)
        until(lambda: scraped.get("/readyz") == (HTTPStatus.OK, "ok\n"), START_LIMIT_S, root)
        root.terminate()
        assert root.wait(60) == 0
